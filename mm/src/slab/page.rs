//! A slab: a frame of objects.

use core::alloc::Layout;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use crate::address::{FRAME_SIZE, FrameNumber};
use crate::owner::POISON;

const FRAME: usize = FRAME_SIZE as usize;

/// Words of a bit for each object.
const WORDS: usize = 4;

/// The smallest object, so that there are bits for all.
const SMALLEST: usize = FRAME / (64 * WORDS);

/// How a slab is divided.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) size: u32,
    align: u32,
    pub(super) first: u32,
    pub(super) count: u32,
}

impl Shape {
    /// For objects of `layout`; `None` if fewer than two fit.
    pub(super) const fn of(layout: Layout) -> Option<Shape> {
        let align = layout.align();
        if align > FRAME / 4 || layout.size() > FRAME {
            return None;
        }
        let size = if layout.size() < SMALLEST {
            SMALLEST.next_multiple_of(align)
        } else {
            layout.size().next_multiple_of(if align < 8 { 8 } else { align })
        };
        let first = size_of::<Slab>().next_multiple_of(if align < 8 { 8 } else { align });
        let count = (FRAME - first) / size;
        if count < 2 {
            return None;
        }
        Some(Shape {
            size: size as u32,
            align: align as u32,
            first: first as u32,
            count: count as u32,
        })
    }

    pub(super) fn fits(&self, layout: Layout) -> bool {
        layout.size() <= self.size() && layout.align() <= self.align as usize
    }

    /// Size of an object, in bytes: a multiple of eight.
    pub(super) const fn size(&self) -> usize {
        self.size as usize
    }

    /// Where in its slab an object is.
    pub(super) fn offset(&self, object: NonNull<u8>) -> u32 {
        (object.addr().get() % FRAME) as u32
    }

    /// Which object of its slab starts there, if one does.
    pub(super) fn number(&self, object: NonNull<u8>) -> Option<u32> {
        let offset = self.offset(object).checked_sub(self.first)?;
        let number = offset / self.size;
        (offset % self.size == 0 && number < self.count).then_some(number)
    }
}

/// The header of a slab, at its start.
#[repr(C)]
pub(super) struct Slab {
    /// Which cache it is of.
    cache: AtomicU64,
    frame: AtomicU64,
    next: AtomicPtr<Slab>,
    prev: AtomicPtr<Slab>,
    /// A bit for each object that is free, less those in magazines.
    pub(super) free: [AtomicU64; WORDS],
    /// With checks, a bit for each object that somebody has.
    held: [AtomicU64; WORDS],
}

// Relaxed, everywhere here but for `held`: all else is written before the slab is first linked, or under the lock of
// the cache, which keeps its users apart.
impl Slab {
    /// Makes a slab of all free objects in the frame at `bytes`.
    ///
    /// # Safety
    ///
    /// The frame is the caller's, and can be written at `bytes`, aligned to a frame.
    pub(super) unsafe fn make(
        bytes: NonNull<u8>,
        frame: FrameNumber,
        cache: usize,
        shape: &Shape,
        poison: bool,
    ) -> NonNull<Slab> {
        if poison {
            // SAFETY: the caller's promise.
            unsafe { bytes.write_bytes(POISON, FRAME) };
        }
        let slab = bytes.cast::<Slab>();
        let bits = |word: usize| match (shape.count as usize).saturating_sub(64 * word) {
            0 => 0,
            left => u64::MAX >> (64 - left.min(64)),
        };
        let header = Slab {
            cache: AtomicU64::new(cache as u64),
            frame: AtomicU64::new(frame.number()),
            next: AtomicPtr::new(ptr::null_mut()),
            prev: AtomicPtr::new(ptr::null_mut()),
            free: core::array::from_fn(|word| AtomicU64::new(bits(word))),
            held: [const { AtomicU64::new(0) }; WORDS],
        };
        // SAFETY: the caller's promise; a header is smaller than a frame.
        unsafe { slab.write(header) };
        slab
    }

    /// The slab that an object is in.
    pub(super) fn of(object: NonNull<u8>) -> NonNull<Slab> {
        let back = object.addr().get() % FRAME;
        // SAFETY: the frame starts there, and the object is in it.
        unsafe { object.sub(back) }.cast()
    }

    pub(super) fn is_of(&self, cache: usize) -> bool {
        self.cache.load(Ordering::Relaxed) == cache as u64
    }

    pub(super) fn frame(&self) -> FrameNumber {
        FrameNumber::new(self.frame.load(Ordering::Relaxed))
    }

    pub(super) fn next(&self) -> Option<NonNull<Slab>> {
        NonNull::new(self.next.load(Ordering::Relaxed))
    }

    pub(super) fn prev(&self) -> Option<NonNull<Slab>> {
        NonNull::new(self.prev.load(Ordering::Relaxed))
    }

    pub(super) fn set_next(&self, next: Option<NonNull<Slab>>) {
        self.next
            .store(next.map_or(ptr::null_mut(), NonNull::as_ptr), Ordering::Relaxed);
    }

    pub(super) fn set_prev(&self, prev: Option<NonNull<Slab>>) {
        self.prev
            .store(prev.map_or(ptr::null_mut(), NonNull::as_ptr), Ordering::Relaxed);
    }

    /// Number of free objects.
    pub(super) fn free_objects(&self) -> u32 {
        let ones = |word: &AtomicU64| word.load(Ordering::Relaxed).count_ones();
        self.free.iter().map(ones).sum()
    }

    /// Marks an object as held.
    pub(super) fn hold(&self, number: u32) {
        // One step, as others do this to other objects. Relaxed: of two that free one object, the order of changes
        // of this word tells who was first; what they do to the object is no matter of ours.
        self.held[number as usize / 64].fetch_or(1 << (number % 64), Ordering::Relaxed);
    }

    /// Marks an object as not held; `false` if it was not.
    pub(super) fn release(&self, number: u32) -> bool {
        let bit = 1 << (number % 64);
        self.held[number as usize / 64].fetch_and(!bit, Ordering::Relaxed) & bit != 0
    }
}
