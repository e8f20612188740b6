//! A writer: what it reads is what it has written last, page by page and word by word.

use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use abi::boot::BootInfo;
use abi::config::fault;
use abi::report::VcpuReport;
use mm::{Entry, Interval, PageNumber, PageRange, Platform};

use super::{Game, SECONDARY, WORDS, interval_notifier};
use crate::cpu::Cpu;
use crate::workload::Random;
use crate::{clock, memory, report, window};

/// Pages that are copied together, at most.
const COPIED: u64 = 8;

/// What a page holds: the version of what its writer wrote, in every word. Version 0 is what nobody has
/// written.
#[derive(Clone, Copy)]
struct Pattern {
    page: PageNumber,
    version: u64,
}

impl Pattern {
    fn word(self, index: u64) -> u64 {
        // An odd multiplier (splitmix64's): words differ in all bytes. Never 0, but for version 0.
        let place = self.page.number() << 9 | index;
        match self.version {
            0 => 0,
            version => (version << 40 ^ place).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        }
    }

    /// Words at `address`, where a page is, that are others. Nobody else writes to it.
    fn wrong(self, address: u64) -> u64 {
        let first = ptr::with_exposed_provenance::<u64>(address as usize);
        let wrong = |index: &u64| {
            // SAFETY: within a page of the writer's own, or its frame, which is not unmapped meanwhile.
            // Volatile: the page may move behind the compiler's back.
            unsafe { first.wrapping_add(*index as usize).read_volatile() != self.word(*index) }
        };
        (0..WORDS).filter(wrong).count() as u64
    }

    fn write(self, address: u64) {
        let first = ptr::with_exposed_provenance_mut::<u64>(address as usize);
        for index in 0..WORDS {
            // SAFETY: as above.
            unsafe {
                first
                    .wrapping_add(index as usize)
                    .write_volatile(self.word(index))
            };
        }
    }
}

/// One vCPU, and its pages.
pub(super) struct Writer<'a> {
    pages: PageRange,
    copies: PageNumber,
    versions: &'static [AtomicU64],
    counter: &'static AtomicU64,
    counted: u64,
    interval: &'static Interval<'static>,
    random: Random,
    results: &'a mut VcpuReport,
}

impl<'a> Writer<'a> {
    /// Maps the vCPU's pages.
    pub(super) fn new(cpu: &Cpu, boot: &BootInfo, game: &'static Game, results: &'a mut VcpuReport) -> Self {
        let index = cpu.index() as usize;
        let pages = game.pages_of(cpu.index());
        window::get().map_range(pages).expect("the addresses are free");
        // Once, so that the copies' tables are there.
        let copies = game.copies_of(cpu.index());
        let copy = window::get().fork_range(pages.start(), copies, pages.len());
        copy.expect("there is memory for the tables");
        window::get()
            .unmap_range(PageRange::new(copies, pages.len()))
            .expect("it was mapped");
        let [interval, untold] = memory::slice(2, || Interval::new(pages, interval_notifier())) else {
            unreachable!("a slice of two")
        };
        window::get().notifiers().insert(interval);
        let counter = game.counters.start().start() + 8 * index as u64;
        Self {
            pages,
            copies,
            versions: &game.versions[index * game.pages as usize..][..game.pages as usize],
            // SAFETY: a word of a page that is mapped, and used as an atomic only.
            counter: unsafe { AtomicU64::from_ptr(ptr::with_exposed_provenance_mut(counter as usize)) },
            counted: 0,
            // Who looks pages up in an interval that is told nothing sees nothing change.
            interval: match boot.run.fault {
                fault::NO_RETRY => untold,
                _ => interval,
            },
            random: Random::new(cpu, boot),
            results,
        }
    }

