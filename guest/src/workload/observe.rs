//! Every vCPU spins; the first one may watch the others meanwhile.

use core::hint;

use abi::boot::BootInfo;
use abi::port::measure;
use abi::report::{Report, WATCHED, log_kind};

use super::{Measured, report_elapsed};
use crate::clock;
use crate::cpu::Cpu;
use crate::log::Log;
use crate::{hypercall, preempt, report};

/// A turn that takes longer than this, in nanoseconds, was interrupted: what happened meanwhile was not seen.
const BLIND_NS: u64 = 20_000;

/// How often the clocks are compared, at the beginning and again at the end.
const SYNCS: usize = measure::SYNCS / 2;

/// All vCPUs spin until the time is up, without an exit.
pub(super) fn spin(cpu: &Cpu, boot: &'static BootInfo) {
    // SAFETY: each vCPU runs one workload, once.
    let results = unsafe { report::of_vcpu(cpu) };
    let measured = Measured::begin(cpu);
    let deadline = measured.deadline(boot);
    results.acquisitions = turns(deadline);
    results.stolen_ns = measured.stolen(cpu);
    let elapsed = measured.end(cpu);
    if cpu.is_first() {
        report_elapsed(boot, elapsed);
    }
}

/// vCPU 0 watches, the others spin.
pub(super) fn observe(cpu: &Cpu, boot: &'static BootInfo) {
    // SAFETY: each vCPU runs one workload, once.
    let results = unsafe { report::of_vcpu(cpu) };
    let measured = Measured::begin(cpu);
    let deadline = measured.deadline(boot);
    if !cpu.is_first() {
        turns(deadline);
        measured.end(cpu);
        return;
    }
    // SAFETY: by vCPU 0 alone, once.
    let mut log = unsafe { Log::new(boot) };
    synchronise(&mut log);
    results.acquisitions = watch(&mut log, boot, deadline);
    synchronise(&mut log);
    let mut report = Report {
        elapsed_cycles: measured.end(cpu),
        ..Report::default()
    };
    log.finish(&mut report);
    report::write_run(boot, report);
}

/// Spins until the deadline; returns the number of turns.
fn turns(deadline: u64) -> u64 {
    let mut turns = 0;
    while clock::cycles() < deadline {
        hint::spin_loop();
        turns += 1;
    }
    turns
}

/// Logs every change in what is seen of the other vCPUs; returns how often one was seen to stop running.
fn watch(log: &mut Log, boot: &'static BootInfo, deadline: u64) -> u64 {
    let blind = clock::from_ns(boot, BLIND_NS);
    let mut known = [0; WATCHED as usize];
    let mut stops = 0;
    let mut last = clock::cycles();
    loop {
        let now = clock::cycles();
        if now.saturating_sub(last) > blind {
            log.push(log_kind::BLIND, last, 0);
            log.push(log_kind::SIGHTED, now, 0);
        }
        last = now;
        if now >= deadline {
            return stops;
        }
        for (vcpu, known) in (1..boot.vcpus).zip(&mut known) {
            let seen = preempt::why_off(Cpu::page_of(boot, vcpu));
            if seen != *known {
                stops += u64::from(*known == 0);
                *known = seen;
                log.push(log_kind::HINT, now, seen << 16 | vcpu);
            }
        }
    }
}

/// Has the VMM note the time, between two notes of one's own.
fn synchronise(log: &mut Log) {
    for _ in 0..SYNCS {
        let before = clock::cycles();
        hypercall::measure(measure::SYNC);
        let after = clock::cycles();
        log.push(log_kind::BEFORE_SYNC, before, 0);
        log.push(log_kind::AFTER_SYNC, after, 0);
    }
}
