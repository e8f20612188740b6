//! A secondary map finds what is wrong with what it is told, and with those who look pages up through it.

use super::machine::{Machine, TestWindow, access, address, page, pages};
use crate::tests::host::be;
use crate::{
    Checks, Interval, IntervalNotifier, Notifier, PageRange, Secondary, Sequence, Subscription, WouldBlock,
};

/// Something to do wrong, once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wrong {
    Nothing,
    NoStart,
    NoEnd,
    OtherEnd,
    NoRetry,
    NoNotice,
}

/// Passes on to a secondary map what it is told; not all of it.
struct Told<'a> {
    to: &'a Secondary<'a, Machine<0>>,
    wrong: Wrong,
}

impl Notifier for Told<'_> {
    fn invalidate_range_start(&self, range: PageRange, blockable: bool) -> Result<(), WouldBlock> {
        match self.wrong {
            Wrong::NoStart => Ok(()),
            _ => self.to.invalidate_range_start(range, blockable),
        }
    }

    fn invalidate_range_end(&self, range: PageRange) {
        match self.wrong {
            Wrong::NoEnd => {}
            Wrong::OtherEnd => self
                .to
                .invalidate_range_end(PageRange::new(range.start(), range.len() + 1)),
            _ => self.to.invalidate_range_end(range),
        }
    }
}

impl IntervalNotifier for Told<'_> {
    fn invalidate(
        &self,
        interval: &Interval<'_>,
        range: PageRange,
        sequence: Sequence,
        blockable: bool,
    ) -> Result<(), WouldBlock> {
        match self.wrong {
            Wrong::NoNotice => Ok(()),
            _ => self.to.invalidate(interval, range, sequence, blockable),
        }
    }
}

/// Reads a page through the map, between start and end and after.
fn checks(wrong: Wrong) -> Checks {
    be(0);
    let allocator = Machine::<0>::allocator(400, 1);
    let secondary = Secondary::new(&allocator, 4).unwrap();
    let told = Told {
        to: &secondary,
        wrong,
    };
    let subscription = Subscription::new(&told);
    let interval = Interval::new(pages(0, 8), &told);
    let decoy = Interval::new(pages(0, 8), &told);
    let window = Machine::window(&allocator);
    window.notifiers().register(&subscription);
    window.notifiers().insert(&interval);
    window.map_range(pages(0, 8)).unwrap();
    access(&window, 0, address(5, 0), Some(7)).unwrap();
    let read = |window: &TestWindow<'_, 0>, interval| {
        secondary
            .read(window, interval, page(5), |_| ())
            .expect("it is touched");
    };
    read(&window, &interval);
    {
        let ranges = [pages(5, 1)];
        let _invalidation = window.notifiers().start(&ranges);
        if wrong == Wrong::NoRetry {
            // Of an interval that nobody is told of: it waits for nothing.
            read(&window, &decoy);
        }
    }
    read(&window, &interval);
    read(&window, &interval);
    secondary.checks()
}

#[test]
fn what_is_told_in_order_is_found_to_be() {
    let found = checks(Wrong::Nothing);
    let expected = Checks {
        starts: 1,
        ends: 1,
        lookups: 2,
        hits: 1,
        ..Checks::default()
    };
    assert_eq!(found, expected);
}

#[test]
fn starts_and_ends_that_do_not_pair_and_pages_mapped_between_them_are_found() {
    let paired = |checks: &Checks| checks.starts == checks.ends && checks.unpaired == 0;
    let no_start = checks(Wrong::NoStart);
    assert!((no_start.starts, no_start.ends) == (0, 1) && !paired(&no_start));
    let no_end = checks(Wrong::NoEnd);
    assert!((no_end.starts, no_end.ends) == (1, 0) && !paired(&no_end));
    let other = checks(Wrong::OtherEnd);
    assert!(other.starts == other.ends && other.unpaired != 0, "{other:?}");
    for wrong in [Wrong::NoRetry, Wrong::NoNotice] {
        let found = checks(wrong);
        assert!(found.mapped_inside == 1 && paired(&found), "{wrong:?}: {found:?}");
    }
}
