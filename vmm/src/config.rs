//! What one launch is asked to do.

mod preempt;

use std::time::Duration;

use abi::config::{LockKind, RunConfig, Workload, fault, spin};

use crate::affinity::allowed_cpus;

pub use preempt::{Preempt, Target};

/// The privilege level the guest kernel runs at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ring {
    /// Where the host's KVM runs ring 0 at speed.
    Zero = 0,
    /// "Deprivileged": where the host's KVM emulates ring 0 instruction by instruction.
    Three = 3,
}

/// How long a waiter spins before it halts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spin {
    /// The lock's own default.
    Default,
    /// The cost of a halt, kick and wake-up, measured by the guest at boot.
    Auto,
    /// This long.
    Fixed(Duration),
}

/// How a kick travels from the vCPU that sends it to the one that sleeps in HLT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kick {
    /// The kick exits to the VMM, which wakes the target.
    #[default]
    Pio,
    /// KVM wakes the target on the VMM's behalf: the kick does not exit, the halt does.
    IoEventFd,
    /// Kicks and halts are KVM's own: neither exits. For guests in ring 0 only.
    Kvm,
}

impl Kick {
    /// The name users and results know it by.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pio => "pio",
            Self::IoEventFd => "ioeventfd",
            Self::Kvm => "kvm",
        }
    }
}

/// One launch: a guest, the host CPUs it may use, and what it is to do.
#[derive(Clone, Debug)]
pub struct Config {
    /// Number of vCPUs, each of them a thread.
    pub vcpus: u32,
    /// The host CPUs, by their numbers, that the vCPU threads share.
    pub pcpus: Vec<usize>,
    /// Binds vCPU i to the (i mod n)-th of `pcpus` alone.
    pub pin: bool,
    /// Guest memory in bytes.
    pub memory: u64,
    /// The ring to run the kernel in; `None` asks the host.
    pub guest_ring: Option<Ring>,
    /// What the vCPUs do.
    pub workload: Workload,
    /// The lock they do it with.
    pub lock: LockKind,
    /// How long they repeat it.
    pub duration: Duration,
    /// Length of a critical section.
    pub hold: Duration,
    /// Length of the pause between release and the next acquisition.
    pub think: Duration,
    /// How long waiters spin before they halt.
    pub spin: Spin,
    /// How vCPUs are kicked.
    pub kick: Kick,
    /// How long a vCPU that halts polls for a kick before it sleeps, while nobody else wants its CPU. With
    /// [`Kick::Kvm`] this is the most that KVM polls, which adapts.
    pub halt_poll: Duration,
    /// Whether a vCPU that kicks another offers its CPU to whoever waits for it. For [`Kick::Pio`] only: the
    /// VMM does not see the kicks of the others, and KVM's own do so anyway.
    pub yield_on_kick: bool,
    /// How often what the workload repeats is repeated: hand-offs, interrupts, mappings. 0 for as often as fits
    /// into `duration`, or a number of its own.
    pub rounds: u64,
    /// Preemption on purpose.
    pub preempt: Option<Preempt>,
    /// Busy host threads that share the vCPUs' CPUs with them.
    pub neighbours: u32,
    /// Compares what [`Workload::Observe`] sees with the host's own records:
    /// [`Outcome::hints`](crate::Outcome::hints).
    pub check_hints: bool,
    /// Seed of everything random in the guest, and of preemption.
    pub seed: u64,
    /// The guest is stopped if it has not ended by then.
    pub timeout: Duration,
    /// Whether to count the vCPUs' exits and time them.
    pub exit_stats: bool,
    /// Confines the threads of the launch ([`sandbox`](crate::sandbox)).
    pub sandbox: bool,
    /// A fault to plant, to show that a check catches it.
    pub planted_fault: Option<PlantedFault>,
}

