//! The page each vCPU shares with the VMM while it runs.
//!
//! ```text
//!   0  guest writes, VMM reads     state, fault, timer, targets of an IPI
//! 128  VMM writes, guest reads     preempted
//! 192  VMM writes, guest reads     offer
//! 256  KVM writes, guest reads     steal time
//! ```
//!
//! The halves lie 128 bytes apart, so that neither side's stores disturb the other's cache line, nor the line
//! the hardware prefetches with it.

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};

use crate::{PAGE_SIZE, assert_layout};

/// Values of [`VcpuPage::state`].
pub mod state {
    /// Neither waiting for a lock nor holding one.
    pub const OUTSIDE: u32 = 0;
    /// Between asking for a lock and getting it.
    pub const WAITING: u32 = 1;
    /// Inside a critical section.
    pub const HOLDING: u32 = 2;

    /// A word for `state`, for people.
    pub const fn name(state: u32) -> &'static str {
        match state {
            OUTSIDE => "outside the lock",
            WAITING => "waiting for the lock",
            HOLDING => "holding the lock",
            _ => "in an unknown state",
        }
    }
}

/// Bits of [`VcpuPage::preempted`].
pub mod preempted {
    /// The vCPU is parked in a HLT.
    pub const PARKED: u32 = 1;
    /// The VMM has stopped it on purpose.
    pub const STOPPED: u32 = 2;
}

/// Values of [`VcpuPage::offer`].
pub mod offer {
    /// There is none.
    pub const NONE: u32 = 0;
    /// To a vCPU that has just got the lock.
    pub const HOLDER: u32 = 1;
    /// To a vCPU that spins for the lock.
    pub const WAITER: u32 = 2;
}

/// What KVM tells a guest of the time its vCPU did not get (`struct kvm_steal_time`, Linux's
/// Documentation/virt/kvm/x86/msr.rst). All zero where KVM does not offer that.
#[repr(C, align(64))]
pub struct StealTime {
    /// Time in nanoseconds that the vCPU's thread was ready to run, and did not run, as of its last entry
    /// into the guest.
    pub steal: AtomicU64,
    /// Odd while KVM writes. Only other vCPUs could see that: a vCPU's own does not change while it runs.
    pub version: AtomicU32,
    /// None are defined.
    pub flags: u32,
    /// Not 0 in [`KVM_PREEMPTED`] while the vCPU's thread is off its CPU.
    pub preempted: AtomicU8,
    /// Explicit padding.
    pub reserved: [u8; 47],
}

/// The bit of [`StealTime::preempted`] that says so. The next one has to do with TLB flushes.
pub const KVM_PREEMPTED: u8 = 1;

/// One vCPU's shared page. Both sides only ever load and store its fields atomically, at their full size.
#[repr(C, align(4096))]
pub struct VcpuPage {
    /// One of [`state`]'s values: what the vCPU is doing with the lock. A hint, written relaxed.
    pub state: AtomicU32,
    /// Explicit padding.
    pub reserved: u32,
    /// Where the vCPU was when it took an exception it could not handle; 0 if it took none.
    pub fault_rip: AtomicU64,
    /// When the vCPU's timer is to fire, in cycles of its TSC; read when the guest writes to
    /// [`SET_TIMER`](crate::port::SET_TIMER).
    pub deadline: AtomicU64,
    /// Whom an IPI to [`target::MASK`](crate::interrupt::target::MASK) is for, counted from `ipi_base`.
    pub ipi_mask: AtomicU64,
    /// The vCPU that bit 0 of `ipi_mask` stands for.
    pub ipi_base: AtomicU32,
    /// Keeps the halves apart.
    pub guest_half: [u8; 92],
    /// Not 0 while the VMM knows that the vCPU does not run: one of [`preempted`]'s bits. A hint, written
    /// relaxed.
    pub preempted: AtomicU32,
    /// Keeps what else the VMM writes off that line.
    pub vmm_half: [u8; 60],
    /// One of [`offer`]'s values: a preemption that the vCPU may take with
    /// [`PREEMPT_ME`](crate::port::PREEMPT_ME).
    pub offer: AtomicU32,
    /// Written by KVM.
    pub steal_time: StealTime,
}

assert_layout!(VcpuPage, size PAGE_SIZE as usize, state at 0, fault_rip at 8, deadline at 16, ipi_mask at 24,
    ipi_base at 32, preempted at 128, offer at 192, steal_time at 256);
assert_layout!(StealTime, size 64, version at 8, preempted at 16);
