//! The state a vCPU starts in, as [`abi::boot`] promises it.

use kvm_bindings::{CpuId, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;

use crate::error::Error;

/// Control register and EFER bits (Intel SDM volume 3, chapter 2.5).
mod bit {
    pub(super) const CR0_PE: u64 = 1 << 0;
    pub(super) const CR0_MP: u64 = 1 << 1;
    pub(super) const CR0_ET: u64 = 1 << 4;
    pub(super) const CR0_NE: u64 = 1 << 5;
    pub(super) const CR0_WP: u64 = 1 << 16;
    pub(super) const CR0_PG: u64 = 1 << 31;
    pub(super) const CR4_PAE: u64 = 1 << 5;
    pub(super) const CR4_OSFXSR: u64 = 1 << 9;
    pub(super) const CR4_OSXMMEXCPT: u64 = 1 << 10;
    pub(super) const EFER_LME: u64 = 1 << 8;
    pub(super) const EFER_LMA: u64 = 1 << 10;
    pub(super) const EFER_NXE: u64 = 1 << 11;
}

/// Puts `vcpu` into 64-bit mode, ring 0, at `rip` with the page tables at `cr3`, interrupts off.
pub(crate) fn set(vcpu: &VcpuFd, cr3: u64, registers: kvm_regs) -> Result<(), Error> {
    let fail = |error| Error::Host(format!("KVM refuses the vCPU's first registers: {error}"));
    let mut special = vcpu.get_sregs().map_err(fail)?;
    let code = kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector: 0x10,
        type_: 0xb, // execute, read, accessed
        present: 1,
        s: 1,
        l: 1,
        g: 1,
        ..Default::default()
    };
    let data = kvm_segment {
        selector: 0x18,
        type_: 0x3,
        l: 0,
        db: 1,
        ..code
    };
    special.cs = code;
    for segment in [
        &mut special.ds,
        &mut special.es,
        &mut special.fs,
        &mut special.gs,
        &mut special.ss,
    ] {
        *segment = data;
    }
    special.cr0 = bit::CR0_PE | bit::CR0_MP | bit::CR0_ET | bit::CR0_NE | bit::CR0_WP | bit::CR0_PG;
    special.cr3 = cr3;
    special.cr4 = bit::CR4_PAE | bit::CR4_OSFXSR | bit::CR4_OSXMMEXCPT;
    special.efer = bit::EFER_LME | bit::EFER_LMA | bit::EFER_NXE;
    vcpu.set_sregs(&special).map_err(fail)?;
    // Bit 1 of RFLAGS is always one.
    vcpu.set_regs(&kvm_regs {
        rflags: 2,
        ..registers
    })
    .map_err(fail)
}

/// Gives `vcpu` the CPUID that KVM offers, with `index` as its APIC id.
pub(crate) fn set_cpuid(vcpu: &VcpuFd, offered: &CpuId, index: u32) -> Result<(), Error> {
    let mut cpuid = offered.clone();
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            // The initial APIC id, eight bits of it, in EBX 31–24.
            1 => entry.ebx = entry.ebx & 0x00ff_ffff | index << 24,
            // All of it, in the topology leaves.
            0xb | 0x1f => entry.edx = index,
            _ => {}
        }
    }
    vcpu.set_cpuid2(&cpuid)
        .map_err(|error| Error::Host(format!("KVM refuses the vCPU's CPUID: {error}")))
}