/// Faults that can be planted in the VMM or the guest, so that tests can show that their checks would catch
/// them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlantedFault {
    /// A HLT forgets the kicks that came before it: the classic lost wake-up. With [`Kick::Kvm`], whose
    /// latch is out of the VMM's reach, all kicks are lost.
    ForgetLatchedKicks,
    /// Every request that is refused costs memory for good.
    HoardRefusals,
    /// A request that is to be refused makes the VMM panic.
    PanicAtRefusal,
    /// A vCPU's thread makes this system call, with these first arguments, before it runs the guest.
    SystemCall(i64, [u64; 3]),
    /// The host turns out to have no room for this vCPU when its thread makes it ready.
    NoRoomForVcpu(u32),
    /// The signal's handler does not set `immediate_exit`, so that a signal between a vCPU's last look and
    /// `KVM_RUN` is lost.
    SignalWithoutImmediateExit,
    /// Preemptions are counted, but the vCPU is not stopped.
    CountWithoutStopping,
    /// The guest is not told that a vCPU is stopped.
    StopInSecret,
    /// A HLT forgets the interrupts that came before it.
    ForgetPendingInterrupts,
    /// A HLT does not ask KVM for an NMI that it was given and has not injected yet.
    ForgetNmiInKvm,
    /// The guest's handlers run on the interrupted stack without skipping the red zone.
    NoRedZone,
    /// The guest's handlers leave the FPU as they used it.
    NoFpu,
    /// The guest sets its periodic timers relative to when they fired.
    RelativeTimer,
    /// The guest flushes no TLB after it has changed a mapping.
    NoFlush,
    /// The guest frees memory that it still uses.
    EarlyFree,
    /// A vCPU that was halted while others changed mappings does not flush its TLB when it resumes.
    NoFlushOnResume,
    /// The guest does not kick who waits for a page in flight when it has arrived.
    NoKick,
    /// The guest copies pages that it moves before it unmaps them.
    EarlyCopy,
    /// In the guest, who remembers where pages are is not told that they move.
    NoNotice,
    /// The guest does not pin pages that are to stay where they are.
    NoPin,
    /// Pages that compaction in the guest moves lose part of what they hold.
    LostContents,
    /// Compaction in the guest can move nothing.
    NoMoves,
    /// In the guest, who remembers where pages are is not told that the first of them move.
    NoStart,
    /// Nor that they have moved.
    NoEnd,
    /// In the guest, who looks up where pages are does not mind that they move.
    NoRetry,
}

impl PlantedFault {
    /// As the guest is told.
    fn in_guest(self) -> u32 {
        match self {
            Self::NoRedZone => fault::NO_RED_ZONE,
            Self::NoFpu => fault::NO_FPU,
            Self::RelativeTimer => fault::RELATIVE_TIMER,
            Self::NoFlush => fault::NO_FLUSH,
            Self::EarlyFree => fault::EARLY_FREE,
            Self::NoFlushOnResume => fault::NO_FLUSH_ON_RESUME,
            Self::NoKick => fault::NO_KICK,
            Self::EarlyCopy => fault::EARLY_COPY,
            Self::NoNotice => fault::NO_NOTICE,
            Self::NoPin => fault::NO_PIN,
            Self::LostContents => fault::LOST_CONTENTS,
            Self::NoMoves => fault::NO_MOVES,
            Self::NoStart => fault::NO_START,
            Self::NoEnd => fault::NO_END,
            Self::NoRetry => fault::NO_RETRY,
            _ => fault::NONE,
        }
    }
}

/// A guest of one vCPU, on any of the CPUs that the process may use, that boots and ends.
impl Default for Config {
    fn default() -> Self {
        Self {
            vcpus: 1,
            // A host that does not tell them is found out by `Vm::new`.
            pcpus: allowed_cpus().unwrap_or_default(),
            pin: false,
            memory: 64 << 20,
            guest_ring: None,
            workload: Workload::Idle,
            lock: LockKind::PvQSpinlock,
            duration: Duration::ZERO,
            hold: Duration::ZERO,
            think: Duration::ZERO,
            spin: Spin::Default,
            kick: Kick::Pio,
            halt_poll: Duration::ZERO,
            yield_on_kick: false,
            rounds: 0,
            preempt: None,
            neighbours: 0,
            check_hints: false,
            seed: 1,
            timeout: Duration::from_secs(30),
            exit_stats: false,
            sandbox: true,
            planted_fault: None,
        }
    }
}

impl Config {
    /// The host CPUs that thread number `index` of its kind (vCPUs, neighbours) may run on.
    pub(crate) fn cpus_of(&self, index: u32) -> Vec<usize> {
        if self.pin {
            vec![self.pcpus[index as usize % self.pcpus.len()]]
        } else {
            self.pcpus.clone()
        }
    }

    /// The guest's part of it, as the guest reads it.
    pub(crate) fn for_guest(&self) -> RunConfig {
        let (spin_kind, spin_ns) = match self.spin {
            Spin::Default => (spin::DEFAULT, 0),
            Spin::Auto => (spin::AUTO, 0),
            Spin::Fixed(budget) => (spin::FIXED, nanos(budget)),
        };
        RunConfig {
            workload: self.workload as u32,
            lock: self.lock as u32,
            duration_ns: nanos(self.duration),
            hold_ns: nanos(self.hold),
            think_ns: nanos(self.think),
            spin_ns,
            spin_kind,
            fault: self.planted_fault.map_or(fault::NONE, PlantedFault::in_guest),
            rounds: self.rounds,
            seed: self.seed,
        }
    }
}

/// Nanoseconds of `duration`, or the largest number there is.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
