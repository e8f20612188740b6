//! Exit statistics agree with what the guest itself counted.

use std::time::{Duration, Instant};

use abi::config::{LockKind, Workload};
use integration_tests::{alone, config, kvm, run, vmm};
use serde_json::Value;
use vmm::exit_stats::{Reason, Tally, VcpuExits};
use vmm::{Config, Ended, Outcome};

/// Every kick and every halt of the ping-pong is an exit, and few others are.
fn ping_pong() -> (Config, Outcome) {
    let mut config = config(Workload::PingPong, LockKind::Tas, 4, 2);
    (config.rounds, config.exit_stats) = (2000, true);
    let outcome = run(&config);
    assert_eq!(outcome.ended, Ended::Completed, "{}", outcome.detail);
    (config, outcome)
}

fn all(exits: &[VcpuExits], reason: Reason) -> Tally {
    exits.iter().fold(Tally::default(), |sum, vcpu| Tally {
        count: sum.count + vcpu.of(reason).count,
        outside_ns: sum.outside_ns + vcpu.of(reason).outside_ns,
    })
}

#[test]
fn each_vcpus_kicks_and_halts_are_those_it_made() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let begun = Instant::now();
    let (config, outcome) = ping_pong();
    let took = begun.elapsed();
    let exits = outcome.exits.expect("they were counted");
    let report = outcome.report.expect("it completed");
    assert_eq!(exits.len(), config.vcpus as usize);
    // Beside the game there are five barriers, at each of which a vCPU kicks each other one at most, and
    // halts at most twice: the first HLT may take a kick left over from before.
    let barriers = 5 * u64::from(config.vcpus);
    for (vcpu, (exits, report)) in exits.iter().zip(&report.vcpus).enumerate() {
        for (reason, reported) in [(Reason::Kick, report.kicks), (Reason::Halt, report.halts)] {
            let counted = exits.of(reason).count;
            assert!(
                (reported..=reported + barriers).contains(&counted),
                "vCPU {vcpu}: {counted} exits for {}, of which it reports {reported}",
                reason.name()
            );
        }
    }
    assert_eq!(all(&exits, Reason::Measure).count, 2);
    assert_eq!(exits[0].of(Reason::Exit).count, 1);
    for reason in [
        Reason::Port,
        Reason::Mmio,
        Reason::Shutdown,
        Reason::Other,
        Reason::Console,
    ] {
        assert_eq!(all(&exits, reason).count, 0, "{}", reason.name());
    }
    assert!(all(&exits, Reason::Halt).outside_ns > 0);
    for (vcpu, exits) in exits.iter().enumerate() {
        let outside = Reason::ALL
            .iter()
            .map(|&reason| exits.of(reason).outside_ns)
            .sum();
        let outside = Duration::from_nanos(outside);
        assert!(
            outside <= took,
            "vCPU {vcpu} was outside for {outside:?} of {took:?}"
        );
    }
}

#[test]
fn they_are_shown_where_they_are_asked_for_and_only_there() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let arguments = "run --workload ping-pong --rounds 100 --vcpus 2";
    let json = |more: &str| -> Value {
        let output = vmm(
            env!("CARGO_BIN_EXE_vmm-under-test"),
            &format!("{arguments} --format json {more}"),
        );
        serde_json::from_slice(&output.stdout).expect("one JSON object")
    };
    assert_eq!(json("")["runs"][0]["exits"], Value::Null);
    let with = json("--stats");
    let exits = with["runs"][0]["exits"].as_array().expect("a list");
    assert_eq!(exits.len(), 2);
    let kicks: u64 = exits
        .iter()
        .map(|vcpu| vcpu["kick"]["count"].as_u64().unwrap())
        .sum();
    assert!(kicks >= with["runs"][0]["kicks"].as_u64().unwrap(), "{with}");
    assert!(
        exits[1]["measure"].is_null(),
        "reasons that did not occur are left out"
    );
    let table = vmm(
        env!("CARGO_BIN_EXE_vmm-under-test"),
        &format!("{arguments} --stats"),
    );
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(
        table.contains("Exits of workload 'ping-pong'") && table.contains("\nkick "),
        "{table}"
    );
}
