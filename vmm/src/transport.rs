//! How a kick reaches a halted vCPU: through the VMM, past it, or inside KVM.
//!
//! | | a kick | a HLT | the latch |
//! |---|---|---|---|
//! | [`Kick::Pio`] | exits to the VMM, which adds to the eventfd | exits to the VMM, which waits for the eventfd | the eventfd |
//! | [`Kick::IoEventFd`] | the same instruction; KVM adds to the eventfd | the same | the eventfd |
//! | [`Kick::Kvm`] | KVM's hypercall, `KVM_HC_KICK_CPU` | stays in KVM | KVM's own, `pv_unhalted` |
//!
//! All three keep the same promise: a kick before a HLT ends it at once. With the first two it is `latch`'s
//! to keep; KVM keeps it by testing and clearing its flag where it puts a halted vCPU to sleep, whether or
//! not interrupts are on.

use std::sync::Arc;
use std::time::Duration;

use abi::interrupt::NMI;
use abi::{kick, port};
use kvm_bindings::{
    CpuId, KVM_CAP_ENFORCE_PV_FEATURE_CPUID, KVM_CAP_HALT_POLL, KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_X2APIC_API,
    KVM_MP_STATE_RUNNABLE, KVM_X2APIC_API_USE_32BIT_IDS, kvm_enable_cap, kvm_mp_state, kvm_msi,
};
use kvm_ioctls::{IoEventAddress, VcpuFd, VmFd};
use vmm_sys_util::errno;

use crate::config::{Config, Kick, PlantedFault};
use crate::cpuid::FEATURES;
use crate::error::Error;
use crate::latch::Latch;

/// The bit of [`FEATURES`] that promises "kicks end HLTs".
const PV_UNHALT: u32 = 1 << 7;

/// Offset of the local APIC's spurious vector register, and the bit of `IA32_APIC_BASE` for x2APIC mode
/// (Intel SDM volume 3, chapter 13).
const SPURIOUS_VECTOR: usize = 0xf0;
const X2APIC: u64 = 1 << 10;

/// Vendors, by the EBX of CPUID leaf 0, whose processors call their hypervisor with `vmmcall`: AMD, Hygon.
const VMMCALL_VENDORS: [u32; 2] = [u32::from_le_bytes(*b"Auth"), u32::from_le_bytes(*b"Hygo")];

/// What a VM must be told of the way kicks travel in it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Transport {
    kick: Kick,
    halt_poll: Duration,
    /// A planted fault: KVM ignores the guest's kicks.
    deaf: bool,
}

