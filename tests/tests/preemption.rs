//! vCPUs are preempted as asked, and the guest is told.

use std::time::{Duration, Instant};

use abi::config::{LockKind, Workload};
use abi::histogram::lowest;
use abi::report::{Histogram, LogEntry, VcpuReport, log_kind, seen};
use integration_tests::{PATIENCE, alone, config, kvm, run};
use vmm::{Config, Ended, Outcome, PlantedFault, Preempt, Preemptions, Ring, Target};

const EVERY: Duration = Duration::from_millis(1);
const LENGTH: Duration = Duration::from_millis(4);

/// The lock workload, its vCPUs preempted.
fn preempted(target: Target, lock: LockKind) -> Config {
    Config {
        duration: Duration::from_millis(300),
        preempt: Some(Preempt {
            target,
            every: EVERY,
            length: LENGTH,
        }),
        ..config(Workload::Lock, lock, 4, 2)
    }
}

/// Every vCPU spins, and never leaves the guest by itself.
fn spinning(vcpus: u32, pcpus: usize) -> Config {
    config(Workload::Spin, LockKind::Tas, vcpus, pcpus)
}

fn total(hits: Preemptions) -> u64 {
    hits.holder + hits.waiter + hits.other
}

/// Runs for longer and longer, since a busy machine may not get round to much, until `enough`.
fn until(config: &mut Config, enough: impl Fn(&Outcome) -> bool) -> Outcome {
    let end = Instant::now() + PATIENCE;
    loop {
        let outcome = run(config);
        assert_eq!(outcome.ended, Ended::Completed, "{config:?}: {}", outcome.detail);
        assert_eq!(outcome.rejected, 0, "an honest guest was refused: {config:?}");
        if enough(&outcome) {
            return outcome;
        }
        assert!(Instant::now() < end, "{config:?}: {:?}", outcome.preemptions);
        config.duration *= 2;
    }
}

/// The times that were about as long as a preemption or longer, on the guest's own clock: how many, and
/// their sum. `pick` says which times.
fn long_times(outcome: &Outcome, pick: fn(&VcpuReport) -> &Histogram) -> (u64, Duration) {
    let report = outcome.report.as_ref().expect("a complete run has a report");
    let (mut times, mut cycles) = (0, 0);
    let least = LENGTH.as_nanos() as u64 * outcome.tsc_khz / 1_000_000;
    for vcpu in &report.vcpus {
        for (bucket, count) in pick(vcpu).iter().enumerate() {
            // A bucket is at most a thirty-second of its values wide.
            if lowest(bucket) >= least / 32 * 31 {
                times += count;
                cycles += count * lowest(bucket);
            }
        }
    }
    (times, Duration::from_nanos(cycles * 1_000_000 / outcome.tsc_khz))
}

/// No more than fit into the time the workload took, at the shortest pauses that are ever drawn.
fn at_most(outcome: &Outcome) -> u64 {
    let cycles = outcome
        .report
        .as_ref()
        .map_or(0, |report| report.run.elapsed_cycles);
    let elapsed = Duration::from_secs_f64(cycles as f64 / outcome.tsc_khz as f64 / 1000.0);
    (elapsed.as_nanos() / (EVERY / 2 + LENGTH).as_nanos()) as u64 + 1
}

#[test]
fn holders_are_stopped_inside_their_critical_sections() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    for lock in [
        LockKind::Tas,
        LockKind::QSpinlock,
        LockKind::PvQSpinlock,
        LockKind::PvQSpinlockLinux,
    ] {
        let mut config = preempted(Target::Holder, lock);
        let outcome = until(&mut config, |outcome| outcome.preemptions.holder >= 10);
        let hits = outcome.preemptions;
        assert_eq!((hits.waiter, hits.other), (0, 0), "{lock:?}: {hits:?}");
        assert!(hits.holder <= at_most(&outcome), "{lock:?}: {hits:?}");
        // Each one is a critical section that lasted that long, on the guest's own clock.
        let (long, _) = long_times(&outcome, |vcpu| &vcpu.held);
        assert!(
            long >= hits.holder,
            "{lock:?}: {hits:?}, but {long} long critical sections"
        );
    }
}

#[test]
fn waiters_are_stopped_while_they_wait() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    for lock in [
        LockKind::Tas,
        LockKind::Ticket,
        LockKind::Mcs,
        LockKind::QSpinlock,
        LockKind::PvQSpinlock,
    ] {
        let mut config = preempted(Target::Waiter, lock);
        let outcome = until(&mut config, |outcome| outcome.preemptions.waiter >= 10);
        let hits = outcome.preemptions;
        assert_eq!((hits.holder, hits.other), (0, 0), "{lock:?}: {hits:?}");
        assert!(hits.waiter <= at_most(&outcome), "{lock:?}: {hits:?}");
        // A wait may be long enough to be hit more than once.
        let (_, waited) = long_times(&outcome, |vcpu| &vcpu.wait);
        assert!(
            waited >= LENGTH * hits.waiter as u32 * 31 / 32,
            "{lock:?}: {hits:?}, but waits of {waited:?}"
        );
    }
}

