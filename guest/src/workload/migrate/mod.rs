//! All vCPUs but the last write and verify window memory; the last moves all of it, all the time.
//!
//! | who | does |
//! |---|---|
//! | [`writer`] | patterns in pages of its own, copies of them, pinned pages; counters in pages of all |
//! | [`mm::Secondary`] | remembers where pages are, as told by notifiers; writers look into them there |
//! | [`mover`] | isolates, allocates, migrates: batch after batch |
//!
//! The report says, by vCPU, of writers: pages verified (`acquisitions`), words that were not as they should
//! be (`intruders`); of the mover: pages moved, and none. What the secondary map found is in the memory's
//! report.

mod faults;
mod mover;
mod writer;

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use abi::boot::BootInfo;
use abi::memory::SecondaryReport;
use mm::{IntervalNotifier, Notifier, PageNumber, PageRange, Subscription, WindowEvent};

use crate::cpu::Cpu;
use crate::memory::Machine;
use crate::once::Once;
use crate::pv::meet;
use crate::workload::{Measured, report_elapsed};
use crate::{memory, report, window};

use faults::Careless;
use writer::Writer;

type Secondary = mm::Secondary<'static, Machine>;

/// Frames of a writer's memory, at most.
const MOST_PAGES: u64 = 64;

/// Words of a page.
const WORDS: u64 = mm::FRAME_SIZE / 8;

/// What the vCPUs share.
struct Game {
    /// Pages of each writer; twice as many addresses, for copies.
    pages: u64,
    writers: u32,
    /// Pages of counters, a word for each writer.
    counters: PageRange,
    /// The version of each writer's pages.
    versions: &'static [AtomicU64],
}

static GAME: Once<Game> = Once::new();
/// Remembers where writers' pages are.
static SECONDARY: Once<Secondary> = Once::new();
static CARELESS: Once<Careless> = Once::new();
static SUBSCRIPTION: Once<Subscription<'static>> = Once::new();

/// Set when the mover has had enough.
static OVER: AtomicU32 = AtomicU32::new(0);

impl Game {
    /// The pages of writer `index`. After them come as many for copies.
    fn pages_of(&self, index: u32) -> PageRange {
        let first = self.counters.end().plus(2 * self.pages * u64::from(index));
        PageRange::new(first, self.pages)
    }

    /// Where the copies of its pages are.
    fn copies_of(&self, index: u32) -> PageNumber {
        self.pages_of(index).end()
    }

    /// All pages, copies and counters.
    fn all(&self) -> PageRange {
        let start = self.counters.start();
        PageRange::new(
            start,
            self.pages_of(self.writers).start().number() - start.number(),
        )
    }
}

/// Takes the memory. vCPU 0 calls it while it boots.
pub(super) fn init(boot: &BootInfo) {
    assert!(
        boot.vcpus >= 2,
        "one vCPU moves what others use: it takes two at least"
    );
    window::init(boot);
    let writers = u64::from(boot.vcpus - 1);
    let free: u64 = memory::pages().zones().iter().map(mm::Zone::free).sum();
    // A quarter of the memory at most, copies and all.
    let pages = (free / 8 / writers).clamp(1, MOST_PAGES);
    let start = window::get().pages().start();
    GAME.set(Game {
        pages,
        writers: writers as u32,
        counters: PageRange::new(start, writers.div_ceil(WORDS)),
        versions: memory::slice((writers * pages) as usize, || AtomicU64::new(0)),
    });
    let secondary = Secondary::new(memory::pages(), GAME.get().all().len() as usize);
    SECONDARY.set(secondary.expect("there is memory for a word for each page"));
    if Careless::knows(boot.run.fault) {
        CARELESS.set(Careless::new(SECONDARY.get(), boot.run.fault));
    }
    let notifier: &'static dyn Notifier = match CARELESS.get_if_set() {
        Some(careless) => careless,
        None => SECONDARY.get(),
    };
    SUBSCRIPTION.set(Subscription::new(notifier));
}

/// Who is told of changes of writers' pages.
fn interval_notifier() -> &'static dyn IntervalNotifier {
    match CARELESS.get_if_set() {
        Some(careless) => careless,
        None => SECONDARY.get(),
    }
}

/// What the secondary map found. Nothing changes any more.
fn secondary_report() -> SecondaryReport {
    let checks = SECONDARY.get().checks();
    SecondaryReport {
        starts: checks.starts,
        ends: checks.ends,
        unpaired: checks.unpaired,
        mapped_inside: checks.mapped_inside,
        retries: checks.retries,
        lookups: checks.lookups,
        hits: checks.hits,
    }
}

/// Every vCPU calls it.
pub(super) fn run(cpu: &'static Cpu, boot: &'static BootInfo) {
    // SAFETY: each vCPU runs one workload, once.
    let results = unsafe { report::of_vcpu(cpu) };
    let (game, window) = (GAME.get(), window::get());
    if cpu.is_first() {
        window.notifiers().register(SUBSCRIPTION.get());
        window.map_range(game.counters).expect("the addresses are free");
    }
    meet();
    let role = match cpu.index() + 1 == boot.vcpus {
        true => Role::Mover(&mut results.acquisitions),
        false => Role::Writer(Writer::new(cpu, boot, game, results)),
    };
    memory::drain();
    meet();
    // All tables are there, and no page.
    let before = cpu.is_first().then(memory::report);
    let measured = Measured::begin(cpu);
    match role {
        Role::Mover(moved) => {
            *moved = mover::run(boot, game, measured.deadline(boot));
            // Relaxed, as is the load: nothing is handed over.
            OVER.store(1, Ordering::Relaxed);
        }
        Role::Writer(mut writer) => {
            while OVER.load(Ordering::Relaxed) == 0 {
                writer.turn();
            }
            writer.finish();
        }
    }
    let elapsed = measured.end(cpu);
    if cpu.is_first() {
        window.unmap_range(game.counters).expect("they are mapped");
    }
    memory::drain();
    meet();
    if let Some(before) = before {
        let mut after = memory::report();
        after.unreturned = memory::difference(&before, &after);
        for event in WindowEvent::ALL {
            after.window[event as usize] = window.count(event);
        }
        after.secondary = secondary_report();
        memory::write_report(boot, after);
        report_elapsed(boot, elapsed);
    }
}

/// What a vCPU does.
enum Role<'a> {
    /// Counts the pages that it has moved.
    Mover(&'a mut u64),
    Writer(Writer<'a>),
}
