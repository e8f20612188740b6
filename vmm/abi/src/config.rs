//! What the guest is asked to do.

use crate::assert_layout;

/// Gives an enum of `u32` values its names, its list and its checked conversion, from one table.
macro_rules! named {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $value:literal, $text:literal, $about:literal;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum $name { $(#[doc = $about] $variant = $value,)* }

        impl $name {
            /// Every value, in the order in which they are listed to users.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name users and results know it by.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// One line on what it is.
            pub const fn about(self) -> &'static str {
                match self { $(Self::$variant => $about,)* }
            }

            /// The value that is written as `raw`, if there is one.
            pub const fn from_raw(raw: u32) -> Option<Self> {
                match raw { $($value => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

named! {
    /// A lock the guest can be asked to use.
    LockKind {
        Tas = 0, "tas", "test-and-set: unfair, no queue, no sleeping";
        Ticket = 1, "ticket", "ticket lock: strictly fair, all waiters spin on one word";
        Mcs = 2, "mcs", "MCS queue lock: strictly fair, each waiter spins on its own node";
        QSpinlock = 3, "qspinlock", "Linux's native queued spinlock: pending bit, then an MCS queue";
        PvQSpinlockLinux = 4, "pvqspinlock-linux", "Linux's paravirtual queued spinlock with Linux's constants: halts waiters, kicks them awake";
        PvQSpinlock = 5, "pvqspinlock", "the paravirtual queued spinlock, tuned: calibrated spinning, bounded stealing, heads that sleep again";
        Busted = 6, "busted", "broken on purpose (test and set are two steps): the negative control";
    }
}

named! {
    /// What the vCPUs do with the lock, or instead of it.
    Workload {
        Lock = 0, "lock", "every vCPU repeats acquire, hold, release, think for --duration";
        PingPong = 1, "ping-pong", "pairs of vCPUs hand a token to and fro with halt and kick; counts hand-offs";
        Idle = 2, "idle", "boots, meets at the barrier and ends: what a launch costs";
        Costs = 3, "costs", "vCPU 0 times exits to the VMM, and kicks that wake nobody";
        Migrate = 80, "migrate", "all vCPUs but the last write and verify patterns in window memory, and the last moves it all the time";
        Compaction = 81, "compaction", "fills memory, frees three quarters of each 2 MiB, demands huge pages; then again, with a daemon that compacts in advance";
        Spin = 40, "spin", "every vCPU spins for --duration, without an exit: counts turns";
        Observe = 41, "observe", "vCPU 0 watches which of the others run, as they spin: counts the times one did not";
        BadPreempt = 42, "bad-preempt", "self-test: vCPU 0 takes preemptions that nobody offers, then ends";
        Panic = 16, "panic", "self-test: vCPU 0 panics";
        Fault = 17, "fault", "self-test: the last vCPU reads an unmapped address";
        StackOverflow = 18, "stack-overflow", "self-test: vCPU 0 recurses until it hits the guard page of its stack";
        Hang = 19, "hang", "self-test: vCPU 0 loops for ever, the others halt for ever";
        HangHalted = 20, "hang-halted", "self-test: every vCPU halts and nobody kicks";
        TripleFault = 21, "triple-fault", "self-test: vCPU 0 faults without a stack to report it on";
        BadPort = 22, "bad-port", "self-test: vCPU 0 writes to a port that does not exist";
        Babble = 24, "babble", "self-test: vCPU 0 prints for ever";
        WildJump = 36, "wild-jump", "self-test: vCPU 0 jumps to an address that no processor has";
        BadKick = 23, "bad-kick", "self-test: vCPU 0 kicks vCPUs that do not exist, then ends";
        IpiRace = 30, "ipi-race", "self-test: pairs of vCPUs hand a token to and fro, a kick and an interrupt each, against the other's HLT";
        NestedLocks = 31, "nested-locks", "self-test: locks in tasks and in handlers of soft and hard interrupts and NMIs, each inside the others";
        Interrupted = 32, "interrupted", "self-test: timers interrupt code that uses all registers and the red zone";
        Ticks = 33, "ticks", "self-test: a timer of 250 Hz on each of up to 64 vCPUs, for --duration";
        Shootdown = 34, "shootdown", "self-test: vCPU 0 remaps a page that the others read, and has them flush their TLBs";
        PageFaults = 37, "page-faults", "self-test: code that uses all registers and the red zone faults on a page, and is interrupted as well";
        BadTouch = 38, "bad-touch", "self-test: vCPU 0 touches window memory where it may not";
        BadInterrupts = 35, "bad-interrupts", "self-test: vCPU 0 asks for interrupts that make no sense, then ends";
        Alloc = 70, "alloc", "every vCPU allocates, stamps, checks and frees memory for --duration; counts blocks";
        HostilePorts = 50, "hostile-ports", "self-test: garbage to ports that exist, then accesses of any kind to any port";
        HostileCalls = 51, "hostile-calls", "self-test: hypercalls with arguments that make no sense, in thousands";
        HostileConsole = 52, "hostile-console", "self-test: every vCPU prints what terminals choke on and forges messages";
        HostileLoops = 53, "hostile-loops", "self-test: every vCPU loops for ever, each in a way of its own";
        HostilePages = 54, "hostile-pages", "self-test: garbage in all memory that the VMM reads, then a clean end";
        HostileTables = 55, "hostile-tables", "self-test: takes the page tables apart and touches what they map";
        HostileMmio = 56, "hostile-mmio", "self-test: maps addresses without memory; reads, writes and runs them";
        HostileJump = 57, "hostile-jump", "self-test: goes where no code is";
        HostileIdt = 58, "hostile-idt", "self-test: takes away what exceptions need, then raises one";
        HostileProcessor = 59, "hostile-processor", "self-test: privileged instructions with absurd operands";
        HostileChaos = 60, "hostile-chaos", "self-test: every vCPU does any of these, all at once, as --seed has it";
    }
}

/// Most pairs of vCPUs that play [`Workload::PingPong`] or [`Workload::IpiRace`].
pub const MOST_PAIRS: u32 = 128;

/// Pairs that play [`Workload::PingPong`] or [`Workload::IpiRace`] in a guest of `vcpus` vCPUs: vCPUs 0 and
/// 1, 2 and 3, and so on. Further vCPUs watch.
pub const fn pairs(vcpus: u32) -> u32 {
    if vcpus / 2 < MOST_PAIRS {
        vcpus / 2
    } else {
        MOST_PAIRS
    }
}

/// Faults that the guest can be asked to plant in itself, to show that a check catches them.
pub mod fault {
    /// None.
    pub const NONE: u32 = 0;
    /// Handlers run on the interrupted stack without skipping the red zone.
    pub const NO_RED_ZONE: u32 = 1;
    /// Handlers leave the FPU as they used it.
    pub const NO_FPU: u32 = 2;
    /// A periodic timer is set relative to when it fired.
    pub const RELATIVE_TIMER: u32 = 3;
    /// Nobody flushes its TLB after a change of a mapping.
    pub const NO_FLUSH: u32 = 4;
    /// [`Workload::Alloc`](super::Workload::Alloc) frees blocks that it still uses.
    pub const EARLY_FREE: u32 = 5;
    /// A vCPU that was halted does not flush its TLB when it resumes.
    pub const NO_FLUSH_ON_RESUME: u32 = 20;
    /// Who waits for a page in flight is not kicked when it has arrived.
    pub const NO_KICK: u32 = 21;
    /// Pages that are moved are copied before they are unmapped.
    pub const EARLY_COPY: u32 = 22;
    /// Who remembers where pages are is not told that they move.
    pub const NO_NOTICE: u32 = 23;
    /// [`Workload::Compaction`](super::Workload::Compaction) does not pin the pages that are to stay.
    pub const NO_PIN: u32 = 24;
    /// Pages that compaction moves lose part of what they hold.
    pub const LOST_CONTENTS: u32 = 25;
    /// Compaction can move nothing.
    pub const NO_MOVES: u32 = 26;
    /// Who remembers where pages are is not told that the first range starts to change.
    pub const NO_START: u32 = 40;
    /// Nor that the first one has changed.
    pub const NO_END: u32 = 41;
    /// Who looks up where pages are does not wait while they change, nor looks whether they did.
    pub const NO_RETRY: u32 = 42;
}

/// Ways for [`Workload::BadTouch`] to touch window memory; any other number is fine.
pub mod touch {
    /// With interrupts masked.
    pub const MASKED: u64 = 1;
    /// In the handler of a soft interrupt.
    pub const SOFT: u64 = 2;
    /// In that of a hard one.
    pub const HARD: u64 = 3;
    /// In that of an NMI.
    pub const NMI: u64 = 4;
    /// In the handler of its own faults.
    pub const NESTED: u64 = 5;
    /// By running it.
    pub const RUN: u64 = 6;
    /// With a spin lock held.
    pub const LOCKED: u64 = 7;
    /// Where its entry has a reserved bit set.
    pub const RESERVED: u64 = 8;
}

/// How [`RunConfig::spin_ns`] is to be read.
pub mod spin {
    /// The lock's own default: Linux's 2^15 iterations for `pvqspinlock-linux`, [`AUTO`] for `pvqspinlock`.
    pub const DEFAULT: u32 = 0;
    /// The measured cost of a halt, kick and wake-up.
    pub const AUTO: u32 = 1;
    /// [`RunConfig::spin_ns`](super::RunConfig::spin_ns) nanoseconds.
    pub const FIXED: u32 = 2;
}

/// One run's parameters. Times are in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RunConfig {
    /// A [`Workload`].
    pub workload: u32,
    /// A [`LockKind`].
    pub lock: u32,
    /// How long the vCPUs repeat the workload.
    pub duration_ns: u64,
    /// Length of a critical section.
    pub hold_ns: u64,
    /// Length of the pause between release and the next acquisition.
    pub think_ns: u64,
    /// Spin budget before a waiter halts, where [`spin_kind`](Self::spin_kind) is [`spin::FIXED`].
    pub spin_ns: u64,
    /// One of [`spin`]'s values.
    pub spin_kind: u32,
    /// One of [`fault`]'s values.
    pub fault: u32,
    /// Number of hand-offs of [`Workload::PingPong`]; 0 asks for as many as fit into the duration. Of other
    /// workloads, of what they repeat; [`Workload::BadTouch`] does what is named by [`touch`].
    pub rounds: u64,
    /// Seed of everything random in the guest.
    pub seed: u64,
}

assert_layout!(RunConfig, size 64, lock at 4, duration_ns at 8, spin_kind at 40, fault at 44, rounds at 48, seed at 56);
