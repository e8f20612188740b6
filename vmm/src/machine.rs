//! What the vCPU threads and the control side of one launch share.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kvm_bindings::kvm_regs;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::config::{Config, Kick, PlantedFault};
use crate::console::Console;
use crate::error::Error;
use crate::exit_stats::ExitStats;
use crate::hints::Hints;
use crate::host_time::Accounts;
use crate::interrupts::Interrupts;
use crate::latch::Latch;
use crate::layout::Layout;
use crate::memory::GuestMemory;
use crate::preempt::Preemption;
use crate::sandbox::Sandbox;
use crate::timers::{GuestTsc, Timers};
use crate::transport::Apics;

/// Why a vCPU ended the run for all.
#[derive(Clone, Debug)]
pub(crate) enum Cause {
    /// The guest said so, with this code.
    Exit(u32),
    /// A vCPU cannot go on.
    Crash(Crash),
    /// This vCPU did not come out of the guest when it was signalled.
    Deaf(u32),
    /// The host could not make a vCPU ready.
    SetUp(Error),
}

/// A vCPU that cannot go on.
#[derive(Clone, Debug)]
pub(crate) struct Crash {
    pub(crate) vcpu: u32,
    /// The processor shut down in a triple fault, which is the guest's doing, not an exit that the VMM has no
    /// use for.
    pub(crate) shutdown: bool,
    /// What it did: the rest of a sentence that begins with the vCPU.
    pub(crate) what: String,
    pub(crate) registers: kvm_regs,
}

/// One guest's shared state.
pub(crate) struct Machine {
    /// The vCPUs' local APICs, where they have some. Dropped before the memory, which the VM maps.
    apics: Option<Apics>,
    pub(crate) memory: GuestMemory,
    pub(crate) layout: Layout,
    pub(crate) latches: Vec<Latch>,
    pub(crate) interrupts: Vec<Interrupts>,
    pub(crate) timers: Timers,
    pub(crate) console: Console,
    pub(crate) accounts: Accounts,
    pub(crate) exit_stats: ExitStats,
    /// How vCPUs are kicked.
    pub(crate) kick: Kick,
    /// Whether a vCPU that kicks yields its CPU.
    pub(crate) yield_on_kick: bool,
    /// How long a vCPU that halts polls before it sleeps.
    pub(crate) halt_poll: Duration,
    pub(crate) sandbox: Sandbox,
    pub(crate) preemption: Preemption,
    pub(crate) hints: Hints,
    pub(crate) planted_fault: Option<PlantedFault>,
    /// CLOCK_MONOTONIC in nanoseconds when vCPU 0 was about to enter the guest; 0 until then.
    pub(crate) entered: AtomicU64,
    /// Requests of the guest's that were refused because their argument made no sense.
    rejected: AtomicU64,
    /// vCPU threads that the host did not let be bound to their CPUs.
    unbound: AtomicU64,
    /// Why the run is over: the first cause counts.
    cause: Mutex<Option<Cause>>,
    /// Readable once there is a cause: what the control side waits for.
    pub(crate) ended: EventFd,
    /// Set before `stop` is written and before any thread is signalled.
    stopping: AtomicBool,
    /// Readable from the moment the vCPUs are to stop; never read.
    pub(crate) stop: EventFd,
}

impl Machine {
    pub(crate) fn new(
        memory: GuestMemory,
        layout: Layout,
        config: &Config,
        tsc: GuestTsc,
        apics: Option<Apics>,
        sandbox: Sandbox,
    ) -> io::Result<Self> {
        Ok(Self {
            apics,
            memory,
            layout,
            latches: (0..config.vcpus)
                .map(|_| Latch::new())
                .collect::<io::Result<_>>()?,
            interrupts: (0..config.vcpus)
                .map(|_| Interrupts::new())
                .collect::<io::Result<_>>()?,
            timers: Timers::new(config.vcpus, tsc)?,
            console: Console::new()?,
            accounts: Accounts::default(),
            exit_stats: ExitStats::new(config.vcpus, config.exit_stats),
            kick: config.kick,
            yield_on_kick: config.yield_on_kick,
            halt_poll: config.halt_poll,
            sandbox,
            preemption: Preemption::new(config.preempt, config.vcpus)?,
            hints: Hints::new(config.check_hints),
            planted_fault: config.planted_fault,
            entered: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            unbound: AtomicU64::new(0),
            cause: Mutex::new(None),
            ended: EventFd::new(EFD_NONBLOCK)?,
            stopping: AtomicBool::new(false),
            stop: EventFd::new(EFD_NONBLOCK)?,
        })
    }

