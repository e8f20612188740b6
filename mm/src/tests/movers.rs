//! A user of movable pages, as simple as can be: single frames with contents, in a table.

use std::collections::{BTreeMap, BTreeSet};
use std::format;
use std::string::String;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::vec::Vec;

use super::host::{Host, Spin};
use super::invariants::{Check, require};
use crate::fault::Fault;
use crate::{
    BadPage, Cpu, FRAME_SIZE, Frame, FrameNumber, FrameRange, MigrateError, MigrateType, Movable, Move,
    Order, PageAllocator, Platform, Request, User, ZoneKind,
};

pub(crate) type Allocator<const CHECKS: bool, const FAULT: u8> = PageAllocator<Movers<CHECKS, FAULT>>;

/// A host with pages that can be moved.
pub(crate) struct Movers<const CHECKS: bool, const FAULT: u8> {
    host: Host<CHECKS, FAULT>,
    pub(crate) pages: Pages<CHECKS, FAULT>,
}

/// The pages.
pub(crate) struct Pages<const CHECKS: bool, const FAULT: u8> {
    allocator: OnceLock<Weak<Allocator<CHECKS, FAULT>>>,
    table: Mutex<Table>,
}

/// What is known of the pages.
#[derive(Default)]
pub(crate) struct Table {
    /// By frame: which page it is.
    pub(crate) pages: BTreeMap<u64, u64>,
    /// Frames with a reference more.
    pub(crate) pinned: BTreeSet<u64>,
    isolated: BTreeSet<u64>,
    created: u64,
    /// One of so many attempts says [`MigrateError::Again`]. None, if 0.
    pub(crate) again: u64,
    attempts: u64,
    /// Calls of `migrate`: pairs of source and target.
    pub(crate) log: Vec<Vec<(u64, u64)>>,
    /// Free frames that zones must not fall below.
    pub(crate) least: [u64; 2],
    wrong: Option<String>,
}

impl Table {
    fn require(&mut self, condition: bool, what: impl FnOnce() -> String) {
        if !condition {
            self.wrong.get_or_insert_with(what);
        }
    }
}

const WORDS: usize = FRAME_SIZE as usize / size_of::<u64>();

impl<const CHECKS: bool, const FAULT: u8> Movers<CHECKS, FAULT> {
    pub(crate) fn allocator(regions: &[FrameRange], cpus: u32) -> Arc<Allocator<CHECKS, FAULT>> {
        let movers = Movers {
            host: Host::new(regions),
            pages: Pages {
                allocator: OnceLock::new(),
                table: Mutex::default(),
            },
        };
        // SAFETY: the memory is the platform's, which lives as long as the allocator.
        let allocator = unsafe { PageAllocator::new(movers, regions, cpus) };
        let allocator = Arc::new(allocator.expect("regions have room"));
        let set = allocator.platform.pages.allocator.set(Arc::downgrade(&allocator));
        assert!(set.is_ok());
        allocator
    }

    pub(crate) fn reports(&self) -> Vec<BadPage> {
        self.host.reports()
    }
}

// SAFETY: the host's promises.
unsafe impl<const CHECKS: bool, const FAULT: u8> Platform for Movers<CHECKS, FAULT> {
    type Lock = Spin;
    const CHECKS: bool = CHECKS;
    const FAULT: Fault = Fault::numbered(FAULT);
    const LISTS: Option<(u32, u32)> = Host::<CHECKS, FAULT>::LISTS;

    fn on_this_cpu<R>(&self, f: impl FnOnce(Cpu) -> R) -> R {
        self.host.on_this_cpu(f)
    }

    fn frame_ptr(&self, frame: FrameNumber) -> *mut u8 {
        self.host.frame_ptr(frame)
    }

    fn bad_page(&self, report: BadPage) {
        self.host.bad_page(report);
    }

    fn movable(&self, user: User) -> Option<&dyn Movable> {
        // One table for both: whose a page is, its metadata say, and `adopt` by its number.
        User::ALL.contains(&user).then_some(&self.pages)
    }
}

impl<const CHECKS: bool, const FAULT: u8> Pages<CHECKS, FAULT> {
    fn allocator(&self) -> Arc<Allocator<CHECKS, FAULT>> {
        let allocator = self.allocator.get().and_then(Weak::upgrade);
        allocator.expect("the allocator is there")
    }

