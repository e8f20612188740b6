//! Guests of all sizes, and regions of all kinds.

use std::vec::Vec;
use std::{assert, assert_eq, matches};

use super::host::{Host, be};
use super::invariants::{Held, check};
use crate::{
    AllocError, Effort, FrameNumber, FrameRange, InitError, Mark, MigrateType, Order, PageAllocator,
    PhysAddr, Request, ZoneKind,
};

const MIB: u64 = 1 << 20;

/// The memory of a guest, as the VMM lays it out.
fn guest(bytes: u64) -> Vec<FrameRange> {
    let (first, hole, high) = (4 * MIB, 3 << 30, 4u64 << 30);
    let low = FrameRange::inside(PhysAddr(first), bytes.min(hole) - first);
    [
        low,
        FrameRange::inside(PhysAddr(high), bytes.saturating_sub(hole)),
    ]
    .into()
}

#[test]
fn a_guest_of_16_mib_has_nearly_all_of_its_memory_in_one_zone() {
    be(0);
    let allocator = Host::<false>::allocator(&guest(16 * MIB), 4);
    assert!(allocator.zone(ZoneKind::Normal).is_empty());
    let zone = allocator.zone(ZoneKind::Dma32);
    assert!(zone.managed() > 12 * 256 * 97 / 100, "{}", zone.managed());
    check(&allocator, &Held::new()).unwrap();
    assert!(allocator.above(ZoneKind::Dma32, Mark::High));
    assert!(!allocator.above(ZoneKind::Normal, Mark::Min));
    let huge = Request::new(Order::PAGEBLOCK, MigrateType::Movable);
    assert!(allocator.alloc(huge).is_ok());
}

#[test]
fn a_guest_of_5_gib_uses_the_zone_above_the_hole_first() {
    be(1);
    let allocator = Host::<false>::allocator(&guest(5 << 30), 2);
    let zones = ZoneKind::ALL.map(|kind| allocator.zone(kind).managed());
    assert!(
        zones[0] > 2 * 1024 * 256 * 99 / 100 && zones[1] > 3 * 1020 * 256 * 99 / 100,
        "{zones:?}"
    );
    let request = Request::new(Order::MAX, MigrateType::Movable);
    let mut below = false;
    let mut blocks = 0;
    while let Ok(frame) = allocator.alloc(request) {
        let kind = ZoneKind::of(frame);
        assert!(
            !below || kind == ZoneKind::Dma32,
            "memory above the hole was left over"
        );
        below = kind == ZoneKind::Dma32;
        blocks += 1;
    }
    assert!(below && blocks > 5 * 256 * 98 / 100, "{blocks}");
}

#[test]
fn the_reserve_is_for_atomic_requests_and_half_of_it_for_none() {
    be(0);
    let allocator = Host::<false>::allocator(&guest(16 * MIB), 1);
    let request = Request::new(Order::FRAME, MigrateType::Unmovable);
    let zone = allocator.zone(ZoneKind::Dma32);
    let min = zone.watermarks().get(Mark::Min);
    for (effort, left) in [
        (Effort::MayCompact, min),
        (Effort::Ordinary, min),
        (Effort::Atomic, min / 2),
    ] {
        let error = loop {
            if let Err(error) = allocator.alloc(request.with(effort)) {
                break error;
            }
        };
        assert_eq!((error, zone.free()), (AllocError::NoMemory, left));
    }
}

#[test]
fn memory_in_pieces_fails_as_fragmented() {
    be(0);
    let allocator = Host::<false>::allocator(&guest(16 * MIB), 1);
    let mut held = Vec::new();
    while let Ok(frame) = allocator.alloc(Request::new(Order::FRAME, MigrateType::Movable)) {
        held.push(frame);
    }
    for frame in held.iter().filter(|frame| frame.number() % 2 == 0) {
        // SAFETY: it was allocated above.
        unsafe { allocator.free(*frame, Order::FRAME) };
    }
    let pair = Request::new(Order::new(1).unwrap(), MigrateType::Movable);
    let error = loop {
        if let Err(error) = allocator.alloc(pair) {
            break error;
        }
    };
    assert_eq!(error, AllocError::Fragmented);
}

#[test]
fn regions_that_make_no_machine_are_refused() {
    let range = |start, end| FrameRange::new(FrameNumber::new(start), FrameNumber::new(end));
    let made = |regions: &[FrameRange], cpus| {
        // SAFETY: the memory is the platform's, which lives as long as the allocator.
        unsafe { PageAllocator::new(Host::<false>::new(regions), regions, cpus) }.map(|_| ())
    };
    assert_eq!(made(&[range(0x400, 0x800)], 0), Err(InitError::NoCpus));
    assert_eq!(
        made(&[range(0x400, 0x500), range(0x4ff, 0x600)], 1),
        Err(InitError::Overlap)
    );
    assert_eq!(made(&[range(0x400, 0x403)], 1), Err(InitError::NoRoom));
    assert_eq!(made(&[range(0x400, 0x500), range(5, 5)], 1), Ok(()));
}

#[test]
fn a_machine_without_memory_has_nothing_to_give() {
    be(0);
    let allocator = Host::<false>::allocator(&[], 1);
    let request = Request::new(Order::FRAME, MigrateType::Movable);
    assert!(matches!(allocator.alloc(request), Err(AllocError::NoMemory)));
}
