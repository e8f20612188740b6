//! When vCPUs are preempted, and which: a thread of its own.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{io, mem};

use abi::vcpu_page::offer;

use super::Asked;
use crate::config::{Preempt, Target, nanos};
use crate::machine::{Cause, Machine};
use crate::random::Random;
use crate::sandbox::Class;
use crate::wait::{on_time, wait};

/// How long a vCPU whose thread has a CPU usually takes to come out of the guest, and then some: tens of
/// microseconds, and more under nested virtualisation. If it takes longer, another one is asked. If none
/// comes out, all get twice as long the next time, up to a limit.
const GLANCE: Duration = Duration::from_micros(400);
const LONGEST_GLANCE: Duration = Duration::from_millis(100);

/// How long a vCPU whose thread is waiting for a CPU may take: so long, and a few time slices of all the
/// other vCPUs.
const PATIENCE: Duration = Duration::from_secs(10);
const PATIENCE_PER_VCPU: Duration = Duration::from_millis(100);

/// The running thread. It ends when the measurement does, or when the vCPUs are told to stop.
pub(crate) struct Injector(Option<JoinHandle<()>>);

impl Injector {
    /// Starts the thread, if there is something for it to do.
    pub(crate) fn start(machine: &Arc<Machine>, seed: u64) -> io::Result<Self> {
        let Some(plan) = machine.preemption.plan else {
            return Ok(Self(None));
        };
        let machine = machine.clone();
        let thread = thread::Builder::new().name("preempt".into()).spawn(move || {
            on_time();
            machine.sandbox.enter(Class::Helper);
            inject(&machine, plan, &mut Random::new(seed));
        })?;
        Ok(Self(Some(thread)))
    }
}

impl Drop for Injector {
    /// Waits for the thread, which somebody has told to end.
    fn drop(&mut self) {
        if let Some(thread) = mem::take(&mut self.0) {
            // A panic of the thread's was printed when it happened; there is nothing to add.
            let _ = thread.join();
        }
    }
}

/// What the injector may find when it waits.
const OVER: Option<usize> = Some(0);

/// Preempts again and again, until the measurement is over.
fn inject(machine: &Machine, plan: Preempt, random: &mut Random) {
    let shared = &machine.preemption;
    if wait([&shared.over, &shared.begun], None) == OVER {
        return;
    }
    let mut signalled = vec![None; machine.latches.len()];
    let mut glance = GLANCE;
    loop {
        let pause = jittered(plan.every, random);
        if wait([&shared.over], Instant::now().checked_add(pause)) == OVER {
            return;
        }
        let stopped = match plan.target {
            Target::Any => stop_any(machine, glance, &mut signalled, random),
            // Somebody will take it, some time.
            Target::Holder | Target::Waiter => {
                let holder = plan.target == Target::Holder;
                let what = if holder { offer::HOLDER } else { offer::WAITER };
                shared.offers.make(machine, what);
                true
            }
        };
        if let Some(deaf) = deaf(machine, &signalled) {
            return machine.end(Cause::Deaf(deaf));
        }
        glance = if stopped {
            GLANCE
        } else {
            LONGEST_GLANCE.min(2 * glance)
        };
        if stopped {
            // A guest may leave its lock alone, and not take an offer, for as long as it likes.
            if wait([&shared.over, &shared.ended], None) == OVER {
                return;
            }
            // Makes it unreadable: there was one preemption, and it has ended.
            let _ = shared.ended.read();
        }
    }
}

/// Stops one of the vCPUs that run, whichever. Returns false if none did.
fn stop_any(
    machine: &Machine,
    glance: Duration,
    signalled: &mut [Option<Instant>],
    random: &mut Random,
) -> bool {
    let shared = &machine.preemption;
    let vcpus = signalled.len();
    // From a random one on, in a random direction, so that no neighbourhood is favoured much.
    let first = random.below(vcpus as u64) as usize;
    let step = if random.below(2) == 0 { 1 } else { vcpus - 1 };
    for vcpu in (0..vcpus).map(|i| (first + i * step) % vcpus) {
        let now = Instant::now();
        match shared.ask(vcpu) {
            Asked::Outside => {
                signalled[vcpu] = None;
                continue;
            }
            Asked::Signalled => signalled[vcpu] = Some(now),
            Asked::Again => {}
        }
        if wait([&shared.over, &shared.ended], Some(now + glance)).is_some() || !shared.withdraw(vcpu) {
            signalled[vcpu] = None;
            return true;
        }
    }
    false
}

/// A vCPU that was signalled long ago and has not come out of the guest since.
fn deaf(machine: &Machine, signalled: &[Option<Instant>]) -> Option<u32> {
    let patience = PATIENCE + PATIENCE_PER_VCPU * signalled.len() as u32;
    let deaf = |(vcpu, since): (usize, &Option<Instant>)| {
        let late = since.is_some_and(|since| since.elapsed() > patience);
        (late && machine.preemption.is_signalled(vcpu)).then_some(vcpu as u32)
    };
    signalled.iter().enumerate().find_map(deaf)
}

/// A pause whose mean is `every`, uniformly distributed between half of that and half as much again: a
/// period could fall into step with the guest's or the host's own.
fn jittered(every: Duration, random: &mut Random) -> Duration {
    let every = nanos(every);
    Duration::from_nanos((every / 2).saturating_add(random.below(every.max(1))))
}
