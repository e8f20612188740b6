//! How what is on CPUs' lists gets back to the buddy.

use crate::allocator::PageAllocator;
use crate::fault::{Fault, planted};
use crate::lists::ListId;
use crate::pcp::PerCpu;
use crate::platform::{Cpu, Platform};
use crate::stat::Event;
use crate::zone::Zone;

impl<P: Platform> PageAllocator<P> {
    /// Gives all that is on this CPU's lists back to the buddy. Before a CPU sleeps for long, or where
    /// somebody asked for it.
    pub fn drain_this_cpu(&self) {
        self.platform.on_this_cpu(|cpu| {
            self.drain(cpu);
            self.answer_drain(cpu);
        });
    }

    /// Asks all CPUs to drain their lists. Each does so when it next frees, or has nothing on the list that
    /// it would allocate from, or calls [`drain_this_cpu`](PageAllocator::drain_this_cpu).
    pub fn request_drain(&self) {
        self.populated()
            .flat_map(|zone| zone.cpus.iter())
            .for_each(PerCpu::request_drain);
    }

    /// Whether all CPUs have done what the last [`request_drain`](PageAllocator::request_drain) asked for.
    pub fn drained(&self) -> bool {
        self.populated()
            .flat_map(|zone| zone.cpus.iter())
            .all(PerCpu::drained)
    }

    /// Drains this CPU's lists if somebody asked for it.
    pub(crate) fn answer_drain(&self, cpu: Cpu) {
        for zone in self.populated() {
            let pcp = &zone.cpus[cpu.0 as usize];
            pcp.answer_drain::<P>(|| _ = drain_all(zone, pcp));
        }
    }

    /// Drains this CPU's lists. Whether there was anything to drain.
    pub(crate) fn drain(&self, cpu: Cpu) -> bool {
        self.populated().fold(false, |any, zone| {
            drain_all(zone, &zone.cpus[cpu.0 as usize]) | any
        })
    }
}

/// Gives all that is on a CPU's lists in a zone back to its buddy, on that CPU. Whether there was anything.
pub(crate) fn drain_all<P: Platform>(zone: &Zone<P>, pcp: &PerCpu) -> bool {
    let leave = usize::from(planted::<P>(Fault::DrainsPartly));
    // SAFETY: callers are in `on_this_cpu` for this CPU; the buddy does not come here.
    unsafe {
        pcp.lists(|lists| {
            if lists.is_empty() {
                return false;
            }
            let mut buddy = zone.lock();
            for list in ListId::all().skip(leave) {
                let all = lists.len(list);
                let drained = lists.drain(list, all, |block| buddy.give(block, list.order()));
                pcp.events().add(Event::PcpuDrain, drained);
            }
            true
        })
    }
}
