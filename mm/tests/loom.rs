//! What CPUs synchronise through, under the model checker: drain requests, references to shared blocks, and that
//! nobody but its CPU touches a list.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p mm --release --test loom`

#![cfg(loom)]

mod model;

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::Cell;

use loom::cell::UnsafeCell;
use loom::model::Builder;
use loom::sync::Arc;
use loom::thread;
use mm::{
    BadPage, Cpu, Event, FRAME_SIZE, Fault, FrameNumber, FrameRange, Kind, MigrateType, Order, PageAllocator,
    Platform, Request, ZoneKind,
};
use model::Lock;

/// First of the machine's frames, and how many there are, with those that metadata take.
const FIRST: u64 = 0x400;
const FRAMES: u64 = 24;

const LAYOUT: Layout = match Layout::from_size_align((FRAMES * FRAME_SIZE) as usize, FRAME_SIZE as usize) {
    Ok(layout) => layout,
    Err(_) => panic!("the size is no size"),
};

loom::thread_local! {
    static THIS_CPU: Cell<u32> = Cell::new(0);
}

fn be(cpu: u32) {
    THIS_CPU.with(|this| this.set(cpu));
}

/// Two CPUs with a planted fault, or none.
struct Host<const FAULT: u8>(*mut u8);

// SAFETY: threads of a model have different numbers. Frames are where the memory is.
unsafe impl<const FAULT: u8> Platform for Host<FAULT> {
    type Lock = Lock;
    const CHECKS: bool = false;
    const FAULT: Fault = Fault::numbered(FAULT);
    const LISTS: Option<(u32, u32)> = Some((2, 4));

    fn on_this_cpu<R>(&self, f: impl FnOnce(Cpu) -> R) -> R {
        f(Cpu(THIS_CPU.with(Cell::get)))
    }

    fn frame_ptr(&self, frame: FrameNumber) -> *mut u8 {
        // SAFETY: only frames of the machine are asked for.
        unsafe { self.0.add(((frame.number() - FIRST) * FRAME_SIZE) as usize) }
    }

    fn bad_page(&self, report: BadPage) {
        panic!("{report}");
    }
}

// SAFETY: the memory is plain bytes, which the allocator keeps apart.
unsafe impl<const FAULT: u8> Send for Host<FAULT> {}
// SAFETY: as above.
unsafe impl<const FAULT: u8> Sync for Host<FAULT> {}

impl<const FAULT: u8> Drop for Host<FAULT> {
    fn drop(&mut self) {
        // SAFETY: it was allocated so.
        unsafe { dealloc(self.0, LAYOUT) };
    }
}

type Allocator<const FAULT: u8> = Arc<PageAllocator<Host<FAULT>>>;

/// Checks a model with a machine of its own in every execution.
fn model<const FAULT: u8>(f: impl Fn(Allocator<FAULT>) + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(move || {
        // SAFETY: the size is not 0.
        let host = Host(unsafe { alloc_zeroed(LAYOUT) });
        let all = FrameRange::new(FrameNumber::new(FIRST), FrameNumber::new(FIRST + FRAMES));
        // SAFETY: the memory is the platform's, which lives as long as the allocator.
        f(Arc::new(
            unsafe { PageAllocator::new(host, &[all], 2) }.expect("there is room"),
        ));
    });
}

const FRAME: Request = Request::new(Order::FRAME, MigrateType::Movable);

fn free<const FAULT: u8>(allocator: &Allocator<FAULT>, frame: FrameNumber) {
    // SAFETY: each model frees what it has allocated.
    unsafe { allocator.free(frame, Order::FRAME) };
}

fn zone_free<const FAULT: u8>(allocator: &Allocator<FAULT>) -> u64 {
    allocator.zones().iter().map(mm::Zone::free).sum()
}

fn managed<const FAULT: u8>(allocator: &Allocator<FAULT>) -> u64 {
    allocator.zones().iter().map(mm::Zone::managed).sum()
}

