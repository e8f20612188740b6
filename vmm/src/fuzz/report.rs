//! The report a guest leaves: any bytes, read out of guest memory and made into JSON and tables.

use std::cell::RefCell;
use std::time::Duration;

use abi::boot::Region;
use abi::config::Workload;
use abi::memory::MemoryReport;
use abi::report::{Report, VcpuReport};

use super::{Input, Target};
use crate::cli::fuzz::{idle, show};
use crate::config::Ring;
use crate::host::Ring0;
use crate::memory::GuestMemory;
use crate::outcome::{Ended, GuestReport, HostTime, Outcome, Preemptions};
use crate::results::{Percentiles, Run};

pub(super) const TARGET: Target = Target {
    name: "report",
    run: report,
    seeds,
};

/// Memory for what is read: a [`Report`] and two [`VcpuReport`]s, one after the other.
const MEMORY: u64 = 64 << 10;
const VCPUS: usize = 2;
const WORDS: usize = (MEMORY_AT as usize + size_of::<MemoryReport>()) / 8;
/// Behind them, what the allocator leaves.
const MEMORY_AT: u64 = (size_of::<Report>() + VCPUS * size_of::<VcpuReport>()) as u64;

fn seeds() -> Vec<Vec<u8>> {
    // A header (workload, fill, frequency, host's times), then words and where they go.
    let header = |workload, fill| [vec![workload, fill], vec![0x40; 32]].concat();
    let word = |at: u16, count: u16, value: u64| {
        [
            at.to_le_bytes().to_vec(),
            count.to_le_bytes().to_vec(),
            value.to_le_bytes().to_vec(),
        ]
        .concat()
    };
    let healthy = [
        header(0, 0),
        word(0, 1, 30),
        word(1, 1, 1 << 31),
        word(5, 1, 30),
        word(45 + 80, 200, 7),
    ];
    vec![
        healthy.concat(),
        header(1, 0),
        header(0, 0xff),
        header(3, 0xff),
        header(4, 0xff),
        [header(2, 0x7f), word(0, WORDS as u16, u64::MAX)].concat(),
    ]
}

fn report(data: &[u8]) {
    thread_local! {
        static SCRATCH: RefCell<GuestMemory> = RefCell::new(
            GuestMemory::new(&[Region { base: 0, len: MEMORY }]).expect("the host has some"),
        );
    }
    let mut input = Input(data);
    let workload = match input.u8() % 5 {
        0 => Workload::Lock,
        1 => Workload::PingPong,
        2 => Workload::HostilePages,
        3 => Workload::Alloc,
        4 => Workload::Compaction,
        _ => Workload::Migrate,
    };
    let mut words = [u64::from_le_bytes([input.u8(); 8]); WORDS];
    let tsc_khz = input.u64();
    let host_time = HostTime {
        cpu: Duration::from_nanos(input.u64()),
        steal: Some(Duration::from_nanos(input.u64())),
        preemptions: Some(input.u64()),
    };
    while !input.is_empty() {
        let (at, count, value) = (input.u16().into(), input.u16().into(), input.u64());
        words
            .iter_mut()
            .skip(at)
            .take(count)
            .for_each(|word| *word = value);
    }
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let report = SCRATCH.with_borrow(|memory| {
        memory.write_bytes(0, &bytes).expect("it has room");
        let vcpu = |index| size_of::<Report>() as u64 + index * size_of::<VcpuReport>() as u64;
        let vcpus = (0..VCPUS as u64).map(|index| memory.read(vcpu(index)).expect("it was written"));
        GuestReport {
            run: memory.read(0).expect("it was written"),
            vcpus: vcpus.collect(),
            log: Vec::new(),
            memory: matches!(
                workload,
                Workload::Alloc | Workload::Migrate | Workload::Compaction
            )
            .then(|| memory.read(MEMORY_AT).expect("it was written")),
        }
    });
    let mut config = idle(VCPUS as u32);
    (config.workload, config.pcpus) = (workload, vec![0]);
    let outcome = Outcome {
        ended: Ended::Completed,
        detail: String::new(),
        ring: Ring::Three,
        ring0: Ring0::default(),
        entered_ns: tsc_khz,
        tsc_khz,
        report: Some(report),
        host_time: Some(host_time),
        preemptions: Preemptions::default(),
        hints: None,
        steal_time: false,
        exits: None,
        rejected: tsc_khz,
        setup: Duration::ZERO,
    };
    check(Run::new(&config, &outcome));
}

/// A result that people and programs can read, whatever was in the report.
fn check(run: Run) {
    let measured = &run.measured;
    assert!(measured.throughput_per_sec.is_finite() && measured.throughput_per_sec >= 0.0);
    assert!(
        (0.0..=1.0 + 1e-9).contains(&measured.jain_index),
        "{}",
        measured.jain_index
    );
    for Percentiles {
        p10,
        p50,
        p90,
        p99,
        p999,
        max,
    } in [measured.wait_ns, measured.held_ns]
    {
        assert!([p10, p50, p90, p99, p999, max].is_sorted());
    }
    let (json, text) = show(run.clone());
    // Numbers that JSON cannot hold would have become null.
    let json: serde_json::Value = serde_json::from_str(&json).expect("it is JSON");
    assert!(json["runs"][0]["throughput_per_sec"].is_number() && json["runs"][0]["jain_index"].is_number());
    assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
    assert!(text.len() < 4000 && text.lines().count() > 3, "{text}");
}
