//! Misuse of memory, and how it reads.

use core::fmt;
use core::panic::Location;

use crate::address::FrameNumber;
use crate::order::Order;
use crate::platform::Cpu;

/// What was done wrong with a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Misuse {
    /// It was freed, and is free already.
    DoubleFree,
    /// It was freed, but is not memory that can be allocated.
    NotMemory,
    /// It was freed, but is inside of a block, and not its head.
    NotHead,
    /// It was freed as a block of another order than it was allocated as.
    WrongOrder {
        /// As what it was freed.
        freed: Order,
        /// As what it was allocated.
        allocated: Order,
    },
    /// It was freed by one who is not its only holder.
    InUse {
        /// How many references there are.
        references: u32,
    },
    /// A reference to it was given back, or it was to be shared, but nobody has it.
    NotAllocated,
    /// What was freed is no object of the cache that it was freed to. If memory is not mapped one to one, the
    /// report's frame means nothing.
    NotObject {
        /// Its address.
        at: usize,
    },
    /// An object in it was freed, but is free already.
    ObjectFreedTwice {
        /// Its address.
        at: usize,
    },
    /// It was written to while it was free.
    UsedWhileFree {
        /// Where in the frame, in bytes.
        offset: u32,
        /// The first byte found there that is not poison.
        found: u8,
    },
}

/// Who allocated or freed a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LastOwner {
    /// Where in the source.
    pub place: &'static Location<'static>,
    /// On which CPU.
    pub cpu: Cpu,
}

/// A report of misuse.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadPage {
    /// What was done.
    pub misuse: Misuse,
    /// With which frame.
    pub frame: FrameNumber,
    /// Who did it, or noticed it.
    pub by: &'static Location<'static>,
    /// Who allocated or freed the frame last, if [`Platform::CHECKS`](crate::Platform::CHECKS) and anybody did.
    pub last_owner: Option<LastOwner>,
}

impl fmt::Display for BadPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bad page {:#x}: ", self.frame.number())?;
        match self.misuse {
            Misuse::DoubleFree => f.write_str("freed, but it is free already"),
            Misuse::NotMemory => f.write_str("freed, but it is not memory that can be allocated"),
            Misuse::NotHead => f.write_str("freed, but it is inside of a block"),
            Misuse::WrongOrder { freed, allocated } => {
                write!(
                    f,
                    "freed as order {}, but allocated as {}",
                    freed.get(),
                    allocated.get()
                )
            }
            Misuse::InUse { references } => write!(f, "freed, but shared, with {references} references"),
            Misuse::NotAllocated => f.write_str("nobody has it, so there is no reference to it"),
            Misuse::NotObject { at } => write!(f, "{at:#x} was freed, but it is no object of that cache"),
            Misuse::ObjectFreedTwice { at } => {
                write!(f, "the object at {at:#x} was freed, but it is free already")
            }
            Misuse::UsedWhileFree { offset, found } => {
                write!(
                    f,
                    "written to while it was free: {found:#04x} at byte {offset:#x}"
                )
            }
        }?;
        write!(f, "; by {}", self.by)?;
        match self.last_owner {
            Some(last) => write!(
                f,
                "; last allocated or freed by {} on CPU {}",
                last.place, last.cpu.0
            ),
            None => Ok(()),
        }
    }
}
