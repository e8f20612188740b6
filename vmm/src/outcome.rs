//! How a launch ended, and what it left.

use std::time::Duration;

use serde::Serialize;

use crate::config::Ring;
use crate::exit_stats::VcpuExits;
use crate::host::Ring0;

/// Why a run is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The guest ended by itself and left a complete report.
    Completed,
    /// It had to be stopped: the time-out passed.
    Timeout,
    /// The guest panicked.
    Panic,
    /// The guest took an exception it could not handle, or shut down in a triple fault.
    Fault,
    /// The guest did something the VMM does not support, or KVM failed.
    Error,
    /// The user stopped it.
    Interrupted,
}

/// The guest's report, as it left it: numbers from an untrusted hand.
#[derive(Clone, Debug)]
pub struct GuestReport {
    /// What is true of the run as a whole.
    pub run: abi::report::Report,
    /// What each vCPU did, by vCPU index; nothing with [`Workload::Idle`](crate::Workload::Idle).
    pub vcpus: Vec<abi::report::VcpuReport>,
    /// What vCPU 0 saw, and when; empty unless it watched.
    pub log: Vec<abi::report::LogEntry>,
    /// What its page allocator left; `None` where the workload says nothing of it.
    pub memory: Option<abi::memory::MemoryReport>,
}

/// Host time the vCPU threads used between the guest's `MEASURE` calls, summed over them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostTime {
    /// CPU time, in user space and in the kernel, the guest's own included.
    pub cpu: Duration,
    /// Time they were ready to run but waited for a CPU; `None` where the host does not tell.
    pub steal: Option<Duration>,
    /// How often a vCPU thread lost its CPU without asking to; `None` where the host does not tell.
    pub preemptions: Option<u64>,
}

/// Preemptions on purpose, by what they hit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Preemptions {
    /// A vCPU that held a lock.
    pub holder: u64,
    /// A vCPU that waited for one.
    pub waiter: u64,
    /// A vCPU that did neither.
    pub other: u64,
}

/// What the guest saw of its vCPUs' preemption, compared with the host's record of context switches. Times
/// are sums over the vCPUs that were watched, of what could be seen: the watcher ran, and they were not
/// parked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HintAccuracy {
    /// Number of vCPUs that were watched.
    pub vcpus: u64,
    /// How often the host preempted one of them, seen or not.
    pub preemptions: u64,
    /// How long the watcher ran.
    pub observed: Duration,
    /// While the host had given their CPU to another thread.
    pub preempted: Told,
    /// While their threads slept: the VMM had stopped them.
    pub stopped: Told,
    /// How long the guest was told that they did not run.
    pub claimed: Duration,
    /// How much of that their threads did run. For a vCPU that is stopped that is no mistake: its thread
    /// runs for a moment on the way out of the guest, and on the way back.
    pub wrong: Duration,
    /// The error of each moment, by which the guest's clock may differ from the host's.
    pub clock_error: Duration,
}

/// Time that vCPUs did not run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// All of it.
    pub of: Duration,
    /// What the guest was told of it.
    pub told: Duration,
}

/// What a launch came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Why it is over.
    pub ended: Ended,
    /// One line that says so to a person; empty for [`Ended::Completed`] unless something is worth saying.
    pub detail: String,
    /// The ring the kernel ran in.
    pub ring: Ring,
    /// How the host runs ring 0.
    pub ring0: Ring0,
    /// Frequency of the guest's TSC in kHz.
    pub tsc_khz: u64,
    /// Present only where `ended` is [`Ended::Completed`].
    pub report: Option<GuestReport>,
    /// Present only where the guest measured from begin to end.
    pub host_time: Option<HostTime>,
    /// Preemptions on purpose.
    pub preemptions: Preemptions,
    /// How far the guest's hints can be trusted, or why that is not known; `None` unless it was to be
    /// checked.
    pub hints: Option<Result<HintAccuracy, String>>,
    /// Whether KVM was asked to tell the guest of stolen time, and will.
    pub steal_time: bool,
    /// Each vCPU's exits; `None` if they were not to be counted.
    pub exits: Option<Vec<VcpuExits>>,
    /// Guest requests that were refused because their arguments made no sense.
    pub rejected: u64,
    /// Time from the beginning of [`Vm::new`](crate::Vm::new) until the first vCPU was let run, less what
    /// passed between the two calls.
    pub setup: Duration,
    /// CLOCK_MONOTONIC in nanoseconds when vCPU 0 was about to enter the guest; 0 if it never was.
    pub entered_ns: u64,
}
