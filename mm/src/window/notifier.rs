//! Who is told before pages change, and after: Linux's MMU notifiers.
//!
//! ```text
//!   start(range) ──► pages still mapped: forget them, and map none of them again ──┐
//!                    ... they change ...                                            │ active
//!   end(range)   ──► what was there is gone: they may be looked up again  ◄─────────┘
//! ```

use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use lock_api::Mutex;

use crate::allocator::PageAllocator;
use crate::fault::{Fault, planted};
use crate::platform::Platform;
use crate::request::AllocError;
use crate::sync::AtomicU64;
use crate::window::interval::Interval;
use crate::window::page::PageRange;
use crate::window::wait::Waits;

/// A subscriber would have to wait, and must not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WouldBlock;

/// A subscriber: somebody who knows where pages of the window are.
///
/// Every start that succeeds is followed by its end, in whatever order if ranges overlap in time.
pub trait Notifier: Sync {
    /// Pages of `range` are about to change. On return the subscriber uses nothing that it knew of them, and
    /// until the end it learns nothing of them anew.
    ///
    /// # Errors
    ///
    /// It would have to wait, and is not `blockable`. There will be no end then. It never waits for an end.
    fn invalidate_range_start(&self, range: PageRange, blockable: bool) -> Result<(), WouldBlock>;

    /// They have changed.
    fn invalidate_range_end(&self, range: PageRange);
}

/// A subscriber's place in the chain.
pub struct Subscription<'a> {
    notifier: &'a dyn Notifier,
    next: AtomicPtr<Subscription<'a>>,
    registered: AtomicBool,
}

impl<'a> Subscription<'a> {
    /// A place for `notifier`.
    pub const fn new(notifier: &'a dyn Notifier) -> Self {
        Subscription {
            notifier,
            next: AtomicPtr::new(ptr::null_mut()),
            registered: AtomicBool::new(false),
        }
    }

    /// The one that was there before.
    fn next(&self) -> Option<&'a Subscription<'a>> {
        // Relaxed: it was written before this one was registered, under the lock that led us here.
        let next = self.next.load(Ordering::Relaxed);
        // SAFETY: `register` wrote it, from such a reference.
        unsafe { next.as_ref() }
    }
}

/// Subscribers, and intervals that readers watch.
///
/// Subscribers are added in front and stay, so that those who are behind the first that a start saw are those
/// that its end tells.
pub struct Notifiers<'a, P: Platform> {
    pub(crate) allocator: &'a PageAllocator<P>,
    pub(crate) state: Mutex<P::Lock, Subscribers<'a>>,
    /// Even: no interval is being invalidated. Written under the lock.
    pub(crate) sequence: AtomicU64,
    /// Invalidations between start and end. Written under the lock.
    pub(crate) active: AtomicU64,
    /// For ends: one queue.
    pub(crate) waits: Waits<'a, P>,
}

/// What the lock protects.
pub(crate) struct Subscribers<'a> {
    first: Option<&'a Subscription<'a>>,
    pub(crate) intervals: Option<&'a Interval<'a>>,
}

/// Who has to be told of the end of what has started.
#[derive(Clone, Copy)]
struct Told<'a> {
    first: Option<&'a Subscription<'a>>,
    intervals: Option<&'a Interval<'a>>,
}

/// Ranges between start and end. Dropping it is the end.
#[must_use]
pub struct Invalidation<'n, 'a, P: Platform> {
    notifiers: &'n Notifiers<'a, P>,
    ranges: &'n [PageRange],
    told: Told<'a>,
}

impl<'a, P: Platform> Notifiers<'a, P> {
    /// Nobody is told yet.
    ///
    /// # Errors
    ///
    /// There is no memory.
    pub fn new(allocator: &'a PageAllocator<P>) -> Result<Self, AllocError> {
        Ok(Notifiers {
            allocator,
            state: Mutex::new(Subscribers {
                first: None,
                intervals: None,
            }),
            sequence: AtomicU64::new(2),
            active: AtomicU64::new(0),
            waits: Waits::new(allocator, 1)?,
        })
    }

