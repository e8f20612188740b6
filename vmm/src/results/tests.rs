use std::collections::BTreeSet;
use std::time::Duration;

use abi::config::{LockKind, Workload};
use abi::histogram::BUCKETS;
use abi::memory::{MemoryReport, ZoneReport};
use abi::report::{EVENTS, Report, VcpuReport};
use pvlock::Event;

use super::*;
use crate::config::{Config, Ring};
use crate::host::Ring0;
use crate::outcome::{Ended, GuestReport, HostTime, Outcome};

fn config(workload: Workload) -> Config {
    Config {
        vcpus: 2,
        pcpus: vec![0],
        workload,
        lock: LockKind::QSpinlock,
        duration: Duration::from_secs(2),
        hold: Duration::from_nanos(100),
        think: Duration::from_nanos(200),
        ..Config::default()
    }
}

fn outcome(report: Option<GuestReport>) -> Outcome {
    Outcome {
        ended: if report.is_some() {
            Ended::Completed
        } else {
            Ended::Panic
        },
        detail: String::new(),
        ring: Ring::Three,
        ring0: Ring0 {
            emulated: true,
            ns_per_instruction: 430.0,
        },
        tsc_khz: 1_000_000,
        report,
        host_time: Some(HostTime {
            cpu: Duration::from_millis(1990),
            steal: None,
            preemptions: Some(7),
        }),
        exits: None,
        preemptions: Preemptions::default(),
        hints: None,
        steal_time: true,
        rejected: 0,
        setup: Duration::from_millis(3),
        entered_ns: 5_000_000,
    }
}

fn report(plain_counter: u64, acquisitions: [u64; 2]) -> GuestReport {
    let run = Report {
        plain_counter,
        elapsed_cycles: 2_000_000_000,
        wake_cost_cycles: 80_000,
        ..Report::default()
    };
    let vcpus = acquisitions.map(|acquisitions| VcpuReport {
        acquisitions,
        ..VcpuReport::default()
    });
    GuestReport {
        run,
        vcpus: vcpus.into(),
        log: Vec::new(),
        memory: None,
    }
}

fn memory(word: u64) -> MemoryReport {
    let zone = ZoneReport {
        managed: word,
        free: word,
        min: word,
        low: word,
        high: word,
        events: [word; abi::memory::EVENTS],
        free_blocks: [[word; abi::memory::ORDERS]; abi::memory::TYPES],
        pageblocks: [word; abi::memory::TYPES],
    };
    MemoryReport {
        unreturned: word,
        zones: [zone; abi::memory::ZONES],
        window: [word; abi::memory::WINDOW_EVENTS],
        compaction: abi::memory::CompactionReport {
            rounds: [abi::memory::CompactionRound {
                fragmented: word,
                huge: word,
                kept: word,
                wrong: word,
                unannounced: word,
                pinned: word,
                displaced: word,
                score_before: word,
                score_after: word,
                moved: word,
                moving_cycles: word,
                copied: word,
                copying_cycles: word,
            }; abi::memory::ROUNDS],
        },
        alloc: abi::memory::AllocReport {
            rounds: word,
            cycles: word,
            pairs: [[word; abi::memory::SUBJECTS]; abi::memory::CONTESTS],
        },
        secondary: abi::memory::SecondaryReport {
            starts: word,
            ends: word / 2,
            unpaired: word,
            mapped_inside: word,
            retries: word,
            lookups: word,
            hits: word,
        },
    }
}

/// All of it is what a guest can write, and more than it ever should.
fn garbage(word: u64) -> GuestReport {
    let run = Report {
        plain_counter: word,
        elapsed_cycles: word,
        wake_cost_cycles: word,
        spin_budget_cycles: word,
        spin_budget_iterations: word,
        log_entries: word,
        log_dropped: word,
    };
    let vcpu = VcpuReport {
        acquisitions: word,
        intruders: word,
        spin_cycles: word,
        halted_cycles: word,
        halts: word,
        kicks: word,
        longest_wait_cycles: word,
        stolen_ns: word,
        events: [word; EVENTS],
        wait: [word; BUCKETS],
        held: [word; BUCKETS],
    };
    GuestReport {
        run,
        vcpus: vec![vcpu; 64],
        log: Vec::new(),
        memory: Some(memory(word)),
    }
}

fn results(run: Run) -> serde_json::Value {
    let host = Host::new(&outcome(None), 2);
    serde_json::to_value(Results::new(host, vec![run])).expect("results are plain data")
}

fn keys(value: &serde_json::Value) -> BTreeSet<&str> {
    value
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, _)| key.as_str())
        .collect()
}

