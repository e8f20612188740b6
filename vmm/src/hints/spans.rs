//! Sets of moments, as spans of time.

use std::time::Duration;

/// Spans in nanoseconds, from the first to before the second, ascending, with gaps in between.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Spans(Vec<(u64, u64)>);

impl Spans {
    /// From `begin` to `end`.
    pub(super) fn one(begin: u64, end: u64) -> Self {
        let mut spans = Self::default();
        spans.push(begin, end);
        spans
    }

    /// From edges in order of time: true begins a span, unless there is one, and false ends it. The last
    /// may have no end. What is out of order is left out.
    pub(super) fn from_edges(edges: impl Iterator<Item = (u64, bool)>) -> Self {
        let mut spans = Self::default();
        let mut begin = None;
        for (time, begins) in edges {
            if begins {
                begin.get_or_insert(time);
            } else if let Some(begin) = begin.take() {
                spans.push(begin, time);
            }
        }
        if let Some(begin) = begin {
            spans.push(begin, u64::MAX);
        }
        spans
    }

    fn push(&mut self, begin: u64, end: u64) {
        let last = self.0.last().map_or(0, |(_, end)| *end);
        let begin = begin.max(last);
        if begin < end {
            self.0.push((begin, end));
        }
    }

    /// What is in both.
    pub(super) fn and(&self, other: &Self) -> Self {
        let mut both = Self::default();
        let (mut mine, mut others) = (self.0.iter().peekable(), other.0.iter().peekable());
        while let (Some(a), Some(b)) = (mine.peek(), others.peek()) {
            both.push(a.0.max(b.0), a.1.min(b.1));
            if a.1 < b.1 {
                mine.next();
            } else {
                others.next();
            }
        }
        both
    }

    /// What is in this, and not in `other`.
    pub(super) fn minus(&self, other: &Self) -> Self {
        let mut gaps = Self::default();
        let mut begin = 0;
        for span in &other.0 {
            gaps.push(begin, span.0);
            begin = span.1;
        }
        gaps.push(begin, u64::MAX);
        self.and(&gaps)
    }

    pub(super) fn contains(&self, time: u64) -> bool {
        self.0.iter().any(|(begin, end)| (*begin..*end).contains(&time))
    }

    pub(super) fn length(&self) -> Duration {
        self.0
            .iter()
            .map(|(begin, end)| Duration::from_nanos(end - begin))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(spans: &[(u64, u64)]) -> Spans {
        Spans(spans.to_vec())
    }

    #[test]
    fn edges_make_spans() {
        let edges = [
            (5, false),
            (10, true),
            (12, true),
            (20, false),
            (21, false),
            (30, true),
        ];
        assert_eq!(
            Spans::from_edges(edges.into_iter()),
            spans(&[(10, 20), (30, u64::MAX)])
        );
        let disorder = [
            (50, true),
            (40, false),
            (10, true),
            (60, false),
            (20, true),
            (70, false),
        ];
        assert_eq!(
            Spans::from_edges(disorder.into_iter()),
            spans(&[(10, 60), (60, 70)])
        );
    }

    #[test]
    fn sets_are_combined() {
        let (a, b) = (spans(&[(0, 10), (20, 30), (40, 50)]), spans(&[(5, 25), (45, 46)]));
        assert_eq!(a.and(&b), spans(&[(5, 10), (20, 25), (45, 46)]));
        assert_eq!(b.and(&a), a.and(&b));
        assert_eq!(a.minus(&b), spans(&[(0, 5), (25, 30), (40, 45), (46, 50)]));
        assert_eq!(a.minus(&Spans::default()), a);
        assert_eq!(a.and(&Spans::default()), Spans::default());
        assert_eq!(Spans::one(0, u64::MAX).minus(&a).and(&a), Spans::default());
        assert_eq!(a.length(), Duration::from_nanos(30));
        assert!(a.contains(20) && !a.contains(30));
    }
}
