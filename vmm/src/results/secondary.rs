//! What a secondary map of a guest's memory found: the chain of notifiers, as a subscriber sees it.

use abi::memory::SecondaryReport;
use serde::Serialize;

use super::statistics::sum;
use crate::units::counted;

/// What it was told, and what it did with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Secondary {
    /// Ranges that started to change.
    pub starts: u64,
    /// Ranges that had changed.
    pub ends: u64,
    /// Whether all that ended had started.
    pub paired: bool,
    /// Pages that were mapped while they changed.
    pub mapped_inside: u64,
    /// Lookups that were made again, as the page changed meanwhile.
    pub retries: u64,
    /// Pages that were looked up.
    pub lookups: u64,
    /// Pages that were used as they were remembered.
    pub hits: u64,
}

impl Secondary {
    pub(super) fn new(report: &SecondaryReport) -> Self {
        Self {
            starts: report.starts,
            ends: report.ends,
            paired: report.starts == report.ends && report.unpaired == 0,
            mapped_inside: report.mapped_inside,
            retries: report.retries,
            lookups: report.lookups,
            hits: report.hits,
        }
    }

    /// How many things are wrong.
    pub(super) fn violations(&self) -> u64 {
        let unpaired = self.starts.abs_diff(self.ends).max(u64::from(!self.paired));
        sum([unpaired, self.mapped_inside].into_iter())
    }

    /// What they are.
    pub(super) fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        if self.starts > self.ends {
            let ranges = counted(self.starts - self.ends, "range");
            complaints.push(format!("{ranges} started to change, and never ended"));
        } else if self.ends > self.starts {
            let ranges = counted(self.ends - self.starts, "range");
            complaints.push(format!("{ranges} stopped changing without having started"));
        } else if !self.paired {
            complaints.push("other ranges stopped changing than had started".to_owned());
        }
        if self.mapped_inside != 0 {
            let pages = counted(self.mapped_inside, "page");
            complaints.push(format!("{pages} mapped by a secondary map while they changed"));
        }
        complaints
    }
}