#[test]
fn json_fields_keep_their_names() {
    let json = results(Run::new(
        &config(Workload::Lock),
        &outcome(Some(report(30, [10, 20]))),
    ));
    assert_eq!(keys(&json), BTreeSet::from(["host", "runs", "schema"]));
    let host = [
        "guest_ring",
        "kernel",
        "kvm",
        "pcpus",
        "ring0_ns_per_instruction",
        "tsc_khz",
    ];
    assert_eq!(keys(&json["host"]), BTreeSet::from(host));
    let run = &json["runs"][0];
    let names = "acquisitions cpu_ns detail duration_ns elapsed_ns entered_ns events exclusion_violations exit exits \
                 guest_steal_ns halt_poll_ns halted_ns halts held_ns hold_ns jain_index kick kicks lock longest_wait_ns \
                 memory mm natural_preemptions neighbours pcpus per_vcpu pinned preempt preemptions rejected seed setup_ns \
                 spin_budget_iterations spin_budget_ns spin_ns steal_ns think_ns throughput_per_sec vcpus wait_ns \
                 wake_cost_ns workload yield_on_kick";
    assert_eq!(keys(run), names.split_whitespace().collect());
    let percentiles = BTreeSet::from(["max", "p10", "p50", "p90", "p99", "p999"]);
    assert_eq!(keys(&run["wait_ns"]), percentiles);
    assert_eq!(keys(&run["held_ns"]), percentiles);
    assert_eq!(
        keys(&run["preemptions"]),
        BTreeSet::from(["holder", "other", "waiter"])
    );
    assert_eq!(
        keys(&run["events"]),
        Event::ALL.iter().map(|event| event.name()).collect()
    );
}

#[test]
fn numbers_are_those_of_the_report() {
    let json = results(Run::new(
        &config(Workload::Lock),
        &outcome(Some(report(30, [10, 20]))),
    ));
    let run = &json["runs"][0];
    assert_eq!(json["host"]["kvm"], "emulated");
    assert_eq!(json["host"]["guest_ring"], 3);
    assert_eq!(run["lock"], "qspinlock");
    assert_eq!(run["workload"], "lock");
    assert_eq!(run["acquisitions"], 30);
    assert_eq!(run["per_vcpu"], serde_json::json!([10, 20]));
    assert_eq!(run["throughput_per_sec"], 15.0);
    assert_eq!(run["wake_cost_ns"], 80_000);
    assert_eq!(run["spin_budget_ns"], serde_json::Value::Null);
    assert_eq!(run["cpu_ns"], 1_990_000_000u64);
    assert_eq!(run["steal_ns"], serde_json::Value::Null);
    assert_eq!(run["natural_preemptions"], 7);
    assert_eq!(run["exit"], "completed");
}

#[test]
fn overlapping_critical_sections_make_a_violation() {
    let run = Run::new(&config(Workload::Lock), &outcome(Some(report(27, [10, 20]))));
    assert_eq!(
        (run.exit, run.measured.exclusion_violations),
        (Exit::Violation, 3)
    );
    assert_eq!(
        run.detail,
        "exclusion violated: 3 of 30 critical sections overlapped with another"
    );
    // The ping-pong has no critical sections.
    assert_eq!(
        Run::new(&config(Workload::PingPong), &outcome(Some(report(0, [10, 20])))).exit,
        Exit::Completed
    );
}

#[test]
fn memory_is_told_by_linux_s_names() {
    let mut report = report(0, [10, 20]);
    report.memory = Some(memory(3));
    let run = Run::new(&config(Workload::Alloc), &outcome(Some(report)));
    assert_eq!(
        (run.exit, run.measured.exclusion_violations),
        (Exit::Violation, 3)
    );
    assert_eq!(
        run.detail,
        "3 blocks of memory had two holders, or did not come back, of 30"
    );
    let names: Vec<_> = run
        .mm
        .iter()
        .flat_map(|mm| &mm.vmstat)
        .map(|(name, _)| *name)
        .collect();
    assert_eq!(
        names.len(),
        names.iter().collect::<BTreeSet<_>>().len(),
        "{names:?}"
    );
    let mm = &results(run)["runs"][0]["mm"];
    assert_eq!(mm["unreturned"], 3);
    assert_eq!(mm["vmstat"]["nr_free_pages"], 6);
    assert_eq!(mm["vmstat"]["pgfree"], 6);
    assert_eq!(mm["vmstat"]["pgalloc_dma32"], 3);
    assert_eq!(mm["vmstat"]["pgalloc_normal"], 3);
    assert_eq!(mm["zones"][1]["name"], "Normal");
    assert_eq!(mm["zones"][0]["buddyinfo"], serde_json::json!(vec![9; 11]));
    assert_eq!(
        mm["zones"][0]["pagetypeinfo"]["Movable"],
        serde_json::json!(vec![3; 11])
    );
    // Zones and the window both count it.
    assert_eq!(mm["vmstat"]["pgmigrate_success"], 6);
    // As many frames in as many cycles of 1 ns.
    let costs = &mm["alloc"]["all"]["burst"];
    assert_eq!(mm["alloc"]["rounds"], 3);
    assert_eq!(
        (costs["stack_ns"].as_f64(), costs["of_stack"].as_f64()),
        (Some(1.0), Some(1.0))
    );
    // A machine may have no memory in a zone, and a workload may say nothing of it.
    let other = results(Run::new(
        &config(Workload::Lock),
        &outcome(Some(self::report(30, [10, 20]))),
    ));
    assert_eq!(other["runs"][0]["mm"], serde_json::Value::Null);
}

