//! The window: virtual memory whose pages can be moved.
//!
//! # What is where
//!
//! ```text
//!   PML4 ──► root ──► directory ──► leaf ──► frame          lock of the frame (hashed) protects:
//!             PDPT      PD           │  PT      │             entries that name it
//!                                    │          ├ private ──► first slot that is in it
//!                                    │          ├ maps        how many are
//!                                    └ private  └ references  maps + pins + isolation
//!                                        │
//!                                        ▼
//!                                      links: slot ◄──► slot ◄──► slot     the reverse map, a list per frame
//! ```
//!
//! A page's *slot* is its number within the window. What a leaf says of it is an [`Entry`]:
//!
//! ```text
//!                map_range              first touch
//!       Empty ─────────────► ZeroFill ─────────────► Present ◄──── migrate: another frame ─────┐
//!        ▲ ▲     unmap_range    │                    │  ▲  │ ◄──── copy-on-write broken ───────┤
//!        │ └────────────────────┘   fork: not ◄──────┘  └──┼────── sole user: writable again   │
//!        │                          writable               │                                   │
//!        │                                                 └─ about to change ─► Migration ────┤
//!        └───────────────────────────── unmap_range ───────────────────────────────────────────┘
//! ```
//!
//! # Rules
//!
//! 1. An entry that names a frame F is only changed with the lock of F held, of which nobody ever holds two.
//!    Entries that name none are left by compare-and-swap; what replaces them names a frame that has a
//!    reference for it and, if it is new, whose metadata is complete.
//! 2. So who has the lock of F and finds an entry that names F knows: F is mapped, has a reference, and its
//!    list has that slot. A slot in the list whose entry does not name F (yet) is on its way in: its frame is
//!    not moved on.
//! 3. A present page is only made to be elsewhere, or nowhere, by way of [`Entry::Migration`]: all CPUs are
//!    made to forget the page, then its contents are copied, then the entry changes. While any CPU might
//!    still use the old frame, nobody uses another. Whoever touches the page meanwhile faults, and waits,
//!    halted.
//! 4. A migration entry is changed by who placed it alone. Who has placed one never waits for another, nor
//!    for memory, so each wait ends.
//! 5. A frame that several pages are in is writable in none. With references that no page has, it is pinned,
//!    or isolated: it is not shared, so that pages only leave it; and with more than that of its mover it
//!    does not move.
//!
//! # Migration
//!
//! ```text
//!   isolate       a reference, and nobody else moves it
//!   migrate, for a whole batch:
//!     lock each F   what pages are there?
//!     notifiers     start(ranges)                        secondary translations are forgotten
//!     lock each F   all present, references = maps + isolation?  ── no ──► Err, nothing has changed
//!                   entries ─► Migration(F)              who touches them waits
//!     flush         once, all ranges, all CPUs           translations are forgotten: nobody reads or writes
//!     copy
//!     lock each F   the list, maps and references go to the new frame, then entries ─► Present(new)
//!     notifiers     end(ranges)
//!     wake          who waited tries again
//!   put F         the last reference frees it
//! ```
//!
//! # Where things are
//!
//! - `page`, `ranges`: pages and sets of them. `entry`, `table`: page tables. `rmap`: lists of slots. `copy`:
//!   frames.
//! - `page_fault`, `range`, `fork`, `pin`, `migrate`: what is done with pages.
//! - `wait`: CPUs that sleep until a page has arrived. `mmu`: what is asked of the machine.
//! - `notifier`, `interval`: who is told. `secondary`: one who is, and checks. `count`: statistics. `owned`:
//!   memory for all this.

mod copy;
mod count;
mod entry;
mod fork;
mod interval;
mod migrate;
mod mmu;
mod notifier;
mod owned;
mod page;
mod page_fault;
mod pin;
mod range;
mod ranges;
mod rmap;
mod secondary;
mod table;
mod wait;

use core::fmt;

use lock_api::Mutex;

