//! The hot path: a frame is allocated and freed again.
//!
//! `cargo bench -p mm`
//!
//! | subject | what it is |
//! |---|---|
//! | `mm` | [`PageAllocator`], checks off |
//! | `buddy_system_allocator` | its `Heap` behind the same spin lock, in the state that suits it best |
//! | `stack` | the floor: a stack of frame numbers per CPU, which does nothing else |
//!
//! All three find the CPU in the same way, with interrupts masked as the guest does it. They take turns of some
//! 100 µs, and each reports only its own, so what else happens on the host hits all alike. `--ratios` prints how
//! they compare, and nothing else.

mod machine;

use std::alloc::Layout;
use std::cell::{Cell, UnsafeCell};
use std::hint::black_box;
use std::ptr::NonNull;
use std::sync::atomic::{Ordering, compiler_fence};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use buddy_system_allocator::Heap;
use criterion::{Criterion, Throughput, criterion_group};
use mm::{
    BadPage, Cpu, FRAME_SIZE, FrameNumber, FrameRange, MigrateType, Order, PageAllocator, Platform, Request,
};

use machine::{Memory, Spin};

/// Virtual CPUs, a thread each.
const CPUS: usize = 8;

/// 256 MiB.
const FRAMES: u64 = 1 << 16;

/// Frames that a burst allocates before it frees them.
const BURST: usize = 32;

/// Operations in a turn.
const TURN: u64 = 1 << 15;

