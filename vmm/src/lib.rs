//! A minimal VMM on KVM: launches small SMP guests and tells what vCPU preemption did to their locks.
//!
//! A [`Config`] and a [`Kernel`] make a [`Vm`]; its run comes to an [`Outcome`]:
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use vmm::{Config, Ended, Io, Kernel, LockKind, Vm, Workload};
//!
//! let config = Config {
//!     vcpus: 8,
//!     workload: Workload::Lock,
//!     lock: LockKind::PvQSpinlock,
//!     duration: Duration::from_secs(1),
//!     hold: Duration::from_nanos(100),
//!     ..Config::default()
//! };
//! let outcome = Vm::new(&config, Kernel::embedded())?.run(Io::default())?;
//! if outcome.ended == Ended::Completed {
//!     let report = outcome.report.expect("a guest that completed has left one");
//!     let kicks: u64 = report.vcpus.iter().map(|vcpu| vcpu.kicks).sum();
//!     println!("{} critical sections, {kicks} kicks", report.run.plain_counter);
//! } else {
//!     eprintln!("{}", outcome.detail);
//! }
//! # Ok::<(), vmm::Error>(())
//! ```
//!
//! | module | concern |
//! |---|---|
//! | [`config`], [`outcome`], [`error`] | what goes in, and what comes out |
//! | `vm` | a guest from beginning to end |
//! | `hardware`, `threads` | what KVM gives, and the threads that run it |
//! | `vcpu` | the exit loop |
//! | [`exit_stats`] | why vCPUs left the guest, how often and for how long |
//! | `hypercall` | what the guest's port accesses do |
//! | `preempt`, `neighbours` | taking vCPUs their CPU on purpose |
//! | `steal`, `hints`, `perf` | what the guest is told of preemption, and whether that is right |
//! | `latch` | where a halted vCPU sleeps, and why no wake-up is lost |
//! | `transport` | how a kick gets there: through the VMM, past it, or inside KVM |
//! | `interrupts` | which vectors a vCPU is to get, and why none is lost |
//! | `timers` | the vCPUs' timers |
//! | `signal` | getting a thread out of `KVM_RUN`, and why no signal is lost |
//! | `machine` | what the threads of one launch share |
//! | `control` | the event loop beside the vCPUs: end, time-out, user, timers, console input |
//! | `console`, `output` | the guest's serial port, and a user who may not read it |
//! | `layout`, `memory`, `page_tables`, `registers`, `start` | the machine a vCPU finds when it starts |
//! | `kernel` | guest images: the embedded one, files, symbols |
//! | `probe`, `cpuid`, [`host`], `affinity`, `host_time` | what the host can do, and what it did |
//! | [`sandbox`] | what a thread may ask of the host's kernel, and which files the process may use |
//! | `wait`, `random` | waiting for descriptors; numbers that depend on a seed |
//! | `diagnosis` | why a run ended, in words |
//! | [`results`] | what was measured, in the units people and programs read |
//! | `fuzz` | functions for a fuzzer to call (feature `fuzz`) |
//! | [`cli`], `units`, `table` | the `vmm` program: arguments, tables, JSON |
//!
//! **A hostile guest.** Everything a guest can choose, it chooses through a port access (`hypercall`), a
//! shared page or the report it leaves. Port arguments are checked where they are used and counted when
//! refused; memory is read through vm-memory, at addresses that `layout` chose, never at the guest's;
//! numbers in the report are only ever added, compared and printed. What it prints waits in a bounded
//! queue; of that, what appears in messages is escaped. And should all of that fail, the thread that runs
//! it can do little ([`sandbox`]). `tests/tests/hostile.rs` lets guests try, and `fuzz` has functions for a
//! fuzzer to try.

mod affinity;
pub mod cli;
pub mod config;
mod console;
mod control;
mod cpuid;
mod diagnosis;
pub mod error;
pub mod exit_stats;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod hardware;
mod hints;
pub mod host;
mod host_time;
mod hypercall;
mod interrupts;
mod kernel;
mod latch;
mod layout;
mod machine;
mod memory;
mod neighbours;
pub mod outcome;
mod output;
mod page_tables;
mod perf;
mod preempt;
mod probe;
mod random;
mod registers;
pub mod results;
pub mod sandbox;
mod signal;
mod start;
mod steal;
mod table;
mod threads;
mod timers;
mod transport;
mod units;
mod vcpu;
mod vm;
mod wait;

use std::io::{self, Write};
use std::os::fd::BorrowedFd;

pub use abi::config::{LockKind, Workload};
pub use config::{Config, Kick, PlantedFault, Preempt, Ring, Spin, Target};
pub use error::Error;
pub use kernel::Kernel;
pub use outcome::{Ended, GuestReport, HintAccuracy, HostTime, Outcome, Preemptions, Told};
pub use vm::Vm;

/// CLOCK_MONOTONIC in nanoseconds: unlike an `Instant`, it can be compared with what other processes read.
pub fn monotonic_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// What `clock` shows, in nanoseconds: one of the clocks that every Linux has.
fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is valid for a time.
    unsafe { libc::clock_gettime(clock, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// A run's connections to the outside.
pub struct Io<'a> {
    /// When this becomes readable, the guest is stopped. Never read: one descriptor stops every later launch
    /// as well.
    pub stop: Option<BorrowedFd<'a>>,
    /// Where the guest's console output goes. Called on a thread of its own; a guest that prints waits for
    /// it. Where [`Config::sandbox`] is set, that thread can write to what is open, and take locks and
    /// memory, but open nothing.
    pub console: Box<dyn Write + Send>,
    /// Where console input comes from.
    pub input: Option<BorrowedFd<'a>>,
}

/// None: what the guest prints is lost.
impl Default for Io<'_> {
    fn default() -> Self {
        Self {
            stop: None,
            console: Box::new(io::sink()),
            input: None,
        }
    }
}
