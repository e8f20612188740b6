//! The state a vCPU starts in, as [`abi::boot`] promises it.

use std::arch::x86_64::_rdtsc;

use kvm_bindings::{CpuId, Msrs, kvm_msr_entry, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;

use crate::error::Error;
use crate::timers::GuestTsc;

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

/// Puts `vcpu` into 64-bit mode, ring 0, with the page tables at `cr3`.
pub(crate) fn set_special(vcpu: &VcpuFd, cr3: u64) -> Result<(), Error> {
    let mut special = vcpu.get_sregs().map_err(refused)?;
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
    vcpu.set_sregs(&special).map_err(refused)
}

/// Gives `vcpu` these registers, `rip` among them, interrupts off.
pub(crate) fn set_general(vcpu: &VcpuFd, registers: kvm_regs) -> Result<(), Error> {
    // Bit 1 of RFLAGS is always one.
    vcpu.set_regs(&kvm_regs {
        rflags: 2,
        ..registers
    })
    .map_err(refused)
}

fn refused(error: kvm_ioctls::Error) -> Error {
    Error::Host(format!("KVM refuses the vCPU's first registers: {error}"))
}

/// Gives `vcpu` the CPUID that KVM offers, with `index` as its APIC id.
pub(crate) fn set_cpuid(vcpu: &VcpuFd, offered: &CpuId, index: u32) -> Result<(), Error> {
    vcpu.set_cpuid2(&cpuid_of(offered, index))
        .map_err(|error| Error::Host(format!("KVM refuses the vCPU's CPUID: {error}")))
}

/// `offered`, which holds the APIC ids of whatever host CPU KVM was asked on, with `index` in their place.
fn cpuid_of(offered: &CpuId, index: u32) -> CpuId {
    let mut cpuid = offered.clone();
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            // The initial APIC id, eight bits of it, in EBX 31–24. And no VMX (ECX 5): guests need no
            // guests of their own, and nesting is much code of the host's.
            1 => {
                entry.ebx = entry.ebx & 0x00ff_ffff | index << 24;
                entry.ecx &= !(1 << 5);
            }
            // Nor SVM (ECX 2).
            0x8000_0001 => entry.ecx &= !(1 << 2),
            // All of it, in the topology leaves.
            0xb | 0x1f => entry.edx = index,
            // And in AMD's: the extended APIC id; one thread to a core, in EBX 7–0; one node.
            0x8000_001e => (entry.eax, entry.ebx, entry.ecx) = (index, index & 0xff, 0),
            _ => {}
        }
    }
    cpuid
}

/// How the TSC of the guest that `vcpu` is of relates to the host's. KVM gives all vCPUs of a guest the same
/// offset, if they are created one after the other.
pub(crate) fn guest_tsc(vcpu: &VcpuFd, khz: u64) -> Result<GuestTsc, Error> {
    const IA32_TIME_STAMP_COUNTER: u32 = 0x10;
    /// The host's is read after the guest's, so the offset comes out too small by the time in between, and
    /// timers late by as much, never early. The larger of two tries has the lesser error.
    const TRIES: u32 = 2;
    let fail = |why: String| Error::Host(format!("KVM does not tell the guest's TSC: {why}"));
    let mut largest = None;
    for _ in 0..TRIES {
        let wanted = kvm_msr_entry {
            index: IA32_TIME_STAMP_COUNTER,
            ..Default::default()
        };
        let mut msrs = Msrs::from_entries(&[wanted]).map_err(|error| fail(format!("{error:?}")))?;
        if vcpu
            .get_msrs(&mut msrs)
            .map_err(|error| fail(error.to_string()))?
            != 1
        {
            return Err(fail("it has no such register".into()));
        }
        // SAFETY: every x86-64 CPU has it.
        let host = unsafe { _rdtsc() };
        // Signed: the guest's usually began later, and is behind.
        largest = largest.max(Some(msrs.as_slice()[0].data.wrapping_sub(host) as i64));
    }
    Ok(GuestTsc {
        offset: largest.unwrap_or_default() as u64,
        khz,
    })
}

#[cfg(test)]
mod tests {
    use kvm_bindings::kvm_cpuid_entry2;

    use super::*;

    #[test]
    fn guests_have_apic_ids_of_their_own_and_no_guests() {
        let leaf = |function| kvm_cpuid_entry2 {
            function,
            eax: u32::MAX,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
            ..Default::default()
        };
        let leaves = [1, 0xb, 0x1f, 0x8000_001e, 0x8000_0001, 7].map(leaf);
        let offered = CpuId::from_entries(&leaves).unwrap();
        let cpuid = cpuid_of(&offered, 5);
        let [initial, extended, v2, amd, features, other] = cpuid.as_slice() else {
            panic!("as many leaves as before");
        };
        assert_eq!((initial.ebx, initial.ecx), (0x05ff_ffff, !(1 << 5)));
        assert_eq!(features.ecx, !(1 << 2));
        assert_eq!((extended.edx, v2.edx), (5, 5));
        assert_eq!((amd.eax, amd.ebx, amd.ecx), (5, 5, 0));
        assert_eq!(other, &leaf(7));
    }
}
