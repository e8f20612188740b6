//! MCS lock: a fair queue in which everybody spins on a line of its own.
//!
//! A waiter brings a node, and keeps it until it unlocks: there its successor's name arrives. Guards may be
//! dropped in any order, or never, so the nodes of a CPU are not a stack: a bitmap says which are in use, and
//! the guard remembers which one it has.
//!
//! A holder that found the lock free has no node. Its successor, which cannot be told through one, waits for
//! the lock's own `released` instead. So an uncontended lock costs one compare-and-swap and an unlock
//! another; and a CPU that is out of nodes can still wait for the lock to be free and take it like that, if
//! unfairly.
//!
//! ```text
//!   tail   0         free
//!          NO_NODE   held without a node, nobody waits
//!          a name    held, and this is the last waiter's node, or the holder's if nobody waits
//! ```

use core::fmt;
use core::marker::PhantomData;

use lock_api::{GuardNoSend, RawMutex};

use crate::events::Event;
use crate::percpu::PerCpu;
use crate::platform::{CpuId, Platform};
use crate::sync::{AtomicU32, Ordering, const_unless_loom, raw_mutex_init};
use crate::usage::SlowPath;

/// Nodes per CPU: for how many contended MCS locks it can hold or wait for at once.
pub(crate) const NODES: usize = 8;

const FREE: u32 = 0;
const NO_NODE: u32 = 1;

/// What a waiter is told through.
#[derive(Debug)]
pub(crate) struct McsNode {
    /// The node behind: an [`McsNodeId`], or 0 while nobody has said so.
    next: AtomicU32,
    /// 1 as soon as the lock is ours.
    locked: AtomicU32,
}

impl McsNode {
    const_unless_loom! {
        pub(crate) fn new() -> McsNode {
            McsNode { next: AtomicU32::new(0), locked: AtomicU32::new(0) }
        }
    }
}

/// A node's name: CPU + 1 and index, so more than [`NO_NODE`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct McsNodeId(u32);

impl McsNodeId {
    fn cpu(self) -> CpuId {
        CpuId::new(self.0 / NODES as u32 - 1)
    }

    fn index(self) -> usize {
        self.0 as usize % NODES
    }

    fn get<P: Platform>(self) -> &'static McsNode {
        &P::per_cpu(self.cpu()).mcs_nodes.0[self.index()]
    }

    /// Marks one of the CPU's nodes as in use.
    ///
    /// Unlike the nesting level of the queued locks this is a locked instruction: an interrupt handler that
    /// forgets a guard keeps a node, so what it does to the bitmap does not always cancel out. Contended
    /// locks only.
    fn claim(id: CpuId, cpu: &PerCpu) -> Option<McsNodeId> {
        let mut used = cpu.local.mcs_used.load(Ordering::Relaxed);
        loop {
            let index = used.trailing_ones();
            if index as usize == NODES {
                return None;
            }
            // Acquire: pairs with the Release in `free`; the earlier use of the node is over.
            match cpu.local.mcs_used.compare_exchange_weak(
                used,
                used | 1 << index,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some(McsNodeId((id.get() + 1) * NODES as u32 + index)),
                Err(now) => used = now,
            }
        }
    }

    fn free<P: Platform>(self) {
        // Release: pairs with the Acquire in `claim`.
        P::per_cpu(self.cpu())
            .local
            .mcs_used
            .fetch_and(!(1 << self.index()), Ordering::Release);
    }
}

/// What the holder of an [`Mcs`] must remember: its node, if it has one.
pub struct McsGuard {
    node: Option<McsNodeId>,
    _not_send: GuardNoSend,
}

impl McsGuard {
    fn new(node: Option<McsNodeId>) -> McsGuard {
        McsGuard {
            node,
            _not_send: GuardNoSend::new(),
        }
    }
}

/// An MCS lock.
pub struct Mcs<P> {
    tail: AtomicU32,
    /// 1 between the unlock of a holder without a node and its successor's noticing.
    released: AtomicU32,
    platform: PhantomData<fn() -> P>,
}

impl<P: Platform> Mcs<P> {
    const_unless_loom! {
        /// A free lock.
        pub fn new() -> Self {
            Mcs { tail: AtomicU32::new(FREE), released: AtomicU32::new(0), platform: PhantomData }
        }
    }

