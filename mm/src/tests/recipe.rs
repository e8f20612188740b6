//! The classic recipe for fragmented memory: everything is allocated, and three quarters of each 2 MiB freed.

use std::sync::Arc;
use std::vec::Vec;
use std::{assert, assert_eq};

use super::host::be;
use super::invariants::{Block, check, check_drained};
use super::movers::{Allocator, Movers, single_pages, user_of};
use crate::fault::Fault;
use crate::{
    AllocError, CompactResult, Effort, Event, FrameNumber, FrameRange, Mark, MigrateType, Order, Request,
    ZoneKind,
};

const ZONE: ZoneKind = ZoneKind::Dma32;
const HUGE: Request = Request::new(Order::PAGEBLOCK, MigrateType::Movable).with(Effort::MayCompact);

/// So many MiB, full of pages but for three of four frames, by `freed`, of its number.
fn fragmented<const FAULT: u8>(mib: u64, freed: impl Fn(u64) -> bool) -> Arc<Allocator<false, FAULT>> {
    be(0);
    let region = FrameRange::new(FrameNumber::new(0x400), FrameNumber::new(0x400 + mib * 256));
    let allocator = Movers::allocator(&[region], 1);
    let pages = &allocator.platform.pages;
    while pages.create() {}
    let frames: Vec<_> = pages.table().pages.keys().copied().collect();
    frames
        .iter()
        .filter(|frame| freed(**frame))
        .for_each(|frame| pages.destroy(*frame));
    allocator.drain_this_cpu();
    allocator
}

/// Three of four frames, everywhere.
fn scattered(frame: u64) -> bool {
    !frame.is_multiple_of(4)
}

/// The last three quarters of each 2 MiB.
fn in_a_row(frame: u64) -> bool {
    frame % 512 >= 128
}

#[test]
fn compaction_makes_98_percent_of_free_memory_huge() {
    for freed in [scattered, in_a_row] {
        let allocator = fragmented::<0>(192, freed);
        let before = allocator.unusable_index(ZONE, Order::PAGEBLOCK);
        assert!(before > 990, "{before}");
        allocator.compact_memory();
        let unusable = allocator.unusable_index(ZONE, Order::PAGEBLOCK);
        assert!(unusable <= 20, "{unusable} of 1000 is not huge");
        allocator.platform.pages.check(true).unwrap();
        check_drained(&allocator, &single_pages(&allocator.platform.pages.table())).unwrap();
        // In order: the pages of three quarters of all pageblocks were moved, each once.
        let moved = allocator.count(ZONE, Event::PgmigrateSuccess);
        let pages = allocator.platform.pages.table().pages.len() as u64;
        assert!(moved < pages * 80 / 100, "{moved} moves of {pages} pages");
    }
}

#[test]
fn pages_of_all_users_are_moved() {
    let unusable = |allocator: &Allocator<false, { Fault::MovesForFirstOnly as u8 }>| {
        allocator.compact_memory();
        allocator.unusable_index(ZONE, Order::PAGEBLOCK)
    };
    // By the first user's alone, too little becomes free.
    assert!(unusable(&fragmented(64, scattered)) > 500);
}

#[test]
fn allocations_that_may_compact_get_all_that_compaction_may_use() {
    let allocator = fragmented::<0>(64, scattered);
    let zone = allocator.zone(ZONE);
    assert_eq!(
        allocator.alloc(HUGE.with(Effort::Ordinary)),
        Err(AllocError::Fragmented)
    );
    let free = zone.free();
    let mut held = single_pages(&allocator.platform.pages.table());
    held.clear();
    let mut blocks = 0;
    let error = loop {
        match allocator.alloc(HUGE) {
            Ok(frame) => {
                let (order, migrate_type) = (HUGE.order(), HUGE.migrate_type());
                held.insert(frame.number(), Block { order, migrate_type });
                blocks += 1;
            }
            Err(error) => break error,
        }
    };
    // What has to stay for compaction to be tried, and a block that is not whole.
    let kept = zone.watermarks().get(Mark::Low) + 2 * 512 + 512;
    assert!(blocks * 512 + kept >= free, "{blocks} blocks of {free} frames");
    assert_eq!(error, AllocError::Fragmented);
    allocator.platform.pages.check(true).unwrap();
    held.extend(single_pages(&allocator.platform.pages.table()));
    check(&allocator, &held).unwrap();
    let count = |event| allocator.count(ZONE, event);
    assert!(count(Event::CompactSuccess) > blocks / 2);
    assert_eq!(
        count(Event::CompactStall),
        count(Event::CompactSuccess) + count(Event::CompactFail)
    );
}

