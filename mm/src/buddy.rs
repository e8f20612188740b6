//! The buddy allocator of a zone: free lists, splitting and merging.
//!
//! ```text
//!   lists[order][type] ──► Frame ◄──► Frame ◄──► Frame      linked through the metadata of the blocks' heads
//!
//!   take(2)     |        5: free          |     unlink, halve until it fits, list each upper half
//!               | 2: taken | 2 |    3     |
//!               |  4: |    4: free        |
//!
//!   give(2)     the same upwards: as long as the buddy of a block is free and as large, both are one
//! ```
//!
//! Everything is as large as it can be: of two buddies at least one is not free, or not whole. So the free
//! blocks depend only on which frames are free, not on how that came about.
//!
//! A block of the largest order can stand on its list for a *run* of them, itself and those behind it that
//! nobody has had yet: all memory at first. When it is taken off the list, the next one of the run takes its
//! place. So making an allocator of much memory costs no more than one of little.
//!
//! The type of a block on a list is that of its pageblock. Of a block that is larger than a pageblock, both
//! pageblocks have the same type.

use lock_api::MutexGuard;

use crate::address::FrameRange;
use crate::fault::{Fault, planted};
use crate::frame::Frame;
use crate::index::FrameIndex;
use crate::migrate_type::MigrateType;
use crate::order::Order;
use crate::platform::Platform;
use crate::state::{Kind, State};
use crate::zone::Zone;

/// Lengths of all free lists, in blocks, by order and type.
pub(crate) type Counts = [[u32; MigrateType::COUNT]; Order::COUNT];

/// The free lists of a zone. What links them is in the frames.
#[derive(Clone, Debug)]
pub(crate) struct FreeLists {
    heads: [[Option<FrameIndex>; MigrateType::COUNT]; Order::COUNT],
    counts: Counts,
}

impl FreeLists {
    pub(crate) const fn new() -> FreeLists {
        FreeLists {
            heads: [[None; MigrateType::COUNT]; Order::COUNT],
            counts: [[0; MigrateType::COUNT]; Order::COUNT],
        }
    }
}

/// A zone with its lock held.
pub(crate) struct Buddy<'z, P: Platform> {
    pub(crate) zone: &'z Zone<P>,
    lists: MutexGuard<'z, P::Lock, FreeLists>,
}

impl<'z, P: Platform> Buddy<'z, P> {
    pub(crate) fn new(zone: &'z Zone<P>, lists: MutexGuard<'z, P::Lock, FreeLists>) -> Self {
        Buddy { zone, lists }
    }

    /// Lengths of the lists.
    pub(crate) fn counts(&self) -> Counts {
        self.lists.counts
    }

    /// Whether there is a block of `order` or larger, of any type.
    pub(crate) fn has(&self, order: Order) -> bool {
        let lists = &self.lists.counts[order.index()..];
        lists.as_flattened().iter().any(|count| *count > 0)
    }

    /// First block of a list.
    pub(crate) fn first(&self, order: Order, migrate_type: MigrateType) -> Option<FrameIndex> {
        self.lists.heads[order.index()][migrate_type.index()]
    }

