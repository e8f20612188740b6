//! How vCPUs begin: what each is given before it runs (CPUID, the way its halts end, the state that
//! [`abi::boot`] promises), and what happens once for all of them.
//!
//! Each vCPU is made ready on its own thread, and the host is looked at on the first one's, while the thread
//! that made the VM loads the kernel:
//!
//! ```text
//! who made the VM   load the kernel ───┐
//! vCPU 0            make ready, probe ─┴─ decide on the ring, write BootInfo ─┐ enter
//! others            make ready ───────────────────────────────────────────────┴ enter
//! ```
//!
//! The first vCPU runs on one thread only, probe included: a Linux before 6.13 waits for all CPUs' read-side
//! sections (`synchronize_rcu` in `kvm_vcpu_ioctl`) when another thread than before runs a vCPU.

use std::sync::OnceLock;

use abi::boot::BootInfo;
use kvm_bindings::{CpuId, kvm_regs};
use kvm_ioctls::VcpuFd;

use crate::config::{Kick, Ring};
use crate::error::Error;
use crate::layout::{BOOT_INFO, Layout};
use crate::memory::GuestMemory;
use crate::probe::{self, Ring0};
use crate::registers;
use crate::steal;
use crate::transport::Transport;

/// What is the same for all vCPUs of a VM.
#[derive(Debug)]
pub(crate) struct Start {
    /// Whether KVM tells guests of stolen time.
    pub(crate) steal_time: bool,
    pub(crate) cpuid: CpuId,
    pub(crate) transport: Transport,
    /// The kernel's entry point.
    pub(crate) entry: u64,
    /// What the kernel is told; the ring is filled in when it is known.
    pub(crate) boot: BootInfo,
    /// The ring that was asked for; the best one for the host otherwise.
    pub(crate) wanted_ring: Option<Ring>,
    pub(crate) begun: Begun,
}

/// What the threads of a VM that begins wait for.
#[derive(Debug, Default)]
pub(crate) struct Begun {
    /// Whether the kernel is loaded; false if it never will be.
    loaded: OnceLock<bool>,
    /// Where the kernel is to run, and on what ground; `None` if the guest cannot begin.
    ring: OnceLock<Option<(Ring, Ring0)>>,
}

impl Begun {
    /// The kernel is in memory.
    pub(crate) fn set_loaded(&self) {
        // The first word counts: somebody may have given up.
        let _ = self.loaded.set(true);
    }

    /// Where the kernel runs, and what was found about ring 0; `None` before that is known.
    pub(crate) fn ring(&self) -> Option<(Ring, Ring0)> {
        self.ring.get().copied().flatten()
    }
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
        registers::set_special(vcpu, self.boot.cr3)
    }

    /// Does what is done once, on the first vCPU, or waits until it is done, or given up. Returns whether the
    /// guest can begin.
    pub(crate) fn begin(&self, vcpu: &mut VcpuFd, index: u32, memory: &GuestMemory) -> Result<bool, Error> {
        if index != 0 {
            return Ok(self.begun.ring.wait().is_some());
        }
        let ring = self.decide(vcpu, memory)?;
        // The first word counts: somebody may have given up.
        let _ = self.begun.ring.set(ring);
        Ok(ring.is_some())
    }

    /// Nobody need wait any more: the guest cannot begin, unless it has. Called when vCPUs are told to stop.
    pub(crate) fn give_up(&self) {
        let _ = self.begun.loaded.set(false);
        let _ = self.begun.ring.set(None);
    }

    /// Looks at the host, waits for the kernel, and tells it in which ring it is to run; `None` if it could
    /// not be loaded.
    fn decide(&self, vcpu: &mut VcpuFd, memory: &GuestMemory) -> Result<Option<(Ring, Ring0)>, Error> {
        let ring0 = probe::ring0(vcpu, memory, self.boot.tsc_khz)?;
        let ring = self.wanted_ring.unwrap_or(ring0.best_ring());
        if ring == Ring::Zero && ring0.emulated {
            return Err(Error::Host(
                "this host's KVM emulates ring 0, where compiled code cannot run: leave the ring to 'auto'"
                    .into(),
            ));
        }
        if (self.transport.kick(), ring) == (Kick::Kvm, Ring::Three) {
            return Err(Error::Host(
                "KVM takes kicks of its own from ring 0 only, and here guests run in ring 3: give --kick pio or \
                 ioeventfd"
                    .into(),
            ));
        }
        if !*self.begun.loaded.wait() {
            return Ok(None);
        }
        let boot = BootInfo {
            ring: ring as u32,
            ..self.boot
        };
        memory.write(BOOT_INFO, boot)?;
        Ok(Some((ring, ring0)))
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
