//! One-shot timers.

use core::sync::atomic::Ordering;

use abi::port;

use crate::cpu::Cpu;
use crate::interrupts::TIMER;
use crate::{clock, hypercall, interrupts, memory};

/// Has the vCPU interrupted by `vector` when its TSC reaches `deadline`, or at once if it has; instead of
/// whatever it was set to.
pub(crate) fn set(cpu: &Cpu, deadline: u64, vector: u8) {
    // Relaxed: the VMM reads it during the `out`, by this vCPU. Zero would disarm it.
    cpu.page().deadline.store(deadline.max(1), Ordering::Relaxed);
    hypercall::out32(port::SET_TIMER, vector.into());
}

/// Sleeps until the TSC reaches `deadline`, not at all if it has, handling interrupts; kicks that come
/// meanwhile may be lost. What the vCPU has in store goes to those who are awake. It takes the vCPU's timer,
/// and [`TIMER`] may still come afterwards.
pub(crate) fn halt_until(cpu: &Cpu, deadline: u64) {
    memory::drain();
    while clock::cycles() < deadline {
        let _masked = interrupts::mask(cpu);
        // Under the mask: if it fires from here on it is pending, and ends the halt. Each time anew: a host
        // whose clock runs away from the TSC fires early.
        set(cpu, deadline, TIMER);
        hypercall::halt();
    }
}
