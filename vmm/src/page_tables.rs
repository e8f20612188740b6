//! The guest's first page tables: four levels, one to one, everything accessible from ring 3.
//!
//! Ring 3 needs that because the kernel itself may run there; in ring 0 nothing is lost, since no one else
//! lives in the guest, and neither SMEP nor SMAP is on.

use abi::PAGE_SIZE;
use abi::boot::{CPU_AREA_SIZE, KERNEL_BASE, Region};

use crate::error::Error;
use crate::kernel::Kernel;
use crate::layout::{self, LARGE_PAGE, Layout};
use crate::memory::GuestMemory;

/// Page table entry bits (Intel SDM volume 3, table 4-20).
mod bit {
    pub(super) const PRESENT: u64 = 1 << 0;
    pub(super) const WRITABLE: u64 = 1 << 1;
    pub(super) const USER: u64 = 1 << 2;
    /// Accessed and dirty, set in advance: nobody looks at them, and the processor need not write them.
    pub(super) const USED: u64 = 1 << 5 | 1 << 6;
    pub(super) const LARGE: u64 = 1 << 7;
    pub(super) const NO_EXECUTE: u64 = 1 << 63;
}

/// What a mapping allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) write: bool,
    pub(crate) execute: bool,
}

const DATA: Access = Access {
    write: true,
    execute: false,
};

const CODE: Access = Access {
    write: false,
    execute: true,
};

impl Access {
    fn bits(self) -> u64 {
        let write = if self.write { bit::WRITABLE } else { 0 };
        let execute = if self.execute { 0 } else { bit::NO_EXECUTE };
        bit::PRESENT | bit::USER | bit::USED | write | execute
    }
}

/// Builds the tables for `layout` and `kernel`; returns the address for CR3.
pub(crate) fn build(memory: &GuestMemory, layout: &Layout, kernel: &Kernel) -> Result<u64, Error> {
    let mut tables = Tables::default();
    let low = |base, end| Region {
        base,
        len: end - base,
    };
    tables.map(low(layout::BOOT_INFO, layout::PROBE), DATA);
    tables.map(low(layout::PROBE, layout::PAGE_TABLES), CODE);
    tables.map(low(layout::PAGE_TABLES, KERNEL_BASE), DATA);
    for segment in kernel.segments() {
        tables.map(segment.region, segment.access);
    }
    tables.map(layout.vcpu_pages, DATA);
    tables.map(layout.report, DATA);
    for base in (layout.cpu_areas.base..).step_by(abi::boot::CPU_AREA_STRIDE as usize) {
        if base >= layout::end(layout.cpu_areas) {
            break;
        }
        tables.map(
            Region {
                base,
                len: CPU_AREA_SIZE,
            },
            DATA,
        );
    }
    for region in &layout.usable {
        tables.map(*region, DATA);
    }
    tables.write(memory)
}

/// Entries with the virtual addresses they map.
type Entries = Vec<(u64, u64)>;

/// Leaf entries, small and large.
#[derive(Default)]
struct Tables {
    small: Entries,
    large: Entries,
}

impl Tables {
    /// Maps all pages that `region` touches, with large pages where they fit.
    fn map(&mut self, region: Region, access: Access) {
        let end = layout::end(region).next_multiple_of(PAGE_SIZE);
        let mut at = region.base & !(PAGE_SIZE - 1);
        while at < end {
            if at.is_multiple_of(LARGE_PAGE) && end - at >= LARGE_PAGE {
                self.large.push((at, at | access.bits() | bit::LARGE));
                at += LARGE_PAGE;
            } else {
                self.small.push((at, at | access.bits()));
                at += PAGE_SIZE;
            }
        }
    }

    /// Writes the tables from the bottom up, a page each; returns the top one's address.
    fn write(self, memory: &GuestMemory) -> Result<u64, Error> {
        let mut next = layout::PAGE_TABLES;
        let mut level = write_level(memory, &mut next, self.small, LARGE_PAGE.ilog2())?;
        level.extend(self.large);
        for shift in [30, 39, 48] {
            level = write_level(memory, &mut next, level, shift)?;
        }
        // The one table of the top level maps everything below 2^48.
        let top = level.first().map_or(0, |(_, entry)| *entry);
        Ok(top & !(PAGE_SIZE - 1) & !bit::NO_EXECUTE)
    }
}

/// Writes one level of tables, each of which maps 2^`shift` bytes, and returns the entries that point to
/// them.
fn write_level(
    memory: &GuestMemory,
    next: &mut u64,
    mut entries: Entries,
    shift: u32,
) -> Result<Entries, Error> {
    // Stable: of two entries for one page, which segments may share, the later one counts.
    entries.sort_by_key(|(address, _)| *address);
    let mut pointers = Entries::new();
    for group in entries.chunk_by(|(a, _), (b, _)| a >> shift == b >> shift) {
        let mut table = [0; PAGE_SIZE as usize];
        for (address, entry) in group {
            let index = (address >> (shift - 9)) as usize % 512;
            table[8 * index..8 * index + 8].copy_from_slice(&entry.to_le_bytes());
        }
        if *next >= KERNEL_BASE {
            return Err(Error::Usage(
                "so much memory needs more page tables than there is room for: give less".into(),
            ));
        }
        memory.write_bytes(*next, &table)?;
        let pointer = *next | bit::PRESENT | bit::WRITABLE | bit::USER | bit::USED;
        pointers.push((group[0].0 >> shift << shift, pointer));
        *next += PAGE_SIZE;
    }
    Ok(pointers)
}

/// What the processor would find for `address`: the frame's address and the leaf entry.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn walk(memory: &GuestMemory, cr3: u64, address: u64) -> Option<(u64, u64)> {
    let mut table = cr3;
    for shift in [39, 30, 21, 12] {
        let slot = table + 8 * (address >> shift & 511);
        let entry: u64 = memory.load_hint(slot);
        if entry & bit::PRESENT == 0 {
            return None;
        }
        let target = entry & 0x000f_ffff_ffff_f000;
        if shift == 12 || entry & bit::LARGE != 0 {
            return Some((target, entry));
        }
        table = target;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_one_to_one_with_the_right_access_and_leaves_guards_out() {
        let kernel = Kernel::embedded();
        let layout = Layout::new(64 << 20, 3, kernel.end()).unwrap();
        let memory = GuestMemory::new(&layout.ram).unwrap();
        let cr3 = build(&memory, &layout, kernel).unwrap();

        assert_eq!(walk(&memory, cr3, 0), None, "the null page");
        for index in 0..3 {
            let area = layout.cpu_area(index);
            assert_eq!(
                walk(&memory, cr3, area.base - 1),
                None,
                "guard page of vCPU {index}"
            );
            assert_eq!(walk(&memory, cr3, area.base).unwrap().0, area.base);
            assert!(walk(&memory, cr3, layout::end(area) - 1).is_some());
        }
        for segment in kernel.segments() {
            let (frame, entry) = walk(&memory, cr3, segment.region.base).unwrap();
            assert_eq!(frame, segment.region.base & !(PAGE_SIZE - 1));
            assert_eq!(entry & bit::WRITABLE != 0, segment.access.write);
            assert_eq!(entry & bit::NO_EXECUTE == 0, segment.access.execute);
            assert!(!(segment.access.write && segment.access.execute));
        }
        let (frame, entry) = walk(&memory, cr3, (64 << 20) - 1).unwrap();
        assert_eq!((frame, entry & bit::LARGE != 0), ((64 << 20) - LARGE_PAGE, true));
        assert_eq!(walk(&memory, cr3, 64 << 20), None, "beyond the end of memory");
    }
}
