//! Instructions as they are, with no questions asked. See [`super`] on safety.

use core::arch::asm;

/// Stores a word.
pub(super) fn poke(address: u64, value: u64) {
    // SAFETY: whatever it overwrites is the guest's own.
    unsafe { asm!("mov [{}], {}", in(reg) address, in(reg) value, options(nostack, preserves_flags)) }
}

/// Loads a word.
pub(super) fn peek(address: u64) -> u64 {
    let value;
    // SAFETY: whatever it reads is the guest's own.
    unsafe { asm!("mov {}, [{}]", out(reg) value, in(reg) address, options(nostack, preserves_flags)) }
    value
}

/// Stores `value` in every word from `address` on.
pub(super) fn fill(address: u64, words: u64, mut value: impl FnMut(u64) -> u64) {
    for i in 0..words {
        poke(address + 8 * i, value(i));
    }
}

/// Goes on at `address`.
pub(super) fn jump(address: u64) -> ! {
    // SAFETY: whatever runs there runs in the guest.
    unsafe { asm!("jmp {}", in(reg) address, options(noreturn)) }
}

/// Returns to `address`, with nothing sensible on the stack.
pub(super) fn return_to(address: u64) -> ! {
    // SAFETY: whatever runs there runs in the guest.
    unsafe { asm!("push {}", "ret", in(reg) address, options(noreturn)) }
}

/// An `out`, `in`, or string of either of `count` times `width` bytes; `data` is where strings come from
/// and go.
pub(super) fn port(port: u16, width: u64, input: bool, count: Option<u64>, value: u32, data: u64) {
    macro_rules! one {
        ($instruction:literal) => {
            // SAFETY: what the VMM does about it is the question.
            unsafe { asm!($instruction, in("dx") port, inout("eax") value => _, options(nostack)) }
        };
    }
    macro_rules! string {
        ($instruction:literal, $count:ident) => {
            // SAFETY: as above; the memory is the guest's own.
            unsafe {
                asm!($instruction, in("dx") port, inout("rcx") $count => _,
                    inout("rsi") data => _, inout("rdi") data => _, options(nostack));
            }
        };
    }
    match (input, width, count) {
        (false, 1, None) => one!("out dx, al"),
        (false, 2, None) => one!("out dx, ax"),
        (false, _, None) => one!("out dx, eax"),
        (true, 1, None) => one!("in al, dx"),
        (true, 2, None) => one!("in ax, dx"),
        (true, _, None) => one!("in eax, dx"),
        (false, 1, Some(count)) => string!("rep outsb", count),
        (false, 2, Some(count)) => string!("rep outsw", count),
        (false, _, Some(count)) => string!("rep outsd", count),
        (true, 1, Some(count)) => string!("rep insb", count),
        (true, 2, Some(count)) => string!("rep insw", count),
        (true, _, Some(count)) => string!("rep insd", count),
    }
}

/// Loads an IDT.
pub(super) fn lidt(base: u64, limit: u16) {
    let mut operand = [0u8; 10];
    operand[..2].copy_from_slice(&limit.to_le_bytes());
    operand[2..].copy_from_slice(&base.to_le_bytes());
    // SAFETY: the next exception of this vCPU finds what the guest deserves.
    unsafe { asm!("lidt [{}]", in(reg) &operand, options(nostack, preserves_flags)) }
}

/// Raises #UD.
pub(super) fn undefined() {
    // SAFETY: an exception; whether anything handles it is the guest's affair.
    unsafe { asm!("ud2", options(nostack)) }
}

/// Reloads CR3, which makes the processor forget translations.
pub(super) fn reload_cr3() {
    // SAFETY: the value is the one that is there already; what the tables say is the guest's affair.
    unsafe { asm!("mov {0}, cr3", "mov cr3, {0}", out(reg) _, options(nostack, preserves_flags)) }
}

/// Copies bytes, forwards.
pub(super) fn copy(to: u64, from: u64, bytes: u64) {
    // SAFETY: whatever it overwrites is the guest's own.
    unsafe {
        asm!("rep movsb", inout("rcx") bytes => _, inout("rdi") to => _, inout("rsi") from => _,
            options(nostack, preserves_flags));
    }
}

/// An instruction that a kernel should mind; `n` says which, `a` and `b` are its operands.
pub(super) fn privileged(n: u64, a: u64, b: u64) {
    macro_rules! run {
        ($($instruction:literal),+) => {
            // SAFETY: whatever it does to the processor, it is a virtual one.
            unsafe {
                asm!($($instruction),+, inout("rax") a => _, inout("rcx") b => _, inout("rdx") a >> 32 => _,
                    out("r11") _, options(nostack));
            }
        };
    }
    match n {
        0 => run!("wrmsr"),
        1 => run!("mov ecx, 0xc0000080", "wrmsr"), // EFER
        2 => run!("mov cr0, rax"),
        3 => run!("mov cr4, rax"),
        4 => run!("mov cr3, rax"),
        5 => run!("mov cr8, rax"),
        6 => run!("mov dr7, rax"),
        7 => run!("xsetbv"),
        8 => run!("vmcall"),
        9 => run!("vmmcall"),
        10 => run!("syscall"),
        11 => run!("int 0x80"),
        12 => run!("int 2"),
        13 => run!("mov ss, ax"),
        14 => run!("ltr ax"),
        15 => run!("vmrun rax"),
        16 => run!("sti", "hlt"),
        17 => run!("push rax", "popfq"),
        18 => run!("rdmsr"),
        19 => run!("wbinvd"),
        20 => run!("mov cr2, rax"),
        _ => run!("rsm"),
    }
}

/// How many instructions [`privileged`] knows.
pub(super) const PRIVILEGED: u64 = 22;
