//! Where things lie in guest-physical memory; [`abi::boot`] draws the map.

use abi::PAGE_SIZE;
use abi::boot::{CPU_AREA_SIZE, CPU_AREA_STRIDE, HIGH_MEMORY, HOLE, KERNEL_BASE, MEMORY_REGIONS, Region};

use crate::error::Error;

/// Size of a large page, and the alignment it needs.
pub(crate) const LARGE_PAGE: u64 = 2 << 20;

/// Address of the boot information.
pub(crate) const BOOT_INFO: u64 = PAGE_SIZE;

/// A page for the code that measures the host, before the guest's own runs.
pub(crate) const PROBE: u64 = 2 * PAGE_SIZE;

/// Page tables lie from here up to the kernel.
pub(crate) const PAGE_TABLES: u64 = 3 * PAGE_SIZE;

/// What the kernel may need while it boots, whatever the guest's size; a reserve that it keeps free, too.
const BOOT_ROOM: u64 = 512 << 10;

/// More than this the page tables below the kernel could not map.
const MAX_MEMORY: u64 = 256 << 30;

/// The map of one guest's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// What exists as memory: one region, or two around the hole.
    pub(crate) ram: Vec<Region>,
    pub(crate) vcpu_pages: Region,
    pub(crate) report: Region,
    /// From the first area on; the page below is its guard page.
    pub(crate) cpu_areas: Region,
    /// What is left for the guest.
    pub(crate) usable: Vec<Region>,
}

impl Layout {
    /// Lays out `memory` bytes for `vcpus` vCPUs and a kernel that ends at `kernel_end`.
    pub(crate) fn new(memory: u64, vcpus: u32, kernel_end: u64) -> Result<Self, Error> {
        let page_up = |address: u64| address.next_multiple_of(PAGE_SIZE);
        let vcpu_pages = Region {
            base: page_up(kernel_end),
            len: u64::from(vcpus) * PAGE_SIZE,
        };
        let report = Region {
            base: end(vcpu_pages),
            len: page_up(abi::report::size(vcpus)),
        };
        let cpu_areas = Region {
            base: end(report) + PAGE_SIZE,
            len: u64::from(vcpus) * CPU_AREA_STRIDE - PAGE_SIZE,
        };
        // Room for the kernel's allocator, which keeps up to 1/64 for itself and has lists for each vCPU in up to
        // two zones, and for what is allocated while it boots.
        let needed = end(cpu_areas) + (memory.min(HOLE) >> 6) + 4 * PAGE_SIZE * u64::from(vcpus) + BOOT_ROOM;
        if needed > HOLE {
            return Err(Error::Usage(format!(
                "{vcpus} vCPUs do not fit below the hole in memory at 3 GiB: give fewer"
            )));
        }
        if memory < needed || memory > MAX_MEMORY {
            return Err(Error::Usage(format!(
                "{} KiB of memory for {vcpus} vCPUs will not do: give the guest between {} KiB and {} GiB",
                memory >> 10,
                needed.div_ceil(1 << 10),
                MAX_MEMORY >> 30
            )));
        }
        let memory = memory & !(PAGE_SIZE - 1);
        let mut ram = vec![Region {
            base: 0,
            len: memory.min(HOLE),
        }];
        let first_free = end(cpu_areas);
        let mut usable = vec![Region {
            base: first_free,
            len: ram[0].len - first_free,
        }];
        if memory > HOLE {
            let high = Region {
                base: HIGH_MEMORY,
                len: memory - HOLE,
            };
            ram.push(high);
            usable.push(high);
        }
        Ok(Self {
            ram,
            vcpu_pages,
            report,
            cpu_areas,
            usable,
        })
    }

    /// The page shared with vCPU `index`.
    pub(crate) fn vcpu_page(&self, index: u32) -> u64 {
        self.vcpu_pages.base + u64::from(index) * PAGE_SIZE
    }

    /// The area of vCPU `index`.
    pub(crate) fn cpu_area(&self, index: u32) -> Region {
        Region {
            base: self.cpu_areas.base + u64::from(index) * CPU_AREA_STRIDE,
            len: CPU_AREA_SIZE,
        }
    }

    /// [`usable`](Self::usable) as the boot information has it.
    pub(crate) fn memory_map(&self) -> [Region; MEMORY_REGIONS] {
        let mut map = [Region::default(); MEMORY_REGIONS];
        map[..self.usable.len()].copy_from_slice(&self.usable);
        map
    }
}

/// The first address after `region`.
pub(crate) fn end(region: Region) -> u64 {
    region.base + region.len
}

const _: () = assert!(PAGE_TABLES < KERNEL_BASE && MEMORY_REGIONS >= 2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_overlaps_and_all_is_memory() {
        for vcpus in [1, 2, 64, 1024] {
            for memory in [128 << 20, HOLE, HOLE + (4 << 20), 64 << 30] {
                let layout = Layout::new(memory, vcpus, KERNEL_BASE + 12345).unwrap();
                let mut regions = vec![layout.vcpu_pages, layout.report];
                regions.extend((0..vcpus).map(|i| layout.cpu_area(i)));
                regions.extend(&layout.usable);
                assert!(regions[0].base >= KERNEL_BASE + 12345);
                for pair in regions.windows(2) {
                    assert!(end(pair[0]) <= pair[1].base, "{pair:x?}");
                }
                for region in &regions {
                    assert_eq!(region.base % PAGE_SIZE, 0);
                    assert!(
                        layout
                            .ram
                            .iter()
                            .any(|ram| ram.base <= region.base && end(*region) <= end(*ram)),
                        "{region:x?} is not memory"
                    );
                }
                assert_eq!(layout.ram.iter().map(|ram| ram.len).sum::<u64>(), memory);
            }
        }
    }

    #[test]
    fn every_area_has_a_guard_page_below() {
        let layout = Layout::new(64 << 20, 3, KERNEL_BASE).unwrap();
        assert_eq!(end(layout.report) + PAGE_SIZE, layout.cpu_area(0).base);
        assert_eq!(end(layout.cpu_area(0)) + PAGE_SIZE, layout.cpu_area(1).base);
        assert_eq!(end(layout.cpu_area(2)), layout.usable[0].base);
    }

    #[test]
    fn too_little_and_too_much_memory_are_refused() {
        for memory in [0, 1024, 2 << 20, MAX_MEMORY + 1, u64::MAX] {
            assert!(Layout::new(memory, 1, KERNEL_BASE + 4096).is_err(), "{memory}");
        }
        assert!(Layout::new(8 << 20, 1024, KERNEL_BASE).is_err());
    }
}
