//! How a waiter in a paravirtual queue and its predecessor agree on whether it sleeps.
//!
//! | state | the waiter |
//! |---|---|
//! | `RUNNING` | spins, as far as it depends on it |
//! | `HALTED` | sleeps, or is about to, and does not know that it is head |
//! | `HASHED` | is head, and is or is just being entered in the hash |
//! | `AWAKE` | the same, and spins nevertheless |
//! | `TAKEN_OUT` | is head, was entered in the hash, and is no longer |
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
            // Acquire: pairs with the Release in `make_head`. Being head orders nothing yet, taking the lock
            // does; Relaxed would do for both, but saves nothing.
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
        // failure: pairs with the Release in `make_head`. Who has seen HASHED must now see `locked`; else it
        // would go on waiting, and HALTED would overwrite HASHED.
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
    // Pairs with the fence in `wait_in_queue`.
    if !planted::<P>(Fault::NoFenceAfterHandOver) {
        fence(Ordering::SeqCst);
    }
    // The fence orders this look after the store. Release: pairs with the Acquire in `wait_in_queue`, so that
    // who sees HASHED sees `locked`.
    node.state
        .compare_exchange(HALTED, HASHED, Ordering::Release, Ordering::Relaxed)
        .is_ok()
}

/// Whether somebody else has entered this head in the hash, or is about to, or even has taken it out again.
pub(crate) fn entered_by_another(node: &Node) -> bool {
    // Relaxed: only a releaser changes the answer, from yes to yes.
    node.state.load(Ordering::Relaxed) != RUNNING
}

/// The head spins. If it is entered in the hash, the entry stays until a releaser takes it out.
pub(crate) fn wake_up(node: &Node) {
    // Relaxed: only the head and the one releaser change the state of an entered head, by read-modify-writes
    // of one word, so they agree on the order. What else the head must know, it learns in `still_entered`.
    let _ = node
        .state
        .compare_exchange(HASHED, AWAKE, Ordering::Relaxed, Ordering::Relaxed);
}

/// The head is about to sleep. Returns whether it is in the hash; if not, it never was, or has been taken
/// out.
pub(crate) fn still_entered(node: &Node) -> bool {
    // Acquire on failure: pairs with the Release in `taken_out`. Who was taken out sees SLOW in the lock
    // word, or what came after it.
    node.state
        .compare_exchange(AWAKE, HASHED, Ordering::Relaxed, Ordering::Acquire)
        .is_ok()
}

/// The head has entered itself. Relaxed: others look at the state only after they have seen SLOW, which is
/// set after this with Release; a predecessor that is late with looking, for HALTED, finds that in neither
/// case.
pub(crate) fn entered(node: &Node) {
    node.state.store(HASHED, Ordering::Relaxed);
}

/// The releaser has taken the head out of the hash. To be called before it releases the lock: until then the
/// head cannot get away, and its node is its node.
pub(crate) fn taken_out(node: &Node) {
    // Release: pairs with the Acquire in `still_entered`.
    node.state.swap(TAKEN_OUT, Ordering::Release);
}