use crate::address::FrameNumber;
use crate::allocator::PageAllocator;
use crate::frame::Frame;
use crate::platform::Cpu;
use crate::request::AllocError;

pub use count::WindowEvent;
pub use entry::Entry;
pub use interval::{Interval, IntervalNotifier, Sequence};
pub use mmu::Mmu;
pub use notifier::{Invalidation, Notifier, Notifiers, Subscription, WouldBlock};
pub use page::{PageNumber, PageRange};
pub use secondary::{Checks, Secondary};
#[cfg(loom)]
pub use wait::Waits;

use count::Counters;
use owned::Owned;
use page::Slot;
#[cfg(not(loom))]
use wait::Waits;

/// A lock of the hashed array, alone in its cache line.
#[repr(align(64))]
struct Bucket<L>(Mutex<L, ()>);

/// A window of movable virtual memory: 512 GiB, what one entry of a PML4 maps.
///
/// [`Platform::movable`](crate::Platform::movable) gives it for [`User::Window`](crate::User::Window).
pub struct Window<'a, P: Mmu> {
    allocator: &'a PageAllocator<P>,
    /// The page in slot 0.
    start: PageNumber,
    /// The table that the PML4 leads to.
    root: FrameNumber,
    /// Locks of frames, hashed by number.
    locks: Owned<'a, P, Bucket<P::Lock>>,
    /// Where CPUs wait for pages in flight: a queue for every lock.
    waits: Waits<'a, P>,
    notifiers: Notifiers<'a, P>,
    counters: Owned<'a, P, Counters>,
}

/// Why something could not be done in the window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WindowError {
    /// Some page is in no range that was mapped, or not of the window.
    NoRange,
    /// Some page is in a range already.
    InUse,
    /// There is no memory for a page or a page table.
    NoMemory,
}

impl fmt::Display for WindowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WindowError::NoRange => "a page is not mapped in the window",
            WindowError::InUse => "a page is mapped in the window already",
            WindowError::NoMemory => "no memory for a page of the window or its table",
        })
    }
}

impl core::error::Error for WindowError {}

impl From<AllocError> for WindowError {
    fn from(_: AllocError) -> WindowError {
        WindowError::NoMemory
    }
}

impl<'a, P: Mmu> Window<'a, P> {
    /// An empty window whose first page is `start`. An entry of a PML4 has to lead to its
    /// [`root`](Window::root) before it is used, and for as long as it exists.
    ///
    /// # Errors
    ///
    /// [`WindowError::NoMemory`].
    ///
    /// # Panics
    ///
    /// `start` is not where the reach of an entry of a PML4 starts, a multiple of 512 GiB.
    pub fn new(allocator: &'a PageAllocator<P>, start: PageNumber) -> Result<Self, WindowError> {
        assert!(
            start.number().is_multiple_of(Slot::COUNT),
            "{start:?} is not the first of an entry of the PML4"
        );
        let cpus = allocator.cpus() as usize;
        // So many that CPUs seldom meet by chance; a power of two.
        let buckets = (4 * cpus).next_power_of_two().clamp(64, 1024);
        Ok(Window {
            allocator,
            start,
            locks: Owned::new(allocator, buckets, |_| Bucket(Mutex::new(())))?,
            waits: Waits::new(allocator, buckets)?,
            notifiers: Notifiers::new(allocator)?,
            counters: Owned::new(allocator, cpus, |_| Counters::new())?,
            root: table::new_table(allocator)?,
        })
    }

    /// The table, a PDPT, that an entry of the PML4 has to lead to: present, writable, and for the user too.
    pub fn root(&self) -> FrameNumber {
        self.root
    }

    /// All pages of the window.
    pub fn pages(&self) -> PageRange {
        PageRange::new(self.start, Slot::COUNT)
    }

