//! A zone: a stretch of memory with its own metadata, free lists and watermarks.

use lock_api::Mutex;

use crate::address::FrameNumber;
use crate::buddy::{Buddy, FreeLists};
use crate::carve::Carved;
use crate::compaction::Progress;
use crate::frame::Frame;
use crate::index::{BlockIndex, FrameIndex};
use crate::lists::Tuning;
use crate::order::Order;
use crate::owner::Owner;
use crate::pageblock::Pageblock;
use crate::pcp::PerCpu;
use crate::platform::Platform;
use crate::request::Request;
use crate::stat::Event;
use crate::state::{Kind, State};
use crate::sync::{AtomicU64, Ordering};
use crate::watermark::Watermarks;
use crate::zone_kind::ZoneKind;

/// A zone. A machine without memory there has an empty one.
pub struct Zone<P: Platform> {
    pub(crate) kind: ZoneKind,
    /// Number of the frame with index 0.
    pub(crate) base: FrameNumber,
    pub(crate) frames: Carved<Frame>,
    pub(crate) pageblocks: Carved<Pageblock>,
    /// One for every frame if [`Platform::CHECKS`], else none.
    pub(crate) owners: Carved<Owner>,
    pub(crate) cpus: Carved<PerCpu>,
    pub(crate) tuning: Tuning,
    pub(crate) watermarks: Watermarks,
    /// Frames that are on free lists, in CPUs' lists, or somebody's.
    pub(crate) managed: u64,
    /// Frames on free lists. Written under the lock.
    pub(crate) free: AtomicU64,
    pub(crate) lists: Mutex<P::Lock, FreeLists>,
    pub(crate) progress: Progress,
}

impl<P: Platform> Zone<P> {
    /// Which zone it is.
    pub fn kind(&self) -> ZoneKind {
        self.kind
    }

    /// Whether the machine has no memory there.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Metadata of all frames from the zone's first to its last, with those of holes in between.
    #[inline]
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// Metadata of all pageblocks. The last one may be incomplete.
    pub fn pageblocks(&self) -> &[Pageblock] {
        &self.pageblocks
    }

    /// Frames that can be allocated, or are.
    pub fn managed(&self) -> u64 {
        self.managed
    }

    /// Frames on free lists: Linux's `NR_FREE_PAGES`. What CPUs have on their lists is not counted.
    #[inline]
    pub fn free(&self) -> u64 {
        // Relaxed: without the lock a hint, with it exact.
        self.free.load(Ordering::Relaxed)
    }

    /// Adds `frames` to the free ones, which may be negative. The caller has the lock.
    pub(crate) fn add_free(&self, frames: i64) {
        // A load and a store, as nobody else writes. Relaxed: see `free`.
        self.free
            .store(self.free().wrapping_add_signed(frames), Ordering::Relaxed);
    }

    /// The watermarks.
    pub fn watermarks(&self) -> &Watermarks {
        &self.watermarks
    }

    /// Metadata of the frame at `index`.
    #[inline]
    pub fn frame(&self, index: FrameIndex) -> &Frame {
        &self.frames[index.get()]
    }

    /// Metadata of the pageblock at `index`.
    pub fn pageblock(&self, index: BlockIndex) -> &Pageblock {
        &self.pageblocks[index.get()]
    }

    /// Number of the frame at `index`.
    #[inline]
    pub fn number(&self, index: FrameIndex) -> FrameNumber {
        FrameNumber::new(self.base.number() + index.get() as u64)
    }

    /// Place of `frame`, if the zone has metadata for it.
    #[inline]
    pub fn index(&self, frame: FrameNumber) -> Option<FrameIndex> {
        self.find(frame).map(|(index, _)| index)
    }

    /// Place and metadata of `frame`, if the zone has any for it.
    #[inline(always)]
    pub(crate) fn find(&self, frame: FrameNumber) -> Option<(FrameIndex, &Frame)> {
        let index = frame.number().wrapping_sub(self.base.number());
        let metadata = self.frames.get(index as usize)?;
        Some((FrameIndex::new(index as u32), metadata))
    }

    /// Makes a block that was on a list of this CPU what was asked for.
    #[inline(always)]
    pub(crate) fn hand_out(&self, pcp: &PerCpu, index: FrameIndex, request: Request) {
        self.frame(index)
            .set(State::head(Kind::Allocated, request.order, request.migrate_type));
        pcp.events().add(Event::Pgalloc, request.order.frames());
    }

    /// The free lists. Only inside of [`Platform::on_this_cpu`].
    pub(crate) fn lock(&self) -> Buddy<'_, P> {
        Buddy::new(self, self.lists.lock())
    }

    /// The blocks in a pageblock, reserved ones too, ascending: each head with its state. Empty where a larger
    /// block starts below and covers the pageblock, and where nobody has had the memory [yet](crate::Zone::run).
    ///
    /// Under the lock of the zone it sees each block once: nobody else splits or merges. Without it, it may
    /// see the same memory twice or not at all, but always ends.
    pub fn heads(&self, pageblock: BlockIndex) -> impl Iterator<Item = (FrameIndex, State)> {
        let start = pageblock.first().get();
        let end = self.frames.len().min(start + Order::PAGEBLOCK.frames() as usize);
        let mut next = start;
        core::iter::from_fn(move || {
            while next < end {
                let index = FrameIndex::new(next as u32);
                let state = self.frames[next].state();
                let block = match state.kind() {
                    Kind::Tail => 1,
                    Kind::Reserved | Kind::Free | Kind::Listed | Kind::Allocated => {
                        state.order().frames() as usize
                    }
                };
                next += block;
                if state.kind() != Kind::Tail {
                    return Some((index, state));
                }
            }
            None
        })
    }

    /// Head of the block that the frame at `index` is part of, and its state. `None` for a reserved frame, for
    /// one that nobody has had [yet](crate::Zone::run), or if blocks changed meanwhile, which the lock of the
    /// zone prevents.
    pub fn head_of(&self, index: FrameIndex) -> Option<(FrameIndex, State)> {
        self.block_of(index)
            .filter(|(_, state)| state.kind() != Kind::Reserved)
    }

    /// As [`head_of`](Zone::head_of), of reserved frames too.
    pub(crate) fn block_of(&self, index: FrameIndex) -> Option<(FrameIndex, State)> {
        Order::all()
            .map(|order| index.align_down(order))
            .map(|head| (head, self.frame(head).state()))
            .find(|(_, state)| state.kind() != Kind::Tail)
            .filter(|(head, state)| index.align_down(state.order()) == *head)
    }

    /// How many blocks of the largest order lie behind the free one at `index` that nobody has had yet: it
    /// stands for all of them on its list, so that the metadata of memory which is never used is never touched.
    pub fn run(&self, index: FrameIndex) -> u32 {
        match self.frame(index).state() {
            state if state.free(Order::MAX) => self.frame(index).private() as u32,
            _ => 0,
        }
    }
}
