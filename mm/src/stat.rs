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
}

impl Event {
    /// Every event, in the order of their discriminants.
    pub const ALL: [Event; 6] = [
        Event::Pgalloc,
        Event::Pgfree,
        Event::ZoneLocked,
        Event::PcpuDrain,
        Event::Extfrag,
        Event::Failed,
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
