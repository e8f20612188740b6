//! What a CPU has of a cache: a small stack of free objects, Bonwick's magazine.

use core::fmt;
use core::ptr::{self, NonNull};

use crate::sync::UnsafeCell;

/// Objects that it holds: with its length, two cache lines.
const CAPACITY: usize = 15;

/// Objects that go to or come from slabs at once.
pub(super) const BATCH: usize = 8;

/// A CPU's magazine.
#[repr(align(64))]
pub(super) struct Magazine(UnsafeCell<Stack>);

/// What is in it.
pub(super) struct Stack {
    length: usize,
    objects: [*mut u8; CAPACITY],
}

// SAFETY: the stack is reached through `with` alone, whose callers are on the CPU that it belongs to, one at a
// time. Objects are memory that nobody has.
unsafe impl Sync for Magazine {}

impl Magazine {
    pub(super) fn new() -> Magazine {
        Magazine(UnsafeCell::new(Stack {
            length: 0,
            objects: [ptr::null_mut(); CAPACITY],
        }))
    }

    /// Runs `f` on what is in it.
    ///
    /// # Safety
    ///
    /// Only inside of [`on_this_cpu`](crate::Platform::on_this_cpu), for the CPU it names; and `f` does not call
    /// this again.
    #[inline]
    pub(super) unsafe fn with<R>(&self, f: impl FnOnce(&mut Stack) -> R) -> R {
        self.0.with_mut(|stack| {
            // SAFETY: the platform promises that nothing else runs on this CPU meanwhile, and nobody else uses
            // the stack.
            f(unsafe { &mut *stack })
        })
    }
}

impl Stack {
    /// The newest object.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<NonNull<u8>> {
        self.length = self.length.checked_sub(1)?;
        NonNull::new(self.objects[self.length])
    }

    /// Adds an object, or returns `false` where there is no room.
    #[inline]
    #[must_use]
    pub(super) fn push(&mut self, object: NonNull<u8>) -> bool {
        let Some(slot) = self.objects.get_mut(self.length) else {
            return false;
        };
        *slot = object.as_ptr();
        self.length += 1;
        true
    }

    /// Removes the `count` oldest objects, or all there are, and passes each to `to`.
    pub(super) fn drain(&mut self, count: usize, to: impl FnMut(NonNull<u8>)) {
        let count = count.min(self.length);
        let oldest = self.objects[..count].iter();
        oldest.filter_map(|object| NonNull::new(*object)).for_each(to);
        self.objects.copy_within(count..self.length, 0);
        self.length -= count;
    }
}

impl fmt::Debug for Magazine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Magazine").finish_non_exhaustive()
    }
}
