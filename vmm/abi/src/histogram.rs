//! The buckets of the report's histograms: log-linear, as HDR histograms are.
//!
//! Values below [`SUB_BUCKETS`] have a bucket each. Above, every power of two is split into [`SUB_BUCKETS`]
//! buckets of equal width, so that a bucket is at most 1/32 of its values wide and its midpoint at most 1.6 %
//! off. Values from 2^[`VALUE_BITS`] on share the last bucket.
//!
//! ```text
//! value      0 … 31 │ 32 … 63 │ 64, 65 │ 66, 67 │ … │ 128 … 131 │ …
//! bucket     0 … 31 │ 32 … 63 │   64   │   65   │ … │     96    │ …
//! ```

/// Binary logarithm of [`SUB_BUCKETS`].
pub const SUB_BUCKET_BITS: u32 = 5;

/// Buckets per power of two.
pub const SUB_BUCKETS: usize = 1 << SUB_BUCKET_BITS;

/// Values are TSC cycles below two to this power: over a day at 3 GHz.
pub const VALUE_BITS: u32 = 48;

/// Number of buckets.
pub const BUCKETS: usize = (VALUE_BITS - SUB_BUCKET_BITS + 1) as usize * SUB_BUCKETS;

/// The bucket that counts `value`; always below [`BUCKETS`].
#[inline]
pub const fn bucket(value: u64) -> usize {
    let value = if value >> VALUE_BITS == 0 {
        value
    } else {
        (1 << VALUE_BITS) - 1
    };
    // The highest set bit, taken no lower than that of SUB_BUCKETS, decides how many low bits are dropped.
    let highest = 63 - (value | SUB_BUCKETS as u64).leading_zeros();
    let shift = highest - SUB_BUCKET_BITS;
    (shift as usize * SUB_BUCKETS) + (value >> shift) as usize
}

/// The smallest value that bucket number `bucket` counts.
pub const fn lowest(bucket: usize) -> u64 {
    if bucket < SUB_BUCKETS {
        return bucket as u64;
    }
    let shift = bucket / SUB_BUCKETS - 1;
    ((bucket % SUB_BUCKETS + SUB_BUCKETS) as u64) << shift
}

/// The value in the middle of bucket number `bucket`, which stands for all of its values.
pub const fn midpoint(bucket: usize) -> u64 {
    let width = if bucket < SUB_BUCKETS {
        1
    } else {
        1 << (bucket / SUB_BUCKETS - 1)
    };
    lowest(bucket) + width / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_contiguous_and_start_where_they_say() {
        for i in 0..BUCKETS {
            assert_eq!(bucket(lowest(i)), i);
            if i > 0 {
                assert_eq!(bucket(lowest(i) - 1), i - 1);
            }
        }
    }

    #[test]
    fn every_value_has_a_bucket() {
        for value in [
            0,
            31,
            32,
            63,
            64,
            65,
            127,
            128,
            (1 << VALUE_BITS) - 1,
            1 << VALUE_BITS,
            u64::MAX,
        ] {
            assert!(bucket(value) < BUCKETS, "{value}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn a_midpoint_is_within_one_part_in_thirty_two() {
        for value in
            (0..VALUE_BITS).flat_map(|bit| [1u64 << bit, (1 << bit) + (1 << bit) / 3, (2u64 << bit) - 1])
        {
            let error = midpoint(bucket(value)).abs_diff(value);
            assert!(error <= value / 32, "{value}: off by {error}");
        }
    }
}
