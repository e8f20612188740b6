//! Where a halted vCPU sleeps, and how it is woken.
//!
//! **No wake-up is lost.** A kick adds to the eventfd's counter, whether or not the vCPU sleeps already. A HLT first takes
//! what is in the counter, and only sleeps where that is nothing; the sleep is a poll of the same counter, so a kick that
//! comes in between ends it at once. Several kicks before a HLT are one, as with KVM's own latch.
//!
//! A stop reaches a sleeper through a second descriptor, which is never read: it cannot be mistaken for a
//! kick, and it stays visible to every vCPU that halts later.

use std::io;
use std::os::fd::AsRawFd;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// One vCPU's latch.
pub(crate) struct Latch {
    kicks: EventFd,
}

/// Why a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    Kicked,
    Stopped,
}

impl Latch {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            kicks: EventFd::new(EFD_NONBLOCK)?,
        })
    }

    /// Wakes the vCPU, or makes its next [`park`](Self::park) return at once.
    pub(crate) fn kick(&self) {
        // Fails only where the counter is at its maximum, 2^64 - 2: then it is latched already.
        let _ = self.kicks.write(1);
    }

    /// Forgets the kicks so far.
    pub(crate) fn clear(&self) -> bool {
        self.kicks.read().is_ok()
    }

    /// Sleeps until there is a kick, and takes it, or until `stop` is readable. Kicks win where there are
    /// both.
    pub(crate) fn park(&self, stop: &EventFd) -> Wake {
        loop {
            if self.clear() {
                return Wake::Kicked;
            }
            if readable(self.kicks.as_raw_fd(), stop.as_raw_fd()) {
                return Wake::Stopped;
            }
        }
    }
}

/// Sleeps until one of the descriptors is readable or a signal comes; returns whether `stop` is.
fn readable(kicks: i32, stop: i32) -> bool {
    let wait_for = |fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    let mut descriptors = [wait_for(kicks), wait_for(stop)];
    // SAFETY: the array is valid for two entries. An error, EINTR included, leaves `revents` zero, and the
    // caller looks again.
    unsafe { libc::poll(descriptors.as_mut_ptr(), 2, -1) };
    descriptors[1].revents != 0 && descriptors[0].revents == 0
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    fn stop() -> EventFd {
        EventFd::new(EFD_NONBLOCK).unwrap()
    }

    #[test]
    fn kicks_before_the_sleep_are_latched_as_one() {
        let (latch, stop) = (Latch::new().unwrap(), stop());
        latch.kick();
        latch.kick();
        assert_eq!(latch.park(&stop), Wake::Kicked);
        stop.write(1).unwrap();
        assert_eq!(
            latch.park(&stop),
            Wake::Stopped,
            "the second kick must not count again"
        );
        assert_eq!(latch.park(&stop), Wake::Stopped, "a stop stays");
    }

    #[test]
    fn a_hundred_thousand_racing_kicks_all_arrive() {
        let latches = Arc::new([Latch::new().unwrap(), Latch::new().unwrap()]);
        let stop = Arc::new(stop());
        let rounds = 100_000;
        let play = |me: usize| {
            let (latches, stop) = (latches.clone(), stop.clone());
            move || {
                for _ in 0..rounds {
                    assert_eq!(latches[me].park(&stop), Wake::Kicked);
                    latches[1 - me].kick();
                }
            }
        };
        let players = [thread::spawn(play(0)), thread::spawn(play(1))];
        latches[0].kick();
        for player in players {
            player.join().unwrap();
        }
    }
}
