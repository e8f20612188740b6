//! A vCPU and the thread that runs it.

use std::fmt::{self, Display, Formatter};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use abi::vcpu_page::{VcpuPage, preempted};
use kvm_bindings::{KVM_INTERNAL_ERROR_EMULATION, KVM_MP_STATE_HALTED, kvm_regs};
use kvm_ioctls::{VcpuExit, VcpuFd};

use crate::config::PlantedFault;
use crate::error::Error;
use crate::hypercall::{self, Next};
use crate::interrupts::Interrupts;
use crate::latch::Wake;
use crate::machine::{Cause, Crash, Machine};
use crate::sandbox::Class;
use crate::signal;
use crate::start::Start;

/// A vCPU, and what it needs to run.
pub(crate) struct Vcpu {
    pub(crate) index: u32,
    pub(crate) fd: VcpuFd,
    pub(crate) machine: Arc<Machine>,
    pub(crate) start: Arc<Start>,
}

/// Where a vCPU was when it stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In its own code, at this address.
    Guest { rip: u64 },
    /// Asleep in HLT.
    Halted,
    /// KVM would not give it back, signal or not.
    Kvm,
}

impl Vcpu {
    /// Runs until the guest ends, or until the vCPU is told to stop. To be called on the vCPU's own thread.
    pub(crate) fn run(mut self) -> Place {
        let machine = self.machine.clone();
        match self.begin() {
            Ok(true) => {}
            Ok(false) => return self.place(),
            Err(error) => {
                self.machine.end(Cause::SetUp(error));
                return self.place();
            }
        }
        signal::unblock();
        let signals = signal::Registration::new(&mut self.fd, self.machine.planted_fault);
        self.machine.sandbox.enter(Class::Vcpu);
        if let Some(PlantedFault::SystemCall(number, [a, b, c])) = self.machine.planted_fault {
            // SAFETY: whoever plants it sees to it that the call does no harm; or that it is forbidden.
            unsafe { libc::syscall(number, a, b, c) };
        }
        if self.index == 0 {
            // Relaxed: read after the thread was joined.
            self.machine
                .entered
                .store(crate::monotonic_ns(), Ordering::Relaxed);
        }
        while self.enter(&signals) {
            let exit = self.fd.run();
            machine.interrupts[self.index as usize].left();
            let _outside = machine.exit_stats.outside(self.index, &exit);
            machine.preemption.leave_guest(&machine, self.index);
            let next = match exit {
                Ok(VcpuExit::IoOut(port, data)) => {
                    let data = Head::of(data);
                    self.out(port, data)
                }
                Ok(VcpuExit::IoIn(port, data)) => match hypercall::read(&self.machine, port, data) {
                    true => Next::Continue,
                    false => Next::Unexpected(format!(
                        "read {} bytes from port {port:#x}, which has no such thing",
                        data.len()
                    )),
                },
                Ok(VcpuExit::Hlt) => match self.park() {
                    Wake::Kicked | Wake::Interrupted => Next::Continue,
                    Wake::Stopped => return Place::Halted,
                },
                // It can take an interrupt now.
                Ok(VcpuExit::IrqWindowOpen) => Next::Continue,
                Ok(VcpuExit::Shutdown) => Next::Shutdown,
                Ok(VcpuExit::InternalError) => Next::Unexpected(self.internal_error()),
                Ok(exit) => Next::Unexpected(describe(&exit)),
                // The signal to stop, for an interrupt, or another one: `enter` looks.
                Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => Next::Continue,
                Err(error) => Next::Unexpected(format!("cannot be run: {error}")),
            };
            if let Some(cause) = self.cause(next) {
                self.machine.end(cause);
                break;
            }
        }
        self.place()
    }

    /// Puts it at the kernel's entry point; false if the guest cannot begin, as another thread has found.
    fn begin(&mut self) -> Result<bool, Error> {
        let (start, layout) = (&self.start, &self.machine.layout);
        if self.machine.planted_fault == Some(PlantedFault::NoRoomForVcpu(self.index)) {
            return Err(Error::Host("KVM has no room for a vCPU, as planted".into()));
        }
        start.make_ready(&self.fd, self.index, layout)?;
        let begun = start.begin(&mut self.fd, self.index, &self.machine.memory)?;
        if begun {
            start.put_at_entry(&self.fd, self.index, layout)?;
        }
        Ok(begun)
    }

    /// Where it was when it was told to stop, other than asleep in [`park`](Self::park).
    fn place(&self) -> Place {
        match self.fd.get_mp_state() {
            // With `Kick::Kvm`, HLT is KVM's affair.
            Ok(state) if state.mp_state == KVM_MP_STATE_HALTED => Place::Halted,
            _ => Place::Guest {
                rip: self.registers().rip,
            },
        }
    }

    /// `out`.
    fn out(&mut self, port: u16, data: Head) -> Next {
        // SAFETY: for this exit, `io` is the part of the union that KVM has filled in.
        let count = unsafe { self.fd.get_kvm_run().__bindgen_anon_1.io.count };
        hypercall::write(&self.machine, self.index, port, count, data.bytes()).unwrap_or_else(|| {
            Next::Unexpected(format!(
                "wrote {data} to port {port:#x}, which takes no such thing"
            ))
        })
    }

