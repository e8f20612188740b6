//! What a table says of preemption on purpose, if there was any.

use crate::results::Run;
use crate::units::counted;

/// A line on what was asked for.
pub(super) fn header(run: &Run) -> String {
    let preempt = run.preempt.clone();
    let neighbours = (run.neighbours > 0).then(|| counted(run.neighbours, "busy neighbour"));
    let asked: Vec<_> = preempt.into_iter().chain(neighbours).collect();
    if asked.is_empty() {
        return String::new();
    }
    format!("Stops  {}\n", asked.join(", "))
}

/// A line for each run on what was hit.
pub(super) fn hits(runs: &[Run]) -> String {
    let line = |run: &Run| {
        let hits = run.preemptions;
        format!(
            "{}: stopped {}, {}, {}\n",
            run.name(),
            counted(hits.holder, "holder"),
            counted(hits.waiter, "waiter"),
            counted(hits.other, "other")
        )
    };
    let asked = runs.iter().filter(|run| run.preempt.is_some());
    asked.map(line).collect()
}
