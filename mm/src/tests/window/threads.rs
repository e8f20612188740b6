//! All CPUs write, share and pin pages while others move every page all the time, and a secondary map reads
//! them.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;
use std::vec::Vec;

use super::machine::{Allocator, Machine, TestWindow, access, address, page, pages, window_machine};
use super::random::all_is_back;
use crate::fault::Fault;
use crate::tests::host::be;
use crate::tests::threads::Random;
use crate::{
    Entry, Event, Interval, MigrateType, Movable, Move, Order, Request, Secondary, Subscription, WindowEvent,
    ZoneKind,
};

const WRITERS: u32 = 3;
const MOVERS: u32 = 2;
const READER: u32 = WRITERS + MOVERS;
const CPUS: u32 = READER + 1;
/// Reads by the secondary map.
const READS: u32 = 20_000;
/// Pages that all write to.
const SHARED: u64 = 24;
/// First page of the copies that a writer makes.
const fn copies(cpu: u32) -> u64 {
    512 + 64 * cpu as u64
}

/// What a writer writes to its word of a page: nothing else ever is that.
fn value(cpu: u32, page: u64, turn: u64) -> u64 {
    u64::from(cpu + 1) << 56 | page << 40 | turn
}

/// Who has work to do: not any more, however that ends.
struct Working<'t>(&'t AtomicU32);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Writes to its own word of each page, and looks whether what it wrote last is still there; makes copies,
/// writes to both, and looks again.
fn write<const FAULT: u8>(window: &TestWindow<'_, FAULT>, cpu: u32, turns: u64) {
    let word = u64::from(cpu);
    let mut random = Random(word + 1);
    let mut last = [0; SHARED as usize];
    let swap = |at, new, expected: &mut u64| {
        let old = access(window, cpu, address(at, word), Some(new)).unwrap();
        assert_eq!(old, *expected, "CPU {cpu}, page {at}: not what was written last");
        *expected = new;
    };
    for turn in 1..=turns {
        let at = random.below(SHARED);
        let mine = &mut last[at as usize];
        match random.below(16) {
            0 => {
                let copy = copies(cpu) + random.below(8);
                window.fork_range(page(at), page(copy), 1).unwrap();
                let mut copied = *mine;
                swap(at, value(cpu, at, turn), mine);
                swap(copy, value(cpu, copy, turn), &mut copied);
                let read = access(window, cpu, address(copy, word), None).unwrap();
                assert_eq!(read, copied, "CPU {cpu}, copy {copy}: not its own");
                swap(at, value(cpu, at, turn), mine);
                window.unmap_range(pages(copy, 1)).unwrap();
            }
            1 => {
                let frame = window.pin(address(at, 0)).unwrap();
                swap(at, value(cpu, at, turn), mine);
                let found = window_machine(window)
                    .word(frame, cpu as usize)
                    .load(Ordering::Relaxed);
                assert_eq!(
                    found, *mine,
                    "CPU {cpu}, page {at}: has left the frame that it is pinned in"
                );
                // SAFETY: it was pinned.
                unsafe { window.unpin(frame) };
            }
            2..6 => {
                let read = access(window, cpu, address(at, word), None).unwrap();
                assert_eq!(read, *mine, "CPU {cpu}, page {at}: not what was written last");
            }
            _ => swap(at, value(cpu, at, turn), mine),
        }
    }
}

/// Moves whatever it finds, until all others have done their work.
fn move_all<const FAULT: u8>(
    allocator: &Allocator<FAULT>,
    window: &TestWindow<'_, FAULT>,
    cpu: u32,
    working: &AtomicU32,
) {
    be(cpu);
    let mut random = Random(u64::from(cpu) + 1);
    while working.load(Ordering::Relaxed) != 0 {
        let first = random.below(SHARED);
        let mut moves = Vec::new();
        for at in (first..SHARED).take(8).chain([copies(0), copies(1), copies(2)]) {
            let Entry::Present { frame, .. } = window.entry(page(at)) else {
                continue;
            };
            if !window.isolate(frame) {
                continue;
            }
            match allocator.alloc(Request::new(Order::FRAME, MigrateType::Movable)) {
                Ok(to) => moves.push(Move::new(frame, to)),
                Err(_) => window.putback(frame),
            }
        }
        let moved = allocator.migrate_pages(window, &mut moves);
        for one in &moves[moved..] {
            // SAFETY: it is ours still.
            unsafe { allocator.free(one.to, Order::FRAME) };
        }
        // Now and then nothing moves: the secondary map can look something up.
        if random.below(8) == 0 {
            thread::sleep(Duration::from_micros(20));
        }
    }
}

