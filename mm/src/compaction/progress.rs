//! What a zone remembers between passes.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::defer::Deferral;
use crate::fault::{Fault, planted};
use crate::platform::Platform;
use crate::zone::Zone;

/// Where scanners have been, and when it is not worth while to start them.
///
/// All of it are hints, that several passes at once may write: a pass is right wherever it starts.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Where the next pass starts, in pageblocks: Linux's `compact_cached_migrate_pfn` and
    /// `compact_cached_free_pfn`.
    migrate: AtomicU32,
    free: AtomicU32,
    /// Skip hints are to be reset: Linux's `compact_blockskip_flush`.
    flush: AtomicBool,
    pub(crate) deferral: Deferral,
}

// Relaxed, everywhere here: values stand for themselves.
impl Progress {
    pub(crate) const fn new(pageblocks: u32) -> Progress {
        Progress {
            migrate: AtomicU32::new(0),
            free: AtomicU32::new(pageblocks),
            flush: AtomicBool::new(false),
            deferral: Deferral::new(),
        }
    }

    /// Where scanners start: the first pageblock to look for pages in, and the first above those to look for
    /// frames in.
    pub(super) fn positions(&self) -> (u32, u32) {
        (
            self.migrate.load(Ordering::Relaxed),
            self.free.load(Ordering::Relaxed),
        )
    }

    /// The next pass is to start at the ends.
    pub(super) fn reset_positions(&self, pageblocks: u32) {
        self.migrate.store(0, Ordering::Relaxed);
        self.free.store(pageblocks, Ordering::Relaxed);
    }

    /// There is nothing more to be moved below `pageblock`.
    pub(super) fn migrated_below(&self, pageblock: u32) {
        self.migrate.fetch_max(pageblock, Ordering::Relaxed);
    }

    /// There are no frames from `pageblock` on.
    pub(super) fn no_frames_from(&self, pageblock: u32) {
        self.free.fetch_min(pageblock, Ordering::Relaxed);
    }

    /// There are frames below `pageblock`, as some were given back.
    pub(super) fn frames_below(&self, pageblock: u32) {
        self.free.fetch_max(pageblock, Ordering::Relaxed);
    }

    /// Skip hints are to be reset by the daemon.
    pub(super) fn request_flush(&self) {
        self.flush.store(true, Ordering::Relaxed);
    }

    /// Hints turned out to be good: they need not be reset.
    pub(super) fn cancel_flush(&self) {
        self.flush.store(false, Ordering::Relaxed);
    }

    /// Whether skip hints are to be reset; the caller does it.
    pub(super) fn take_flush(&self) -> bool {
        self.flush.swap(false, Ordering::Relaxed)
    }
}

impl<P: Platform> Zone<P> {
    /// Clears all skip hints, and lets scanners start at the ends: Linux's `__reset_isolation_suitable`.
    pub(super) fn reset_skip_hints(&self) {
        if planted::<P>(Fault::KeepsSkipHints) {
            return;
        }
        self.progress.take_flush();
        self.pageblocks()
            .iter()
            .filter(|block| block.skip())
            .for_each(|block| block.set_skip(false));
        self.progress.reset_positions(self.pageblocks().len() as u32);
    }
}
