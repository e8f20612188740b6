//! What must be true of an allocator at any quiet moment.

use std::collections::BTreeMap;
use std::format;
use std::string::String;
use std::vec::Vec;

use crate::order::Order;
use crate::{BlockIndex, FrameIndex, FrameNumber, Kind, MigrateType, PageAllocator, Platform, State, Zone};

/// Fails with a sentence where something is not as it must be.
pub(crate) type Check = Result<(), String>;

/// Fails unless `condition`.
pub(crate) fn require(condition: bool, what: impl FnOnce() -> String) -> Check {
    if condition { Ok(()) } else { Err(what()) }
}

/// A block as a holder knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Block {
    pub(crate) order: Order,
    pub(crate) migrate_type: MigrateType,
}

/// Which blocks are somebody's: the reference model.
pub(crate) type Held = BTreeMap<u64, Block>;

/// Every invariant, of all zones.
pub(crate) fn check<P: Platform>(allocator: &PageAllocator<P>, held: &Held) -> Check {
    let mut allocated = Held::new();
    for zone in allocator.populated() {
        one_state_each(zone, &mut allocated)?;
        buddies_are_merged(zone)?;
        lists_are_right(allocator, zone)?;
    }
    require(allocated == *held, || {
        format!("allocated {allocated:?}, but held {held:?}")
    })
}

/// All blocks of a zone, ascending, those of runs too.
fn blocks<P: Platform>(zone: &Zone<P>) -> impl Iterator<Item = (FrameIndex, State)> {
    let heads = (0..zone.pageblocks().len()).flat_map(|block| zone.heads(BlockIndex::new(block as u32)));
    heads.flat_map(|(index, state)| {
        (0..=zone.run(index)).map(move |i| (index.plus(i * Order::MAX.frames()), state))
    })
}

/// Every frame is in one state, and states sum to the total (1).
fn one_state_each<P: Platform>(zone: &Zone<P>, allocated: &mut Held) -> Check {
    let mut next = 0;
    let (mut managed, mut free) = (0, 0);
    for (index, state) in blocks(zone) {
        require(index.get() == next, || {
            format!("frames from {next} to {index:?} are of no block")
        })?;
        let length = state.order().frames() as usize;
        require(index.aligned(state.order()), || {
            format!("{index:?} is not aligned: {state:?}")
        })?;
        for i in 1..length {
            let tail = zone.frames()[index.get() + i].state();
            require(tail == State::TAIL, || {
                format!("{i} frames behind {index:?} {state:?} is {tail:?}")
            })?;
            let head = zone.block_of(FrameIndex::new((index.get() + i) as u32));
            // Memory that nobody has had yet is of no block, and its first frame is a tail, too.
            let fresh = zone.frame(index).state() == State::TAIL;
            require(head == (!fresh).then_some((index, state)), || {
                format!("head of the block is not found: {head:?}")
            })?;
        }
        let references = u32::from(state.kind() == Kind::Allocated);
        let others = state.references().saturating_sub(references);
        require(
            state.references() >= references && (others == 0 || state.shared()),
            || format!("{index:?} has references: {state:?}"),
        )?;
        if state.kind() == Kind::Allocated {
            let block = Block {
                order: state.order(),
                migrate_type: state.migrate_type(),
            };
            allocated.insert(zone.number(index).number(), block);
        }
        managed += if state.kind() == Kind::Reserved {
            0
        } else {
            length as u64
        };
        free += if state.kind() == Kind::Free {
            length as u64
        } else {
            0
        };
        next += length;
    }
    require(next == zone.frames().len(), || {
        format!("blocks end at {next}, not where the zone does")
    })?;
    require(managed == zone.managed(), || {
        format!("{managed} frames, not {}", zone.managed())
    })?;
    require(free == zone.free(), || {
        format!("{free} free frames, but counted {}", zone.free())
    })
}

/// Of two buddies not both are free and whole (2).
fn buddies_are_merged<P: Platform>(zone: &Zone<P>) -> Check {
    for (index, state) in blocks(zone).filter(|(_, state)| state.kind() == Kind::Free) {
        let buddy = zone
            .frames()
            .get(index.buddy(state.order()).get())
            .map(|frame| frame.state());
        let apart = state.order() < Order::MAX && buddy.is_some_and(|buddy| buddy.free(state.order()));
        require(!apart, || {
            format!(
                "{index:?} and its buddy of order {:?} are both free",
                state.order()
            )
        })?;
    }
    Ok(())
}

