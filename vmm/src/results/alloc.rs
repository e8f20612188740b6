//! What frames cost, allocated and freed, in the workload `alloc`.

use abi::memory::{AllocReport, SUBJECTS};
use serde::Serialize;

use super::statistics::Clock;

/// What a frame costs `mm`, a peer and the floor, which take turns.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Alloc {
    /// Turns of each, of which these are the medians.
    pub rounds: u64,
    /// What a turn takes.
    pub turn_ns: u64,
    /// By one vCPU, while the others sleep.
    pub one: Patterns,
    /// By all vCPUs at once: time for each frame of them all.
    pub all: Patterns,
}

/// How frames are used.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Patterns {
    /// A frame is freed before the next is allocated.
    pub pair: Costs,
    /// Many are allocated before they are freed.
    pub burst: Costs,
}

/// Nanoseconds for each frame, and ratios; null where there was not enough memory, or time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Costs {
    /// The guest's page allocator.
    pub mm_ns: Option<f64>,
    /// `buddy_system_allocator`, behind a lock of `pvlock`'s.
    pub buddy_system_allocator_ns: Option<f64>,
    /// A stack of frame numbers for each vCPU: the floor.
    pub stack_ns: Option<f64>,
    /// `mm` against `buddy_system_allocator`.
    pub of_buddy_system_allocator: Option<f64>,
    /// `mm` against the stack.
    pub of_stack: Option<f64>,
}

impl Alloc {
    /// `None` where nobody competed.
    pub(super) fn new(report: &AllocReport, clock: Clock) -> Option<Self> {
        let turn_ns = clock.ns(report.cycles);
        let [one_pair, one_burst, all_pair, all_burst] =
            report.pairs.each_ref().map(|pairs| Costs::new(pairs, turn_ns));
        (report.rounds != 0).then_some(Self {
            rounds: report.rounds,
            turn_ns,
            one: Patterns {
                pair: one_pair,
                burst: one_burst,
            },
            all: Patterns {
                pair: all_pair,
                burst: all_burst,
            },
        })
    }
}

impl Costs {
    fn new(pairs: &[u64; SUBJECTS], turn_ns: u64) -> Self {
        let ns = |pairs: &u64| (*pairs != 0).then(|| turn_ns as f64 / *pairs as f64);
        let [mm_ns, buddy_system_allocator_ns, stack_ns] = pairs.each_ref().map(ns);
        let of = |other: Option<f64>| Some(mm_ns? / other?).filter(|ratio| ratio.is_finite());
        Self {
            mm_ns,
            buddy_system_allocator_ns,
            stack_ns,
            of_buddy_system_allocator: of(buddy_system_allocator_ns),
            of_stack: of(stack_ns),
        }
    }
}
