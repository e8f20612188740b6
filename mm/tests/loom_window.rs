//! How CPUs sleep until something has changed, and how readers of an interval learn that it did, under the
//! model checker.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p mm --release --test loom_window`

#![cfg(loom)]

mod model;

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::Cell;
use std::mem::ManuallyDrop;

use loom::model::Builder;
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use loom::sync::{Condvar, Mutex};
use loom::thread;
use mm::{
    BadPage, Cpu, FRAME_SIZE, Fault, FrameNumber, FrameRange, Interval, IntervalNotifier, Notifiers,
    PageAllocator, PageNumber, PageRange, Platform, Sequence, Waits, WouldBlock,
};
use model::Lock;

/// First of the machine's frames, and how many there are, with those that metadata take.
const FIRST: u64 = 0x400;
const FRAMES: u64 = 64;

const LAYOUT: Layout = match Layout::from_size_align((FRAMES * FRAME_SIZE) as usize, FRAME_SIZE as usize) {
    Ok(layout) => layout,
    Err(_) => panic!("the size is no size"),
};

// Kicks that have not been taken, by CPU.
loom::lazy_static! {
    static ref KICKED: [(Mutex<bool>, Condvar); 3] =
        [0; 3].map(|_| (Mutex::new(false), Condvar::new()));
}

loom::thread_local! {
    static THIS_CPU: Cell<u32> = Cell::new(0);
}

fn be(cpu: u32) {
    THIS_CPU.with(|this| this.set(cpu));
}

/// Three CPUs with a planted fault, or none.
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

    /// As the guest does: it looks, and then sleeps unless it was kicked. A wake-up that is lost is a
    /// deadlock.
    fn wait(&self, word: &AtomicU32, value: u32) {
        if word.load(Ordering::Relaxed) != value {
            return;
        }
        let (kicked, kick) = &KICKED[THIS_CPU.with(Cell::get) as usize];
        let mut kicked = kicked.lock().unwrap();
        while !*kicked {
            kicked = kick.wait(kicked).unwrap();
        }
        *kicked = false;
    }

    fn kick(&self, Cpu(cpu): Cpu) {
        let (kicked, kick) = &KICKED[cpu as usize];
        *kicked.lock().unwrap() = true;
        kick.notify_one();
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

/// Shares a value with all threads of a model. One that fails leaks it: loom's objects are dead by then.
fn share<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

/// Drops a shared value.
///
/// # Safety
///
/// It is from `share`, and nobody uses it any more.
unsafe fn unshare<T>(value: &'static T) {
    // SAFETY: it is from a box, and the caller's alone.
    drop(unsafe { Box::from_raw(std::ptr::from_ref(value).cast_mut()) });
}

/// Checks a model with a machine of its own in every execution.
fn model<const FAULT: u8>(f: impl Fn(&'static PageAllocator<Host<FAULT>>) + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(move || {
        // SAFETY: the size is not 0.
        let host = Host(unsafe { alloc_zeroed(LAYOUT) });
        let all = FrameRange::new(FrameNumber::new(FIRST), FrameNumber::new(FIRST + FRAMES));
        // SAFETY: the memory is the platform's, which lives as long as the allocator.
        let allocator = share(unsafe { PageAllocator::new(host, &[all], 3) }.expect("there is room"));
        f(allocator);
        // SAFETY: threads have been joined, and what was made of it is gone.
        unsafe { unshare(allocator) };
    });
}

/// Runs `f` as a CPU of its own.
fn on(cpu: u32, f: impl FnOnce() + 'static) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        be(cpu);
        f();
    })
}

/// Two CPUs wait for one thing after the other, which happen meanwhile. A bit that is taken late, for a wait
/// that is over, must not cost the next one its wake-up.
fn everybody_is_woken<const FAULT: u8>(waiters: u32, changes: u32) {
    model::<FAULT>(move |allocator| {
        let shared = share((Waits::new(allocator, 1).unwrap(), AtomicU32::new(0)));
        let (waits, value) = shared;
        let wait = |cpu| {
            on(cpu, move || {
                for change in 0..changes {
                    waits.sleep_while(0, || value.load(Ordering::Acquire) <= change);
                }
            })
        };
        let waiting: Vec<_> = (1..=waiters).map(wait).collect();
        for change in 0..changes {
            value.store(change + 1, Ordering::Release);
            waits.wake([0].into_iter());
        }
        waiting.into_iter().for_each(|thread| thread.join().unwrap());
        // SAFETY: all have been joined.
        unsafe { unshare(shared) };
    });
}

#[test]
fn no_wake_up_is_lost() {
    everybody_is_woken::<0>(1, 2);
    everybody_is_woken::<0>(2, 1);
}

#[test]
#[should_panic = "deadlock"]
fn sleeping_unfenced_is_found() {
    everybody_is_woken::<{ Fault::SleepsUnfenced as u8 }>(1, 1);
}

#[test]
#[should_panic = "deadlock"]
fn sleeping_without_looking_is_found() {
    everybody_is_woken::<{ Fault::SleepsWithoutLooking as u8 }>(1, 1);
}

#[test]
#[should_panic = "deadlock"]
fn waking_unfenced_is_found() {
    everybody_is_woken::<{ Fault::WakesUnfenced as u8 }>(1, 1);
}

