//! The classic recipe for fragmented memory, and huge pages out of it: all memory is filled with pages of the window,
//! three quarters of each 2 MiB are given back, and then huge pages are wanted, as many as there are.
//!
//! | who | does, in each of two rounds |
//! |---|---|
//! | vCPU 0: [`recipe`], [`demand`] | fills, thins out, pins; allocates huge pages; has the last word on what is left |
//! | the last: [`daemon`] | in the second round, compacts before anybody asks, whenever its timer says so |
//! | the others: [`recipe`] | verify pages, whichever, as they are moved |
//! | [`announced`] | remembers which pages somebody said would change |
//!
//! In the first round, allocations compact as they go; in the second, the daemon has done so. The times of allocations
//! go where waits go in the report, and those of the second round where hold times go.

mod announced;
mod daemon;
mod demand;
mod faults;
mod recipe;

use core::sync::atomic::{AtomicU32, Ordering};

use abi::boot::BootInfo;
use abi::memory::{CompactionReport, CompactionRound, MemoryReport};
use mm::{Event, PageRange, Subscription, Zone, ZoneKind};

use crate::cpu::Cpu;
use crate::once::Once;
use crate::pv::meet;
use crate::workload::{Measured, Random, report_elapsed};
use crate::{memory, report, window};

use announced::Announced;
use recipe::Recipe;

pub(crate) use faults::mover;

/// What the vCPUs share.
struct Game {
    recipe: Recipe,
    announced: Announced,
}

static GAME: Once<Game> = Once::new();
static SUBSCRIPTION: Once<Subscription<'static>> = Once::new();
/// Free memory before anybody allocates.
static BEFORE: Once<MemoryReport> = Once::new();

/// Rounds in which all huge pages there are have been allocated.
static OVER: AtomicU32 = AtomicU32::new(0);

/// Takes the memory. vCPU 0 calls it while it boots.
pub(super) fn init(boot: &BootInfo) {
    assert!(boot.vcpus >= 2, "one vCPU is the daemon's: it takes two at least");
    window::init(boot);
    let free: u64 = memory::pages().zones().iter().map(Zone::free).sum();
    // There is never memory for all of them: something is kept free, and they need tables.
    let pages = PageRange::new(window::get().pages().start(), free);
    GAME.set(Game {
        recipe: Recipe::new(pages),
        announced: Announced::new(pages),
    });
    SUBSCRIPTION.set(Subscription::new(&GAME.get().announced));
}

/// Every vCPU calls it.
pub(super) fn run(cpu: &'static Cpu, boot: &'static BootInfo) {
    // SAFETY: each vCPU runs one workload, once.
    let results = unsafe { report::of_vcpu(cpu) };
    let game = GAME.get();
    if cpu.is_first() {
        window::get().notifiers().register(SUBSCRIPTION.get());
        // The tables stay.
        game.recipe.map();
        memory::pages().drain_this_cpu();
        BEFORE.set(memory::report());
    }
    let mut all = CompactionReport::default();
    let mut random = Random::new(cpu, boot);
    let measured = Measured::begin(cpu);
    for (number, round) in all.rounds.iter_mut().enumerate() {
        let proactive = number == 1;
        let over = || OVER.load(Ordering::Relaxed) > number as u32;
        let mut pins = recipe::Pins::default();
        if cpu.is_first() {
            pins = game.recipe.fragment(boot);
            game.announced.forget();
        }
        meet();
        if cpu.is_first() {
            let histogram = match proactive {
                true => &mut results.held,
                false => &mut results.wait,
            };
            let (huge, longest) = demand::run(proactive, histogram, round);
            if !proactive {
                results.longest_wait_cycles = longest;
            }
            // Relaxed, as is the load: nothing is handed over.
            OVER.store(number as u32 + 1, Ordering::Relaxed);
            results.acquisitions += huge.len();
            meet();
            demand::finish(&huge, round);
            game.recipe.verify(&game.announced, &pins, round);
            demand::copy(&game.recipe, round);
            huge.free();
            pins.unpin();
            game.recipe.clear();
        } else {
            if cpu.index() + 1 < boot.vcpus {
                while !over() {
                    results.acquisitions += 1;
                    results.intruders += game.recipe.verify_one(random.next());
                }
            } else if proactive {
                daemon::run(cpu, over);
            }
            meet();
        }
        memory::pages().drain_this_cpu();
        meet();
    }
    let elapsed = measured.end(cpu);
    if cpu.is_first() {
        let mut after = memory::report();
        after.unreturned = memory::difference(BEFORE.get(), &after);
        after.window = window::counts();
        after.compaction = all;
        memory::write_report(boot, after);
        report_elapsed(boot, elapsed);
    }
}

/// Pages that have been moved since the boot.
fn moved() -> u64 {
    let of = |kind| memory::pages().count(kind, Event::PgmigrateSuccess);
    of(ZoneKind::Dma32) + of(ZoneKind::Normal)
}

/// Adds what somebody did who moved pages from when `before` of them were moved until now.
fn count_moves(round: &mut CompactionRound, before: u64, cycles: u64) {
    round.moved += moved() - before;
    round.moving_cycles += cycles;
}
