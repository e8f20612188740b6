//! Huge pages, as many as there are; and what it takes to copy what was moved for them, and nothing else.

use core::ptr;

use abi::memory::CompactionRound;
use abi::report::Histogram;
use mm::{BlockIndex, Effort, FRAME_SIZE, FrameNumber, Kind, MigrateType, Order, Platform, Request, User};

use super::recipe::Recipe;
use super::{count_moves, daemon, moved};
use crate::{clock, memory, report};

const HUGE: Request = Request::new(Order::PAGEBLOCK, MigrateType::Movable).with(Effort::MayCompact);

/// Allocates huge pages until there are no more; says how long it took at most.
pub(super) fn run(proactive: bool, times: &mut Histogram, round: &mut CompactionRound) -> (Huge, u64) {
    let pages = memory::pages();
    round.score_before = pages.fragmentation_score().into();
    let (free, already) = free();
    round.fragmented = free - already - lost();
    if proactive {
        daemon::wait(round);
    }
    round.score_after = pages.fragmentation_score().into();
    let before = moved();
    let (mut all, mut longest) = (
        Huge {
            already,
            last: 0,
            len: 0,
        },
        0,
    );
    let begin = clock::cycles();
    loop {
        let start = clock::cycles();
        let Ok(frame) = pages.alloc(HUGE) else { break };
        let took = clock::cycles().saturating_sub(start);
        report::record(times, took);
        longest = longest.max(took);
        all.push(frame);
    }
    if !proactive {
        count_moves(round, before, clock::cycles().saturating_sub(begin));
    }
    (all, longest)
}

/// Sees what has become huge in the end. Nobody else compacts now.
pub(super) fn finish(all: &Huge, round: &mut CompactionRound) {
    // So much is kept free, by the watermark and as room to work in, that allocations do not compact for the last
    // few. They become huge all the same.
    memory::pages().compact_memory();
    round.huge = (all.len() * BLOCK + free().1).saturating_sub(all.already);
}

/// Frames of a huge page.
const BLOCK: u64 = Order::PAGEBLOCK.frames() as u64;

/// Free frames, and those of them that are in huge blocks.
fn free() -> (u64, u64) {
    let pages = memory::pages();
    let (mut all, mut huge) = (0, 0);
    for zone in pages.zones() {
        for (order, counts) in Order::all().zip(pages.free_counts(zone.kind())) {
            let frames = counts.iter().map(|count| u64::from(*count)).sum::<u64>() << order.get();
            all += frames;
            huge += if order >= Order::PAGEBLOCK { frames } else { 0 };
        }
    }
    (all, huge)
}

/// Free frames in pageblocks that the kernel has others of, for good: they can never become huge.
fn lost() -> u64 {
    let pages = memory::pages();
    let blocks = pages.zones().iter().flat_map(|zone| {
        (0..zone.pageblocks().len() as u32).map(move |block| {
            let (mut free, mut kernel) = (0, false);
            for (index, state) in zone.heads(BlockIndex::new(block)) {
                match state.kind() {
                    Kind::Free => free += u64::from(state.order().frames()),
                    _ => kernel |= zone.frame(index).movable() != Some(User::Window),
                }
            }
            if kernel { free } else { 0 }
        })
    });
    blocks.sum()
}

/// Huge pages, a list through the words that their holder has of each.
pub(super) struct Huge {
    /// Frames that were in huge blocks before.
    already: u64,
    /// Number of the first frame of the last one; 0 if there is none.
    last: u64,
    len: u64,
}

impl Huge {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    fn push(&mut self, frame: FrameNumber) {
        let metadata = memory::pages().frame(frame).expect("it was allocated");
        metadata.set_private(self.last);
        self.last = frame.number();
        self.len += 1;
    }

    pub(super) fn free(mut self) {
        while self.last != 0 {
            let frame = FrameNumber::new(self.last);
            let metadata = memory::pages().frame(frame).expect("it was allocated");
            self.last = metadata.private();
            metadata.set_private(0);
            // SAFETY: it was allocated so, and is used no more.
            unsafe { memory::pages().free(frame, Order::PAGEBLOCK) };
        }
    }
}

/// Copies each page that was moved back to where it was, as far as that is in a huge page now: what moving them would
/// cost if copying were all.
pub(super) fn copy(recipe: &Recipe, round: &mut CompactionRound) {
    let is_ours = |frame: FrameNumber| {
        let head = FrameNumber::new(frame.number() & !(BLOCK - 1));
        let state = memory::pages().frame(head).map(|frame| frame.state());
        state.is_some_and(|state| state.kind() == Kind::Allocated && state.order() == Order::PAGEBLOCK)
    };
    let at = |frame| memory::pages().platform().frame_ptr(frame);
    let mut cycles = 0;
    for (from, to) in recipe.moves().filter(|(from, _)| is_ours(*from)) {
        let start = clock::cycles();
        // SAFETY: a page's frame, which nobody writes to now, and part of a block that is ours.
        unsafe { ptr::copy_nonoverlapping(at(to), at(from), FRAME_SIZE as usize) };
        cycles += clock::cycles().saturating_sub(start);
        round.copied += 1;
    }
    round.copying_cycles = cycles;
}
