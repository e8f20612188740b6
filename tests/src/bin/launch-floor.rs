//! The floor under a launch: the least a program can do that runs guest code. It makes a VM with memory of
//! the usual size and a vCPU on a thread of its own, has that execute one `out`, and ends. Takes the number
//! of such vCPUs; prints CLOCK_MONOTONIC of the moment before the first one entered its guest, in
//! nanoseconds.

use std::ptr;
use std::thread;

use integration_tests::monotonic_ns;
use kvm_bindings::{kvm_regs, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};

const MEMORY: usize = 64 << 20;

/// Where the instruction lies, in real mode.
const CODE: u64 = 0x1000;

fn main() {
    let vcpus = std::env::args()
        .nth(1)
        .map_or(1, |n| n.parse().expect("a number of vCPUs"));
    let kvm = Kvm::new().expect("/dev/kvm can be opened");
    let vm = kvm.create_vm().expect("a VM can be made");
    let (protection, flags) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    );
    // SAFETY: a new mapping, anywhere.
    let memory = unsafe { libc::mmap(ptr::null_mut(), MEMORY, protection, flags, -1, 0) };
    assert_ne!(memory, libc::MAP_FAILED);
    // SAFETY: inside the mapping.
    let code = unsafe { memory.byte_add(CODE as usize) };
    // SAFETY: as above; nobody else uses it yet. out 0x80, al
    unsafe { code.cast::<[u8; 2]>().write([0xe6, 0x80]) };
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: MEMORY as u64,
        userspace_addr: memory as u64,
    };
    // SAFETY: the mapping stays until the process ends.
    unsafe { vm.set_user_memory_region(region) }.expect("memory can be mapped");
    let vcpus: Vec<_> = (0..vcpus)
        .map(|index| vm.create_vcpu(index).expect("a vCPU can be made"))
        .collect();
    let threads: Vec<_> = vcpus
        .into_iter()
        .map(|vcpu| thread::spawn(|| run(vcpu)))
        .collect();
    let entered = threads
        .into_iter()
        .map(|thread| thread.join().expect("no thread panics"));
    println!("{}", entered.collect::<Vec<_>>()[0]);
}

/// Executes the instruction; returns when.
fn run(mut vcpu: VcpuFd) -> u64 {
    let mut special = vcpu.get_sregs().expect("registers can be read");
    (special.cs.base, special.cs.selector) = (0, 0);
    vcpu.set_sregs(&special).expect("registers can be set");
    let registers = kvm_regs {
        rip: CODE,
        rflags: 2,
        ..Default::default()
    };
    vcpu.set_regs(&registers).expect("registers can be set");
    let entered = monotonic_ns();
    match vcpu.run().expect("the guest runs") {
        VcpuExit::IoOut(0x80, _) => entered,
        exit => panic!("the guest did something else: {exit:?}"),
    }
}