    /// The block behind one on a list.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn next(&self, index: FrameIndex) -> Option<FrameIndex> {
        self.frame(index).links().0
    }

    /// Takes a block of `order` out of the smallest block of this very type that is large enough. It is of
    /// `kind` then.
    pub(crate) fn take(&mut self, order: Order, migrate_type: MigrateType, kind: Kind) -> Option<FrameIndex> {
        let (from, index) = order
            .and_up()
            .find_map(|from| Some((from, self.first(from, migrate_type)?)))?;
        self.unlink(index, from, migrate_type);
        self.split(index, from, order, migrate_type);
        self.hand_out(index, order, migrate_type, kind);
        Some(index)
    }

    /// Makes an unlinked block of `order` what its next holder asked for.
    pub(crate) fn hand_out(&self, index: FrameIndex, order: Order, migrate_type: MigrateType, kind: Kind) {
        self.frame(index).set(State::head(kind, order, migrate_type));
        self.zone.add_free(-i64::from(order.frames()));
    }

    /// Halves an unlinked block until it is of order `to`, and lists the upper halves as `migrate_type`.
    pub(crate) fn split(&mut self, index: FrameIndex, from: Order, to: Order, migrate_type: MigrateType) {
        let mut order = from;
        while order > to {
            order = order.down();
            if !planted::<P>(Fault::LosesUpperHalf) {
                self.link(index.plus(order.frames()), order, migrate_type);
            }
        }
    }

    /// Takes back a block that is on no list and nobody's, and merges it as far as possible.
    pub(crate) fn give(&mut self, index: FrameIndex, order: Order) {
        self.zone.add_free(order.frames().into());
        let migrate_type = self.type_of(index);
        let (mut index, mut order) = (index, order);
        while let Some(larger) = order.up() {
            let buddy = index.buddy(order);
            if planted::<P>(Fault::ForgetsToMerge) && order == Order::COSTLY || !self.mergeable(buddy, order)
            {
                break;
            }
            let buddy_type = self.type_of(buddy);
            self.unlink(buddy, order, buddy_type);
            if order >= Order::PAGEBLOCK {
                self.set_type(buddy, order, migrate_type);
            }
            self.frame(index.max(buddy)).set(State::TAIL);
            (index, order) = (index.min(buddy), larger);
        }
        self.link(index, order, migrate_type);
    }

    /// Gives all frames of `range`, which are nobody's yet and whose metadata is zero, in blocks as large as they
    /// can be.
    pub(crate) fn give_range(&mut self, range: FrameRange) {
        let Some(start) = self.zone.index(range.start()) else {
            return;
        };
        let mut run: Option<(FrameIndex, u32)> = None;
        for (index, order) in start.blocks(range.len()) {
            match &mut run {
                _ if order < Order::MAX => self.give(index, order),
                Some((_, length)) => *length += 1,
                None => run = Some((index, 1)),
            }
        }
        if let Some((index, length)) = run {
            let migrate_type = self.type_of(index);
            self.zone
                .add_free(i64::from(length) * i64::from(Order::MAX.frames()));
            self.lists.counts[Order::MAX.index()][migrate_type.index()] += length;
            self.insert(index, Order::MAX, migrate_type, length - 1);
        }
    }

    /// Puts a block that is on no list on the one of `order` and `migrate_type`.
    pub(crate) fn link(&mut self, index: FrameIndex, order: Order, migrate_type: MigrateType) {
        self.lists.counts[order.index()][migrate_type.index()] += 1;
        self.insert(index, order, migrate_type, 0);
    }

    /// Puts a block on its list, which stands for the `run` blocks behind it too. They are counted already.
    fn insert(&mut self, index: FrameIndex, order: Order, migrate_type: MigrateType, run: u32) {
        let next = self.lists.heads[order.index()][migrate_type.index()].replace(index);
        let frame = self.frame(index);
        frame.set(State::head(Kind::Free, order, migrate_type));
        frame.set_next(next);
        frame.set_prev(None);
        if let Some(next) = next {
            self.frame(next).set_prev(Some(index));
        }
        if order == Order::MAX {
            frame.set_private(run.into());
        }
    }

    /// Takes a free block off its list, wherever it is there, and leaves the rest of its run. Its state is the
    /// caller's to change.
    pub(crate) fn unlink(&mut self, index: FrameIndex, order: Order, migrate_type: MigrateType) {
        let (row, column) = (order.index(), migrate_type.index());
        let run = self.zone.run(index);
        let (next, prev) = self.frame(index).links();
        match prev {
            Some(prev) => self.frame(prev).set_next(next),
            None => self.lists.heads[row][column] = next,
        }
        if let Some(next) = next {
            self.frame(next).set_prev(prev);
        }
        if !planted::<P>(Fault::MiscountsLists) {
            self.lists.counts[row][column] -= 1;
        }
        if run > 0 && !planted::<P>(Fault::LosesRuns) {
            self.insert(index.plus(order.frames()), order, migrate_type, run - 1);
        }
    }

    /// Changes the type of all pageblocks in a block that is at least as large as one.
    pub(crate) fn set_type(&self, index: FrameIndex, order: Order, migrate_type: MigrateType) {
        let first = index.pageblock().get();
        let count = (order.frames() / Order::PAGEBLOCK.frames()) as usize;
        for pageblock in &self.zone.pageblocks()[first..first + count] {
            pageblock.set_migrate_type(migrate_type);
        }
    }

    /// Type of the pageblock that a block is in.
    pub(crate) fn type_of(&self, index: FrameIndex) -> MigrateType {
        self.zone.pageblock(index.pageblock()).migrate_type()
    }

    /// Whether a free block of `order` starts at `buddy`.
    fn mergeable(&self, buddy: FrameIndex, order: Order) -> bool {
        let Some(frame) = self.zone.frames().get(buddy.get()) else {
            return false;
        };
        let state = frame.state();
        state.free(order)
            || planted::<P>(Fault::MergesUnequal) && state.kind() == Kind::Free && state.order() < order
    }

    fn frame(&self, index: FrameIndex) -> &'z Frame {
        self.zone.frame(index)
    }
}
