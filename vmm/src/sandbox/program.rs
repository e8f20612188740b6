//! From rules to a seccomp filter's program.
//!
//! The kernel translates a program, and follows it for many a number, whenever it is installed, which is once
//! for each vCPU; and threads follow it whenever they make a call. So it is short: it finds the number by
//! bisection, a jump for each range of numbers, checks arguments with as little as that, and has each answer
//! once, at its end. seccompiler's own programs compare with one number after the other, and are three times
//! as long.

use std::mem::offset_of;

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W,
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
pub(super) fn assemble(mut calls: Vec<(u32, Check)>) -> BpfProgram {
    calls.sort_by_key(|(number, _)| *number);
    let decisions = calls
        .chunk_by(|(a, _), (b, _)| a == b)
        .map(|rows| (rows[0].0, Decision::of(rows)));
    // The numbers from which on something else is decided.
    let mut ranges = vec![(0, Decision::Is(Answer::Trap))];
    for (number, decision) in decisions {
        for (from, decision) in [(number, decision), (number + 1, Decision::Is(Answer::Trap))] {
            ranges.pop_if(|(last, _)| *last == from);
            if ranges.last().is_none_or(|(_, last)| *last != decision) {
                ranges.push((from, decision));
            }
        }
    }
    let mut assembler = Assembler::default();
    assembler.load(offset_of!(seccomp_data, arch));
    assembler.jump(BPF_JEQ, AUDIT_ARCH_X86_64, To::Past(0), To::End(Answer::Kill));
    assembler.load(offset_of!(seccomp_data, nr));
    assembler.jump(
        BPF_JEQ,
        libc::SYS_clone3 as u32,
        To::End(Answer::NotThere),
        To::Past(0),
    );
    assembler.bisect(&ranges);
    assembler.finish()
}

/// What a filter says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    Allow,
    Trap,
    NotThere,
    Kill,
}

impl Answer {
    const ALL: [Self; 4] = [Self::Allow, Self::Trap, Self::NotThere, Self::Kill];

    fn action(self) -> u32 {
        match self {
            Self::Allow => libc::SECCOMP_RET_ALLOW,
            Self::Trap => libc::SECCOMP_RET_TRAP,
            Self::NotThere => libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32,
            Self::Kill => libc::SECCOMP_RET_KILL_PROCESS,
        }
    }
}

/// What is said of a range of numbers: always the same, or what the number's arguments decide.
#[derive(Clone, Copy, PartialEq)]
enum Decision<'a> {
    Is(Answer),
    ByArguments(&'a [(u32, Check)]),
}

impl<'a> Decision<'a> {
    fn of(rows: &'a [(u32, Check)]) -> Self {
        match rows.iter().any(|(_, check)| *check == Check::Anything) {
            true => Self::Is(Answer::Allow),
            false => Self::ByArguments(rows),
        }
    }
}

/// Where a jump leads.
#[derive(Clone, Copy)]
enum To {
    /// Past so many instructions.
    Past(u8),
    End(Answer),
}

