//! A lock for each context: task, soft interrupt, hard interrupt, NMI. A vCPU may wait for all four at once,
//! one inside the other.
//!
//! First that is made to happen, by vCPU 0, which holds all four until vCPU 1 waits for them; it then
//! releases the outermost one first, so that the kicks come to waits they are not meant for. Then all vCPUs
//! play at random: whoever holds a lock interrupts the others, which as a rule wait for it.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use abi::boot::BootInfo;
use abi::interrupt::{FIRST_EXTERNAL, NMI, target};
use lock_api::Mutex;
use pvlock::{CpuId, Event, Platform, PvQSpinlock};

use super::MOST_VCPUS;
use crate::clock::{self, Pace};
use crate::cpu::Cpu;
use crate::pv::{self, Pv};
use crate::workload::lock::{Shared, copy_counters};
use crate::workload::{Measured, rounds, write_report};
use crate::{interrupts, report};

const HARD: u8 = FIRST_EXTERNAL + 2;
const SOFT: usize = 0;

/// Of so many handlers of soft interrupts, one interrupts the others. (NMIs interrupt nobody, so handlers of
/// hard interrupts may always send them.)
const SELDOM: u64 = 8;

/// One context's lock, and what it protects.
#[repr(align(128))]
struct Context {
    lock: Mutex<PvQSpinlock<Pv>, ()>,
    shared: Shared,
    /// Critical sections and intruders, by vCPU: written in that context of that vCPU only.
    sections: [AtomicU64; MOST_VCPUS],
    intruders: [AtomicU64; MOST_VCPUS],
}

static TASK_CONTEXT: Context = Context::new();
static SOFT_CONTEXT: Context = Context::new();
static HARD_CONTEXT: Context = Context::new();
static NMI_CONTEXT: Context = Context::new();

/// When the game is over: handlers that come later do nothing. 0 before it has begun.
static DEADLINE: AtomicU64 = AtomicU64::new(0);

/// How often four waits are piled up, unless the user asks for another number.
const PILES: u64 = 25;

/// Piles begun by vCPU 0, and those of which vCPU 1 has got out.
static BEGUN: AtomicU32 = AtomicU32::new(0);
static DONE: AtomicU32 = AtomicU32::new(0);

/// What a hard interrupt is for, while waits are piled up: [`PASS_ON`] or [`TAKE_PART`].
static PURPOSE: AtomicU32 = AtomicU32::new(PASS_ON);
/// To raise a soft one.
const PASS_ON: u32 = 0;
/// To wait for a lock.
const TAKE_PART: u32 = 1;

/// Length of a critical section, in units of work.
static UNITS: AtomicU64 = AtomicU64::new(0);

impl Context {
    const fn new() -> Self {
        Self {
            lock: Mutex::new(()),
            shared: Shared::new(),
            sections: [const { AtomicU64::new(0) }; MOST_VCPUS],
            intruders: [const { AtomicU64::new(0) }; MOST_VCPUS],
        }
    }

    /// One critical section, in which `vector`, if any, is sent to the others.
    fn enter(&self, cpu: &Cpu, vector: Option<u8>) {
        let guard = self.lock.lock();
        if let Some(vector) = vector {
            interrupts::send(target::OTHERS, vector);
        }
        let intruder = self
            .shared
            .critical_section(cpu.index() + 1, UNITS.load(Ordering::Relaxed));
        drop(guard);
        add(&self.intruders[cpu.index() as usize], intruder.into());
        add(&self.sections[cpu.index() as usize], 1);
    }

    /// `vector`, if it is to be sent this time.
    fn seldom(&self, cpu: &Cpu, vector: u8) -> Option<u8> {
        let sections = self.sections[cpu.index() as usize].load(Ordering::Relaxed);
        sections.is_multiple_of(SELDOM).then_some(vector)
    }
}

/// Relaxed and in two steps: one writer.
fn add(count: &AtomicU64, amount: u64) {
    count.store(count.load(Ordering::Relaxed) + amount, Ordering::Relaxed);
}

/// Whether the game has begun and is not over; vCPUs that there is no room for never play.
fn playing(cpu: &Cpu) -> bool {
    (cpu.index() as usize) < MOST_VCPUS && clock::cycles() < DEADLINE.load(Ordering::Relaxed)
}

/// Whether waits are still piled up.
fn piling() -> bool {
    DEADLINE.load(Ordering::Relaxed) == 0
}

