//! What frames cost in the workload `alloc`.

use super::NONE;
use crate::results::{Alloc, AllocCosts, Run};
use crate::table::{self, Align};
use crate::units::ratio;

/// A table for each run in which allocators competed.
pub(super) fn costs(runs: &[Run]) -> String {
    let all = runs
        .iter()
        .filter_map(|run| Some((run, run.mm.as_ref()?.alloc.as_ref()?)));
    all.map(|(run, alloc)| format!("\n{}", of_run(run, alloc)))
        .collect()
}

fn of_run(run: &Run, alloc: &Alloc) -> String {
    let names = [
        "a frame, allocated and freed",
        "mm",
        "buddy_system_allocator",
        "of that",
        "stack",
        "of that",
    ];
    let mut columns = [Align::Right; 6];
    columns[0] = Align::Left;
    let mut rows = vec![names.map(str::to_owned).to_vec()];
    for (who, patterns) in [
        ("1 vCPU".to_owned(), &alloc.one),
        (format!("all {}", run.vcpus), &alloc.all),
    ] {
        for (how, costs) in [("one by one", &patterns.pair), ("many at once", &patterns.burst)] {
            rows.push(row(format!("by {who}, {how}"), costs));
        }
    }
    table::render(&columns, &rows)
}

fn row(name: String, costs: &AllocCosts) -> Vec<String> {
    let ns = |ns: Option<f64>| ns.map_or(NONE.to_owned(), |ns| format!("{ns:.1} ns"));
    let of = |of: Option<f64>| of.map_or(NONE.to_owned(), ratio);
    vec![
        name,
        ns(costs.mm_ns),
        ns(costs.buddy_system_allocator_ns),
        of(costs.of_buddy_system_allocator),
        ns(costs.stack_ns),
        of(costs.of_stack),
    ]
}
