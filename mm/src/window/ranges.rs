//! The pages that a batch is about, as few ranges.

use core::ops::Deref;

use crate::window::page::{PageNumber, PageRange};

/// Ranges kept apart. A page too far from all of them widens the nearest, once there are so many.
const MOST: usize = 64;

/// A set of pages, as disjoint ranges, ascending, that do not touch. It may hold more than was added: whoever
/// is told to forget translations may always forget others, too.
pub(crate) struct Ranges {
    ranges: [PageRange; MOST],
    len: usize,
}

impl Ranges {
    pub(crate) const fn new() -> Ranges {
        Ranges {
            ranges: [PageRange::new(PageNumber::new(0), 0); MOST],
            len: 0,
        }
    }

    /// Whether `page` is in the set.
    pub(crate) fn contains(&self, page: PageNumber) -> bool {
        let at = self.partition_point(|range| range.end() <= page);
        self.get(at).is_some_and(|range| range.contains(page))
    }

    /// Adds a page.
    pub(crate) fn add(&mut self, page: PageNumber) {
        // The first range that the page is in, or that it touches from above, or that lies above it.
        let at = self.partition_point(|range| range.end() < page);
        let above = self.get(at).copied();
        match above {
            Some(range) if range.contains(page) => {}
            Some(range) if range.end() == page => self.widen(at, range.start(), page.plus(1)),
            Some(range) if range.start() == page.plus(1) => self.widen(at, page, range.end()),
            _ if self.len < MOST => {
                self.ranges.copy_within(at..self.len, at + 1);
                self.ranges[at] = PageRange::new(page, 1);
                self.len += 1;
            }
            _ => {
                let gap_below = at
                    .checked_sub(1)
                    .map(|below| page.number() - self.ranges[below].end().number());
                let gap_above = above.map(|range| range.start().number() - page.number());
                match (gap_below, above) {
                    (Some(below), _) if gap_above.is_none_or(|above| below <= above) => {
                        self.widen(at - 1, self.ranges[at - 1].start(), page.plus(1));
                    }
                    (_, Some(range)) => self.widen(at, page, range.end()),
                    (_, None) => unreachable!("there are ranges, below or above"),
                }
            }
        }
    }

    /// Gives a range new ends, which reach no neighbour but perhaps touch the next.
    fn widen(&mut self, at: usize, start: PageNumber, end: PageNumber) {
        let mut end = end;
        if let Some(next) = self.get(at + 1)
            && next.start() == end
        {
            end = next.end();
            self.ranges.copy_within(at + 2..self.len, at + 1);
            self.len -= 1;
        }
        self.ranges[at] = PageRange::new(start, end.number() - start.number());
    }
}

impl Deref for Ranges {
    type Target = [PageRange];

    fn deref(&self) -> &[PageRange] {
        &self.ranges[..self.len]
    }
}
