//! All vCPUs but the last write and verify window memory; the last moves all of it, all the time.
//!
//! | who | does |
//! |---|---|
//! | [`writer`] | patterns in pages of its own, copies of them, pinned pages; counters in pages of all |
//! | [`mirror`] | remembers where pages are, as told by notifiers, and looks into them there |
//! | [`mover`] | isolates, allocates, migrates: batch after batch |
//!
//! The report says, by vCPU, of writers: pages verified (`acquisitions`), words that were not as they should
//! be (`intruders`); of the mover: pages moved, and none.

mod mirror;
mod mover;
mod writer;

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use abi::boot::BootInfo;
use mm::{PageNumber, PageRange, WindowEvent};

use crate::cpu::Cpu;
use crate::once::Once;
use crate::pv::meet;
use crate::workload::{Measured, report_elapsed};
use crate::{memory, report, window};

use mirror::Mirror;
use writer::Writer;

/// Frames of a writer's memory, at most.
const MOST_PAGES: u64 = 64;

/// Words of a page.
const WORDS: u64 = mm::FRAME_SIZE / 8;

/// What the vCPUs share.
struct Game {
    /// Pages of each writer; twice as many addresses, for copies.
    pages: u64,
    /// Pages of counters, a word for each writer.
    counters: PageRange,
    /// The version of each writer's pages.
    versions: &'static [AtomicU64],
    mirrors: &'static [Mirror],
}

static GAME: Once<Game> = Once::new();

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
        let (start, writers) = (self.counters.start(), self.mirrors.len() as u32);
        PageRange::new(start, self.pages_of(writers).start().number() - start.number())
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
        counters: PageRange::new(start, writers.div_ceil(WORDS)),
        versions: memory::slice((writers * pages) as usize, || AtomicU64::new(0)),
        mirrors: memory::slice(writers as usize, || Mirror::new(pages as usize)),
    });
}

/// Every vCPU calls it.
pub(super) fn run(cpu: &'static Cpu, boot: &'static BootInfo) {
    // SAFETY: each vCPU runs one workload, once.
    let results = unsafe { report::of_vcpu(cpu) };
    let (game, window) = (GAME.get(), window::get());
    if cpu.is_first() {
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
