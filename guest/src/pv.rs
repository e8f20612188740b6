//! `pvlock`'s platform on this guest: halt, kick, and how long to spin before halting.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use abi::boot::BootInfo;
use abi::config::{LockKind, spin};
use pvlock::{Barrier, CpuId, HashEntry, LockHash, PerCpu, Platform, SpinBudget};

use crate::clock;
use crate::cpu::Cpu;
use crate::hypercall;
use crate::interrupts;
use crate::memory;
use crate::once::Once;
use crate::preempt;

/// The guest's vCPUs, halted by `hlt` and woken by `KICK_CPU`.
pub(crate) struct Pv;

static LOCK_HASH: Once<LockHash> = Once::new();

/// The spin budget: iterations in [`LINUX`](SpinBudget::LINUX)'s sense if odd, else cycles; shifted left by
/// one.
static BUDGET: AtomicU64 = AtomicU64::new(0);

/// Where all vCPUs meet.
static BARRIER: Barrier<Pv> = Barrier::new();

/// Spin budget of the kernel's own locks, unless the user asks for another: about what a wake-up costs.
const BUDGET_NS: u64 = 50_000;

/// Sets up what all vCPUs share. vCPU 0 calls it, before the first [`meet`].
pub(crate) fn init(boot: &BootInfo) {
    let entries = memory::slice(LockHash::entries_for(boot.vcpus), HashEntry::new);
    LOCK_HASH.set(LockHash::new(entries));
    let budget = configured_budget(boot, LockKind::PvQSpinlock);
    set_budget(budget.unwrap_or(SpinBudget::Cycles(clock::from_ns(boot, BUDGET_NS))));
}

/// Waits, halted, until every vCPU is here.
pub(crate) fn meet() {
    BARRIER.wait(Cpu::current().boot().vcpus);
}

/// Halts until `word` is `value`. Whoever makes it so stores with release, and kicks.
pub(crate) fn wait_for(word: &AtomicU32, value: u32) {
    loop {
        let now = word.load(Ordering::Acquire);
        if now == value {
            return;
        }
        Pv::wait(word, u32::MAX, now);
    }
}

/// The budget that the configuration, or the lock itself, asks for; `None` if it is to be the measured cost
/// of a wake-up.
pub(crate) fn configured_budget(boot: &BootInfo, lock: LockKind) -> Option<SpinBudget> {
    match (lock, boot.run.spin_kind) {
        (LockKind::PvQSpinlock | LockKind::PvQSpinlockLinux, spin::FIXED) => {
            Some(SpinBudget::Cycles(clock::from_ns(boot, boot.run.spin_ns)))
        }
        (LockKind::PvQSpinlockLinux, spin::DEFAULT) => Some(SpinBudget::LINUX),
        (LockKind::PvQSpinlock | LockKind::PvQSpinlockLinux, _) => None,
        // The others spin until they have the lock; nothing asks.
        _ => Some(SpinBudget::Cycles(0)),
    }
}

/// Makes `budget` the one that locks use from now on: the boot, and then the workload that measures locks.
/// vCPU 0 calls it, before a barrier that all locking comes after.
pub(crate) fn set_budget(budget: SpinBudget) {
    let encoded = match budget {
        SpinBudget::Iterations(iterations) => u64::from(iterations) << 1 | 1,
        SpinBudget::Cycles(cycles) => cycles << 1,
    };
    // Relaxed, as are the loads: the barrier in between orders them.
    BUDGET.store(encoded, Ordering::Relaxed);
}

/// The budget in use.
pub(crate) fn budget() -> SpinBudget {
    Pv::spin_budget()
}

// SAFETY: a kernel context stays on its vCPU (`this_cpu`), each vCPU has one `PerCpu` in its own area
// (`per_cpu`), and the VMM latches kicks (`wait`, `kick`).
unsafe impl Platform for Pv {
    #[inline]
    fn this_cpu() -> CpuId {
        CpuId::new(Cpu::current().index())
    }

    #[inline]
    fn per_cpu(cpu: CpuId) -> &'static PerCpu {
        Cpu::locks_of(Cpu::current().boot(), cpu.get())
    }

    fn lock_hash() -> &'static LockHash {
        LOCK_HASH.get()
    }

    fn wait(word: &AtomicU32, mask: u32, asleep: u32) {
        let masked = interrupts::mask(Cpu::current());
        // A kick that comes between this check and the HLT is latched by the VMM, and the HLT returns at
        // once. Acquire: pairs with the release store of whoever changed the word and then kicked.
        if word.load(Ordering::Acquire) & mask == asleep {
            // Where interrupts cannot be handled afterwards, one that is pending must not keep us awake.
            match masked.nested() {
                false => hypercall::halt(),
                true => hypercall::halt_with_pending(),
            }
        }
    }

    fn kick(cpu: CpuId) {
        hypercall::kick(cpu.get());
    }

    fn vcpu_is_preempted(cpu: CpuId) -> bool {
        // Linux looked, in the queue, from 4.10 to 5.3; since then it goes by the state in the node ahead
        // alone ("locking/pvqspinlock: Don't wait if vCPU is preempted").
        !like_linux() && preempt::why_off(Cpu::page_of(Cpu::current().boot(), cpu.get())) != 0
    }

    #[inline]
    fn relax() {
        core::hint::spin_loop();
        preempt::waiter();
    }

    #[inline]
    fn cycles() -> u64 {
        clock::cycles()
    }

    #[inline]
    fn spin_budget() -> SpinBudget {
        let encoded = BUDGET.load(Ordering::Relaxed);
        match encoded & 1 {
            0 => SpinBudget::Cycles(encoded >> 1),
            _ => SpinBudget::Iterations((encoded >> 1) as u32),
        }
    }

    /// As long as a few critical sections: whoever has not got past the queue by then joins it, and sleeps.
    /// Without a bound, all vCPUs would spin here for as long as the head sleeps.
    fn steal_budget() -> SpinBudget {
        if like_linux() {
            SpinBudget::UNBOUNDED
        } else {
            SpinBudget::Iterations(200)
        }
    }

    fn head_sleeps_again() -> bool {
        !like_linux()
    }
}

/// Whether the lock is the control, which does nothing that Linux's does not.
#[inline]
fn like_linux() -> bool {
    Cpu::current().boot().run.lock == LockKind::PvQSpinlockLinux as u32
}
