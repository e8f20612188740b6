//! Queue nodes: every CPU has four, one for each context that may nest on it (task, soft interrupt, hard
//! interrupt, NMI).
//!
//! A waiter needs a node only until it has the lock, so the nodes of a CPU are a stack and a counter manages
//! them. Guards know nothing of nodes: safe code may forget them or drop them in any order.

use core::fmt;
use core::sync::atomic::compiler_fence;

use crate::events::Event;
use crate::percpu::PerCpu;
use crate::platform::{CpuId, Platform};
use crate::sync::{AtomicU32, Ordering, const_unless_loom};

/// Nodes per CPU.
pub(crate) const LEVELS: usize = 4;

/// A node's name: what stands in the tail of a lock word and in other nodes' `next`. Never 0, which is
/// "none".
///
/// ```text
///    15                 2 1     0
///   +--------------------+-------+
///   |      CPU + 1       | level |
///   +--------------------+-------+
/// ```
///
/// Names instead of pointers: they fit in the lock word, and looking one up is safe.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct NodeId(u32);

impl NodeId {
    /// Wide enough for every name.
    pub(crate) const BITS: u32 = 16;

    fn new(cpu: CpuId, level: usize) -> NodeId {
        NodeId((cpu.get() + 1) << 2 | level as u32)
    }

    /// The node named so, if it is not "none".
    #[inline]
    pub(crate) fn from_raw(raw: u32) -> Option<NodeId> {
        (raw != 0).then_some(NodeId(raw))
    }

    /// The number.
    #[inline]
    pub(crate) fn raw(self) -> u32 {
        self.0
    }

    /// Whose node it is.
    #[inline]
    pub(crate) fn cpu(self) -> CpuId {
        CpuId::new((self.0 >> 2) - 1)
    }

    /// The node itself.
    #[inline]
    pub(crate) fn get<P: Platform>(self) -> &'static Node {
        &P::per_cpu(self.cpu()).nodes.0[(self.0 & 3) as usize]
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Wrapping: a corrupt word must not spoil the message about it.
        write!(f, "cpu {} level {}", (self.0 >> 2).wrapping_sub(1), self.0 & 3)
    }
}

const _: () = assert!((CpuId::LIMIT << 2 | (LEVELS as u32 - 1)) >> NodeId::BITS == 0);

/// A place in a lock's queue.
#[derive(Debug)]
#[repr(align(16))]
pub(crate) struct Node {
    /// Who waits behind: a [`NodeId`], or 0 while nobody has said so.
    pub(crate) next: AtomicU32,
    /// 1 as soon as this node is the queue's head.
    pub(crate) locked: AtomicU32,
    /// What the waiter is doing; paravirtual locks only. See [`crate::handshake`].
    pub(crate) state: AtomicU32,
}

impl Node {
    const_unless_loom! {
        pub(crate) fn new() -> Node {
            // In models, what an earlier use may have left: CPU 0 behind it, and made head.
            let (next, locked) = if cfg!(loom) { (4, 1) } else { (0, 0) };
            Node { next: AtomicU32::new(next), locked: AtomicU32::new(locked), state: AtomicU32::new(0) }
        }
    }
}

/// A node in use: from joining a queue until the lock is ours.
pub(crate) struct Claim {
    cpu: &'static PerCpu,
    pub(crate) id: NodeId,
    pub(crate) node: &'static Node,
}

impl Claim {
    /// The CPU's next node, with nobody behind it and not head; or `None` if four contexts on this CPU are in
    /// queues.
    pub(crate) fn take(cpu_id: CpuId, cpu: &'static PerCpu) -> Option<Claim> {
        // Relaxed load and store suffice: only this CPU writes it, and whatever interrupts us between the two
        // puts it back to what we loaded before we go on (a promise of `Platform`, kept by `drop`).
        let level = cpu.local.nesting.load(Ordering::Relaxed) as usize;
        let node = cpu.nodes.0.get(level)?;
        cpu.local.nesting.store(level as u32 + 1, Ordering::Relaxed);
        // The node must be ours before it is touched: an interrupt handler after the store takes the next
        // node, one before it takes this node and is done with it. The CPU keeps its own order; the compiler
        // is told to.
        compiler_fence(Ordering::SeqCst);

        match level {
            0 => {}
            1 => cpu.event(Event::LockUseNode2),
            2 => cpu.event(Event::LockUseNode3),
            _ => cpu.event(Event::LockUseNode4),
        }
        // Relaxed: published by the Release that puts our name in the tail (`LockWord::join`). All that
        // others wrote here for an earlier use happened before: the predecessor, and the releaser that took
        // us out of the hash, wrote before this CPU got that lock; the successor's name was waited for. (The
        // successor may still look at `state`, for a hint.)
        node.next.store(0, Ordering::Relaxed);
        node.locked.store(0, Ordering::Relaxed);
        Some(Claim {
            cpu,
            id: NodeId::new(cpu_id, level),
            node,
        })
    }

    /// Makes this node known to the one `ahead` of it.
    pub(crate) fn link_behind<P: Platform>(&self, ahead: NodeId) {
        // Release: pairs with the Acquire in `wait_for_next`; our node is initialised.
        ahead.get::<P>().next.store(self.id.raw(), Ordering::Release);
    }

    /// The node behind this one, which has joined, but may not have said so yet.
    pub(crate) fn wait_for_next<P: Platform>(&self) -> NodeId {
        loop {
            // Acquire: pairs with the Release in `link_behind`; what we do to the successor's node comes
            // after its initialisation.
            if let Some(next) = NodeId::from_raw(self.node.next.load(Ordering::Acquire)) {
                return next;
            }
            P::relax();
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // After the last use of the node, for the same reason as above.
        compiler_fence(Ordering::SeqCst);
        let nesting = self.cpu.local.nesting.load(Ordering::Relaxed);
        self.cpu.local.nesting.store(nesting - 1, Ordering::Relaxed);
    }
}
