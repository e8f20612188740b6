//! Whatever a guest does, the VMM ends in time, with one line that says what happened, an exit code, and no
//! more memory than it should need.

use std::io::Read;
use std::mem::MaybeUninit;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use integration_tests::{PATIENCE, alone, command, kvm};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_vmm-under-test");

/// The guests' memory, and what the VMM may need beside it: itself, threads, page tables, the console's tail.
const GUEST_MIB: u64 = 16;
const OWN_MIB: u64 = 32;

/// What became of a VMM.
struct Ending {
    /// `None` if it had to be killed.
    status: Option<ExitStatus>,
    stdout: Vec<u8>,
    stderr: String,
    /// Most memory it ever had, in MiB.
    peak_mib: u64,
}

/// Runs the program, and waits in a way that tells its memory; kills it if it has not ended by `deadline`.
#[expect(clippy::zombie_processes, reason = "wait4 waits for it")]
fn watch(arguments: &str, deadline: Duration) -> Ending {
    let mut child = command(PROGRAM)
        .args(arguments.split_whitespace())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program can be run");
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let stdout = thread::spawn(move || {
        let mut bytes = Vec::new();
        stdout.read_to_end(&mut bytes).map(|_| bytes)
    });
    let stderr = thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).map(|_| text)
    });
    let (id, begun) = (child.id() as i32, Instant::now());
    let (mut status, mut usage) = (0, MaybeUninit::<libc::rusage>::zeroed());
    let mut killed = false;
    // SAFETY: both pointers are valid, and nobody else waits for this child.
    while unsafe { libc::wait4(id, &mut status, libc::WNOHANG, usage.as_mut_ptr()) } == 0 {
        if begun.elapsed() > deadline && !killed {
            child
                .kill()
                .expect("a child that was not waited for can be killed");
            killed = true;
        }
        sleep(Duration::from_millis(5));
    }
    // SAFETY: zeroes are a valid value, and so is what the kernel wrote over them.
    let usage = unsafe { usage.assume_init() };
    Ending {
        status: (!killed).then(|| ExitStatus::from_raw(status)),
        stdout: stdout.join().unwrap().expect("a pipe can be read"),
        stderr: stderr.join().unwrap().expect("messages are UTF-8"),
        peak_mib: usage.ru_maxrss as u64 / 1024,
    }
}

/// Whether it ended as a VMM should whose guest may do anything: with one of `codes`. If not, why.
fn judge(ending: &Ending, codes: &[i32]) -> Result<i32, String> {
    let said = &ending.stderr;
    let status = ending.status.ok_or(format!("it did not end: {said}"))?;
    // Every line is the VMM's own or a guest's, marked and without control characters.
    let stray = |line: &&str| {
        !(line.starts_with("vmm: ") || line.starts_with("guest: ")) || line.contains(char::is_control)
    };
    if said.lines().any(|line| stray(&line)) {
        return Err(format!("stray output ({status}): {said}"));
    }
    let code = status.code().filter(|code| codes.contains(code));
    let code = code.ok_or(format!("it ended with {status}: {said}"))?;
    let messages = said
        .lines()
        .filter(|line| line.starts_with("vmm: ") && !line.starts_with("vmm: warning: "));
    let messages: Vec<_> = messages.collect();
    if messages.len() != usize::from(code == 1) || messages.iter().any(|line| line.len() > 4000) {
        return Err(format!("code {code}, but not one short line to say why: {said}"));
    }
    let json: Value = serde_json::from_slice(&ending.stdout).map_err(|error| error.to_string())?;
    let run = &json["runs"][0];
    if !json["runs"].is_null() && (!run["throughput_per_sec"].is_number() || !run["jain_index"].is_number()) {
        return Err(format!("not a number: {run}"));
    }
    if ending.peak_mib > GUEST_MIB + OWN_MIB {
        return Err(format!("it needed {} MiB of memory", ending.peak_mib));
    }
    Ok(code)
}

/// Launches `workload` with each of `seeds`; returns the exit codes.
fn survive(workload: &str, seeds: u64, vcpus: u32, timeout: &str, codes: &[i32]) -> Vec<i32> {
    if !kvm() {
        return Vec::new();
    }
    let _alone = alone();
    let run = |seed| {
        let arguments = format!(
            "run --workload hostile-{workload} --seed {seed} --vcpus {vcpus} --memory {GUEST_MIB}M --timeout {timeout} \
             --format json"
        );
        judge(&watch(&arguments, PATIENCE), codes).unwrap_or_else(|why| panic!("{arguments}: {why}"))
    };
    (0..seeds).map(run).collect()
}

/// Long enough that a guest which does not hang never meets it on a busy machine.
const LONG: &str = "300s";
/// For guests that may well hang.
const SHORT: &str = "3s";

#[test]
fn garbage_to_every_port() {
    survive("ports", 24, 3, LONG, &[1]);
}

#[test]
fn garbage_in_every_argument() {
    survive("calls", 3, 3, LONG, &[1]);
}

#[test]
fn a_console_full_of_forgeries() {
    survive("console", 8, 3, LONG, &[0, 1]);
}

#[test]
fn loops_of_every_kind() {
    // Six kinds, and eight vCPUs.
    survive("loops", 2, 8, SHORT, &[1]);
}

#[test]
fn garbage_in_the_report_and_all_that_is_shared() {
    let codes = survive("pages", 8, 4, LONG, &[0, 1]);
    assert!(
        codes.is_empty() || codes.contains(&0),
        "no report was read: the path was not tested"
    );
}

#[test]
fn damaged_page_tables() {
    survive("tables", 7, 1, SHORT, &[0, 1]);
    survive("tables", 3, 3, SHORT, &[0, 1]);
}

#[test]
fn addresses_without_memory() {
    survive("mmio", 16, 1, SHORT, &[1]);
}

#[test]
fn jumps_to_nowhere() {
    survive("jump", 16, 1, SHORT, &[1]);
}

#[test]
fn exceptions_without_handlers() {
    survive("idt", 6, 1, SHORT, &[1]);
}

#[test]
fn privileged_instructions() {
    survive("processor", 16, 2, SHORT, &[0, 1]);
}

#[test]
fn all_of_it_at_once() {
    survive("chaos", 40, 8, SHORT, &[0, 1]);
}

/// The negative control: VMMs that hang, panic, hoard memory or end wrongly, and what they are told.
#[test]
fn a_vmm_that_does_not_survive_is_caught() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let verdict = |arguments: &str, deadline| judge(&watch(arguments, deadline), &[1]);
    let bad = [
        ("planted hoard hostile-calls", PATIENCE, "MiB of memory"),
        ("planted panic hostile-calls", PATIENCE, "as planted"),
        (
            "run --workload hang --timeout 24h",
            Duration::from_secs(2),
            "did not end",
        ),
        (
            "run --workload idle --format json",
            PATIENCE,
            "it ended with exit status: 0",
        ),
        ("run --workload panic", PATIENCE, "expected value"),
    ];
    for (arguments, deadline, why) in bad {
        let said = verdict(arguments, deadline).expect_err(arguments);
        assert!(said.contains(why), "{arguments}: {said}");
    }
    // And that it is not the planting which is caught.
    verdict("run --workload panic --format json", PATIENCE).expect("as it should be");
}
