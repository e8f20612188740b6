use abi::config::LockKind;

use super::*;
use crate::results::Kvm;
use crate::results::{Exit, Measured, Percentiles, Preemptions};

/// A second of the lock workload.
pub(in crate::cli) fn run(lock: LockKind, vcpus: u32, pcpus: usize, acquisitions: u64) -> Run {
    Run {
        lock: Some(lock),
        workload: Workload::Lock,
        vcpus,
        pcpus,
        pinned: false,
        memory: 64 << 20,
        kick: "pio",
        halt_poll_ns: 0,
        yield_on_kick: false,
        duration_ns: 1_000_000_000,
        hold_ns: 100,
        think_ns: 100,
        seed: 1,
        setup_ns: 3_000_000,
        entered_ns: 0,
        exit: Exit::Completed,
        detail: String::new(),
        rejected: 0,
        cpu_ns: Some(1_000_000_000),
        steal_ns: None,
        guest_steal_ns: None,
        natural_preemptions: None,
        preempt: None,
        neighbours: 0,
        preemptions: Preemptions::default(),
        exits: None,
        mm: None,
        measured: Measured {
            elapsed_ns: 1_000_000_000,
            acquisitions,
            per_vcpu: vec![acquisitions / u64::from(vcpus); vcpus as usize],
            throughput_per_sec: acquisitions as f64,
            jain_index: 0.999,
            wait_ns: Percentiles {
                p10: 30,
                p50: 900,
                p90: 1_000,
                p99: 1_000_000,
                p999: 12_000_000,
                max: 30_000_000,
            },
            ..Measured::default()
        },
    }
}

/// The run with no results that a guest leaves which ended like that.
pub(in crate::cli) fn failed(run: Run, exit: Exit) -> Run {
    let measured = if exit == Exit::Violation {
        Measured {
            exclusion_violations: 123,
            ..run.measured
        }
    } else {
        Measured::default()
    };
    Run {
        exit,
        measured,
        cpu_ns: None,
        detail: "because".into(),
        ..run
    }
}

fn results(runs: Vec<Run>) -> Results {
    let host = Host {
        kvm: Kvm::Emulated,
        ring0_ns_per_instruction: Some(430.4),
        guest_ring: 3,
        pcpus: 2,
        tsc_khz: 2_450_000,
        kernel: "6.18.5".into(),
    };
    Results {
        schema: 1,
        host,
        runs,
    }
}

#[test]
fn a_table_has_a_row_for_each_lock() {
    let locks = [
        LockKind::QSpinlock,
        LockKind::PvQSpinlock,
        LockKind::Busted,
        LockKind::Tas,
    ];
    let [slow, mut fast, busted, tas] = locks.map(|lock| run(lock, 8, 2, 10_000));
    fast.measured.throughput_per_sec = 2_140_000.0;
    (fast.measured.halts, fast.measured.kicks, fast.cpu_ns) = (12_345, 12_000, Some(1_950_000_000));
    let runs = vec![
        slow,
        fast,
        failed(busted, Exit::Violation),
        failed(tas, Exit::Timeout),
    ];
    let text = summary(&results(runs));
    let expected = "\
Host   KVM emulates ring 0 (430 ns an instruction); TSC 2.45 GHz; Linux 6.18.5
Guest  ring 3, 8 vCPUs on 2 CPUs (overcommit 4.00×), 64 MiB; kicks by pio
Load   hold 100 ns, think 100 ns, 1 s for each lock

lock         throughput  relative  wait p50   p99  p99.9    max  fairness  CPU used   halts  kicks  exclusion
qspinlock        10 k/s     1.00×    900 ns  1 ms  12 ms  30 ms     0.999      50 %       0      0  ok
pvqspinlock    2.14 M/s      214×    900 ns  1 ms  12 ms  30 ms     0.999      98 %  12.3 k   12 k  ok
busted           10 k/s     1.00×    900 ns  1 ms  12 ms  30 ms     0.999         –       0      0  BROKEN: 123 violations
tas                   –         –         –     –      –      –         –         –       –      –  run failed: timeout

With 8 vCPUs on 2 CPUs, pvqspinlock did 214× the work of qspinlock: ";
    assert!(text.starts_with(expected), "{text}");
}

