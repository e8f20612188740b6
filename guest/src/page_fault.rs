//! Page faults on window memory: handled by Rust on the faulting stack, then the access is tried again.
//!
//! The way is that of an interrupt ([`upcall`](crate::upcall)), and so is what it saves. What differs:
//!
//! **Where from.** Window memory is touched in task context only, with nothing masked and no spin lock held:
//! a fault may have to wait, and who waits must not keep others from what they need. So that is the one place
//! where a fault is handled; one that comes from anywhere else, or from the handler of a fault, ends the run
//! with a dump that says which rule was broken ([`refused`]). Nor is a fault handled whose address is outside
//! of the window.
//!
//! **Not masked.** Interrupts and NMIs come during a fault as ever, and the handler may halt. This is why it
//! has slots of its own in the [`Cpu`], and why one set of them will do: handlers have no faults, and task
//! context has one at a time, from the stub's setting of `in_page_fault` to the upcall's clearing it.
//!
//! - One that comes *between the stub's `iretq` and the upcall's frame* interrupts the upcall like any code
//!   of the kernel: RSP is below the red zone already, the interrupt's own frame goes below that, past
//!   another red zone, and what it comes back to is the same instruction with the same registers and flags.
//!   The slots are still there.
//! - One that comes *between the clearing and the upcall's `iretq`* puts its frame below that of the fault,
//!   which it does not touch. No other fault can come in between, so frames of faults do not pile up: the
//!   access is tried again, and perhaps faults again, with the stack it had.
//! - An NMI *in the stub* is noted, as in all stubs; this one, too, ends in `stub_exit`, and so with the
//!   NMI's upcall on top of the fault's, as in the first case.
//!
//! None of the upcall's instructions is one at which a stub would begin an upcall anew.

use core::arch::global_asm;
use core::cell::Cell;
use core::mem::{self, offset_of};
use core::ops::Range;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use crate::cpu::Cpu;
use crate::exceptions::{self, Frame, Registers, Return};
use crate::interrupts::{FpuState, MASK_NMI};

/// The exception's vector.
pub(crate) const VECTOR: u64 = 14;

/// What the stub leaves for the upcall.
#[repr(C)]
pub(crate) struct Slots {
    address: Cell<u64>,
    error: Cell<u64>,
    pub(crate) rip: Cell<u64>,
    pub(crate) rsp: Cell<u64>,
}

/// A fault, as the handler sees it.
#[derive(Clone, Copy)]
pub(crate) struct PageFault {
    /// Where.
    pub(crate) address: u64,
    /// The instruction's address.
    pub(crate) rip: u64,
    /// The processor's error code.
    error: u64,
}

impl PageFault {
    /// Whether it was a write, or would have been one.
    pub(crate) fn write(&self) -> bool {
        self.error & 1 << 1 != 0
    }

    /// Whether it was to run what is there.
    pub(crate) fn fetch(&self) -> bool {
        self.error & 1 << 4 != 0
    }

    /// Whether some entry that leads there has a bit set that none may have: nobody can make that access
    /// possible.
    fn reserved(&self) -> bool {
        self.error & 1 << 3 != 0
    }

    /// Whether the page is mapped, but does not allow that.
    pub(crate) fn protection(&self) -> bool {
        self.error & 1 != 0
    }
}

/// Makes the access possible, if that is as it should be; else says in a word why not.
pub(crate) type Handler = fn(&Cpu, &PageFault) -> Result<(), &'static str>;

/// The addresses whose faults are handled, and by whom; nobody's at first. The stub reads the range.
#[repr(C)]
struct Window {
    start: AtomicU64,
    end: AtomicU64,
    handler: AtomicPtr<()>,
}

static WINDOW: Window = Window {
    start: AtomicU64::new(0),
    end: AtomicU64::new(0),
    handler: AtomicPtr::new(ptr::null_mut()),
};

/// Sets who handles the faults at addresses in `range`, for all vCPUs. To be called once, before the first.
pub(crate) fn handle(range: Range<u64>, handler: Handler) {
    // Relaxed: whatever tells another vCPU that there is something to touch comes after it.
    WINDOW.handler.store(handler as *mut (), Ordering::Relaxed);
    WINDOW.start.store(range.start, Ordering::Relaxed);
    WINDOW.end.store(range.end, Ordering::Relaxed);
}

