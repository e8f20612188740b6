//! One vCPU maps a few pages now to these frames, now to those, and has the others flush their TLBs; those read
//! them, and some sleep in between. Who reads the frame of an earlier mapping has a stale translation.
//!
//! Readers go through the processor's TLB, and through one of their own, which keeps what is mapped until the
//! vCPU flushes. For a host may hide what the vCPU forgets: by keeping the page tables of all vCPUs in one
//! place, or by flushing whenever a vCPU sleeps.

use core::array;
use core::sync::atomic::{AtomicU64, Ordering};

use abi::PAGE_SIZE;
use abi::boot::BootInfo;
use abi::config::fault;
use abi::interrupt::{FIRST_EXTERNAL, target};
use pvlock::Platform;

use super::window;
use crate::cpu::Cpu;
use crate::interrupts::TIMER;
use crate::pv::Pv;
use crate::workload::{Measured, Random, report_elapsed, rounds};
use crate::{clock, hypercall, interrupts, report, timer, tlb};

/// Ends the readers' sleep for good.
const WAKE: u8 = FIRST_EXTERNAL + 4;

/// Reads between two sleeps of a reader, at most.
const READS: u64 = 20_000;

/// Pages.
const PAGES: u64 = 8;

/// Longest sleep of a reader.
const SLEEP_NS: u64 = 500_000;

/// Changes of the mapping, unless the configuration says otherwise.
const ROUNDS: u64 = 300;

/// Number of the mapping that all use: 0 before the first, [`OVER`] in the end. The frame holds it.
static MAPPING: AtomicU64 = AtomicU64::new(0);
const OVER: u64 = u64::MAX;

/// Takes the memory. vCPU 0 calls it while it boots.
pub(super) fn init(boot: &BootInfo) {
    window::init(boot, 2 * PAGES as usize);
    // The first mapping, of what was not mapped: no TLB holds that.
    map(0);
}

/// Maps all pages to the frames of mapping number `mapping`, and says so in them.
fn map(mapping: u64) {
    for (page, frames) in window::frames().chunks_exact(2).enumerate() {
        let frame = &frames[mapping as usize % 2];
        // Relaxed: what tells others of the mapping orders it.
        frame.0[0].store(mapping, Ordering::Relaxed);
        window::entry(page).store(frame.address() | window::MAPPED, Ordering::Relaxed);
    }
}

/// Every vCPU calls it.
pub(super) fn run(cpu: &Cpu, boot: &'static BootInfo) {
    let measured = Measured::begin(cpu);
    if cpu.is_first() {
        remap(cpu, boot);
    } else {
        read(cpu, boot);
    }
    let elapsed = measured.end(cpu);
    if cpu.is_first() {
        report_elapsed(boot, elapsed);
    }
}

fn remap(cpu: &Cpu, boot: &BootInfo) {
    let pages: [_; PAGES as usize] = array::from_fn(|page| window::pages(page as u64, 1));
    let pause = clock::from_ns(boot, boot.run.think_ns);
    for mapping in 1..=rounds(boot, ROUNDS) {
        map(mapping);
        if boot.run.fault != fault::NO_FLUSH {
            match mapping % 4 {
                0 => tlb::flush(cpu, &[window::pages(0, 512)]),
                1 => tlb::flush(cpu, &[window::pages(0, PAGES)]),
                _ => tlb::flush(cpu, &pages),
            }
        }
        // Release: who sees the number sees the mapping, unless its TLB is stale.
        MAPPING.store(mapping, Ordering::Release);
        // Time for the others to read it: the next mapping brings the frame of the one before up to date.
        let end = clock::cycles() + pause;
        while clock::cycles() < end {
            Pv::relax();
        }
    }
    MAPPING.store(OVER, Ordering::Release);
    interrupts::send(target::OTHERS, WAKE);
}

fn read(cpu: &Cpu, boot: &'static BootInfo) {
    // SAFETY: each vCPU runs one workload, once.
    let results = unsafe { report::of_vcpu(cpu) };
    let mut random = Random::new(cpu, boot);
    let mut own_tlb = OwnTlb::new(cpu);
    // Some are often asleep when mappings change; one never sleeps.
    let sleeps = cpu.index().is_multiple_of(2);
    let mut until_sleep = READS;
    loop {
        // Acquire: pairs with the release above.
        let mapping = MAPPING.load(Ordering::Acquire);
        if mapping == OVER {
            return;
        }
        let page = random.next() % PAGES;
        let address = window::address(page);
        results.acquisitions += 1;
        for address in [address, own_tlb.translate(cpu, page as usize)] {
            // SAFETY: mapped before the barrier, to one of two frames of atomics, for good; or that frame.
            let word = unsafe { &*(address as *const AtomicU64) };
            results.intruders += u64::from(word.load(Ordering::Relaxed) < mapping);
        }
        until_sleep -= 1;
        if until_sleep == 0 {
            until_sleep = 1 + random.next() % READS;
            let _masked = interrupts::mask(cpu);
            if sleeps && MAPPING.load(Ordering::Relaxed) != OVER {
                results.halts += 1;
                let sleep = random.next() % clock::from_ns(boot, SLEEP_NS).max(1);
                timer::set(cpu, clock::cycles() + sleep, TIMER);
                hypercall::halt();
            }
        }
    }
}

/// What the vCPU's TLB may hold at worst: every translation that was looked up since the last flush.
struct OwnTlb {
    flushes: u64,
    frames: [Option<u64>; PAGES as usize],
}

impl OwnTlb {
    fn new(cpu: &Cpu) -> Self {
        Self {
            flushes: tlb::flushes(cpu),
            frames: [None; PAGES as usize],
        }
    }

    /// The frame that `page` is mapped to, or was. A flush that comes after the look at their number is for a
    /// mapping that the caller does not yet know of.
    fn translate(&mut self, cpu: &Cpu, page: usize) -> u64 {
        let flushes = tlb::flushes(cpu);
        if flushes != self.flushes {
            *self = Self::new(cpu);
            self.flushes = flushes;
        }
        *self.frames[page]
            .get_or_insert_with(|| window::entry(page).load(Ordering::Relaxed) & !(PAGE_SIZE - 1))
    }
}
