//! Code that uses every register, the FPU and the red zone faults on a page of its vCPU's own, and looks
//! whether it still has what it had. Timers and NMIs come all the time: in the code, on the way to the
//! fault's handler, in it, and on the way back. All handlers spoil what they can.
//!
//! Before that, vCPU 0 times faults that nothing interrupts, and flushes of a page.

use core::array;
use core::sync::atomic::{AtomicU64, Ordering};

use abi::boot::BootInfo;
use abi::config::fault;
use abi::interrupt::NMI;

use super::state::{spoil, state_kept, state_touch};
use super::{MOST_VCPUS, window};
use crate::cpu::Cpu;
use crate::interrupts::TIMER;
use crate::page_fault::{self, PageFault};
use crate::workload::costs::timed;
use crate::workload::{Measured, Random, report_elapsed, rounds};
use crate::{clock, hypercall, interrupts, println, report, timer, tlb};

/// Faults of all vCPUs together, unless the configuration says otherwise.
const ROUNDS: u64 = 10_000;

/// Faults that are timed, and flushes.
const TIMED: usize = 201;

/// Turns of the loop that faults, at most: the first one does, and others may be interrupted.
const TURNS: u64 = 256;

/// From one interrupt to the next, at most.
const INTERVAL_NS: u64 = 60_000;

/// What one vCPU's handlers have seen.
#[repr(align(64))]
struct Seen {
    faults: AtomicU64,
    interrupts: AtomicU64,
    nmis: AtomicU64,
    /// Of both, those that came while a fault was being handled.
    inside: AtomicU64,
    /// Faults whose handler has halted.
    halts: AtomicU64,
}

static SEEN: [Seen; MOST_VCPUS] = [const {
    Seen {
        faults: AtomicU64::new(0),
        interrupts: AtomicU64::new(0),
        nmis: AtomicU64::new(0),
        inside: AtomicU64::new(0),
        halts: AtomicU64::new(0),
    }
}; MOST_VCPUS];

/// Takes the memory. vCPU 0 calls it while it boots.
pub(super) fn init(boot: &BootInfo) {
    window::init(boot, MOST_VCPUS.min(boot.vcpus as usize));
}

/// Every vCPU calls it; together they fault as often as was asked for.
pub(super) fn run(cpu: &Cpu, boot: &'static BootInfo) {
    // SAFETY: each vCPU runs one workload, once.
    let results = unsafe { report::of_vcpu(cpu) };
    if boot.run.fault == fault::NO_RED_ZONE {
        cpu.red_zone.set(0);
    }
    if cpu.is_first() {
        page_fault::handle(window::address(0)..window::address(MOST_VCPUS as u64), fault);
        interrupts::handle(TIMER, interrupt);
        interrupts::handle_nmi(nmi);
        time(cpu);
        SEEN[0].faults.store(0, Ordering::Relaxed);
    }
    let measured = Measured::begin(cpu);
    if let Some(seen) = SEEN.get(cpu.index() as usize) {
        let mut random = Random::new(cpu, boot);
        let goal = rounds(boot, ROUNDS).div_ceil(boot.vcpus.into());
        let (entry, page) = mine(cpu);
        timer::set(cpu, clock::cycles(), TIMER);
        // Relaxed: counts of this vCPU's own handlers.
        while seen.faults.load(Ordering::Relaxed) < goal {
            let before = match random.next() % 2 {
                0 => 0,
                _ => window::frames()[cpu.index() as usize].address() | window::READ_ONLY,
            };
            entry.store(before, Ordering::Relaxed);
            tlb::flush_local(window::pages(cpu.index().into(), 1));
            // An NMI is handled where it comes: one that is still pending here might be for long.
            results.intruders += u64::from(cpu.nmi_pending.load(Ordering::Relaxed) != 0);
            // Small enough for the FPU to hold exactly.
            let (seed, turns) = (clock::cycles() >> 8, 1 + random.next() % TURNS);
            // SAFETY: the fault's handler makes the byte writable; nobody else's code uses this page.
            results.intruders += u64::from(unsafe { state_kept(seed, turns, page as *mut u8) });
        }
        results.acquisitions = seen.faults.load(Ordering::Relaxed);
        results.kicks = seen.inside.load(Ordering::Relaxed);
        results.halts = seen.halts.load(Ordering::Relaxed);
    }
    let elapsed = measured.end(cpu);
    if cpu.is_first() {
        report_elapsed(boot, elapsed);
    }
}

