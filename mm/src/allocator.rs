//! The page allocator: zones, CPUs' lists and the buddy put together.

use core::fmt;
use core::hint::cold_path;
use core::panic::Location;

use crate::address::{FrameNumber, FrameRange};
use crate::compaction::Kcompactd;
use crate::fault::{Fault, planted};
use crate::frame::Frame;
use crate::index::FrameIndex;
use crate::lists::ListId;
use crate::migrate_type::MigrateType;
use crate::order::Order;
use crate::platform::{Cpu, Platform};
use crate::request::{AllocError, Request};
use crate::stat::Event;
use crate::state::{Kind, State};
use crate::watermark::{Mark, Watermarks, min_free};
use crate::zone::Zone;
use crate::zone_kind::{InitError, ZoneKind};

/// The page allocator of a machine.
pub struct PageAllocator<P: Platform> {
    pub(crate) platform: P,
    /// The one to be used first in front: Linux's zonelist. That one is empty only if the other is, too.
    zones: [Zone<P>; ZoneKind::COUNT],
    cpus: u32,
    pub(crate) kcompactd: Kcompactd,
}

impl<P: Platform> PageAllocator<P> {
    /// An allocator of all frames of `regions` that takes none of them for itself but what its metadata
    /// needs: about 1/128, off the front of each zone's largest region. It is used on the CPUs below `cpus`.
    ///
    /// # Errors
    ///
    /// [`InitError`] says which ones there are. Nothing of the memory is in use then.
    ///
    /// # Safety
    ///
    /// The memory belongs to the caller, who gives it away for as long as the allocator exists; and it is
    /// zero, as a machine's is that has just been made: so metadata is there without being written, and time
    /// and memory are spent only on what is used.
    pub unsafe fn new(platform: P, regions: &[FrameRange], cpus: u32) -> Result<Self, InitError> {
        if cpus == 0 {
            return Err(InitError::NoCpus);
        }
        let overlaps = |(i, region): (usize, &FrameRange)| {
            regions[..i]
                .iter()
                .any(|other| !region.intersect(other).is_empty())
        };
        if regions.iter().enumerate().any(overlaps) {
            return Err(InitError::Overlap);
        }
        // SAFETY: the memory is the caller's and given away; regions do not overlap.
        let zone = |kind| unsafe { Zone::new(&platform, kind, regions, cpus as usize) };
        let mut zones = [zone(ZoneKind::ALL[0])?, zone(ZoneKind::ALL[1])?];

        let managed: u64 = zones.iter().map(Zone::managed).sum();
        for zone in &mut zones {
            let share = min_free(managed) * zone.managed() / managed.max(1);
            zone.watermarks = Watermarks::new(zone.managed(), share);
        }
        if zones[0].is_empty() {
            zones.reverse();
        }
        Ok(PageAllocator {
            platform,
            zones,
            cpus,
            kcompactd: Kcompactd::new(),
        })
    }

    /// Allocates a block and returns its first frame. The holder has the only reference to it; its contents
    /// are anything.
    ///
    /// # Errors
    ///
    /// See [`AllocError`].
    #[inline]
    #[track_caller]
    pub fn alloc(&self, request: Request) -> Result<FrameNumber, AllocError> {
        let mut listed = FrameNumber::new(0);
        let is_listed = self
            .platform
            .on_this_cpu(|cpu| match self.alloc_listed(request, cpu) {
                Some(frame) => {
                    listed = frame;
                    true
                }
                None => {
                    cold_path();
                    false
                }
            });
        if is_listed {
            Ok(listed)
        } else {
            self.alloc_slow(request, Location::caller())
        }
    }

    /// Frees a block. Where it is not one that the caller can free, reports that and does nothing. Quick for
    /// blocks of the zone that allocations are served from first; those of another one take the slow path.
    ///
    /// # Safety
    ///
    /// The caller is the only holder of the block, by [`alloc`](PageAllocator::alloc) and without
    /// [`share`](PageAllocator::share), and uses it no more.
    #[inline]
    #[track_caller]
    pub unsafe fn free(&self, frame: FrameNumber, order: Order) {
        let listed = self.platform.on_this_cpu(|cpu| {
            let listed = self.free_listed(frame, order, cpu);
            if !listed {
                cold_path();
            }
            listed
        });
        if !listed {
            self.free_slow(frame, order, Location::caller());
        }
    }

    /// The machine.
    pub fn platform(&self) -> &P {
        &self.platform
    }

