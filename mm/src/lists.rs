//! A CPU's lists of free blocks, as arrays.

use crate::fault::planted_lists;
use crate::index::FrameIndex;
use crate::migrate_type::MigrateType;
use crate::order::Order;
use crate::platform::Platform;

/// Orders that CPUs have lists of.
const ORDERS: usize = Order::COSTLY.index() + 1;

/// Lists of a CPU.
const LISTS: usize = ORDERS * MigrateType::COUNT;

/// Most frames on a list.
const CAPACITY: usize = 256;

/// Slots for blocks of all orders of a type. A list of order n has as many slots as blocks are `CAPACITY` frames.
const SLOTS_OF_TYPE: usize = slots_below(ORDERS);

const fn slots_below(order: usize) -> usize {
    let (mut slots, mut o) = (0, 0);
    while o < order {
        slots += CAPACITY >> o;
        o += 1;
    }
    slots
}

/// A CPU's list of one order and type.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListId {
    order: Order,
    migrate_type: MigrateType,
}

impl ListId {
    /// The list for blocks of `order`; large ones have none.
    #[inline]
    pub(crate) fn new(order: Order, migrate_type: MigrateType) -> Option<ListId> {
        (order <= Order::COSTLY).then_some(ListId { order, migrate_type })
    }

    /// Every list.
    pub(crate) fn all() -> impl Iterator<Item = ListId> {
        let of = |order| MigrateType::ALL.map(|migrate_type| ListId { order, migrate_type });
        Order::all().take(ORDERS).flat_map(of)
    }

    /// Order of its blocks.
    pub(crate) fn order(self) -> Order {
        self.order
    }

    #[inline]
    fn index(self) -> usize {
        self.order.index() * MigrateType::COUNT + self.migrate_type.index()
    }

    /// The list's first slot.
    #[inline]
    fn slot(self) -> usize {
        MigrateType::COUNT * slots_below(self.order.index())
            + self.migrate_type.index() * (CAPACITY >> self.order.get())
    }
}

/// How long the lists of a zone's CPUs are, in frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Tuning {
    /// How much a refill or a drain moves.
    batch: u32,
    /// How much fits on a list: its *high mark*.
    high: u32,
}

impl Tuning {
    /// For a zone of `managed` frames. A batch is a 4096th of the zone and at most 63, near to what Linux's
    /// `zone_batchsize` has. Lists hold six batches, as Linux's did before they were tuned by watermark; but
    /// all lists of all CPUs together no more than an eighth of the zone, as Linux's
    /// `percpu_pagelist_high_fraction` has it at the least.
    pub(crate) fn new<P: Platform>(managed: u64, cpus: usize) -> Tuning {
        if let Some((batch, high)) = planted_lists::<P>() {
            return Tuning { batch, high };
        }
        let batch = (managed / 4096).clamp(1, 63);
        let fair = managed / 8 / cpus as u64 / LISTS as u64;
        let high = (6 * batch).min(fair).min(CAPACITY as u64);
        Tuning {
            batch: batch.min(high.div_ceil(2)) as u32,
            high: high as u32,
        }
    }

    /// How many blocks of `order` a refill or a drain moves.
    pub(crate) fn batch(&self, order: Order) -> u32 {
        (self.batch >> order.get()).max(1)
    }

    /// How many blocks of `order` fit on a list, at most as many as it has slots for. 0 in small zones: such
    /// blocks come and go through the buddy.
    #[inline]
    pub(crate) fn high(&self, order: Order) -> u32 {
        self.high >> order.get()
    }
}

/// The lists. In arrays and not through the frames' links: so a list is emptied from its old, cold end at no
/// cost, and an allocation does not wait for the frame's metadata to find the next one.
pub(crate) struct Lists {
    lengths: [u32; LISTS],
    slots: [FrameIndex; MigrateType::COUNT * SLOTS_OF_TYPE],
}

const _: () = {
    assert!(CAPACITY >> Order::COSTLY.get() > 0);
};

impl Lists {
    /// Empty lists.
    pub(crate) fn new() -> Lists {
        Lists {
            lengths: [0; LISTS],
            slots: [FrameIndex::new(0); _],
        }
    }

    /// The newest block of a list.
    #[inline]
    pub(crate) fn pop(&mut self, list: ListId) -> Option<FrameIndex> {
        let length = &mut self.lengths[list.index()];
        *length = length.checked_sub(1)?;
        Some(self.slots[list.slot() + *length as usize])
    }

    /// Adds a block to a list, or returns `false` where it is full.
    #[inline]
    #[must_use]
    pub(crate) fn push(&mut self, list: ListId, block: FrameIndex, tuning: &Tuning) -> bool {
        let length = &mut self.lengths[list.index()];
        if *length >= tuning.high(list.order) {
            return false;
        }
        self.slots[list.slot() + *length as usize] = block;
        *length += 1;
        true
    }

    /// Removes the `count` oldest blocks, or all there are, and passes each to `to`.
    pub(crate) fn drain(&mut self, list: ListId, count: usize, to: impl FnMut(FrameIndex)) -> u32 {
        let length = self.lengths[list.index()] as usize;
        let count = count.min(length);
        let slots = &mut self.slots[list.slot()..][..length];
        slots[..count].iter().copied().for_each(to);
        slots.copy_within(count.., 0);
        self.lengths[list.index()] = (length - count) as u32;
        count as u32
    }

    /// Blocks on a list.
    pub(crate) fn len(&self, list: ListId) -> usize {
        self.lengths[list.index()] as usize
    }

    /// Whether there is nothing on any list.
    pub(crate) fn is_empty(&self) -> bool {
        self.lengths == [0; LISTS]
    }
}