/// A CPU that was asked to drain goes on freeing, and another looks. As soon as it has drained, what was on its
/// lists is with the buddy.
///
/// The request comes first, and the looker has a thread that starts later: loom compares each access with the
/// last one alone, and would not try all turns otherwise.
fn drained_is_drained<const FAULT: u8>() {
    model::<FAULT>(|allocator| {
        let held = allocator.alloc(FRAME).unwrap();
        assert_eq!(
            zone_free(&allocator),
            managed(&allocator) - 2,
            "one is held, one on the list"
        );
        allocator.request_drain();
        be(1);
        allocator.drain_this_cpu();
        be(0);
        let looking = {
            let allocator = allocator.clone();
            thread::spawn(move || {
                if allocator.drained() {
                    assert!(zone_free(&allocator) >= managed(&allocator) - 1, "not drained");
                }
            })
        };
        free(&allocator, held);
        looking.join().unwrap();
        assert!(allocator.drained(), "the request was lost");
        allocator.drain_this_cpu();
        assert_eq!(zone_free(&allocator), managed(&allocator));
    });
}

#[test]
fn a_cpu_that_says_so_has_drained() {
    drained_is_drained::<0>();
}

#[test]
#[should_panic = "not drained"]
fn saying_so_early_is_found() {
    drained_is_drained::<{ Fault::SaysDrainedEarly as u8 }>();
}

/// Two CPUs allocate and free; loom sees to it that neither touches the other's lists, and one asks for a drain
/// meanwhile.
#[test]
fn lists_are_their_cpu_s_alone() {
    model::<0>(|allocator| {
        let other = {
            let allocator = allocator.clone();
            thread::spawn(move || {
                be(1);
                let frame = allocator.alloc(FRAME).unwrap();
                allocator.request_drain();
                free(&allocator, frame);
                frame
            })
        };
        let frame = allocator.alloc(FRAME).unwrap();
        let kind = allocator.frame(frame).unwrap().state().kind();
        assert_eq!(kind, Kind::Allocated, "somebody else has freed it");
        free(&allocator, frame);
        other.join().unwrap();
        let count = |event| allocator.count(ZoneKind::Dma32, event);
        assert_eq!((count(Event::Pgalloc), count(Event::Pgfree)), (2, 2));
    });
}

/// One CPU gives up the block that it shares while the other takes a reference, or is too late to. Whoever is
/// last frees it, and who allocates it then comes after all who looked at its contents.
fn shared_until_the_last<const FAULT: u8>() {
    model::<FAULT>(|allocator| {
        let contents = Arc::new(UnsafeCell::new(0));
        let frame = allocator.alloc(FRAME).unwrap();
        // SAFETY: the block is ours alone.
        contents.with_mut(|contents| unsafe { *contents = 1 });
        allocator.share(frame);
        let other = {
            let (allocator, contents) = (allocator.clone(), contents.clone());
            thread::spawn(move || {
                be(1);
                if allocator.get(frame) {
                    // SAFETY: who has a reference may read.
                    let seen = contents.with(|contents| unsafe { *contents });
                    assert_eq!(seen, 1, "not what was shared");
                    // SAFETY: the reference was just taken.
                    unsafe { allocator.put(frame) };
                }
            })
        };
        // SAFETY: the holder's own reference.
        unsafe { allocator.put(frame) };
        let again = allocator.alloc(FRAME).unwrap();
        if again == frame {
            // SAFETY: the block is ours alone.
            contents.with_mut(|contents| unsafe { *contents = 2 });
        }
        other.join().unwrap();
        free(&allocator, again);
        assert_eq!(
            allocator.count(ZoneKind::Dma32, Event::Pgfree),
            2,
            "freed by none or by both"
        );
    });
}

#[test]
fn the_last_reference_frees() {
    shared_until_the_last::<0>();
}

#[test]
#[should_panic]
fn taking_a_reference_to_the_dead_is_found() {
    shared_until_the_last::<{ Fault::GetsTheDead as u8 }>();
}

#[test]
#[should_panic = "Causality violation"]
fn giving_back_in_two_steps_is_found() {
    shared_until_the_last::<{ Fault::PutsUnatomically as u8 }>();
}
