//! Pairs of vCPUs hand a token to and fro, halting while they do not have it: no lost wake-up goes unnoticed,
//! since the first one ends the game.
//!
//! `--hold` and `--think` bound random delays before a hand-off and before a halt, so that kicks fall before,
//! into and after the other side's way to its HLT.
//!
//! The time from a kick until its target runs is left where hold times go in the report.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use abi::boot::BootInfo;
use abi::config::{MOST_PAIRS, pairs};
use abi::report::VcpuReport;
use pvlock::{CpuId, Platform};

use super::{Measured, Random, random_delay, report_elapsed};
use crate::clock;
use crate::cpu::Cpu;
use crate::pv::Pv;
use crate::{hypercall, report};

/// A pair's token, on a cache line of its own.
#[repr(align(128))]
struct Token {
    turn: AtomicU32,
    /// TSC when it was handed over.
    passed: AtomicU64,
}

/// The turn is 0 or 1 for the even or odd vCPU of the pair, or that the game is over.
const OVER: u32 = 2;

static TOKENS: [Token; MOST_PAIRS as usize] = [const {
    Token {
        turn: AtomicU32::new(0),
        passed: AtomicU64::new(0),
    }
}; MOST_PAIRS as usize];

/// Plays until the time is up or, if a number of hand-offs was asked for, until the pairs together have made
/// as many.
pub(super) fn run(cpu: &Cpu, boot: &'static BootInfo) {
    // SAFETY: each vCPU runs one workload, once.
    let results = unsafe { report::of_vcpu(cpu) };
    let (pairs, pair) = (pairs(boot.vcpus), cpu.index() / 2);
    let measured = Measured::begin(cpu);
    if pair < pairs {
        let limits = Limits {
            rounds: boot.run.rounds.div_ceil(2 * u64::from(pairs)),
            deadline: if boot.run.rounds == 0 {
                measured.deadline(boot)
            } else {
                u64::MAX
            },
            before_hand_over: clock::from_ns(boot, boot.run.hold_ns),
            before_halt: clock::from_ns(boot, boot.run.think_ns),
        };
        play(
            &TOKENS[pair as usize],
            cpu.index(),
            &limits,
            &mut Random::new(cpu, boot),
            results,
        );
    }
    let elapsed = measured.end(cpu);
    if cpu.is_first() {
        report_elapsed(boot, elapsed);
    }
}

struct Limits {
    /// Hand-offs of each side, or 0 for any number.
    rounds: u64,
    deadline: u64,
    before_hand_over: u64,
    before_halt: u64,
}

fn play(token: &Token, index: u32, limits: &Limits, random: &mut Random, results: &mut VcpuReport) {
    let (me, other) = (index % 2, CpuId::new(index ^ 1));
    loop {
        let entered = clock::cycles();
        let awake = results.halts;
        loop {
            // Acquire: pairs with the other side's release store below.
            match token.turn.load(Ordering::Acquire) {
                OVER => return,
                turn if turn == me => break,
                // A kick from here on is latched, and ends this HLT at once.
                _ => {
                    results.halts += 1;
                    hypercall::halt();
                }
            }
        }
        let now = clock::cycles();
        if results.halts > awake {
            // Relaxed: written before the turn was.
            let passed = token.passed.load(Ordering::Relaxed);
            report::record(&mut results.held, now.saturating_sub(passed));
        }
        report::record(&mut results.wait, now.saturating_sub(entered));
        results.longest_wait_cycles = results.longest_wait_cycles.max(now.saturating_sub(entered));
        random_delay(random, limits.before_hand_over);
        let over = now >= limits.deadline || limits.rounds != 0 && results.acquisitions == limits.rounds;
        token.passed.store(clock::cycles(), Ordering::Relaxed);
        // Release: pairs with the acquire load above.
        token
            .turn
            .store(if over { OVER } else { 1 - me }, Ordering::Release);
        Pv::kick(other);
        results.kicks += 1;
        if over {
            return;
        }
        results.acquisitions += 1;
        random_delay(random, limits.before_halt);
    }
}
