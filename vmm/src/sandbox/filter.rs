//! The seccomp filters: which thread may make which system calls.
//!
//! Allow-lists, in one table. What is not in it is forbidden: above all, to start programs (`execve`), to
//! make or use network connections, to make memory executable, to look into other processes, and on the
//! threads that run guests, to open anything. Calls that every kernel answers without asking (`gettid`) are
//! allowed where libraries make them.

use std::mem::size_of;

use kvm_bindings::{
    kvm_cpuid2, kvm_enable_cap, kvm_interrupt, kvm_ioeventfd, kvm_lapic_state, kvm_mp_state, kvm_msi,
    kvm_msrs, kvm_regs, kvm_sregs, kvm_userspace_memory_region, kvm_vcpu_events,
};
use libc::c_long;
use seccompiler::BpfProgram;

use crate::sandbox::Class;
use crate::sandbox::program::{
    self, Check,
    Check::{Anything, HasAndLacks, Is, IsNot, Lacks, Null, ThisProcess},
};

/// A system call that is allowed, if an argument is as it has to be. A call can have several rows.
struct Call(c_long, Check);

const fn call(number: c_long) -> Call {
    Call(number, Anything)
}

/// `ioctl` with a request.
macro_rules! ioctl {
    ($request:expr) => {
        Call(libc::SYS_ioctl, Is(1, $request))
    };
}

/// What every thread needs to run Rust code, to panic, and to end.
const ANY: &[Call] = &[
    // Memory, none of it executable.
    Call(libc::SYS_mmap, Lacks(2, libc::PROT_EXEC as u32)),
    Call(libc::SYS_mprotect, Lacks(2, libc::PROT_EXEC as u32)),
    call(libc::SYS_mremap),
    call(libc::SYS_munmap),
    call(libc::SYS_madvise),
    call(libc::SYS_brk),
    // The C library's allocator wants to know how many CPUs there are.
    call(libc::SYS_sched_getaffinity),
    // Waiting, for other threads and for a while.
    call(libc::SYS_futex),
    call(libc::SYS_sched_yield),
    call(libc::SYS_clock_nanosleep),
    call(libc::SYS_restart_syscall),
    // Clocks, where they are no vDSO calls.
    call(libc::SYS_clock_gettime),
    call(libc::SYS_gettimeofday),
    // Descriptors that are open. Debug builds look whether one is before they close it.
    call(libc::SYS_read),
    call(libc::SYS_write),
    call(libc::SYS_close),
    Call(libc::SYS_fcntl, Is(1, libc::F_GETFD as u32)),
    // Signals: coming back from a handler, and abort. The handler that reports violations stays.
    call(libc::SYS_rt_sigreturn),
    call(libc::SYS_rt_sigprocmask),
    Call(libc::SYS_rt_sigaction, IsNot(0, libc::SIGSYS as u32)),
    call(libc::SYS_sigaltstack),
    Call(libc::SYS_tgkill, ThisProcess(0)),
    call(libc::SYS_getpid),
    call(libc::SYS_gettid),
    // Seeds of hash tables.
    call(libc::SYS_getrandom),
    call(libc::SYS_exit),
    call(libc::SYS_exit_group),
];

/// What running a vCPU needs, the most frequent first.
const VCPU: &[Call] = &[
    ioctl!(kvm(0x80)),                        // KVM_RUN
    ioctl!(kvm_out::<kvm_regs>(0x81)),        // KVM_GET_REGS
    ioctl!(kvm_in::<kvm_interrupt>(0x86)),    // KVM_INTERRUPT
    ioctl!(kvm(0x9a)),                        // KVM_NMI
    ioctl!(kvm_in::<kvm_msi>(0xa5)),          // KVM_SIGNAL_MSI
    ioctl!(kvm_out::<kvm_mp_state>(0x98)),    // KVM_GET_MP_STATE
    ioctl!(kvm_out::<kvm_vcpu_events>(0x9f)), // KVM_GET_VCPU_EVENTS
    // The latch, and preemption on purpose.
    call(libc::SYS_ppoll),
    // The timers.
    call(libc::SYS_timerfd_settime),
    // The thread's books.
    call(libc::SYS_pread64),
];

/// What stopping vCPUs needs; being busy needs nothing.
const HELPER: &[Call] = &[call(libc::SYS_ppoll)];

/// What writing to the user needs, wherever that goes: a stream is written to, but not to an address.
const CONSOLE: &[Call] = &[
    call(libc::SYS_writev),
    Call(libc::SYS_sendto, Null(4)),
    call(libc::SYS_poll),
];

