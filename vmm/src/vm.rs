//! A launch, from its configuration to its outcome.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use abi::boot::{BootInfo, MAGIC};
use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_userspace_memory_region};
use kvm_ioctls::{VcpuFd, VmFd};
use vmm_sys_util::signal::Killable;

use crate::config::{Config, Kick, Ring};
use crate::control;
use crate::error::Error;
use crate::host;
use crate::kernel::Kernel;
use crate::layout::{BOOT_INFO, Layout};
use crate::machine::Machine;
use crate::memory::GuestMemory;
use crate::neighbours::Neighbours;
use crate::outcome::Outcome;
use crate::preempt::Injector;
use crate::probe::{self, Ring0};
use crate::sandbox::{Class, Sandbox};
use crate::transport::Transport;
use crate::vcpu::{Place, Vcpu};
use crate::{Io, affinity, diagnosis, page_tables, registers, signal, steal};

/// How long vCPU threads get to come out of KVM once they are told to stop.
const GRACE: Duration = Duration::from_secs(10);

/// A VM with its memory and vCPUs, before anything runs. Fields are dropped in this order: the vCPUs and the
/// VM before the memory that KVM maps.
pub(crate) struct Vm {
    vcpus: Vec<VcpuFd>,
    fd: VmFd,
    memory: GuestMemory,
    layout: Layout,
    cr3: u64,
    tsc_khz: u64,
    /// How the guest has to kick: one of [`abi::kick`]'s values.
    kick: u32,
    steal_time: bool,
}

impl Vm {
    /// Creates a VM for `kernel`, in which kicks travel by `transport`, and maps its memory; the kernel is not
    /// loaded yet.
    pub(crate) fn create(
        memory: u64,
        vcpus: u32,
        kernel: &Kernel,
        transport: &Transport,
    ) -> Result<Self, Error> {
        let kvm = host::open_kvm()?;
        let most = kvm.get_max_vcpus();
        if vcpus == 0 || vcpus as usize > most {
            return Err(Error::Usage(format!(
                "{vcpus} vCPUs will not do: this host's KVM runs 1 to {most}"
            )));
        }
        let layout = Layout::new(memory, vcpus, kernel.end())?;
        let memory = GuestMemory::new(&layout.ram)?;
        let cr3 = page_tables::build(&memory, &layout, kernel)?;

        let fail = |what: &'static str| {
            move |error| {
                Error::Host(format!(
                    "KVM cannot {what}: {error}; see `vmm doctor`, or free memory and files"
                ))
            }
        };
        let vm = kvm.create_vm().map_err(fail("create a VM"))?;
        for (slot, (guest, len, host)) in (0..).zip(memory.regions()) {
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: guest,
                memory_size: len,
                userspace_addr: host,
            };
            // SAFETY: the host range is a mapping of `memory`, which is there for as long as a vCPU can run:
            // first `Vm` owns both, then every vCPU's thread holds the `Machine` that owns the memory.
            unsafe { vm.set_user_memory_region(region) }.map_err(fail("map guest memory"))?;
        }
        transport.set_up_vm(&vm)?;
        let mut cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(fail("tell its CPUID"))?;
        let kick = transport.set_up_cpuid(&mut cpuid)?;
        let mut fds = Vec::new();
        for index in 0..vcpus {
            let fd = vm.create_vcpu(index.into()).map_err(fail("create a vCPU"))?;
            registers::set_cpuid(&fd, &cpuid, index)?;
            transport.set_up_vcpu(&fd)?;
            fds.push(fd);
        }
        let tsc_khz = fds[0]
            .get_tsc_khz()
            .map_err(fail("tell the TSC's frequency"))?
            .into();
        let mut pages = fds.iter().zip((0..).map(|index| layout.vcpu_page(index)));
        let steal_time = steal::offered(&cpuid) && pages.all(|(fd, page)| steal::enable(fd, page));
        Ok(Self {
            vcpus: fds,
            fd: vm,
            memory,
            layout,
            cr3,
            tsc_khz,
            kick,
            steal_time,
        })
    }

    /// Frequency of the guest's TSC in kHz.
    pub(crate) fn tsc_khz(&self) -> u64 {
        self.tsc_khz
    }

    /// How the host runs ring 0, measured on the first vCPU.
    pub(crate) fn ring0(&mut self) -> Result<Ring0, Error> {
        probe::ring0(&mut self.vcpus[0], &self.memory, self.cr3)
    }

    /// Loads the kernel and puts every vCPU at its entry point.
    fn load(&self, kernel: &Kernel, ring: Ring, config: &Config) -> Result<(), Error> {
        kernel.load(&self.memory)?;
        let boot = BootInfo {
            magic: MAGIC,
            version: abi::VERSION,
            ring: ring as u32,
            vcpus: config.vcpus,
            kick: self.kick,
            tsc_khz: self.tsc_khz,
            vcpu_pages: self.layout.vcpu_pages,
            report: self.layout.report,
            cpu_areas: self.layout.cpu_areas,
            memory: self.layout.memory_map(),
            run: config.for_guest(),
        };
        self.memory.write(BOOT_INFO, boot)?;
        for (index, vcpu) in (0..).zip(&self.vcpus) {
            let start = kvm_regs {
                rip: kernel.entry(),
                rdi: BOOT_INFO,
                rsi: index.into(),
                rdx: self.layout.cpu_area(index).base,
                ..Default::default()
            };
            registers::set(vcpu, self.cr3, start)?;
        }
        Ok(())
    }
}

