//! What is done wrong on purpose where a secondary map is told of changes, or asked.

use core::sync::atomic::{AtomicBool, Ordering};

use abi::config::fault;
use mm::{Interval, IntervalNotifier, Notifier, PageRange, Sequence, WouldBlock};

use super::Secondary;

/// Passes on what it is told, but for what the planted fault says.
pub(super) struct Careless {
    to: &'static Secondary,
    fault: u32,
    done: AtomicBool,
}

impl Careless {
    /// Whether `fault` is one of what is done wrong here.
    pub(super) fn knows(fault: u32) -> bool {
        matches!(fault, fault::NO_NOTICE | fault::NO_START | fault::NO_END)
    }

    pub(super) fn new(to: &'static Secondary, fault: u32) -> Self {
        Self {
            to,
            fault,
            done: AtomicBool::new(false),
        }
    }

    /// Whether to do it now: once.
    fn now(&self, fault: u32) -> bool {
        // Relaxed: one is the first, whoever.
        self.fault == fault && !self.done.swap(true, Ordering::Relaxed)
    }
}

impl Notifier for Careless {
    fn invalidate_range_start(&self, range: PageRange, blockable: bool) -> Result<(), WouldBlock> {
        match self.now(fault::NO_START) {
            true => Ok(()),
            false => self.to.invalidate_range_start(range, blockable),
        }
    }

    fn invalidate_range_end(&self, range: PageRange) {
        if !self.now(fault::NO_END) {
            self.to.invalidate_range_end(range);
        }
    }
}

impl IntervalNotifier for Careless {
    fn invalidate(
        &self,
        interval: &Interval<'_>,
        range: PageRange,
        sequence: Sequence,
        blockable: bool,
    ) -> Result<(), WouldBlock> {
        match self.fault {
            fault::NO_NOTICE => Ok(()),
            _ => self.to.invalidate(interval, range, sequence, blockable),
        }
    }
}
