//! A machine that random operations are done on, beside the reference model.

use std::format;
use std::vec::Vec;

use proptest::prelude::*;
use proptest::sample::Index;

use super::host::{Host, be};
use super::invariants::{Block, Check, Held, check_drained, require};
use crate::order::Order;
use crate::{
    AllocError, BlockIndex, Effort, FrameNumber, FrameRange, Kind, Mark, MigrateType, PageAllocator, Request,
    Zone, ZoneKind,
};

/// CPUs of the machine.
pub(crate) const CPUS: u32 = 3;

/// 14.5 MiB below 4 GiB, with a hole; 3 MiB and a few frames above. Ends lie inside of pageblocks.
pub(crate) fn regions() -> Vec<FrameRange> {
    let region = |start: u64, len| FrameRange::new(FrameNumber::new(start), FrameNumber::new(start + len));
    [
        region(0x205, 0xd00),
        region(0x1003, 0x180),
        region(0x10_0000, 0x303),
    ]
    .into()
}

/// An operation.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Alloc { cpu: u32, request: Request },
    Free { cpu: u32, which: Index },
    Drain { cpu: u32 },
    AskToDrain,
}

fn request() -> impl Strategy<Value = Request> {
    let order = prop_oneof![8 => 0..=3u8, 3 => 4..=8u8, 1 => 9..=10u8];
    let effort = prop_oneof![3 => Just(Effort::Ordinary), 1 => Just(Effort::Atomic)];
    (order, prop::sample::select(&MigrateType::ALL[..]), effort)
        .prop_map(|(order, of, effort)| Request::new(Order::new(order).expect("in range"), of).with(effort))
}

/// Random operations; more memory is asked for than there is.
pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        30 => (0..CPUS, request()).prop_map(|(cpu, request)| Step::Alloc { cpu, request }),
        20 => (0..CPUS, any::<Index>()).prop_map(|(cpu, which)| Step::Free { cpu, which }),
        1 => (0..CPUS).prop_map(|cpu| Step::Drain { cpu }),
        1 => Just(Step::AskToDrain),
    ];
    prop::collection::vec(step, 1..400)
}

/// An allocator and what is known of it.
pub(crate) struct Machine<const CHECKS: bool, const FAULT: u8> {
    pub(crate) allocator: PageAllocator<Host<CHECKS, FAULT>>,
    pub(crate) held: Held,
}

impl<const CHECKS: bool, const FAULT: u8> Machine<CHECKS, FAULT> {
    pub(crate) fn new() -> Self {
        Machine {
            allocator: Host::allocator(&regions(), CPUS),
            held: Held::new(),
        }
    }

    /// Does an operation, with what must be true of it.
    pub(crate) fn step(&mut self, step: &Step) -> Check {
        match step {
            Step::Alloc { cpu, request } => self.alloc(*cpu, *request),
            Step::Free { cpu, which } => {
                if !self.held.is_empty() {
                    let frame = *self
                        .held
                        .keys()
                        .nth(which.index(self.held.len()))
                        .expect("in range");
                    self.free(*cpu, frame);
                }
                Ok(())
            }
            Step::Drain { cpu } => {
                be(*cpu);
                self.allocator.drain_this_cpu();
                Ok(())
            }
            Step::AskToDrain => {
                self.allocator.request_drain();
                Ok(())
            }
        }
    }

    fn free(&mut self, cpu: u32, frame: u64) {
        let block = self.held.remove(&frame).expect("it is held");
        be(cpu);
        // SAFETY: the model has it from `alloc`, and does not use its memory.
        unsafe { self.allocator.free(FrameNumber::new(frame), block.order) };
    }

    fn alloc(&mut self, cpu: u32, request: Request) -> Check {
        let before: Vec<_> = self.zones().map(|zone| (zone.free(), types(zone))).collect();
        be(cpu);
        let got = self.allocator.alloc(request);
        match got {
            Ok(frame) => {
                let (order, migrate_type) = (request.order(), request.migrate_type());
                let old = self.held.insert(frame.number(), Block { order, migrate_type });
                require(old.is_none(), || format!("{frame:?} was given out twice"))?;
            }
            Err(error) => self
                .zones()
                .try_for_each(|zone| refusal_is_right(zone, request, error))?,
        }
        for (zone, (free, types)) in self.zones().zip(before) {
            watermark_holds(zone, request, free)?;
            claims_are_right(zone, request, &types)?;
        }
        Ok(())
    }

