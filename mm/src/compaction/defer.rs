//! When compaction failed, the next attempts are not made: ever more of them, as long as it fails.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::order::Order;

/// At most 2^6 attempts are deferred: Linux's `COMPACT_MAX_DEFER_SHIFT`.
pub(super) const MAX_SHIFT: u32 = 6;

/// The deferral of a zone.
///
/// ```text
///   fails:   shift += 1, considered = 0      an attempt: considered += 1, and made if that is 1 << shift
/// ```
///
/// An order below all that failed is always tried.
#[derive(Debug)]
pub(crate) struct Deferral {
    considered: AtomicU32,
    shift: AtomicU32,
    /// The smallest order that failed, or one more than the largest that did not.
    failed: AtomicU32,
}

// Relaxed, everywhere here: of two that fail or try at once, one may be lost, and that does not matter.
impl Deferral {
    pub(super) const fn new() -> Deferral {
        Deferral {
            considered: AtomicU32::new(0),
            shift: AtomicU32::new(0),
            failed: AtomicU32::new(0),
        }
    }

    /// Compaction for `order` did not make a block: Linux's `defer_compaction`.
    pub(super) fn defer(&self, order: Order) {
        self.considered.store(0, Ordering::Relaxed);
        let shift = self.shift.load(Ordering::Relaxed);
        self.shift.store((shift + 1).min(MAX_SHIFT), Ordering::Relaxed);
        self.failed.fetch_min(order.get().into(), Ordering::Relaxed);
    }

    /// Whether an attempt for `order` is not to be made. It counts as one: Linux's `compaction_deferred`.
    pub(super) fn deferred(&self, order: Order) -> bool {
        if u32::from(order.get()) < self.failed.load(Ordering::Relaxed) {
            return false;
        }
        let limit = 1 << self.shift.load(Ordering::Relaxed);
        let considered = self.considered.load(Ordering::Relaxed) + 1;
        self.considered.store(considered.min(limit), Ordering::Relaxed);
        considered < limit
    }

    /// Compaction for `order` made a block, or, if `allocated`, one was even allocated: Linux's
    /// `compaction_defer_reset`.
    pub(super) fn reset(&self, order: Order, allocated: bool) {
        if allocated {
            self.considered.store(0, Ordering::Relaxed);
            self.shift.store(0, Ordering::Relaxed);
        }
        self.failed
            .fetch_max(u32::from(order.get()) + 1, Ordering::Relaxed);
    }

    /// Whether no attempt is deferred.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn never_failed(&self) -> bool {
        self.shift.load(Ordering::Relaxed) == 0
    }

    /// Whether an attempt for `order` is the first after as many were deferred as ever are: Linux's
    /// `compaction_restarting`.
    pub(super) fn restarting(&self, order: Order) -> bool {
        let shift = self.shift.load(Ordering::Relaxed);
        u32::from(order.get()) >= self.failed.load(Ordering::Relaxed)
            && shift == MAX_SHIFT
            && self.considered.load(Ordering::Relaxed) >= 1 << shift
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HUGE: Order = Order::PAGEBLOCK;

    /// Attempts that are deferred before one is made.
    fn deferred(deferral: &Deferral, order: Order) -> u32 {
        let mut count = 0;
        while deferral.deferred(order) {
            count += 1;
        }
        count
    }

    #[test]
    fn every_failure_doubles_the_attempts_that_are_deferred_up_to_64() {
        let deferral = Deferral::new();
        for expected in [0, 1, 3, 7, 15, 31, 63, 63] {
            assert_eq!(deferred(&deferral, HUGE), expected);
            assert_eq!(deferral.restarting(HUGE), expected == 63);
            deferral.defer(HUGE);
        }
    }

    #[test]
    fn smaller_orders_than_failed_are_tried_and_success_ends_it() {
        let deferral = Deferral::new();
        // Until an order has worked, all are deferred: which failed is not known yet.
        deferral.reset(HUGE, true);
        (0..3).for_each(|_| deferral.defer(HUGE));
        assert_eq!(deferred(&deferral, Order::COSTLY), 0);
        assert_eq!(deferred(&deferral, HUGE), 7);
        deferral.defer(HUGE);
        deferral.reset(HUGE, false);
        assert_eq!(deferred(&deferral, HUGE), 0);
        assert_eq!(deferred(&deferral, Order::MAX), 15, "a larger one may still fail");
        deferral.reset(HUGE, true);
        assert_eq!(deferred(&deferral, Order::MAX), 0);
    }
}
