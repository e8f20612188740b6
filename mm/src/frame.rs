//! What is kept for every frame.

use core::sync::atomic::{AtomicU32 as LocalU32, AtomicU64 as LocalU64};

use crate::fault::{Fault, planted};
use crate::index::FrameIndex;
use crate::movable::User;
use crate::platform::Platform;
use crate::state::{Kind, SHARED, State};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Metadata of a frame. There is one for every frame of a zone, 1/128 of the memory.
///
/// ```text
///    0        8      12      16        24     28   32
///   +--------+------+-------+---------+------+----+
///   | state  | next | prev  | private | maps | mv |     two to a cache line
///   +--------+------+-------+---------+------+----+
///              │                            └── movable: whose it is, and whether it is isolated
///              └── of whoever has the block on a list: the buddy under its lock, or the holder
/// ```
#[derive(Debug)]
#[repr(C, align(32))]
pub struct Frame {
    state: AtomicU64,
    next: LocalU32,
    prev: LocalU32,
    private: LocalU64,
    maps: LocalU32,
    movable: AtomicU32,
}

/// Bit of `movable`: somebody has isolated the page, to move it.
const ISOLATED: u32 = 1 << 31;

#[cfg(not(loom))]
const _: () = {
    assert!(size_of::<Frame>() == 32);
    assert!(core::mem::offset_of!(Frame, private) == 16);
    assert!(core::mem::offset_of!(Frame, maps) == 24);
};

impl Frame {
    pub(crate) fn new(state: State) -> Frame {
        Frame {
            state: AtomicU64::new(state.raw()),
            next: LocalU32::new(0),
            prev: LocalU32::new(0),
            private: LocalU64::new(0),
            maps: LocalU32::new(0),
            movable: AtomicU32::new(0),
        }
    }

    /// What the frame is now. Without the lock of its zone, or a reference, that may change at any time.
    #[inline]
    pub fn state(&self) -> State {
        // Relaxed: a hint, or the reader already has what it needs: the lock, or the block.
        State::from_raw(self.state.load(Ordering::Relaxed))
    }

    /// Changes the state of a block that nobody else may change: its holder has not shared it, or it is free
    /// and the caller has the list that it is on.
    #[inline]
    pub(crate) fn set(&self, state: State) {
        // Relaxed: who gets the block next gets it from this CPU's list, or through the lock of the zone.
        self.state.store(state.raw(), Ordering::Relaxed);
    }

