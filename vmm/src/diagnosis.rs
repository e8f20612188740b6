//! Turns the end of a run into an [`Outcome`] that a person can read.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

use abi::config::Workload;
use abi::memory::MEMORY_REPORT;
use abi::port::exit_code;
use abi::report::{LOG, LogEntry, Report, VCPU_REPORTS, VcpuReport};
use abi::vcpu_page::state;
use kvm_bindings::kvm_regs;

use crate::config::{Config, Ring};
use crate::control::Event;
use crate::error::Error;
use crate::host::Ring0;
use crate::kernel::Kernel;
use crate::machine::{Cause, Machine};
use crate::outcome::{Ended, GuestReport, Outcome};
use crate::vcpu::{self, Place};

/// Most groups of vCPUs that a line tells apart.
const GROUPS: usize = 12;

/// What the run came to; rings, frequency and set-up time are the caller's to fill in.
pub(crate) fn outcome(
    machine: &Machine,
    kernel: &Kernel,
    config: &Config,
    event: Event,
    places: &[Place],
) -> Result<Outcome, Error> {
    let (ended, detail) = match (machine.cause(), event) {
        // Its memory may still change under our eyes, and its thread is still there.
        (Some(_), _) if places.contains(&Place::Kvm) => (
            Ended::Error,
            format!(
                "the guest ended, but not all of it: {}",
                whereabouts(machine, kernel, places)
            ),
        ),
        (Some(cause), _) => explain(cause, machine, kernel)?,
        (None, Event::Timeout) => {
            let whereabouts = whereabouts(machine, kernel, places);
            (
                Ended::Timeout,
                format!("the guest did not end within {:?}: {whereabouts}", config.timeout),
            )
        }
        (None, _) => (Ended::Interrupted, "stopped on request".into()),
    };
    let report = (ended == Ended::Completed)
        .then(|| read_report(machine, config.workload))
        .transpose()?;
    Ok(Outcome {
        ended,
        detail,
        ring: Ring::Zero,
        ring0: Ring0::default(),
        tsc_khz: 0,
        hints: report
            .as_ref()
            .and_then(|report| machine.hints.accuracy(&report.log)),
        steal_time: false,
        report,
        host_time: machine.accounts.measured(),
        exits: machine.exit_stats.counted(),
        preemptions: machine.preemption.hits(),
        rejected: machine.rejected(),
        setup: Duration::ZERO,
        // Relaxed: its thread was joined, or else the time does not matter.
        entered_ns: machine.entered.load(Ordering::Relaxed),
    })
}

/// What a completed run could not have, in words, if there is something.
fn lost(machine: &Machine) -> String {
    match machine.unbound() {
        0 => String::new(),
        threads => format!(
            "the host did not let {threads} vCPU threads be bound to their CPUs, so they ran on others as well: the \
             overcommit is not what it says (is sched_setaffinity forbidden?)"
        ),
    }
}

/// Puts a cause into words, unless it is that the guest could not begin.
fn explain(cause: Cause, machine: &Machine, kernel: &Kernel) -> Result<(Ended, String), Error> {
    let last_word = || {
        machine
            .console
            .last_word()
            .unwrap_or_else(|| "the guest did not say why".into())
    };
    Ok(match cause {
        Cause::Exit(exit_code::DONE) => (Ended::Completed, lost(machine)),
        Cause::Exit(exit_code::PANIC) => (Ended::Panic, last_word()),
        Cause::Exit(exit_code::FAULT) => {
            let place = vcpu::fault_rip(machine).map(|rip| format!("; rip is {}", kernel.describe(rip)));
            (Ended::Fault, last_word() + &place.unwrap_or_default())
        }
        Cause::Exit(exit_code::NESTED_FAULT) => (
            Ended::Fault,
            format!("the guest took an exception while it reported: {}", last_word()),
        ),
        Cause::Exit(exit_code::VERSION) => (
            Ended::Error,
            format!(
                "the guest does not speak version {} of the interface",
                abi::VERSION
            ),
        ),
        Cause::Exit(code) => (
            Ended::Error,
            format!("the guest ended with code {code}, which means nothing"),
        ),
        Cause::Deaf(vcpu) => (
            Ended::Error,
            format!("vCPU {vcpu} did not come out of KVM when it was signalled: please report this as a bug"),
        ),
        Cause::Crash(crash) => {
            let ended = if crash.shutdown {
                Ended::Fault
            } else {
                Ended::Error
            };
            // The address a processor starts at: KVM has reset the vCPU (on AMD's it does so at a triple
            // fault).
            let registers = match crash.registers.rip {
                0xfff0 => "KVM has reset its registers".into(),
                _ => registers(&crash.registers, kernel),
            };
            (ended, format!("vCPU {} {}; {registers}", crash.vcpu, crash.what))
        }
        Cause::SetUp(error) => return Err(error),
    })
}

