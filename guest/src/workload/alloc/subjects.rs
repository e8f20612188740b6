//! Who competes: `mm`, a peer, and the floor.
//!
//! | subject | what it is |
//! |---|---|
//! | [`Ours`] | the kernel's page allocator |
//! | [`Peer`] | `buddy_system_allocator`'s `Heap` behind the kernel's lock, in the state that suits it best |
//! | [`Floor`] | a stack of frame numbers for each vCPU, which does nothing else |
//!
//! All find the vCPU in the same way, with interrupts masked. `mm`'s bench compares the same three on the
//! host.

use core::alloc::Layout;
use core::cell::UnsafeCell;
use core::ptr::{self, NonNull};

use buddy_system_allocator::Heap;
use mm::{Cpu, FRAME_SIZE, FrameNumber, MigrateType, Order, PageAllocator, Platform, Request};

use super::contest::BURST;
use crate::memory::{self, Machine};
use crate::spinlock::Mutex;

/// Somebody who has frames to give.
pub(super) trait Subject: Sync {
    /// Allocates a frame, and names it. `None` if there is none.
    fn take(&self) -> Option<u64>;

    /// Frees a frame.
    ///
    /// # Safety
    ///
    /// It comes from [`take`](Subject::take), and whoever took it forgets it now.
    unsafe fn give(&self, frame: u64);
}

/// A block of frames that is given back when it is dropped.
struct Frames(FrameNumber, Order);

impl Frames {
    fn new(order: Order) -> Option<Frames> {
        let request = Request::new(order, MigrateType::Unmovable);
        Some(Frames(memory::pages().alloc(request).ok()?, order))
    }

    fn start(&self) -> *mut u8 {
        memory::pages().platform().frame_ptr(self.0)
    }

    fn bytes(&self) -> usize {
        self.1.frames() as usize * FRAME_SIZE as usize
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        // SAFETY: it was allocated so; whoever had its memory by this owner has it no more.
        unsafe { memory::pages().free(self.0, self.1) };
    }
}

