//! Every lock, tortured by more threads than there are CPUs.

#![cfg(not(loom))]

mod common;

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::host::{Balanced, Restless, RestlessAgain, Sleepy, SleepyAgain};
use common::watchdog;
use lock_api::RawMutex;
#[cfg(feature = "busted")]
use pvlock::Busted;
use pvlock::{Mcs, PvQSpinlock, QSpinlock, Tas, Ticket};

/// What a lock protects: read and written in separate steps. (Atomic, because for `Busted` plain accesses
/// would be undefined behaviour; a Relaxed load and store are the same instructions as plain ones.)
#[derive(Default)]
struct Protected {
    acquisitions: AtomicU64,
    owner: AtomicU64,
}

impl Protected {
    /// Returns whether somebody else was inside as well.
    fn enter(&self, me: u64, dawdle: bool) -> bool {
        let before = self.acquisitions.load(Ordering::Relaxed);
        self.owner.store(me, Ordering::Relaxed);
        if dawdle {
            std::thread::yield_now();
        }
        let intruder = self.owner.load(Ordering::Relaxed) != me;
        self.acquisitions.store(before + 1, Ordering::Relaxed);
        intruder
    }
}

/// How often exclusion was seen broken: acquisitions missing from the counter, and intruders.
fn torture<R: RawMutex + Debug + Send + Sync + 'static>(threads: usize, rounds: u64) -> u64 {
    let shared = Arc::new((R::INIT, Protected::default()));
    let state = {
        let shared = Arc::clone(&shared);
        move || {
            format!(
                "{:?}, {} acquisitions",
                shared.0,
                shared.1.acquisitions.load(Ordering::Relaxed)
            )
        }
    };
    let body = {
        let shared = Arc::clone(&shared);
        move |index: usize| {
            let (lock, protected) = &*shared;
            let mut intruders = 0;
            for round in 0..rounds {
                // Every third by `try_lock`, if that succeeds.
                let guard = if round % 3 == 0 { lock.try_lock() } else { None };
                let guard = guard.unwrap_or_else(|| lock.lock());
                // A holder is preempted now and then.
                intruders += u64::from(protected.enter(index as u64, round % 16 == 0));
                // SAFETY: `guard` is from this lock, just now.
                unsafe { lock.unlock(guard) };
            }
            intruders
        }
    };
    let intruders: u64 = watchdog::threads(threads, state, body).iter().sum();
    let expected = threads as u64 * rounds;
    assert!(
        shared.0.try_lock().is_some(),
        "{:?} is not free at the end",
        shared.0
    );
    intruders + (expected - shared.1.acquisitions.load(Ordering::Relaxed))
}

macro_rules! torture_tests {
    ($($name:ident: $lock:ty,)*) => {$(
        #[test]
        fn $name() {
            for threads in [1, 2, 3, 5, 8, 16] {
                assert_eq!(torture::<$lock>(threads, 60_000 / threads as u64), 0, "with {threads} threads");
            }
        }
    )*};
}

torture_tests! {
    tas_excludes: Tas<Sleepy>,
    ticket_excludes: Ticket<Sleepy>,
    mcs_excludes: Mcs<Sleepy>,
    qspinlock_excludes: QSpinlock<Sleepy>,
    pvqspinlock_excludes_when_it_sleeps_at_once: PvQSpinlock<Sleepy>,
    pvqspinlock_excludes_when_it_sleeps_sometimes: PvQSpinlock<Balanced>,
    pvqspinlock_excludes_when_it_wakes_for_no_reason: PvQSpinlock<Restless>,
    pvqspinlock_excludes_when_its_head_sleeps_again: PvQSpinlock<SleepyAgain>,
    pvqspinlock_excludes_when_its_head_sleeps_again_and_wakes: PvQSpinlock<RestlessAgain>,
}

/// The negative control: the same check sees a lock that does not exclude.
#[cfg(feature = "busted")]
#[test]
fn busted_is_caught() {
    assert!(
        (0..100).any(|_| torture::<Busted<Sleepy>>(8, 1_000) > 0),
        "a broken lock was not noticed"
    );
}

/// Ticket numbers wrap, without a carry into the other half.
#[test]
fn ticket_survives_the_wrap_of_its_numbers() {
    let lock = <Ticket<Sleepy> as RawMutex>::INIT;
    for round in 0..200_000 {
        let guard = if round % 2 == 0 {
            lock.lock()
        } else {
            lock.try_lock().expect("free")
        };
        assert!(lock.is_locked() && lock.try_lock().is_none());
        // SAFETY: `guard` is from this lock, just now.
        unsafe { lock.unlock(guard) };
        assert!(!lock.is_locked());
    }
}
