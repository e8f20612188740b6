//! Who is told, in which order, and what others may do between start and end.

use std::boxed::Box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};
use std::vec::Vec;
use std::{format, string::String};

use super::machine::{Machine, TestWindow, access, address, page, pages, window_machine};
use crate::fault::Fault;
use crate::tests::host::be;
use crate::{
    Entry, FrameNumber, Interval, IntervalNotifier, MigrateError, MigrateType, Movable, Move, Notifier,
    Order, PageRange, Request, Sequence, Subscription, WouldBlock,
};

/// A subscriber that notes what it is told, and blocks in one range.
struct Noting<'t> {
    name: &'static str,
    blocks_at: Option<PageRange>,
    notes: &'t Mutex<Vec<String>>,
}

impl Noting<'_> {
    fn note(&self, what: &str, range: PageRange) {
        let at = range.start().number() - page(0).number();
        self.notes
            .lock()
            .unwrap()
            .push(format!("{} {what} {at}", self.name));
    }
}

impl Notifier for Noting<'_> {
    fn invalidate_range_start(&self, range: PageRange, blockable: bool) -> Result<(), WouldBlock> {
        if !blockable && self.blocks_at == Some(range) {
            return Err(WouldBlock);
        }
        self.note("start", range);
        Ok(())
    }

    fn invalidate_range_end(&self, range: PageRange) {
        self.note("end", range);
    }
}

/// What three subscribers are told of two ranges, the second of which the middle one would have to wait for.
fn told<const FAULT: u8>(blockable: bool) -> (bool, Vec<String>) {
    be(0);
    let allocator = Machine::<FAULT>::allocator(400, 1);
    let notes = Mutex::default();
    let ranges = [pages(1, 2), pages(7, 1)];
    let subscriber = |name, blocks_at| Noting {
        name,
        blocks_at,
        notes: &notes,
    };
    let subscribers = [
        subscriber("c", None),
        subscriber("b", Some(ranges[1])),
        subscriber("a", None),
    ];
    let subscriptions = subscribers.each_ref().map(|one| Subscription::new(one));
    let window = Machine::window(&allocator);
    for subscription in &subscriptions {
        window.notifiers().register(subscription);
    }
    let started = window.notifiers().try_start(&ranges, blockable).map(drop).is_ok();
    drop(window);
    let told = core::mem::take(&mut *notes.lock().unwrap());
    (started, told)
}

#[test]
fn every_start_has_its_end() {
    let (started, told) = told::<0>(true);
    assert!(started);
    let starts = [
        "a start 1",
        "b start 1",
        "c start 1",
        "a start 7",
        "b start 7",
        "c start 7",
    ];
    let ends = ["a end 1", "b end 1", "c end 1", "a end 7", "b end 7", "c end 7"];
    assert_eq!(told, [starts, ends].concat());
}

/// Those who were told of the start of what did not start are told of its end.
fn a_failing_start<const FAULT: u8>() -> bool {
    let (started, told) = told::<FAULT>(false);
    assert!(!started);
    let ends = told.iter().filter(|note| note.contains("end")).count();
    assert!(
        told.contains(&"a start 7".into()) && !told.contains(&"c start 7".into()),
        "{told:?}"
    );
    ends == told.len() - ends
        && ["a", "b", "c"]
            .iter()
            .all(|name| told.contains(&format!("{name} end 1")))
}

#[test]
fn a_start_that_would_block_is_undone() {
    assert!(a_failing_start::<0>());
    assert!(
        !a_failing_start::<{ Fault::ForgetsToEnd as u8 }>(),
        "the fault was not found"
    );
}

/// Notes the sequence, or would block.
struct Watching;

impl IntervalNotifier for Watching {
    fn invalidate(
        &self,
        interval: &Interval<'_>,
        _: PageRange,
        sequence: Sequence,
        blockable: bool,
    ) -> Result<(), WouldBlock> {
        interval.set(sequence);
        if blockable { Ok(()) } else { Err(WouldBlock) }
    }
}

