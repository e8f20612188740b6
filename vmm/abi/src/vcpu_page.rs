//! The page each vCPU shares with the VMM while it runs.
//!
//! ```text
//!   0  guest writes, VMM reads     state, fault
//! 128  VMM writes, guest reads     preempted
//! ```
//!
//! The halves lie 128 bytes apart, so that neither side's stores disturb the other's cache line, nor the line
//! the hardware prefetches with it.

use core::sync::atomic::{AtomicU32, AtomicU64};

use crate::{PAGE_SIZE, assert_layout};

/// Values of [`VcpuPage::state`].
pub mod state {
    /// Neither waiting for a lock nor holding one.
    pub const OUTSIDE: u32 = 0;
    /// Between asking for a lock and getting it.
    pub const WAITING: u32 = 1;
    /// Inside a critical section.
    pub const HOLDING: u32 = 2;

    /// A word for `state`, for people.
    pub const fn name(state: u32) -> &'static str {
        match state {
            OUTSIDE => "outside the lock",
            WAITING => "waiting for the lock",
            HOLDING => "holding the lock",
            _ => "in an unknown state",
        }
    }
}

/// One vCPU's shared page. Both sides only ever load and store its fields atomically, at their full size.
#[repr(C, align(4096))]
pub struct VcpuPage {
    /// One of [`state`]'s values: what the vCPU is doing with the lock. A hint, written relaxed.
    pub state: AtomicU32,
    /// Explicit padding.
    pub reserved: u32,
    /// Where the vCPU was when it took an exception it could not handle; 0 if it took none.
    pub fault_rip: AtomicU64,
    /// Keeps the halves apart.
    pub guest_half: [u8; 112],
    /// Not 0 while the VMM knows that the vCPU does not run, because it is parked in a HLT. A hint, written
    /// relaxed.
    pub preempted: AtomicU32,
}

assert_layout!(VcpuPage, size PAGE_SIZE as usize, state at 0, fault_rip at 8, preempted at 128);
