//! Memory is filled, and thinned out; what is left is stamped, and found again.

use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use abi::boot::BootInfo;
use abi::config::fault;
use abi::memory::CompactionRound;
use mm::{Entry, FRAME_SIZE, Frame, FrameNumber, Order, PageNumber, PageRange, Platform, User, WindowError};

use super::announced::Announced;
use crate::{memory, window};

/// Words of a page.
const WORDS: u64 = FRAME_SIZE / 8;
/// Frames of a pageblock.
const BLOCK: u64 = Order::PAGEBLOCK.frames() as u64;
/// Of so many frames, one stays.
const KEPT: u64 = 4;
/// Pages that are pinned.
const PINNED: usize = 8;

/// The pages, as many as memory has room for.
pub(super) struct Recipe {
    pages: PageRange,
    /// So many of them, from the first on, have been filled.
    filled: AtomicU64,
    /// By pageblock: 1 if all of it is pages of the window.
    whole: &'static [AtomicU64],
}

impl Recipe {
    pub(super) fn new(pages: PageRange) -> Recipe {
        let end = |zone: &mm::Zone<_>| match zone.frames().len() {
            0 => 0,
            frames => zone.number(first_index(zone)).number() + frames as u64,
        };
        let blocks = memory::pages().zones().iter().map(end).max().unwrap_or(0) / BLOCK + 1;
        Recipe {
            pages,
            filled: AtomicU64::new(0),
            whole: memory::slice(blocks as usize, || AtomicU64::new(0)),
        }
    }

    /// Maps the pages; with their tables, which stay.
    pub(super) fn map(&self) {
        window::get()
            .map_range(self.pages)
            .expect("the addresses are free, and there is memory for tables");
    }

    /// Fills memory, thins it out, pins a few pages.
    pub(super) fn fragment(&self, boot: &BootInfo) -> Pins {
        if matches!(window::get().entry(self.pages.start()), Entry::Empty) {
            self.map();
        }
        self.fill();
        self.find_whole();
        self.thin_out();
        memory::pages().drain_this_cpu();
        Pins::new(self, boot.run.fault != fault::NO_PIN)
    }

    /// Gives all pages back.
    pub(super) fn clear(&self) {
        window::get().unmap_range(self.pages).expect("they are mapped");
        self.filled.store(0, Ordering::Relaxed);
    }

    /// Gives pages frames, until there are none, and stamps them. What is touched in the usual way faults first;
    /// here it is pinned for a moment, which faults in as well, and costs less.
    fn fill(&self) {
        let mut filled = 0;
        for page in self.pages.iter() {
            let frame = match window::get().pin(page.start()) {
                Ok(frame) => frame,
                Err(WindowError::NoMemory) => break,
                Err(error) => panic!("cannot fill {page:?}: {error}"),
            };
            Stamp::new(page, frame).write(frame);
            // SAFETY: it was pinned, and is not used any more.
            unsafe { window::get().unpin(frame) };
            filled += 1;
        }
        assert!(filled < self.pages.len(), "there is more memory than pages");
        // Relaxed: the barrier before others read it.
        self.filled.store(filled, Ordering::Relaxed);
    }

    /// Finds the pageblocks that have nothing but pages of the window. The others could never be huge.
    fn find_whole(&self) {
        for (block, whole) in (0..).zip(self.whole) {
            let is_ours = |frame: &Frame| frame.movable() == Some(User::Window);
            let frames = block * BLOCK..(block + 1) * BLOCK;
            let all = frames
                .map(FrameNumber::new)
                .all(|number| frame(number).is_some_and(is_ours));
            whole.store(all.into(), Ordering::Relaxed);
        }
    }

    /// Gives three of four frames back of each such pageblock.
    fn thin_out(&self) {
        let goes = |page| {
            let Some(frame) = present(page) else { return false };
            let whole = self.whole[(frame.number() / BLOCK) as usize].load(Ordering::Relaxed) == 1;
            whole && !frame.number().is_multiple_of(KEPT)
        };
        let unmap = |start, pages| {
            window::get()
                .unmap_range(PageRange::new(start, pages))
                .expect("they are mapped");
        };
        let (mut start, mut run) = (self.pages.start(), 0);
        for page in self.filled().iter() {
            if goes(page) {
                run += 1;
                continue;
            }
            if run > 0 {
                unmap(start, run);
            }
            (start, run) = (page.plus(1), 0);
        }
        if run > 0 {
            unmap(start, run);
        }
    }

    fn filled(&self) -> PageRange {
        PageRange::new(self.pages.start(), self.filled.load(Ordering::Relaxed))
    }

    /// The pages that are left.
    fn kept(&self) -> impl Iterator<Item = PageNumber> {
        self.filled().iter().filter(|page| is_mapped(*page))
    }