    fn zones(&self) -> impl Iterator<Item = &Zone<Host<CHECKS, FAULT>>> {
        ZoneKind::ALL.into_iter().map(|kind| self.allocator.zone(kind))
    }

    /// Lets every CPU drain.
    pub(crate) fn drain(&self) -> Check {
        self.allocator.request_drain();
        for cpu in 0..CPUS {
            require(!self.allocator.drained(), || {
                format!("all have drained before CPU {cpu} has")
            })?;
            be(cpu);
            self.allocator.drain_this_cpu();
        }
        require(self.allocator.drained(), || "some CPU has not drained".into())?;
        check_drained(&self.allocator, &self.held)
    }

    /// Frees everything.
    pub(crate) fn free_all(&mut self) {
        while let Some(frame) = self.held.keys().next() {
            self.free(0, *frame);
        }
    }
}

fn types<const CHECKS: bool, const FAULT: u8>(zone: &Zone<Host<CHECKS, FAULT>>) -> Vec<MigrateType> {
    zone.pageblocks()
        .iter()
        .map(|block| block.migrate_type())
        .collect()
}

/// No request brings the free frames below its watermark; an atomic one brings them below the ordinary one by no
/// more than it needs (5).
fn watermark_holds<const CHECKS: bool, const FAULT: u8>(
    zone: &Zone<Host<CHECKS, FAULT>>,
    request: Request,
    before: u64,
) -> Check {
    let after = zone.free();
    let floor = zone.watermarks().floor(request.effort());
    let kept = after >= before || after >= floor;
    require(kept, || {
        format!("{request:?} went from {before} to {after}, watermark {floor}")
    })?;
    let min = zone.watermarks().get(Mark::Min);
    let least = after >= before.min(min).saturating_sub(request.order().frames().into());
    require(least, || {
        format!("{request:?} went from {before} to {after}, minimum {min}")
    })
}

/// A request fails for the reason it says, which it could not have helped (5).
fn refusal_is_right<const CHECKS: bool, const FAULT: u8>(
    zone: &Zone<Host<CHECKS, FAULT>>,
    request: Request,
    error: AllocError,
) -> Check {
    let needs = zone.watermarks().floor(request.effort()) + u64::from(request.order().frames());
    let enough = zone.free() >= needs;
    let large = zone.frames().iter().map(|frame| frame.state());
    let large = large
        .filter(|s| s.kind() == Kind::Free && s.order() >= request.order())
        .count();
    require(!enough || large == 0, || {
        format!("{request:?} refused with {large} large enough")
    })?;
    require(!enough || error == AllocError::Fragmented, || {
        format!("{error:?} with enough memory free")
    })
}

/// A pageblock changes its type only for the request's, and only if half of it is free or of that type.
fn claims_are_right<const CHECKS: bool, const FAULT: u8>(
    zone: &Zone<Host<CHECKS, FAULT>>,
    request: Request,
    before: &[MigrateType],
) -> Check {
    for (i, (pageblock, before)) in zone.pageblocks().iter().zip(before).enumerate() {
        let (to, block) = (pageblock.migrate_type(), BlockIndex::new(i as u32));
        if to == *before {
            continue;
        }
        let good = zone.heads(block).filter(|(_, state)| match state.kind() {
            Kind::Free => true,
            Kind::Listed | Kind::Allocated => state.migrate_type() == to,
            Kind::Reserved | Kind::Tail => false,
        });
        let good: u32 = good.map(|(_, state)| state.order().frames()).sum();
        // A larger block starts below, or drains on the way to a refusal merged this one with a neighbour.
        let within_larger = zone.frame(block.first()).state().kind() == Kind::Tail;
        require(within_larger || good >= 256, || {
            format!("{request:?} claimed {block:?}, {good} good")
        })?;
    }
    Ok(())
}
