//! What a guest is told of its vCPUs' preemption here, and how far that is right.

use std::time::Duration;

use abi::config::Workload;

use super::{Line, cannot_run, line};
use crate::cli::failure::Failure;
use crate::cli::guest;
use crate::cli::signals::Signals;
use crate::config::{Config, Preempt, Target};
use crate::outcome::{HintAccuracy, Told};
use crate::results::Run;
use crate::units::{counted, time};

/// How long each kind of preemption is watched.
const WATCHED: Duration = Duration::from_secs(1);

/// Tries both kinds: natural, where vCPUs have to share their CPUs, and on purpose, where they do not.
pub(super) fn try_hints(base: &Config, signals: &Signals) -> Result<Vec<Line>, Failure> {
    let pcpus: Vec<_> = base.pcpus.iter().copied().take(2).collect();
    let alone = Config {
        vcpus: pcpus.len() as u32,
        pcpus,
        workload: Workload::Observe,
        duration: WATCHED,
        check_hints: true,
        ..base.clone()
    };
    let crowded = Config {
        vcpus: 2 * alone.vcpus,
        ..alone.clone()
    };
    let stopped = Config {
        // There has to be one that is watched.
        vcpus: alone.vcpus.max(2),
        preempt: Some(Preempt {
            target: Target::Any,
            every: Duration::from_millis(2),
            length: Duration::from_millis(2),
        }),
        ..alone
    };
    let mut lines = Vec::new();
    for (what, config) in [("preempted", crowded), ("stopped", stopped)] {
        let outcome = guest::launch(&format!("watching vCPUs that are {what}"), &config, signals)?;
        let run = Run::new(&config, &outcome);
        if !run.completed() {
            return Err(cannot_run(&run, &run.detail));
        }
        if lines.is_empty() {
            let steal = match run.guest_steal_ns {
                Some(_) => "KVM tells guests",
                None => "KVM does not tell guests",
            };
            lines.push(line("steal time", steal.into()));
        }
        match outcome.hints {
            Some(Ok(accuracy)) => {
                let kind = match config.preempt {
                    None => accuracy.preempted,
                    Some(_) => accuracy.stopped,
                };
                lines.push(line(what, described(&accuracy, kind)));
            }
            Some(Err(why)) => {
                lines.push(line("hints", format!("not checked: {why}")));
                break;
            }
            None => {}
        }
    }
    Ok(lines)
}

/// What `vcpu_is_preempted` was worth for one kind of preemption.
fn described(accuracy: &HintAccuracy, kind: Told) -> String {
    if kind.of.is_zero() {
        return "no vCPU was, while another one watched".into();
    }
    let share = |part: Duration, of: Duration| 100.0 * part.as_secs_f64() / of.as_secs_f64();
    let ns = |duration: Duration| time(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    let wrong = match accuracy.claimed.is_zero() {
        true => String::new(),
        false => format!(
            "; {:.1} % of what it tells is time with a CPU",
            share(accuracy.wrong, accuracy.claimed)
        ),
    };
    format!(
        "vcpu_is_preempted tells {:.1} % of {}{wrong} ({} watched for {}; by perf's records, ±{})",
        share(kind.told, kind.of),
        ns(kind.of),
        counted(accuracy.vcpus, "vCPU"),
        ns(accuracy.observed),
        ns(accuracy.clock_error),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accuracy_is_put_into_numbers() {
        let told = |of, told| Told {
            of: Duration::from_millis(of),
            told: Duration::from_millis(told),
        };
        let accuracy = HintAccuracy {
            vcpus: 3,
            observed: Duration::from_millis(500),
            claimed: Duration::from_millis(200),
            wrong: Duration::from_millis(1),
            clock_error: Duration::from_micros(30),
            ..HintAccuracy::default()
        };
        assert_eq!(
            described(&accuracy, told(200, 150)),
            "vcpu_is_preempted tells 75.0 % of 200 ms; 0.5 % of what it tells is time with a CPU (3 vCPUs watched for \
             500 ms; by perf's records, ±30 µs)"
        );
        let silent = HintAccuracy {
            claimed: Duration::ZERO,
            ..accuracy
        };
        assert!(described(&silent, told(200, 0)).starts_with("vcpu_is_preempted tells 0.0 % of 200 ms (3"));
        assert!(described(&accuracy, Told::default()).contains("no vCPU was"));
    }
}