    #[inline]
    fn take(&self) -> bool {
        // Acquire: pairs with the Release of the unlock that made it FREE.
        self.tail
            .compare_exchange(FREE, NO_NODE, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    #[cold]
    #[inline(never)]
    fn lock_slow(&self) -> McsGuard {
        let _books = SlowPath::<P>::enter();
        let id = P::this_cpu();
        let cpu = P::per_cpu(id);
        let Some(me) = McsNodeId::claim(id, cpu) else {
            cpu.event(Event::LockNoNode);
            // Relaxed: `take` decides.
            while self.tail.load(Ordering::Relaxed) != FREE || !self.take() {
                P::relax();
            }
            return McsGuard::new(None);
        };
        cpu.event(Event::LockSlowpath);
        let node = me.get::<P>();
        // Relaxed: published by the Release that puts our name in the tail.
        node.next.store(0, Ordering::Relaxed);
        node.locked.store(0, Ordering::Relaxed);

        // Release publishes the node. Acquire: if it was FREE the lock is ours, and this pairs with the last
        // unlock; else it pairs with our predecessor's Release here, so that our store to its `next` comes
        // after its own.
        match self.tail.swap(me.0, Ordering::AcqRel) {
            FREE => {}
            NO_NODE => {
                // Acquire: pairs with the Release in `unlock`.
                while self.released.load(Ordering::Acquire) == 0 {
                    P::relax();
                }
                // Relaxed: the next one to look at it is the successor of a holder that found the lock free,
                // so after our unlock.
                self.released.store(0, Ordering::Relaxed);
            }
            predecessor => {
                // Release: pairs with the Acquires of `next` in `unlock`; our node is initialised.
                McsNodeId(predecessor)
                    .get::<P>()
                    .next
                    .store(me.0, Ordering::Release);
                // Acquire: pairs with the Release in `unlock`.
                while node.locked.load(Ordering::Acquire) == 0 {
                    P::relax();
                }
            }
        }
        McsGuard::new(Some(me))
    }

    #[inline(never)]
    fn unlock_node(&self, me: McsNodeId) {
        let node = me.get::<P>();
        // Acquire, here and below: pairs with the Release in `lock_slow`; the successor's node is initialised
        // before we write to it.
        let mut next = node.next.load(Ordering::Acquire);
        // Release: pairs with the Acquires that take a FREE lock.
        if next == 0
            && self
                .tail
                .compare_exchange(me.0, FREE, Ordering::Release, Ordering::Relaxed)
                .is_err()
        {
            // Somebody is behind us, but has not yet said who.
            while next == 0 {
                P::relax();
                next = node.next.load(Ordering::Acquire);
            }
        }
        if next != 0 {
            // Release: pairs with the Acquire of `locked` in `lock_slow`. From here on the lock may not exist
            // any more.
            McsNodeId(next).get::<P>().locked.store(1, Ordering::Release);
        }
        me.free::<P>();
    }
}

impl<P: Platform> Default for Mcs<P> {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: the tail goes from FREE to something else in one atomic step, which makes one CPU the holder.
// Everybody who changes it after that gets a different predecessor, and holds the lock when exactly this
// predecessor, by its unlock, has told it: through its own node, or through `released`, of which there is one
// reader at a time because only the first in the queue can have a predecessor without a node. Each unlock
// tells one successor or makes the tail FREE. Telling is Release and being told is Acquire, so critical
// sections are ordered. The guard is !Send. A node is in use from `claim` until the unlock that the guard
// stands for, so a forgotten guard leaves the lock held and its node unused for ever, and never shared.
// Moving or dropping a held lock that nobody waits for is fine: nothing points to a lock.
unsafe impl<P: Platform> RawMutex for Mcs<P> {
    raw_mutex_init!();
    type Guard = McsGuard;

    #[inline]
    fn lock(&self) -> McsGuard {
        if self.take() {
            McsGuard::new(None)
        } else {
            self.lock_slow()
        }
    }

    #[inline]
    fn try_lock(&self) -> Option<McsGuard> {
        self.take().then(|| McsGuard::new(None))
    }

    #[inline]
    unsafe fn unlock(&self, guard: McsGuard) {
        if let Some(me) = guard.node {
            self.unlock_node(me);
        // Release: pairs with the Acquires that take a FREE lock.
        } else if self
            .tail
            .compare_exchange(NO_NODE, FREE, Ordering::Release, Ordering::Relaxed)
            .is_err()
        {
            // Release: pairs with the Acquire of `released`. The successor waits for it, so the lock still
            // exists.
            self.released.store(1, Ordering::Release);
        }
    }

    #[inline]
    fn is_locked(&self) -> bool {
        self.tail.load(Ordering::Relaxed) != FREE
    }
}

impl<P> fmt::Debug for Mcs<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mcs(")?;
        match self.tail.load(Ordering::Relaxed) {
            FREE => f.write_str("free")?,
            NO_NODE => f.write_str("held")?,
            tail => write!(f, "tail {tail:#x}")?,
        }
        f.write_str(")")
    }
}
