//! The paravirtual queued spin lock: Linux's algorithm. A waiter that has spun long enough sleeps, and is
//! kicked when there is something for it to do; a newcomer may steal the lock while the head of the queue
//! sleeps.
//!
//! ```text
//!   newcomer ───── byte 0, pending clear: steals ───────────────────────────► holder
//!      │ joins                                                                  ▲
//!      ├────────────── queue was empty ─────────┐                               │
//!      ▼                                        ▼                               │
//!   RUNNING: spins on its node ─ made head ─► head spins, pending set: ─ byte 0 ┘
//!      │ ▲                                    RUNNING    never entered in the hash
//!      │ │                                    AWAKE      entered
//!      │ │                                    TAKEN_OUT  no longer entered
//!      │ │                                      │ ▲
//!      ▼ │ woken, not head                      ▼ │ woken
//!   HALTED: sleeps                            head sleeps, byte SLOW, pending clear:
//!   on its node ─────── made head ──────────► HASHED     entered; the sleep may have begun as HALTED
//!                                             TAKEN_OUT  is just being released
//! ```
//!
//! A holder that makes a sleeper the head does not wake it; what could it do but sleep again? It enters it in
//! the hash, marks the lock SLOW, and leaves the only kick to its unlock. The `handshake` module has the node
//! states, and how a waiter and the one who makes it head agree on whether it sleeps.
//!
//! A head that sleeps by its own decision enters itself: under Linux's rule, once for each acquisition. When
//! a thief has the lock by the time that the kicked head runs, the byte is LOCKED and not SLOW, so that head
//! does not sleep again, but spins on and on, with thieves locked out for as long as each budget lasts. If
//! the thief lost its CPU to the head, that is a long time. With [`Platform::head_sleeps_again`], releasers
//! tell the head when they have taken it out of the hash (TAKEN_OUT), and it enters itself again. Without,
//! they do not, and it takes itself for entered, once it was, until it has the lock.
//!
//! # Why no wake-up is lost
//!
//! A waiter behind the head is made head while it is awake, or becomes a sleeping head: see `handshake`.
//!
//! A sleeping head is one that the lock's holder knows through SLOW: set by the holder itself (for a HASHED
//! successor), or by the head while the byte was not 0, in one atomic step, that is while somebody held the
//! lock who has yet to release it. The only way from SLOW to 0 is the slow half of `unlock`, which finds the
//! entry (made before SLOW was), takes it out, clears the byte, and then kicks. There are three sleeps that
//! this kick has to end:
//! - Of a head on the byte. It looks at that in `wait` before it sleeps; either it sees that it is not SLOW,
//!   or the kick is still to come and `wait` returns then.
//! - Of a head that is TAKEN_OUT, and nevertheless sleeps on the byte, because that is still SLOW. It has no
//!   entry, but the releaser which has taken it out knows it, and the same holds for its kick.
//! - Of a waiter that was made head when it was HALTED, on its own node. Its state was made HASHED by the
//!   holder, who sets SLOW before it comes to its unlock; so if the waiter finds HALTED when it looks, the
//!   kick is still to come.
//!
//! A kick that comes while the head does not sleep is latched and costs one spurious return of a later
//! `wait`.
//!
//! A head enters itself only while it is not entered and the byte is not SLOW: it never was entered, or the
//! releaser that took it out has said so in its state, and has released the lock since. As nobody but a head,
//! or the holder that makes it one, sets SLOW, the byte cannot become SLOW meanwhile. So a lock has one entry
//! at most, and the releaser that finds SLOW finds the head.
//!
//! Spurious returns are harmless: every sleep is in a loop that looks again at what it waits for.

use core::fmt;
use core::marker::PhantomData;

use lock_api::{GuardNoSend, RawMutex};

use crate::budget::Spin;
use crate::events::Event;
use crate::fault::{Fault, planted};
use crate::handshake::{
    Entry, RUNNING, entered, make_head, never_mind, still_entered, taken_out, wait_in_queue, wake_up,
};
use crate::node::{Claim, NodeId};
use crate::percpu::PerCpu;
use crate::platform::Platform;
use crate::sync::{Ordering, const_unless_loom, raw_mutex_init};
use crate::usage::{SlowPath, halt, kick};
use crate::word::{BYTE, LockWord, SLOW};

/// A paravirtual queued spin lock. [`Platform::spin_budget`] says how long its waiters spin.
pub struct PvQSpinlock<P> {
    word: LockWord,
    platform: PhantomData<fn() -> P>,
}

impl<P: Platform> PvQSpinlock<P> {
    const_unless_loom! {
        /// A free lock.
        pub fn new() -> Self {
            PvQSpinlock { word: LockWord::new(), platform: PhantomData }
        }
    }

    #[cold]
    #[inline(never)]
    fn lock_slow(&self) {
        let _books = SlowPath::<P>::enter();
        let id = P::this_cpu();
        let cpu = P::per_cpu(id);
        if self.steal(cpu) {
            return;
        }
        let Some(me) = Claim::take(id, cpu) else {
            cpu.event(Event::LockNoNode);
            while !self.steal(cpu) {
                P::relax();
            }
            return;
        };
        // Relaxed: published, like the rest of the node, by joining.
        me.node.state.store(RUNNING, Ordering::Relaxed);

        if let Some(ahead) = self.word.join(me.id) {
            me.link_behind::<P>(ahead);
            wait_in_queue::<P>(cpu, me.node, ahead);
        }
        if self.wait_as_head(cpu, &me) == Queue::Longer {
            self.hand_over(me.wait_for_next::<P>());
        }
    }

