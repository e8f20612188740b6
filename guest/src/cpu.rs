//! The per-vCPU area: stacks, descriptor tables, and what a vCPU knows of itself.
//!
//! The VMM gives every vCPU [`CPU_AREA_SIZE`] zeroed bytes above an unmapped page:
//!
//! ```text
//! area - 4 KiB   not mapped: an overflow of the stack faults
//! area           kernel stack, growing down from STACK_TOP
//! area + 40 KiB  fault stack (IST 1), growing down from FAULT_STACK_TOP
//! area + 56 KiB  Cpu, where GS points
//! ```
//!
//! An overflow of the fault stack runs into the kernel stack, which at that point is dead: the only
//! exceptions that return are emulated instructions and page faults, whose stubs need a dozen words. The
//! stubs of interrupts have stacks of their own, inside the `Cpu`, since they may come between.

use core::arch::asm;
use core::cell::{Cell, UnsafeCell};
use core::mem::{MaybeUninit, offset_of};
use core::sync::atomic::{AtomicU32, Ordering};

use abi::boot::{BootInfo, CPU_AREA_SIZE, CPU_AREA_STRIDE};
use abi::port;
use abi::vcpu_page::VcpuPage;
use pvlock::PerCpu;

use crate::interrupts::{MASK_IRQ, MASK_NMI};
use crate::page_fault::Slots;
use crate::tlb::Tlb;

/// Offset of the kernel stack's top in the area.
pub(crate) const STACK_TOP: usize = 40 * 1024;
/// Offset of the fault stack's top in the area.
pub(crate) const FAULT_STACK_TOP: usize = 56 * 1024;
/// Offset of the [`Cpu`] in the area.
pub(crate) const CPU: usize = FAULT_STACK_TOP;

const _: () = assert!(CPU + size_of::<Cpu>() <= CPU_AREA_SIZE as usize);
const _: () = assert!(CPU.is_multiple_of(align_of::<Cpu>()));

/// Selectors, where Linux has them.
pub(crate) mod selector {
    /// Ring-0 code: the stubs', and the kernel's in ring 0.
    pub(crate) const CODE_0: u16 = 0x10;
    /// Ring-0 data.
    pub(crate) const DATA_0: u16 = 0x18;
    /// Ring-3 data.
    pub(crate) const DATA_3: u16 = 0x2b;
    /// Ring-3 code: the kernel's in ring 3.
    pub(crate) const CODE_3: u16 = 0x33;
    /// The task state segment (two entries).
    pub(crate) const TSS: u16 = 0x38;
}

/// The first seven entries of every GDT; the TSS descriptor follows.
pub(crate) mod descriptor {
    /// 64-bit code, ring 0, present, accessed.
    pub(crate) const CODE_0: u64 = 0x00af_9b00_0000_ffff;
    /// Writable data, ring 0, present, accessed.
    pub(crate) const DATA_0: u64 = 0x00cf_9300_0000_ffff;
    /// Writable data, ring 3, present, accessed.
    pub(crate) const DATA_3: u64 = 0x00cf_f300_0000_ffff;
    /// 64-bit code, ring 3, present, accessed.
    pub(crate) const CODE_3: u64 = 0x00af_fb00_0000_ffff;
    /// Access byte of an available 64-bit TSS, ring 0, present.
    pub(crate) const TSS_ACCESS: u8 = 0x89;
}

/// Bytes of I/O permission bitmap that cover the ports below [`port::LIMIT`].
const BITMAP: usize = (port::LIMIT as usize).div_ceil(8);

/// A 64-bit task state segment with an I/O permission bitmap (Intel SDM volume 3, figure 8-11).
#[repr(C, packed(4))]
pub(crate) struct Tss {
    reserved_0: u32,
    pub(crate) rsp: [u64; 3],
    reserved_1: u64,
    pub(crate) ist: [u64; 7],
    reserved_2: [u16; 5],
    pub(crate) bitmap_offset: u16,
    /// All zero: every port it covers is allowed, every other one is not.
    pub(crate) bitmap: [u8; BITMAP],
    /// The processor reads two bytes at a time and wants this one to be all ones.
    pub(crate) bitmap_end: u8,
}

const _: () = assert!(offset_of!(Tss, ist) == 36 && offset_of!(Tss, bitmap) == 104);

/// Last byte of the TSS, counted from its start.
pub(crate) const TSS_LIMIT: u16 = (offset_of!(Tss, bitmap_end)) as u16;

