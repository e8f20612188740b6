//! Compaction of memory in random states, by all who compact, and that each planted fault is found.

use std::format;
use std::string::String;
use std::sync::Arc;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;
use proptest::sample::Index;

use super::host::be;
use super::invariants::{Block, Check, Held, check, check_drained, require};
use super::machine::{CPUS, regions};
use super::movers::{Allocator, Movers, single_pages};
use super::{is_found, try_cases};
use crate::fault::Fault;
use crate::{
    AllocError, CompactResult, Effort, Event, FrameNumber, Mark, MigrateType, Order, Request, ZoneKind,
};

/// Something that happens.
#[derive(Clone, Debug)]
enum Step {
    /// Pages are created, as many as there is memory for, or fewer.
    Create(u32),
    /// All pages but one of so many, and those of pageblocks where it is true of their number by this mask.
    Destroy {
        but_one_of: u64,
        mask: u64,
    },
    Pin(Index),
    UnpinAll,
    /// One of so many attempts to move a page has to be made again.
    Again(u64),
    /// A block that does not move.
    Alloc(u32, Request),
    Free(u32, Index),
    Compact(ZoneKind, Order),
    CompactMemory,
    Kcompactd,
    Proactive(u8),
    Drain,
}

fn order() -> impl Strategy<Value = Order> {
    prop_oneof![Just(1), Just(3), Just(4), Just(6), Just(9), Just(10)]
        .prop_map(|order| Order::new(order).expect("in range"))
}

fn request() -> impl Strategy<Value = Request> {
    let effort = prop_oneof![Just(Effort::Ordinary), Just(Effort::MayCompact)];
    (order(), prop::sample::select(&MigrateType::ALL[..]), effort)
        .prop_map(|(order, of, effort)| Request::new(order, of).with(effort))
}

/// Memory that is filled and thinned out, and then random operations.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let cpu = || 0..CPUS;
    let step = prop_oneof![
        3 => (1..600u32).prop_map(Step::Create),
        1 => Just(Step::Create(u32::MAX)),
        3 => (2..20u64, any::<u64>()).prop_map(|(but_one_of, mask)| Step::Destroy { but_one_of, mask }),
        4 => any::<Index>().prop_map(Step::Pin),
        1 => Just(Step::UnpinAll),
        2 => (0..6u64).prop_map(Step::Again),
        8 => (cpu(), request()).prop_map(|(cpu, request)| Step::Alloc(cpu, request)),
        3 => (cpu(), any::<Index>()).prop_map(|(cpu, which)| Step::Free(cpu, which)),
        6 => (prop::sample::select(&ZoneKind::ALL[..]), order()).prop_map(|(zone, o)| Step::Compact(zone, o)),
        3 => Just(Step::CompactMemory),
        2 => Just(Step::Kcompactd),
        2 => (0..=100u8).prop_map(Step::Proactive),
        1 => Just(Step::Drain),
    ];
    let start = (any::<bool>(), 2..20u64, any::<u64>()).prop_map(|(full, but_one_of, mask)| {
        let count = if full { u32::MAX } else { 1000 };
        [Step::Create(count), Step::Destroy { but_one_of, mask }]
    });
    (start, prop::collection::vec(step, 1..40))
        .prop_map(|(start, steps)| start.into_iter().chain(steps).collect())
}

struct Machine<const CHECKS: bool, const FAULT: u8> {
    allocator: Arc<Allocator<CHECKS, FAULT>>,
    held: Held,
}

impl<const CHECKS: bool, const FAULT: u8> Machine<CHECKS, FAULT> {
    fn new() -> Self {
        be(0);
        Machine {
            allocator: Movers::allocator(&regions(), CPUS),
            held: Held::new(),
        }
    }

    fn step(&mut self, step: &Step) -> Check {
        be(0);
        let pages = &self.allocator.platform.pages;
        match step {
            Step::Create(count) => _ = (0..*count).take_while(|_| pages.create()).count(),
            Step::Destroy { but_one_of, mask } => {
                let frames: Vec<_> = pages.table().pages.keys().copied().collect();
                let goes =
                    |frame: &u64| !frame.is_multiple_of(*but_one_of) && mask >> (frame / 512 % 64) & 1 == 0;
                frames
                    .into_iter()
                    .filter(goes)
                    .for_each(|frame| pages.destroy(frame));
            }
            Step::Pin(which) => {
                let frames: Vec<_> = pages.table().pages.keys().copied().collect();
                if !frames.is_empty() {
                    pages.pin(*which.get(&frames));
                }
            }
            Step::UnpinAll => {
                let pinned = pages.table().pinned.clone();
                pinned.into_iter().for_each(|frame| pages.unpin(frame));
            }
            Step::Again(again) => pages.table().again = *again,
            Step::Alloc(cpu, request) => {
                be(*cpu);
                return self.alloc(*request);
            }
            Step::Free(cpu, which) => {
                be(*cpu);
                if !self.held.is_empty() {
                    let frame = self.held.keys().nth(which.index(self.held.len()));
                    self.free(*frame.expect("in range"));
                }
            }
            Step::Compact(zone, order) => return self.compact(*zone, *order),
            Step::CompactMemory => {
                return self.passes(&ZoneKind::ALL, |allocator| {
                    allocator.compact_memory();
                    Ok(())
                });
            }
            Step::Kcompactd => {
                return self.passes(&ZoneKind::ALL, |allocator| {
                    allocator.kcompactd();
                    Ok(())
                });
            }
            Step::Proactive(proactiveness) => {
                return self.passes(&ZoneKind::ALL, |allocator| {
                    allocator.set_compaction_proactiveness(*proactiveness);
                    allocator.compact_proactively();
                    Ok(())
                });
            }
            Step::Drain => self.drain(),
        }
        Ok(())
    }

