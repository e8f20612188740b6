//! What the vCPUs do, all of them, from the first barrier to the last.

mod alloc;
pub(crate) mod compaction;
mod costs;
mod hostile;
mod interrupts;
mod lock;
mod migrate;
mod observe;
mod ping_pong;
mod self_test;
mod wake_cost;

use core::hint;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use abi::boot::BootInfo;
use abi::config::{LockKind, Workload};
use abi::port::{exit_code, measure};
use abi::report::Report;
use pvlock::SpinBudget;

use crate::clock;
use crate::cpu::Cpu;
use crate::pv::meet;
use crate::{hypercall, preempt, pv, report};

/// Takes the memory that the workload needs. vCPU 0 calls it while it boots.
pub(crate) fn init(boot: &BootInfo) {
    match Workload::from_raw(boot.run.workload) {
        Some(Workload::Migrate) => migrate::init(boot),
        Some(Workload::Alloc) => alloc::init(boot),
        Some(Workload::Compaction) => compaction::init(boot),
        _ => interrupts::init(boot),
    }
}

/// Runs the workload that `boot` asks for. Every vCPU calls it; all return when the last one has finished.
pub(crate) fn run(cpu: &'static Cpu, boot: &'static BootInfo) {
    let (Some(workload), Some(lock)) = (
        Workload::from_raw(boot.run.workload),
        LockKind::from_raw(boot.run.lock),
    ) else {
        panic!(
            "workload {} with lock {} asked for, which do not exist",
            boot.run.workload, boot.run.lock
        );
    };
    if workload == Workload::Idle {
        idle(boot);
    }
    meet();
    match workload {
        Workload::Lock => lock::run(cpu, boot, lock),
        Workload::PingPong => ping_pong::run(cpu, boot),
        Workload::Migrate => migrate::run(cpu, boot),
        Workload::Compaction => compaction::run(cpu, boot),
        Workload::Costs => costs::run(cpu, boot),
        Workload::Alloc => alloc::run(cpu, boot),
        Workload::Spin => observe::spin(cpu, boot),
        Workload::Observe => observe::observe(cpu, boot),
        Workload::IpiRace
        | Workload::NestedLocks
        | Workload::Interrupted
        | Workload::Ticks
        | Workload::Shootdown
        | Workload::PageFaults
        | Workload::BadTouch
        | Workload::BadInterrupts => interrupts::run(workload, cpu, boot),
        _ => match hostile::evil(workload) {
            Some(evil) => evil(&mut hostile::Culprit::new(cpu, boot)),
            None => self_test::run(workload, cpu, boot),
        },
    }
    meet();
}

/// All meet, and the last one to come ends the run: nobody need be woken for that.
fn idle(boot: &BootInfo) -> ! {
    static HERE: AtomicU32 = AtomicU32::new(0);
    // Relaxed: nothing is handed over.
    if HERE.fetch_add(1, Ordering::Relaxed) + 1 == boot.vcpus {
        hypercall::exit(exit_code::DONE);
    }
    loop {
        hypercall::halt();
    }
}

/// The TSC at which the first vCPU came here, by `word`, which is 0 before that; `now` is the TSC of this one.
fn first_of(word: &AtomicU64, now: u64) -> u64 {
    // Relaxed: the word hands over nothing but itself, and its own modification order picks one winner.
    match word.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => now,
        Err(first) => first,
    }
}

/// The measured part of a workload: begun and ended by all vCPUs together.
struct Measured {
    started: u64,
    /// What was stolen from this vCPU before.
    stolen: u64,
}

impl Measured {
    /// Meets the others; from here on, time counts.
    fn begin(cpu: &Cpu) -> Self {
        /// TSC at which the first vCPU was let go; 0 before that. A guest measures once.
        static STARTED: AtomicU64 = AtomicU64::new(0);
        meet();
        if cpu.is_first() {
            hypercall::measure(measure::BEGIN);
        }
        meet();
        Self {
            started: first_of(&STARTED, clock::cycles()),
            stolen: preempt::stolen(cpu),
        }
    }

    /// TSC at which the workload has lasted as long as it was asked to.
    fn deadline(&self, boot: &BootInfo) -> u64 {
        self.started
            .saturating_add(clock::from_ns(boot, boot.run.duration_ns))
    }

    /// Nanoseconds stolen from this vCPU since the beginning, as far as KVM says. To be asked before the end,
    /// where vCPUs wait for each other.
    fn stolen(&self, cpu: &Cpu) -> u64 {
        preempt::stolen(cpu).saturating_sub(self.stolen)
    }

    /// Meets the others; time no longer counts. Returns the cycles since the beginning.
    fn end(self, cpu: &Cpu) -> u64 {
        meet();
        let elapsed = clock::cycles().saturating_sub(self.started);
        if cpu.is_first() {
            hypercall::measure(measure::END);
        }
        elapsed
    }
}

/// How often to repeat what a workload repeats: `default`, unless the configuration says otherwise.
fn rounds(boot: &BootInfo, default: u64) -> u64 {
    match boot.run.rounds {
        0 => default,
        rounds => rounds,
    }
}

/// Spins for a pseudo-random time below `limit` cycles.
fn random_delay(random: &mut Random, limit: u64) {
    if limit == 0 {
        return;
    }
    let end = clock::cycles().saturating_add(random.next() % limit);
    while clock::cycles() < end {
        hint::spin_loop();
    }
}

/// A small pseudo-random generator: Marsaglia's xorshift64 (2003), good enough to vary timing.
struct Random(u64);

impl Random {
    /// One per vCPU, all derived from the run's seed.
    fn new(cpu: &Cpu, boot: &BootInfo) -> Self {
        // Two odd multipliers (splitmix64's), lest vCPU 1 do with a seed what vCPU 0 does with the next
        // one; never 0, at which the generator would stick.
        let seed = boot.run.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let vcpu = (u64::from(cpu.index()) + 1).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        Self((seed ^ vcpu) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Fills in the run's part of the report, where there is nothing to say but how long it took: vCPU 0's job.
fn report_elapsed(boot: &BootInfo, elapsed: u64) {
    write_report(boot, 0, elapsed, 0, pv::budget());
}

/// Fills in the run's part of the report, where locks were taken: vCPU 0's job.
fn write_report(boot: &BootInfo, plain_counter: u64, elapsed: u64, wake_cost: u64, budget: SpinBudget) {
    let (spin_budget_cycles, spin_budget_iterations) = match budget {
        SpinBudget::Cycles(cycles) => (cycles, 0),
        SpinBudget::Iterations(iterations) => (0, u64::from(iterations)),
    };
    report::write_run(
        boot,
        Report {
            plain_counter,
            elapsed_cycles: elapsed,
            wake_cost_cycles: wake_cost,
            spin_budget_cycles,
            spin_budget_iterations,
            ..Report::default()
        },
    );
}
