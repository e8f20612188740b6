//! The allocator against its invariants: over random operations with a reference model, when it is misused,
//! and over threads.

mod host;
mod invariants;
mod machine;
mod misuse;
mod random;
mod sizes;
mod threads;
mod views;

use proptest::test_runner::RngSeed;

/// Where the random inputs come from: elsewhere each time to try what is right, and always from the same seed to
/// show that a planted fault is found, so that it is not a matter of luck.
fn seed(fault: u8) -> RngSeed {
    match fault {
        0 => RngSeed::Random,
        fault => RngSeed::Fixed(fault.into()),
    }
}
