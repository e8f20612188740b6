//! Flushing the TLBs: this vCPU's, and those of others.
//!
//! A vCPU that is asked, by interrupt, flushes in the stub, whatever is masked or running; then it says so.
//! So who asks may hold locks, and waits for nobody's handlers. One that is halted is not asked: it flushes
//! when it goes on, for which [`LazyFlush`] has the argument. Its handlers may run before that. So what is
//! flushed here is memory that only task context touches: the window's, no other mapping ever changes.

use core::arch::{asm, global_asm};
use core::cell::Cell;
use core::mem::offset_of;
use core::slice;
use core::sync::atomic::{AtomicU64, Ordering};

use abi::boot::BootInfo;
use abi::config::fault;
use abi::interrupt::target;
use mm::{LazyFlush, PageRange};
use pvlock::Platform;

use crate::cpu::{Cpu, selector};
use crate::interrupts::{self, FLUSH_TLB};
use crate::pv::Pv;
use crate::spinlock::Mutex;

/// Up to so many pages are flushed one by one: in the nested lab each costs more than flushing everything,
/// where ring 0 is emulated a tenth of it, beside what has to be looked up again. Linux's
/// `tlb_single_page_flush_ceiling` is 33.
pub(crate) const FEW: usize = 8;

/// What is to be flushed.
#[repr(C)]
struct Pages {
    /// How many pages; 0 for everything.
    count: AtomicU64,
    /// Their addresses.
    addresses: [AtomicU64; FEW],
}

impl Pages {
    const fn new() -> Self {
        Self {
            count: AtomicU64::new(0),
            addresses: [const { AtomicU64::new(0) }; FEW],
        }
    }

    /// Makes it the pages of `ranges`, or everything. Relaxed: what hands the list over orders it.
    fn set(&self, ranges: &[PageRange]) {
        let mut count = 0;
        for range in ranges {
            if range.len() > (FEW - count) as u64 {
                count = 0;
                break;
            }
            for page in range.iter() {
                self.addresses[count].store(page.start(), Ordering::Relaxed);
                count += 1;
            }
        }
        self.count.store(count as u64, Ordering::Relaxed);
    }
}

/// A vCPU's own, and what others have asked it to do.
#[repr(C, align(64))]
pub(crate) struct Tlb {
    lazy: LazyFlush,
    /// The last request that the vCPU was interrupted for; used by who holds [`LOCK`].
    asked: AtomicU64,
    /// The last request that it has seen to in the stub; others wait for it.
    flushed: AtomicU64,
    /// Number of flushes that it has made of its own accord.
    own_flushes: Cell<u64>,
}

impl Tlb {
    /// The vCPU is about to halt.
    pub(crate) fn halt(&self) {
        self.lazy.halt();
    }
}

/// What all are to flush; written by the one that holds [`LOCK`], and read by the stubs while it waits for
/// them.
#[repr(C)]
struct Request {
    /// Its number, counted from 1.
    number: AtomicU64,
    pages: Pages,
}

static REQUEST: Request = Request {
    number: AtomicU64::new(0),
    pages: Pages::new(),
};

static LOCK: Mutex<()> = Mutex::new(());

global_asm!(
    ".section .text.stubs, \"ax\"",
    // In ring 0. rax: `Pages` to flush; rcx and rdx are spoilt.
    ".macro flush_pages name",
    ".globl \\name",
    ".type \\name, @function",
    "\\name:",
    "mov rcx, [rax + {count}]",
    "test rcx, rcx",
    "jz 3f",
    "2:",
    "mov rdx, [rax + {addresses} + 8 * rcx - 8]",
    "invlpg [rdx]",
    // One instruction, of which each has its price where ring 0 is emulated.
    "loop 2b",
    "ret",
    "3:",
    "mov rcx, gs:[{boot}]",
    "mov rcx, [rcx + {cr3}]",
    "mov cr3, rcx",
    "ret",
    ".endm",
    "flush_pages stub_flush_pages",
    // A kernel in ring 0 has its own: an NMI that comes in a stub waits for the stub's end.
    ".section .text.flush_pages, \"ax\"",
    "flush_pages kernel_flush_pages",
    ".purgem flush_pages",
    ".section .text.stubs, \"ax\"",
    ".globl flush_tlb_stub",
    ".type flush_tlb_stub, @function",
    "flush_tlb_stub:",
    "push rax",
    "push rcx",
    "push rdx",
    // Before the flush: a later request will send another interrupt.
    "push qword ptr [rip + {request} + {number}]",
    "lea rax, [rip + {request} + {pages}]",
    "call stub_flush_pages",
    "pop qword ptr gs:[{flushed}]",
    "call end_of_interrupt",
    "pop rdx",
    "pop rcx",
    "pop rax",
    "jmp stub_exit",
    request = sym REQUEST,
    number = const offset_of!(Request, number),
    pages = const offset_of!(Request, pages),
    count = const offset_of!(Pages, count),
    addresses = const offset_of!(Pages, addresses),
    boot = const offset_of!(Cpu, boot),
    cr3 = const offset_of!(BootInfo, cr3),
    flushed = const offset_of!(Cpu, tlb) + offset_of!(Tlb, flushed),
);

