//! Units of guest-physical memory.

/// Binary logarithm of [`FRAME_SIZE`].
pub const FRAME_SHIFT: u32 = 12;

/// Size of a frame in bytes: the smallest page x86-64 maps.
pub const FRAME_SIZE: u64 = 1 << FRAME_SHIFT;

/// A guest-physical address, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PhysAddr(pub u64);

/// Number of a 4 KiB frame: its physical address divided by [`FRAME_SIZE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FrameNumber(u64);

impl FrameNumber {
    /// The frame that holds `addr`.
    pub const fn containing(addr: PhysAddr) -> Self {
        Self(addr.0 >> FRAME_SHIFT)
    }

    /// The frame at `addr`, or the next one where `addr` is not a frame's first byte.
    pub const fn at_or_after(addr: PhysAddr) -> Self {
        Self(addr.0.div_ceil(FRAME_SIZE))
    }

    /// Address of the frame's first byte.
    pub const fn start(self) -> PhysAddr {
        PhysAddr(self.0 << FRAME_SHIFT)
    }

    /// The page frame number itself.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The frame with this page frame number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The first frame of the naturally aligned block of `frames` frames, a power of two, that holds this one.
    pub(crate) const fn align_down(self, frames: u64) -> Self {
        Self(self.0 & !(frames - 1))
    }
}

/// The frames from `start` up to, not including, `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRange {
    start: FrameNumber,
    end: FrameNumber,
}

impl FrameRange {
    /// The frames that lie wholly inside the `len` bytes from `base`; empty where none does.
    ///
    /// Saturates at the end of the address space.
    pub const fn inside(base: PhysAddr, len: u64) -> Self {
        let start = FrameNumber::at_or_after(base);
        let end = FrameNumber::containing(PhysAddr(base.0.saturating_add(len)));
        Self::new(start, end)
    }

    /// The frames from `start` up to, not including, `end`; empty where `end` is not above `start`.
    pub const fn new(start: FrameNumber, end: FrameNumber) -> Self {
        if end.0 < start.0 {
            Self { start, end: start }
        } else {
            Self { start, end }
        }
    }

    /// The frames that are in both.
    pub const fn intersect(&self, other: &FrameRange) -> FrameRange {
        let start = if self.start.0 > other.start.0 {
            self.start
        } else {
            other.start
        };
        let end = if self.end.0 < other.end.0 {
            self.end
        } else {
            other.end
        };
        Self::new(start, end)
    }

    /// Whether `frame` is in the range.
    pub const fn contains(&self, frame: FrameNumber) -> bool {
        self.start.0 <= frame.0 && frame.0 < self.end.0
    }

    /// Number of frames.
    pub const fn len(&self) -> u64 {
        self.end.0 - self.start.0
    }

    /// Whether the range holds no frame.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first frame.
    pub const fn start(&self) -> FrameNumber {
        self.start
    }

    /// The first frame after the range.
    pub const fn end(&self) -> FrameNumber {
        self.end
    }

    /// Takes `count` frames off the front, or returns `None` and changes nothing where there are fewer.
    pub const fn take_front(&mut self, count: u64) -> Option<FrameRange> {
        if count > self.len() {
            return None;
        }
        let taken = FrameRange {
            start: self.start,
            end: FrameNumber(self.start.0 + count),
        };
        self.start = taken.end;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_holds_whole_frames_only() {
        let range = FrameRange::inside(PhysAddr(0x1001), 0x2fff);
        assert_eq!(range.start().start(), PhysAddr(0x2000));
        assert_eq!(range.len(), 2);
        assert!(FrameRange::inside(PhysAddr(0x1001), 0xffe).is_empty());
        assert!(FrameRange::inside(PhysAddr(u64::MAX - 10), u64::MAX).is_empty());
    }

    #[test]
    fn an_intersection_holds_what_is_in_both() {
        let range = |start, end| FrameRange::new(FrameNumber::new(start), FrameNumber::new(end));
        assert_eq!(range(2, 6).intersect(&range(4, 9)), range(4, 6));
        assert!(range(2, 4).intersect(&range(4, 9)).is_empty());
        assert!(range(2, 4).contains(FrameNumber::new(3)) && !range(2, 4).contains(FrameNumber::new(4)));
    }

    #[test]
    fn taking_from_the_front_never_overlaps_and_never_overdraws() {
        let mut range = FrameRange::inside(PhysAddr(0), 4 * FRAME_SIZE);
        let first = range.take_front(3).unwrap();
        assert_eq!((first.start().number(), first.len()), (0, 3));
        assert_eq!(range.take_front(2), None);
        assert_eq!(range.take_front(1).unwrap().start().number(), 3);
        assert!(range.is_empty());
    }
}
