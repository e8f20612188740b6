//! What the VMM and its guests agree on: ports, boot information, shared memory layouts.
//!
//! Both sides compile this crate, so that a layout exists once. It has no logic beyond the arithmetic that
//! defines a layout, and no `unsafe` but the plain-old-data promise of [`Plain`].
//!
//! | module | what it fixes |
//! |---|---|
//! | [`port`] | the hypercalls (one 32-bit `out` each) and the console |
//! | [`kick`] | which way the guest has to send its kicks |
//! | [`boot`] | the registers and the [`boot::BootInfo`] a vCPU starts with |
//! | [`config`] | what the guest is asked to do: lock, workload, times |
//! | [`vcpu_page`] | the page each vCPU shares with the VMM while it runs |
//! | [`report`] | what the guest leaves behind for the VMM to read |
//! | [`memory`] | what the guest's page allocator leaves behind |
//! | [`histogram`] | the buckets of the report's histograms |
//! | [`interrupt`] | interrupt vectors and their targets |
//! | [`note`] | the ELF note that makes a file a pvlab guest |
//!
//! All integers are little-endian, all layouts `#[repr(C)]` with asserted sizes and offsets. [`VERSION`]
//! changes whenever any of it does; the VMM checks it in the ELF note, the guest in the boot information.
#![no_std]

pub mod boot;
pub mod config;
pub mod histogram;
pub mod interrupt;
pub mod kick;
pub mod memory;
pub mod note;
pub mod port;
pub mod report;
pub mod vcpu_page;

/// Version of everything in this crate.
pub const VERSION: u32 = 3;

/// Unit of guest memory protection, in bytes.
pub const PAGE_SIZE: u64 = 4096;

/// A type any bit pattern of which is a value, without padding: it may be copied from and to memory that the
/// other side writes.
///
/// # Safety
///
/// The type is `#[repr(C)]` (or a primitive), has no padding bytes and no invalid bit patterns, and holds no
/// pointers or references.
pub unsafe trait Plain: Copy + Default {}

/// Asserts at compile time that fields lie where both sides expect them, and that a layout has its size.
macro_rules! assert_layout {
    ($type:ty, size $size:expr $(, $field:ident at $offset:expr)* $(,)?) => {
        const _: () = {
            assert!(core::mem::size_of::<$type>() == $size);
            $(assert!(core::mem::offset_of!($type, $field) == $offset);)*
        };
    };
}
pub(crate) use assert_layout;
