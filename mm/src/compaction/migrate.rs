//! A batch of pages is moved.

use crate::allocator::PageAllocator;
use crate::fault::{Fault, planted};
use crate::movable::{MigrateError, Movable, Move};
use crate::platform::Platform;
use crate::stat::Event;

/// How often a page is tried that may move if it is tried again: Linux's `NR_MAX_MIGRATE_PAGES_RETRY`.
const PASSES: u32 = 10;

impl<P: Platform> PageAllocator<P> {
    /// Moves isolated pages of one user, and puts those back that do not move. Linux's `migrate_pages`.
    ///
    /// Returns how many have moved; `moves` has these in front then. `to` of the others is still the
    /// caller's. It may wait: to be called in task context, with no lock held.
    pub fn migrate_pages(&self, user: &dyn Movable, moves: &mut [Move]) -> usize {
        let mut again = 0;
        for _ in 0..PASSES {
            if again == moves.len() {
                break;
            }
            let left = &mut moves[again..];
            user.migrate(left);
            let settled = |result| result != Err(MigrateError::Again);
            let tries_all = planted::<P>(Fault::MovesTwice) && left.iter().any(|page| !settled(page.result));
            if !tries_all {
                again += partition(left, |page| settled(page.result));
            }
        }
        let moved = partition(moves, |page| page.result.is_ok());
        let (done, failed) = if planted::<P>(Fault::PutsBackTheMoved) {
            moves.split_at(0)
        } else {
            moves.split_at(moved)
        };
        if !planted::<P>(Fault::ForgetsToPutBack) {
            failed.iter().for_each(|page| user.putback(page.from));
        }
        self.count_here(Event::PgmigrateSuccess, done.len() as u32);
        self.count_here(Event::PgmigrateFail, failed.len() as u32);
        moved
    }
}

/// Brings the pages that `first` is true of to the front. How many there are.
fn partition(pages: &mut [Move], first: impl Fn(&Move) -> bool) -> usize {
    let mut front = 0;
    for i in 0..pages.len() {
        if first(&pages[i]) {
            pages.swap(front, i);
            front += 1;
        }
    }
    front
}
