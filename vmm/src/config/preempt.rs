//! Preemption on purpose, as users write it: `holder:1ms:5ms`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::units::parse_positive_duration;

/// Which vCPUs are preempted on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The next one that gets the lock.
    Holder,
    /// The next one that spins for the lock.
    Waiter,
    /// Any that is in the guest, wherever it is there.
    Any,
}

impl Target {
    const ALL: [Self; 3] = [Self::Holder, Self::Waiter, Self::Any];

    /// The word for it on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Holder => "holder",
            Self::Waiter => "waiter",
            Self::Any => "any",
        }
    }
}

/// Preemption on purpose, from the beginning of the measurement to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preempt {
    /// Of which vCPUs.
    pub target: Target,
    /// The mean time from the end of one to the start of the next. Each is drawn from half of this to half
    /// as much again, by [`Config::seed`](crate::Config::seed); holders and waiters are hit as soon as
    /// there is one after that.
    pub every: Duration,
    /// How long a vCPU is stopped.
    pub length: Duration,
}

impl FromStr for Preempt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form =
            "it has to be holder, waiter or any, then how often and for how long, such as holder:1ms:5ms";
        let [target, every, length] = text.split(':').collect::<Vec<_>>()[..] else {
            return Err(form.into());
        };
        let target = Target::ALL.into_iter().find(|known| known.name() == target);
        Ok(Self {
            target: target.ok_or(form)?,
            every: parse_positive_duration(every)?,
            length: parse_positive_duration(length)?,
        })
    }
}

impl fmt::Display for Preempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}:{}",
            self.target.name(),
            exact(self.every),
            exact(self.length)
        )
    }
}

/// A duration in the largest unit that leaves no fraction.
fn exact(duration: Duration) -> String {
    let ns = duration.as_nanos();
    let units = [(1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us"), (1, "ns")];
    let fitting = units.into_iter().find(|(unit, _)| ns.is_multiple_of(*unit));
    let (unit, name) = fitting.unwrap_or((1, "ns"));
    format!("{}{name}", ns / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_was_read() {
        for text in ["holder:1ms:5ms", "waiter:500ns:1s", "any:1500us:60s"] {
            assert_eq!(text.parse::<Preempt>().unwrap().to_string(), text);
        }
        assert_eq!(
            "any:1.5ms:1m".parse(),
            Ok(Preempt {
                target: Target::Any,
                every: Duration::from_micros(1500),
                length: Duration::from_secs(60),
            })
        );
    }

    #[test]
    fn nothing_else_is_taken() {
        for text in [
            "",
            "holder",
            "holder:1ms",
            "holder:1ms:1ms:1ms",
            "owner:1ms:1ms",
            "any:0:1ms",
            "any:1ms:0s",
            "any:-1ms:1ms",
            "any:1:1ms",
            "Any:1ms:1ms",
            "any:25h:1ms",
        ] {
            assert!(text.parse::<Preempt>().is_err(), "{text}");
        }
    }
}
