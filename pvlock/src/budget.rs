//! How long to spin before sleeping.

use crate::platform::Platform;

/// How long a waiter spins before it sleeps.
///
/// Sleeping costs the waker a kick and the sleeper a wake-up. A waiter that spins for about as long as that
/// costs is never more than twice as slow as one that knew in advance how long it had to wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SpinBudget {
    /// So many looks at the condition, however long they take.
    Iterations(u32),
    /// So many cycles of [`Platform::cycles`].
    Cycles(u64),
}

impl SpinBudget {
    /// Linux's constant. A turn has a `PAUSE` in it, of about 10 cycles on old CPUs and 140 since Skylake:
    /// the same number means 0.1 ms or 1.5 ms.
    pub const LINUX: SpinBudget = SpinBudget::Iterations(1 << 15);

    /// For ever.
    pub const UNBOUNDED: SpinBudget = SpinBudget::Cycles(u64::MAX);
}

/// A spin loop that is being counted: look, then [`again`](Spin::again), until that says no. Every loop looks
/// at least once, even with an empty budget; otherwise a queue head whose sleeps end at once could not
/// progress.
pub(crate) struct Spin {
    budget: SpinBudget,
    since: u64,
    turns: u32,
}

impl Spin {
    #[inline]
    pub(crate) fn start<P: Platform>(budget: SpinBudget) -> Spin {
        let since = match budget {
            SpinBudget::Iterations(_) => 0,
            SpinBudget::Cycles(_) => P::cycles(),
        };
        Spin {
            budget,
            since,
            turns: 0,
        }
    }

    /// Says whether to look again, and if so relaxes for a moment before that.
    #[inline]
    pub(crate) fn again<P: Platform>(&mut self) -> bool {
        self.turns = self.turns.wrapping_add(1);
        let again = match self.budget {
            SpinBudget::Iterations(limit) => self.turns < limit,
            // Reading the clock costs about 20 cycles, less than the PAUSE: no need to save on it.
            SpinBudget::Cycles(limit) => P::cycles().saturating_sub(self.since) < limit,
        };
        if again {
            P::relax();
        }
        again
    }

    /// How often `again` was called.
    #[inline]
    pub(crate) fn turns(&self) -> u32 {
        self.turns
    }
}
