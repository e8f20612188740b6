//! Runs in the nested lab beside the command: holds two virtual machines that never run.
//!
//! Linux patches its own code when the first VM of a machine appears and when the last one goes: branches
//! in the scheduler and in KVM that nobody needs without VMs (static keys: `preempt_notifier_key`,
//! `kvm_has_noapic_vcpu`, `apic_sw_disabled`). While a byte is patched it is a breakpoint, and a program
//! that launches hundreds of VMs has it patched hundreds of times. QEMU's emulator may go on to run what it
//! translated from the code as it was in between: one CPU translates it after another has decided that the
//! page it writes to has no translations, and before it writes. Then all CPUs that come that way are
//! caught, for good, in a breakpoint that is not there any more, with interrupts off. (Seen with QEMU 11.1
//! on a busy host, about once in 5000 launches.) With these two VMs the keys stay on.

use std::ffi::{c_int, c_ulong};
use std::fs::File;
use std::os::fd::AsRawFd;

unsafe extern "C" {
    fn ioctl(fd: c_int, request: c_ulong, argument: c_ulong) -> c_int;
}

const KVM_CREATE_VM: c_ulong = 0xae01;
const KVM_CREATE_VCPU: c_ulong = 0xae41;
const KVM_CREATE_IRQCHIP: c_ulong = 0xae60;

fn main() {
    let kvm = File::open("/dev/kvm").expect("the lab has a /dev/kvm");
    let call = |fd, request| {
        // SAFETY: these three take a number, here 0, and no pointer.
        let result = unsafe { ioctl(fd, request, 0) };
        assert!(
            result >= 0,
            "request {request:#x} failed: {}",
            std::io::Error::last_os_error()
        );
        result
    };
    for irqchip in [false, true] {
        let vm = call(kvm.as_raw_fd(), KVM_CREATE_VM);
        if irqchip {
            call(vm, KVM_CREATE_IRQCHIP);
        }
        call(vm, KVM_CREATE_VCPU);
    }
    println!("held");
    loop {
        std::thread::park();
    }
}