    fn drain(&self) {
        for cpu in 0..CPUS {
            be(cpu);
            self.allocator.drain_this_cpu();
        }
    }

    fn free(&mut self, frame: u64) {
        let block = self.held.remove(&frame).expect("it is held");
        // SAFETY: the model has it from `alloc`, and does not use its memory.
        unsafe { self.allocator.free(FrameNumber::new(frame), block.order) };
    }

    /// An allocation that may compact does not give up before it has tried, if that can help at all.
    fn alloc(&mut self, request: Request) -> Check {
        let suitable = |allocator: &Allocator<CHECKS, FAULT>| {
            allocator.populated().any(|zone| {
                let low = zone.watermarks().get(Mark::Low);
                let index = allocator.fragmentation_index(zone.kind(), request.order());
                zone.free() > low + (2 << request.order().get()) && index > 500
            })
        };
        let stalls = |allocator: &Allocator<CHECKS, FAULT>| {
            let count = |kind| allocator.count(kind, Event::CompactStall);
            ZoneKind::ALL.into_iter().map(count).sum::<u64>()
        };
        let allocator = &self.allocator;
        // What an allocation drains is available before it has to compact.
        allocator.drain_this_cpu();
        let (before, could) = (stalls(allocator), suitable(allocator));
        match allocator.alloc(request) {
            Ok(frame) => {
                let (order, migrate_type) = (request.order(), request.migrate_type());
                let old = self.held.insert(frame.number(), Block { order, migrate_type });
                require(old.is_none(), || format!("{frame:?} was given out twice"))
            }
            Err(AllocError::Fragmented) if request.effort() == Effort::MayCompact => {
                let deferred = allocator
                    .populated()
                    .any(|zone| !zone.progress.deferral.never_failed());
                require(!could || deferred || stalls(allocator) > before, || {
                    format!("{request:?} did not try to compact")
                })
            }
            Err(_) => Ok(()),
        }
    }

    /// What it says is true.
    fn compact(&self, zone: ZoneKind, order: Order) -> Check {
        self.passes(&[zone], |allocator| {
            let migrated =
                |allocator: &Allocator<CHECKS, FAULT>| allocator.count(zone, Event::CompactMigrateScanned);
            let before = migrated(allocator);
            let result = allocator.compact_zone(zone, order);
            let available = allocator.available(allocator.zone(zone), order, Effort::Ordinary);
            require(available == (result == CompactResult::Success), || {
                format!("{result:?}, with a block: {available}")
            })?;
            let tried = migrated(allocator) > before;
            require(!tried || result > CompactResult::Deferred, || {
                format!("{result:?}, but it was tried")
            })
        })
    }