/// The negative control: a VMM that counts preemptions, but lets the vCPU go on, must be found out by the
/// guest's clock.
#[test]
fn preemptions_that_are_only_counted_are_caught() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let mut config = preempted(Target::Holder, LockKind::Tas);
    config.planted_fault = Some(PlantedFault::CountWithoutStopping);
    let outcome = until(&mut config, |outcome| outcome.preemptions.holder >= 20);
    let (long, _) = long_times(&outcome, |vcpu| &vcpu.held);
    assert!(
        long < outcome.preemptions.holder,
        "{long} critical sections were long all the same"
    );
}

#[test]
fn any_stops_vcpus_wherever_they_are() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    // Nobody takes a lock, and nobody leaves the guest but for the signal.
    let mut config = spinning(2, 2);
    config.preempt = preempted(Target::Any, LockKind::Tas).preempt;
    let outcome = until(&mut config, |outcome| outcome.preemptions.other >= 10);
    assert_eq!((outcome.preemptions.holder, outcome.preemptions.waiter), (0, 0));
    assert!(outcome.preemptions.other <= at_most(&outcome));
    // Under a lock with long critical sections, holders and waiters are hit as well.
    let mut config = preempted(Target::Any, LockKind::QSpinlock);
    (config.hold, config.think) = (Duration::from_micros(200), Duration::ZERO);
    until(&mut config, |outcome| {
        outcome.preemptions.holder > 0 && outcome.preemptions.waiter > 0
    });
}

/// vCPUs that are hardly ever in the guest, and mostly parked, are kicked and preempted at the same time:
/// no kick is lost.
#[test]
fn preemption_loses_no_kick() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let mut config = preempted(Target::Any, LockKind::Tas);
    config.workload = Workload::PingPong;
    config.rounds = 2000;
    config.preempt = Some(Preempt {
        target: Target::Any,
        every: Duration::from_micros(200),
        length: Duration::from_micros(50),
    });
    let outcome = run(&config);
    assert_eq!(outcome.ended, Ended::Completed, "{}", outcome.detail);
}

/// The moments at which the guest was told that a vCPU stops running, for `reason`.
fn told(log: &[LogEntry], reason: u32) -> u64 {
    let about = |entry: &&LogEntry| entry.kind == log_kind::HINT && (entry.what >> 16) & reason != 0;
    log.iter().filter(about).count() as u64
}

fn watched(planted_fault: Option<PlantedFault>) -> Config {
    Config {
        duration: Duration::from_millis(300),
        preempt: preempted(Target::Any, LockKind::Tas).preempt,
        planted_fault,
        ..config(Workload::Observe, LockKind::Tas, 2, 2)
    }
}

#[test]
fn the_guest_sees_vcpus_that_are_stopped() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let count = |outcome: &Outcome| told(&outcome.report.as_ref().unwrap().log, seen::STOPPED);
    let outcome = until(&mut watched(None), |outcome| count(outcome) >= 10);
    assert!(count(&outcome) <= 2 * total(outcome.preemptions));
}

/// The negative control: a VMM that does not tell.
#[test]
fn vcpus_stopped_in_secret_are_caught() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let mut config = watched(Some(PlantedFault::StopInSecret));
    let outcome = until(&mut config, |outcome| total(outcome.preemptions) >= 20);
    assert_eq!(told(&outcome.report.unwrap().log, seen::STOPPED), 0);
}

/// What the guest sees, against the kernel's own records: all that the VMM does, and where KVM tells, what
/// the host does.
#[test]
fn hints_agree_with_the_kernels_records() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let mut config = watched(None);
    config.check_hints = true;
    let long = Duration::from_millis(20);
    let checked = |outcome: &Outcome| outcome.hints.clone().expect("it was asked for");
    let outcome = until(&mut config, |outcome| {
        checked(outcome).map_or(true, |accuracy| accuracy.stopped.of >= long)
    });
    let accuracy = match checked(&outcome) {
        Ok(accuracy) => accuracy,
        Err(why) => return println!("not checked: {why}"),
    };
    // At the edges, moments differ by the error of the clocks' join.
    let (told, of) = (accuracy.stopped.told, accuracy.stopped.of);
    assert!(told >= of.mul_f64(0.9), "{accuracy:?}");

    // The host's own preemptions, with twice as many vCPUs as CPUs.
    config.preempt = None;
    config.vcpus = 4;
    let outcome = until(&mut config, |outcome| {
        checked(outcome).is_ok_and(|accuracy| accuracy.preempted.of >= long)
    });
    let accuracy = checked(&outcome).unwrap();
    assert!(accuracy.preemptions > 0, "{accuracy:?}");
    // A KVM that runs ring 0 at speed is a stock one, and tells; a software KVM may not.
    if outcome.ring == Ring::Zero {
        assert!(
            accuracy.preempted.told >= accuracy.preempted.of.mul_f64(0.5),
            "{accuracy:?}"
        );
    }
    assert!(
        accuracy.wrong <= accuracy.claimed.mul_f64(0.5) + long,
        "{accuracy:?}"
    );
}

