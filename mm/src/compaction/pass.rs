//! A pass of the two scanners through a zone.

use super::batch::Batch;
use super::targets::Targets;
use super::{By, CompactResult, Control, Goal};
use crate::allocator::PageAllocator;
use crate::fault::{Fault, planted};
use crate::index::{BlockIndex, FrameIndex};
use crate::movable::User;
use crate::order::Order;
use crate::platform::Platform;
use crate::stat::Event;
use crate::zone::Zone;

/// As far above its goal, in percent, a pass that goes by the score moves pages of several pageblocks together.
/// Closer to it, it looks after each.
const FAR: u32 = 10;

/// A pass: what changes of Linux's `compact_control`.
pub(super) struct Pass<'a, P: Platform> {
    pub(super) allocator: &'a PageAllocator<P>,
    pub(super) zone: &'a Zone<P>,
    control: Control,
    /// Whether it goes from end to end, and has looked at every pageblock.
    whole: bool,
    /// The first pageblock that the migrate scanner has not looked at.
    pub(super) migrate: u32,
    /// The first pageblock that the free scanner has looked at. Not below `migrate`.
    pub(super) free: u32,
    /// What the free scanner has taken, and is not used yet.
    pub(super) targets: Targets,
}

impl<'a, P: Platform> Pass<'a, P> {
    pub(super) fn new(allocator: &'a PageAllocator<P>, zone: &'a Zone<P>, control: Control) -> Self {
        let end = zone.pageblocks().len() as u32;
        let (mut migrate, mut free) = zone.progress.positions();
        // Others may have moved either meanwhile.
        if control.whole || migrate >= free {
            (migrate, free) = (0, end);
        }
        Pass {
            allocator,
            zone,
            control,
            whole: (migrate, free) == (0, end),
            migrate,
            free,
            targets: Targets::default(),
        }
    }

    /// Moves pages until the goal is reached or the scanners meet.
    pub(super) fn run(mut self) -> CompactResult {
        let mut batch = Batch::new(self.zone.number(FrameIndex::new(0)));
        let mut again = planted::<P>(Fault::ScansAgain);
        let result = loop {
            if let Some(result) = self.finished() {
                break result;
            }
            let source = BlockIndex::new(self.migrate);
            self.migrate += 1;
            if self.skips(source) {
                continue;
            }
            if !self.empty(source, &mut batch) {
                // The scanners have met, which `finished` would say now, or others need the memory.
                match self.finished() {
                    Some(result) => break result,
                    None => break CompactResult::Contended,
                }
            }
            if again && self.migrate > 1 {
                (again, self.migrate) = (false, self.migrate - 2);
            }
        };
        self.move_batch(&mut batch);
        if let Some(highest) = self.targets.release(self.allocator, self.zone) {
            self.zone.progress.frames_below(highest.get() as u32 + 1);
        }
        result
    }

    /// Linux's `compact_finished`.
    fn finished(&self) -> Option<CompactResult> {
        let done = match self.control.goal {
            Goal::Block(order, effort) => self.allocator.available(self.zone, order, effort),
            Goal::Score(target) => self.allocator.zone_score(self.zone) <= target,
            Goal::All => false,
        };
        if done {
            return Some(CompactResult::Success);
        }
        if self.migrate < self.free {
            return None;
        }
        self.zone
            .progress
            .reset_positions(self.zone.pageblocks().len() as u32);
        if self.control.by == By::Caller {
            // Only an allocation can tell that hints are in the way: the daemon does not undo its own.
            self.zone.progress.request_flush();
        }
        Some(if self.whole {
            CompactResult::Complete
        } else {
            CompactResult::PartialSkipped
        })
    }

    pub(super) fn skips(&mut self, block: BlockIndex) -> bool {
        let skips = !self.control.whole && self.zone.pageblock(block).skip();
        self.whole &= !skips;
        skips
    }

    /// Whether pages of several pageblocks are moved together: each batch costs all CPUs what they remember of
    /// pages.
    fn gathers(&self) -> bool {
        match self.control.goal {
            // Whoever waits for a block is not to wait for more.
            Goal::Block(..) => false,
            Goal::Score(target) => self.allocator.zone_score(self.zone) > target + FAR,
            Goal::All => true,
        }
    }

    /// Moves what can be moved out of a pageblock, or adds it to what is moved later. `false` if there were not
    /// enough frames to move it to.
    fn empty(&mut self, block: BlockIndex, batch: &mut Batch<'a>) -> bool {
        let (allocator, zone) = (self.allocator, self.zone);
        let mut any = false;
        let frames = zone.frames().len() - block.first().get();
        self.count(
            Event::CompactMigrateScanned,
            Order::PAGEBLOCK.frames().min(frames as u32),
        );
        for user in User::ALL {
            let Some(mover) = allocator.platform.movable(user) else {
                continue;
            };
            if planted::<P>(Fault::MovesForFirstOnly) && user != User::ALL[0] {
                break;
            }
            // A batch is for one user.
            if !batch.is_of(user) && !self.move_batch(batch) {
                return false;
            }
            let mut heads = zone.heads(block);
            while self.isolate_pages((user, mover), &mut heads, batch) {
                any = true;
                // Frames are taken now, whenever pages move: so the scanners go the same way.
                let gathers = self.reserve(batch.len()) && batch.has_room() && self.gathers();
                if !gathers && !self.move_batch(batch) {
                    return false;
                }
            }
        }
        if !any {
            zone.pageblock(block).set_skip(true);
        }
        zone.progress.migrated_below(self.migrate);
        true
    }

    pub(super) fn count(&self, event: Event, amount: u32) {
        self.allocator.platform.on_this_cpu(|cpu| {
            let events = self.zone.cpus[cpu.0 as usize].events();
            events.add(event, amount);
            if self.control.by == By::Daemon
                && let Some(event) = event.of_daemon()
            {
                events.add(event, amount);
            }
        });
    }
}