/// Launches one guest and waits for its end. Everything it takes (threads, descriptors, memory) is given back
/// before it returns.
///
/// # Errors
///
/// [`Error::Usage`] if the configuration makes no sense on this host, [`Error::Host`] if the host cannot run
/// guests. A guest that ends badly is not an error but an [`Outcome`].
pub fn launch(config: &Config, kernel: &Kernel, io: Io<'_>) -> Result<Outcome, Error> {
    let begun = Instant::now();
    affinity::check(&config.pcpus)?;
    let transport = Transport::of(config);
    let sandbox = Sandbox::new(config.sandbox)?;
    let mut vm = Vm::create(config.memory, config.vcpus, kernel, &transport)?;
    let ring = match config.guest_ring {
        Some(Ring::Three) => Ring::Three,
        asked => {
            let best = vm.ring0()?.best_ring();
            if asked.is_some_and(|asked| asked != best) {
                return Err(Error::Host(
                    "this host's KVM emulates ring 0, where compiled code cannot run: leave the ring to 'auto'".into(),
                ));
            }
            best
        }
    };
    if (config.kick, ring) == (Kick::Kvm, Ring::Three) {
        return Err(Error::Host(
            "KVM takes kicks of its own from ring 0 only, and here guests run in ring 3: give --kick pio or ioeventfd"
                .into(),
        ));
    }
    vm.load(kernel, ring, config)?;

    let system = |error: io::Error| {
        Error::Host(format!(
            "cannot set up a guest: {error}; free some files or threads"
        ))
    };
    let Vm {
        vcpus,
        fd: vm_fd,
        memory,
        layout,
        tsc_khz,
        steal_time,
        ..
    } = vm;
    let machine = Machine::new(memory, layout, config, io.console, sandbox).map_err(system)?;
    transport.bind(&vm_fd, &machine.latches)?;
    let machine = Arc::new(machine);
    signal::install_handler().map_err(system)?;
    let setup = begun.elapsed();
    let neighbours = Neighbours::start(config, &machine.sandbox).map_err(system)?;
    let injector = Injector::start(&machine, config.seed).map_err(system)?;
    let threads = Threads::start(vcpus, &machine, config).map_err(system)?;
    let event = control::wait(machine.clone(), config.timeout, io.stop, io.input);
    let places = threads.stop(&machine);
    drop(injector);
    drop(neighbours);
    machine.console.output.finish();
    drop(vm_fd);
    let event = event.map_err(system)?;
    diagnosis::outcome(&machine, kernel, config, event, &places).map(|mut outcome| {
        (outcome.ring, outcome.tsc_khz, outcome.setup) = (ring, tsc_khz, setup);
        outcome.steal_time = steal_time;
        outcome
    })
}

/// The running vCPU threads.
struct Threads {
    handles: Vec<JoinHandle<()>>,
    places: Receiver<(u32, Place)>,
}

impl Threads {
    /// Starts a thread for each vCPU. If one cannot be started, the others are stopped again.
    fn start(vcpus: Vec<VcpuFd>, machine: &Arc<Machine>, config: &Config) -> io::Result<Self> {
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
                vcpu.machine.sandbox.enter(Class::Vcpu);
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
    fn stop(self, machine: &Machine) -> Vec<Place> {
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
