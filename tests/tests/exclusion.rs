//! Every lock excludes, whatever the overcommit; the broken one is caught by the same check.

use std::time::Duration;

use abi::config::{LockKind, Workload};
use integration_tests::{acquisitions, alone, complete, config, kicks, kvm, violations};
use vmm::Spin;

#[test]
fn every_lock_excludes_at_every_overcommit() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    for lock in LockKind::ALL
        .iter()
        .copied()
        .filter(|lock| *lock != LockKind::Busted)
    {
        for (vcpus, pcpus) in [(1, 1), (2, 1), (2, 2), (3, 2), (5, 1), (8, 2)] {
            let case = format!("{} with {vcpus} vCPUs on {pcpus} CPUs", lock.name());
            let mut config = config(Workload::Lock, lock, vcpus, pcpus);
            // On a busy machine a short run may be over before any vCPU has begun.
            let progress = [150, 1000, 8000].into_iter().any(|milliseconds| {
                config.duration = Duration::from_millis(milliseconds);
                let report = complete(&config);
                assert_eq!(violations(&report), 0, "{case}");
                acquisitions(&report) > 0
            });
            assert!(progress, "{case} got nowhere");
        }
    }
}

/// With a budget of nothing every waiter halts at once: the kick and halt path is all there is.
#[test]
fn paravirtual_locks_exclude_when_every_waiter_halts() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    for (kick, vcpus) in kicks()
        .into_iter()
        .flat_map(|kick| [2, 4, 16].map(|vcpus| (kick, vcpus)))
    {
        let mut config = config(Workload::Lock, LockKind::PvQSpinlock, vcpus, 2);
        config.kick = kick;
        config.spin = Spin::Fixed(Duration::ZERO);
        config.duration = Duration::from_millis(500);
        let report = complete(&config);
        assert_eq!(violations(&report), 0, "{kick:?}, {vcpus} vCPUs");
        assert!(acquisitions(&report) > 0, "{kick:?}: {vcpus} vCPUs got nowhere");
        // A waiter that finds the lock taken halts; over half a second that happens, whoever runs when.
        assert!(
            report.vcpus.iter().any(|vcpu| vcpu.halts > 0),
            "nobody halted: the path was not tested"
        );
    }
}

/// The negative control: the same check must find a lock that does not exclude.
#[test]
fn the_broken_lock_is_caught() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let mut config = config(Workload::Lock, LockKind::Busted, 8, 2);
    // Two vCPUs must meet between the test and the set. How soon they do is chance: a slow machine gets more
    // time.
    let caught = (0..6).any(|attempt| {
        config.duration = Duration::from_millis(250 << attempt);
        violations(&complete(&config)) > 0
    });
    assert!(
        caught,
        "a lock that is broken on purpose passed the check for exclusion"
    );
}

/// Nobody starves at sixteen vCPUs a CPU and more.
#[test]
fn with_64_vcpus_everybody_gets_the_lock() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let mut config = config(Workload::Lock, LockKind::PvQSpinlock, 64, 2);
    // A vCPU that is never scheduled in a run cannot be blamed on the lock: a slow machine gets more time.
    let idle = (0..3).map(|attempt| {
        config.duration = Duration::from_secs(5 << attempt);
        let report = complete(&config);
        assert_eq!(violations(&report), 0);
        report.vcpus.iter().filter(|vcpu| vcpu.acquisitions == 0).count()
    });
    let idle: Vec<_> = idle.take_while(|idle| *idle > 0).collect();
    assert!(
        idle.len() < 3,
        "vCPUs without a single acquisition, run by run: {idle:?}"
    );
}