global_asm!(
    ".section .text.stubs, \"ax\"",
    // rsp: error code, rip, cs, rflags, rsp, ss.
    ".globl page_fault_stub",
    ".type page_fault_stub, @function",
    "page_fault_stub:",
    "push rax",
    "mov rax, cr2",
    "cmp rax, [rip + {window} + {start}]",
    "jb 2f",
    "cmp rax, [rip + {window} + {end}]",
    "jae 2f",
    "movzx eax, byte ptr gs:[{in_soft}]",
    "or eax, gs:[{mask}]",
    "or eax, gs:[{spin_locks}]",
    "or eax, gs:[{in_page_fault}]",
    "or eax, gs:[{in_fault}]",
    "jnz 2f",
    // Not in a stub, which is also to say: in the kernel's own ring.
    "cmp qword ptr [rsp + 16], offset stubs_end",
    "jb 2f",
    "mov dword ptr gs:[{in_page_fault}], 1",
    "mov rax, cr2",
    "mov gs:[{slots} + {address}], rax",
    "mov rax, [rsp + 8]",
    "mov gs:[{slots} + {error}], rax",
    "mov rax, [rsp + 16]",
    "mov gs:[{slots} + {rip}], rax",
    "mov rax, [rsp + 40]",
    "mov gs:[{slots} + {rsp_}], rax",
    "sub rax, gs:[{red_zone}]",
    "mov [rsp + 40], rax",
    "mov qword ptr [rsp + 16], offset page_fault_upcall",
    "pop rax",
    "add rsp, 8",
    "jmp stub_exit",
    "2:",
    "pop rax",
    "push {vector}",
    "jmp exception",
    window = sym WINDOW,
    start = const offset_of!(Window, start),
    end = const offset_of!(Window, end),
    mask = const offset_of!(Cpu, mask),
    spin_locks = const offset_of!(Cpu, spin_locks),
    in_soft = const offset_of!(Cpu, in_soft),
    in_page_fault = const offset_of!(Cpu, in_page_fault),
    in_fault = const offset_of!(Cpu, in_fault),
    slots = const offset_of!(Cpu, page_fault),
    address = const offset_of!(Slots, address),
    error = const offset_of!(Slots, error),
    rip = const offset_of!(Slots, rip),
    rsp_ = const offset_of!(Slots, rsp),
    red_zone = const offset_of!(Cpu, red_zone),
    vector = const VECTOR,
);

/// What an upcall has saved, lowest address first.
#[repr(C)]
pub(crate) struct Saved {
    registers: Registers,
    to: Return,
}

/// Where the upcall of a page fault arrives.
pub(crate) extern "C" fn arrive(fpu: &mut FpuState, saved: &Saved) {
    let cpu = Cpu::current();
    let slots = &cpu.page_fault;
    let fault = PageFault {
        address: slots.address.get(),
        rip: slots.rip.get(),
        error: slots.error.get(),
    };
    // SAFETY: the stub has found a range that is not empty, so `handle` was called, which had stored a
    // handler by then.
    let handler = unsafe { mem::transmute::<*mut (), Handler>(WINDOW.handler.load(Ordering::Relaxed)) };
    let handled = match fault.reserved() {
        true => Err("a reserved bit is set in its page tables"),
        false => handler(cpu, &fault),
    };
    if let Err(why) = handled {
        cpu.enter_fault();
        let frame = Frame {
            cr2: fault.address,
            registers: saved.registers,
            vector: VECTOR,
            error: fault.error,
            to: saved.to,
        };
        exceptions::report(&frame, Some(why));
    }
    fpu.spoil_if_asked(cpu);
}

/// Why the fault in `frame` was not handled, if it is one on window memory; `mask` is what was masked.
pub(crate) fn refused(cpu: &Cpu, frame: &Frame, mask: u32) -> Option<&'static str> {
    let range = WINDOW.start.load(Ordering::Relaxed)..WINDOW.end.load(Ordering::Relaxed);
    if frame.vector != VECTOR || !range.contains(&frame.cr2) {
        return None;
    }
    Some(if mask & MASK_NMI != 0 {
        "window memory touched by an NMI's handler"
    } else if mask != 0 {
        "window memory touched with interrupts masked"
    } else if cpu.in_soft.get() {
        "window memory touched by a soft interrupt"
    } else if cpu.spin_locks.get() != 0 {
        "window memory touched with a spin lock held"
    } else if cpu.in_page_fault.load(Ordering::Relaxed) != 0 {
        "window memory touched by the handler of its own faults"
    } else {
        "window memory touched by a stub"
    })
}