/// Pages that cannot move are in the way of all.
fn immovable<const FAULT: u8>() -> Arc<Allocator<false, FAULT>> {
    let allocator = fragmented::<FAULT>(32, scattered);
    let pages = &allocator.platform.pages;
    let frames: Vec<_> = pages.table().pages.keys().copied().collect();
    frames.iter().for_each(|frame| pages.pin(*frame));
    allocator
}

#[test]
fn an_allocation_that_compaction_cannot_help_is_deferred_ever_more_often() {
    let allocator = immovable::<0>();
    let count = |event| allocator.count(ZONE, event);
    let mut stalls = Vec::new();
    for i in 1..=64 {
        let before = count(Event::CompactStall);
        assert_eq!(allocator.alloc(HUGE), Err(AllocError::Fragmented));
        if count(Event::CompactStall) > before {
            stalls.push(i);
        }
    }
    assert_eq!(stalls, [1, 3, 7, 15, 31, 63]);
    assert_eq!(count(Event::CompactSuccess), 0);
    assert_eq!(count(Event::PgmigrateSuccess), 0);
    // Each stall is two passes at most, and each pass tries each page once.
    let pages = allocator.platform.pages.table().pages.len() as u64;
    assert!(count(Event::PgmigrateFail) <= 2 * pages * stalls.len() as u64);
    allocator.platform.pages.check(true).unwrap();
}

/// How often the daemon scans, of 64 times that it is woken.
fn daemon_scans<const FAULT: u8>() -> usize {
    let allocator = immovable::<FAULT>();
    let scanned = || allocator.count(ZONE, Event::CompactDaemonMigrateScanned);
    let scans = (0..64).filter(|_| {
        let before = scanned();
        assert_eq!(
            allocator.alloc(HUGE.with(Effort::Ordinary)),
            Err(AllocError::Fragmented)
        );
        assert!(allocator.kcompactd_wanted());
        allocator.kcompactd();
        assert!(!allocator.kcompactd_wanted());
        scanned() > before
    });
    let scans = scans.count();
    assert_eq!(allocator.count(ZONE, Event::CompactDaemonWake), 64);
    scans
}

#[test]
fn the_daemon_defers_too() {
    assert_eq!(daemon_scans::<0>(), 6);
    assert_eq!(daemon_scans::<{ Fault::NeverDefers as u8 }>(), 64);
}

#[test]
fn the_daemon_makes_what_an_allocation_found_missing() {
    let allocator = fragmented::<0>(32, scattered);
    let ordinary = HUGE.with(Effort::Ordinary);
    for _ in 0..4 {
        assert_eq!(allocator.alloc(ordinary), Err(AllocError::Fragmented));
        assert!(allocator.kcompactd_wanted());
        allocator.kcompactd();
        assert!(allocator.alloc(ordinary).is_ok());
        // It was the last one: more may be wanted.
        assert!(allocator.kcompactd_wanted());
    }
    assert!(allocator.count(ZONE, Event::CompactDaemonMigrateScanned) > 0);
    assert_eq!(allocator.count(ZONE, Event::CompactStall), 0);
}

