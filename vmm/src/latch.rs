//! Where a halted vCPU sleeps, and how it is woken.
//!
//! **No wake-up is lost.** A kick adds to the eventfd's counter, whether or not the vCPU sleeps already. A
//! HLT first takes what is in the counter, and only sleeps where that is nothing; the sleep is a poll of
//! the same counter, so a kick that comes in between ends it at once. Several kicks before a HLT are one,
//! as with KVM's own latch.
//!
//! Where it is asked for, a HLT polls before it sleeps: it takes the same two looks, at the counter and at
//! the stop, over and over, so that nothing of the above depends on it. In between it yields, so that the
//! poll takes only time that nobody else on that CPU has a use for.
//!
//! A stop reaches a sleeper through a second descriptor, which is never read: it cannot be mistaken for a
//! kick, and it stays visible to every vCPU that halts later. Interrupts have a third one, the alarm in
//! `interrupts`: they end a sleep, and leave the kicks alone.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::interrupts::Interrupts;
use crate::wait::readable;

/// One vCPU's latch.
pub(crate) struct Latch {
    kicks: EventFd,
}

/// Why a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    Kicked,
    /// There is a vector to inject.
    Interrupted,
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

    /// What kicks are written to.
    pub(crate) fn eventfd(&self) -> &EventFd {
        &self.kicks
    }

    /// Sleeps until there is a kick, and takes it; or until there is a vector to inject, and leaves it; or
    /// until `stop` is readable. Kicks win where there are several. Polls for as long as `poll` before it
    /// sleeps.
    pub(crate) fn park(&self, interrupts: &Interrupts, stop: &EventFd, poll: Duration) -> Wake {
        // The usual case, no polling, needs no clock.
        let mut polling = !poll.is_zero();
        let begun = polling.then(Instant::now);
        let wake = loop {
            // Before the look: who requests a vector after it finds us parked, and raises the alarm.
            interrupts.parked();
            if self.clear() {
                break Wake::Kicked;
            }
            if interrupts.pending() {
                break Wake::Interrupted;
            }
            polling = polling && begun.is_some_and(|begun| begun.elapsed() < poll);
            if polling {
                // Whoever is to kick may be waiting for this very CPU.
                thread::yield_now();
            }
            let patience = polling.then_some(Duration::ZERO);
            let [kicked, alarm, stopped] = readable([&self.kicks, interrupts.alarm(), stop], patience);
            if alarm {
                interrupts.silence();
            }
            if stopped && !kicked && !alarm {
                break Wake::Stopped;
            }
        };
        interrupts.left();
        wake
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn stop() -> EventFd {
        EventFd::new(EFD_NONBLOCK).unwrap()
    }

    #[test]
    fn kicks_before_the_sleep_are_latched_as_one() {
        let (latch, stop) = (Latch::new().unwrap(), stop());
        let interrupts = Interrupts::new().unwrap();
        latch.kick();
        latch.kick();
        assert_eq!(latch.park(&interrupts, &stop, Duration::ZERO), Wake::Kicked);
        stop.write(1).unwrap();
        assert_eq!(
            latch.park(&interrupts, &stop, Duration::ZERO),
            Wake::Stopped,
            "the second kick must not count again"
        );
        assert_eq!(
            latch.park(&interrupts, &stop, Duration::ZERO),
            Wake::Stopped,
            "a stop stays"
        );
    }

    /// Kicks and interrupts by turns: neither is lost, nor taken for the other. With a poll that ends at
    /// all sorts of moments of the race, and one that never ends in it.
    #[test]
    fn a_hundred_thousand_racing_kicks_and_interrupts_all_arrive() {
        for poll in [
            Duration::ZERO,
            Duration::from_micros(3),
            Duration::from_secs(3600),
        ] {
            race(poll);
        }
    }

    fn race(poll: Duration) {
        let sleeper = || (Latch::new().unwrap(), Interrupts::new().unwrap());
        let sleepers = Arc::new([sleeper(), sleeper()]);
        let stop = Arc::new(stop());
        let play = |me: usize| {
            let (sleepers, stop) = (sleepers.clone(), stop.clone());
            move || {
                for round in 0..100_000_usize {
                    let ((latch, interrupts), (other, other_interrupts)) = (&sleepers[me], &sleepers[1 - me]);
                    let wake = latch.park(interrupts, &stop, poll);
                    if round.is_multiple_of(2) {
                        assert_eq!(wake, Wake::Kicked);
                    } else {
                        assert_eq!(wake, Wake::Interrupted);
                        interrupts.forget();
                    }
                    if (round + me).is_multiple_of(2) {
                        other.kick();
                    } else {
                        other_interrupts.request(32);
                    }
                }
            }
        };
        let players = [thread::spawn(play(0)), thread::spawn(play(1))];
        sleepers[0].0.kick();
        for player in players {
            player.join().unwrap();
        }
    }
}
