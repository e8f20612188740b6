//! What is kept for every pageblock: 2 MiB, [`Order::PAGEBLOCK`](crate::Order::PAGEBLOCK).

use core::sync::atomic::{AtomicU8, Ordering};

use crate::migrate_type::MigrateType;

/// Metadata of a pageblock, a byte.
///
/// ```text
///     7          3    2     1          0
///   +--------------+------+--------------+
///   |      0       | skip | migrate type |
///   +--------------+------+--------------+
/// ```
///
/// The type changes under the lock of the zone; the skip hint is anybody's.
#[derive(Debug)]
pub struct Pageblock(AtomicU8);

const TYPE: u8 = 0b11;
const SKIP: u8 = 0b100;

const _: () = assert!(size_of::<Pageblock>() == 1 && MigrateType::COUNT <= TYPE as usize + 1);

impl Pageblock {
    pub(crate) const fn new(migrate_type: MigrateType) -> Pageblock {
        Pageblock(AtomicU8::new(migrate_type as u8))
    }

    /// The type that free blocks here are listed by.
    pub fn migrate_type(&self) -> MigrateType {
        // Relaxed, as everywhere here: whoever must be sure of the type has the lock; the hint stands for
        // itself.
        MigrateType::from_bits(self.0.load(Ordering::Relaxed))
    }

    /// The caller has the lock of the zone.
    pub(crate) fn set_migrate_type(&self, migrate_type: MigrateType) {
        // One step, as the hint may change meanwhile; nobody else changes these bits.
        self.0
            .fetch_xor(self.migrate_type() as u8 ^ migrate_type as u8, Ordering::Relaxed);
    }

    /// Whether a scanner found nothing to do here lately: Linux's `PB_migrate_skip`.
    pub fn skip(&self) -> bool {
        self.0.load(Ordering::Relaxed) & SKIP != 0
    }

    /// Sets or clears the hint.
    pub fn set_skip(&self, skip: bool) {
        if skip {
            self.0.fetch_or(SKIP, Ordering::Relaxed);
        } else {
            self.0.fetch_and(!SKIP, Ordering::Relaxed);
        }
    }
}
