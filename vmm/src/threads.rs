//! The threads that run vCPUs, from their start to their end.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::Killable;

use crate::config::Config;
use crate::machine::Machine;
use crate::start::Start;
use crate::vcpu::{Place, Vcpu};
use crate::{affinity, signal};

/// How long vCPU threads get to come out of KVM once they are told to stop.
const GRACE: Duration = Duration::from_secs(10);

/// The running vCPU threads.
pub(crate) struct Threads {
    handles: Vec<JoinHandle<()>>,
    places: Receiver<(u32, Place)>,
}

impl Threads {
    /// Starts a thread for each vCPU. If one cannot be started, the others are stopped again.
    pub(crate) fn start(
        vcpus: Vec<VcpuFd>,
        start: &Arc<Start>,
        machine: &Arc<Machine>,
        config: &Config,
    ) -> io::Result<Self> {
        let (sender, places) = mpsc::channel();
        let mut threads = Self {
            handles: Vec::new(),
            places,
        };
        for (index, fd) in (0..).zip(vcpus) {
            let vcpu = Vcpu {
                index,
                fd,
                machine: machine.clone(),
                start: start.clone(),
            };
            let cpus = config.cpus_of(index);
            let sender = sender.clone();
            let body = move || {
                if !affinity::bind_this_thread(&cpus) {
                    vcpu.machine.add_unbound();
                }
                signal::unblock();
                vcpu.machine.accounts.add_this_thread();
                vcpu.machine.preemption.register(index);
                vcpu.machine.hints.record_this_thread(index);
                // The receiver may have given up on this thread.
                let _ = sender.send((index, vcpu.run()));
            };
            match thread::Builder::new().name(format!("vcpu-{index}")).spawn(body) {
                Ok(handle) => threads.handles.push(handle),
                Err(error) => {
                    threads.stop(machine);
                    return Err(error);
                }
            }
        }
        Ok(threads)
    }

    /// Stops all vCPUs and tells where each was. A thread that KVM does not give back is left behind.
    pub(crate) fn stop(self, machine: &Machine) -> Vec<Place> {
        machine.request_stop();
        for handle in &self.handles {
            // Fails only for a thread that is gone already.
            let _ = handle.kill(signal::number());
        }
        let deadline = Instant::now() + GRACE;
        let mut places = vec![Place::Kvm; self.handles.len()];
        for _ in 0..self.handles.len() {
            match self
                .places
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok((index, place)) => places[index as usize] = place,
                Err(_) => break,
            }
        }
        for (handle, place) in self.handles.into_iter().zip(&places) {
            if *place != Place::Kvm {
                // A panic of the thread's was printed when it happened; there is nothing to add.
                let _ = handle.join();
            }
        }
        places
    }
}
