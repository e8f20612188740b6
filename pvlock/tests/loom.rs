//! The locks under the model checker, which tries every interleaving (with few preemptions) and every value
//! that an atomic load may return under the memory model.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p pvlock --release --test loom`
//!
//! A lost wake-up is a deadlock here: a waiter sleeps until it is kicked, and never wakes for no reason.

#![cfg(loom)]

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, Ordering};

use lock_api::RawMutex;
use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicU32;
use loom::sync::{Condvar, Mutex};
use loom::thread::{self, JoinHandle, LocalKey};
use pvlock::{
    Barrier, Busted, CpuId, Event, Fault, HashEntry, LockHash, Mcs, PerCpu, Platform, PvQSpinlock, QSpinlock,
    SpinBudget, Tas, Ticket,
};

const CPUS: usize = 4;

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

type Handler = Box<dyn FnOnce()>;

loom::thread_local! {
    static THIS_CPU: Cell<u32> = Cell::new(0);
    static TURNS: Cell<u32> = Cell::new(0);
    static SLEEPS: Cell<u32> = Cell::new(0);
    /// Runs in the next `relax`, or `wait`, of this thread: an interrupt.
    static ON_RELAX: RefCell<Option<Handler>> = RefCell::new(None);
    static ON_WAIT: RefCell<Option<Handler>> = RefCell::new(None);
}

fn run_handler(handler: &'static LocalKey<RefCell<Option<Handler>>>) {
    if let Some(handler) = handler.with(|handler| handler.take()) {
        handler();
    }
}

/// How often a thread may spin.
const MAX_TURNS: u32 = 4;

/// What a model's platform is like: constants, because enumerators cannot be const parameters.
const CORRECT: u32 = 0;
const WAKES_FOR_NO_REASON: u32 = 1;
const KICKS_ARE_NOT_LATCHED: u32 = 2;
const WAITER_DOES_NOT_FENCE: u32 = 3;
const HOLDER_DOES_NOT_FENCE: u32 = 4;
const HEAD_SLEEPS_AGAIN: u32 = 5;
const HEAD_SLEEPS_AND_WAKES_AGAIN: u32 = 6;
// The head sleeps again in these too.
const HEAD_ENTERS_BEFORE_RELEASE: u32 = 7;
const HEAD_LOOKS_UNORDERED: u32 = 8;

/// loom's threads, which spin `SPIN` turns before they sleep.
struct Model<const SPIN: u32, const KIND: u32>;

type Correct = Model<1, CORRECT>;
type Patient = Model<2, CORRECT>;
type Restless = Model<1, WAKES_FOR_NO_REASON>;
type Sleepy = Model<1, HEAD_SLEEPS_AGAIN>;
type PatientSleepy = Model<2, HEAD_SLEEPS_AGAIN>;
type SleepyRestless = Model<1, HEAD_SLEEPS_AND_WAKES_AGAIN>;

// SAFETY: each thread of a model sets a number of its own, and handlers return to what they interrupt. Kicks
// are latched, except in the model that shows why they must be.
unsafe impl<const SPIN: u32, const KIND: u32> Platform for Model<SPIN, KIND> {
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
        run_handler(&ON_WAIT);
        let for_no_reason = matches!(KIND, WAKES_FOR_NO_REASON | HEAD_SLEEPS_AND_WAKES_AGAIN);
        if for_no_reason && SLEEPS.with(|sleeps| sleeps.replace(sleeps.get() + 1)) == 0 {
            return;
        }
        let look = || word.load(Ordering::Relaxed) & mask == asleep;
        let cpu = &MACHINE[Self::this_cpu().get() as usize];
        let early_look = KIND == KICKS_ARE_NOT_LATCHED && look();
        let mut kicked = cpu.kicked.lock().unwrap();
        // The least that a platform must do: a kick before the look does not count, one after it does.
        *kicked = false;
        if early_look || look() {
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
        run_handler(&ON_RELAX);
        // Two that spin could have their turns alternately for ever, while the one they wait for has none. A
        // thread that has spun this often ends the search for other ways to go on from here; loom is fair
        // from then on.
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

    fn head_sleeps_again() -> bool {
        KIND >= HEAD_SLEEPS_AGAIN
    }

    const FAULT: Fault = match KIND {
        WAITER_DOES_NOT_FENCE => Fault::NoFenceBeforeSleep,
        HOLDER_DOES_NOT_FENCE => Fault::NoFenceAfterHandOver,
        HEAD_ENTERS_BEFORE_RELEASE => Fault::EntersBeforeRelease,
        HEAD_LOOKS_UNORDERED => Fault::LooksUnordered,
        _ => Fault::None,
    };
}

/// What happened in all executions of a model.
struct Totals {
    events: std::sync::Arc<[AtomicU64]>,
    /// The most sleeps of CPU 1 in one execution.
    most_sleeps: std::sync::Arc<AtomicU64>,
}

impl Totals {
    fn count(&self, event: Event) -> u64 {
        self.events[event as usize].load(Ordering::Relaxed)
    }