/// The page allocator.
pub(super) struct Ours(pub(super) &'static PageAllocator<Machine>);

impl Subject for Ours {
    #[inline(always)]
    fn take(&self) -> Option<u64> {
        let request = Request::new(Order::FRAME, MigrateType::Movable);
        Some(self.0.alloc(request).ok()?.number())
    }

    #[inline(always)]
    unsafe fn give(&self, frame: u64) {
        // SAFETY: the caller's promise.
        unsafe { self.0.free(FrameNumber::new(frame), Order::FRAME) };
    }
}

const FRAME: Layout = match Layout::from_size_align(FRAME_SIZE as usize, FRAME_SIZE as usize) {
    Ok(layout) => layout,
    Err(_) => panic!("a frame is no layout"),
};

/// Most blocks of the peer's: bursts of 512 vCPUs fit.
const BLOCKS: usize = 16;

/// The peer. Its heap is made of blocks of `mm`'s largest order.
pub(super) struct Peer {
    heap: Mutex<Heap<23>>,
    blocks: [Option<Frames>; BLOCKS],
}

impl Peer {
    /// With memory for `vcpus` vCPUs, or as much of that as there is.
    pub(super) fn new(vcpus: u32) -> Peer {
        let wanted = (vcpus as usize * BURST).div_ceil(Order::MAX.frames() as usize);
        Peer {
            heap: Mutex::new(Heap::new()),
            blocks: core::array::from_fn(|i| if i < wanted { Frames::new(Order::MAX) } else { None }),
        }
    }

    /// Makes the heap anew, with `free` single frames, whose neighbours are held, before it would have to
    /// split.
    ///
    /// # Safety
    ///
    /// Nobody has a frame of it.
    pub(super) unsafe fn refresh(&self, free: u32) {
        let mut heap = self.heap.lock();
        *heap = Heap::new();
        for block in self.blocks.iter().flatten() {
            // SAFETY: the memory is the block's, whose owner lives as long as the heap; the old heap is gone.
            unsafe { heap.init(block.start().expose_provenance(), block.bytes()) };
        }
        // Each frame that is taken leads to the one before.
        let mut last = ptr::null_mut::<u8>();
        for _ in 0..2 * free {
            let Ok(frame) = heap.alloc(FRAME) else { break };
            // SAFETY: it was just allocated, and has room for a pointer.
            unsafe { frame.cast::<*mut u8>().write(last) };
            last = frame.as_ptr();
        }
        while let Some(frame) = NonNull::new(last) {
            // SAFETY: it was written above, and the frame is still ours.
            last = unsafe { frame.cast::<*mut u8>().read() };
            if frame.addr().get() / FRAME.size() % 2 == 1 {
                // SAFETY: it was allocated so, and is not used any more.
                unsafe { heap.dealloc(frame, FRAME) };
            }
        }
    }
}

impl Subject for Peer {
    #[inline(always)]
    fn take(&self) -> Option<u64> {
        let frame = Machine.on_this_cpu(|_| self.heap.lock().alloc(FRAME));
        Some(frame.ok()?.as_ptr().expose_provenance() as u64)
    }

    #[inline(always)]
    unsafe fn give(&self, frame: u64) {
        let Some(frame) = NonNull::new(ptr::with_exposed_provenance_mut(frame as usize)) else {
            return;
        };
        // SAFETY: the caller's promise.
        Machine.on_this_cpu(|_| unsafe { self.heap.lock().dealloc(frame, FRAME) });
    }
}

/// Slots of a stack.
const SLOTS: usize = 2 * BURST;

/// A vCPU's stack, in cache lines of its own: how many numbers are on it, and those.
#[repr(align(128))]
struct Stack(UnsafeCell<(usize, [u64; SLOTS])>);

/// The floor.
pub(super) struct Floor {
    stacks: NonNull<[Stack]>,
    #[expect(dead_code, reason = "the stacks' memory")]
    frames: Frames,
}

// SAFETY: every vCPU uses the stack of its own number alone.
unsafe impl Sync for Floor {}
// SAFETY: the memory is the frames', which any vCPU may free.
unsafe impl Send for Floor {}

impl Floor {
    /// A full stack for each of `vcpus` vCPUs, if there is memory.
    pub(super) fn new(vcpus: u32) -> Option<Floor> {
        let bytes = vcpus as usize * size_of::<Stack>();
        let order = Order::all().find(|order| order.frames() as usize * FRAME_SIZE as usize >= bytes)?;
        let frames = Frames::new(order)?;
        let first = NonNull::new(frames.start().cast::<Stack>())?;
        for i in 0..vcpus as usize {
            // SAFETY: the block has room for so many, and nobody uses it yet.
            let place = unsafe { first.add(i) };
            // SAFETY: as above; a frame's start, and so each multiple of its size, is aligned for a stack.
            unsafe { place.write(Stack(UnsafeCell::new((SLOTS, [7; SLOTS])))) };
        }
        let stacks = NonNull::slice_from_raw_parts(first, vcpus as usize);
        Some(Floor { stacks, frames })
    }

    #[inline(always)]
    fn with<R>(&self, f: impl FnOnce(&mut usize, &mut [u64; SLOTS]) -> R) -> R {
        Machine.on_this_cpu(|Cpu(index)| {
            // SAFETY: they are there for as long as `self` has their frames.
            let stacks = unsafe { self.stacks.as_ref() };
            // SAFETY: the stack is this vCPU's, and `f` does not come here.
            let (length, slots) = unsafe { &mut *stacks[index as usize].0.get() };
            f(length, slots)
        })
    }
}

impl Subject for Floor {
    #[inline(always)]
    fn take(&self) -> Option<u64> {
        self.with(|length, slots| {
            *length = length.checked_sub(1)?;
            Some(slots[*length])
        })
    }

    #[inline(always)]
    unsafe fn give(&self, frame: u64) {
        self.with(|length, slots| {
            slots[*length] = frame;
            *length += 1;
        });
    }
}
