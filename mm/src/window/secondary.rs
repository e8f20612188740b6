//! A secondary map, as a device has one, that checks what it is told.
//!
//! ```text
//!   read(page):  remembered? ── no ──► read_begin ─► the window's entry ─► read_retry? ── no ──► remember
//!                    │ yes                  ▲                                  │ yes                │
//!                    ▼                      └──────────────────────────────────┘                    ▼
//!                  use it, with the lock held: who is to change the page waits for that in its start
//! ```

use core::sync::atomic::{AtomicU64, Ordering};

use lock_api::Mutex;

use crate::address::FrameNumber;
use crate::allocator::PageAllocator;
use crate::platform::Platform;
use crate::request::AllocError;
use crate::window::entry::Entry;
use crate::window::interval::{Interval, IntervalNotifier, Sequence};
use crate::window::mmu::Mmu;
use crate::window::notifier::{Notifier, WouldBlock};
use crate::window::owned::Owned;
use crate::window::page::{PageNumber, PageRange};
use crate::window::{Window, WindowError};

/// A page that is remembered, and its frame. Written and read with the lock held.
struct Line {
    page: AtomicU64,
    frame: AtomicU64,
}

/// What the page of a line says that remembers none.
const NONE: u64 = u64::MAX;

/// A secondary map, with checks. It is to be both [registered](crate::Notifiers::register), to see starts and
/// ends, and [inserted](crate::Notifiers::insert), with the interval that it is to read.
pub struct Secondary<'a, P: Platform> {
    allocator: &'a PageAllocator<P>,
    lines: Owned<'a, P, Line>,
    checks: Mutex<P::Lock, Checks>,
}

/// What it has found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Checks {
    /// Ranges whose invalidation has started.
    pub starts: u64,
    /// Ranges whose invalidation has ended: as many, when nothing is active.
    pub ends: u64,
    /// Sum of hashes of the ranges that have started, less those that have ended: 0 if these are the same.
    pub unpaired: u64,
    /// Pages found remembered at the end of the invalidation of a range that they are in.
    pub mapped_inside: u64,
    /// Pages that were looked up again, as they had changed meanwhile.
    pub retries: u64,
    /// Pages that were looked up.
    pub lookups: u64,
    /// Pages that were remembered, and used.
    pub hits: u64,
}

impl<'a, P: Platform<Lock: Send + Sync> + Sync> Secondary<'a, P> {
    /// One that remembers nothing yet, and up to `pages` pages: of those that are as many apart, one.
    ///
    /// # Errors
    ///
    /// There is no memory.
    pub fn new(allocator: &'a PageAllocator<P>, pages: usize) -> Result<Self, AllocError> {
        let line = |_| Line {
            page: AtomicU64::new(NONE),
            frame: AtomicU64::new(0),
        };
        Ok(Secondary {
            allocator,
            lines: Owned::new(allocator, pages.max(1), line)?,
            checks: Mutex::new(Checks::default()),
        })
    }

    /// What it has found up to now.
    pub fn checks(&self) -> Checks {
        self.locked(|checks| *checks)
    }

    /// Runs `f` with the lock held.
    fn locked<R>(&self, f: impl FnOnce(&mut Checks) -> R) -> R {
        self.allocator
            .platform
            .on_this_cpu(|_| f(&mut self.checks.lock()))
    }

    fn line(&self, page: PageNumber) -> &Line {
        &self.lines[page.number() as usize % self.lines.len()]
    }

    /// Forgets the pages of a range; how many were remembered. With the lock.
    fn forget(&self, range: PageRange) -> u64 {
        let forget = |line: &&Line| {
            // Relaxed, here and below: the lock.
            let remembered = range.contains(PageNumber::new(line.page.load(Ordering::Relaxed)));
            if remembered {
                line.page.store(NONE, Ordering::Relaxed);
            }
            remembered
        };
        // Whichever are fewer. Pages of so short a range have lines of their own.
        let forgotten = if range.len() < self.lines.len() as u64 {
            range.iter().map(|page| self.line(page)).filter(forget).count()
        } else {
            self.lines.iter().filter(forget).count()
        };
        forgotten as u64
    }
}

impl<P: Mmu> Secondary<'_, P> {
    /// Runs `f` on the frame that `page` is in, with the lock held: the page is there as long. `f` calls
    /// nothing of the allocator or the window. Waits while the page is about to change; in task context.
    ///
    /// # Errors
    ///
    /// [`WindowError::NoRange`] where no frame has been given to the page.
    pub fn read<R>(
        &self,
        window: &Window<'_, P>,
        interval: &Interval<'_>,
        page: PageNumber,
        f: impl FnOnce(FrameNumber) -> R,
    ) -> Result<R, WindowError> {
        let line = self.line(page);
        let mut f = Some(f);
        let mut used = |frame| (f.take().expect("it is run once"))(frame);
        let remembered = self.locked(|checks| {
            let there = line.page.load(Ordering::Relaxed) == page.number();
            checks.hits += u64::from(there);
            there.then(|| used(FrameNumber::new(line.frame.load(Ordering::Relaxed))))
        });
        if let Some(result) = remembered {
            return Ok(result);
        }
        loop {
            let sequence = interval.read_begin(window.notifiers());
            let found = window.entry(page);
            let looked_up = self.locked(|checks| {
                if interval.read_retry(sequence) {
                    checks.retries += 1;
                    return None;
                }
                match found {
                    Entry::Empty | Entry::ZeroFill => Some(Err(WindowError::NoRange)),
                    // It came in flight since: the start of that is on its way here, or has been.
                    Entry::Migration { .. } => None,
                    Entry::Present { frame, .. } => {
                        checks.lookups += 1;
                        line.page.store(page.number(), Ordering::Relaxed);
                        line.frame.store(frame.number(), Ordering::Relaxed);
                        Some(Ok(used(frame)))
                    }
                }
            });
            if let Some(result) = looked_up {
                return result;
            }
        }
    }
}

/// Something of a range that sums of other ranges hardly ever have.
fn hash(range: PageRange) -> u64 {
    let mixed = (range.start().number() ^ range.len().rotate_left(40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 29 | 1
}

impl<P: Platform<Lock: Send + Sync> + Sync> Notifier for Secondary<'_, P> {
    fn invalidate_range_start(&self, range: PageRange, _: bool) -> Result<(), WouldBlock> {
        self.locked(|checks| {
            checks.starts += 1;
            checks.unpaired = checks.unpaired.wrapping_add(hash(range));
        });
        Ok(())
    }

    fn invalidate_range_end(&self, range: PageRange) {
        self.locked(|checks| {
            checks.ends += 1;
            checks.unpaired = checks.unpaired.wrapping_sub(hash(range));
            checks.mapped_inside += self.forget(range);
        });
    }
}

impl<P: Platform<Lock: Send + Sync> + Sync> IntervalNotifier for Secondary<'_, P> {
    fn invalidate(
        &self,
        interval: &Interval<'_>,
        range: PageRange,
        sequence: Sequence,
        _: bool,
    ) -> Result<(), WouldBlock> {
        self.locked(|_| {
            interval.set(sequence);
            self.forget(range);
        });
        Ok(())
    }
}
