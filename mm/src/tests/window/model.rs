//! The window beside a reference model: what is where, and who holds it.

use std::collections::{BTreeMap, BTreeSet};
use std::format;
use std::vec::Vec;

use proptest::prelude::*;
use proptest::sample::Index;

use super::machine::{TestWindow, access, address, page, pages, window_machine};
use crate::tests::host::be;
use crate::tests::invariants::{Check, require};
use crate::{
    Entry, FrameNumber, MigrateError, MigrateType, Movable, Move, Order, Request, User, WindowError,
};

/// CPUs of the machine.
pub(crate) const CPUS: u32 = 3;
/// Pages that operations are about: two stretches, in different leaves.
const STRETCH: u64 = 10;
/// First page of the second stretch.
const SECOND: u64 = 1 << 19 | 505;
/// Words of a page that are written.
const WORDS: u64 = 2;

/// Number of a page of the stretches, from 0 to `2 * STRETCH`.
fn at(number: u64) -> u64 {
    if number < STRETCH {
        number
    } else {
        SECOND + number - STRETCH
    }
}

/// An operation. Pages are numbers of the stretches.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Map {
        start: u64,
        count: u64,
    },
    Unmap {
        start: u64,
        count: u64,
    },
    Fork {
        from: u64,
        to: u64,
        count: u64,
    },
    Write {
        cpu: u32,
        page: u64,
        word: u64,
        value: u64,
    },
    Read {
        cpu: u32,
        page: u64,
        word: u64,
    },
    Pin {
        page: u64,
    },
    Unpin {
        which: Index,
    },
    Isolate {
        page: u64,
    },
    Migrate {
        most: usize,
    },
    PutBack {
        which: Index,
    },
}

/// Random operations.
pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let number = || 0..2 * STRETCH;
    let step = prop_oneof![
        4 => (number(), 1..8_u64).prop_map(|(start, count)| Step::Map { start, count }),
        2 => (number(), 1..6_u64).prop_map(|(start, count)| Step::Unmap { start, count }),
        4 => (number(), number(), 1..6_u64).prop_map(|(from, to, count)| Step::Fork { from, to, count }),
        16 => (0..CPUS, number(), 0..WORDS, any::<u64>())
            .prop_map(|(cpu, page, word, value)| Step::Write { cpu, page, word, value }),
        12 => (0..CPUS, number(), 0..WORDS).prop_map(|(cpu, page, word)| Step::Read { cpu, page, word }),
        2 => number().prop_map(|page| Step::Pin { page }),
        1 => any::<Index>().prop_map(|which| Step::Unpin { which }),
        6 => number().prop_map(|page| Step::Isolate { page }),
        3 => (1..6_usize).prop_map(|most| Step::Migrate { most }),
        1 => any::<Index>().prop_map(|which| Step::PutBack { which }),
    ];
    prop::collection::vec(step, 1..250)
}

/// A window and what is known of it.
pub(crate) struct Model<'w, 'a, const FAULT: u8> {
    pub(crate) window: &'w TestWindow<'a, FAULT>,
    /// Pages that are mapped, and what they hold.
    contents: BTreeMap<u64, [u64; WORDS as usize]>,
    /// Pins: where, and which frame.
    pins: Vec<(u64, FrameNumber)>,
    isolated: Vec<FrameNumber>,
}

impl<'w, 'a, const FAULT: u8> Model<'w, 'a, FAULT> {
    pub(crate) fn new(window: &'w TestWindow<'a, FAULT>) -> Self {
        Model {
            window,
            contents: BTreeMap::new(),
            pins: Vec::new(),
            isolated: Vec::new(),
        }
    }

    /// Does an operation, with what must be true of it.
    pub(crate) fn step(&mut self, step: &Step) -> Check {
        be(0);
        match *step {
            Step::Map { start, count } => self.map(start, count),
            Step::Unmap { start, count } => self.unmap(start, count),
            Step::Fork { from, to, count } => self.fork(from, to, count),
            Step::Write {
                cpu,
                page,
                word,
                value,
            } => {
                let old = self.contents.get_mut(&at(page));
                let old = old.map(|words| core::mem::replace(&mut words[word as usize], value));
                self.access(cpu, page, word, Some(value), old)
            }
            Step::Read { cpu, page, word } => {
                let expected = self.contents.get(&at(page)).map(|words| words[word as usize]);
                self.access(cpu, page, word, None, expected)
            }
            Step::Pin { page } => self.pin(page),
            Step::Unpin { which } => {
                self.unpin(which);
                Ok(())
            }
            Step::Isolate { page } => self.isolate(page),
            Step::Migrate { most } => self.migrate(most),
            Step::PutBack { which } => {
                if !self.isolated.is_empty() {
                    let frame = self.isolated.swap_remove(which.index(self.isolated.len()));
                    self.window.putback(frame);
                }
                Ok(())
            }
        }
    }

