//! The window of movable memory, on this machine: hooked into the page tables, its faults handled, its TLBs
//! flushed, who waits for a page halted and kicked.

use core::sync::atomic::{AtomicU64, Ordering};

use abi::boot::BootInfo;
use abi::config::fault;
use abi::memory::WINDOW_EVENTS;
use mm::{Mmu, PageNumber, PageRange, Window, WindowError, WindowEvent};

use crate::cpu::Cpu;
use crate::memory::{self, Machine};
use crate::once::Once;
use crate::{page_fault, tlb};

/// Where it starts: the fourth 512 GiB.
const START: PageNumber = PageNumber::containing(3 << 39);

/// Present, writable, accessible from ring 3, accessed.
const LEADS: u64 = 0x27;

static WINDOW: Once<Window<'static, Machine>> = Once::new();

// SAFETY: `tlb::flush` does as is asked. Window memory is touched in task context only, which is when a vCPU
// that was halted has flushed.
unsafe impl Mmu for Machine {
    fn flush(&self, ranges: &[PageRange]) {
        let cpu = Cpu::current();
        if cpu.boot().run.fault != fault::NO_FLUSH {
            tlb::flush(cpu, ranges);
        }
    }
}

/// Makes the window. vCPU 0 calls it while it boots, for workloads that use it.
pub(crate) fn init(boot: &BootInfo) {
    let window = match Window::new(memory::pages(), START) {
        Ok(window) => window,
        Err(error) => panic!("no window: {error}"),
    };
    let index = START.start() >> 39;
    // SAFETY: the VMM's top table, mapped one to one and writable, has 512 entries.
    let entry = unsafe { &*(boot.cr3 as *const AtomicU64).wrapping_add(index as usize) };
    // Relaxed: the barrier before the workload orders it. No TLB knows of an entry that was not present.
    entry.store(window.root().start().0 | LEADS, Ordering::Relaxed);
    let pages = window.pages();
    page_fault::handle(pages.start().start()..pages.end().start(), |_, fault| {
        if fault.fetch() {
            return Err("window memory is no code");
        }
        self::get()
            .fault(fault.address, fault.write())
            .map_err(|error| match error {
                WindowError::NoRange => "not mapped in the window",
                WindowError::InUse => "in use",
                WindowError::NoMemory => "no memory for it",
            })
    });
    WINDOW.set(window);
}

/// The window, if the workload uses one.
pub(crate) fn get_if_made() -> Option<&'static Window<'static, Machine>> {
    WINDOW.get_if_set()
}

/// The window, once there is one.
#[inline]
pub(crate) fn get() -> &'static Window<'static, Machine> {
    WINDOW.get()
}

const _: () = assert!(WindowEvent::ALL.len() <= WINDOW_EVENTS);

/// What the window has counted, by event.
pub(crate) fn counts() -> [u64; WINDOW_EVENTS] {
    let mut counts = [0; WINDOW_EVENTS];
    for event in WindowEvent::ALL {
        counts[event as usize] = get().count(event);
    }
    counts
}