/// Compaction once finds nothing to move; then there is. Whether the daemon makes a block of it.
fn hints_are_reset<const FAULT: u8>() -> bool {
    let allocator = immovable::<FAULT>();
    // The pages move nowhere, and become unmovable: hints say so.
    let pages = &allocator.platform.pages;
    let frames: Vec<_> = pages.table().pages.keys().copied().collect();
    let frame = |number| allocator.frame(FrameNumber::new(number)).unwrap();
    frames.iter().for_each(|number| frame(*number).set_movable(None));
    assert_eq!(allocator.alloc(HUGE), Err(AllocError::Fragmented));
    let zone = allocator.zone(ZONE);
    assert!(zone.pageblocks()[1..4].iter().all(|block| block.skip()));
    for number in frames {
        let page = pages.table().pages[&number];
        frame(number).set_movable(Some(user_of(page)));
        pages.unpin(number);
    }
    let ordinary = HUGE.with(Effort::Ordinary);
    (0..2).any(|_| {
        _ = allocator.alloc(ordinary);
        allocator.kcompactd();
        allocator.alloc(ordinary).is_ok()
    })
}

#[test]
fn the_daemon_resets_hints_after_a_direct_compaction_to_the_end() {
    assert!(hints_are_reset::<0>());
    assert!(!hints_are_reset::<{ Fault::KeepsSkipHints as u8 }>());
}

#[test]
fn proactive_compaction_brings_the_score_down_to_its_mark_and_no_further() {
    let allocator = fragmented::<0>(64, scattered);
    allocator.set_compaction_proactiveness(0);
    allocator.compact_proactively();
    assert_eq!(allocator.count(ZONE, Event::CompactDaemonWake), 0);
    allocator.set_compaction_proactiveness(60);
    assert_eq!(allocator.score_marks(), Some((40, 50)));
    assert!(allocator.fragmentation_score() > 95);
    allocator.compact_proactively();
    let score = allocator.fragmentation_score();
    assert!((30..=40).contains(&score), "{score}");
    let moved = allocator.count(ZONE, Event::PgmigrateSuccess);
    allocator.compact_proactively();
    assert_eq!(allocator.count(ZONE, Event::PgmigrateSuccess), moved);
    assert_eq!(allocator.count(ZONE, Event::CompactDaemonWake), 1);
}

#[test]
fn proactive_compaction_that_does_not_help_is_deferred() {
    let allocator = immovable::<0>();
    allocator.set_compaction_proactiveness(100);
    let wakes = (0..66).map(|_| {
        allocator.compact_proactively();
        allocator.count(ZONE, Event::CompactDaemonWake)
    });
    let wakes: Vec<_> = wakes.collect();
    assert_eq!((wakes[0], wakes[64], wakes[65]), (1, 1, 2));
}

/// What compaction for a huge block says where there is no memory for it, however it is distributed.
fn with_little_memory<const FAULT: u8>() -> CompactResult {
    let allocator = fragmented::<FAULT>(16, |frame| frame % 4 == 0 && frame > 0x800);
    assert!(allocator.zone(ZONE).free() > 512);
    allocator.compact_zone(ZONE, Order::PAGEBLOCK)
}

#[test]
fn what_is_not_suitable_is_skipped() {
    assert_eq!(with_little_memory::<0>(), CompactResult::Skipped);
    assert_ne!(
        with_little_memory::<{ Fault::CompactsTheFull as u8 }>(),
        CompactResult::Skipped
    );
    // Halves of huge blocks: Linux's index says that memory is what is missing.
    let allocator = fragmented::<0>(32, |frame| frame % 512 >= 256);
    let index = allocator.fragmentation_index(ZONE, Order::PAGEBLOCK);
    assert!((0..=500).contains(&index), "{index}");
    assert_eq!(
        allocator.compact_zone(ZONE, Order::PAGEBLOCK),
        CompactResult::Skipped
    );
    assert_eq!(
        allocator.compact_zone(ZoneKind::Normal, Order::FRAME),
        CompactResult::Skipped
    );
}

#[test]
fn a_zone_that_has_the_block_needs_no_compaction() {
    be(0);
    let region = FrameRange::new(FrameNumber::new(0x400), FrameNumber::new(0x1400));
    let allocator = Movers::<false, 0>::allocator(&[region], 1);
    assert_eq!(
        allocator.compact_zone(ZONE, Order::PAGEBLOCK),
        CompactResult::Success
    );
    assert_eq!(allocator.count(ZONE, Event::CompactMigrateScanned), 0);
}
