//! How CPUs sleep until something has changed, and are woken.
//!
//! ```text
//!   who waits                                   who changes it
//!   word = 1                                    change
//!   set own bit in the queue                    fence ─────────────┐
//!   fence ──────────────────────────┐           take all bits      │
//!   look: still as it was?          │           each one's word = 0
//!   while word == 1: halt                       kick it
//! ```
//!
//! No wake-up is lost. Of the two fences one is first. If the waiter's, who makes the change finds the bit,
//! and its `word = 0` comes after the `word = 1` that came before the bit, so the waiter does not halt, or
//! the kick, which is latched, ends that. If the other's, the waiter finds the change when it looks. A word
//! that is cleared late, for a bit taken earlier, wakes the CPU for nothing: it then begins anew. Nobody but
//! the CPU sets its word to 1.

use crate::allocator::PageAllocator;
use crate::fault::{Fault, planted};
use crate::platform::{Cpu, Platform};
use crate::request::AllocError;
use crate::sync::{AtomicU32, AtomicU64, Ordering, fence};
use crate::window::owned::Owned;

/// What a CPU's word says while it waits.
const WAITING: u32 = 1;
/// Bits in a word of a queue.
const BITS: usize = u64::BITS as usize;

/// A CPU's word, alone in its cache line.
#[repr(align(64))]
struct Word(AtomicU32);

/// Queues that CPUs wait in, each CPU in one at a time. A queue is a set of CPUs.
#[cfg_attr(not(loom), expect(unreachable_pub, reason = "models use it"))]
pub struct Waits<'a, P: Platform> {
    allocator: &'a PageAllocator<P>,
    words: Owned<'a, P, Word>,
    queues: Owned<'a, P, AtomicU64>,
}

#[cfg_attr(not(loom), expect(unreachable_pub, reason = "models use it"))]
impl<'a, P: Platform> Waits<'a, P> {
    /// So many queues for all CPUs of the allocator.
    ///
    /// # Errors
    ///
    /// There is no memory for them.
    pub fn new(allocator: &'a PageAllocator<P>, queues: usize) -> Result<Self, AllocError> {
        let cpus = allocator.cpus() as usize;
        Ok(Waits {
            allocator,
            words: Owned::new(allocator, cpus, |_| Word(AtomicU32::new(0)))?,
            queues: Owned::new(allocator, queues * cpus.div_ceil(BITS), |_| AtomicU64::new(0))?,
        })
    }

    fn queue(&self, queue: usize) -> &[AtomicU64] {
        let length = self.words.len().div_ceil(BITS);
        &self.queues[queue * length..][..length]
    }

    /// Waits in a queue, halted, until `still` says no. It is asked without any lock held.
    ///
    /// In task context: the caller stays on this CPU.
    pub fn sleep_while(&self, queue: usize, mut still: impl FnMut() -> bool) {
        let platform = &self.allocator.platform;
        let Cpu(cpu) = platform.on_this_cpu(|cpu| cpu);
        let word = &self.words[cpu as usize].0;
        let bits = &self.queue(queue)[cpu as usize / BITS];
        let bit = 1 << (cpu as usize % BITS);
        while still() {
            // Relaxed: the Release below is behind it.
            word.store(WAITING, Ordering::Relaxed);
            // Release: pairs with the Acquire in `wake`, so that its store to our word comes after ours.
            bits.fetch_or(bit, Ordering::Release);
            if !planted::<P>(Fault::SleepsUnfenced) {
                // Pairs with the fence in `wake`, see above.
                fence(Ordering::SeqCst);
            }
            if !planted::<P>(Fault::SleepsWithoutLooking) && !still() {
                // Relaxed: nothing is told to anybody. If the bit has been taken, a kick comes for nothing.
                bits.fetch_and(!bit, Ordering::Relaxed);
                return;
            }
            // Relaxed: what was changed is looked at with `still`, not inferred from the word.
            while word.load(Ordering::Relaxed) == WAITING {
                platform.wait(word, WAITING);
            }
        }
    }

    /// Wakes all who wait in the given queues. The caller has made the change before.
    pub fn wake(&self, queues: impl Iterator<Item = usize>) {
        if !planted::<P>(Fault::WakesUnfenced) {
            // Pairs with the fence in `sleep_while`: one for all queues.
            fence(Ordering::SeqCst);
        }
        for queue in queues {
            for (i, bits) in self.queue(queue).iter().enumerate() {
                // Relaxed: a bit that is set after the fence belongs to one who sees the change.
                if bits.load(Ordering::Relaxed) == 0 {
                    continue;
                }
                // Acquire: pairs with the Release in `sleep_while`.
                let mut taken = bits.swap(0, Ordering::Acquire);
                while taken != 0 {
                    let cpu = i * BITS + taken.trailing_zeros() as usize;
                    taken &= taken - 1;
                    // Release: what we changed comes before, for those who wait for the word.
                    self.words[cpu].0.store(0, Ordering::Release);
                    if !planted::<P>(Fault::WakesWithoutKick) {
                        self.allocator.platform.kick(Cpu(cpu as u32));
                    }
                }
            }
        }
    }
}
