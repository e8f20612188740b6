//! Which zones there are, and why one cannot be made.

use core::fmt;

use crate::address::{FrameNumber, FrameRange, PhysAddr};

/// Which stretch of memory a zone is.
///
/// There are two, because that is how a machine's memory lies: there is a hole below 4 GiB, which metadata
/// need not cover, so the memory below 4 GiB is one stretch and what lies above is another. They have Linux's
/// names. Linux has `ZONE_DMA` below, for devices that reach 16 MiB, and there are none here; and
/// `ZONE_MOVABLE`, for memory that is to be unplugged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ZoneKind {
    /// Memory below 4 GiB: what 32-bit addresses reach.
    Dma32,
    /// Memory above, used first.
    Normal,
}

/// The first frame that is not in [`ZoneKind::Dma32`].
const FRAME_4G: FrameNumber = FrameNumber::containing(PhysAddr(1 << 32));

impl ZoneKind {
    /// Number of zones.
    pub const COUNT: usize = 2;

    /// All of them, the one to be used first in front: Linux's zonelist.
    pub const ALL: [ZoneKind; Self::COUNT] = [ZoneKind::Normal, ZoneKind::Dma32];

    /// Linux's name.
    pub const fn name(self) -> &'static str {
        match self {
            ZoneKind::Dma32 => "DMA32",
            ZoneKind::Normal => "Normal",
        }
    }

    /// The zone that `frame` is in.
    #[inline]
    pub const fn of(frame: FrameNumber) -> ZoneKind {
        if frame.number() < FRAME_4G.number() {
            ZoneKind::Dma32
        } else {
            ZoneKind::Normal
        }
    }

    /// The frames that can be in the zone.
    pub(crate) const fn range(self) -> FrameRange {
        match self {
            ZoneKind::Dma32 => FrameRange::new(FrameNumber::new(0), FRAME_4G),
            ZoneKind::Normal => FrameRange::new(FRAME_4G, FrameNumber::new(u64::MAX)),
        }
    }
}

/// Why an allocator could not be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InitError {
    /// There is no CPU to allocate on.
    NoCpus,
    /// Two regions have a frame in common.
    Overlap,
    /// No region of a zone has room for the zone's metadata.
    NoRoom,
    /// A zone spans more frames than an index can name, 16 TiB.
    TooLarge,
}

impl fmt::Display for InitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            InitError::NoCpus => "there is no CPU to allocate on",
            InitError::Overlap => "two regions have a frame in common",
            InitError::NoRoom => "no region of a zone has room for the zone's metadata",
            InitError::TooLarge => "a zone spans more frames than an index can name",
        })
    }
}

impl core::error::Error for InitError {}
