//! The TLB of a CPU that halts now and then, under the model checker: no stale translation is used.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p mm --release --test loom_lazy_flush`

#![cfg(loom)]

use loom::cell::UnsafeCell;
use loom::model::Builder;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread;
use mm::LazyFlush;

/// Ways to get it wrong, apart from `FAULTY`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mutant {
    None,
    /// The CPU does not flush when it resumes.
    ForgetsToFlush,
    /// The CPU says that it halts, and then still uses its translation.
    HaltsEarly,
    /// The CPU goes on before it looks at the word.
    ResumesLate,
}

/// A machine of two CPUs: one that uses a page, halting in between; and one that moves it twice.
///
/// Pages are cells, in which loom sees any access that is not ordered with others; the mover makes a page its
/// own as soon as no CPU can have its translation.
struct Machine<const FAULTY: bool> {
    word: LazyFlush<FAULTY>,
    /// The page table.
    entry: AtomicUsize,
    pages: [UnsafeCell<u32>; 3],
    /// The interrupt that asks for a flush, and its answer; one for each move.
    asked: [AtomicBool; 2],
    flushed: [AtomicBool; 2],
}

/// The one that uses it, and its TLB.
struct Cpu<const FAULTY: bool> {
    machine: Arc<Machine<FAULTY>>,
    translation: Option<usize>,
}

impl<const FAULTY: bool> Cpu<FAULTY> {
    /// Where an interrupt may come.
    fn interrupted(&mut self) {
        for (asked, flushed) in self.machine.asked.iter().zip(&self.machine.flushed) {
            if asked.load(Ordering::Acquire) {
                self.translation = None;
                flushed.store(true, Ordering::Release);
            }
        }
    }

    /// The access is done by the time that an interrupt is taken.
    fn touch(&mut self) {
        self.interrupted();
        let entry = || self.machine.entry.load(Ordering::Relaxed);
        let page = *self.translation.get_or_insert_with(entry);
        // SAFETY: if the translation is not stale, nobody writes to the page; loom looks.
        self.machine.pages[page].with(|page| unsafe { page.read() });
    }

    fn run(&mut self, mutant: Mutant) {
        self.touch();
        match mutant {
            Mutant::HaltsEarly => {
                self.machine.word.halt();
                self.touch();
            }
            _ => self.machine.word.halt(),
        }
        self.interrupted();
        if mutant == Mutant::ResumesLate {
            self.touch();
        }
        if self.machine.word.resume() && mutant != Mutant::ForgetsToFlush {
            self.translation = None;
        }
        self.touch();
        // It handles interrupts ever after.
        for flushed in &self.machine.flushed {
            flushed.store(true, Ordering::Release);
        }
    }
}

fn moves_twice<const FAULTY: bool>(mutant: Mutant) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(move || {
        let machine = Arc::new(Machine::<FAULTY> {
            word: LazyFlush::default(),
            entry: AtomicUsize::new(0),
            pages: [const { 0 }; 3].map(UnsafeCell::new),
            asked: [false; 2].map(AtomicBool::new),
            flushed: [false; 2].map(AtomicBool::new),
        });
        let user = {
            let machine = machine.clone();
            thread::spawn(move || {
                let translation = None;
                Cpu { machine, translation }.run(mutant);
            })
        };
        for round in 0..2 {
            machine.entry.store(round + 1, Ordering::Relaxed);
            if !machine.word.defer() {
                machine.asked[round].store(true, Ordering::Release);
                while !machine.flushed[round].load(Ordering::Acquire) {
                    thread::yield_now();
                }
            }
            // SAFETY: no translation of the page is left; loom looks.
            machine.pages[round].with_mut(|page| unsafe { page.write(1) });
        }
        user.join().unwrap();
    });
}

#[test]
fn no_stale_translation_is_used() {
    moves_twice::<false>(Mutant::None);
}

#[test]
#[should_panic = "Causality violation"]
fn a_look_where_there_should_be_a_step_is_found() {
    moves_twice::<true>(Mutant::None);
}

#[test]
#[should_panic = "Causality violation"]
fn forgetting_to_flush_is_found() {
    moves_twice::<false>(Mutant::ForgetsToFlush);
}

#[test]
#[should_panic = "Causality violation"]
fn halting_early_is_found() {
    moves_twice::<false>(Mutant::HaltsEarly);
}

#[test]
#[should_panic = "Causality violation"]
fn resuming_late_is_found() {
    moves_twice::<false>(Mutant::ResumesLate);
}
