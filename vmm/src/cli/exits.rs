//! `--stats`: a table of why a run's vCPUs left the guest.

use crate::exit_stats::{Reason, Tally, VcpuExits};
use crate::results::Run;
use crate::table::{self, Align};
use crate::units::{count, time};

/// The reasons that occurred in `run`, a row each; nothing where exits were not counted.
pub(super) fn table(run: &Run) -> String {
    let Some(vcpus) = &run.exits else {
        return String::new();
    };
    let headings = ["exit", "count", "least of a vCPU", "most", "time outside", "each"];
    let mut columns = [Align::Right; 6];
    columns[0] = Align::Left;
    let mut rows = vec![headings.map(str::to_owned).to_vec()];
    rows.extend(Reason::ALL.iter().filter_map(|&reason| row(vcpus, reason)));
    format!("\nExits of {}:\n\n{}", run.name(), table::render(&columns, &rows))
}

fn row(vcpus: &[VcpuExits], reason: Reason) -> Option<Vec<String>> {
    let tallies = || vcpus.iter().map(|vcpu| vcpu.of(reason));
    let sum = |field: fn(Tally) -> u64| tallies().map(field).fold(0, u64::saturating_add);
    let (all, outside) = (sum(|tally| tally.count), sum(|tally| tally.outside_ns));
    let each = outside.checked_div(all)?;
    let counts = || tallies().map(|tally| tally.count);
    Some(vec![
        reason.name().to_owned(),
        count(all),
        count(counts().min()?),
        count(counts().max()?),
        time(outside),
        time(each),
    ])
}
