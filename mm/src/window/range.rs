//! Ranges of the window: given out and given back.

use crate::address::FrameNumber;
use crate::window::entry::Entry;
use crate::window::mmu::Mmu;
use crate::window::page::{PageRange, Slot};
use crate::window::table::{ENTRIES, Place};
use crate::window::{Window, WindowError};

impl<P: Mmu> Window<'_, P> {
    /// Maps a range, all zero. Memory for it is allocated as its pages are touched, for its tables now.
    ///
    /// # Errors
    ///
    /// [`WindowError::NoRange`] if it is not in the window, [`WindowError::InUse`],
    /// [`WindowError::NoMemory`]. Nothing is mapped then.
    pub fn map_range(&self, range: PageRange) -> Result<(), WindowError> {
        self.may_wait();
        self.each(range, |slot| {
            let place = self.make_place(slot)?;
            let mapped = place.replace(Entry::Empty, Entry::ZeroFill);
            mapped.then_some(()).ok_or(WindowError::InUse)
        })
    }

    /// Does `map` to each slot of a range that was empty, or undoes all.
    pub(crate) fn each(
        &self,
        range: PageRange,
        map: impl Fn(Slot) -> Result<(), WindowError>,
    ) -> Result<(), WindowError> {
        let first = self.first_slot(range)?.number();
        for i in 0..range.len() as u32 {
            if let Err(error) = map(Slot::new(first + i)) {
                self.unmap_range(PageRange::new(range.start(), i.into()))?;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Unmaps what is mapped of a range. When it returns nobody can reach what was there, but by pins.
    ///
    /// # Errors
    ///
    /// [`WindowError::NoRange`] if it is not in the window.
    pub fn unmap_range(&self, range: PageRange) -> Result<(), WindowError> {
        self.may_wait();
        let first = self.first_slot(range)?;
        let ranges = [range];
        let _invalidation = self.notifiers.start(&ranges);
        let mut next = first.number();
        let end = next + range.len() as u32;
        while next < end {
            // As far as a leaf reaches.
            let stop = end.min((next | (ENTRIES as u32 - 1)) + 1);
            while let Some(busy) = self.unmap_some(next, stop) {
                self.settle(busy);
            }
            next = stop;
        }
        Ok(())
    }

    /// Unmaps what is not in flight of the slots from `start` to below `end`, all of one leaf. Says what was
    /// in flight; it does not wait, as nobody waits who has pages in flight.
    fn unmap_some(&self, start: u32, end: u32) -> Option<Slot> {
        let mut busy = None;
        let mut ours = [0_u64; ENTRIES / 64];
        let places = || {
            let place = |number| Some((Slot::new(number), self.place(Slot::new(number))?));
            (start..end).map_while(place)
        };
        for (slot, place) in places() {
            match self.take_off(&place) {
                Taken::Nothing => {}
                Taken::Ours => ours[slot.index(0) / 64] |= 1 << (slot.index(0) % 64),
                Taken::Busy => busy = Some(slot),
            }
        }
        if ours != [0; ENTRIES / 64] {
            let first = self.page(Slot::new(start));
            self.flush(&[PageRange::new(first, (end - start).into())]);
        }
        for (slot, place) in places() {
            if ours[slot.index(0) / 64] & 1 << (slot.index(0) % 64) == 0 {
                continue;
            }
            let Entry::Migration { frame, .. } = place.entry() else {
                unreachable!("who has put a page in flight is alone in changing it");
            };
            let last = self.locked(frame, |metadata| {
                let last = self.unlink(metadata, slot);
                place.set(Entry::Empty);
                last
            });
            self.wake([frame].into_iter());
            if last {
                // SAFETY: the reference of the mapping that was.
                unsafe { self.allocator.put(frame) };
            }
        }
        busy
    }

    /// Makes a page that no frame has been given to empty, and puts one that is present in flight.
    fn take_off(&self, place: &Place<'_>) -> Taken {
        loop {
            let found = place.entry();
            let frame = match found {
                Entry::Empty => return Taken::Nothing,
                Entry::ZeroFill if place.replace(found, Entry::Empty) => return Taken::Nothing,
                Entry::ZeroFill => continue,
                Entry::Migration { .. } => return Taken::Busy,
                Entry::Present { frame, .. } => frame,
            };
            if self.freeze(place, frame).is_some() {
                return Taken::Ours;
            }
        }
    }

    /// Puts a page that is in `frame` in flight, and says whether it was writable. `None` if it is not there
    /// now.
    pub(crate) fn freeze(&self, place: &Place<'_>, frame: FrameNumber) -> Option<bool> {
        self.locked(frame, |_| match place.entry() {
            Entry::Present { frame: now, writable } if now == frame => {
                place.set(Entry::Migration { frame, writable });
                Some(writable)
            }
            _ => None,
        })
    }

    /// Waits until a page is not in flight, if it is.
    pub(crate) fn settle(&self, slot: Slot) {
        let Some(place) = self.place(slot) else {
            return;
        };
        let found = place.entry();
        if let Entry::Migration { frame, .. } = found {
            self.wait_while(&place, found, frame);
        }
    }
}

/// What became of a page to be unmapped.
enum Taken {
    /// There was none, or it is gone.
    Nothing,
    /// We have put it in flight.
    Ours,
    /// Somebody else has.
    Busy,
}
