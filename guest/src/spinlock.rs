//! The kernel's own lock: `pvlock`'s best, and the vCPU knows how many it has. Who has one must not wait
//! halted, and so must not touch window memory.

use core::sync::atomic::Ordering::SeqCst;
use core::sync::atomic::compiler_fence;

use lock_api::{GuardNoSend, RawMutex};
use pvlock::PvQSpinlock;

use crate::cpu::Cpu;
use crate::pv::Pv;

/// A paravirtual queued spin lock that is counted while it is held.
pub(crate) struct SpinLock(PvQSpinlock<Pv>);

/// What it protects.
pub(crate) type Mutex<T> = lock_api::Mutex<SpinLock, T>;

/// Adds to the vCPU's number of locks. Two steps, between which a handler may come: it gives back what it
/// takes.
#[inline]
fn count(change: i32) {
    let held = &Cpu::current().spin_locks;
    // The fences are for the compiler: stubs read it, at any access to window memory.
    compiler_fence(SeqCst);
    held.set(held.get().wrapping_add_signed(change));
    compiler_fence(SeqCst);
}

// SAFETY: a `PvQSpinlock`, which is one.
unsafe impl RawMutex for SpinLock {
    const INIT: Self = Self(PvQSpinlock::INIT);
    type Guard = GuardNoSend;

    #[inline]
    fn lock(&self) -> GuardNoSend {
        let guard = self.0.lock();
        count(1);
        guard
    }

    #[inline]
    fn try_lock(&self) -> Option<GuardNoSend> {
        let guard = self.0.try_lock()?;
        count(1);
        Some(guard)
    }

    #[inline]
    unsafe fn unlock(&self, guard: GuardNoSend) {
        // SAFETY: the caller's promise is the same.
        unsafe { self.0.unlock(guard) };
        count(-1);
    }

    fn is_locked(&self) -> bool {
        self.0.is_locked()
    }
}
