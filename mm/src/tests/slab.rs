//! Caches of objects: random operations beside a model, misuse, threads.

use std::alloc::Layout;
use std::collections::BTreeMap;
use std::string::{String, ToString};
use std::sync::Mutex;
use std::vec::Vec;
use std::{assert, assert_eq, format, matches, thread};

use core::ptr::NonNull;

use proptest::prelude::*;
use proptest::sample::Index;

use super::host::{Host, be};
use super::invariants::{Check, require};
use super::try_cases;
use crate::fault::Fault;
use crate::{Cache, FrameNumber, FrameRange, Heap, Misuse, POISON, PageAllocator};

const CPUS: u32 = 3;

fn regions() -> [FrameRange; 1] {
    [FrameRange::new(FrameNumber::new(0x400), FrameNumber::new(0x800))]
}

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).expect("alignments are powers of two")
}

fn fill(object: NonNull<u8>, size: usize, byte: u8) {
    // SAFETY: the object is the caller's, and as large.
    unsafe { object.write_bytes(byte, size) };
}

/// Whether an object is as it was filled.
fn is_filled(object: NonNull<u8>, size: usize, byte: u8) -> bool {
    // SAFETY: the object is the caller's, as large, and was filled.
    let bytes = unsafe { core::slice::from_raw_parts(object.as_ptr(), size) };
    bytes.iter().all(|b| *b == byte)
}

/// Frames that are free once no CPU has any on its lists.
fn free_frames<const CHECKS: bool, const FAULT: u8>(pages: &PageAllocator<Host<CHECKS, FAULT>>) -> u64 {
    for cpu in 0..CPUS {
        be(cpu);
        pages.drain_this_cpu();
    }
    pages.zones().iter().map(|zone| zone.free()).sum()
}

#[derive(Clone, Debug)]
enum Step {
    Alloc { cpu: u32 },
    Free { cpu: u32, which: Index },
    Drain { cpu: u32 },
}

fn steps() -> impl Strategy<Value = (usize, Vec<Step>)> {
    let step = prop_oneof![
        5 => (0..CPUS).prop_map(|cpu| Step::Alloc { cpu }),
        4 => (0..CPUS, any::<Index>()).prop_map(|(cpu, which)| Step::Free { cpu, which }),
        1 => (0..CPUS).prop_map(|cpu| Step::Drain { cpu }),
    ];
    let size = prop::sample::select(&[1, 24, 100, 256, 512, 1024, 1984][..]);
    (size, prop::collection::vec(step, 1..500))
}

/// Objects do not overlap, are aligned, keep their contents; and everything comes back but the magazines.
fn property<const CHECKS: bool, const FAULT: u8>(size: usize, steps: &[Step]) -> Check {
    let pages = Host::<CHECKS, FAULT>::allocator(&regions(), CPUS);
    let before = free_frames(&pages);
    let cache = Cache::new(&pages, layout(size, 8)).expect("several fit into a frame");
    let mut held = BTreeMap::new();
    let give = |held: &mut BTreeMap<NonNull<u8>, u8>, object: NonNull<u8>| -> Check {
        let byte = held.remove(&object).expect("it is held");
        require(is_filled(object, size, byte), || {
            format!("{object:?} has changed")
        })?;
        // SAFETY: it was allocated, and is forgotten now.
        unsafe { cache.free(object) };
        Ok(())
    };
    for (i, step) in steps.iter().enumerate() {
        match step {
            Step::Alloc { cpu } => {
                be(*cpu);
                let object = cache.alloc().map_err(|error| error.to_string())?;
                require(object.addr().get() % 8 == 0, || "it is not aligned".into())?;
                let below = held.range(..=object).next_back();
                let above = held.range(object..).next();
                let apart =
                    |(a, _): (&NonNull<u8>, &u8)| a.addr().get().abs_diff(object.addr().get()) >= size;
                require(below.is_none_or(apart) && above.is_none_or(apart), || {
                    format!("{object:?} is part of an object that is held")
                })?;
                fill(object, size, i as u8);
                held.insert(object, i as u8);
            }
            Step::Free { cpu, which } if !held.is_empty() => {
                be(*cpu);
                let object = *held.keys().nth(which.index(held.len())).expect("in range");
                give(&mut held, object)?;
            }
            Step::Free { .. } => {}
            Step::Drain { cpu } => {
                be(*cpu);
                cache.drain_this_cpu();
            }
        }
    }
    while let Some(object) = held.keys().next().copied() {
        give(&mut held, object)?;
    }
    for cpu in 0..CPUS {
        be(cpu);
        cache.drain_this_cpu();
    }
    let reports = pages.platform.reports();
    require(reports.is_empty(), || format!("{reports:?}"))?;
    let (after, magazines) = (free_frames(&pages), u64::from(cache.has_magazines()));
    require(after + magazines == before, || {
        format!("{before} frames were free, {after} are")
    })
}

fn run<const CHECKS: bool, const FAULT: u8>(cases: u32) -> Result<(), String> {
    try_cases(FAULT, cases, 200, &steps(), |(size, steps)| {
        property::<CHECKS, FAULT>(size, &steps)
    })
}

