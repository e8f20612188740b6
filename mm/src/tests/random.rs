//! Random operations, and that each planted fault is found by them.

use std::string::ToString;

use super::invariants::{Check, check};
use super::machine::{Machine, Step, steps};
use super::{is_found, try_cases};
use crate::fault::Fault;

/// All invariants hold after random operations, and after all CPUs have drained; when everything is free the
/// machine is what it was at first.
fn property<const CHECKS: bool, const FAULT: u8>(steps: &[Step]) -> Check {
    let mut machine = Machine::<CHECKS, FAULT>::new();
    let info = machine.allocator.buddyinfo().to_string();
    check(&machine.allocator, &machine.held)?;
    for (i, step) in steps.iter().enumerate() {
        machine.step(step)?;
        if i % 64 == 0 {
            check(&machine.allocator, &machine.held)?;
        }
    }
    check(&machine.allocator, &machine.held)?;
    machine.drain()?;
    machine.free_all();
    machine.drain()?;
    let reports = machine.allocator.platform.reports();
    super::invariants::require(reports.is_empty(), || std::format!("{reports:?}"))?;
    let now = machine.allocator.buddyinfo().to_string();
    super::invariants::require(now == info, || std::format!("first\n{info}now\n{now}"))
}

fn run<const CHECKS: bool, const FAULT: u8>(cases: u32) -> Result<(), std::string::String> {
    try_cases(FAULT, cases, 200, &steps(), |steps| {
        property::<CHECKS, FAULT>(&steps)
    })
}

#[test]
fn invariants_hold_without_checks() {
    run::<false, 0>(150).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn invariants_hold_with_checks() {
    run::<true, 0>(20).unwrap_or_else(|error| panic!("{error}"));
}

/// The property finds the fault, and says `how`.
fn finds<const FAULT: u8>(how: &[&str]) {
    is_found(Fault::numbered(FAULT), run::<false, FAULT>(300), how);
}

#[test]
fn merging_unequal_blocks_is_found() {
    finds::<{ Fault::MergesUnequal as u8 }>(&["overflow", "is not aligned", "frames"]);
}

#[test]
fn forgetting_to_merge_is_found() {
    finds::<{ Fault::ForgetsToMerge as u8 }>(&["are both free"]);
}

#[test]
fn losing_the_upper_half_is_found() {
    finds::<{ Fault::LosesUpperHalf as u8 }>(&["claimed", "frames, not", "are of no block", "overflow"]);
}

#[test]
fn miscounting_lists_is_found() {
    finds::<{ Fault::MiscountsLists as u8 }>(&["counted"]);
}

#[test]
fn losing_runs_is_found() {
    finds::<{ Fault::LosesRuns as u8 }>(&["of no block", "blocks end", "frames, not"]);
}

#[test]
fn claiming_without_moving_is_found() {
    finds::<{ Fault::ClaimsWithoutMoving as u8 }>(&[
        "its pageblock is not",
        "overflow",
        "on lists",
        "counted",
        "on the list",
    ]);
}

#[test]
fn claiming_crowded_pageblocks_is_found() {
    finds::<{ Fault::ClaimsCrowded as u8 }>(&["claimed"]);
}

#[test]
fn refilling_below_the_watermark_is_found() {
    finds::<{ Fault::RefillsBelowWatermark as u8 }>(&["watermark", "minimum"]);
}

#[test]
fn draining_partly_is_found() {
    finds::<{ Fault::DrainsPartly as u8 }>(&["should be"]);
}
