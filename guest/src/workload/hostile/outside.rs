//! Evil through the ports: garbage, floods, and guests that never end.

use core::arch::global_asm;
use core::hint::spin_loop;
use core::sync::atomic::Ordering;

use abi::interrupt;
use abi::port::{self, measure};

use super::{Culprit, raw};
use crate::hypercall;

/// How often something is repeated that the VMM has to bear: enough for what it must not keep to show.
const FLOOD: u64 = 2000;

/// Accesses to ports that exist, with any argument; then to any port, of any kind, until one is too much.
pub(super) fn ports(culprit: &mut Culprit) {
    for _ in 0..FLOOD / 10 {
        let value = culprit.number() as u32;
        match culprit.below(4) {
            0 => hypercall::out32(port::KICK_CPU, value),
            1 => hypercall::measure(value),
            direction => {
                let port = port::CONSOLE + culprit.below(port::CONSOLE_LEN.into()) as u16;
                raw::port(port, 1, direction == 2, None, value, 0);
            }
        }
    }
    loop {
        let any = culprit.random.next() as u16;
        // Seven of eight lie where hypercalls are, or will be.
        let port = if culprit.below(8) == 0 { any } else { any % 0x540 };
        let width = 1 << culprit.below(3);
        let count = match culprit.below(4) {
            0 => None,
            // As many bytes as a hypercall has.
            1 => Some(4 / width),
            2 => Some(0),
            _ => Some(1 + culprit.below(5000)),
        };
        let value = culprit.number() as u32;
        let data = culprit.boot.memory[0].base;
        raw::port(port, width, any & 0x8000 != 0, count, value, data);
    }
}

/// Hypercalls with arguments that make no sense, and an end that makes none.
pub(super) fn calls(culprit: &mut Culprit) {
    for i in 0..FLOOD {
        let absent = (culprit.number() as u32).max(culprit.boot.vcpus);
        hypercall::kick(absent);
        if i % 8 == 0 {
            hypercall::measure(culprit.number() as u32);
            interrupts(culprit);
        }
    }
    for _ in 0..FLOOD / 10 {
        hypercall::measure(measure::BEGIN);
        hypercall::measure(measure::END);
    }
    hypercall::exit(1000 + culprit.random.next() as u32 % 1_000_000);
}

/// Interrupts for anybody, timers for any time, and preemptions that nobody offers. The vectors are ones that
/// the kernel has gates for: it is to go on.
fn interrupts(culprit: &mut Culprit) {
    let page = culprit.cpu.page();
    page.deadline.store(culprit.number(), Ordering::Relaxed);
    page.ipi_mask.store(culprit.number(), Ordering::Relaxed);
    page.ipi_base.store(culprit.number() as u32, Ordering::Relaxed);
    let any = culprit.number() as u32;
    let vector = 0x20 | any & 0x1f;
    hypercall::out32(port::SEND_IPI, any & !0xff | vector);
    hypercall::out32(
        port::SEND_IPI,
        interrupt::ipi(interrupt::target::MASK, vector as u8),
    );
    hypercall::out32(port::SET_TIMER, if any & 0x100 == 0 { vector } else { any });
    hypercall::preempt_me();
}

/// Everything a terminal could choke on, and lines that look like the VMM's or the guest's last words.
pub(super) fn console(culprit: &mut Culprit) {
    let says = |text: &[u8]| text.iter().for_each(|&byte| hypercall::out8(port::CONSOLE, byte));
    for _ in 0..20 {
        match culprit.below(4) {
            0 => says(b"\x1b]0;mine\x07\x1b[2J\x9b31m\r\nvmm: all is well\n"),
            1 => says(b"guest vCPU 77: \x1b[41m not what it seems \xff\xfe\xc0\x80"),
            2 => says(&[b'x'; 200]),
            _ => (0..200).for_each(|_| says(&[culprit.random.next() as u8])),
        }
    }
    if culprit.cpu.is_first() {
        hypercall::exit(culprit.below(5) as u32);
    }
}

/// Never ends, each vCPU in a way of its own.
pub(super) fn loops(culprit: &mut Culprit) {
    let variant = culprit.variant(6);
    loop {
        match variant {
            0 => spin_loop(),
            1 => hypercall::halt(),
            2 => {
                hypercall::kick(culprit.cpu.index());
                hypercall::halt();
            }
            3 => hypercall::kick(u32::MAX),
            4 => raw::port(port::CONSOLE + 5, 1, true, None, 0, 0),
            _ if culprit.boot.ring == 0 => exceptions(),
            _ => hypercall::measure(measure::BEGIN),
        }
    }
}

global_asm!(
    ".section .text.hostile, \"ax\"",
    ".type hostile_handler, @function",
    "hostile_handler: iretq",
    ".text"
);

/// Takes the same exception for ever: its handler returns to the instruction that raised it.
fn exceptions() {
    unsafe extern "C" {
        fn hostile_handler();
    }
    let handler = u128::from(hostile_handler as *const () as u64);
    // An interrupt gate in the kernel's code segment, on the stack of IST 1, for every vector.
    let gate = handler & 0xffff
        | u128::from(crate::cpu::selector::CODE_0) << 16
        | 1 << 32
        | 0x8e << 40
        | (handler >> 16 & 0xffff) << 48
        | (handler >> 32) << 64;
    let table = [gate; 32];
    raw::lidt(&raw const table as u64, (size_of_val(&table) - 1) as u16);
    raw::undefined();
}