#[test]
#[should_panic = "deadlock"]
fn waking_without_a_kick_is_found() {
    everybody_is_woken::<{ Fault::WakesWithoutKick as u8 }>(1, 1);
}

/// What a user of an interval may do wrong.
#[derive(Clone, Copy, PartialEq)]
enum Wrong {
    Nothing,
    /// It forgets without noting the sequence.
    Forgets,
    /// It notes the sequence when it has released its lock.
    NotesLate,
    /// It does not ask whether to retry.
    Trusts,
}

/// Somebody who remembers where the one page is.
struct User {
    wrong: Wrong,
    remembered: Mutex<Option<u64>>,
}

impl IntervalNotifier for User {
    fn invalidate(
        &self,
        interval: &Interval<'_>,
        _: PageRange,
        sequence: Sequence,
        _: bool,
    ) -> Result<(), WouldBlock> {
        let mut remembered = self.remembered.lock().unwrap();
        if matches!(self.wrong, Wrong::Nothing | Wrong::Trusts) {
            interval.set(sequence);
        }
        *remembered = None;
        drop(remembered);
        if self.wrong == Wrong::NotesLate {
            interval.set(sequence);
        }
        Ok(())
    }
}

const PAGE: PageRange = PageRange::new(PageNumber::new(7), 1);

/// What the threads of a model share.
struct Shared<const FAULT: u8> {
    notifiers: Notifiers<'static, Host<FAULT>>,
    user: &'static User,
    interval: &'static Interval<'static>,
    /// In which frame the page is.
    frame: AtomicU64,
}

impl<const FAULT: u8> Shared<FAULT> {
    /// Moves the page on to the next frame, between start and end.
    fn change(&self) {
        self.frame.fetch_add(1, Ordering::AcqRel);
        let remembered = *self.user.remembered.lock().unwrap();
        assert_eq!(remembered, None, "stale: remembered while it changed");
    }

    /// Finds out where the page is, and remembers that.
    fn look_up(&self) {
        loop {
            let sequence = self.interval.read_begin(&self.notifiers);
            let frame = self.frame.load(Ordering::Acquire);
            let mut remembered = self.user.remembered.lock().unwrap();
            if self.user.wrong == Wrong::Trusts || !self.interval.read_retry(sequence) {
                *remembered = Some(frame);
                return;
            }
        }
    }
}

/// A reader looks the page up while it moves. So many invalidations of it are active when the reader begins:
/// loom compares each access with the last one alone, and would not try all turns otherwise. With none, there
/// is one meanwhile.
fn what_is_remembered_is_true<const FAULT: u8>(wrong: Wrong, active: usize) {
    model::<FAULT>(move |allocator| {
        let user = share(User {
            wrong,
            remembered: Mutex::new(None),
        });
        let interval = share(Interval::new(PAGE, user));
        let shared = share(Shared {
            notifiers: Notifiers::new(allocator).unwrap(),
            user,
            interval,
            frame: AtomicU64::new(0),
        });
        shared.notifiers.insert(interval);
        // Not ended by a failure: loom's objects are dead by then.
        let start = |_| ManuallyDrop::new(shared.notifiers.start(&[PAGE]));
        let invalidations: Vec<_> = (0..active).map(start).collect();
        let reader = on(1, || shared.look_up());
        let invalidations = if active == 0 {
            [0].map(start).into()
        } else {
            invalidations
        };
        for invalidation in invalidations {
            shared.change();
            drop(ManuallyDrop::into_inner(invalidation));
        }
        reader.join().unwrap();
        let remembered = *user.remembered.lock().unwrap();
        let frame = shared.frame.load(Ordering::Acquire);
        assert!(remembered.is_none_or(|remembered| remembered == frame), "stale");
        // SAFETY: the reader has been joined, here and below.
        unsafe { unshare(shared) };
        // SAFETY: the notifiers that knew it are gone.
        unsafe { unshare(interval) };
        // SAFETY: the interval that knew it is gone.
        unsafe { unshare(user) };
    });
}

#[test]
fn a_stale_reader_retries() {
    what_is_remembered_is_true::<0>(Wrong::Nothing, 0);
    what_is_remembered_is_true::<0>(Wrong::Nothing, 1);
    what_is_remembered_is_true::<0>(Wrong::Nothing, 2);
}

#[test]
#[should_panic = "stale"]
fn a_reader_that_does_not_wait_is_found() {
    what_is_remembered_is_true::<{ Fault::ReadsWithoutWaiting as u8 }>(Wrong::Nothing, 1);
}

#[test]
#[should_panic = "stale"]
fn an_end_before_the_last_is_found() {
    what_is_remembered_is_true::<{ Fault::EndsEarly as u8 }>(Wrong::Nothing, 2);
}

#[test]
#[should_panic = "stale"]
fn not_noting_the_sequence_is_found() {
    what_is_remembered_is_true::<0>(Wrong::Forgets, 0);
}

#[test]
#[should_panic = "stale"]
fn noting_the_sequence_late_is_found() {
    what_is_remembered_is_true::<0>(Wrong::NotesLate, 0);
}

#[test]
#[should_panic = "stale"]
fn not_retrying_is_found() {
    what_is_remembered_is_true::<0>(Wrong::Trusts, 0);
}
