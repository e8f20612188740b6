//! Interrupts: which vectors a vCPU is to get, and how its thread learns of them in time.
//!
//! **No vector is lost.** Who requests one puts it into the set and *then* looks where the vCPU's thread is.
//! The thread says where it is going and *then* looks at the set. All four are sequentially consistent, so at
//! least one sees the other: either the thread finds the vector, or the requester finds the thread and gets
//! it back from where it is going:
//!
//! - *Into the guest*: by the signal, which sets `immediate_exit` on the thread itself. The thread clears
//!   that between the two steps: a signal before the clearing came from a requester whose vector is in the
//!   set by then; one after it makes `KVM_RUN` return at once, however late it is entered.
//! - *Into a park*: by the alarm, a descriptor that the parked thread polls beside its kicks. It is not the
//!   kicks' own, so an interrupt is never taken for a kick, nor does taking one take the other.
//! - *Nowhere*: the thread is handling an exit, and looks at the set on its way back.
//!
//! A vector leaves the set only on its way into KVM, which then owns it. An ordinary one is given to KVM when
//! the guest can take it, and does before its next instruction. An NMI may have to wait inside KVM, behind
//! `sti` for example, and the next instruction may be a `hlt`: so a HLT asks KVM before it sleeps.

use std::io;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64};

use abi::interrupt::NMI;
use kvm_bindings::{KVMIO, kvm_interrupt};
use kvm_ioctls::VcpuFd;
use libc::pid_t;
use vmm_sys_util::errno;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::ioctl::ioctl_with_ref;

use crate::signal;

/// Where a vCPU's thread is, if it is not the id of that thread: then it is in the guest, or about to be.
const ELSEWHERE: i32 = 0;
const PARKED: i32 = -1;

/// One vCPU's interrupts.
pub(crate) struct Interrupts {
    /// A bit for each vector that is still to be injected.
    pending: [AtomicU64; 4],
    /// A thread id, or one of the constants above. Whoever takes the thread back also resets it: one signal,
    /// or one alarm, is enough.
    place: AtomicI32,
    alarm: EventFd,
    /// Whether KVM may have an NMI that it has not injected yet. The vCPU's thread alone uses it.
    nmi_in_kvm: AtomicBool,
}

impl Interrupts {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            pending: Default::default(),
            place: AtomicI32::new(ELSEWHERE),
            alarm: EventFd::new(EFD_NONBLOCK)?,
            nmi_in_kvm: AtomicBool::new(false),
        })
    }

    /// Makes `vector` pending, and sees to it that the vCPU's thread looks at it.
    pub(crate) fn request(&self, vector: u8) {
        self.pending[usize::from(vector / 64)].fetch_or(1 << (vector % 64), SeqCst);
        match self.place.swap(ELSEWHERE, SeqCst) {
            ELSEWHERE => {}
            // Fails only where it is full: then it is readable as well.
            PARKED => drop(self.alarm.write(1)),
            thread => signal::send(thread),
        }
    }

    /// The calling thread, which is `thread`, is about to enter the guest. What it looks at next, it will not
    /// miss a request about.
    pub(crate) fn entering(&self, thread: pid_t) {
        self.place.store(thread, SeqCst);
    }

    /// The calling thread is about to sleep, for [`alarm`](Self::alarm) among others.
    pub(crate) fn parked(&self) {
        self.place.store(PARKED, SeqCst);
    }

    /// The calling thread is back from the guest, or awake.
    pub(crate) fn left(&self) {
        self.place.store(ELSEWHERE, SeqCst);
    }

    /// Readable after a request that found the thread parked.
    pub(crate) fn alarm(&self) -> &EventFd {
        &self.alarm
    }

    /// Makes the alarm unreadable. Whatever it was raised for is pending by then.
    pub(crate) fn silence(&self) {
        // Fails only if it is unreadable already.
        let _ = self.alarm.read();
    }

    /// Whether there is a vector to inject.
    pub(crate) fn pending(&self) -> bool {
        self.pending.iter().any(|word| word.load(SeqCst) != 0)
    }

    /// Forgets what is pending: a fault to plant.
    pub(crate) fn forget(&self) {
        for word in &self.pending {
            word.store(0, SeqCst);
        }
    }

    /// Hands KVM what the vCPU can take now: the NMI, and the highest vector if it is ready for one. For
    /// what must wait, asks KVM to exit as soon as it is ready. To be called by the vCPU's thread, between
    /// `entering` and `KVM_RUN`.
    pub(crate) fn inject(&self, vcpu: &mut VcpuFd) -> Result<(), errno::Error> {
        if self.has(NMI) {
            let interruptible = vcpu.get_kvm_run().if_flag != 0;
            let known = vcpu.get_vcpu_events()?.nmi;
            match Nmi::new(
                known.pending | known.injected != 0,
                known.masked != 0,
                interruptible,
            ) {
                Nmi::Wait => {}
                Nmi::Merge => drop(self.take(NMI)),
                Nmi::HandOver => {
                    self.take(NMI);
                    vcpu.nmi()?;
                    self.nmi_in_kvm.store(true, Relaxed);
                }
            }
        }
        let run = vcpu.get_kvm_run();
        if run.ready_for_interrupt_injection != 0
            && run.if_flag != 0
            && let Some(vector) = self.highest().filter(|vector| *vector != NMI)
        {
            // KVM sets it again with the next exit; until then one vector is all it takes.
            run.ready_for_interrupt_injection = 0;
            self.take(vector);
            interrupt(vcpu, vector)?;
        }
        vcpu.get_kvm_run().request_interrupt_window = self.pending().into();
        Ok(())
    }

    /// Whether KVM has an NMI that it has not injected yet: one more reason not to sleep.
    pub(crate) fn nmi_in_kvm(&self, vcpu: &VcpuFd) -> bool {
        let waits = self.nmi_in_kvm.load(Relaxed)
            && vcpu
                .get_vcpu_events()
                .is_ok_and(|events| events.nmi.pending != 0 || events.nmi.injected != 0);
        self.nmi_in_kvm.store(waits, Relaxed);
        waits
    }

    fn highest(&self) -> Option<u8> {
        let words = self.pending.iter().map(|word| word.load(SeqCst)).enumerate();
        let (index, word) = words.filter(|(_, word)| *word != 0).last()?;
        u8::try_from(64 * index as u32 + word.ilog2()).ok()
    }

    /// Whether `vector` is in the set.
    fn has(&self, vector: u8) -> bool {
        self.pending[usize::from(vector / 64)].load(SeqCst) & 1 << (vector % 64) != 0
    }

    /// Takes `vector` out of the set; returns whether it was in it.
    fn take(&self, vector: u8) -> bool {
        let bit = 1 << (vector % 64);
        self.pending[usize::from(vector / 64)].fetch_and(!bit, SeqCst) & bit != 0
    }
}