#[test]
fn nothing_is_relative_to_a_failed_run_or_to_nothing() {
    for first in [
        failed(run(LockKind::Tas, 8, 2, 1), Exit::Panic),
        run(LockKind::Tas, 8, 2, 0),
    ] {
        let text = summary(&results(vec![first, run(LockKind::Mcs, 8, 2, 100)]));
        assert!(
            !text
                .lines()
                .filter(|line| line.starts_with("mcs"))
                .any(|line| line.contains('×')),
            "{text}"
        );
        assert!(!text.contains("inf") && !text.contains("NaN"), "{text}");
    }
}

#[test]
fn a_lock_that_nobody_took_was_not_tested() {
    let text = summary(&results(vec![run(LockKind::Mcs, 8, 2, 0)]));
    let row = text.lines().find(|line| line.starts_with("mcs")).unwrap();
    assert!(row.ends_with("  not tested"), "{text}");
}

#[test]
fn a_ping_pong_shows_what_a_hand_off_costs() {
    let run = Run {
        lock: None,
        workload: Workload::PingPong,
        ..run(LockKind::Tas, 4, 2, 10_000)
    };
    // Two pairs: 10 000 hand-offs in a second are 5 000 for each pair.
    assert_eq!(per_hand_off(&run), Some(200_000));
    // There are 128 pairs at most, and the others watch.
    let crowd = Run {
        vcpus: 1000,
        ..run.clone()
    };
    assert_eq!(per_hand_off(&crowd), Some(12_800_000));
    let text = summary(&results(vec![run.clone()]));
    assert!(text.contains("10 k/s  200 µs"), "{text}");
    let failed = failed(run, Exit::Timeout);
    assert_eq!(per_hand_off(&failed), None);
    assert!(summary(&results(vec![failed])).contains("timeout"));
}

#[test]
fn other_workloads_get_a_line() {
    let idle = Run {
        lock: None,
        workload: Workload::Idle,
        ..run(LockKind::Tas, 1, 1, 0)
    };
    let text = summary(&results(vec![idle]));
    assert!(
        text.ends_with("workload 'idle': completed; its first vCPU ran after 3 ms\n"),
        "{text}"
    );
}

#[test]
fn exits_are_shown_by_reason() {
    use crate::exit_stats::{Reason, Tally, VcpuExits};
    let exits = |halts, kicks| {
        let tally = |count| Tally {
            count,
            outside_ns: count * 5_000,
        };
        VcpuExits::from_iter([(Reason::Halt, tally(halts)), (Reason::Kick, tally(kicks))])
    };
    let run = Run {
        exits: Some(vec![exits(3, 0), exits(1, 0)]),
        ..run(LockKind::Mcs, 2, 2, 100)
    };
    let expected = "
Exits of lock 'mcs':

exit  count  least of a vCPU  most  time outside  each
hlt       4                1     3         20 µs  5 µs
";
    let text = summary(&results(vec![run]));
    assert!(text.ends_with(expected), "{text}");
}

#[test]
fn absurd_numbers_are_shown_all_the_same() {
    let mut run = run(LockKind::Tas, 1, 1, u64::MAX);
    (run.vcpus, run.pcpus) = (u32::MAX, usize::MAX);
    (run.measured.elapsed_ns, run.cpu_ns) = (1, Some(u64::MAX));
    assert!(summary(&results(vec![run.clone(), run])).lines().count() > 5);
    assert_eq!(summary(&results(Vec::new())), "");
}