/// Lists have the free blocks and no others, by the type of their pageblock, and as many as is counted (3).
fn lists_are_right<P: Platform>(allocator: &PageAllocator<P>, zone: &Zone<P>) -> Check {
    let (listed, counts) = allocator.platform.on_this_cpu(|_| {
        let buddy = zone.lock();
        let mut listed = Vec::new();
        for (order, of) in Order::all().flat_map(|order| MigrateType::ALL.map(|of| (order, of))) {
            let list = core::iter::successors(buddy.first(order, of), |index| buddy.next(*index));
            // A list that runs in a circle is cut off, and will not have the right length.
            listed.extend(list.take(zone.frames().len()).map(|index| (index, order, of)));
        }
        (listed, buddy.counts())
    });
    for (row, order) in counts.iter().zip(Order::all()) {
        for (count, of) in row.iter().zip(MigrateType::ALL) {
            let list = listed.iter().filter(|(_, o, t)| (*o, *t) == (order, of));
            let length: u32 = list.map(|(index, ..)| 1 + zone.run(*index)).sum();
            require(length == *count, || {
                format!("{length} {of:?} of {order:?}, counted {count}")
            })?;
        }
    }
    for (index, order, of) in &listed {
        let state = zone.frame(*index).state();
        let right = State::head(Kind::Free, *order, *of);
        require(state == right, || {
            format!("{index:?} on the list of {right:?} is {state:?}")
        })?;
        let covered = index.pageblock().get()..=index.plus(order.frames() - 1).pageblock().get();
        let same = zone.pageblocks()[covered]
            .iter()
            .all(|block| block.migrate_type() == *of);
        require(same, || {
            format!("{index:?} is listed as {of:?}, but its pageblock is not")
        })?;
    }
    let free = blocks(zone)
        .filter(|(_, state)| state.kind() == Kind::Free)
        .count();
    let listed: u32 = listed.iter().map(|(index, ..)| 1 + zone.run(*index)).sum();
    require(free == listed as usize, || {
        format!("{free} free blocks, {listed} on lists")
    })
}

/// With nothing on any CPU's list, the free blocks are what merging all frames that nobody holds makes (6).
pub(crate) fn check_drained<P: Platform>(allocator: &PageAllocator<P>, held: &Held) -> Check {
    check(allocator, held)?;
    for zone in allocator.populated() {
        let is_held = |index: FrameIndex| {
            let number = zone.number(index).number();
            let below = held.range(..=number).next_back();
            below.is_some_and(|(start, block)| number < start + u64::from(block.order.frames()))
        };
        let mut reserved = std::vec![false; zone.frames().len()];
        for (index, state) in blocks(zone).filter(|(_, state)| state.kind() == Kind::Reserved) {
            reserved[index.get()..][..state.order().frames() as usize].fill(true);
        }
        let free = |index: FrameIndex| !reserved[index.get()] && !is_held(index);
        let mut expected = Vec::new();
        merge(&free, zone.frames().len(), &mut expected);
        let got = blocks(zone).filter(|(_, state)| state.kind() == Kind::Free);
        let got: Vec<_> = got.map(|(index, state)| (index, state.order())).collect();
        require(got == expected, || {
            format!("free blocks are {got:?}, should be {expected:?}")
        })?;
    }
    Ok(())
}

/// The largest aligned blocks of free frames among the first `end`, ascending.
fn merge(free: &impl Fn(FrameIndex) -> bool, end: usize, to: &mut Vec<(FrameIndex, Order)>) {
    let free: Vec<bool> = (0..end as u32).map(|i| free(FrameIndex::new(i))).collect();
    let mut next = 0;
    while next < end {
        let whole = |order: &Order| {
            let length = order.frames() as usize;
            next % length == 0
                && free
                    .get(next..next + length)
                    .is_some_and(|all| all.iter().all(|f| *f))
        };
        match Order::all().rfind(whole) {
            Some(order) => {
                to.push((FrameIndex::new(next as u32), order));
                next += order.frames() as usize;
            }
            None => next += 1,
        }
    }
}

/// The block that `frame` is part of.
pub(crate) fn holder(held: &Held, frame: FrameNumber) -> Option<(u64, Block)> {
    let (start, block) = held.range(..=frame.number()).next_back()?;
    (frame.number() < start + u64::from(block.order.frames())).then_some((*start, *block))
}
