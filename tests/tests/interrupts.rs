//! No interrupt is lost, none is taken for a kick, and none spoils what it interrupts.

use std::time::Duration;

use abi::config::{LockKind, Workload};
use integration_tests::{acquisitions, alone, complete, config, kicks, kvm, run, violations};
use pvlock::Event;
use vmm::{Config, Ended, GuestReport, Kick, PlantedFault, Preempt, Ring, Spin, Target};

/// Times that things which race are made to.
const ROUNDS: u64 = 100_000;

fn workload(workload: Workload, vcpus: u32) -> Config {
    Config {
        rounds: ROUNDS,
        ..config(workload, LockKind::PvQSpinlock, vcpus, 2)
    }
}

fn intruders(report: &GuestReport) -> u64 {
    report.vcpus.iter().map(|vcpu| vcpu.intruders).sum()
}

/// Each hand-off is an interrupt and a kick, against the other side's HLT; the guest checks that each comes
/// once.
#[test]
fn a_hundred_thousand_interrupts_and_kicks_race_halts_and_none_is_lost() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let mut config = workload(Workload::IpiRace, 8);
    // About as long as the way to a HLT.
    config.hold = Duration::from_micros(10);
    config.think = Duration::from_micros(20);
    let report = complete(&config);
    assert!(acquisitions(&report) >= ROUNDS, "only {}", acquisitions(&report));
    let halts: u64 = report.vcpus.iter().map(|vcpu| vcpu.halts).sum();
    assert!(halts > ROUNDS / 10, "only {halts} halts: nothing was raced");
}

/// Likewise with the other ways to kick, one of which also has another way to interrupt; and while vCPUs are
/// taken out of the guest, which uses the same signal.
#[test]
fn none_is_lost_however_kicks_travel_and_while_vcpus_are_stopped() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let mut config = workload(Workload::IpiRace, 8);
    (config.rounds, config.hold) = (ROUNDS / 10, Duration::from_micros(10));
    for kick in kicks() {
        config.kick = kick;
        assert!(acquisitions(&complete(&config)) >= config.rounds);
    }
    config.kick = Kick::Pio;
    config.preempt = Some(Preempt {
        target: Target::Any,
        every: Duration::from_micros(200),
        length: Duration::from_micros(50),
    });
    assert!(acquisitions(&complete(&config)) >= config.rounds);
}

/// Where KVM handles halts, interrupts are MSIs to local APICs: a shorter round of the rest of this file.
#[test]
fn msis_are_interrupts_like_others() {
    if !kvm() || !kicks().contains(&Kick::Kvm) {
        return;
    }
    let _alone = alone();
    let guest = |kind, vcpus, rounds| Config {
        kick: Kick::Kvm,
        rounds,
        ..workload(kind, vcpus)
    };
    let report = complete(&guest(Workload::Interrupted, 2, 5000));
    assert_eq!(intruders(&report), 0, "values that have changed");
    let report = complete(&guest(Workload::NestedLocks, 8, 300));
    assert_eq!(violations(&report), 0);
    let nested: u64 = (report.vcpus.iter())
        .map(|vcpu| vcpu.events[Event::LockUseNode4 as usize])
        .sum();
    assert!(nested >= 300, "the fourth node was used {nested} times");
    let report = complete(&Config {
        duration: Duration::from_secs(2),
        ..guest(Workload::Ticks, 8, 0)
    });
    assert!(report.vcpus.iter().all(|vcpu| vcpu.acquisitions == 500));
    let report = complete(&guest(Workload::Shootdown, 3, 100));
    assert_eq!(intruders(&report), 0, "stale reads");
    let halts: u64 = report.vcpus.iter().map(|vcpu| vcpu.halts).sum();
    assert!(halts > 0, "nobody was asleep");
    assert_eq!(run(&guest(Workload::BadInterrupts, 3, 0)).rejected, 71);
}

/// The negative controls: a VMM that forgets, at a HLT, what came before it.
#[test]
fn a_vmm_that_forgets_pending_interrupts_or_kicks_is_caught() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    for fault in [
        PlantedFault::ForgetPendingInterrupts,
        PlantedFault::ForgetLatchedKicks,
    ] {
        let mut config = workload(Workload::IpiRace, 2);
        config.rounds = 0;
        config.duration = Duration::from_secs(3600);
        config.planted_fault = Some(fault);
        config.think = Duration::from_micros(150);
        // The game stops for good at the first one that is forgotten; how soon that is, is chance.
        let caught = [2, 20, 80, 320].into_iter().any(|seconds| {
            config.timeout = Duration::from_secs(seconds);
            let outcome = run(&config);
            outcome.ended == Ended::Timeout && outcome.detail.contains("vCPUs 0-1: halted")
        });
        assert!(caught, "{fault:?}: nobody noticed");
    }
}

#[test]
fn code_that_is_interrupted_a_hundred_thousand_times_keeps_its_registers_fpu_and_red_zone() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let report = complete(&workload(Workload::Interrupted, 2));
    assert!(acquisitions(&report) >= ROUNDS, "only {}", acquisitions(&report));
    assert_eq!(intruders(&report), 0, "values that have changed");
}

