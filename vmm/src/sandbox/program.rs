//! From rules to a seccomp filter's program.
//!
//! seccompiler's own programs compare with one system call after the other. The kernel follows a program
//! for every number there is when it is installed, once for each vCPU, and threads follow it whenever they
//! make a call: so this one finds the number by bisection. What it checks of the arguments is
//! seccompiler's.

use std::collections::BTreeMap;
use std::mem::offset_of;

use libc::{BPF_ABS, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, seccomp_data};
use seccompiler::{BpfProgram, SeccompRule, sock_filter};

/// The architecture whose numbers these are; a call by another one's kills the process.
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

/// The program for `calls`: each is allowed if one of its rules holds, or if it has none. `clone3` fails as
/// on a kernel that does not have it, so that the C library falls back to `clone`. All others raise SIGSYS.
pub(super) fn assemble(calls: BTreeMap<u32, Vec<SeccompRule>>) -> BpfProgram {
    let mut leaves: BTreeMap<u32, BpfProgram> = calls
        .into_iter()
        .map(|(number, rules)| (number, arguments(rules)))
        .collect();
    leaves.insert(
        libc::SYS_clone3 as u32,
        vec![ret(libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32)],
    );
    let mut program = vec![
        load(offset_of!(seccomp_data, arch)),
        instruction(BPF_JMP | BPF_JEQ, AUDIT_ARCH_X86_64, 1, 0),
        ret(libc::SECCOMP_RET_KILL_PROCESS),
        load(offset_of!(seccomp_data, nr)),
    ];
    program.extend(bisect(&Vec::from_iter(leaves)));
    program
}

/// Finds the number among `leaves`, which are sorted by it.
fn bisect(leaves: &[(u32, BpfProgram)]) -> BpfProgram {
    match leaves {
        [] => vec![ret(libc::SECCOMP_RET_TRAP)],
        [(number, then)] => {
            let mut program = vec![
                instruction(BPF_JMP | BPF_JEQ, *number, 1, 0),
                ret(libc::SECCOMP_RET_TRAP),
            ];
            program.extend(then.iter().cloned());
            program
        }
        _ => {
            let (low, high) = leaves.split_at(leaves.len() / 2);
            let low = bisect(low);
            // Conditional jumps reach 255 instructions far, the others any.
            let mut program = vec![
                instruction(BPF_JMP | BPF_JGE, high[0].0, 0, 1),
                instruction(BPF_JMP | BPF_JA, low.len() as u32, 0, 0),
            ];
            program.extend(low);
            program.extend(bisect(high));
            program
        }
    }
}

/// What a call's arguments decide. A rule that does not hold goes on after its end.
fn arguments(rules: Vec<SeccompRule>) -> BpfProgram {
    if rules.is_empty() {
        return vec![ret(libc::SECCOMP_RET_ALLOW)];
    }
    let mut program = Vec::new();
    for rule in rules {
        program.extend(BpfProgram::from(rule));
        program.push(ret(libc::SECCOMP_RET_ALLOW));
    }
    program.push(ret(libc::SECCOMP_RET_TRAP));
    program
}

/// Loads four bytes of what the kernel says about the call.
fn load(offset: usize) -> sock_filter {
    instruction(BPF_LD | BPF_W | BPF_ABS, offset as u32, 0, 0)
}

/// Ends the program with this action.
fn ret(action: u32) -> sock_filter {
    instruction(BPF_RET | BPF_K, action, 0, 0)
}

fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    }
}

#[cfg(test)]
mod tests;
