//! The state of a frame, in a word.

use core::fmt;

use crate::migrate_type::MigrateType;
use crate::order::Order;

/// Which part of which block a frame is.
///
/// ```text
///              carve, hole             take                  alloc
///   Reserved ◄────────────   Free ──────────────► Listed ──────────────► Allocated
///                             ▲ │    drain           ▲        free           │ │
///                             │ └──◄─────────────────┼───────◄───────────────┘ │
///                             │      merge           └───────◄─────────────────┘
///                             ▼      split
///                            Tail
/// ```
///
/// Only the first frame of a block, its *head*, is in a state that says what the block is; all others are
/// `Tail`. So a split or a merge changes the state of one frame, an allocation that of one, and still every
/// frame is in exactly one state at any time, which is the state of the nearest head at or below it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Part of the block of a lower frame. 0: so zeroed metadata need not be written to, but at the heads.
    Tail = 0,
    /// Head of a block that is not the allocator's: no memory, carved out for metadata, or found to be bad.
    Reserved = 1,
    /// Head of a block on a free list of the buddy.
    Free = 2,
    /// Head of a block on the list of a CPU.
    Listed = 3,
    /// Head of a block that somebody has.
    Allocated = 4,
}

/// The state of a frame: one word, so that who looks without a lock sees a kind, an order and a count that
/// belong together.
///
/// ```text
///    63       57  56  55          48 47     40 39      32 31                    0
///   +-----------+----+--------------+---------+----------+-----------------------+
///   |     0     | sh | migrate type |  kind   |  order   |      references       |
///   +-----------+----+--------------+---------+----------+-----------------------+
///                 └ shared: others than the holder may take references
/// ```
///
/// The migrate type is that of the request, or for a free block that of its pageblock. References are of
/// heads, and 0 unless the block is allocated.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct State(u64);

const ORDER_SHIFT: u32 = 32;
const KIND_SHIFT: u32 = 40;
const TYPE_SHIFT: u32 = 48;
const TYPE_MASK: u64 = 0xff << TYPE_SHIFT;
/// The bit that says so, for one atomic step.
pub(crate) const SHARED: u64 = 1 << 56;

impl State {
    /// The state of a frame that is not the allocator's.
    pub(crate) const RESERVED: State = State::head(Kind::Reserved, Order::FRAME, MigrateType::Unmovable);
    /// The state of a frame inside of a block.
    pub(crate) const TAIL: State = State(0);

    /// The state with this value, which was a state's.
    #[inline(always)]
    pub(crate) const fn from_raw(raw: u64) -> State {
        State(raw)
    }

    /// The value.
    #[inline(always)]
    pub(crate) const fn raw(self) -> u64 {
        self.0
    }

    /// The head of a block. An allocated one has one reference, that of its holder.
    #[inline]
    pub(crate) const fn head(kind: Kind, order: Order, migrate_type: MigrateType) -> State {
        let references = matches!(kind, Kind::Allocated) as u64;
        State(
            references
                | (order.get() as u64) << ORDER_SHIFT
                | (kind as u64) << KIND_SHIFT
                | (migrate_type as u64) << TYPE_SHIFT,
        )
    }

    /// What the frame is.
    #[inline]
    pub const fn kind(self) -> Kind {
        match (self.0 >> KIND_SHIFT) as u8 {
            1 => Kind::Reserved,
            2 => Kind::Free,
            3 => Kind::Listed,
            4 => Kind::Allocated,
            _ => Kind::Tail,
        }
    }

    /// Order of the block of a head; meaningless for others.
    #[inline]
    pub const fn order(self) -> Order {
        match Order::new((self.0 >> ORDER_SHIFT) as u8) {
            Some(order) => order,
            None => Order::MAX,
        }
    }

    /// Type of the block of a head; meaningless for others.
    #[inline]
    pub const fn migrate_type(self) -> MigrateType {
        MigrateType::from_bits((self.0 >> TYPE_SHIFT) as u8)
    }

    /// Number of references to the block of a head.
    #[inline]
    pub const fn references(self) -> u32 {
        self.0 as u32
    }

    /// Whether others than the holder may take references.
    #[inline]
    pub const fn shared(self) -> bool {
        self.0 & SHARED != 0
    }

    /// The type of a block of `order` that has one holder, who has not shared it, if this is its head: the
    /// only state to be freed from.
    #[inline]
    pub(crate) const fn exclusive(self, order: Order) -> Option<MigrateType> {
        // The state less what it should be, with the type's bits lowest: the type, if all else is as it
        // should be. One comparison for both, as this is on the way of every free.
        let base = State::head(Kind::Allocated, order, MigrateType::Unmovable).0;
        match self.0.wrapping_sub(base).rotate_right(TYPE_SHIFT) {
            0 => Some(MigrateType::Unmovable),
            1 => Some(MigrateType::Movable),
            2 => Some(MigrateType::Reclaimable),
            _ => None,
        }
    }

    /// The state of a freed block on a CPU's list, made of that of its exclusive holder.
    #[inline]
    pub(crate) const fn listed(self) -> State {
        const HELD: u64 = State::head(Kind::Allocated, Order::FRAME, MigrateType::Unmovable).0;
        const LISTED: u64 = State::head(Kind::Listed, Order::FRAME, MigrateType::Unmovable).0;
        State(self.0 - HELD + LISTED)
    }

    /// Whether this is the head of a free block of `order`.
    #[inline]
    pub(crate) const fn free(self, order: Order) -> bool {
        self.0 & !TYPE_MASK == State::head(Kind::Free, order, MigrateType::Unmovable).0
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("kind", &self.kind())
            .field("order", &self.order().get())
            .field("migrate_type", &self.migrate_type())
            .field("references", &self.references())
            .field("shared", &self.shared())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of each word near to a state's, and of many others, it tells what it means field by field.
    #[test]
    fn exclusive_is_who_has_the_block_alone() {
        let kinds = [
            Kind::Tail,
            Kind::Reserved,
            Kind::Free,
            Kind::Listed,
            Kind::Allocated,
        ];
        let mut exclusive = 0;
        for (kind, order) in kinds
            .into_iter()
            .flat_map(|kind| Order::all().map(move |order| (kind, order)))
        {
            for (types, references) in (0..=255u64).flat_map(|types| [0, 1, 2, u32::MAX].map(|n| (types, n)))
            {
                for beyond in [0, SHARED, 1 << 57, 1 << 63] {
                    let raw = u64::from(references)
                        | u64::from(order.get()) << ORDER_SHIFT
                        | (kind as u64) << KIND_SHIFT
                        | types << TYPE_SHIFT
                        | beyond;
                    for wanted in Order::all() {
                        let known = MigrateType::ALL.into_iter().find(|of| *of as u64 == types);
                        let alone = kind == Kind::Allocated && references == 1 && beyond == 0;
                        let expected = known.filter(|_| alone && order == wanted);
                        assert_eq!(State::from_raw(raw).exclusive(wanted), expected, "{raw:#x}");
                        exclusive += u32::from(expected.is_some());
                    }
                }
            }
        }
        assert_eq!(exclusive as usize, Order::COUNT * MigrateType::COUNT);
    }
}
