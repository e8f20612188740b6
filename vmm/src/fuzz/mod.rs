//! Fuzz targets: functions that take any bytes, and panic if the VMM then breaks a promise.
//!
//! They take what an enemy chooses: what a guest does and leaves behind, a file that is to be booted, and
//! arguments. This crate's tests try each on a few thousand inputs made from its seeds; `scripts/fuzz` on
//! millions, with libFuzzer, which keeps an input that reaches new code and goes on from there.

mod image;
mod report;
mod requests;

/// A fuzz target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The name `scripts/fuzz` knows it by.
    pub name: &'static str,
    /// Tries one input.
    pub run: fn(&[u8]),
    /// Inputs to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Every target.
pub const TARGETS: &[Target] = &[
    requests::TARGET,
    report::TARGET,
    image::TARGET,
    crate::cli::fuzz::ARGUMENTS,
    crate::cli::fuzz::CONSOLE,
];

/// A target whose VMM panics where it should refuse a hypercall, to show that such a thing is found.
pub const PLANTED: Target = requests::PLANTED;

/// The numbers in an input, and zeroes after its end.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl Input<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (taken, rest) = self.0.split_at(N.min(self.0.len()));
        self.0 = rest;
        let mut bytes = [0; N];
        bytes[..taken.len()].copy_from_slice(taken);
        bytes
    }

    fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.take())
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

#[cfg(test)]
mod tests {
    use std::panic;

    use super::*;
    use crate::random::Random;

    /// Inputs for each target. What takes more is for `scripts/fuzz`.
    const INPUTS: u64 = 2000;

    /// A seed, damaged in a few places; or nothing but noise.
    fn input(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
        const EDGES: [u8; 6] = [0, 1, 0x7f, 0x80, 0xfe, 0xff];
        let mut below = |limit: usize| random.below(limit as u64) as usize;
        let mut input = seeds[below(seeds.len())].clone();
        if below(8) == 0 {
            input = (0..below(600)).map(|_| below(256) as u8).collect();
        }
        for _ in 0..below(8) {
            if input.is_empty() {
                break;
            }
            let at = below(input.len());
            match below(5) {
                0 => input[at] = below(256) as u8,
                1 => input[at] ^= 1 << below(8),
                2 => input.truncate(at),
                3 => input.extend_from_within(at..),
                _ => input[at] = EDGES[below(EDGES.len())],
            }
        }
        input
    }

    /// Tries `target` on `inputs` inputs; returns how many made it panic.
    fn attack(target: Target, inputs: u64) -> u64 {
        let (mut random, seeds) = (Random::new(0), (target.seeds)());
        for seed in &seeds {
            (target.run)(seed);
        }
        let panics = |input: &[u8]| panic::catch_unwind(|| (target.run)(input)).is_err();
        (0..inputs)
            .map(|_| u64::from(panics(&input(&mut random, &seeds))))
            .sum()
    }

    #[test]
    fn no_target_gives_way_to_a_few_thousand_inputs() {
        for target in TARGETS {
            assert_eq!(attack(*target, INPUTS), 0, "{}", target.name);
        }
    }

    #[test]
    fn a_planted_fault_is_found() {
        assert!(attack(PLANTED, INPUTS) > 0);
    }
}
