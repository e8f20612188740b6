//! The reverse map: from a frame to the pages that are in it.
//!
//! ```text
//!   frame's private word ──► link of slot 7 ◄──► link of slot 4711 ◄──► link of slot 12
//! ```
//!
//! A list through the links of the slots, which are there as long as their leaf is: neither mapping nor
//! unmapping allocates. It belongs to the lock of the frame. Slots whose entries name no frame have links
//! that lead nowhere.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::frame::Frame;
use crate::window::Window;
use crate::window::mmu::Mmu;
use crate::window::page::Slot;

/// A slot's neighbours among those that are in the same frame.
#[repr(C)]
pub(crate) struct Link {
    next: AtomicU32,
    prev: AtomicU32,
}

const _: () = assert!(size_of::<Link>() == 8);

impl Link {
    pub(crate) const fn new() -> Link {
        let nowhere = Slot::to_link(None);
        Link {
            next: AtomicU32::new(nowhere),
            prev: AtomicU32::new(nowhere),
        }
    }
}

impl<P: Mmu> Window<'_, P> {
    fn link(&self, slot: Slot) -> &Link {
        self.place(slot).expect("a slot of a list has a leaf").link
    }

    /// Says that `slot` alone is in a frame that nobody else knows yet.
    pub(crate) fn set_only(&self, frame: &Frame, slot: Option<Slot>) {
        frame.set_private(Slot::to_link(slot).into());
    }

    /// The slots that are in a frame. Each is found before the one in front of it is passed on. With the
    /// frame's lock.
    pub(crate) fn slots(&self, frame: &Frame) -> impl Iterator<Item = Slot> {
        // Relaxed, here and below: the lock keeps users apart. See `migrate` for one more.
        let next = |slot: &Slot| Slot::from_link(self.link(*slot).next.load(Ordering::Relaxed));
        core::iter::successors(Slot::from_link(frame.private() as u32), next)
    }

    /// Adds a slot in front, whose entry names no other frame. With the lock.
    pub(crate) fn link_in(&self, frame: &Frame, slot: Slot) {
        let first = frame.private() as u32;
        self.link(slot).next.store(first, Ordering::Relaxed);
        if let Some(first) = Slot::from_link(first) {
            let slot = Slot::to_link(Some(slot));
            self.link(first).prev.store(slot, Ordering::Relaxed);
        }
        frame.set_private(Slot::to_link(Some(slot)).into());
        frame.map();
    }

    /// Takes a slot out, and gives its reference back unless it was the last: then says so, as that may be
    /// the last reference, too, which is not given back with a lock held. With the lock.
    #[must_use]
    pub(crate) fn unlink(&self, frame: &Frame, slot: Slot) -> bool {
        let nowhere = Slot::to_link(None);
        let link = self.link(slot);
        let next = link.next.load(Ordering::Relaxed);
        let prev = link.prev.load(Ordering::Relaxed);
        link.next.store(nowhere, Ordering::Relaxed);
        link.prev.store(nowhere, Ordering::Relaxed);
        match Slot::from_link(prev) {
            Some(prev) => self.link(prev).next.store(next, Ordering::Relaxed),
            None => frame.set_private(next.into()),
        }
        if let Some(next) = Slot::from_link(next) {
            self.link(next).prev.store(prev, Ordering::Relaxed);
        }
        frame.unmap();
        let last = frame.maps() == 0;
        if last {
            // Nobody can map it again, so nobody need try to move it.
            frame.set_movable(None);
        } else {
            // Never the last: the others have theirs.
            frame.put::<P>();
        }
        last
    }
}