    fn most_sleeps(&self) -> u64 {
        self.most_sleeps.load(Ordering::Relaxed)
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
    let most_sleeps = std::sync::Arc::new(AtomicU64::new(0));
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 10_000;
    let executions = std::sync::Arc::new(AtomicU64::new(0));
    builder.check({
        let (totals, executions) = (totals.clone(), executions.clone());
        let most_sleeps = most_sleeps.clone();
        move || {
            model();
            assert_eq!(HASH.sleepers(), 0, "a sleeping head was left in the hash");
            executions.fetch_add(1, Ordering::Relaxed);
            most_sleeps.fetch_max(MACHINE[1].locks.usage().halts, Ordering::Relaxed);
            for (total, &event) in totals.iter().zip(Event::ALL) {
                let sum = MACHINE.iter().map(|cpu| cpu.locks.count(event)).sum();
                total.fetch_add(sum, Ordering::Relaxed);
            }
        }
    });
    eprintln!("{} executions", executions.load(Ordering::Relaxed));
    Totals {
        events: totals,
        most_sleeps,
    }
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

/// Something for all threads of one execution. It is never dropped: loom cannot drop its types when it has
/// found a deadlock.
fn leak<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

/// A lock, and something that loom allows only one thread at a time to touch.
struct Guarded<R> {
    lock: R,
    value: UnsafeCell<u32>,
}

impl<R: RawMutex> Guarded<R> {
    fn new(lock: R) -> &'static Guarded<R> {
        leak(Guarded {
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
    let threads = start(others, move |_| guarded.lock_and_increment());
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
    let threads = start(others, move |_| guarded.lock_and_increment());
    guarded.increment_and_unlock(guard);
    join(threads);
    guarded.is_free_after(others + 1);
}

/// One of them by `try_lock`.
fn try_to_lock<R: RawMutex + 'static>(new: fn() -> R) {
    let guarded = Guarded::new(new());
    let threads = start(1, move |_| guarded.lock_and_increment());
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
    ($($module:ident: $lock:ident, $preemptions:literal, $preemptions_twice:literal;)*) => {$(
        mod $module {
            use super::*;

            #[test]
            fn two_cpus_twice() {
                explore(5, || come_together($lock::<Correct>::new, 1, 2));
            }

            #[test]
            fn three_cpus() {
                explore($preemptions, || come_together($lock::<Correct>::new, 2, 1));
            }

            /// With nodes that have been used before.
            #[test]
            fn three_cpus_one_twice() {
                explore($preemptions_twice, || come_together($lock::<Correct>::new, 2, 2));
            }

            #[test]
            fn held() {
                explore($preemptions, || come_to_a_held_lock($lock::<Correct>::new, 2));
            }

            #[test]
            fn try_lock() {
                explore(5, || try_to_lock($lock::<Correct>::new));
            }
        }
    )*};
}

lock_models! {
    tas: Tas, 3, 3;
    ticket: Ticket, 3, 2;
    mcs: Mcs, 3, 3;
    qspinlock: QSpinlock, 3, 2;
    pvqspinlock: PvQSpinlock, 3, 3;
}

/// The ways through the paravirtual slow path are there to be explored: sleeping heads and waiters, entered
/// by themselves or by their predecessors, kicks, thieves.
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

/// Holder, head, middle and tail.
#[test]
fn pvqspinlock_with_three_waiters() {
    explore(2, || come_to_a_held_lock(PvQSpinlock::<Correct>::new, 3));
}

/// Waiters look twice, and so see more of what the others do, before they sleep.
#[test]
fn pvqspinlock_with_some_patience() {
    explore(3, || come_to_a_held_lock(PvQSpinlock::<Patient>::new, 2));
}

#[test]
fn pvqspinlock_with_spurious_wakeups() {
    explore(3, || come_to_a_held_lock(PvQSpinlock::<Restless>::new, 2));
}

/// A head that was kicked in vain enters itself again, and is kicked again.
#[test]
fn pvqspinlock_whose_head_sleeps_again() {
    // CPU 1 wants the lock once and is alone in the queue. Its first sleep ends with a kick, so to sleep
    // twice it must have been in the hash twice.
    assert!(explore(4, || come_together(PvQSpinlock::<Sleepy>::new, 1, 3)).most_sleeps() > 1);
    explore(3, || come_together(PvQSpinlock::<Sleepy>::new, 2, 2)).saw(&[Event::PvWaitAgain]);
    explore(2, || come_to_a_held_lock(PvQSpinlock::<Sleepy>::new, 3)).saw(&[Event::PvWaitNode]);
}

/// What a head knows of its being taken out shows only after many switches.
#[test]
fn pvqspinlock_whose_head_sleeps_again_with_many_preemptions() {
    explore(6, || come_together(PvQSpinlock::<Sleepy>::new, 1, 2)).saw(&[Event::PvWaitHead]);
}

/// Under Linux's rule a head sleeps once.
#[test]
fn pvqspinlock_whose_head_sleeps_once() {
    let totals = explore(4, || come_together(PvQSpinlock::<Correct>::new, 1, 3));
    totals.saw(&[Event::PvWaitAgain]);
    assert_eq!(totals.most_sleeps(), 1);
}

#[test]
fn pvqspinlock_whose_head_sleeps_again_with_spurious_wakeups() {
    explore(3, || come_to_a_held_lock(PvQSpinlock::<SleepyRestless>::new, 2)).saw(&[Event::PvWaitHead]);
}

/// CPU 1 comes by the pending bit to a lock at which CPU 2 queues, and perhaps CPU 0.
fn come_to_a_queue(preemptions: usize, prepare: fn(), rounds_of_first: u32) -> Totals {
    explore(preemptions, move || {
        let guarded = Guarded::new(QSpinlock::<Correct>::new());
        let guard = guarded.lock.lock();
        let threads = start(2, move |cpu| {
            if cpu == 1 {
                prepare();
                guarded.increment_and_unlock(guarded.lock.lock_late());
            } else {
                guarded.increment_and_unlock(guarded.lock.lock_by_queueing());
            }
        });
        // They all come while the lock is held.
        thread::yield_now();
        guarded.increment_and_unlock(guard);
        for _ in 1..rounds_of_first {
            guarded.increment_and_unlock(guarded.lock.lock_by_queueing());
        }
        join(threads);
        guarded.is_free_after(2 + rounds_of_first);
    })
}

/// It must not be the pending waiter once there is a queue.
#[test]
fn qspinlock_with_a_latecomer() {
    come_to_a_queue(1, || (), 2).saw(&[Event::LockPending, Event::LockSlowpath]);
}

/// The bit that it sets too late must not make the head of the queue believe that it queues.
#[test]
fn qspinlock_with_a_latecomer_without_nodes() {
    come_to_a_queue(2, occupy_nodes, 1).saw(&[Event::LockPending, Event::LockNoNode]);
}

/// All nodes of this CPU have some other use.
fn occupy_nodes() {
    Correct::per_cpu(Correct::this_cpu()).occupy_nodes();
}

#[test]
fn pvqspinlock_without_nodes() {
    explore(2, || {
        let guarded = Guarded::new(PvQSpinlock::<Correct>::new());
        let guard = guarded.lock.lock();
        let threads = start(2, move |cpu| {
            if cpu == 1 {
                occupy_nodes();
            }
            guarded.lock_and_increment();
        });
        guarded.increment_and_unlock(guard);
        join(threads);
        guarded.is_free_after(3);
    })
    .saw(&[Event::LockNoNode, Event::PvWaitHead]);
}

/// Two heads enter themselves in the hash, which has one cache line for both, and the holder of both locks
/// takes them out.
#[test]
fn two_locks_share_the_hash() {
    explore(3, || {
        let locks = [(); 2].map(|()| Guarded::new(PvQSpinlock::<Correct>::new()));
        let guards = [locks[0].lock.lock(), locks[1].lock.lock()];
        let threads = start(2, move |cpu| locks[cpu as usize - 1].lock_and_increment());
        for (lock, guard) in locks.iter().zip(guards) {
            lock.increment_and_unlock(guard);
        }
        join(threads);
        locks.iter().for_each(|lock| lock.is_free_after(2));
    })
    .saw(&[Event::PvWaitHead, Event::PvKickUnlock]);
}

/// A waiter is interrupted, by a handler that waits for another lock: while it spins, or when it is about to
/// sleep. The kick for the first lock may end the sleep for the second.
fn interrupt<P: Platform>(at: &'static LocalKey<RefCell<Option<Handler>>>) -> Totals {
    explore(5, move || {
        let (outer, inner) = (
            Guarded::new(PvQSpinlock::<P>::new()),
            Guarded::new(PvQSpinlock::<P>::new()),
        );
        let guards = (outer.lock.lock(), inner.lock.lock());
        let threads = start(1, move |_| {
            at.with(|handler| handler.replace(Some(Box::new(|| inner.lock_and_increment()))));
            outer.lock_and_increment();
            // If it did not have to wait, or not at that place, there was no interrupt.
            at.with(|handler| drop(handler.take()));
        });
        outer.increment_and_unlock(guards.0);
        inner.increment_and_unlock(guards.1);
        join(threads);
        outer.is_free_after(2);
        assert!(!inner.lock.is_locked());
    })
}

#[test]
fn pvqspinlock_interrupted_while_it_spins() {
    interrupt::<Patient>(&ON_RELAX).saw(&[Event::LockUseNode2, Event::PvWaitHead]);
    interrupt::<PatientSleepy>(&ON_RELAX).saw(&[Event::LockUseNode2, Event::PvWaitHead]);
}

#[test]
fn pvqspinlock_interrupted_before_it_sleeps() {
    interrupt::<Patient>(&ON_WAIT).saw(&[Event::LockUseNode2, Event::PvWaitHead]);
    interrupt::<PatientSleepy>(&ON_WAIT).saw(&[Event::LockUseNode2, Event::PvWaitHead]);
}

/// What each CPU did before the barrier is seen by each after it, and one of them is told that it was the
/// last.
fn meet(cpus: u32, rounds: u32, preemptions: usize) {
    explore(preemptions, move || {
        let barrier = leak(Barrier::<Correct>::new());
        let done: &[UnsafeCell<u32>] = leak((0..cpus).map(|_| UnsafeCell::new(0)).collect::<Vec<_>>());
        let lasts = leak(std::sync::atomic::AtomicU32::new(0));
        let body = move |cpu: u32| {
            for round in 1..=rounds {
                // SAFETY: loom checks that nobody uses it meanwhile.
                done[cpu as usize].with_mut(|mine| unsafe { *mine = round });
                if barrier.wait(cpus) {
                    lasts.fetch_add(1, Ordering::Relaxed);
                }
                for each in done {
                    // SAFETY: as above.
                    assert_eq!(each.with(|each| unsafe { *each }), round);
                }
                // Nobody goes on to write before all have read.
                barrier.wait(cpus);
            }
        };
        let threads = start(cpus - 1, body);
        body(0);
        join(threads);
        assert_eq!(lasts.load(Ordering::Relaxed), rounds);
    });
}

#[test]
fn barrier_of_two_cpus() {
    meet(2, 2, 3);
}

#[test]
fn barrier_of_three_cpus() {
    meet(3, 1, 2);
}

// The negative controls: what is wrong is found.

#[test]
#[should_panic = "Causality violation"]
fn busted_is_caught() {
    explore(2, || come_together(Busted::<Correct>::new, 1, 1));
}

#[test]
#[should_panic = "deadlock"]
fn a_kick_that_is_not_latched_loses_a_wakeup() {
    explore(3, || {
        come_to_a_held_lock(PvQSpinlock::<Model<1, KICKS_ARE_NOT_LATCHED>>::new, 2)
    });
}

#[test]
#[should_panic = "deadlock"]
fn a_waiter_that_does_not_fence_loses_a_wakeup() {
    explore(3, || {
        come_to_a_held_lock(PvQSpinlock::<Model<1, WAITER_DOES_NOT_FENCE>>::new, 2)
    });
}

#[test]
#[should_panic = "deadlock"]
fn a_holder_that_does_not_fence_loses_a_wakeup() {
    explore(3, || {
        come_to_a_held_lock(PvQSpinlock::<Model<1, HOLDER_DOES_NOT_FENCE>>::new, 2)
    });
}

/// It is in the hash twice, and is taken out once.
#[test]
#[should_panic = "left in the hash"]
fn a_head_that_enters_itself_before_the_release_stays_in_the_hash() {
    explore(4, || {
        come_together(PvQSpinlock::<Model<1, HEAD_ENTERS_BEFORE_RELEASE>>::new, 1, 3)
    });
}

#[test]
#[should_panic = "left in the hash"]
fn a_head_that_looks_unordered_stays_in_the_hash() {
    explore(6, || {
        come_together(PvQSpinlock::<Model<1, HEAD_LOOKS_UNORDERED>>::new, 1, 2)
    });
}
