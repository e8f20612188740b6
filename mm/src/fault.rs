//! What tests can plant: faults, to show that the properties find them, and lists for small zones. Elsewhere
//! there is nothing of it.

use crate::platform::Platform;

/// Makes the enumeration of one list, and finds its members by number.
macro_rules! faults {
    ($($(#[$attribute:meta])* $name:ident,)*) => {
        /// Something to do wrong.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        #[cfg_attr(
            not(any(test, loom)),
            expect(unreachable_pub, reason = "part of the interface in tests only")
        )]
        pub enum Fault {
            $($(#[$attribute])* $name,)*
        }

        #[cfg(any(test, loom))]
        impl Fault {
            /// The fault with this discriminant: enumerators cannot be const parameters.
            pub const fn numbered(number: u8) -> Fault {
                [$(Fault::$name),*][number as usize]
            }
        }
    };
}

faults! {
    /// Nothing.
    #[cfg(any(test, loom))]
    None,
    /// A block is merged with a free buddy that is smaller than itself.
    MergesUnequal,
    /// A block is listed although its buddy is free too.
    ForgetsToMerge,
    /// A split forgets the upper half.
    LosesUpperHalf,
    /// A list's counter does not notice a block that was unlinked.
    MiscountsLists,
    /// A pageblock is claimed, but what is free in it stays on the old list.
    ClaimsWithoutMoving,
    /// A pageblock is claimed though most of it is in use by others.
    ClaimsCrowded,
    /// A refill takes a whole batch where the watermark leaves less.
    RefillsBelowWatermark,
    /// Any block that somebody has can be freed, whatever its order.
    FreesAnyOrder,
    /// A block that is free already can be freed.
    FreesTwice,
    /// Freed memory is not looked at when it is allocated again.
    TrustsFreeMemory,
    /// A drain leaves one list alone.
    DrainsPartly,
    /// A CPU says that it has drained its lists before it has.
    SaysDrainedEarly,
    /// A reference is taken to a block that has none left.
    GetsTheDead,
    /// A reference is given back by a load and a store.
    PutsUnatomically,
    /// A frame that a page was to be moved to, and was not, is forgotten.
    LosesTargets,
    /// Of a free block that is isolated, only the first frame is.
    IsolatesFirstOnly,
    /// Free frames are isolated whatever the watermark says.
    IsolatesBelowWatermark,
    /// Pages are put back though they have moved.
    PutsBackTheMoved,
    /// Pages that did not move are not put back.
    ForgetsToPutBack,
    /// Pages are tried again though they have moved.
    MovesTwice,
    /// A frame that a page has moved to is given back as well.
    FreesTargets,
    /// The free scanner goes on where the migrate scanner has been.
    ScannersPass,
    /// The migrate scanner goes back.
    ScansAgain,
    /// Only pages of the first user are moved.
    MovesForFirstOnly,
    /// Skip hints are not reset.
    KeepsSkipHints,
    /// Compaction is tried however little is free.
    CompactsTheFull,
    /// The daemon's failures defer nothing.
    NeverDefers,
    #[cfg(any(test, loom))]
    /// The user of movable pages does not look at their references. Done by tests' own.
    UserMovesPinned,
    #[cfg(any(test, loom))]
    /// The user of movable pages has changed something when it says that a page did not move. Done by tests'
    /// own.
    UserFailsLate,
    /// The first block of a run is taken, and the rest forgotten.
    LosesRuns,
    /// An object that a CPU takes from a slab stays free there.
    HandsObjectsOutTwice,
    /// A slab that was full is not listed when an object comes back.
    LosesFullSlabs,
    /// A CPU about to sleep looks again before others can know that it will sleep.
    SleepsUnfenced,
    /// A CPU sleeps without another look at what it waits for.
    SleepsWithoutLooking,
    /// Who wakes others looks who sleeps before the change can be seen.
    WakesUnfenced,
    /// A CPU's word is cleared, but it is not kicked.
    WakesWithoutKick,
    /// A reader of an interval does not wait for the end of an invalidation.
    ReadsWithoutWaiting,
    /// The first of several invalidations to end says that all have.
    EndsEarly,
    /// A start that fails does not end those before it.
    ForgetsToEnd,
    /// A page that nobody has touched yet is not zeroed.
    FillsWithAnything,
    /// A shared page is made writable in place.
    ReusesShared,
    /// A shared page is copied while others remember it where it was.
    BreaksUnflushed,
    /// Pages that are shared from now on are remembered as writable.
    ForksUnflushed,
    /// A page that is shared from now on stays writable.
    LeavesWritable,
    /// A pinned page is shared, and so leaves its frame when it is written to.
    SharesPinned,
    /// A pinned page is moved.
    MovesPinned,
    /// Pages are moved while others remember where they were.
    MovesUnflushed,
    /// Pages are copied before others have forgotten where they were.
    CopiesBeforeFlush,
    /// Of several pages that are in a frame one is moved.
    ForgetsOthers,
}

/// Whether to do it. A constant.
#[cfg(any(test, loom))]
#[inline(always)]
pub(crate) fn planted<P: Platform>(fault: Fault) -> bool {
    P::FAULT == fault
}

/// Never.
#[cfg(not(any(test, loom)))]
#[inline(always)]
#[expect(clippy::extra_unused_type_parameters, reason = "used in tests")]
pub(crate) fn planted<P: Platform>(_: Fault) -> bool {
    false
}

/// Batch and high mark of CPUs' lists, where a test says so.
#[cfg(any(test, loom))]
pub(crate) fn planted_lists<P: Platform>() -> Option<(u32, u32)> {
    P::LISTS
}

/// As the size of the zone has it.
#[cfg(not(any(test, loom)))]
#[expect(clippy::extra_unused_type_parameters, reason = "used in tests")]
pub(crate) fn planted_lists<P: Platform>() -> Option<(u32, u32)> {
    None
}
