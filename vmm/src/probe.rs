//! Does this host run ring 0, or does it emulate it?
//!
//! A software KVM emulates a guest's ring 0 instruction by instruction, at several hundred nanoseconds
//! each, and only plain integer code at all. There is nothing to ask about that, so it is measured: the
//! guest times a counted loop by its own TSC, so that what an entry and an exit cost does not count. The
//! loop takes well under a microsecond where ring 0 is real, and five and more where it is not.

use std::sync::OnceLock;

use kvm_bindings::kvm_regs;
use kvm_ioctls::{VcpuExit, VcpuFd};

use crate::config::Ring;
use crate::error::Error;
use crate::layout::PROBE;
use crate::memory::GuestMemory;
use crate::registers;

/// Turns of the loop, two instructions each.
const TURNS: u8 = 8;

/// More nanoseconds than this for an instruction, and it was emulated: a third of what the fastest emulation
/// seen takes, and more than any processor, or its emulator, does, even if reading the TSC takes long.
const LIMIT: f64 = 100.0;

/// A try can be slow because the code is new or the host was busy, never fast by mistake: so the faster of
/// two counts. The guest finds it, because a first entry takes longer than all tries together.
const TRIES: u8 = 2;

/// How the host runs ring 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Ring0 {
    /// Instruction by instruction, in software.
    pub emulated: bool,
    /// Time per instruction.
    pub ns_per_instruction: f64,
}

impl Ring0 {
    /// The ring that a kernel is best run in.
    pub fn best_ring(self) -> Ring {
        if self.emulated { Ring::Three } else { Ring::Zero }
    }
}

/// Integer instructions only. It ends with an OUT, since not every VM's HLT exits.
///
/// ```text
///    mov edi, TRIES
///    mov ebx, -1         the fastest try
/// 1: mov ecx, TURNS
///    rdtsc
///    mov esi, eax
/// 2: dec ecx
///    jnz 2b
///    rdtsc
///    sub eax, esi
///    cmp eax, ebx
///    jae 3f
///    mov ebx, eax
/// 3: dec edi
///    jnz 1b
///    mov eax, ebx
///    out 0x80, eax
/// ```
const CODE: [u8; 41] = [
    0xbf, TRIES, 0, 0, 0, 0xbb, 0xff, 0xff, 0xff, 0xff, 0xb9, TURNS, 0, 0, 0, 0x0f, 0x31, 0x89, 0xc6, 0xff,
    0xc9, 0x75, 0xfc, 0x0f, 0x31, 0x29, 0xf0, 0x39, 0xd8, 0x73, 0x02, 0x89, 0xc3, 0xff, 0xcf, 0x75, 0xe5,
    0x89, 0xd8, 0xe7, 0x80,
];

/// Measures on `vcpu`, which is in 64-bit mode, once in the life of the process, in a page of its own: the
/// kernel may be loaded meanwhile.
pub(crate) fn ring0(vcpu: &mut VcpuFd, memory: &GuestMemory, tsc_khz: u64) -> Result<Ring0, Error> {
    static MEASURED: OnceLock<Ring0> = OnceLock::new();
    if let Some(known) = MEASURED.get() {
        return Ok(*known);
    }
    memory.write_bytes(PROBE, &CODE)?;
    let cycles = time_loop(vcpu)?;
    let fastest = f64::from(cycles) * 1e6 / tsc_khz as f64 / f64::from(2 * TURNS);
    let measured = Ring0 {
        emulated: fastest >= LIMIT,
        ns_per_instruction: fastest,
    };
    Ok(*MEASURED.get_or_init(|| measured))
}

/// Runs the code; returns the cycles of the fastest try.
fn time_loop(vcpu: &mut VcpuFd) -> Result<u32, Error> {
    let start = kvm_regs {
        rip: PROBE,
        ..Default::default()
    };
    registers::set_general(vcpu, start)?;
    loop {
        match vcpu.run() {
            Ok(VcpuExit::IoOut(0x80, &[a, b, c, d])) => return Ok(u32::from_le_bytes([a, b, c, d])),
            Err(error) if error.errno() == libc::EINTR => {}
            Ok(exit) => return Err(unusable(format!("{exit:?}"))),
            Err(error) => return Err(unusable(error.to_string())),
        }
    }
}

fn unusable(what: String) -> Error {
    Error::Host(format!(
        "KVM cannot run a loop of two instructions in ring 0 ({what}): this host runs no guests"
    ))
}
