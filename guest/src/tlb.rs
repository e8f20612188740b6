//! Flushing the TLBs: this vCPU's, and all others' by interrupt.
//!
//! A vCPU that is asked flushes in the stub of the interrupt, whatever is masked or running; then it says so.
//! So who asks may hold locks, and waits for nobody's handlers. A halted vCPU is woken for it.

use core::arch::{asm, global_asm};
use core::mem::offset_of;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use abi::PAGE_SIZE;
use abi::boot::BootInfo;
use abi::interrupt::target;
use lock_api::Mutex;
use pvlock::{Platform, PvQSpinlock};

use crate::cpu::Cpu;
use crate::interrupts::{self, FLUSH_TLB};
use crate::pv::Pv;

/// Up to so many pages are flushed one by one.
const FEW: u64 = 32;

/// What all are to flush; written by the one that holds [`LOCK`], and read by the stubs while it waits for
/// them.
#[repr(C)]
struct Request {
    /// Its number, counted from 1.
    number: AtomicU64,
    /// The first page.
    start: AtomicU64,
    /// How many pages; 0 for everything.
    pages: AtomicU64,
}

static REQUEST: Request = Request {
    number: AtomicU64::new(0),
    start: AtomicU64::new(0),
    pages: AtomicU64::new(0),
};

static LOCK: Mutex<PvQSpinlock<Pv>, ()> = Mutex::new(());

global_asm!(
    ".section .text.stubs, \"ax\"",
    ".globl flush_tlb_stub",
    ".type flush_tlb_stub, @function",
    "flush_tlb_stub:",
    "push rax",
    "push rcx",
    "push rdx",
    // Before the flush: a later request will send another interrupt.
    "mov rdx, [rip + {request} + {number}]",
    "mov rax, [rip + {request} + {start}]",
    "mov rcx, [rip + {request} + {pages}]",
    "test rcx, rcx",
    "jz 3f",
    "2:",
    "invlpg [rax]",
    "add rax, {page}",
    "dec rcx",
    "jnz 2b",
    "jmp 4f",
    "3:",
    "mov rax, gs:[{boot}]",
    "mov rax, [rax + {cr3}]",
    "mov cr3, rax",
    "4:",
    "mov gs:[{flushed}], rdx",
    "call end_of_interrupt",
    "pop rdx",
    "pop rcx",
    "pop rax",
    "jmp stub_exit",
    request = sym REQUEST,
    number = const offset_of!(Request, number),
    start = const offset_of!(Request, start),
    pages = const offset_of!(Request, pages),
    page = const PAGE_SIZE,
    boot = const offset_of!(Cpu, boot),
    cr3 = const offset_of!(BootInfo, cr3),
    flushed = const offset_of!(Cpu, flushed),
);

/// Makes all vCPUs forget the translations of `range`, this one included; otherwise as [`flush_remote`].
pub(crate) fn flush(cpu: &Cpu, range: Range<u64>) {
    flush_local(cpu, range.clone());
    flush_remote(cpu, range);
}

/// Makes this vCPU forget the translations of `range`.
pub(crate) fn flush_local(cpu: &Cpu, range: Range<u64>) {
    match pages(&range) {
        0 => {
            // SAFETY: the same page tables as before. In ring 3 a stub does it.
            unsafe { asm!("mov cr3, rax", in("rax") cpu.boot().cr3, options(nostack, preserves_flags)) };
        }
        pages => (0..pages).map(|i| range.start + i * PAGE_SIZE).for_each(|page| {
            // SAFETY: a translation is forgotten; what the page tables say is used next time. In ring 3 a
            // stub does it.
            unsafe { asm!("invlpg [rax]", in("rax") page, options(nostack, preserves_flags)) };
        }),
    }
}

/// Makes all other vCPUs, which must have started, forget the translations of `range`; they have when it
/// returns. To be called in task context: a handler could find its own vCPU holding the lock.
pub(crate) fn flush_remote(cpu: &Cpu, range: Range<u64>) {
    let boot = cpu.boot();
    let _one = LOCK.lock();
    // Relaxed: only who holds the lock writes these.
    let number = REQUEST.number.load(Ordering::Relaxed) + 1;
    REQUEST.start.store(range.start, Ordering::Relaxed);
    REQUEST.pages.store(pages(&range), Ordering::Relaxed);
    // Release: who reads this number reads that range, or a later one, in the order of its loads.
    REQUEST.number.store(number, Ordering::Release);
    interrupts::send(target::OTHERS, FLUSH_TLB);
    for index in (0..boot.vcpus).filter(|index| *index != cpu.index()) {
        // Acquire: what the vCPU did with the old translations comes before what we do next.
        while Cpu::flushed_of(boot, index).load(Ordering::Acquire) < number {
            Pv::relax();
        }
    }
}

/// How many pages to flush one by one; 0 if they are too many.
fn pages(range: &Range<u64>) -> u64 {
    let pages = range
        .end
        .div_ceil(PAGE_SIZE)
        .saturating_sub(range.start / PAGE_SIZE);
    if pages > FEW { 0 } else { pages }
}