    /// On the way into the guest: what was asked of the vCPU until now is done here, and what is asked later
    /// ends `KVM_RUN`. Returns whether to go.
    fn enter(&mut self, signals: &signal::Registration) -> bool {
        let interrupts = &self.machine.interrupts[self.index as usize];
        interrupts.entering(signals.thread());
        signals.rearm(&mut self.fd);
        if let Err(error) = interrupts.inject(&mut self.fd) {
            let cause = self.cause(Next::Unexpected(format!("cannot be interrupted: {error}")));
            cause.into_iter().for_each(|cause| self.machine.end(cause));
            return false;
        }
        // After `rearm`, which would undo the signal of whoever asks.
        self.machine.preemption.enter_guest(self.index);
        if self.machine.planted_fault == Some(PlantedFault::SignalWithoutImmediateExit) {
            // Long enough between the last look and `KVM_RUN` that a check need not be lucky.
            thread::sleep(Duration::from_micros(50));
        }
        !self.machine.stopping()
    }

    fn interrupts(&self) -> &Interrupts {
        &self.machine.interrupts[self.index as usize]
    }

    /// HLT: sleeps until kicked or interrupted, and tells the other vCPUs so.
    fn park(&self) -> Wake {
        let latch = &self.machine.latches[self.index as usize];
        match self.machine.planted_fault {
            Some(PlantedFault::ForgetLatchedKicks) => drop(latch.clear()),
            Some(PlantedFault::ForgetPendingInterrupts) => self.interrupts().forget(),
            _ => {}
        }
        if self.interrupts().nmi_in_kvm(&self.fd)
            && self.machine.planted_fault != Some(PlantedFault::ForgetNmiInKvm)
        {
            return Wake::Interrupted;
        }
        set_preempted(&self.machine, self.index, preempted::PARKED);
        let wake = latch.park(self.interrupts(), &self.machine.stop, self.machine.halt_poll);
        set_preempted(&self.machine, self.index, 0);
        wake
    }

    /// Why the run is over, if it is.
    fn cause(&self, next: Next) -> Option<Cause> {
        let crash = |shutdown, what| Crash {
            vcpu: self.index,
            shutdown,
            what,
            registers: self.registers(),
        };
        match next {
            Next::Continue => None,
            Next::Exit(code) => Some(Cause::Exit(code)),
            Next::Shutdown => Some(Cause::Crash(crash(true, "shut down in a triple fault".into()))),
            Next::Unexpected(what) => Some(Cause::Crash(crash(false, what))),
        }
    }

    /// A sentence on `KVM_EXIT_INTERNAL_ERROR`.
    fn internal_error(&mut self) -> String {
        // SAFETY: for this exit, `internal` is the part of the union that KVM has filled in.
        let suberror = unsafe { self.fd.get_kvm_run().__bindgen_anon_1.internal.suberror };
        match suberror {
            KVM_INTERNAL_ERROR_EMULATION => "did something that this host's KVM cannot emulate".into(),
            other => format!("made KVM fail (internal error {other})"),
        }
    }

    fn registers(&self) -> kvm_regs {
        // Cannot fail for a vCPU that could be run; zeroes would be visible as such.
        self.fd.get_regs().unwrap_or_default()
    }
}

/// What a guest wrote: no more of it than anything takes and a message can show.
struct Head {
    bytes: [u8; 8],
    len: usize,
}

impl Head {
    fn of(data: &[u8]) -> Self {
        let mut bytes = [0; 8];
        let shown = data.len().min(bytes.len());
        bytes[..shown].copy_from_slice(&data[..shown]);
        Self {
            bytes,
            len: data.len(),
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len.min(self.bytes.len())]
    }
}

impl Display for Head {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x?}", self.bytes())?;
        match self.len.saturating_sub(self.bytes.len()) {
            0 => Ok(()),
            more => write!(f, " and {more} bytes more"),
        }
    }
}

/// Tells the guest why vCPU `index` does not run: one of [`preempted`]'s bits, or 0 if it does.
pub(crate) fn set_preempted(machine: &Machine, index: u32, why: u32) {
    if why == preempted::STOPPED && machine.planted_fault == Some(PlantedFault::StopInSecret) {
        return;
    }
    let field = std::mem::offset_of!(VcpuPage, preempted) as u64;
    machine
        .memory
        .store_hint(machine.layout.vcpu_page(index) + field, why);
}

/// Offers a preemption to vCPU `index`, or withdraws it.
pub(crate) fn set_offer(machine: &Machine, index: u32, what: u32) {
    let field = std::mem::offset_of!(VcpuPage, offer) as u64;
    machine
        .memory
        .store_hint(machine.layout.vcpu_page(index) + field, what);
}

/// What vCPU `index` last said it was doing with the lock: one of [`abi::vcpu_page::state`]'s values, if
/// the guest is honest.
pub(crate) fn lock_state(machine: &Machine, index: u32) -> u32 {
    let field = std::mem::offset_of!(VcpuPage, state) as u64;
    machine.memory.load_hint(machine.layout.vcpu_page(index) + field)
}

/// Where a vCPU took an exception that ended the run, by what the guest left in the vCPUs' pages.
pub(crate) fn fault_rip(machine: &Machine) -> Option<u64> {
    let field = std::mem::offset_of!(VcpuPage, fault_rip) as u64;
    let rips = (0..machine.latches.len() as u32)
        .map(|index| machine.memory.load_hint(machine.layout.vcpu_page(index) + field));
    rips.into_iter().find(|rip| *rip != 0)
}

/// A sentence on an exit that ends the run.
fn describe(exit: &VcpuExit<'_>) -> String {
    match exit {
        VcpuExit::MmioRead(address, data) => {
            format!("read {} bytes at {address:#x}, where no memory is", data.len())
        }
        VcpuExit::MmioWrite(address, data) => {
            format!("wrote {data:02x?} to {address:#x}, where no memory is")
        }
        VcpuExit::FailEntry(reason, _) => format!("could not be entered (hardware reason {reason:#x})"),
        other => format!("made an exit nobody expects: {other:?}"),
    }
}