#[test]
fn frames_cost_what_turns_say() {
    let mut guest = report(0, [10, 20]);
    let mut memory = MemoryReport::default();
    memory.alloc.rounds = 9;
    memory.alloc.cycles = 6_000;
    memory.alloc.pairs = [[1_000, 200, 2_000], [0, 600, 600], [3_000, 0, 1_500], [1, 2, 3]];
    guest.memory = Some(memory);
    let run = Run::new(&config(Workload::Alloc), &outcome(Some(guest)));
    let alloc = run.mm.and_then(|mm| mm.alloc).expect("they competed");
    let costs = |costs: &AllocCosts| (costs.mm_ns, costs.buddy_system_allocator_ns, costs.stack_ns);
    assert_eq!(costs(&alloc.one.pair), (Some(6.0), Some(30.0), Some(3.0)));
    assert_eq!(alloc.one.pair.of_buddy_system_allocator, Some(0.2));
    assert_eq!(alloc.one.pair.of_stack, Some(2.0));
    // Who could not do anything costs nothing that could be told.
    assert_eq!(costs(&alloc.one.burst), (None, Some(10.0), Some(10.0)));
    assert_eq!(alloc.one.burst.of_stack, None);
    assert_eq!(
        (alloc.all.pair.of_buddy_system_allocator, alloc.all.pair.of_stack),
        (None, Some(0.5))
    );
    // Other workloads say nothing of it, whatever is in the report.
    let mut guest = report(0, [10, 20]);
    guest.memory = Some(memory);
    let run = Run::new(&config(Workload::Migrate), &outcome(Some(guest)));
    assert_eq!(run.mm.and_then(|mm| mm.alloc), None);
}

#[test]
fn who_watches_a_ping_pong_is_not_treated_unfairly() {
    let config = Config {
        vcpus: 3,
        ..config(Workload::PingPong)
    };
    let mut report = report(0, [10, 10]);
    report.vcpus.push(VcpuReport::default());
    let run = Run::new(&config, &outcome(Some(report)));
    assert_eq!(run.measured.jain_index, 1.0);
}

#[test]
fn a_failed_run_has_all_fields() {
    let failed = results(Run::new(&config(Workload::Lock), &outcome(None)));
    let complete = results(Run::new(
        &config(Workload::Lock),
        &outcome(Some(report(30, [10, 20]))),
    ));
    assert_eq!(keys(&failed["runs"][0]), keys(&complete["runs"][0]));
    assert_eq!(failed["runs"][0]["exit"], "panic");
    assert_eq!(failed["runs"][0]["acquisitions"], 0);
}

#[test]
fn exits_are_written_by_their_names() {
    for exit in [
        Exit::Completed,
        Exit::Timeout,
        Exit::Panic,
        Exit::Fault,
        Exit::Violation,
        Exit::Error,
    ] {
        assert_eq!(serde_json::to_value(exit).expect("a string"), exit.name());
    }
}

#[test]
fn any_report_makes_a_result() {
    for word in [0, 1, u64::MAX / 2, u64::MAX - 1, u64::MAX] {
        for tsc_khz in [0, 1, 2_000_000, u64::MAX] {
            let outcome = Outcome {
                tsc_khz,
                ..outcome(Some(garbage(word)))
            };
            for workload in [
                Workload::Lock,
                Workload::Alloc,
                Workload::Migrate,
                Workload::Compaction,
            ] {
                let run = Run::new(&config(workload), &outcome);
                assert!(run.measured.throughput_per_sec.is_finite());
                assert!(run.measured.jain_index <= 1.0 + 1e-9);
                assert!(run.measured.wait_ns.p999 <= run.measured.wait_ns.max);
                results(run);
            }
        }
    }
}
