//! What a frame costs, allocated and freed: subjects take turns, first by one vCPU alone, then by all at
//! once.
//!
//! ```text
//!   let go    lead-in     measured                  end
//!     │────────────│────────────────────────────────│
//!     ▼ each vCPU: chunks of pairs, until the end   ▼      then all meet, and it is the next subject's turn
//! ```
//!
//! A turn is a stretch of time, not of work: so it is as short on a slow machine as on a fast one, and nobody
//! waits for the last of many vCPUs on few CPUs. Its first part does not count, while vCPUs are still being
//! woken. The median over the rounds is what is reported.

use core::hint::black_box;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use abi::boot::BootInfo;
use abi::memory::{AllocReport, CONTESTS, SUBJECTS};

use super::subjects::{Floor, Ours, Peer, Subject};
use crate::cpu::Cpu;
use crate::pv::meet;
use crate::workload::first_of;
use crate::{clock, memory};

/// Frames that a burst allocates before it frees them.
pub(super) const BURST: usize = 32;

/// Frames between two looks at the clock.
const CHUNK: usize = 512;

/// Turns of each subject that the median is taken of.
const ROUNDS: usize = 9;

/// Of so much of a turn the lead-in is one.
const LEAD_IN: u64 = 8;

/// The shortest turn.
const SHORTEST_NS: u64 = 1_000_000;

/// How frames are used.
#[derive(Clone, Copy)]
enum Pattern {
    /// One at a time.
    Pair,
    /// [`BURST`] at a time.
    Burst,
}

/// Who works, and how: in the order of [`AllocReport::pairs`].
const ALL: [(bool, Pattern); CONTESTS] = [
    (false, Pattern::Pair),
    (false, Pattern::Burst),
    (true, Pattern::Pair),
    (true, Pattern::Burst),
];

/// What the vCPUs share.
struct Stage {
    ours: Ours,
    peer: Peer,
    floor: Floor,
    turns: [[Turn; SUBJECTS]; ROUNDS],
}

/// Where vCPU 0 has the stage, for as long as it has one.
static STAGE: AtomicPtr<Stage> = AtomicPtr::new(ptr::null_mut());

/// Has the subjects compete. Every vCPU calls it, and none keeps memory but on its lists. vCPU 0 is told how
/// it went: 0 pairs, where there was not enough memory.
pub(super) fn run(cpu: &Cpu, boot: &BootInfo) -> AllocReport {
    let own = if cpu.is_first() { Stage::new(boot) } else { None };
    if let Some(stage) = &own {
        // Release: pairs with the Acquire below.
        STAGE.store(ptr::from_ref(stage).cast_mut(), Ordering::Release);
    }
    meet();
    // SAFETY: vCPU 0 has put it there, and keeps it until all have met once more, below. It is shared from
    // then on.
    let stage = unsafe { STAGE.load(Ordering::Acquire).as_ref() };
    let report = stage.map_or(AllocReport::default(), |stage| stage.play(cpu, boot));
    meet();
    drop(own);
    report
}

impl Stage {
    fn new(boot: &BootInfo) -> Option<Stage> {
        Some(Stage {
            ours: Ours(memory::pages()),
            floor: Floor::new(boot.vcpus)?,
            peer: Peer::new(boot.vcpus),
            turns: [const { [const { Turn::new() }; SUBJECTS] }; ROUNDS],
        })
    }

    fn play(&self, cpu: &Cpu, boot: &BootInfo) -> AllocReport {
        let turns = (ROUNDS * SUBJECTS * CONTESTS) as u64;
        let length = clock::from_ns(boot, (boot.run.duration_ns / 4 / turns).max(SHORTEST_NS));
        let mut report = AllocReport {
            rounds: ROUNDS as u64,
            cycles: length,
            ..AllocReport::default()
        };
        for ((together, pattern), pairs) in ALL.into_iter().zip(&mut report.pairs) {
            if cpu.is_first() {
                self.prepare(if together { boot.vcpus } else { 1 }, pattern);
            }
            meet();
            for [ours, peer, floor] in &self.turns {
                // Alone, vCPU 0 does not wake the others in between.
                let meet = || {
                    if together {
                        meet()
                    }
                };
                if together || cpu.is_first() {
                    ours.take(&self.ours, pattern, length);
                    meet();
                    peer.take(&self.peer, pattern, length);
                    meet();
                    floor.take(&self.floor, pattern, length);
                    meet();
                }
            }
            meet();
            *pairs = self.medians();
        }
        report
    }

    /// Has all begin anew. Nobody has frames of theirs.
    fn prepare(&self, vcpus: u32, pattern: Pattern) {
        // What suits it best: a burst is faster with splits than with long lists.
        let free = match pattern {
            Pattern::Pair => vcpus,
            Pattern::Burst => 0,
        };
        // SAFETY: as above.
        unsafe { self.peer.refresh(free) };
        for turn in self.turns.iter().flatten() {
            turn.reset();
        }
    }

    /// Of each subject's turns. All have met since.
    fn medians(&self) -> [u64; SUBJECTS] {
        core::array::from_fn(|subject| {
            let mut pairs = self.turns.each_ref().map(|round| round[subject].pairs());
            pairs.sort_unstable();
            pairs[ROUNDS / 2]
        })
    }
}

/// One subject's turn. Barriers order it: all here is relaxed.
struct Turn {
    /// TSC at which the first vCPU was let go; 0 before that.
    started: AtomicU64,
    /// Frames that were allocated and freed in the part that counts.
    pairs: AtomicU64,
}

impl Turn {
    const fn new() -> Turn {
        Turn {
            started: AtomicU64::new(0),
            pairs: AtomicU64::new(0),
        }
    }

    fn reset(&self) {
        self.started.store(0, Ordering::Relaxed);
        self.pairs.store(0, Ordering::Relaxed);
    }

    fn pairs(&self) -> u64 {
        self.pairs.load(Ordering::Relaxed)
    }

    /// This vCPU takes part. `length` is that of the part that counts.
    fn take(&self, subject: &impl Subject, pattern: Pattern, length: u64) {
        let mut now = clock::cycles();
        let started = first_of(&self.started, now);
        let begin = started + length / LEAD_IN;
        let end = begin + length;
        let mut pairs = 0;
        while now < end && chunk(subject, pattern) {
            let before = now;
            now = clock::cycles();
            // Of a chunk that overlaps an end, as much as lies within: the vCPU may have been preempted
            // there.
            let within = now.min(end).saturating_sub(before.max(begin));
            pairs += match now.saturating_sub(before) {
                all if all > within => (CHUNK as u64 * within).checked_div(all).unwrap_or(0),
                _ => CHUNK as u64,
            };
        }
        self.pairs.fetch_add(pairs, Ordering::Relaxed);
    }
}

/// Allocates and frees [`CHUNK`] frames; `false` if there was no memory for that.
#[inline(never)]
fn chunk(subject: &impl Subject, pattern: Pattern) -> bool {
    match pattern {
        Pattern::Pair => (0..CHUNK).all(|_| {
            let Some(frame) = subject.take() else { return false };
            // SAFETY: it was just taken.
            unsafe { subject.give(black_box(frame)) };
            true
        }),
        Pattern::Burst => (0..CHUNK / BURST).all(|_| {
            let (mut held, mut taken) = ([0; BURST], 0);
            for place in &mut held {
                let Some(frame) = subject.take() else { break };
                *place = frame;
                taken += 1;
            }
            let held = &black_box(&mut held)[..taken];
            // SAFETY: they were just taken, once each.
            held.iter().for_each(|frame| unsafe { subject.give(*frame) });
            taken == BURST
        }),
    }
}