    /// Tries to get past the queue, for as long as there is one whose head does not spin.
    fn steal(&self, cpu: &PerCpu) -> bool {
        // Started late: most steals succeed at the first look.
        let mut spin = None;
        loop {
            let seen = self.word.peek();
            if seen.up_for_grabs() {
                if self.word.steal(seen) {
                    cpu.event(Event::PvLockStealing);
                    return true;
                }
            } else if seen.pending() || seen.tail().is_none() {
                return false;
            }
            if !spin
                .get_or_insert_with(|| Spin::start::<P>(P::steal_budget()))
                .again::<P>()
            {
                return false;
            }
        }
    }

    /// At the queue's head: returns with the lock, and whether there are others behind.
    fn wait_as_head(&self, cpu: &PerCpu, me: &Claim) -> Queue {
        cpu.event(Event::LockSlowpath);
        let mut waited = false;
        loop {
            wake_up(me.node);
            if let Some(queue) = self.spin_as_head(me.id) {
                return queue;
            }
            let enters = match still_entered::<P>(me.node) {
                Entry::Entered => false,
                Entry::Never => true,
                // Not before the release: the lock would be marked SLOW twice, and released once. Relaxed:
                // by TAKEN_OUT we have acquired the SLOW that our releaser saw, and only we could set the
                // next. So what is not SLOW came with the release, or after it. If it is, we sleep: the
                // kick comes after the release, or has come and is latched.
                Entry::TakenOut => {
                    planted::<P>(Fault::EntersBeforeRelease) || self.word.peek().byte() != SLOW
                }
            };
            if enters && let Some(queue) = self.enter(cpu, me) {
                return queue;
            }
            cpu.event(Event::PvWaitHead);
            if waited {
                cpu.event(Event::PvWaitAgain);
            }
            waited = true;
            // Returns at once where the byte is not SLOW.
            halt::<P>(cpu, self.word.as_atomic(), BYTE, SLOW);
        }
    }

    /// The head enters itself in the hash, to be kicked. If it finds the lock free, it has taken it instead.
    fn enter(&self, cpu: &PerCpu, me: &Claim) -> Option<Queue> {
        let hops = P::lock_hash().insert(self.word.address(), me.id);
        cpu.event_add(Event::PvHashHops, hops);
        entered(me.node);
        if self.word.mark_slow() != 0 {
            return None;
        }
        // It was free, and is ours. SLOW has misled nobody: only our own unlock would act on it.
        self.word.unmark_slow();
        P::lock_hash().remove(self.word.address());
        never_mind(me.node);
        Some(if self.word.leave(me.id) {
            Queue::Empty
        } else {
            Queue::Longer
        })
    }

    /// Spins for the lock, with thieves locked out.
    fn spin_as_head(&self, me: NodeId) -> Option<Queue> {
        self.word.set_pending();
        let mut spin = Spin::start::<P>(P::spin_budget());
        loop {
            let seen = self.word.peek();
            if seen.byte() == 0 && self.word.take(seen, me) {
                return Some(if seen.tail() == Some(me) {
                    Queue::Empty
                } else {
                    Queue::Longer
                });
            }
            if !spin.again::<P>() {
                self.word.clear_pending();
                return None;
            }
        }
    }

    /// Makes `next` the head, on taking the lock.
    fn hand_over(&self, next: NodeId) {
        if make_head::<P>(next.get::<P>()) {
            // On its behalf. The order between the two does not matter: only our own unlock looks.
            let hops = P::lock_hash().insert(self.word.address(), next);
            P::per_cpu(P::this_cpu()).event_add(Event::PvHashHops, hops);
            self.word.mark_slow();
        }
    }

    #[cold]
    #[inline(never)]
    fn unlock_slow(&self) {
        // Whose node it is we must know before the release: after it the lock may not exist any more, and the
        // head may be anywhere.
        let head = P::lock_hash().remove(self.word.address());
        if P::head_sleeps_again() {
            taken_out(head.get::<P>());
        }
        self.word.unlock();
        kick::<P>(head.cpu());
    }
}

/// Whether the queue has members after its head has left.
#[derive(PartialEq, Eq)]
enum Queue {
    Empty,
    Longer,
}

impl<P: Platform> Default for PvQSpinlock<P> {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: the locked byte goes from 0 to something else only by a read-modify-write of the whole word that
// finds it 0 (`try_lock`, `steal`, `take`, `mark_slow`), and who does that is the holder; anybody else's
// read-modify-writes keep it, or turn LOCKED to SLOW. Only the holder's `unlock` makes it 0. So there is one
// holder at a time, and all of these ways acquire what the last unlock released. The guard is !Send and has
// no state; a forgotten one leaves the lock held. While others wait for the lock it is borrowed, so it is
// neither moved nor freed while its address is in the hash.
unsafe impl<P: Platform> RawMutex for PvQSpinlock<P> {
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
        if !self.word.try_unlock() {
            self.unlock_slow();
        }
    }

    #[inline]
    fn is_locked(&self) -> bool {
        self.word.peek().byte() != 0
    }
}

impl<P> fmt::Debug for PvQSpinlock<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PvQSpinlock").field(&self.word).finish()
    }
}
