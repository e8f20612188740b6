//! Arrays in frames of the allocator's.

use core::ops::Deref;

use crate::address::{FrameNumber, FrameRange};
use crate::allocator::PageAllocator;
use crate::carve::{Carved, frames_for};
use crate::migrate_type::MigrateType;
use crate::order::Order;
use crate::platform::Platform;
use crate::request::{AllocError, Request};

/// An array in a block that is allocated for it. What it holds needs no `Drop`.
pub(crate) struct Owned<'a, P: Platform, T> {
    allocator: &'a PageAllocator<P>,
    block: FrameNumber,
    order: Order,
    values: Carved<T>,
}

impl<'a, P: Platform, T> Owned<'a, P, T> {
    /// `len` values, which `make(i)` makes.
    pub(crate) fn new(
        allocator: &'a PageAllocator<P>,
        len: usize,
        make: impl FnMut(usize) -> T,
    ) -> Result<Self, AllocError> {
        let frames = frames_for::<T>(len).max(1);
        let order = Order::all().find(|order| u64::from(order.frames()) >= frames);
        let order = order.ok_or(AllocError::Fragmented)?;
        let block = allocator.alloc(Request::new(order, MigrateType::Unmovable))?;
        let end = FrameNumber::new(block.number() + u64::from(order.frames()));
        let at = |frame| allocator.platform.frame_ptr(frame);
        // SAFETY: the block is ours, and freed with the array; the platform promises the rest.
        let values = unsafe { Carved::carve(&mut FrameRange::new(block, end), at, len, make) };
        Ok(Owned {
            allocator,
            block,
            order,
            values: values.expect("the block is large enough"),
        })
    }
}

impl<P: Platform, T> Deref for Owned<'_, P, T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        &self.values
    }
}

impl<P: Platform, T> Drop for Owned<'_, P, T> {
    fn drop(&mut self) {
        // SAFETY: it was allocated so, and nobody has a reference into it any more.
        unsafe { self.allocator.free(self.block, self.order) };
    }
}
