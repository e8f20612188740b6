//! Caches for all small objects, by size: a kernel's `kmalloc`.

use core::alloc::Layout;
use core::fmt;

use crate::allocator::PageAllocator;
use crate::platform::Platform;
use crate::request::AllocError;
use crate::slab::{Cache, Object};

/// Sizes and alignments of objects, ascending. Two of the largest fill a frame.
const CLASSES: [(usize, usize); 8] = [
    (16, 16),
    (32, 32),
    (64, 64),
    (128, 128),
    (256, 256),
    (512, 512),
    (1024, 1024),
    (1984, 64),
];

/// A cache for each size class. It takes no memory until something is allocated.
pub struct Heap<'a, P: Platform> {
    caches: [Cache<'a, P>; CLASSES.len()],
}

impl<'a, P: Platform> Heap<'a, P> {
    /// A heap on top of `pages`.
    pub fn new(pages: &'a PageAllocator<P>) -> Self {
        Heap {
            caches: CLASSES.map(|(size, align)| {
                let layout = Layout::from_size_align(size, align).expect("alignments are powers of two");
                Cache::new(pages, layout).expect("several fit into a frame")
            }),
        }
    }

    /// The cache of the smallest objects that are large enough and aligned for `layout`. `None` for what takes
    /// frames of its own.
    pub fn cache(&self, layout: Layout) -> Option<&Cache<'a, P>> {
        self.caches.iter().find(|cache| cache.fits(layout))
    }

    /// Allocates an object with this value, which is given back when it is dropped.
    ///
    /// # Errors
    ///
    /// Those of [`PageAllocator::alloc`].
    #[track_caller]
    pub fn object<T>(&self, value: T) -> Result<Object<'_, 'a, T, P>, AllocError> {
        const {
            assert!(
                size_of::<T>() <= 1984 && align_of::<T>() <= 64,
                "it takes frames of its own"
            );
        }
        let cache = self.cache(Layout::new::<T>());
        cache.expect("there is a class for it").object(value)
    }

    /// Gives what this CPU has, and all slabs that are not in use, back to the page allocator.
    pub fn drain_this_cpu(&self) {
        self.caches.iter().for_each(Cache::drain_this_cpu);
    }
}

impl<P: Platform> fmt::Debug for Heap<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.caches).finish()
    }
}
