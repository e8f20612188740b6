//! Page faults.

use crate::address::{FRAME_SIZE, FrameNumber};
use crate::fault::{Fault, planted};
use crate::frame::Frame;
use crate::window::count::WindowEvent;
use crate::window::entry::Entry;
use crate::window::mmu::Mmu;
use crate::window::page::{PageNumber, PageRange, Slot};
use crate::window::table::Place;
use crate::window::{Window, WindowError};

/// How an attempt to break copy-on-write went.
enum Break {
    /// The page is not as it was found.
    Changed,
    /// It is writable where it was.
    Reused,
    /// It is in flight, to be copied.
    Frozen,
}

impl<P: Mmu> Window<'_, P> {
    /// Handles a page fault at a virtual address: after `Ok`, the access is to be tried again, and may fault
    /// again.
    ///
    /// ```text
    ///   no such page          Err(NoRange)
    ///   zero fill             a zeroed frame is mapped
    ///   present, and enough   nothing: this CPU remembered an older entry; what it knew of the page is to be
    ///                         forgotten, which x86-64 does as it faults
    ///   present, but a write  copy-on-write is broken
    ///   in flight             waits, halted, until it has arrived
    /// ```
    ///
    /// In task context, where the caller may wait.
    ///
    /// # Errors
    ///
    /// [`WindowError::NoRange`], [`WindowError::NoMemory`].
    pub fn fault(&self, address: u64, write: bool) -> Result<(), WindowError> {
        self.may_wait();
        self.add(WindowEvent::Pgfault, 1);
        self.touch(PageNumber::containing(address), write)
    }

    /// Makes an access to `page` possible, for a moment at least.
    pub(crate) fn touch(&self, page: PageNumber, write: bool) -> Result<(), WindowError> {
        let slot = self.slot(page).ok_or(WindowError::NoRange)?;
        let place = self.place(slot).ok_or(WindowError::NoRange)?;
        loop {
            let found = place.entry();
            match found {
                Entry::Empty => return Err(WindowError::NoRange),
                Entry::ZeroFill => {
                    if self.fill(&place, slot)? {
                        return Ok(());
                    }
                }
                Entry::Present { writable, .. } if writable || !write => return Ok(()),
                Entry::Present { frame, .. } => {
                    if self.break_cow(&place, slot, frame)? {
                        return Ok(());
                    }
                }
                Entry::Migration { frame, .. } => self.wait_while(&place, found, frame),
            }
        }
    }

    fn fill(&self, place: &Place<'_>, slot: Slot) -> Result<bool, WindowError> {
        let frame = self.new_frame()?;
        if !planted::<P>(Fault::FillsWithAnything) {
            let bytes = self.platform().frame_ptr(frame);
            // SAFETY: the frame is ours alone.
            unsafe { bytes.write_bytes(0, FRAME_SIZE as usize) };
        }
        Ok(self.install(place, slot, Entry::ZeroFill, frame))
    }

    /// Makes a page writable that is in `frame` and not. `false` if it has changed meanwhile.
    fn break_cow(&self, place: &Place<'_>, slot: Slot, frame: FrameNumber) -> Result<bool, WindowError> {
        // Most often the others have gone, and nothing need be allocated, nobody told.
        match self.locked(frame, |metadata| self.reuse(place, metadata, frame)) {
            Break::Frozen => {}
            outcome => return Ok(self.reused(outcome)),
        }
        let new = self.new_frame()?;
        let range = [PageRange::new(self.page(slot), 1)];
        let invalidation = self.notifiers.start(&range);
        let freeze = |metadata: &Frame| {
            let outcome = self.reuse(place, metadata, frame);
            if matches!(outcome, Break::Frozen) {
                let writable = false;
                place.set(Entry::Migration { frame, writable });
            }
            outcome
        };
        match self.locked(frame, freeze) {
            Break::Frozen => {}
            outcome => {
                self.free_frame(new);
                return Ok(self.reused(outcome));
            }
        }
        if !planted::<P>(Fault::BreaksUnflushed) {
            self.flush(&range);
        }
        // Nobody writes to the old frame: all pages that are in it are not writable, and none becomes so
        // while ours is one of them.
        self.copy(frame, new);
        let last = self.locked(frame, |metadata| {
            let last = self.unlink(metadata, slot);
            self.adopt(new, slot);
            place.set(Entry::Present {
                frame: new,
                writable: true,
            });
            last
        });
        drop(invalidation);
        self.wake([frame].into_iter());
        if last {
            // SAFETY: the reference of the mapping that was.
            unsafe { self.allocator.put(frame) };
        }
        self.add(WindowEvent::Pgcow, 1);
        Ok(true)
    }

    /// Counts, and says, if that is how it went.
    fn reused(&self, outcome: Break) -> bool {
        let reused = matches!(outcome, Break::Reused);
        if reused {
            self.add(WindowEvent::Pgreuse, 1);
        }
        reused
    }

    /// Makes the page writable where it is, if no other is there and nobody else has a reference. With the
    /// lock.
    fn reuse(&self, place: &Place<'_>, metadata: &Frame, frame: FrameNumber) -> Break {
        let writable = false;
        if place.entry() != (Entry::Present { frame, writable }) {
            return Break::Changed;
        }
        let sole = metadata.maps() == 1 && metadata.state().references() == 1;
        if !sole && !planted::<P>(Fault::ReusesShared) {
            return Break::Frozen;
        }
        // Nobody need forget anything: who remembers the old entry faults once for nothing.
        let writable = true;
        place.set(Entry::Present { frame, writable });
        Break::Reused
    }
}
