//! What every CPU has of a zone: lists of its own, from which it allocates and to which it frees without a
//! lock. Linux's `per_cpu_pages`.
//!
//! ```text
//!                       refill: a batch, under the lock
//!          ┌──────────────────────────────────────────┐
//!          ▼                                          │
//!   [ oldest … newest ] ◄── free                    buddy
//!        │          └─────► alloc                     ▲
//!        └────────────────────────────────────────────┘
//!           drain: a batch of the oldest, when the list is full
//! ```
//!
//! The lists are strictly their CPU's: nobody else ever looks at them. Who needs what another CPU has there
//! [asks](PerCpu::request_drain) it to drain, and the CPU does so when it next frees, or has nothing to
//! allocate on its list, or when its platform lets it, which it should do before a long sleep. Allocation and
//! freeing so need neither locked instructions nor a fence.

use core::fmt;

use crate::fault::{Fault, planted};
use crate::lists::Lists;
use crate::platform::Platform;
use crate::stat::Events;
use crate::sync::{AtomicBool, Ordering, UnsafeCell};

/// What a CPU has of a zone.
///
/// ```text
///   line 0     drain           written by anybody, seldom
///   line 1..   lists, events   written by this CPU
/// ```
#[repr(C, align(64))]
pub(crate) struct PerCpu {
    drain: AtomicBool,
    own: Own,
}

#[repr(C, align(64))]
struct Own {
    lists: UnsafeCell<Lists>,
    events: Events,
}

// SAFETY: `lists`, all else being `Sync`, is reached through `PerCpu::lists` alone, whose callers are on the CPU
// that it belongs to, one at a time.
unsafe impl Sync for PerCpu {}

impl PerCpu {
    pub(crate) fn new() -> PerCpu {
        PerCpu {
            drain: AtomicBool::new(false),
            own: Own {
                lists: UnsafeCell::new(Lists::new()),
                events: Events::new(),
            },
        }
    }

    /// Runs `f` on the lists.
    ///
    /// # Safety
    ///
    /// Only inside of [`Platform::on_this_cpu`], for the CPU it names; and `f` does not call this again.
    #[inline(always)]
    pub(crate) unsafe fn lists<R>(&self, f: impl FnOnce(&mut Lists) -> R) -> R {
        self.own.lists.with_mut(|lists| {
            // SAFETY: the platform promises that nothing else runs on this CPU meanwhile and that what ran
            // before happened before; nobody else uses the lists, and `f` gets them once at a time.
            f(unsafe { &mut *lists })
        })
    }

    /// What has happened here. Counted by the CPU itself alone.
    #[inline]
    pub(crate) fn events(&self) -> &Events {
        &self.own.events
    }

    /// Asks the CPU to drain.
    pub(crate) fn request_drain(&self) {
        // Release: pairs with the Acquire in `answer_drain`, so that the CPU sees why it was asked.
        self.drain.store(true, Ordering::Release);
    }

    /// Whether the CPU has been asked and is not done yet.
    #[inline]
    pub(crate) fn drain_requested(&self) -> bool {
        // Relaxed: the CPU itself looks again with `answer_drain`.
        self.drain.load(Ordering::Relaxed)
    }

    /// Whether the CPU has nothing left on its lists of what was there when it was last asked.
    pub(crate) fn drained(&self) -> bool {
        // Acquire: pairs with the Release in `answer_drain`; the blocks are with the buddy.
        !self.drain.load(Ordering::Acquire)
    }

    /// On the CPU itself: drains by calling `drain`, which leaves the lists empty, if that was asked for.
    pub(crate) fn answer_drain<P: Platform>(&self, drain: impl FnOnce()) {
        // Acquire: pairs with the Release in `request_drain`.
        if !self.drain.load(Ordering::Acquire) {
            return;
        }
        if planted::<P>(Fault::SaysDrainedEarly) {
            self.drain.store(false, Ordering::Release);
        }
        drain();
        // Release: pairs with the Acquire in `drained`. Only now: a request that came while we drained finds
        // the lists as empty as it wants them.
        self.drain.store(false, Ordering::Release);
    }
}

impl fmt::Debug for PerCpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerCpu")
            .field("drain", &self.drain)
            .finish_non_exhaustive()
    }
}
