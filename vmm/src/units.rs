//! Quantities as people write and read them: durations, sizes, counts, rates, ratios.

use std::time::Duration;

use humantime::DurationError;

/// The longest duration the command line takes.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Parses a duration: a number and its unit, such as `500ns`, `20us`, `1.5ms`, `2s` or `1m`; `0` needs no
/// unit.
///
/// # Errors
///
/// What is wrong with it, in one line: anything else, fractions of a nanosecond, and more than 24 hours.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    const HINT: &str = "a duration is a number and a unit, such as 500ns, 20us, 1.5ms, 2s or 1m";
    // humantime also takes sums (`1h 30m`), which nobody needs here and which can overflow inside it.
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    if !unit.chars().all(char::is_alphabetic) {
        return Err(HINT.into());
    }
    match humantime::parse_duration(text) {
        Ok(duration) if duration <= LONGEST => Ok(duration),
        Ok(_) | Err(DurationError::NumberOverflow) => {
            Err("durations are whole nanoseconds and at most 24h".into())
        }
        Err(DurationError::UnknownUnit { unit, .. }) if unit.is_empty() => {
            Err("the unit is missing: one of ns, us, ms, s, m and h, as in 20us".into())
        }
        Err(DurationError::UnknownUnit { .. }) => Err("the units are ns, us, ms, s, m and h".into()),
        Err(_) => Err(HINT.into()),
    }
}

/// As [`parse_duration`], for durations that have to be longer than nothing.
pub(crate) fn parse_positive_duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("it has to be longer than 0".into()),
        duration => Ok(duration),
    }
}

/// Parses a size in bytes: `256M`, `1.5G`, `64K` (powers of 1024), or plain bytes.
///
/// # Errors
///
/// What is wrong with it, in one line.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    parse_size::Config::new()
        .with_binary()
        .parse_size(text)
        .map_err(|error| match error {
            parse_size::Error::PosOverflow => "it is more than 64 bits can count".into(),
            _ => "a size is a number with K, M or G behind it, such as 256M or 1G, or plain bytes".into(),
        })
}

/// `ns` nanoseconds, to three digits: `850 ns`, `1.2 ms`.
pub(crate) fn time(ns: u64) -> String {
    scaled(
        ns as f64,
        &[(1.0, " ns"), (1e3, " µs"), (1e6, " ms"), (1e9, " s")],
    )
}

/// A number of things, to three digits: `850`, `1.2 M`.
pub(crate) fn count(n: u64) -> String {
    scaled(n as f64, &[(1.0, ""), (1e3, " k"), (1e6, " M"), (1e9, " G")])
}

/// Things per second, to three digits: `850 /s`, `2.91 M/s`.
pub(crate) fn rate(per_second: f64) -> String {
    scaled(
        per_second,
        &[(1.0, " /s"), (1e3, " k/s"), (1e6, " M/s"), (1e9, " G/s")],
    )
}

/// A frequency given in kHz: `2.45 GHz`.
pub(crate) fn frequency(khz: u64) -> String {
    scaled(khz as f64, &[(1.0, " kHz"), (1e3, " MHz"), (1e6, " GHz")])
}

/// A size in bytes: `64 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    const KIB: f64 = 1024.0;
    scaled(
        bytes as f64,
        &[
            (1.0, " B"),
            (KIB, " KiB"),
            (KIB * KIB, " MiB"),
            (KIB * KIB * KIB, " GiB"),
        ],
    )
}

/// How many times one thing is another: `0.004×`, `1.00×`, `214×`.
pub(crate) fn ratio(ratio: f64) -> String {
    match ratio {
        0.1.. => format!("{ratio:.*}×", decimals(ratio)),
        _ => format!("{ratio:.3}×"),
    }
}

/// A number and its noun: `1 vCPU`, `2 vCPUs`.
pub(crate) fn counted(n: impl Into<u64>, noun: &str) -> String {
    match n.into() {
        1 => format!("1 {noun}"),
        n => format!("{n} {noun}s"),
    }
}

/// `value` in the largest of `units` (ascending) that leaves something before the decimal point.
fn scaled(value: f64, units: &[(f64, &str)]) -> String {
    // 0.9995 of a unit would be rounded to "1000" of the next smaller one.
    let fitting = units
        .iter()
        .rfind(|(unit, _)| value >= unit * 0.9995)
        .or(units.first());
    let (unit, name) = fitting.copied().unwrap_or((1.0, ""));
    let number = format!("{:.*}", decimals(value / unit), value / unit);
    let number = match number.split_once('.') {
        Some((_, _)) => number.trim_end_matches('0').trim_end_matches('.'),
        None => &number,
    };
    format!("{number}{name}")
}

