//! The vCPUs' timers: one-shot, at absolute times of the guest's TSC.
//!
//! All of a guest's timers share one timerfd, set to the earliest deadline; the control side waits for it. A
//! vCPU has one timer, so what the guest can make this cost is bounded.

use std::arch::x86_64::_rdtsc;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vmm_sys_util::timerfd::TimerFd;

/// As long as never: the kernel's own clock counts no more than three of them.
pub(crate) const CENTURY: Duration = Duration::from_secs(3_155_760_000);

/// The guest's TSC, as seen from the host.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct GuestTsc {
    /// What it reads more than the host's.
    pub(crate) offset: u64,
    pub(crate) khz: u64,
}

impl GuestTsc {
    pub(crate) fn now(self) -> u64 {
        // SAFETY: every x86-64 CPU has it.
        unsafe { _rdtsc() }.wrapping_add(self.offset)
    }

    /// From `now` until it reads `deadline`, rounded up: at least a nanosecond.
    fn until(self, deadline: u64, now: u64) -> Duration {
        let cycles = u128::from(deadline.saturating_sub(now));
        let ns = cycles * 1_000_000 / u128::from(self.khz.max(1)) + 1;
        Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX)).min(CENTURY)
    }
}

/// One guest's timers.
pub(crate) struct Timers {
    tsc: GuestTsc,
    /// The descriptor itself, which the control side waits for without the lock.
    fd: RawFd,
    queue: Mutex<Queue>,
}

/// The timers that are armed.
struct Queue {
    /// Set to the first of `deadlines`, or not at all.
    fd: TimerFd,
    /// With the vCPU each is of.
    deadlines: BTreeSet<(u64, u32)>,
    /// By vCPU: its deadline, if it has one, and the vector it gets then.
    armed: Vec<Option<(u64, u8)>>,
}

impl Timers {
    pub(crate) fn new(vcpus: u32, tsc: GuestTsc) -> io::Result<Self> {
        let fd = TimerFd::new()?;
        Ok(Self {
            tsc,
            fd: fd.as_raw_fd(),
            queue: Mutex::new(Queue {
                fd,
                deadlines: BTreeSet::new(),
                armed: vec![None; vcpus as usize],
            }),
        })
    }

    /// Readable when [`expired`](Self::expired) has something to do.
    pub(crate) fn as_raw_fd(&self) -> RawFd {
        self.fd
    }

    /// Sets the timer of `vcpu`, one of the guest's, in place of what it was set to.
    pub(crate) fn set(&self, vcpu: u32, deadline: Option<u64>, vector: u8) {
        let mut queue = self.lock();
        let first = queue.deadlines.first().copied();
        if let Some((old, _)) = queue.armed[vcpu as usize].take() {
            queue.deadlines.remove(&(old, vcpu));
        }
        if let Some(deadline) = deadline {
            queue.armed[vcpu as usize] = Some((deadline, vector));
            queue.deadlines.insert((deadline, vcpu));
        }
        if queue.deadlines.first().copied() != first {
            queue.wind(self.tsc);
        }
    }

    /// Takes out the timers that are due: which vCPU gets which vector.
    pub(crate) fn expired(&self) -> Vec<(u32, u8)> {
        let mut queue = self.lock();
        let now = self.tsc.now();
        let mut due = Vec::new();
        while let Some((deadline, vcpu)) = queue.deadlines.first().copied()
            && deadline <= now
        {
            queue.deadlines.pop_first();
            due.extend(
                queue.armed[vcpu as usize]
                    .take()
                    .map(|(_, vector)| (vcpu, vector)),
            );
        }
        queue.wind(self.tsc);
        due
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Sets the descriptor to the first deadline. This also makes it unreadable, until then; it is never
    /// read, which could block where a vCPU has just wound it.
    fn wind(&mut self, tsc: GuestTsc) {
        // Neither fails for a timer that exists and a time that is valid.
        let _ = match self.deadlines.first() {
            Some((deadline, _)) => self.fd.reset(tsc.until(*deadline, tsc.now()), None),
            None => self.fd.clear(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timers(vcpus: u32) -> Timers {
        let tsc = GuestTsc {
            offset: 12345,
            khz: 1_000_000,
        };
        Timers::new(vcpus, tsc).unwrap()
    }

    #[test]
    fn what_is_due_comes_once_and_in_order() {
        let timers = timers(3);
        timers.set(0, Some(2), 40);
        timers.set(1, Some(1), 41);
        timers.set(2, Some(u64::MAX), 42);
        assert_eq!(timers.expired(), [(1, 41), (0, 40)]);
        assert_eq!(timers.expired(), []);
    }

    #[test]
    fn a_timer_is_replaced_and_disarmed() {
        let timers = timers(2);
        timers.set(0, Some(1), 40);
        timers.set(0, Some(2), 41);
        timers.set(1, Some(1), 42);
        timers.set(1, None, 42);
        assert_eq!(timers.expired(), [(0, 41)]);
        let queue = timers.lock();
        assert!(queue.deadlines.is_empty() && !queue.fd.is_armed().unwrap());
    }

    #[test]
    fn the_time_until_a_deadline_is_never_zero_and_never_too_long_for_the_kernel() {
        let tsc = GuestTsc {
            offset: 0,
            khz: 2_000_000,
        };
        assert_eq!(tsc.until(2_000_000, 0), Duration::from_nanos(1_000_001));
        assert_eq!(tsc.until(0, 5), Duration::from_nanos(1));
        let timers = timers(1);
        timers.set(0, Some(u64::MAX), 40);
        assert!(timers.lock().fd.is_armed().unwrap());
    }
}
