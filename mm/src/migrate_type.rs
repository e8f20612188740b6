//! What memory is grouped by, so that what cannot move does not spread over all pageblocks.

/// What can be done to have a block back: Linux's *migrate type*.
///
/// A request has one, and every pageblock has one. Free blocks are listed by the type of their pageblock, and
/// a request is served from pageblocks of its own type as long as they have something.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum MigrateType {
    /// Nothing: the kernel's own memory, known by its address.
    Unmovable = 0,
    /// It can be moved: all that is reached through page tables only, or whose owner takes part in moving it.
    Movable = 1,
    /// It can be thrown away on request: caches.
    Reclaimable = 2,
}

impl MigrateType {
    /// Number of types.
    pub const COUNT: usize = 3;

    /// Every type, in Linux's order.
    pub const ALL: [MigrateType; Self::COUNT] = [
        MigrateType::Unmovable,
        MigrateType::Movable,
        MigrateType::Reclaimable,
    ];

    /// Linux's name for it, as in `/proc/pagetypeinfo`.
    pub const fn name(self) -> &'static str {
        match self {
            MigrateType::Unmovable => "Unmovable",
            MigrateType::Movable => "Movable",
            MigrateType::Reclaimable => "Reclaimable",
        }
    }

    /// Whose memory a request of this type takes when its own has run out, best first: Linux's `fallbacks`.
    pub const fn fallbacks(self) -> [MigrateType; Self::COUNT - 1] {
        use MigrateType::{Movable, Reclaimable, Unmovable};
        match self {
            Unmovable => [Reclaimable, Movable],
            Movable => [Reclaimable, Unmovable],
            Reclaimable => [Unmovable, Movable],
        }
    }

    /// Place in a table of all types.
    #[inline]
    pub(crate) const fn index(self) -> usize {
        self as usize
    }

    /// The type with this discriminant, modulo 4; 3 is nobody's and reads as unmovable, which is safe.
    #[inline]
    pub(crate) const fn from_bits(bits: u8) -> MigrateType {
        // A table: this is on the way of every free, and a match becomes a chain of conditional moves.
        const TABLE: [MigrateType; 4] = [
            MigrateType::Unmovable,
            MigrateType::Movable,
            MigrateType::Reclaimable,
            MigrateType::Unmovable,
        ];
        TABLE[(bits & 3) as usize]
    }
}

const _: () = {
    let mut i = 0;
    while i < MigrateType::COUNT {
        assert!(MigrateType::ALL[i].index() == i && MigrateType::from_bits(i as u8).index() == i);
        i += 1;
    }
};
