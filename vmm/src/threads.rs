//! The threads that run vCPUs, from their start to their end.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::Killable;

use crate::config::Config;
use crate::error::Error;
use crate::machine::Machine;
use crate::start::Start;
use crate::vcpu::{Place, Vcpu};
use crate::vm::system;
use crate::{affinity, signal};

/// How long vCPU threads get to come out of KVM once they are told to stop.
const GRACE: Duration = Duration::from_secs(10);

/// The running vCPU threads.
pub(crate) struct Threads {
    handles: Vec<JoinHandle<Place>>,
    start: Arc<Start>,
    /// Nothing is ever sent: all threads hold the other end until they are done.
    done: Receiver<()>,
}

impl Threads {
    /// Starts a thread for each vCPU, and does `meanwhile` as soon as the first one is on its way. If that
    /// fails, or a thread cannot be started, all are stopped again.
    pub(crate) fn start(
        vcpus: Vec<VcpuFd>,
        start: &Arc<Start>,
        machine: &Arc<Machine>,
        config: &Config,
        meanwhile: impl FnOnce() -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let mut meanwhile = Some(meanwhile);
        let (running, done) = mpsc::channel();
        let mut threads = Self {
            handles: Vec::new(),
            start: start.clone(),
            done,
        };
        for (index, fd) in (0..).zip(vcpus) {
            let vcpu = Vcpu {
                index,
                fd,
                machine: machine.clone(),
                start: start.clone(),
            };
            let cpus = config.cpus_of(index);
            let this_one = running.clone();
            let body = move || {
                if !affinity::bind_this_thread(&cpus) {
                    vcpu.machine.add_unbound();
                }
                vcpu.machine.accounts.add_this_thread();
                vcpu.machine.preemption.register(index);
                vcpu.machine.hints.record_this_thread(index);
                let place = vcpu.run();
                drop(this_one);
                place
            };
            let thread = thread::Builder::new().name(format!("vcpu-{index}")).spawn(body);
            let begun = thread
                .map(|handle| threads.handles.push(handle))
                .map_err(system)
                .and_then(|()| meanwhile.take().map_or(Ok(()), |meanwhile| meanwhile()));
            if let Err(error) = begun {
                drop(running);
                threads.stop(machine);
                return Err(error);
            }
        }
        Ok(threads)
    }

    /// Stops all vCPUs and tells where each was. A thread that KVM does not give back is left behind.
    pub(crate) fn stop(self, machine: &Machine) -> Vec<Place> {
        machine.request_stop();
        self.start.give_up();
        for handle in &self.handles {
            // Fails only for a thread that is gone already.
            let _ = handle.kill(signal::number());
        }
        // Woken once, by the last of them: each wake-up would take that thread's CPU from the others.
        let all = self.done.recv_timeout(GRACE) == Err(RecvTimeoutError::Disconnected);
        let place = |handle: JoinHandle<Place>| match all || handle.is_finished() {
            // A panic of the thread's was printed when it happened; there is nothing to add.
            true => handle.join().unwrap_or(Place::Kvm),
            false => Place::Kvm,
        };
        self.handles.into_iter().map(place).collect()
    }
}
