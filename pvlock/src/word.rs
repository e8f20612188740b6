//! The word of a queued lock, and every atomic operation on it.
//!
//! ```text
//!    31                     18 17   16 15            9    8    7              0
//!   +-------------------------+-------+---------------+---------+----------------+
//!   |         CPU + 1         | level |    unused     | pending |  locked byte   |
//!   +-------------------------+-------+---------------+---------+----------------+
//!    \_____________  _______________/
//!                  \/
//!     tail: the last waiter's node, 0 if nobody queues
//!
//!   locked byte   0       free
//!                 LOCKED  held
//!                 SLOW    held, and the queue head sleeps: to release is to look it up and kick it
//!   pending       native: one waiter spins for the lock without queueing
//!                 paravirtual: the queue head spins, so nobody may steal
//! ```
//!
//! It is one `AtomicU32` and every access is to all of it: atomics of different sizes on the same memory are
//! undefined behaviour in Rust. So what could be a store of a byte is a read-modify-write here.
//!
//! A word holds the lock's whole state. As soon as the locked byte is 0 somebody else may take the lock,
//! release it and free its memory: no function touches the word after it has released the lock.

use core::fmt;

use crate::node::NodeId;
use crate::sync::{AtomicU32, Ordering, const_unless_loom};

pub(crate) const LOCKED: u32 = 1;
pub(crate) const SLOW: u32 = 3;
pub(crate) const BYTE: u32 = 0xff;
pub(crate) const PENDING: u32 = 1 << 8;
const TAIL_SHIFT: u32 = 16;
const TAIL: u32 = !0 << TAIL_SHIFT;

const _: () = assert!(NodeId::BITS + TAIL_SHIFT == u32::BITS);
// `mark_slow` and `unmark_slow` depend on it.
const _: () = assert!(SLOW & LOCKED == LOCKED);

/// What a lock word said when it was read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Value(pub(crate) u32);

impl Value {
    /// The locked byte.
    #[inline]
    pub(crate) fn byte(self) -> u32 {
        self.0 & BYTE
    }

    #[inline]
    pub(crate) fn pending(self) -> bool {
        self.0 & PENDING != 0
    }

    /// The last waiter in the queue.
    #[inline]
    pub(crate) fn tail(self) -> Option<NodeId> {
        NodeId::from_raw(self.0 >> TAIL_SHIFT)
    }

    /// Whether nobody has the lock or waits for it.
    #[inline]
    pub(crate) fn free(self) -> bool {
        self.0 == 0
    }

    /// Whether there is neither a pending waiter nor a queue.
    #[inline]
    pub(crate) fn only_byte(self) -> bool {
        self.0 & !BYTE == 0
    }

    /// Whether neither a holder nor a pending waiter is in the way.
    #[inline]
    pub(crate) fn up_for_grabs(self) -> bool {
        self.0 & (BYTE | PENDING) == 0
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let byte = match self.byte() {
            0 => "free",
            LOCKED => "locked",
            SLOW => "slow",
            _ => "corrupt",
        };
        write!(f, "{:#010x} ({byte}", self.0)?;
        if self.pending() {
            f.write_str(", pending")?;
        }
        if let Some(tail) = self.tail() {
            write!(f, ", tail {tail:?}")?;
        }
        f.write_str(")")
    }
}

/// The word of a queued lock.
pub(crate) struct LockWord(AtomicU32);

impl LockWord {
    const_unless_loom! {
        pub(crate) fn new() -> LockWord {
            LockWord(AtomicU32::new(0))
        }
    }

    /// Something to sleep on.
    #[inline]
    pub(crate) fn as_atomic(&self) -> &AtomicU32 {
        &self.0
    }

    /// The lock's address, its name in the hash.
    #[inline]
    pub(crate) fn address(&self) -> usize {
        core::ptr::from_ref(self).addr()
    }

    /// A look that orders nothing. Who takes the lock on the strength of it does so by a read-modify-write,
    /// which confirms it; what else is decided by it must stand a value that is out of date.
    #[inline]
    pub(crate) fn peek(&self) -> Value {
        Value(self.0.load(Ordering::Relaxed))
    }

    /// A look that ends a native wait. Acquire: pairs with the Release of the unlock that made the byte 0,
    /// because [`pending_to_locked`](Self::pending_to_locked) and [`set_locked`](Self::set_locked), which may
    /// follow, are Relaxed.
    #[inline]
    pub(crate) fn look(&self) -> Value {
        Value(self.0.load(Ordering::Acquire))
    }

    /// The fast path: free and nobody waits → held.
    #[inline]
    pub(crate) fn try_lock(&self) -> bool {
        self.replace(Value(0), LOCKED)
    }

    /// Takes the lock past the queue, if the word still says what was `seen`.
    #[inline]
    pub(crate) fn steal(&self, seen: Value) -> bool {
        debug_assert!(seen.up_for_grabs());
        self.replace(seen, seen.0 | LOCKED)
    }

