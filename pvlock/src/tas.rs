//! Test-and-set: the simplest lock, unfair, and not bad on virtual CPUs because nobody waits for a particular
//! one.

use core::fmt;
use core::marker::PhantomData;

use lock_api::{GuardNoSend, RawMutex};

use crate::platform::Platform;
use crate::sync::{AtomicU32, Ordering, const_unless_loom, raw_mutex_init};
use crate::usage::SlowPath;

/// A test-and-test-and-set lock.
pub struct Tas<P> {
    /// 0 free, 1 held.
    word: AtomicU32,
    platform: PhantomData<fn() -> P>,
}

impl<P: Platform> Tas<P> {
    const_unless_loom! {
        /// A free lock.
        pub fn new() -> Self {
            Tas { word: AtomicU32::new(0), platform: PhantomData }
        }
    }

    #[inline]
    fn take(&self) -> bool {
        // Acquire: pairs with the Release in `unlock`. A failure is only another look.
        self.word
            .compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    #[cold]
    #[inline(never)]
    fn lock_slow(&self) {
        let _books = SlowPath::<P>::enter();
        // Looking first lets all waiters share the cache line until the lock is free. Relaxed: `take`
        // decides.
        while self.word.load(Ordering::Relaxed) != 0 || !self.take() {
            P::relax();
        }
    }
}

impl<P: Platform> Default for Tas<P> {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: `lock` and a successful `try_lock` change the word from 0 to 1 in one atomic step, and only
// `unlock`, called by whom that made the holder, changes it back. So there is one holder at a time; the
// Acquire and the Release order one's critical section before the next one's. The guard is !Send and has no
// state; a forgotten one leaves the lock held.
unsafe impl<P: Platform> RawMutex for Tas<P> {
    raw_mutex_init!();
    type Guard = GuardNoSend;

    #[inline]
    fn lock(&self) -> GuardNoSend {
        if !self.take() {
            self.lock_slow();
        }
        GuardNoSend::new()
    }

    #[inline]
    fn try_lock(&self) -> Option<GuardNoSend> {
        self.take().then_some(GuardNoSend::new())
    }

    #[inline]
    unsafe fn unlock(&self, _guard: GuardNoSend) {
        // Release: pairs with the Acquire in `take`.
        self.word.store(0, Ordering::Release);
    }

    #[inline]
    fn is_locked(&self) -> bool {
        self.word.load(Ordering::Relaxed) != 0
    }
}

impl<P> fmt::Debug for Tas<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tas({:#x})", self.word.load(Ordering::Relaxed))
    }
}
