//! What the locks need of the machine they run on.

use crate::budget::SpinBudget;
use crate::hash::LockHash;
use crate::percpu::PerCpu;
use crate::sync::AtomicU32;

/// The index of a CPU, below [`CpuId::LIMIT`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CpuId(u32);

impl CpuId {
    /// One more than the largest index. A queue node is named in 16 bits of the lock word: 2 for its nesting
    /// level, 14 for the CPU plus one.
    pub const LIMIT: u32 = (1 << 14) - 1;

    /// The CPU with this index.
    ///
    /// # Panics
    ///
    /// If `index` is not below [`CpuId::LIMIT`].
    #[inline]
    pub const fn new(index: u32) -> CpuId {
        assert!(index < CpuId::LIMIT, "more CPUs than a lock word can name");
        CpuId(index)
    }

    /// The index.
    #[inline]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// The machine: CPUs with a number, an area for the locks' data on each of them, and a way to sleep and to
/// wake.
///
/// All functions are static, so that a lock is only its word.
///
/// # Safety
///
/// The locks exclude only if the implementation keeps these promises:
///
/// * **Identity.** A "CPU" is whatever runs one stack of nested contexts at a time: a CPU with its interrupt
///   handlers, or a thread. Two of them may have the same [`this_cpu`] only if the end of one happens before
///   the start of the other. It stays the same from the start of a call into a lock to the end of that call.
///   From one call to the next, as from `lock` to `unlock`, it should; only statistics depend on that.
/// * **Nesting.** What interrupts a call into a lock on a CPU, and calls locks itself, returns before the
///   interrupted call goes on.
/// * **Areas.** [`per_cpu`] returns the same area for the same CPU every time, and different areas for
///   different CPUs. It works for every number [`this_cpu`] ever returned. [`lock_hash`] is always the same,
///   with [`entries_for`](LockHash::entries_for) all CPUs. Platforms may share areas if they agree on all of
///   this.
/// * **No unwinding.** No function unwinds: a waiter that left a lock so would leave its node in the queue.
/// * **Lifetime.** Nothing touches `word` after [`wait`] has returned, not even a [`kick`] that remembers
///   where its target slept. The lock may be freed as soon as `wait` returns.
/// * **Sleeping.** [`wait`] may return at any time. It returns in the end if it found `word & mask != asleep`
///   when it looked, or if there is a [`kick`] of this CPU that did not happen before that look. That is:
///   kicks are latched, and `wait` must not lose one between the look and the sleep.
/// * **Visibility.** What happened before a `kick` happens before the return of the `wait` that it ended.
///
/// Sleeping and visibility are what makes the locks *live*; the others make them *exclude*, and keep to their
/// memory.
///
/// [`this_cpu`]: Platform::this_cpu
/// [`per_cpu`]: Platform::per_cpu
/// [`lock_hash`]: Platform::lock_hash
/// [`wait`]: Platform::wait
/// [`kick`]: Platform::kick
pub unsafe trait Platform: Sized + 'static {
    /// The CPU that runs this.
    fn this_cpu() -> CpuId;

    /// The locks' own data of a CPU.
    fn per_cpu(cpu: CpuId) -> &'static PerCpu;

    /// Where the releaser of a lock finds the queue head that sleeps on it.
    fn lock_hash() -> &'static LockHash;

    /// Sleeps while `word & mask == asleep`, or less long. `word` exists until this returns, and perhaps no
    /// longer.
    fn wait(word: &AtomicU32, mask: u32, asleep: u32);

    /// Ends the sleep of `cpu`, or makes its next one return at once. It may find `cpu` not waiting at all,
    /// and the word that it last waited for gone.
    fn kick(cpu: CpuId);

    /// Whether the hypervisor is known not to run `cpu` now. A hint: waiters give up spinning earlier.
    fn vcpu_is_preempted(cpu: CpuId) -> bool {
        let _ = cpu;
        false
    }

    /// Called once in every turn of every spin loop: `PAUSE`.
    fn relax();

    /// A clock for budgets and statistics: the time-stamp counter. Only differences matter; it never reads 0,
    /// and should not go back.
    fn cycles() -> u64;

    /// How long a waiter in the queue of a [`PvQSpinlock`](crate::PvQSpinlock) spins before it sleeps.
    fn spin_budget() -> SpinBudget;

    /// How long a newcomer tries to steal a [`PvQSpinlock`](crate::PvQSpinlock) whose queue head sleeps,
    /// before it queues. Linux sets no bound, and that is the default.
    fn steal_budget() -> SpinBudget {
        SpinBudget::UNBOUNDED
    }

    /// Whether the head of a [`PvQSpinlock`](crate::PvQSpinlock)'s queue that was kicked in vain, because a
    /// thief was faster, may enter itself in the hash again, and so sleep again. Linux's may not: it spins on
    /// and on, with thieves locked out, even where the thief lost its CPU to that very head. That is the
    /// default.
    fn head_sleeps_again() -> bool {
        false
    }

    /// Models only: a fault to plant, to show that the model checker would find it.
    #[cfg(loom)]
    #[doc(hidden)]
    const FAULT: crate::fault::Fault = crate::fault::Fault::None;
}