    /// Where each page that has moved was, and is.
    pub(super) fn moves(&self) -> impl Iterator<Item = (FrameNumber, FrameNumber)> {
        let move_of = |page: PageNumber| Some((FrameNumber::new(word(page.start(), 0)), present(page)?));
        self.kept().filter_map(move_of).filter(|(from, to)| from != to)
    }

    /// How many words of some page are not as they should be; `random` says which page.
    pub(super) fn verify_one(&self, random: u64) -> u64 {
        let page = self.pages.start().plus(random % self.filled().len());
        if is_mapped(page) {
            Stamp::found(page).wrong()
        } else {
            0
        }
    }

    /// Has the last word on all pages.
    pub(super) fn verify(&self, announced: &Announced, pins: &Pins, round: &mut CompactionRound) {
        for page in self.kept() {
            let stamp = Stamp::found(page);
            round.kept += 1;
            round.wrong += stamp.wrong();
            round.unannounced += u64::from(present(page) != Some(stamp.frame) && !announced.contains(page));
        }
        round.pinned = pins.all().count() as u64;
        round.displaced = pins
            .all()
            .filter(|(page, frame)| present(*page) != Some(*frame))
            .count() as u64;
    }
}

fn first_index<P: Platform>(zone: &mm::Zone<P>) -> mm::FrameIndex {
    let (first, _) = zone
        .heads(mm::BlockIndex::new(0))
        .next()
        .expect("a zone with frames has a first block");
    first
}

fn frame(number: FrameNumber) -> Option<&'static Frame> {
    memory::pages().frame(number)
}

/// Where a page is, if it is not on its way.
fn present(page: PageNumber) -> Option<FrameNumber> {
    match window::get().entry(page) {
        Entry::Present { frame, .. } => Some(frame),
        _ => None,
    }
}

fn is_mapped(page: PageNumber) -> bool {
    !matches!(window::get().entry(page), Entry::Empty)
}

/// A word at an address where a page or a frame is.
fn word(address: u64, index: u64) -> u64 {
    let first = ptr::with_exposed_provenance::<u64>(address as usize);
    // SAFETY: within a page that is mapped, or its frame. Volatile: it may move behind the compiler's back.
    unsafe { first.wrapping_add(index as usize).read_volatile() }
}

/// What a page holds: the frame it was in when it was stamped, then words that only this page in that frame has.
struct Stamp {
    page: PageNumber,
    frame: FrameNumber,
}

impl Stamp {
    fn new(page: PageNumber, frame: FrameNumber) -> Stamp {
        Stamp { page, frame }
    }

    /// The one that a page says it has.
    fn found(page: PageNumber) -> Stamp {
        Stamp::new(page, FrameNumber::new(word(page.start(), 0)))
    }

    fn word(&self, index: u64) -> u64 {
        match index {
            0 => self.frame.number(),
            // An odd multiplier (splitmix64's): words differ in all bytes.
            _ => ((self.page.number() << 9 | index) ^ self.frame.number() << 40)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15),
        }
    }

    /// Words of the page that are others.
    fn wrong(&self) -> u64 {
        let wrong = |index: &u64| word(self.page.start(), *index) != self.word(*index);
        (0..WORDS).filter(wrong).count() as u64
    }

    /// Stamps the page, in its frame.
    fn write(&self, frame: FrameNumber) {
        let first = memory::pages().platform().frame_ptr(frame).cast::<u64>();
        for index in 0..WORDS {
            // SAFETY: within the frame of a page that nobody else uses yet.
            unsafe {
                first
                    .wrapping_add(index as usize)
                    .write_volatile(self.word(index))
            };
        }
    }
}

/// Pages that are to stay where they are: those in the lowest frames, where compaction looks first.
#[derive(Default)]
pub(super) struct Pins {
    pins: [Option<(PageNumber, FrameNumber)>; PINNED],
    pinned: bool,
}

impl Pins {
    /// `pinned` is false where a fault is planted: nobody is told that they are to stay.
    fn new(recipe: &Recipe, pinned: bool) -> Pins {
        let mut pins = [None; PINNED];
        for page in recipe.kept() {
            let Some(frame) = present(page) else { continue };
            let above = |pin: &Option<(PageNumber, FrameNumber)>| pin.is_none_or(|(_, other)| other > frame);
            // The lowest in front.
            if let Some(at) = pins.iter().position(above) {
                pins[at..].rotate_right(1);
                pins[at] = Some((page, frame));
            }
        }
        let pins = Pins { pins, pinned };
        for (page, frame) in pins.all().filter(|_| pinned) {
            assert_eq!(window::get().pin(page.start()), Ok(frame), "nothing moves yet");
        }
        pins
    }

    fn all(&self) -> impl Iterator<Item = (PageNumber, FrameNumber)> {
        self.pins.iter().copied().flatten()
    }

    pub(super) fn unpin(self) {
        for (_, frame) in self.all().filter(|_| self.pinned) {
            // SAFETY: it was pinned, and is not used any more.
            unsafe { window::get().unpin(frame) };
        }
    }
}
