//! Steal time: what KVM tells a guest of the time its vCPUs did not get.

use std::mem::offset_of;

use abi::vcpu_page::VcpuPage;
use kvm_bindings::{CpuId, Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

use crate::cpuid::FEATURES;
use crate::error::Error;

/// The bit of [`FEATURES`] that offers it.
const STEAL_TIME: u32 = 1 << 5;

/// `MSR_KVM_STEAL_TIME`: the address of the structure, 64-byte aligned, and in bit 0 whether KVM is to
/// write it.
const MSR: u32 = 0x4b56_4d03;
const ENABLE: u64 = 1;

/// Whether KVM offers it, by the CPUID it supports.
pub(crate) fn offered(cpuid: &CpuId) -> bool {
    let mut leaves = cpuid.as_slice().iter();
    leaves.any(|leaf| leaf.function == FEATURES && leaf.eax & STEAL_TIME != 0)
}

/// Has KVM tell the guest in the vCPU's `page`.
///
/// The guest could do this itself with a `wrmsr`, if it runs in ring 0; the VMM can in any case.
pub(crate) fn enable(vcpu: &VcpuFd, page: u64) -> Result<(), Error> {
    let entry = kvm_msr_entry {
        index: MSR,
        data: (page + offset_of!(VcpuPage, steal_time) as u64) | ENABLE,
        ..Default::default()
    };
    // What comes back is the number of MSRs that were set.
    let set = Msrs::from_entries(&[entry]).is_ok_and(|msrs| vcpu.set_msrs(&msrs) == Ok(1));
    set.then_some(()).ok_or_else(|| {
        Error::Host("KVM offers to tell guests of stolen time, but refuses: see the kernel's log".into())
    })
}
