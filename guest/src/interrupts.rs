//! Interrupts as the kernel sees them: masks, handlers, and who may be interrupted by what.
//!
//! | context | is interrupted by | entered |
//! |---|---|---|
//! | task | all below | |
//! | soft interrupt | hard interrupts, NMI | after hard interrupts, on the way back to task context |
//! | hard interrupt | NMI | when nothing is masked |
//! | NMI | nothing | at any time |
//!
//! So contexts nest four deep at most: as many as `pvlock` has queue nodes for. Interrupts are masked in
//! software, alike in both rings: `upcall` has the mechanism.
//!
//! **Waiting.** Every wait is: [`mask`], look at the condition, [`halt`](crate::hypercall::halt), unmask,
//! look again. With interrupts unmasked a handler could come between the look and the `hlt`, wait for
//! something itself, and so take the kick that was meant for the wait it interrupted. An NMI cannot be
//! masked: one that has waited kicks its own vCPU afterwards, for the wait that it may have interrupted.

use core::arch::asm;
use core::mem;
use core::ptr;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use core::sync::atomic::{AtomicPtr, compiler_fence};

use abi::config::fault;
use abi::interrupt::{FIRST_EXTERNAL, ipi};
use abi::port;

use crate::cpu::Cpu;
use crate::hypercall;

/// Bit of [`Cpu::mask`]: interrupts wait.
pub(crate) const MASK_IRQ: u32 = 1;
/// Bit of [`Cpu::mask`]: so do NMIs. The handler of one is running.
pub(crate) const MASK_NMI: u32 = 2;

/// Number of vectors that the kernel knows, from [`FIRST_EXTERNAL`] on.
pub(crate) const VECTORS: usize = 32;

/// The timer's vector.
pub(crate) const TIMER: u8 = FIRST_EXTERNAL;
/// Flushes the TLB. Done by the stub, whatever is masked: [`tlb`](crate::tlb).
pub(crate) const FLUSH_TLB: u8 = FIRST_EXTERNAL + VECTORS as u8 - 1;

/// What FXSAVE saves.
#[repr(C, align(16))]
pub(crate) struct FpuState([u8; 512]);

impl FpuState {
    /// A fault to plant: who is interrupted gets the FPU as it is now.
    pub(crate) fn spoil_if_asked(&mut self, cpu: &Cpu) {
        if cpu.boot().run.fault == fault::NO_FPU {
            // SAFETY: saves the FPU's state where it is restored from next.
            unsafe { asm!("fxsave64 [{}]", in(reg) self, options(nostack, preserves_flags)) };
        }
    }
}

/// What is called for a vector.
pub(crate) type Handler = fn(&Cpu);

/// A handler that may be set at any time, from any vCPU.
struct Slot(AtomicPtr<()>);

impl Slot {
    const fn empty() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    fn set(&self, handler: Handler) {
        // Release: pairs with the load in `call`. What the handler relies on is there before it.
        self.0.store(handler as *mut (), Release);
    }

    /// Calls the handler, if there is one.
    fn call(&self, cpu: &Cpu) {
        let handler = self.0.load(Acquire);
        if !handler.is_null() {
            // SAFETY: not null, so it is one that `set` has put there.
            let handler = unsafe { mem::transmute::<*mut (), Handler>(handler) };
            handler(cpu);
        }
    }
}

static HARD: [Slot; VECTORS] = [const { Slot::empty() }; VECTORS];
static SOFT: [Slot; VECTORS] = [const { Slot::empty() }; VECTORS];
static NON_MASKABLE: Slot = Slot::empty();

/// Sets the handler of an external vector, for all vCPUs. Without one the interrupt still ends a halt.
pub(crate) fn handle(vector: u8, handler: Handler) {
    HARD[usize::from(vector - FIRST_EXTERNAL)].set(handler);
}

/// Sets the handler of soft interrupt `number`, for all vCPUs.
pub(crate) fn handle_soft(number: usize, handler: Handler) {
    SOFT[number].set(handler);
}

/// Sets the NMI's handler, for all vCPUs. It may take only locks that no other context takes. What its own
/// vCPU may be waiting for, it has to kick it for: an NMI does not end a HLT that has yet to begin.
pub(crate) fn handle_nmi(handler: Handler) {
    NON_MASKABLE.set(handler);
}

/// Interrupts are masked for as long as it lives: `irq_save` and `irq_restore`.
pub(crate) struct Masked<'a> {
    cpu: &'a Cpu,
    before: u32,
}

