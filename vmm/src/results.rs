//! The result of a run, as `--format json` writes it and the tables show it.
//!
//! The guest's part of it comes from an untrusted hand: any bit pattern makes a [`Run`], if not a meaningful
//! one. Fields may be added, never renamed.

mod alloc;
mod compaction;
mod memory;
mod run;
mod secondary;
mod statistics;

use serde::Serialize;

use crate::host;
use crate::outcome::Outcome;
pub use crate::outcome::Preemptions;
pub use alloc::{Alloc, Costs as AllocCosts, Patterns as AllocPatterns};
pub use compaction::{Compaction, Round as CompactionRound};
pub use memory::{Memory, MemoryZone};
pub use run::{Measured, Run};
pub use secondary::Secondary;
pub use statistics::Percentiles;

/// Everything one invocation measured.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    /// Version of this schema.
    pub schema: u32,
    /// Where it was measured.
    pub host: Host,
    /// One for each launch, in order.
    pub runs: Vec<Run>,
}

impl Results {
    /// Version of the schema that [`Results`] describes.
    pub const SCHEMA: u32 = 1;

    /// The results of `runs`, on `host`.
    pub fn new(host: Host, runs: Vec<Run>) -> Self {
        Self {
            schema: Self::SCHEMA,
            host,
            runs,
        }
    }
}

/// The host, as far as it matters to results.
#[derive(Clone, Debug, Serialize)]
pub struct Host {
    /// How its KVM runs ring 0.
    pub kvm: Kvm,
    /// What an instruction costs in ring 0, in nanoseconds, where it is emulated: elsewhere it is too little
    /// to measure.
    pub ring0_ns_per_instruction: Option<f64>,
    /// The ring the guest kernel ran in.
    pub guest_ring: u8,
    /// CPUs in the process's affinity mask.
    pub pcpus: usize,
    /// Frequency of the TSC in kHz.
    pub tsc_khz: u64,
    /// Release of the host's kernel.
    pub kernel: String,
}

impl Host {
    /// The host of the launch that came to `outcome`, with `pcpus` CPUs allowed.
    pub fn new(outcome: &Outcome, pcpus: usize) -> Self {
        let ring0 = outcome.ring0;
        Self {
            kvm: if ring0.emulated {
                Kvm::Emulated
            } else {
                Kvm::Native
            },
            ring0_ns_per_instruction: ring0.emulated.then_some(ring0.ns_per_instruction),
            guest_ring: outcome.ring as u8,
            pcpus,
            tsc_khz: outcome.tsc_khz,
            kernel: host::kernel_release(),
        }
    }
}

/// How a KVM runs ring 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kvm {
    /// At speed.
    Native,
    /// Instruction by instruction.
    Emulated,
}

/// How a run ended, its own checks included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Exit {
    /// To its end, and all checks passed.
    Completed,
    /// Stopped by the time-out.
    Timeout,
    /// The guest panicked.
    Panic,
    /// The guest took an exception it could not handle.
    Fault,
    /// To its end, but critical sections overlapped.
    Violation,
    /// Anything else.
    Error,
}

impl Exit {
    /// The word for it in results.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Timeout => "timeout",
            Self::Panic => "panic",
            Self::Fault => "fault",
            Self::Violation => "violation",
            Self::Error => "error",
        }
    }
}

#[cfg(test)]
mod tests;
