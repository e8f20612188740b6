//! Objects smaller than a frame: caches of one size each, on top of the page allocator.
//!
//! ```text
//!   alloc                      free            a slab, which is a frame:
//!     ▲                          │               +--------+-----+-----+-----+-- ... --+
//!     └── this CPU's magazine ◄──┘               | header | obj | obj | obj |         |
//!           ▲           │                        +--------+-----+-----+-----+-- ... --+
//!     empty │ half      │ full: half               header: links, which objects are free
//!           │           ▼
//!         slabs with free objects, under the cache's lock ──► full ones are on no list
//!           ▲           │
//!     a new │           │ nothing in use, and another slab has free objects
//!           │           ▼
//!           page allocator
//! ```
//!
//! What is free is marked in the header, so an object that is free is untouched: with [`Platform::CHECKS`] it is
//! filled with poison, which is looked at when it is allocated; and who frees an object that is free already, or
//! none at all, is reported to [`Platform::bad_page`], without effect.

mod checks;
mod handle;
mod heap;
mod magazine;
mod page;
mod partial;

use core::alloc::Layout;
use core::fmt;
use core::panic::Location;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, Ordering};

use lock_api::Mutex;

use crate::address::{FrameNumber, FrameRange};
use crate::allocator::PageAllocator;
use crate::carve::{Carved, frames_for};
use crate::migrate_type::MigrateType;
use crate::order::Order;
use crate::platform::{Cpu, Platform};
use crate::request::{AllocError, Request};

pub use handle::Object;
pub use heap::Heap;
use magazine::{BATCH, Magazine};
use page::{Shape, Slab};
use partial::Partial;

/// A cache of objects of one size. It is for good: what it has of CPUs is never given back.
pub struct Cache<'a, P: Platform> {
    pages: &'a PageAllocator<P>,
    shape: Shape,
    /// One for each CPU; null until the first object is allocated.
    magazines: AtomicPtr<Magazine>,
    partial: Mutex<P::Lock, Partial>,
}

impl<'a, P: Platform> Cache<'a, P> {
    /// A cache of objects of `layout`, which takes no memory yet. `None` if fewer than two fit into a frame.
    pub const fn new(pages: &'a PageAllocator<P>, layout: Layout) -> Option<Self> {
        match Shape::of(layout) {
            Some(shape) => Some(Cache {
                pages,
                shape,
                magazines: AtomicPtr::new(core::ptr::null_mut()),
                partial: Mutex::new(Partial::new()),
            }),
            None => None,
        }
    }

    /// Whether its objects are large enough and aligned for `layout`.
    pub fn fits(&self, layout: Layout) -> bool {
        self.shape.fits(layout)
    }

    /// Allocates an object. Its contents are anything.
    ///
    /// # Errors
    ///
    /// Those of [`PageAllocator::alloc`].
    #[track_caller]
    pub fn alloc(&self) -> Result<NonNull<u8>, AllocError> {
        let by = Location::caller();
        loop {
            let object = match self.magazines() {
                Some(magazines) => self
                    .pages
                    .platform
                    .on_this_cpu(|cpu| self.alloc_here(&magazines[cpu.0 as usize])),
                None => {
                    self.make_magazines()?;
                    continue;
                }
            };
            match object {
                None => self.grow()?,
                Some(object) if self.admit(object, by) => return Ok(object),
                Some(_) => {}
            }
        }
    }

    /// Frees an object. With checks, reports one that cannot be freed, and does nothing.
    ///
    /// # Safety
    ///
    /// The object is from this cache's [`alloc`](Cache::alloc) and the caller's, who uses it no more.
    #[track_caller]
    pub unsafe fn free(&self, object: NonNull<u8>) {
        if !self.check_free(object, Location::caller()) {
            return;
        }
        let Some(magazines) = self.magazines() else {
            unreachable!("there is an object, so there are magazines")
        };
        let empty = self.pages.platform.on_this_cpu(|cpu| {
            let magazine = &magazines[cpu.0 as usize];
            // SAFETY: in `on_this_cpu` for this CPU; `push` does not come here.
            if unsafe { magazine.with(|stack| stack.push(object)) } {
                return None;
            }
            let empty = self.flush(magazine, BATCH);
            // SAFETY: as above.
            let room = unsafe { magazine.with(|stack| stack.push(object)) };
            debug_assert!(room, "a batch was flushed");
            empty
        });
        self.give_back(empty);
    }

    /// Gives what this CPU has, and all slabs that are not in use, back to the page allocator.
    pub fn drain_this_cpu(&self) {
        let Some(magazines) = self.magazines() else {
            return;
        };
        let empty = self.pages.platform.on_this_cpu(|cpu: Cpu| {
            let flushed = self.flush(&magazines[cpu.0 as usize], usize::MAX);
            self.partial.lock().take_empty(&self.shape, flushed)
        });
        self.give_back(empty);
    }

