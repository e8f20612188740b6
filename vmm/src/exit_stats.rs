//! Why vCPUs left the guest, how often, and how long they stayed away: `vmm run --stats`.
//!
//! A vCPU's counters are written by its own thread alone and read once that was joined. Without `--stats`
//! there are none, and an exit costs one comparison more; with it, two looks at the clock and two additions,
//! some 100 ns to an exit's microseconds.

use std::array;
use std::iter;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use abi::port;
use kvm_ioctls::VcpuExit;
use serde::{Serialize, Serializer};

use crate::config::nanos;
use crate::console::Console;

/// Gives [`Reason`] its list and its names, from one table.
macro_rules! reasons {
    ($($(#[$doc:meta])* $reason:ident $name:literal,)*) => {
        /// Why a vCPU left the guest.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reason { $($(#[$doc])* $reason,)* }

        impl Reason {
            /// Every reason, in the order in which they are listed.
            pub const ALL: &'static [Self] = &[$(Self::$reason),*];

            /// The word for it in results.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$reason => $name,)* }
            }
        }
    };
}

reasons! {
    /// `HLT`; the time outside is that asleep.
    Halt "hlt",
    /// The hypercall `KICK_CPU`.
    Kick "kick",
    /// The hypercall `MEASURE`.
    Measure "measure",
    /// The hypercall `EXIT`.
    Exit "exit",
    /// The console's ports; the time outside includes waiting for the user.
    Console "console",
    /// Any other port.
    Port "port",
    /// An address where no memory is.
    Mmio "mmio",
    /// The hypercall `SEND_IPI`.
    Ipi "ipi",
    /// The hypercall `SET_TIMER`.
    Timer "timer",
    /// The hypercall `PREEMPT_ME`; the time outside includes that for which the vCPU is stopped.
    PreemptMe "preempt-me",
    /// The vCPU can take an interrupt that it could not take before.
    InterruptWindow "interrupt-window",
    /// A signal for the vCPU's thread.
    Signal "signal",
    /// A triple fault.
    Shutdown "shutdown",
    /// Anything else: what KVM cannot do, and exits that the VMM did not ask for.
    Other "other",
}

impl Reason {
    /// What `KVM_RUN` returned for.
    fn of(exit: &Result<VcpuExit<'_>, kvm_ioctls::Error>) -> Self {
        match exit {
            Ok(VcpuExit::IoOut(port::KICK_CPU, _)) => Self::Kick,
            Ok(VcpuExit::IoOut(port::MEASURE, _)) => Self::Measure,
            Ok(VcpuExit::IoOut(port::EXIT, _)) => Self::Exit,
            Ok(VcpuExit::IoOut(port::SEND_IPI, _)) => Self::Ipi,
            Ok(VcpuExit::IoOut(port::SET_TIMER, _)) => Self::Timer,
            Ok(VcpuExit::IoOut(port::PREEMPT_ME, _)) => Self::PreemptMe,
            Ok(VcpuExit::IrqWindowOpen) => Self::InterruptWindow,
            Ok(VcpuExit::IoOut(port, _) | VcpuExit::IoIn(port, _)) if Console::has(*port) => Self::Console,
            Ok(VcpuExit::IoOut(..) | VcpuExit::IoIn(..)) => Self::Port,
            Ok(VcpuExit::Hlt) => Self::Halt,
            Ok(VcpuExit::MmioRead(..) | VcpuExit::MmioWrite(..)) => Self::Mmio,
            Ok(VcpuExit::Shutdown) => Self::Shutdown,
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => Self::Signal,
            _ => Self::Other,
        }
    }
}

/// The exits of one reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// How many there were.
    pub count: u64,
    /// Time from leaving the guest until the vCPU was about to enter it again, in nanoseconds.
    pub outside_ns: u64,
}

/// One vCPU's exits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VcpuExits([Tally; Reason::ALL.len()]);

impl VcpuExits {
    /// Those for `reason`.
    pub fn of(&self, reason: Reason) -> Tally {
        self.0[reason as usize]
    }
}

impl FromIterator<(Reason, Tally)> for VcpuExits {
    fn from_iter<I: IntoIterator<Item = (Reason, Tally)>>(tallies: I) -> Self {
        let mut exits = Self::default();
        for (reason, tally) in tallies {
            exits.0[reason as usize] = tally;
        }
        exits
    }
}

/// As a map from reasons to tallies; reasons that did not occur are left out.
impl Serialize for VcpuExits {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let occurred = iter::zip(Reason::ALL, &self.0).filter(|(_, tally)| tally.count > 0);
        serializer.collect_map(occurred.map(|(reason, tally)| (reason.name(), tally)))
    }
}

