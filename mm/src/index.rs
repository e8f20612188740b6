//! Places within a zone.

use crate::order::Order;

/// Place of a frame in its zone. A zone starts at a frame whose number is a multiple of the largest block's
/// length, so an index is aligned where the frame is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FrameIndex(u32);

impl FrameIndex {
    /// What a link says that leads nowhere. No zone has a frame there.
    const NONE: u32 = u32::MAX;

    /// The frame with this index.
    #[inline]
    pub(crate) const fn new(index: u32) -> FrameIndex {
        FrameIndex(index)
    }

    /// Place in a table of the zone's frames.
    #[inline]
    pub const fn get(self) -> usize {
        self.0 as usize
    }

    /// The frame `frames` further on.
    pub(crate) const fn plus(self, frames: u32) -> FrameIndex {
        FrameIndex(self.0 + frames)
    }

    /// Head of the block of `order` that this frame would be part of.
    pub(crate) const fn align_down(self, order: Order) -> FrameIndex {
        FrameIndex(self.0 & !(order.frames() - 1))
    }

    /// Whether a block of `order` can start here.
    pub(crate) const fn aligned(self, order: Order) -> bool {
        self.0 & (order.frames() - 1) == 0
    }

    /// The `frames` from here on in blocks as large as they can be.
    pub(crate) fn blocks(self, frames: u64) -> impl Iterator<Item = (FrameIndex, Order)> {
        let (mut next, end) = (self, self.0 + frames as u32);
        core::iter::from_fn(move || {
            let fits = |order: &Order| next.aligned(*order) && order.frames() <= end - next.0;
            let (index, order) = (next, Order::all().rfind(fits)?);
            next = next.plus(order.frames());
            Some((index, order))
        })
    }

    /// Head of the block that makes one of the next order together with the one of `order` that starts here.
    pub(crate) const fn buddy(self, order: Order) -> FrameIndex {
        FrameIndex(self.0 ^ order.frames())
    }

    /// The pageblock that the frame is in.
    pub const fn pageblock(self) -> BlockIndex {
        BlockIndex(self.0 >> Order::PAGEBLOCK.get())
    }

    /// The frame that a link leads to.
    pub(crate) const fn from_link(link: u32) -> Option<FrameIndex> {
        if link == Self::NONE {
            None
        } else {
            Some(FrameIndex(link))
        }
    }

    /// A link to that frame, or nowhere.
    pub(crate) const fn to_link(index: Option<FrameIndex>) -> u32 {
        match index {
            Some(index) => index.0,
            None => Self::NONE,
        }
    }
}

/// Place of a pageblock in its zone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BlockIndex(u32);

impl BlockIndex {
    /// The pageblock with this index.
    pub const fn new(index: u32) -> BlockIndex {
        BlockIndex(index)
    }

    /// Place in a table of the zone's pageblocks.
    pub const fn get(self) -> usize {
        self.0 as usize
    }

    /// The first frame.
    pub const fn first(self) -> FrameIndex {
        FrameIndex(self.0 << Order::PAGEBLOCK.get())
    }
}