/// KVM's steal time, read by the guest, is about the delay that the host's scheduler counts.
#[test]
fn the_guest_is_told_of_stolen_time() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let mut config = spinning(4, 1);
    config.duration = Duration::from_millis(500);
    let outcome = run(&config);
    if !outcome.steal_time {
        return println!("this host's KVM has no steal time");
    }
    let report = outcome.report.expect("spinning completes");
    // Four spin on one CPU: each waits for most of the time.
    for vcpu in &report.vcpus {
        assert!(vcpu.stolen_ns >= 100_000_000, "{} ns", vcpu.stolen_ns);
    }
    let guest: u64 = report.vcpus.iter().map(|vcpu| vcpu.stolen_ns).sum();
    let host = outcome.host_time.and_then(|time| time.steal);
    let host = host
        .expect("a kernel that has steal time has scheduler statistics")
        .as_nanos() as u64;
    assert!(guest <= host + host / 10, "{guest} ns of {host} ns");
}

/// Of two CPUs that eight threads want, two vCPUs get a quarter: less than half in any case.
#[test]
fn neighbours_take_their_share() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    for pin in [false, true] {
        let mut config = spinning(2, 2);
        config.pin = pin;
        config.neighbours = 6;
        config.duration = Duration::from_secs(1);
        let outcome = run(&config);
        assert_eq!(outcome.ended, Ended::Completed, "{}", outcome.detail);
        let cpus = config.pcpus.len().min(2) as u32;
        let capacity = config.duration * cpus;
        let used = outcome.host_time.expect("spinning is measured").cpu;
        assert!(
            used < capacity / 2,
            "{used:?} of {capacity:?} in spite of neighbours"
        );
    }
}

/// The negative control: without neighbours, and left alone by everybody else, vCPUs get more than that.
#[test]
fn without_neighbours_there_is_more() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let share = |neighbours| {
        let mut config = spinning(1, 1);
        config.neighbours = neighbours;
        config.duration = Duration::from_millis(500);
        run(&config).host_time.expect("spinning is measured").cpu
    };
    // Others may be busy here as well; not always, one hopes, and then both are slowed down.
    let more = (0..10).any(|_| share(7).mul_f64(1.5) < share(0));
    assert!(more, "neighbours made no difference");
}

/// However long a preemption is to be, a stop of the run ends it.
#[test]
fn a_stop_ends_a_preemption_at_once() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    for target in [Target::Holder, Target::Waiter, Target::Any] {
        let mut config = preempted(target, LockKind::Tas);
        config.duration = Duration::from_secs(3600);
        config.preempt = Some(Preempt {
            target,
            every: Duration::from_millis(1),
            length: Duration::from_secs(3600),
        });
        // On a busy machine it takes a while until somebody is hit.
        let hit = [2, 8, 32, 128].into_iter().any(|seconds| {
            config.timeout = Duration::from_secs(seconds);
            let start = Instant::now();
            let outcome = run(&config);
            assert_eq!(outcome.ended, Ended::Timeout, "{}", outcome.detail);
            assert!(!outcome.detail.contains("inside KVM"), "{}", outcome.detail);
            let late = start.elapsed().saturating_sub(config.timeout);
            assert!(late < Duration::from_secs(60), "stopped {late:?} late");
            assert!(total(outcome.preemptions) <= 1, "{:?}", outcome.preemptions);
            total(outcome.preemptions) == 1
        });
        assert!(hit, "{target:?}: nobody was hit");
    }
}

/// What comes before the measurement, such as the boot, is not disturbed; nor are workloads that measure
/// nothing.
#[test]
fn without_a_measurement_nobody_is_preempted() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let mut config = preempted(Target::Any, LockKind::Tas);
    config.workload = Workload::Hang;
    config.timeout = Duration::from_secs(1);
    let outcome = run(&config);
    assert_eq!((outcome.ended, total(outcome.preemptions)), (Ended::Timeout, 0));
}

#[test]
fn a_guest_that_takes_what_is_not_offered_is_refused() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let outcome = run(&config(Workload::BadPreempt, LockKind::Tas, 2, 2));
    assert_eq!((outcome.ended, outcome.rejected), (Ended::Completed, 3));
    assert_eq!(outcome.preemptions, Preemptions::default());
}
