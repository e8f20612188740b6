//! Every bad end has its message and its exit code, and comes in time.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Output, Stdio};
use std::thread;
use std::time::Duration;

use abi::config::{LockKind, Workload};
use integration_tests::{alone, command, config, kvm, one_line, vmm};
use vmm::{Ended, Io, Kernel, Vm};

const PROGRAM: &str = env!("CARGO_BIN_EXE_vmm-under-test");

fn run(arguments: &str) -> Output {
    // Patience, unless the guest is meant to hang.
    let timeout = if arguments.contains("--timeout") {
        ""
    } else {
        "--timeout 600s"
    };
    vmm(PROGRAM, &format!("run --vcpus 3 {timeout} {arguments}"))
}

/// Runs a workload that ends badly; its last line on stderr must hold all of `words`.
fn ends_badly(arguments: &str, words: &[&str]) {
    let output = run(arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let last = said.lines().last().unwrap_or_default();
    assert_eq!(output.status.code(), Some(1), "{arguments}: {said}");
    assert!(last.starts_with("vmm: "), "{arguments}: {said}");
    for word in words {
        assert!(last.contains(word), "{arguments}: no '{word}' in: {last}");
    }
}

#[test]
fn a_panic_reaches_the_user_with_file_and_line() {
    if kvm() {
        let _alone = alone();
        ends_badly(
            "--workload panic",
            &[
                "guest vCPU 0: panicked at guest/src/workload/self_test.rs:",
                "asked to panic",
            ],
        );
    }
}

#[test]
fn a_fault_tells_vector_error_code_addresses_and_the_vcpu() {
    if kvm() {
        let _alone = alone();
        ends_badly(
            "--workload fault",
            &[
                "guest vCPU 2: exception 14 (#PF)",
                "error 0x",
                "rip 0x",
                "cr2 0x10;",
                "guest::workload::self_test::",
            ],
        );
        let output = run("--workload fault");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        for register in ["rax ", "rsp ", "r15 ", "rflags "] {
            assert!(said.contains(register), "no {register}in the dump: {said}");
        }
    }
}

/// The stub that handles this exception must not look for code where RIP points.
#[test]
fn a_jump_to_nowhere_is_reported_with_its_rip() {
    if kvm() {
        let _alone = alone();
        let output = run("--workload wild-jump");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let last = said.lines().last().unwrap_or_default();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(last.contains("guest vCPU 0: exception 13 (#GP)"), "{last}");
        // Some processors fault before the jump, others after.
        assert!(
            last.contains("rip 0xdeadbeef00000000") || last.contains("self_test::"),
            "{last}"
        );
    }
}

#[test]
fn a_stack_overflow_hits_the_guard_page() {
    if kvm() {
        let _alone = alone();
        ends_badly(
            "--workload stack-overflow",
            &["guest vCPU 0: exception 14 (#PF)", "self_test::overflow"],
        );
    }
}

#[test]
fn a_triple_fault_is_told_from_other_ends() {
    if kvm() {
        let _alone = alone();
        ends_badly(
            "--workload triple-fault",
            &["vCPU 0 shut down in a triple fault", "rip 0x", "rsp 0x"],
        );
    }
}

#[test]
fn an_exit_nobody_expects_is_diagnosed() {
    if kvm() {
        let _alone = alone();
        ends_badly(
            "--workload bad-port",
            &[
                "vCPU 0 wrote [ad, 0b, 00, 00] to port 0x80",
                "rip 0x",
                "self_test::",
            ],
        );
    }
}

#[test]
fn a_guest_that_hangs_is_stopped_and_every_vcpu_is_accounted_for() {
    if kvm() {
        let _alone = alone();
        // How far the guest has booted by then depends on the machine; that it is stopped does not.
        for timeout in ["1s", "10s", "100s"] {
            let output = run(&format!("--workload hang --timeout {timeout}"));
            let said = one_line(&output);
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(said.contains(&format!("did not end within {timeout}")), "{said}");
            if said.contains("vCPU 0: in the guest at 0x") && said.contains("vCPUs 1-2: halted") {
                break;
            }
            assert_ne!(timeout, "100s", "{said}");
        }
        ends_badly(
            "--workload hang-halted --timeout 3s",
            &["did not end within 3s", "vCPU", "halted"],
        );
    }
}

#[test]
fn kicks_to_nowhere_are_refused_and_reported() {
    if kvm() {
        let _alone = alone();
        // A value that is bound to no eventfd is the VMM's to refuse as well.
        for kick in ["pio", "ioeventfd"] {
            let output = run(&format!("--workload bad-kick --kick {kick}"));
            assert_eq!(output.status.code(), Some(0), "{kick}");
            let said = one_line(&output);
            assert!(said.contains("3 requests that made no sense"), "{kick}: {said}");
        }
    }
}

#[test]
fn a_lock_that_does_not_exclude_is_a_failed_run() {
    if kvm() {
        let _alone = alone();
        for duration in ["500ms", "2s", "8s"] {
            let output = vmm(
                PROGRAM,
                &format!("run --vcpus 8 --lock busted --duration {duration}"),
            );
            if output.status.code() == Some(1) {
                assert!(
                    one_line(&output).contains("'busted': exclusion violated"),
                    "{}",
                    one_line(&output)
                );
                assert!(String::from_utf8_lossy(&output.stdout).contains("BROKEN"));
                return;
            }
        }
        panic!("the broken lock was never caught");
    }
}

/// Starts a run that would last for hours.
fn start_long_run() -> Child {
    command(PROGRAM)
        .args(["run", "--workload", "hang", "--timeout", "24h"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program can be run")
}

#[test]
fn signals_end_it_cleanly() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    for (signal, name) in [(libc::SIGINT, "SIGINT"), (libc::SIGTERM, "SIGTERM")] {
        let mut child = start_long_run();
        // Once the vCPU threads are there, the guest runs, and signals are the program's own affair.
        for _ in 0..6000 {
            let threads = std::fs::read_dir(format!("/proc/{}/task", child.id())).map(Iterator::count);
            if threads.is_ok_and(|threads| threads > 3) {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        // SAFETY: a child that was not waited for yet cannot have given its id to another process.
        assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
        let status = child.wait().expect("a child can be waited for");
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(status.signal(), None, "it was killed instead of ending: {said}");
        assert_eq!(status.code(), Some(128 + signal), "{said}");
        assert!(said.contains(name), "{said}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_reason_to_panic() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let mut child = command(PROGRAM)
        .args(["run", "--vcpus", "2", "--duration", "50ms"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program can be run");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("a child can be waited for");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!said.contains("panicked"), "{said}");
}

/// A guest that prints for ever, to a user who never reads, is stopped like any other that hangs.
#[test]
fn a_user_who_does_not_read_cannot_keep_a_guest_alive() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let (_unread, console) = UnixStream::pair().expect("sockets can be had");
    let mut config = config(Workload::Babble, LockKind::Tas, 3, 2);
    config.timeout = Duration::from_secs(3);
    let io = Io {
        stop: None,
        console: Box::new(console),
        input: None,
    };
    let outcome = Vm::new(&config, Kernel::embedded())
        .and_then(|vm| vm.run(io))
        .expect("it can be launched");
    assert_eq!(outcome.ended, Ended::Timeout, "{}", outcome.detail);
    assert!(!outcome.detail.contains("inside KVM"), "{}", outcome.detail);
}