    /// Metadata of `frame`, if there is any.
    pub fn frame(&self, frame: FrameNumber) -> Option<&Frame> {
        self.find(frame).map(|(_, _, metadata)| metadata)
    }

    /// The zones, the one to be used first in front. Some may be empty.
    pub fn zones(&self) -> &[Zone<P>; ZoneKind::COUNT] {
        &self.zones
    }

    /// How often `event` has happened in a zone, on all CPUs.
    pub fn count(&self, zone: ZoneKind, event: Event) -> u64 {
        self.zone(zone)
            .cpus
            .iter()
            .map(|cpu| cpu.events().get(event))
            .sum()
    }

    /// Counts what is of no zone, on this CPU, for the first zone.
    pub(crate) fn count_here(&self, event: Event, amount: u32) {
        self.platform.on_this_cpu(|cpu| {
            for zone in self.populated().take(1) {
                zone.cpus[cpu.0 as usize].events().add(event, amount);
            }
        });
    }

    /// Whether a zone has more free frames than a watermark says.
    pub fn above(&self, zone: ZoneKind, mark: Mark) -> bool {
        let zone = self.zone(zone);
        zone.free() > zone.watermarks.get(mark)
    }

    /// Number of CPUs.
    pub(crate) fn cpus(&self) -> u32 {
        self.cpus
    }

    pub(crate) fn zone(&self, kind: ZoneKind) -> &Zone<P> {
        &self.zones[usize::from(self.zones[0].kind() != kind)]
    }

    /// The zones that have memory, the one to be used first in front.
    pub(crate) fn populated(&self) -> impl Iterator<Item = &Zone<P>> {
        self.zones.iter().filter(|zone| !zone.is_empty())
    }

    /// Where the metadata of `frame` is, if there is any.
    #[inline(always)]
    pub(crate) fn find(&self, frame: FrameNumber) -> Option<(&Zone<P>, FrameIndex, &Frame)> {
        let [first, second] = &self.zones;
        let (zone, (index, metadata)) = match first.find(frame) {
            Some(found) => (first, found),
            None => (second, second.find(frame)?),
        };
        Some((zone, index, metadata))
    }

    /// The fast path: a block from this CPU's list in the first zone. `None`, and nothing has changed, where
    /// the slow path has to see to it.
    #[inline(always)]
    fn alloc_listed(&self, request: Request, cpu: Cpu) -> Option<FrameNumber> {
        if P::CHECKS {
            return None;
        }
        let list = ListId::new(request.order, request.migrate_type)?;
        let zone = &self.zones[0];
        let pcp = zone.cpus.get(cpu.0 as usize)?;
        // A drain that was asked for can wait until the list is empty, or this CPU frees.
        // SAFETY: called in `on_this_cpu` for this CPU; `pop` does not come here.
        let index = unsafe { pcp.lists(|lists| lists.pop(list)) }?;
        zone.hand_out(pcp, index, request);
        Some(zone.number(index))
    }

    /// The fast path: a block of the first zone to this CPU's list. `false`, and nothing has changed, where
    /// the slow path has to see to it.
    #[inline(always)]
    fn free_listed(&self, frame: FrameNumber, order: Order, cpu: Cpu) -> bool {
        let zone = &self.zones[0];
        let Some((index, head)) = zone.find(frame) else {
            return false;
        };
        let Some(pcp) = zone.cpus.get(cpu.0 as usize) else {
            return false;
        };
        let state = head.state();
        if P::CHECKS || pcp.drain_requested() {
            return false;
        }
        let list = freeable::<P>(state, order).and_then(|migrate_type| ListId::new(order, migrate_type));
        let Some(list) = list else {
            return false;
        };
        // SAFETY: called in `on_this_cpu` for this CPU; `push` does not come here.
        if !unsafe { pcp.lists(|lists| lists.push(list, index, &zone.tuning)) } {
            return false;
        }
        head.set(state.listed());
        pcp.events().add(Event::Pgfree, order.frames());
        true
    }
}

/// The type of a block that can be freed.
#[inline(always)]
pub(crate) fn freeable<P: Platform>(state: State, order: Order) -> Option<MigrateType> {
    state.exclusive(order).or_else(|| {
        let freeable = planted::<P>(Fault::FreesAnyOrder) && state.exclusive(state.order()).is_some()
            || planted::<P>(Fault::FreesTwice) && matches!(state.kind(), Kind::Listed | Kind::Free);
        freeable.then(|| state.migrate_type())
    })
}

impl<P: Platform> fmt::Debug for PageAllocator<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageAllocator")
            .field("cpus", &self.cpus)
            .finish_non_exhaustive()
    }
}