    /// Runs `f` with the lock held.
    pub(crate) fn locked<R>(&self, f: impl FnOnce(&mut Subscribers<'a>) -> R) -> R {
        self.allocator.platform.on_this_cpu(|_| f(&mut self.state.lock()))
    }

    /// Adds a subscriber, who is told of all that starts from now on. It waits until nothing is active, so
    /// that the subscriber has missed nothing; where invalidations overlap without end, it may wait as long.
    ///
    /// # Panics
    ///
    /// It is registered already.
    pub fn register(&self, subscription: &'a Subscription<'a>) {
        let again = subscription.registered.swap(true, Ordering::Relaxed);
        assert!(!again, "a subscription has one place");
        self.locked(|state| {
            let next = state.first.map_or(ptr::null(), ptr::from_ref);
            // Relaxed: the lock.
            subscription.next.store(next.cast_mut(), Ordering::Relaxed);
            state.first = Some(subscription);
        });
        // Acquire: pairs with the Release in `finish`.
        self.waits
            .sleep_while(0, || self.active.load(Ordering::Acquire) != 0);
    }

    /// Starts the invalidation of ranges by one who may wait.
    pub fn start<'n>(&'n self, ranges: &'n [PageRange]) -> Invalidation<'n, 'a, P> {
        let started = self.try_start(ranges, true);
        started.unwrap_or_else(|WouldBlock| unreachable!("a start that may wait does not fail"))
    }

    /// Starts the invalidation of ranges.
    ///
    /// # Errors
    ///
    /// Some subscriber would have to wait, and is not `blockable`. All who were told before have been told of
    /// the end.
    pub fn try_start<'n>(
        &'n self,
        ranges: &'n [PageRange],
        blockable: bool,
    ) -> Result<Invalidation<'n, 'a, P>, WouldBlock> {
        // Intervals first: from here on their readers retry.
        let told = self.begin(ranges);
        let begun = self.invalidate_intervals(told.intervals, ranges, blockable);
        if begun.is_err() {
            self.finish();
            return Err(WouldBlock);
        }
        for (i, range) in ranges.iter().enumerate() {
            let mut next = told.first;
            while let Some(subscription) = next {
                let result = subscription.notifier.invalidate_range_start(*range, blockable);
                if result.is_err() {
                    debug_assert!(!blockable, "a subscriber that may wait fails to start");
                    if !blockable {
                        self.tell_end(told.first, Some(subscription), &ranges[i..=i]);
                        self.tell_end(told.first, None, &ranges[..i]);
                        self.finish();
                        return Err(WouldBlock);
                    }
                }
                next = subscription.next();
            }
        }
        Ok(Invalidation {
            notifiers: self,
            ranges,
            told,
        })
    }

    /// Tells subscribers from `first` on, up to `before`, of the end of `ranges`.
    fn tell_end(
        &self,
        first: Option<&'a Subscription<'a>>,
        before: Option<&'a Subscription<'a>>,
        ranges: &[PageRange],
    ) {
        if before.is_some() && planted::<P>(Fault::ForgetsToEnd) {
            return;
        }
        for range in ranges {
            let mut next = first;
            while let Some(subscription) = next {
                if before.is_some_and(|before| ptr::eq(subscription, before)) {
                    break;
                }
                subscription.notifier.invalidate_range_end(*range);
                next = subscription.next();
            }
        }
    }

    /// Counts an invalidation, and says whom it concerns.
    fn begin(&self, ranges: &[PageRange]) -> Told<'a> {
        self.locked(|state| {
            // Relaxed: the lock.
            let active = self.active.load(Ordering::Relaxed);
            self.active.store(active + 1, Ordering::Relaxed);
            let told = Told {
                first: state.first,
                intervals: state.intervals,
            };
            self.mark_intervals(told.intervals, ranges);
            told
        })
    }

    /// Counts an invalidation less. The last wakes who waits for that.
    fn finish(&self) {
        let last = self.locked(|_| {
            // Relaxed: the lock.
            let active = self.active.load(Ordering::Relaxed) - 1;
            let last = active == 0 || planted::<P>(Fault::EndsEarly);
            // Release: pairs with the Acquire in `register`.
            self.active.store(active, Ordering::Release);
            if last {
                self.unmark_intervals();
            }
            last
        });
        if last {
            self.waits.wake([0].into_iter());
        }
    }
}

impl<P: Platform> Drop for Invalidation<'_, '_, P> {
    fn drop(&mut self) {
        self.notifiers.tell_end(self.told.first, None, self.ranges);
        self.notifiers.finish();
    }
}
