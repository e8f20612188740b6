//! The floor under every kick: two threads of the host that wake each other through eventfds, as the
//! latches do, with no guest in between.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::EventFd;

use crate::affinity;

/// One side: the eventfd it sleeps on, and when the other side wrote to it last.
struct Side {
    woken: EventFd,
    /// Nanoseconds since the game began.
    written: AtomicU64,
}

/// Plays `rounds` hand-overs between threads bound to `cpus`, as the guest's ping-pong does: each side
/// waits for up to `pause` before it hands over, so that the other is asleep. Returns the times from a
/// write until the other side's read returns, in nanoseconds, ascending.
pub(super) fn measure(cpus: [usize; 2], rounds: u32, pause: Duration) -> io::Result<Vec<u64>> {
    let side = || {
        Ok::<_, io::Error>(Side {
            woken: EventFd::new(0)?,
            written: AtomicU64::new(0),
        })
    };
    let (ours, theirs) = (side()?, side()?);
    let begun = Instant::now();
    let mut times = thread::scope(|scope| {
        let play = |mine, other, cpu| move || play(mine, other, cpu, rounds / 2, pause, begun);
        let second = thread::Builder::new().spawn_scoped(scope, play(&theirs, &ours, cpus[1]))?;
        let first = thread::Builder::new().spawn_scoped(scope, play(&ours, &theirs, cpus[0]))?;
        ours.woken.write(1)?;
        let times = [first.join(), second.join()].map(Result::unwrap_or_default);
        Ok::<_, io::Error>(times.concat())
    })?;
    times.sort_unstable();
    Ok(times)
}

fn play(mine: &Side, other: &Side, cpu: usize, rounds: u32, pause: Duration, begun: Instant) -> Vec<u64> {
    affinity::bind_this_thread(&[cpu]);
    let now = || u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let mut times = Vec::new();
    for round in 0..rounds {
        // An eventfd of one's own, of which one takes what is there: neither call can fail.
        let _ = mine.woken.read();
        let woken = now();
        // The first write of all was not the other side's.
        match mine.written.load(Ordering::Acquire) {
            0 => {}
            written => times.push(woken.saturating_sub(written)),
        }
        // Spread evenly, in an order that does not matter.
        let pause = u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX) / 8 * u64::from(round * 5 % 8);
        while now() < woken.saturating_add(pause) {
            std::hint::spin_loop();
        }
        // Release: pairs with the acquire load above.
        other.written.store(now(), Ordering::Release);
        let _ = other.woken.write(1);
    }
    times
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hand_over_but_the_first_is_timed() {
        let cpu = affinity::allowed_cpus().unwrap()[0];
        let times = measure([cpu, cpu], 40, Duration::from_micros(1)).unwrap();
        assert_eq!(times.len(), 39);
        assert!(times.is_sorted() && times[0] > 0, "{times:?}");
    }
}