    fn access(&self, cpu: u32, number: u64, word: u64, write: Option<u64>, expected: Option<u64>) -> Check {
        let got = access(self.window, cpu, address(at(number), word), write);
        let expected = expected.ok_or(WindowError::NoRange);
        require(got == expected, || {
            format!("CPU {cpu}, page {number}, word {word}: read {got:x?}, not {expected:x?}")
        })
    }

    /// The pages of a range that lie in one stretch.
    fn clip(start: u64, count: u64) -> u64 {
        let end = if start < STRETCH { STRETCH } else { 2 * STRETCH };
        count.min(end - start)
    }

    fn map(&mut self, start: u64, count: u64) -> Check {
        let count = Self::clip(start, count);
        let used = (start..start + count).any(|number| self.contents.contains_key(&at(number)));
        let expected = if used { Err(WindowError::InUse) } else { Ok(()) };
        let got = self.window.map_range(pages(at(start), count));
        require(got == expected, || format!("map said {got:?}, not {expected:?}"))?;
        if got.is_ok() {
            (start..start + count)
                .for_each(|number| _ = self.contents.insert(at(number), [0; WORDS as usize]));
        }
        Ok(())
    }

    fn unmap(&mut self, start: u64, count: u64) -> Check {
        let count = Self::clip(start, count);
        let got = self.window.unmap_range(pages(at(start), count));
        (start..start + count).for_each(|number| _ = self.contents.remove(&at(number)));
        require(got == Ok(()), || format!("unmap said {got:?}"))
    }

    fn fork(&mut self, from: u64, to: u64, count: u64) -> Check {
        let count = Self::clip(from, count).min(Self::clip(to, count));
        let expected = (0..count).try_for_each(|i| {
            let (from, to) = (at(from + i), at(to + i));
            match (self.contents.contains_key(&from), self.contents.contains_key(&to)) {
                (true, false) => Ok(()),
                (false, _) => Err(WindowError::NoRange),
                (true, _) => Err(WindowError::InUse),
            }
        });
        // A source that is the target of the same call is mapped by then.
        if from.abs_diff(to) < count {
            return Ok(());
        }
        let got = self.window.fork_range(page(at(from)), page(at(to)), count);
        require(got == expected, || format!("fork said {got:?}, not {expected:?}"))?;
        if got.is_ok() {
            for i in 0..count {
                let words = self.contents[&at(from + i)];
                self.contents.insert(at(to + i), words);
            }
        }
        Ok(())
    }

    fn pin(&mut self, number: u64) -> Check {
        let got = self.window.pin(address(at(number), 0));
        match (got, self.contents.contains_key(&at(number))) {
            (Ok(frame), true) => {
                self.pins.push((at(number), frame));
                Ok(())
            }
            (Err(WindowError::NoRange), false) => Ok(()),
            (got, _) => Err(format!("pin said {got:?}")),
        }
    }

    fn unpin(&mut self, which: Index) {
        if !self.pins.is_empty() {
            let (_, frame) = self.pins.swap_remove(which.index(self.pins.len()));
            // SAFETY: it was pinned.
            unsafe { self.window.unpin(frame) };
        }
    }

    fn isolate(&mut self, number: u64) -> Check {
        let Entry::Present { frame, .. } = self.window.entry(page(at(number))) else {
            return Ok(());
        };
        let twice = self.isolated.contains(&frame);
        let got = self.window.isolate(frame);
        require(got != twice, || format!("isolation of {frame:?} said {got}"))?;
        if got {
            self.isolated.push(frame);
        }
        Ok(())
    }

    /// Pages in each frame.
    fn frames(&self) -> BTreeMap<u64, Vec<(u64, Entry)>> {
        let mut frames = BTreeMap::<_, Vec<_>>::new();
        for at in self.contents.keys() {
            let entry = self.window.entry(page(*at));
            if let Entry::Present { frame, .. } = entry {
                frames.entry(frame.number()).or_default().push((*at, entry));
            }
        }
        frames
    }

