//! Waiting for eventfds.

use std::os::fd::AsRawFd;
use std::ptr;
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::EventFd;

/// Sleeps until one of `events` is readable, and returns its index, the lowest if there are more; or until
/// `deadline`, and returns `None`. Signals do not end the sleep.
pub(crate) fn wait<const N: usize>(events: [&EventFd; N], deadline: Option<Instant>) -> Option<usize> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let ready = readable(events, left).iter().position(|ready| *ready);
        if ready.is_some() || left.is_some_and(|left| left.is_zero()) {
            return ready;
        }
    }
}

/// Sleeps until one of `events` is readable, a signal comes, or `timeout` ends, if there is one; returns
/// which are.
pub(crate) fn readable<const N: usize>(events: [&EventFd; N], timeout: Option<Duration>) -> [bool; N] {
    let mut descriptors = events.map(|event| libc::pollfd {
        fd: event.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    });
    let timeout = timeout.map(timespec);
    let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: the array is valid for N entries, the time-out is null or valid, and no mask is given. An
    // error, EINTR included, leaves `revents` zero, and the caller looks again.
    unsafe { libc::ppoll(descriptors.as_mut_ptr(), N as libc::nfds_t, timeout, ptr::null()) };
    descriptors.map(|descriptor| descriptor.revents != 0)
}

/// Lets the calling thread's sleeps end when they should. The kernel would otherwise add up to 50 µs, to wake
/// up for several at once.
pub(crate) fn on_time() {
    // SAFETY: has no preconditions; it cannot fail for this value.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
}

fn timespec(duration: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: libc::time_t::try_from(duration.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use vmm_sys_util::eventfd::EFD_NONBLOCK;

    use super::*;

    #[test]
    fn what_is_readable_ends_the_sleep_and_a_deadline_does() {
        let [a, b] = [(); 2].map(|()| EventFd::new(EFD_NONBLOCK).unwrap());
        let start = Instant::now();
        let soon = start + Duration::from_millis(20);
        assert_eq!(wait([&a, &b], Some(soon)), None);
        assert!(start.elapsed() >= Duration::from_millis(20));
        assert_eq!(wait([&a], Some(start)), None, "a deadline in the past");
        b.write(1).unwrap();
        assert_eq!(wait([&a, &b], None), Some(1));
        assert_eq!(wait([&b], Some(start)), Some(0), "readable in time");
        a.write(1).unwrap();
        assert_eq!(wait([&a, &b], None), Some(0));
    }

    #[test]
    fn another_thread_ends_the_sleep() {
        let event = EventFd::new(EFD_NONBLOCK).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(10));
                event.write(1).unwrap();
            });
            assert_eq!(wait([&event], None), Some(0));
        });
    }
}
