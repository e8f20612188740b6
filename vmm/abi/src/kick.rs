//! How the guest kicks: the values of [`BootInfo::kick`](crate::boot::BootInfo::kick).
//!
//! Whichever it is, a kick latches "unhalted" for its target and ends its HLT; a HLT that finds the latch set
//! returns at once and clears it.

/// One `out` to [`port::KICK_CPU`](crate::port::KICK_CPU). Who answers it, the VMM or KVM on its behalf,
/// makes no difference to the guest.
pub const PORT: u32 = 0;

/// KVM's own hypercall [`HYPERCALL`] by `vmcall`, Intel's instruction for it; from ring 0 only.
pub const VMCALL: u32 = 1;

/// The same by `vmmcall`, AMD's instruction for it.
pub const VMMCALL: u32 = 2;

/// Number of KVM's hypercall, in RAX: `KVM_HC_KICK_CPU`. RBX takes flags, of which there are none, and RCX
/// the target's APIC id.
pub const HYPERCALL: u64 = 5;
