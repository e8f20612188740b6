//! A launch, from its configuration to its outcome.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use abi::boot::{BootInfo, MAGIC};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use vmm_sys_util::errno;
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
use crate::sandbox::Sandbox;
use crate::start::Start;
use crate::transport::Transport;
use crate::vcpu::{Place, Vcpu};
use crate::{Io, affinity, cpuid, diagnosis, page_tables, registers, signal, steal};

/// How long vCPU threads get to come out of KVM once they are told to stop.
const GRACE: Duration = Duration::from_secs(10);

/// A VM with its memory and vCPUs, before anything runs. Fields are dropped in this order: the vCPUs and the
/// VM before the memory that KVM maps.
pub(crate) struct Vm {
    vcpus: Vec<VcpuFd>,
    fd: VmFd,
    memory: GuestMemory,
    layout: Layout,
    start: Start,
    tsc_khz: u64,
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
        cpuid::ask_ahead();
        let memory = GuestMemory::new(&layout.ram)?;
        let vm = create_vm(&kvm, &memory)?;
        transport.set_up_vm(&vm)?;
        let vcpus = (0..vcpus)
            .map(|index| vm.create_vcpu(index.into()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(cannot("create a vCPU"))?;
        let cr3 = page_tables::build(&memory, &layout, kernel)?;
        let mut cpuid = cpuid::offered()?;
        let start = Start {
            kick: transport.set_up_cpuid(&mut cpuid)?,
            steal_time: steal::offered(&cpuid),
            cpuid,
            transport: *transport,
            cr3,
            entry: kernel.entry(),
        };
        // The first one serves to look at the host.
        start.make_ready(&vcpus[0], 0, &layout)?;
        let tsc_khz = vcpus[0]
            .get_tsc_khz()
            .map_err(cannot("tell the TSC's frequency"))?
            .into();
        Ok(Self {
            vcpus,
            fd: vm,
            memory,
            layout,
            start,
            tsc_khz,
        })
    }

    /// Frequency of the guest's TSC in kHz.
    pub(crate) fn tsc_khz(&self) -> u64 {
        self.tsc_khz
    }

    /// How the host runs ring 0, measured on the first vCPU.
    pub(crate) fn ring0(&mut self) -> Result<Ring0, Error> {
        probe::ring0(&mut self.vcpus[0], &self.memory, self.tsc_khz)
    }

    /// Loads the kernel and tells it what it has to know.
    fn load(&self, kernel: &Kernel, ring: Ring, config: &Config) -> Result<(), Error> {
        kernel.load(&self.memory)?;
        let boot = BootInfo {
            magic: MAGIC,
            version: abi::VERSION,
            ring: ring as u32,
            vcpus: config.vcpus,
            kick: self.start.kick,
            tsc_khz: self.tsc_khz,
            vcpu_pages: self.layout.vcpu_pages,
            report: self.layout.report,
            cpu_areas: self.layout.cpu_areas,
            memory: self.layout.memory_map(),
            run: config.for_guest(),
            cr3: self.start.cr3,
        };
        self.memory.write(BOOT_INFO, boot)
    }
}

/// Creates a VM that has `memory`, and nothing else yet.
fn create_vm(kvm: &Kvm, memory: &GuestMemory) -> Result<VmFd, Error> {
    let vm = kvm.create_vm().map_err(cannot("create a VM"))?;
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
        unsafe { vm.set_user_memory_region(region) }.map_err(cannot("map guest memory"))?;
    }
    Ok(vm)
}

/// The error of a KVM that cannot do `what`.
fn cannot(what: &str) -> impl Fn(errno::Error) -> Error {
    move |error| {
        Error::Host(format!(
            "KVM cannot {what}: {error}; see `vmm doctor`, or free memory and files"
        ))
    }
}

/// The error of a host that cannot give a guest what it takes.
fn system(error: io::Error) -> Error {
    Error::Host(format!(
        "cannot set up a guest: {error}; free some files or threads"
    ))
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
    let ring0 = vm.ring0()?;
    let ring = config.guest_ring.unwrap_or(ring0.best_ring());
    if ring == Ring::Zero && ring0.emulated {
        return Err(Error::Host(
            "this host's KVM emulates ring 0, where compiled code cannot run: leave the ring to 'auto'"
                .into(),
        ));
    }
    if (config.kick, ring) == (Kick::Kvm, Ring::Three) {
        return Err(Error::Host(
            "KVM takes kicks of its own from ring 0 only, and here guests run in ring 3: give --kick pio or ioeventfd"
                .into(),
        ));
    }
    if config.kick == Kick::Kvm && config.needs_interrupts() {
        return Err(Error::Usage(format!(
            "workload '{}' needs interrupts, which guests do not get where KVM handles their halts: give --kick pio or \
             ioeventfd",
            config.workload.name()
        )));
    }
    vm.load(kernel, ring, config)?;

    let Vm {
        vcpus,
        fd: vm_fd,
        memory,
        layout,
        start,
        tsc_khz,
        ..
    } = vm;
    let steal_time = start.steal_time;
    let tsc = registers::guest_tsc(&vcpus[0], tsc_khz)?;
    let machine = Machine::new(memory, layout, config, tsc, io.console, sandbox).map_err(system)?;
    transport.bind(&vm_fd, &machine.latches)?;
    let machine = Arc::new(machine);
    signal::install_handler().map_err(system)?;
    let setup = begun.elapsed();
    let neighbours = Neighbours::start(config, &machine.sandbox).map_err(system)?;
    let injector = Injector::start(&machine, config.seed).map_err(system)?;
    let threads = Threads::start(vcpus, &Arc::new(start), &machine, config).map_err(system)?;
    let event = control::wait(machine.clone(), config.timeout, io.stop, io.input);
    let places = threads.stop(&machine);
    drop(injector);
    drop(neighbours);
    machine.console.output.finish();
    drop(vm_fd);
    let event = event.map_err(system)?;
    diagnosis::outcome(&machine, kernel, config, event, &places).map(|mut outcome| {
        (outcome.ring, outcome.ring0) = (ring, ring0);
        (outcome.tsc_khz, outcome.setup) = (tsc_khz, setup);
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
    fn start(
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
