//! Compaction: pages that can be moved are gathered at one end of a zone, so that large blocks become free at
//! the other.
//!
//! # Two scanners
//!
//! One looks for pages to move and climbs, the other looks for frames to move them to and descends. They go
//! by pageblocks, never back, and are done when they meet:
//!
//! ```text
//!   pageblock  0        1        2        3        4        5        6        7
//!            +--------+--------+--------+--------+--------+--------+--------+--------+
//!            |        |        |m  m   m|  m  m  | U   m  | m     m|mmmmmmmm|mmmmmmmm|
//!            +--------+--------+--------+--------+--------+--------+--------+--------+
//!             emptied: free     ▲ migrate scanner ──►        ◄── free scanner ▲  filled
//!             blocks            │                                             │
//!                               └── its pages, a batch ──── migrate ────► its free frames
//!
//!   m  page that can be moved     U  frame that cannot: its pageblock stays as it is, but for the m
//! ```
//!
//! `Pass::migrate` is the first pageblock that the migrate scanner has not looked at, `Pass::free` the first
//! that the free scanner has, and `migrate <= free` always. So no frame is a source and a target in one pass,
//! and a pass looks at each pageblock once.
//!
//! - The migrate scanner needs no lock. What it finds is a hint until the page's user has
//!   [isolated](crate::Movable::isolate) it, which takes a reference.
//! - The free scanner takes frames from their lists under the lock of the zone, as single frames that are
//!   [`Allocated`](crate::Kind::Allocated), but never so many that the zone falls below its minimum; what is
//!   left of them in the end goes back. It takes them only where movable memory belongs, and not from blocks
//!   that are as large as a pageblock: those are what compaction is for.
//! - Both leave a [hint](crate::Pageblock::skip) at a pageblock where they found nothing, and skip those with
//!   one, until hints are reset: by the daemon after a direct compaction that got to the end, and when a
//!   deferred zone is tried again. Where both have been is remembered for the next pass.
//!
//! # Control
//!
//! ```text
//!   alloc, may compact     kcompactd     compact_proactively     compact_memory
//!      │ Fragmented          │ wanted        │ score above mark     │
//!      └──────────┬──────────┘               │                      │
//!                 ▼                          │                      │
//!             deferred? ── yes ──► Deferred  │                      │
//!                 │ no                       │                      │
//!             suitable? ── no ───► Skipped   │                      │
//!                 │ yes: memory enough, and  │                      │
//!                 ▼ in pieces                ▼                      ▼
//!   Pass::run ┌───────────────────────────────────────────────────────────────┐
//!             │ finished? ────────────────────────────────────────────────────┼─► Success: goal reached
//!             │    │ no       ▲ drain this CPU                                │   Complete, PartialSkipped:
//!             │    ▼          │                                               │     the scanners have met
//!             │ isolate pages ──► isolate frames ──► migrate, up to 10 times  │   Contended: no frames
//!             │                                      the rest: put back       │
//!             └───────────────────────────────────────────────────────────────┘
//!   Success          deferral ends, when the block has been allocated
//!   PartialSkipped   an allocation makes another pass, a whole one and without hints; kcompactd defers
//!   Complete         defer: of the next attempts one in 2 is made, in 4, … in 64
//! ```
//!
//! # Where things are
//!
//! `pass`: the loop. `scan`: the scanners. `batch`: pages that the migrate scanner took, `targets`: frames that
//! the free scanner took. `migrate`: a batch of moves. `progress`: what a zone remembers between passes. `defer`:
//! when not to try. `fragmentation`: how bad it is, as indices and a score, and whether compaction can help.
//! `direct`, `daemon`: who compacts.

mod batch;
mod daemon;
mod defer;
mod direct;
mod fragmentation;
mod migrate;
mod pass;
mod progress;
mod scan;
mod targets;

pub(crate) use daemon::Kcompactd;
pub(crate) use progress::Progress;

use pass::Pass;

use crate::allocator::PageAllocator;
use crate::order::Order;
use crate::platform::Platform;
use crate::request::Effort;
use crate::zone::Zone;
use crate::zone_kind::ZoneKind;

/// How compaction went: Linux's `compact_result`, and its order, by which the best of several zones is the
/// greatest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum CompactResult {
    /// It was not tried: too little is free to work with, or what is free is not in small pieces.
    Skipped,
    /// It was not tried, because it failed lately.
    Deferred,
    /// The scanners have met, and have looked at all of the zone.
    Complete,
    /// The scanners have met, having started where an earlier pass ended, or skipped pageblocks with hints.
    PartialSkipped,
    /// It was given up: others need the memory that pages were to be moved to.
    Contended,
    /// There is what was wanted.
    Success,
}

/// When a pass has done enough.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Goal {
    /// When a block of this order can be allocated with this effort.
    Block(Order, Effort),
    /// When the score of the zone is no greater than this.
    Score(u32),
    /// Not before the scanners meet.
    All,
}

/// On whose behalf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum By {
    /// An allocation, or somebody who asked for it.
    Caller,
    /// The daemon.
    Daemon,
}

/// What a pass is to do: the part of Linux's `compact_control` that does not change.
#[derive(Clone, Copy, Debug)]
struct Control {
    goal: Goal,
    by: By,
    /// From end to end, whatever earlier passes and hints say.
    whole: bool,
}

impl<P: Platform> PageAllocator<P> {
    /// Compacts a zone until it has a free block of `order` above its watermark. Whoever calls this may wait,
    /// in task context, with no lock held.
    pub fn compact_zone(&self, zone: ZoneKind, order: Order) -> CompactResult {
        let control = Control {
            goal: Goal::Block(order, Effort::Ordinary),
            by: By::Caller,
            whole: false,
        };
        self.compact(self.zone(zone), control)
    }

    /// Compacts all zones from end to end: Linux's `/proc/sys/vm/compact_memory`. May wait, as
    /// [`compact_zone`](PageAllocator::compact_zone).
    pub fn compact_memory(&self) {
        let control = Control {
            goal: Goal::All,
            by: By::Caller,
            whole: true,
        };
        for zone in self.populated() {
            self.compact(zone, control);
        }
    }

    fn compact(&self, zone: &Zone<P>, control: Control) -> CompactResult {
        debug_assert!(self.platform.may_wait(), "memory compacted where nobody may wait");
        if zone.is_empty() {
            return CompactResult::Skipped;
        }
        if let Goal::Block(order, effort) = control.goal {
            if self.available(zone, order, effort) {
                return CompactResult::Success;
            }
            if !self.suitable(zone, order) {
                return CompactResult::Skipped;
            }
            if zone.progress.deferral.restarting(order) {
                zone.reset_skip_hints();
            }
        }
        Pass::new(self, zone, control).run()
    }
}
