//! Preemption on demand: what the vCPU threads do for it. `injector` decides when.
//!
//! There are two ways. *From outside*, for `any`: the injector asks a vCPU that is in the guest, and gets
//! it out of `KVM_RUN` with a signal; the vCPU's thread finds that it was asked and stops. *From inside*,
//! for `holder` and `waiter`: the VMM makes an offer in the vCPUs' pages (`offers`), and the first one that
//! gets or waits for the lock takes it with a hypercall, in which its thread stops. So it is stopped
//! exactly there, at no cost to anybody else, and how often that happens does not depend on how fair the
//! lock is.
//!
//! **From outside, no vCPU is asked in vain.** A vCPU's mode says whether it is in the guest, as
//! `vcpu->mode` does in KVM. Only one that is [`IN_GUEST`] is asked, by a compare-and-swap to [`ASKED`];
//! then the signal is sent. The vCPU clears `immediate_exit` before it says that it is in the guest, so the
//! signal's handler sets it after that and `KVM_RUN` returns; when it has, a swap to [`OUTSIDE`] tells
//! whether somebody asked. A parked vCPU, or one whose exit is being handled, is outside. A vCPU that is in
//! the guest but whose thread has lost its CPU cannot answer: then the question is withdrawn, and another
//! vCPU asked. The signal remains: until the vCPU has come out, it is [`SIGNALLED`].

mod injector;
mod offers;

use std::io;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use abi::vcpu_page::{preempted, state};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::config::{PlantedFault, Preempt, Target};
use crate::machine::Machine;
use crate::outcome::Preemptions;
use crate::wait::{on_time, wait};
use crate::{signal, vcpu};
pub(crate) use injector::Injector;
use offers::{Answer, Offers};

/// Values of a vCPU's mode.
const OUTSIDE: u32 = 0;
const IN_GUEST: u32 = 1;
const ASKED: u32 = 2;
const SIGNALLED: u32 = 3;

/// What the injector and the vCPU threads share.
pub(crate) struct Preemption {
    plan: Option<Preempt>,
    vcpus: Vec<Slot>,
    offers: Offers,
    /// Preemptions by what the vCPU was doing, in the order of [`state`]'s values.
    hits: [AtomicU64; 3],
    /// Readable from the beginning of the measurement on; never read.
    begun: EventFd,
    /// Readable from its end on, or from when the vCPUs are to stop; never read.
    over: EventFd,
    /// Counts the preemptions that have ended.
    ended: EventFd,
}

/// A vCPU as the injector sees it.
#[derive(Default)]
struct Slot {
    mode: AtomicU32,
    thread: AtomicI32,
}

/// What became of asking a vCPU to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// It is not in the guest.
    Outside,
    /// It was sent a signal.
    Signalled,
    /// It was sent one before, and has not come out of the guest since.
    Again,
}

impl Preemption {
    pub(crate) fn new(plan: Option<Preempt>, vcpus: u32) -> io::Result<Self> {
        let event = || EventFd::new(EFD_NONBLOCK);
        Ok(Self {
            plan,
            vcpus: (0..vcpus).map(|_| Slot::default()).collect(),
            offers: Offers::new(vcpus),
            hits: Default::default(),
            begun: event()?,
            over: event()?,
            ended: event()?,
        })
    }

    /// The measurement begins, and preemption with it.
    pub(crate) fn begin(&self) {
        // Writes fail only where the counter is at its maximum, and then it is readable as well.
        let _ = self.begun.write(1);
    }

    /// No more preemption; one that has not ended yet ends now.
    pub(crate) fn end(&self) {
        let _ = self.over.write(1);
    }

    /// What was hit so far.
    pub(crate) fn hits(&self) -> Preemptions {
        // Relaxed: statistics, read after the threads were joined.
        let hits = |state: u32| self.hits[state as usize].load(Ordering::Relaxed);
        Preemptions {
            holder: hits(state::HOLDING),
            waiter: hits(state::WAITING),
            other: hits(state::OUTSIDE),
        }
    }

