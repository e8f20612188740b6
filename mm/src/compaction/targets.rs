//! Free frames that the free scanner took, for pages to be moved to.

use core::panic::Location;

use crate::address::FrameNumber;
use crate::allocator::PageAllocator;
use crate::buddy::Buddy;
use crate::fault::{Fault, planted};
use crate::index::{BlockIndex, FrameIndex};
use crate::migrate_type::MigrateType;
use crate::order::Order;
use crate::platform::Platform;
use crate::request::Effort;
use crate::state::{Kind, State};
use crate::zone::Zone;

/// A queue of frames, linked through their metadata. Each is an allocated block of its own.
#[derive(Default, Debug)]
pub(super) struct Targets {
    /// The first and the last.
    ends: Option<(FrameIndex, FrameIndex)>,
    len: u32,
}

/// What came of looking at a pageblock.
#[derive(Default)]
pub(super) struct Isolated {
    /// Frames that were looked at.
    pub(super) scanned: u32,
    /// Frames that were taken.
    pub(super) taken: u32,
    /// Whether the watermark did not let it take more.
    pub(super) exhausted: bool,
}

impl Targets {
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    fn push_back<P: Platform>(&mut self, zone: &Zone<P>, frame: FrameIndex) {
        zone.frame(frame).set_next(None);
        self.ends = match self.ends {
            Some((first, last)) => {
                zone.frame(last).set_next(Some(frame));
                Some((first, frame))
            }
            None => Some((frame, frame)),
        };
        self.len += 1;
    }

    fn push_front<P: Platform>(&mut self, zone: &Zone<P>, frame: FrameIndex) {
        zone.frame(frame).set_next(self.ends.map(|(first, _)| first));
        self.ends = Some((frame, self.ends.map_or(frame, |(_, last)| last)));
        self.len += 1;
    }

    fn pop_front<P: Platform>(&mut self, zone: &Zone<P>) -> Option<FrameIndex> {
        let (first, last) = self.ends?;
        self.ends = zone.frame(first).links().0.map(|next| (next, last));
        self.len -= 1;
        Some(first)
    }

    /// Takes what is free in a pageblock.
    pub(super) fn take<P: Platform>(
        &mut self,
        allocator: &PageAllocator<P>,
        zone: &Zone<P>,
        block: BlockIndex,
    ) -> Isolated {
        allocator
            .platform
            .on_this_cpu(|_| zone.lock().isolate(block, |frame| self.push_back(zone, frame)))
    }

    /// The next frame, the caller's alone.
    pub(super) fn pop<P: Platform>(
        &mut self,
        allocator: &PageAllocator<P>,
        zone: &Zone<P>,
    ) -> Option<FrameNumber> {
        loop {
            let frame = self.pop_front(zone)?;
            let admitted = allocator
                .platform
                .on_this_cpu(|cpu| allocator.admit(zone, frame, Order::FRAME, Location::caller(), cpu));
            match admitted {
                Ok(()) => return Some(zone.number(frame)),
                Err(report) => allocator.platform.bad_page(report),
            }
        }
    }

    /// Takes a frame back that was not needed.
    pub(super) fn push<P: Platform>(
        &mut self,
        allocator: &PageAllocator<P>,
        zone: &Zone<P>,
        frame: FrameNumber,
    ) {
        if planted::<P>(Fault::LosesTargets) {
            return;
        }
        let frame = zone.index(frame).expect("it comes from `pop`");
        if P::CHECKS {
            allocator.platform.on_this_cpu(|cpu| {
                zone.poison(&allocator.platform, frame, Order::FRAME, Location::caller(), cpu);
            });
        }
        self.push_front(zone, frame);
    }

    /// Gives all frames that are left back to the zone. The highest pageblock that one is in.
    pub(super) fn release<P: Platform>(
        &mut self,
        allocator: &PageAllocator<P>,
        zone: &Zone<P>,
    ) -> Option<BlockIndex> {
        self.ends?;
        allocator.platform.on_this_cpu(|_| {
            let mut buddy = zone.lock();
            let mut highest = None;
            while let Some(frame) = self.pop_front(zone) {
                highest = highest.max(Some(frame.pageblock()));
                buddy.give(frame, Order::FRAME);
            }
            highest
        })
    }
}

impl<P: Platform> Buddy<'_, P> {
    /// Takes all free blocks of a pageblock off their lists, but those that are as large as it; and passes
    /// each frame of them to `to`, as an allocated block of its own. The zone keeps what an ordinary request
    /// has to leave.
    fn isolate(&mut self, block: BlockIndex, mut to: impl FnMut(FrameIndex)) -> Isolated {
        let zone = self.zone;
        let floor = zone.watermarks.floor(Effort::Ordinary);
        let mut found = Isolated::default();
        // The walk goes on behind a block that is taken, so it does not see what becomes of it.
        for (index, state) in zone.heads(block) {
            let frames = match state.kind() {
                Kind::Reserved => 1,
                _ => state.order().frames(),
            };
            found.scanned += frames.min(Order::PAGEBLOCK.frames());
            if state.kind() != Kind::Free || state.order() >= Order::PAGEBLOCK {
                continue;
            }
            if zone.free() < floor + u64::from(frames) && !planted::<P>(Fault::IsolatesBelowWatermark) {
                found.exhausted = true;
                break;
            }
            self.unlink(index, state.order(), state.migrate_type());
            zone.add_free(-i64::from(frames));
            let single = State::head(Kind::Allocated, Order::FRAME, MigrateType::Movable);
            let taken = if planted::<P>(Fault::IsolatesFirstOnly) {
                1
            } else {
                frames
            };
            // Descending: who walks without the lock passes over the block until its head is a frame.
            for frame in (0..taken).rev().map(|i| index.plus(i)) {
                zone.frame(frame).set(single);
            }
            (0..taken).for_each(|i| to(index.plus(i)));
            found.taken += frames;
        }
        found
    }
}
