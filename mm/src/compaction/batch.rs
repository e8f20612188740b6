//! Pages that are moved together.

use crate::address::FrameNumber;
use crate::movable::{Movable, Move, User};

/// Most pages that are moved at once: as many as a pageblock has. No burden for a kernel's stack: 12 KiB.
const MOST: usize = 512;

/// Pages that were isolated, all of one user.
pub(super) struct Batch<'a> {
    moves: [Move; MOST],
    len: usize,
    /// Whose they are, if there are any.
    of: Option<(User, &'a dyn Movable)>,
}

impl<'a> Batch<'a> {
    /// No pages. `nowhere` is any frame.
    pub(super) fn new(nowhere: FrameNumber) -> Self {
        Batch {
            moves: [Move::new(nowhere, nowhere); MOST],
            len: 0,
            of: None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn has_room(&self) -> bool {
        self.len < MOST
    }

    /// Whether pages of `user` can be added.
    pub(super) fn is_of(&self, user: User) -> bool {
        self.of.is_none_or(|(of, _)| of == user)
    }

    /// Adds a page of the one user. There is room.
    pub(super) fn push(&mut self, of: (User, &'a dyn Movable), page: FrameNumber) {
        self.moves[self.len] = Move::new(page, page);
        self.len += 1;
        self.of = Some(of);
    }

    /// All of them, and who moves them; none are left.
    pub(super) fn take(&mut self) -> Option<(&'a dyn Movable, &mut [Move])> {
        let (_, mover) = self.of.take()?;
        let len = core::mem::take(&mut self.len);
        Some((mover, &mut self.moves[..len]))
    }
}