/// What becomes of an NMI that is to be injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nmi {
    /// KVM takes it.
    HandOver,
    /// KVM has one whose handler has not begun, which does for both: a processor remembers only one, too.
    Merge,
    /// The guest has not returned from the last one. KVM would keep a second one until then; but under nested
    /// SVM, guests were seen to loop in the stub of an NMI for ever, as if the second had come before the
    /// first one's `iretq` was done.
    Wait,
}

impl Nmi {
    /// By what KVM has, and where the guest is. Waits for nothing but the window, and so only where that is
    /// closed: a vCPU that asked for an open one would never get anywhere. A guest that takes interrupts in
    /// an NMI's handler is no stub; there KVM may keep one.
    fn new(kvm_has_one: bool, masked: bool, interruptible: bool) -> Self {
        match (kvm_has_one, masked && !interruptible) {
            (true, _) => Self::Merge,
            (false, true) => Self::Wait,
            (false, false) => Self::HandOver,
        }
    }
}

vmm_sys_util::ioctl_iow_nr!(KVM_INTERRUPT, KVMIO, 0x86, kvm_interrupt);

/// `KVM_INTERRUPT`, which kvm-ioctls does not have.
fn interrupt(vcpu: &VcpuFd, vector: u8) -> Result<(), errno::Error> {
    let argument = kvm_interrupt { irq: vector.into() };
    // SAFETY: the kernel reads a `kvm_interrupt` there, and touches no other memory of ours.
    match unsafe { ioctl_with_ref(vcpu, KVM_INTERRUPT(), &argument) } {
        0 => Ok(()),
        _ => Err(errno::Error::last()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_vector_comes_first_and_twice_is_once() {
        let interrupts = Interrupts::new().unwrap();
        assert!(!interrupts.pending());
        for vector in [32, 255, 64, 63, 255] {
            interrupts.request(vector);
        }
        for vector in [255, 64, 63, 32] {
            assert_eq!(interrupts.highest(), Some(vector));
            assert!(interrupts.take(vector));
        }
        assert!(!interrupts.pending());
        assert!(!interrupts.take(32));
    }

    #[test]
    fn no_nmi_waits_for_a_window_that_is_open_and_kvm_gets_one_at_a_time() {
        for case in 0..8 {
            let [has_one, masked, interruptible] = [1, 2, 4].map(|bit| case & bit != 0);
            let nmi = Nmi::new(has_one, masked, interruptible);
            assert_eq!(nmi == Nmi::Wait, !has_one && masked && !interruptible, "{case}");
            assert_eq!(nmi == Nmi::Merge, has_one, "{case}");
        }
    }

    #[test]
    fn only_the_first_request_raises_the_alarm_of_a_parked_vcpu() {
        let interrupts = Interrupts::new().unwrap();
        interrupts.request(40);
        assert!(interrupts.alarm().read().is_err(), "nobody is parked");
        interrupts.parked();
        interrupts.request(41);
        interrupts.request(42);
        assert_eq!(interrupts.alarm().read().ok(), Some(1));
    }
}
