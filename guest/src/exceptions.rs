//! Exceptions: all but two end the run with a dump. One is a #GP on an instruction that a ring-3 kernel needs
//! done: `hlt`, `rep hlt` (which sleeps even if an interrupt is pending), `mov cr3, rax`, and `invlpg [rax]`,
//! with which it has a whole list of pages flushed ([`tlb`](crate::tlb)): an exception each would be dear.
//! The other is a page fault that [`page_fault`] sees to.
//!
//! The stubs run in ring 0 in both modes, on the fault stack, integer instructions only (see
//! [`start`](crate::start)). A fault that is to be reported returns "into" [`report_fault`] at the kernel's
//! own ring, still on the fault stack, because compiled Rust cannot run in an emulated ring 0.

use core::arch::global_asm;
use core::mem::offset_of;
use core::sync::atomic::Ordering;

use abi::boot::KERNEL_BASE;
use abi::interrupt::FIRST_EXTERNAL;
use abi::port::{self, exit_code};

use crate::cpu::{Cpu, selector};
use crate::{console, hypercall, interrupts, page_fault, println};

/// Vectors 0–31: the architecture's exceptions.
const EXCEPTIONS: usize = FIRST_EXTERNAL as usize;

/// With the interrupts after them.
const VECTORS: usize = EXCEPTIONS + interrupts::VECTORS;

/// Bytes from one stub to the next.
const STUB_SIZE: u64 = 16;

/// A 64-bit interrupt gate (Intel SDM volume 3, figure 6-8).
#[repr(transparent)]
pub(crate) struct Gate(u128);

impl Gate {
    /// A present, ring-0 interrupt gate to `handler` on the stack of that IST entry.
    const fn new(handler: u64, ist: u128) -> Self {
        const PRESENT_INTERRUPT_GATE: u128 = 0x8e << 40;
        let handler = handler as u128;
        Self(
            handler & 0xffff
                | (selector::CODE_0 as u128) << 16
                | ist << 32
                | PRESENT_INTERRUPT_GATE
                | (handler >> 16 & 0xffff) << 48
                | (handler >> 32) << 64,
        )
    }
}

/// One table for all vCPUs, made by the compiler: the linker script puts the stubs at a known address.
pub(crate) static IDT: [Gate; VECTORS] = {
    const NMI: usize = abi::interrupt::NMI as usize;
    let mut table = [const { Gate::new(0, 0) }; VECTORS];
    let mut vector = 0;
    while vector < VECTORS {
        let ist = match vector {
            NMI => 3,
            0..EXCEPTIONS => 1,
            _ => 2,
        };
        table[vector] = Gate::new(KERNEL_BASE + STUB_SIZE * vector as u64, ist);
        vector += 1;
    }
    table
};

/// Last byte of the IDT, counted from its start.
pub(crate) const IDT_LIMIT: usize = size_of::<[Gate; VECTORS]>() - 1;

/// The registers as stubs and upcalls save them, lowest address first.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Registers {
    r15: u64,
    r14: u64,
    r13: u64,
    r12: u64,
    r11: u64,
    r10: u64,
    r9: u64,
    r8: u64,
    rbp: u64,
    rdi: u64,
    rsi: u64,
    rdx: u64,
    rcx: u64,
    rbx: u64,
    rax: u64,
}

/// What `iretq` takes.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Return {
    pub(crate) rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

/// What the stub saves, lowest address first.
#[repr(C)]
pub(crate) struct Frame {
    pub(crate) cr2: u64,
    pub(crate) registers: Registers,
    pub(crate) vector: u64,
    pub(crate) error: u64,
    pub(crate) to: Return,
}

