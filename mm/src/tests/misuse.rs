//! Misuse is reported, with the frame and its last owner, and changes nothing.

use std::string::{String, ToString};
use std::vec::Vec;
use std::{assert_eq, format};

use proptest::prelude::*;
use proptest::sample::Index;

use super::host::{Host, be};
use super::invariants::{Check, Held, check, holder, require};
use super::machine::{Machine, Step, regions, steps};
use super::try_cases;
use crate::fault::Fault;
use crate::{
    BadPage, Effort, FrameNumber, FrameRange, Kind, MigrateType, Misuse, Order, POISON, PageAllocator,
    Platform, Request,
};

/// What freeing a block should be reported as, if it should.
fn verdict(held: &Held, frame: FrameNumber, order: Order, reserved: bool) -> Option<Misuse> {
    match holder(held, frame) {
        None if reserved => Some(Misuse::NotMemory),
        None => Some(Misuse::DoubleFree),
        Some((start, _)) if start != frame.number() => Some(Misuse::NotHead),
        Some((_, block)) if block.order != order => Some(Misuse::WrongOrder {
            freed: order,
            allocated: block.order,
        }),
        Some(_) => None,
    }
}

/// Frees what is not to be freed, in all ways, and compares what is reported and what has changed (4).
fn bad_frees<const CHECKS: bool, const FAULT: u8>(steps: &[Step], frees: &[(Index, u8)]) -> Check {
    let mut machine = Machine::<CHECKS, FAULT>::new();
    for step in steps {
        machine.step(step)?;
    }
    // From a little below the memory to a little above.
    let candidates = regions().into_iter().flat_map(|region| {
        (region.start().number().saturating_sub(8)..region.end().number() + 8).map(FrameNumber::new)
    });
    let candidates: Vec<_> = candidates.collect();
    for (which, order) in frees {
        let frame = *which.get(&candidates);
        let order = Order::new(*order).expect("in range");
        let reserved = machine.allocator.find(frame).is_none_or(|(zone, index, _)| {
            zone.block_of(index)
                .is_some_and(|(_, state)| state.kind() == Kind::Reserved)
        });
        let Some(expected) = verdict(&machine.held, frame, order, reserved) else {
            continue;
        };
        let before = machine.allocator.buddyinfo().to_string();
        // SAFETY: it is not, and that is found out before any memory is touched; nothing here uses the memory.
        unsafe { machine.allocator.free(frame, order) };
        let reports = machine.allocator.platform.reports();
        let got: Vec<_> = reports
            .iter()
            .map(|report| (report.frame, report.misuse))
            .collect();
        require(got == [(frame, expected)], || {
            format!("{frame:?} {order:?}: {got:?}, not {expected:?}")
        })?;
        let after = machine.allocator.buddyinfo().to_string();
        require(before == after, || {
            format!("a bad free changed\n{before}to\n{after}")
        })?;
    }
    check(&machine.allocator, &machine.held)
}

fn run_bad_frees<const CHECKS: bool, const FAULT: u8>(cases: u32) -> Result<(), String> {
    let frees = prop::collection::vec((any::<Index>(), 0..=10u8), 1..100);
    try_cases(FAULT, cases, 50, &(steps(), frees), |(steps, frees)| {
        bad_frees::<CHECKS, FAULT>(&steps, &frees)
    })
}

