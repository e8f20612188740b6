//! Results as text that a newcomer can read.

mod alloc;
mod compaction;
mod memory;
mod preemption;

use abi::config::{Workload, pairs};

use crate::cli::exits;
use crate::cli::verdict::verdict;
use crate::results::{Host, Results, Run};
use crate::table::{self, Align};
use crate::units::{count, counted, frequency, rate, ratio, size, time};

/// Stands where there is no number.
const NONE: &str = "–";

/// What was measured, where, and what it means.
pub(super) fn summary(results: &Results) -> String {
    let Some(first) = results.runs.first() else {
        return String::new();
    };
    let (header, hits) = (header(&results.host, first), preemption::hits(&results.runs));
    let mut text = match first.workload {
        Workload::Lock => {
            format!(
                "{header}\n{}{hits}\n{}\n",
                locks(&results.runs),
                verdict(&results.runs)
            )
        }
        Workload::PingPong => format!("{header}\n{}{hits}", ping_pongs(&results.runs)),
        Workload::Migrate => format!("{header}\n{}{hits}", memory::migrations(&results.runs)),
        Workload::Compaction => format!("{header}\n{}{hits}", compaction::rounds(&results.runs)),
        Workload::Alloc => format!(
            "{header}\n{}{}{hits}",
            memory::allocations(&results.runs),
            alloc::costs(&results.runs)
        ),
        _ => format!("{header}\n{}{hits}", others(&results.runs)),
    };
    text.extend(results.runs.iter().map(exits::table));
    text.extend(results.runs.iter().map(memory::views));
    text
}

/// `8 vCPUs on 2 CPUs`.
pub(super) fn vcpus_on_cpus(run: &Run) -> String {
    format!(
        "{} on {}",
        counted(run.vcpus, "vCPU"),
        counted(run.pcpus as u64, "CPU")
    )
}

/// What a halt, a kick and a wake-up took in a ping-pong, in nanoseconds.
pub(super) fn per_hand_off(run: &Run) -> Option<u64> {
    // Pairs play at the same time, each at its own pace.
    let time = u128::from(run.measured.elapsed_ns) * u128::from(pairs(run.vcpus));
    time.checked_div(run.measured.acquisitions.into())
        .map(|ns| u64::try_from(ns).unwrap_or(u64::MAX))
}

fn header(host: &Host, run: &Run) -> String {
    let kvm = match host.ring0_ns_per_instruction {
        Some(ns) => format!("KVM emulates ring 0 ({ns:.0} ns an instruction)"),
        None => "KVM runs ring 0 natively".to_owned(),
    };
    let load = match run.workload {
        Workload::Lock => format!(
            "hold {}, think {}, {} for each lock",
            time(run.hold_ns),
            time(run.think_ns),
            time(run.duration_ns)
        ),
        workload => workload.name().to_owned(),
    };
    format!(
        "Host   {kvm}; TSC {}; Linux {}\nGuest  ring {}, {} (overcommit {}){}, {}; {}\nLoad   {load}\n{}",
        frequency(host.tsc_khz),
        host.kernel,
        host.guest_ring,
        vcpus_on_cpus(run),
        ratio(f64::from(run.vcpus) / run.pcpus as f64),
        if run.pinned { ", each bound to one" } else { "" },
        size(run.memory),
        kicks(run),
        preemption::header(run),
    )
}

/// `kicks by pio`, and what is done beside.
fn kicks(run: &Run) -> String {
    let mut text = format!("kicks by {}", run.kick);
    if run.yield_on_kick {
        text += ", which yield";
    }
    if run.halt_poll_ns > 0 {
        text += &format!("; halts poll for {}", time(run.halt_poll_ns));
    }
    text
}

fn locks(runs: &[Run]) -> String {
    let names = [
        "lock",
        "throughput",
        "relative",
        "wait p50",
        "p99",
        "p99.9",
        "max",
        "fairness",
        "CPU used",
        "halts",
        "kicks",
        "exclusion",
    ];
    let mut columns = [Align::Right; 12];
    (columns[0], columns[11]) = (Align::Left, Align::Left);
    let mut rows = vec![names.map(str::to_owned).to_vec()];
    rows.extend(
        runs.iter()
            .map(|run| lock_row(run, runs.first().filter(|first| first.counted()))),
    );
    table::render(&columns, &rows)
}

fn lock_row(run: &Run, first: Option<&Run>) -> Vec<String> {
    let name = run.lock.map_or(NONE, |lock| lock.name()).to_owned();
    let measured = &run.measured;
    if !run.counted() {
        let mut row = vec![NONE.to_owned(); 12];
        (row[0], row[11]) = (name, format!("run failed: {}", run.exit.name()));
        return row;
    }
    let relative = first.map(|first| measured.throughput_per_sec / first.measured.throughput_per_sec);
    let wait = &measured.wait_ns;
    vec![
        name,
        rate(measured.throughput_per_sec),
        relative
            .filter(|relative| relative.is_finite())
            .map_or(NONE.to_owned(), ratio),
        time(wait.p50),
        time(wait.p99),
        time(wait.p999),
        time(wait.max),
        format!("{:.3}", measured.jain_index),
        cpu_used(run),
        count(measured.halts),
        count(measured.kicks),
        match measured.exclusion_violations {
            // Nobody was inside, so nobody could have been seen there.
            0 if measured.acquisitions == 0 => "not tested".to_owned(),
            0 => "ok".to_owned(),
            violations => format!("BROKEN: {}", counted(violations, "violation")),
        },
    ]
}

fn ping_pongs(runs: &[Run]) -> String {
    let names = [
        "hand-offs",
        "each",
        "CPU used",
        "halts",
        "kicks",
        "fairness",
        "end",
    ];
    let mut columns = [Align::Right; 7];
    columns[6] = Align::Left;
    let mut rows = vec![names.map(str::to_owned).to_vec()];
    rows.extend(runs.iter().map(|run| {
        let measured = &run.measured;
        vec![
            rate(measured.throughput_per_sec),
            per_hand_off(run).map_or(NONE.to_owned(), time),
            cpu_used(run),
            count(measured.halts),
            count(measured.kicks),
            format!("{:.3}", measured.jain_index),
            run.exit.name().to_owned(),
        ]
    }));
    table::render(&columns, &rows)
}

fn others(runs: &[Run]) -> String {
    let line = |run: &Run| {
        format!(
            "{}: {}; its first vCPU ran after {}\n",
            run.name(),
            run.exit.name(),
            time(run.setup_ns)
        )
    };
    runs.iter().map(line).collect()
}

/// The CPU time of the vCPU threads, as a share of what their CPUs had to give.
fn cpu_used(run: &Run) -> String {
    let cpus = (run.vcpus as usize).min(run.pcpus);
    let capacity = run.measured.elapsed_ns as f64 * cpus as f64;
    match run.cpu_ns {
        Some(cpu) if capacity > 0.0 => format!("{:.0} %", 100.0 * cpu as f64 / capacity),
        _ => NONE.to_owned(),
    }
}

#[cfg(test)]
pub(super) mod tests;
