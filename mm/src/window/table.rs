//! Page tables, made on demand.
//!
//! ```text
//!   PML4 ──► root ──► directory ──► leaf        512 entries    Entry of each page
//!                                     └ private ► links        512 × 8 bytes
//! ```
//!
//! A table that is there stays until the window goes, so that looking needs no lock.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::address::{FRAME_SIZE, FrameNumber};
use crate::allocator::PageAllocator;
use crate::migrate_type::MigrateType;
use crate::order::Order;
use crate::platform::Platform;
use crate::request::{AllocError, Request};
use crate::window::entry::{self, Entry};
use crate::window::mmu::Mmu;
use crate::window::page::{PageRange, Slot};
use crate::window::rmap::Link;
use crate::window::{Window, WindowError};

/// Entries of a table.
pub(crate) const ENTRIES: usize = 512;
/// What an entry of an upper table says besides where the next is. Who may do what is up to the leaf.
const LEADS: u64 = entry::PRESENT | entry::WRITABLE | entry::USER | entry::ACCESSED;

/// Where a page of the window is described.
pub(crate) struct Place<'w> {
    entry: &'w AtomicU64,
    /// Its link in the list of what maps the same frame.
    pub(crate) link: &'w Link,
}

impl Place<'_> {
    /// What is there.
    pub(crate) fn entry(&self) -> Entry {
        // Acquire: pairs with the Releases below: what was written to a frame and its metadata before it was
        // mapped here.
        Entry::decode(self.entry.load(Ordering::Acquire))
    }

    /// Changes an entry that is the caller's to change: it has the lock of the frame that the entry is about.
    pub(crate) fn set(&self, to: Entry) {
        // Release: pairs with the Acquire in `entry`. The CPU's own reads are behind it, too: x86 stores in
        // order.
        self.entry.store(to.encode(), Ordering::Release);
    }

    /// Changes an entry that names no frame, unless somebody was faster.
    pub(crate) fn replace(&self, from: Entry, to: Entry) -> bool {
        // Release: as in `set`. The failure's value is not looked at.
        self.entry
            .compare_exchange(from.encode(), to.encode(), Ordering::Release, Ordering::Relaxed)
            .is_ok()
    }
}

/// A table, all of it empty.
pub(crate) fn new_table<P: Platform>(allocator: &PageAllocator<P>) -> Result<FrameNumber, AllocError> {
    let frame = allocator.alloc(Request::new(Order::FRAME, MigrateType::Unmovable))?;
    // SAFETY: the frame is ours, and as large.
    unsafe {
        allocator
            .platform
            .frame_ptr(frame)
            .write_bytes(0, FRAME_SIZE as usize)
    };
    Ok(frame)
}

impl<P: Mmu> Window<'_, P> {
    fn table(&self, frame: FrameNumber) -> &[AtomicU64; ENTRIES] {
        let table = self.platform().frame_ptr(frame).cast::<[AtomicU64; ENTRIES]>();
        // SAFETY: callers name the root, or a table that an entry leads to: a frame of 512 initialised words,
        // aligned, that stays one as long as the window, and is used as such alone.
        unsafe { &*table }
    }

    fn links(&self, leaf: FrameNumber) -> &[Link; ENTRIES] {
        let links = FrameNumber::new(self.frame(leaf).private());
        let links = self.platform().frame_ptr(links).cast::<[Link; ENTRIES]>();
        // SAFETY: a leaf's private word leads to its links, which were made before it was, and stay as long.
        unsafe { &*links }
    }

    /// The table that an entry leads to.
    fn below(&self, entry: &AtomicU64) -> Option<FrameNumber> {
        // Acquire: pairs with the Release in `grow`, so that the table is seen as it was made.
        let bits = entry.load(Ordering::Acquire);
        (bits != 0).then(|| entry::frame_of(bits))
    }

    fn at(&self, leaf: FrameNumber, slot: Slot) -> Place<'_> {
        Place {
            entry: &self.table(leaf)[slot.index(0)],
            link: &self.links(leaf)[slot.index(0)],
        }
    }

    /// Where a page is described. `None`, if it never was: it is [`Entry::Empty`].
    pub(crate) fn place(&self, slot: Slot) -> Option<Place<'_>> {
        let directory = self.below(&self.table(self.root)[slot.index(2)])?;
        let leaf = self.below(&self.table(directory)[slot.index(1)])?;
        Some(self.at(leaf, slot))
    }

    /// As [`place`](Window::place), with the tables that it takes.
    pub(crate) fn make_place(&self, slot: Slot) -> Result<Place<'_>, WindowError> {
        let directory = self.grow(&self.table(self.root)[slot.index(2)], false)?;
        let leaf = self.grow(&self.table(directory)[slot.index(1)], true)?;
        Ok(self.at(leaf, slot))
    }

    /// The table that an entry leads to, which is made if there is none.
    fn grow(&self, entry: &AtomicU64, leaf: bool) -> Result<FrameNumber, WindowError> {
        if let Some(there) = self.below(entry) {
            return Ok(there);
        }
        let table = new_table(self.allocator)?;
        if leaf {
            let made = self.new_links();
            let Ok(links) = made else {
                self.free_frame(table);
                return made;
            };
            self.frame(table).set_private(links.number());
        }
        let bits = table.start().0 | LEADS;
        // Release: pairs with the Acquire in `below`. Acquire: as there, for the table of whoever was faster.
        match entry.compare_exchange(0, bits, Ordering::Release, Ordering::Acquire) {
            Ok(_) => Ok(table),
            Err(theirs) => {
                self.free_table(table, leaf);
                Ok(entry::frame_of(theirs))
            }
        }
    }

    fn new_links(&self) -> Result<FrameNumber, WindowError> {
        let links = new_table(self.allocator)?;
        let first = self.platform().frame_ptr(links).cast::<Link>();
        for i in 0..ENTRIES {
            // SAFETY: within the frame, which is ours.
            let link = unsafe { first.add(i) };
            // SAFETY: as above; a frame's start is aligned for it.
            unsafe { link.write(Link::new()) };
        }
        Ok(links)
    }

    fn free_table(&self, table: FrameNumber, leaf: bool) {
        if leaf {
            self.free_frame(FrameNumber::new(self.frame(table).private()));
        }
        self.free_frame(table);
    }

    /// Frees a frame that nobody else has ever seen, or will look at again.
    pub(crate) fn free_frame(&self, frame: FrameNumber) {
        // SAFETY: callers have it from `alloc`, not shared, and use it no more.
        unsafe { self.allocator.free(frame, Order::FRAME) };
    }

    /// Unmaps everything and frees all tables. The window's last deed.
    pub(crate) fn free_tables(&mut self) {
        for (i, entry) in self.table(self.root).iter().enumerate() {
            let Some(directory) = self.below(entry) else {
                continue;
            };
            for (j, entry) in self.table(directory).iter().enumerate() {
                let Some(leaf) = self.below(entry) else {
                    continue;
                };
                let first = Slot::new(((i * ENTRIES + j) * ENTRIES) as u32);
                let all = PageRange::new(self.page(first), ENTRIES as u64);
                let unmapped = self.unmap_range(all);
                debug_assert!(unmapped.is_ok(), "{all:?} is in the window");
                self.free_table(leaf, true);
            }
            self.free_table(directory, false);
        }
        self.free_table(self.root, false);
    }
}
