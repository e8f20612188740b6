//! The library can be used many times in one process: no thread, descriptor or memory is left behind.

use std::fs;
use std::time::{Duration, Instant};

use abi::config::{LockKind, Workload};
use integration_tests::{alone, complete, config, kvm, run};
use vmm::Ended;

/// What a process holds.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    threads: usize,
    descriptors: usize,
    mappings: usize,
}

impl Held {
    fn now() -> Self {
        let entries = |path| fs::read_dir(path).map(Iterator::count).unwrap_or_default();
        Self {
            threads: entries("/proc/self/task"),
            descriptors: entries("/proc/self/fd"),
            mappings: fs::read_to_string("/proc/self/maps")
                .map(|maps| maps.lines().count())
                .unwrap_or_default(),
        }
    }
}

/// Resident memory in KiB.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap_or_default();
    line.split_whitespace()
        .next()
        .and_then(|kib| kib.parse().ok())
        .unwrap_or_default()
}

/// This file has one test, so that nothing else in the process comes and goes.
#[test]
fn two_hundred_guests_leave_nothing_behind() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    // With all the threads there can be.
    let mut busy = config(Workload::Spin, LockKind::Tas, 2, 2);
    busy.duration = Duration::from_millis(5);
    (busy.neighbours, busy.check_hints) = (2, true);
    busy.preempt = "any:100us:100us".parse().ok();
    let mut idle = config(Workload::Idle, LockKind::Tas, 4, 2);
    let mut hang = config(Workload::Hang, LockKind::Tas, 4, 2);
    hang.timeout = Duration::from_millis(30);
    let mut launch_both = |count: usize| {
        for i in 0..count {
            // Every tenth one has to be stopped, and every fourth one crashes.
            idle.workload = if i % 4 == 3 {
                Workload::Panic
            } else {
                Workload::Idle
            };
            if i % 10 == 9 {
                assert_eq!(run(&hang).ended, Ended::Timeout);
            } else if i % 10 == 7 {
                complete(&busy);
            } else if idle.workload == Workload::Panic {
                assert_eq!(run(&idle).ended, Ended::Panic);
            } else {
                complete(&idle);
            }
        }
    };
    // What is allocated once for all time: handlers, caches, the allocator's arenas.
    launch_both(20);
    let (before, resident_before) = (Held::now(), resident());
    launch_both(200);
    // A thread that was joined may take a moment to vanish from /proc.
    let patience = Instant::now() + Duration::from_secs(60);
    while Held::now().threads != before.threads && Instant::now() < patience {
        std::thread::yield_now();
    }
    let after = Held::now();
    assert_eq!(
        (after.threads, after.descriptors),
        (before.threads, before.descriptors)
    );
    assert!(
        after.mappings <= before.mappings + 8,
        "mappings grew from {} to {}",
        before.mappings,
        after.mappings
    );
    let grown = resident().saturating_sub(resident_before);
    assert!(grown < 16 << 10, "{grown} KiB more are resident after 200 guests");
}
