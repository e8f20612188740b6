//! Who sleeps on which lock.
//!
//! A lock word has no room for "the queue head is asleep, and it is that one": the tail names the other end
//! of the queue. So a sleeping head is entered here under the lock's address, and the releaser, told by SLOW
//! in the lock word, takes it out again.
//!
//! At most one entry at a time is in use for a lock, and for a queue node: a head is entered by its
//! predecessor, or enters itself, and enters itself again only after it was taken out. A CPU has four nodes,
//! so with four entries per CPU one is free at every moment at which there is something to insert.
//!
//! Open addressing. A search starts at the first entry of a cache line and goes on by one. The search for an
//! entry does not stop at free ones, which may have been in use when it was made; it is only made for locks
//! that are there, and entries do not move. The search for a free entry may miss it, if one becomes free
//! behind it and the last one before it is taken; but only while others come and go, so it starts again.
//!
//! Addresses are reused: the entry of a lock is gone before its word says free, so before its memory can
//! become another lock.

use crate::node::{LEVELS, NodeId};
use crate::sync::{AtomicU32, AtomicUsize, Ordering, const_unless_loom};

/// Entries in a cache line.
const LINE: usize = 4;

/// An entry of a [`LockHash`]: free to begin with.
#[derive(Debug)]
#[repr(C, align(16))]
pub struct HashEntry {
    /// The lock's address, or 0. Who changes it from 0 owns the entry.
    lock: AtomicUsize,
    /// The sleeping head's [`NodeId`]. Means something only to the owner, and to the releaser of the lock.
    node: AtomicU32,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<HashEntry>() == 16);

impl HashEntry {
    const_unless_loom! {
        /// A free entry.
        pub fn new() -> HashEntry {
            HashEntry { lock: AtomicUsize::new(0), node: AtomicU32::new(0) }
        }
    }
}

impl Default for HashEntry {
    fn default() -> HashEntry {
        HashEntry::new()
    }
}

/// A table of sleeping queue heads, one for all locks of a machine.
#[derive(Debug)]
pub struct LockHash {
    entries: &'static [HashEntry],
}

impl LockHash {
    /// How many entries a machine with so many CPUs, numbered from 0, needs.
    pub const fn entries_for(cpus: u32) -> usize {
        let needed = cpus as usize * LEVELS;
        if needed < LINE {
            LINE
        } else {
            needed.next_power_of_two()
        }
    }

    /// A table of these entries. They should start on a cache line (64 bytes), or every search touches two; a
    /// constant cannot see its address, so that is checked, in debug builds, when the table is used.
    ///
    /// # Panics
    ///
    /// If their number is not a power of two, or less than four. That it suffices for the machine
    /// ([`entries_for`](Self::entries_for)) is up to the caller.
    pub const fn new(entries: &'static [HashEntry]) -> LockHash {
        assert!(
            entries.len().is_power_of_two() && entries.len() >= LINE,
            "not a table of 4, 8, 16, ... entries"
        );
        LockHash { entries }
    }

    /// How many queue heads are entered now. For diagnosis: none when nobody waits for any lock.
    pub fn sleepers(&self) -> usize {
        // Relaxed: a number that may be out of date at once.
        self.entries
            .iter()
            .filter(|entry| entry.lock.load(Ordering::Relaxed) != 0)
            .count()
    }

    /// Enters `node` as the sleeping head of the lock at the address `lock`. Returns how many entries it
    /// looked at.
    ///
    /// # Panics
    ///
    /// If the table is full and too small, as far as `node` tells.
    pub(crate) fn insert(&self, lock: usize, node: NodeId) -> u64 {
        debug_assert!(lock != 0);
        let mut hops = 0;
        loop {
            for entry in self.search(lock) {
                hops += 1;
                // Acquire: pairs with the Release in `remove`; the last user's reading of `node` comes
                // before our writing. The look before it is only to leave the entries of others alone.
                if entry.lock.load(Ordering::Relaxed) == 0
                    && entry
                        .lock
                        .compare_exchange(0, lock, Ordering::Acquire, Ordering::Relaxed)
                        .is_ok()
                {
                    // Relaxed: the only one who reads it is the releaser that sees SLOW, which is set after
                    // this with Release (`LockWord::mark_slow`) and read with Acquire.
                    entry.node.store(node.raw(), Ordering::Relaxed);
                    return hops;
                }
            }
            assert!(
                self.entries.len() >= LockHash::entries_for(node.cpu().get() + 1),
                "pvlock: the table of sleeping waiters is full; it needs 4 entries for every CPU"
            );
        }
    }

    /// Takes out the entry of the lock at the address `lock`, which must be there: the caller has seen SLOW,
    /// or has entered it itself.
    pub(crate) fn remove(&self, lock: usize) -> NodeId {
        for entry in self.search(lock) {
            // Relaxed: that the entry is visible follows from how the caller knows of it. An entry cannot say
            // `lock` from an earlier sleep: that one was removed by an earlier holder, which happened before.
            if entry.lock.load(Ordering::Relaxed) == lock {
                let node = NodeId::from_raw(entry.node.load(Ordering::Relaxed));
                // Release: pairs with the Acquire in `insert`.
                entry.lock.store(0, Ordering::Release);
                return node.expect("pvlock: an entry without a node");
            }
        }
        panic!("pvlock: the lock at {lock:#x} says that a waiter sleeps, but there is none");
    }

    /// All entries, in the order in which this lock tries them.
    fn search(&self, lock: usize) -> impl Iterator<Item = &'static HashEntry> {
        let entries = self.entries;
        #[cfg(not(loom))]
        debug_assert!(
            entries.as_ptr().addr().is_multiple_of(64),
            "the table does not start on a cache line"
        );
        // Fibonacci hashing: the high bits of the product depend on all bits of the address.
        let product = (lock as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let bits = entries.len().trailing_zeros();
        let start = (product >> (u64::BITS - bits)) as usize / LINE * LINE;
        (0..entries.len()).map(move |step| &entries[(start + step) % entries.len()])
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
