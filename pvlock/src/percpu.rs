//! What the locks keep for every CPU.

use core::sync::atomic::{AtomicU32 as LocalU32, AtomicU64};

use crate::barrier::Seat;
use crate::events::Event;
use crate::mcs::McsNode;
use crate::node::{LEVELS, Node};
use crate::sync::{Ordering, const_unless_loom};

/// The locks' data of one CPU. The platform makes one for each and finds it by number
/// ([`Platform::per_cpu`](crate::Platform::per_cpu)).
///
/// ```text
///                                                        written by this CPU, and by
///   line 0    four queue nodes, one a nesting level      neighbours in a queue, releasers of the lock
///   line 1    MCS nodes                                  neighbours in a queue
///   line 2    barrier seat, time of the last kick        kickers
///   line 3..  nesting level, MCS bitmap, counters        nobody else
/// ```
///
/// (An MCS lock that is released on another CPU than it was taken on, which no kernel does, writes the bitmap
/// from there.)
#[derive(Debug)]
#[repr(C, align(64))]
pub struct PerCpu {
    pub(crate) nodes: NodeLine,
    pub(crate) mcs_nodes: McsLine,
    pub(crate) seat: Seat,
    /// When this CPU was last kicked by an unlock; 0 if not since its last sleep began.
    pub(crate) kicked_at: AtomicU64,
    pub(crate) local: Local,
}

/// A cache line of queue nodes.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct NodeLine(pub(crate) [Node; LEVELS]);

/// A cache line of MCS nodes.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct McsLine(pub(crate) [McsNode; crate::mcs::NODES]);

/// What only this CPU writes, in any of its contexts, except as said at [`PerCpu`].
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Local {
    /// How many queue nodes are in use.
    pub(crate) nesting: LocalU32,
    /// Which MCS nodes are in use, a bit each.
    pub(crate) mcs_used: LocalU32,
    events: [Counter; Event::ALL.len()],
    pub(crate) spin_cycles: Counter,
    pub(crate) halted_cycles: Counter,
    pub(crate) halts: Counter,
    pub(crate) kicks: Counter,
}

#[cfg(not(loom))]
const _: () = {
    assert!(size_of::<NodeLine>() == 64);
    assert!(size_of::<McsLine>() == 64);
    assert!(core::mem::offset_of!(PerCpu, seat) == 128);
    assert!(core::mem::offset_of!(PerCpu, local) == 192);
};

impl PerCpu {
    const_unless_loom! {
        /// The data of a CPU that has used no lock yet.
        pub fn new() -> PerCpu {
            PerCpu {
                nodes: NodeLine([Node::new(), Node::new(), Node::new(), Node::new()]),
                mcs_nodes: McsLine([
                    McsNode::new(), McsNode::new(), McsNode::new(), McsNode::new(),
                    McsNode::new(), McsNode::new(), McsNode::new(), McsNode::new(),
                ]),
                seat: Seat::new(),
                kicked_at: AtomicU64::new(0),
                local: Local {
                    nesting: LocalU32::new(0),
                    mcs_used: LocalU32::new(0),
                    events: [const { Counter::new() }; Event::ALL.len()],
                    spin_cycles: Counter::new(),
                    halted_cycles: Counter::new(),
                    halts: Counter::new(),
                    kicks: Counter::new(),
                },
            }
        }
    }

    /// How often `event` has happened on this CPU, or the sum of its cycles. Never reset: take differences.
    pub fn count(&self, event: Event) -> u64 {
        self.local.events[event as usize].get()
    }

    /// What waiting has cost this CPU. Never reset: take differences.
    pub fn usage(&self) -> Usage {
        Usage {
            spin_cycles: self.local.spin_cycles.get(),
            halted_cycles: self.local.halted_cycles.get(),
            halts: self.local.halts.get(),
            kicks: self.local.kicks.get(),
        }
    }

    /// Models only: from now on the CPU is out of queue nodes, as if four contexts had them.
    #[cfg(loom)]
    #[doc(hidden)]
    pub fn occupy_nodes(&self) {
        self.local.nesting.store(LEVELS as u32, Ordering::Relaxed);
    }

    pub(crate) fn event(&self, event: Event) {
        self.event_add(event, 1);
    }

    pub(crate) fn event_add(&self, event: Event, amount: u64) {
        self.local.events[event as usize].add(amount);
    }
}

impl Default for PerCpu {
    fn default() -> PerCpu {
        PerCpu::new()
    }
}

/// What waiting for locks has cost a CPU. All locks count this, but only on their slow paths and in kicks;
/// barriers do not.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Usage {
    /// Cycles on the slow paths of locks outside of [`Platform::wait`](crate::Platform::wait), with what
    /// interrupted them.
    pub spin_cycles: u64,
    /// Cycles in [`Platform::wait`](crate::Platform::wait).
    pub halted_cycles: u64,
    /// Calls of [`Platform::wait`](crate::Platform::wait). There is none if what would be waited for is there
    /// already.
    pub halts: u64,
    /// Calls of [`Platform::kick`](crate::Platform::kick) by this CPU.
    pub kicks: u64,
}

/// A statistic that one CPU writes and any CPU may read at any time.
///
/// Adding is a load and a store, not a locked instruction: nobody else writes. An interrupt handler that
/// counts between the two loses what it counted. That is accepted: nothing but reports depends on counters,
/// and the compiler makes the pair one `add` to memory on x86-64, which an interrupt cannot split.
#[derive(Debug)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    const fn new() -> Counter {
        Counter(AtomicU64::new(0))
    }

    #[inline]
    pub(crate) fn add(&self, amount: u64) {
        // Relaxed, here and in `get`: the value stands for itself, and readers infer nothing from it about
        // other memory. A reader that needs exact totals synchronises with the CPU by other means (it joins
        // it).
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(amount),
            Ordering::Relaxed,
        );
    }

    #[inline]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
