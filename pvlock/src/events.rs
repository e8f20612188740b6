//! What the locks count: the events that Linux counts, under Linux's names.

#[cfg(doc)]
use crate::platform::Platform;

/// One list of events: variants, names and their order.
macro_rules! events {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Something that a lock counts, per CPU. Read with [`PerCpu::count`](crate::PerCpu::count).
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum Event {
            $($(#[$doc])* $variant,)*
        }

        impl Event {
            /// Every event, in the order of their discriminants.
            pub const ALL: &'static [Event] = &[$(Event::$variant),*];

            /// Linux's name for it.
            pub const fn name(self) -> &'static str {
                match self { $(Event::$variant => $name,)* }
            }
        }
    };
}

events! {
    /// Hash entries looked at while inserting sleeping queue heads; one each if there are no collisions.
    PvHashHops = "pv_hash_hops",
    /// Kicks by an unlock.
    PvKickUnlock = "pv_kick_unlock",
    /// Calls of [`Platform::wait`] that ended after a kick.
    PvKickWake = "pv_kick_wake",
    /// Sum of cycles spent in [`Platform::kick`].
    PvLatencyKick = "pv_latency_kick",
    /// Sum of cycles from the start of a kick until its target ran.
    PvLatencyWake = "pv_latency_wake",
    /// Locks taken on the slow path without queueing.
    PvLockStealing = "pv_lock_stealing",
    /// `PvWaitNode`s that ended before the waiter was head.
    PvSpuriousWakeup = "pv_spurious_wakeup",
    /// `PvWaitHead`s but the first of each acquisition.
    PvWaitAgain = "pv_wait_again",
    /// `PvWaitNode`s before the budget was spent, because the waiter in front did not run.
    PvWaitEarly = "pv_wait_early",
    /// Budgets that a queue head spent in vain. After each it sleeps; but not where the byte is not SLOW, so
    /// one that was robbed and may not enter itself again counts on without sleeping.
    PvWaitHead = "pv_wait_head",
    /// Times a waiter behind the head was about to sleep: it had said so, and was not head yet.
    PvWaitNode = "pv_wait_node",
    /// Locks taken through the pending bit (native lock only).
    LockPending = "lock_pending",
    /// Native: locks that were not to be had through the pending bit, even if free at the next look.
    /// Paravirtual: waiters that became the queue's head. MCS: waiters with a node.
    LockSlowpath = "lock_slowpath",
    /// Queue nodes used at the second nesting level.
    LockUseNode2 = "lock_use_node2",
    /// Queue nodes used at the third nesting level.
    LockUseNode3 = "lock_use_node3",
    /// Queue nodes used at the fourth nesting level.
    LockUseNode4 = "lock_use_node4",
    /// Times the CPU was out of queue nodes and spun on the lock word instead.
    LockNoNode = "lock_no_node",
}
