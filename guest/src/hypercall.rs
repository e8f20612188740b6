//! The VMM's services, an `out` or a hypercall of KVM's each, and `hlt`.

use core::arch::asm;
use core::mem::offset_of;

use abi::{kick, port};

use crate::cpu::{Cpu, selector};
use crate::tlb;

/// Writes `value` to `port`. The compiler may not move memory accesses across it: the VMM, or a vCPU that it
/// wakes, may look at what was stored before.
#[inline]
pub(crate) fn out32(port: u16, value: u32) {
    // SAFETY: writing to a port of this machine changes no memory of the guest; what the VMM does in answer
    // is to wake, interrupt or stop a vCPU, to set its timer, or to end the run.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack, preserves_flags)) }
}

/// Writes `value` to an 8-bit `port`.
#[inline]
pub(crate) fn out8(port: u16, value: u8) {
    // SAFETY: as for `out32`.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack, preserves_flags)) }
}

/// KVM's own KICK_CPU, by the given instruction. What it answers is always 0, even for an APIC id that
/// nobody has.
macro_rules! kvm_kick {
    ($instruction:literal, $cpu:expr) => {
        // SAFETY: the hypercall wakes a vCPU; it changes no memory, and no register but RAX. RBX, which the
        // compiler keeps for itself, is put back. Not `nomem`: what was stored before must be there for the
        // vCPU that wakes.
        unsafe {
            asm!(
                "xchg {saved}, rbx",
                $instruction,
                "mov rbx, {saved}",
                saved = inout(reg) 0u64 => _, // flags: none
                inlateout("rax") kick::HYPERCALL => _,
                in("rcx") u64::from($cpu),
                options(nostack, preserves_flags)
            )
        }
    };
}

/// Wakes vCPU `cpu`, or makes its next [`halt`] return at once.
#[inline]
pub(crate) fn kick(cpu: u32) {
    match Cpu::current().boot().kick {
        kick::VMCALL => kvm_kick!("vmcall", cpu),
        kick::VMMCALL => kvm_kick!("vmmcall", cpu),
        _ => out32(port::KICK_CPU, cpu),
    }
}

/// Sleeps until this vCPU is kicked or interrupted; returns at once if it was kicked since the last time, or
/// if an interrupt is pending. To wait for something, see [`interrupts`](crate::interrupts).
#[inline]
pub(crate) fn halt() {
    let cpu = about_to_halt();
    // SAFETY: `hlt` changes no register and no memory; the ring-3 stub preserves both, and runs on a stack of
    // its own; `kernel_halt` is a `hlt` and a few instructions around it that change flags alone. Not
    // `nomem`: what the kicker stored must be read again afterwards. Not `nostack`: it is called.
    unsafe {
        asm!(
            "cmp qword ptr gs:[{kernel_cs}], {code_0}",
            "jne 2f",
            "call kernel_halt",
            "jmp 3f",
            "2:",
            "hlt",
            "3:",
            kernel_cs = const offset_of!(Cpu, kernel_cs),
            code_0 = const selector::CODE_0,
        );
    }
    tlb::resumed(cpu);
}

/// Sleeps until this vCPU is kicked or interrupted, as [`halt`] does, though interrupts may be pending: for
/// who cannot handle them now.
pub(crate) fn halt_with_pending() {
    let cpu = about_to_halt();
    // SAFETY: as above. The prefix means nothing to a processor, and to the ring-3 stub that it shall not
    // look.
    unsafe { asm!("rep hlt", options(nostack, preserves_flags)) }
    tlb::resumed(cpu);
}

fn about_to_halt() -> &'static Cpu {
    let cpu = Cpu::current();
    cpu.halts.set(cpu.halts.get().wrapping_add(1));
    cpu.tlb.halt();
    cpu
}

/// Lets the VMM stop this vCPU here, if it wants to; see [`port::PREEMPT_ME`].
pub(crate) fn preempt_me() {
    out32(port::PREEMPT_ME, 0);
}

/// Begins or ends the interval that the VMM accounts host time for; see [`port::measure`].
pub(crate) fn measure(edge: u32) {
    out32(port::MEASURE, edge);
}

/// Ends the run.
pub(crate) fn exit(code: u32) -> ! {
    out32(port::EXIT, code);
    loop {
        halt();
    }
}
