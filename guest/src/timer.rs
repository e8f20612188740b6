//! One-shot timers.

use core::sync::atomic::Ordering;

use abi::port;

use crate::cpu::Cpu;
use crate::interrupts::TIMER;
use crate::{clock, hypercall, interrupts};

/// Has the vCPU interrupted by [`TIMER`] when its TSC reaches `deadline`, or at once if it has; instead of
/// whatever it was set to.
pub(crate) fn set(cpu: &Cpu, deadline: u64) {
    // Relaxed: the VMM reads it during the `out`, by this vCPU. Zero would disarm it.
    cpu.page().deadline.store(deadline.max(1), Ordering::Relaxed);
    hypercall::out32(port::SET_TIMER, TIMER.into());
}

/// Sleeps until the TSC reaches `deadline`, handling interrupts; kicks that come meanwhile may be lost. It
/// takes the vCPU's timer.
pub(crate) fn halt_until(cpu: &Cpu, deadline: u64) {
    while clock::cycles() < deadline {
        let _masked = interrupts::mask(cpu);
        // Under the mask: if it fires from here on it is pending, and ends the halt. Each time anew: a host
        // whose clock runs away from the TSC fires early.
        set(cpu, deadline);
        hypercall::halt();
    }
}
