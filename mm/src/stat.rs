//! What is counted, under the names that `/proc/vmstat` and trace points have for it in Linux.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::zone_kind::ZoneKind;

/// Something that is counted per CPU and zone, since the allocator was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Event {
    /// Frames allocated.
    Pgalloc,
    /// Frames freed.
    Pgfree,
    /// Blocks that were taken from the buddy, to be allocated or listed. Linux has no name for allocations
    /// that a CPU's list serves; they are those that do not show here.
    ZoneLocked,
    /// Blocks that went from a CPU's list back to the buddy.
    PcpuDrain,
    /// Blocks that were taken from pageblocks of another type, which may have been claimed for it.
    Extfrag,
    /// Allocations that failed.
    Failed,
    /// Pages that were moved.
    PgmigrateSuccess,
    /// Pages that were to be moved, and were not.
    PgmigrateFail,
    /// Frames that compaction looked at for pages to move.
    CompactMigrateScanned,
    /// Frames that it looked at for some to move pages to.
    CompactFreeScanned,
    /// Pages and frames that it took to that end.
    CompactIsolated,
    /// Compactions by an allocation, which waited for it.
    CompactStall,
    /// Those after which the allocation failed.
    CompactFail,
    /// Those after which it did not.
    CompactSuccess,
    /// Compactions by the daemon.
    CompactDaemonWake,
    /// [`CompactMigrateScanned`](Event::CompactMigrateScanned), by the daemon.
    CompactDaemonMigrateScanned,
    /// [`CompactFreeScanned`](Event::CompactFreeScanned), by the daemon.
    CompactDaemonFreeScanned,
}

impl Event {
    /// Every event, in the order of their discriminants.
    pub const ALL: [Event; 17] = [
        Event::Pgalloc,
        Event::Pgfree,
        Event::ZoneLocked,
        Event::PcpuDrain,
        Event::Extfrag,
        Event::Failed,
        Event::PgmigrateSuccess,
        Event::PgmigrateFail,
        Event::CompactMigrateScanned,
        Event::CompactFreeScanned,
        Event::CompactIsolated,
        Event::CompactStall,
        Event::CompactFail,
        Event::CompactSuccess,
        Event::CompactDaemonWake,
        Event::CompactDaemonMigrateScanned,
        Event::CompactDaemonFreeScanned,
    ];

    /// Its name. Linux counts allocations by zone, and frees not; two names here are those of trace points;
    /// and for failures it has only a warning, `page allocation failure`.
    pub const fn name(self, zone: ZoneKind) -> &'static str {
        match (self, zone) {
            (Event::Pgalloc, ZoneKind::Dma32) => "pgalloc_dma32",
            (Event::Pgalloc, ZoneKind::Normal) => "pgalloc_normal",
            (Event::Pgfree, _) => "pgfree",
            (Event::ZoneLocked, _) => "mm_page_alloc_zone_locked",
            (Event::PcpuDrain, _) => "mm_page_pcpu_drain",
            (Event::Extfrag, _) => "mm_page_alloc_extfrag",
            (Event::Failed, _) => "page_allocation_failure",
            (Event::PgmigrateSuccess, _) => "pgmigrate_success",
            (Event::PgmigrateFail, _) => "pgmigrate_fail",
            (Event::CompactMigrateScanned, _) => "compact_migrate_scanned",
            (Event::CompactFreeScanned, _) => "compact_free_scanned",
            (Event::CompactIsolated, _) => "compact_isolated",
            (Event::CompactStall, _) => "compact_stall",
            (Event::CompactFail, _) => "compact_fail",
            (Event::CompactSuccess, _) => "compact_success",
            (Event::CompactDaemonWake, _) => "compact_daemon_wake",
            (Event::CompactDaemonMigrateScanned, _) => "compact_daemon_migrate_scanned",
            (Event::CompactDaemonFreeScanned, _) => "compact_daemon_free_scanned",
        }
    }

    /// The event that counts this one when the daemon does it, too.
    pub(crate) const fn of_daemon(self) -> Option<Event> {
        match self {
            Event::CompactMigrateScanned => Some(Event::CompactDaemonMigrateScanned),
            Event::CompactFreeScanned => Some(Event::CompactDaemonFreeScanned),
            _ => None,
        }
    }
}

const _: () = {
    let mut i = 0;
    while i < Event::ALL.len() {
        assert!(Event::ALL[i] as usize == i);
        i += 1;
    }
};

/// Counters that one CPU writes and any CPU may read at any time.
#[derive(Debug)]
pub(crate) struct Events([AtomicU64; Event::ALL.len()]);

impl Events {
    pub(crate) const fn new() -> Events {
        Events([const { AtomicU64::new(0) }; Event::ALL.len()])
    }

    /// Counts. On the counters' own CPU, in [`on_this_cpu`](crate::Platform::on_this_cpu).
    #[inline]
    pub(crate) fn add(&self, event: Event, amount: u32) {
        let counter = &self.0[event as usize];
        // A load and a store, as nobody else writes. Relaxed, here and in `get`: the value stands for itself.
        counter.store(
            counter.load(Ordering::Relaxed).wrapping_add(amount.into()),
            Ordering::Relaxed,
        );
    }

    pub(crate) fn get(&self, event: Event) -> u64 {
        self.0[event as usize].load(Ordering::Relaxed)
    }
}