/// The negative controls for it.
#[test]
fn handlers_that_spoil_the_red_zone_or_the_fpu_are_caught() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    for fault in [PlantedFault::NoRedZone, PlantedFault::NoFpu] {
        let mut config = workload(Workload::Interrupted, 2);
        config.rounds = 1000;
        config.planted_fault = Some(fault);
        let outcome = run(&config);
        // A guest whose red zone is not its own may also crash.
        let crashed = matches!(outcome.ended, Ended::Panic | Ended::Fault);
        let spoilt = outcome
            .report
            .as_ref()
            .is_some_and(|report| intruders(report) > 0);
        assert!(
            crashed || spoilt,
            "{fault:?}: nobody noticed ({:?})",
            outcome.ended
        );
    }
}

/// Locks in tasks, in handlers of soft and of hard interrupts and in those of NMIs, waited for one inside the
/// other.
#[test]
fn locks_exclude_in_every_context_at_every_nesting_level() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let mut config = workload(Workload::NestedLocks, 8);
    config.rounds = 1000;
    config.hold = Duration::from_micros(1);
    config.duration = Duration::from_secs(2);
    let mut entered = 0;
    // Waiters that both spin and sleep, and waiters that only sleep.
    for spin in [Duration::from_micros(50), Duration::ZERO].into_iter().cycle() {
        config.spin = Spin::Fixed(spin);
        let report = complete(&config);
        assert_eq!(violations(&report), 0);
        let count =
            |event: Event| -> u64 { report.vcpus.iter().map(|vcpu| vcpu.events[event as usize]).sum() };
        for event in [Event::LockUseNode2, Event::LockUseNode3, Event::LockUseNode4] {
            assert!(
                count(event) >= config.rounds,
                "{}: {}",
                event.name(),
                count(event)
            );
        }
        assert_eq!(
            count(Event::LockNoNode),
            0,
            "contexts nest deeper than there are nodes"
        );
        entered += acquisitions(&report);
        if spin.is_zero() {
            // What is missing comes faster at random.
            (config.rounds, config.duration) = (1, Duration::from_secs(5));
            if entered >= ROUNDS {
                break;
            }
        }
    }
}

/// A negative control for it: an NMI may have to wait inside KVM. Where ring 0 is emulated, it often does.
#[test]
fn a_vmm_that_sleeps_while_kvm_has_an_nmi_is_caught_where_nmis_wait() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let mut config = workload(Workload::NestedLocks, 4);
    config.spin = Spin::Fixed(Duration::from_micros(50));
    config.planted_fault = Some(PlantedFault::ForgetNmiInKvm);
    let caught = [5, 20, 80, 320].into_iter().any(|seconds| {
        config.timeout = Duration::from_secs(seconds);
        let outcome = run(&config);
        outcome.ended == Ended::Timeout && outcome.detail.contains("vCPUs 1-3: halted")
            || outcome.ring == Ring::Zero
    });
    assert!(caught, "nobody noticed");
}

/// Ten seconds of a 250 Hz tick on 8 vCPUs. The guest checks that no tick is early, and that lateness does
/// not add up.
#[test]
fn a_tick_loses_none_and_does_not_drift() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let mut config = workload(Workload::Ticks, 8);
    config.duration = Duration::from_secs(10);
    let report = complete(&config);
    for (index, vcpu) in report.vcpus.iter().enumerate() {
        assert_eq!(vcpu.acquisitions, 2500, "ticks of vCPU {index}");
    }
}

/// The negative control for it.
#[test]
fn ticks_that_drift_are_caught() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let mut config = workload(Workload::Ticks, 2);
    config.planted_fault = Some(PlantedFault::RelativeTimer);
    config.duration = Duration::from_secs(1);
    let outcome = run(&config);
    assert_eq!(outcome.ended, Ended::Panic, "nobody noticed");
    assert!(outcome.detail.contains("the ticks drift"), "{}", outcome.detail);
}

#[test]
fn no_translation_is_stale_after_a_flush_of_all_tlbs() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let mut config = workload(Workload::Shootdown, 3);
    config.rounds = 300;
    config.think = Duration::from_micros(50);
    let report = complete(&config);
    assert!(acquisitions(&report) > 0, "nobody read");
    assert_eq!(intruders(&report), 0, "stale reads");
    let halts: u64 = report.vcpus.iter().map(|vcpu| vcpu.halts).sum();
    assert!(halts > 0, "nobody was asleep");
}

/// The negative controls for it: nobody flushes; who was halted does not.
#[test]
fn a_missing_flush_of_other_tlbs_is_caught() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    for fault in [PlantedFault::NoFlush, PlantedFault::NoFlushOnResume] {
        let mut config = workload(Workload::Shootdown, 3);
        config.planted_fault = Some(fault);
        config.think = Duration::from_micros(50);
        let caught = [1_000, 10_000, 100_000].into_iter().any(|rounds| {
            config.rounds = rounds;
            intruders(&complete(&config)) > 0
        });
        assert!(caught, "{fault:?}: nobody noticed");
    }
}

#[test]
fn interrupts_that_make_no_sense_are_refused_and_counted() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let outcome = run(&workload(Workload::BadInterrupts, 3));
    assert_eq!((outcome.ended, outcome.rejected), (Ended::Completed, 71));
}
