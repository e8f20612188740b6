//! Pages that can be moved: what migration and compaction know of whoever uses them.

use crate::address::FrameNumber;

/// Which user of movable pages a frame belongs to: what [`Frame::movable`](crate::Frame::movable) says, and
/// what [`Platform::movable`](crate::Platform::movable) turns into that user.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum User {
    /// The window of movable virtual memory.
    Window = 1,
    /// The balloon: pages that the host has.
    Balloon = 2,
}

impl User {
    /// Every user.
    pub const ALL: [User; 2] = [User::Window, User::Balloon];

    pub(crate) const fn from_bits(bits: u32) -> Option<User> {
        match bits {
            1 => Some(User::Window),
            2 => Some(User::Balloon),
            _ => None,
        }
    }
}

/// Why a page did not move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MigrateError {
    /// Somebody was using it just then: it may move if it is tried again. Linux's `-EAGAIN`.
    Again,
    /// It has more references than mappings, or cannot move for another reason that lasts. Linux's `-EBUSY`.
    Pinned,
}

/// A page to be moved, and how that went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Move {
    /// Where it is: a frame that was isolated.
    pub from: FrameNumber,
    /// Where it is to be: an allocated frame, the mover's alone.
    pub to: FrameNumber,
    /// How it went.
    pub result: Result<(), MigrateError>,
}

impl Move {
    /// A page that has yet to be tried.
    pub const fn new(from: FrameNumber, to: FrameNumber) -> Move {
        Move {
            from,
            to,
            result: Err(MigrateError::Again),
        }
    }
}

/// A user of pages that can be moved. Linux's `movable_operations`, by batches.
///
/// ```text
///              isolate                migrate: Ok
///   in use ──────────────► isolated ───────────────► gone from there: the user has given its references back
///      ▲                    │   ▲ │
///      └────────────────────┘   └─┘
///             putback          migrate: Err
/// ```
pub trait Movable: Sync {
    /// Takes the page out of reach of others that would move it, with a reference. `false`, and nothing has
    /// changed, if it is not this user's page any more, or is isolated already. Does not wait.
    fn isolate(&self, frame: FrameNumber) -> bool;

    /// Moves isolated pages, of which none is named twice, and says of each how that went.
    ///
    /// * `Ok`: all that was true of `from` is true of `to`; the isolation has ended and its reference is given
    ///   back. Whoever held the last reference frees `from`.
    /// * `Err`: nothing has changed. `from` is isolated still, and `to` the caller's.
    ///
    /// It may wait, halted: to be called in task context, with no lock held.
    fn migrate(&self, moves: &mut [Move]);

    /// Ends the isolation of a page that was not moved, and gives its reference back.
    fn putback(&self, frame: FrameNumber);
}
