//! A pass of the two scanners through a zone.

use super::targets::Targets;
use super::{By, CompactResult, Control, Goal};
use crate::allocator::PageAllocator;
use crate::fault::{Fault, planted};
use crate::index::{BlockIndex, FrameIndex};
use crate::migrate_type::MigrateType;
use crate::movable::{Movable, Move, User};
use crate::order::Order;
use crate::platform::Platform;
use crate::stat::Event;
use crate::state::{Kind, State};
use crate::zone::Zone;

/// Most pages that are moved at once. It is enough for a pageblock that is half full, and no burden for a
/// kernel's stack: 6 KiB.
const BATCH: usize = 256;

/// A pass: what changes of Linux's `compact_control`.
pub(super) struct Pass<'a, P: Platform> {
    allocator: &'a PageAllocator<P>,
    zone: &'a Zone<P>,
    control: Control,
    /// Whether it goes from end to end, and has looked at every pageblock.
    whole: bool,
    /// The first pageblock that the migrate scanner has not looked at.
    migrate: u32,
    /// The first pageblock that the free scanner has looked at. Not below `migrate`.
    free: u32,
    /// What the free scanner has taken, and is not used yet.
    targets: Targets,
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
        let nowhere = self.zone.number(FrameIndex::new(0));
        let mut batch = [Move::new(nowhere, nowhere); BATCH];
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

    fn skips(&mut self, block: BlockIndex) -> bool {
        let skips = !self.control.whole && self.zone.pageblock(block).skip();
        self.whole &= !skips;
        skips
    }

    /// Moves what can be moved out of a pageblock. `false` if there were not enough frames to move it to.
    fn empty(&mut self, block: BlockIndex, batch: &mut [Move; BATCH]) -> bool {
        let (allocator, zone) = (self.allocator, self.zone);
        let mut any = false;
        let frames = zone.frames().len() - block.first().get();
        self.count(
            Event::CompactMigrateScanned,
            Order::PAGEBLOCK.frames().min(frames as u32),
        );
        // One user at a time: a batch is for one.
        for user in User::ALL {
            let Some(mover) = allocator.platform.movable(user) else {
                continue;
            };
            if planted::<P>(Fault::MovesForFirstOnly) && user != User::ALL[0] {
                break;
            }
            let mut heads = zone.heads(block);
            loop {
                let pages = self.isolate_pages((user, mover), &mut heads, batch);
                if pages == 0 {
                    break;
                }
                any = true;
                if !self.move_pages(mover, &mut batch[..pages]) {
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

    /// Isolates the next pages of a user, a batch at most. Linux's `isolate_migratepages`.
    fn isolate_pages(
        &self,
        (user, mover): (User, &dyn Movable),
        heads: &mut impl Iterator<Item = (FrameIndex, State)>,
        batch: &mut [Move; BATCH],
    ) -> usize {
        let mut pages = 0;
        while pages < BATCH
            && let Some((index, state)) = heads.next()
        {
            let single = |state: State| state.kind() == Kind::Allocated && state.order() == Order::FRAME;
            let metadata = self.zone.frame(index);
            if !single(state) || metadata.movable() != Some(user) {
                continue;
            }
            let frame = self.zone.number(index);
            if !mover.isolate(frame) {
                continue;
            }
            // Only now it stays what it is.
            if !single(metadata.state()) {
                mover.putback(frame);
                continue;
            }
            batch[pages] = Move::new(frame, frame);
            pages += 1;
        }
        self.count(Event::CompactIsolated, pages as u32);
        pages
    }

    /// Moves isolated pages, or puts them back. `false` if there were fewer frames than pages.
    fn move_pages(&mut self, mover: &dyn Movable, pages: &mut [Move]) -> bool {
        let (allocator, zone) = (self.allocator, self.zone);
        while (self.targets.len() as usize) < pages.len() && self.isolate_frames() {}
        let mut ready = 0;
        for page in &mut *pages {
            let Some(to) = self.targets.pop(allocator, zone) else {
                break;
            };
            page.to = to;
            ready += 1;
        }
        let (pages, homeless) = pages.split_at_mut(ready);
        homeless.iter().for_each(|page| mover.putback(page.from));
        let moved = allocator.migrate_pages(mover, pages);
        for page in &pages[moved..] {
            self.targets.push(allocator, zone, page.to);
        }
        if planted::<P>(Fault::FreesTargets) {
            for page in pages[..moved].iter().take(1) {
                self.targets.push(allocator, zone, page.to);
            }
        }
        // They were allocated when pages moved there; those that they came from have been counted as freed.
        self.count(Event::Pgalloc, moved as u32);
        // Where this CPU has them on its lists, they do not merge.
        allocator.drain_this_cpu();
        homeless.is_empty()
    }

    /// Takes the free frames of the next pageblock that has any. `false` if none is left. Linux's
    /// `isolate_freepages`.
    fn isolate_frames(&mut self) -> bool {
        let zone = self.zone;
        let end = if planted::<P>(Fault::ScannersPass) {
            self.migrate.saturating_sub(2)
        } else {
            self.migrate
        };
        while self.free > end {
            let block = BlockIndex::new(self.free - 1);
            if self.skips(block) || !self.takes_from(block) {
                self.free -= 1;
                continue;
            }
            let found = self.targets.take(self.allocator, zone, block);
            self.count(Event::CompactFreeScanned, found.scanned);
            self.count(Event::CompactIsolated, found.taken);
            if found.exhausted && found.taken == 0 {
                return false;
            }
            self.free -= 1;
            if found.taken > 0 {
                return true;
            }
            zone.pageblock(block).set_skip(true);
            zone.progress.no_frames_from(self.free);
        }
        false
    }

    /// Whether pages may move to a pageblock: one for movable memory, and not wholly free. Linux's
    /// `suitable_migration_target`.
    fn takes_from(&self, block: BlockIndex) -> bool {
        // A hint, as nobody holds the lock.
        let state = self.zone.frame(block.first()).state();
        let whole = match state.kind() {
            // A larger block starts below.
            Kind::Tail => true,
            Kind::Free => state.order() >= Order::PAGEBLOCK,
            Kind::Reserved | Kind::Listed | Kind::Allocated => false,
        };
        !whole && self.zone.pageblock(block).migrate_type() == MigrateType::Movable
    }

    fn count(&self, event: Event, amount: u32) {
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
