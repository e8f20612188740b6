//! What the window counts, under the names of Linux's `/proc/vmstat`. Pages that are moved are counted where
//! all users' are: [`Event::PgmigrateSuccess`](crate::Event::PgmigrateSuccess).

use core::sync::atomic::{AtomicU64, Ordering};

/// Something that is counted per CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum WindowEvent {
    /// Page faults.
    Pgfault,
    /// Faults that made a page writable in place, whose frame nobody shares any more.
    Pgreuse,
    /// Faults that copied a shared page. Linux has no name for them.
    Pgcow,
    /// Waits for a page in flight; Linux has no counter of that name, but the function.
    MigrationEntryWait,
    /// Pages pinned.
    FollPinAcquired,
    /// Pages unpinned.
    FollPinReleased,
    /// Times that all CPUs were made to forget translations.
    TlbRemoteFlush,
}

impl WindowEvent {
    /// Every event, in the order of their discriminants.
    pub const ALL: [WindowEvent; 7] = [
        WindowEvent::Pgfault,
        WindowEvent::Pgreuse,
        WindowEvent::Pgcow,
        WindowEvent::MigrationEntryWait,
        WindowEvent::FollPinAcquired,
        WindowEvent::FollPinReleased,
        WindowEvent::TlbRemoteFlush,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            WindowEvent::Pgfault => "pgfault",
            WindowEvent::Pgreuse => "pgreuse",
            WindowEvent::Pgcow => "pgcow",
            WindowEvent::MigrationEntryWait => "migration_entry_wait",
            WindowEvent::FollPinAcquired => "nr_foll_pin_acquired",
            WindowEvent::FollPinReleased => "nr_foll_pin_released",
            WindowEvent::TlbRemoteFlush => "nr_tlb_remote_flush",
        }
    }
}

const _: () = {
    let mut i = 0;
    while i < WindowEvent::ALL.len() {
        assert!(WindowEvent::ALL[i] as usize == i);
        i += 1;
    }
};

/// Counters that one CPU writes and any CPU may read at any time.
#[repr(align(64))]
pub(crate) struct Counters([AtomicU64; WindowEvent::ALL.len()]);

impl Counters {
    pub(crate) const fn new() -> Counters {
        Counters([const { AtomicU64::new(0) }; WindowEvent::ALL.len()])
    }

    /// Counts. On the counters' own CPU, in [`on_this_cpu`](crate::Platform::on_this_cpu).
    pub(crate) fn add(&self, event: WindowEvent, amount: u64) {
        let counter = &self.0[event as usize];
        // A load and a store, as nobody else writes. Relaxed, here and in `get`: the value stands for itself.
        counter.store(
            counter.load(Ordering::Relaxed).wrapping_add(amount),
            Ordering::Relaxed,
        );
    }

    pub(crate) fn get(&self, event: WindowEvent) -> u64 {
        self.0[event as usize].load(Ordering::Relaxed)
    }
}
