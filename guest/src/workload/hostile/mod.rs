//! Guests that mean harm, so that tests can show that the VMM comes to none.
//!
//! Each evil is a function that every vCPU calls; what exactly it does is drawn from the run's seed. It may
//! return, fault, hang or take the machine apart.
//!
//! **Safety.** Nothing here keeps Rust's promises, and nothing has to: the kernel behind it is not expected
//! to survive. What has to hold whatever happens is the wall around the guest, which is the processor's,
//! KVM's and the VMM's to keep. So every `SAFETY` comment below says no more than that what it breaks is
//! the guest's own.

mod memory;
mod outside;
mod processor;
mod raw;

use abi::boot::BootInfo;
use abi::config::Workload;

use super::Random;
use crate::cpu::Cpu;

/// A vCPU about to do something, and its dice.
pub(super) struct Culprit {
    cpu: &'static Cpu,
    boot: &'static BootInfo,
    random: Random,
}

type Evil = fn(&mut Culprit);

/// Every evil but the last, which draws from the others.
const EVILS: [(Workload, Evil); 10] = [
    (Workload::HostilePorts, outside::ports),
    (Workload::HostileCalls, outside::calls),
    (Workload::HostileConsole, outside::console),
    (Workload::HostileLoops, outside::loops),
    (Workload::HostilePages, memory::pages),
    (Workload::HostileTables, memory::tables),
    (Workload::HostileMmio, memory::mmio),
    (Workload::HostileJump, processor::jump),
    (Workload::HostileIdt, processor::idt),
    (Workload::HostileProcessor, processor::privileged),
];

/// What `workload` does, if it is one of these.
pub(super) fn evil(workload: Workload) -> Option<Evil> {
    if workload == Workload::HostileChaos {
        return Some(chaos);
    }
    let found = EVILS.iter().find(|(known, _)| *known == workload);
    found.map(|(_, evil)| *evil)
}

impl Culprit {
    pub(super) fn new(cpu: &'static Cpu, boot: &'static BootInfo) -> Self {
        let mut random = Random::new(cpu, boot);
        // Neighbouring seeds begin alike.
        for _ in 0..8 {
            random.next();
        }
        Self { cpu, boot, random }
    }

    /// A number below `limit`.
    fn below(&mut self, limit: u64) -> u64 {
        (self.random.next() >> 16) % limit
    }

    /// A number that looks for trouble: at an edge, near one, or anywhere.
    fn number(&mut self) -> u64 {
        let any = self.random.next();
        match self.below(6) {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << (any % 64),
            3 => any % 64,
            4 => any | 0xffff_ffff_0000_0000,
            _ => any,
        }
    }

    /// Which of `n` variants of an evil: goes through all of them with the seed, the vCPUs each a step apart.
    fn variant(&self, n: u64) -> u64 {
        self.boot.run.seed.wrapping_add(self.cpu.index().into()) % n
    }
}

/// Every vCPU does what it likes, all of them at once.
fn chaos(culprit: &mut Culprit) {
    loop {
        let (_, evil) = EVILS[culprit.below(EVILS.len() as u64) as usize];
        evil(culprit);
    }
}
