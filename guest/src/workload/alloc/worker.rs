//! What a vCPU does with blocks, and with objects.

use core::alloc::Layout;
use core::sync::atomic::{AtomicU64, Ordering};

use abi::boot::BootInfo;
use abi::config::fault;
use abi::report::VcpuReport;
use mm::{MigrateType, Order, Request};

use super::block::Block;
use super::{MAIL, MAILBOXES};
use crate::cpu::Cpu;
use crate::workload::Random;
use crate::{clock, memory, report};

/// Frames of a batch: as many as fit on a CPU's list in all but small guests.
const BATCH: usize = 32;

/// Blocks that a vCPU holds at most while it allocates at random.
const HELD: usize = 32;

/// Allocations of a turn of each pattern.
const TURN: usize = 256;

/// A vCPU at work.
pub(super) struct Worker<'a> {
    cpu: &'static Cpu,
    boot: &'static BootInfo,
    random: Random,
    held: [Option<Block>; HELD],
    /// Number of allocations.
    taken: u64,
    results: &'a mut VcpuReport,
}

impl<'a> Worker<'a> {
    pub(super) fn new(cpu: &'static Cpu, boot: &'static BootInfo, results: &'a mut VcpuReport) -> Self {
        Worker {
            cpu,
            boot,
            random: Random::new(cpu, boot),
            held: [const { None }; HELD],
            taken: 0,
            results,
        }
    }

    /// A turn of each pattern.
    pub(super) fn turn(&mut self) {
        self.one_by_one();
        self.in_batches();
        self.at_random();
        self.objects();
    }

    /// Frees what it holds, and what others have left for it. None of them allocates any more.
    pub(super) fn finish(mut self, stolen_ns: u64) {
        self.results.stolen_ns = stolen_ns;
        self.free_all();
    }

    fn take(&mut self, order: Order, migrate_type: MigrateType) -> Option<Block> {
        self.taken += 1;
        let request = Request::new(order, migrate_type);
        let frame = if self.taken.is_multiple_of(16) {
            let start = clock::cycles();
            let frame = memory::pages().alloc(request);
            let took = clock::cycles().saturating_sub(start);
            report::record(&mut self.results.wait, took);
            self.results.longest_wait_cycles = self.results.longest_wait_cycles.max(took);
            frame
        } else {
            memory::pages().alloc(request)
        };
        // Others may have what is left; that is counted by the allocator.
        Some(Block::new(frame.ok()?, order, self.cpu, self.taken))
    }

    fn give(&mut self, block: Block) {
        self.results.intruders += u64::from(!block.intact());
        self.results.acquisitions += 1;
        if self.results.acquisitions.is_multiple_of(16) {
            let start = clock::cycles();
            self.free(block);
            report::record(&mut self.results.held, clock::cycles().saturating_sub(start));
        } else {
            self.free(block);
        }
    }

    fn free(&self, block: Block) {
        // SAFETY: it was allocated, and whoever had it has passed it on to us, who forget it now.
        unsafe { memory::pages().free(block.frame(), block.order()) };
    }

    fn one_by_one(&mut self) {
        for _ in 0..TURN {
            let Some(block) = self.take(Order::FRAME, MigrateType::Movable) else {
                return;
            };
            if self.boot.run.fault == fault::EARLY_FREE {
                self.free(block);
                if let Some(other) = self.take(Order::FRAME, MigrateType::Movable) {
                    self.give(other);
                }
                self.results.intruders += u64::from(!block.intact());
            } else {
                self.give(block);
            }
        }
    }

    fn in_batches(&mut self) {
        for _ in 0..TURN / BATCH {
            let mut batch = [None; BATCH];
            batch.fill_with(|| self.take(Order::FRAME, MigrateType::Unmovable));
            batch.into_iter().flatten().for_each(|block| self.give(block));
        }
    }

    /// Each allocation takes a place, and who had it before is freed: by us, or by another vCPU.
    fn at_random(&mut self) {
        for _ in 0..TURN {
            let random = self.random.next();
            // Half of them of order 0, a quarter of order 1, and so on.
            let order = Order::new((random >> 32).trailing_zeros() as u8).unwrap_or(Order::MAX);
            let migrate_type = MigrateType::ALL[random as usize % MigrateType::COUNT];
            let new = self.take(order, migrate_type);
            let place = (random >> 8) as usize % HELD;
            let Some(old) = core::mem::replace(&mut self.held[place], new) else {
                continue;
            };
            if (random >> 16).is_multiple_of(2) {
                self.give(old);
            } else {
                self.send(old, random >> 24);
            }
        }
    }

    /// Leaves a block for another vCPU, and frees what was left there.
    fn send(&mut self, block: Block, random: u64) {
        let mailboxes = MAILBOXES.get();
        let mailbox = &mailboxes[random as usize % mailboxes.len()].0;
        // Release and Acquire: the block changes hands, with its contents.
        let left = mailbox[self.taken as usize % MAIL].swap(block.stamp(), Ordering::AcqRel);
        if let Some(block) = Block::left(left) {
            self.give(block);
        }
    }

    fn objects(&mut self) {
        for _ in 0..TURN / BATCH {
            let size = OBJECTS[self.random.next() as usize % OBJECTS.len()];
            self.taken += 1;
            if let Some(intact) = objects(size, self.taken << 12 | u64::from(self.cpu.index())) {
                self.results.intruders += u64::from(!intact);
                self.results.acquisitions += 1;
            }
        }
    }

    /// Frees what is held, and what was left here.
    fn free_all(&mut self) {
        for place in 0..HELD {
            if let Some(block) = self.held[place].take() {
                self.give(block);
            }
        }
        for place in &MAILBOXES.get()[self.cpu.index() as usize].0 {
            // Acquire: pairs with the Release in `send`.
            if let Some(block) = Block::left(place.swap(0, Ordering::Acquire)) {
                self.give(block);
            }
        }
    }
}

/// Has each cache take what it keeps once it has been used.
pub(super) fn fill_caches() {
    for size in OBJECTS {
        objects(size, 0);
    }
}

/// Sizes of objects, one of each class.
const OBJECTS: [usize; 8] = [8, 24, 64, 100, 200, 500, 1000, 1500];

/// Allocates three objects of a size, with a stamp in the first word of each, and frees them. Whether the
/// stamps were still there; `None` if there was no memory.
fn objects(size: usize, stamp: u64) -> Option<bool> {
    let layout = Layout::from_size_align(size, 8).expect("8 is a power of two");
    let cache = memory::heap().cache(layout)?;
    let all = [(); 3].map(|()| cache.object(AtomicU64::new(0)).ok());
    all[0].as_ref()?;
    // Relaxed: plain stores and loads, but for who should not have the object.
    let words = || all.iter().flatten();
    words().for_each(|word| word.store(stamp, Ordering::Relaxed));
    let intact = words().all(|word| word.load(Ordering::Relaxed) == stamp);
    Some(intact)
}