    /// One turn.
    pub(super) fn turn(&mut self) {
        // Others count in the same page. Relaxed: one word is in order with itself.
        let before = self.counter.fetch_add(1, Ordering::Relaxed);
        self.results.intruders += u64::from(before != self.counted);
        self.counted += 1;
        let index = self.random.next() % self.pages.len();
        match self.random.next() % 16 {
            0 => self.copy(index),
            1 => self.pin(index),
            2..6 => self.look(index),
            _ => {
                self.check(index);
                self.rewrite(index);
            }
        }
    }

    /// Has the last word on all pages, and unmaps them. Looks into each twice, so that the secondary map is
    /// of use however few turns there were.
    pub(super) fn finish(mut self) {
        for index in 0..self.pages.len() {
            self.check(index);
            self.look(index);
            self.look(index);
        }
        window::get().unmap_range(self.pages).expect("they are mapped");
    }

    fn page(&self, index: u64) -> PageNumber {
        self.pages.start().plus(index)
    }

    /// What a page should hold.
    fn pattern(&self, index: u64) -> Pattern {
        // Relaxed: the writer's own.
        let version = self.versions[index as usize].load(Ordering::Relaxed);
        let page = self.page(index);
        Pattern { page, version }
    }

    fn check(&mut self, index: u64) {
        self.check_at(self.page(index), self.pattern(index));
    }

    /// Verifies every byte of a page.
    fn check_at(&mut self, page: PageNumber, pattern: Pattern) {
        let start = clock::cycles();
        self.results.intruders += pattern.wrong(page.start());
        let took = clock::cycles().saturating_sub(start);
        report::record(&mut self.results.wait, took);
        self.results.longest_wait_cycles = self.results.longest_wait_cycles.max(took);
        self.results.acquisitions += 1;
    }

    fn rewrite(&mut self, index: u64) {
        self.versions[index as usize].fetch_add(1, Ordering::Relaxed);
        self.pattern(index).write(self.page(index).start());
    }

    /// Looks into a page where the secondary map has it.
    fn look(&mut self, index: u64) {
        let pattern = self.pattern(index);
        let wrong = |frame| pattern.wrong(memory::pages().platform().frame_ptr(frame) as u64);
        let found = SECONDARY
            .get()
            .read(window::get(), self.interval, pattern.page, wrong);
        // Where nobody has touched the page yet, it is nowhere.
        self.results.intruders += found.unwrap_or(0);
    }

    /// Copies a few pages, and writes to some on either side: the other does not change.
    fn copy(&mut self, first: u64) {
        let count = (1 + self.random.next() % COPIED).min(self.pages.len() - first);
        let (from, to) = (self.page(first), self.copies.plus(first));
        window::get()
            .fork_range(from, to, count)
            .expect("there is memory for the tables");
        for i in 0..count {
            let (index, copy) = (first + i, to.plus(i));
            let pattern = self.pattern(index);
            match self.random.next() % 4 {
                0 => {
                    self.rewrite(index);
                    self.check_at(copy, pattern);
                }
                1 => {
                    let version = u64::MAX - pattern.version;
                    let other = Pattern { page: copy, version };
                    other.write(copy.start());
                    self.check_at(copy, other);
                }
                2 => self.check_at(copy, pattern),
                _ => {}
            }
            self.check(index);
        }
        window::get()
            .unmap_range(PageRange::new(to, count))
            .expect("it was mapped");
    }

    /// Pins a page, and writes to it: as long as it is pinned, it is where it was.
    fn pin(&mut self, index: u64) {
        let page = self.page(index);
        let frame = window::get().pin(page.start()).expect("it is mapped");
        let inside = memory::pages().platform().frame_ptr(frame) as u64;
        self.results.intruders += self.pattern(index).wrong(inside);
        let other = self.random.next() % self.pages.len();
        self.check(other);
        self.rewrite(index);
        self.results.intruders += self.pattern(index).wrong(inside);
        let there = matches!(window::get().entry(page), Entry::Present { frame: now, .. } if now == frame);
        self.results.intruders += u64::from(!there);
        // SAFETY: it was pinned above.
        unsafe { window::get().unpin(frame) };
    }
}
