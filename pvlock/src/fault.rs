//! Faults that a model can plant, to show that the model checker finds them. Elsewhere there are none.

use crate::platform::Platform;

/// Something to do wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(
    not(loom),
    expect(unreachable_pub, reason = "part of the interface under loom only")
)]
pub enum Fault {
    /// Nothing.
    #[cfg(loom)]
    None,
    /// A waiter does not fence between saying that it sleeps and looking whether it may.
    NoFenceBeforeSleep,
    /// A holder does not fence between making a waiter the head and looking whether it sleeps.
    NoFenceAfterHandOver,
    /// A head that was taken out of the hash enters itself again without waiting for the release.
    EntersBeforeRelease,
    /// A head learns that it was taken out of the hash without Acquire.
    LooksUnordered,
}

/// Whether to do it. A constant.
#[cfg(loom)]
pub(crate) fn planted<P: Platform>(fault: Fault) -> bool {
    P::FAULT == fault
}

/// Never.
#[cfg(not(loom))]
#[inline(always)]
#[expect(clippy::extra_unused_type_parameters, reason = "used under loom")]
pub(crate) fn planted<P: Platform>(_: Fault) -> bool {
    false
}
