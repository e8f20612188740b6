//! One line of plain words on what a comparison of locks shows, and no more than it shows.

use crate::cli::summary::vcpus_on_cpus;
use crate::results::{Exit, Run};
use crate::units::{count, counted, rate, ratio};

/// Runs that differ by less are called equal: so much the same lock differs from run to run.
const NOTABLE: f64 = 1.1;

/// Fewer halts explain nothing.
const NOTABLE_HALTS: u64 = 10;

/// A fairness index below this is worth a warning.
const FAIR: f64 = 0.9;

/// What `runs` of the lock workload, on the same CPUs, say about their locks.
pub(super) fn verdict(runs: &[Run]) -> String {
    let Some(first) = runs.first() else {
        return String::new();
    };
    let place = format!("With {}", vcpus_on_cpus(first));
    let valid: Vec<&Run> = runs.iter().filter(|run| run.completed()).collect();
    let fastest = valid
        .iter()
        .copied()
        .reduce(|a, b| if speed(b) > speed(a) { b } else { a });
    let slowest = valid
        .iter()
        .copied()
        .reduce(|a, b| if speed(b) < speed(a) { b } else { a });
    let mut sentences = match (fastest, slowest) {
        (Some(fastest), Some(slowest)) if valid.len() > 1 => {
            vec![comparison(&place, fastest, slowest), unfair(fastest)]
        }
        (Some(only), _) => {
            vec![
                format!(
                    "{place}, {} was taken {} times in a second.",
                    name(only),
                    number(only)
                ),
                unfair(only),
            ]
        }
        _ => vec!["No run was completed, so there is nothing to compare.".to_owned()],
    };
    if fastest.is_some() {
        sentences.push(without_overcommit(first));
        sentences.extend(runs.iter().filter(|run| !run.completed()).map(left_out));
    }
    sentences.retain(|sentence| !sentence.is_empty());
    sentences.join(" ")
}

fn comparison(place: &str, fastest: &Run, slowest: &Run) -> String {
    let (fast, slow) = (name(fastest), name(slowest));
    if speed(fastest) == 0.0 {
        return format!("{place}, no lock was taken at all.");
    }
    if speed(slowest) == 0.0 {
        return format!(
            "{place}, {fast} was taken {} times in a second and {slow} not once.",
            number(fastest)
        );
    }
    let times = speed(fastest) / speed(slowest);
    if times < NOTABLE {
        return format!(
            "{place}, all locks did about the same work (within {:.0} %).",
            (times - 1.0) * 100.0
        );
    }
    let times = ratio(times);
    format!(
        "{place}, {fast} did {times} the work of {slow}{}.",
        halting(fastest, slowest)
    )
}

/// What halting has to do with it, if the faster lock's waiters did it and the slower one's hardly ever.
fn halting(fastest: &Run, slowest: &Run) -> String {
    let (many, few) = (fastest.measured.halts, slowest.measured.halts);
    if !overcommitted(fastest) || many < NOTABLE_HALTS || many / 10 < few {
        return String::new();
    }
    format!(
        ": waiters that halt ({} times with {}, {} with {}) give their CPU to a vCPU that can work, such as the lock's \
         holder",
        count(many),
        name(fastest),
        count(few),
        name(slowest)
    )
}

fn unfair(run: &Run) -> String {
    if run.measured.acquisitions == 0 || run.measured.jain_index >= FAIR {
        return String::new();
    }
    format!(
        "But {} did not treat all vCPUs alike (fairness {:.2}).",
        name(run),
        run.measured.jain_index
    )
}

fn without_overcommit(run: &Run) -> String {
    if overcommitted(run) {
        return String::new();
    }
    "No vCPU had to share a CPU with another, so this does not show what preemption does to locks.".to_owned()
}

fn left_out(run: &Run) -> String {
    match run.exit {
        Exit::Violation => format!("{} let vCPUs in together, so its speed means nothing.", name(run)),
        _ => format!("{} is left out: its run failed.", name(run)),
    }
}

/// One line for each thing about a finished run that a user should hear of though it is no failure.
pub(super) fn warnings(run: &Run) -> Vec<String> {
    let mut warnings = Vec::new();
    if run.completed() && run.lock.is_some() {
        let vcpus = run.measured.per_vcpu.iter().enumerate();
        let stuck: Vec<_> = vcpus
            .filter(|&(_, &acquisitions)| acquisitions == 0)
            .map(|(vcpu, _)| vcpu)
            .collect();
        if let [vcpu, rest @ ..] = stuck.as_slice() {
            let more = if rest.is_empty() {
                String::new()
            } else {
                format!(" and {} more", rest.len())
            };
            warnings.push(format!(
                "warning: {}: vCPU {vcpu}{more} of {} never got the lock; a longer --duration may tell whether it starves",
                run.name(),
                run.vcpus
            ));
        }
    }
    let hits = run.preemptions;
    if let (Some(asked), true) = (&run.preempt, hits.holder | hits.waiter | hits.other == 0) {
        warnings.push(format!(
            "warning: {}: '--preempt {asked}' hit nobody; a longer --duration may, if the workload has what it is to hit",
            run.name()
        ));
    }
    if run.rejected > 0 {
        let requests = counted(run.rejected, "request");
        warnings.push(format!(
            "warning: {}: the guest made {requests} that made no sense and were refused",
            run.name()
        ));
    }
    if run.completed() && !run.detail.is_empty() {
        warnings.push(format!("note: {}: {}", run.name(), run.detail));
    }
    warnings
}

fn overcommitted(run: &Run) -> bool {
    run.vcpus as usize > run.pcpus
}

fn speed(run: &Run) -> f64 {
    run.measured.throughput_per_sec
}

/// The speed as a number, its unit left to the sentence.
fn number(run: &Run) -> String {
    rate(speed(run)).trim_end_matches("/s").trim_end().to_owned()
}

fn name(run: &Run) -> &'static str {
    run.lock.map_or(run.workload.name(), |lock| lock.name())
}

#[cfg(test)]
mod tests;
