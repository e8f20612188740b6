//! What the guest's page allocator leaves behind: a [`MemoryReport`], [`MEMORY_REPORT`] bytes into the
//! [report](crate::report).
//!
//! Numbers only. What they are called is `mm`'s affair, which both sides know: zones by `mm::ZoneKind`,
//! events by `mm::Event` and `mm::WindowEvent`, types by `mm::MigrateType`.

use crate::report::Report;
use crate::{PAGE_SIZE, Plain, assert_layout};

/// Where it lies, from the start of the report.
pub const MEMORY_REPORT: u64 = 1024;

/// Number of zones.
pub const ZONES: usize = 2;
/// Number of orders of blocks.
pub const ORDERS: usize = 11;
/// Number of migrate types.
pub const TYPES: usize = 3;
/// Most events there is room for.
pub const EVENTS: usize = 32;
/// Most events of the window there is room for.
pub const WINDOW_EVENTS: usize = 16;
/// Rounds of [`Workload::Compaction`](crate::config::Workload::Compaction): allocations compact, the daemon
/// does.
pub const ROUNDS: usize = 2;

/// A zone. Sizes are in frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ZoneReport {
    /// What can be allocated, or is.
    pub managed: u64,
    /// What is free.
    pub free: u64,
    /// The watermarks.
    pub min: u64,
    /// Below this, somebody should make memory free.
    pub low: u64,
    /// Up to this.
    pub high: u64,
    /// How often something has happened.
    pub events: [u64; EVENTS],
    /// Free blocks by type and order.
    pub free_blocks: [[u64; ORDERS]; TYPES],
    /// Pageblocks by type.
    pub pageblocks: [u64; TYPES],
}

assert_layout!(ZoneReport, size 40 + 8 * EVENTS + 8 * ORDERS * TYPES + 8 * TYPES, events at 40,
    free_blocks at 40 + 8 * EVENTS);

/// All zones, at the end of the run, with nothing left on CPUs' lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct MemoryReport {
    /// Frames that should have come back and have not, or not to where they were. 0 if memory is as it was
    /// before the workload.
    pub unreturned: u64,
    /// The zones.
    pub zones: [ZoneReport; ZONES],
    /// How often something has happened in the window of movable memory; all 0 where there was none.
    pub window: [u64; WINDOW_EVENTS],
    /// What compaction came to, where it was the workload.
    pub compaction: CompactionReport,
    /// What frames cost this allocator and others, where they competed.
    pub alloc: AllocReport,
    /// What a secondary map found, where there was one.
    pub secondary: SecondaryReport,
}

assert_layout!(MemoryReport, size 8 + ZONES * size_of::<ZoneReport>() + 8 * WINDOW_EVENTS
    + size_of::<CompactionReport>() + size_of::<AllocReport>() + size_of::<SecondaryReport>(), zones at 8);

/// A round of [`Workload::Compaction`](crate::config::Workload::Compaction).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CompactionRound {
    /// Free frames when memory had been thinned out, less those in huge blocks, and in pageblocks where the
    /// kernel's own are.
    pub fragmented: u64,
    /// Those of them that became huge pages.
    pub huge: u64,
    /// Pages that were left, of which each was verified in the end.
    pub kept: u64,
    /// Words of them that were not as they should be.
    pub wrong: u64,
    /// Pages that had moved, and nobody was told.
    pub unannounced: u64,
    /// Pages that were pinned.
    pub pinned: u64,
    /// Those of them that were elsewhere in the end.
    pub displaced: u64,
    /// The score, before anything was compacted.
    pub score_before: u64,
    /// The score, before the first huge page was allocated.
    pub score_after: u64,
    /// Pages that were moved for huge pages: by allocations, or by the daemon before them.
    pub moved: u64,
    /// What that took, all in all.
    pub moving_cycles: u64,
    /// Pages of them that were copied back.
    pub copied: u64,
    /// What that took.
    pub copying_cycles: u64,
}

assert_layout!(CompactionRound, size 104);

/// What [`Workload::Compaction`](crate::config::Workload::Compaction) came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CompactionReport {
    /// Allocations that compact; and those that come after the daemon.
    pub rounds: [CompactionRound; ROUNDS],
}

assert_layout!(CompactionReport, size 104 * ROUNDS);

/// Who allocates frames in [`Workload::Alloc`](crate::config::Workload::Alloc), in turns: `mm`, a peer, and a
/// stack for each vCPU.
pub const SUBJECTS: usize = 3;
/// How they do: one vCPU, a frame at a time, then many; all vCPUs, a frame at a time, then many.
pub const CONTESTS: usize = 4;

/// What frames cost, allocated and freed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct AllocReport {
    /// Turns of each subject, of which the median was taken; 0 if there were none.
    pub rounds: u64,
    /// What a turn takes, as far as it counts.
    pub cycles: u64,
    /// Frames that were allocated and freed in that time, by all vCPUs together.
    pub pairs: [[u64; SUBJECTS]; CONTESTS],
}

assert_layout!(AllocReport, size 16 + 8 * SUBJECTS * CONTESTS, cycles at 8, pairs at 16);

/// What a secondary map of the window's pages was told, and found when nothing was active any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SecondaryReport {
    /// Ranges of which it was told that they start to change.
    pub starts: u64,
    /// Ranges of which it was told that they have changed.
    pub ends: u64,
    /// 0 if these were the same.
    pub unpaired: u64,
    /// Pages that were mapped in it while they changed.
    pub mapped_inside: u64,
    /// Pages that were looked up again, as they changed meanwhile.
    pub retries: u64,
    /// Pages that were looked up.
    pub lookups: u64,
    /// Pages that were used without a lookup.
    pub hits: u64,
}

assert_layout!(SecondaryReport, size 56);

const _: () = assert!(size_of::<Report>() as u64 <= MEMORY_REPORT);
const _: () = assert!(MEMORY_REPORT + size_of::<MemoryReport>() as u64 <= PAGE_SIZE);

// SAFETY: integers only, `#[repr(C)]`, and the asserted size is the sum of the fields' sizes.
unsafe impl Plain for ZoneReport {}
// SAFETY: as above.
unsafe impl Plain for CompactionRound {}
// SAFETY: as above.
unsafe impl Plain for CompactionReport {}
// SAFETY: as above.
unsafe impl Plain for AllocReport {}
// SAFETY: as above.
unsafe impl Plain for SecondaryReport {}
// SAFETY: as above.
unsafe impl Plain for MemoryReport {}
