//! What an entry of a leaf page table says.

use crate::address::FrameNumber;

/// State of a page of the window: an entry of its page table, decoded.
///
/// ```text
///    63    52 51                    12 11 10  9   7  6  5   3  2  1  0
///   +--------+------------------------+--+--+--+---+--+--+---+--+--+--+
///   |   0    |           0            | 0|       all 0               |   Empty      nothing there
///   |   0    |           0            | 0| 0| 1|  0| 0| 0|  0| 0| 0| 0|   ZeroFill   not touched yet
///   |   NX   |         frame          | 0| 0| 0|  0| 1| 1|  0| 1| w| 1|   Present    mapped; w: writable
///   |   0    |         frame          | 0| 1| 0|  0| 0| 0|  0| 0| w| 0|   Migration  on its way elsewhere
///   +--------+------------------------+--+--+--+---+--+--+---+--+--+--+
///                                          │  │      D  A      U  W  P    as the CPU reads them, if P
///                                          │  └ zero fill
///                                          └ migration
/// ```
///
/// NX is bit 63: nothing in the window is code. Accessed and dirty are set from the start, so that no CPU
/// ever writes an entry on its own. Every page of the window may be written to: one that is present and not
/// writable shares its frame, *copy-on-write*.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// The page is in no range.
    Empty,
    /// The page is in a range, and all zero.
    ZeroFill,
    /// The page is in this frame.
    Present {
        /// The frame.
        frame: FrameNumber,
        /// Whether a write needs no fault first.
        writable: bool,
    },
    /// The page is in this frame, and somebody is about to change that. Whoever touches it waits.
    Migration {
        /// The frame that it is in until then.
        frame: FrameNumber,
        /// Whether it was writable there.
        writable: bool,
    },
}

pub(crate) const PRESENT: u64 = 1 << 0;
pub(crate) const WRITABLE: u64 = 1 << 1;
pub(crate) const USER: u64 = 1 << 2;
pub(crate) const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const ZERO_FILL: u64 = 1 << 9;
const MIGRATION: u64 = 1 << 10;
const NO_EXECUTE: u64 = 1 << 63;
const FRAME_MASK: u64 = 0x000f_ffff_ffff_f000;

impl Entry {
    /// The entry as the CPU and the window have it in the table.
    pub(crate) const fn encode(self) -> u64 {
        const fn bits(frame: FrameNumber, writable: bool) -> u64 {
            frame.start().0 | if writable { WRITABLE } else { 0 }
        }
        match self {
            Entry::Empty => 0,
            Entry::ZeroFill => ZERO_FILL,
            Entry::Present { frame, writable } => {
                bits(frame, writable) | PRESENT | USER | ACCESSED | DIRTY | NO_EXECUTE
            }
            Entry::Migration { frame, writable } => bits(frame, writable) | MIGRATION,
        }
    }

    /// What an entry says that [`encode`](Entry::encode) made.
    pub(crate) const fn decode(bits: u64) -> Entry {
        let frame = frame_of(bits);
        let writable = bits & WRITABLE != 0;
        if bits & PRESENT != 0 {
            Entry::Present { frame, writable }
        } else if bits & MIGRATION != 0 {
            Entry::Migration { frame, writable }
        } else if bits & ZERO_FILL != 0 {
            Entry::ZeroFill
        } else {
            Entry::Empty
        }
    }
}

/// The frame that an entry of any table leads to.
pub(crate) const fn frame_of(bits: u64) -> FrameNumber {
    FrameNumber::new((bits & FRAME_MASK) >> crate::address::FRAME_SHIFT)
}
