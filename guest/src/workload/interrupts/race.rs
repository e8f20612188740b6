//! Pairs of vCPUs hand a token to and fro; each hand-off is one kick and one interrupt, in random order,
//! against the other side's way to its HLT.
//!
//! The token is the kick's: who has it is in memory. The interrupt is counted by its handler alone. The other
//! side waits for both, so the first that is lost, or taken for the other, ends the game.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use abi::boot::BootInfo;
use abi::config::{MOST_PAIRS, pairs};
use abi::interrupt::FIRST_EXTERNAL;
use pvlock::{CpuId, Platform};

use crate::cpu::Cpu;
use crate::pv::Pv;
use crate::workload::{Measured, Random, random_delay, report_elapsed};
use crate::{clock, hypercall, interrupts, report};

const VECTOR: u8 = FIRST_EXTERNAL + 1;

/// One side's lines.
#[repr(align(128))]
struct Player {
    /// Hand-offs to this side, by memory.
    tokens: AtomicU64,
    /// Interrupts that this side has handled.
    interrupts: AtomicU64,
    /// Whether the other side has stopped.
    over: AtomicU32,
}

static PLAYERS: [Player; 2 * MOST_PAIRS as usize] = [const {
    Player {
        tokens: AtomicU64::new(0),
        interrupts: AtomicU64::new(0),
        over: AtomicU32::new(0),
    }
}; 2 * MOST_PAIRS as usize];

/// Plays until the pairs together have made as many hand-offs as were asked for, or the time is up.
pub(super) fn run(cpu: &Cpu, boot: &'static BootInfo) {
    interrupts::handle(VECTOR, |cpu| {
        let count = &PLAYERS[cpu.index() as usize].interrupts;
        // Relaxed, and not one step: read and written on this vCPU only, by handlers of one level.
        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    });
    let pairs = pairs(boot.vcpus);
    let measured = Measured::begin(cpu);
    if cpu.index() / 2 < pairs {
        let rounds = match boot.run.rounds {
            0 => u64::MAX,
            rounds => rounds.div_ceil(2 * u64::from(pairs)),
        };
        let deadline = match boot.run.rounds {
            0 => measured.deadline(boot),
            _ => u64::MAX,
        };
        play(cpu, boot, rounds, deadline);
    }
    let elapsed = measured.end(cpu);
    if cpu.is_first() {
        report_elapsed(boot, elapsed);
    }
}

fn play(cpu: &Cpu, boot: &'static BootInfo, rounds: u64, deadline: u64) {
    // SAFETY: each vCPU runs one workload, once.
    let results = unsafe { report::of_vcpu(cpu) };
    let mut random = Random::new(cpu, boot);
    let before_halt = clock::from_ns(boot, boot.run.think_ns);
    let between = clock::from_ns(boot, boot.run.hold_ns);
    let me = &PLAYERS[cpu.index() as usize];
    let other = cpu.index() ^ 1;
    // The even side begins.
    let mut expected = u64::from(cpu.index() % 2);
    loop {
        let entered = clock::cycles();
        loop {
            let _masked = interrupts::mask(cpu);
            // Acquire: pairs with the release below.
            let tokens = me.tokens.load(Ordering::Acquire);
            if tokens >= expected && me.interrupts.load(Ordering::Relaxed) >= expected {
                break;
            }
            results.halts += 1;
            hypercall::halt();
        }
        assert_eq!(
            (
                me.tokens.load(Ordering::Relaxed),
                me.interrupts.load(Ordering::Relaxed)
            ),
            (expected, expected),
            "tokens and interrupts, of as many that were sent"
        );
        let now = clock::cycles();
        report::record(&mut results.wait, now.saturating_sub(entered));
        results.longest_wait_cycles = results.longest_wait_cycles.max(now.saturating_sub(entered));
        // Relaxed: the tokens order it.
        if me.over.load(Ordering::Relaxed) != 0 {
            return;
        }
        let over = results.acquisitions == rounds || now >= deadline;
        PLAYERS[other as usize].over.store(over.into(), Ordering::Relaxed);
        let kick = || {
            // Release: pairs with the acquire above.
            PLAYERS[other as usize].tokens.fetch_add(1, Ordering::Release);
            Pv::kick(CpuId::new(other));
        };
        if random.next().is_multiple_of(2) {
            kick();
            random_delay(&mut random, between);
            interrupts::send(other, VECTOR);
        } else {
            interrupts::send(other, VECTOR);
            random_delay(&mut random, between);
            kick();
        }
        results.kicks += 1;
        if over {
            return;
        }
        results.acquisitions += 1;
        expected += 1;
        random_delay(&mut random, before_halt);
    }
}
