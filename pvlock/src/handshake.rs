//! How a waiter in a paravirtual queue and its predecessor agree on whether it sleeps.
//!
//! | state | the waiter |
//! |---|---|
//! | `RUNNING` | spins, as far as it depends on it; if it is head, it was never entered in the hash |
//! | `HALTED` | sleeps, or is about to, and does not know that it is head |
//! | `HASHED` | is head, and is or is just being entered in the hash |
//! | `AWAKE` | the same, and spins nevertheless |
//! | `TAKEN_OUT` | is head, was entered in the hash, and is no longer; not used unless it may enter itself again |
//!
//! The waiter stores `state = HALTED` and then looks at `locked`. The predecessor, to make it head, stores
//! `locked = 1` and then looks at `state`. Each has a full fence between the store and the look, so at least
//! one sees the other's store:
//!
//! - If the waiter sees `locked`, it does not sleep.
//! - If the predecessor sees HALTED, it turns that to HASHED, and the waiter counts as a sleeping head,
//!   whether it really sleeps or not. The releaser of the lock will kick it, which ends its sleep on `state`
//!   like one on the lock word.
//! - If both see the other's store, one of the two compare-and-swaps on `state` comes first: then the waiter
//!   is either RUNNING for both, or HASHED for both.

use crate::budget::Spin;
use crate::events::Event;
use crate::fault::{Fault, planted};
use crate::node::{Node, NodeId};
use crate::percpu::PerCpu;
use crate::platform::Platform;
use crate::sync::{Ordering, fence};
use crate::usage::halt;

pub(crate) const RUNNING: u32 = 0;
const HALTED: u32 = 1;
pub(crate) const HASHED: u32 = 2;
const AWAKE: u32 = 3;
const TAKEN_OUT: u32 = 4;

/// A waiter looks every so many turns whether the one ahead of it still runs.
const LOOK_AHEAD_TURNS: u32 = 256;

/// Waits behind `ahead` to become the queue's head.
pub(crate) fn wait_in_queue<P: Platform>(cpu: &PerCpu, node: &Node, ahead: NodeId) {
    loop {
        let mut spin = Spin::start::<P>(P::spin_budget());
        let early = loop {
            // Acquire: pairs with the Release in `make_head`. What we do to the lock word as its head comes
            // after our predecessor's taking of the lock.
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

        // Relaxed: the fence orders it before the look, and pairs with the fence in `make_head`.
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
        // HASHED stays: a head that is entered must not enter itself again. Success Relaxed: the
        // predecessor's look is also a read-modify-write, so the two agree on which came first. Acquire on
        // failure: pairs with the fence in `make_head`, or, if TAKEN_OUT has come after HASHED, with the
        // Release in `taken_out`. Who has seen either must now see `locked`; else it would go on waiting, and
        // HALTED would overwrite it.
        let _ = node
            .state
            .compare_exchange(HALTED, RUNNING, Ordering::Relaxed, Ordering::Acquire);
        if node.locked.load(Ordering::Relaxed) == 0 {
            cpu.event(Event::PvSpuriousWakeup);
        }
    }
}

/// Whether the waiter ahead gets on with it. If it does not, we shall wait for long. A hint: the node may
/// have another use by now, so Relaxed.
fn runs<P: Platform>(ahead: NodeId) -> bool {
    let state = ahead.get::<P>().state.load(Ordering::Relaxed);
    !matches!(state, HALTED | HASHED) && !P::vcpu_is_preempted(ahead.cpu())
}

/// Makes a waiter the head. Returns whether it sleeps, and must be entered in the hash by the caller.
pub(crate) fn make_head<P: Platform>(node: &Node) -> bool {
    // Release: pairs with the Acquire in `wait_in_queue`. The node stays in its queue, whatever its owner
    // does, until we release the lock.
    node.locked.store(1, Ordering::Release);
    // The hand-over's fence. Against the waiter's (in `wait_in_queue`) it orders the look below after the
    // store above. It also makes a Release of the change to HASHED, so that who sees that sees `locked`.
    if !planted::<P>(Fault::NoFenceAfterHandOver) {
        fence(Ordering::SeqCst);
    }
    // Relaxed: the fence does it.
    node.state
        .compare_exchange(HALTED, HASHED, Ordering::Relaxed, Ordering::Relaxed)
        .is_ok()
}

/// Whether a head is in the hash.
pub(crate) enum Entry {
    /// It has not been, for this acquisition.
    Never,
    /// It is, or is just being entered by the lock's holder.
    Entered,
    /// It was.
    TakenOut,
}

/// The head spins. If it is entered in the hash, the entry stays until a releaser takes it out.
pub(crate) fn wake_up(node: &Node) {
    // Relaxed: while a head is entered, only itself and the releaser change its state: it by
    // read-modify-write and from HASHED or AWAKE, so that TAKEN_OUT stays, whichever comes first. What a
    // head that was taken out must know, it learns in `still_entered`.
    let _ = node
        .state
        .compare_exchange(HASHED, AWAKE, Ordering::Relaxed, Ordering::Relaxed);
}

/// The head, awake, is about to sleep: is it in the hash? If so, it counts as asleep again.
pub(crate) fn still_entered<P: Platform>(node: &Node) -> Entry {
    // Acquire on failure: pairs with the Release in `taken_out`. Who was taken out sees, in the lock word,
    // the SLOW that its releaser saw, or what came after that.
    let failure = if planted::<P>(Fault::LooksUnordered) {
        Ordering::Relaxed
    } else {
        Ordering::Acquire
    };
    match node
        .state
        .compare_exchange(AWAKE, HASHED, Ordering::Relaxed, failure)
    {
        Ok(_) => Entry::Entered,
        Err(TAKEN_OUT) => Entry::TakenOut,
        Err(state) => {
            debug_assert!(state == RUNNING);
            Entry::Never
        }
    }
}

/// The head has entered itself. Relaxed: the releaser, which changes the state next, has seen SLOW, and
/// that is set after this with Release. A predecessor may be so late that it has yet to look at the state;
/// but it looks for HALTED, and finds that neither before this nor after.
pub(crate) fn entered(node: &Node) {
    node.state.store(HASHED, Ordering::Relaxed);
}

/// The head has entered itself, but found the lock free, and has taken itself out. Relaxed: it is seen as a
/// hint, by a successor that wants to know whether the head [`runs`].
pub(crate) fn never_mind(node: &Node) {
    node.state.store(RUNNING, Ordering::Relaxed);
}

/// The releaser has taken the head out of the hash. To be called before it releases the lock: until then the
/// head cannot get the lock, and so cannot use its node for anything else.
pub(crate) fn taken_out(node: &Node) {
    // A plain store: if the head turns HASHED to AWAKE or back at the same time, then either before this,
    // which overwrites it, or in vain. Release: pairs with the Acquires in `still_entered` and
    // `wait_in_queue`.
    node.state.store(TAKEN_OUT, Ordering::Release);
}
