//! What the guest leaves behind: one [`Report`], followed by one [`VcpuReport`] for each vCPU and room for a
//! [log](LogEntry).
//!
//! The VMM reads it once the guest has ended with [`exit_code::DONE`](crate::port::exit_code::DONE). Times
//! are TSC cycles.

use crate::histogram::BUCKETS;
use crate::{PAGE_SIZE, Plain, assert_layout};

/// Most lock events a [`VcpuReport`] has room for. Which event has which index is `pvlock::Event`'s affair.
pub const EVENTS: usize = 32;

/// What is true of the run as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Report {
    /// The plain counter that every critical section raises by one: with exclusion, the number of
    /// acquisitions.
    pub plain_counter: u64,
    /// From the moment the vCPUs were let go until the last one had finished.
    pub elapsed_cycles: u64,
    /// What the guest measured a halt, kick and wake-up to cost at boot; 0 if it did not measure.
    pub wake_cost_cycles: u64,
    /// The spin budget in use, in cycles; 0 if it is in iterations.
    pub spin_budget_cycles: u64,
    /// The spin budget in use, in iterations; 0 if it is in cycles.
    pub spin_budget_iterations: u64,
    /// Number of [`LogEntry`]s.
    pub log_entries: u64,
    /// Number of those there was no room for.
    pub log_dropped: u64,
}

assert_layout!(Report, size 56, elapsed_cycles at 8, spin_budget_iterations at 32, log_entries at 40);

/// Where the first [`VcpuReport`] lies, from the start of the report.
pub const VCPU_REPORTS: u64 = PAGE_SIZE;

/// Bytes a report for `vcpus` vCPUs takes.
pub const fn size(vcpus: u32) -> u64 {
    log(vcpus) + (LOG * size_of::<LogEntry>()) as u64
}

/// Where the log begins in a report for `vcpus` vCPUs.
pub const fn log(vcpus: u32) -> u64 {
    VCPU_REPORTS + vcpus as u64 * size_of::<VcpuReport>() as u64
}

/// Most entries of the log.
pub const LOG: usize = 16384;

/// vCPU 0 watches those from 1 to this one, as far as they exist.
pub const WATCHED: u32 = 32;

/// What vCPU 0 saw, and when: the log of [`Workload::Observe`](crate::config::Workload::Observe), in order
/// of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct LogEntry {
    /// TSC.
    pub tsc: u64,
    /// One of [`log_kind`]'s values.
    pub kind: u32,
    /// The vCPU that was looked at, in the low 16 bits; what was seen of it, in the high ones. For
    /// [`log_kind::HINT`]; else 0.
    pub what: u32,
}

assert_layout!(LogEntry, size 16, kind at 8, what at 12);

/// Values of [`LogEntry::kind`].
pub mod log_kind {
    /// Before a [`SYNC`](crate::port::measure::SYNC); the entry after it follows.
    pub const BEFORE_SYNC: u32 = 0;
    /// After it.
    pub const AFTER_SYNC: u32 = 1;
    /// What is seen of a vCPU changes: 0 if it seems to run, else bits of
    /// [`seen`](super::seen).
    pub const HINT: u32 = 2;
    /// From here on the observer itself did not run, or not as it should ...
    pub const BLIND: u32 = 3;
    /// ... until here.
    pub const SIGHTED: u32 = 4;
}

/// Why a vCPU seems not to run: bits of a [`log_kind::HINT`].
pub mod seen {
    /// It is parked in a HLT.
    pub const PARKED: u32 = crate::vcpu_page::preempted::PARKED;
    /// The VMM has stopped it.
    pub const STOPPED: u32 = crate::vcpu_page::preempted::STOPPED;
    /// KVM says that it was preempted.
    pub const KVM: u32 = 4;
}

/// Counts of values by their [`bucket`](crate::histogram::bucket).
pub type Histogram = [u64; BUCKETS];

/// What one vCPU did.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct VcpuReport {
    /// Critical sections, hand-offs of the ping-pong, blocks that were freed, or pages that were verified or
    /// moved.
    pub acquisitions: u64,
    /// Critical sections in which somebody else was seen inside; or else what must not be.
    pub intruders: u64,
    /// Cycles in the slow paths of locks, less those asleep.
    pub spin_cycles: u64,
    /// Cycles asleep in HLT.
    pub halted_cycles: u64,
    /// Number of HLTs.
    pub halts: u64,
    /// Number of kicks sent.
    pub kicks: u64,
    /// The longest wait for a lock.
    pub longest_wait_cycles: u64,
    /// What KVM says was stolen from it while it worked, in nanoseconds.
    pub stolen_ns: u64,
    /// Lock events.
    pub events: [u64; EVENTS],
    /// Waits for the lock, from asking to getting.
    pub wait: Histogram,
    /// Times the lock was held.
    pub held: Histogram,
}

impl Default for VcpuReport {
    fn default() -> Self {
        Self {
            acquisitions: 0,
            intruders: 0,
            spin_cycles: 0,
            halted_cycles: 0,
            halts: 0,
            kicks: 0,
            longest_wait_cycles: 0,
            stolen_ns: 0,
            events: [0; EVENTS],
            wait: [0; BUCKETS],
            held: [0; BUCKETS],
        }
    }
}

assert_layout!(VcpuReport, size 64 + 8 * EVENTS + 16 * BUCKETS, events at 64, wait at 64 + 8 * EVENTS);

// SAFETY: integers only, `#[repr(C)]`, and the asserted size is the sum of the fields' sizes.
unsafe impl Plain for Report {}
// SAFETY: as above.
unsafe impl Plain for VcpuReport {}
// SAFETY: as above.
unsafe impl Plain for LogEntry {}
