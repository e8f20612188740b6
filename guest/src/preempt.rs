//! Preemption: taking it where the VMM offers it, and seeing that of others.

use core::sync::atomic::Ordering;

use abi::report::seen;
use abi::vcpu_page::{KVM_PREEMPTED, VcpuPage, offer, state};

use crate::cpu::Cpu;
use crate::hypercall;

/// To be called by a vCPU that has just got the lock: lets itself be stopped if the VMM would stop a holder.
#[inline]
pub(crate) fn holder(page: &VcpuPage) {
    // Relaxed, here and below: a hint, of which the VMM is the judge.
    if page.offer.load(Ordering::Relaxed) == offer::HOLDER {
        take();
    }
}

/// To be called in every turn of every spin loop: lets the vCPU be stopped if the VMM would stop a waiter.
/// For as long as it waits for the workload's lock, that is: not at a barrier, nor when it waits as the
/// holder.
#[inline]
pub(crate) fn waiter() {
    let page = Cpu::current().page();
    if page.offer.load(Ordering::Relaxed) == offer::WAITER
        && page.state.load(Ordering::Relaxed) == state::WAITING
    {
        take();
    }
}

#[cold]
fn take() {
    hypercall::preempt_me();
}

/// Why the vCPU with this page seems not to run: bits of [`mod@seen`], 0 if it seems to run.
#[inline]
pub(crate) fn why_off(page: &VcpuPage) -> u32 {
    // KVM may set its byte for a parked vCPU as well, since that has left the guest too: the VMM's own word
    // tells the two apart. Relaxed: hints, stale as soon as they are read.
    let ours = page.preempted.load(Ordering::Relaxed);
    let kvm = page.steal_time.preempted.load(Ordering::Relaxed) & KVM_PREEMPTED != 0;
    ours | if kvm { seen::KVM } else { 0 }
}

/// What KVM says was stolen from this vCPU so far, in nanoseconds; 0 where it does not say.
pub(crate) fn stolen(cpu: &Cpu) -> u64 {
    // Relaxed: KVM writes it only while this vCPU is not in the guest.
    cpu.page().steal_time.steal.load(Ordering::Relaxed)
}
