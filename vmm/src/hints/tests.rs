use super::*;
use crate::outcome::Told;

fn entry(kind: u32, tsc: u64, what: u32) -> LogEntry {
    LogEntry { tsc, kind, what }
}

/// A guest clock of 2 GHz that reads 0 when the host's reads 1000.
fn syncs() -> ([LogEntry; 4], [u64; 2]) {
    let pair = |tsc: u64| {
        [
            entry(log_kind::BEFORE_SYNC, tsc - 20, 0),
            entry(log_kind::AFTER_SYNC, tsc + 20, 0),
        ]
    };
    let ([a, b], [c, d]) = (pair(2_000), pair(202_000));
    ([a, b, c, d], [2_000, 102_000])
}

#[test]
fn clocks_are_joined() {
    let (log, stamps) = syncs();
    let clock = Clock::new(&log, &stamps).unwrap();
    assert_eq!(
        [2_000, 102_000, 202_000].map(|tsc| clock.ns(tsc)),
        [2_000, 52_000, 102_000]
    );
    assert_eq!((clock.ns(0), clock.error()), (1_000, Duration::from_nanos(10)));
    assert_eq!(clock.ns(u64::MAX), u64::MAX / 2 + 1_000);
    for (log, stamps) in [
        (&log[..], &stamps[..1]),
        (&log[..2], &stamps),
        (&[], &stamps),
        (&log, &[]),
    ] {
        assert!(Clock::new(log, stamps).is_err());
    }
}

#[test]
fn what_was_seen_is_compared_with_what_was() {
    let (syncs, stamps) = syncs();
    let clock = Clock::new(&syncs, &stamps).unwrap();
    // Host times 12000 to 22000, and 42000 to 52000 but for the blind time; the guest's clock is twice as
    // fast.
    let log = [
        entry(log_kind::HINT, 22_000, 4 << 16 | 1),
        entry(log_kind::HINT, 42_000, 1),
        entry(log_kind::HINT, 82_000, 2 << 16 | 1),
        entry(log_kind::BLIND, 98_000, 0),
        entry(log_kind::SIGHTED, 142_000, 0),
        entry(log_kind::HINT, 142_000, 1),
        entry(log_kind::HINT, 150_000, 1 << 16 | 1),
        entry(log_kind::HINT, 190_000, 1),
    ];
    let switch = |time, kind| Switch { time, kind };
    let recorded = [
        // The observer itself does not count.
        (0, vec![switch(2_000, Kind::Out)]),
        (
            1,
            vec![
                switch(1_000, Kind::In),
                switch(13_000, Kind::Preempted),
                switch(21_000, Kind::In),
                switch(30_000, Kind::Out),
                switch(31_000, Kind::In),
                // While it was parked.
                switch(80_000, Kind::Out),
                switch(90_000, Kind::In),
            ],
        ),
    ];
    let accuracy = compare(&log, &clock, &recorded);
    assert_eq!(
        accuracy,
        HintAccuracy {
            vcpus: 1,
            preemptions: 1,
            observed: Duration::from_nanos(100_000 - 22_000),
            preempted: Told {
                of: Duration::from_nanos(8_000),
                told: Duration::from_nanos(8_000),
            },
            stopped: Told {
                of: Duration::from_nanos(1_000),
                told: Duration::ZERO,
            },
            claimed: Duration::from_nanos(10_000 + 8_000),
            wrong: Duration::from_nanos(2_000 + 8_000),
            clock_error: Duration::from_nanos(10),
        }
    );
}

#[test]
fn whatever_a_guest_writes_can_be_compared() {
    let (syncs, stamps) = syncs();
    let clock = Clock::new(&syncs, &stamps).unwrap();
    let numbers = [0, 1, 2_000, 1 << 40, u64::MAX];
    let log: Vec<_> = numbers
        .iter()
        .flat_map(|tsc| (0..7).map(|kind| entry(kind, *tsc, *tsc as u32 ^ kind)))
        .collect();
    compare(&log, &clock, &[(1, vec![]), (65_535, vec![])]);
    for stamps in [[0, u64::MAX], [5, 5], [u64::MAX, 0]] {
        if let Ok(clock) = Clock::new(&log, &stamps) {
            compare(&log, &clock, &[(1, vec![])]);
        }
    }
}
