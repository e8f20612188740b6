//! Spin locks for virtual CPUs.
//!
//! On a virtual machine a CPU may stop running at any time, for milliseconds: while it holds a lock, or while
//! it is next in a queue for one. This crate has the locks that kernels have used, from the ones that suffer
//! most to the one that was made for it.
//!
//! | lock | order | waits by | module |
//! |---|---|---|---|
//! | [`Tas`] | none | spinning on the word | `tas` |
//! | [`Ticket`] | fair | spinning on the word | `ticket` |
//! | [`Mcs`] | fair | spinning on a node | `mcs` |
//! | [`QSpinlock`] | fair | spinning on the word (second), or on a node | `qspinlock` |
//! | [`PvQSpinlock`] | fair among sleepers; newcomers may steal | the same, then sleeping | `pv` |
//! | `Busted` | – | **does not exclude**: the negative control, with feature `busted` only | `busted` |
//!
//! All are [`lock_api::RawMutex`]es, for use as `lock_api::Mutex<PvQSpinlock<P>, T>`. Their parameter is the
//! [`Platform`]: which CPU is this, how does it sleep, how is it woken. The same code runs in a guest kernel,
//! on threads, and in the model checker loom.
//!
//! What they stand on:
//! - `word`: the queued locks' word, drawn, with every atomic operation on it. `node`: queue nodes, four per
//!   CPU.
//! - `handshake`: how a waiter that may sleep is made head of its queue.
//! - `hash`: [`LockHash`], where an unlock finds the sleeper. `budget`: [`SpinBudget`], how long to spin
//!   before sleeping.
//! - `percpu`: [`PerCpu`], all that is kept for a CPU. `events`: [`Event`], what is counted. `usage`: cycles
//!   spun and slept.
//! - `barrier`: [`Barrier`], at which CPUs meet asleep.
//! - `sync`: core's atomics or loom's. `fault`: what models do wrong on purpose.
//!
//! ```
//! # // The platform of one CPU, which never waits.
//! # struct Alone;
//! # static CPU: pvlock::PerCpu = pvlock::PerCpu::new();
//! # // SAFETY: there is one thread.
//! # unsafe impl pvlock::Platform for Alone {
//! #     fn this_cpu() -> pvlock::CpuId { pvlock::CpuId::new(0) }
//! #     fn per_cpu(_: pvlock::CpuId) -> &'static pvlock::PerCpu { &CPU }
//! #     fn lock_hash() -> &'static pvlock::LockHash { unimplemented!() }
//! #     fn wait(_: &std::sync::atomic::AtomicU32, _: u32, _: u32) {}
//! #     fn kick(_: pvlock::CpuId) {}
//! #     fn relax() {}
//! #     fn cycles() -> u64 { 1 }
//! #     fn spin_budget() -> pvlock::SpinBudget { pvlock::SpinBudget::LINUX }
//! # }
//! # type Guest = Alone;
//! static COUNTER: lock_api::Mutex<pvlock::PvQSpinlock<Guest>, u64> = lock_api::Mutex::new(0);
//!
//! *COUNTER.lock() += 1;
//! assert_eq!(*COUNTER.lock(), 1);
//! ```

#![no_std]

mod barrier;
mod budget;
#[cfg(any(feature = "busted", loom))]
mod busted;
mod events;
mod fault;
mod handshake;
mod hash;
mod mcs;
mod node;
mod percpu;
mod platform;
mod pv;
mod qspinlock;
mod sync;
mod tas;
mod ticket;
mod usage;
mod word;

pub use barrier::Barrier;
pub use budget::SpinBudget;
#[cfg(any(feature = "busted", loom))]
pub use busted::Busted;
pub use events::Event;
#[cfg(loom)]
#[doc(hidden)]
pub use fault::Fault;
pub use hash::{HashEntry, LockHash};
pub use mcs::{Mcs, McsGuard};
pub use percpu::{PerCpu, Usage};
pub use platform::{CpuId, Platform};
pub use pv::PvQSpinlock;
pub use qspinlock::QSpinlock;
pub use tas::Tas;
pub use ticket::Ticket;
