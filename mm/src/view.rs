//! The allocator's state as text, as `/proc` shows it in Linux.

use core::fmt;

use crate::allocator::PageAllocator;
use crate::buddy::Counts;
use crate::migrate_type::MigrateType;
use crate::order::Order;
use crate::platform::Platform;
use crate::stat::Event;
use crate::zone::Zone;
use crate::zone_kind::ZoneKind;

impl<P: Platform> PageAllocator<P> {
    /// Free blocks by zone and order: `/proc/buddyinfo`.
    pub fn buddyinfo(&self) -> impl fmt::Display {
        fmt::from_fn(move |f| {
            for zone in self.populated() {
                write!(f, "Node 0, zone {:>8} ", zone.kind().name())?;
                for row in self.counts(zone) {
                    write!(f, "{:6} ", row.iter().sum::<u32>())?;
                }
                writeln!(f)?;
            }
            Ok(())
        })
    }

    /// Free blocks by zone, type and order, and pageblocks by zone and type: `/proc/pagetypeinfo`.
    pub fn pagetypeinfo(&self) -> impl fmt::Display {
        fmt::from_fn(move |f| {
            writeln!(f, "Page block order: {}", Order::PAGEBLOCK.get())?;
            writeln!(f, "Pages per block:  {}\n", Order::PAGEBLOCK.frames())?;
            write!(f, "{:<43}", "Free pages count per migrate type at order")?;
            Order::all().try_for_each(|order| write!(f, " {:6}", order.get()))?;
            writeln!(f)?;
            for zone in self.populated() {
                let counts = self.counts(zone);
                for migrate_type in MigrateType::ALL {
                    let (zone, name) = (zone.kind().name(), migrate_type.name());
                    write!(f, "Node    0, zone {zone:>8}, type {name:>12}")?;
                    counts
                        .iter()
                        .try_for_each(|row| write!(f, " {:6}", row[migrate_type.index()]))?;
                    writeln!(f)?;
                }
            }
            write!(f, "\nNumber of blocks type     ")?;
            MigrateType::ALL
                .iter()
                .try_for_each(|of| write!(f, "{:>12} ", of.name()))?;
            writeln!(f)?;
            for zone in self.populated() {
                write!(f, "Node 0, zone {:>8}     ", zone.kind().name())?;
                for migrate_type in MigrateType::ALL {
                    let of_type = |block: &&crate::Pageblock| block.migrate_type() == migrate_type;
                    write!(f, "{:>12} ", zone.pageblocks().iter().filter(of_type).count())?;
                }
                writeln!(f)?;
            }
            Ok(())
        })
    }

    /// What has been counted, and how much is free, in frames: lines as in `/proc/vmstat`.
    pub fn vmstat(&self) -> impl fmt::Display {
        fmt::from_fn(move |f| {
            writeln!(
                f,
                "nr_free_pages {}",
                self.populated().map(Zone::free).sum::<u64>()
            )?;
            for event in Event::ALL {
                // One line for all zones where the name is one.
                let mut zones = self.populated().peekable();
                while let Some(zone) = zones.next() {
                    let name = event.name(zone.kind());
                    let mut count = self.count(zone.kind(), event);
                    while let Some(other) = zones.next_if(|other| event.name(other.kind()) == name) {
                        count += self.count(other.kind(), event);
                    }
                    writeln!(f, "{name} {count}")?;
                }
            }
            Ok(())
        })
    }

    /// Number of free blocks in a zone by order and type, all of one moment.
    pub fn free_counts(&self, zone: ZoneKind) -> [[u32; MigrateType::COUNT]; Order::COUNT] {
        self.counts(self.zone(zone))
    }

    /// Lengths of a zone's free lists, all of one moment.
    pub(crate) fn counts(&self, zone: &Zone<P>) -> Counts {
        self.platform.on_this_cpu(|_| zone.lock().counts())
    }
}
