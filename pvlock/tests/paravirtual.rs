//! The paravirtual lock, step by step: each way through its slow path is taken because the scenario leaves no
//! other.

#![cfg(not(loom))]

mod common;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::host::{self, Host, Sleepy, SleepyAgain};
use common::scenario::Actor;
use common::watchdog;
use lock_api::{Mutex, RawMutex};
use pvlock::{Event, Platform, PvQSpinlock};

type Lock = Mutex<PvQSpinlock<Sleepy>, u64>;

/// A lock that guards of any thread may outlive.
fn lock() -> &'static Lock {
    Box::leak(Box::new(Lock::new(0)))
}

fn word(lock: &Lock) -> String {
    // SAFETY: only printed.
    format!("{:?}", unsafe { lock.raw() })
}

/// Holder, sleeping head, sleeping waiter behind it: each unlock kicks the next.
#[test]
fn sleepers_are_woken_in_turn() {
    let lock = lock();
    let (holder, head, waiter) = (Actor::new("holder"), Actor::new("head"), Actor::new("waiter"));
    holder.run(|| lock.lock());

    let (head_slept, head_joined) = (head.watch(Event::PvWaitHead), head.watch(Event::LockSlowpath));
    head.begin(|| lock.lock());
    head_slept.until_seen();
    assert!(word(lock).contains("slow"), "{}", word(lock));
    assert_eq!(head_joined.count(), 1);

    let (waiter_slept, early) = (waiter.watch(Event::PvWaitNode), waiter.watch(Event::PvWaitEarly));
    waiter.begin(|| lock.lock());
    waiter_slept.until_seen();
    assert_eq!(
        early.count(),
        1,
        "the waiter ahead sleeps, so it should have slept early"
    );

    let kicked = holder.watch(Event::PvKickUnlock);
    let (woken, latency) = (head.watch(Event::PvKickWake), head.watch(Event::PvLatencyWake));
    holder.drop_last();
    head.finish();
    assert_eq!(kicked.count(), 1);
    assert_eq!(woken.count(), 1);
    assert!(latency.count() > 0);
    assert!(!waiter.is_idle(), "two holders");
    assert!(
        word(lock).contains("slow"),
        "the new holder should have entered the waiter: {}",
        word(lock)
    );

    let (kicked, again) = (head.watch(Event::PvKickUnlock), waiter.watch(Event::PvWaitHead));
    head.drop_last();
    waiter.finish();
    assert_eq!(kicked.count(), 1);
    assert_eq!(
        again.count(),
        0,
        "it was entered while it slept, and need not sleep again"
    );
    waiter.drop_last();
    assert!(word(lock).contains("0x00000000 (free)"), "{}", word(lock));
}

/// A newcomer takes the lock between its release and the kick; the head then waits again. `rests` is called
/// while it does.
fn steal_past_a_sleeping_head<P: Platform>(rests: impl FnOnce(&Actor, &dyn Fn() -> String)) {
    let lock: &'static Mutex<PvQSpinlock<P>, u64> = Box::leak(Box::new(Mutex::new(0)));
    // SAFETY: only printed.
    let word = || format!("{:?}", unsafe { lock.raw() });
    let (holder, head, thief) = (Actor::new("holder"), Actor::new("head"), Actor::new("thief"));
    holder.run(|| lock.lock());
    let (slept, again) = (head.watch(Event::PvWaitHead), head.watch(Event::PvWaitAgain));
    head.begin(|| lock.lock());
    slept.until_seen();

    let stolen = thief.watch(Event::PvLockStealing);
    let (ask, asked) = mpsc::channel();
    let (answer, answered) = mpsc::channel();
    holder.run(move || {
        host::before_kick(move || {
            ask.send(()).unwrap();
            answered.recv().unwrap();
        });
    });
    holder.drop_last(); // what that step returned, which is nothing
    holder.begin_drop_last(); // the guard
    watchdog::receive(&asked);
    thief.run(|| lock.lock());
    assert_eq!(stolen.count(), 1);
    answer.send(()).unwrap();
    holder.finish();

    again.until_seen();
    assert!(!head.is_idle(), "two holders");
    rests(&head, &word);
    thief.drop_last();
    head.finish();
    head.drop_last();
    assert!(word().contains("0x00000000 (free)"), "{}", word());
}

/// Under Linux's rule it spins.
#[test]
fn a_head_that_was_robbed_spins() {
    steal_past_a_sleeping_head::<Sleepy>(|head, word| {
        let halts = host::cpu(head.cpu()).usage().halts;
        let rounds = head.watch(Event::PvWaitAgain);
        watchdog::until("the head has spun several budgets", || rounds.count() > 3);
        assert_eq!(host::cpu(head.cpu()).usage().halts, halts);
        assert!(word().contains("locked"), "{}", word());
    });
}

