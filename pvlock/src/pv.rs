//! The paravirtual queued spin lock: Linux's algorithm. A waiter that has spun long enough sleeps, and is kicked when there is
//! something for it to do; a newcomer may steal the lock while the head of the queue sleeps.
//!
//! ```text
//!            steal: byte 0, pending clear
//!   newcomer ────────────────────────────────────────────────────────────────┐
//!      │ join                                                                │
//!      ├─────────────── queue was empty ─────────┐                           ▼
//!      ▼                                         ▼        byte 0          holder
//!   waiter: spins on its node ── made head ──► head: spins, pending set ───► ▲
//!      │ ▲                                       │  ▲                        │
//!      ▼ │ woken, not head                       ▼  │ woken                  │
//!   HALTED: sleeps ── made head ── HASHED ──►  HASHED: in the hash, byte SLOW, sleeps, pending clear
//! ```
//!
//! # Node states
//!
//! `RUNNING`: the waiter spins. `HALTED`: it sleeps, or is about to, and is not head as far as it knows. `HASHED`: it is head and its
//! lock is, or is just being, entered in the hash.
//!
//! A holder that makes a sleeper the head does not wake it; what could it do but sleep again? It changes its state HALTED →
//! HASHED, enters it in the hash and marks the lock SLOW. Its unlock then does the only kick. A head that sleeps by its own
//! decision enters itself, once for each acquisition, and is HASHED, not HALTED, so that its predecessor, if that is late with looking
//! whether to enter it, does not do it a second time.
//!
//! Once is Linux's rule: when a thief has the lock by the time that the kicked head runs, the byte is LOCKED and not SLOW, so
//! the head does not sleep again, but spins on and on, with thieves locked out for as long as each budget lasts.
//!
//! # Why no wake-up is lost
//!
//! *A waiter behind the head* sleeps while its state is HALTED. The one who makes it head is its predecessor, by the store
//! `locked = 1` and then a look at `state`; the waiter stores `state = HALTED` and then looks at `locked`. Each has a full fence
//! between the store and the look, so at least one sees the other's store. If the waiter sees `locked` it does not sleep. If the predecessor
//! sees HALTED, it turns it to HASHED, and the waiter counts as a sleeping head, whether it really sleeps or not.
//!
//! *A sleeping head* is one that the lock's holder knows through SLOW: set by the holder itself (for a HASHED successor), or by
//! the head while the byte was not 0, in one atomic step, that is while somebody held the lock who has yet to release it. The only way from SLOW
//! to 0 is the slow half of `unlock`, which finds the entry (made before SLOW was), clears the byte, and then kicks. A head
//! looks at the byte in `wait` before it sleeps; either it sees that it is not SLOW, or the kick is still to come and `wait` returns then.
//! A kick that comes while the head does not sleep is latched and costs one spurious return of a later `wait`.
//!
//! *Spurious returns* are harmless: every sleep is in a loop that looks at `locked`, or at the byte, again. A woken waiter changes its
//! state HALTED → RUNNING only by compare-and-swap: HASHED stays, because it must not enter itself again.

use core::fmt;
use core::marker::PhantomData;

use lock_api::{GuardNoSend, RawMutex};

use crate::budget::Spin;
use crate::events::Event;
use crate::fault::{Fault, planted};
use crate::node::{Claim, Node, NodeId};
use crate::percpu::PerCpu;
use crate::platform::Platform;
use crate::sync::{Ordering, const_unless_loom, fence, raw_mutex_init};
use crate::usage::{SlowPath, halt, kick};
use crate::word::{BYTE, LockWord, SLOW};

/// Values of [`Node::state`].
const RUNNING: u32 = 0;
const HALTED: u32 = 1;
const HASHED: u32 = 2;

