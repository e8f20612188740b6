//! The slow paths of allocation and freeing: where CPUs' lists meet the buddy, under the lock of the zone.
//!
//! ```text
//!   alloc ──► list of this CPU ──► refill, or a large block, zone by zone
//!                                     │ none has it
//!                                     ▼
//!                                  drain this CPU's lists, and try all zones again
//!                                     │ still none
//!                                     ▼
//!                                  ask all other CPUs to drain
//!                                     │ fragmented: leave the daemon a note, and if the caller may wait
//!                                     ▼
//!                                  compact, and try again; or fail
//! ```
//!
//! Watermarks are looked at here: frames on a CPU's list have left the free ones already.

use core::panic::Location;

use crate::address::FrameNumber;
use crate::allocator::{PageAllocator, freeable};
use crate::buddy::Buddy;
use crate::drain::drain_all;
use crate::fault::{Fault, planted};
use crate::index::FrameIndex;
use crate::lists::ListId;
use crate::order::Order;
use crate::pcp::PerCpu;
use crate::platform::{Cpu, Platform};
use crate::report::Misuse;
use crate::request::{AllocError, Effort, Request};
use crate::stat::Event;
use crate::state::{Kind, State};
use crate::zone::Zone;

impl<P: Platform> PageAllocator<P> {
    /// Allocates by all means that there are, and with checks.
    #[cold]
    #[inline(never)]
    pub(crate) fn alloc_slow(
        &self,
        request: Request,
        by: &'static Location<'static>,
    ) -> Result<FrameNumber, AllocError> {
        let mut got = self.alloc_checked(request, by);
        if got == Err(AllocError::Fragmented) {
            self.kcompactd.wake(request.order);
            if request.effort == Effort::MayCompact {
                got = self.alloc_compacting(request, by);
            }
        }
        if got.is_err() {
            self.count_here(Event::Failed, 1);
        }
        got
    }

    /// Allocates what there is, with checks.
    pub(crate) fn alloc_checked(
        &self,
        request: Request,
        by: &'static Location<'static>,
    ) -> Result<FrameNumber, AllocError> {
        loop {
            let got = self.platform.on_this_cpu(|cpu| {
                let (zone, index) = self.alloc_here(request, cpu)?;
                Ok(self
                    .admit(zone, index, request.order, by, cpu)
                    .map(|()| zone.number(index)))
            });
            match got? {
                Ok(frame) => return Ok(frame),
                Err(report) => self.platform.bad_page(report),
            }
        }
    }

    /// Frees a block with checks, or reports why not.
    #[cold]
    #[inline(never)]
    pub(crate) fn free_slow(&self, frame: FrameNumber, order: Order, by: &'static Location<'static>) {
        let result = match self.find(frame) {
            Some((zone, index, _)) => self
                .platform
                .on_this_cpu(|cpu| self.free_here(zone, index, order, by, cpu)),
            None => Err(Misuse::NotMemory),
        };
        if let Err(misuse) = result {
            self.report(frame, misuse, by);
        }
    }

    /// Allocates from any zone, or fails.
    fn alloc_here(&self, request: Request, cpu: Cpu) -> Result<(&Zone<P>, FrameIndex), AllocError> {
        assert!(
            cpu.0 < self.cpus(),
            "the allocator was made for {} CPUs",
            self.cpus()
        );
        self.answer_drain(cpu);
        let mut got = self.alloc_anywhere(request, cpu);
        if got.is_err() && self.drain(cpu) {
            got = self.alloc_anywhere(request, cpu);
        }
        if got.is_err() {
            self.request_drain();
            // We drained a moment ago; a request to ourselves would only cost the next allocation time.
            self.answer_drain(cpu);
        }
        got
    }

