//! Threads that create, give up and pin pages, allocate and compact at once.

use std::sync::{Arc, Mutex};
use std::thread;

use super::host::be;
use super::invariants::{Block, Held, check_drained};
use super::machine::regions;
use super::movers::{Allocator, Movers, single_pages};
use super::threads::Random;
use crate::{Effort, Event, FrameNumber, MigrateType, Order, Request, ZoneKind};

/// Pages come and go, and are pinned, while all who compact do.
fn churn<const CHECKS: bool>(turns: u32) {
    const THREADS: u32 = 4;
    let allocator: Arc<Allocator<CHECKS, 0>> = {
        be(0);
        Movers::allocator(&regions(), THREADS)
    };
    allocator.platform.pages.table().again = 7;
    let held = Mutex::new(Held::new());
    thread::scope(|scope| {
        for cpu in 0..THREADS {
            let (allocator, held) = (&allocator, &held);
            scope.spawn(move || {
                be(cpu);
                let pages = &allocator.platform.pages;
                let mut random = Random(u64::from(cpu) + 1);
                for turn in 0..turns {
                    let some = |random: &mut Random| {
                        let table = pages.table();
                        let at = random.below(0x10_0400);
                        table.pages.range(at..).next().map(|(frame, _)| *frame)
                    };
                    match random.below(64) {
                        0..20 => _ = pages.create(),
                        20..36 => some(&mut random)
                            .into_iter()
                            .for_each(|frame| pages.destroy(frame)),
                        36..40 => some(&mut random).into_iter().for_each(|frame| pages.pin(frame)),
                        40..44 => {
                            let pinned = pages.table().pinned.first().copied();
                            pinned.into_iter().for_each(|frame| pages.unpin(frame));
                        }
                        44..52 => {
                            let order = Order::new(random.below(10) as u8).unwrap();
                            let of = MigrateType::ALL[random.below(3) as usize];
                            let request = Request::new(order, of).with(Effort::MayCompact);
                            if let Ok(frame) = allocator.alloc(request) {
                                let block = Block {
                                    order,
                                    migrate_type: of,
                                };
                                let old = held.lock().unwrap().insert(frame.number(), block);
                                assert!(old.is_none(), "{frame:?} was given out twice");
                            }
                        }
                        52..62 => {
                            let block = held.lock().unwrap().pop_first();
                            if let Some((frame, block)) = block {
                                // SAFETY: it is from `alloc`, and nobody uses its memory.
                                unsafe { allocator.free(FrameNumber::new(frame), block.order) };
                            }
                        }
                        62 => allocator.kcompactd(),
                        _ if cpu == 0 => allocator.compact_memory(),
                        _ => allocator.request_drain(),
                    }
                    if turn.is_multiple_of(256) {
                        pages.check(false).unwrap();
                    }
                }
                allocator.drain_this_cpu();
            });
        }
    });
    let pages = &allocator.platform.pages;
    pages.check(true).unwrap();
    let mut all = single_pages(&pages.table());
    all.extend(held.into_inner().unwrap());
    check_drained(&*allocator, &all).unwrap();
    let moved: u64 = ZoneKind::ALL
        .iter()
        .map(|kind| allocator.count(*kind, Event::PgmigrateSuccess))
        .sum();
    assert!(moved > 0, "nothing was moved");
    assert!(allocator.platform.reports().is_empty());
}

#[test]
fn pages_come_and_go_while_all_compact_without_checks() {
    churn::<false>(20_000);
}

#[test]
fn pages_come_and_go_while_all_compact_with_checks() {
    churn::<true>(2_000);
}
