//! Does this host run ring 0, or does it emulate it?
//!
//! A software KVM emulates a guest's ring 0 instruction by instruction, at several hundred nanoseconds each,
//! and only plain integer code at all. There is nothing to ask about that, so it is measured: a counted loop
//! of two instructions takes microseconds where ring 0 is real and most of a millisecond where it is not.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use abi::boot::KERNEL_BASE;
use kvm_bindings::kvm_regs;
use kvm_ioctls::{VcpuExit, VcpuFd};

use crate::config::Ring;
use crate::error::Error;
use crate::memory::GuestMemory;
use crate::registers;

/// Turns of the loop, two instructions each.
const TURNS: u32 = 1000;

/// Above this the loop was emulated. Half of what the fastest emulation seen takes, and several times what
/// the exit at the loop's end costs under nested virtualisation.
const LIMIT: Duration = Duration::from_micros(350);

/// A try can be slow because the host was busy, never fast by mistake: so the fastest of a few counts.
const TRIES: u32 = 3;

/// How the host runs ring 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ring0 {
    /// Instruction by instruction, in software.
    pub emulated: bool,
    /// Time per instruction, the exit at the end included: meaningful where emulated, an upper bound
    /// elsewhere.
    pub ns_per_instruction: f64,
}

impl Ring0 {
    /// The ring that a kernel is best run in.
    pub fn best_ring(self) -> Ring {
        if self.emulated { Ring::Three } else { Ring::Zero }
    }
}

/// Measures on `vcpu`, once in the life of the process. The code goes where the kernel will be, which is
/// mapped executable and not loaded yet.
pub(crate) fn ring0(vcpu: &mut VcpuFd, memory: &GuestMemory, cr3: u64) -> Result<Ring0, Error> {
    static MEASURED: OnceLock<Ring0> = OnceLock::new();
    if let Some(known) = MEASURED.get() {
        return Ok(*known);
    }
    let mut fastest = Duration::MAX;
    for _ in 0..TRIES {
        fastest = fastest.min(time_loop(vcpu, memory, cr3)?);
        if fastest < LIMIT {
            break;
        }
    }
    let ns_per_instruction = fastest.as_nanos() as f64 / f64::from(2 * TURNS);
    let measured = Ring0 {
        emulated: fastest >= LIMIT,
        ns_per_instruction,
    };
    Ok(*MEASURED.get_or_init(|| measured))
}

fn time_loop(vcpu: &mut VcpuFd, memory: &GuestMemory, cr3: u64) -> Result<Duration, Error> {
    // 1: dec ecx; jnz 1b; out 0x80, al. Not a HLT, which does not exit from VMs whose KVM handles it.
    const CODE: [u8; 6] = [0xff, 0xc9, 0x75, 0xfc, 0xe6, 0x80];
    memory.write_bytes(KERNEL_BASE, &CODE)?;
    registers::set(
        vcpu,
        cr3,
        kvm_regs {
            rip: KERNEL_BASE,
            rcx: u64::from(TURNS),
            ..Default::default()
        },
    )?;
    let start = Instant::now();
    loop {
        match vcpu.run() {
            Ok(VcpuExit::IoOut(0x80, _)) => return Ok(start.elapsed()),
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
