//! The native queued spin lock: an MCS queue whose lock fits in 32 bits.
//!
//! ```text
//!   (tail, pending, byte) of the lock word
//!
//!   fast path   (0,0,0) ──────────────────────────────────────────► (0,0,1)   first: holder
//!   pending     (0,0,1) ──► (0,1,1) ─── spins on the word ─► (0,1,0) ──► (0,0,1)   second
//!   queue       (·,·,·) ──► (n,·,·) ─── spins on its node, then as head on the word
//!                                   ─► (n,0,0) ──► (n,0,1)    somebody is behind it
//!                                              ──► (0,0,1)    nobody is
//! ```
//!
//! The pending bit saves the second CPU the queue: most contention is between two. Head and pending waiter do
//! not compete: the bit can be won only while nobody queues, and the head waits for both the byte and the bit
//! to be 0.
//!
//! A CPU joins one queue in each of its contexts at most, and is done with its node when it has the lock.

use core::fmt;
use core::marker::PhantomData;

use lock_api::{GuardNoSend, RawMutex};

use crate::events::Event;
use crate::node::Claim;
use crate::platform::Platform;
use crate::sync::{Ordering, const_unless_loom, raw_mutex_init};
use crate::usage::SlowPath;
use crate::word::{LockWord, PENDING};

/// How often to look again when a pending waiter is about to take the lock. Bounded, because pending waiters
/// may follow each other for ever, and one that is preempted takes long.
const HANDOVER_TURNS: u32 = 1 << 9;

/// A native queued spin lock.
pub struct QSpinlock<P> {
    word: LockWord,
    platform: PhantomData<fn() -> P>,
}

impl<P: Platform> QSpinlock<P> {
    const_unless_loom! {
        /// A free lock.
        pub fn new() -> Self {
            QSpinlock { word: LockWord::new(), platform: PhantomData }
        }
    }

    /// Models only: locks as one who looked at the word before anybody queued.
    #[cfg(loom)]
    #[doc(hidden)]
    pub fn lock_late(&self) -> GuardNoSend {
        if !self.lock_pending_now() {
            self.lock_queued();
        }
        GuardNoSend::new()
    }

    /// Models only: locks as one who has found the pending bit set, though perhaps it was not.
    #[cfg(loom)]
    #[doc(hidden)]
    pub fn lock_by_queueing(&self) -> GuardNoSend {
        self.lock_queued();
        GuardNoSend::new()
    }

    #[cold]
    #[inline(never)]
    fn lock_slow(&self) {
        let _books = SlowPath::<P>::enter();
        if !self.lock_pending() {
            self.lock_queued();
        }
    }

    /// Waits as the pending waiter. Fails if somebody else is that, or queues.
    fn lock_pending(&self) -> bool {
        let mut seen = self.word.peek();
        for _ in 0..HANDOVER_TURNS {
            if seen.0 != PENDING {
                break;
            }
            P::relax();
            seen = self.word.peek();
        }
        seen.only_byte() && self.lock_pending_now()
    }

    /// The same, for one who saw nobody in the way.
    fn lock_pending_now(&self) -> bool {
        let before = self.word.fetch_set_pending();
        if !before.only_byte() {
            // Too late. If the bit was not set before, it is ours to clear.
            if !before.pending() {
                self.word.clear_pending();
            }
            return false;
        }
        // The bit is ours, and nobody queued before us: the lock is ours as soon as its holder leaves.
        if before.byte() != 0 {
            while self.word.look().byte() != 0 {
                P::relax();
            }
        }
        self.word.pending_to_locked();
        P::per_cpu(P::this_cpu()).event(Event::LockPending);
        true
    }

    fn lock_queued(&self) {
        let id = P::this_cpu();
        let cpu = P::per_cpu(id);
        cpu.event(Event::LockSlowpath);
        let Some(me) = Claim::take(id, cpu) else {
            cpu.event(Event::LockNoNode);
            // Looking first, as for any lock that others spin on as well.
            while !self.word.peek().free() || !self.word.try_lock() {
                P::relax();
            }
            return;
        };
        // Fetching the node's cache line took time: perhaps the lock is free by now.
        if self.word.try_lock() {
            return;
        }

        if let Some(ahead) = self.word.join(me.id) {
            me.link_behind::<P>(ahead);
            // Acquire: pairs with the Release of the predecessor below.
            while me.node.locked.load(Ordering::Acquire) == 0 {
                P::relax();
            }
        }

        // We are the head: as soon as there is neither holder nor pending waiter, nobody but us may take the
        // lock.
        loop {
            let seen = self.word.look();
            if seen.up_for_grabs() {
                if seen.tail() != Some(me.id) {
                    break;
                }
                // We are also the tail, and leave the queue empty. If that fails, somebody has joined; or has
                // set the pending bit too late, and will clear it. Not all who do that join: a CPU may be out
                // of nodes.
                if self.word.take(seen, me.id) {
                    return;
                }
            }
            P::relax();
        }
        // Somebody is behind us, and stays there until we say that it is the head.
        self.word.set_locked();
        let next = me.wait_for_next::<P>().get::<P>();
        // Release: pairs with the Acquire above.
        next.locked.store(1, Ordering::Release);
    }
}

impl<P: Platform> Default for QSpinlock<P> {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: the locked byte goes from 0 to LOCKED in three ways: for a word that is 0 altogether, by one
// compare-and-swap (`try_lock`, of a CPU without nodes too); by the pending waiter; or by the queue's head.
// With a pending bit or a tail the word is not 0, so the first excludes the others. The pending waiter has
// set the bit, from clear, while there was no tail. Who sets it while there is one clears it, and takes
// nothing by it; until then nobody else owns it. The head takes the lock after a look that found the byte and
// the bit clear; as its node was in the queue by then, which only the head empties, whoever has set the bit
// since has seen a tail. So where there is a pending waiter the head waits, and after that there can be none.
// There is one head: a node becomes that by joining an empty queue, or when its predecessor, which was head,
// says so after taking the lock. So one CPU at a time changes the byte to LOCKED, and only when it is 0; and
// only its holder clears it. All of them acquire what the last unlock released. The guard is !Send and has no
// state; a forgotten one leaves the lock held.
unsafe impl<P: Platform> RawMutex for QSpinlock<P> {
    raw_mutex_init!();
    type Guard = GuardNoSend;

    #[inline]
    fn lock(&self) -> GuardNoSend {
        if !self.word.try_lock() {
            self.lock_slow();
        }
        GuardNoSend::new()
    }

    #[inline]
    fn try_lock(&self) -> Option<GuardNoSend> {
        self.word.try_lock().then(GuardNoSend::new)
    }

    #[inline]
    unsafe fn unlock(&self, _guard: GuardNoSend) {
        self.word.unlock();
    }

    #[inline]
    fn is_locked(&self) -> bool {
        self.word.peek().byte() != 0
    }
}

impl<P> fmt::Debug for QSpinlock<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("QSpinlock").field(&self.word).finish()
    }
}
