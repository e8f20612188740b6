//! How much memory stays free, and for whom.

use crate::address::FRAME_SIZE;
use crate::request::Effort;

/// A level of free memory in a zone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark {
    /// What only an atomic request may go below.
    Min,
    /// Below this, somebody should make memory free.
    Low,
    /// Up to this.
    High,
}

/// The watermarks of a zone, in frames: min < low < high.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Watermarks {
    min: u64,
    low: u64,
    high: u64,
}

/// Linux's bounds of `min_free_kbytes`.
const MIN_FREE_KIB: (u64, u64) = (128, 262_144);

/// Linux's `watermark_scale_factor`: between two watermarks lies this share of the zone, in 1/10000, or a
/// quarter of `min` if that is more.
const SCALE_FACTOR: u64 = 10;

/// Frames to keep free in a machine of `managed` frames: 4 × √(its size in KiB) KiB, as Linux's
/// `calculate_min_free_kbytes` has it. 512 KiB of 16 MiB, 32 MiB of 64 GiB. But never more than an eighth,
/// for machines far smaller than Linux has in mind.
pub fn min_free(managed: u64) -> u64 {
    let frame_kib = FRAME_SIZE / 1024;
    let kib = (managed * frame_kib * 16).isqrt();
    (kib.clamp(MIN_FREE_KIB.0, MIN_FREE_KIB.1) / frame_kib).min(managed / 8)
}

impl Watermarks {
    /// The marks of a zone of `managed` frames that is to keep `min` of them free, as Linux's
    /// `__setup_per_zone_wmarks` sets them.
    pub const fn new(managed: u64, min: u64) -> Watermarks {
        let scaled = managed * SCALE_FACTOR / 10_000;
        let mut step = if scaled > min / 4 { scaled } else { min / 4 };
        if step == 0 {
            step = 1;
        }
        Watermarks {
            min,
            low: min + step,
            high: min + 2 * step,
        }
    }

    /// One of them, in frames.
    pub const fn get(&self, mark: Mark) -> u64 {
        match mark {
            Mark::Min => self.min,
            Mark::Low => self.low,
            Mark::High => self.high,
        }
    }

    /// How many free frames a request has to leave: all of the reserve, or for an atomic one half of it.
    pub const fn floor(&self, effort: Effort) -> u64 {
        match effort {
            Effort::Atomic => self.min / 2,
            Effort::Ordinary | Effort::MayCompact => self.min,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watermarks_ascend_and_the_reserve_is_linux_s() {
        const MIB: u64 = 256;
        assert_eq!(min_free(16 * MIB) * 4, 512);
        assert_eq!(min_free(64 * 1024 * MIB) * 4, 32 * 1024);
        for managed in [0, 1, 8, 100, 16 * MIB, 1024 * MIB, 64 * 1024 * MIB] {
            let marks = Watermarks::new(managed, min_free(managed));
            assert!(marks.get(Mark::Min) < marks.get(Mark::Low));
            assert!(marks.get(Mark::Low) < marks.get(Mark::High));
            assert!(marks.floor(Effort::Atomic) <= marks.floor(Effort::Ordinary));
        }
    }
}
