//! What a request takes when there is nothing left of its type.
//!
//! Taking a few frames here and there would leave unmovable memory in every pageblock, and then none could
//! ever be emptied again. So a request that must take from another type
//! - *claims* a whole pageblock, if the free block it found is so large that the rest is likely to be free too,
//!   or if what it allocates would stay for ever; and if most of the pageblock is free, or holds its like. The
//!   pageblock changes its type, and what comes later has room there;
//! - else *steals* the smallest block that is large enough, and the rest of it keeps its type.
//!
//! The rules are Linux's (`__rmqueue_claim`, `should_try_claim_block`, `try_to_claim_block`, `__rmqueue_steal`).
//! One is sharper: frames know what they were allocated for, so what is alike is counted and not guessed.

use crate::buddy::Buddy;
use crate::fault::{Fault, planted};
use crate::index::FrameIndex;
use crate::migrate_type::MigrateType;
use crate::order::Order;
use crate::platform::Platform;
use crate::state::Kind;

/// From this order on a free block is worth claiming its pageblock for, whatever is to be allocated.
const WORTH_CLAIMING: u8 = Order::PAGEBLOCK.get() / 2;

impl<P: Platform> Buddy<'_, P> {
    /// Takes a block of `order` for a request whose type has none. It is of `kind` and of the request's type
    /// then.
    pub(crate) fn take_fallback(
        &mut self,
        order: Order,
        migrate_type: MigrateType,
        kind: Kind,
    ) -> Option<FrameIndex> {
        self.claim(order, migrate_type, kind)
            .or_else(|| self.steal(order, migrate_type, kind))
    }

    /// The largest block found first: it leaves the most room for what comes later.
    fn claim(&mut self, order: Order, migrate_type: MigrateType, kind: Kind) -> Option<FrameIndex> {
        for from in order.and_up().rev() {
            if migrate_type == MigrateType::Movable && from.get() < WORTH_CLAIMING {
                return None;
            }
            for other in migrate_type.fallbacks() {
                let Some(index) = self.first(from, other) else {
                    continue;
                };
                if from >= Order::PAGEBLOCK {
                    self.set_type(index, from, migrate_type);
                    self.relist(index, from, other, migrate_type);
                } else if !self.claim_pageblock(index, other, migrate_type) {
                    continue;
                }
                return self.take(order, migrate_type, kind);
            }
        }
        None
    }

    /// Changes the type of the pageblock that the free block at `index` is part of, with all that is free in
    /// it; or changes nothing where most of it is in use for something else.
    fn claim_pageblock(&mut self, index: FrameIndex, from: MigrateType, to: MigrateType) -> bool {
        let pageblock = index.pageblock();
        let zone = self.zone;
        let good: u32 = zone
            .heads(pageblock)
            .filter(|(_, state)| match state.kind() {
                Kind::Free => true,
                Kind::Listed | Kind::Allocated => state.migrate_type() == to,
                Kind::Reserved | Kind::Tail => false,
            })
            .map(|(_, state)| state.order().frames())
            .sum();
        if good < Order::PAGEBLOCK.frames() / 2 && !planted::<P>(Fault::ClaimsCrowded) {
            return false;
        }
        zone.pageblock(pageblock).set_migrate_type(to);
        if planted::<P>(Fault::ClaimsWithoutMoving) {
            self.relist(index, zone.frame(index).state().order(), from, to);
            return true;
        }
        // A block that is moved stays where it is, so the walk goes on behind it.
        for (index, state) in zone
            .heads(pageblock)
            .filter(|(_, state)| state.kind() == Kind::Free)
        {
            self.relist(index, state.order(), from, to);
        }
        true
    }

    fn relist(&mut self, index: FrameIndex, order: Order, from: MigrateType, to: MigrateType) {
        self.unlink(index, order, from);
        self.link(index, order, to);
    }

    /// The smallest block found first: it leaves the others' large blocks whole.
    fn steal(&mut self, order: Order, migrate_type: MigrateType, kind: Kind) -> Option<FrameIndex> {
        let (from, other, index) = order.and_up().find_map(|from| {
            let other = |other: MigrateType| Some((from, other, self.first(from, other)?));
            migrate_type.fallbacks().into_iter().find_map(other)
        })?;
        self.unlink(index, from, other);
        self.split(index, from, order, other);
        self.hand_out(index, order, migrate_type, kind);
        Some(index)
    }
}
