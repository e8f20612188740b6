//! Intervals that readers watch: who looks a page up learns whether it changed meanwhile.
//!
//! ```text
//!   reader                               invalidation
//!   seq = read_begin()   sleeps while    sequence odd
//!                        its interval    each interval concerned: under the user's lock, its seq = sequence,
//!   look the page up     is concerned      and what the user knows of the pages is forgotten
//!   user's lock {                        pages change
//!     read_retry(seq)?   anew            the last to end makes the sequence even, and wakes readers
//!     remember
//!   }
//! ```
//!
//! What is remembered is true. The lock says which is first: if the reader, the invalidation finds what it
//! has remembered; if the invalidation, the reader finds that `seq` has changed. An interval's `seq` is
//! always odd, that of the last invalidation that concerned it, so it equals the sequence while that one is
//! active, and never after: then `read_begin` sleeps. Where invalidations overlap without end, it may sleep
//! as long. All values are used once, as each time that the sequence is even adds to it.

use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr};

use crate::fault::{Fault, planted};
use crate::platform::Platform;
use crate::sync::{AtomicU64, Ordering};
use crate::window::notifier::{Notifiers, WouldBlock};
use crate::window::page::PageRange;

/// A moment in the life of an interval.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sequence(u64);

/// Who remembers where the pages of an interval are.
pub trait IntervalNotifier: Sync {
    /// Pages of `range`, some of which are in the interval, are about to change. Under the lock that it calls
    /// [`read_retry`](Interval::read_retry) under, the subscriber calls [`set`](Interval::set) with
    /// `sequence` and forgets what it knew of them. There is no end.
    ///
    /// # Errors
    ///
    /// It would have to wait, and is not `blockable`.
    fn invalidate(
        &self,
        interval: &Interval<'_>,
        range: PageRange,
        sequence: Sequence,
        blockable: bool,
    ) -> Result<(), WouldBlock>;
}

/// An interval of pages, and who watches it.
pub struct Interval<'a> {
    range: PageRange,
    sequence: AtomicU64,
    notifier: &'a dyn IntervalNotifier,
    next: AtomicPtr<Interval<'a>>,
    registered: AtomicBool,
}

impl<'a> Interval<'a> {
    /// The pages of `range`, watched by `notifier`.
    pub fn new(range: PageRange, notifier: &'a dyn IntervalNotifier) -> Self {
        Interval {
            range,
            sequence: AtomicU64::new(0),
            notifier,
            next: AtomicPtr::new(ptr::null_mut()),
            registered: AtomicBool::new(false),
        }
    }

    /// The pages.
    pub fn range(&self) -> PageRange {
        self.range
    }

    /// Notes the sequence of an invalidation, under the user's lock.
    pub fn set(&self, sequence: Sequence) {
        // Relaxed: `read_retry` has the same lock. `read_begin` may see either value, and who began with the
        // old one will retry.
        self.sequence.store(sequence.0, Ordering::Relaxed);
    }

    /// Begins to look pages up; sleeps while pages of the interval are being invalidated. In task context,
    /// with no lock held.
    pub fn read_begin<P: Platform>(&self, notifiers: &Notifiers<'_, P>) -> Sequence {
        debug_assert!(
            notifiers.allocator.platform.may_wait(),
            "pages looked up where nobody may wait"
        );
        // Relaxed: the sequence is written under the lock. Whether ours equals it is true of one moment:
        // later ones are `read_retry`'s.
        let (seen, now) = notifiers.locked(|_| {
            (
                self.sequence.load(Ordering::Relaxed),
                notifiers.sequence.load(Ordering::Relaxed),
            )
        });
        if seen == now && !planted::<P>(Fault::ReadsWithoutWaiting) {
            // Acquire: pairs with the Release in `unmark_intervals`: what was changed is seen changed.
            let still = || notifiers.sequence.load(Ordering::Acquire) == seen;
            notifiers.waits.sleep_while(0, still);
        }
        Sequence(seen)
    }

    /// Whether what was looked up since [`read_begin`](Interval::read_begin) returned `sequence` may be
    /// stale. Under the user's lock; it is true until that is released.
    pub fn read_retry(&self, sequence: Sequence) -> bool {
        // Relaxed: see `set`.
        self.sequence.load(Ordering::Relaxed) != sequence.0
    }

    /// The one that was there before.
    fn next(&self) -> Option<&'a Interval<'a>> {
        // Relaxed: written before this one was inserted, under the lock that led us here.
        let next = self.next.load(Ordering::Relaxed);
        // SAFETY: `insert` wrote it, from such a reference.
        unsafe { next.as_ref() }
    }
}

/// The intervals from `first` on that have pages in `range`.
fn concerned<'a>(
    first: Option<&'a Interval<'a>>,
    range: PageRange,
) -> impl Iterator<Item = &'a Interval<'a>> {
    core::iter::successors(first, |interval| interval.next())
        .filter(move |interval| interval.range.intersects(&range))
}

impl<'a, P: Platform> Notifiers<'a, P> {
    /// Adds an interval. If anything is active, its readers sleep until nothing is.
    ///
    /// # Panics
    ///
    /// It was inserted already.
    pub fn insert(&self, interval: &'a Interval<'a>) {
        let again = interval.registered.swap(true, Ordering::Relaxed);
        assert!(!again, "an interval has one place");
        self.locked(|state| {
            // Relaxed: the lock.
            let mut sequence = self.sequence.load(Ordering::Relaxed);
            if self.active.load(Ordering::Relaxed) != 0 {
                sequence |= 1;
                self.sequence.store(sequence, Ordering::Relaxed);
            } else {
                sequence -= 1;
            }
            interval.sequence.store(sequence, Ordering::Relaxed);
            let next = state.intervals.map_or(ptr::null(), ptr::from_ref);
            interval.next.store(next.cast_mut(), Ordering::Relaxed);
            state.intervals = Some(interval);
        });
    }

    /// Makes the sequence odd if any interval is concerned. With the lock.
    pub(crate) fn mark_intervals(&self, first: Option<&'a Interval<'a>>, ranges: &[PageRange]) {
        let mut concerned = ranges.iter().flat_map(|range| concerned(first, *range));
        if concerned.next().is_some() {
            // Relaxed: the lock.
            let odd = self.sequence.load(Ordering::Relaxed) | 1;
            self.sequence.store(odd, Ordering::Relaxed);
        }
    }

    /// Makes the sequence even. With the lock, when nothing is active any more.
    pub(crate) fn unmark_intervals(&self) {
        // Relaxed: the lock.
        let sequence = self.sequence.load(Ordering::Relaxed);
        if sequence % 2 == 1 {
            // Release: pairs with the Acquire in `read_begin`.
            self.sequence.store(sequence + 1, Ordering::Release);
        }
    }

    /// Tells those who watch intervals from `first` on.
    pub(crate) fn invalidate_intervals(
        &self,
        first: Option<&'a Interval<'a>>,
        ranges: &[PageRange],
        blockable: bool,
    ) -> Result<(), WouldBlock> {
        for range in ranges {
            for interval in concerned(first, *range) {
                // Relaxed: while we are active and an interval is concerned, it stays as it is.
                let sequence = Sequence(self.sequence.load(Ordering::Relaxed));
                let result = interval
                    .notifier
                    .invalidate(interval, *range, sequence, blockable);
                if result.is_err() {
                    debug_assert!(!blockable, "a subscriber that may wait fails to invalidate");
                    if !blockable {
                        return Err(WouldBlock);
                    }
                }
            }
        }
        Ok(())
    }
}
