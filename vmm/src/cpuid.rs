//! The CPUID that KVM offers to guests.
//!
//! KVM asks the processor a hundred times to answer, and on a host that is a guest itself each of these is
//! an exit: a third of a millisecond, the largest single cost of a launch. So it is asked once in the life
//! of the process, and, where it is known early that there will be a launch, on another thread meanwhile.

use std::sync::OnceLock;
use std::thread;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};

use crate::error::Error;
use crate::host;

static OFFERED: OnceLock<Result<CpuId, String>> = OnceLock::new();

/// What KVM offers; waits for the answer.
pub(crate) fn offered() -> Result<CpuId, Error> {
    OFFERED.get_or_init(ask).clone().map_err(Error::Host)
}

/// Asks, and does not wait.
pub(crate) fn ask_ahead() {
    if OFFERED.get().is_none() {
        // Without a thread to spare, who wants to know asks.
        let _ = thread::Builder::new()
            .name("cpuid".into())
            .spawn(|| OFFERED.get_or_init(ask));
    }
}

fn ask() -> Result<CpuId, String> {
    let kvm = host::open_kvm().map_err(|error| error.to_string())?;
    kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(|error| format!("KVM cannot tell the CPUID that it offers: {error}; see `vmm doctor`"))
}