#[test]
fn objects_are_apart_and_come_back() {
    run::<false, 0>(200).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn objects_are_apart_and_come_back_with_checks() {
    run::<true, 0>(60).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn handing_objects_out_twice_is_found() {
    let error = run::<false, { Fault::HandsObjectsOutTwice as u8 }>(100).unwrap_err();
    assert!(
        error.contains("is part of an object") || error.contains("free there already"),
        "{error}"
    );
}

#[test]
fn losing_full_slabs_is_found() {
    let error = run::<false, { Fault::LosesFullSlabs as u8 }>(100).unwrap_err();
    assert!(error.contains("frames were free"), "{error}");
}

/// What freeing an object twice, freeing what is none, and writing to a free one are reported as.
fn misuse<const FAULT: u8>() -> Vec<Misuse> {
    be(0);
    let pages = Host::<true, FAULT>::allocator(&regions(), 1);
    let caches = [32, 48].map(|size| Cache::new(&pages, layout(size, 16)).expect("many fit"));
    let [object, other] = caches
        .each_ref()
        .map(|cache| cache.alloc().expect("there is memory"));
    // SAFETY: it is within the object.
    let inside = unsafe { object.add(8) };
    for wrong in [inside, other] {
        // SAFETY: it is not, and that is found out.
        unsafe { caches[0].free(wrong) };
    }
    for _ in 0..2 {
        // SAFETY: once it is; the second time that is found out.
        unsafe { caches[0].free(object) };
    }
    fill(inside, 1, POISON ^ 1);
    let again = caches[0].alloc().expect("there are others");
    assert!(FAULT != 0 || again != object, "nobody gets it again");
    let reports = pages.platform.reports();
    reports.iter().map(|report| report.misuse).collect()
}

#[test]
fn misuse_of_objects_is_reported() {
    let got = misuse::<0>();
    let [
        Misuse::NotObject { at: inside },
        Misuse::NotObject { at: other },
        Misuse::ObjectFreedTwice { at },
        Misuse::UsedWhileFree { offset, found },
    ] = got[..]
    else {
        panic!("{got:?}")
    };
    assert_eq!(
        (inside, offset as usize % 4096, found),
        (at + 8, inside % 4096, POISON ^ 1)
    );
    assert!(other.abs_diff(at) >= 2048, "it is in another slab");
}

#[test]
fn trusting_free_objects_is_found() {
    assert_eq!(misuse::<{ Fault::TrustsFreeMemory as u8 }>().len(), 3);
    let got = misuse::<{ Fault::FreesTwice as u8 }>();
    assert!(
        !got.iter()
            .any(|misuse| matches!(misuse, Misuse::ObjectFreedTwice { .. }))
    );
}

/// Threads allocate, stamp, pass on, and free what others have allocated.
fn stress<const CHECKS: bool>() {
    const THREADS: u32 = 4;
    let pages = Host::<CHECKS>::allocator(&regions(), THREADS);
    let heap = Heap::new(&pages);
    be(0);
    pages.drain_this_cpu();
    let before: u64 = pages.zones().iter().map(|zone| zone.free()).sum();
    let passed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for cpu in 0..THREADS {
            let (heap, passed) = (&heap, &passed);
            scope.spawn(move || {
                be(cpu);
                let mut own = Vec::new();
                for i in 0..6_000u64 {
                    let stamp = u64::from(cpu) << 32 | i;
                    match i % 5 {
                        0..3 => own.push((stamp, heap.object([stamp; 5]).expect("there is memory"))),
                        3 => passed.lock().unwrap().extend(own.pop()),
                        _ => {
                            let other = passed.lock().unwrap().pop();
                            if let Some((stamp, object)) = other.or_else(|| own.pop()) {
                                assert_eq!(*object, [stamp; 5]);
                            }
                        }
                    }
                    if own.len() > 100 {
                        own.iter()
                            .for_each(|(stamp, object)| assert_eq!(**object, [*stamp; 5]));
                        own.clear();
                    }
                }
                drop(own);
                heap.drain_this_cpu();
            });
        }
    });
    passed.lock().unwrap().clear();
    for cpu in 0..THREADS {
        be(cpu);
        heap.drain_this_cpu();
        pages.drain_this_cpu();
    }
    let after: u64 = pages.zones().iter().map(|zone| zone.free()).sum();
    assert_eq!((after + 1, pages.platform.reports()), (before, [].into()));
}

#[test]
fn threads_keep_their_objects() {
    stress::<false>();
}

#[test]
fn threads_keep_their_objects_with_checks() {
    stress::<true>();
}

#[test]
fn a_heap_has_a_class_for_all_that_fits_twice() {
    let pages = Host::<false>::allocator(&regions(), 1);
    let heap = Heap::new(&pages);
    for (size, align) in [
        (0, 1),
        (1, 1),
        (17, 8),
        (64, 64),
        (65, 8),
        (1024, 1024),
        (1984, 64),
    ] {
        assert!(heap.cache(layout(size, align)).is_some(), "{size} {align}");
    }
    for (size, align) in [(1985, 1), (16, 2048), (1984, 128)] {
        assert!(heap.cache(layout(size, align)).is_none(), "{size} {align}");
    }
    assert_eq!(
        free_frames_of_one(&pages),
        pages.zones().iter().map(|zone| zone.managed()).sum()
    );
}

/// A heap that nobody uses has nothing.
fn free_frames_of_one(pages: &PageAllocator<Host<false>>) -> u64 {
    be(0);
    pages.drain_this_cpu();
    pages.zones().iter().map(|zone| zone.free()).sum()
}