/// The registers that tell most.
fn registers(registers: &kvm_regs, kernel: &Kernel) -> String {
    let r = registers;
    format!(
        "rip {} rsp {:#x} rflags {:#x} rax {:#x} rbx {:#x} rcx {:#x} rdx {:#x} rsi {:#x} rdi {:#x} rbp {:#x}",
        kernel.describe(r.rip),
        r.rsp,
        r.rflags,
        r.rax,
        r.rbx,
        r.rcx,
        r.rdx,
        r.rsi,
        r.rdi,
        r.rbp
    )
}

/// Which vCPU was where, those at the same place together.
fn whereabouts(machine: &Machine, kernel: &Kernel, places: &[Place]) -> String {
    let mut groups: Vec<(String, Vec<usize>)> = Vec::new();
    for (index, place) in places.iter().enumerate() {
        let state = state::name(vcpu::lock_state(machine, index as u32));
        let place = match place {
            Place::Halted => format!("halted, {state}"),
            Place::Guest { rip } => format!("in the guest at {}, {state}", kernel.describe(*rip)),
            Place::Kvm => "inside KVM, which does not give it back".into(),
        };
        match groups.iter_mut().find(|(known, _)| *known == place) {
            Some((_, members)) => members.push(index),
            None => groups.push((place, vec![index])),
        }
    }
    let mut text = String::new();
    for (place, members) in groups.iter().take(GROUPS) {
        let separator = if text.is_empty() { "" } else { "; " };
        let plural = if members.len() == 1 { "" } else { "s" };
        let _ = write!(text, "{separator}vCPU{plural} {}: {place}", ranges(members));
    }
    if let Some(more) = groups.len().checked_sub(GROUPS).filter(|more| *more > 0) {
        let _ = write!(text, "; and {more} more places");
    }
    text
}

/// Ascending numbers, with runs shortened: `0, 2-5`.
fn ranges(numbers: &[usize]) -> String {
    let runs = numbers.chunk_by(|a, b| a + 1 == *b).map(|run| match run {
        [first, .., last] => format!("{first}-{last}"),
        single => single.iter().map(usize::to_string).collect(),
    });
    runs.collect::<Vec<_>>().join(", ")
}

/// Copies the report out of guest memory.
fn read_report(machine: &Machine, workload: Workload) -> Result<GuestReport, Error> {
    let base = machine.layout.report.base;
    // Those of a guest that does nothing are 23 KB each of zeroes, on pages that nobody has touched yet.
    let reports = match workload {
        Workload::Idle => 0,
        _ => machine.latches.len() as u64,
    };
    let vcpus = (0..reports)
        .map(|index| {
            machine
                .memory
                .read(base + VCPU_REPORTS + index * size_of::<VcpuReport>() as u64)
        })
        .collect::<Result<_, _>>()?;
    let run: Report = machine.memory.read(base)?;
    let first = base + abi::report::log(machine.latches.len() as u32);
    let log = (0..run.log_entries.min(LOG as u64))
        .map(|index| machine.memory.read(first + index * size_of::<LogEntry>() as u64))
        .collect::<Result<_, _>>()?;
    let memory = match workload {
        Workload::Alloc | Workload::Migrate | Workload::Compaction => {
            Some(machine.memory.read(base + MEMORY_REPORT)?)
        }
        _ => None,
    };
    Ok(GuestReport {
        run,
        vcpus,
        log,
        memory,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_numbers_are_shortened() {
        assert_eq!(ranges(&[0, 2, 3, 4, 7, 8]), "0, 2-4, 7-8");
        assert_eq!(ranges(&[5]), "5");
        assert_eq!(ranges(&[]), "");
    }
}
