//! What the boot allocates, for good: whole frames off the front of the memory the VMM gave.

use core::slice;

use abi::boot::{BootInfo, MEMORY_REGIONS};
use mm::{FRAME_SIZE, FrameRange, PhysAddr};

/// The memory that is still free. There is one in the guest, on vCPU 0, while it boots.
pub(crate) struct BootMemory {
    free: [FrameRange; MEMORY_REGIONS],
}

impl BootMemory {
    /// All of the memory that `boot` says may be used.
    pub(crate) fn new(boot: &BootInfo) -> Self {
        Self {
            free: boot
                .memory
                .map(|region| FrameRange::inside(PhysAddr(region.base), region.len)),
        }
    }

    /// A slice of `len` elements made by `make`, starting on a frame of its own.
    ///
    /// # Panics
    ///
    /// If no region has that much left.
    pub(crate) fn slice<T>(&mut self, len: usize, make: impl Fn() -> T) -> &'static [T] {
        const { assert!(align_of::<T>() as u64 <= FRAME_SIZE) };
        let bytes = (len * size_of::<T>()) as u64;
        let frames = bytes.div_ceil(FRAME_SIZE);
        let Some(taken) = self.free.iter_mut().find_map(|range| range.take_front(frames)) else {
            panic!("out of memory: no {bytes} bytes left for the boot to take");
        };
        // Memory is mapped one to one.
        let first = taken.start().start().0 as *mut T;
        for i in 0..len {
            // SAFETY: the frames are mapped, were free, and now belong to this slice alone; `i` is within
            // them.
            let place = unsafe { first.add(i) };
            // SAFETY: as above; a frame's start is aligned for `T`.
            unsafe { place.write(make()) };
        }
        // SAFETY: `len` elements were just written there, and nobody else will ever be given that memory.
        unsafe { slice::from_raw_parts(first, len) }
    }
}