    /// Who is told before pages change.
    pub fn notifiers(&self) -> &Notifiers<'a, P> {
        &self.notifiers
    }

    /// What is at `page` now, which may change at any time.
    pub fn entry(&self, page: PageNumber) -> Entry {
        let place = self.slot(page).and_then(|slot| self.place(slot));
        place.map_or(Entry::Empty, |place| place.entry())
    }

    /// How often `event` has happened, on all CPUs.
    pub fn count(&self, event: WindowEvent) -> u64 {
        self.counters.iter().map(|counters| counters.get(event)).sum()
    }

    /// What has been counted: lines as in `/proc/vmstat`.
    pub fn vmstat(&self) -> impl fmt::Display {
        fmt::from_fn(move |f| {
            WindowEvent::ALL
                .iter()
                .try_for_each(|event| writeln!(f, "{} {}", event.name(), self.count(*event)))
        })
    }

    /// The pages that are in a frame of the window.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn mapped(&self, frame: FrameNumber) -> std::vec::Vec<PageNumber> {
        self.locked(frame, |metadata| {
            self.slots(metadata).map(|slot| self.page(slot)).collect()
        })
    }

    /// Where its memory is from.
    pub fn allocator(&self) -> &'a PageAllocator<P> {
        self.allocator
    }

    fn add(&self, event: WindowEvent, amount: u64) {
        let count = |Cpu(cpu)| self.counters[cpu as usize].add(event, amount);
        self.platform().on_this_cpu(count);
    }

    pub(crate) fn platform(&self) -> &P {
        &self.allocator.platform
    }

    /// Checks that the caller may wait.
    fn may_wait(&self) {
        debug_assert!(
            self.platform().may_wait(),
            "memory of the window used where nobody may wait"
        );
    }

    fn slot(&self, page: PageNumber) -> Option<Slot> {
        let slot = page.number().wrapping_sub(self.start.number());
        (slot < Slot::COUNT).then(|| Slot::new(slot as u32))
    }

    fn page(&self, slot: Slot) -> PageNumber {
        self.start.plus(slot.number().into())
    }

    /// The first slot of `range`, all of which is in the window.
    fn first_slot(&self, range: PageRange) -> Result<Slot, WindowError> {
        let slot = self.slot(range.start()).ok_or(WindowError::NoRange)?;
        let rest = Slot::COUNT - u64::from(slot.number());
        (range.len() <= rest).then_some(slot).ok_or(WindowError::NoRange)
    }

    /// Metadata of a frame that an entry names.
    fn frame(&self, frame: FrameNumber) -> &Frame {
        self.allocator
            .frame(frame)
            .expect("only the allocator's frames are mapped")
    }

    fn bucket(&self, frame: FrameNumber) -> usize {
        frame.number() as usize & (self.locks.len() - 1)
    }

    /// Runs `f` with the lock of `frame`, and no other, held.
    fn locked<R>(&self, frame: FrameNumber, f: impl FnOnce(&Frame) -> R) -> R {
        self.platform().on_this_cpu(|_| {
            let _held = self.locks[self.bucket(frame)].0.lock();
            f(self.frame(frame))
        })
    }

    /// Makes all CPUs forget what they remember of these pages.
    fn flush(&self, ranges: &[PageRange]) {
        self.add(WindowEvent::TlbRemoteFlush, 1);
        self.platform().flush(ranges);
    }

    /// Waits, halted, while the entry is as it was found: one of a page in flight from `frame`.
    fn wait_while(&self, place: &table::Place<'_>, found: Entry, frame: FrameNumber) {
        self.add(WindowEvent::MigrationEntryWait, 1);
        self.waits
            .sleep_while(self.bucket(frame), || place.entry() == found);
    }

    /// Wakes who waits for pages in flight from `frames`, whose entries have been changed.
    fn wake(&self, frames: impl Iterator<Item = FrameNumber>) {
        self.waits.wake(frames.map(|frame| self.bucket(frame)));
    }
}

impl<P: Mmu> Drop for Window<'_, P> {
    fn drop(&mut self) {
        self.free_tables();
    }
}

impl<P: Mmu> fmt::Debug for Window<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window")
            .field("start", &self.start)
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}