    fn migrate(&mut self, most: usize) -> Check {
        let allocator = self.window.allocator();
        let mut moves = Vec::new();
        while moves.len() < most
            && let Some(from) = self.isolated.pop()
        {
            match allocator.alloc(Request::new(Order::FRAME, MigrateType::Movable)) {
                Ok(to) => moves.push(Move::new(from, to)),
                Err(_) => self.window.putback(from),
            }
        }
        let before = self.frames();
        self.window.migrate(&mut moves);
        let after = self.frames();
        for one in moves {
            let (from, to) = (one.from.number(), one.to.number());
            let was = before.get(&from);
            let pinned = self.pins.iter().any(|(_, frame)| *frame == one.from);
            let expected = match was {
                Some(_) if !pinned => Ok(()),
                _ => Err(MigrateError::Pinned),
            };
            require(one.result == expected, || format!("{one:?}, not {expected:?}"))?;
            let flags = |pages: &Vec<(u64, Entry)>| -> Vec<_> {
                let writable = |entry| matches!(entry, Entry::Present { writable: true, .. });
                pages.iter().map(|(at, entry)| (*at, writable(*entry))).collect()
            };
            if one.result.is_ok() {
                require(after.get(&to).map(flags) == was.map(flags), || {
                    format!("of {was:?} moved {:?}", after.get(&to))
                })?;
                require(!after.contains_key(&from), || {
                    format!("{from:#x} is still mapped")
                })?;
            } else {
                require(after.get(&from) == was, || {
                    format!("{from:#x} changed, but has not moved")
                })?;
                // SAFETY: it is ours still.
                unsafe { allocator.free(one.to, Order::FRAME) };
                self.window.putback(one.from);
            }
        }
        Ok(())
    }

    /// What must be true at any quiet moment.
    pub(crate) fn check(&self) -> Check {
        be(0);
        let (window, allocator) = (self.window, self.window.allocator());
        let frames = self.frames();
        let held: BTreeSet<_> = self.pins.iter().map(|(_, frame)| *frame).collect();
        for (number, pages) in &frames {
            let frame = FrameNumber::new(*number);
            let metadata = allocator.frame(frame).expect("it is mapped");
            let mut listed: Vec<_> = window.mapped(frame).iter().map(|page| page.number()).collect();
            listed.sort_unstable();
            let mapped: Vec<_> = pages.iter().map(|(at, _)| page(*at).number()).collect();
            require(listed == mapped, || {
                format!("{frame:?} is mapped at {mapped:x?}, listed {listed:x?}")
            })?;
            require(metadata.maps() as usize == mapped.len(), || {
                format!("{frame:?}: {metadata:?}")
            })?;
            let pins = self.pins.iter().filter(|(_, pinned)| *pinned == frame).count();
            let isolated = self.isolated.contains(&frame);
            let references = mapped.len() + pins + usize::from(isolated);
            require(metadata.state().references() as usize == references, || {
                format!("{frame:?} has {metadata:?}, not {references} references")
            })?;
            require(metadata.isolated() == isolated, || {
                format!("{frame:?}: {metadata:?}")
            })?;
            require(metadata.movable() == Some(User::Window), || {
                format!("{frame:?}: {metadata:?}")
            })?;
            let writable = |entry: &Entry| matches!(entry, Entry::Present { writable: true, .. });
            require(
                pages.len() == 1 || !pages.iter().any(|(_, entry)| writable(entry)),
                || format!("{frame:?} is shared, and writable: {pages:x?}"),
            )?;
        }
        for frame in held.iter().filter(|frame| !frames.contains_key(&frame.number())) {
            let metadata = allocator.frame(*frame).expect("it is pinned");
            let pins = self.pins.iter().filter(|(_, pinned)| pinned == frame).count();
            let references = pins + usize::from(self.isolated.contains(frame));
            require(metadata.state().references() as usize == references, || {
                format!("unmapped {frame:?} has {metadata:?}, not {references} references")
            })?;
        }
        for (at, words) in &self.contents {
            match window.entry(page(*at)) {
                Entry::ZeroFill => require(*words == [0; WORDS as usize], || format!("{at:#x} was lost"))?,
                Entry::Present { frame, .. } => {
                    let found = [0, 1].map(|word| {
                        let word = window_machine(window).word(frame, word);
                        word.load(std::sync::atomic::Ordering::Relaxed)
                    });
                    require(found == *words, || {
                        format!("{at:#x} holds {found:x?}, not {words:x?}")
                    })?;
                }
                entry => return Err(format!("{at:#x} is {entry:?}")),
            }
        }
        Ok(())
    }

    /// Pages that are pinned and mapped since stay in their frames.
    pub(crate) fn pinned_stay(&mut self) -> Check {
        // An unmapped page's frame is the pins' alone from then on.
        self.pins.iter().try_for_each(|(at, frame)| {
            let entry = self.window.entry(page(*at));
            let unmapped = self.window.mapped(*frame).is_empty();
            let stays = matches!(entry, Entry::Present { frame: now, .. } if now == *frame);
            require(stays || unmapped, || {
                format!("{at:#x} was pinned in {frame:?}, is {entry:?}")
            })
        })
    }

    /// Gives everything back.
    pub(crate) fn end(self) {
        be(0);
        self.isolated.iter().for_each(|frame| self.window.putback(*frame));
        // SAFETY: they were pinned.
        self.pins
            .iter()
            .for_each(|(_, frame)| unsafe { self.window.unpin(*frame) });
    }
}
