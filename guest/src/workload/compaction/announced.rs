//! Somebody who is told before pages change, and remembers which.

use core::sync::atomic::{AtomicU64, Ordering};

use abi::config::fault;
use mm::{Notifier, PageNumber, PageRange, WouldBlock};

use crate::cpu::Cpu;
use crate::memory;

/// A bit for each page: it was said that it would change.
pub(super) struct Announced {
    pages: PageRange,
    bits: &'static [AtomicU64],
}

impl Announced {
    /// None of `pages` was.
    pub(super) fn new(pages: PageRange) -> Announced {
        let words = pages.len().div_ceil(u64::BITS.into()) as usize;
        Announced {
            pages,
            bits: memory::slice(words, || AtomicU64::new(0)),
        }
    }

    /// Whether it was said of a page since the last [`forget`](Announced::forget).
    pub(super) fn contains(&self, page: PageNumber) -> bool {
        let (word, bit) = self.place(page);
        // Relaxed, everywhere here: who moved the page has told the others of that since.
        word.load(Ordering::Relaxed) & bit != 0
    }

    pub(super) fn forget(&self) {
        self.bits.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }

    fn place(&self, page: PageNumber) -> (&AtomicU64, u64) {
        let index = page.number() - self.pages.start().number();
        (&self.bits[(index / 64) as usize], 1 << (index % 64))
    }
}

impl Notifier for Announced {
    fn invalidate_range_start(&self, range: PageRange, _: bool) -> Result<(), WouldBlock> {
        if Cpu::current().boot().run.fault == fault::NO_NOTICE {
            return Ok(());
        }
        let first = self.pages.start().number();
        let start = range.start().number().max(first) - first;
        let end = range.end().number().min(self.pages.end().number()) - first;
        // Words at once: there are many pages, and what is measured waits.
        let mut next = start;
        while next < end {
            let stop = end.min((next | 63) + 1);
            let bits = u64::MAX >> (64 - (stop - next)) << (next % 64);
            self.bits[(next / 64) as usize].fetch_or(bits, Ordering::Relaxed);
            next = stop;
        }
        Ok(())
    }

    fn invalidate_range_end(&self, _: PageRange) {}
}
