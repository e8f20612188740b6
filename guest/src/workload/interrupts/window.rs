//! Pages that workloads map as they like: the first 2 MiB of the third 512 GiB, where nothing else is.

use core::sync::atomic::{AtomicU64, Ordering};

use abi::PAGE_SIZE;
use abi::boot::BootInfo;
use mm::{PageNumber, PageRange};

use crate::memory;
use crate::once::Once;

/// The first one's address.
const START: u64 = 2 << 39;

/// Present, accessible from ring 3, accessed, dirty.
pub(super) const READ_ONLY: u64 = 0x65;
/// That, and writable.
pub(super) const MAPPED: u64 = 0x67;

/// A page of eight-byte words: a page table, or data.
#[repr(align(4096))]
pub(super) struct Page(pub(super) [AtomicU64; 512]);

impl Page {
    /// Memory is mapped one to one.
    pub(super) fn address(&self) -> u64 {
        &raw const *self as u64
    }
}

/// Three levels of tables, and the frames.
static PAGES: Once<&'static [Page]> = Once::new();

/// Takes the memory, with `frames` frames to map, and hooks the tables in; nothing is mapped yet. vCPU 0 calls
/// it while it boots.
pub(super) fn init(boot: &BootInfo, frames: usize) {
    let pages = memory::slice(3 + frames, || Page([const { AtomicU64::new(0) }; 512]));
    PAGES.set(pages);
    // SAFETY: the VMM's top table, mapped one to one and writable; this entry of it is not used, and the
    // processor may read it at any time: atomic.
    let top = unsafe { &*(boot.cr3 as *const Page) };
    // Relaxed: the barrier before the workload orders it.
    pages[1].0[0].store(pages[2].address() | MAPPED, Ordering::Relaxed);
    pages[0].0[0].store(pages[1].address() | MAPPED, Ordering::Relaxed);
    top.0[(START >> 39) as usize].store(pages[0].address() | MAPPED, Ordering::Relaxed);
}

/// The frames.
pub(super) fn frames() -> &'static [Page] {
    &PAGES.get()[3..]
}

/// The page table's entry of page `index`.
pub(super) fn entry(index: usize) -> &'static AtomicU64 {
    &PAGES.get()[2].0[index]
}

/// The entry of the table above, which maps all of them.
pub(super) fn directory_entry() -> &'static AtomicU64 {
    &PAGES.get()[1].0[0]
}

/// So many of the pages, from the one with this index on.
pub(super) const fn pages(index: u64, count: u64) -> PageRange {
    PageRange::new(PageNumber::containing(START).plus(index), count)
}

/// Where the page with this index starts.
pub(super) const fn address(index: u64) -> u64 {
    START + PAGE_SIZE * index
}