impl Transport {
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            kick: config.kick,
            halt_poll: config.halt_poll,
            deaf: config.planted_fault == Some(PlantedFault::ForgetLatchedKicks),
        }
    }

    /// How vCPUs are kicked.
    pub(crate) fn kick(&self) -> Kick {
        self.kick
    }

    /// Where HLTs are KVM's: gives `vm` local APICs, which is what makes them so, and says how long they may
    /// poll. To be called before there are vCPUs.
    pub(crate) fn set_up_vm(&self, vm: &VmFd) -> Result<(), Error> {
        if self.kick != Kick::Kvm {
            return Ok(());
        }
        // "Split": no other interrupt controllers, for which this machine has no use. No IOAPIC pins either.
        enable(KVM_CAP_SPLIT_IRQCHIP, 0, |cap| vm.enable_cap(cap))?;
        let ids = KVM_X2APIC_API_USE_32BIT_IDS;
        enable(KVM_CAP_X2APIC_API, ids, |cap| vm.enable_cap(cap))?;
        let nanos = u32::try_from(self.halt_poll.as_nanos()).unwrap_or(u32::MAX);
        enable(KVM_CAP_HALT_POLL, nanos, |cap| vm.enable_cap(cap))
    }

    /// Makes `vcpu` one that runs when it is told to.
    pub(crate) fn set_up_vcpu(&self, vcpu: &VcpuFd) -> Result<(), Error> {
        if self.kick != Kick::Kvm {
            return Ok(());
        }
        // With a local APIC all vCPUs but the first would wait for a start-up interrupt.
        let state = kvm_mp_state {
            mp_state: KVM_MP_STATE_RUNNABLE,
        };
        vcpu.set_mp_state(state).map_err(refused)?;
        // Enabled (bit 8 of the spurious vector register), and in x2APIC mode, so that the guest finds it
        // ready. KVM looks up targets in a table of APIC ids, which it makes while a vCPU is created, so
        // without that vCPU; this has it made anew.
        let mut apic = vcpu.get_lapic().map_err(refused)?;
        apic.regs[SPURIOUS_VECTOR..][..2].copy_from_slice(&[-1, 1]);
        vcpu.set_lapic(&apic).map_err(refused)?;
        let mut special = vcpu.get_sregs().map_err(refused)?;
        special.apic_base |= X2APIC;
        vcpu.set_sregs(&special).map_err(refused)?;
        if self.deaf {
            enable(KVM_CAP_ENFORCE_PV_FEATURE_CPUID, 1, |cap| vcpu.enable_cap(cap))?;
        }
        Ok(())
    }

    /// Offers kicks that end HLTs in the guest's CPUID only where KVM keeps that promise; returns how the
    /// guest has to kick, as [`abi::kick`] numbers it.
    pub(crate) fn set_up_cpuid(&self, cpuid: &mut CpuId) -> Result<u32, Error> {
        let mut way = kick::VMCALL;
        let mut offered = false;
        for entry in cpuid.as_mut_slice() {
            match entry.function {
                0 if VMMCALL_VENDORS.contains(&entry.ebx) => way = kick::VMMCALL,
                FEATURES => {
                    offered = entry.eax & PV_UNHALT != 0;
                    if self.kick != Kick::Kvm || self.deaf {
                        entry.eax &= !PV_UNHALT;
                    }
                }
                _ => {}
            }
        }
        match (self.kick, offered) {
            (Kick::Kvm, true) => Ok(way),
            (Kick::Kvm, false) => Err(Error::Host(
                "this host's KVM does not offer halts that kicks end (PV_UNHALT): give --kick pio or ioeventfd".into(),
            )),
            _ => Ok(kick::PORT),
        }
    }

    /// How vCPUs are interrupted, if not on their way into the guest.
    pub(crate) fn apics(&self, vm: &Arc<VmFd>) -> Option<Apics> {
        (self.kick == Kick::Kvm).then(|| Apics(vm.clone()))
    }

    /// Where KVM is to add to the eventfds: tells it which to add to for which value that is written. A value
    /// that has none still exits to the VMM.
    pub(crate) fn bind(&self, vm: &VmFd, latches: &[Latch]) -> Result<(), Error> {
        if self.kick != Kick::IoEventFd {
            return Ok(());
        }
        for (index, latch) in (0u32..).zip(latches) {
            vm.register_ioevent(latch.eventfd(), &IoEventAddress::Pio(port::KICK_CPU.into()), index)
                .map_err(|error| {
                    let vcpus = latches.len();
                    Error::Host(format!(
                        "KVM binds the kicks of {index} vCPUs to eventfds, but not those of {vcpus} ({error}): give \
                         fewer vCPUs, or --kick pio"
                    ))
                })?;
        }
        Ok(())
    }
}

/// The local APICs of a VM whose halts KVM handles: the only way to interrupt those.
pub(crate) struct Apics(Arc<VmFd>);

impl Apics {
    /// Interrupts vCPU `index`: writes to its APIC what a device would write to interrupt it, an MSI (Intel
    /// SDM volume 3, chapter 12.11; the upper bits of large ids as KVM has them with 32-bit ids).
    pub(crate) fn interrupt(&self, index: u32, vector: u8) {
        const NMI_DELIVERY: u32 = 4 << 8;
        let message = kvm_msi {
            address_lo: 0xfee0_0000 | (index & 0xff) << 12,
            address_hi: index & !0xff,
            data: if vector == NMI {
                NMI_DELIVERY
            } else {
                vector.into()
            },
            ..Default::default()
        };
        // Fails only for an APIC that is not there, or that the guest has turned off: its loss.
        let _ = self.0.signal_msi(message);
    }
}

fn enable(
    cap: u32,
    argument: u32,
    call: impl Fn(&kvm_enable_cap) -> Result<(), errno::Error>,
) -> Result<(), Error> {
    call(&kvm_enable_cap {
        cap,
        args: [argument.into(), 0, 0, 0],
        ..Default::default()
    })
    .map_err(refused)
}

fn refused(error: errno::Error) -> Error {
    Error::Host(format!(
        "this host's KVM does not handle kicks and halts itself ({error}): give --kick pio or ioeventfd"
    ))
}
