//! Every vCPU allocates, stamps, checks and frees: single frames one at a time and in batches, blocks of all orders
//! and types that others free, and objects.
//!
//! A block is stamped with who has it, at both ends of each frame. If two hold one frame, the later stamps over the
//! earlier's, which finds that out when it frees: memory excludes, as a lock does. In the end everything is given
//! back, and memory must be as it was.
//!
//! The times of allocations go where waits go in the report, and those of frees where hold times go; of every
//! sixteenth, so that reading the clock does not count for much.

use core::alloc::Layout;
use core::sync::atomic::{AtomicU64, Ordering};

use abi::boot::BootInfo;
use abi::config::fault;
use abi::memory::MemoryReport;
use abi::report::VcpuReport;
use mm::{FRAME_SIZE, FrameNumber, MigrateType, Order, Platform, Request};

use super::{Measured, Random, report_elapsed};
use crate::cpu::Cpu;
use crate::once::Once;
use crate::pv::meet;
use crate::{clock, memory, report};

/// Frames of a batch: as many as fit on a CPU's list in all but small guests.
const BATCH: usize = 32;

/// Blocks that a vCPU holds at most while it allocates at random.
const HELD: usize = 32;

/// Allocations of a turn of each pattern.
const TURN: usize = 256;

/// Places where vCPUs leave blocks for each other, for each of them.
const MAIL: usize = 8;

/// A vCPU's places, on a cache line of their own: 0, or a block's stamp.
#[repr(align(64))]
struct Mailbox([AtomicU64; MAIL]);

static MAILBOXES: Once<&'static [Mailbox]> = Once::new();

/// Free memory before anybody allocates.
static BEFORE: Once<MemoryReport> = Once::new();

/// Takes the memory that the workload needs. vCPU 0 calls it while it boots.
pub(super) fn init(boot: &BootInfo) {
    let empty = || Mailbox([const { AtomicU64::new(0) }; MAIL]);
    MAILBOXES.set(memory::slice(boot.vcpus as usize, empty));
    // Caches have taken what they keep once they have been used.
    for size in OBJECTS {
        objects(size, 0);
    }
    memory::drain();
    BEFORE.set(memory::report());
}

/// Every vCPU calls it.
pub(super) fn run(cpu: &'static Cpu, boot: &'static BootInfo) {
    // SAFETY: each vCPU runs one workload, once.
    let results = unsafe { report::of_vcpu(cpu) };
    let mut worker = Worker {
        cpu,
        boot,
        random: Random::new(cpu, boot),
        held: [const { None }; HELD],
        taken: 0,
        results,
    };
    let measured = Measured::begin(cpu);
    let deadline = measured.deadline(boot);
    while clock::cycles() < deadline {
        worker.one_by_one();
        worker.in_batches();
        worker.at_random();
        worker.objects();
    }
    worker.results.stolen_ns = measured.stolen(cpu);
    let elapsed = measured.end(cpu);

    worker.free_all();
    memory::drain();
    meet();
    if cpu.is_first() {
        let mut after = memory::report();
        after.unreturned = memory::difference(BEFORE.get(), &after);
        memory::write_report(boot, after);
        report_elapsed(boot, elapsed);
    }
}

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
struct Block(u64);

impl Block {
    fn new(frame: FrameNumber, order: Order, cpu: &Cpu, number: u64) -> Block {
        let block = Block(
            frame.number() << 28
                | u64::from(order.get()) << 24
                | u64::from((cpu.index() + 1) & 0xfff) << 12
                | number & 0xfff,
        );
        block.ends().for_each(|end| end.store(block.0, Ordering::Relaxed));
        block
    }

    fn frame(self) -> FrameNumber {
        FrameNumber::new(self.0 >> 28)
    }

    fn order(self) -> Order {
        Order::new((self.0 >> 24) as u8 & 0xf).unwrap_or(Order::MAX)
    }

    /// Whether nobody else has stamped it.
    fn intact(self) -> bool {
        self.ends().all(|end| end.load(Ordering::Relaxed) == self.0)
    }

    /// First and last word of each frame. Atomic, as somebody else might have the block too, and relaxed: plain
    /// loads and stores.
    fn ends(self) -> impl Iterator<Item = &'static AtomicU64> {
        let first = memory::pages().platform().frame_ptr(self.frame()).cast::<u64>();
        let words = FRAME_SIZE as usize / size_of::<u64>();
        let frames = 0..self.order().frames() as usize;
        let places = frames.flat_map(move |i| [i * words, (i + 1) * words - 1]);
        // SAFETY: the block is memory of the allocator's, for good, and nobody uses it but through these.
        places.map(move |i| unsafe { AtomicU64::from_ptr(first.wrapping_add(i)) })
    }
}

struct Worker<'a> {
    cpu: &'static Cpu,
    boot: &'static BootInfo,
    random: Random,
    held: [Option<Block>; HELD],
    /// Number of allocations.
    taken: u64,
    results: &'a mut VcpuReport,
}

impl Worker<'_> {
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
        let left = mailbox[self.taken as usize % MAIL].swap(block.0, Ordering::AcqRel);
        if left != 0 {
            self.give(Block(left));
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
            let left = place.swap(0, Ordering::Acquire);
            if left != 0 {
                self.give(Block(left));
            }
        }
    }
}

/// Sizes of objects, one of each class.
const OBJECTS: [usize; 8] = [8, 24, 64, 100, 200, 500, 1000, 1500];

/// Allocates three objects of a size, with a stamp in the first word of each, and frees them. Whether the stamps
/// were still there; `None` if there was no memory.
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