/// Masks interrupts, until the guard is dropped. Guards nest.
#[inline]
pub(crate) fn mask(cpu: &Cpu) -> Masked<'_> {
    let before = cpu.mask.load(Relaxed);
    // A plain store: whoever interrupts before it has restored the mask by the time it is done.
    cpu.mask.store(before | MASK_IRQ, Relaxed);
    compiler_fence(SeqCst);
    Masked { cpu, before }
}

impl Masked<'_> {
    /// Whether interrupts were masked before.
    pub(crate) fn nested(&self) -> bool {
        self.before != 0
    }
}

impl Drop for Masked<'_> {
    #[inline]
    fn drop(&mut self) {
        restore(self.cpu, self.before);
    }
}

/// Sets the mask to what it was, and handles what came meanwhile, if it may come now.
#[inline]
fn restore(cpu: &Cpu, before: u32) {
    compiler_fence(SeqCst);
    cpu.mask.store(before, Relaxed);
    // What comes from here on, unless it is still masked, is handled by an upcall. Only this vCPU, and its
    // stubs, write these words: the fences are for the compiler.
    compiler_fence(SeqCst);
    if cpu.pending.load(Relaxed) != 0 {
        replay(cpu, before);
    }
}

/// Handles what came while interrupts were masked, unless they still are, until nothing is left. Out of the
/// way of all who mask: it comes seldom.
#[cold]
#[inline(never)]
fn replay(cpu: &Cpu, mask: u32) {
    while mask == 0 && cpu.pending.load(Relaxed) != 0 {
        cpu.mask.store(MASK_IRQ, Relaxed);
        compiler_fence(SeqCst);
        interrupted(cpu);
        cpu.mask.store(0, Relaxed);
        compiler_fence(SeqCst);
    }
}

/// Whether the caller may wait, halted: this is task context, nothing is masked, and no spin lock held.
pub(crate) fn may_wait(cpu: &Cpu) -> bool {
    cpu.mask.load(Relaxed) == 0 && !cpu.in_soft.get() && cpu.spin_locks.get() == 0
}

/// Makes soft interrupt `number` pending on this vCPU. To be called by handlers of hard interrupts.
pub(crate) fn raise_soft(cpu: &Cpu, number: usize) {
    cpu.soft_pending.set(cpu.soft_pending.get() | 1 << number);
}

/// Interrupts vCPU `target`, or one of the groups in [`abi::interrupt::target`].
pub(crate) fn send(target: u32, vector: u8) {
    hypercall::out32(port::SEND_IPI, ipi(target, vector));
}

/// Where the upcall of an interrupt arrives, masked.
pub(crate) extern "C" fn irq(fpu: &mut FpuState) {
    let cpu = Cpu::current();
    interrupted(cpu);
    fpu.spoil_if_asked(cpu);
}

/// Where the upcall of an NMI arrives.
pub(crate) extern "C" fn nmi(_fpu: &mut FpuState) {
    let cpu = Cpu::current();
    let halts = cpu.halts.get();
    // Taken before the handler runs: one that comes meanwhile is not lost.
    while cpu.nmi_pending.swap(0, Relaxed) != 0 {
        NON_MASKABLE.call(cpu);
    }
    if cpu.halts.get() != halts {
        hypercall::kick(cpu.index());
    }
}

/// Handles what is pending: hard interrupts masked; then soft ones unmasked, unless one was interrupted.
fn interrupted(cpu: &Cpu) {
    hard(cpu);
    if cpu.in_soft.get() {
        return;
    }
    cpu.in_soft.set(true);
    loop {
        let bits = cpu.soft_pending.take();
        if bits == 0 {
            break;
        }
        // This may call us again; then `in_soft` is set.
        restore(cpu, 0);
        each(bits, |number| SOFT[number].call(cpu));
        cpu.mask.store(MASK_IRQ, Relaxed);
        compiler_fence(SeqCst);
    }
    cpu.in_soft.set(false);
}

/// Handles the hard interrupts that are pending, highest vector first.
fn hard(cpu: &Cpu) {
    loop {
        // A read-modify-write, for the stub may come between a load and a store.
        let bits = cpu.pending.swap(0, Relaxed);
        if bits == 0 {
            return;
        }
        each(bits, |number| HARD[number].call(cpu));
    }
}

/// Calls `f` with the number of each bit that is set, highest first.
fn each(mut bits: u32, mut f: impl FnMut(usize)) {
    while bits != 0 {
        let number = bits.ilog2();
        bits &= !(1 << number);
        f(number as usize);
    }
}
