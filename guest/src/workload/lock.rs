//! Every vCPU repeats: acquire, hold, release, think.

use core::hint::black_box;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use abi::boot::BootInfo;
use abi::config::LockKind;
use abi::report::VcpuReport;
use abi::vcpu_page::state;
use lock_api::{Mutex, RawMutex};
use pvlock::{Busted, Event, Mcs, PvQSpinlock, QSpinlock, SpinBudget, Tas, Ticket};

use super::{Measured, wake_cost, write_report};
use crate::clock::{self, Line, Pace};
use crate::cpu::Cpu;
use crate::pv::{self, Pv};
use crate::{preempt, report};

/// What the lock protects, on cache lines of its own.
///
/// The fields are atomics, used with relaxed loads and stores that compile to plain `mov`s, never with a
/// read-modify-write: the machine code is that of plain variables, and a lock that does not exclude
/// (`busted`) loses updates without the undefined behaviour of a Rust data race.
#[repr(align(128))]
pub(super) struct Shared {
    /// Raised by one in every critical section: read at its start, written at its end.
    counter: AtomicU64,
    /// Who is inside: vCPU index + 1, or 0.
    inside: AtomicU32,
    data: Line,
}

static SHARED: Shared = Shared::new();

impl Shared {
    pub(super) const fn new() -> Self {
        Self {
            counter: AtomicU64::new(0),
            inside: AtomicU32::new(0),
            data: Line::new(),
        }
    }

    /// Critical sections so far, if they excluded each other. To be called when nobody is inside any more.
    pub(super) fn count(&self) -> u64 {
        self.counter.load(Ordering::Relaxed)
    }

    /// One critical section; returns whether somebody else was seen inside.
    #[inline]
    pub(super) fn critical_section(&self, me: u32, units: u64) -> bool {
        let counter = self.counter.load(Ordering::Relaxed);
        let found = self.inside.load(Ordering::Relaxed);
        self.inside.store(me, Ordering::Relaxed);
        self.data.work(units);
        let left = self.inside.load(Ordering::Relaxed);
        self.inside.store(0, Ordering::Relaxed);
        self.counter.store(counter.wrapping_add(1), Ordering::Relaxed);
        found != 0 || left != me
    }
}

/// Runs the workload with the lock that was asked for. Every vCPU calls it.
pub(super) fn run(cpu: &Cpu, boot: &'static BootInfo, kind: LockKind) {
    // A static per lock type, since statics cannot be generic; on a line of its own, as locks in kernels that
    // care are.
    macro_rules! with {
        ($raw:ty) => {{
            #[repr(align(128))]
            struct Aligned(Mutex<$raw, ()>);
            static LOCK: Aligned = Aligned(Mutex::new(()));
            run_with(cpu, boot, kind, &LOCK.0)
        }};
    }
    match kind {
        LockKind::Tas => with!(Tas<Pv>),
        LockKind::Ticket => with!(Ticket<Pv>),
        LockKind::Mcs => with!(Mcs<Pv>),
        LockKind::QSpinlock => with!(QSpinlock<Pv>),
        LockKind::PvQSpinlockLinux | LockKind::PvQSpinlock => with!(PvQSpinlock<Pv>),
        LockKind::Busted => with!(Busted<Pv>),
    }
}

fn run_with<R: RawMutex>(cpu: &Cpu, boot: &'static BootInfo, kind: LockKind, lock: &'static Mutex<R, ()>) {
    /// Units of work in TSC cycles, measured by vCPU 0 while the others sleep.
    static HOLD_UNITS: AtomicU64 = AtomicU64::new(0);
    static THINK_UNITS: AtomicU64 = AtomicU64::new(0);

    let (budget, wake_cost) = match pv::configured_budget(boot, kind) {
        Some(budget) => (budget, 0),
        None => {
            let wake_cost = wake_cost::measure(cpu, boot);
            (SpinBudget::Cycles(wake_cost), wake_cost)
        }
    };
    pv::meet();
    if cpu.is_first() {
        pv::set_budget(budget);
        let pace = Pace::measure();
        // Relaxed: the barrier in `Measured::begin` orders these before the loads.
        HOLD_UNITS.store(
            pace.units(clock::from_ns(boot, boot.run.hold_ns)),
            Ordering::Relaxed,
        );
        THINK_UNITS.store(
            pace.units(clock::from_ns(boot, boot.run.think_ns)),
            Ordering::Relaxed,
        );
    }

    // SAFETY: each vCPU runs one workload, once.
    let results = unsafe { report::of_vcpu(cpu) };
    let measured = Measured::begin(cpu);
    let deadline = measured.deadline(boot);
    let hold = HOLD_UNITS.load(Ordering::Relaxed);
    let think = THINK_UNITS.load(Ordering::Relaxed);
    repeat(cpu, lock, deadline, hold, think, results);
    results.stolen_ns = measured.stolen(cpu);
    copy_counters(cpu, boot, results);
    let elapsed = measured.end(cpu);

    if cpu.is_first() {
        write_report(boot, SHARED.count(), elapsed, wake_cost, budget);
    }
}

/// The measured loop.
fn repeat<R: RawMutex>(
    cpu: &Cpu,
    lock: &Mutex<R, ()>,
    deadline: u64,
    hold: u64,
    think: u64,
    results: &mut VcpuReport,
) {
    let page = cpu.page();
    let enter = |state| page.state.store(state, Ordering::Relaxed);
    let me = cpu.index() + 1;
    let private = Line::new();
    // As in `Pace::measure`.
    black_box(&private);
    let mut asked = clock::cycles();
    while asked < deadline {
        enter(state::WAITING);
        let guard = lock.lock();
        let got = clock::cycles();
        enter(state::HOLDING);
        preempt::holder(page);
        let intruder = SHARED.critical_section(me, hold);
        let done = clock::cycles();
        drop(guard);
        enter(state::OUTSIDE);

        let waited = got.saturating_sub(asked);
        results.acquisitions += 1;
        results.intruders += u64::from(intruder);
        results.longest_wait_cycles = results.longest_wait_cycles.max(waited);
        report::record(&mut results.wait, waited);
        report::record(&mut results.held, done.saturating_sub(got));

        private.work(think);
        asked = clock::cycles();
    }
}

/// Reports what the locks of this vCPU have counted.
pub(super) fn copy_counters(cpu: &Cpu, boot: &'static BootInfo, results: &mut VcpuReport) {
    let counted = Cpu::locks_of(boot, cpu.index());
    for (slot, event) in results.events.iter_mut().zip(Event::ALL) {
        *slot = counted.count(*event);
    }
    let usage = counted.usage();
    results.spin_cycles = usage.spin_cycles;
    results.halted_cycles = usage.halted_cycles;
    results.halts = usage.halts;
    results.kicks = usage.kicks;
}
