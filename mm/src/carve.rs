//! Metadata lives in the memory that it describes.

use core::marker::PhantomData;
use core::ops::Deref;
use core::ptr::NonNull;
use core::slice;

use crate::address::{FRAME_SIZE, FrameNumber, FrameRange};

/// Frames that `len` values of `T` take.
pub(crate) const fn frames_for<T>(len: usize) -> u64 {
    ((len * size_of::<T>()) as u64).div_ceil(FRAME_SIZE)
}

/// An array in frames of its own.
#[derive(Debug)]
pub(crate) struct Carved<T> {
    first: NonNull<T>,
    len: usize,
    owns: PhantomData<T>,
}

impl<T> Carved<T> {
    /// No array at all.
    pub(crate) const EMPTY: Carved<T> = Carved {
        first: NonNull::dangling(),
        len: 0,
        owns: PhantomData,
    };

    /// Takes as many frames as `len` values need off the front of `memory`, and fills them with `make(i)`.
    /// `None`, and nothing is changed, where there are fewer.
    ///
    /// # Safety
    ///
    /// `memory` belongs to the caller. `at` says where a frame can be read and written, for as long as the
    /// array exists, aligned to a frame and with the following frames behind it.
    pub(crate) unsafe fn carve(
        memory: &mut FrameRange,
        at: impl FnOnce(FrameNumber) -> *mut u8,
        len: usize,
        mut make: impl FnMut(usize) -> T,
    ) -> Option<Carved<T>> {
        let carved = Self::place(memory, at, len)?;
        for i in 0..len {
            // SAFETY: `i` is within the frames taken, which hold `len` values.
            let place = unsafe { carved.first.add(i) };
            // SAFETY: the frames are writable and nobody else's; a frame's start is aligned for `T`, so every
            // element is.
            unsafe { place.write(make(i)) };
        }
        Some(carved)
    }

    /// As [`carve`](Carved::carve), of memory that is zero, without touching it. All bytes zero are what `make`
    /// would make; under the model checker, whose atomics are more than their value, it is what it makes.
    ///
    /// # Safety
    ///
    /// As for `carve`; and `memory` is zero, of which a valid `T` consists.
    pub(crate) unsafe fn zeroed(
        memory: &mut FrameRange,
        at: impl FnOnce(FrameNumber) -> *mut u8,
        len: usize,
        make: impl Fn() -> T,
    ) -> Option<Carved<T>> {
        if cfg!(loom) {
            // SAFETY: the caller's promise.
            return unsafe { Self::carve(memory, at, len, |_| make()) };
        }
        Self::place(memory, at, len)
    }

    /// Frames for `len` values off the front of `memory`, whose contents are yet to be a `T`'s.
    fn place(
        memory: &mut FrameRange,
        at: impl FnOnce(FrameNumber) -> *mut u8,
        len: usize,
    ) -> Option<Carved<T>> {
        const { assert!(align_of::<T>() as u64 <= FRAME_SIZE) };
        if len == 0 {
            return Some(Self::EMPTY);
        }
        let taken = memory.take_front(frames_for::<T>(len))?;
        let first = NonNull::new(at(taken.start()).cast::<T>()).expect("memory is not mapped at 0");
        Some(Carved {
            first,
            len,
            owns: PhantomData,
        })
    }
}

impl<T> Deref for Carved<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: `carve` has initialised `len` values there, or `zeroed` found them so; they exist as long as
        // `self`, and nobody has a mutable reference to them, as none is ever given out. An empty array may
        // dangle.
        unsafe { slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

// SAFETY: it is a slice of `T` that it gives out shared references to only.
unsafe impl<T: Sync> Sync for Carved<T> {}
// SAFETY: as above; it has no tie to a thread.
unsafe impl<T: Sync> Send for Carved<T> {}
