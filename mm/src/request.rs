//! What an allocation asks for, and why it may fail.

use core::fmt;

use crate::migrate_type::MigrateType;
use crate::order::Order;

/// How hard an allocation tries: the part of Linux's `gfp` flags that this allocator needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effort {
    /// The caller cannot wait (`GFP_ATOMIC`), and may use half of the reserve.
    Atomic,
    /// The caller could wait, but rather fails than waits for compaction (`GFP_NOWAIT` with the usual
    /// watermark).
    Ordinary,
    /// The caller may wait while memory is compacted (`__GFP_DIRECT_RECLAIM`): it is in task context, holds no
    /// lock, and is not moving pages itself.
    MayCompact,
}

/// What to allocate: a block of [`Order`], of [`MigrateType`], with [`Effort`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    pub(crate) order: Order,
    pub(crate) migrate_type: MigrateType,
    pub(crate) effort: Effort,
}

impl Request {
    /// An ordinary request.
    #[inline]
    pub const fn new(order: Order, migrate_type: MigrateType) -> Request {
        Request {
            order,
            migrate_type,
            effort: Effort::Ordinary,
        }
    }

    /// The same with another effort.
    #[inline]
    pub const fn with(self, effort: Effort) -> Request {
        Request { effort, ..self }
    }

    /// The order.
    pub const fn order(&self) -> Order {
        self.order
    }

    /// The type.
    pub const fn migrate_type(&self) -> MigrateType {
        self.migrate_type
    }

    /// The effort.
    pub const fn effort(&self) -> Effort {
        self.effort
    }
}

/// Why an allocation failed. Nothing has been allocated then, but this CPU has drained its lists, and the others
/// have been asked to, so a later attempt may succeed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AllocError {
    /// Every zone would fall below the watermark of the request.
    NoMemory,
    /// A zone has enough free frames, but no block of the order. Compaction may help; to a request that
    /// [may wait](Effort::MayCompact) it did not, or it has failed so lately that it was not tried.
    Fragmented,
}

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AllocError::NoMemory => "not enough free memory above the watermark",
            AllocError::Fragmented => "enough free memory, but no block of that order",
        })
    }
}

impl core::error::Error for AllocError {}