    /// As [`set`](Frame::set), but fails where the state is no longer `from`: for checks, which must tell who
    /// was first of two that free a block at once.
    pub(crate) fn replace(&self, from: State, to: State) -> bool {
        // Relaxed: as for `set`.
        self.state
            .compare_exchange(from.raw(), to.raw(), Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// Lets others take references to the block. Its holder calls it, after it has written to the block and
    /// its metadata what they will want to know.
    pub(crate) fn share(&self) {
        // Release: pairs with the Acquire in `get`.
        self.state.fetch_or(SHARED, Ordering::Release);
    }

    /// Takes a reference, unless the block is not shared, or is about to be freed: its last reference is gone.
    /// Linux's `folio_try_get`.
    pub(crate) fn get<P: Platform>(&self) -> bool {
        let mut seen = self.state();
        loop {
            let dead = seen.references() == 0 && !planted::<P>(Fault::GetsTheDead);
            if !seen.shared() || dead {
                return false;
            }
            // Acquire: pairs with the Release in `share`, and what we do with the block comes after it. The
            // failure's value is only compared.
            match self.state.compare_exchange_weak(
                seen.raw(),
                seen.raw() + 1,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => seen = State::from_raw(now),
            }
        }
    }

    /// Gives a reference back, and returns the state before. If that was the last one, the block is the
    /// caller's alone, and to be freed. `None`, and no change, if there was no reference to give back.
    pub(crate) fn put<P: Platform>(&self) -> Option<State> {
        let mut seen = self.state();
        loop {
            if seen.kind() != Kind::Allocated || seen.references() == 0 {
                return None;
            }
            if planted::<P>(Fault::PutsUnatomically) {
                self.set(State::from_raw(seen.raw() - 1));
                return Some(seen);
            }
            // Release: pairs with the Acquire of the last to do this: what we did with the block comes before
            // it is freed.
            match self.state.compare_exchange_weak(
                seen.raw(),
                seen.raw() - 1,
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some(seen),
                Err(now) => seen = State::from_raw(now),
            }
        }
    }

    /// Number of places that the block is mapped at. A block with more references than that is *pinned*.
    pub fn maps(&self) -> u32 {
        // Relaxed, here and below: whoever decides by it has made sure that nobody maps or unmaps.
        self.maps.load(Ordering::Relaxed)
    }

    /// Counts a mapping. The caller has a reference for it.
    pub fn map(&self) {
        self.maps.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a mapping less.
    pub fn unmap(&self) {
        self.maps.fetch_sub(1, Ordering::Relaxed);
    }

    /// Sets the number of places, where nobody else maps or unmaps.
    pub(crate) fn set_maps(&self, maps: u32) {
        self.maps.store(maps, Ordering::Relaxed);
    }

    /// A word for the holder of the block, such as where to find what maps it.
    pub fn private(&self) -> u64 {
        // Relaxed: read by the holder, or after `get`.
        self.private.load(Ordering::Relaxed)
    }

    /// Sets the holder's word.
    pub fn set_private(&self, value: u64) {
        self.private.store(value, Ordering::Relaxed);
    }

    /// Who can move the page, if anybody.
    pub fn movable(&self) -> Option<User> {
        // Acquire: pairs with the Release in `set_movable`. Still a hint for all but the holder: who has taken
        // a reference asks the user whether the page is its.
        User::from_bits(self.movable.load(Ordering::Acquire) & !ISOLATED)
    }

    /// Says who can move the page. The holder calls it: with somebody when the page is to be that user's,
    /// before others may take references, with `None` before it gives the page up, which may be isolated then
    /// and stays so.
    pub fn set_movable(&self, user: Option<User>) {
        match user {
            // Release: pairs with the Acquire in `movable`.
            Some(user) => self.movable.store(user as u32, Ordering::Release),
            None => _ = self.movable.fetch_and(ISOLATED, Ordering::Release),
        }
    }

    /// Isolates the page, and says whether that was done: not if somebody else has. The caller has a
    /// reference. Linux's `PG_isolated`, and its page lock for as long as it migrates.
    pub fn isolate(&self) -> bool {
        // Acquire: pairs with the Release in `end_isolation`, so that one mover's work comes before the next's.
        self.movable.fetch_or(ISOLATED, Ordering::Acquire) & ISOLATED == 0
    }

    /// Ends the isolation. The caller began it.
    pub fn end_isolation(&self) {
        // Release: pairs with the Acquire in `isolate`.
        self.movable.fetch_and(!ISOLATED, Ordering::Release);
    }

    /// Whether the page is isolated. A hint, but for who began it.
    pub fn isolated(&self) -> bool {
        self.movable.load(Ordering::Relaxed) & ISOLATED != 0
    }

    /// The neighbours on a list.
    pub(crate) fn links(&self) -> (Option<FrameIndex>, Option<FrameIndex>) {
        // Relaxed, here and below: lists have one user at a time, kept apart by a lock.
        (
            FrameIndex::from_link(self.next.load(Ordering::Relaxed)),
            FrameIndex::from_link(self.prev.load(Ordering::Relaxed)),
        )
    }

    pub(crate) fn set_next(&self, next: Option<FrameIndex>) {
        self.next.store(FrameIndex::to_link(next), Ordering::Relaxed);
    }

    pub(crate) fn set_prev(&self, prev: Option<FrameIndex>) {
        self.prev.store(FrameIndex::to_link(prev), Ordering::Relaxed);
    }
}
