//! What users can ask for.

mod values;

use std::path::PathBuf;
use std::time::Duration;

use abi::config::{LockKind, Workload};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{Preempt, Spin};
use crate::units::{parse_duration, parse_positive_duration, parse_size};
use values::{parse_lock, parse_spin, parse_vcpus, parse_workload};

const NOTATION: &str = "\
Durations are written like 500ns, 20us, 1.5ms, 2s or 1m (at most 24h), sizes like 64K, 256M or 1G.

Exit codes:
  0      fine
  1      a run failed: guest panic or fault, overlapping critical sections, time-out
  2      bad usage
  3      the host cannot run guests, or not as asked
  128+n  stopped by signal n (130 for Ctrl-C)";

/// Launches small KVM guests and measures what vCPU preemption does to their spin locks.
#[derive(Debug, Parser)]
#[command(name = "vmm", version, after_help = NOTATION, arg_required_else_help = false)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Measure locks in a guest, one after the other, and compare them
    #[command(after_help = NOTATION)]
    Run(RunArgs),
    /// Show what this host offers to guests and what it costs
    #[command(after_help = NOTATION)]
    Doctor(DoctorArgs),
    /// List the locks and workloads, a line each
    List,
    /// Launch a guest image built on vmm/abi, with its console on stdout and stdin
    #[command(after_help = NOTATION)]
    Boot(BootArgs),
}

/// Options of `run`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Work")]
pub(super) struct RunArgs {
    /// Locks to measure, in this order ('vmm list' shows them)
    #[arg(long, value_name = "NAME[,NAME...]", value_delimiter = ',', value_parser = parse_lock,
          default_value = "qspinlock,pvqspinlock")]
    pub(super) lock: Vec<LockKind>,
    /// What the vCPUs do ('vmm list' shows what there is)
    #[arg(long, value_name = "NAME", value_parser = parse_workload, default_value = "lock")]
    pub(super) workload: Workload,
    /// How long each lock is measured
    #[arg(long, value_name = "D", value_parser = parse_positive_duration, allow_hyphen_values = true, default_value = "2s")]
    pub(super) duration: Duration,
    /// Length of a critical section
    #[arg(long, value_name = "D", value_parser = parse_duration, allow_hyphen_values = true, default_value = "100ns")]
    pub(super) hold: Duration,
    /// Pause between a release and the next acquisition
    #[arg(long, value_name = "D", value_parser = parse_duration, allow_hyphen_values = true, default_value = "100ns")]
    pub(super) think: Duration,
    /// How long a waiter spins before it halts; auto is what a wake-up costs [default: the lock's own choice]
    #[arg(long, value_name = "auto|D", value_parser = parse_spin, allow_hyphen_values = true)]
    pub(super) spin: Option<Spin>,
    /// How kicks travel: pio (an exit to the VMM), ioeventfd (KVM wakes for the VMM) or kvm (KVM's own)
    #[arg(long, value_enum, value_name = "pio|ioeventfd|kvm", hide_possible_values = true, default_value_t = KickName::Pio)]
    pub(super) kick: KickName,
    /// How long a vCPU that halts polls for a kick before it sleeps, while nobody else wants its CPU
    #[arg(long, value_name = "D", value_parser = parse_duration, allow_hyphen_values = true, default_value = "0")]
    pub(super) halt_poll: Duration,
    /// A vCPU that kicks another offers its CPU to who waits for it; with --kick pio (KVM's own kicks
    /// always do)
    #[arg(long)]
    pub(super) yield_on_kick: bool,
    /// How often what the workload repeats is repeated (hand-offs, interrupts, mappings); 0 for as often as fits into the duration, or a number of its own
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) rounds: u64,
    /// Seed of everything random in the guest, and of preemption
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) seed: u64,
    #[command(flatten)]
    pub(super) preemption: PreemptionArgs,
    /// Count the vCPUs' exits by their reasons, and time them; and show what the guest's memory was like in the end
    #[arg(long, help_heading = "Result")]
    pub(super) stats: bool,
    /// How to write the result
    #[arg(long, help_heading = "Result", value_enum, value_name = "table|json", hide_possible_values = true, default_value_t = Format::Table)]
    pub(super) format: Format,
    /// Write the result to this file, once it is complete, instead of stdout
    #[arg(long, value_name = "FILE", help_heading = "Result")]
    pub(super) output: Option<PathBuf>,
    #[command(flatten)]
    pub(super) guest: GuestArgs,
}

/// Options of `run` that take vCPUs their CPU.
#[derive(Debug, Args)]
#[command(next_help_heading = "Preemption")]
pub(super) struct PreemptionArgs {
    /// Stop a vCPU that holds the lock, one that spins for it, or any, for a time; about so long after the
    /// last was let go
    #[arg(long, value_name = "holder|waiter|any:EVERY:FOR", value_parser = str::parse::<Preempt>, allow_hyphen_values = true)]
    pub(super) preempt: Option<Preempt>,
    /// Number of busy host threads that share the vCPUs' CPUs
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(..=1024), allow_hyphen_values = true,
          default_value_t = 0)]
    pub(super) neighbours: u32,
}

/// Options of `boot`.
#[derive(Debug, Args)]
pub(super) struct BootArgs {
    /// The guest image
    #[arg(long, value_name = "FILE")]
    pub(super) kernel: PathBuf,
    #[command(flatten)]
    pub(super) guest: GuestArgs,
}

/// Options of `doctor`.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    pub(super) sandbox: SandboxArgs,
}

/// Options of every command that launches a guest of the user's choice.
#[derive(Debug, Args)]
#[command(next_help_heading = "Guest")]
pub(super) struct GuestArgs {
    /// Number of vCPUs [default: 4 for each CPU they share]
    #[arg(long, value_name = "N", value_parser = parse_vcpus, allow_hyphen_values = true)]
    pub(super) vcpus: Option<u32>,
    /// Number of host CPUs that the vCPUs share [default: all in the affinity mask]
    #[arg(long, value_name = "M", allow_hyphen_values = true)]
    pub(super) pcpus: Option<usize>,
    /// Bind each vCPU to one of these CPUs
    #[arg(long)]
    pub(super) pin: bool,
    /// Guest memory [default: 64M, or more if that many vCPUs need it]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, allow_hyphen_values = true)]
    pub(super) memory: Option<u64>,
    /// Ring to run the guest kernel in; auto is 3 where KVM emulates ring 0, else 0
    #[arg(long, value_enum, value_name = "auto|0|3", hide_possible_values = true, default_value_t = GuestRing::Auto)]
    pub(super) guest_ring: GuestRing,
    /// Stop the guest if it has not ended by then [default: the duration and 30s; for boot 24h]
    #[arg(long, value_name = "D", value_parser = parse_positive_duration, allow_hyphen_values = true)]
    pub(super) timeout: Option<Duration>,
    #[command(flatten)]
    pub(super) sandbox: SandboxArgs,
}

/// Options of every command that launches guests at all.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct SandboxArgs {
    /// Do not confine vmm: no seccomp filters, no Landlock
    #[arg(long, help_heading = "Confinement")]
    pub(super) no_sandbox: bool,
}

/// Values of `--format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Table,
    Json,
}

/// Values of `--kick`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum KickName {
    Pio,
    #[value(name = "ioeventfd")]
    IoEventFd,
    Kvm,
}

/// Values of `--guest-ring`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum GuestRing {
    Auto,
    #[value(name = "0")]
    Zero,
    #[value(name = "3")]
    Three,
}

#[cfg(test)]
mod tests;
