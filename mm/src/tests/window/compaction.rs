//! Compaction of the window's memory, while other CPUs write to it.

use std::boxed::Box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::vec::Vec;

use super::machine::{Allocator, Machine, TestWindow, access, address, pages};
use crate::fault::Fault;
use crate::tests::host::be;
use crate::{Effort, Event, MigrateType, Order, Request, ZoneKind};

const PAGES: u64 = 7000;
/// One of so many pages stays.
const STAYS: usize = 4;
const WRITERS: u32 = 3;

/// Tells the writers to stop, however the test ends.
struct Stop<'s>(&'s AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Writes to its own pages, and looks whether what it wrote last is still there.
fn write<const FAULT: u8>(window: &TestWindow<'_, FAULT>, cpu: u32, stop: &AtomicBool) {
    let own = (0..PAGES)
        .step_by(STAYS)
        .skip(cpu as usize - 1)
        .step_by(WRITERS as usize);
    let mut turn = 0;
    while !stop.load(Ordering::Relaxed) {
        for at in own.clone() {
            let value = |turn| at << 32 | turn;
            let old = access(window, cpu, address(at, 1), Some(value(turn + 1))).unwrap();
            assert_eq!(old, value(turn), "page {at}: not what was written last");
        }
        turn += 1;
    }
}

fn huge_blocks_are_made<const FAULT: u8>() {
    be(0);
    let allocator: &'static Allocator<FAULT> = Box::leak(Box::new(Machine::allocator(8192, WRITERS + 1)));
    let window: &'static TestWindow<'static, FAULT> = Box::leak(Box::new(Machine::window(allocator)));
    allocator.platform.moves(window);
    window.map_range(pages(0, PAGES)).unwrap();
    for at in 0..PAGES {
        access(window, 0, address(at, 1), Some(at << 32)).unwrap();
    }
    for at in (0..PAGES).filter(|at| !at.is_multiple_of(STAYS as u64)) {
        window.unmap_range(pages(at, 1)).unwrap();
    }
    allocator.drain_this_cpu();
    let unusable = || allocator.unusable_index(ZoneKind::Dma32, Order::PAGEBLOCK);
    assert!(unusable() > 900);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let stopping = Stop(&stop);
        for cpu in 1..=WRITERS {
            let stop = &stop;
            scope.spawn(move || write(window, cpu, stop));
        }
        let huge = Request::new(Order::PAGEBLOCK, MigrateType::Movable).with(Effort::MayCompact);
        let blocks: Vec<_> = (0..4).map(|_| allocator.alloc(huge).unwrap()).collect();
        allocator.compact_memory();
        drop(stopping);
        for block in blocks {
            // SAFETY: it was allocated above.
            unsafe { allocator.free(block, huge.order()) };
        }
    });
    assert!(unusable() < 300);
    assert!(allocator.count(ZoneKind::Dma32, Event::PgmigrateSuccess) > 1000);
    assert!(allocator.platform.reports().is_empty());
}

#[test]
fn huge_blocks_are_made_of_what_others_write_to() {
    huge_blocks_are_made::<0>();
}

#[test]
#[should_panic = "a scoped thread panicked"]
fn compaction_without_a_flush_is_found_by_who_writes() {
    huge_blocks_are_made::<{ Fault::MovesUnflushed as u8 }>();
}