global_asm!(
    ".section .text.exception_stubs, \"ax\"",
    ".globl exception_stubs",
    ".type exception_stubs, @function",
    ".type general_protection, @function",
    ".globl exception",
    ".type exception, @function",
    "exception_stubs:",
    ".irp vector, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
    ".balign {stub_size}",
    ".if \\vector == {nmi}",
    "jmp nmi_stub",
    ".else",
    // A bit for each vector whose error code the processor pushes.
    ".if (0x60227d00 >> \\vector) & 1 == 0",
    "push 0",
    ".endif",
    ".if \\vector == 13",
    "jmp general_protection",
    ".elseif \\vector == {page_fault}",
    "jmp page_fault_stub",
    ".else",
    "push \\vector",
    "jmp exception",
    ".endif",
    ".endif",
    ".endr",
    ".irp vector, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
    ".balign {stub_size}",
    ".if \\vector == {flush_tlb}",
    "jmp flush_tlb_stub",
    ".else",
    "bts dword ptr gs:[{pending}], \\vector",
    "jmp irq_stub",
    ".endif",
    ".endr",
    // rsp: error code, rip, cs, rflags, rsp, ss. From ring 3 it may be an instruction to do and to step over.
    // Code is read only below the end of the kernel's: RIP may be anything.
    "general_protection:",
    "cmp qword ptr [rsp], 0",
    "jne 2f",
    "test byte ptr [rsp + 16], 3",
    "jz 2f",
    "push rax",
    "mov rax, [rsp + 16]",
    "cmp rax, offset text_end",
    "jae 5f",
    "cmp byte ptr [rax], 0xf4",
    "je 6f",
    "cmp word ptr [rax], 0xf4f3",
    "je 7f",
    "cmp word ptr [rax], 0x220f",
    "je 8f",
    "cmp word ptr [rax], 0x010f",
    "jne 5f",
    "cmp byte ptr [rax + 2], 0x38",
    "jne 5f",
    "pop rax",
    "push rax",
    "push rcx",
    "push rdx",
    "call stub_flush_pages",
    "pop rdx",
    "pop rcx",
    "pop rax",
    "jmp 9f",
    "8:",
    "cmp byte ptr [rax + 2], 0xd8",
    "jne 5f",
    "pop rax",
    "mov cr3, rax",
    "9:",
    "add qword ptr [rsp + 8], 3",
    "add rsp, 8",
    "jmp stub_exit",
    "7:",
    "pop rax",
    "add qword ptr [rsp + 8], 2",
    "add rsp, 8",
    "jmp stub_only_halt",
    "6:",
    "pop rax",
    "inc qword ptr [rsp + 8]",
    "add rsp, 8",
    "jmp stub_halt",
    "5:",
    "pop rax",
    "2:",
    "push 13",
    "exception:",
    "push rax",
    "push rbx",
    "push rcx",
    "push rdx",
    "push rsi",
    "push rdi",
    "push rbp",
    "push r8",
    "push r9",
    "push r10",
    "push r11",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov rax, cr2",
    "push rax",
    // A fault while reporting one: say no more than that.
    "cmp dword ptr gs:[{in_fault}], 0",
    "jne 3f",
    "mov dword ptr gs:[{in_fault}], 1",
    "mov esi, gs:[{mask}]",
    "mov dword ptr gs:[{mask}], {mask_all}",
    "mov rdi, rsp",
    "mov rax, rsp",
    "and rax, -16",
    "sub rax, 8",
    "mov rcx, gs:[{kernel_ss}]",
    "push rcx",
    "push rax",
    "push 2",
    "mov rcx, gs:[{kernel_cs}]",
    "push rcx",
    "lea rcx, [rip + {report_fault}]",
    "push rcx",
    "iretq",
    "3:",
    "mov edx, {exit_port}",
    "mov eax, {nested_fault}",
    "out dx, eax",
    "4:",
    "hlt",
    "jmp 4b",
    stub_size = const STUB_SIZE,
    nmi = const abi::interrupt::NMI,
    page_fault = const page_fault::VECTOR,
    flush_tlb = const interrupts::FLUSH_TLB - FIRST_EXTERNAL,
    pending = const offset_of!(Cpu, pending),
    mask = const offset_of!(Cpu, mask),
    mask_all = const interrupts::MASK_IRQ | interrupts::MASK_NMI,
    in_fault = const offset_of!(Cpu, in_fault),
    kernel_cs = const offset_of!(Cpu, kernel_cs),
    kernel_ss = const offset_of!(Cpu, kernel_ss),
    report_fault = sym report_fault,
    exit_port = const port::EXIT,
    nested_fault = const exit_code::NESTED_FAULT,
);

/// The exception's name, as the processor manuals abbreviate it.
fn mnemonic(vector: u64) -> &'static str {
    const NAMES: [&str; 22] = [
        "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "?", "#TS", "#NP", "#SS", "#GP",
        "#PF", "?", "#MF", "#AC", "#MC", "#XM", "#VE", "#CP",
    ];
    NAMES.get(vector as usize).unwrap_or(&"?")
}

/// Where a stub arrives with a fault nothing can be done about. `mask` is what was masked.
extern "C" fn report_fault(frame: &Frame, mask: u32) -> ! {
    report(frame, page_fault::refused(Cpu::current(), frame, mask))
}

/// Ends the run with a dump. The vCPU has marked itself as in a fault.
pub(crate) fn report(frame: &Frame, why: Option<&str>) -> ! {
    let Frame {
        cr2,
        registers,
        vector,
        error,
        to,
    } = frame;
    console::last_word();
    // Relaxed: the VMM reads it once the EXIT below has ended the run.
    Cpu::current().page().fault_rip.store(to.rip, Ordering::Relaxed);
    println!(
        "guest vCPU {}: exception {vector} ({}) error {error:#x} at rip {:#x} cr2 {cr2:#x}{}{}",
        Cpu::current().index(),
        mnemonic(*vector),
        to.rip,
        if why.is_some() { ": " } else { "" },
        why.unwrap_or_default(),
    );
    println!(
        "rax {:016x} rbx {:016x} rcx {:016x} rdx {:016x}",
        registers.rax, registers.rbx, registers.rcx, registers.rdx
    );
    println!(
        "rsi {:016x} rdi {:016x} rbp {:016x} rsp {:016x}",
        registers.rsi, registers.rdi, registers.rbp, to.rsp
    );
    println!(
        "r8  {:016x} r9  {:016x} r10 {:016x} r11 {:016x}",
        registers.r8, registers.r9, registers.r10, registers.r11
    );
    println!(
        "r12 {:016x} r13 {:016x} r14 {:016x} r15 {:016x}",
        registers.r12, registers.r13, registers.r14, registers.r15
    );
    println!("cs {:x} ss {:x} rflags {:x}", to.cs, to.ss, to.rflags);
    hypercall::exit(exit_code::FAULT)
}