thread_local! {
    static CPU: Cell<u32> = const { Cell::new(0) };
    /// As a kernel masks interrupts in software: a flag, and a look at what came meanwhile.
    static MASKED: Cell<bool> = const { Cell::new(false) };
    static PENDING: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f` with interrupts masked.
#[inline(always)]
fn on_this_cpu<R>(f: impl FnOnce(u32) -> R) -> R {
    MASKED.set(true);
    compiler_fence(Ordering::SeqCst);
    let result = f(CPU.get());
    compiler_fence(Ordering::SeqCst);
    MASKED.set(false);
    if PENDING.get() {
        replay();
    }
    result
}

#[cold]
fn replay() {
    PENDING.set(false);
}

/// What is measured.
trait Subject: Sync {
    fn take(&self) -> u64;
    fn give(&self, frame: u64);
}

struct Host(Memory);

// SAFETY: every thread has a number of its own. Frames are where the memory is.
unsafe impl Platform for Host {
    type Lock = Spin;
    const CHECKS: bool = false;

    #[inline(always)]
    fn on_this_cpu<R>(&self, f: impl FnOnce(Cpu) -> R) -> R {
        on_this_cpu(|cpu| f(Cpu(cpu)))
    }

    fn frame_ptr(&self, frame: FrameNumber) -> *mut u8 {
        self.0.at(frame)
    }

    fn bad_page(&self, report: BadPage) {
        panic!("{report}");
    }
}

struct Ours(PageAllocator<Host>);

impl Ours {
    fn new() -> Ours {
        let all = FrameRange::new(FrameNumber::new(0), FrameNumber::new(FRAMES));
        // SAFETY: the memory is the platform's, which lives as long as the allocator.
        Ours(
            unsafe { PageAllocator::new(Host(Memory::new(FRAMES)), &[all], CPUS as u32) }
                .expect("there is room"),
        )
    }
}

impl Subject for Ours {
    #[inline(always)]
    fn take(&self) -> u64 {
        self.0
            .alloc(Request::new(Order::FRAME, MigrateType::Movable))
            .expect("there is enough")
            .number()
    }

    #[inline(always)]
    fn give(&self, frame: u64) {
        // SAFETY: it comes from `take`, and its memory is not used.
        unsafe { self.0.free(FrameNumber::new(frame), Order::FRAME) };
    }
}

struct Peer(
    lock_api::Mutex<Spin, Heap<23>>,
    #[expect(dead_code, reason = "the heap's memory")] Memory,
);

const FRAME: Layout = match Layout::from_size_align(FRAME_SIZE as usize, FRAME_SIZE as usize) {
    Ok(layout) => layout,
    Err(_) => panic!("a frame is no layout"),
};

impl Peer {
    /// A heap with `free` single frames, whose neighbours are held, before it would have to split.
    fn new(free: usize) -> Peer {
        let memory = Memory::new(FRAMES);
        let mut heap = Heap::new();
        // SAFETY: the memory is nobody else's, and lives as long as the heap.
        unsafe {
            heap.init(
                memory.at(FrameNumber::new(0)) as usize,
                (FRAMES * FRAME_SIZE) as usize,
            )
        };
        let frames: Vec<_> = (0..2 * free)
            .map(|_| heap.alloc(FRAME).expect("there is room"))
            .collect();
        for frame in frames
            .into_iter()
            .filter(|frame| frame.addr().get() / FRAME.size() % 2 == 1)
        {
            // SAFETY: it was just allocated.
            unsafe { heap.dealloc(frame, FRAME) };
        }
        Peer(lock_api::Mutex::new(heap), memory)
    }
}

impl Subject for Peer {
    #[inline(always)]
    fn take(&self) -> u64 {
        on_this_cpu(|_| self.0.lock().alloc(FRAME))
            .expect("there is enough")
            .addr()
            .get() as u64
    }

    #[inline(always)]
    fn give(&self, frame: u64) {
        let frame = NonNull::new(frame as *mut u8).expect("memory is not at 0");
        // SAFETY: it comes from `take`, and its memory is not used.
        on_this_cpu(|_| unsafe { self.0.lock().dealloc(frame, FRAME) });
    }
}

/// A stack of a CPU, in cache lines of its own.
#[repr(align(128))]
struct Stack(UnsafeCell<(usize, [u64; 2 * BURST])>);

struct Floor([Stack; CPUS]);

// SAFETY: every thread uses the stack of its own number alone.
unsafe impl Sync for Floor {}

impl Floor {
    fn new() -> Floor {
        Floor([const { Stack(UnsafeCell::new((2 * BURST, [7; 2 * BURST]))) }; CPUS])
    }

    #[inline(always)]
    fn with<R>(&self, f: impl FnOnce(&mut usize, &mut [u64; 2 * BURST]) -> R) -> R {
        on_this_cpu(|cpu| {
            let stack = self.0[cpu as usize].0.get();
            // SAFETY: the stack is this thread's, and `f` does not come here.
            let (length, slots) = unsafe { &mut *stack };
            f(length, slots)
        })
    }
}

impl Subject for Floor {
    #[inline(always)]
    fn take(&self) -> u64 {
        self.with(|length, slots| {
            *length = length.checked_sub(1).expect("there is enough");
            slots[*length]
        })
    }

    #[inline(always)]
    fn give(&self, frame: u64) {
        self.with(|length, slots| {
            slots[*length] = frame;
            *length += 1;
        });
    }
}

/// How frames are used.
#[derive(Clone, Copy)]
enum Pattern {
    /// One at a time.
    Pair,
    /// [`BURST`] at a time.
    Burst,
}

/// Allocates and frees `count` frames.
#[inline(never)]
fn turn(subject: &impl Subject, pattern: Pattern, count: u64) {
    match pattern {
        Pattern::Pair => (0..count).for_each(|_| subject.give(black_box(subject.take()))),
        Pattern::Burst => {
            for _ in 0..count.div_ceil(BURST as u64) {
                let mut held = [0; BURST];
                held.fill_with(|| subject.take());
                black_box(&mut held).iter().for_each(|frame| subject.give(*frame));
            }
        }
    }
}

/// Time that `threads` threads need for `count` frames, all together.
fn measure(subject: &impl Subject, pattern: Pattern, threads: usize, count: u64) -> Duration {
    if threads == 1 {
        let start = Instant::now();
        turn(subject, pattern, count);
        return start.elapsed();
    }
    let (barrier, ends) = (Barrier::new(threads), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for cpu in 0..threads {
            let (barrier, ends) = (&barrier, &ends);
            scope.spawn(move || {
                CPU.set(cpu as u32);
                barrier.wait();
                let start = Instant::now();
                turn(subject, pattern, count / threads as u64);
                ends.lock().expect("nobody panics").push((start, Instant::now()));
            });
        }
    });
    let ends = ends.into_inner().expect("nobody panics");
    let first = ends
        .iter()
        .map(|(start, _)| *start)
        .min()
        .expect("there are threads");
    let last = ends.iter().map(|(_, end)| *end).max().expect("there are threads");
    last - first
}

fn order0(criterion: &mut Criterion) {
    let (ours, floor) = (Ours::new(), Floor::new());
    for (threads, pattern, name) in [
        (1, Pattern::Pair, "order0/pair/1 thread"),
        (1, Pattern::Burst, "order0/burst/1 thread"),
        (CPUS, Pattern::Pair, "order0/pair/8 threads"),
        (CPUS, Pattern::Burst, "order0/burst/8 threads"),
    ] {
        // What suits it best: a burst is faster with splits than with long lists.
        let peer = Peer::new(if matches!(pattern, Pattern::Pair) {
            threads
        } else {
            0
        });
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(1)).sample_size(20);
        for (which, subject) in ["stack", "mm", "buddy_system_allocator"].into_iter().enumerate() {
            group.bench_function(subject, |bencher| {
                bencher.iter_custom(|count| {
                    let mut own = Duration::ZERO;
                    let mut left = count;
                    while left > 0 {
                        // Threads take a while to start, so theirs are longer turns.
                        let now = left.min(if threads == 1 { TURN } else { TURN << 6 });
                        let took = [
                            measure(&floor, pattern, threads, now),
                            measure(&ours, pattern, threads, now),
                            measure(&peer, pattern, threads, now),
                        ];
                        own += took[which];
                        left -= now;
                    }
                    own
                });
            });
        }
        group.finish();
    }
}

/// Turns of each subject that [`ratios`] takes the median of.
const TURNS: usize = 201;

/// Prints the time in ns that a frame takes each subject, as JSON: the median of turns that alternate, so that what
/// they are compared by is the same moment. For `scripts/goals`.
fn ratios() {
    let (ours, floor) = (Ours::new(), Floor::new());
    let measured = [(1, TURN, "one"), (CPUS, TURN << 4, "many")].map(|(threads, count, name)| {
        let peer = Peer::new(threads);
        let mut times = [const { Vec::new() }; 3];
        for _ in 0..TURNS {
            times[0].push(measure(&floor, Pattern::Pair, threads, count));
            times[1].push(measure(&ours, Pattern::Pair, threads, count));
            times[2].push(measure(&peer, Pattern::Pair, threads, count));
        }
        let median = |times: &mut Vec<Duration>| {
            times.sort_unstable();
            times[TURNS / 2].as_nanos() as f64 / count as f64
        };
        let [stack, mm, peer] = times.each_mut().map(median);
        format!(r#""{name}":{{"stack":{stack},"mm":{mm},"peer":{peer}}}"#)
    });
    println!("{{{}}}", measured.join(","));
}

criterion_group!(benches, order0);

fn main() {
    if std::env::args().any(|argument| argument == "--ratios") {
        return ratios();
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
}