/// What setting up guests, waiting for them and writing results needs, beside all that their threads need:
/// these start with the filter of the one that starts them.
const CONTROL: &[Call] = &[
    ioctl!(kvm(0x00)),                                   // KVM_GET_API_VERSION
    ioctl!(kvm(0x01)),                                   // KVM_CREATE_VM
    ioctl!(kvm(0x03)),                                   // KVM_CHECK_EXTENSION
    ioctl!(kvm(0x04)),                                   // KVM_GET_VCPU_MMAP_SIZE
    ioctl!(kvm_in_out::<kvm_cpuid2>(0x05)),              // KVM_GET_SUPPORTED_CPUID
    ioctl!(kvm(0x41)),                                   // KVM_CREATE_VCPU
    ioctl!(kvm_in::<kvm_userspace_memory_region>(0x46)), // KVM_SET_USER_MEMORY_REGION
    ioctl!(kvm_in::<kvm_regs>(0x82)),                    // KVM_SET_REGS
    ioctl!(kvm_out::<kvm_sregs>(0x83)),                  // KVM_GET_SREGS
    ioctl!(kvm_in::<kvm_sregs>(0x84)),                   // KVM_SET_SREGS
    ioctl!(kvm_in::<kvm_cpuid2>(0x90)),                  // KVM_SET_CPUID2
    ioctl!(kvm(0xa3)),                                   // KVM_GET_TSC_KHZ
    ioctl!(kvm_in_out::<kvm_msrs>(0x88)),                // KVM_GET_MSRS
    ioctl!(kvm_in::<kvm_msrs>(0x89)),                    // KVM_SET_MSRS
    ioctl!(kvm_in::<kvm_enable_cap>(0xa3)),              // KVM_ENABLE_CAP
    ioctl!(kvm_in::<kvm_ioeventfd>(0x79)),               // KVM_IOEVENTFD
    ioctl!(kvm_out::<kvm_lapic_state>(0x8e)),            // KVM_GET_LAPIC
    ioctl!(kvm_in::<kvm_lapic_state>(0x8f)),             // KVM_SET_LAPIC
    ioctl!(kvm_in::<kvm_mp_state>(0x99)),                // KVM_SET_MP_STATE
    // Is it a terminal, and how wide? Never to type on one (TIOCSTI).
    ioctl!(libc::TCGETS as u32),
    ioctl!(libc::TIOCGWINSZ as u32),
    // Which kernel is this?
    call(libc::SYS_uname),
    // Files, of which Landlock says which.
    call(libc::SYS_openat),
    call(libc::SYS_statx),
    call(libc::SYS_newfstatat),
    call(libc::SYS_fstat),
    call(libc::SYS_lseek),
    call(libc::SYS_getcwd),
    call(libc::SYS_readlink),
    call(libc::SYS_readlinkat),
    call(libc::SYS_rename),
    call(libc::SYS_renameat),
    call(libc::SYS_renameat2),
    call(libc::SYS_unlink),
    call(libc::SYS_unlinkat),
    call(libc::SYS_fchmod),
    Call(libc::SYS_fcntl, Is(1, libc::F_DUPFD_CLOEXEC as u32)),
    // The control loop.
    call(libc::SYS_eventfd2),
    call(libc::SYS_epoll_create1),
    call(libc::SYS_epoll_ctl),
    call(libc::SYS_epoll_wait),
    call(libc::SYS_epoll_pwait),
    call(libc::SYS_timerfd_create),
    call(libc::SYS_timerfd_settime),
    call(libc::SYS_signalfd4),
    // Threads, but no processes and no namespaces. `clone3`, whose flags a filter cannot see, does not exist.
    Call(
        libc::SYS_clone,
        HasAndLacks(0, libc::CLONE_THREAD as u32, NAMESPACES),
    ),
    call(libc::SYS_set_robust_list),
    call(libc::SYS_rseq),
    call(libc::SYS_sched_setaffinity),
    Call(libc::SYS_prctl, Is(0, libc::PR_SET_NAME as u32)),
    Call(libc::SYS_prctl, Is(0, libc::PR_SET_TIMERSLACK as u32)),
    // Records of threads of its own: the one that asks.
    Call(libc::SYS_perf_event_open, Is(1, 0)),
    Call(libc::SYS_prlimit64, Null(2)),
    // Their own filters, which can but forbid more.
    Call(libc::SYS_prctl, Is(0, libc::PR_SET_NO_NEW_PRIVS as u32)),
    call(libc::SYS_seccomp),
];

/// Flags that put what is cloned into a namespace of its own.
const NAMESPACES: u32 = (libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWUTS) as u32;

/// The groups of the table that make up a class.
fn groups(class: Class) -> &'static [&'static [Call]] {
    match class {
        Class::Vcpu => &[VCPU, ANY],
        Class::Console => &[CONSOLE, ANY],
        Class::Helper => &[HELPER, ANY],
        Class::Control => &[VCPU, CONSOLE, CONTROL, ANY],
    }
}

/// The filter of a class.
pub(super) fn program(class: Class) -> BpfProgram {
    program::assemble(
        rows(class)
            .map(|(number, check)| (number as u32, check))
            .collect(),
    )
}

/// The rows of the table for a class: a system call, and what is checked of it.
pub(super) fn rows(class: Class) -> impl Iterator<Item = (c_long, Check)> {
    groups(class)
        .iter()
        .copied()
        .flatten()
        .map(|call| (call.0, call.1))
}

/// Number of a KVM request without an argument of its own: `_IO(KVMIO, number)`.
const fn kvm(number: u32) -> u32 {
    const KVMIO: u32 = 0xae;
    KVMIO << 8 | number
}

/// `_IOW`: the kernel reads a `T`.
const fn kvm_in<T>(number: u32) -> u32 {
    1 << 30 | (size_of::<T>() as u32) << 16 | kvm(number)
}

/// `_IOR`: the kernel writes a `T`.
const fn kvm_out<T>(number: u32) -> u32 {
    2 << 30 | (size_of::<T>() as u32) << 16 | kvm(number)
}

/// `_IOWR`: both.
const fn kvm_in_out<T>(number: u32) -> u32 {
    kvm_in::<T>(number) | kvm_out::<T>(number)
}
