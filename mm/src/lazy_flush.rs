//! Flushing the TLB of a CPU that is halted: when it resumes.

use crate::sync::{AtomicU32, Ordering};

/// The CPU may use its translations.
const RUNNING: u32 = 0;
/// It uses none before it has looked at the word again.
const HALTED: u32 = 1;
/// That, and some of them are stale by then.
const STALE: u32 = 2;

/// What a CPU and those who change mappings tell each other about its TLB.
///
/// ```text
///                halt                    defer: true
///   RUNNING ───────────────► HALTED ────────────────────► STALE ◄─┐ defer: true
///    │ ▲ ▲                     │                            │ └───┘
///    └─┘ └─────────────────────┴────────────────────────────┘
///    defer: false         resume: false                resume: true
/// ```
///
/// Who has changed a mapping either finds the CPU halted, and leaves a mark; or has it flush at once, and
/// waits for that. A halted CPU need not be woken.
///
/// Nothing that is flushed in this way may be used between `halt` and `resume`, by handlers of interrupts for
/// example. They may halt themselves: then the word says `RUNNING` when they are done, which is always safe.
///
/// **No stale translation is used.** Both sides change the one word in single steps. If `defer` comes before
/// `resume` in its order, `resume` sees the mark, and the change of the mapping, which came before `defer`,
/// comes before what the CPU looks up after its flush (release, acquire; also if the mark was there already,
/// so that is a step as well and no look). If it comes after, it sees `RUNNING`.
///
/// **Nothing old is written late.** What the CPU has read and written through its old translations comes
/// before `halt`, and so before whatever follows the `defer` that was true (release, acquire).
///
/// All zero is the word of a CPU that runs. `FAULTY` plants a fault, for tests.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct LazyFlush<const FAULTY: bool = false>(AtomicU32);

impl<const FAULTY: bool> LazyFlush<FAULTY> {
    /// The CPU is about to halt. It calls this itself.
    pub fn halt(&self) {
        // A mark stays, where a handler has interrupted a halt. Two steps will do: while the CPU runs, nobody
        // else writes the word. Release: pairs with `defer`.
        if self.0.load(Ordering::Relaxed) == RUNNING {
            self.0.store(HALTED, Ordering::Release);
        }
    }

    /// The CPU goes on. It calls this itself; if the answer is `true`, it has to flush its whole TLB.
    #[must_use]
    pub fn resume(&self) -> bool {
        // Acquire: pairs with `defer`.
        self.0.swap(RUNNING, Ordering::Acquire) == STALE
    }

    /// Somebody has changed mappings: whether the CPU will flush when it resumes. If not, it has to be asked
    /// to.
    #[must_use]
    pub fn defer(&self) -> bool {
        let mut now = self.0.load(Ordering::Relaxed);
        while now != RUNNING {
            if FAULTY && now == STALE {
                return true;
            }
            // Acquire and release: see above.
            match self
                .0
                .compare_exchange_weak(now, STALE, Ordering::AcqRel, Ordering::Relaxed)
            {
                Ok(_) => return true,
                Err(other) => now = other,
            }
        }
        false
    }
}
