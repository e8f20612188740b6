//! Getting a vCPU thread out of `KVM_RUN`.
//!
//! A signal alone is not enough: one that arrives after the thread's last look at what it was asked to do
//! and before `KVM_RUN` would be gone by the time the vCPU runs. So the handler, on the vCPU's own thread,
//! sets the `immediate_exit` byte of its `kvm_run`, and `KVM_RUN` returns at once however late it was
//! entered.
//!
//! The order that makes it work: who asks stores the request, then sends the signal; the vCPU's thread
//! clears `immediate_exit`, *then* looks for requests, then enters. A signal that comes before the clearing
//! is forgotten, but its request is seen; one that comes later sets the byte again.

use std::cell::Cell;
use std::io;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{Ordering, compiler_fence};

use kvm_ioctls::VcpuFd;
use libc::{c_int, c_void, pid_t, siginfo_t};
use vmm_sys_util::signal::{register_signal_handler, unblock_signal};

use crate::config::PlantedFault;

thread_local! {
    /// `immediate_exit` of the vCPU that this thread runs; null on other threads. Without a destructor and
    /// initialised at compile time, so that the handler may use it at any moment of the thread's life.
    static IMMEDIATE_EXIT: Cell<*mut u8> = const { Cell::new(ptr::null_mut()) };
}

/// The signal that gets a thread out of `KVM_RUN`. Not a real-time one: those are queued, and refused where
/// the user's queue is full. This one is pending or not, and cannot fail to be.
pub(crate) fn number() -> c_int {
    libc::SIGUSR1
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

/// The calling thread, for [`send`].
pub(crate) fn this_thread() -> pid_t {
    // SAFETY: has no preconditions.
    unsafe { libc::gettid() }
}

/// Sends the signal to a thread of this process.
pub(crate) fn send(thread: pid_t) {
    // Fails if the thread is gone; should its number belong to another one by now, which is one of this
    // process, that one takes the signal for an interruption without a reason.
    let process = std::process::id();
    // SAFETY: has no preconditions, and the handler is installed before there are vCPU threads.
    unsafe { libc::syscall(libc::SYS_tgkill, process, thread, number()) };
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
pub(crate) struct Registration {
    thread: pid_t,
}

impl Registration {
    /// Registers the calling thread as the one that runs `vcpu`, and is about to keep it for longer than
    /// this lives. With the planted fault, the handler is not told.
    pub(crate) fn new(vcpu: &mut VcpuFd, planted: Option<PlantedFault>) -> Self {
        let immediate_exit = &raw mut vcpu.get_kvm_run().immediate_exit;
        if planted != Some(PlantedFault::SignalWithoutImmediateExit) {
            IMMEDIATE_EXIT.set(immediate_exit);
        }
        // The caller looks at its stop flag next; a signal from here on must find the pointer. Handler and
        // caller are the same thread, so only the compiler could reorder.
        compiler_fence(Ordering::SeqCst);
        Self {
            thread: this_thread(),
        }
    }

    /// The registered thread, for [`send`].
    pub(crate) fn thread(&self) -> pid_t {
        self.thread
    }

    /// Lets `KVM_RUN` run again. To be called on the registered thread, before it looks at what it may have
    /// been signalled for: what a signal before this call was about is seen then, one after it is not undone.
    pub(crate) fn rearm(&self, vcpu: &mut VcpuFd) {
        // SAFETY: a field of this thread's mapped `kvm_run`. Volatile, like the handler's store to it.
        unsafe { (&raw mut vcpu.get_kvm_run().immediate_exit).write_volatile(0) };
        compiler_fence(Ordering::SeqCst);
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        IMMEDIATE_EXIT.set(ptr::null_mut());
        compiler_fence(Ordering::SeqCst);
    }
}
