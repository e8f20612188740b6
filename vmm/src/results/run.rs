//! One launch's part of the results.

use abi::config::{LockKind, Workload, pairs};
use abi::report::VcpuReport;
use pvlock::Event;
use serde::{Serialize, Serializer};

use super::Exit;
use super::alloc::Alloc;
use super::compaction::Compaction;
use super::memory::Memory;
use super::secondary::Secondary;
use super::statistics::{self, Clock, Percentiles};
use crate::config::{Config, nanos};
use crate::exit_stats::VcpuExits;
use crate::outcome::{Ended, Outcome, Preemptions};
use crate::units::counted;

/// One launch. Times are in nanoseconds, numbers are sums over the vCPUs unless they say otherwise, and zero
/// in a run that did not reach its end.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// The lock; null where the workload takes none.
    #[serde(serialize_with = "lock_name")]
    pub lock: Option<LockKind>,
    /// What the vCPUs did.
    #[serde(serialize_with = "workload_name")]
    pub workload: Workload,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// Number of CPUs they shared.
    pub pcpus: usize,
    /// Whether every vCPU was bound to one of them.
    pub pinned: bool,
    /// Guest memory in bytes.
    pub memory: u64,
    /// How vCPUs were kicked.
    pub kick: &'static str,
    /// How long a vCPU that halted polled, at most, before it slept.
    pub halt_poll_ns: u64,
    /// Whether a vCPU that kicked offered its CPU to others.
    pub yield_on_kick: bool,
    /// How long the workload was to be repeated.
    pub duration_ns: u64,
    /// Length of a critical section.
    pub hold_ns: u64,
    /// Length of the pause between release and the next acquisition.
    pub think_ns: u64,
    /// Seed of everything random in the guest.
    pub seed: u64,
    /// From the start of the launch until the first vCPU ran.
    pub setup_ns: u64,
    /// CLOCK_MONOTONIC when the first vCPU was about to run: for those who know when they started the
    /// program.
    pub entered_ns: u64,
    /// How it ended.
    pub exit: Exit,
    /// One line on that; may be empty.
    pub detail: String,
    /// Guest requests that made no sense and were refused.
    pub rejected: u64,
    /// CPU time of the vCPU threads during the workload; null if it was not measured.
    pub cpu_ns: Option<u64>,
    /// Time they were ready to run but waited for a CPU; null where the host does not tell.
    pub steal_ns: Option<u64>,
    /// What KVM told the guest of that, while its vCPUs worked; null where KVM does not tell.
    pub guest_steal_ns: Option<u64>,
    /// How often they lost their CPU without asking to; null where the host does not tell.
    pub natural_preemptions: Option<u64>,
    /// How they were to be preempted on purpose, as `--preempt` takes it; null if they were not.
    pub preempt: Option<String>,
    /// Busy host threads that shared their CPUs with them.
    pub neighbours: u32,
    /// How often they were stopped on purpose, by what they were doing.
    pub preemptions: Preemptions,
    /// Each vCPU's exits by their reasons; null if they were not to be counted.
    pub exits: Option<Vec<VcpuExits>>,
    /// What its page allocator left; null where the workload says nothing of it.
    pub mm: Option<Memory>,
    /// What the guest measured.
    #[serde(flatten)]
    pub measured: Measured,
}