/// If the platform says so, it enters itself in the hash again, and the thief kicks it.
#[test]
fn a_head_that_was_robbed_sleeps_again() {
    steal_past_a_sleeping_head::<SleepyAgain>(|head, word| {
        watchdog::until("the head sleeps", || host::is_asleep(head.cpu()));
        assert!(word().contains("slow"), "{}", word());
    });
}

/// While the head spins, the pending bit keeps a newcomer from stealing, however long that would like to: it
/// queues.
#[test]
fn a_spinning_head_bars_thieves() {
    type Patient = Mutex<PvQSpinlock<Host<{ u32::MAX }, { u32::MAX }>>, u64>;
    let lock: &'static Patient = Box::leak(Box::new(Mutex::new(0)));
    // SAFETY: only printed.
    let word = || format!("{:?}", unsafe { lock.raw() });
    let (holder, head, newcomer) = (Actor::new("holder"), Actor::new("head"), Actor::new("newcomer"));
    holder.run(|| lock.lock());
    head.begin(|| lock.lock());
    watchdog::until("the head spins", || word().contains("pending"));
    newcomer.begin(|| lock.lock());
    let queued = format!("tail cpu {} ", newcomer.cpu().get());
    watchdog::until("the newcomer queues", || word().contains(&queued));

    holder.drop_last();
    head.finish();
    assert!(!newcomer.is_idle(), "two holders");
    head.drop_last();
    newcomer.finish();
    newcomer.drop_last();
    assert!(word().contains("0x00000000 (free)"), "{}", word());
}

/// From the moment it stores "free" an unlock leaves the lock's memory alone: the next holder may have freed
/// it.
#[test]
fn unlock_does_not_touch_the_lock_after_the_release() {
    const POISON: u8 = 0xa5;
    type Raw = PvQSpinlock<Sleepy>;
    let memory: &'static AtomicU64 = Box::leak(Box::new(AtomicU64::new(0)));
    const { assert!(size_of::<Raw>() == 4 && align_of::<Raw>() <= 8) };
    let place = memory.as_ptr().cast::<Raw>().expose_provenance();
    let raw = move || {
        // SAFETY: the memory lives for ever, is large and aligned enough, and holds a lock until it is
        // poisoned, which is after the last use of this.
        unsafe { &*std::ptr::with_exposed_provenance::<Raw>(place) }
    };
    // SAFETY: nobody else knows the memory yet.
    unsafe { std::ptr::with_exposed_provenance_mut::<Raw>(place).write(Raw::INIT) };

    let (holder, head) = (Actor::new("holder"), Actor::new("head"));
    holder.run(move || raw().lock());
    let slept = head.watch(Event::PvWaitHead);
    head.begin(move || raw().lock());
    slept.until_seen();

    let (released, proceed) = mpsc::channel();
    let (resume, resumed) = mpsc::channel();
    holder.run(move || {
        host::after_kick(move || {
            released.send(()).unwrap();
            resumed.recv().unwrap();
        });
    });
    // SAFETY: this thread of the actor has locked it.
    holder.begin(move || unsafe { raw().unlock(lock_api::GuardNoSend::new()) });
    // The holder has released and kicked, and stays in `unlock`. The head gets the lock, is the last user,
    // and frees it.
    watchdog::receive(&proceed);
    head.finish();
    // SAFETY: the head has locked it.
    head.run(move || unsafe { raw().unlock(lock_api::GuardNoSend::new()) });
    memory.store(u64::from_ne_bytes([POISON; 8]), Ordering::Relaxed);
    resume.send(()).unwrap();
    holder.finish();
    assert_eq!(memory.load(Ordering::Relaxed), u64::from_ne_bytes([POISON; 8]));
}

/// Time in a slow path is either spun or slept, and sleeping is not charged as spinning.
#[test]
fn usage_tells_spinning_from_sleeping() {
    let lock = lock();
    let (holder, head) = (Actor::new("holder"), Actor::new("head"));
    holder.run(|| lock.lock());
    let before = host::cpu(head.cpu()).usage();
    let started = Instant::now();
    head.begin(|| lock.lock());
    watchdog::until("the head sleeps", || host::is_asleep(head.cpu()));
    let asleep = Instant::now();
    std::thread::sleep(Duration::from_millis(10));
    let slept_at_least = asleep.elapsed().as_nanos() as u64;
    let kicks = host::cpu(holder.cpu()).usage().kicks;
    holder.drop_last();
    head.finish();
    let elapsed = started.elapsed().as_nanos() as u64;
    let after = host::cpu(head.cpu()).usage();
    let (spun, halted) = (
        after.spin_cycles - before.spin_cycles,
        after.halted_cycles - before.halted_cycles,
    );
    assert!(halted >= slept_at_least, "{halted} < {slept_at_least}");
    assert!(
        spun > 0 && spun + halted <= elapsed,
        "{spun} + {halted} > {elapsed}"
    );
    assert_eq!(after.halts - before.halts, 1);
    assert_eq!(host::cpu(holder.cpu()).usage().kicks - kicks, 1);
    head.drop_last();
}