#[test]
fn what_frames_cost_is_shown_beside_others() {
    let costs = |mm_ns, buddy_system_allocator_ns, stack_ns| crate::results::AllocCosts {
        mm_ns,
        buddy_system_allocator_ns,
        stack_ns,
        of_buddy_system_allocator: mm_ns.zip(buddy_system_allocator_ns).map(|(mm, peer)| mm / peer),
        of_stack: mm_ns.zip(stack_ns).map(|(mm, stack)| mm / stack),
    };
    let patterns = |mm_ns| crate::results::AllocPatterns {
        pair: costs(mm_ns, Some(8.0), Some(1.0)),
        burst: costs(None, Some(9.0), None),
    };
    let mut run = run(LockKind::PvQSpinlock, 8, 2, 1_000);
    (run.lock, run.workload) = (None, Workload::Alloc);
    run.mm = Some(crate::results::Memory {
        alloc: Some(crate::results::Alloc {
            rounds: 9,
            turn_ns: 1_000_000,
            one: patterns(Some(2.0)),
            all: patterns(Some(4.04)),
        }),
        ..crate::results::Memory::new(&Default::default())
    });
    let text = alloc::costs(&[run]);
    let rows: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows.len(), 6, "{text}");
    let row = |row: usize, text: &str| assert!(rows[row].join(" ").ends_with(text), "{text} in {rows:?}");
    row(2, "by 1 vCPU, one by one 2.0 ns 8.0 ns 0.25× 1.0 ns 2.00×");
    row(4, "by all 8, one by one 4.0 ns 8.0 ns 0.51× 1.0 ns 4.04×");
    row(5, "by all 8, many at once – 9.0 ns – – –");
}

#[test]
fn memory_is_shown_with_its_views_if_they_are_asked_for() {
    let mut zone = abi::memory::ZoneReport {
        managed: 100,
        free: 77,
        free_blocks: [
            [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            [0, 38, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            [0; 11],
        ],
        pageblocks: [1, 2, 0],
        ..Default::default()
    };
    zone.events[mm::Event::PgmigrateFail as usize] = 3;
    let report = abi::memory::MemoryReport {
        unreturned: 0,
        zones: [zone, Default::default()],
        window: [7; abi::memory::WINDOW_EVENTS],
        ..Default::default()
    };
    let mut run = run(LockKind::PvQSpinlock, 2, 2, 1_000);
    (run.lock, run.workload) = (None, Workload::Alloc);
    run.mm = Some(crate::results::Memory::new(&report));
    let text = memory::allocations(std::slice::from_ref(&run));
    assert!(text.contains("alloc p50") && text.ends_with(" ok\n"), "{text}");
    assert_eq!(memory::views(&run), "");
    assert_eq!(alloc::costs(std::slice::from_ref(&run)), "");
    run.exits = Some(Vec::new());
    let views = memory::views(&run);
    let expected = [
        "Node 0, zone  DMA32  1  38  0  0  0  0  0  0  0  0  0\n",
        "Node 0, zone  DMA32    Unmovable  1   0  0  0  0  0  0  0  0  0  0  1\n",
    ];
    for line in expected {
        assert!(views.contains(line), "{line} in {views}");
    }
    let counted = |line: &str| line.split_whitespace().eq(["nr_free_pages", "77"]);
    assert!(views.lines().any(counted), "{views}");
    // A zone without memory is not shown.
    assert!(!views.contains("Normal"), "{views}");
    // The last vCPU moves what the others use.
    run.measured.per_vcpu = vec![100, 200, 5_000];
    run.measured.elapsed_ns = 1_000_000_000;
    let moved = memory::migrations(std::slice::from_ref(&run));
    let row: Vec<&str> = moved.lines().last().expect("a row").split_whitespace().collect();
    assert_eq!(&row[..7], ["5", "k/s", "3", "7", "7", "300", "/s"], "{moved}");
    run.measured.exclusion_violations = 1;
    assert!(memory::migrations(std::slice::from_ref(&run)).contains("BROKEN: 1 violation"));
    assert!(memory::allocations(&[run]).contains("BROKEN: 1 violation"));
}
