//! A periodic tick on every vCPU, made of one-shot timers: each is set for a period after the last one was
//! due, however late that came. So none is lost, and lateness does not add up: a tick that comes late is
//! followed by one that comes sooner than a period after it. Timers that are set relative to when the last
//! one came never make up for anything, and that is how they are told apart on a host of any speed.

use core::sync::atomic::{AtomicU64, Ordering};

use abi::boot::BootInfo;
use abi::config::fault;
use abi::interrupt::FIRST_EXTERNAL;

use super::MOST_VCPUS;
use crate::cpu::Cpu;
use crate::workload::{Measured, report_elapsed};
use crate::{clock, hypercall, interrupts, report, timer};

/// Not [`interrupts::TIMER`]: the one that ends the sleep before the first tick may come late, and is no tick.
const TICK: u8 = FIRST_EXTERNAL + 3;

/// Ticks a second.
const HZ: u64 = 250;

/// One vCPU's tick; written by its handler.
#[repr(align(64))]
struct Tick {
    /// When the next one is due.
    due: AtomicU64,
    count: AtomicU64,
    /// How late the last one was, and how late any.
    late: AtomicU64,
    latest: AtomicU64,
    /// Ticks of the last tenth that were less late than the one before.
    made_up: AtomicU64,
}

static TICKS: [Tick; MOST_VCPUS] = [const {
    Tick {
        due: AtomicU64::new(0),
        count: AtomicU64::new(0),
        late: AtomicU64::new(0),
        latest: AtomicU64::new(0),
        made_up: AtomicU64::new(0),
    }
}; MOST_VCPUS];

fn period(boot: &BootInfo) -> u64 {
    boot.tsc_khz * 1000 / HZ
}

fn goal(boot: &BootInfo) -> u64 {
    (clock::from_ns(boot, boot.run.duration_ns) / period(boot)).max(1)
}

/// Every vCPU calls it; all sleep between their ticks.
pub(super) fn run(cpu: &Cpu, boot: &'static BootInfo) {
    // SAFETY: each vCPU runs one workload, once.
    let results = unsafe { report::of_vcpu(cpu) };
    interrupts::handle(TICK, tick);
    let measured = Measured::begin(cpu);
    if let Some(mine) = TICKS.get(cpu.index() as usize) {
        // From a common moment on, so that all fire at once. A vCPU that is let go later than that sleeps no
        // more, and catches up.
        let begin = measured.started + period(boot);
        timer::halt_until(cpu, begin);
        mine.due.store(begin + period(boot), Ordering::Relaxed);
        timer::set(cpu, begin + period(boot), TICK);
        loop {
            let _masked = interrupts::mask(cpu);
            // Relaxed, as everywhere here: one vCPU's own affair.
            if mine.count.load(Ordering::Relaxed) == goal(boot) {
                break;
            }
            results.halts += 1;
            hypercall::halt();
        }
        results.acquisitions = mine.count.load(Ordering::Relaxed);
        results.longest_wait_cycles = mine.latest.load(Ordering::Relaxed);
        let late = mine.late.load(Ordering::Relaxed);
        // Of a few ticks nothing can be said.
        assert!(
            goal(boot) < 100 || mine.made_up.load(Ordering::Relaxed) != 0,
            "the ticks drift: none made up for one before, and the last came {late} cycles late"
        );
    }
    let elapsed = measured.end(cpu);
    if cpu.is_first() {
        report_elapsed(boot, elapsed);
    }
}

fn tick(cpu: &Cpu) {
    let boot = cpu.boot();
    let mine = &TICKS[cpu.index() as usize];
    let (now, due) = (clock::cycles(), mine.due.load(Ordering::Relaxed));
    assert!(now >= due, "a tick came {} cycles early", due - now);
    let late = now - due;
    let count = mine.count.load(Ordering::Relaxed) + 1;
    mine.count.store(count, Ordering::Relaxed);
    mine.latest.fetch_max(late, Ordering::Relaxed);
    let before = mine.late.swap(late, Ordering::Relaxed);
    if count > goal(boot) - goal(boot) / 10 && late < before {
        mine.made_up.fetch_add(1, Ordering::Relaxed);
    }
    if count < goal(boot) {
        let next = match boot.run.fault {
            fault::RELATIVE_TIMER => now + period(boot),
            _ => due + period(boot),
        };
        mine.due.store(due + period(boot), Ordering::Relaxed);
        timer::set(cpu, next, TICK);
    }
}
