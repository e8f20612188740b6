//! The two scanners, and what they do with a batch.

use super::batch::Batch;
use super::pass::Pass;
use crate::fault::{Fault, planted};
use crate::index::{BlockIndex, FrameIndex};
use crate::migrate_type::MigrateType;
use crate::movable::{Movable, Move, User};
use crate::order::Order;
use crate::platform::Platform;
use crate::stat::Event;
use crate::state::{Kind, State};

impl<'a, P: Platform> Pass<'a, P> {
    /// Isolates the next pages of a user, as many as the batch has room for, and says whether there were any.
    /// Linux's `isolate_migratepages`.
    pub(super) fn isolate_pages(
        &self,
        (user, mover): (User, &'a dyn Movable),
        heads: &mut impl Iterator<Item = (FrameIndex, State)>,
        batch: &mut Batch<'a>,
    ) -> bool {
        let mut pages = 0;
        while batch.has_room()
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
            batch.push((user, mover), frame);
            pages += 1;
        }
        self.count(Event::CompactIsolated, pages);
        pages > 0
    }

    /// Moves what was gathered, and has been reserved for. `false` if there were fewer frames than pages.
    pub(super) fn move_batch(&mut self, batch: &mut Batch<'a>) -> bool {
        match batch.take() {
            Some((mover, pages)) => self.move_pages(mover, pages),
            None => true,
        }
    }

    /// Moves isolated pages to the frames that were reserved, or puts them back. `false` if there were fewer frames
    /// than pages.
    fn move_pages(&mut self, mover: &dyn Movable, pages: &mut [Move]) -> bool {
        let (allocator, zone) = (self.allocator, self.zone);
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

    /// Takes frames for so many pages, and says whether there are as many.
    pub(super) fn reserve(&mut self, pages: usize) -> bool {
        while (self.targets.len() as usize) < pages && self.isolate_frames() {}
        self.targets.len() as usize >= pages
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
}