    /// The calling thread is the one of vCPU `index`.
    pub(crate) fn register(&self, index: u32) {
        if self.plan.is_some() {
            on_time();
        }
        // Relaxed: whoever finds the vCPU in the guest sees this too, by `enter_guest`.
        self.vcpus[index as usize]
            .thread
            .store(signal::this_thread(), Ordering::Relaxed);
    }

    /// vCPU `index` is about to enter the guest. It has cleared `immediate_exit`.
    pub(crate) fn enter_guest(&self, index: u32) {
        if self.stops_from_outside() {
            // Release: pairs with the compare-and-swap in `ask`. Who asks sends the signal after this store,
            // and so after `immediate_exit` was cleared.
            self.vcpus[index as usize].mode.store(IN_GUEST, Ordering::Release);
        }
    }

    /// vCPU `index` has left the guest; if it was asked to, it stops here for a while.
    pub(crate) fn leave_guest(&self, machine: &Machine, index: u32) {
        // Acquire: pairs with the compare-and-swap in `ask`, though nothing else depends on it.
        if self.stops_from_outside()
            && self.vcpus[index as usize].mode.swap(OUTSIDE, Ordering::AcqRel) == ASKED
        {
            self.hold(machine, index);
        }
    }

    fn stops_from_outside(&self) -> bool {
        self.plan.is_some_and(|plan| plan.target == Target::Any)
    }

    /// Asks vCPU `index` to stop, if it is in the guest.
    fn ask(&self, index: usize) -> Asked {
        let slot = &self.vcpus[index];
        // Acquire: pairs with the store in `enter_guest`. Release: pairs with the swap in `leave_guest`.
        let turn = |from| {
            slot.mode
                .compare_exchange(from, ASKED, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        };
        if turn(IN_GUEST) {
            signal::send(slot.thread.load(Ordering::Relaxed));
            Asked::Signalled
        } else if turn(SIGNALLED) {
            Asked::Again
        } else {
            Asked::Outside
        }
    }

    /// Takes the question to vCPU `index` back. Returns false if it was too late.
    fn withdraw(&self, index: usize) -> bool {
        // Relaxed: only who asked cares.
        self.vcpus[index]
            .mode
            .compare_exchange(ASKED, SIGNALLED, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// Whether vCPU `index` was sent a signal and has not come out of the guest since.
    fn is_signalled(&self, index: usize) -> bool {
        self.vcpus[index].mode.load(Ordering::Relaxed) == SIGNALLED
    }

    /// `PREEMPT_ME`: vCPU `index` takes an offer. Returns false if there was none that it could have seen.
    pub(crate) fn take(&self, machine: &Machine, index: u32) -> bool {
        let answer = self.offers.take(machine, index);
        if answer == Answer::Taken {
            self.hold(machine, index);
        }
        answer != Answer::Refused
    }

    /// Stops the calling thread, vCPU `index`'s, for as long as the plan says, or until preemption is over.
    fn hold(&self, machine: &Machine, index: u32) {
        let Some(plan) = self.plan else { return };
        let now = Instant::now();
        if wait([&self.over], Some(now)).is_some() {
            return;
        }
        // What the guest says it was doing, if it makes sense.
        let hit = self.hits.get(vcpu::lock_state(machine, index) as usize);
        // Relaxed: a statistic.
        hit.unwrap_or(&self.hits[state::OUTSIDE as usize])
            .fetch_add(1, Ordering::Relaxed);
        if machine.planted_fault != Some(PlantedFault::CountWithoutStopping) {
            vcpu::set_preempted(machine, index, preempted::STOPPED);
            wait([&self.over], now.checked_add(plan.length));
            vcpu::set_preempted(machine, index, 0);
        }
        let _ = self.ended.write(1);
    }
}