    /// Whether it has taken memory for the CPUs' magazines.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn has_magazines(&self) -> bool {
        self.magazines().is_some()
    }

    fn magazines(&self) -> Option<&[Magazine]> {
        // Acquire: pairs with the Release in `make_magazines`.
        let first = NonNull::new(self.magazines.load(Ordering::Acquire))?;
        // SAFETY: `make_magazines` has made one for each CPU there, for good, and only shares them.
        Some(unsafe { core::slice::from_raw_parts(first.as_ptr(), self.pages.cpus() as usize) })
    }

    /// Makes the magazines, unless another CPU is faster.
    #[cold]
    fn make_magazines(&self) -> Result<(), AllocError> {
        let cpus = self.pages.cpus() as usize;
        let frames = frames_for::<Magazine>(cpus);
        let order = Order::all().find(|order| u64::from(order.frames()) >= frames);
        let order = order.ok_or(AllocError::NoMemory)?;
        let block = self.pages.alloc(Request::new(order, MigrateType::Unmovable))?;
        let mut room = FrameRange::new(block, FrameNumber::new(block.number() + frames));
        let at = |frame| self.pages.platform.frame_ptr(frame);
        // SAFETY: the block is ours, and the platform promises what `carve` asks for.
        let made = unsafe { Carved::carve(&mut room, at, cpus, |_| Magazine::new()) };
        let first = made.expect("the block is large enough").as_ptr().cast_mut();
        // Release: pairs with the Acquire in `magazines`: who sees them sees them made.
        let null = core::ptr::null_mut();
        if self
            .magazines
            .compare_exchange(null, first, Ordering::Release, Ordering::Relaxed)
            .is_err()
        {
            // SAFETY: it was allocated above, and nobody has seen it.
            unsafe { self.pages.free(block, order) };
        }
        Ok(())
    }

    /// An object from this CPU's magazine, which is filled up from slabs where it is empty. `None` if they have
    /// nothing.
    fn alloc_here(&self, magazine: &Magazine) -> Option<NonNull<u8>> {
        // SAFETY: in `on_this_cpu` for this CPU; nothing inside comes here again.
        unsafe {
            magazine.with(|stack| {
                stack.pop().or_else(|| {
                    let mut partial = self.partial.lock();
                    let first = partial.take::<P>(&self.shape)?;
                    for _ in 1..BATCH {
                        let Some(object) = partial.take::<P>(&self.shape) else {
                            break;
                        };
                        let room = stack.push(object);
                        debug_assert!(room, "it was empty, and a batch is less than it holds");
                    }
                    Some(first)
                })
            })
        }
    }

    /// Returns the `count` oldest objects of this CPU's magazine to their slabs; then those slabs that are not
    /// needed any more, linked. In `on_this_cpu`.
    fn flush(&self, magazine: &Magazine, count: usize) -> Option<NonNull<Slab>> {
        let mut partial = self.partial.lock();
        let mut empty = None;
        // SAFETY: in `on_this_cpu` for this CPU; `give` does not come here.
        unsafe {
            magazine.with(|stack| {
                stack.drain(count, |object| {
                    empty = partial.give::<P>(&self.shape, object, empty)
                });
            });
        }
        empty
    }

    /// Gives a chain of slabs that nobody uses back to the page allocator.
    fn give_back(&self, mut empty: Option<NonNull<Slab>>) {
        while let Some(slab) = empty {
            // SAFETY: slabs on the chain are ours alone, and valid until they are freed.
            let header = unsafe { slab.as_ref() };
            let frame = header.frame();
            empty = header.next();
            // SAFETY: it was allocated in `grow`; nothing in it is in use, and no list has it.
            unsafe { self.pages.free(frame, Order::FRAME) };
        }
    }

    /// Adds a slab.
    #[cold]
    fn grow(&self) -> Result<(), AllocError> {
        let request = Request::new(Order::FRAME, MigrateType::Unmovable);
        let frame = self.pages.alloc(request)?;
        let bytes = NonNull::new(self.pages.platform.frame_ptr(frame)).expect("memory is not mapped at 0");
        // SAFETY: the frame is ours, and can be written there.
        let slab = unsafe { Slab::make(bytes, frame, self.id(), &self.shape, P::CHECKS) };
        self.pages
            .platform
            .on_this_cpu(|_| self.partial.lock().link(slab));
        Ok(())
    }

    /// What the headers of its slabs have: unlike its own address, that of the magazines does not change.
    fn id(&self) -> usize {
        self.magazines.load(Ordering::Relaxed).addr()
    }
}

impl<P: Platform> fmt::Debug for Cache<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("shape", &self.shape)
            .finish_non_exhaustive()
    }
}
