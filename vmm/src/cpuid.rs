//! The CPUID that KVM offers to guests.
//!
//! KVM asks the processor a hundred times to answer, and on a host that is a guest itself each of these is
//! an exit: a third of a millisecond, the largest single cost of a launch. So it is asked once in the life
//! of the process, and, where it is known early that there will be a launch, on another thread meanwhile.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{mem, ptr, thread};

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};

use crate::error::Error;
use crate::host;

/// The leaf of paravirtual features, which are bits of its EAX (Linux, Documentation/virt/kvm/x86/cpuid.rst).
pub(crate) const FEATURES: u32 = 0x4000_0001;

/// The answer. Whoever asks holds the lock meanwhile.
static OFFERED: Mutex<Option<CpuId>> = Mutex::new(None);

/// What KVM offers; waits for the answer.
pub(crate) fn offered() -> Result<CpuId, Error> {
    let mut offered = lock();
    match &*offered {
        Some(known) => Ok(known.clone()),
        None => Ok(offered.insert(ask()?).clone()),
    }
}

/// Asks, and does not wait. The thread that does has all signals blocked, so that it takes none from the
/// others; it ends by itself.
pub(crate) fn ask_ahead() {
    let known = OFFERED.try_lock().map_or(true, |offered| offered.is_some());
    if known {
        return;
    }
    // SAFETY: plain data, for which zeroes are valid.
    let mut all: libc::sigset_t = unsafe { mem::zeroed() };
    let mut before = all;
    // SAFETY: valid for a signal set.
    unsafe { libc::sigfillset(&mut all) };
    // SAFETY: both are valid signal sets. A thread starts with the mask of the one that starts it.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before) };
    // Without a thread to spare, who wants to know asks. So does it if this fails.
    let _ = thread::Builder::new()
        .name("cpuid".into())
        .spawn(|| drop(offered()));
    // SAFETY: a valid signal set, and no pointer to write to.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut()) };
}

fn lock() -> MutexGuard<'static, Option<CpuId>> {
    // Nothing is left half done where somebody panicked.
    OFFERED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ask() -> Result<CpuId, Error> {
    host::open_kvm()?
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(|error| {
            Error::Host(format!(
                "KVM cannot tell the CPUID that it offers: {error}; see `vmm doctor`"
            ))
        })
}
