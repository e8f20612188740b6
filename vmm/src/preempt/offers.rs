//! Preemption from inside: offers in the vCPUs' pages, and who may take one.
//!
//! An offer is made to all vCPUs, and withdrawn from all pages when the first one takes it. Another may
//! have seen it by then, and is on its way: that is no reason to refuse an honest guest. So each vCPU is
//! owed one answer for every offer that it could see.

use std::sync::{Mutex, MutexGuard, PoisonError};

use abi::vcpu_page::offer;

use crate::machine::Machine;
use crate::vcpu;

/// All under one lock, since the pages and what is owed have to agree: a vCPU's page has an offer only if
/// it is owed an answer, and when it is owed none any more, its page has none.
pub(super) struct Offers(Mutex<State>);

struct State {
    /// Nobody has taken the last offer.
    open: bool,
    /// By vCPU: it may have seen an offer, and has not been answered.
    owed: Vec<bool>,
}

/// What becomes of a vCPU that takes an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is to be stopped.
    Taken,
    /// Another was faster.
    Late,
    /// There was no offer that it could have seen.
    Refused,
}

impl Offers {
    pub(super) fn new(vcpus: u32) -> Self {
        Self(Mutex::new(State {
            open: false,
            owed: vec![false; vcpus as usize],
        }))
    }

    /// Offers a preemption to all vCPUs, of `what`.
    pub(super) fn make(&self, machine: &Machine, what: u32) {
        let mut state = self.state();
        state.open = true;
        state.owed.fill(true);
        state.write(machine, what);
    }

    /// vCPU `index`, which is not in the guest, takes an offer.
    pub(super) fn take(&self, machine: &Machine, index: u32) -> Answer {
        let mut state = self.state();
        if !std::mem::replace(&mut state.owed[index as usize], false) {
            return Answer::Refused;
        }
        // When it is in the guest again, it sees this, or a later offer.
        vcpu::set_offer(machine, index, offer::NONE);
        if !std::mem::replace(&mut state.open, false) {
            return Answer::Late;
        }
        state.write(machine, offer::NONE);
        Answer::Taken
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Writes `what` into all pages.
    fn write(&self, machine: &Machine, what: u32) {
        for index in 0..self.owed.len() as u32 {
            vcpu::set_offer(machine, index, what);
        }
    }
}
