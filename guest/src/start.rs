//! From the VMM's entry state to Rust.
//!
//! Integer instructions only, and few of them: where the host's KVM emulates ring 0, each costs about half a
//! microsecond, and anything beyond plain integer code does not run at all.

use core::arch::global_asm;
use core::mem::offset_of;

use abi::boot::BootInfo;

use crate::cpu::{self, Cpu, TSS_LIMIT, Tss, descriptor, selector};

const TSS: usize = offset_of!(Cpu, tss);
const GDT: usize = offset_of!(Cpu, gdt);

global_asm!(
    ".section .text.start, \"ax\"",
    ".globl _start",
    ".type _start, @function",
    "_start:", // rdi: BootInfo, rsi: index, rdx: area
    "xor ebp, ebp",
    "lea rsp, [rdx + {stack_top}]",
    "lea r8, [rdx + {cpu}]",
    "mov [r8 + {this}], r8",
    "mov [r8 + {boot}], rdi",
    "mov [r8 + {index}], esi",
    // The selectors of the ring the kernel is to run in.
    "mov r9d, {code_0}",
    "mov r10d, {data_0}",
    "cmp dword ptr [rdi + {ring}], 0",
    "je 2f",
    "mov r9d, {code_3}",
    "mov r10d, {data_3}",
    "2:",
    "mov [r8 + {kernel_cs}], r9",
    "mov [r8 + {kernel_ss}], r10",
    // TSS: one stack for all exceptions, all covered ports allowed.
    "lea rax, [rdx + {fault_stack_top}]",
    "mov [r8 + {tss_rsp0}], rax",
    "mov [r8 + {tss_ist1}], rax",
    "mov word ptr [r8 + {tss_bitmap_offset}], {bitmap_offset}",
    "mov byte ptr [r8 + {tss_bitmap_end}], 0xff",
    // GDT, the TSS descriptor's base in its three pieces last.
    "movabs rax, {descriptor_code_0}",
    "mov [r8 + {gdt} + {code_0}], rax",
    "movabs rax, {descriptor_data_0}",
    "mov [r8 + {gdt} + {data_0}], rax",
    "movabs rax, {descriptor_data_3}",
    "mov [r8 + {gdt} + {data_3} - 3], rax",
    "movabs rax, {descriptor_code_3}",
    "mov [r8 + {gdt} + {code_3} - 3], rax",
    "lea rax, [r8 + {tss}]",
    "mov word ptr [r8 + {gdt} + {tss_selector}], {tss_limit}",
    "mov [r8 + {gdt} + {tss_selector} + 2], ax",
    "shr rax, 16",
    "mov [r8 + {gdt} + {tss_selector} + 4], al",
    "mov byte ptr [r8 + {gdt} + {tss_selector} + 5], {tss_access}",
    "shr rax, 8",
    "mov [r8 + {gdt} + {tss_selector} + 7], al",
    "shr rax, 8",
    "mov [r8 + {gdt} + {tss_selector} + 8], eax",
    "lea rax, [r8 + {gdt}]",
    "mov word ptr [r8 + {register}], {gdt_limit}",
    "mov [r8 + {register} + 2], rax",
    "lgdt [r8 + {register}]",
    "lea rax, [rip + {idt}]",
    "mov word ptr [r8 + {register}], {idt_limit}",
    "mov [r8 + {register} + 2], rax",
    "lidt [r8 + {register}]",
    "mov eax, {tss_selector}",
    "ltr ax",
    // Null data selectors are right in both rings; the GS base is set after its selector, which would clear
    // it.
    "xor eax, eax",
    "mov ds, eax",
    "mov es, eax",
    "mov fs, eax",
    "mov gs, eax",
    "mov ecx, {msr_gs_base}",
    "mov rdx, r8",
    "mov eax, r8d",
    "shr rdx, 32",
    "wrmsr",
    // To Rust, in the kernel's ring. The stack is as after a call: a return address of zero ends every back
    // trace.
    "lea rax, [rsp - 8]",
    "push r10",
    "push rax",
    "push 2", // flags: interrupts off
    "push r9",
    "lea rax, [rip + {kernel_main}]",
    "push rax",
    "iretq",
    stack_top = const cpu::STACK_TOP,
    fault_stack_top = const cpu::FAULT_STACK_TOP,
    cpu = const cpu::CPU,
    this = const offset_of!(Cpu, this),
    boot = const offset_of!(Cpu, boot),
    index = const offset_of!(Cpu, index),
    kernel_cs = const offset_of!(Cpu, kernel_cs),
    kernel_ss = const offset_of!(Cpu, kernel_ss),
    ring = const offset_of!(BootInfo, ring),
    gdt = const GDT,
    gdt_limit = const size_of::<[u64; 9]>() - 1,
    register = const offset_of!(Cpu, table_register),
    tss = const TSS,
    tss_limit = const TSS_LIMIT,
    tss_access = const descriptor::TSS_ACCESS,
    tss_selector = const selector::TSS,
    tss_rsp0 = const TSS + offset_of!(Tss, rsp),
    tss_ist1 = const TSS + offset_of!(Tss, ist),
    tss_bitmap_offset = const TSS + offset_of!(Tss, bitmap_offset),
    tss_bitmap_end = const TSS + offset_of!(Tss, bitmap_end),
    bitmap_offset = const offset_of!(Tss, bitmap),
    code_0 = const selector::CODE_0,
    data_0 = const selector::DATA_0,
    code_3 = const selector::CODE_3,
    data_3 = const selector::DATA_3,
    descriptor_code_0 = const descriptor::CODE_0,
    descriptor_data_0 = const descriptor::DATA_0,
    descriptor_data_3 = const descriptor::DATA_3,
    descriptor_code_3 = const descriptor::CODE_3,
    msr_gs_base = const 0xc000_0101u32,
    idt = sym crate::exceptions::IDT,
    idt_limit = const crate::exceptions::IDT_LIMIT,
    kernel_main = sym crate::kernel_main,
);
