//! What a guest's page allocator left, with names.

use abi::memory::{EVENTS, MemoryReport, ORDERS, TYPES, WINDOW_EVENTS, ZONES, ZoneReport};
use mm::{Event, MigrateType, Order, WindowEvent, ZoneKind};
use serde::{Serialize, Serializer};

use super::alloc::Alloc;
use super::compaction::Compaction;
use super::secondary::Secondary;

const _: () = assert!(ZoneKind::COUNT == ZONES && Order::COUNT == ORDERS && Event::ALL.len() <= EVENTS);
const _: () = assert!(WindowEvent::ALL.len() <= WINDOW_EVENTS);
const _: () = assert!(MigrateType::COUNT == TYPES && ZoneKind::Dma32 as usize == 0);

/// The guest's memory at the end of a run, with nothing left on CPUs' lists.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Memory {
    /// What was counted, and how much is free, by the names in `/proc/vmstat`.
    #[serde(serialize_with = "map")]
    pub vmstat: Vec<(&'static str, u64)>,
    /// The zones, the lower one first.
    pub zones: Vec<MemoryZone>,
    /// Frames that should have come back and have not; 0 if memory is as it was before the workload.
    pub unreturned: u64,
    /// What compaction came to; null where it was not the workload.
    pub compaction: Option<Compaction>,
    /// What frames cost, beside others' frames; null where it was not the workload.
    pub alloc: Option<Alloc>,
    /// What a secondary map of it found; null where there was none.
    pub secondary: Option<Secondary>,
}

/// A zone. Sizes are in frames of 4 KiB.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryZone {
    /// Linux's name.
    pub name: &'static str,
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
    /// Free blocks by order: `/proc/buddyinfo`.
    pub buddyinfo: [u64; ORDERS],
    /// Free blocks by type and order: `/proc/pagetypeinfo`.
    #[serde(serialize_with = "map")]
    pub pagetypeinfo: Vec<(&'static str, [u64; ORDERS])>,
    /// Pageblocks of 2 MiB by type.
    #[serde(serialize_with = "map")]
    pub pageblocks: Vec<(&'static str, u64)>,
}

impl Memory {
    /// Gives what a guest left its names. What only some workloads leave is for the caller to add.
    pub(crate) fn new(report: &MemoryReport) -> Self {
        // The lower one first, as their discriminants have it.
        let zones = || [ZoneKind::Dma32, ZoneKind::Normal].into_iter().zip(&report.zones);
        let free = zones().fold(0u64, |sum, (_, zone)| sum.saturating_add(zone.free));
        let mut vmstat = vec![("nr_free_pages", free)];
        for event in Event::ALL {
            for (kind, zone) in zones() {
                let (name, count) = (event.name(kind), zone.events[event as usize]);
                // One line for all zones where the name is one.
                match vmstat.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, sum)) => *sum = sum.saturating_add(count),
                    None => vmstat.push((name, count)),
                }
            }
        }
        if report.window.iter().any(|count| *count != 0) {
            let counts = WindowEvent::ALL.iter().zip(&report.window);
            vmstat.extend(counts.map(|(event, count)| (event.name(), *count)));
        }
        Self {
            vmstat,
            zones: zones().map(|(kind, zone)| MemoryZone::new(kind, zone)).collect(),
            unreturned: report.unreturned,
            compaction: None,
            alloc: None,
            secondary: None,
        }
    }
}

impl Memory {
    /// How often something was counted, if it was.
    pub fn count(&self, name: &str) -> Option<u64> {
        let (_, count) = self.vmstat.iter().find(|(known, _)| *known == name)?;
        Some(*count)
    }
}

impl MemoryZone {
    fn new(kind: ZoneKind, zone: &ZoneReport) -> Self {
        let of_order = |order: usize| {
            let counts = zone.free_blocks.iter().map(|of_type| of_type[order]);
            counts.fold(0, u64::saturating_add)
        };
        let types = || MigrateType::ALL.iter().map(|of| (of.name(), *of as usize));
        Self {
            name: kind.name(),
            managed: zone.managed,
            free: zone.free,
            min: zone.min,
            low: zone.low,
            high: zone.high,
            buddyinfo: std::array::from_fn(of_order),
            pagetypeinfo: types().map(|(name, of)| (name, zone.free_blocks[of])).collect(),
            pageblocks: types().map(|(name, of)| (name, zone.pageblocks[of])).collect(),
        }
    }
}

fn map<V: Serialize, S: Serializer>(pairs: &[(&'static str, V)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(name, value)| (name, value)))
}