/// Digits behind the decimal point that make three in all.
fn decimals(value: f64) -> usize {
    match value {
        99.95.. => 0,
        9.995.. => 1,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_a_number_and_a_unit() {
        let ns = |text| parse_duration(text).map(|duration| duration.as_nanos());
        assert_eq!(ns("0"), Ok(0));
        assert_eq!(ns("500ns"), Ok(500));
        assert_eq!(ns("20us"), Ok(20_000));
        assert_eq!(ns("20µs"), Ok(20_000));
        assert_eq!(ns("1.5ms"), Ok(1_500_000));
        assert_eq!(ns("2s"), Ok(2_000_000_000));
        assert_eq!(ns("1m"), Ok(60_000_000_000));
        assert_eq!(ns("24h"), Ok(86_400_000_000_000));
    }

    #[test]
    fn absurd_durations_are_refused_in_one_line() {
        let absurd = [
            "",
            " ",
            "s",
            "-5s",
            "-0",
            "5",
            "5 5s",
            "2 s",
            "5parsecs",
            "NaN",
            "inf",
            "1e3s",
            "0.5ns",
            "1.0000000001s",
            "24.001h",
            "25h",
            "2d",
            "1M",
            "99999999999999999999s",
            "18446744073709551615s1000ms",
            ".5s",
            "1.s",
            "1..5s",
            "5s\nx",
            "\0",
            "٣s",
        ];
        for text in absurd {
            let error = parse_duration(text).expect_err(text);
            assert!(!error.is_empty() && !error.contains('\n'), "{text}: {error}");
        }
        assert!(parse_duration("5").is_err_and(|error| error.contains("unit is missing")));
        assert!(parse_duration("25h").is_err_and(|error| error.contains("24h")));
        assert!(parse_positive_duration("0s").is_err());
        assert!(parse_positive_duration("1ns").is_ok());
    }

    #[test]
    fn sizes_are_powers_of_two() {
        assert_eq!(parse_size("0"), Ok(0));
        assert_eq!(parse_size("12345"), Ok(12345));
        assert_eq!(parse_size("64K"), Ok(64 << 10));
        assert_eq!(parse_size("256M"), Ok(256 << 20));
        assert_eq!(parse_size("256MiB"), Ok(256 << 20));
        assert_eq!(parse_size("1.5g"), Ok(3 << 29));
        for text in ["", "M", "-1M", "1X", "1MM", "99999999999G", "0x10", "1\n2", "²"] {
            let error = parse_size(text).expect_err(text);
            assert!(!error.is_empty() && !error.contains('\n'), "{text}: {error}");
        }
    }

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!(time(0), "0 ns");
        assert_eq!(time(850), "850 ns");
        assert_eq!(time(999), "999 ns");
        assert_eq!(time(1_000), "1 µs");
        assert_eq!(time(1_200_000), "1.2 ms");
        assert_eq!(time(12_345_678), "12.3 ms");
        assert_eq!(time(999_999), "1 ms");
        assert_eq!(time(99_960), "100 µs");
        assert_eq!(time(30_000_000_000), "30 s");
        assert_eq!(time(u64::MAX), "18446744074 s");
        assert_eq!(count(0), "0");
        assert_eq!(count(100), "100");
        assert_eq!(count(12_345), "12.3 k");
        assert_eq!(rate(0.0), "0 /s");
        assert_eq!(rate(0.25), "0.25 /s");
        assert_eq!(rate(2_914_000.0), "2.91 M/s");
        assert_eq!(frequency(2_450_000), "2.45 GHz");
        assert_eq!(size(64 << 20), "64 MiB");
        assert_eq!(size(3 << 29), "1.5 GiB");
        assert_eq!(size(1000), "1000 B");
    }

    #[test]
    fn ratios_keep_their_zeros() {
        assert_eq!(ratio(1.0), "1.00×");
        assert_eq!(ratio(0.0042), "0.004×");
        assert_eq!(ratio(9.999), "10.0×");
        assert_eq!(ratio(13.37), "13.4×");
        assert_eq!(ratio(213.7), "214×");
    }

    #[test]
    fn nouns_agree_with_their_numbers() {
        assert_eq!(counted(1u32, "CPU"), "1 CPU");
        assert_eq!(counted(2u32, "CPU"), "2 CPUs");
        assert_eq!(counted(0u32, "violation"), "0 violations");
    }
}
