//! The arithmetic behind [`Run`](super::Run), total on every input.

use abi::histogram::{BUCKETS, midpoint};
use abi::report::{Histogram, VcpuReport};
use serde::Serialize;

/// Turns TSC cycles into time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// The TSC's frequency in kHz.
    pub(super) khz: u64,
}

impl Clock {
    /// `cycles` in nanoseconds, or the largest number there is.
    pub(super) fn ns(self, cycles: u64) -> u64 {
        saturated(u128::from(cycles) * 1_000_000 / u128::from(self.khz.max(1)))
    }
}

/// The sum of `values`, or the largest number there is.
pub(super) fn sum(values: impl Iterator<Item = u64>) -> u64 {
    values.fold(0, u64::saturating_add)
}

/// `n` in `elapsed_ns`, per second; 0 if no time passed.
pub(super) fn per_second(n: u64, elapsed_ns: u64) -> f64 {
    match elapsed_ns {
        0 => 0.0,
        _ => n as f64 * 1e9 / elapsed_ns as f64,
    }
}

/// How many critical sections overlapped with another, at least.
///
/// There are two witnesses. The plain counter misses an increment for each lost update, and each vCPU saw
/// intruders inside its own critical sections. Both can miss an overlap, so the larger one counts.
pub(super) fn violations(plain_counter: u64, vcpus: &[VcpuReport]) -> u64 {
    let sum =
        |field: fn(&VcpuReport) -> u64| -> u128 { vcpus.iter().map(|vcpu| u128::from(field(vcpu))).sum() };
    let lost_updates = u128::from(plain_counter).abs_diff(sum(|vcpu| vcpu.acquisitions));
    saturated(lost_updates.max(sum(|vcpu| vcpu.intruders)))
}

/// Jain's fairness index of `shares`: 1 if all are equal, 1/n if one has everything, and 0 if there is
/// nothing to share.
pub(super) fn jain_index(shares: &[u64]) -> f64 {
    let (sum, squares) = shares
        .iter()
        .map(|&share| share as f64)
        .fold((0.0, 0.0), |(sum, squares), share| {
            (sum + share, squares + share * share)
        });
    if sum == 0.0 {
        0.0
    } else {
        sum * sum / (shares.len() as f64 * squares)
    }
}

/// Percentiles of a distribution of times, in nanoseconds; all 0 if it is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    /// 10 % of the values are no larger.
    pub p10: u64,
    /// Half of the values are no larger.
    pub p50: u64,
    /// 90 % of the values are no larger.
    pub p90: u64,
    /// 99 % of the values are no larger.
    pub p99: u64,
    /// 99.9 % of the values are no larger.
    pub p999: u64,
    /// The largest value.
    pub max: u64,
}

impl Percentiles {
    /// Percentiles of the values that all of `histograms` counted together.
    ///
    /// `max` is the largest value in cycles where it was recorded exactly. The others are as exact as the
    /// buckets, but never beyond the largest value.
    pub(super) fn new<'a>(
        histograms: impl Iterator<Item = &'a Histogram>,
        max: Option<u64>,
        clock: Clock,
    ) -> Self {
        let mut histograms = histograms.peekable();
        if histograms.peek().is_none() {
            return Self::default();
        }
        // Guests fill in the counts, so that only u128 is sure to hold their sums. (hdrhistogram's are u64.)
        let mut counts = vec![0u128; BUCKETS];
        for histogram in histograms {
            for (count, &more) in counts.iter_mut().zip(histogram) {
                *count += u128::from(more);
            }
        }
        let total: u128 = counts.iter().sum();
        let max = max.unwrap_or_else(|| counts.iter().rposition(|&count| count > 0).map_or(0, midpoint));
        let quantile = |per_mille: u128| {
            let rank = (total * per_mille).div_ceil(1000).max(1);
            let mut below = 0;
            let bucket = counts.iter().position(|count| {
                below += count;
                below >= rank
            });
            clock.ns(bucket.map_or(0, midpoint).min(max))
        };
        let (p10, p50, p90) = (quantile(100), quantile(500), quantile(900));
        let (p99, p999) = (quantile(990), quantile(999));
        Self {
            p10,
            p50,
            p90,
            p99,
            p999,
            max: clock.ns(max),
        }
    }
}