#[test]
fn bad_frees_are_reported_without_checks() {
    run_bad_frees::<false, 0>(100).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn bad_frees_are_reported_with_checks() {
    run_bad_frees::<true, 0>(20).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn freeing_any_order_is_found() {
    assert!(run_bad_frees::<false, { Fault::FreesAnyOrder as u8 }>(200).is_err());
}

#[test]
fn freeing_twice_is_found() {
    assert!(run_bad_frees::<false, { Fault::FreesTwice as u8 }>(200).is_err());
}

/// 4 MiB.
fn small() -> [FrameRange; 1] {
    [FrameRange::new(FrameNumber::new(0x400), FrameNumber::new(0x800))]
}

fn write<const FAULT: u8>(
    allocator: &PageAllocator<Host<true, FAULT>>,
    frame: FrameNumber,
    at: usize,
    byte: u8,
) {
    let bytes = allocator.platform.frame_ptr(frame);
    // SAFETY: `at` is below the size of a frame.
    let place = unsafe { bytes.add(at) };
    // SAFETY: the frame can be written, and no other thread uses it.
    unsafe { place.write(byte) };
}

/// Memory that is written to while it is free is reported when it is to be allocated, and is nobody's from then
/// on.
fn use_after_free<const FAULT: u8>(order: u8, of_block: Index, at: usize, xor: u8) -> Check {
    be(0);
    let allocator = Host::<true, FAULT>::allocator(&small(), 1);
    let order = Order::new(order).expect("in range");
    let frame = allocator
        .alloc(Request::new(order, MigrateType::Movable))
        .expect("all is free");
    let victim = FrameNumber::new(frame.number() + of_block.index(order.frames() as usize) as u64);
    // SAFETY: it was just allocated.
    unsafe { allocator.free(frame, order) };
    let freed_in = line!() - 1;
    write(&allocator, victim, at, POISON ^ xor);

    let all = Request::new(Order::FRAME, MigrateType::Movable).with(Effort::Atomic);
    let mut got = Vec::new();
    if let Ok(frame) = allocator.alloc(Request::new(order, MigrateType::Movable)) {
        let block = frame.number()..frame.number() + u64::from(order.frames());
        got.extend(block.map(FrameNumber::new));
    }
    while let Ok(frame) = allocator.alloc(all) {
        got.push(frame);
    }
    let reports = allocator.platform.reports();
    let right = |report: &BadPage| {
        let misuse = Misuse::UsedWhileFree {
            offset: at as u32,
            found: POISON ^ xor,
        };
        let last = report
            .last_owner
            .is_some_and(|last| last.place.line() == freed_in && last.cpu.0 == 0);
        report.frame == victim && report.misuse == misuse && last
    };
    require(!got.contains(&victim), || "the bad frame was given out".into())?;
    let victim = allocator.frame(victim).expect("it is memory").state();
    // It may be in what no request gets.
    let unseen = reports.is_empty() && victim.kind() != Kind::Reserved;
    require(
        unseen || matches!(&reports[..], [report] if right(report)),
        || format!("{reports:?}"),
    )?;
    require(order > Order::COSTLY || !unseen, || {
        "the newest on a list was not used first".into()
    })
}

fn run_use_after_free<const FAULT: u8>(cases: u32) -> Result<(), String> {
    let input = (0..=9u8, any::<Index>(), 0..4096usize, 1..=255u8);
    try_cases(FAULT, cases, 0, &input, |(order, of_block, at, xor)| {
        use_after_free::<FAULT>(order, of_block, at, xor)
    })
}

#[test]
fn use_of_free_memory_is_reported() {
    run_use_after_free::<0>(30).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn trusting_free_memory_is_found() {
    assert!(run_use_after_free::<{ Fault::TrustsFreeMemory as u8 }>(50).is_err());
}

#[test]
fn a_shared_block_is_freed_by_its_last_reference_and_by_nothing_else() {
    be(0);
    let allocator = Host::<true>::allocator(&small(), 1);
    let order = Order::new(2).unwrap();
    let frame = allocator
        .alloc(Request::new(order, MigrateType::Movable))
        .unwrap();
    assert!(!allocator.get(frame), "nobody has shared it");
    allocator.share(frame);
    assert!(allocator.get(frame));
    // SAFETY: it is not the only reference, and that is found out.
    unsafe { allocator.free(frame, order) };
    let misuse = |reports: Vec<BadPage>| reports.iter().map(|report| report.misuse).collect::<Vec<_>>();
    assert_eq!(
        misuse(allocator.platform.reports()),
        [Misuse::InUse { references: 2 }]
    );
    for _ in 0..2 {
        // SAFETY: there are two references, of this thread.
        unsafe { allocator.put(frame) };
    }
    assert!(!allocator.get(frame));
    check(&allocator, &Held::new()).unwrap();
    assert!(allocator.platform.reports().is_empty());

    // SAFETY: there is no reference, and that is found out.
    unsafe { allocator.put(frame) };
    allocator.share(frame);
    let reports = allocator.platform.reports();
    let last = reports[0].last_owner.expect("it was freed");
    assert_eq!(last.place.file(), file!());
    assert_eq!(misuse(reports), [Misuse::NotAllocated; 2]);
    check(&allocator, &Held::new()).unwrap();
}

#[test]
fn a_report_is_a_sentence() {
    be(0);
    let allocator = Host::<true>::allocator(&small(), 1);
    let frame = allocator
        .alloc(Request::new(Order::FRAME, MigrateType::Unmovable))
        .unwrap();
    for _ in 0..2 {
        // SAFETY: the first time it is right, the second time that is found out.
        unsafe { allocator.free(frame, Order::FRAME) };
    }
    let report = allocator.platform.reports()[0];
    let (number, by) = (frame.number(), report.by);
    assert_eq!(
        (by.file(), Some(by)),
        (file!(), report.last_owner.map(|last| last.place))
    );
    let expected = format!(
        "bad page {number:#x}: freed, but it is free already; by {by}; last allocated or freed by {by} on CPU 0"
    );
    assert_eq!(report.to_string(), expected);
}