/// What a stub needs: the processor's frame of five words, and a few of its own.
#[repr(align(16))]
pub(crate) struct Stack(#[expect(dead_code, reason = "stubs use it")] [u64; 16]);

/// What a vCPU knows of itself. `start` fills it in; GS points at it for as long as the vCPU runs.
#[repr(C, align(64))]
pub(crate) struct Cpu {
    /// The structure's own address, so that one load through GS finds it.
    pub(crate) this: *const Cpu,
    pub(crate) boot: *const BootInfo,
    pub(crate) index: u32,
    /// Not 0 once the vCPU has begun to report a fault or a panic.
    pub(crate) in_fault: Cell<u32>,
    /// Code selector of the kernel's ring.
    pub(crate) kernel_cs: u64,
    /// Stack selector of the kernel's ring.
    pub(crate) kernel_ss: u64,
    pub(crate) gdt: [u64; 9],
    /// Not 0: interrupts wait. Bits of [`interrupts`](crate::interrupts); read by the stubs, as are the next
    /// two, which they also write.
    pub(crate) mask: AtomicU32,
    /// A bit for each external vector that waits to be handled.
    pub(crate) pending: AtomicU32,
    /// Not 0 if an NMI waits to be handled.
    pub(crate) nmi_pending: AtomicU32,
    /// Where an interrupt, and an NMI, has interrupted: from the stub to the upcall.
    pub(crate) irq_rip: u64,
    pub(crate) irq_rsp: u64,
    pub(crate) nmi_rip: u64,
    pub(crate) nmi_rsp: u64,
    /// Not 0 where a local APIC wants to be told that an interrupt was taken. Read by the stubs.
    pub(crate) apic: Cell<u32>,
    /// Bytes below RSP that compiled code uses: 128, unless a fault is planted.
    pub(crate) red_zone: Cell<u64>,
    /// Soft interrupts that wait, a bit each, and whether one is being handled.
    pub(crate) soft_pending: Cell<u32>,
    pub(crate) in_soft: Cell<bool>,
    /// Number of spin locks held.
    pub(crate) spin_locks: Cell<u32>,
    /// Not 0 while a page fault is being handled. Set by the stub, cleared by the upcall.
    pub(crate) in_page_fault: AtomicU32,
    /// What the stub tells the upcall of it.
    pub(crate) page_fault: Slots,
    /// Number of halts.
    pub(crate) halts: Cell<u64>,
    pub(crate) tlb: Tlb,
    /// The stubs' stacks.
    pub(crate) irq_stack: Stack,
    pub(crate) nmi_stack: Stack,
    /// Operand of `lgdt`, then of `lidt`.
    pub(crate) table_register: [u16; 5],
    pub(crate) tss: UnsafeCell<Tss>,
    locks: UnsafeCell<MaybeUninit<PerCpu>>,
}

impl Cpu {
    /// The vCPU this is called on.
    #[inline]
    pub(crate) fn current() -> &'static Cpu {
        let cpu: *const Cpu;
        // SAFETY: GS points at this vCPU's `Cpu`, whose first field is its own address. `pure`: a kernel
        // context never moves to another vCPU.
        unsafe { asm!("mov {}, gs:[0]", out(reg) cpu, options(nostack, preserves_flags, pure, readonly)) };
        // SAFETY: `start` made it valid before any Rust ran, and it lives as long as the guest. What changes
        // in it is in cells that only this vCPU touches, but for `locks` and `tlb`.
        unsafe { &*cpu }
    }

    /// The vCPU's index, from 0.
    #[inline]
    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// Whether it is vCPU 0, which does what is done once.
    pub(crate) fn is_first(&self) -> bool {
        self.index == 0
    }

    /// What the VMM told at boot.
    #[inline]
    pub(crate) fn boot(&self) -> &'static BootInfo {
        // SAFETY: the VMM's pointer, valid for the life of the guest; nobody writes to it.
        unsafe { &*self.boot }
    }

    /// Marks the vCPU as reporting its own end, and masks all interrupts for good; returns whether it already
    /// was.
    pub(crate) fn enter_fault(&self) -> bool {
        // Relaxed: for this vCPU's own stubs.
        self.mask.store(MASK_IRQ | MASK_NMI, Ordering::Relaxed);
        self.in_fault.replace(1) != 0
    }

    /// Makes the vCPU's lock state ready. To be called once, before it takes or waits for any lock, and
    /// before it arrives anywhere from where another vCPU could come to look at that state.
    pub(crate) fn init_locks(&self) {
        // SAFETY: nobody has a reference yet: others ask for it only through a lock's queue, which this vCPU
        // has not joined, and this vCPU calls this once, first.
        unsafe { (*self.locks.get()).write(PerCpu::new()) };
    }

    /// Lock state of vCPU `index`, which has called [`init_locks`](Self::init_locks).
    #[inline]
    pub(crate) fn locks_of(boot: &'static BootInfo, index: u32) -> &'static PerCpu {
        // SAFETY: the areas lie `CPU_AREA_STRIDE` apart from `cpu_areas.base`, with a `Cpu` at this offset of
        // each.
        let locks = unsafe { &(*Self::address(boot, index)).locks };
        // SAFETY: an index comes from `this_cpu` or from a lock's queue; either way its vCPU initialised the
        // state before, and what published the index (the lock word) orders this read after it. From then on
        // it is shared.
        unsafe { &*locks.get().cast::<PerCpu>() }
    }

    /// The TLB of vCPU `index`: what others may ask of it. Of its cell they keep off.
    pub(crate) fn tlb_of(boot: &'static BootInfo, index: u32) -> &'static Tlb {
        // SAFETY: as in `locks_of`; this field may be shared from the beginning, being right all zero.
        unsafe { &(*Self::address(boot, index)).tlb }
    }

    /// Where the `Cpu` of vCPU `index` lies.
    #[inline]
    fn address(boot: &BootInfo, index: u32) -> *const Self {
        debug_assert!(index < boot.vcpus);
        let address = boot.cpu_areas.base as usize + CPU_AREA_STRIDE as usize * index as usize + CPU;
        address as *const Self
    }

    /// The page this vCPU shares with the VMM.
    #[inline]
    pub(crate) fn page(&self) -> &'static VcpuPage {
        Self::page_of(self.boot(), self.index)
    }

    /// The page that vCPU `index` shares with the VMM.
    #[inline]
    pub(crate) fn page_of(boot: &BootInfo, index: u32) -> &'static VcpuPage {
        debug_assert!(index < boot.vcpus);
        let pages = boot.vcpu_pages.base as *const VcpuPage;
        // SAFETY: the VMM reserved one page for each vCPU there; both sides access it atomically only.
        unsafe { &*pages.wrapping_add(index as usize) }
    }
}
