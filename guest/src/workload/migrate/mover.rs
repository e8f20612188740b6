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
    let moved = memory::pages().migrate_pages(window::get(), batch);
    let (moved, failed) = batch.split_at(moved);
    if let Some(snapshots) = snapshots {
        snapshots.put(moved);
    }
    for one in failed {
        // SAFETY: allocated above, and used by nobody.
        unsafe { memory::pages().free(one.to, Order::FRAME) };
    }
    moved.len() as u64
}

/// The fault to plant: contents from before the pages were unmapped. What is written meanwhile is lost.
struct Snapshots {
    words: &'static [AtomicU64],
    /// Where they are from: the batch as it was.
    of: [Move; BATCH],
}

impl Snapshots {
    fn new() -> Self {
        let nowhere = FrameNumber::new(0);
        Self {
            words: memory::slice(BATCH * WORDS as usize, || AtomicU64::new(0)),
            of: [Move::new(nowhere, nowhere); BATCH],
        }
    }

    /// Where those of a page of the batch are, wherever it is in the batch by now.
    fn words(&self, one: &Move) -> impl Iterator<Item = (usize, &AtomicU64)> {
        let place = self.of.iter().position(|was| was.from == one.from);
        let first = place.expect("it was taken") * WORDS as usize;
        self.words[first..][..WORDS as usize].iter().enumerate()
    }

    fn take(&mut self, batch: &[Move]) {
        self.of[..batch.len()].copy_from_slice(batch);
        for one in batch {
            for (i, word) in self.words(one) {
                word.store(at(one.from, i).load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
    }

    fn put(&self, moved: &[Move]) {
        for one in moved {
            for (i, word) in self.words(one) {
                at(one.to, i).store(word.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
    }
}

/// A word of a frame.
fn at(frame: FrameNumber, index: usize) -> &'static AtomicU64 {
    let first = memory::pages().platform().frame_ptr(frame).cast::<AtomicU64>();
    // SAFETY: a word of memory, mapped for good, and taken for one.
    unsafe { &*first.wrapping_add(index) }
}
