//! Bad arguments get one line that says what, why and what to do, and code 2; a host without KVM, code 3.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::Output;
use std::{fs, io, ptr};

use integration_tests::{alone, command, kicks, kvm, one_line, vmm};
use vmm::Kick;

const PROGRAM: &str = env!("CARGO_BIN_EXE_vmm-under-test");

/// The program must refuse `arguments` with one line that holds `words`, and touch nothing.
fn refuses(arguments: &str, words: &str) {
    let output = vmm(PROGRAM, arguments);
    let said = one_line(&output);
    assert_eq!(output.status.code(), Some(2), "{arguments}: {said}");
    assert!(said.contains(words), "{arguments}: no '{words}' in: {said}");
    assert!(
        output.stdout.is_empty(),
        "{arguments}: it printed something nevertheless"
    );
}

#[test]
fn arguments_that_make_no_sense_anywhere() {
    refuses("frobnicate", "frobnicate");
    refuses("run --vcpus 0", "--vcpus");
    refuses("run --vcpus many", "--vcpus");
    refuses("run --vcpus -1", "--vcpus");
    refuses("run --pcpus none", "--pcpus");
    refuses("run --memory 12parsecs", "--memory");
    refuses("run --lock spinlock", "no such lock");
    refuses("run --workload fun", "--workload");
    refuses("run --guest-ring 1", "--guest-ring");
    refuses("run --format xml", "--format");
    refuses("run --kick harder", "pio, ioeventfd, kvm");
    refuses("run --halt-poll -1us", "--halt-poll");
    refuses("run --kick kvm --yield-on-kick", "leave it out");
    refuses("run --spin sometimes", "--spin");
    for duration in [
        "25h",
        "1",
        "s",
        "-1s",
        "1e9s",
        "99999999999999999999s",
        "0.1ns",
        "ten",
    ] {
        refuses(&format!("run --duration {duration}"), "--duration");
    }
    for option in ["--timeout", "--hold", "--think"] {
        refuses(&format!("run {option} 10y"), option);
    }
    refuses("boot", "--kernel");
    refuses("run --no-such-option", "--no-such-option");
}

#[test]
fn arguments_that_make_no_sense_on_this_host() {
    if !kvm() {
        return;
    }
    refuses("run --vcpus 100000", "100000");
    refuses("run --workload migrate --vcpus 1", "--vcpus 2");
    refuses("run --pcpus 0", "--pcpus");
    refuses("run --pcpus 100000", "--pcpus");
    refuses("run --memory 1K", "1 KiB of memory");
    refuses("run --memory 8388608T", "memory");
    refuses(
        "run --vcpus 300 --memory 16M",
        "16384 KiB of memory for 300 vCPUs",
    );
    for output in ["/no/such/directory/file", "/proc/nope", "/dev/fd/nope", "/"] {
        refuses(
            &format!("run --output {output}"),
            &format!("cannot write --output '{output}'"),
        );
    }
}

#[test]
fn only_guests_are_booted() {
    if !kvm() {
        return;
    }
    refuses("boot --kernel /no/such/file", "/no/such/file");
    refuses("boot --kernel /", "regular file");
    refuses("boot --kernel /dev/zero", "regular file");
    let text = std::env::temp_dir().join(format!("pvlab-text-{}", std::process::id()));
    fs::write(&text, "#!/bin/sh\n").expect("temporary files can be written");
    refuses(&format!("boot --kernel {}", text.display()), "not a 64-bit ELF");
    fs::remove_file(&text).expect("what was written can be removed");
    refuses(&format!("boot --kernel {PROGRAM}"), "no pvlab version note");
}

#[test]
fn a_refused_run_leaves_no_output_file() {
    let file = std::env::temp_dir().join(format!("pvlab-output-{}", std::process::id()));
    refuses(
        &format!("run --output {} --lock nonsense", file.display()),
        "nonsense",
    );
    assert!(!file.exists());
}

#[test]
fn help_names_the_exit_codes() {
    for arguments in ["--help", "run --help", "help boot"] {
        let output = vmm(PROGRAM, arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments}");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("Exit codes"), "{arguments}: {text}");
    }
}

/// Runs the program where there is no `/dev/kvm`: in a mount namespace of its own, with an empty `/dev`.
/// `None` where this process may not make one.
fn without_kvm(arguments: &str) -> Option<Output> {
    let mut command = command(PROGRAM);
    command.args(arguments.split_whitespace());
    let hide = || {
        let flags = libc::CLONE_NEWNS | libc::CLONE_NEWUSER;
        // SAFETY: has no memory effects; between fork and exec there is only this thread.
        if unsafe { libc::unshare(flags) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: all strings end with a zero, and the file system needs no data.
        let mounted = unsafe {
            libc::mount(
                c"none".as_ptr(),
                c"/dev".as_ptr(),
                c"tmpfs".as_ptr(),
                0,
                ptr::null(),
            )
        };
        if mounted == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    // SAFETY: the closure makes two system calls and allocates nothing, so it may run between fork and exec.
    unsafe { command.pre_exec(hide) };
    command.output().ok()
}

#[test]
fn without_kvm_it_says_what_to_do() {
    for arguments in ["run", "doctor", "run --format json"] {
        let Some(output) = without_kvm(arguments) else {
            assert!(
                fs::metadata("/proc/self/ns/user").is_err() || !kvm_required(),
                "cannot hide /dev/kvm"
            );
            let _ = writeln!(
                io::stderr(),
                "SKIPPED without_kvm: this process may not make a mount namespace"
            );
            return;
        };
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{arguments}: {said}");
        let line = one_line(&output);
        assert!(
            line.contains("/dev/kvm") && line.contains("load the kvm_intel or kvm_amd module"),
            "{line}"
        );
    }
}

fn kvm_required() -> bool {
    std::env::var_os("REQUIRE_KVM").is_some_and(|value| value == "1")
}

/// A ring that the host cannot run is refused in one line and with code 3, before anything is launched.
#[test]
fn ring_zero_is_refused_where_it_is_emulated() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let emulated = vmm::host::facts().is_ok_and(|facts| facts.ring0.emulated);
    let output = vmm(PROGRAM, "run --guest-ring 0 --vcpus 2 --duration 50ms --lock tas");
    if emulated {
        assert_eq!(output.status.code(), Some(3));
        assert!(
            one_line(&output).contains("emulates ring 0"),
            "{}",
            one_line(&output)
        );
    } else {
        assert_eq!(
            output.status.code(),
            Some(0),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// So are KVM's own kicks, which it takes from a real ring 0 only; the others work everywhere.
#[test]
fn kicks_of_kvm_are_refused_where_ring_zero_is_emulated() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let possible: Vec<_> = kicks().into_iter().map(Kick::name).collect();
    for kick in ["pio", "ioeventfd", "kvm"] {
        let output = vmm(
            PROGRAM,
            &format!("run --vcpus 2 --duration 50ms --lock tas --format json --kick {kick}"),
        );
        if possible.contains(&kick) {
            let results = String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(output.status.code(), Some(0), "{kick}");
            assert!(results.contains(&format!("\"kick\": \"{kick}\"")), "{results}");
        } else {
            let said = one_line(&output);
            assert_eq!(output.status.code(), Some(3), "{kick}: {said}");
            assert!(
                said.contains("ring 0 only") && said.contains("--kick pio"),
                "{said}"
            );
        }
    }
}