/// Reads words of pages through a secondary map: each is what a writer wrote, and never older than before.
fn read<const FAULT: u8>(
    window: &TestWindow<'_, FAULT>,
    secondary: &Secondary<'_, Machine<FAULT>>,
    interval: &Interval<'_>,
    working: &AtomicU32,
) {
    let _working = Working(working);
    be(READER);
    let mut random = Random(u64::from(READER) + 1);
    let mut seen = [[0; WRITERS as usize]; SHARED as usize];
    for _ in 0..READS {
        let (at, cpu) = (random.below(SHARED), random.below(WRITERS.into()) as u32);
        let machine = window_machine(window);
        let load = |frame| machine.word(frame, cpu as usize).load(Ordering::Relaxed);
        if let Ok(found) = secondary.read(window, interval, page(at), load) {
            let seen = &mut seen[at as usize][cpu as usize];
            let genuine = found == 0 || found >> 40 == value(cpu, at, 0) >> 40;
            assert!(genuine, "page {at}: the secondary map read {found:#x}");
            assert!(found >= *seen, "page {at}: read {found:#x} after {:#x}", *seen);
            *seen = found;
        }
    }
}

fn everything_moves<const FAULT: u8>() {
    be(0);
    let allocator = Machine::<FAULT>::allocator(700, CPUS);
    {
        let secondary = Secondary::new(&allocator, 16).unwrap();
        let subscription = Subscription::new(&secondary);
        let interval = Interval::new(pages(0, SHARED), &secondary);
        let window = Machine::window(&allocator);
        window.notifiers().register(&subscription);
        window.notifiers().insert(&interval);
        window.map_range(pages(0, SHARED)).unwrap();
        let working = AtomicU32::new(WRITERS + 1);
        thread::scope(|scope| {
            let (allocator, window, working) = (&allocator, &window, &working);
            for cpu in 0..WRITERS {
                scope.spawn(move || {
                    let _working = Working(working);
                    write(window, cpu, 60_000);
                });
            }
            for cpu in WRITERS..READER {
                scope.spawn(move || move_all(allocator, window, cpu, working));
            }
            let (secondary, interval) = (&secondary, &interval);
            scope.spawn(move || read(window, secondary, interval, working));
        });
        be(0);
        let checks = secondary.checks();
        assert_eq!(
            (checks.starts, checks.unpaired),
            (checks.ends, 0),
            "starts and ends: {checks:?}"
        );
        assert_eq!(checks.mapped_inside, 0, "mapped in an active range: {checks:?}");
        assert!(
            checks.lookups > 0 && checks.hits > 0,
            "nothing was looked up, or remembered"
        );
        let counted = [
            WindowEvent::Pgfault,
            WindowEvent::Pgcow,
            WindowEvent::Pgreuse,
            WindowEvent::FollPinAcquired,
        ];
        for event in counted {
            assert!(window.count(event) > 0, "no {}", event.name());
        }
        assert!(allocator.count(ZoneKind::Dma32, Event::PgmigrateSuccess) > 0);
        let pins =
            [WindowEvent::FollPinAcquired, WindowEvent::FollPinReleased].map(|event| window.count(event));
        assert_eq!(pins[0], pins[1]);
        std::println!("{}{checks:?}", window.vmstat());
    }
    all_is_back(&allocator, CPUS).unwrap();
}

#[test]
fn nothing_is_lost_while_everything_moves() {
    everything_moves::<0>();
}

#[test]
#[should_panic = "a scoped thread panicked"]
fn moving_without_a_flush_is_found_by_who_writes() {
    everything_moves::<{ Fault::MovesUnflushed as u8 }>();
}
