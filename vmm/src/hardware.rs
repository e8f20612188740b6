//! What KVM gives: a VM with memory and vCPUs, in which nothing runs yet.

use abi::boot::{BootInfo, MAGIC};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use vmm_sys_util::errno;

use crate::config::{Config, Ring};
use crate::error::Error;
use crate::kernel::Kernel;
use crate::layout::{BOOT_INFO, Layout};
use crate::memory::GuestMemory;
use crate::probe::{self, Ring0};
use crate::start::Start;
use crate::transport::Transport;
use crate::{cpuid, host, page_tables, steal};

/// A VM with its memory and vCPUs, before anything runs. Fields are dropped in this order: the vCPUs and the
/// VM before the memory that KVM maps.
pub(crate) struct Hardware {
    pub(crate) vcpus: Vec<VcpuFd>,
    pub(crate) fd: VmFd,
    pub(crate) memory: GuestMemory,
    pub(crate) layout: Layout,
    pub(crate) start: Start,
    /// Frequency of the guest's TSC in kHz.
    pub(crate) tsc_khz: u64,
}

impl Hardware {
    /// Creates a VM for `kernel`, in which kicks travel by `transport`, and maps its memory; the kernel is
    /// not loaded yet.
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

    /// How the host runs ring 0, measured on the first vCPU.
    pub(crate) fn ring0(&mut self) -> Result<Ring0, Error> {
        probe::ring0(&mut self.vcpus[0], &self.memory, self.tsc_khz)
    }

    /// Loads the kernel and tells it what it has to know.
    pub(crate) fn load(&self, kernel: &Kernel, ring: Ring, config: &Config) -> Result<(), Error> {
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
        // first `Hardware` owns both, then every vCPU's thread holds the `Machine` that owns the memory.
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