    pub(crate) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new page, or `false` if there is no memory.
    pub(crate) fn create(&self) -> bool {
        let allocator = self.allocator();
        let Ok(frame) = allocator.alloc(Request::new(Order::FRAME, MigrateType::Movable)) else {
            return false;
        };
        let mut table = self.table();
        table.created += 1;
        let page = table.created;
        for (i, word) in words(&allocator, frame).enumerate() {
            // SAFETY: the frame is ours.
            unsafe { word.write(page << 16 | i as u64) };
        }
        adopt(&allocator, frame, page);
        let old = table.pages.insert(frame.number(), page);
        table.require(old.is_none(), || format!("{frame:?} was given out twice"));
        true
    }

    /// Gives up the page at a frame, unless it is pinned.
    pub(crate) fn destroy(&self, frame: u64) {
        let (allocator, mut table) = (self.allocator(), self.table());
        if table.pinned.contains(&frame) || table.pages.remove(&frame).is_none() {
            return;
        }
        let isolated = table.isolated.contains(&frame);
        leave(&allocator, FrameNumber::new(frame), isolated);
    }

    /// Takes a reference more to the page at a frame.
    pub(crate) fn pin(&self, frame: u64) {
        let (allocator, mut table) = (self.allocator(), self.table());
        if table.pages.contains_key(&frame) && table.pinned.insert(frame) {
            let got = allocator.get(FrameNumber::new(frame));
            table.require(got, || format!("page at {frame:#x} has no reference"));
        }
    }

    /// Gives it back.
    pub(crate) fn unpin(&self, frame: u64) {
        let (allocator, mut table) = (self.allocator(), self.table());
        if table.pinned.remove(&frame) {
            // SAFETY: it was taken by `pin`.
            unsafe { allocator.put(FrameNumber::new(frame)) };
        }
    }

    /// Every page is as it was created, and nothing wrong was noticed (7, 8).
    pub(crate) fn check(&self, quiet: bool) -> Check {
        let (allocator, mut table) = (self.allocator(), self.table());
        match table.wrong.take() {
            Some(wrong) => return Err(wrong),
            None => require(!quiet || table.isolated.is_empty(), || {
                format!("isolated for ever: {:x?}", table.isolated)
            })?,
        }
        for (frame, page) in &table.pages {
            let number = FrameNumber::new(*frame);
            let intact = words(&allocator, number)
                .enumerate()
                .step_by(61)
                // SAFETY: nobody writes to a page once it is there, and the table keeps it where it is.
                .all(|(i, word)| unsafe { word.read() } == page << 16 | i as u64);
            require(intact, || {
                format!("contents of page {page} at {frame:#x} are lost")
            })?;
            let metadata = allocator.frame(number).expect("it is memory");
            let right = metadata.private() == *page
                && metadata.maps() == 1
                && metadata.movable() == Some(user_of(*page))
                && metadata.state().references() >= 1;
            require(right, || {
                format!("page {page} at {frame:#x} is not itself: {metadata:?}")
            })?;
        }
        Ok(())
    }

    fn migrate_one(&self, allocator: &Allocator<CHECKS, FAULT>, page: &Move) -> Result<(), MigrateError> {
        let mut table = self.table();
        let (from, to) = (page.from.number(), page.to.number());
        let isolated = table.isolated.contains(&from);
        table.require(isolated, || format!("{from:#x} was moved, but is not isolated"));
        let target = allocator.frame(page.to).expect("it is memory").state();
        let free = target.exclusive(Order::FRAME).is_some() && !table.pages.contains_key(&to);
        table.require(free, || {
            format!("{to:#x} is somebody's, but pages are moved there: {target:?}")
        });
        table.attempts += 1;
        if !isolated || !free || table.again > 0 && table.attempts.is_multiple_of(table.again) {
            return Err(MigrateError::Again);
        }
        let metadata = allocator.frame(page.from).expect("it is memory");
        let pinned = metadata.state().references() > metadata.maps() + 1;
        let Some(id) = table.pages.get(&from).copied() else {
            return Err(MigrateError::Pinned);
        };
        if pinned && FAULT != Fault::UserMovesPinned as u8 {
            if FAULT == Fault::UserFailsLate as u8 {
                metadata.unmap();
            }
            return Err(MigrateError::Pinned);
        }
        for (source, target) in words(allocator, page.from).zip(words(allocator, page.to)) {
            // SAFETY: nobody writes to a page once it is there; the target is ours, and in words of its own.
            unsafe { target.copy_from_nonoverlapping(source, 1) };
        }
        table.pages.remove(&from);
        table.pages.insert(to, id);
        table.isolated.remove(&from);
        adopt(allocator, page.to, id);
        metadata.end_isolation();
        leave(allocator, page.from, false);
        // SAFETY: the reference of the isolation.
        unsafe { allocator.put(page.from) };
        Ok(())
    }
}

