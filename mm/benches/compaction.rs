//! Compaction: pages moved, beside what copying them takes.
//!
//! `cargo bench -p mm --bench compaction`
//!
//! | subject | what it is |
//! |---|---|
//! | `copy` | the floor: the contents of as many frames are copied, from and to where compaction would |
//! | `mm` | [`PageAllocator::compact_memory`], of pages that are in no page table |
//!
//! Memory is fragmented by the classic recipe: full, and then three quarters of each 2 MiB are freed, every
//! frame but the fourth. Both take turns on the same memory, and each reports only its own.

mod machine;

use std::cell::RefCell;
use std::ptr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mm::{
    BadPage, Cpu, FRAME_SIZE, Frame, FrameNumber, FrameRange, MigrateType, Movable, Move, Order,
    PageAllocator, Platform, Request, User, ZoneKind,
};

use machine::{Memory, Spin};

/// 128 MiB.
const FRAMES: u64 = 1 << 15;

/// A machine with pages that can be moved.
struct Host(Pages);

/// The pages. Which frames they are in, their metadata say.
struct Pages {
    memory: Memory,
    allocator: OnceLock<&'static PageAllocator<Host>>,
    /// What was moved, from where to where.
    log: RefCell<Vec<(FrameNumber, FrameNumber)>>,
}

// SAFETY: there is one thread.
unsafe impl Sync for Pages {}

// SAFETY: there is one thread, and nothing interrupts it. Frames are where the memory is.
unsafe impl Platform for Host {
    type Lock = Spin;
    const CHECKS: bool = false;

    #[inline(always)]
    fn on_this_cpu<R>(&self, f: impl FnOnce(Cpu) -> R) -> R {
        f(Cpu(0))
    }

    fn frame_ptr(&self, frame: FrameNumber) -> *mut u8 {
        self.0.memory.at(frame)
    }

    fn bad_page(&self, report: BadPage) {
        panic!("{report}");
    }

    fn movable(&self, user: User) -> Option<&dyn Movable> {
        (user == User::Window).then_some(&self.0)
    }
}

impl Pages {
    /// What both do for a page.
    #[inline(always)]
    fn copy(&self, from: FrameNumber, to: FrameNumber) {
        let (from, to) = (self.memory.at(from), self.memory.at(to));
        // SAFETY: both are frames of the memory, and not the same; the caller has them.
        unsafe { ptr::copy_nonoverlapping(from, to, FRAME_SIZE as usize) };
    }

    fn allocator(&self) -> &'static PageAllocator<Host> {
        self.allocator.get().expect("it was set at first")
    }

    fn metadata(&self, frame: FrameNumber) -> &'static Frame {
        self.allocator().frame(frame).expect("it is memory")
    }

    /// Makes an allocated frame a page.
    fn adopt(&self, frame: FrameNumber) {
        self.allocator().share(frame);
        self.metadata(frame).set_movable(Some(User::Window));
    }

    /// Gives the page at a frame up.
    fn leave(&self, frame: FrameNumber) {
        self.metadata(frame).set_movable(None);
        // SAFETY: the page's own reference.
        unsafe { self.allocator().put(frame) };
    }
}

impl Movable for Pages {
    fn isolate(&self, frame: FrameNumber) -> bool {
        self.allocator().get(frame) && self.metadata(frame).isolate()
    }

    fn migrate(&self, moves: &mut [Move]) {
        for page in &mut *moves {
            self.copy(page.from, page.to);
        }
        // Apart from the copies, each of whose stores a locked instruction would wait for.
        for page in moves {
            self.adopt(page.to);
            self.metadata(page.from).end_isolation();
            self.leave(page.from);
            // SAFETY: the reference of the isolation.
            unsafe { self.allocator().put(page.from) };
            page.result = Ok(());
            self.log.borrow_mut().push((page.from, page.to));
        }
    }

    fn putback(&self, frame: FrameNumber) {
        self.metadata(frame).end_isolation();
        // SAFETY: the reference of the isolation.
        unsafe { self.allocator().put(frame) };
    }
}

/// A machine that lives for ever.
fn machine() -> &'static Pages {
    let all = FrameRange::new(FrameNumber::new(0), FrameNumber::new(FRAMES));
    let memory = Memory::new(FRAMES);
    // Written to once, so that the host has it.
    // SAFETY: it has that size, and nobody else has it yet.
    unsafe {
        memory
            .at(FrameNumber::new(0))
            .write_bytes(0, (FRAMES * FRAME_SIZE) as usize)
    };
    let pages = Pages {
        memory,
        allocator: OnceLock::new(),
        log: RefCell::default(),
    };
    // SAFETY: the memory is the platform's, which lives as long as the allocator.
    let allocator = unsafe { PageAllocator::new(Host(pages), &[all], 1) }.expect("there is room");
    let allocator: &'static PageAllocator<Host> = Box::leak(Box::new(allocator));
    let pages = &allocator.platform().0;
    pages
        .allocator
        .set(allocator)
        .unwrap_or_else(|_| unreachable!("it was not set"));
    pages
}

/// Fills the memory, and frees three of four frames.
fn fragment(pages: &'static Pages) {
    let allocator = pages.allocator();
    while let Ok(frame) = allocator.alloc(Request::new(Order::FRAME, MigrateType::Movable)) {
        pages.adopt(frame);
    }
    let page = |number: &u64| {
        let frame = allocator.frame(FrameNumber::new(*number));
        frame.is_some_and(|frame| frame.movable().is_some())
    };
    (0..FRAMES)
        .filter(|number| number % 4 != 0)
        .filter(page)
        .for_each(|number| pages.leave(FrameNumber::new(number)));
    allocator.drain_this_cpu();
}

/// Compacts fragmented memory. How long that takes, and what was moved.
fn compact(pages: &'static Pages) -> (Duration, Vec<(FrameNumber, FrameNumber)>) {
    fragment(pages);
    pages.log.borrow_mut().clear();
    let start = Instant::now();
    pages.allocator().compact_memory();
    let took = start.elapsed();
    let unusable = pages
        .allocator()
        .unusable_index(ZoneKind::Dma32, Order::PAGEBLOCK);
    assert!(unusable <= 30, "{unusable} of 1000 is not huge");
    (took, pages.log.take())
}

fn compaction(criterion: &mut Criterion) {
    let pages = machine();
    // The first turn finds memory that nobody has had yet.
    compact(pages);
    let (_, mut moves) = compact(pages);
    let mut group = criterion.benchmark_group("compaction");
    group
        .throughput(Throughput::Elements(moves.len() as u64))
        .sample_size(20);
    for (which, subject) in ["copy", "mm"].into_iter().enumerate() {
        group.bench_function(subject, |bencher| {
            bencher.iter_custom(|count| {
                let mut own = Duration::ZERO;
                for _ in 0..count {
                    let start = Instant::now();
                    for (from, to) in &moves {
                        pages.copy(*from, *to);
                    }
                    let copied = start.elapsed();
                    let (compacted, moved) = compact(pages);
                    assert_eq!(moved.len(), moves.len(), "every turn is alike");
                    moves = moved;
                    own += [copied, compacted][which];
                }
                own
            });
        });
    }
    group.finish();
}

criterion_group!(benches, compaction);
criterion_main!(benches);
