//! Threads that allocate, write, pass on and free at once.

use std::sync::Mutex;
use std::thread;
use std::vec::Vec;

use super::host::{Host, be};
use super::invariants::{Held, check_drained};
use super::machine::regions;
use crate::{FRAME_SIZE, FrameNumber, MigrateType, Order, PageAllocator, Platform, Request};

const THREADS: u32 = 4;
const TURNS: u32 = 5_000;

/// Random numbers: Marsaglia's xorshift.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

type Allocator<const CHECKS: bool> = PageAllocator<Host<CHECKS>>;

/// Every word of a block that is a multiple of 512 bytes into it.
fn words<const CHECKS: bool>(
    allocator: &Allocator<CHECKS>,
    (frame, order): (FrameNumber, Order),
) -> impl Iterator<Item = *mut u64> {
    let bytes = allocator.platform.frame_ptr(frame);
    let length = u64::from(order.frames()) * FRAME_SIZE;
    // SAFETY: within the block.
    (0..length)
        .step_by(512)
        .map(move |at| unsafe { bytes.add(at as usize) }.cast())
}

/// A thread's work: what it holds is its alone, whoever had it before and wherever it is freed.
fn work<const CHECKS: bool>(
    allocator: &Allocator<CHECKS>,
    cpu: u32,
    passed_on: &Mutex<Vec<(FrameNumber, Order)>>,
) {
    be(cpu);
    let mut random = Random(u64::from(cpu) + 1);
    let mut held = Vec::new();
    for _ in 0..TURNS {
        match random.below(8) {
            0..4 => {
                let order = Order::new([0, 0, 0, 1, 2, 3, 5, 9][random.below(8) as usize]).unwrap();
                let of = MigrateType::ALL[random.below(3) as usize];
                if let Ok(frame) = allocator.alloc(Request::new(order, of)) {
                    let mark = frame.number() << 8 | u64::from(cpu);
                    // SAFETY: the block is this thread's.
                    words(allocator, (frame, order)).for_each(|word| unsafe { word.write(mark) });
                    held.push((frame, order, mark));
                }
            }
            turn @ 4..7 if !held.is_empty() => {
                let (frame, order, mark) = held.swap_remove(random.below(held.len() as u64) as usize);
                // SAFETY: the block is this thread's.
                let intact = words(allocator, (frame, order)).all(|word| unsafe { word.read() } == mark);
                assert!(intact, "somebody else wrote to {frame:?}");
                if turn == 4 {
                    passed_on.lock().unwrap().push((frame, order));
                } else {
                    // SAFETY: the block is this thread's, who uses it no more.
                    unsafe { allocator.free(frame, order) };
                }
            }
            7 => {
                let got = passed_on.lock().unwrap().pop();
                if let Some((frame, order)) = got {
                    // SAFETY: whoever passed it on uses it no more.
                    unsafe { allocator.free(frame, order) };
                }
                if random.below(16) == 0 {
                    allocator.request_drain();
                }
            }
            _ => {}
        }
    }
    for (frame, order, _) in held {
        // SAFETY: the block is this thread's, who uses it no more.
        unsafe { allocator.free(frame, order) };
    }
    allocator.drain_this_cpu();
}

fn everything_comes_back<const CHECKS: bool>() {
    let allocator = Host::<CHECKS>::allocator(&regions(), THREADS + 1);
    let passed_on = Mutex::default();
    thread::scope(|scope| {
        for cpu in 0..THREADS {
            let (allocator, passed_on) = (&allocator, &passed_on);
            scope.spawn(move || work(allocator, cpu, passed_on));
        }
    });
    be(THREADS);
    for (frame, order) in passed_on.into_inner().unwrap() {
        // SAFETY: whoever passed it on uses it no more.
        unsafe { allocator.free(frame, order) };
    }
    allocator.drain_this_cpu();
    check_drained(&allocator, &Held::new()).unwrap();
    assert!(allocator.platform.reports().is_empty());
}

#[test]
fn everything_comes_back_without_checks() {
    everything_comes_back::<false>();
}

#[test]
fn everything_comes_back_with_checks() {
    everything_comes_back::<true>();
}

#[test]
fn of_all_who_put_a_shared_block_one_frees_it() {
    let allocator = Host::<true>::allocator(&regions(), THREADS + 1);
    be(THREADS);
    for _ in 0..200 {
        let frame = allocator
            .alloc(Request::new(Order::FRAME, MigrateType::Movable))
            .unwrap();
        allocator.share(frame);
        thread::scope(|scope| {
            for cpu in 0..THREADS {
                let allocator = &allocator;
                scope.spawn(move || {
                    be(cpu);
                    if allocator.get(frame) {
                        // SAFETY: the reference was just taken.
                        unsafe { allocator.put(frame) };
                    }
                });
            }
            // SAFETY: the holder's own reference.
            unsafe { allocator.put(frame) };
        });
    }
    for cpu in 0..=THREADS {
        be(cpu);
        allocator.drain_this_cpu();
    }
    check_drained(&allocator, &Held::new()).unwrap();
    assert!(allocator.platform.reports().is_empty());
}
