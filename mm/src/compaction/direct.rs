//! Direct compaction: by an allocation that found no block, and may wait.

use core::panic::Location;

use super::{By, CompactResult, Control, Goal};
use crate::address::FrameNumber;
use crate::allocator::PageAllocator;
use crate::platform::Platform;
use crate::request::{AllocError, Request};
use crate::stat::Event;

/// How often an allocation compacts whose block somebody else got: a quarter of Linux's
/// `MAX_COMPACT_RETRIES`, as Linux has it for large orders.
const RETRIES: u32 = 4;

impl<P: Platform> PageAllocator<P> {
    /// Allocates after compaction, if that helps. The first pass goes on where the last one ended, and by
    /// hints; the next does not. Linux's `__alloc_pages_direct_compact`.
    #[cold]
    pub(crate) fn alloc_compacting(
        &self,
        request: Request,
        by: &'static Location<'static>,
    ) -> Result<FrameNumber, AllocError> {
        let mut whole = false;
        let mut error = AllocError::Fragmented;
        for _ in 0..RETRIES {
            let result = self.compact_for(request, whole);
            if result <= CompactResult::Deferred {
                break;
            }
            self.count_here(Event::CompactStall, 1);
            match self.alloc_checked(request, by) {
                Ok(frame) => {
                    self.count_here(Event::CompactSuccess, 1);
                    if let Some((zone, ..)) = self.find(frame) {
                        zone.progress.cancel_flush();
                        zone.progress.deferral.reset(request.order, true);
                    }
                    return Ok(frame);
                }
                Err(other) => error = other,
            }
            self.count_here(Event::CompactFail, 1);
            match result {
                // Somebody else was faster.
                CompactResult::Success | CompactResult::Contended => {}
                CompactResult::PartialSkipped => whole = true,
                _ => break,
            }
        }
        Err(error)
    }

    /// Compacts zones until one has a block. Linux's `try_to_compact_pages`.
    fn compact_for(&self, request: Request, whole: bool) -> CompactResult {
        let control = Control {
            goal: Goal::Block(request.order, request.effort),
            by: By::Caller,
            whole,
        };
        let mut best = CompactResult::Skipped;
        for zone in self.populated() {
            let deferral = &zone.progress.deferral;
            // Who goes so far as to make a whole pass has not been deferred, in one zone at least.
            if !whole && deferral.deferred(request.order) {
                best = best.max(CompactResult::Deferred);
                continue;
            }
            let result = self.compact(zone, control);
            best = best.max(result);
            match result {
                CompactResult::Success => {
                    deferral.reset(request.order, false);
                    break;
                }
                CompactResult::Complete => deferral.defer(request.order),
                _ => {}
            }
        }
        best
    }
}
