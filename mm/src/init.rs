//! How a zone is made of the memory that it describes.

use lock_api::Mutex;

use crate::address::FrameRange;
use crate::buddy::FreeLists;
use crate::carve::{Carved, frames_for};
use crate::compaction::Progress;
use crate::frame::Frame;
use crate::lists::Tuning;
use crate::migrate_type::MigrateType;
use crate::order::Order;
use crate::owner::Owner;
use crate::pageblock::Pageblock;
use crate::pcp::PerCpu;
use crate::platform::Platform;
use crate::state::{Kind, State};
use crate::sync::AtomicU64;
use crate::watermark::Watermarks;
use crate::zone::Zone;
use crate::zone_kind::{InitError, ZoneKind};

impl<P: Platform> Zone<P> {
    /// The zone of `kind` with all memory of `regions` that lies in it, all of it free but for the metadata.
    ///
    /// # Safety
    ///
    /// The memory belongs to the caller, and to the zone from now on; regions do not overlap. The platform's
    /// promise about memory holds for it.
    pub(crate) unsafe fn new(
        platform: &P,
        kind: ZoneKind,
        regions: &[FrameRange],
        cpus: usize,
    ) -> Result<Zone<P>, InitError> {
        let range = kind.range();
        let clipped = || {
            regions
                .iter()
                .map(|region| region.intersect(&range))
                .filter(|part| !part.is_empty())
        };
        let start = clipped().map(|part| part.start()).min();
        let end = clipped().map(|part| part.end()).max();
        let (Some(start), Some(end)) = (start, end) else {
            return Ok(Self::empty(kind));
        };
        let base = start.align_down(Order::MAX.frames().into());
        let span = u32::try_from(end.number() - base.number()).map_err(|_| InitError::TooLarge)?;
        if span == u32::MAX {
            return Err(InitError::TooLarge);
        }
        let span = span as usize;

        // All metadata is taken off the front of the largest region.
        let mut room = clipped()
            .max_by_key(FrameRange::len)
            .expect("there is one, as there is a start");
        let blocks = span.div_ceil(Order::PAGEBLOCK.frames() as usize);
        let owned = if P::CHECKS { span } else { 0 };
        let metadata = frames_for::<Frame>(span)
            + frames_for::<Pageblock>(blocks)
            + frames_for::<Owner>(owned)
            + frames_for::<PerCpu>(cpus);
        let all = room;
        room.take_front(metadata).ok_or(InitError::NoRoom)?;
        let rest = room;
        let mut room = FrameRange::new(all.start(), rest.start());
        let parts = || clipped().map(|part| if part.start() == all.start() { rest } else { part });
        let managed: u64 = parts().map(|part| part.len()).sum();
        let tuning = Tuning::new::<P>(managed, cpus);

        let at = |frame| platform.frame_ptr(frame);
        // SAFETY: the memory is the caller's and zero, `room` is part of it, and the platform promises what
        // `carve` asks for. A frame of zeros is the tail of a block.
        let frames = unsafe { Carved::zeroed(&mut room, at, span, || Frame::new(State::TAIL)) };
        let movable = |_| Pageblock::new(MigrateType::Movable);
        // SAFETY: as above.
        let pageblocks = unsafe { Carved::carve(&mut room, at, blocks, movable) };
        // SAFETY: as above; an owner of zeros is none.
        let owners = unsafe { Carved::zeroed(&mut room, at, owned, Owner::new) };
        // SAFETY: as above; lists and counters of zeros are empty ones.
        let cpus = unsafe { Carved::zeroed(&mut room, at, cpus, PerCpu::new) };
        let counted = "the sum of all metadata was taken";
        let zone = Zone {
            kind,
            base,
            frames: frames.expect(counted),
            pageblocks: pageblocks.expect(counted),
            owners: owners.expect(counted),
            cpus: cpus.expect(counted),
            tuning,
            watermarks: Watermarks::default(),
            managed,
            free: AtomicU64::new(0),
            lists: Mutex::new(FreeLists::new()),
            progress: Progress::new(blocks as u32),
        };
        debug_assert!(room.is_empty());
        let mut hole = base;
        while hole < end {
            let next = parts().filter(|part| part.end() > hole).map(|part| part.start());
            let next = next.min().unwrap_or(end);
            zone.reserve(FrameRange::new(hole, next));
            let part = parts().find(|part| part.start() == next);
            hole = part.map_or(end, |part| part.end());
        }
        platform.on_this_cpu(|_| parts().for_each(|part| zone.lock().give_range(part)));
        Ok(zone)
    }

    /// Makes blocks of frames that are not the zone's.
    fn reserve(&self, hole: FrameRange) {
        let Some(start) = self.index(hole.start()) else {
            return;
        };
        for (index, order) in start.blocks(hole.len()) {
            self.frame(index)
                .set(State::head(Kind::Reserved, order, MigrateType::Unmovable));
        }
    }

    fn empty(kind: ZoneKind) -> Zone<P> {
        Zone {
            kind,
            base: kind.range().start(),
            frames: Carved::EMPTY,
            pageblocks: Carved::EMPTY,
            owners: Carved::EMPTY,
            cpus: Carved::EMPTY,
            tuning: Tuning::new::<P>(0, 1),
            watermarks: Watermarks::default(),
            managed: 0,
            free: AtomicU64::new(0),
            lists: Mutex::new(FreeLists::new()),
            progress: Progress::new(0),
        }
    }
}