    /// Runs one pass at most in each of these zones, with all that is true of one (5, 9, 10, 11).
    fn passes(&self, zones: &[ZoneKind], run: impl FnOnce(&Allocator<CHECKS, FAULT>) -> Check) -> Check {
        let allocator = &*self.allocator;
        let pages = &allocator.platform.pages;
        let scanned = |kind| {
            allocator.count(kind, Event::CompactMigrateScanned)
                + allocator.count(kind, Event::CompactFreeScanned)
        };
        let before = ZoneKind::ALL.map(scanned);
        let (pinned, place) = {
            let mut table = pages.table();
            table.log.clear();
            table.least = ZoneKind::ALL.map(|kind| {
                let zone = allocator.zone(kind);
                zone.free().min(zone.watermarks().get(Mark::Min))
            });
            let place = table.pages.clone();
            (table.pinned.clone(), place)
        };
        run(allocator)?;
        let mut table = pages.table();
        table.least = [0; 2];
        let log = core::mem::take(&mut table.log);
        for frame in pinned {
            require(table.pages.get(&frame) == place.get(&frame), || {
                format!("the pinned page at {frame:#x} has moved")
            })?;
        }
        drop(table);
        for kind in zones {
            let zone = allocator.zone(*kind);
            let limit = before[usize::from(*kind != ZoneKind::ALL[0])] + zone.frames().len() as u64;
            require(scanned(*kind) <= limit, || {
                format!("{kind:?}: {} frames were scanned", zone.frames().len())
            })?;
        }
        // Each call is for a batch, and a batch is of one pageblock.
        for kind in zones {
            let of_zone = |frame: u64| ZoneKind::of(FrameNumber::new(frame)) == *kind;
            let mut calls = log
                .iter()
                .filter(|pairs| pairs.iter().any(|(from, _)| of_zone(*from)));
            let mut last = 0;
            let mut lowest = u64::MAX;
            let climbs: Check = calls.try_for_each(|pairs| {
                for (from, to) in pairs {
                    let monotonic = from / 512 >= last && of_zone(*from) && of_zone(*to);
                    require(monotonic, || {
                        format!("{from:#x} after pageblock {last:#x}: a scanner goes back")
                    })?;
                    last = from / 512;
                    lowest = lowest.min(to / 512);
                }
                Ok(())
            });
            climbs?;
            require(last < lowest, || {
                format!("from pageblock {last:#x} and to {lowest:#x}: scanners passed each other")
            })?;
        }
        Ok(())
    }

    fn check(&self) -> Check {
        let pages = &self.allocator.platform.pages;
        pages.check(true)?;
        let mut held = single_pages(&pages.table());
        held.extend(self.held.iter().map(|(frame, block)| (*frame, *block)));
        check(&self.allocator, &held)
    }
}

fn property<const CHECKS: bool, const FAULT: u8>(steps: &[Step]) -> Check {
    let mut machine = Machine::<CHECKS, FAULT>::new();
    for step in steps {
        machine.step(step)?;
        machine.check()?;
    }
    machine.step(&Step::UnpinAll)?;
    machine.step(&Step::Destroy {
        but_one_of: u64::MAX,
        mask: 0,
    })?;
    while let Some(frame) = machine.held.keys().next() {
        machine.free(*frame);
    }
    machine.drain();
    check_drained(&*machine.allocator, &Held::new())?;
    let reports = machine.allocator.platform.reports();
    require(reports.is_empty(), || format!("{reports:?}"))
}

fn run<const CHECKS: bool, const FAULT: u8>(cases: u32) -> Result<(), String> {
    try_cases(FAULT, cases, 50, &steps(), |steps| {
        property::<CHECKS, FAULT>(&steps)
    })
}

#[test]
fn compaction_keeps_pages_and_frames_without_checks() {
    run::<false, 0>(60).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn compaction_keeps_pages_and_frames_with_checks() {
    run::<true, 0>(10).unwrap_or_else(|error| panic!("{error}"));
}

/// The property finds the fault, and says `how`.
fn finds<const FAULT: u8>(how: &[&str]) {
    is_found(Fault::numbered(FAULT), run::<false, FAULT>(200), how);
}

#[test]
fn losing_targets_is_found() {
    finds::<{ Fault::LosesTargets as u8 }>(&["but held"]);
}

#[test]
fn isolating_the_first_frame_only_is_found() {
    finds::<{ Fault::IsolatesFirstOnly as u8 }>(&["are of no block"]);
}

#[test]
fn isolating_below_the_watermark_is_found() {
    finds::<{ Fault::IsolatesBelowWatermark as u8 }>(&["isolation left"]);
}

#[test]
fn putting_back_what_moved_is_found() {
    finds::<{ Fault::PutsBackTheMoved as u8 }>(&["was put back, but is not isolated"]);
}

#[test]
fn forgetting_to_put_back_is_found() {
    finds::<{ Fault::ForgetsToPutBack as u8 }>(&["isolated for ever"]);
}

#[test]
fn moving_twice_is_found() {
    finds::<{ Fault::MovesTwice as u8 }>(&["was moved, but is not isolated"]);
}

#[test]
fn freeing_targets_is_found() {
    finds::<{ Fault::FreesTargets as u8 }>(&["is not itself", "is somebody's", "was given out twice"]);
}

#[test]
fn scanners_that_pass_each_other_are_found() {
    finds::<{ Fault::ScannersPass as u8 }>(&["passed each other", "frames were scanned"]);
}

#[test]
fn a_scanner_that_goes_back_is_found() {
    finds::<{ Fault::ScansAgain as u8 }>(&["goes back", "frames were scanned"]);
}

#[test]
fn moving_pinned_pages_is_found() {
    finds::<{ Fault::UserMovesPinned as u8 }>(&["has moved"]);
}

#[test]
fn failing_late_is_found() {
    finds::<{ Fault::UserFailsLate as u8 }>(&["is not itself"]);
}
