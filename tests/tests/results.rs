//! The table and the JSON say what was measured.

use std::os::unix::process::CommandExt;

use integration_tests::{alone, command, kvm, one_line, vmm};
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_vmm-under-test");

fn json(arguments: &str) -> Value {
    let output = vmm(PROGRAM, &format!("run --format json {arguments}"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    // On a busy machine a vCPU may not have had a turn, which is worth a warning. Nothing else is said in a
    // pipe.
    assert!(
        said.lines().all(|line| line.starts_with("vmm: warning: ")),
        "{said}"
    );
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

#[test]
fn json_adds_up() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let results = json("--vcpus 4 --pcpus 2 --duration 200ms --lock tas,pvqspinlock");
    assert_eq!(results["schema"], 1);
    let runs = results["runs"].as_array().expect("a list of runs");
    assert_eq!(
        runs.iter()
            .map(|run| run["lock"].as_str().unwrap())
            .collect::<Vec<_>>(),
        ["tas", "pvqspinlock"]
    );
    for run in runs {
        assert_eq!(run["exit"], "completed");
        assert_eq!(run["exclusion_violations"], 0);
        let per_vcpu: Vec<_> = run["per_vcpu"]
            .as_array()
            .unwrap()
            .iter()
            .map(|n| n.as_u64().unwrap())
            .collect();
        assert_eq!(per_vcpu.len(), 4);
        assert_eq!(
            run["acquisitions"].as_u64().unwrap(),
            per_vcpu.iter().sum::<u64>()
        );
        let jain = run["jain_index"].as_f64().unwrap();
        assert!((0.25..=1.0).contains(&jain), "{jain}");
        let wait = &run["wait_ns"];
        let percentiles = ["p50", "p90", "p99", "p999", "max"].map(|name| wait[name].as_u64().unwrap());
        assert!(percentiles.is_sorted(), "{percentiles:?}");
        // Half of all sections are not interrupted; were the work misjudged, it would be by factors of
        // thousands.
        let held = run["held_ns"]["p50"].as_u64().unwrap();
        assert!((50..20_000).contains(&held), "{held}");
        let elapsed = run["elapsed_ns"].as_u64().unwrap();
        assert!(elapsed >= 200_000_000, "{elapsed}");
        // Two CPUs cannot give four vCPUs more than two CPUs' worth of time. The host's books are kept by
        // tick.
        assert!(
            run["cpu_ns"].as_u64().unwrap() <= 2 * elapsed + 200_000_000,
            "{}",
            run["cpu_ns"]
        );
    }
}

#[test]
fn the_table_has_a_row_a_lock_and_says_what_it_means() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let output = vmm(PROGRAM, "run --vcpus 4 --pcpus 2 --duration 200ms");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0));
    for row in ["qspinlock ", "pvqspinlock "] {
        assert!(
            text.lines()
                .any(|line| line.starts_with(row) && line.ends_with("ok")),
            "no row for {row}in:\n{text}"
        );
    }
    assert!(
        text.lines().last().unwrap().contains("the work of qspinlock"),
        "{text}"
    );
}

#[test]
fn doctor_and_list_say_what_there_is() {
    let list = vmm(PROGRAM, "list");
    let text = String::from_utf8(list.stdout).unwrap();
    for name in [
        "tas",
        "ticket",
        "mcs",
        "qspinlock",
        "pvqspinlock-linux",
        "pvqspinlock",
        "busted",
        "lock",
        "ping-pong",
    ] {
        assert!(
            text.lines()
                .any(|line| line.split_whitespace().next() == Some(name)),
            "no {name} in:\n{text}"
        );
    }
    if kvm() {
        let _alone = alone();
        let doctor = vmm(PROGRAM, "doctor");
        let text = String::from_utf8(doctor.stdout).unwrap();
        assert_eq!(doctor.status.code(), Some(0), "{text}");
        assert!(
            ["ring 0", "launch", "steal time"]
                .iter()
                .all(|what| text.contains(what)),
            "{text}"
        );
        // Measured, or refused with a reason.
        for kick in ["pio", "ioeventfd", "kvm"] {
            let row = text
                .lines()
                .find(|line| line.starts_with(&format!("kick by {kick} ")));
            let measured = row.is_some_and(|row| row.contains("µs ("));
            let refused = kick == "kvm" && text.contains("No kick by kvm: ");
            assert!(measured || refused, "{kick}:\n{text}");
        }
        assert!(
            text.lines()
                .any(|line| line.starts_with("eventfd between") && line.contains("s (")),
            "{text}"
        );
    }
}

/// `--output` is written whole or not at all.
#[test]
fn output_goes_to_the_file() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let file = std::env::temp_dir().join(format!("pvlab-results-{}", std::process::id()));
    let arguments = format!(
        "run --vcpus 2 --lock tas --duration 50ms --format json --output {}",
        file.display()
    );
    let output = vmm(PROGRAM, &arguments);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.stdout.is_empty());
    let text = std::fs::read(&file).expect("the file is there");
    std::fs::remove_file(&file).unwrap();
    assert_eq!(
        serde_json::from_slice::<Value>(&text).expect("one JSON object")["runs"][0]["lock"],
        "tas"
    );
}

/// And if there is no room for it, there is nothing.
#[test]
fn a_result_that_does_not_fit_leaves_nothing_behind() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let directory = std::env::temp_dir().join(format!("pvlab-no-room-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("temporary directories can be made");
    let mut command = command(PROGRAM);
    command
        .args([
            "run",
            "--vcpus",
            "1",
            "--lock",
            "tas",
            "--duration",
            "10ms",
            "--output",
            "out",
        ])
        .current_dir(&directory);
    let no_room = || {
        let limit = libc::rlimit {
            rlim_cur: 100,
            rlim_max: 100,
        };
        // SAFETY: the pointer is valid for a limit.
        let limited = unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &limit) };
        // SAFETY: no handler is installed. The write is to fail, not to end the process.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
        match limited {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: the closure makes system calls and allocates nothing, so it may run between fork and exec.
    unsafe { command.pre_exec(no_room) };
    let output = command.output().expect("the program can be run");
    let left = std::fs::read_dir(&directory).map(Iterator::count);
    std::fs::remove_dir_all(&directory).expect("what was made can be removed");
    assert_eq!(output.status.code(), Some(1));
    let said = one_line(&output);
    assert!(said.contains("cannot write the result: File too large"), "{said}");
    assert_eq!(left.expect("it was readable"), 0, "something was left behind");
}
