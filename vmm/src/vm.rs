//! A guest's life, from its configuration to its outcome.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use abi::config::Workload;

use crate::config::{Config, Kick, Preempt, Ring, Target};
use crate::error::Error;
use crate::hardware::Hardware;
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::neighbours::Neighbours;
use crate::outcome::Outcome;
use crate::preempt::Injector;
use crate::probe::Ring0;
use crate::sandbox::Sandbox;
use crate::threads::Threads;
use crate::transport::Transport;
use crate::{Io, affinity, control, diagnosis, registers, signal};

/// A guest that is set up as far as it can be before its threads start.
pub struct Vm<'a> {
    config: Config,
    kernel: &'a Kernel,
    hardware: Hardware,
    transport: Transport,
    sandbox: Sandbox,
    /// What it took to make it.
    setup: Duration,
}

impl<'a> Vm<'a> {
    /// Makes a VM, as `config` has it, for `kernel`.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] if the configuration makes no sense on this host, [`Error::Host`] if the host cannot
    /// run guests, or not such ones.
    pub fn new(config: &Config, kernel: &'a Kernel) -> Result<Self, Error> {
        let begun = Instant::now();
        affinity::check(&config.pcpus)?;
        check(config)?;
        let transport = Transport::of(config);
        let sandbox = Sandbox::new(config.sandbox)?;
        Ok(Self {
            hardware: Hardware::create(config, kernel, &transport)?,
            config: config.clone(),
            kernel,
            transport,
            sandbox,
            setup: begun.elapsed(),
        })
    }

    /// Runs the guest to its end, whatever that is: a guest that ends badly is not an error, but an
    /// [`Outcome`]. All that it took (threads, descriptors, memory) is given back before this returns.
    ///
    /// # Errors
    ///
    /// [`Error::Host`] if the host has no threads or descriptors left, or turns out not to run such guests;
    /// [`Error::Usage`] if the kernel does not fit.
    pub fn run(self, io: Io<'_>) -> Result<Outcome, Error> {
        let begun = crate::monotonic_ns();
        let config = &self.config;
        let Hardware {
            vcpus,
            fd,
            memory,
            layout,
            start,
        } = self.hardware;
        let tsc_khz = start.boot.tsc_khz;
        let tsc = registers::guest_tsc(&vcpus[0], tsc_khz)?;
        let fd = Arc::new(fd);
        let apics = self.transport.apics(&fd);
        let machine = Machine::new(memory, layout, config, tsc, apics, self.sandbox).map_err(system)?;
        self.transport.bind(&fd, &machine.latches)?;
        let machine = Arc::new(machine);
        signal::install_handler().map_err(system)?;

        let neighbours = Neighbours::start(config, &machine.sandbox).map_err(system)?;
        let injector = Injector::start(&machine, config.seed).map_err(system)?;
        let start = Arc::new(start);
        let load = || {
            self.kernel.load(&machine.memory)?;
            start.begun.set_loaded();
            Ok(())
        };
        let threads = Threads::start(vcpus, &start, &machine, config, load)?;
        machine.console.output.attach(io.console, &machine.sandbox);
        let event = control::wait(machine.clone(), config.timeout, io.stop, io.input);
        let places = threads.stop(&machine);
        drop(injector);
        drop(neighbours);
        machine.console.output.finish();
        drop(fd);

        let outcome = diagnosis::outcome(&machine, self.kernel, config, event.map_err(system)?, &places)?;
        let (ring, ring0) = start.begun.ring().unwrap_or((Ring::Zero, Ring0::default()));
        Ok(Outcome {
            ring,
            ring0,
            tsc_khz,
            setup: self.setup + Duration::from_nanos(outcome.entered_ns.saturating_sub(begun)),
            steal_time: start.steal_time,
            ..outcome
        })
    }
}

/// Refuses what makes no sense on any host.
fn check(config: &Config) -> Result<(), Error> {
    if config.workload == Workload::Migrate && config.vcpus < 2 {
        return Err(Error::Usage(
            "workload 'migrate' takes two vCPUs at least, one of which moves what the others use: give --vcpus 2 or more"
                .into(),
        ));
    }
    let from_outside = |preempt: &Preempt| preempt.target == Target::Any;
    if config.kick == Kick::Kvm && config.preempt.as_ref().is_some_and(from_outside) {
        return Err(Error::Usage(
            "--preempt any cannot tell which vCPUs sleep where KVM handles their halts: give --kick pio or ioeventfd"
                .into(),
        ));
    }
    Ok(())
}

/// The error of a host that cannot give a guest what it takes.
pub(crate) fn system(error: io::Error) -> Error {
    Error::Host(format!(
        "cannot set up a guest: {error}; free some files or threads"
    ))
}