/// Makes all vCPUs, which must have started, forget the translations of these pages, this one included: when
/// it returns, all have that run, and all others will have before they use one. To be called in task context:
/// a handler could find its own vCPU holding the lock.
pub(crate) fn flush(cpu: &Cpu, ranges: &[PageRange]) {
    let _one = LOCK.lock();
    // Relaxed: only who holds the lock writes these.
    let number = REQUEST.number.load(Ordering::Relaxed) + 1;
    REQUEST.pages.set(ranges);
    // Release: who reads this number reads that list, or a later one, in the order of its loads.
    REQUEST.number.store(number, Ordering::Release);
    ask_others(cpu, number);
    // While they are at it.
    flush_here(&REQUEST.pages);
    for index in (0..cpu.boot().vcpus).filter(|index| *index != cpu.index()) {
        let tlb = Cpu::tlb_of(cpu.boot(), index);
        // Relaxed: as above. Acquire: what the vCPU did with the old translations comes before what we do
        // next.
        while tlb.asked.load(Ordering::Relaxed) == number && tlb.flushed.load(Ordering::Acquire) < number {
            Pv::relax();
        }
    }
}

/// Makes this vCPU forget the translations of these pages.
pub(crate) fn flush_local(range: PageRange) {
    let pages = Pages::new();
    pages.set(slice::from_ref(&range));
    flush_here(&pages);
}

/// Interrupts the other vCPUs that are not halted.
fn ask_others(cpu: &Cpu, number: u64) {
    const WORD: u32 = u64::BITS;
    let (boot, page) = (cpu.boot(), cpu.page());
    for base in (0..boot.vcpus).step_by(WORD as usize) {
        let mut mask = 0;
        for index in (base..boot.vcpus.min(base + WORD)).filter(|index| *index != cpu.index()) {
            let tlb = Cpu::tlb_of(boot, index);
            if !tlb.lazy.defer() {
                tlb.asked.store(number, Ordering::Relaxed);
                mask |= 1 << (index - base);
            }
        }
        if mask != 0 {
            // A handler might use the page as well.
            let _masked = interrupts::mask(cpu);
            // Relaxed: the VMM reads them during the `out`, by this vCPU.
            page.ipi_base.store(base, Ordering::Relaxed);
            page.ipi_mask.store(mask, Ordering::Relaxed);
            interrupts::send(target::MASK, FLUSH_TLB);
        }
    }
}

/// This vCPU was halted, and is no more.
pub(crate) fn resumed(cpu: &Cpu) {
    static EVERYTHING: Pages = Pages::new();
    if cpu.tlb.lazy.resume() && cpu.boot().run.fault != fault::NO_FLUSH_ON_RESUME {
        flush_here(&EVERYTHING);
    }
}

/// How often this vCPU has flushed.
pub(crate) fn flushes(cpu: &Cpu) -> u64 {
    // Relaxed: for this vCPU, on which stubs write the one.
    cpu.tlb.flushed.load(Ordering::Relaxed) + cpu.tlb.own_flushes.get()
}

fn flush_here(pages: &Pages) {
    let cpu = Cpu::current();
    let flushes = &cpu.tlb.own_flushes;
    flushes.set(flushes.get() + 1);
    // Relaxed: see `Pages::set`.
    if pages.count.load(Ordering::Relaxed) == 0 {
        // SAFETY: the same tables as before. In ring 3 the instruction traps, and the stub does it: with less
        // ado than a list of pages, and where ring 0 is emulated that counts. Not `nomem`: as below.
        unsafe { asm!("mov cr3, rax", in("rax") cpu.boot().cr3, options(nostack, preserves_flags)) };
        return;
    }
    // SAFETY: translations are forgotten; what the page tables say is used next time. `kernel_flush_pages`
    // is for ring 0; in ring 3 the instruction traps, and to the stub RAX is not the page to flush, but
    // `Pages`. Not `nostack`: it is called. Not `nomem`: what is accessed through the window may not move
    // across.
    unsafe {
        asm!(
            "cmp qword ptr gs:[{kernel_cs}], {code_0}",
            "jne 2f",
            "call kernel_flush_pages",
            "jmp 3f",
            "2:",
            "invlpg [rax]",
            "3:",
            kernel_cs = const offset_of!(Cpu, kernel_cs),
            code_0 = const selector::CODE_0,
            in("rax") pages,
            out("rcx") _,
            out("rdx") _,
        );
    }
}
