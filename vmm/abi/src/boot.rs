//! How a vCPU starts.
//!
//! Every vCPU enters the image's ELF entry point in 64-bit mode, ring 0, interrupts off, with the VMM's page
//! tables:
//!
//! | register | holds |
//! |---|---|
//! | `rdi` | address of the [`BootInfo`] |
//! | `rsi` | the vCPU's index, which is also its APIC id |
//! | `rdx` | base of the vCPU's area: [`CPU_AREA_SIZE`] zeroed bytes |
//!
//! Memory is mapped one to one, accessible from ring 3, and nothing is both writable and executable:
//!
//! ```text
//! 0x0000_0000  not mapped: null pointers fault
//! 0x0000_1000  BootInfo                         read-write
//! 0x0000_2000  what the VMM probed the host with  read-execute
//! 0x0000_3000  page tables                      read-write (a guest may change them)
//! 0x0020_0000  the kernel image                 as its ELF segments say
//!              vCPU pages, report               read-write
//!              per vCPU: guard page, then area  not mapped; read-write
//!              the rest, in the memory map      read-write, 2 MiB pages where aligned
//! 0xc000_0000  not memory, up to 4 GiB          the rest of a larger guest's memory lies above
//! ```

use crate::config::RunConfig;
use crate::{Plain, assert_layout};

/// `"pvlabgst"`, the first eight bytes of the boot information.
pub const MAGIC: u64 = u64::from_le_bytes(*b"pvlabgst");

/// Lowest address a segment of the kernel image may be loaded at.
pub const KERNEL_BASE: u64 = 0x20_0000;

/// Memory ends here, and goes on at [`HIGH_MEMORY`].
pub const HOLE: u64 = 0xc000_0000;

/// Where memory goes on above the [`HOLE`].
pub const HIGH_MEMORY: u64 = 0x1_0000_0000;

/// Bytes of zeroed memory each vCPU gets for its stacks and descriptor tables, with an unmapped page below.
pub const CPU_AREA_SIZE: u64 = 64 * 1024;

/// Distance between the areas of neighbouring vCPUs: an area and its guard page.
pub const CPU_AREA_STRIDE: u64 = CPU_AREA_SIZE + crate::PAGE_SIZE;

/// A run of guest-physical memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Region {
    /// First address.
    pub base: u64,
    /// Length.
    pub len: u64,
}

/// Most entries of [`BootInfo::memory`].
pub const MEMORY_REGIONS: usize = 4;

/// What the VMM tells the guest. Read-only by agreement: the VMM never looks at it again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct BootInfo {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`VERSION`](crate::VERSION).
    pub version: u32,
    /// The ring the kernel is to run in: 0 or 3.
    pub ring: u32,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// How to kick: one of [`kick`](crate::kick)'s values.
    pub kick: u32,
    /// Frequency of the TSC in kHz.
    pub tsc_khz: u64,
    /// One [`VcpuPage`](crate::vcpu_page::VcpuPage) per vCPU, in order.
    pub vcpu_pages: Region,
    /// The [`Report`](crate::report::Report) followed by one [`VcpuReport`](crate::report::VcpuReport) per
    /// vCPU.
    pub report: Region,
    /// The vCPUs' areas, [`CPU_AREA_STRIDE`] apart; the first one starts at `base`.
    pub cpu_areas: Region,
    /// Memory the guest may use as it likes, zeroed; unused entries are empty.
    pub memory: [Region; MEMORY_REGIONS],
    /// What to do.
    pub run: RunConfig,
    /// The value of CR3 that vCPUs start with, for kernels that run where they cannot read the register.
    pub cr3: u64,
}

assert_layout!(BootInfo, size 216, ring at 12, kick at 20, tsc_khz at 24, vcpu_pages at 32, report at 48, cpu_areas at 64,
    memory at 80, run at 144, cr3 at 208);

// SAFETY: integers only, `#[repr(C)]`, and the asserted size is the sum of the fields' sizes.
unsafe impl Plain for BootInfo {}
