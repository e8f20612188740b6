//! How far the guest's `vcpu_is_preempted` can be trusted: what vCPU 0 saw of the others
//! ([`Workload::Observe`](abi::config::Workload::Observe)), compared with the kernel's record of when their
//! threads ran.
//!
//! The guest's clock is the TSC, the kernel's is `CLOCK_MONOTONIC_RAW`. They are joined by calls of `SYNC`:
//! the guest notes its time before and after, the VMM its own in between. The tightest pair at the
//! beginning and the tightest at the end define a straight line; half of the wider one is the error of the
//! join.
//!
//! Only what vCPU 0 could see counts: from the one `SYNC` to the other, less what it was blind for, itself
//! preempted.

mod spans;

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use abi::port::measure::SYNCS;
use abi::report::{LogEntry, WATCHED, log_kind, seen};

use crate::clock_ns;
use crate::outcome::HintAccuracy;
use crate::perf::{Kind, Recorder, Switch};
use spans::Spans;

/// What the VMM notes while the guest runs.
pub(crate) struct Hints {
    recording: bool,
    syncs: Mutex<Vec<u64>>,
    recorders: Mutex<Vec<(u32, io::Result<Recorder>)>>,
}

impl Hints {
    pub(crate) fn new(recording: bool) -> Self {
        Self {
            recording,
            syncs: Mutex::default(),
            recorders: Mutex::default(),
        }
    }

    /// `SYNC`: notes the time. Returns false if it was called too often.
    pub(crate) fn sync(&self) -> bool {
        let mut syncs = lock(&self.syncs);
        if syncs.len() == SYNCS {
            return false;
        }
        syncs.push(clock_ns(libc::CLOCK_MONOTONIC_RAW));
        true
    }

    /// Records the switches of the calling thread, vCPU `index`'s, if that is wanted.
    pub(crate) fn record_this_thread(&self, index: u32) {
        if self.recording {
            lock(&self.recorders).push((index, Recorder::of_this_thread()));
        }
    }

