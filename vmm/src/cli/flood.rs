//! A limit to what a guest can fill the user's disk or terminal with.

use std::io::{self, Write};
use std::time::{Duration, Instant};

/// A guest may print this many bytes at once,
const BURST: u64 = 1 << 20;

/// and as many a second for ever: 340 MiB a day.
const PER_SECOND: u64 = 4 << 10;

/// After something was dropped, nothing more is shown until so many bytes may be again: pieces that can be
/// read, and few lines that say what is missing.
const RESUME: u64 = 64 << 10;

/// Passes bytes on to `out` as the limit allows, drops the others, and says so.
#[derive(Debug)]
pub(super) struct Limit<W: Write> {
    out: W,
    /// How many bytes may pass now.
    credit: u64,
    /// Until when credit was given.
    credited: Instant,
    /// Dropped since the last byte that passed.
    dropped: u64,
}

impl<W: Write> Limit<W> {
    pub(super) fn new(out: W) -> Self {
        Self {
            out,
            credit: BURST,
            credited: Instant::now(),
            dropped: 0,
        }
    }

    fn write_at(&mut self, bytes: &[u8], now: Instant) -> io::Result<()> {
        self.give_credit(now);
        if self.dropped > 0 && self.credit >= RESUME {
            self.tell()?;
        }
        let passing = match self.dropped {
            0 => bytes
                .len()
                .min(usize::try_from(self.credit).unwrap_or(usize::MAX)),
            _ => 0,
        };
        let (passing, dropping) = bytes.split_at(passing);
        self.credit -= passing.len() as u64;
        self.dropped += dropping.len() as u64;
        self.out.write_all(passing)
    }

    /// Whole bytes of credit; the time that the rest took is kept for the next.
    fn give_credit(&mut self, now: Instant) {
        let waited = now.saturating_duration_since(self.credited).as_micros();
        let earned = u64::try_from(waited * u128::from(PER_SECOND) / 1_000_000).unwrap_or(BURST);
        self.credit = self.credit.saturating_add(earned).min(BURST);
        self.credited += Duration::from_micros(earned.min(BURST) * 1_000_000 / PER_SECOND);
        if self.credit == BURST {
            self.credited = now;
        }
    }

    fn tell(&mut self) -> io::Result<()> {
        let dropped = std::mem::take(&mut self.dropped);
        writeln!(
            self.out,
            "\n[vmm: {dropped} bytes of console output dropped: a guest may print {} KiB at once and {} KiB a second]",
            BURST >> 10,
            PER_SECOND >> 10
        )
    }
}

impl<W: Write> Write for Limit<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_at(bytes, Instant::now())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl<W: Write> Drop for Limit<W> {
    fn drop(&mut self) {
        if self.dropped > 0 {
            // Whoever cares about errors has looked at those of the writes before.
            let _ = self.tell().and_then(|()| self.out.flush());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 60 * 60;

    #[test]
    fn who_prints_little_is_not_limited() {
        let mut out = Vec::new();
        let mut limit = Limit::new(&mut out);
        let start = limit.credited;
        for second in 0..10_000 {
            let now = start + Duration::from_secs(second);
            limit
                .write_at(&[b'x'; PER_SECOND as usize], now)
                .expect("memory takes everything");
        }
        drop(limit);
        assert_eq!(out.len() as u64, 10_000 * PER_SECOND);
    }

    /// Even if it floods in the smallest pieces and for a day.
    #[test]
    fn a_flood_is_bounded_and_what_is_missing_is_said() {
        /// Counts what it is told, and keeps the notices.
        #[derive(Default)]
        struct Counted(u64, Vec<String>);
        impl Write for &mut Counted {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 += bytes.len() as u64;
                if bytes.starts_with(b"x") {
                    return Ok(bytes.len());
                }
                self.1.push(String::from_utf8_lossy(bytes).into_owned());
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut counted = Counted::default();
        let mut limit = Limit::new(&mut counted);
        let start = limit.credited;
        let mut printed = 0;
        // Just too often for a byte of credit at a time.
        for micros in (0..DAY * 1_000_000).step_by(70_001) {
            limit
                .write_at(&[b'x'; 1000], start + Duration::from_micros(micros))
                .expect("memory takes everything");
            printed += 1000;
        }
        drop(limit);
        let notices = counted.1.concat();
        let most = BURST + PER_SECOND * DAY + notices.len() as u64;
        assert!(counted.0 <= most, "{} of at most {most}", counted.0);
        assert!(counted.0 >= most / 2, "{} of {most}: too strict", counted.0);
        let said: u64 = notices
            .split("[vmm: ")
            .filter_map(|notice| {
                notice
                    .split_once(" bytes of console output dropped")?
                    .0
                    .parse::<u64>()
                    .ok()
            })
            .sum();
        assert_eq!(
            counted.0 - notices.len() as u64 + said,
            printed,
            "what is not shown is counted"
        );
        assert!(
            notices.lines().count() as u64 <= 2 * (PER_SECOND * DAY / RESUME + 2),
            "few notices"
        );
    }
}
