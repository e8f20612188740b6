//! Somebody who remembers in which frames a writer's pages are, and looks into them there: what a device
//! does, or a hypervisor. Who remembers a page that has moved reads what was true once.

use core::sync::atomic::{AtomicU64, Ordering};

use abi::config::fault;
use mm::{Entry, Interval, IntervalNotifier, PageRange, Sequence, WouldBlock};

use super::writer::Pattern;
use crate::cpu::Cpu;
use crate::spinlock::Mutex;
use crate::{memory, window};

/// Attempts to look a page up that is on the move again and again.
const TRIES: u32 = 3;

/// What is remembered of one writer's pages.
pub(super) struct Mirror {
    /// Held wherever `frames` are used; no window memory is touched under it.
    lock: Mutex<()>,
    /// Where each page is; 0, if that is not known.
    frames: &'static [AtomicU64],
}

impl Mirror {
    /// Of so many pages.
    pub(super) fn new(pages: usize) -> Self {
        Self {
            lock: Mutex::new(()),
            frames: memory::slice(pages, || AtomicU64::new(0)),
        }
    }

    /// How many words of the page are not those of `pattern`, seen from here; none, if the page cannot be
    /// looked up. Called by its writer.
    pub(super) fn look(&self, interval: &Interval<'_>, index: usize, pattern: Pattern) -> u64 {
        let page = interval.range().start().plus(index as u64);
        // Relaxed, everywhere: the lock.
        let frame = &self.frames[index];
        for _ in 0..TRIES {
            {
                let _held = self.lock.lock();
                let known = frame.load(Ordering::Relaxed);
                if known != 0 {
                    // Memory is mapped one to one. While we have the lock, whoever is to move the page waits
                    // to tell us.
                    return pattern.wrong(known);
                }
            }
            let sequence = interval.read_begin(window::get().notifiers());
            let Entry::Present { frame: now, .. } = window::get().entry(page) else {
                continue;
            };
            let _held = self.lock.lock();
            if !interval.read_retry(sequence) {
                frame.store(now.start().0, Ordering::Relaxed);
            }
        }
        0
    }
}

impl IntervalNotifier for Mirror {
    fn invalidate(
        &self,
        interval: &Interval<'_>,
        range: PageRange,
        sequence: Sequence,
        _: bool,
    ) -> Result<(), WouldBlock> {
        if Cpu::current().boot().run.fault == fault::NO_NOTICE {
            return Ok(());
        }
        let _held = self.lock.lock();
        interval.set(sequence);
        for (page, frame) in interval.range().iter().zip(self.frames) {
            if range.contains(page) {
                frame.store(0, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}