    /// What `log` saw, compared with what was recorded; `None` if nothing was to be recorded.
    ///
    /// # Errors
    ///
    /// Why there is nothing to compare with.
    pub(crate) fn accuracy(&self, log: &[LogEntry]) -> Option<Result<HintAccuracy, String>> {
        self.recording.then(|| {
            let clock = Clock::new(log, &lock(&self.syncs))?;
            let mut recorded = Vec::new();
            for (vcpu, recorder) in lock(&self.recorders).iter() {
                let recorder = recorder.as_ref().map_err(refused)?;
                let (switches, lost) = recorder.switches();
                if lost > 0 {
                    return Err(format!(
                        "the kernel's record of vCPU {vcpu} lacks {lost} switches"
                    ));
                }
                recorded.push((*vcpu, switches));
            }
            Ok(compare(log, &clock, &recorded))
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn refused(error: &io::Error) -> String {
    format!(
        "the kernel does not let this process use perf events ({error}): run as root, or set kernel.perf_event_paranoid to at \
         most 2"
    )
}

/// From the guest's clock to the host's.
struct Clock {
    begin: Sync,
    end: Sync,
}

/// Two moments that are the same, give or take `error` cycles.
#[derive(Clone, Copy)]
struct Sync {
    tsc: u64,
    ns: u64,
    error: u64,
}

impl Clock {
    fn new(log: &[LogEntry], stamps: &[u64]) -> Result<Self, String> {
        let pairs = log.windows(2).filter_map(|pair| match pair {
            [a, b] if (a.kind, b.kind) == (log_kind::BEFORE_SYNC, log_kind::AFTER_SYNC) => {
                Some((a.tsc, b.tsc))
            }
            _ => None,
        });
        let syncs: Vec<_> = pairs
            .zip(stamps)
            .map(|((before, after), ns)| {
                let error = after.saturating_sub(before) / 2;
                Sync {
                    tsc: before.saturating_add(error),
                    ns: *ns,
                    error,
                }
            })
            .collect();
        let (first, second) = syncs.split_at(syncs.len() / 2);
        let tightest = |syncs: &[Sync]| syncs.iter().copied().min_by_key(|sync| sync.error);
        match (tightest(first), tightest(second)) {
            (Some(begin), Some(end)) if begin.tsc < end.tsc && begin.ns < end.ns => Ok(Self { begin, end }),
            _ => Err("the guest did not compare its clock with the host's".into()),
        }
    }

    /// Host nanoseconds in `cycles`; `end` is later than `begin`. As good as the clocks' rates are known.
    fn scale(&self, cycles: i128) -> i128 {
        let (ns, tsc) = (self.end.ns - self.begin.ns, self.end.tsc - self.begin.tsc);
        // A guest can make the numbers so large that the product has no room; then they mean nothing anyway.
        cycles.saturating_mul(ns.into()) / i128::from(tsc)
    }

    /// Host time of the guest's `tsc`, if there is such a time.
    fn ns(&self, tsc: u64) -> u64 {
        let ns = i128::from(self.begin.ns) + self.scale(i128::from(tsc) - i128::from(self.begin.tsc));
        u64::try_from(ns).unwrap_or(if ns < 0 { 0 } else { u64::MAX })
    }

    fn error(&self) -> Duration {
        let error = self.scale(self.begin.error.max(self.end.error).into());
        Duration::from_nanos(u64::try_from(error).unwrap_or(u64::MAX))
    }
}

fn compare(log: &[LogEntry], clock: &Clock, recorded: &[(u32, Vec<Switch>)]) -> HintAccuracy {
    let window = Spans::one(clock.begin.ns, clock.end.ns);
    let observed = window.minus(&spans_of(log, clock, |entry| match entry.kind {
        log_kind::BLIND => Some(true),
        log_kind::SIGHTED => Some(false),
        _ => None,
    }));
    let mut accuracy = HintAccuracy {
        observed: observed.length(),
        clock_error: clock.error(),
        ..HintAccuracy::default()
    };
    for (vcpu, switches) in recorded.iter().filter(|(vcpu, _)| (1..=WATCHED).contains(vcpu)) {
        let hints = |matching: fn(u32) -> bool| {
            spans_of(log, clock, move |entry| {
                let about = entry.kind == log_kind::HINT && entry.what & 0xffff == *vcpu;
                about.then_some(matching(entry.what >> 16))
            })
        };
        let observed = observed.minus(&hints(|seen| seen & seen::PARKED != 0));
        let claimed = hints(|seen| seen != 0).and(&observed);
        let off = |kind| {
            let edge = |switch: &Switch| (switch.time, switch.kind == kind);
            Spans::from_edges(switches.iter().map(edge)).and(&observed)
        };
        let mut right = Duration::ZERO;
        for (told, kind) in [
            (&mut accuracy.preempted, Kind::Preempted),
            (&mut accuracy.stopped, Kind::Out),
        ] {
            let off = off(kind);
            let seen = claimed.and(&off).length();
            told.of += off.length();
            told.told += seen;
            right += seen;
        }
        accuracy.claimed += claimed.length();
        accuracy.wrong += claimed.length().saturating_sub(right);
        let preempted = switches.iter().filter(|switch| switch.kind == Kind::Preempted);
        accuracy.preemptions += preempted.filter(|switch| window.contains(switch.time)).count() as u64;
        accuracy.vcpus += 1;
    }
    accuracy
}

/// The times between entries that begin something and those that end it, by what `edge` says of each.
fn spans_of(log: &[LogEntry], clock: &Clock, edge: impl Fn(&LogEntry) -> Option<bool>) -> Spans {
    Spans::from_edges(
        log.iter()
            .filter_map(|entry| Some((clock.ns(entry.tsc), edge(entry)?))),
    )
}

#[cfg(test)]
mod tests;
