//! How a launch ended, and what it left.

use std::time::Duration;

use crate::config::Ring;
use crate::exit_stats::VcpuExits;

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
    /// What each vCPU did, by vCPU index.
    pub vcpus: Vec<abi::report::VcpuReport>,
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

/// What a launch came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Why it is over.
    pub ended: Ended,
    /// One line that says so to a person; empty for [`Ended::Completed`] unless something is worth saying.
    pub detail: String,
    /// The ring the kernel ran in.
    pub ring: Ring,
    /// Frequency of the guest's TSC in kHz.
    pub tsc_khz: u64,
    /// Present only where `ended` is [`Ended::Completed`].
    pub report: Option<GuestReport>,
    /// Present only where the guest measured from begin to end.
    pub host_time: Option<HostTime>,
    /// Each vCPU's exits; `None` if they were not to be counted.
    pub exits: Option<Vec<VcpuExits>>,
    /// Guest requests that were refused because their arguments made no sense.
    pub rejected: u64,
    /// Time from the call of [`launch`](crate::launch) until the first vCPU was let run.
    pub setup: Duration,
}