/// The guest's measurements of one run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Measured {
    /// How long the workload took.
    pub elapsed_ns: u64,
    /// Critical sections, hand-offs of the ping-pong, blocks of memory that were allocated and freed, or pages
    /// that were verified or, by the last vCPU, moved.
    pub acquisitions: u64,
    /// The same by vCPU.
    pub per_vcpu: Vec<u64>,
    /// Acquisitions per second.
    pub throughput_per_sec: f64,
    /// At least as many critical sections overlapped with another; or what else a workload found that must not
    /// be: `detail` says what.
    pub exclusion_violations: u64,
    /// Jain's fairness index of `per_vcpu`, less those who only watch a ping-pong, or move pages.
    pub jain_index: f64,
    /// The longest wait for the lock.
    pub longest_wait_ns: u64,
    /// Waits for the lock, or for the token of the ping-pong; or what exits to the VMM cost;
    /// or what it took to allocate a block, or to verify a page; of compaction, a huge page with direct compaction.
    pub wait_ns: Percentiles,
    /// Times it was held; or those from a kick of the ping-pong until its target ran; or what kicks
    /// cost; or what it took to free a block; of compaction, to allocate a huge page after the daemon had compacted.
    pub held_ns: Percentiles,
    /// Time in the slow paths of locks, less that asleep.
    pub spin_ns: u64,
    /// Time asleep in HLT.
    pub halted_ns: u64,
    /// Number of HLTs.
    pub halts: u64,
    /// Number of kicks sent.
    pub kicks: u64,
    /// The spin budget in use; null if it is in iterations.
    pub spin_budget_ns: Option<u64>,
    /// The spin budget in use; null if it is in nanoseconds.
    pub spin_budget_iterations: Option<u64>,
    /// What the guest measured a halt, kick and wake-up to cost; null if it did not measure.
    pub wake_cost_ns: Option<u64>,
    /// Lock events by their Linux names.
    #[serde(serialize_with = "events")]
    pub events: Vec<(&'static str, u64)>,
}

impl Run {
    /// What a launch of `config` came to.
    pub fn new(config: &Config, outcome: &Outcome) -> Self {
        let measured = Measured::new(config, outcome);
        let (exit, detail) = match outcome.ended {
            Ended::Completed if measured.exclusion_violations > 0 => {
                (Exit::Violation, measured.violation_detail(config, outcome))
            }
            Ended::Completed => (Exit::Completed, outcome.detail.clone()),
            Ended::Timeout => (Exit::Timeout, outcome.detail.clone()),
            Ended::Panic => (Exit::Panic, outcome.detail.clone()),
            Ended::Fault => (Exit::Fault, outcome.detail.clone()),
            Ended::Error | Ended::Interrupted => (Exit::Error, outcome.detail.clone()),
        };
        let host_time = outcome.host_time.as_ref();
        Self {
            lock: (config.workload == Workload::Lock).then_some(config.lock),
            workload: config.workload,
            vcpus: config.vcpus,
            pcpus: config.pcpus.len(),
            pinned: config.pin,
            memory: config.memory,
            kick: config.kick.name(),
            halt_poll_ns: nanos(config.halt_poll),
            yield_on_kick: config.yield_on_kick,
            duration_ns: nanos(config.duration),
            hold_ns: nanos(config.hold),
            think_ns: nanos(config.think),
            seed: config.seed,
            setup_ns: nanos(outcome.setup),
            entered_ns: outcome.entered_ns,
            exit,
            detail,
            rejected: outcome.rejected,
            cpu_ns: host_time.map(|time| nanos(time.cpu)),
            steal_ns: host_time.and_then(|time| time.steal).map(nanos),
            guest_steal_ns: (outcome.report.as_ref().filter(|_| outcome.steal_time))
                .map(|report| statistics::sum(report.vcpus.iter().map(|vcpu| vcpu.stolen_ns))),
            natural_preemptions: host_time.and_then(|time| time.preemptions),
            preempt: config.preempt.map(|preempt| preempt.to_string()),
            neighbours: config.neighbours,
            preemptions: outcome.preemptions,
            exits: outcome.exits.clone(),
            mm: (outcome.report.as_ref())
                .and_then(|report| report.memory.as_ref())
                .map(|memory| Memory {
                    compaction: compaction(config, outcome),
                    alloc: alloc(config, outcome),
                    secondary: secondary(config, outcome),
                    ..Memory::new(memory)
                }),
            measured,
        }
    }

