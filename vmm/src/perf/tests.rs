use std::thread;
use std::time::Duration;

use super::*;

fn bytes(kind: u32, misc: u16, body: &[u64]) -> Vec<u8> {
    let size = 8 + 8 * body.len() as u16;
    let mut bytes = [
        kind.to_le_bytes().as_slice(),
        &misc.to_le_bytes(),
        &size.to_le_bytes(),
    ]
    .concat();
    bytes.extend(body.iter().flat_map(|word| word.to_le_bytes()));
    bytes
}

#[test]
fn records_are_told_apart() {
    let ring = [
        bytes(14, 0, &[100]),
        bytes(14, 0x2000, &[200]),
        bytes(99, 0, &[1, 2, 3]),
        bytes(14, 0, &[300]),
        bytes(14, 0x6000, &[400]),
        bytes(2, 0, &[7, 5, 500]),
    ]
    .concat();
    let (switches, lost) = parse(&ring);
    let kinds = [Kind::In, Kind::Out, Kind::In, Kind::Preempted];
    let expected: Vec<_> = (1..)
        .map(|i| 100 * i)
        .zip(kinds)
        .map(|(time, kind)| Switch { time, kind })
        .collect();
    assert_eq!((switches, lost), (expected, 5));
}

#[test]
fn garbage_ends_the_reading_and_nothing_worse() {
    for ring in [
        vec![],
        vec![1, 2, 3],
        vec![0; 64],
        vec![0xff; 64],
        bytes(14, 0, &[]),
        bytes(2, 0, &[1]),
        bytes(14, 0, &[1])[..12].to_vec(),
    ] {
        assert_eq!(parse(&ring), (vec![], 0), "{ring:?}");
    }
}

/// Where the kernel lets us.
#[test]
fn a_sleep_is_recorded() {
    thread::spawn(|| {
        let Ok(recorder) = Recorder::of_this_thread() else {
            return;
        };
        thread::sleep(Duration::from_millis(20));
        let (switches, lost) = recorder.switches();
        assert_eq!(lost, 0);
        let slept = switches.windows(2).any(|pair| {
            pair[0].kind == Kind::Out && pair[1].kind == Kind::In && pair[1].time - pair[0].time >= 19_000_000
        });
        assert!(slept, "{switches:?}");
    })
    .join()
    .unwrap();
}
