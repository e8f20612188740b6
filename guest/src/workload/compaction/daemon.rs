//! The daemon: whenever a timer says so, it looks whether there is something to compact. The timer's handler only sets
//! a flag; the work is done in task context.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use abi::boot::BootInfo;
use abi::interrupt::FIRST_EXTERNAL;
use abi::memory::CompactionRound;

use super::{OVER, moved};
use crate::cpu::Cpu;
use crate::pv::wait_for;
use crate::{clock, hypercall, interrupts, memory, timer};

const TICK: u8 = FIRST_EXTERNAL + 3;

/// Ticks a second. Linux's has 2; here nothing else goes on.
const HZ: u64 = 100;

/// As far down as it goes: to where 5 % of the free memory are not huge.
const PROACTIVENESS: u8 = 100;

/// Steps after which it has done what it can, whatever the score.
const ENOUGH: u32 = 4;

/// Set by the timer.
static DUE: AtomicU32 = AtomicU32::new(0);
/// Set once memory is no longer fragmented.
static SETTLED: AtomicU32 = AtomicU32::new(0);
/// Pages that were moved until then, and cycles that it took.
static MOVED: AtomicU64 = AtomicU64::new(0);
static CYCLES: AtomicU64 = AtomicU64::new(0);

fn set_timer(cpu: &Cpu, boot: &BootInfo) {
    timer::set(cpu, clock::cycles() + boot.tsc_khz * 1000 / HZ, TICK);
}

fn tick(cpu: &Cpu) {
    // Relaxed, everywhere here: one vCPU's own affair.
    DUE.store(1, Ordering::Relaxed);
    if OVER.load(Ordering::Relaxed) < 2 {
        set_timer(cpu, cpu.boot());
    }
}

/// The daemon's vCPU calls it.
pub(super) fn run(cpu: &'static Cpu, over: impl Fn() -> bool) {
    let pages = memory::pages();
    pages.set_compaction_proactiveness(PROACTIVENESS);
    interrupts::handle(TICK, tick);
    set_timer(cpu, cpu.boot());
    let (mut steps, mut cycles, before) = (0, 0, moved());
    while !over() {
        {
            let _masked = interrupts::mask(cpu);
            if DUE.load(Ordering::Relaxed) == 0 {
                hypercall::halt();
            }
        }
        if DUE.swap(0, Ordering::Relaxed) == 0 {
            continue;
        }
        let start = clock::cycles();
        pages.kcompactd();
        pages.compact_proactively();
        cycles += clock::cycles().saturating_sub(start);
        steps += 1;
        let low_enough = |(_, high)| pages.fragmentation_score() <= high;
        if SETTLED.load(Ordering::Relaxed) == 0
            && (pages.score_marks().is_some_and(low_enough) || steps == ENOUGH)
        {
            MOVED.store(moved() - before, Ordering::Relaxed);
            CYCLES.store(cycles, Ordering::Relaxed);
            // Release: pairs with the Acquire in `wait_for`.
            SETTLED.store(1, Ordering::Release);
            hypercall::kick(0);
        }
    }
}

/// vCPU 0 waits until the daemon has done what it can.
pub(super) fn wait(round: &mut CompactionRound) {
    wait_for(&SETTLED, 1);
    round.moved = MOVED.load(Ordering::Relaxed);
    round.moving_cycles = CYCLES.load(Ordering::Relaxed);
}
