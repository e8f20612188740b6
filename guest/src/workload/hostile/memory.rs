//! Evil through memory: what the VMM reads, what the processor reads, and what is not there.

use abi::boot::{HOLE, KERNEL_BASE, Region};
use abi::port::exit_code;

use super::{Culprit, raw};
use crate::hypercall;

/// Page table entry bits: present, writable, user.
const PRESENT: u64 = 7;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const LARGE_PAGE: u64 = 2 << 20;

/// Where the VMM puts the page tables: from here to the kernel, the top one last.
const PAGE_TABLES: u64 = 2 * abi::PAGE_SIZE;

/// Garbage in the vCPUs' pages and the report while the VMM uses them, and in the boot information; then an
/// end as if nothing were, so that the VMM reads it all.
pub(super) fn pages(culprit: &mut Culprit) {
    let boot = culprit.boot;
    let shared = [boot.vcpu_pages, boot.report];
    // All ones, and words of the kind that overflow sums; and more often anything.
    let pattern = culprit.boot.run.seed % 4;
    let mut garbage = |region: Region| {
        raw::fill(region.base, region.len / 8, |_| match pattern {
            0 => u64::MAX,
            1 => culprit.number(),
            _ => culprit.random.next(),
        });
    };
    shared.into_iter().for_each(&mut garbage);
    while !culprit.cpu.is_first() {
        for region in shared {
            raw::fill(region.base, region.len / 8, |_| culprit.random.next());
        }
    }
    let info = Region {
        base: culprit.boot as *const _ as u64,
        len: size_of_val(culprit.boot) as u64,
    };
    raw::fill(info.base, info.len / 8, |_| u64::MAX);
    hypercall::exit(exit_code::DONE);
}

/// Takes the page tables apart, then touches what they map.
pub(super) fn tables(culprit: &mut Culprit) {
    let variant = culprit.variant(7);
    let (top, ring, memory) = (top(), culprit.boot.ring, culprit.boot.memory[0]);
    let words = (top - PAGE_TABLES) / 8 + 512;
    let garbage = culprit.random.next();
    for _ in 0..64 {
        let victim = PAGE_TABLES + 8 * culprit.below(words);
        match variant {
            0 => raw::fill(top, 512, |_| 0),
            1 => raw::fill(PAGE_TABLES, words, |i| garbage.wrapping_mul(i | 1)),
            // Reserved bits, or a table in the hole, or one that maps itself.
            2 => raw::poke(victim, raw::peek(victim) | 0x000f_ff00_0000_0000),
            3 => raw::poke(victim, HOLE | PRESENT),
            4 => raw::poke(top, top | PRESENT),
            5 => raw::poke(victim, raw::peek(victim) ^ 1 << culprit.below(64)),
            _ => raw::poke(victim, culprit.random.next() | PRESENT),
        }
        if ring == 0 {
            raw::reload_cr3();
        }
        raw::peek(memory.base + culprit.below(memory.len / 8) * 8);
        raw::peek(culprit.below(memory.base + memory.len) & !7);
    }
}

/// Maps addresses where no memory is, and reads, writes, or runs them; across the end of memory as well.
pub(super) fn mmio(culprit: &mut Culprit) {
    let variant = culprit.variant(8);
    let memory = culprit.boot.memory[0];
    // The last page of memory serves as a page directory for the hole: 1 GiB of nothing, or of anything.
    let directory = (memory.base + memory.len - abi::PAGE_SIZE) & !(abi::PAGE_SIZE - 1);
    let nothing = match culprit.below(4) {
        0 => 0xfee0_0000 & !(LARGE_PAGE - 1),
        1 => 1 << 39,
        _ => HOLE,
    };
    raw::fill(directory, 512, |i| (nothing + i * LARGE_PAGE) | PRESENT | LARGE);
    let pointers = raw::peek(top()) & ADDRESS;
    raw::poke(pointers + 8 * (HOLE >> 30), directory | PRESENT);
    // And the page after the end of memory, which is aligned unless the user wants it otherwise.
    let end = memory.base + memory.len;
    if end.is_multiple_of(LARGE_PAGE) {
        let directory = raw::peek(pointers + 8 * (end >> 30)) & ADDRESS;
        raw::poke(directory + 8 * (end >> 21 & 511), end | PRESENT | LARGE);
    }
    let somewhere = HOLE + culprit.below(1 << 30);
    match variant {
        0 => raw::poke(somewhere & !7, culprit.random.next()),
        1 => _ = raw::peek(somewhere & !7),
        // Across a page, across the end of memory, and from the end of memory on.
        2 => raw::poke(somewhere | 0xffc, culprit.random.next()),
        3 => _ = raw::peek(end - 3),
        4 => raw::poke(end - 5, u64::MAX),
        5 => raw::port(0x3f8, 4, true, Some(3000), 0, end - 2000),
        6 => raw::jump(somewhere),
        _ => raw::copy(somewhere, memory.base + 1, 10_000),
    }
}

/// Lets everybody write the pages around `address`, in all of the tables that map it.
pub(super) fn make_writable(address: u64) {
    let mut table = top();
    for shift in [39, 30, 21, 12] {
        let slot = table + 8 * (address >> shift & 511);
        let entry = raw::peek(slot) | PRESENT;
        raw::poke(slot, entry);
        if entry & LARGE != 0 {
            break;
        }
        table = entry & ADDRESS;
    }
}

/// The top page table: the last page below the kernel that holds anything.
fn top() -> u64 {
    let mut page = KERNEL_BASE - abi::PAGE_SIZE;
    while page > PAGE_TABLES && (0..512).all(|i| raw::peek(page + 8 * i) == 0) {
        page -= abi::PAGE_SIZE;
    }
    page
}