/// Makes an allocated frame a page.
fn adopt<P: Platform>(allocator: &PageAllocator<P>, frame: FrameNumber, page: u64) {
    let metadata = allocator.frame(frame).expect("it is memory");
    metadata.set_private(page);
    metadata.map();
    allocator.share(frame);
    metadata.set_movable(Some(user_of(page)));
}

/// One of four pages is the balloon's.
pub(crate) fn user_of(page: u64) -> User {
    if page.is_multiple_of(4) {
        User::Balloon
    } else {
        User::Window
    }
}

/// Gives up a frame that was a page.
fn leave<P: Platform>(allocator: &PageAllocator<P>, frame: FrameNumber, isolated: bool) {
    let metadata: &Frame = allocator.frame(frame).expect("it is memory");
    metadata.unmap();
    if !isolated {
        metadata.set_movable(None);
    }
    // SAFETY: the page's own reference.
    unsafe { allocator.put(frame) };
}

/// The words of a frame.
fn words<P: Platform>(allocator: &PageAllocator<P>, frame: FrameNumber) -> impl Iterator<Item = *mut u64> {
    let first = allocator.platform.frame_ptr(frame).cast::<u64>();
    // SAFETY: within the frame.
    (0..WORDS).map(move |i| unsafe { first.add(i) })
}

impl<const CHECKS: bool, const FAULT: u8> Movable for Pages<CHECKS, FAULT> {
    fn isolate(&self, frame: FrameNumber) -> bool {
        let (allocator, mut table) = (self.allocator(), self.table());
        if !table.pages.contains_key(&frame.number()) {
            return false;
        }
        let metadata = allocator.frame(frame).expect("it is memory");
        if !metadata.isolate() {
            return false;
        }
        let got = allocator.get(frame);
        table.require(got, || format!("page at {frame:?} has no reference"));
        let new = table.isolated.insert(frame.number());
        table.require(new, || format!("{frame:?} was isolated twice"));
        true
    }

    fn migrate(&self, moves: &mut [Move]) {
        let allocator = self.allocator();
        let pairs: Vec<_> = moves
            .iter()
            .map(|page| (page.from.number(), page.to.number()))
            .collect();
        let free = ZoneKind::ALL.map(|kind| allocator.zone(kind).free());
        {
            let mut table = self.table();
            let users = moves.iter().map(|page| table.pages.get(&page.from.number()));
            let mut users: Vec<_> = users.flatten().map(|page| user_of(*page) as u8).collect();
            users.dedup();
            table.require(users.len() <= 1, || format!("a batch of pages of {users:?}"));
            let least = table.least;
            let enough = free.iter().zip(&least).all(|(free, least)| free >= least);
            table.require(enough, || {
                format!("isolation left {free:?} frames, not {least:?}")
            });
            table.log.push(pairs);
        }
        for page in moves {
            page.result = self.migrate_one(&allocator, page);
        }
    }

    fn putback(&self, frame: FrameNumber) {
        let (allocator, mut table) = (self.allocator(), self.table());
        let was = table.isolated.remove(&frame.number());
        table.require(was, || format!("{frame:?} was put back, but is not isolated"));
        if !was {
            return;
        }
        let metadata = allocator.frame(frame).expect("it is memory");
        metadata.end_isolation();
        if !table.pages.contains_key(&frame.number()) {
            metadata.set_movable(None);
        }
        // SAFETY: the reference of the isolation.
        unsafe { allocator.put(frame) };
    }
}

/// What the allocator knows to be somebody's: pages and other blocks.
pub(crate) fn single_pages(table: &Table) -> super::invariants::Held {
    let block = super::invariants::Block {
        order: Order::FRAME,
        migrate_type: MigrateType::Movable,
    };
    table.pages.keys().map(|frame| (*frame, block)).collect()
}
