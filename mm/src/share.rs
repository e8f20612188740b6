//! Blocks with more than one holder.
//!
//! ```text
//!   alloc ──► 1 reference ──share──► 1, shared ◄──get / put──► n, shared ──last put──► free
//!                  └─────────────── free ────────────────────────────────────────────►
//! ```
//!
//! A block that nobody shares is its holder's alone, and it is allocated and freed without locked instructions.
//! From `share` on every change of its state is one, so that of all who take and give back references exactly
//! one finds that it gave back the last.

use core::panic::Location;

use crate::address::FrameNumber;
use crate::allocator::PageAllocator;
use crate::platform::Platform;
use crate::report::Misuse;
use crate::state::{Kind, State};

impl<P: Platform> PageAllocator<P> {
    /// Lets others take references to the block that starts at `frame`. From now on its holder gives it back
    /// with [`put`](PageAllocator::put).
    #[track_caller]
    pub fn share(&self, frame: FrameNumber) {
        match self.frame(frame) {
            Some(head) if head.state().kind() == Kind::Allocated => head.share(),
            _ => self.report(frame, Misuse::NotAllocated, Location::caller()),
        }
    }

    /// Takes a reference to the block that starts at `frame`, whoever holds it. Fails where it is not shared,
    /// or has no holder any more, or `frame` is no block's first. Linux's `folio_try_get`.
    ///
    /// The frame may have been freed and allocated anew before: who has a reference looks whether the block
    /// is still what it was meant to be.
    pub fn get(&self, frame: FrameNumber) -> bool {
        self.frame(frame).is_some_and(|head| head.get::<P>())
    }

    /// Gives a reference back. The last one frees the block. Linux's `folio_put`.
    ///
    /// # Safety
    ///
    /// The reference is the caller's, who uses the block no more.
    #[track_caller]
    pub unsafe fn put(&self, frame: FrameNumber) {
        let by = Location::caller();
        let before = self.frame(frame).and_then(|head| Some((head, head.put::<P>()?)));
        let Some((head, before)) = before else {
            return self.report(frame, Misuse::NotAllocated, by);
        };
        if before.references() == 1 {
            // Nobody can have a reference, so we are the holder.
            head.set(State::head(
                Kind::Allocated,
                before.order(),
                before.migrate_type(),
            ));
            // SAFETY: so we are the only holder, and the caller uses the block no more.
            unsafe { self.free(frame, before.order()) };
        }
    }
}