#[test]
fn only_readers_of_what_changed_retry() {
    be(0);
    let allocator = Machine::<0>::allocator(400, 1);
    let [near, far] = [
        Interval::new(pages(0, 4), &Watching),
        Interval::new(pages(8, 4), &Watching),
    ];
    let window = Machine::window(&allocator);
    let notifiers = window.notifiers();
    notifiers.insert(&near);
    notifiers.insert(&far);
    let begin = || [&near, &far].map(|interval| interval.read_begin(notifiers));
    let retry = |[a, b]: [Sequence; 2]| [near.read_retry(a), far.read_retry(b)];
    let before = begin();
    assert_eq!(retry(before), [false, false]);
    drop(notifiers.start(&[pages(3, 2)]));
    assert_eq!(retry(before), [true, false]);
    let before = begin();
    drop(notifiers.start(&[pages(2, 7)]));
    assert_eq!(retry(before), [true, true]);
    let before = begin();
    drop(notifiers.start(&[pages(4, 4)]));
    assert_eq!(retry(before), [false, false], "between both");
    // One that does not start leaves nobody waiting, and readers who saw it retry.
    assert!(notifiers.try_start(&[pages(0, 1)], false).is_err());
    assert_eq!(retry(before), [true, false]);
    assert_eq!(retry(begin()), [false, false]);
    // One that is inserted while something changes makes its readers wait for that alone.
    let late = Interval::new(pages(20, 1), &Watching);
    {
        let allocator = Machine::<0>::allocator(400, 1);
        let window = Machine::window(&allocator);
        let invalidation = window.notifiers().start(&[]);
        window.notifiers().insert(&late);
        drop(invalidation);
        let sequence = late.read_begin(window.notifiers());
        assert!(!late.read_retry(sequence));
    }
}

/// Moves the page at 0 to a new frame; how that went, and where it was and is.
fn move_it<const FAULT: u8>(
    window: &TestWindow<'_, FAULT>,
) -> (Result<(), MigrateError>, FrameNumber, Entry) {
    let Entry::Present { frame, .. } = window.entry(page(0)) else {
        panic!("it is touched");
    };
    assert!(window.isolate(frame) && !window.isolate(frame));
    let allocator = window.allocator();
    let to = allocator
        .alloc(Request::new(Order::FRAME, MigrateType::Movable))
        .unwrap();
    let mut moves = [Move::new(frame, to)];
    window.migrate(&mut moves);
    if moves[0].result.is_err() {
        window.putback(frame);
        // SAFETY: it is ours still.
        unsafe { allocator.free(to, Order::FRAME) };
    }
    (moves[0].result, frame, window.entry(page(0)))
}

/// Shares the page with another when its first invalidation starts, and lets CPU 1 read that.
struct Sharing<'w, const FAULT: u8> {
    window: OnceLock<&'w TestWindow<'w, FAULT>>,
    done: AtomicBool,
}

impl<const FAULT: u8> Notifier for Sharing<'_, FAULT> {
    fn invalidate_range_start(&self, _: PageRange, _: bool) -> Result<(), WouldBlock> {
        let Some(window) = self.window.get() else {
            return Ok(());
        };
        // Sharing starts an invalidation, too.
        if !self.done.swap(true, Ordering::Relaxed) {
            window.fork_range(page(0), page(8), 1).unwrap();
            assert_eq!(access(window, 1, address(8, 0), None), Ok(0xabc));
            be(0);
        }
        Ok(())
    }

    fn invalidate_range_end(&self, _: PageRange) {}
}

/// No page gets into a frame that is isolated, so all that are there when it moves were announced: the copy
/// is one at once.
#[test]
fn what_is_about_to_move_is_not_shared() {
    be(0);
    let allocator = Box::leak(Machine::<0>::allocator(400, 2).into());
    let window = Box::leak(Machine::window(allocator).into());
    let sharing = Box::leak(
        Sharing {
            window: OnceLock::new(),
            done: AtomicBool::new(false),
        }
        .into(),
    );
    let subscription = Box::leak(Subscription::new(sharing).into());
    window.map_range(pages(0, 1)).unwrap();
    access(window, 0, address(0, 0), Some(0xabc)).unwrap();
    window.notifiers().register(subscription);
    assert!(sharing.window.set(window).is_ok());
    let (result, from, after) = move_it(window);
    assert_eq!(result, Ok(()));
    for entry in [after, window.entry(page(8))] {
        assert!(
            matches!(entry, Entry::Present { frame, .. } if frame != from),
            "{entry:?}"
        );
    }
    assert_eq!(access(window, 1, address(8, 0), None), Ok(0xabc));
    assert_eq!(access(window, 1, address(0, 0), None), Ok(0xabc));
}

/// A CPU that remembers a page writes to it until it is told to forget: that is in the copy.
fn written_before_the_flush<const FAULT: u8>() -> bool {
    be(0);
    let allocator = Machine::<FAULT>::allocator(400, 2);
    let window = Machine::window(&allocator);
    window.map_range(pages(0, 1)).unwrap();
    access(&window, 1, address(0, 0), Some(1)).unwrap();
    be(0);
    window_machine(&window).before_flush(|machine| _ = machine.access(1, address(0, 0), Some(2)));
    let (result, ..) = move_it(&window);
    assert!(result.is_ok());
    access(&window, 0, address(0, 0), None) == Ok(2)
}

#[test]
fn what_is_written_before_the_flush_is_kept() {
    assert!(written_before_the_flush::<0>());
    assert!(
        !written_before_the_flush::<{ Fault::CopiesBeforeFlush as u8 }>(),
        "the fault was not found"
    );
}
