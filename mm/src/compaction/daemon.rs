//! The daemon: compaction before an allocation has to wait for it. Linux's `kcompactd`.
//!
//! It has no thread here. Allocations leave a note; a CPU that may wait, in task context, looks for it and
//! calls.

use core::sync::atomic::{AtomicU32, Ordering};

use super::defer::MAX_SHIFT;
use super::{By, CompactResult, Control, Goal};
use crate::allocator::PageAllocator;
use crate::fault::{Fault, planted};
use crate::order::Order;
use crate::platform::Platform;
use crate::request::Effort;
use crate::stat::Event;

/// Linux's default of `compaction_proactiveness`.
const PROACTIVENESS: u32 = 20;

/// What the daemon is to do.
#[derive(Debug)]
pub(crate) struct Kcompactd {
    /// One more than the largest order that is wanted: Linux's `kcompactd_max_order`. 0: none is.
    wanted: AtomicU32,
    /// 0 to 100.
    proactiveness: AtomicU32,
    /// How many calls proactive compaction lets pass, as it did not help.
    deferred: AtomicU32,
}

// Relaxed, everywhere here: values stand for themselves; the lists are looked at under their lock.
impl Kcompactd {
    pub(crate) const fn new() -> Kcompactd {
        Kcompactd {
            wanted: AtomicU32::new(0),
            proactiveness: AtomicU32::new(PROACTIVENESS),
            deferred: AtomicU32::new(0),
        }
    }

    /// Blocks of `order` have run out, or are about to: Linux's `wakeup_kcompactd`.
    pub(crate) fn wake(&self, order: Order) {
        self.wanted
            .fetch_max(u32::from(order.get()) + 1, Ordering::Relaxed);
    }

    fn take_wanted(&self) -> Option<Order> {
        let wanted = self.wanted.swap(0, Ordering::Relaxed);
        Order::new(wanted.checked_sub(1)? as u8)
    }
}

impl<P: Platform> PageAllocator<P> {
    /// Whether there is something for [`kcompactd`](PageAllocator::kcompactd) to do: an allocation failed for
    /// want of a block, or took the last one.
    pub fn kcompactd_wanted(&self) -> bool {
        self.kcompactd.wanted.load(Ordering::Relaxed) > 0
    }

    /// Compacts for what allocations have wanted. May wait: to be called in task context, with no lock held;
    /// on one CPU at a time.
    pub fn kcompactd(&self) {
        let Some(order) = self.kcompactd.take_wanted() else {
            return;
        };
        self.count_here(Event::CompactDaemonWake, 1);
        let control = Control {
            goal: Goal::Block(order, Effort::Ordinary),
            by: By::Daemon,
            whole: false,
        };
        for zone in self.populated() {
            let progress = &zone.progress;
            if progress.take_flush() {
                zone.reset_skip_hints();
            }
            if progress.deferral.deferred(order) {
                continue;
            }
            match self.compact(zone, control) {
                CompactResult::Success => progress.deferral.reset(order, false),
                CompactResult::Complete | CompactResult::PartialSkipped => {
                    // What other CPUs have on their lists may be what is missing.
                    self.request_drain();
                    if !planted::<P>(Fault::NeverDefers) {
                        progress.deferral.defer(order);
                    }
                }
                _ => {}
            }
        }
    }

    /// How much to compact in advance, 0 (not at all) to 100: Linux's `compaction_proactiveness`.
    pub fn set_compaction_proactiveness(&self, proactiveness: u8) {
        let proactiveness = u32::from(proactiveness).min(100);
        self.kcompactd
            .proactiveness
            .store(proactiveness, Ordering::Relaxed);
        self.kcompactd.deferred.store(0, Ordering::Relaxed);
    }

    /// Compacts all zones if the [score](PageAllocator::fragmentation_score) says so, until each has come
    /// down to the low mark. To be called twice a second, as Linux does; in the same way as
    /// [`kcompactd`](PageAllocator::kcompactd). If it did not help, the next 64 calls do nothing.
    pub fn compact_proactively(&self) {
        let Some((low, high)) = self.score_marks() else {
            return;
        };
        let deferred = self.kcompactd.deferred.load(Ordering::Relaxed);
        if deferred > 0 {
            return self.kcompactd.deferred.store(deferred - 1, Ordering::Relaxed);
        }
        let before = self.fragmentation_score();
        if before <= high {
            return;
        }
        self.count_here(Event::CompactDaemonWake, 1);
        let control = Control {
            goal: Goal::Score(low),
            by: By::Daemon,
            whole: true,
        };
        for zone in self.populated() {
            self.compact(zone, control);
        }
        if self.fragmentation_score() >= before {
            self.kcompactd.deferred.store(1 << MAX_SHIFT, Ordering::Relaxed);
        }
    }

    /// Scores that proactive compaction goes down to and starts above, if it is wanted: Linux's
    /// `fragmentation_score_wmark`.
    pub fn score_marks(&self) -> Option<(u32, u32)> {
        let proactiveness = self.kcompactd.proactiveness.load(Ordering::Relaxed);
        let low = (100 - proactiveness).max(5);
        (proactiveness > 0).then_some((low, (low + 10).min(100)))
    }
}
