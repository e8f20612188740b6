//! The atomics of the protocols: the CPU's own, or those of the model checker.
//!
//! Only what CPUs synchronise through is imported from here. Event counters, and state that a CPU keeps for
//! itself, are plain `core` atomics, so that loom does not waste its schedules on them.

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicU32, AtomicUsize, fence};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicUsize, fence};

pub(crate) use core::sync::atomic::Ordering;

/// Declares a constructor that is `const`, except under loom, whose atomics have no `const` constructor.
macro_rules! const_unless_loom {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),*) -> $ret:ty $body:block) => {
        #[cfg(not(loom))]
        $(#[$meta])*
        $vis const fn $name($($arg: $type),*) -> $ret $body
        #[cfg(loom)]
        $(#[$meta])*
        $vis fn $name($($arg: $type),*) -> $ret $body
    };
}

/// `RawMutex::INIT` in terms of `new()`. Under loom it exists but must not be used.
macro_rules! raw_mutex_init {
    () => {
        #[cfg(not(loom))]
        const INIT: Self = Self::new();
        #[cfg(loom)]
        const INIT: Self = panic!("loom's atomics cannot be made in a constant: use new()");
    };
}

pub(crate) use {const_unless_loom, raw_mutex_init};
