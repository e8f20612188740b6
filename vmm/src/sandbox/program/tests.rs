use super::*;
use crate::sandbox::{Class, filter};

/// The instructions that appear in programs, interpreted as the kernel does. Returns the action, and how many
/// instructions led to it.
fn decide(program: &[sock_filter], arch: u32, number: u32, arguments: [u64; 6]) -> (u32, usize) {
    let word = |offset: usize| match offset {
        0 => number,
        4 => arch,
        _ => {
            let argument = arguments[(offset - 16) / 8];
            (argument >> (8 * (offset % 8))) as u32
        }
    };
    let (mut accumulator, mut at) = (0, 0);
    for steps in 1.. {
        let it = &program[at];
        at += 1;
        let k = it.k;
        let either = |condition| usize::from(if condition { it.jt } else { it.jf });
        match u32::from(it.code) {
            code if code == BPF_LD | BPF_W | BPF_ABS => accumulator = word(k as usize),
            code if code == BPF_JMP | BPF_JEQ => at += either(accumulator == k),
            code if code == BPF_JMP | BPF_JGE => at += either(accumulator >= k),
            code if code == BPF_JMP | BPF_JSET => at += either(accumulator & k != 0),
            code if code == BPF_ALU | BPF_AND => accumulator &= k,
            code if code == BPF_RET | BPF_K => return (k, steps),
            code => panic!("instruction {code:#x} is not interpreted"),
        }
    }
    unreachable!("jumps lead forwards")
}

const CLASSES: [Class; 4] = [Class::Control, Class::Vcpu, Class::Console, Class::Helper];

fn action(class: Class, number: i64, arguments: &[u64]) -> u32 {
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    let program = filter::program(class);
    decide(&program, AUDIT_ARCH_X86_64, number as u32, all).0
}

/// What a row of the table says, read directly.
fn holds(check: Check, arguments: [u64; 6]) -> bool {
    let lower = |argument: u8| arguments[usize::from(argument)] as u32;
    match check {
        Check::Anything => true,
        Check::Is(argument, value) => lower(argument) == value,
        Check::IsNot(argument, value) => lower(argument) != value,
        Check::Lacks(argument, bits) => lower(argument) & bits == 0,
        Check::HasAndLacks(argument, set, clear) => lower(argument) & (set | clear) == set,
        Check::Null(argument) => arguments[usize::from(argument)] == 0,
        Check::ThisProcess(argument) => lower(argument) == std::process::id(),
    }
}

/// Values at which a check may change its mind, for the argument that it looks at.
fn edges(check: Check) -> (usize, Vec<u64>) {
    let (argument, values) = match check {
        Check::Anything => (0, vec![]),
        Check::Is(argument, value) | Check::IsNot(argument, value) => (argument, vec![value]),
        Check::Lacks(argument, bits) => (argument, vec![bits]),
        Check::HasAndLacks(argument, set, clear) => {
            let clear = (0..32).map(|bit| clear & 1 << bit);
            (argument, clear.map(|bit| set | bit).chain([set]).collect())
        }
        Check::Null(argument) => (argument, vec![0]),
        Check::ThisProcess(argument) => (argument, vec![std::process::id()]),
    };
    let around = |value: u32| {
        let value = u64::from(value);
        [
            value,
            value.wrapping_sub(1),
            value + 1,
            value | 1 << 32,
            value ^ 1 << 12,
        ]
    };
    (
        argument.into(),
        values.into_iter().chain([0, u32::MAX]).flat_map(around).collect(),
    )
}

#[test]
fn every_number_is_decided_as_the_table_says_whatever_its_arguments_are() {
    for class in CLASSES {
        let program = filter::program(class);
        for number in (0..1000).chain([1 << 30, (1 << 30) + libc::SYS_write, u32::MAX.into()]) {
            let rows = || filter::rows(class).filter(|(row, _)| *row == number);
            let mut tries = vec![[0; 6]];
            // One argument of a row at a time, at its edges.
            for (argument, values) in rows().map(|(_, check)| edges(check)) {
                tries.extend(values.into_iter().map(|value| {
                    let mut arguments = [0; 6];
                    arguments[argument] = value;
                    arguments
                }));
            }
            for arguments in tries {
                let expected = match number {
                    libc::SYS_clone3 => libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32,
                    _ if rows().any(|(_, check)| holds(check, arguments)) => libc::SECCOMP_RET_ALLOW,
                    _ => libc::SECCOMP_RET_TRAP,
                };
                let (action, steps) = decide(&program, AUDIT_ARCH_X86_64, number as u32, arguments);
                assert_eq!(action, expected, "{class:?}: {number} with {arguments:x?}");
                assert!(
                    rows().next().is_some() || steps < 16,
                    "{class:?}: {number} takes {steps} steps"
                );
            }
        }
        assert_eq!(
            decide(&program, 0x4000_0003, 4, [0; 6]).0,
            libc::SECCOMP_RET_KILL_PROCESS
        );
    }
}

