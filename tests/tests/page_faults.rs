//! A page fault on window memory spoils nothing, whatever interrupts it; one that comes where it may not ends
//! the run with a word that says so.

use std::io;

use abi::config::{LockKind, Workload, touch};
use integration_tests::{acquisitions, alone, complete, config, kvm, run};
use vmm::{Config, Ended, GuestReport, Io, Kernel, PlantedFault, Vm};

fn workload(workload: Workload, vcpus: u32, rounds: u64) -> Config {
    Config {
        rounds,
        ..config(workload, LockKind::PvQSpinlock, vcpus, 2)
    }
}

fn changed(report: &GuestReport) -> u64 {
    report.vcpus.iter().map(|vcpu| vcpu.intruders).sum()
}

#[test]
fn code_that_faults_twenty_thousand_times_keeps_its_registers_fpu_and_red_zone() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let outcome = Vm::new(&workload(Workload::PageFaults, 3, 20_000), Kernel::embedded())
        .and_then(|vm| {
            vm.run(Io {
                // What it costs.
                console: Box::new(io::stderr()),
                ..Io::default()
            })
        })
        .expect("a guest can be launched");
    assert_eq!(outcome.ended, Ended::Completed, "{}", outcome.detail);
    let report = outcome.report.expect("a guest that completed leaves a report");
    assert!(acquisitions(&report) >= 20_000, "only {}", acquisitions(&report));
    assert_eq!(changed(&report), 0, "values that have changed");
    let inside: u64 = report.vcpus.iter().map(|vcpu| vcpu.kicks).sum();
    let halts: u64 = report.vcpus.iter().map(|vcpu| vcpu.halts).sum();
    assert!(halts >= 4000, "only {halts} faults whose handler slept");
    assert!(inside >= 4000, "only {inside} interrupts came during a fault");
}

/// The negative controls for it: all faults and no interrupts would find these, as would interrupts alone.
#[test]
fn faults_that_spoil_the_red_zone_or_the_fpu_are_caught() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    for fault in [PlantedFault::NoRedZone, PlantedFault::NoFpu] {
        let mut config = workload(Workload::PageFaults, 2, 1000);
        config.planted_fault = Some(fault);
        let outcome = run(&config);
        // A guest whose red zone is not its own may also crash.
        let crashed = matches!(outcome.ended, Ended::Panic | Ended::Fault);
        let spoilt = outcome.report.as_ref().is_some_and(|report| changed(report) > 0);
        assert!(
            crashed || spoilt,
            "{fault:?}: nobody noticed ({:?})",
            outcome.ended
        );
    }
}

#[test]
fn window_memory_that_is_touched_where_it_may_not_be_ends_the_run_and_says_why() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    for (how, why) in [
        (touch::MASKED, "touched with interrupts masked"),
        (touch::HARD, "touched with interrupts masked"),
        (touch::SOFT, "touched by a soft interrupt"),
        (touch::NMI, "touched by an NMI's handler"),
        (touch::NESTED, "touched by the handler of its own faults"),
        (touch::LOCKED, "touched with a spin lock held"),
        (touch::RUN, "is no code"),
        (touch::RESERVED, "a reserved bit is set"),
    ] {
        let outcome = run(&workload(Workload::BadTouch, 2, how));
        assert_eq!(outcome.ended, Ended::Fault, "{why}: {}", outcome.detail);
        assert!(outcome.detail.contains(why), "{why}: {}", outcome.detail);
        assert!(outcome.detail.contains("(#PF)"), "{why}: {}", outcome.detail);
    }
    // Elsewhere it may.
    complete(&workload(Workload::BadTouch, 2, 0));
}
