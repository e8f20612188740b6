//! I/O ports: the hypercalls and the console.
//!
//! A hypercall is one 32-bit `out` whose value is its only argument. Anything else at these ports, and any
//! other port, ends the run with a diagnosis.
//!
//! ```text
//! 0x3f8 ..= 0x3ff   console: a 16550 UART, 8-bit accesses
//! 0x500             KICK_CPU   vCPU index
//! 0x504             EXIT       exit_code
//! 0x508             MEASURE    measure::BEGIN, measure::END or measure::SYNC
//! 0x50c             SEND_IPI   interrupt::ipi(target, vector)
//! 0x510             SET_TIMER  vector, with the deadline in the vCPU's page
//! 0x518             PREEMPT_ME 0
//! ```

/// First port of the 16550 console.
pub const CONSOLE: u16 = 0x3f8;
/// Number of ports of the console.
pub const CONSOLE_LEN: u16 = 8;

/// Wakes the vCPU whose index is written, with the semantics of KVM's hypercall 5 (`KVM_HC_KICK_CPU`): it
/// latches "unhalted" for the target and ends its HLT; a HLT that finds the latch set returns at once and
/// clears it.
pub const KICK_CPU: u16 = 0x500;

/// Ends the run with one of the codes in [`exit_code`].
pub const EXIT: u16 = 0x504;

/// Begins or ends the interval in which the VMM accounts host time to the vCPUs; see [`measure`].
pub const MEASURE: u16 = 0x508;

/// Interrupts one vCPU or several; see [`interrupt`](crate::interrupt). Of what does not exist, nothing is
/// interrupted, and each is counted.
pub const SEND_IPI: u16 = 0x50c;

/// Sets the vCPU's one timer: it gets the vector that is written here, one that
/// [`interrupt::is_external`](crate::interrupt::is_external), as soon as its TSC has reached
/// [`VcpuPage::deadline`](crate::vcpu_page::VcpuPage::deadline); at once if it has already. A deadline of 0
/// disarms the timer. It fires once; since deadlines are absolute, a periodic use of it does not drift.
pub const SET_TIMER: u16 = 0x510;

/// Takes the preemption that the VMM offers in the vCPU's page ([`VcpuPage::offer`]): the VMM stops the vCPU
/// here for as long as it was asked to. Refused where nothing was offered; of several vCPUs that take one
/// offer, the first is stopped.
///
/// [`VcpuPage::offer`]: crate::vcpu_page::VcpuPage::offer
pub const PREEMPT_ME: u16 = 0x518;

/// Ports from 0 up to, not including, this one may be used: what the guest's I/O permission bitmap has to
/// cover.
pub const LIMIT: u16 = 0x520;

/// Values of [`EXIT`].
pub mod exit_code {
    /// The workload ran to its end and the report is complete.
    pub const DONE: u32 = 0;
    /// The guest panicked; its message is on the console.
    pub const PANIC: u32 = 1;
    /// The guest took an exception it has no use for; the dump is on the console.
    pub const FAULT: u32 = 2;
    /// The guest took an exception while it was already reporting one, or a panic.
    pub const NESTED_FAULT: u32 = 3;
    /// The guest does not speak this version of the interface.
    pub const VERSION: u32 = 4;
}

/// Values of [`MEASURE`].
pub mod measure {
    /// The vCPUs are about to start the workload.
    pub const BEGIN: u32 = 0;
    /// All vCPUs have finished the workload.
    pub const END: u32 = 1;
    /// The VMM notes the time, so that the guest's clock can be joined with the host's afterwards.
    pub const SYNC: u32 = 2;
    /// More calls of SYNC than this are refused.
    pub const SYNCS: usize = 64;
}
