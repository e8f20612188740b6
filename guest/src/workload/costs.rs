//! What an exit to the VMM costs, and a kick that finds its target awake: vCPU 0 times them, one by one.

use abi::boot::BootInfo;
use abi::port;

use super::{Measured, report_elapsed, rounds};
use crate::clock;
use crate::cpu::Cpu;
use crate::{hypercall, report};

/// How many of each, unless the configuration says otherwise.
const ROUNDS: u64 = 300;

/// The console's scratch register, a byte that does nothing: writing it is an exit and little else.
const SCRATCH: u16 = port::CONSOLE + 7;

/// Leaves the exits' times where waits go in the report, and the kicks' where hold times go.
pub(super) fn run(cpu: &Cpu, boot: &'static BootInfo) {
    // SAFETY: each vCPU runs one workload, once.
    let results = unsafe { report::of_vcpu(cpu) };
    let measured = Measured::begin(cpu);
    if cpu.is_first() {
        for _ in 0..rounds(boot, ROUNDS) {
            let exit = timed(|| hypercall::out8(SCRATCH, 0));
            report::record(&mut results.wait, exit);
            results.longest_wait_cycles = results.longest_wait_cycles.max(exit);
            // Itself: it is awake, and its next HLT returns at once.
            report::record(&mut results.held, timed(|| hypercall::kick(cpu.index())));
            results.kicks += 1;
        }
    }
    let elapsed = measured.end(cpu);
    if cpu.is_first() {
        report_elapsed(boot, elapsed);
    }
}

/// Cycles that `action` takes.
pub(super) fn timed(action: impl FnOnce()) -> u64 {
    let start = clock::cycles();
    action();
    clock::cycles().saturating_sub(start)
}
