//! A block, and who has it.

use core::sync::atomic::{AtomicU64, Ordering};

use mm::{FRAME_SIZE, FrameNumber, Order, Platform};

use crate::cpu::Cpu;
use crate::memory;

/// A block that is stamped. The stamp says all of it:
///
/// ```text
///    63              28 27   24 23        12 11         0
///   +------------------+-------+------------+------------+
///   |   frame number   | order |   owner    |   number   |
///   +------------------+-------+------------+------------+
/// ```
///
/// The owner is a vCPU's index + 1, so it is never 0; the number is that of the owner's allocations.
#[derive(Clone, Copy)]
pub(super) struct Block(u64);

impl Block {
    /// Stamps it: `cpu` has it now.
    pub(super) fn new(frame: FrameNumber, order: Order, cpu: &Cpu, number: u64) -> Block {
        let block = Block(
            frame.number() << 28
                | u64::from(order.get()) << 24
                | u64::from((cpu.index() + 1) & 0xfff) << 12
                | number & 0xfff,
        );
        block.ends().for_each(|end| end.store(block.0, Ordering::Relaxed));
        block
    }

    /// The one with this stamp, which a vCPU has left for whoever finds it.
    pub(super) fn left(stamp: u64) -> Option<Block> {
        (stamp != 0).then_some(Block(stamp))
    }

    pub(super) fn stamp(self) -> u64 {
        self.0
    }

    pub(super) fn frame(self) -> FrameNumber {
        FrameNumber::new(self.0 >> 28)
    }

    pub(super) fn order(self) -> Order {
        Order::new((self.0 >> 24) as u8 & 0xf).unwrap_or(Order::MAX)
    }

    /// Whether nobody else has stamped it.
    pub(super) fn intact(self) -> bool {
        self.ends().all(|end| end.load(Ordering::Relaxed) == self.0)
    }

    /// First and last word of each frame. Atomic, as somebody else might have the block too, and relaxed:
    /// plain loads and stores.
    fn ends(self) -> impl Iterator<Item = &'static AtomicU64> {
        let first = memory::pages().platform().frame_ptr(self.frame()).cast::<u64>();
        let words = FRAME_SIZE as usize / size_of::<u64>();
        let frames = 0..self.order().frames() as usize;
        let places = frames.flat_map(move |i| [i * words, (i + 1) * words - 1]);
        // SAFETY: the block is memory of the allocator's, for good, and nobody uses it but through these.
        places.map(move |i| unsafe { AtomicU64::from_ptr(first.wrapping_add(i)) })
    }
}
