//! Evil to the processor: code that is none, exceptions without handlers, privileged instructions.

use core::mem::offset_of;

use abi::boot::{HOLE, KERNEL_BASE};

use super::{Culprit, raw};
use crate::cpu::{Cpu, Tss};
use crate::exceptions::IDT;

/// Goes where no code is, or in the middle of some.
pub(super) fn jump(culprit: &mut Culprit) {
    let anywhere = culprit.random.next();
    let target = match culprit.variant(8) {
        0 => 0,
        1 => HOLE,
        // Not canonical, whatever the processor's linear addresses are.
        2 => 0x8000_0000_0000_0000 | anywhere,
        3 => culprit.boot.vcpu_pages.base,
        // The exceptions' stubs, with no exception.
        4 => KERNEL_BASE + anywhere % 0x400,
        5 => KERNEL_BASE + anywhere % 0x4000,
        6 => u64::MAX,
        _ => anywhere >> 17,
    };
    match culprit.below(2) {
        0 => raw::jump(target),
        _ => raw::return_to(target),
    }
}

/// Takes away what exceptions need, then raises one.
pub(super) fn idt(culprit: &mut Culprit) {
    let cpu: *const Cpu = culprit.cpu;
    let cpu = cpu as u64;
    let ist = cpu + offset_of!(Cpu, tss) as u64 + offset_of!(Tss, ist) as u64;
    let (first, garbage) = (&raw const IDT as u64, culprit.random.next());
    match (culprit.boot.ring, culprit.variant(6)) {
        // Below ring 0 there is no `lidt`, but the descriptor tables and the stacks are in reach.
        (0, 0) => raw::lidt(0, 0),
        (0, 1) => raw::lidt(garbage, 0xffff),
        (0, 2) => raw::lidt(first, 7),
        (_, 3) => raw::fill(cpu + offset_of!(Cpu, gdt) as u64, 9, |i| garbage.wrapping_mul(i)),
        (_, 4) => raw::poke(ist, garbage),
        (_, 5) => raw::poke(ist, HOLE),
        // The table is read-only; what says so is not.
        _ => {
            super::memory::make_writable(first);
            super::memory::make_writable(first + abi::PAGE_SIZE);
            raw::fill(first, 64, |_| 0);
        }
    }
    raw::undefined();
}

/// Instructions that only a kernel may execute, with operands that none would choose.
pub(super) fn privileged(culprit: &mut Culprit) {
    for _ in 0..200 {
        let which = culprit.below(raw::PRIVILEGED);
        let (a, b) = (culprit.number(), culprit.number());
        raw::privileged(which, a, b);
    }
}
