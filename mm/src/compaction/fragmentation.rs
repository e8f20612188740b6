//! How much of what is free is in pieces too small, and whether compaction can help.

use core::fmt;

use crate::allocator::PageAllocator;
use crate::buddy::Counts;
use crate::fault::{Fault, planted};
use crate::order::Order;
use crate::platform::Platform;
use crate::request::Effort;
use crate::watermark::Mark;
use crate::zone::Zone;
use crate::zone_kind::ZoneKind;

/// Up to this, in thousandths, an allocation fails for want of memory rather than for fragmentation: Linux's
/// `extfrag_threshold`.
const THRESHOLD: i32 = 500;

/// What is free in a zone, seen by somebody who wants blocks of an order. Linux's `contig_page_info`.
#[derive(Clone, Copy, Debug)]
pub(super) struct FreeBlocks {
    order: Order,
    /// Free frames.
    frames: u64,
    /// Free blocks.
    blocks: u64,
    /// Blocks of the order that the free ones have room for.
    suitable: u64,
}

impl FreeBlocks {
    pub(super) fn of(counts: &Counts, order: Order) -> FreeBlocks {
        let mut free = FreeBlocks {
            order,
            frames: 0,
            blocks: 0,
            suitable: 0,
        };
        for (row, of) in counts.iter().zip(Order::all()) {
            let blocks: u64 = row.iter().map(|count| u64::from(*count)).sum();
            free.blocks += blocks;
            free.frames += blocks << of.get();
            if of >= order {
                free.suitable += blocks << (of.get() - order.get());
            }
        }
        free
    }

    /// Why a request would fail, in thousandths: towards 0 for want of memory, towards 1000 because it is in
    /// pieces; -1000 if it would not.
    pub(super) fn fragmentation_index(&self) -> i32 {
        if self.blocks == 0 {
            return 0;
        }
        if self.suitable > 0 {
            return -1000;
        }
        let requests = (self.frames * 1000) >> self.order.get();
        // Below 0 it would be with more than a request's worth of frames in a block, which is suitable then.
        1000 - ((1000 + requests) / self.blocks) as i32
    }

    /// How much of the free memory is of no use for the order, of `scale`.
    fn unusable(&self, scale: u64, of_nothing: u64) -> u32 {
        if self.frames == 0 {
            return of_nothing as u32;
        }
        let unusable = self.frames - (self.suitable << self.order.get());
        (unusable * scale / self.frames) as u32
    }

    /// In thousandths; all of nothing is unusable.
    fn unusable_index(&self) -> u32 {
        self.unusable(1000, 1000)
    }

    /// In percent; nothing is not fragmented.
    fn score(&self) -> u32 {
        self.unusable(100, 0)
    }
}

impl<P: Platform> PageAllocator<P> {
    /// Why an allocation of `order` would fail in a zone, in thousandths: Linux's `fragmentation_index`.
    /// -1000 if it would not; towards 0 for want of memory, towards 1000 for fragmentation.
    pub fn fragmentation_index(&self, zone: ZoneKind, order: Order) -> i32 {
        self.free_blocks(self.zone(zone), order).fragmentation_index()
    }

    /// How much of a zone's free memory is in blocks smaller than `order`, in thousandths: Linux's
    /// `unusable_free_index`.
    pub fn unusable_index(&self, zone: ZoneKind, order: Order) -> u32 {
        self.free_blocks(self.zone(zone), order).unusable_index()
    }

    /// How much of the free memory is in blocks smaller than a pageblock, in percent, zones by their size.
    /// Linux's `fragmentation_score_node`.
    pub fn fragmentation_score(&self) -> u32 {
        let weigh = |zone: &Zone<P>| zone.managed() * u64::from(self.zone_score(zone));
        let total: u64 = self.populated().map(Zone::managed).sum();
        (self.populated().map(weigh).sum::<u64>() / total.max(1)) as u32
    }

    /// Fragmentation indices by zone and order: Linux's `extfrag/extfrag_index` in debugfs.
    pub fn extfrag_index(&self) -> impl fmt::Display {
        self.by_order(|free| free.fragmentation_index())
    }

    /// Indices of unusable free memory by zone and order: Linux's `extfrag/unusable_index` in debugfs.
    pub fn extfrag_unusable_index(&self) -> impl fmt::Display {
        self.by_order(|free| free.unusable_index() as i32)
    }

    fn by_order(&self, index: impl Fn(&FreeBlocks) -> i32) -> impl fmt::Display {
        fmt::from_fn(move |f| {
            for zone in self.populated() {
                write!(f, "Node 0, zone {:>8} ", zone.kind().name())?;
                let counts = self.counts(zone);
                for order in Order::all() {
                    let index = index(&FreeBlocks::of(&counts, order));
                    write!(f, "{:2}.{:03} ", index / 1000, index.abs() % 1000)?;
                }
                writeln!(f)?;
            }
            Ok(())
        })
    }

    /// Score of a zone.
    pub(super) fn zone_score(&self, zone: &Zone<P>) -> u32 {
        self.free_blocks(zone, Order::PAGEBLOCK).score()
    }

    /// Whether a block of `order` can be allocated.
    pub(crate) fn available(&self, zone: &Zone<P>, order: Order, effort: Effort) -> bool {
        let needs = zone.watermarks.floor(effort) + u64::from(order.frames());
        zone.free() >= needs && self.free_blocks(zone, order).suitable > 0
    }

    /// Whether compaction can make a block of `order`: there is memory to work with, and it is in pieces.
    /// Linux's `compaction_suitable`.
    pub(super) fn suitable(&self, zone: &Zone<P>, order: Order) -> bool {
        let costly = order > Order::COSTLY;
        let mark = zone.watermarks.get(if costly { Mark::Low } else { Mark::Min });
        // As much as the block, and as much again that pages move to meanwhile: Linux's `compact_gap`.
        let gap = 2 << order.get();
        if zone.free() <= mark + gap && !planted::<P>(Fault::CompactsTheFull) {
            return false;
        }
        let index = self.free_blocks(zone, order).fragmentation_index();
        !costly || !(0..=THRESHOLD).contains(&index)
    }

    fn free_blocks(&self, zone: &Zone<P>, order: Order) -> FreeBlocks {
        FreeBlocks::of(&self.counts(zone), order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(blocks: &[(usize, u32)], order: Order) -> FreeBlocks {
        let mut counts = Counts::default();
        for (of, count) in blocks {
            counts[*of][1] += count;
        }
        FreeBlocks::of(&counts, order)
    }

    #[test]
    fn the_index_tells_want_of_memory_from_fragmentation() {
        let huge = Order::PAGEBLOCK;
        let index = |blocks: &[_]| free(blocks, huge).fragmentation_index();
        assert_eq!(index(&[]), 0);
        assert_eq!(index(&[(9, 1), (0, 5000)]), -1000);
        // Two thousand single frames: four huge blocks' worth in pieces as small as can be.
        assert_eq!(index(&[(0, 2048)]), 998);
        // One small block: there is no memory.
        assert_eq!(index(&[(3, 1)]), -15);
        assert_eq!(index(&[(8, 1000)]), 499);
    }

    #[test]
    fn what_is_unusable_is_in_blocks_that_are_too_small() {
        let half = free(&[(9, 1), (8, 2)], Order::PAGEBLOCK);
        assert_eq!((half.unusable_index(), half.score()), (500, 50));
        let none = free(&[], Order::PAGEBLOCK);
        assert_eq!((none.unusable_index(), none.score()), (1000, 0));
        assert_eq!(free(&[(10, 7)], Order::PAGEBLOCK).score(), 0);
    }
}
