use abi::config::LockKind;

use super::*;
use crate::cli::summary::tests::{failed, run};

fn slow(vcpus: u32) -> Run {
    run(LockKind::QSpinlock, vcpus, 2, 10_000)
}

fn fast(vcpus: u32) -> Run {
    let mut run = run(LockKind::PvQSpinlock, vcpus, 2, 2_140_000);
    run.measured.halts = 12_345;
    run
}

#[test]
fn a_faster_lock_that_halts() {
    let expected = "With 8 vCPUs on 2 CPUs, pvqspinlock did 214× the work of qspinlock: waiters that halt (12.3 k times \
                    with pvqspinlock, 0 with qspinlock) give their CPU to a vCPU that can work, such as the lock's holder.";
    assert_eq!(verdict(&[slow(8), fast(8)]), expected);
    assert_eq!(verdict(&[fast(8), slow(8)]), expected);
}

#[test]
fn a_cause_is_named_only_if_the_numbers_show_it() {
    let plain = "With 8 vCPUs on 2 CPUs, pvqspinlock did 214× the work of qspinlock.";
    let mut spinning = fast(8);
    spinning.measured.halts = 9;
    assert_eq!(verdict(&[slow(8), spinning]), plain);
    let mut halting = slow(8);
    halting.measured.halts = 2_000;
    assert_eq!(verdict(&[halting, fast(8)]), plain);
}

#[test]
fn without_overcommit_nothing_is_said_about_preemption() {
    let expected = "With 2 vCPUs on 2 CPUs, pvqspinlock did 214× the work of qspinlock. No vCPU had to share a CPU with \
                    another, so this does not show what preemption does to locks.";
    assert_eq!(verdict(&[slow(2), fast(2)]), expected);
}

#[test]
fn equals_are_called_equal() {
    let mut other = slow(8);
    other.measured.throughput_per_sec *= 1.04;
    let expected = "With 8 vCPUs on 2 CPUs, all locks did about the same work (within 4 %).";
    assert_eq!(verdict(&[slow(8), other.clone()]), expected);
    assert_eq!(verdict(&[other, slow(8)]), expected);
}

#[test]
fn of_many_locks_the_extremes_are_compared() {
    let middle = run(LockKind::Ticket, 8, 2, 100_000);
    assert_eq!(verdict(&[middle, slow(8), fast(8)]), verdict(&[slow(8), fast(8)]));
}

#[test]
fn one_lock_is_compared_with_nothing() {
    assert_eq!(
        verdict(&[fast(8)]),
        "With 8 vCPUs on 2 CPUs, pvqspinlock was taken 2.14 M times in a second."
    );
    assert_eq!(verdict(&[]), "");
}

#[test]
fn failed_runs_are_left_out() {
    let tas = failed(run(LockKind::Tas, 8, 2, 0), Exit::Timeout);
    let busted = failed(run(LockKind::Busted, 8, 2, 9_000_000), Exit::Violation);
    let expected = "With 8 vCPUs on 2 CPUs, pvqspinlock was taken 2.14 M times in a second. tas is left out: its run \
                    failed. busted let vCPUs in together, so its speed means nothing.";
    assert_eq!(verdict(&[tas.clone(), fast(8), busted.clone()]), expected);
    assert_eq!(
        verdict(&[tas, busted]),
        "No run was completed, so there is nothing to compare."
    );
}

#[test]
fn locks_that_nobody_got() {
    let never = run(LockKind::Tas, 8, 2, 0);
    let expected = "With 8 vCPUs on 2 CPUs, pvqspinlock was taken 2.14 M times in a second and tas not once.";
    assert_eq!(verdict(&[never.clone(), fast(8)]), expected);
    assert_eq!(
        verdict(&[never.clone(), never]),
        "With 8 vCPUs on 2 CPUs, no lock was taken at all."
    );
}

#[test]
fn unfair_speed_is_called_so() {
    let mut captured = fast(8);
    captured.measured.jain_index = 0.13;
    assert!(
        verdict(&[slow(8), captured.clone()])
            .ends_with("But pvqspinlock did not treat all vCPUs alike (fairness 0.13).")
    );
    assert!(verdict(&[captured]).ends_with("(fairness 0.13)."));
}

#[test]
fn warnings_are_for_what_is_odd() {
    assert_eq!(warnings(&fast(8)), [""; 0]);
    let mut odd = fast(8);
    odd.measured.per_vcpu = vec![1, 0, 2, 0, 0, 1, 1, 1];
    (odd.rejected, odd.detail) = (1, "something".into());
    let lines = warnings(&odd);
    assert_eq!(lines.len(), 3);
    assert!(
        lines[0].contains("vCPU 1 and 2 more of 8 never got the lock"),
        "{}",
        lines[0]
    );
    assert!(lines[1].contains("1 request that made no sense"), "{}", lines[1]);
    assert_eq!(lines[2], "note: lock 'pvqspinlock': something");
    assert_eq!(warnings(&failed(odd, Exit::Timeout)).len(), 1);
    let in_vain = Run {
        preempt: Some("holder:1ms:5ms".into()),
        ..fast(8)
    };
    assert!(
        matches!(&warnings(&in_vain)[..], [line] if line.contains("'--preempt holder:1ms:5ms' hit nobody"))
    );
}
