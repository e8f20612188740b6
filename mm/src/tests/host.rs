//! Threads as CPUs, and memory of the test's own.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::vec::Vec;

use lock_api::{GuardSend, RawMutex};

use crate::fault::Fault;
use crate::{BadPage, Cpu, FRAME_SIZE, FrameNumber, FrameRange, PageAllocator, Platform};

std::thread_local! {
    static THIS_CPU: Cell<u32> = const { Cell::new(0) };
}

/// From now on this thread is CPU `cpu`. No two threads of a test are the same at a time.
pub(crate) fn be(cpu: u32) {
    THIS_CPU.set(cpu);
}

/// A spin lock.
pub(crate) struct Spin(AtomicBool);

// SAFETY: whoever swaps in `true` for `false` has the lock, until it stores `false`.
unsafe impl RawMutex for Spin {
    const INIT: Spin = Spin(AtomicBool::new(false));
    type Guard = GuardSend;

    fn lock(&self) -> GuardSend {
        loop {
            if let Some(guard) = self.try_lock() {
                return guard;
            }
            thread::yield_now();
        }
    }

    fn try_lock(&self) -> Option<GuardSend> {
        // Acquire: pairs with the Release in `unlock`.
        (!self.0.swap(true, Ordering::Acquire)).then(GuardSend::new)
    }

    unsafe fn unlock(&self, _: GuardSend) {
        // Release: pairs with the Acquire in `try_lock`.
        self.0.store(false, Ordering::Release);
    }

    fn is_locked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Memory of a region.
struct Memory {
    range: FrameRange,
    bytes: *mut u8,
}

impl Memory {
    fn layout(range: &FrameRange) -> Layout {
        let bytes = (range.len() * FRAME_SIZE) as usize;
        Layout::from_size_align(bytes, FRAME_SIZE as usize).expect("regions of tests are small")
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: it was allocated with this layout.
        unsafe { dealloc(self.bytes, Self::layout(&self.range)) };
    }
}

/// A machine with a planted fault, or none. CPUs' lists have batches of 8 frames and a high mark of 24.
pub(crate) struct Host<const CHECKS: bool, const FAULT: u8 = 0> {
    memory: Vec<Memory>,
    reports: Mutex<Vec<BadPage>>,
}

impl<const CHECKS: bool, const FAULT: u8> Host<CHECKS, FAULT> {
    pub(crate) fn new(regions: &[FrameRange]) -> Self {
        let memory = regions.iter().filter(|range| !range.is_empty()).map(|range| {
            let layout = Memory::layout(range);
            // SAFETY: the size is not 0.
            let bytes = unsafe { alloc_zeroed(layout) };
            if bytes.is_null() {
                handle_alloc_error(layout);
            }
            Memory { range: *range, bytes }
        });
        Host {
            memory: memory.collect(),
            reports: Mutex::default(),
        }
    }

    /// An allocator with all memory of `regions`.
    pub(crate) fn allocator(regions: &[FrameRange], cpus: u32) -> PageAllocator<Self> {
        // SAFETY: the memory is the platform's, which lives as long as the allocator.
        unsafe { PageAllocator::new(Self::new(regions), regions, cpus) }.expect("regions have room")
    }

    /// What has been reported since the last call.
    pub(crate) fn reports(&self) -> Vec<BadPage> {
        core::mem::take(&mut self.reports.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

// SAFETY: threads of a test have different numbers, and each is one context. Frames are where the memory of
// their region is.
unsafe impl<const CHECKS: bool, const FAULT: u8> Platform for Host<CHECKS, FAULT> {
    type Lock = Spin;
    const CHECKS: bool = CHECKS;
    const FAULT: Fault = Fault::numbered(FAULT);
    const LISTS: Option<(u32, u32)> = Some((8, 24));

    fn on_this_cpu<R>(&self, f: impl FnOnce(Cpu) -> R) -> R {
        f(Cpu(THIS_CPU.get()))
    }

    fn frame_ptr(&self, frame: FrameNumber) -> *mut u8 {
        let memory = self.memory.iter().find(|memory| memory.range.contains(frame));
        let memory = memory.expect("only frames of regions are used");
        let offset = (frame.number() - memory.range.start().number()) * FRAME_SIZE;
        // SAFETY: the frame is in the region, so its offset is within the memory.
        unsafe { memory.bytes.add(offset as usize) }
    }

    fn bad_page(&self, report: BadPage) {
        self.reports
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(report);
    }
}

// SAFETY: the memory is plain bytes, which the allocator and its users keep apart.
unsafe impl<const CHECKS: bool, const FAULT: u8> Send for Host<CHECKS, FAULT> {}
// SAFETY: as above.
unsafe impl<const CHECKS: bool, const FAULT: u8> Sync for Host<CHECKS, FAULT> {}
