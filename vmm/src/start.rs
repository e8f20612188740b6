//! What a vCPU is given before it runs: CPUID, the way its halts end, and the state that [`abi::boot`]
//! promises.
//!
//! Each vCPU is given it on its own thread, so that the first one runs while the others are still being
//! made ready.

use kvm_bindings::{CpuId, kvm_regs};
use kvm_ioctls::VcpuFd;

use crate::error::Error;
use crate::layout::{BOOT_INFO, Layout};
use crate::registers;
use crate::steal;
use crate::transport::Transport;

/// What is the same for all vCPUs of a VM.
#[derive(Clone, Debug)]
pub(crate) struct Start {
    /// How the guest has to kick: one of [`abi::kick`]'s values.
    pub(crate) kick: u32,
    /// Whether KVM tells guests of stolen time.
    pub(crate) steal_time: bool,
    pub(crate) cpuid: CpuId,
    pub(crate) transport: Transport,
    pub(crate) cr3: u64,
    /// The kernel's entry point.
    pub(crate) entry: u64,
}

impl Start {
    /// Makes `vcpu` a vCPU in 64-bit mode, with `index` as its APIC id. Once in its life, before it runs at
    /// all.
    pub(crate) fn make_ready(&self, vcpu: &VcpuFd, index: u32, layout: &Layout) -> Result<(), Error> {
        registers::set_cpuid(vcpu, &self.cpuid, index)?;
        self.transport.set_up_vcpu(vcpu)?;
        if self.steal_time {
            steal::enable(vcpu, layout.vcpu_page(index))?;
        }
        registers::set_special(vcpu, self.cr3)
    }

    /// Puts `vcpu` at the kernel's entry point.
    pub(crate) fn put_at_entry(&self, vcpu: &VcpuFd, index: u32, layout: &Layout) -> Result<(), Error> {
        let registers = kvm_regs {
            rip: self.entry,
            rdi: BOOT_INFO,
            rsi: index.into(),
            rdx: layout.cpu_area(index).base,
            ..Default::default()
        };
        registers::set_general(vcpu, registers)
    }
}
