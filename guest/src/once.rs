//! A value that is set once while the guest boots and read by every vCPU from then on.

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, Ordering};

/// The value, once it is there.
pub(crate) struct Once<T> {
    set: AtomicBool,
    value: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY: the value is written before `set` becomes true, by the one caller of `set`, and only shared after
// that.
unsafe impl<T: Send + Sync> Sync for Once<T> {}

impl<T> Once<T> {
    pub(crate) const fn new() -> Self {
        Self {
            set: AtomicBool::new(false),
            value: UnsafeCell::new(MaybeUninit::uninit()),
        }
    }

    /// Sets the value; only vCPU 0 may, and only once.
    pub(crate) fn set(&self, value: T) {
        assert!(
            crate::cpu::Cpu::current().is_first() && !self.set.load(Ordering::Relaxed),
            "set twice"
        );
        // SAFETY: `set` is false, so there are no readers, and there is one writer: this vCPU.
        unsafe { (*self.value.get()).write(value) };
        // Release: pairs with the load in `get`, so that who sees the flag sees the value.
        self.set.store(true, Ordering::Release);
    }

    /// The value, which must have been set.
    #[inline]
    pub(crate) fn get(&self) -> &T {
        self.get_if_set().expect("vCPU 0 sets it first")
    }

    /// The value, if it has been set.
    #[inline]
    pub(crate) fn get_if_set(&self) -> Option<&T> {
        // Acquire: pairs with the store in `set`.
        let set = self.set.load(Ordering::Acquire);
        // SAFETY: the flag says that it was written, and nobody writes it again.
        set.then(|| unsafe { &*self.value.get().cast::<T>() })
    }
}
