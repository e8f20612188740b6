//! What shows that interrupts work, and that nothing is lost or spoilt by them.

mod faults;
mod nested;
mod race;
mod shootdown;
mod state;
mod ticks;
mod touch;
mod window;

use core::sync::atomic::Ordering;

use abi::boot::BootInfo;
use abi::config::Workload;
use abi::interrupt::{FIRST_EXTERNAL, NMI, ipi, target};
use abi::port;

use crate::cpu::Cpu;
use crate::hypercall;

/// Most vCPUs that take part in [`nested`], [`state`] and [`ticks`], which have room for as many. Others only
/// handle what they are sent.
const MOST_VCPUS: usize = 64;

/// Takes the memory that a workload of this module needs. vCPU 0 calls it while it boots.
pub(super) fn init(boot: &BootInfo) {
    match Workload::from_raw(boot.run.workload) {
        Some(Workload::Shootdown) => shootdown::init(boot),
        Some(Workload::PageFaults) => faults::init(boot),
        Some(Workload::BadTouch) => touch::init(boot),
        _ => {}
    }
}

/// Does what `workload` says, one of these.
pub(super) fn run(workload: Workload, cpu: &'static Cpu, boot: &'static BootInfo) {
    match workload {
        Workload::IpiRace => race::run(cpu, boot),
        Workload::NestedLocks => nested::run(cpu, boot),
        Workload::Interrupted => state::run(cpu, boot),
        Workload::Ticks => ticks::run(cpu, boot),
        Workload::Shootdown => shootdown::run(cpu, boot),
        Workload::PageFaults => faults::run(cpu, boot),
        Workload::BadTouch if cpu.is_first() => touch::run(cpu, boot),
        Workload::BadInterrupts if cpu.is_first() => nonsense(cpu, boot),
        _ => {}
    }
}

/// Asks for interrupts that make no sense: 71 requests that are refused, and as many as there are vCPUs that
/// are granted.
fn nonsense(cpu: &Cpu, boot: &BootInfo) {
    for vector in [0, NMI + 1, FIRST_EXTERNAL - 1] {
        hypercall::out32(port::SEND_IPI, ipi(0, vector));
    }
    for index in [boot.vcpus, target::MASK - 1] {
        hypercall::out32(port::SEND_IPI, ipi(index, FIRST_EXTERNAL));
    }
    // All of those that exist, and none of those after them; then 62 of which no index is possible.
    cpu.page()
        .ipi_mask
        .store((1 << boot.vcpus.min(63)) - 1, Ordering::Relaxed);
    hypercall::out32(port::SEND_IPI, ipi(target::MASK, FIRST_EXTERNAL));
    cpu.page().ipi_mask.store(u64::MAX >> 2, Ordering::Relaxed);
    cpu.page().ipi_base.store(u32::MAX - 1, Ordering::Relaxed);
    hypercall::out32(port::SEND_IPI, ipi(target::MASK, FIRST_EXTERNAL));
    for argument in [u32::from(NMI), 0x100 | u32::from(FIRST_EXTERNAL), u32::MAX, 0] {
        hypercall::out32(port::SET_TIMER, argument);
    }
    // As late as can be, and never.
    for deadline in [u64::MAX, 0] {
        cpu.page().deadline.store(deadline, Ordering::Relaxed);
        hypercall::out32(port::SET_TIMER, FIRST_EXTERNAL.into());
    }
}
