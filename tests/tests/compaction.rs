//! Fragmented memory becomes huge pages, and what is moved for that stays what it was.

use abi::config::{LockKind, Workload};
use integration_tests::{alone, config, kvm, run, vmm};
use vmm::{Config, PlantedFault, results};

const VMM: &str = env!("CARGO_BIN_EXE_vmm-under-test");

fn compaction(vcpus: u32) -> Config {
    Config {
        memory: 256 << 20,
        ..config(Workload::Compaction, LockKind::PvQSpinlock, vcpus, 2)
    }
}

fn result(config: &Config) -> results::Run {
    results::Run::new(config, &run(config))
}

fn vmstat(run: &results::Run, name: &str) -> u64 {
    let memory = run.mm.as_ref().expect("the workload reports it");
    let (_, count) = memory
        .vmstat
        .iter()
        .find(|(known, _)| *known == name)
        .expect(name);
    *count
}

#[test]
fn fragmented_memory_becomes_huge_pages_and_nothing_else_changes() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    // The vCPUs between the first and the last read pages as they are moved.
    for vcpus in [2, 4] {
        let run = result(&compaction(vcpus));
        // The run's own checks: every word, pinned pages, notices, and 98 % of the memory.
        assert_eq!(run.exit, results::Exit::Completed, "{}", run.detail);
        assert_eq!(run.measured.exclusion_violations, 0);
        let memory = run.mm.as_ref().expect("the workload reports it");
        let compaction = memory.compaction.as_ref().expect("the workload reports it");
        for round in [&compaction.direct, &compaction.proactive] {
            // Nearly three quarters of it were fragmented, and a page in four was in the way.
            assert!(round.fragmented > 0xb000 && round.kept > 0x3000, "{round:?}");
            assert!(round.moved > 0x2000 && round.copied > 0x2000, "{round:?}");
            assert_eq!((round.pinned, round.score_before), (8, 100), "{round:?}");
        }
        // Who moved pages: allocations, each of which waited; then the daemon, before there were any.
        assert_eq!(compaction.direct.score_after, 100);
        assert!(compaction.proactive.score_after <= 15, "{compaction:?}");
        assert!(vmstat(&run, "compact_daemon_wake") > 0 && vmstat(&run, "compact_success") > 64);
        assert_eq!(
            vmstat(&run, "compact_stall"),
            vmstat(&run, "compact_success") + vmstat(&run, "compact_fail")
        );
        // Pinned pages were tried.
        assert!(vmstat(&run, "pgmigrate_fail") > 0);
        assert!(
            vcpus == 2
                || run.measured.per_vcpu[1..vcpus as usize - 1]
                    .iter()
                    .all(|pages| *pages > 0)
        );
    }
}

/// The negative controls, one for each check.
#[test]
fn compaction_that_is_careless_or_does_nothing_is_caught() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    for (fault, complaint) in [
        (PlantedFault::LostContents, "of moved pages not as written"),
        (PlantedFault::NoPin, "pinned pages moved"),
        (PlantedFault::NoNotice, "moved though nobody was told"),
        (
            PlantedFault::NoMoves,
            "of the fragmented memory became huge pages",
        ),
    ] {
        let run = result(&Config {
            planted_fault: Some(fault),
            ..compaction(2)
        });
        assert_eq!(run.exit, results::Exit::Violation, "{fault:?}: {}", run.detail);
        assert!(run.detail.contains(complaint), "{fault:?}: {}", run.detail);
    }
}

#[test]
fn results_tell_what_compaction_came_to() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let arguments = "run --workload compaction --vcpus 2 --memory 256M";
    let output = vmm(VMM, &format!("{arguments} --format json"));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    let run = &json["runs"][0];
    assert_eq!(run["exit"], "completed", "{}", run["detail"]);
    for round in ["direct", "proactive"] {
        let round = &run["mm"]["compaction"][round];
        assert!(round["huge_share"].as_f64() >= Some(0.98), "{round}");
        assert!(round["moved_per_sec"].as_f64() > Some(0.0) && round["copied_per_sec"].as_f64() > Some(0.0));
    }
    assert!(run["wait_ns"]["p50"].as_u64() > Some(0) && run["held_ns"]["p50"].as_u64() > Some(0));
    assert!(run["mm"]["vmstat"]["nr_tlb_remote_flush"].as_u64() > Some(0));

    let text = String::from_utf8(vmm(VMM, arguments).stdout).expect("it is text");
    for part in [
        "who compacts",
        "allocations",
        "a daemon, in advance",
        "became huge",
        "ok",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
}
