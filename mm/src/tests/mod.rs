//! The allocator against its invariants: over random operations with a reference model, when it is misused,
//! and over threads.

mod churn;
mod compaction;
mod host;
mod invariants;
mod machine;
mod misuse;
mod movers;
mod random;
mod recipe;
mod sizes;
mod slab;
mod threads;
mod views;
mod window;

use std::string::{String, ToString};

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};

use crate::fault::Fault;
use invariants::Check;

/// Tries `test` on so many `cases` of `inputs`; says what was wrong with the first that fails, made smaller in as
/// many steps as `shrink` allows. The cases are others each time to try what is right, and always the same to show
/// that a planted fault is found, so that it is not a matter of luck.
fn try_cases<S: Strategy>(
    fault: u8,
    cases: u32,
    shrink: u32,
    inputs: &S,
    test: impl Fn(S::Value) -> Check,
) -> Result<(), String> {
    let config = Config {
        cases,
        failure_persistence: None,
        rng_seed: match fault {
            0 => RngSeed::Random,
            fault => RngSeed::Fixed(fault.into()),
        },
        max_shrink_iters: shrink,
        ..Config::default()
    };
    TestRunner::new(config)
        .run(inputs, |input| test(input).map_err(TestCaseError::fail))
        .map_err(|error| error.to_string())
}

/// A property that was tried with a planted fault has failed, and says one of `how`.
fn is_found(fault: Fault, outcome: Result<(), String>, how: &[&str]) {
    let error = outcome.err().unwrap_or_else(|| panic!("{fault:?} was not found"));
    assert!(
        how.iter().any(|how| error.contains(how)),
        "{fault:?} was found by {error}"
    );
}
