//! The guest kernel: boots every vCPU, runs one workload, leaves a report.
//!
//! One freestanding ELF that runs in ring 0 or, "deprivileged", in ring 3 where the host's KVM emulates ring
//! 0. The story of a boot is [`kernel_main`]; what came before it is the few instructions of [`start`].
//!
//! | module | concern |
//! |---|---|
//! | [`start`] | from the VMM's entry state to Rust: descriptor tables, ring, stack |
//! | [`cpu`] | the per-vCPU area: its layout, its descriptor tables, how to find one's own |
//! | [`exceptions`] | IDT, stubs, the instructions a ring-3 kernel traps on, the dump that ends a run |
//! | [`upcall`] | how an interrupt gets from the processor to Rust, and back |
//! | [`page_fault`] | faults on window memory: handled in Rust, and retried |
//! | [`interrupts`] | masks, handlers, which context is interrupted by which |
//! | [`timer`], [`tlb`] | one-shot timers; flushing the TLB of all vCPUs |
//! | [`console`], [`mod@panic`], [`runtime`] | printing, panics, and what the compiler expects of a runtime |
//! | [`hypercall`] | the VMM's services |
//! | [`memory`], [`once`] | the page allocator; what the boot sets once for all |
//! | [`window`] | the window of movable memory on this machine |
//! | [`spinlock`] | the kernel's own lock, counted while it is held |
//! | [`clock`] | the TSC and loops of calibrated length |
//! | [`pv`] | `pvlock`'s platform: halt, kick, budgets |
//! | [`mod@preempt`] | preemption: taken where it is offered, and seen of others |
//! | [`report`], [`mod@log`] | the memory the results are left in |
//! | [`workload`] | what the vCPUs do |
//!
//! **Stacks and the red zone.** The prebuilt `core` library uses the red zone and SSE, so nothing may run on
//! an interrupted stack as it is. Every exception and interrupt therefore enters on its own stack (IST), in a
//! stub that touches neither; Rust runs on an interrupted stack only below the red zone, with the FPU's state
//! saved.
#![no_std]
#![no_main]

mod clock;
mod console;
mod cpu;
mod exceptions;
mod hypercall;
mod interrupts;
mod log;
mod memory;
mod once;
mod page_fault;
mod panic;
mod preempt;
mod pv;
mod report;
mod runtime;
mod spinlock;
mod start;
mod timer;
mod tlb;
mod upcall;
mod window;
mod workload;

use abi::boot::{BootInfo, MAGIC};
use abi::kick;
use abi::port::exit_code;

use cpu::Cpu;

/// Makes the image one that the VMM launches.
#[used]
#[unsafe(link_section = ".note.pvlab")]
static NOTE: abi::note::VersionNote = abi::note::VersionNote::CURRENT;

/// Where every vCPU arrives in Rust, on its own stack and in the kernel's ring.
///
/// The workload begins and ends with all of them at a barrier; vCPU 0 then ends the run for all. One that
/// does nothing has a single barrier, where the last to come ends the run.
extern "C" fn kernel_main(boot: &'static BootInfo) -> ! {
    if boot.magic != MAGIC || boot.version != abi::VERSION {
        hypercall::exit(exit_code::VERSION);
    }
    let cpu = Cpu::current();
    cpu.init_locks();
    // Where KVM handles halts, it does so with a local APIC.
    cpu.apic.set((boot.kick != kick::PORT).into());
    if cpu.is_first() {
        memory::init(boot);
        pv::init(boot);
        workload::init(boot);
    }
    workload::run(cpu, boot);
    if cpu.is_first() {
        hypercall::exit(exit_code::DONE);
    }
    loop {
        hypercall::halt();
    }
}
