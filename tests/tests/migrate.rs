//! Window memory that is moved all the time holds what was written to it, whoever reads it from wherever.

use std::time::Duration;

use abi::config::{LockKind, Workload};
use abi::memory::WINDOW_EVENTS;
use integration_tests::{alone, complete, config, kvm, run, vmm};
use mm::{Event, WindowEvent};
use vmm::{Config, Ended, GuestReport, PlantedFault, Ring, results};

const VMM: &str = env!("CARGO_BIN_EXE_vmm-under-test");

/// Pages that are moved, each time.
const MOVED: u64 = 20_000;

fn migrate(vcpus: u32) -> Config {
    Config {
        rounds: MOVED,
        ..config(Workload::Migrate, LockKind::PvQSpinlock, vcpus, 2)
    }
}

fn wrong(report: &GuestReport) -> u64 {
    report.vcpus.iter().map(|vcpu| vcpu.intruders).sum()
}

#[test]
fn every_byte_is_where_it_should_be_while_all_pages_are_moved() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let mut counted = [0; WINDOW_EVENTS];
    let mut failed = 0;
    for vcpus in [2, 4, 8] {
        let report = complete(&migrate(vcpus));
        let (mover, writers) = report.vcpus.split_last().expect("there are vCPUs");
        assert!(
            mover.acquisitions >= MOVED,
            "only {} were moved",
            mover.acquisitions
        );
        for (index, writer) in writers.iter().enumerate() {
            assert!(writer.acquisitions > 0, "vCPU {index} did nothing");
        }
        assert_eq!(wrong(&report), 0, "words that are wrong");
        let memory = report.memory.expect("the workload says what its memory did");
        assert_eq!(memory.unreturned, 0, "frames that did not come back");
        let count = |event: Event| {
            memory
                .zones
                .iter()
                .map(|zone| zone.events[event as usize])
                .sum::<u64>()
        };
        assert_eq!(count(Event::PgmigrateSuccess), mover.acquisitions);
        failed += count(Event::PgmigrateFail);
        // What is neither free nor freed is what the boot has: here, all that was ever allocated is counted.
        let held: u64 = memory.zones.iter().map(|zone| zone.managed - zone.free).sum();
        assert_eq!(count(Event::Pgalloc) - count(Event::Pgfree), held);
        let secondary = memory.secondary;
        assert_eq!(
            (secondary.starts, secondary.unpaired, secondary.mapped_inside),
            (secondary.ends, 0, 0),
            "{secondary:?}"
        );
        // Batches of neighbouring pages are few ranges.
        assert!(secondary.starts > MOVED / 100, "{secondary:?}");
        assert!(secondary.lookups > 0 && secondary.hits > 0, "{secondary:?}");
        for (sum, count) in counted.iter_mut().zip(memory.window) {
            *sum += count;
        }
    }
    assert!(failed > 0, "no page was pinned when it was to move");
    for event in [
        WindowEvent::Pgfault,
        WindowEvent::Pgcow,
        WindowEvent::MigrationEntryWait,
        WindowEvent::FollPinAcquired,
    ] {
        assert!(counted[event as usize] > 0, "{} is 0", event.name());
    }
}

/// The negative control for it: pages are copied before they are unmapped.
#[test]
fn pages_that_are_moved_carelessly_are_caught() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let mut config = migrate(4);
    config.planted_fault = Some(PlantedFault::EarlyCopy);
    let outcome = run(&config);
    let noticed = outcome.report.as_ref().is_some_and(|report| wrong(report) > 0);
    // The allocator, too, sees what is written to frames that are free.
    assert!(
        noticed || outcome.detail.contains("bad page"),
        "nobody noticed ({:?}: {})",
        outcome.ended,
        outcome.detail
    );
}

/// Likewise for the secondary map: it finds what is wrong with the chain of notifiers, and with who reads
/// through it.
#[test]
fn notices_that_are_missing_or_ignored_are_caught_by_the_secondary_map() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    for (fault, complaint) in [
        (
            PlantedFault::NoStart,
            "1 range stopped changing without having started",
        ),
        (PlantedFault::NoEnd, "1 range started to change, and never ended"),
        (
            PlantedFault::NoRetry,
            "mapped by a secondary map while they changed",
        ),
        (
            PlantedFault::NoNotice,
            "mapped by a secondary map while they changed",
        ),
    ] {
        let mut config = migrate(4);
        config.planted_fault = Some(fault);
        let run = results::Run::new(&config, &run(&config));
        assert_eq!(run.exit, results::Exit::Violation, "{fault:?}: {}", run.detail);
        assert!(run.detail.contains(complaint), "{fault:?}: {}", run.detail);
    }
}

#[test]
fn results_tell_what_the_secondary_map_saw() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let output = vmm(
        VMM,
        "run --workload migrate --vcpus 3 --duration 300ms --format json",
    );
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    let run = &json["runs"][0];
    assert_eq!(run["exit"], "completed", "{}", run["detail"]);
    let secondary = &run["mm"]["secondary"];
    assert_eq!(secondary["paired"], true, "{secondary}");
    for name in ["starts", "ends", "lookups", "hits"] {
        assert!(secondary[name].as_u64() > Some(0), "{name}: {secondary}");
    }
    for name in ["mapped_inside", "retries"] {
        assert!(secondary[name].is_u64(), "{name}: {secondary}");
    }
}

/// Another: no TLB is flushed. Where the host keeps the page tables of all vCPUs in one place, it may hide
/// that.
#[test]
fn pages_that_are_moved_without_a_flush_are_caught_where_tlbs_are_real() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let mut config = migrate(4);
    config.planted_fault = Some(PlantedFault::NoFlush);
    let caught = [1, 10, 100].into_iter().any(|times| {
        config.rounds = times * MOVED;
        let outcome = run(&config);
        outcome.ring == Ring::Three
            || outcome.ended != Ended::Completed
            || outcome.report.as_ref().is_some_and(|report| wrong(report) > 0)
    });
    assert!(caught, "nobody noticed");
}

/// And another: who waits for a page is not woken.
#[test]
fn a_page_that_arrives_in_secret_is_caught() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let mut config = migrate(4);
    config.planted_fault = Some(PlantedFault::NoKick);
    // The mover may get far before somebody touches a page on the move.
    config.rounds = 0;
    config.duration = Duration::from_secs(3600);
    let caught = [2, 20, 80].into_iter().any(|seconds| {
        config.timeout = Duration::from_secs(seconds);
        let outcome = run(&config);
        outcome.ended == Ended::Timeout && outcome.detail.contains("vCPUs 0-2: halted")
    });
    assert!(caught, "nobody noticed");
}
