//! Random operations, and that each planted fault is found by them.

use super::machine::{Allocator, Machine, TestWindow};
use super::model::{CPUS, Model, Step, steps};
use crate::fault::Fault;
use crate::tests::host::be;
use crate::tests::invariants::{Check, Held, check_drained, require};
use crate::tests::{is_found, try_cases};

/// Everything that was allocated has come back.
pub(crate) fn all_is_back<const FAULT: u8>(allocator: &Allocator<FAULT>, cpus: u32) -> Check {
    for cpu in 0..cpus {
        be(cpu);
        allocator.drain_this_cpu();
    }
    check_drained(allocator, &Held::new())?;
    let reports = allocator.platform.reports();
    require(reports.is_empty(), || std::format!("{reports:?}"))
}

fn steps_are_right<const FAULT: u8>(window: &TestWindow<'_, FAULT>, steps: &[Step]) -> Check {
    let mut model = Model::new(window);
    for (i, step) in steps.iter().enumerate() {
        model.step(step)?;
        model.pinned_stay()?;
        // Always after pages have moved: who touched one that is still in flight would wait for ever.
        if i % 16 == 0 || matches!(step, Step::Migrate { .. }) {
            model.check()?;
        }
    }
    model.check()?;
    model.end();
    Ok(())
}

fn property<const FAULT: u8>(steps: &[Step]) -> Check {
    be(0);
    let allocator = Machine::<FAULT>::allocator(600, CPUS);
    let window = Machine::window(&allocator);
    if let Err(error) = steps_are_right(&window, steps) {
        // One whose pages stay in flight cannot be taken down: that would wait for them.
        core::mem::forget(window);
        return Err(error);
    }
    drop(window);
    all_is_back(&allocator, CPUS)
}

fn run<const FAULT: u8>(cases: u32) -> Result<(), std::string::String> {
    let shrink = if FAULT == 0 { 400 } else { 0 };
    try_cases(FAULT, cases, shrink, &steps(), |steps| property::<FAULT>(&steps))
}

#[test]
fn the_window_is_as_its_model() {
    run::<0>(150).unwrap_or_else(|error| panic!("{error}"));
}

/// The property finds the fault, and says `how`.
fn finds<const FAULT: u8>(how: &[&str]) {
    is_found(Fault::numbered(FAULT), run::<FAULT>(600), how);
}

#[test]
fn pages_that_are_not_zeroed_are_found() {
    finds::<{ Fault::FillsWithAnything as u8 }>(&["not Ok(0)", "holds"]);
}

#[test]
fn writing_to_shared_pages_is_found() {
    finds::<{ Fault::ReusesShared as u8 }>(&["not Ok", "holds", "shared, and writable"]);
}

#[test]
fn breaking_without_a_flush_is_found() {
    finds::<{ Fault::BreaksUnflushed as u8 }>(&["not Ok"]);
}

#[test]
fn forking_without_a_flush_is_found() {
    finds::<{ Fault::ForksUnflushed as u8 }>(&["not Ok", "holds"]);
}

#[test]
fn sharing_pages_that_stay_writable_is_found() {
    finds::<{ Fault::LeavesWritable as u8 }>(&["shared, and writable", "not Ok", "holds"]);
}

#[test]
fn sharing_pinned_pages_is_found() {
    finds::<{ Fault::SharesPinned as u8 }>(&["was pinned in"]);
}

#[test]
fn moving_pinned_pages_is_found() {
    finds::<{ Fault::MovesPinned as u8 }>(&["not Err(Pinned)", "was pinned in"]);
}

#[test]
fn moving_without_a_flush_is_found() {
    finds::<{ Fault::MovesUnflushed as u8 }>(&["not Ok", "holds"]);
}

#[test]
fn moving_one_page_of_several_is_found() {
    finds::<{ Fault::ForgetsOthers as u8 }>(&["moved", "is listed", "is Migration"]);
}
