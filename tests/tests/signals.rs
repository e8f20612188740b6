//! No signal to a vCPU is lost, whenever it comes.

use std::time::Duration;

use abi::config::{LockKind, Workload};
use integration_tests::{alone, config, kvm, run};
use vmm::{Config, Ended, PlantedFault, Preempt, Target};

/// Times that a vCPU is got out of the guest and sent back.
const STOPS: u64 = 100_000;

/// One vCPU that never leaves the guest by itself, stopped for next to nothing all the time: signals come
/// at any moment of its way from the last look to `KVM_RUN`, and a single one that is lost would leave it
/// there.
fn hammered() -> Config {
    Config {
        preempt: Some(Preempt {
            target: Target::Any,
            every: Duration::from_micros(10),
            length: Duration::from_nanos(1),
        }),
        duration: Duration::from_secs(5),
        ..config(Workload::Spin, LockKind::Tas, 1, 2)
    }
}

#[test]
fn a_hundred_thousand_stops_lose_no_signal() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let mut config = hammered();
    let mut stops = 0;
    while stops < STOPS {
        config.seed += 1;
        let outcome = run(&config);
        assert_eq!(
            outcome.ended,
            Ended::Completed,
            "after {stops} stops: {}",
            outcome.detail
        );
        let hits = outcome.preemptions;
        assert_eq!((hits.holder, hits.waiter), (0, 0));
        assert!(hits.other > 0, "nothing was stopped in {:?}", config.duration);
        stops += hits.other;
    }
}

/// The negative control: a handler that does not set `immediate_exit` loses a signal soon.
#[test]
fn a_handler_without_immediate_exit_is_caught() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let mut config = hammered();
    config.planted_fault = Some(PlantedFault::SignalWithoutImmediateExit);
    // How soon, is chance.
    let caught = [20, 60, 180].into_iter().any(|seconds| {
        config.duration = Duration::from_secs(seconds);
        let outcome = run(&config);
        outcome.ended == Ended::Error && outcome.detail.contains("did not come out of KVM")
    });
    assert!(caught, "signals were lost and nobody noticed");
}
