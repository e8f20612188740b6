//! Code that uses every register, the FPU and the red zone is interrupted, and looks whether it still has
//! what it had. The handler spoils what it can. [`faults`](super::faults) does the same with page faults.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering};

use abi::boot::BootInfo;
use abi::config::fault;

use super::MOST_VCPUS;
use crate::cpu::Cpu;
use crate::interrupts::TIMER;
use crate::workload::{Measured, report_elapsed, rounds};
use crate::{clock, interrupts, report, timer};

/// Turns of the loop that waits to be interrupted: a few microseconds.
const TURNS: u64 = 4096;

/// Interrupts of all vCPUs together, unless the configuration says otherwise.
const ROUNDS: u64 = 10_000;

/// From one interrupt to the next, at most.
const INTERVAL_NS: u64 = 30_000;

/// Interrupts so far, by vCPU; written by its handler.
static HANDLED: [AtomicU64; MOST_VCPUS] = [const { AtomicU64::new(0) }; MOST_VCPUS];

global_asm!(
    ".section .text.state_kept, \"ax\"",
    ".type state_kept, @function",
    ".globl state_kept",
    ".globl state_touch",
    ".type state_touch, @function",
    // rdi: seed, rsi: turns, rdx: a byte to write to in each; rax: how many values have changed.
    "state_kept:",
    ".irp register, rbx, rbp, r12, r13, r14, r15",
    "push \\register",
    ".endr",
    "push rdx",
    // The red zone's sixteen words, and as many vector registers, each different.
    "mov rax, rdi",
    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    "inc rax",
    "mov [rsp - 8 - 8 * \\n], rax",
    "movq xmm\\n, rax",
    ".endr",
    "fild qword ptr [rsp - 8]",
    ".irp register, rbx, rcx, rdx, rbp, r8, r9, r10, r11, r12, r13, r14, r15",
    "inc rax",
    "mov \\register, rax",
    ".endr",
    // Two flags: carry, which `dec` leaves alone, and direction, which compiled code wants clear.
    "mov rax, [rsp]",
    "std",
    "stc",
    // No flag changes with `not`.
    "2:",
    "state_touch:",
    "not byte ptr [rax]",
    "dec rsi",
    "jnz 2b",
    "setnc sil",
    "movzx esi, sil",
    "cmp [rsp], rax",
    "je 3f",
    "inc esi",
    "3:",
    "mov rax, rdi",
    "add rax, 16",
    ".irp register, rbx, rcx, rdx, rbp, r8, r9, r10, r11, r12, r13, r14, r15",
    "inc rax",
    "cmp \\register, rax",
    "je 3f",
    "inc esi",
    "3:",
    ".endr",
    "mov rax, rdi",
    ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
    "inc rax",
    "cmp [rsp - 8 - 8 * \\n], rax",
    "je 3f",
    "inc esi",
    "3:",
    "movq rcx, xmm\\n",
    "cmp rcx, rax",
    "je 3f",
    "inc esi",
    "3:",
    ".endr",
    "fistp qword ptr [rsp - 8]",
    "inc rdi",
    "cmp [rsp - 8], rdi",
    "je 3f",
    "inc esi",
    "3:",
    "pushfq",
    "pop rax",
    "cld",
    "bt eax, 10",
    "jc 3f",
    "inc esi",
    "3:",
    "mov eax, esi",
    "pop rdx",
    ".irp register, r15, r14, r13, r12, rbp, rbx",
    "pop \\register",
    ".endr",
    "ret",
);

unsafe extern "C" {
    /// How many values have changed by the time that `touched` has been written to `turns` times, at
    /// [`state_touch`].
    ///
    /// # Safety
    ///
    /// `touched` can be written to by then at the latest, and is not used otherwise.
    pub(super) unsafe fn state_kept(seed: u64, turns: u64, touched: *mut u8) -> u32;
    /// Where it does so.
    pub(super) safe fn state_touch();
}

/// Every vCPU calls it; together they are interrupted as often as was asked for.
pub(super) fn run(cpu: &Cpu, boot: &'static BootInfo) {
    // SAFETY: each vCPU runs one workload, once.
    let results = unsafe { report::of_vcpu(cpu) };
    if boot.run.fault == fault::NO_RED_ZONE {
        cpu.red_zone.set(0);
    }
    interrupts::handle(TIMER, interrupt);
    let measured = Measured::begin(cpu);
    if let Some(handled) = HANDLED.get(cpu.index() as usize) {
        let goal = rounds(boot, ROUNDS).div_ceil(boot.vcpus.into());
        timer::set(cpu, clock::cycles(), TIMER);
        let mut byte = 0;
        // Relaxed: a count, of this vCPU's own handler.
        while handled.load(Ordering::Relaxed) < goal {
            // Small enough for the FPU to hold exactly.
            let seed = clock::cycles() >> 8;
            // SAFETY: a byte of our own.
            results.intruders += u64::from(unsafe { state_kept(seed, TURNS, &raw mut byte) });
        }
        results.acquisitions = handled.load(Ordering::Relaxed);
    }
    let elapsed = measured.end(cpu);
    if cpu.is_first() {
        report_elapsed(boot, elapsed);
    }
}

/// The handler: spoils what it can, and sees to the next interrupt.
fn interrupt(cpu: &Cpu) {
    let handled = &HANDLED[cpu.index() as usize];
    handled.store(handled.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    let now = clock::cycles();
    // Anything will do that is not in step with the loop.
    let random = now.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    let interval = clock::from_ns(cpu.boot(), INTERVAL_NS).max(1);
    timer::set(cpu, now + random % interval, TIMER);
    spoil();
}

/// Leaves nothing as it was in the registers that a handler need not preserve.
pub(super) fn spoil() {
    // SAFETY: registers only, and all of them are declared.
    unsafe {
        asm!(
            "fninit",
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15",
            "pcmpeqd xmm\\n, xmm\\n",
            ".endr",
            clobber_abi("C"),
            options(nostack)
        );
    }
}
