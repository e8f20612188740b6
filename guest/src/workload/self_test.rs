//! Guests that end badly, so that tests and users can see what the VMM makes of it.

use core::arch::asm;
use core::hint::{black_box, spin_loop};
use core::sync::atomic::{AtomicU64, Ordering};

use abi::boot::BootInfo;
use abi::config::Workload;

use crate::cpu::Cpu;
use crate::{hypercall, println};

/// Does what `workload` says. Returns only where that leaves a guest that can go on.
pub(super) fn run(workload: Workload, cpu: &'static Cpu, boot: &BootInfo) {
    match workload {
        Workload::Panic if cpu.is_first() => panic!("asked to panic"),
        Workload::Fault if cpu.index() + 1 == boot.vcpus => read_null(),
        Workload::StackOverflow if cpu.is_first() => {
            black_box(overflow(black_box(0)));
        }
        Workload::Hang if cpu.is_first() => loop {
            spin_loop();
        },
        Workload::Hang | Workload::HangHalted => loop {
            hypercall::halt();
        },
        Workload::TripleFault if cpu.is_first() => triple_fault(cpu),
        Workload::Babble if cpu.is_first() => loop {
            println!("and another thing");
        },
        Workload::BadPort if cpu.is_first() => hypercall::out32(0x80, 0xbad),
        Workload::BadPreempt if cpu.is_first() => {
            for _ in 0..3 {
                hypercall::preempt_me();
            }
        }
        Workload::WildJump if cpu.is_first() => wild_jump(),
        Workload::BadKick if cpu.is_first() => {
            for index in [boot.vcpus, boot.vcpus + 1, u32::MAX] {
                hypercall::kick(index);
            }
        }
        _ => {}
    }
}

/// Loads from the page at address 0, which is not mapped.
fn read_null() {
    // SAFETY: not sound as a load, and not meant to be: it faults, and the fault ends the run.
    unsafe { asm!("mov {}, [0x10]", out(reg) _, options(nostack, readonly, preserves_flags)) };
}

/// Jumps to an address that is not canonical. Where that goes wrong, before or after the jump, depends on the
/// processor; the stub that looks for instructions to emulate must not follow.
fn wild_jump() {
    // SAFETY: not sound, and not meant to be: it faults, and the fault ends the run.
    unsafe { asm!("jmp {}", in(reg) 0xdead_beef_0000_0000_u64, options(nostack)) };
}

/// Recurses without end, a visible piece of stack at a time.
#[expect(unconditional_recursion, reason = "the guard page ends it")]
fn overflow(depth: u64) -> u64 {
    let frame = [const { AtomicU64::new(0) }; 64];
    frame[depth as usize % 64].store(depth, Ordering::Relaxed);
    black_box(&frame);
    overflow(black_box(depth + 1)) + frame[0].load(Ordering::Relaxed)
}

/// Takes the fault stack away, then faults: neither that exception nor the double fault has anywhere to go.
fn triple_fault(cpu: &Cpu) {
    let ist = cpu
        .tss
        .get()
        .wrapping_byte_add(core::mem::offset_of!(crate::cpu::Tss, ist));
    // SAFETY: the vCPU's own TSS; the processor reads it at the next exception, which is meant to find no
    // stack.
    unsafe { ist.cast::<u64>().write_unaligned(8) };
    read_null();
}
