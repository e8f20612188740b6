//! The locks under the model checker, which tries every interleaving (with few preemptions) and every value that an atomic load
//! may return under the memory model.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p pvlock --release --test loom`
//!
//! A lost wake-up is a deadlock here: a waiter sleeps until it is kicked, and never wakes for no reason.

#![cfg(loom)]

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use lock_api::RawMutex;
use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicU32;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread::{self, JoinHandle};
use pvlock::{
    Barrier, Busted, CpuId, Event, Fault, HashEntry, LockHash, Mcs, PerCpu, Platform, PvQSpinlock, QSpinlock,
    SpinBudget, Tas, Ticket,
};

const CPUS: usize = 3;

struct Cpu {
    locks: PerCpu,
    kicked: Mutex<bool>,
    kick: Condvar,
}

impl Cpu {
    fn new() -> Cpu {
        Cpu {
            locks: PerCpu::new(),
            kicked: Mutex::new(false),
            kick: Condvar::new(),
        }
    }
}

loom::lazy_static! {
    static ref MACHINE: [Cpu; CPUS] = std::array::from_fn(|_| Cpu::new());
    static ref ENTRIES: [HashEntry; 4] = std::array::from_fn(|_| HashEntry::new());
    static ref HASH: LockHash = LockHash::new(&*ENTRIES);
}

loom::thread_local! {
    static THIS_CPU: Cell<u32> = Cell::new(0);
    static TURNS: Cell<u32> = Cell::new(0);
}

/// How often a thread may spin.
const MAX_TURNS: u32 = 12;

/// What a model's platform does wrong.
#[derive(Clone, Copy, PartialEq)]
enum Wrong {
    Nothing,
    WaiterDoesNotFence,
    HolderDoesNotFence,
    KicksAreNotLatched,
}

/// loom's threads. Numbers stand for enumerators, which cannot be const parameters.
struct Model<const SPIN: u32, const WRONG: u32>;

impl<const SPIN: u32, const WRONG: u32> Model<SPIN, WRONG> {
    const WRONG: Wrong = match WRONG {
        1 => Wrong::WaiterDoesNotFence,
        2 => Wrong::HolderDoesNotFence,
        3 => Wrong::KicksAreNotLatched,
        _ => Wrong::Nothing,
    };
}

// SAFETY: each thread of a model sets a number of its own; kicks are latched, except in a model that shows why they must be.
unsafe impl<const SPIN: u32, const WRONG: u32> Platform for Model<SPIN, WRONG> {
    fn this_cpu() -> CpuId {
        CpuId::new(THIS_CPU.with(Cell::get))
    }

    fn per_cpu(cpu: CpuId) -> &'static PerCpu {
        &MACHINE[cpu.get() as usize].locks
    }

    fn lock_hash() -> &'static LockHash {
        &HASH
    }

    fn wait(word: &AtomicU32, mask: u32, asleep: u32) {
        let cpu = &MACHINE[Self::this_cpu().get() as usize];
        let look = || word.load(Ordering::Relaxed) & mask == asleep;
        if Self::WRONG == Wrong::KicksAreNotLatched {
            // Looks before it can be kicked.
            let sleep = look();
            let mut kicked = cpu.kicked.lock().unwrap();
            *kicked = false;
            while sleep && !*kicked {
                kicked = cpu.kick.wait(kicked).unwrap();
            }
            return;
        }
        let mut kicked = cpu.kicked.lock().unwrap();
        // The least that a platform must do: an earlier kick does not count.
        *kicked = false;
        if look() {
            while !*kicked {
                kicked = cpu.kick.wait(kicked).unwrap();
            }
        }
    }

    fn kick(cpu: CpuId) {
        let cpu = &MACHINE[cpu.get() as usize];
        *cpu.kicked.lock().unwrap() = true;
        cpu.kick.notify_one();
    }

    fn relax() {
        // Two that spin could have their turns alternately for ever, while the one they wait for has none. A thread that
        // has spun this often ends the search for other ways to go on from here; loom is fair from then on.
        let turns = TURNS.with(|turns| turns.replace(turns.get() + 1));
        if turns == MAX_TURNS {
            loom::skip_branch();
        }
        thread::yield_now();
    }

    fn cycles() -> u64 {
        1
    }

    fn spin_budget() -> SpinBudget {
        SpinBudget::Iterations(SPIN)
    }

    fn steal_budget() -> SpinBudget {
        SpinBudget::Iterations(SPIN)
    }

    const FAULT: Fault = match Self::WRONG {
        Wrong::WaiterDoesNotFence => Fault::NoFenceBeforeSleep,
        Wrong::HolderDoesNotFence => Fault::NoFenceAfterHandOver,
        _ => Fault::None,
    };
}

type Correct = Model<1, 0>;
type Patient = Model<2, 0>;

/// How often each event happened, in all executions of a model.
struct Totals(std::sync::Arc<[AtomicU64]>);

impl Totals {
    fn count(&self, event: Event) -> u64 {
        self.0[event as usize].load(Ordering::Relaxed)
    }

    /// A model that does not go the way it is meant to check shows nothing.
    fn saw(&self, events: &[Event]) {
        for &event in events {
            assert!(self.count(event) > 0, "no execution had a {}", event.name());
        }
    }
}

