//! What the integration tests share: whether there is a KVM, how to launch a guest, how to run the program.
//!
//! The tests themselves are in `tests/tests`, a file per promise:
//!
//! | file | promise |
//! |---|---|
//! | `exclusion.rs` | every lock excludes, and the broken one is caught |
//! | `wake_ups.rs` | no kick is lost, however it travels, and a VMM that loses some is caught |
//! | `memory.rs` | the guest's memory has one holder at a time, and all of it comes back |
//! | `interrupts.rs` | no interrupt is lost, and none spoils what it interrupts |
//! | `page_faults.rs` | no page fault spoils what it interrupts, and those that may not be end the run |
//! | `migrate.rs` | memory that is moved all the time holds what was written to it |
//! | `compaction.rs` | fragmented memory becomes huge pages, and what is moved for that stays what it was |
//! | `endings.rs` | every bad end has its message and its exit code |
//! | `usage.rs` | bad arguments get one line and code 2; a host without KVM, code 3 |
//! | `results.rs` | the table and the JSON say what was measured |
//! | `exit_stats.rs` | exit statistics agree with what the guest counted |
//! | `hostile.rs` | whatever a guest does, the VMM ends with one line and a code, in bounded memory |
//! | `sandbox.rs` | each filter stops what it is there to stop; nobody needs privileges |
//! | `console.rs` | guests' output arrives, or is said not to have; terminals and disks are safe from it |
//! | `preemption.rs` | vCPUs are preempted as asked, and the guest is told |
//! | `signals.rs` | no signal to a vCPU is lost, and a handler that loses some is caught |
//! | `leftovers.rs` | nothing is left behind, launch after launch |

use std::env;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use abi::config::{LockKind, Workload};
use vmm::{Config, Ended, GuestReport, Io, Kernel, Kick, Outcome, Vm, host};

/// Longer than any healthy guest takes on a very slow machine. Only guests that are meant to hang wait less.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// Whether guests can be launched. If not, says visibly that the calling test is skipped.
///
/// # Panics
///
/// Where `REQUIRE_KVM=1` is set and they cannot: then a skipped test is a failed one.
pub fn kvm() -> bool {
    let Err(error) = host::facts() else { return true };
    assert!(
        env::var_os("REQUIRE_KVM").is_none_or(|value| value != "1"),
        "REQUIRE_KVM=1, but {error}"
    );
    // Not `eprintln!`, which the test harness captures.
    let _ = writeln!(
        io::stderr(),
        "SKIPPED {}: {error}",
        std::thread::current().name().unwrap_or("a test")
    );
    false
}

/// Lets one test at a time launch guests, so that they do not starve each other on small machines.
pub fn alone() -> MutexGuard<'static, ()> {
    static GUESTS: Mutex<()> = Mutex::new(());
    GUESTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The ways to kick that this host can do: KVM's own takes a real ring 0.
pub fn kicks() -> Vec<Kick> {
    let mut kicks = vec![Kick::Pio, Kick::IoEventFd];
    if host::facts().is_ok_and(|facts| !facts.ring0.emulated) {
        kicks.push(Kick::Kvm);
    }
    kicks
}

/// `n` of the host's CPUs, or all if there are fewer.
pub fn cpus(n: usize) -> Vec<usize> {
    let mut cpus = host::allowed_cpus().expect("the kernel tells a process's CPUs");
    cpus.truncate(n);
    cpus
}

/// A short run of `workload` with `lock` on `vcpus` vCPUs that share `pcpus` CPUs.
pub fn config(workload: Workload, lock: LockKind, vcpus: u32, pcpus: usize) -> Config {
    Config {
        vcpus,
        pcpus: cpus(pcpus),
        workload,
        lock,
        duration: Duration::from_millis(150),
        hold: Duration::from_nanos(100),
        think: Duration::from_nanos(100),
        timeout: PATIENCE,
        ..Config::default()
    }
}

/// Launches the embedded kernel, its console to nowhere.
pub fn run(config: &Config) -> Outcome {
    Vm::new(config, Kernel::embedded())
        .and_then(|vm| vm.run(Io::default()))
        .unwrap_or_else(|error| panic!("{config:?}: {error}"))
}

/// Launches a guest that must complete; returns its report.
pub fn complete(config: &Config) -> GuestReport {
    let outcome = run(config);
    assert_eq!(outcome.ended, Ended::Completed, "{config:?}: {}", outcome.detail);
    outcome.report.expect("a guest that completed leaves a report")
}

/// Critical sections of all vCPUs.
pub fn acquisitions(report: &GuestReport) -> u64 {
    report.vcpus.iter().map(|vcpu| vcpu.acquisitions).sum()
}

/// Updates lost and intruders seen: not 0 if the lock did not exclude.
pub fn violations(report: &GuestReport) -> u64 {
    let lost = acquisitions(report).abs_diff(report.run.plain_counter);
    lost + report.vcpus.iter().map(|vcpu| vcpu.intruders).sum::<u64>()
}

/// Runs the program with `arguments`, split at spaces, and waits for it.
pub fn vmm(program: &str, arguments: &str) -> Output {
    command(program)
        .args(arguments.split_whitespace())
        .output()
        .expect("the program can be run")
}

/// The program, to be run with no input.
pub fn command(program: &str) -> Command {
    let mut command = Command::new(Path::new(program));
    command.stdin(std::process::Stdio::null());
    command
}

/// CLOCK_MONOTONIC, which all processes read alike, in nanoseconds.
pub fn monotonic_ns() -> u64 {
    vmm::monotonic_ns()
}

/// What the program said on stderr, and that it was one line.
///
/// # Panics
///
/// If it was not.
pub fn one_line(output: &Output) -> String {
    let said = String::from_utf8(output.stderr.clone()).expect("messages are UTF-8");
    assert_eq!(said.lines().count(), 1, "not one line: {said:?}");
    assert!(said.starts_with("vmm: "), "does not say who speaks: {said:?}");
    said
}
