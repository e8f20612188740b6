//! Threads as CPUs.
//!
//! A thread gets a number when it first asks for one and gives it back when it ends, so tests in one process
//! do not get in each other's way. Sleeping is a latch: a flag under a mutex, with a condition variable.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

use pvlock::{CpuId, HashEntry, LockHash, PerCpu, Platform, SpinBudget};

/// More than all tests that run at the same time have threads.
const CPUS: usize = 512;

struct Cpu {
    locks: PerCpu,
    kicked: Mutex<bool>,
    kick: Condvar,
    asleep: AtomicBool,
}

static MACHINE: [Cpu; CPUS] = [const {
    Cpu {
        locks: PerCpu::new(),
        kicked: Mutex::new(false),
        kick: Condvar::new(),
        asleep: AtomicBool::new(false),
    }
}; CPUS];

#[repr(align(64))]
struct Table([HashEntry; LockHash::entries_for(CPUS as u32)]);

static TABLE: Table = Table([const { HashEntry::new() }; LockHash::entries_for(CPUS as u32)]);
static HASH: LockHash = LockHash::new(&TABLE.0);

/// Numbers that no thread has. Taken at one end and given back at the other, to reuse them late.
static FREE: Mutex<Option<VecDeque<u32>>> = Mutex::new(None);

/// A thread's number.
struct Registration {
    number: u32,
    retired: Cell<bool>,
}

impl Registration {
    fn new() -> Registration {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let number = free.get_or_insert_with(|| (0..CPUS as u32).collect()).pop_front();
        let number = number.expect("more threads than the test platform has CPUs");
        *MACHINE[number as usize].kicked.lock().unwrap() = false;
        Registration {
            number,
            retired: Cell::new(false),
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if !self.retired.get() {
            let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
            free.as_mut()
                .expect("it was taken from there")
                .push_back(self.number);
        }
    }
}

type Handler = Box<dyn FnOnce()>;

thread_local! {
    static REGISTRATION: OnceCell<Registration> = const { OnceCell::new() };
    /// Runs in the next `relax` of this thread: an interrupt in a spin loop.
    static ON_RELAX: RefCell<Option<Handler>> = const { RefCell::new(None) };
    /// Runs in the next `kick` by this thread, before it.
    static BEFORE_KICK: RefCell<Option<Handler>> = const { RefCell::new(None) };
    /// Runs in the next `kick` by this thread, after it.
    static AFTER_KICK: RefCell<Option<Handler>> = const { RefCell::new(None) };
    static WAITS: Cell<u32> = const { Cell::new(0) };
}

/// Lets `handler` interrupt this thread when it next spins for a lock.
pub(crate) fn interrupt_when_spinning(handler: impl FnOnce() + 'static) {
    ON_RELAX.set(Some(Box::new(handler)));
}

/// Lets `handler` run when this thread is next about to kick.
pub(crate) fn before_kick(handler: impl FnOnce() + 'static) {
    BEFORE_KICK.set(Some(Box::new(handler)));
}

/// Lets `handler` run when this thread has next kicked.
pub(crate) fn after_kick(handler: impl FnOnce() + 'static) {
    AFTER_KICK.set(Some(Box::new(handler)));
}

/// This thread's number.
pub(crate) fn this_cpu() -> CpuId {
    REGISTRATION.with(|registration| CpuId::new(registration.get_or_init(Registration::new).number))
}

/// What the locks keep for a thread.
pub(crate) fn cpu(id: CpuId) -> &'static PerCpu {
    &MACHINE[id.get() as usize].locks
}

/// Whether a thread sleeps in `wait`.
pub(crate) fn is_asleep(id: CpuId) -> bool {
    MACHINE[id.get() as usize].asleep.load(Ordering::Relaxed)
}

/// Lets nobody have the calling thread's number when it ends: for tests that leave something in its area.
pub(crate) fn retire() {
    this_cpu();
    REGISTRATION.with(|registration| registration.get().expect("just made").retired.set(true));
}

/// The areas of all threads that have used one, for a message about a test that hangs.
pub(crate) fn describe() -> String {
    let mut text = String::new();
    for (number, cpu) in MACHINE.iter().enumerate() {
        if cpu.locks.usage() != pvlock::Usage::default() {
            let kicked = cpu.kicked.try_lock().map(|kicked| *kicked);
            writeln!(text, "cpu {number}: kicked {kicked:?}, {:?}", cpu.locks).unwrap();
        }
    }
    text
}

/// Threads, whose waiters spin `SPIN` turns before they sleep and steal for `STEAL` turns. With `SPURIOUS`,
/// every other sleep ends at once for no reason; with `AGAIN`, a head that was kicked in vain sleeps again.
pub(crate) struct Host<
    const SPIN: u32,
    const STEAL: u32,
    const SPURIOUS: bool = false,
    const AGAIN: bool = false,
>;

/// Sleeps as soon as it can.
pub(crate) type Sleepy = Host<1, 1>;
/// Likewise, and wakes for no reason.
pub(crate) type Restless = Host<1, 1, true>;
/// Sleeps as often as it can.
pub(crate) type SleepyAgain = Host<1, 1, false, true>;
/// Likewise, and wakes for no reason.
pub(crate) type RestlessAgain = Host<1, 1, true, true>;
/// Sleeps sometimes.
pub(crate) type Balanced = Host<100, 100>;

// SAFETY: numbers come from a pool, so they are unique, and a thread keeps its own; each indexes an area of
// its own; handlers run within the call they interrupt. Kicks are latched under a mutex, which also orders
// what came before a kick.
unsafe impl<const SPIN: u32, const STEAL: u32, const SPURIOUS: bool, const AGAIN: bool> Platform
    for Host<SPIN, STEAL, SPURIOUS, AGAIN>
{
    fn this_cpu() -> CpuId {
        this_cpu()
    }

    fn per_cpu(id: CpuId) -> &'static PerCpu {
        cpu(id)
    }

    fn lock_hash() -> &'static LockHash {
        &HASH
    }

    fn wait(word: &AtomicU32, mask: u32, asleep: u32) {
        if SPURIOUS && WAITS.replace(WAITS.get().wrapping_add(1)).is_multiple_of(2) {
            return;
        }
        let cpu = &MACHINE[this_cpu().get() as usize];
        let mut kicked = cpu.kicked.lock().unwrap();
        if word.load(Ordering::Acquire) & mask == asleep {
            cpu.asleep.store(true, Ordering::Relaxed);
            while !*kicked {
                kicked = cpu.kick.wait(kicked).unwrap();
            }
            cpu.asleep.store(false, Ordering::Relaxed);
        }
        *kicked = false;
    }

    fn kick(id: CpuId) {
        if let Some(handler) = BEFORE_KICK.take() {
            handler();
        }
        let cpu = &MACHINE[id.get() as usize];
        *cpu.kicked.lock().unwrap() = true;
        cpu.kick.notify_one();
        if let Some(handler) = AFTER_KICK.take() {
            handler();
        }
    }

    fn relax() {
        if let Some(handler) = ON_RELAX.take() {
            handler();
        }
        // There are more threads than CPUs: the one that we wait for may need ours.
        std::thread::yield_now();
    }

    fn cycles() -> u64 {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        START.get_or_init(Instant::now).elapsed().as_nanos() as u64 + 1
    }

    fn spin_budget() -> SpinBudget {
        SpinBudget::Iterations(SPIN)
    }

    fn steal_budget() -> SpinBudget {
        SpinBudget::Iterations(STEAL)
    }

    fn head_sleeps_again() -> bool {
        AGAIN
    }
}
