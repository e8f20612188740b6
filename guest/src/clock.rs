//! The TSC, and loops of calibrated length.

use core::hint::black_box;
use core::sync::atomic::{AtomicU64, Ordering};

use abi::boot::BootInfo;

/// The time stamp counter. Not ordered with the instructions around it: at the scale of what is measured
/// here, the few instructions the CPU may move across do not show.
#[inline]
pub(crate) fn cycles() -> u64 {
    // SAFETY: every x86-64 CPU has `rdtsc`, and nothing sets CR4.TSD.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// TSC cycles in `ns` nanoseconds, saturating.
pub(crate) fn from_ns(boot: &BootInfo, ns: u64) -> u64 {
    let cycles = u128::from(ns) * u128::from(boot.tsc_khz) / 1_000_000;
    u64::try_from(cycles).unwrap_or(u64::MAX)
}

/// Nanoseconds that `cycles` TSC cycles take, saturating.
pub(crate) fn to_ns(boot: &BootInfo, cycles: u64) -> u64 {
    let ns = u128::from(cycles) * 1_000_000 / u128::from(boot.tsc_khz.max(1));
    u64::try_from(ns).unwrap_or(u64::MAX)
}

/// A cache line of data to work on.
#[repr(align(64))]
pub(crate) struct Line([AtomicU64; 8]);

impl Line {
    pub(crate) const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; 8])
    }

    /// Does `units` units of work: a load, an addition and a store each, in turn to the line's eight words.
    ///
    /// Relaxed loads and stores are plain `mov`s. Whether others may interfere is for the lock around it to
    /// say; the values mean nothing.
    #[inline]
    pub(crate) fn work(&self, units: u64) {
        for i in 0..units {
            let word = &self.0[i as usize % 8];
            word.store(word.load(Ordering::Relaxed).wrapping_add(i), Ordering::Relaxed);
        }
    }
}

/// What a unit of [`Line::work`] costs, so that work of a given length can be asked for.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    cycles: u64,
    units: u64,
}

impl Pace {
    /// Measures it: the fastest of several tries, since a try that was preempted can only be slower.
    pub(crate) fn measure() -> Self {
        const UNITS: u64 = 4096;
        const TRIES: u32 = 16;
        let line = Line::new();
        // As if it were shared: else the compiler, which sees that it is not, might keep it in registers.
        black_box(&line);
        line.work(UNITS);
        let mut best = u64::MAX;
        for _ in 0..TRIES {
            let start = cycles();
            line.work(UNITS);
            best = best.min(cycles().saturating_sub(start).max(1));
        }
        Self {
            cycles: best,
            units: UNITS,
        }
    }

    /// Units of work that take `cycles` TSC cycles.
    pub(crate) fn units(self, cycles: u64) -> u64 {
        let units = u128::from(cycles) * u128::from(self.units) / u128::from(self.cycles);
        u64::try_from(units).unwrap_or(u64::MAX)
    }
}
