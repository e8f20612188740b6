//! Pages on the move.

use crate::address::FrameNumber;
use crate::fault::{Fault, planted};
use crate::frame::Frame;
use crate::movable::{MigrateError, Movable, Move, User};
use crate::window::Window;
use crate::window::entry::Entry;
use crate::window::mmu::Mmu;
use crate::window::ranges::Ranges;

impl<P: Mmu> Movable for Window<'_, P> {
    fn isolate(&self, frame: FrameNumber) -> bool {
        let Some(metadata) = self.allocator.frame(frame) else {
            return false;
        };
        // A hint, that saves most of the references that would be for nothing.
        if metadata.movable() != Some(User::Window) || metadata.isolated() || !self.allocator.get(frame) {
            return false;
        }
        if metadata.isolate() {
            // With a reference: it is ours, and if it is the window's now, it cannot become anybody else's.
            if metadata.movable() == Some(User::Window) {
                return true;
            }
            metadata.end_isolation();
        }
        // SAFETY: the reference was just taken.
        unsafe { self.allocator.put(frame) };
        false
    }

    fn migrate(&self, moves: &mut [Move]) {
        self.may_wait();
        let mut ranges = Ranges::new();
        for from in moves.iter().map(|one| one.from) {
            let pages = |metadata: &Frame| {
                let pages = self.slots(metadata).map(|slot| self.page(slot));
                pages.for_each(|page| ranges.add(page));
            };
            self.locked(from, pages);
        }
        let invalidation = self.notifiers.start(&ranges);
        for one in moves.iter_mut() {
            one.result = self.locked(one.from, |metadata| self.depart(metadata, one.from, &ranges));
        }
        if arrived(moves).next().is_some() {
            if planted::<P>(Fault::CopiesBeforeFlush) {
                arrived(moves).for_each(|one| self.copy(one.from, one.to));
            }
            if !planted::<P>(Fault::MovesUnflushed) {
                self.flush(&ranges);
            }
            if !planted::<P>(Fault::CopiesBeforeFlush) {
                // Nobody writes to them: all pages that are there are in flight, and not remembered.
                arrived(moves).for_each(|one| self.copy(one.from, one.to));
            }
            for one in arrived(moves) {
                self.locked(one.from, |metadata| self.arrive(metadata, one));
            }
        }
        drop(invalidation);
        self.wake(arrived(moves).map(|one| one.from));
        for one in arrived(moves) {
            // SAFETY: the reference of the isolation, which has ended.
            unsafe { self.allocator.put(one.from) };
        }
    }

    fn putback(&self, frame: FrameNumber) {
        let metadata = self.frame(frame);
        debug_assert!(metadata.isolated(), "{frame:?} is not isolated");
        metadata.end_isolation();
        // SAFETY: the reference of the isolation, which has ended.
        unsafe { self.allocator.put(frame) };
    }
}

/// The moves that went well so far.
fn arrived(moves: &[Move]) -> impl Iterator<Item = &Move> {
    moves.iter().filter(|one| one.result.is_ok())
}

impl<P: Mmu> Window<'_, P> {
    /// Puts all pages that are in a frame in flight, or none. With its lock.
    fn depart(&self, metadata: &Frame, from: FrameNumber, ranges: &Ranges) -> Result<(), MigrateError> {
        debug_assert!(metadata.isolated(), "{from:?} is not isolated");
        // With none there, nothing is to be moved, and the frame is free once it is put back.
        let maps = metadata.maps();
        let pinned = metadata.state().references() > maps + 1;
        if maps == 0 || pinned && !planted::<P>(Fault::MovesPinned) {
            return Err(MigrateError::Pinned);
        }
        for slot in self.slots(metadata) {
            let page = self.page(slot);
            // A page with a reference besides its mappings' is copied, not shared: since it was isolated none
            // came.
            debug_assert!(ranges.contains(page), "nobody was told that {page:?} moves");
            if !matches!(self.entry(page), Entry::Present { frame, .. } if frame == from) {
                return Err(MigrateError::Again);
            }
        }
        for slot in self.slots(metadata) {
            let place = self.place(slot).expect("it was there");
            let writable = matches!(place.entry(), Entry::Present { writable: true, .. });
            place.set(Entry::Migration {
                frame: from,
                writable,
            });
        }
        Ok(())
    }

    /// Makes pages in flight be in the frame they were to move to. With the lock of the frame they come from.
    fn arrive(&self, from: &Frame, one: &Move) {
        // All that the pages' frame says of them is there before the first of them is. Links lead from slot
        // to slot, and stay as they are: only the list's start moves.
        let to = self.frame(one.to);
        let maps = from.maps();
        to.set_private(from.private());
        to.set_maps(maps);
        to.set_movable(Some(User::Window));
        to.share();
        for _ in 1..maps {
            let got = to.get::<P>();
            debug_assert!(got, "the mover's own reference is there");
        }
        // From the first entry on, who has the other frame's lock may unmap or share that page. That changes
        // the list only in front of slots that are still in flight, and each was found before the one in
        // front of it arrived. Who would move the pages on finds some still in flight, and does not.
        for slot in self.slots(from) {
            let place = self.place(slot).expect("a slot of a list has a leaf");
            let writable = matches!(place.entry(), Entry::Migration { writable: true, .. });
            place.set(Entry::Present {
                frame: one.to,
                writable,
            });
            if planted::<P>(Fault::ForgetsOthers) {
                break;
            }
        }
        self.set_only(from, None);
        from.set_maps(0);
        from.set_movable(None);
        from.end_isolation();
        for _ in 0..maps {
            // The isolation's reference is left.
            from.put::<P>();
        }
    }
}
