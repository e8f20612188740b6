//! What the window needs of the machine besides what the allocator needs.

use crate::platform::Platform;
use crate::window::page::PageRange;

/// A machine whose CPUs translate addresses of the window by the window's page tables, and remember
/// translations.
///
/// # Safety
///
/// When [`flush`](Mmu::flush) returns, no CPU uses a translation of those pages, or will, that it read from
/// the tables before the call. A CPU that sleeps may flush when it wakes.
pub unsafe trait Mmu: Platform<Lock: Send + Sync> + Sync {
    /// Makes all CPUs forget what they remember of these pages, this one too. It may wait for them; no lock
    /// is held.
    fn flush(&self, ranges: &[PageRange]);
}