    fn free_here(
        &self,
        zone: &Zone<P>,
        index: FrameIndex,
        order: Order,
        by: &'static Location<'static>,
        cpu: Cpu,
    ) -> Result<(), Misuse> {
        let frame = zone.frame(index);
        let state = frame.state();
        if freeable::<P>(state, order).is_none() {
            return Err(zone.misuse(index, order));
        }
        let listed = State::head(Kind::Listed, order, state.migrate_type());
        if P::CHECKS {
            if !frame.replace(state, listed) {
                return Err(Misuse::DoubleFree);
            }
            zone.poison(&self.platform, index, order, by, cpu);
        } else {
            frame.set(listed);
        }
        let pcp = &zone.cpus[cpu.0 as usize];
        pcp.events().add(Event::Pgfree, order.frames());
        pcp.answer_drain::<P>(|| _ = drain_all(zone, pcp));
        let list = ListId::new(order, state.migrate_type()).filter(|_| zone.tuning.high(order) > 0);
        let Some(list) = list else {
            zone.lock().give(index, order);
            return Ok(());
        };
        // SAFETY: called in `on_this_cpu` for this CPU; nothing inside comes here again.
        unsafe {
            pcp.lists(|lists| {
                if !lists.push(list, index, &zone.tuning) {
                    let mut buddy = zone.lock();
                    let batch = zone.tuning.batch(order) as usize;
                    let drained = lists.drain(list, batch, |block| buddy.give(block, order));
                    pcp.events().add(Event::PcpuDrain, drained);
                    let room = lists.push(list, index, &zone.tuning);
                    debug_assert!(room, "a batch was drained");
                }
            });
        }
        Ok(())
    }

    fn alloc_anywhere(&self, request: Request, cpu: Cpu) -> Result<(&Zone<P>, FrameIndex), AllocError> {
        let mut error = AllocError::NoMemory;
        for zone in self.populated() {
            match self.alloc_in(zone, &zone.cpus[cpu.0 as usize], request) {
                Ok(index) => return Ok((zone, index)),
                Err(AllocError::Fragmented) => error = AllocError::Fragmented,
                Err(AllocError::NoMemory) => {}
            }
        }
        Err(error)
    }

    /// Allocates from this CPU's list in `zone`, or from its buddy, with a batch for the list.
    fn alloc_in(&self, zone: &Zone<P>, pcp: &PerCpu, request: Request) -> Result<FrameIndex, AllocError> {
        let order = request.order;
        let list = ListId::new(order, request.migrate_type).filter(|_| zone.tuning.high(order) > 0);
        if let Some(list) = list {
            // SAFETY: called in `on_this_cpu` for this CPU; `pop` does not come here.
            if let Some(index) = unsafe { pcp.lists(|lists| lists.pop(list)) } {
                zone.hand_out(pcp, index, request);
                return Ok(index);
            }
        }
        let mut buddy = zone.lock();
        let index = take_first(&mut buddy, pcp, request)?;
        let more = list.map_or(0, |_| left_for_store(zone, order));
        // The first block may come from anywhere; what is taken in store is to be of the right type.
        let store = (0..more).map_while(|_| buddy.take(order, request.migrate_type, Kind::Listed));
        let mut stored = 0;
        if let Some(list) = list {
            // SAFETY: called in `on_this_cpu` for this CPU; neither `push` nor the buddy comes here.
            unsafe {
                pcp.lists(|lists| {
                    for block in store {
                        let room = lists.push(list, block, &zone.tuning);
                        debug_assert!(room, "the list was empty, and a batch is less than it holds");
                        stored += 1;
                    }
                });
            }
        }
        let last = order > Order::COSTLY && !buddy.has(order);
        drop(buddy);
        if last {
            self.kcompactd.wake(order);
        }
        pcp.events().add(Event::ZoneLocked, 1 + stored);
        zone.hand_out(pcp, index, request);
        Ok(index)
    }
}

/// Takes a block for a request from the buddy, if the watermark lets it.
fn take_first<P: Platform>(
    buddy: &mut Buddy<'_, P>,
    pcp: &PerCpu,
    request: Request,
) -> Result<FrameIndex, AllocError> {
    let floor = buddy.zone.watermarks.floor(request.effort);
    if buddy.zone.free() < floor + u64::from(request.order.frames()) {
        return Err(AllocError::NoMemory);
    }
    if let Some(index) = buddy.take(request.order, request.migrate_type, Kind::Listed) {
        return Ok(index);
    }
    let index = buddy.take_fallback(request.order, request.migrate_type, Kind::Listed);
    let index = index.ok_or(AllocError::Fragmented)?;
    pcp.events().add(Event::Extfrag, 1);
    Ok(index)
}

/// How many blocks a refill may take besides the one that is asked for: the rest of a batch, and no more than
/// an ordinary request might take.
fn left_for_store<P: Platform>(zone: &Zone<P>, order: Order) -> u32 {
    let rest = zone.tuning.batch(order) - 1;
    if planted::<P>(Fault::RefillsBelowWatermark) {
        return rest;
    }
    let above = zone
        .free()
        .saturating_sub(zone.watermarks.floor(Effort::Ordinary))
        >> order.get();
    above.min(rest.into()) as u32
}
