//! Window memory is touched where it may not be: each time the run has to end, and say so.

use core::sync::atomic::{AtomicU64, Ordering};

use abi::boot::BootInfo;
use abi::config::touch;
use abi::interrupt::{FIRST_EXTERNAL, NMI};

use super::window;
use crate::cpu::Cpu;
use crate::page_fault::{self, PageFault};
use crate::spinlock::Mutex;
use crate::{clock, interrupts};

/// What is sent to have handlers touch it.
const TOUCH: u8 = FIRST_EXTERNAL + 5;
const SOFT: usize = 1;

/// Takes the memory. vCPU 0 calls it while it boots.
pub(super) fn init(boot: &BootInfo) {
    window::init(boot, 1);
}

/// Touches the first page as the configuration says.
pub(super) fn run(cpu: &Cpu, boot: &BootInfo) {
    page_fault::handle(window::address(0)..window::address(2), fault);
    interrupts::handle_nmi(|_| touch(0));
    interrupts::handle_soft(SOFT, |_| touch(0));
    interrupts::handle(TOUCH, |cpu| match cpu.boot().run.rounds {
        touch::SOFT => interrupts::raise_soft(cpu, SOFT),
        _ => touch(0),
    });
    match boot.run.rounds {
        touch::MASKED => {
            let _masked = interrupts::mask(cpu);
            touch(0);
        }
        touch::LOCKED => {
            static LOCK: Mutex<()> = Mutex::new(());
            let _held = LOCK.lock();
            touch(0);
        }
        touch::SOFT | touch::HARD => await_touch(cpu, TOUCH),
        touch::NMI => await_touch(cpu, NMI),
        touch::NESTED => touch(1),
        touch::RESERVED => {
            // A large page (bit 7) at an odd multiple of 8 KiB, which no processor has.
            let entry = window::MAPPED | 1 << 7 | 1 << 13;
            window::directory_entry().store(entry, Ordering::Relaxed);
            touch(0);
        }
        touch::RUN => {
            let start = window::address(0) as *const ();
            // SAFETY: not sound, and not meant to be: it faults, and the fault ends the run.
            let code = unsafe { core::mem::transmute::<*const (), extern "C" fn()>(start) };
            code();
        }
        _ => touch(0),
    }
}

/// Has this vCPU interrupted, and waits for that.
fn await_touch(cpu: &Cpu, vector: u8) {
    interrupts::send(cpu.index(), vector);
    let end = clock::cycles().saturating_add(clock::from_ns(cpu.boot(), 1_000_000_000));
    while clock::cycles() < end {
        core::hint::spin_loop();
    }
}

fn touch(page: u64) {
    // SAFETY: an atomic, once the page is mapped; until then it faults.
    let word = unsafe { &*(window::address(page) as *const AtomicU64) };
    word.fetch_add(1, Ordering::Relaxed);
}

/// Maps the first page; to map the second, touches the first.
fn fault(_: &Cpu, fault: &PageFault) -> Result<(), &'static str> {
    if fault.fetch() {
        return Err("window memory is no code");
    }
    if fault.address >= window::address(1) {
        touch(0);
    }
    let frame = window::frames()[0].address();
    window::entry(0).store(frame | window::MAPPED, Ordering::Relaxed);
    Ok(())
}
