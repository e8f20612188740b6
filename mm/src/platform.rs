//! What the allocator needs of the machine it runs on.

use lock_api::RawMutex;

use crate::address::FrameNumber;
use crate::movable::{Movable, User};
use crate::report::BadPage;
use crate::sync::AtomicU32;

/// The index of a CPU, below the number of CPUs the allocator was made for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Cpu(pub u32);

/// The machine: memory that can be reached, CPUs with a number, and a lock.
///
/// # Safety
///
/// * **Identity.** While a call of [`on_this_cpu`] runs its closure, no other call, from whatever context,
///   runs one with the same [`Cpu`]; and the end of one happens before the start of the next. In a kernel:
///   neither preemption nor interrupts that might allocate.
/// * **Memory.** [`frame_ptr`] returns, every time the same, where the frame's 4096 bytes can be read and
///   written, for every frame the allocator was given; frames that are neighbours are neighbours there, and a
///   frame's first byte is aligned to 4096.
///
/// The lock is taken inside of `on_this_cpu` only, so it need not mask interrupts itself.
///
/// [`on_this_cpu`]: Platform::on_this_cpu
/// [`frame_ptr`]: Platform::frame_ptr
pub unsafe trait Platform {
    /// The lock of all that CPUs share: zones, caches, frames of the window, its notifiers.
    type Lock: RawMutex;

    /// Whether to remember the last owner of every frame, and to poison free memory and check it when it is
    /// allocated. The allocator then touches every byte that it frees and allocates.
    const CHECKS: bool = cfg!(debug_assertions);

    /// Runs `f` while nothing else runs here. Never called from inside of such an `f`.
    fn on_this_cpu<R>(&self, f: impl FnOnce(Cpu) -> R) -> R;

    /// Where the kernel finds the bytes of `frame`.
    fn frame_ptr(&self, frame: FrameNumber) -> *mut u8;

    /// The allocator was misused. If this returns, it goes on without the frame: nobody will get it again.
    ///
    /// It may be called inside of [`on_this_cpu`](Platform::on_this_cpu), with no lock held.
    fn bad_page(&self, report: BadPage);

    /// Who moves the pages of `user`, once it can.
    fn movable(&self, user: User) -> Option<&dyn Movable> {
        let _ = user;
        None
    }

    /// Sleeps while `word` is `value`, until this CPU is [kicked](Platform::kick), or somewhat longer or
    /// shorter: the caller looks again. A kick that comes between the look at the word and the sleep must end
    /// that. In task context.
    ///
    /// Here nothing sleeps.
    fn wait(&self, word: &AtomicU32, value: u32) {
        let _ = (word, value);
        core::hint::spin_loop();
    }

    /// Wakes a CPU from [`wait`](Platform::wait), now or when it next would sleep there.
    fn kick(&self, cpu: Cpu) {
        let _ = cpu;
    }

    /// Whether the caller may wait: it is in task context, interrupts are not masked, and it has no spin
    /// lock. Debug builds ask wherever somebody might wait.
    fn may_wait(&self) -> bool {
        true
    }

    /// Tests only: a fault to plant, to show that a property finds it.
    #[cfg(any(test, loom))]
    #[doc(hidden)]
    const FAULT: crate::fault::Fault = crate::fault::Fault::None;

    /// Tests only: batch and high mark of CPUs' lists, in frames, for zones that are too small for lists.
    #[cfg(any(test, loom))]
    #[doc(hidden)]
    const LISTS: Option<(u32, u32)> = None;
}
