//! One vCPU maps a page now to one frame, now to another, and has the others flush their TLBs; those read it,
//! and some sleep in between. Who reads the frame of an earlier mapping has a stale translation.

use core::sync::atomic::{AtomicU64, Ordering};

use abi::boot::BootInfo;
use abi::config::fault;
use abi::interrupt::{FIRST_EXTERNAL, target};
use pvlock::Platform;

use super::window;
use crate::cpu::Cpu;
use crate::pv::Pv;
use crate::workload::{Measured, Random, report_elapsed, rounds};
use crate::{clock, hypercall, interrupts, report, tlb};

/// Ends the readers' sleep for good.
const WAKE: u8 = FIRST_EXTERNAL + 4;

/// Reads between two sleeps of a reader, at most.
const READS: u64 = 20_000;

/// Changes of the mapping, unless the configuration says otherwise.
const ROUNDS: u64 = 300;

/// Number of the mapping that all use: 0 before the first, [`OVER`] in the end. The frame holds it.
static MAPPING: AtomicU64 = AtomicU64::new(0);
const OVER: u64 = u64::MAX;

/// Takes the memory. vCPU 0 calls it while it boots.
pub(super) fn init(boot: &BootInfo) {
    window::init(boot, 2);
    // The first mapping, of what was not mapped: no TLB holds that.
    window::entry(0).store(window::frames()[0].address() | window::MAPPED, Ordering::Relaxed);
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
    let (page, everything) = (window::addresses(0..1), 0..u64::MAX);
    let (entry, frames) = (window::entry(0), window::frames());
    let pause = clock::from_ns(boot, boot.run.think_ns);
    for mapping in 1..=rounds(boot, ROUNDS) {
        let frame = &frames[mapping as usize % 2];
        frame.0[0].store(mapping, Ordering::Relaxed);
        entry.store(frame.address() | window::MAPPED, Ordering::Relaxed);
        if boot.run.fault != fault::NO_FLUSH {
            let range = if mapping.is_multiple_of(4) {
                &everything
            } else {
                &page
            };
            tlb::flush(cpu, range.clone());
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
    // SAFETY: mapped before the barrier, to one of two frames of atomics, for good.
    let window = unsafe { &*(window::addresses(0..1).start as *const AtomicU64) };
    // Some are often asleep when they are asked to flush; one never sleeps.
    let sleeps = cpu.index().is_multiple_of(2);
    let mut until_sleep = READS;
    loop {
        // Acquire: pairs with the release above.
        let mapping = MAPPING.load(Ordering::Acquire);
        if mapping == OVER {
            return;
        }
        results.acquisitions += 1;
        results.intruders += u64::from(window.load(Ordering::Relaxed) < mapping);
        until_sleep -= 1;
        if until_sleep == 0 {
            until_sleep = 1 + random.next() % READS;
            let _masked = interrupts::mask(cpu);
            if sleeps && MAPPING.load(Ordering::Relaxed) != OVER {
                results.halts += 1;
                hypercall::halt();
            }
        }
    }
}
