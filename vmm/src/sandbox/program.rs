//! From rules to a seccomp filter's program.
//!
//! The kernel translates a program, and follows it for many a number, whenever it is installed, which is once
//! for each vCPU; and threads follow it whenever they make a call. So it is short: it finds the number by
//! bisection, a jump and a decision for each range of numbers, and checks arguments with as little as that.
//! seccompiler's own programs compare with one number after the other, and take twice as many.

use std::collections::BTreeMap;
use std::mem::offset_of;

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W,
    seccomp_data,
};
use seccompiler::{BpfProgram, sock_filter};

/// The architecture whose numbers these are; a call by another one's kills the process.
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

/// What the argument of that index has to be; their lower 32 bits are all that most calls look at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    Anything,
    Is(u8, u32),
    IsNot(u8, u32),
    /// None of these bits may be set.
    Lacks(u8, u32),
    /// All of the first bits must be set, and none of the second.
    HasAndLacks(u8, u32, u32),
    /// The null pointer.
    Null(u8),
    /// This process's id.
    ThisProcess(u8),
}

/// The program for `calls`: each is allowed if one of its checks holds. `clone3` fails as on a kernel that
/// does not have it, so that the C library falls back to `clone`. All others raise SIGSYS.
pub(super) fn assemble(calls: BTreeMap<u32, Vec<Check>>) -> BpfProgram {
    let mut decisions: BTreeMap<u32, BpfProgram> = calls
        .into_iter()
        .map(|(number, checks)| (number, arguments(&checks)))
        .collect();
    decisions.insert(
        libc::SYS_clone3 as u32,
        vec![ret(libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32)],
    );
    // The numbers from which on something else is decided.
    let forbidden = || vec![ret(libc::SECCOMP_RET_TRAP)];
    let mut ranges = vec![(0, forbidden())];
    for (number, decision) in decisions {
        for (from, decision) in [(number, decision), (number + 1, forbidden())] {
            ranges.pop_if(|(last, _)| *last == from);
            if ranges.last().is_none_or(|(_, last)| *last != decision) {
                ranges.push((from, decision));
            }
        }
    }
    let mut program = vec![
        load(offset_of!(seccomp_data, arch)),
        instruction(BPF_JMP | BPF_JEQ, AUDIT_ARCH_X86_64, 1, 0),
        ret(libc::SECCOMP_RET_KILL_PROCESS),
        load(offset_of!(seccomp_data, nr)),
    ];
    program.extend(bisect(&ranges));
    program
}

/// Finds the range that the number is in.
fn bisect(ranges: &[(u32, BpfProgram)]) -> BpfProgram {
    if let [(_, decision)] = ranges {
        return decision.clone();
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let (low, from) = (bisect(low), high[0].0);
    // Conditional jumps reach 255 instructions far, the others any.
    let mut program = match u8::try_from(low.len()) {
        Ok(length) => vec![instruction(BPF_JMP | BPF_JGE, from, length, 0)],
        Err(_) => vec![
            instruction(BPF_JMP | BPF_JGE, from, 0, 1),
            instruction(BPF_JMP | BPF_JA, low.len() as u32, 0, 0),
        ],
    };
    program.extend(low);
    program.extend(bisect(high));
    program
}

/// What a call's arguments decide.
fn arguments(checks: &[Check]) -> BpfProgram {
    let allowed = ret(libc::SECCOMP_RET_ALLOW);
    if checks.contains(&Check::Anything) {
        return vec![allowed];
    }
    let mut program = Vec::new();
    let mut before = None;
    for check in checks {
        // One of many requests: the argument is loaded already.
        let loaded = matches!((before, check), (Some(Check::Is(a, _)), Check::Is(b, _)) if a == *b);
        program.extend(check.instructions().into_iter().skip(loaded.into()));
        program.push(allowed.clone());
        before = Some(*check);
    }
    program.push(ret(libc::SECCOMP_RET_TRAP));
    program
}

impl Check {
    /// Goes on after the end if it holds, and else one instruction later. A load comes first, and comparisons
    /// leave what it has loaded.
    fn instructions(self) -> BpfProgram {
        let lower = |argument: u8| load(offset_of!(seccomp_data, args) + 8 * usize::from(argument));
        let upper = |argument: u8| load(offset_of!(seccomp_data, args) + 8 * usize::from(argument) + 4);
        let jump =
            |condition, value, then, otherwise| instruction(BPF_JMP | condition, value, then, otherwise);
        match self {
            Self::Anything => vec![],
            Self::Is(argument, value) => vec![lower(argument), jump(BPF_JEQ, value, 0, 1)],
            Self::IsNot(argument, value) => vec![lower(argument), jump(BPF_JEQ, value, 1, 0)],
            Self::Lacks(argument, bits) => vec![lower(argument), jump(BPF_JSET, bits, 1, 0)],
            Self::HasAndLacks(argument, set, clear) => vec![
                lower(argument),
                instruction(BPF_ALU | BPF_AND, set | clear, 0, 0),
                jump(BPF_JEQ, set, 0, 1),
            ],
            Self::Null(argument) => vec![
                lower(argument),
                jump(BPF_JEQ, 0, 0, 3),
                upper(argument),
                jump(BPF_JEQ, 0, 0, 1),
            ],
            Self::ThisProcess(argument) => Self::Is(argument, std::process::id()).instructions(),
        }
    }
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
