//! What is common to all who change where a page is.

use core::ptr;

use crate::address::{FRAME_SIZE, FrameNumber};
use crate::migrate_type::MigrateType;
use crate::order::Order;
use crate::request::Request;
use crate::window::entry::Entry;
use crate::window::mmu::Mmu;
use crate::window::page::Slot;
use crate::window::table::Place;
use crate::window::{Window, WindowError};

impl<P: Mmu> Window<'_, P> {
    /// A frame for a page of the window, the caller's alone.
    pub(crate) fn new_frame(&self) -> Result<FrameNumber, WindowError> {
        let request = Request::new(Order::FRAME, MigrateType::Movable);
        Ok(self.allocator.alloc(request)?)
    }

    /// Copies what is in `from`, which nobody writes to, to `to`, which is the caller's alone.
    pub(crate) fn copy(&self, from: FrameNumber, to: FrameNumber) {
        let (source, target) = (self.platform().frame_ptr(from), self.platform().frame_ptr(to));
        // SAFETY: both are frames, and not the same, as one is allocated anew. Nobody writes to either: see
        // the callers, whose pages are in flight or not writable.
        unsafe { ptr::copy_nonoverlapping(source, target, FRAME_SIZE as usize) };
    }

    /// Makes a frame that is the caller's alone one that `slot` is in, and nobody else. The caller's
    /// reference is the mapping's from now on; what is left is to write the entry.
    ///
    /// Others may isolate it before the entry says so; they find that, and move nothing.
    pub(crate) fn adopt(&self, frame: FrameNumber, slot: Slot) {
        let metadata = self.frame(frame);
        self.set_only(metadata, Some(slot));
        metadata.set_maps(1);
        metadata.set_movable(Some(crate::User::Window));
        metadata.share();
    }

    /// Adopts a frame for a page that has none, and writes its entry, unless somebody was faster: then it
    /// frees the frame.
    pub(crate) fn install(&self, place: &Place<'_>, slot: Slot, from: Entry, frame: FrameNumber) -> bool {
        self.adopt(frame, slot);
        let entry = Entry::Present {
            frame,
            writable: true,
        };
        if place.replace(from, entry) {
            return true;
        }
        self.locked(frame, |metadata| {
            // The link of the slot is not ours, and was not changed.
            self.set_only(metadata, None);
            metadata.set_maps(0);
            metadata.set_movable(None);
        });
        // SAFETY: the reference that the mapping would have had.
        unsafe { self.allocator.put(frame) };
        false
    }
}
