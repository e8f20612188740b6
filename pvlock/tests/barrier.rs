//! The barrier, with more threads than CPUs.

#![cfg(not(loom))]

mod common;

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use common::host::{Restless, Sleepy};
use common::watchdog;
use pvlock::{Barrier, Platform};

/// Nobody enters a phase before all have finished the one before, and one thread is the last in each.
fn phases<P: Platform>(threads: usize, rounds: usize) {
    struct Shared<P> {
        barriers: [Barrier<P>; 2],
        arrived: Vec<AtomicU32>,
        lasts: AtomicUsize,
    }
    let shared: &'static Shared<P> = Box::leak(Box::new(Shared {
        barriers: [Barrier::new(), Barrier::new()],
        arrived: (0..rounds).map(|_| AtomicU32::new(0)).collect(),
        lasts: AtomicUsize::new(0),
    }));
    let state = || format!("{:?}", shared.barriers);
    watchdog::threads(threads, state, move |index| {
        for (round, arrived) in shared.arrived.iter().enumerate() {
            if (round + index) % 7 == 0 {
                std::thread::yield_now();
            }
            arrived.fetch_add(1, Ordering::Relaxed);
            // Two barriers in no regular order: what a CPU keeps belongs to it, not to a barrier.
            let last = shared.barriers[usize::from(round % 3 == 0)].wait(threads as u32);
            assert_eq!(arrived.load(Ordering::Relaxed), threads as u32, "round {round}");
            shared.lasts.fetch_add(usize::from(last), Ordering::Relaxed);
        }
    });
    assert_eq!(shared.lasts.load(Ordering::Relaxed), rounds);
}

#[test]
fn barrier_separates_phases() {
    for threads in [1, 2, 3, 7, 20] {
        phases::<Sleepy>(threads, 500);
    }
}

#[test]
fn barrier_survives_spurious_wakeups() {
    phases::<Restless>(7, 500);
}

#[test]
#[should_panic = "a barrier is for 1 to 16383 CPUs, not 0"]
fn barrier_is_for_somebody() {
    Barrier::<Sleepy>::new().wait(0);
}
