//! Views and counters, of a machine whose state is known.

use std::string::ToString;
use std::{assert, assert_eq};

use super::host::{Host, be};
use crate::{Event, FrameNumber, FrameRange, MigrateType, Order, Request, ZoneKind};

/// 4 MiB, of which metadata takes the first: 8 frames for the frames', one for pageblocks', two for the CPU's.
fn regions() -> [FrameRange; 1] {
    [FrameRange::new(FrameNumber::new(0x400), FrameNumber::new(0x800))]
}

#[test]
fn views_read_as_in_linux() {
    be(0);
    let allocator = Host::<false>::allocator(&regions(), 1);
    let metadata = 1024 - allocator.zone(ZoneKind::Dma32).managed();
    assert_eq!(metadata, 8 + 1 + 2);
    assert_eq!(
        allocator.buddyinfo().to_string(),
        "Node 0, zone    DMA32      1      0      1      0      1      1      1      1      1      1      0 \n"
    );
    allocator
        .alloc(Request::new(Order::FRAME, MigrateType::Unmovable))
        .unwrap();
    // The largest free block was claimed, and eight frames of it taken: one allocated, seven in store.
    assert_eq!(
        allocator.pagetypeinfo().to_string(),
        "Page block order: 9\n\
         Pages per block:  512\n\
         \n\
         Free pages count per migrate type at order       0      1      2      3      4      5      6      7      8      9     10\n\
         Node    0, zone    DMA32, type    Unmovable      0      0      0      1      1      1      1      1      1      0      0\n\
         Node    0, zone    DMA32, type      Movable      1      0      1      0      1      1      1      1      1      0      0\n\
         Node    0, zone    DMA32, type  Reclaimable      0      0      0      0      0      0      0      0      0      0      0\n\
         \n\
         Number of blocks type        Unmovable      Movable  Reclaimable \n\
         Node 0, zone    DMA32                1            1            0 \n"
    );
    assert_eq!(
        allocator.vmstat().to_string(),
        "nr_free_pages 1005\n\
         pgalloc_dma32 1\n\
         pgfree 0\n\
         mm_page_alloc_zone_locked 8\n\
         mm_page_pcpu_drain 0\n\
         mm_page_alloc_extfrag 1\n\
         page_allocation_failure 0\n\
         pgmigrate_success 0\n\
         pgmigrate_fail 0\n\
         compact_migrate_scanned 0\n\
         compact_free_scanned 0\n\
         compact_isolated 0\n\
         compact_stall 0\n\
         compact_fail 0\n\
         compact_success 0\n\
         compact_daemon_wake 0\n\
         compact_daemon_migrate_scanned 0\n\
         compact_daemon_free_scanned 0\n"
    );
}

#[test]
fn fragmentation_reads_as_in_linux() {
    be(0);
    let allocator = Host::<false>::allocator(&regions(), 1);
    // Blocks of 2^0, 2^2 and 2^4 to 2^9 frames are free, 1013 in all.
    assert_eq!(
        allocator.extfrag_index().to_string(),
        "Node 0, zone    DMA32 -1.000 -1.000 -1.000 -1.000 -1.000 -1.000 -1.000 -1.000 -1.000 -1.000  0.752 \n"
    );
    assert_eq!(
        allocator.extfrag_unusable_index().to_string(),
        "Node 0, zone    DMA32  0.000  0.000  0.000  0.004  0.004  0.020  0.052  0.115  0.241  0.494  1.000 \n"
    );
    assert_eq!(allocator.fragmentation_score(), 49);
}

#[test]
fn allocation_and_freeing_on_the_lists_leave_the_buddy_alone() {
    be(0);
    let allocator = Host::<false>::allocator(&regions(), 1);
    let request = Request::new(Order::new(1).unwrap(), MigrateType::Movable);
    let frame = allocator.alloc(request).unwrap();
    // SAFETY: it was just allocated.
    unsafe { allocator.free(frame, request.order()) };
    let count = |event| allocator.count(ZoneKind::Dma32, event);
    let (locked, free) = (count(Event::ZoneLocked), allocator.zone(ZoneKind::Dma32).free());
    for _ in 0..100 {
        let again = allocator.alloc(request).unwrap();
        assert!(again == frame, "the newest block is used first");
        // SAFETY: it was just allocated.
        unsafe { allocator.free(again, request.order()) };
    }
    assert_eq!(
        (count(Event::ZoneLocked), allocator.zone(ZoneKind::Dma32).free()),
        (locked, free)
    );
    assert_eq!((count(Event::Pgalloc), count(Event::Pgfree)), (202, 202));
}
