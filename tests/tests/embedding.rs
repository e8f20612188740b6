//! What a program that embeds the library may ask of it, and what it is told where the host cannot.

use std::time::Duration;

use abi::config::{LockKind, Workload};
use integration_tests::{complete, config, kvm, run};
use vmm::{Config, Ended, Error, Io, Kernel, PlantedFault, Preempt, Target, Vm};

/// The command line takes no time longer than a day; the library takes any.
#[test]
fn times_without_end_are_never_reached() {
    if !kvm() {
        return;
    }
    let preempted = |every, length| Config {
        duration: Duration::from_millis(50),
        timeout: Duration::MAX,
        halt_poll: Duration::MAX,
        preempt: Some(Preempt {
            target: Target::Any,
            every,
            length,
        }),
        ..config(Workload::Lock, LockKind::PvQSpinlock, 4, 2)
    };
    let often = Duration::from_millis(1);
    complete(&preempted(Duration::MAX, often));
    // A vCPU that is never let go keeps the others waiting.
    let outcome = run(&Config {
        timeout: Duration::from_secs(1),
        ..preempted(often, Duration::MAX)
    });
    assert_eq!(outcome.ended, Ended::Timeout, "{}", outcome.detail);
}

#[test]
fn a_host_without_room_for_a_vcpu_is_an_error_and_not_an_outcome() {
    if !kvm() {
        return;
    }
    // The first one, for which the others wait, and others, which it does not wait for.
    for vcpu in 0..4 {
        let config = Config {
            planted_fault: Some(PlantedFault::NoRoomForVcpu(vcpu)),
            ..config(Workload::Idle, LockKind::PvQSpinlock, 4, 2)
        };
        let result = Vm::new(&config, Kernel::embedded()).and_then(|vm| vm.run(Io::default()));
        match result {
            Err(Error::Host(why)) => assert!(why.contains("no room for a vCPU"), "{why}"),
            other => panic!("vCPU {vcpu}: {other:?}"),
        }
    }
}