    /// Whether it ran to its end and passed all checks, so that its numbers may be
    /// compared with those of other runs.
    pub fn completed(&self) -> bool {
        self.exit == Exit::Completed
    }

    /// Whether there are numbers at all: the workload ran to its end, whatever the checks say.
    pub fn counted(&self) -> bool {
        matches!(self.exit, Exit::Completed | Exit::Violation)
    }

    /// What it is called in messages.
    pub fn name(&self) -> String {
        match self.lock {
            Some(lock) => format!("lock '{}'", lock.name()),
            None => format!("workload '{}'", self.workload.name()),
        }
    }
}

impl Measured {
    fn new(config: &Config, outcome: &Outcome) -> Self {
        let Some(report) = &outcome.report else {
            return Self::default();
        };
        let (run, vcpus) = (&report.run, report.vcpus.as_slice());
        let clock = Clock { khz: outcome.tsc_khz };
        let sum = |field: fn(&VcpuReport) -> u64| statistics::sum(vcpus.iter().map(field));
        let mut per_vcpu: Vec<u64> = vcpus.iter().map(|vcpu| vcpu.acquisitions).collect();
        per_vcpu.resize(config.vcpus as usize, 0);
        let longest_wait = vcpus
            .iter()
            .map(|vcpu| vcpu.longest_wait_cycles)
            .max()
            .unwrap_or(0);
        let elapsed_ns = clock.ns(run.elapsed_cycles);
        let acquisitions = sum(|vcpu| vcpu.acquisitions);
        Self {
            elapsed_ns,
            acquisitions,
            throughput_per_sec: statistics::per_second(acquisitions, elapsed_ns),
            exclusion_violations: match config.workload {
                Workload::Lock | Workload::NestedLocks => statistics::violations(run.plain_counter, vcpus),
                // What these count: values that an interrupt changed, reads through a stale translation.
                Workload::Interrupted | Workload::Shootdown | Workload::PageFaults => {
                    sum(|vcpu| vcpu.intruders)
                }
                Workload::Alloc | Workload::Migrate => {
                    let secondary = secondary(config, outcome).map_or(0, |secondary| secondary.violations());
                    statistics::sum([sum(|vcpu| vcpu.intruders), unreturned(outcome), secondary].into_iter())
                }
                Workload::Compaction => {
                    let wrong = compaction(config, outcome).map_or(0, |compaction| compaction.violations());
                    statistics::sum([sum(|vcpu| vcpu.intruders), unreturned(outcome), wrong].into_iter())
                }
                _ => 0,
            },
            jain_index: statistics::jain_index(match config.workload {
                // Watchers get no share, and want none.
                Workload::PingPong => &per_vcpu[..per_vcpu.len().min(2 * pairs(config.vcpus) as usize)],
                // Nor has the mover, which does something else.
                Workload::Migrate => per_vcpu.split_last().map_or(&[], |(_, writers)| writers),
                _ => &per_vcpu,
            }),
            per_vcpu,
            longest_wait_ns: clock.ns(longest_wait),
            wait_ns: Percentiles::new(vcpus.iter().map(|vcpu| &vcpu.wait), Some(longest_wait), clock),
            held_ns: Percentiles::new(vcpus.iter().map(|vcpu| &vcpu.held), None, clock),
            spin_ns: clock.ns(sum(|vcpu| vcpu.spin_cycles)),
            halted_ns: clock.ns(sum(|vcpu| vcpu.halted_cycles)),
            halts: sum(|vcpu| vcpu.halts),
            kicks: sum(|vcpu| vcpu.kicks),
            spin_budget_ns: measured(run.spin_budget_cycles).map(|cycles| clock.ns(cycles)),
            spin_budget_iterations: measured(run.spin_budget_iterations),
            wake_cost_ns: measured(run.wake_cost_cycles).map(|cycles| clock.ns(cycles)),
            events: (Event::ALL.iter().enumerate())
                .map(|(i, event)| {
                    let counts = vcpus.iter().filter_map(|vcpu| vcpu.events.get(i).copied());
                    (event.name(), statistics::sum(counts))
                })
                .collect(),
        }
    }

