//! What is done wrong on purpose, where the window moves pages.

use core::sync::atomic::{AtomicU64, Ordering};

use abi::config::fault;
use mm::{FrameNumber, Movable, Move, Platform};

use crate::cpu::Cpu;
use crate::{memory, window};

/// Who moves the window's pages: the window, unless a fault is planted.
#[inline]
pub(crate) fn mover() -> Option<&'static dyn Movable> {
    match Cpu::current().boot().run.fault {
        fault::NO_MOVES => None,
        fault::LOST_CONTENTS => Some(&Forgetful),
        _ => window::get_if_made().map(|window| window as _),
    }
}

/// Moves pages, but loses a word of each.
struct Forgetful;

impl Movable for Forgetful {
    fn isolate(&self, frame: FrameNumber) -> bool {
        window::get().isolate(frame)
    }

    fn migrate(&self, moves: &mut [Move]) {
        window::get().migrate(moves);
        for to in moves.iter().filter(|one| one.result.is_ok()).map(|one| one.to) {
            let first = memory::pages().platform().frame_ptr(to).cast::<u64>();
            // SAFETY: a word of memory, mapped for good; it is wrong by intent alone.
            let word = unsafe { AtomicU64::from_ptr(first.wrapping_add(17)) };
            word.store(0, Ordering::Relaxed);
        }
    }

    fn putback(&self, frame: FrameNumber) {
        window::get().putback(frame);
    }
}