fn on_hard(cpu: &Cpu) {
    if piling() && PURPOSE.load(Ordering::Relaxed) == PASS_ON {
        interrupts::raise_soft(cpu, SOFT);
    } else if piling() {
        HARD_CONTEXT.enter(cpu, None);
    } else if playing(cpu) {
        HARD_CONTEXT.enter(cpu, Some(NMI));
        interrupts::raise_soft(cpu, SOFT);
    }
}

fn on_soft(cpu: &Cpu) {
    if piling() {
        SOFT_CONTEXT.enter(cpu, None);
    } else if playing(cpu) {
        SOFT_CONTEXT.enter(cpu, SOFT_CONTEXT.seldom(cpu, HARD));
    }
}

fn on_nmi(cpu: &Cpu) {
    if piling() || playing(cpu) {
        NMI_CONTEXT.enter(cpu, None);
    }
}

fn piles(boot: &BootInfo) -> u32 {
    u32::try_from(rounds(boot, PILES)).unwrap_or(u32::MAX)
}

/// vCPU 0's part in the piles.
fn build_piles(boot: &'static BootInfo) {
    let waits = || Cpu::locks_of(boot, 1).count(Event::LockSlowpath);
    for pile in 1..=piles(boot) {
        let task = TASK_CONTEXT.lock.lock();
        let soft = SOFT_CONTEXT.lock.lock();
        let hard = HARD_CONTEXT.lock.lock();
        let nmi = NMI_CONTEXT.lock.lock();
        let mut expected = waits();
        let mut until_it_waits = || {
            expected += 1;
            while waits() < expected {
                Pv::relax();
            }
        };
        // Release, here and below: pair with the acquire load in `pv::wait_for`.
        BEGUN.store(pile, Ordering::Release);
        Pv::kick(CpuId::new(1));
        until_it_waits();
        PURPOSE.store(PASS_ON, Ordering::Relaxed);
        interrupts::send(1, HARD);
        until_it_waits();
        PURPOSE.store(TAKE_PART, Ordering::Relaxed);
        interrupts::send(1, HARD);
        until_it_waits();
        interrupts::send(1, NMI);
        until_it_waits();
        drop(task);
        drop(soft);
        drop(hard);
        drop(nmi);
        pv::wait_for(&DONE, pile);
    }
}

/// vCPU 1's part.
fn wait_in_piles(cpu: &Cpu, boot: &BootInfo) {
    for pile in 1..=piles(boot) {
        pv::wait_for(&BEGUN, pile);
        TASK_CONTEXT.enter(cpu, None);
        DONE.store(pile, Ordering::Release);
        Pv::kick(CpuId::new(0));
    }
}

/// Every vCPU calls it.
pub(super) fn run(cpu: &Cpu, boot: &'static BootInfo) {
    if cpu.is_first() {
        // Relaxed, here and below: the barriers in `begin` order it.
        UNITS.store(
            Pace::measure().units(clock::from_ns(boot, boot.run.hold_ns)),
            Ordering::Relaxed,
        );
        interrupts::handle(HARD, on_hard);
        interrupts::handle_soft(SOFT, on_soft);
        interrupts::handle_nmi(on_nmi);
    }
    pv::meet();
    match cpu.index() {
        0 if boot.vcpus > 1 => build_piles(boot),
        1 => wait_in_piles(cpu, boot),
        _ => {}
    }
    let measured = Measured::begin(cpu);
    let deadline = measured.deadline(boot);
    DEADLINE.store(deadline, Ordering::Relaxed);
    while playing(cpu) {
        TASK_CONTEXT.enter(cpu, Some(HARD));
    }
    // Handlers on this vCPU that did something have returned: they began before the deadline, and they
    // interrupted what comes before this.
    let elapsed = measured.end(cpu);

    let contexts = [&TASK_CONTEXT, &SOFT_CONTEXT, &HARD_CONTEXT, &NMI_CONTEXT];
    // SAFETY: each vCPU runs one workload, once.
    let results = unsafe { report::of_vcpu(cpu) };
    if (cpu.index() as usize) < MOST_VCPUS {
        let of_this = |counts: &[AtomicU64; MOST_VCPUS]| counts[cpu.index() as usize].load(Ordering::Relaxed);
        results.acquisitions = contexts.iter().map(|context| of_this(&context.sections)).sum();
        results.intruders = contexts.iter().map(|context| of_this(&context.intruders)).sum();
    }
    copy_counters(cpu, boot, results);
    if cpu.is_first() {
        let entered = contexts.iter().map(|context| context.shared.count()).sum();
        write_report(boot, entered, elapsed, 0, pv::budget());
    }
}
