//! A lock that does not work: the negative control of everything that claims to check exclusion.

use core::fmt;
use core::marker::PhantomData;

use lock_api::{GuardNoSend, RawMutex};

use crate::platform::Platform;
use crate::sync::{AtomicU32, Ordering, const_unless_loom, raw_mutex_init};
use crate::usage::SlowPath;

/// **Broken on purpose.** Test and set are two steps, so two CPUs can both find it free and both take it.
///
/// Use it only around data for which that is not undefined behaviour, to see that a check notices. Nothing
/// enforces that: with the feature `busted`, safe code can reach undefined behaviour through
/// [`lock_api::Mutex`], whose lock is made by a safe constant ([`RawMutex::INIT`]). So only what has a use
/// for it enables the feature.
pub struct Busted<P> {
    /// 0 free, 1 held.
    word: AtomicU32,
    platform: PhantomData<fn() -> P>,
}

impl<P: Platform> Busted<P> {
    const_unless_loom! {
        /// A free lock.
        pub fn new() -> Self {
            Busted { word: AtomicU32::new(0), platform: PhantomData }
        }
    }

    fn take(&self) -> bool {
        // The orderings are those of a correct lock; only the atomicity is missing.
        if self.word.load(Ordering::Acquire) != 0 {
            return false;
        }
        // Wide enough a gap that a check need not be lucky.
        P::relax();
        self.word.store(1, Ordering::Relaxed);
        true
    }
}

impl<P: Platform> Default for Busted<P> {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: none, this is a lie: the lock does not exclude, which is its purpose. The name and the
// documentation tell its users.
unsafe impl<P: Platform> RawMutex for Busted<P> {
    raw_mutex_init!();
    type Guard = GuardNoSend;

    fn lock(&self) -> GuardNoSend {
        if !self.take() {
            let _books = SlowPath::<P>::enter();
            while !self.take() {
                P::relax();
            }
        }
        GuardNoSend::new()
    }

    fn try_lock(&self) -> Option<GuardNoSend> {
        self.take().then_some(GuardNoSend::new())
    }

    unsafe fn unlock(&self, _guard: GuardNoSend) {
        self.word.store(0, Ordering::Release);
    }

    fn is_locked(&self) -> bool {
        self.word.load(Ordering::Relaxed) != 0
    }
}

impl<P> fmt::Debug for Busted<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Busted({:#x})", self.word.load(Ordering::Relaxed))
    }
}
