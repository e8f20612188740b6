//! Objects with an owner.

use core::alloc::Layout;
use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

use crate::platform::Platform;
use crate::request::AllocError;
use crate::slab::Cache;

/// A value in an object of a cache, as a `Box` has one on the heap.
pub struct Object<'c, 'a, T, P: Platform> {
    value: NonNull<T>,
    cache: &'c Cache<'a, P>,
    owns: PhantomData<T>,
}

impl<'a, P: Platform> Cache<'a, P> {
    /// Allocates an object with this value, which is given back when it is dropped.
    ///
    /// # Errors
    ///
    /// Those of [`PageAllocator::alloc`](crate::PageAllocator::alloc).
    ///
    /// # Panics
    ///
    /// If the objects are too small for it.
    #[track_caller]
    pub fn object<T>(&self, value: T) -> Result<Object<'_, 'a, T, P>, AllocError> {
        assert!(self.fits(Layout::new::<T>()), "the cache is of smaller objects");
        let place = self.alloc()?.cast();
        // SAFETY: the object is ours, large enough and aligned.
        unsafe { place.write(value) };
        Ok(Object {
            value: place,
            cache: self,
            owns: PhantomData,
        })
    }
}

impl<T, P: Platform> Deref for Object<'_, '_, T, P> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: it was written when this was made, and is ours.
        unsafe { self.value.as_ref() }
    }
}

impl<T, P: Platform> DerefMut for Object<'_, '_, T, P> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above; we are borrowed mutably.
        unsafe { self.value.as_mut() }
    }
}

impl<T, P: Platform> Drop for Object<'_, '_, T, P> {
    fn drop(&mut self) {
        // SAFETY: it is ours, and this is the end of it.
        unsafe { self.value.drop_in_place() };
        // SAFETY: it was allocated from this cache, and is used no more.
        unsafe { self.cache.free(self.value.cast()) };
    }
}

// SAFETY: it owns its value, and any CPU can free what another has allocated.
unsafe impl<T: Send, P: Platform + Sync> Send for Object<'_, '_, T, P> where P::Lock: Sync + Send {}
// SAFETY: shared, it gives out shared references to the value only.
unsafe impl<T: Sync, P: Platform + Sync> Sync for Object<'_, '_, T, P> where P::Lock: Sync + Send {}

impl<T: fmt::Debug, P: Platform> fmt::Debug for Object<'_, '_, T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
