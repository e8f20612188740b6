//! The memory that the results are left in.

use abi::boot::BootInfo;
use abi::histogram::bucket;
use abi::report::{Histogram, Report, VCPU_REPORTS, VcpuReport};
use pvlock::Event;

use crate::cpu::Cpu;

const _: () = assert!(Event::ALL.len() <= abi::report::EVENTS);

/// Counts `value` in `histogram`.
#[inline]
pub(crate) fn record(histogram: &mut Histogram, value: u64) {
    histogram[bucket(value)] += 1;
}

/// This vCPU's part of the report, once.
///
/// # Safety
///
/// To be called once on each vCPU: the result must stay the only reference.
pub(crate) unsafe fn of_vcpu(cpu: &Cpu) -> &'static mut VcpuReport {
    let first = (cpu.boot().report.base + VCPU_REPORTS) as *mut VcpuReport;
    // SAFETY: the VMM reserved and zeroed one for each vCPU there, and reads them only when no vCPU runs any
    // more. That this is the only reference is for the caller to see to.
    unsafe { &mut *first.wrapping_add(cpu.index() as usize) }
}

/// Leaves what is true of the run as a whole.
pub(crate) fn write_run(boot: &BootInfo, report: Report) {
    // SAFETY: the VMM reserved it; only vCPU 0 gets here, and the VMM reads it only when no vCPU runs any
    // more.
    unsafe { (boot.report.base as *mut Report).write(report) };
}
