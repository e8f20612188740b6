//! What the benches' machines have in common.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use lock_api::{GuardSend, RawMutex};
use mm::{FRAME_SIZE, FrameNumber};

/// A test-and-set lock, which gives the host's CPU away when it has to wait.
pub(crate) struct Spin(AtomicBool);

// SAFETY: whoever swaps in `true` for `false` has the lock, until it stores `false`.
unsafe impl RawMutex for Spin {
    const INIT: Spin = Spin(AtomicBool::new(false));
    type Guard = GuardSend;

    #[inline]
    fn lock(&self) -> GuardSend {
        loop {
            if let Some(guard) = self.try_lock() {
                return guard;
            }
            thread::yield_now();
        }
    }

    #[inline]
    fn try_lock(&self) -> Option<GuardSend> {
        // Acquire: pairs with the Release in `unlock`.
        (!self.0.swap(true, Ordering::Acquire)).then(GuardSend::new)
    }

    #[inline]
    unsafe fn unlock(&self, _: GuardSend) {
        // Release: pairs with the Acquire in `try_lock`.
        self.0.store(false, Ordering::Release);
    }

    fn is_locked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Zeroed memory, aligned to the largest block, whose frames are numbered from 0.
pub(crate) struct Memory {
    bytes: *mut u8,
    layout: Layout,
}

impl Memory {
    pub(crate) fn new(frames: u64) -> Memory {
        let layout = Layout::from_size_align((frames * FRAME_SIZE) as usize, 4 << 20).expect("it is a size");
        // SAFETY: the size is not 0.
        let bytes = unsafe { alloc_zeroed(layout) };
        assert!(!bytes.is_null(), "no memory");
        Memory { bytes, layout }
    }

    /// Where a frame is.
    #[inline(always)]
    pub(crate) fn at(&self, frame: FrameNumber) -> *mut u8 {
        // SAFETY: only frames of the memory are asked for.
        unsafe { self.bytes.add((frame.number() * FRAME_SIZE) as usize) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: it was allocated so.
        unsafe { dealloc(self.bytes, self.layout) };
    }
}

// SAFETY: plain bytes, which their allocator keeps apart.
unsafe impl Sync for Memory {}
// SAFETY: as above.
unsafe impl Send for Memory {}
