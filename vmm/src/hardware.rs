//! What KVM gives: a VM with memory and vCPUs, in which nothing runs yet.

use abi::boot::{BootInfo, MAGIC};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuFd, VmFd};
use vmm_sys_util::errno;

use crate::config::Config;
use crate::error::Error;
use crate::kernel::Kernel;
use crate::layout::Layout;
use crate::memory::GuestMemory;
use crate::probe::{self, Ring0};
use crate::start::{Begun, Start};
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
}

impl Hardware {
    /// Creates a VM for `kernel`, in which kicks travel by `transport`, and maps its memory; the kernel is
    /// not loaded yet.
    pub(crate) fn create(config: &Config, kernel: &Kernel, transport: &Transport) -> Result<Self, Error> {
        let vcpus = config.vcpus;
        let kvm = host::open_kvm()?;
        let most = kvm.get_max_vcpus();
        if vcpus == 0 || vcpus as usize > most {
            return Err(Error::Usage(format!(
                "{vcpus} vCPUs will not do: this host's KVM runs 1 to {most}"
            )));
        }
        let layout = Layout::new(config.memory, vcpus, kernel.end())?;
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
        let kick = transport.set_up_cpuid(&mut cpuid)?;
        let tsc_khz = vcpus[0]
            .get_tsc_khz()
            .map_err(cannot("tell the TSC's frequency"))?
            .into();
        let boot = BootInfo {
            magic: MAGIC,
            version: abi::VERSION,
            ring: 0,
            vcpus: config.vcpus,
            kick,
            tsc_khz,
            vcpu_pages: layout.vcpu_pages,
            report: layout.report,
            cpu_areas: layout.cpu_areas,
            memory: layout.memory_map(),
            run: config.for_guest(),
            cr3,
        };
        let start = Start {
            steal_time: steal::offered(&cpuid),
            cpuid,
            transport: *transport,
            entry: kernel.entry(),
            boot,
            wanted_ring: config.guest_ring,
            begun: Begun::default(),
        };
        Ok(Self {
            vcpus,
            fd: vm,
            memory,
            layout,
            start,
        })
    }

    /// How the host runs ring 0, found out on a vCPU that is good for nothing else then.
    pub(crate) fn ring0(mut self) -> Result<Ring0, Error> {
        let vcpu = &mut self.vcpus[0];
        self.start.make_ready(vcpu, 0, &self.layout)?;
        probe::ring0(vcpu, &self.memory, self.start.boot.tsc_khz)
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