/// The counters of all vCPUs of a guest, or none.
pub(crate) struct ExitStats(Box<[Counters]>);

/// One vCPU's, on cache lines of their own.
#[derive(Default)]
#[repr(align(128))]
struct Counters([Counter; Reason::ALL.len()]);

#[derive(Default)]
struct Counter {
    count: AtomicU64,
    outside_ns: AtomicU64,
}

impl ExitStats {
    /// Counters for `vcpus` vCPUs, if they are `wanted`.
    pub(crate) fn new(vcpus: u32, wanted: bool) -> Self {
        let vcpus = if wanted { vcpus } else { 0 };
        Self((0..vcpus).map(|_| Counters::default()).collect())
    }

    /// vCPU `index` is outside the guest because of `exit`, for as long as the result lives. To be called on
    /// its own thread.
    pub(crate) fn outside(
        &self,
        index: u32,
        exit: &Result<VcpuExit<'_>, kvm_ioctls::Error>,
    ) -> Option<Outside<'_>> {
        let counters = self.0.get(index as usize)?;
        Some(Outside {
            counter: &counters.0[Reason::of(exit) as usize],
            since: Instant::now(),
        })
    }

    /// What was counted; `None` if nothing was to be.
    pub(crate) fn counted(&self) -> Option<Vec<VcpuExits>> {
        // Relaxed: the threads that counted were joined, or are lost to KVM and write no more.
        let tally = |counter: &Counter| Tally {
            count: counter.count.load(Ordering::Relaxed),
            outside_ns: counter.outside_ns.load(Ordering::Relaxed),
        };
        let exits = |vcpu: &Counters| VcpuExits(array::from_fn(|reason| tally(&vcpu.0[reason])));
        (!self.0.is_empty()).then(|| self.0.iter().map(exits).collect())
    }
}

/// A vCPU's time outside the guest, counted when it ends.
pub(crate) struct Outside<'a> {
    counter: &'a Counter,
    since: Instant,
}

impl Drop for Outside<'_> {
    fn drop(&mut self) {
        // Relaxed, and no read-modify-write: only this thread writes them.
        let add = |to: &AtomicU64, more| {
            to.store(to.load(Ordering::Relaxed).saturating_add(more), Ordering::Relaxed);
        };
        add(&self.counter.count, 1);
        add(&self.counter.outside_ns, nanos(self.since.elapsed()));
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn exits_are_told_apart() {
        let mut data = [0; 4];
        let signal = Err(kvm_ioctls::Error::new(libc::EINTR));
        assert_eq!(Reason::of(&signal), Reason::Signal);
        for (port, reason) in [
            (port::KICK_CPU, Reason::Kick),
            (port::MEASURE, Reason::Measure),
            (port::EXIT, Reason::Exit),
            (port::CONSOLE + 5, Reason::Console),
            (0x80, Reason::Port),
        ] {
            assert_eq!(Reason::of(&Ok(VcpuExit::IoOut(port, &data))), reason);
        }
        // The hypercalls are writes.
        assert_eq!(
            Reason::of(&Ok(VcpuExit::IoIn(port::KICK_CPU, &mut data))),
            Reason::Port
        );
        assert_eq!(Reason::of(&Ok(VcpuExit::Hlt)), Reason::Halt);
        assert_eq!(Reason::of(&Ok(VcpuExit::InternalError)), Reason::Other);
        let names: std::collections::BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
    }

    #[test]
    fn every_vcpu_has_its_counts_and_times() {
        let stats = ExitStats::new(2, true);
        for _ in 0..3 {
            let _outside = stats.outside(1, &Ok(VcpuExit::Hlt));
            thread::sleep(Duration::from_millis(2));
        }
        drop(stats.outside(0, &Ok(VcpuExit::Shutdown)));
        let exits = stats.counted().unwrap();
        let slept = exits[1].of(Reason::Halt);
        assert!(slept.count == 3 && slept.outside_ns >= 6_000_000, "{slept:?}");
        assert_eq!(exits[0].of(Reason::Halt), Tally::default());
        assert_eq!(exits[0].of(Reason::Shutdown).count, 1);
        let json = serde_json::to_value(exits[0]).unwrap();
        assert_eq!(json.as_object().unwrap().len(), 1, "{json}");
    }

    #[test]
    fn nothing_is_counted_unless_it_is_wanted() {
        let stats = ExitStats::new(2, false);
        assert!(stats.outside(0, &Ok(VcpuExit::Hlt)).is_none());
        assert_eq!(stats.counted(), None);
    }
}