/// Says on the console what a fault costs that nothing interrupts, and what flushes cost while all other
/// vCPUs are halted.
fn time(cpu: &Cpu) {
    let (entry, page) = mine(cpu);
    let pages = |count| window::pages(cpu.index().into(), count);
    let fault = median(cpu, || {
        entry.store(0, Ordering::Relaxed);
        tlb::flush_local(pages(1));
        // SAFETY: the fault's handler makes the byte writable; nobody else's code uses this page.
        timed(|| unsafe { (page as *mut u8).write_volatile(1) })
    });
    let [one, few, everything] =
        [1, tlb::FEW as u64, 512].map(|count| median(cpu, || timed(|| tlb::flush_local(pages(count)))));
    let all = median(cpu, || timed(|| tlb::flush(cpu, &[pages(1)])));
    println!(
        "a fault {fault} ns; a flush of one page {one} ns, of {} pages {few} ns, of everything {everything} ns; \
         of one page on all vCPUs, the others halted, {all} ns",
        tlb::FEW
    );
}

/// The median of what `timed` returns, in nanoseconds.
fn median(cpu: &Cpu, timed: impl Fn() -> u64) -> u64 {
    let mut times: [_; TIMED] = array::from_fn(|_| timed());
    times.sort_unstable();
    clock::to_ns(cpu.boot(), times[TIMED / 2])
}

/// The page that is the vCPU's own: its entry and its address.
fn mine(cpu: &Cpu) -> (&'static AtomicU64, u64) {
    let index = cpu.index();
    (window::entry(index as usize), window::address(index.into()))
}

/// Maps the page, sometimes after a sleep, which an interrupt ends.
fn fault(cpu: &Cpu, fault: &PageFault) -> Result<(), &'static str> {
    let (entry, page) = mine(cpu);
    let seen = &SEEN[cpu.index() as usize];
    let before = entry.load(Ordering::Relaxed);
    // Of a page that is not there, some processors read the byte first.
    let as_made = fault.protection() == (before != 0) && (fault.write() || before == 0);
    if fault.address != page || !as_made {
        return Err("not the fault that was made");
    }
    let timing = seen.interrupts.load(Ordering::Relaxed) == 0;
    if !timing && fault.rip != state_touch as *const () as u64 {
        return Err("not where it was made");
    }
    add(&seen.faults);
    if !timing && seen.faults.load(Ordering::Relaxed).is_multiple_of(4) {
        add(&seen.halts);
        hypercall::halt();
    }
    let frame = window::frames()[cpu.index() as usize].address();
    entry.store(frame | window::MAPPED, Ordering::Relaxed);
    spoil();
    Ok(())
}

/// The timer's handler: sees to the next interrupt, and to an NMI for the next vCPU.
fn interrupt(cpu: &Cpu) {
    let seen = &SEEN[cpu.index() as usize];
    add(&seen.interrupts);
    count_if_inside(cpu, seen);
    let now = clock::cycles();
    // Anything will do that is not in step with the loop.
    let random = now.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    if random.is_multiple_of(4) {
        interrupts::send((cpu.index() + 1) % cpu.boot().vcpus, NMI);
    }
    let interval = clock::from_ns(cpu.boot(), INTERVAL_NS).max(1);
    timer::set(cpu, now + random % interval, TIMER);
    spoil();
}

fn nmi(cpu: &Cpu) {
    if let Some(seen) = SEEN.get(cpu.index() as usize) {
        add(&seen.nmis);
        count_if_inside(cpu, seen);
    }
    spoil();
}

fn count_if_inside(cpu: &Cpu, seen: &Seen) {
    if cpu.in_page_fault.load(Ordering::Relaxed) != 0 {
        // An NMI may come between the two steps of the interrupt's handler: a count for people.
        add(&seen.inside);
    }
}

/// Relaxed and in two steps: one writer.
fn add(count: &AtomicU64) {
    count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}
