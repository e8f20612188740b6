//! Locks used while waiting for locks, as interrupt handlers do; and guards that are kept, forgotten, or
//! dropped in another order.

#![cfg(not(loom))]

mod common;

use std::fmt::Debug;
use std::sync::mpsc;

use common::host::{self, Balanced, Sleepy};
use common::scenario::Actor;
use common::watchdog;
use lock_api::{Mutex, RawMutex};
use pvlock::{Event, Mcs, PvQSpinlock, QSpinlock, Tas, Ticket};

/// A lock that guards of any thread may outlive.
fn leak<R: RawMutex>() -> &'static Mutex<R, u64> {
    Box::leak(Box::new(Mutex::new(0)))
}

fn word<R: RawMutex + Debug>(lock: &Mutex<R, u64>) -> String {
    // SAFETY: only printed.
    format!("{:?}", unsafe { lock.raw() })
}

/// Waits for the first lock; while it spins is interrupted by a handler that waits for the second; and so on.
fn wait_nested<R: RawMutex + 'static>(locks: &'static [&'static Mutex<R, u64>]) {
    if let [lock, rest @ ..] = locks {
        host::interrupt_when_spinning(move || wait_nested(rest));
        *lock.lock() += 1;
    }
}

/// A context on one CPU waits in five queues at once; there are nodes for four. With `pending`, another
/// waiter keeps the pending bit of every lock, so that the first context has to queue as well.
fn five_levels<R: RawMutex + Debug + Send + Sync + 'static>(pending: bool) {
    let locks: &'static [_] = Box::leak((0..5).map(|_| leak::<R>()).collect());
    let holder = Actor::new("holder");
    for lock in locks {
        holder.run(|| lock.lock());
    }
    let mut seconds = Vec::new();
    for lock in locks.iter().filter(|_| pending) {
        let second = Actor::new("pending waiter");
        second.begin(|| *lock.lock() += 1);
        watchdog::until("the pending bit is set", || word(lock).contains("pending"));
        seconds.push(second);
    }

    let nested = Actor::new("nested waiter");
    let levels = [
        Event::LockUseNode2,
        Event::LockUseNode3,
        Event::LockUseNode4,
        Event::LockNoNode,
    ]
    .map(|event| nested.watch(event));
    nested.begin(|| wait_nested(locks));
    for level in &levels {
        level.until_seen();
    }
    assert!(!nested.is_idle());
    // The outermost first: its context cannot return before the inner ones.
    for _ in locks {
        holder.drop_first();
    }
    nested.finish();
    seconds.iter().for_each(Actor::finish);
    for level in &levels {
        assert_eq!(level.count(), 1);
    }
    for lock in locks {
        assert_eq!(*lock.lock(), 1 + u64::from(pending));
    }

    // All four nodes are back.
    holder.run(|| locks[0].lock());
    let no_node = nested.watch(Event::LockNoNode);
    nested.begin(|| wait_nested(&locks[..1]));
    holder.drop_last();
    nested.finish();
    assert_eq!(no_node.count(), 0);
}

#[test]
fn qspinlock_nests() {
    five_levels::<QSpinlock<Sleepy>>(true);
}

#[test]
fn pvqspinlock_nests() {
    five_levels::<PvQSpinlock<Balanced>>(false);
}

/// Takes `lock` while `holder` has it, and so with a node, and keeps the guard in `keeper`.
fn take_contended<R: RawMutex + 'static>(lock: &'static Mutex<R, u64>, holder: &Actor, keeper: &Actor)
where
    Mutex<R, u64>: Sync,
{
    holder.run(|| lock.lock());
    let (interrupt, interrupted) = mpsc::channel();
    keeper.begin(move || {
        host::interrupt_when_spinning(move || interrupt.send(()).unwrap());
        lock.lock()
    });
    watchdog::receive(&interrupted);
    holder.drop_last();
    keeper.finish();
}

/// MCS nodes are kept until unlock; there are eight, and whoever has none gets the lock without one.
#[test]
fn mcs_runs_out_of_nodes_and_gets_them_back() {
    let locks: Vec<_> = (0..10).map(|_| leak::<Mcs<Sleepy>>()).collect();
    let (holder, keeper) = (Actor::new("holder"), Actor::new("keeper"));
    // The second time shows that dropping the guards has freed the nodes.
    for _ in 0..2 {
        let no_node = keeper.watch(Event::LockNoNode);
        for (index, lock) in locks.iter().enumerate() {
            take_contended(lock, &holder, &keeper);
            assert_eq!(no_node.count(), (index as u64 + 1).saturating_sub(8));
        }
        for lock in &locks {
            assert!(lock.is_locked());
        }
        // The oldest guard and the newest in turn.
        for index in 0..locks.len() {
            if index % 2 == 0 {
                keeper.drop_first()
            } else {
                keeper.drop_last()
            }
        }
        for lock in &locks {
            assert!(!lock.is_locked());
        }
    }
}

/// Guards that are forgotten keep their nodes, and nobody else gets those.
#[test]
fn mcs_survives_forgotten_guards() {
    let (holder, keeper) = (Actor::new("holder"), Actor::new("keeper"));
    keeper.run(host::retire);
    let forgotten: Vec<_> = (0..8).map(|_| leak::<Mcs<Sleepy>>()).collect();
    for lock in &forgotten {
        take_contended(lock, &holder, &keeper);
    }
    keeper.forget_all();
    let (other, no_node) = (leak::<Mcs<Sleepy>>(), keeper.watch(Event::LockNoNode));
    take_contended(other, &holder, &keeper);
    assert_eq!(no_node.count(), 1);
    keeper.drop_last();
    assert!(!other.is_locked());
    for lock in &forgotten {
        assert!(lock.is_locked() && lock.try_lock().is_none());
    }
}

/// A guard that is forgotten leaves the lock held, wherever it is moved.
fn forgotten_guard<R: RawMutex>() {
    let lock = Mutex::<R, u64>::new(0);
    std::mem::forget(lock.lock());
    let moved = Box::new(lock);
    assert!(moved.is_locked() && moved.try_lock().is_none());
    drop(moved);
}

/// Guards of different locks dropped in the order they were taken.
fn out_of_order<R: RawMutex>() {
    let locks: Vec<_> = (0..20).map(|_| Mutex::<R, u64>::new(0)).collect();
    let guards: Vec<_> = locks.iter().map(|lock| lock.lock()).collect();
    assert!(locks.iter().all(|lock| lock.try_lock().is_none()));
    for (lock, guard) in locks.iter().zip(guards) {
        drop(guard);
        assert!(lock.try_lock().is_some());
    }
}

macro_rules! guard_tests {
    ($($name:ident: $lock:ty,)*) => {$(
        #[test]
        fn $name() {
            forgotten_guard::<$lock>();
            out_of_order::<$lock>();
        }
    )*};
}

guard_tests! {
    guards_of_tas_may_be_mistreated: Tas<Sleepy>,
    guards_of_ticket_may_be_mistreated: Ticket<Sleepy>,
    guards_of_mcs_may_be_mistreated: Mcs<Sleepy>,
    guards_of_qspinlock_may_be_mistreated: QSpinlock<Sleepy>,
    guards_of_pvqspinlock_may_be_mistreated: PvQSpinlock<Sleepy>,
}