fn saturated(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use abi::histogram::bucket;

    const GHZ: Clock = Clock { khz: 1_000_000 };

    fn histogram(values: impl IntoIterator<Item = u64>) -> Histogram {
        let mut histogram = [0; BUCKETS];
        for value in values {
            histogram[bucket(value)] += 1;
        }
        histogram
    }

    #[test]
    fn cycles_become_nanoseconds() {
        assert_eq!(GHZ.ns(1234), 1234);
        assert_eq!(Clock { khz: 2_500_000 }.ns(2500), 1000);
        assert_eq!(Clock { khz: 1 }.ns(u64::MAX), u64::MAX);
        assert_eq!(Clock { khz: 0 }.ns(1), 1_000_000);
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_values() {
        let mut values: Vec<u64> = (1..=10_000u64).map(|i| i * i * 37 % 1_000_003).collect();
        let (left, right) = values.split_at(1234);
        let halves = [histogram(left.iter().copied()), histogram(right.iter().copied())];
        let percentiles = Percentiles::new(halves.iter(), values.iter().copied().max(), GHZ);
        values.sort_unstable();
        let close = |got: u64, per_mille: usize| {
            let exact = values[(values.len() * per_mille).div_ceil(1000) - 1];
            assert!(
                got.abs_diff(exact) <= exact / 32,
                "{per_mille} ‰: {got} for {exact}"
            );
        };
        close(percentiles.p50, 500);
        close(percentiles.p90, 900);
        close(percentiles.p99, 990);
        close(percentiles.p999, 999);
        assert_eq!(Some(&percentiles.max), values.last());
    }

    #[test]
    fn small_values_are_exact() {
        let percentiles = Percentiles::new([histogram(1..=10)].iter(), None, GHZ);
        assert_eq!(
            percentiles,
            Percentiles {
                p10: 1,
                p50: 5,
                p90: 9,
                p99: 10,
                p999: 10,
                max: 10
            }
        );
        let one = Percentiles::new([histogram([7])].iter(), Some(7), GHZ);
        assert_eq!(
            one,
            Percentiles {
                p10: 7,
                p50: 7,
                p90: 7,
                p99: 7,
                p999: 7,
                max: 7
            }
        );
        assert_eq!(
            Percentiles::new([histogram([])].iter(), Some(0), GHZ),
            Percentiles::default()
        );
    }

    #[test]
    fn percentiles_never_exceed_the_maximum() {
        // The midpoint of the bucket of 1025 is above it.
        let percentiles = Percentiles::new([histogram([1025])].iter(), Some(1025), GHZ);
        assert_eq!(
            percentiles,
            Percentiles {
                p10: 1025,
                p50: 1025,
                p90: 1025,
                p99: 1025,
                p999: 1025,
                max: 1025
            }
        );
        let garbage = [[u64::MAX; BUCKETS]; 3];
        let p = Percentiles::new(garbage.iter(), Some(99), GHZ);
        assert_eq!(
            p,
            Percentiles {
                p10: 99,
                p50: 99,
                p90: 99,
                p99: 99,
                p999: 99,
                max: 99
            }
        );
        let p = Percentiles::new(garbage.iter(), None, GHZ);
        assert!(p.p50 <= p.p90 && p.p90 <= p.p99 && p.p99 <= p.p999 && p.p999 <= p.max);
    }

    #[test]
    fn fairness_is_one_for_equal_shares_and_one_nth_for_one_taker() {
        assert_eq!(jain_index(&[5, 5, 5, 5]), 1.0);
        assert_eq!(jain_index(&[8, 0, 0, 0]), 0.25);
        assert_eq!(jain_index(&[1, 2, 3]), 36.0 / 42.0);
        assert_eq!(jain_index(&[0, 0]), 0.0);
        assert_eq!(jain_index(&[]), 0.0);
        assert!((jain_index(&[u64::MAX; 64]) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn violations_are_what_either_witness_saw() {
        let vcpu = |acquisitions, intruders| VcpuReport {
            acquisitions,
            intruders,
            ..VcpuReport::default()
        };
        assert_eq!(violations(30, &[vcpu(10, 0), vcpu(20, 0)]), 0);
        assert_eq!(violations(27, &[vcpu(10, 0), vcpu(20, 1)]), 3);
        assert_eq!(violations(30, &[vcpu(10, 2), vcpu(20, 2)]), 4);
        assert_eq!(violations(31, &[vcpu(10, 0), vcpu(20, 0)]), 1);
        assert_eq!(violations(u64::MAX, &[]), u64::MAX);
        assert_eq!(
            violations(0, &[vcpu(u64::MAX, 0), vcpu(u64::MAX, u64::MAX)]),
            u64::MAX
        );
        // A wrapping sum would call this one correct.
        assert_eq!(
            violations(u64::MAX - 1, &[vcpu(u64::MAX, 0), vcpu(u64::MAX, 0)]),
            u64::MAX
        );
    }

    #[test]
    fn rates_need_time() {
        assert_eq!(per_second(10, 0), 0.0);
        assert_eq!(per_second(3, 2_000_000_000), 1.5);
    }
}
