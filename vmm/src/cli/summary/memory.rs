//! What guests did with their memory.

use super::{NONE, cpu_used};
use crate::results::{Memory, MemoryZone, Run};
use crate::table::{self, Align};
use crate::units::{count, counted, rate, time};

/// A row for each run.
pub(super) fn allocations(runs: &[Run]) -> String {
    let names = [
        "blocks",
        "alloc p50",
        "p99",
        "p99.9",
        "max",
        "free p50",
        "p99",
        "fairness",
        "CPU used",
        "failed",
        "memory",
    ];
    let mut columns = [Align::Right; 11];
    columns[10] = Align::Left;
    let mut rows = vec![names.map(str::to_owned).to_vec()];
    rows.extend(runs.iter().map(|run| {
        let (measured, alloc, free) = (&run.measured, &run.measured.wait_ns, &run.measured.held_ns);
        vec![
            rate(measured.throughput_per_sec),
            time(alloc.p50),
            time(alloc.p99),
            time(alloc.p999),
            time(alloc.max),
            time(free.p50),
            time(free.p99),
            format!("{:.3}", measured.jain_index),
            cpu_used(run),
            failures(run).map_or(NONE.to_owned(), count),
            verdict(run),
        ]
    }));
    table::render(&columns, &rows)
}

fn failures(run: &Run) -> Option<u64> {
    run.mm.as_ref()?.count("page_allocation_failure")
}

/// A row for each run whose memory was moved under its users.
pub(super) fn migrations(runs: &[Run]) -> String {
    let names = [
        "moved", "failed", "faults", "waits", "verified", "page p50", "p99", "max", "CPU used", "memory",
    ];
    let mut columns = [Align::Right; 10];
    columns[9] = Align::Left;
    let mut rows = vec![names.map(str::to_owned).to_vec()];
    rows.extend(runs.iter().map(|run| {
        let (measured, page) = (&run.measured, &run.measured.wait_ns);
        let counted_as = |name| run.mm.as_ref().and_then(|memory| memory.count(name)).unwrap_or(0);
        let per_second = |number: u64| rate(number as f64 / (measured.elapsed_ns.max(1) as f64 / 1e9));
        let (mover, writers) = measured.per_vcpu.split_last().unwrap_or((&0, &[]));
        vec![
            per_second(*mover),
            count(counted_as("pgmigrate_fail")),
            count(counted_as("pgfault")),
            count(counted_as("migration_entry_wait")),
            per_second(writers.iter().fold(0, |sum, pages| sum.saturating_add(*pages))),
            time(page.p50),
            time(page.p99),
            time(page.max),
            cpu_used(run),
            verdict(run),
        ]
    }));
    table::render(&columns, &rows)
}

fn verdict(run: &Run) -> String {
    match run.measured.exclusion_violations {
        _ if !run.counted() => format!("run failed: {}", run.exit.name()),
        0 => "ok".to_owned(),
        violations => format!("BROKEN: {}", counted(violations, "violation")),
    }
}

/// `--stats`: the end of the run as `/proc` shows it in Linux; nothing where vCPUs' exits were not counted, or the
/// workload says nothing of its memory.
pub(super) fn views(run: &Run) -> String {
    match (&run.mm, &run.exits) {
        (Some(memory), Some(_)) => format!(
            "\n{}\n{}\n{}",
            buddyinfo(memory),
            pagetypeinfo(memory),
            vmstat(memory)
        ),
        _ => String::new(),
    }
}

fn zones(memory: &Memory) -> impl Iterator<Item = &MemoryZone> {
    memory.zones.iter().filter(|zone| zone.managed > 0)
}

fn row(cells: impl IntoIterator<Item = String>, numbers: &[u64]) -> Vec<String> {
    cells
        .into_iter()
        .chain(numbers.iter().map(u64::to_string))
        .collect()
}

fn buddyinfo(memory: &Memory) -> String {
    let mut columns = [Align::Right; 13];
    columns[0] = Align::Left;
    let rows: Vec<_> = zones(memory)
        .map(|zone| row(["Node 0, zone".to_owned(), zone.name.to_owned()], &zone.buddyinfo))
        .collect();
    format!(
        "Free blocks by order, as /proc/buddyinfo has them:\n\n{}",
        table::render(&columns, &rows)
    )
}

fn pagetypeinfo(memory: &Memory) -> String {
    let mut columns = [Align::Right; 15];
    columns[0] = Align::Left;
    let mut rows = Vec::new();
    for zone in zones(memory) {
        for ((name, blocks), (_, pageblocks)) in zone.pagetypeinfo.iter().zip(&zone.pageblocks) {
            let cells = [
                "Node 0, zone".to_owned(),
                zone.name.to_owned(),
                (*name).to_owned(),
            ];
            let mut cells = row(cells, blocks);
            cells.push(pageblocks.to_string());
            rows.push(cells);
        }
    }
    format!(
        "By type, and pageblocks of that type, as /proc/pagetypeinfo has them:\n\n{}",
        table::render(&columns, &rows)
    )
}

fn vmstat(memory: &Memory) -> String {
    let rows: Vec<_> = memory
        .vmstat
        .iter()
        .map(|(name, value)| vec![(*name).to_owned(), value.to_string()])
        .collect();
    format!(
        "As /proc/vmstat has it:\n\n{}",
        table::render(&[Align::Left, Align::Right], &rows)
    )
}