/// Where to go for these ranges: to an end if they are one that is always decided alike.
fn start(ranges: &[(u32, Decision<'_>)]) -> To {
    match ranges {
        [(_, Decision::Is(answer))] => To::End(*answer),
        _ => To::Past(0),
    }
}

/// A program without its end, and the jumps that lead there: where they are, and for which outcome.
#[derive(Default)]
struct Assembler {
    program: BpfProgram,
    ends: Vec<(usize, bool, Answer)>,
}

impl Assembler {
    /// Finds the range that the number is in, and decides.
    fn bisect(&mut self, ranges: &[(u32, Decision<'_>)]) {
        match ranges {
            [(_, Decision::Is(answer))] => self.jump(BPF_JGE, 0, To::End(*answer), To::End(*answer)),
            [(_, Decision::ByArguments(rows))] => self.arguments(rows),
            _ => {
                let (low, high) = ranges.split_at(ranges.len() / 2);
                let at = self.program.len();
                self.jump(BPF_JGE, high[0].0, start(high), start(low));
                if let To::Past(_) = start(low) {
                    self.bisect(low);
                }
                if let To::Past(_) = start(high) {
                    self.program[at].jt = distance(at, self.program.len());
                    self.bisect(high);
                }
            }
        }
    }

    /// What a call's arguments decide.
    fn arguments(&mut self, rows: &[(u32, Check)]) {
        let mut loaded = None;
        for (i, (_, check)) in rows.iter().enumerate() {
            let otherwise = match i + 1 == rows.len() {
                true => To::End(Answer::Trap),
                false => To::Past(0),
            };
            // One of many requests: the argument is loaded already.
            let skip = matches!((loaded, check), (Some(a), Check::Is(b, _)) if a == *b);
            self.check(*check, skip, otherwise);
            loaded = match check {
                Check::Is(argument, _) => Some(*argument),
                _ => None,
            };
        }
    }

    /// Allows the call if the check holds, and else goes on as told: at the next instruction, or to an end.
    fn check(&mut self, check: Check, loaded: bool, otherwise: To) {
        const ALLOW: To = To::End(Answer::Allow);
        let argument = |index: u8| offset_of!(seccomp_data, args) + 8 * usize::from(index);
        match check {
            Check::Anything => self.jump(BPF_JGE, 0, ALLOW, ALLOW),
            Check::Is(index, value) => {
                if !loaded {
                    self.load(argument(index));
                }
                self.jump(BPF_JEQ, value, ALLOW, otherwise);
            }
            Check::IsNot(index, value) => {
                self.load(argument(index));
                self.jump(BPF_JEQ, value, otherwise, ALLOW);
            }
            Check::Lacks(index, bits) => {
                self.load(argument(index));
                self.jump(BPF_JSET, bits, otherwise, ALLOW);
            }
            Check::HasAndLacks(index, set, clear) => {
                self.load(argument(index));
                self.push(BPF_ALU | BPF_AND | BPF_K, set | clear, 0, 0);
                self.jump(BPF_JEQ, set, ALLOW, otherwise);
            }
            Check::Null(index) => {
                let upper_too = match otherwise {
                    To::Past(_) => To::Past(2),
                    end => end,
                };
                self.load(argument(index));
                self.jump(BPF_JEQ, 0, To::Past(0), upper_too);
                self.load(argument(index) + 4);
                self.jump(BPF_JEQ, 0, ALLOW, otherwise);
            }
            Check::ThisProcess(index) => self.check(Check::Is(index, std::process::id()), loaded, otherwise),
        }
    }

    /// Loads four bytes of what the kernel says about the call.
    fn load(&mut self, offset: usize) {
        self.push(BPF_LD | BPF_W | BPF_ABS, offset as u32, 0, 0);
    }

    /// Jumps by what was loaded.
    fn jump(&mut self, condition: u32, value: u32, then: To, otherwise: To) {
        let at = self.program.len();
        let mut past = |outcome: bool, to: To| match to {
            To::Past(instructions) => instructions,
            To::End(answer) => {
                self.ends.push((at, outcome, answer));
                0
            }
        };
        let (jt, jf) = (past(true, then), past(false, otherwise));
        self.push(BPF_JMP | condition | BPF_K, value, jt, jf);
    }

    fn push(&mut self, code: u32, k: u32, jt: u8, jf: u8) {
        let code = code as u16;
        self.program.push(sock_filter { code, jt, jf, k });
    }

    /// The program, with the answers at its end.
    fn finish(mut self) -> BpfProgram {
        for answer in Answer::ALL {
            let end = self.program.len();
            for (at, outcome, _) in self.ends.iter().filter(|(_, _, to)| *to == answer) {
                let jump = &mut self.program[*at];
                let way = if *outcome { &mut jump.jt } else { &mut jump.jf };
                *way = distance(*at, end);
            }
            self.push(BPF_RET | BPF_K, answer.action(), 0, 0);
        }
        self.program
    }
}

/// How many instructions a jump at one place has to pass to get to the other.
fn distance(from: usize, to: usize) -> u8 {
    u8::try_from(to - from - 1).expect("no filter is longer than a jump")
}

#[cfg(test)]
mod tests;