    fn violation_detail(&self, config: &Config, outcome: &Outcome) -> String {
        let (number, all) = (self.exclusion_violations, self.acquisitions);
        if let Some(compaction) = compaction(config, outcome) {
            let complaints = compaction.complaints();
            return match complaints.is_empty() {
                false => complaints.join("; "),
                true => format!(
                    "{} of memory read while it moved not as written, or did not come back",
                    counted(number, "word")
                ),
            };
        }
        match config.workload {
            Workload::Alloc => format!(
                "{} of memory had two holders, or did not come back, of {all}",
                counted(number, "block")
            ),
            Workload::Migrate => self.migration_complaints(config, outcome).join("; "),
            Workload::Interrupted | Workload::PageFaults => format!(
                "what interrupts and faults must leave alone had changed, {number} times in {all} of them"
            ),
            Workload::Shootdown => {
                format!("{number} of {all} reads went through a translation that should have been forgotten")
            }
            _ => format!("exclusion violated: {number} of {all} critical sections overlapped with another"),
        }
    }

    /// What is wrong with memory that was moved.
    fn migration_complaints(&self, config: &Config, outcome: &Outcome) -> Vec<String> {
        let vcpus = outcome.report.iter().flat_map(|report| &report.vcpus);
        let wrong = statistics::sum(vcpus.map(|vcpu| vcpu.intruders));
        let mut complaints = Vec::new();
        if wrong != 0 {
            let words = counted(wrong, "word");
            complaints.push(format!("{words} of {} pages not as written", self.acquisitions));
        }
        let lost = unreturned(outcome);
        if lost != 0 {
            complaints.push(format!("{} did not come back", counted(lost, "frame")));
        }
        complaints.extend(secondary(config, outcome).iter().flat_map(Secondary::complaints));
        complaints
    }
}

/// What compaction came to, where it was the workload.
fn compaction(config: &Config, outcome: &Outcome) -> Option<Compaction> {
    let memory = outcome.report.as_ref()?.memory.as_ref()?;
    let clock = Clock { khz: outcome.tsc_khz };
    (config.workload == Workload::Compaction).then(|| Compaction::new(&memory.compaction, clock))
}

/// What frames cost, where it was the workload.
fn alloc(config: &Config, outcome: &Outcome) -> Option<Alloc> {
    let memory = outcome.report.as_ref()?.memory.as_ref()?;
    let clock = Clock { khz: outcome.tsc_khz };
    (config.workload == Workload::Alloc).then(|| Alloc::new(&memory.alloc, clock))?
}

/// What a secondary map found, where the workload has one.
fn secondary(config: &Config, outcome: &Outcome) -> Option<Secondary> {
    let memory = outcome.report.as_ref()?.memory.as_ref()?;
    (config.workload == Workload::Migrate).then(|| Secondary::new(&memory.secondary))
}

/// Frames that did not come back.
fn unreturned(outcome: &Outcome) -> u64 {
    let memory = outcome.report.as_ref().and_then(|report| report.memory.as_ref());
    memory.map_or(0, |memory| memory.unreturned)
}

/// In the guest's report, 0 stands for what was not measured or does not apply.
fn measured(value: u64) -> Option<u64> {
    (value != 0).then_some(value)
}

fn lock_name<S: Serializer>(lock: &Option<LockKind>, serializer: S) -> Result<S::Ok, S::Error> {
    lock.map(LockKind::name).serialize(serializer)
}

fn workload_name<S: Serializer>(workload: &Workload, serializer: S) -> Result<S::Ok, S::Error> {
    workload.name().serialize(serializer)
}

fn events<S: Serializer>(events: &[(&'static str, u64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(events.iter().copied())
}
