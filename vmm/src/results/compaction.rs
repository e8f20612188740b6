//! What the workload `compaction` came to.

use abi::memory::{CompactionReport, CompactionRound};
use serde::Serialize;

use super::statistics::{Clock, per_second, sum};
use crate::units::counted;

/// The share of fragmented memory that is to become huge pages, but for what is left over: less than one where the
/// scanners meet, and less than one where pages have moved away from between frames of the kernel's.
const ENOUGH: f64 = 0.98;
const LEFT_OVER: u64 = 2 * 511;

/// Memory that was fragmented, and became huge pages: twice.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compaction {
    /// Allocations compact as they go.
    pub direct: Round,
    /// A daemon has compacted before there are any.
    pub proactive: Round,
}

/// Once. Sizes are in frames and pages of 4 KiB.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Round {
    /// What was free, neither in huge blocks nor in those of 2 MiB where the kernel has memory of its own.
    pub fragmented: u64,
    /// What became huge pages of it.
    pub huge: u64,
    /// The same as a share; 1 if there was nothing.
    pub huge_share: f64,
    /// Pages that were in the way.
    pub kept: u64,
    /// Words of them that were not as they should be.
    pub wrong: u64,
    /// Pages of them that moved though nobody was told.
    pub unannounced: u64,
    /// Pages of them that were pinned.
    pub pinned: u64,
    /// Pinned pages that moved.
    pub displaced: u64,
    /// Linux's fragmentation score, when memory was fragmented.
    pub score_before: u64,
    /// The same, when allocations began.
    pub score_after: u64,
    /// Pages that were moved, by allocations or by the daemon before them.
    pub moved: u64,
    /// The same, a second of all that allocations or the daemon did.
    pub moved_per_sec: f64,
    /// Pages that were copied back to where they had been, and nothing else.
    pub copied: u64,
    /// The same, a second.
    pub copied_per_sec: f64,
}

impl Compaction {
    pub(super) fn new(report: &CompactionReport, clock: Clock) -> Self {
        let [direct, proactive] = report.rounds.each_ref().map(|round| Round::new(round, clock));
        Self { direct, proactive }
    }

    /// How many things are wrong.
    pub(super) fn violations(&self) -> u64 {
        sum([&self.direct, &self.proactive].into_iter().map(Round::violations))
    }

    /// What they are.
    pub(super) fn complaints(&self) -> Vec<String> {
        let mut complaints = self.direct.complaints("allocations compacted");
        complaints.extend(self.proactive.complaints("the daemon had compacted"));
        complaints
    }
}

impl Round {
    fn new(round: &CompactionRound, clock: Clock) -> Self {
        Self {
            fragmented: round.fragmented,
            huge: round.huge,
            huge_share: match round.fragmented {
                0 => 1.0,
                fragmented => round.huge as f64 / fragmented as f64,
            },
            kept: round.kept,
            wrong: round.wrong,
            unannounced: round.unannounced,
            pinned: round.pinned,
            displaced: round.displaced,
            score_before: round.score_before,
            score_after: round.score_after,
            moved: round.moved,
            moved_per_sec: per_second(round.moved, clock.ns(round.moving_cycles)),
            copied: round.copied,
            copied_per_sec: per_second(round.copied, clock.ns(round.copying_cycles)),
        }
    }

    fn violations(&self) -> u64 {
        let too_few = u64::from(self.too_few());
        sum([self.wrong, self.unannounced, self.displaced, too_few].into_iter())
    }

    fn too_few(&self) -> bool {
        let whole = self.fragmented.saturating_sub(LEFT_OVER);
        (self.huge as f64) < ENOUGH * whole as f64
    }

    fn complaints(&self, when: &str) -> Vec<String> {
        let mut complaints = Vec::new();
        if self.too_few() {
            complaints.push(format!(
                "only {:.1} % of the fragmented memory became huge pages when {when}; {:.0} % should",
                100.0 * self.huge_share,
                100.0 * ENOUGH
            ));
        }
        let mut complain = |number, what, of| {
            if number != 0 {
                complaints.push(format!("{} {of} when {when}", counted(number, what)));
            }
        };
        complain(self.wrong, "word", "of moved pages not as written");
        complain(self.displaced, "pinned page", "moved");
        complain(self.unannounced, "page", "moved though nobody was told");
        complaints
    }
}
