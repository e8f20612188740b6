//! Every vCPU allocates, stamps, checks and frees: single frames one at a time and in batches, blocks of all
//! orders and types that others free, and objects. Before that, a quarter as long, allocators compete.
//!
//! | module | concern |
//! |---|---|
//! | [`block`] | a block, and the stamp that says who has it |
//! | [`worker`] | what a vCPU does with blocks, and with objects |
//! | [`contest`] | turns: what a frame costs `mm`, and others |
//! | [`subjects`] | those who compete |
//!
//! A block is stamped with who has it, at both ends of each frame. If two hold one frame, the later stamps
//! over the earlier's, which finds that out when it frees: memory excludes, as a lock does. In the end
//! everything is given back, and memory must be as it was.
//!
//! The times of allocations go where waits go in the report, and those of frees where hold times go; of every
//! sixteenth, so that reading the clock does not count for much.

mod block;
mod contest;
mod subjects;
mod worker;

use core::sync::atomic::AtomicU64;

use abi::boot::BootInfo;
use abi::memory::MemoryReport;

use super::{Measured, report_elapsed};
use crate::cpu::Cpu;
use crate::once::Once;
use crate::pv::meet;
use crate::{clock, memory, report};

use worker::Worker;

/// Places where vCPUs leave blocks for each other, for each of them.
const MAIL: usize = 8;

/// A vCPU's places, on a cache line of their own: 0, or a block's stamp.
#[repr(align(64))]
struct Mailbox([AtomicU64; MAIL]);

static MAILBOXES: Once<&'static [Mailbox]> = Once::new();

/// Free memory before anybody allocates.
static BEFORE: Once<MemoryReport> = Once::new();

/// Takes the memory that the workload needs. vCPU 0 calls it while it boots.
pub(super) fn init(boot: &BootInfo) {
    let empty = || Mailbox([const { AtomicU64::new(0) }; MAIL]);
    MAILBOXES.set(memory::slice(boot.vcpus as usize, empty));
    worker::fill_caches();
    memory::drain();
    BEFORE.set(memory::report());
}

/// Every vCPU calls it.
pub(super) fn run(cpu: &'static Cpu, boot: &'static BootInfo) {
    // SAFETY: each vCPU runs one workload, once.
    let results = unsafe { report::of_vcpu(cpu) };
    let costs = contest::run(cpu, boot);
    // What was counted until now is not the workload's. Nobody goes on before that was read.
    let before = cpu.is_first().then(memory::report);
    meet();
    let mut worker = Worker::new(cpu, boot, results);
    let measured = Measured::begin(cpu);
    let deadline = measured.deadline(boot);
    while clock::cycles() < deadline {
        worker.turn();
    }
    let (stolen_ns, elapsed) = (measured.stolen(cpu), measured.end(cpu));
    worker.finish(stolen_ns);
    memory::drain();
    meet();
    if let Some(before) = before {
        let mut after = memory::report();
        memory::count_from(&before, &mut after);
        after.unreturned = memory::difference(BEFORE.get(), &after);
        after.alloc = costs;
        memory::write_report(boot, after);
        report_elapsed(boot, elapsed);
    }
}
