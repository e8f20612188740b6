//! Getting a vCPU thread out of `KVM_RUN`.
//!
//! A signal alone is not enough: one that arrives after the thread's last look at the stop flag and before
//! `KVM_RUN` would be gone by the time the vCPU runs. So the handler, on the vCPU's own thread, sets the
//! `immediate_exit` byte of its `kvm_run`, and `KVM_RUN` returns at once however late it was entered.

use std::cell::Cell;
use std::io;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{Ordering, compiler_fence};

use kvm_ioctls::VcpuFd;
use libc::{c_int, c_void, siginfo_t};
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler, unblock_signal};

thread_local! {
    /// `immediate_exit` of the vCPU that this thread runs; null on other threads. Without a destructor and
    /// initialised at compile time, so that the handler may use it at any moment of the thread's life.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

/// The signal that gets a thread out of `KVM_RUN`.
pub(crate) fn number() -> c_int {
    SIGRTMIN()
}

/// Makes sure that the calling thread gets the signal, whatever the embedding program has blocked.
pub(crate) fn unblock() {
    // Fails only for a signal that does not exist.
    let _ = unblock_signal(number());
}

/// Installs the handler, for the whole process, once.
pub(crate) fn install_handler() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    INSTALLED
        .get_or_init(|| register_signal_handler(number(), handle).map_err(|error| error.errno()))
        .map_err(io::Error::from_raw_os_error)
}

extern "C" fn handle(_: c_int, _: *mut siginfo_t, _: *mut c_void) {
    let immediate_exit = IMMEDIATE_EXIT.get();
    if !immediate_exit.is_null() {
        // SAFETY: non-null only inside `Registration`'s life, while the vCPU's `kvm_run` is mapped; and this
        // runs on the thread that owns it. Volatile: the kernel reads it.
        unsafe { immediate_exit.write_volatile(1) };
    }
}

/// For as long as it lives, the signal makes this thread's `KVM_RUN` return `EINTR`.
pub(crate) struct Registration(());

impl Registration {
    /// Registers the calling thread as the one that runs `vcpu`.
    pub(crate) fn new(vcpu: &mut VcpuFd) -> Self {
        IMMEDIATE_EXIT.set(&raw mut vcpu.get_kvm_run().immediate_exit);
        // The caller looks at its stop flag next; a signal from here on must find the pointer. Handler and
        // caller are the same thread, so only the compiler could reorder.
        compiler_fence(Ordering::SeqCst);
        Self(())
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(ptr::null_mut());
        compiler_fence(Ordering::SeqCst);
    }
}
