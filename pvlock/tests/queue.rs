//! The order of the queued locks' queues.

#![cfg(not(loom))]

mod common;

use std::fmt::Debug;

use common::host::Sleepy;
use common::scenario::Actor;
use common::watchdog;
use lock_api::{Mutex, RawMutex};
use pvlock::{PvQSpinlock, QSpinlock};

/// Begins to lock, and returns when `actor` is the queue's last; or, being the first to wait for a native
/// lock, the pending waiter.
fn join_queue<R: RawMutex + Debug>(lock: &'static Mutex<R, ()>, actor: &Actor)
where
    Mutex<R, ()>: Sync,
{
    // SAFETY: only printed.
    let word = || format!("{:?}", unsafe { lock.raw() });
    let pending = !word().contains("tail") && !word().contains("pending");
    let tail = format!("tail cpu {} ", actor.cpu().get());
    actor.begin(|| lock.lock());
    watchdog::until("it waits", || {
        let word = word();
        word.contains(&tail) || pending && word.contains("pending")
    });
}

/// Three wait, and get the lock in the order in which they came. Then the first two wait again, with
/// somebody else behind them.
fn first_come_first_served<R: RawMutex + Debug + Sync + 'static>() {
    let lock: &'static Mutex<R, ()> = Box::leak(Box::new(Mutex::new(())));
    let [holder, first, second, third, fourth] =
        ["holder", "first", "second", "third", "fourth"].map(Actor::new);
    holder.run(|| lock.lock());
    for (holder, queue) in [
        (&holder, [&first, &second, &third]),
        (&third, [&first, &second, &fourth]),
    ] {
        for actor in queue {
            join_queue(lock, actor);
        }
        holder.drop_last();
        first.finish();
        assert!(
            queue
                .iter()
                .all(|actor| actor.is_idle() == (actor.cpu() == first.cpu()))
        );
        first.drop_last();
        second.finish();
        assert!(!queue[2].is_idle(), "two holders");
        second.drop_last();
        queue[2].finish();
    }
    fourth.drop_last();
    assert!(!lock.is_locked());
}

#[test]
fn qspinlock_is_fair() {
    first_come_first_served::<QSpinlock<Sleepy>>();
}

#[test]
fn pvqspinlock_is_fair_among_sleepers() {
    first_come_first_served::<PvQSpinlock<Sleepy>>();
}
