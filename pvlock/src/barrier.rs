//! A barrier that suffers nothing from overcommit: CPUs that have to wait for others sleep.
//!
//! Arrivals form a stack: its top, and how many there are, in one word of the barrier; every CPU's link to
//! the one below it, in that CPU's seat. The last to arrive empties the barrier, so that it can be used again
//! at once, and walks the stack, waking one CPU after the other.
//!
//! ```text
//!    31               16 15                0
//!   +-------------------+-------------------+
//!   |   top: CPU + 1    |      arrived      |
//!   +-------------------+-------------------+
//! ```
//!
//! Every CPU waits for its own seat to be cleared, not for the barrier. So nobody leaves, and overwrites its
//! link in the next round, before the walk has read it; and nobody touches the barrier after the first has
//! left.

use core::fmt;
use core::marker::PhantomData;

use crate::platform::{CpuId, Platform};
use crate::sync::{AtomicU32, Ordering, const_unless_loom};

const TOP_SHIFT: u32 = 16;
const ARRIVED: u32 = (1 << TOP_SHIFT) - 1;

const _: () = assert!(CpuId::LIMIT <= ARRIVED);

/// A CPU's place in a barrier.
#[derive(Debug)]
pub(crate) struct Seat {
    /// Who arrived before: CPU + 1, or 0.
    below: AtomicU32,
    /// 1 until all have arrived.
    waiting: AtomicU32,
}

impl Seat {
    const_unless_loom! {
        pub(crate) fn new() -> Seat {
            Seat { below: AtomicU32::new(0), waiting: AtomicU32::new(0) }
        }
    }
}

/// A reusable meeting point for a number of CPUs, each of which waits asleep. Not for interrupt handlers: a
/// CPU can wait at one barrier at a time.
pub struct Barrier<P> {
    word: AtomicU32,
    platform: PhantomData<fn() -> P>,
}

impl<P: Platform> Barrier<P> {
    const_unless_loom! {
        /// A barrier at which nobody waits.
        pub fn new() -> Self {
            Barrier { word: AtomicU32::new(0), platform: PhantomData }
        }
    }

    /// Waits until `cpus` CPUs, whichever, have called this; all must say the same number. Returns true to
    /// one of them, the last to arrive. What any of them did before happens before what any of them does
    /// after.
    ///
    /// # Panics
    ///
    /// If `cpus` is 0 or more than [`CpuId::LIMIT`].
    pub fn wait(&self, cpus: u32) -> bool {
        assert!(
            0 < cpus && cpus <= CpuId::LIMIT,
            "a barrier is for 1 to {} CPUs, not {cpus}",
            CpuId::LIMIT
        );
        let me = P::this_cpu();
        let seat = &P::per_cpu(me).seat;
        // Relaxed: published by the Release in `arrive`.
        seat.waiting.store(1, Ordering::Relaxed);
        if let Arrival::Last { top } = self.arrive(cpus, me, seat) {
            wake_all::<P>(top);
            return true;
        }
        // Acquire: pairs with the Release in `wake_all`.
        while seat.waiting.load(Ordering::Acquire) != 0 {
            P::wait(&seat.waiting, !0, 1);
        }
        false
    }

    /// Goes on top of the stack, or, as the last one, takes the stack away.
    fn arrive(&self, cpus: u32, me: CpuId, seat: &Seat) -> Arrival {
        let mut seen = self.word.load(Ordering::Relaxed);
        loop {
            let top = seen >> TOP_SHIFT;
            let arrived = (seen & ARRIVED) + 1;
            let (new, arrival) = if arrived == cpus {
                (0, Arrival::Last { top })
            } else {
                // Relaxed: published by the Release below.
                seat.below.store(top, Ordering::Relaxed);
                ((me.get() + 1) << TOP_SHIFT | arrived, Arrival::Early)
            };
            // Release publishes our seat and all we did before. Acquire, for the last one, pairs with
            // everybody's Release: every change of the word is a read-modify-write, which continues all
            // release sequences before it.
            match self
                .word
                .compare_exchange_weak(seen, new, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return arrival,
                Err(now) => seen = now,
            }
        }
    }
}

impl<P: Platform> Default for Barrier<P> {
    fn default() -> Self {
        Self::new()
    }
}

enum Arrival {
    Early,
    /// `top` is the top of the stack of all others: CPU + 1, or 0.
    Last {
        top: u32,
    },
}

/// Wakes a stack of waiting CPUs.
fn wake_all<P: Platform>(mut top: u32) {
    while top != 0 {
        let cpu = CpuId::new(top - 1);
        let seat = &P::per_cpu(cpu).seat;
        // Relaxed: it was published with the name on top of it. Read before the store that lets the CPU go.
        top = seat.below.load(Ordering::Relaxed);
        // Release: all have arrived, and what they did before is visible to the one that leaves.
        seat.waiting.store(0, Ordering::Release);
        P::kick(cpu);
    }
}

impl<P> fmt::Debug for Barrier<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Barrier({} waiting)",
            self.word.load(Ordering::Relaxed) & ARRIVED
        )
    }
}
