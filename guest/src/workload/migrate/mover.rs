//! The mover: a batch of pages after the other, all round the window.

use core::sync::atomic::{AtomicU64, Ordering};

use abi::boot::BootInfo;
use abi::config::fault;
use mm::{Entry, FrameNumber, MigrateType, Movable, Move, Order, Platform, Request};

use super::{Game, WORDS};
use crate::{clock, memory, window};

/// Pages that are moved together.
const BATCH: usize = 32;

/// Moves pages until there have been as many as were asked for, or the time is up; returns how many.
pub(super) fn run(boot: &BootInfo, game: &Game, deadline: u64) -> u64 {
    let nowhere = FrameNumber::new(0);
    let mut batch = [Move::new(nowhere, nowhere); BATCH];
    let mut snapshots = (boot.run.fault == fault::EARLY_COPY).then(Snapshots::new);
    let (mut moved, mut full) = (0, 0);
    loop {
        for page in game.all().iter() {
            let Entry::Present { frame, .. } = window::get().entry(page) else {
                continue;
            };
            if !window::get().isolate(frame) {
                continue;
            }
            let Ok(to) = memory::pages().alloc(Request::new(Order::FRAME, MigrateType::Movable)) else {
                window::get().putback(frame);
                continue;
            };
            batch[full] = Move::new(frame, to);
            full += 1;
            if full == BATCH {
                moved += migrate(&mut batch, snapshots.as_mut());
                full = 0;
            }
        }
        // What is left of a round; there may be little.
        moved += migrate(&mut batch[..full], snapshots.as_mut());
        full = 0;
        let enough = match boot.run.rounds {
            0 => clock::cycles() >= deadline,
            rounds => moved >= rounds,
        };
        if enough {
            return moved;
        }
    }
}

/// Moves a batch; returns how many pages of it did move.
fn migrate(batch: &mut [Move], mut snapshots: Option<&mut Snapshots>) -> u64 {
    if let Some(snapshots) = &mut snapshots {
        snapshots.take(batch);
    }
    window::get().migrate(batch);
    if let Some(snapshots) = snapshots {
        snapshots.put(batch);
    }
    let mut moved = 0;
    for one in batch {
        match one.result {
            Ok(()) => moved += 1,
            Err(_) => {
                window::get().putback(one.from);
                // SAFETY: allocated above, and used by nobody.
                unsafe { memory::pages().free(one.to, Order::FRAME) };
            }
        }
    }
    moved
}

/// The fault to plant: contents from before the pages were unmapped. What is written meanwhile is lost.
struct Snapshots(&'static [AtomicU64]);

impl Snapshots {
    fn new() -> Self {
        Self(memory::slice(BATCH * WORDS as usize, || AtomicU64::new(0)))
    }

    fn each(&self, batch: &[Move], f: impl Fn(&Move, &AtomicU64, usize)) {
        for (one, words) in batch.iter().zip(self.0.chunks_exact(WORDS as usize)) {
            for (i, word) in words.iter().enumerate() {
                f(one, word, i);
            }
        }
    }

    fn take(&mut self, batch: &[Move]) {
        self.each(batch, |one, word, i| {
            word.store(at(one.from, i).load(Ordering::Relaxed), Ordering::Relaxed)
        });
    }

    fn put(&mut self, batch: &[Move]) {
        self.each(batch, |one, word, i| {
            if one.result.is_ok() {
                at(one.to, i).store(word.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        });
    }
}

/// A word of a frame.
fn at(frame: FrameNumber, index: usize) -> &'static AtomicU64 {
    let first = memory::pages().platform().frame_ptr(frame).cast::<AtomicU64>();
    // SAFETY: a word of memory, mapped for good, and taken for one.
    unsafe { &*first.wrapping_add(index) }
}
