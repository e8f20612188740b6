//! The kernel's own record of when a thread ran: perf's context-switch events.
//!
//! One software event counts nothing (`PERF_COUNT_SW_DUMMY`) and has the kernel write a record into a ring
//! whenever the thread is switched out or in, with the time, and whether it was preempted (man 2
//! perf_event_open). That needs no hardware counter and, for one's own threads, no privilege but a
//! `kernel.perf_event_paranoid` of at most 2.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};

/// A thread was switched out or in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Switch {
    /// Nanoseconds of `CLOCK_MONOTONIC_RAW`.
    pub(crate) time: u64,
    pub(crate) kind: Kind,
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    In,
    /// It went to sleep.
    Out,
    /// It was ready to go on, but another thread got its CPU.
    Preempted,
}

/// The part of `struct perf_event_attr` up to its third version, which has the clock.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup: u32,
    breakpoint_type: u32,
    config1: u64,
    config2: u64,
    branch_sample_type: u64,
    sample_regs_user: u64,
    sample_stack_user: u32,
    clock: i32,
}

const _: () = assert!(size_of::<Attributes>() == 96);

/// Values and bits of [`Attributes`] (linux/perf_event.h).
mod attribute {
    pub(super) const SOFTWARE: u32 = 1;
    pub(super) const DUMMY: u64 = 9;
    pub(super) const SAMPLE_TIME: u64 = 1 << 2;
    pub(super) const EXCLUDE_KERNEL: u64 = 1 << 5;
    pub(super) const EXCLUDE_HV: u64 = 1 << 6;
    pub(super) const SAMPLE_ID_ALL: u64 = 1 << 18;
    pub(super) const USE_CLOCK: u64 = 1 << 25;
    pub(super) const CONTEXT_SWITCH: u64 = 1 << 26;
}

/// Records in the ring (linux/perf_event.h).
mod record {
    pub(super) const LOST: u32 = 2;
    pub(super) const SWITCH: u32 = 14;
    pub(super) const OUT: u16 = 1 << 13;
    pub(super) const OUT_PREEMPTED: u16 = 1 << 14;
}

/// Pages of records in the ring, a power of two: 8192 records of 16 bytes. A process may have half a
/// mebibyte of rings for each CPU without privilege (`kernel.perf_event_mlock_kb`).
const PAGES: usize = 32;
const PAGE: usize = abi::PAGE_SIZE as usize;

/// Offsets in the ring's first page, `struct perf_event_mmap_page`.
const DATA_HEAD: usize = 1024;

/// Records one thread's switches, from its creation on, until the ring is full.
pub(crate) struct Recorder {
    ring: NonNull<u8>,
    _event: File,
}

// SAFETY: the ring is a mapping that any thread may read and unmap.
unsafe impl Send for Recorder {}

impl Recorder {
    /// Records the calling thread's switches.
    pub(crate) fn of_this_thread() -> io::Result<Self> {
        let attributes = Attributes {
            kind: attribute::SOFTWARE,
            size: size_of::<Attributes>() as u32,
            config: attribute::DUMMY,
            sample_type: attribute::SAMPLE_TIME,
            flags: attribute::EXCLUDE_KERNEL
                | attribute::EXCLUDE_HV
                | attribute::SAMPLE_ID_ALL
                | attribute::USE_CLOCK
                | attribute::CONTEXT_SWITCH,
            clock: libc::CLOCK_MONOTONIC_RAW,
            ..Default::default()
        };
        const CLOSE_ON_EXEC: libc::c_ulong = 1 << 3;
        // This thread (0), on every CPU (-1), in no group (-1).
        // SAFETY: the structure is of the size it says, and is only read.
        let event =
            unsafe { libc::syscall(libc::SYS_perf_event_open, &attributes, 0, -1, -1, CLOSE_ON_EXEC) };
        if event < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor just opened, which nobody else knows.
        let event = unsafe { File::from_raw_fd(event as i32) };
        // Writable, though nothing is written: else the kernel would overwrite the oldest records.
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let length = (1 + PAGES) * PAGE;
        // SAFETY: a new mapping, at an address of the kernel's choice.
        let ring = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                protection,
                libc::MAP_SHARED,
                event.as_raw_fd(),
                0,
            )
        };
        match NonNull::new(ring.cast::<u8>()) {
            Some(start) if ring != libc::MAP_FAILED => Ok(Self {
                ring: start,
                _event: event,
            }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The switches so far, oldest first, and how many more there were that the ring had no room for.
    pub(crate) fn switches(&self) -> (Vec<Switch>, u64) {
        let head = self.ring.as_ptr().wrapping_add(DATA_HEAD).cast::<AtomicU64>();
        // SAFETY: within the ring's first page, aligned, and the kernel only ever stores to it as a whole.
        let head = unsafe { &*head };
        // Acquire: pairs with the kernel's release of what is before the head.
        let len = (head.load(Ordering::Acquire) as usize).min(PAGES * PAGE);
        let mut bytes = vec![0; len];
        // SAFETY: `len` bytes from the second page on are mapped. As we never moved the tail, the kernel
        // writes behind the head only.
        unsafe { ptr::copy_nonoverlapping(self.ring.as_ptr().wrapping_add(PAGE), bytes.as_mut_ptr(), len) };
        parse(&bytes)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and ends with us.
        unsafe { libc::munmap(self.ring.as_ptr().cast(), (1 + PAGES) * PAGE) };
    }
}

/// Reads records; what it does not know it skips.
fn parse(mut bytes: &[u8]) -> (Vec<Switch>, u64) {
    let (mut switches, mut lost) = (Vec::new(), 0);
    // type u32, misc u16, size u16
    while let Some((header, _)) = bytes.split_first_chunk::<8>() {
        let [t0, t1, t2, t3, m0, m1, s0, s1] = *header;
        let (kind, misc) = (u32::from_le_bytes([t0, t1, t2, t3]), u16::from_le_bytes([m0, m1]));
        let Some((record, rest)) = bytes.split_at_checked(u16::from_le_bytes([s0, s1]).max(8).into()) else {
            break;
        };
        bytes = rest;
        let number = |at: usize| {
            let bytes = record.get(at..at + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        match (kind, number(8)) {
            (record::SWITCH, Some(time)) => switches.push(Switch {
                time,
                kind: match misc & (record::OUT | record::OUT_PREEMPTED) {
                    0 => Kind::In,
                    record::OUT => Kind::Out,
                    _ => Kind::Preempted,
                },
            }),
            // id u64, lost u64
            (record::LOST, _) => lost += number(16).unwrap_or(0),
            _ => {}
        }
    }
    (switches, lost)
}

#[cfg(test)]
mod tests;
