//! What a halt, kick and wake-up cost on this host: the sound budget for spinning.
//!
//! A waiter that spins as long as sleeping would have cost it never loses more than twice what the best
//! choice, made with foresight, would have (Karlin, Manasse, McGeoch and Owicki, 1990).

use core::sync::atomic::{AtomicU32, Ordering};

use abi::boot::BootInfo;
use pvlock::{CpuId, Platform};

use crate::clock;
use crate::cpu::Cpu;
use crate::pv::{self, Pv};

/// Round trips measured; the median counts, because a try may be preempted, or find both vCPUs on one host
/// CPU.
const TRIES: usize = 15;

/// Measures the hand-off from a vCPU that kicks to the one that wakes, in cycles. Every vCPU calls it between
/// two barriers; vCPUs 0 and 1 do the work, and vCPU 0 gets the answer, the others 0.
pub(super) fn measure(cpu: &Cpu, boot: &BootInfo) -> u64 {
    /// Whose turn it is: the number of hand-offs so far, even for vCPU 0.
    static TURN: AtomicU32 = AtomicU32::new(0);

    if boot.vcpus == 1 {
        return alone();
    }
    let mut round_trips = [0; TRIES];
    match cpu.index() {
        0 => {
            for (turn, round_trip) in (0..).step_by(2).zip(&mut round_trips) {
                let start = clock::cycles();
                hand_over(&TURN, turn + 1, CpuId::new(1));
                pv::wait_for(&TURN, turn + 2);
                *round_trip = clock::cycles().saturating_sub(start);
            }
            median(&mut round_trips) / 2
        }
        1 => {
            for turn in (1..).step_by(2).take(TRIES) {
                pv::wait_for(&TURN, turn);
                hand_over(&TURN, turn + 1, CpuId::new(0));
            }
            0
        }
        _ => 0,
    }
}

/// Gives the turn to `to`.
fn hand_over(turn: &AtomicU32, next: u32, to: CpuId) {
    // Release: pairs with the acquire load in `pv::wait_for`.
    turn.store(next, Ordering::Release);
    Pv::kick(to);
}

/// With one vCPU nobody ever waits; what a kick of its own and a halt cost will do.
fn alone() -> u64 {
    let mut costs = [0; TRIES];
    for cost in &mut costs {
        let start = clock::cycles();
        Pv::kick(Pv::this_cpu());
        crate::hypercall::halt();
        *cost = clock::cycles().saturating_sub(start);
    }
    median(&mut costs)
}

fn median(values: &mut [u64; TRIES]) -> u64 {
    values.sort_unstable();
    values[TRIES / 2]
}