#[test]
fn what_must_never_be_allowed_is_not() {
    use libc::*;
    let never = [
        SYS_execve,
        SYS_execveat,
        SYS_fork,
        SYS_vfork,
        SYS_socket,
        SYS_connect,
        SYS_bind,
        SYS_accept4,
        SYS_ptrace,
        SYS_process_vm_readv,
        SYS_process_vm_writev,
        SYS_kill,
        SYS_mount,
        SYS_unshare,
        SYS_setns,
        SYS_bpf,
        SYS_io_uring_setup,
        SYS_userfaultfd,
        SYS_memfd_create,
        SYS_pkey_mprotect,
        SYS_setuid,
        SYS_chmod,
        SYS_open,
    ];
    for class in CLASSES {
        for number in never {
            assert_eq!(
                action(class, number, &[]),
                SECCOMP_RET_TRAP,
                "{class:?}: {number}"
            );
        }
    }
    for class in [Class::Vcpu, Class::Console] {
        for number in [
            SYS_openat,
            SYS_openat2,
            SYS_clone,
            SYS_unlinkat,
            SYS_renameat,
            SYS_eventfd2,
            SYS_prctl,
        ] {
            assert_eq!(
                action(class, number, &[]),
                SECCOMP_RET_TRAP,
                "{class:?}: {number}"
            );
        }
    }
}

#[test]
fn arguments_decide() {
    let (allow, trap) = (libc::SECCOMP_RET_ALLOW, libc::SECCOMP_RET_TRAP);
    let data = (libc::PROT_READ | libc::PROT_WRITE) as u64;
    let code = data | libc::PROT_EXEC as u64;
    for class in CLASSES {
        for call in [libc::SYS_mmap, libc::SYS_mprotect] {
            assert_eq!(action(class, call, &[0, 4096, data]), allow, "{class:?}");
            assert_eq!(action(class, call, &[0, 4096, code]), trap, "{class:?}");
        }
        let us = std::process::id().into();
        assert_eq!(action(class, libc::SYS_tgkill, &[us, us]), allow, "{class:?}");
        assert_eq!(action(class, libc::SYS_tgkill, &[1, 1]), trap, "{class:?}");
        assert_eq!(
            action(class, libc::SYS_rt_sigaction, &[libc::SIGSEGV as u64]),
            allow
        );
        assert_eq!(
            action(class, libc::SYS_rt_sigaction, &[libc::SIGSYS as u64]),
            trap
        );
    }
    // KVM_RUN, KVM_CREATE_VM, TIOCSTI.
    let ioctl = |class, request| action(class, libc::SYS_ioctl, &[3, request]);
    assert_eq!(
        [0xae80, 0xae01, 0x5412].map(|it| ioctl(Class::Control, it)),
        [allow, allow, trap]
    );
    assert_eq!(
        [0xae80, 0xae01, 0x5412].map(|it| ioctl(Class::Vcpu, it)),
        [allow, trap, trap]
    );
    assert_eq!(ioctl(Class::Console, 0xae80), trap);
    // What the C library starts threads with, `fork`, and a new user namespace.
    let clone = |flags| action(Class::Control, libc::SYS_clone, &[flags]);
    let flags = [0x3d_0f00, 17, 0x1000_0000, 0x3d_0f00 | libc::CLONE_NEWUSER as u64];
    assert_eq!(flags.map(clone), [allow, trap, trap, trap]);
    assert_eq!(
        action(Class::Control, libc::SYS_clone3, &[]),
        libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32
    );
    // To a connected peer, not to an address.
    assert_eq!(
        action(Class::Console, libc::SYS_sendto, &[1, 0x1000, 1, 0, 0]),
        allow
    );
    for address in [1 << 40, 0x7fff_0000, 1] {
        let arguments = [1, 0x1000, 1, 0, address];
        assert_eq!(action(Class::Console, libc::SYS_sendto, &arguments), trap);
    }
}