/// A waiter looks every so many turns whether the one ahead of it still runs.
const LOOK_AHEAD_TURNS: u32 = 256;

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
        // Relaxed: the predecessor makes the entry under this lock's protection; we only need to know that it does.
        let mut hashed = me.node.state.load(Ordering::Relaxed) == HASHED;
        let mut slept = false;
        loop {
            // Relaxed: for the successor's `ahead_runs`, a hint. The predecessor, if it is yet to look, looks for HALTED.
            me.node.state.store(RUNNING, Ordering::Relaxed);
            if let Some(queue) = self.spin_as_head(me.id) {
                return queue;
            }
            if !hashed {
                hashed = true;
                let hops = P::lock_hash().insert(self.word.address(), me.id);
                cpu.event_add(Event::PvHashHops, hops);
                if self.word.mark_slow() == 0 {
                    // It was free, and is ours. SLOW has misled nobody: only our own unlock would act on it.
                    self.word.unmark_slow();
                    P::lock_hash().remove(self.word.address());
                    return if self.word.leave(me.id) {
                        Queue::Empty
                    } else {
                        Queue::Longer
                    };
                }
            }
            // Relaxed, as above.
            me.node.state.store(HASHED, Ordering::Relaxed);
            cpu.event(Event::PvWaitHead);
            if slept {
                cpu.event(Event::PvWaitAgain);
            }
            slept = true;
            halt::<P>(cpu, self.word.as_atomic(), BYTE, SLOW);
        }
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
        let node = next.get::<P>();
        // Release: pairs with the Acquire in `wait_in_queue`. The node stays in its queue, whatever its owner does, until we
        // release the lock.
        node.locked.store(1, Ordering::Release);
        // Pairs with the fence in `wait_in_queue`: see "Why no wake-up is lost".
        if !planted::<P>(Fault::NoFenceAfterHandOver) {
            fence(Ordering::SeqCst);
        }
        // Relaxed: the fence orders it after the store; and the waiter that finds HASHED infers nothing from it, but that it need
        // not enter itself.
        if node
            .state
            .compare_exchange(HALTED, HASHED, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
        {
            // On its behalf. The order between the two does not matter: only our own unlock looks.
            let hops = P::lock_hash().insert(self.word.address(), next);
            P::per_cpu(P::this_cpu()).event_add(Event::PvHashHops, hops);
            self.word.mark_slow();
        }
    }

    #[cold]
    #[inline(never)]
    fn unlock_slow(&self) {
        // Whose node it is we must know before the release: after it the lock may not exist any more, and the head may be
        // anywhere.
        let head = P::lock_hash().remove(self.word.address());
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

/// Waits behind `ahead` to become the queue's head.
fn wait_in_queue<P: Platform>(cpu: &PerCpu, node: &Node, ahead: NodeId) {
    loop {
        let mut spin = Spin::start::<P>(P::spin_budget());
        let early = loop {
            // Acquire: pairs with the Release in `hand_over`.
            if node.locked.load(Ordering::Acquire) != 0 {
                return;
            }
            if spin.turns().is_multiple_of(LOOK_AHEAD_TURNS) && !runs::<P>(ahead) {
                break true;
            }
            if !spin.again::<P>() {
                break false;
            }
        };

        // Relaxed: the fence orders it before the look. It pairs with the fence in `hand_over`: see "Why no wake-up is lost".
        node.state.store(HALTED, Ordering::Relaxed);
        if !planted::<P>(Fault::NoFenceBeforeSleep) {
            fence(Ordering::SeqCst);
        }
        // Relaxed: an Acquire look follows before anything depends on it.
        if node.locked.load(Ordering::Relaxed) == 0 {
            cpu.event(Event::PvWaitNode);
            if early {
                cpu.event(Event::PvWaitEarly);
            }
            halt::<P>(cpu, &node.state, !0, HALTED);
        }
        // Not from HASHED: see "Spurious returns". Relaxed: the value is all that matters, and the predecessor's look is also a
        // read-modify-write, so they agree on which came first.
        let _ = node
            .state
            .compare_exchange(HALTED, RUNNING, Ordering::Relaxed, Ordering::Relaxed);
        if node.locked.load(Ordering::Relaxed) == 0 {
            cpu.event(Event::PvSpuriousWakeup);
        }
    }
}

/// Whether the waiter ahead gets on with it. If it does not, we shall wait for long. A hint: the node may have another use
/// by now, so Relaxed.
fn runs<P: Platform>(ahead: NodeId) -> bool {
    ahead.get::<P>().state.load(Ordering::Relaxed) == RUNNING && !P::vcpu_is_preempted(ahead.cpu())
}

impl<P: Platform> Default for PvQSpinlock<P> {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: the locked byte goes from 0 to something else only by a read-modify-write of the whole word that finds it 0 (`try_lock`, `steal`,
// `take`, `mark_slow`), and who does that is the holder; anybody else's read-modify-writes keep it, or turn LOCKED to SLOW. Only
// the holder's `unlock` makes it 0. So there is one holder at a time, and all of these ways acquire what the last unlock released.
// The guard is !Send and has no state; a forgotten one leaves the lock held. While others wait for the lock it is borrowed, so
// it is neither moved nor freed while its address is in the hash.
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
