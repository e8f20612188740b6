//! Ticket lock: fair, and therefore the worst case on virtual CPUs. Only one waiter may go next, running or
//! not.
//!
//! ```text
//!    31             16 15              0
//!   +-----------------+-----------------+
//!   |   next ticket   |   now serving   |     free if both are equal
//!   +-----------------+-----------------+
//! ```

use core::fmt;
use core::marker::PhantomData;

use lock_api::{GuardNoSend, RawMutex};

use crate::platform::{CpuId, Platform};
use crate::sync::{AtomicU32, Ordering, const_unless_loom, raw_mutex_init};
use crate::usage::SlowPath;

const NEXT: u32 = 1 << 16;

// Tickets repeat after 2^16, so fewer may be out at a time. A CPU has one for the same lock; or four, if each
// of its nested contexts waits for what the context below it waits for, which is a deadlock of its own.
const _: () = assert!(CpuId::LIMIT * 4 < NEXT);

/// A ticket lock.
pub struct Ticket<P> {
    word: AtomicU32,
    platform: PhantomData<fn() -> P>,
}

fn next(word: u32) -> u32 {
    word >> 16
}

fn serving(word: u32) -> u32 {
    word & (NEXT - 1)
}

impl<P: Platform> Ticket<P> {
    const_unless_loom! {
        /// A free lock.
        pub fn new() -> Self {
            Ticket { word: AtomicU32::new(0), platform: PhantomData }
        }
    }

    #[cold]
    #[inline(never)]
    fn wait_for(&self, ticket: u32) {
        let _books = SlowPath::<P>::enter();
        // Acquire: pairs with the Release in the `unlock` that serves us.
        while serving(self.word.load(Ordering::Acquire)) != ticket {
            P::relax();
        }
    }
}

impl<P: Platform> Default for Ticket<P> {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: every `lock` draws a ticket of its own, and holds the lock when "now serving" has come to it; the
// holder's `unlock` is the only one that moves that on. `try_lock` draws only if it is served at once, in one
// step. So there is one holder at a time, and the Release of `unlock` orders its critical section before the
// next one's, which begins with an Acquire of the same word. The guard is !Send and has no state; a forgotten
// one leaves the lock held.
unsafe impl<P: Platform> RawMutex for Ticket<P> {
    raw_mutex_init!();
    type Guard = GuardNoSend;

    #[inline]
    fn lock(&self) -> GuardNoSend {
        // Acquire: if we are served at once, pairs with the last `unlock`; drawing tickets in between does
        // not end its release sequence. The carry out of the upper half is lost, as it should be.
        let word = self.word.fetch_add(NEXT, Ordering::Acquire);
        if next(word) != serving(word) {
            self.wait_for(next(word));
        }
        GuardNoSend::new()
    }

    #[inline]
    fn try_lock(&self) -> Option<GuardNoSend> {
        let seen = self.word.load(Ordering::Relaxed);
        // Acquire as in `lock`. The comparison covers both halves, so the lock is free when it succeeds.
        (next(seen) == serving(seen)
            && self
                .word
                .compare_exchange(
                    seen,
                    seen.wrapping_add(NEXT),
                    Ordering::Acquire,
                    Ordering::Relaxed,
                )
                .is_ok())
        .then_some(GuardNoSend::new())
    }

    #[inline]
    unsafe fn unlock(&self, _guard: GuardNoSend) {
        // Relaxed: nobody but the holder changes this half.
        let serving = serving(self.word.load(Ordering::Relaxed));
        // Adds one to the lower half, and nothing to the upper half when the lower one wraps.
        let step = if serving == NEXT - 1 {
            0u32.wrapping_sub(serving)
        } else {
            1
        };
        // Release: pairs with the Acquires above.
        self.word.fetch_add(step, Ordering::Release);
    }

    #[inline]
    fn is_locked(&self) -> bool {
        let word = self.word.load(Ordering::Relaxed);
        next(word) != serving(word)
    }
}

impl<P> fmt::Debug for Ticket<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.word.load(Ordering::Relaxed);
        write!(f, "Ticket(serving {}, next {})", serving(word), next(word))
    }
}