    /// One that no KVM runs, with 16 MiB of memory and a console that leads nowhere: for tests of what a
    /// guest may ask for.
    #[cfg(any(test, feature = "fuzz"))]
    pub(crate) fn without_kvm(config: &Config) -> Self {
        let kernel = crate::kernel::Kernel::embedded();
        let layout = Layout::new(16 << 20, config.vcpus, kernel.end()).expect("it is enough");
        let memory = GuestMemory::new(&layout.ram).expect("the host has some");
        let tsc = GuestTsc::default();
        let machine = Self::new(memory, layout, config, tsc, None, Sandbox::default())
            .expect("the host has enough descriptors");
        let output = &machine.console.output;
        output.attach(Box::new(io::sink()), &machine.sandbox);
        output.start().expect("a thread can be started");
        machine
    }

    /// Interrupts vCPU `index`, which the guest may have made up: the one way in which a vector gets to a
    /// vCPU.
    pub(crate) fn deliver(&self, index: u32, vector: u8) {
        match self.interrupts.get(index as usize) {
            None => self.reject(),
            Some(interrupts) => match &self.apics {
                Some(apics) => apics.interrupt(index, vector),
                None => interrupts.request(vector),
            },
        }
    }

    /// Delivers what the timers that are due are for.
    pub(crate) fn expire_timers(&self) {
        for (vcpu, vector) in self.timers.expired() {
            self.deliver(vcpu, vector);
        }
    }

    /// Counts a request that was refused.
    pub(crate) fn reject(&self) {
        // Relaxed: a statistic, read after the threads were joined.
        self.rejected.fetch_add(1, Ordering::Relaxed);
        match self.planted_fault {
            Some(PlantedFault::HoardRefusals) => std::mem::forget(vec![1u8; 16 << 10]),
            Some(PlantedFault::PanicAtRefusal) => panic!("as planted"),
            _ => {}
        }
    }

    /// Number of requests refused so far.
    pub(crate) fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    /// A vCPU's thread could not be bound to its CPUs.
    pub(crate) fn add_unbound(&self) {
        // Relaxed: a statistic, read after the threads were joined.
        self.unbound.fetch_add(1, Ordering::Relaxed);
    }

    /// Number of threads that could not be bound.
    pub(crate) fn unbound(&self) -> u64 {
        self.unbound.load(Ordering::Relaxed)
    }

    /// A vCPU ends the run; only the first one's cause is kept.
    pub(crate) fn end(&self, cause: Cause) {
        self.cause
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(cause);
        // Fails only if the counter is full, and then it is readable as well.
        let _ = self.ended.write(1);
    }

    /// Why the run is over, if a vCPU ended it.
    pub(crate) fn cause(&self) -> Option<Cause> {
        self.cause.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells vCPUs to stop: those that are parked, and those that look before they enter KVM. The ones inside
    /// need a signal after this.
    pub(crate) fn request_stop(&self) {
        // Release: pairs with the load in `stopping`. A thread in the guest looks again after the signal,
        // which is sent after this; one that is parked, after `stop` became readable.
        self.stopping.store(true, Ordering::Release);
        let _ = self.stop.write(1);
        self.preemption.end();
        self.console.output.close();
    }

    /// Whether vCPUs are to stop.
    pub(crate) fn stopping(&self) -> bool {
        // Acquire: pairs with the store in `request_stop`.
        self.stopping.load(Ordering::Acquire)
    }
}