/// Explores `model`, with at most `preemptions` switches away from a thread that could go on.
fn explore(preemptions: usize, model: impl Fn() + Sync + Send + 'static) -> Totals {
    let totals: std::sync::Arc<[AtomicU64]> = Event::ALL.iter().map(|_| AtomicU64::new(0)).collect();
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 10_000;
    let executions = std::sync::Arc::new(AtomicU64::new(0));
    builder.check({
        let (totals, executions) = (totals.clone(), executions.clone());
        move || {
            model();
            executions.fetch_add(1, Ordering::Relaxed);
            for (total, &event) in totals.iter().zip(Event::ALL) {
                let sum = MACHINE.iter().map(|cpu| cpu.locks.count(event)).sum();
                total.fetch_add(sum, Ordering::Relaxed);
            }
        }
    });
    eprintln!("{} executions", executions.load(Ordering::Relaxed));
    Totals(totals)
}

/// Starts `body` as CPUs 1, 2, ... `others`. The calling thread is CPU 0.
fn start(others: u32, body: impl Fn(u32) + Clone + 'static) -> Vec<JoinHandle<()>> {
    (1..=others)
        .map(|cpu| {
            let body = body.clone();
            thread::spawn(move || {
                THIS_CPU.with(|this| this.set(cpu));
                body(cpu);
            })
        })
        .collect()
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        thread.join().unwrap();
    }
}

/// A lock, and something that loom allows only one thread at a time to touch.
struct Guarded<R> {
    lock: R,
    value: UnsafeCell<u32>,
}

impl<R: RawMutex> Guarded<R> {
    fn new(lock: R) -> Arc<Guarded<R>> {
        Arc::new(Guarded {
            lock,
            value: UnsafeCell::new(0),
        })
    }

    fn lock_and_increment(&self) {
        self.increment_and_unlock(self.lock.lock());
    }

    fn increment_and_unlock(&self, guard: R::Guard) {
        // SAFETY: loom checks that nobody else uses the value meanwhile.
        self.value.with_mut(|value| unsafe { *value += 1 });
        // SAFETY: `guard` is from this lock.
        unsafe { self.lock.unlock(guard) };
    }

    fn is_free_after(&self, increments: u32) {
        assert!(!self.lock.is_locked());
        // SAFETY: as above.
        assert_eq!(self.value.with(|value| unsafe { *value }), increments);
    }
}

/// All CPUs come for a free lock; CPU 0 more than once.
fn come_together<R: RawMutex + 'static>(new: fn() -> R, others: u32, rounds_of_first: u32) {
    let guarded = Guarded::new(new());
    let threads = start(others, {
        let guarded = Arc::clone(&guarded);
        move |_| guarded.lock_and_increment()
    });
    for _ in 0..rounds_of_first {
        guarded.lock_and_increment();
    }
    join(threads);
    guarded.is_free_after(others + rounds_of_first);
}

/// The others come while CPU 0 has the lock.
fn come_to_a_held_lock<R: RawMutex + 'static>(new: fn() -> R, others: u32) {
    let guarded = Guarded::new(new());
    let guard = guarded.lock.lock();
    let threads = start(others, {
        let guarded = Arc::clone(&guarded);
        move |_| guarded.lock_and_increment()
    });
    guarded.increment_and_unlock(guard);
    join(threads);
    guarded.is_free_after(others + 1);
}

/// One of them by `try_lock`.
fn try_to_lock<R: RawMutex + 'static>(new: fn() -> R) {
    let guarded = Guarded::new(new());
    let threads = start(1, {
        let guarded = Arc::clone(&guarded);
        move |_| guarded.lock_and_increment()
    });
    let guard = guarded.lock.try_lock();
    let successes = u32::from(guard.is_some());
    if let Some(guard) = guard {
        guarded.increment_and_unlock(guard);
    }
    join(threads);
    guarded.is_free_after(1 + successes);
}

/// What every lock must stand.
macro_rules! lock_models {
    ($($module:ident: $lock:ident, $preemptions:literal;)*) => {$(
        mod $module {
            use super::*;

            #[test]
            fn two_cpus_twice() {
                explore($preemptions, || come_together($lock::<Correct>::new, 1, 2));
            }

            #[test]
            fn three_cpus() {
                explore($preemptions, || come_together($lock::<Correct>::new, 2, 1));
            }

            #[test]
            fn held() {
                explore($preemptions, || come_to_a_held_lock($lock::<Correct>::new, 2));
            }

            #[test]
            fn try_lock() {
                explore(3, || try_to_lock($lock::<Correct>::new));
            }
        }
    )*};
}

lock_models! {
    tas: Tas, 3;
    ticket: Ticket, 3;
    mcs: Mcs, 3;
    qspinlock: QSpinlock, 3;
    pvqspinlock: PvQSpinlock, 3;
}

/// The ways through the paravirtual slow path are there to be explored: sleeping heads and waiters, entered by themselves or by
/// their predecessors, kicks, thieves.
#[test]
fn pvqspinlock_takes_every_way() {
    let totals = explore(2, || come_to_a_held_lock(PvQSpinlock::<Correct>::new, 2));
    totals.saw(&[
        Event::PvWaitNode,
        Event::PvWaitHead,
        Event::PvKickUnlock,
        Event::PvLockStealing,
    ]);
    totals.saw(&[Event::PvWaitEarly, Event::PvHashHops, Event::LockSlowpath]);
}

#[test]
#[should_panic = "Causality violation"]
fn busted_is_caught() {
    explore(2, || come_together(Busted::<Correct>::new, 1, 1));
}