    /// The queue head takes the free lock, if the word still says what was `seen`; the pending bit goes, and
    /// also the tail if that is the head itself.
    #[inline]
    pub(crate) fn take(&self, seen: Value, head: NodeId) -> bool {
        debug_assert!(seen.byte() == 0);
        let behind = if seen.tail() == Some(head) {
            0
        } else {
            seen.0 & TAIL
        };
        self.replace(seen, behind | LOCKED)
    }

    /// Acquire: pairs with the Release of the unlock that made the byte 0, so what the last holder did is
    /// visible to this one. Every operation on the word in between is a read-modify-write, so it belongs to
    /// that release sequence. Nothing has to be published by taking a lock, and a failure is only another
    /// look.
    #[inline]
    fn replace(&self, seen: Value, new: u32) -> bool {
        self.0
            .compare_exchange(seen.0, new, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    /// The head of a native queue takes the lock, which [`look`](Self::look) has seen free and which nobody
    /// else can take. Relaxed: that look was the Acquire.
    #[inline]
    pub(crate) fn set_locked(&self) {
        self.0.fetch_or(LOCKED, Ordering::Relaxed);
    }

    /// Asks to be the pending waiter and returns what was there before. Acquire: if the byte was 0 the lock
    /// is taken by this (with [`pending_to_locked`](Self::pending_to_locked)), and it pairs with the unlock.
    #[inline]
    pub(crate) fn fetch_set_pending(&self) -> Value {
        Value(self.0.fetch_or(PENDING, Ordering::Acquire))
    }

    /// Relaxed, like clearing it: the bit only steers who may try; taking the lock is ordered by itself.
    #[inline]
    pub(crate) fn set_pending(&self) {
        self.0.fetch_or(PENDING, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn clear_pending(&self) {
        self.0.fetch_and(!PENDING, Ordering::Relaxed);
    }

    /// The pending waiter, who owns the bit, takes the lock, which it has seen free with Acquire.
    #[inline]
    pub(crate) fn pending_to_locked(&self) {
        self.0.fetch_sub(PENDING - LOCKED, Ordering::Relaxed);
    }

    /// Puts `node` at the queue's end and returns who was there.
    ///
    /// Release publishes the node's initial state, to its successor (which gets the name from here) and to
    /// its predecessor (by way of `next`). Acquire pairs with the predecessor's Release here: our store to
    /// its `next` must come after its own initialisation of that.
    #[inline]
    pub(crate) fn join(&self, node: NodeId) -> Option<NodeId> {
        let mut seen = self.peek();
        loop {
            let new = seen.0 & !TAIL | node.raw() << TAIL_SHIFT;
            match self
                .0
                .compare_exchange_weak(seen.0, new, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return seen.tail(),
                Err(now) => seen = Value(now),
            }
        }
    }

    /// Empties the queue, if `node` is its only member. Relaxed: the lock is ours already, and a name that
    /// goes publishes nothing.
    #[inline]
    pub(crate) fn leave(&self, node: NodeId) -> bool {
        let seen = self.peek();
        seen.tail() == Some(node)
            && self
                .0
                .compare_exchange(seen.0, seen.0 & !TAIL, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    /// Tells the next unlock to look in the hash, and returns what the byte was: 0 means that the lock was
    /// free and is ours now.
    ///
    /// Release: pairs with the Acquire of [`try_unlock`](Self::try_unlock), which must find the hash entry
    /// that we made before. Acquire: if the byte was 0, as in every taking of the lock.
    #[inline]
    pub(crate) fn mark_slow(&self) -> u32 {
        // An "or" is a store of the byte here, because 0 | SLOW = LOCKED | SLOW = SLOW | SLOW = SLOW.
        Value(self.0.fetch_or(SLOW, Ordering::AcqRel)).byte()
    }

    /// SLOW → LOCKED, by the holder. Relaxed: nobody waits for that transition.
    #[inline]
    pub(crate) fn unmark_slow(&self) {
        self.0.fetch_xor(SLOW ^ LOCKED, Ordering::Relaxed);
    }

    /// Releases a native lock. Release: the critical section comes before it, for the Acquire of whoever
    /// takes the lock next.
    #[inline]
    pub(crate) fn unlock(&self) {
        self.0.fetch_and(!BYTE, Ordering::Release);
    }

    /// Releases a paravirtual lock, unless it is marked SLOW. Release as in [`unlock`](Self::unlock); Acquire
    /// on failure pairs with [`mark_slow`](Self::mark_slow), so that the hash entry is found.
    #[inline]
    pub(crate) fn try_unlock(&self) -> bool {
        // Optimistic: nobody waits, and the first attempt needs no load before it.
        let mut seen = Value(LOCKED);
        loop {
            match self
                .0
                .compare_exchange(seen.0, seen.0 & !BYTE, Ordering::Release, Ordering::Acquire)
            {
                Ok(_) => return true,
                Err(now) if now & BYTE == LOCKED => seen = Value(now),
                Err(_) => return false,
            }
        }
    }
}

impl fmt::Debug for LockWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.peek().fmt(f)
    }
}
