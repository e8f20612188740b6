//! The guest's page allocator gives no memory to two, and has all of it back in the end.

use abi::config::{LockKind, Workload};
use abi::memory::{MemoryReport, ZoneReport};
use integration_tests::{alone, complete, config, kvm, one_line, run, vmm};
use vmm::{Config, GuestReport, PlantedFault, results};

const VMM: &str = env!("CARGO_BIN_EXE_vmm-under-test");

fn alloc(vcpus: u32, memory: u64) -> Config {
    Config {
        memory,
        ..config(Workload::Alloc, LockKind::PvQSpinlock, vcpus, 2)
    }
}

/// What the guest left of its memory, which must make sense.
fn memory(report: &GuestReport) -> MemoryReport {
    let memory = report.memory.expect("the workload reports it");
    for zone in &memory.zones {
        assert!(
            zone.free <= zone.managed && zone.min <= zone.low && zone.low <= zone.high,
            "{zone:?}"
        );
        let blocks = zone
            .free_blocks
            .iter()
            .flat_map(|of_type| of_type.iter().enumerate());
        assert_eq!(
            blocks.map(|(order, count)| count << order).sum::<u64>(),
            zone.free
        );
    }
    memory
}

fn count(memory: &MemoryReport, event: mm::Event) -> u64 {
    memory.zones.iter().map(|zone| zone.events[event as usize]).sum()
}

/// A guest whose memory excludes, and comes back.
fn check(config: &Config) -> MemoryReport {
    let report = complete(config);
    let memory = memory(&report);
    let intruders: u64 = report.vcpus.iter().map(|vcpu| vcpu.intruders).sum();
    assert_eq!((intruders, memory.unreturned), (0, 0), "{config:?}");
    let done: u64 = report.vcpus.iter().map(|vcpu| vcpu.acquisitions).sum();
    let (allocated, freed) = (
        count(&memory, mm::Event::Pgalloc),
        count(&memory, mm::Event::Pgfree),
    );
    // A few of them are objects: three to a count, which take a frame each at most.
    assert!(
        done > 0 && allocated > done / 2,
        "{allocated} frames for {done} blocks"
    );
    assert_eq!(allocated, freed, "the workload gives back what it takes");
    // The rest is what the boot has.
    let held: u64 = memory.zones.iter().map(|zone| zone.managed - zone.free).sum();
    assert!(
        held < 64 + u64::from(config.vcpus),
        "the kernel holds {held} frames"
    );
    memory
}

#[test]
fn memory_has_one_holder_and_comes_back() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    for vcpus in [1, 2, 8] {
        check(&alloc(vcpus, 64 << 20));
    }
}

#[test]
fn many_vcpus_share_little_memory() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let memory = check(&alloc(64, 32 << 20));
    assert!(
        count(&memory, mm::Event::Failed) > 0,
        "there is not enough for all"
    );
}

#[test]
fn guests_are_small_and_large() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let managed = |memory: &MemoryReport| memory.zones.each_ref().map(|zone: &ZoneReport| zone.managed);
    let small = check(&alloc(4, 16 << 20));
    assert!(
        managed(&small)[0] > 2048 && managed(&small)[1] == 0,
        "{:?}",
        managed(&small)
    );
    // Far more than the machine has: what is not used costs nothing, not even in metadata.
    let large = check(&alloc(4, 64 << 30));
    let frames = (64 << 30) / 4096;
    assert!(managed(&large)[1] > frames / 100 * 94, "{:?}", managed(&large));
}

#[test]
fn too_little_memory_for_the_kernel_is_refused() {
    let output = vmm(VMM, "run --workload idle --vcpus 2 --memory 3M");
    assert_eq!(output.status.code(), if kvm() { Some(2) } else { Some(3) });
    let said = one_line(&output);
    assert!(!kvm() || said.contains("give the guest between"), "{said}");
}

#[test]
fn memory_with_two_holders_is_caught() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let config = Config {
        planted_fault: Some(PlantedFault::EarlyFree),
        ..alloc(2, 64 << 20)
    };
    let outcome = run(&config);
    let result = results::Run::new(&config, &outcome);
    assert_eq!(result.exit, results::Exit::Violation, "{}", result.detail);
    assert!(result.detail.contains("had two holders"), "{}", result.detail);
}

#[test]
fn results_tell_what_memory_was_like() {
    if !kvm() {
        return;
    }
    let _alone = alone();
    let arguments = "run --workload alloc --vcpus 2 --duration 100ms --memory 64M";
    let output = vmm(VMM, &format!("{arguments} --format json"));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    let run = &json["runs"][0];
    assert_eq!(
        (&run["exit"], &run["lock"]),
        (&"completed".into(), &serde_json::Value::Null)
    );
    assert_eq!(run["mm"]["zones"][0]["name"], "DMA32");
    let free = run["mm"]["vmstat"]["nr_free_pages"].as_u64();
    assert!(free.is_some_and(|free| free > 14_000), "{free:?}");
    assert!(run["wait_ns"]["p50"].as_u64() > Some(0) && run["held_ns"]["p50"].as_u64() > Some(0));

    // Its locks, too, spin for as long as they are told.
    let output = vmm(VMM, &format!("{arguments} --spin 7us --format json"));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    let budget = json["runs"][0]["spin_budget_ns"].as_f64();
    assert!(budget.is_some_and(|ns| (ns - 7_000.0).abs() < 10.0), "{budget:?}");

    // What frames cost was measured, by all of them, alone and together. How much, is another matter.
    let alloc = &run["mm"]["alloc"];
    let turn = alloc["turn_ns"].as_f64().expect("it took time");
    assert!(alloc["rounds"].as_u64() > Some(2) && turn >= 1e6, "{alloc}");
    for (who, how) in [
        ("one", "pair"),
        ("one", "burst"),
        ("all", "pair"),
        ("all", "burst"),
    ] {
        let costs = &alloc[who][how];
        for subject in ["mm_ns", "buddy_system_allocator_ns", "stack_ns"] {
            // No frame takes longer than a turn, and none less than a tenth of a cycle.
            let ns = costs[subject].as_f64();
            assert!(
                ns.is_some_and(|ns| 0.01 < ns && ns < turn),
                "{subject} in {alloc}"
            );
        }
        let of = |what: &str| costs[what].as_f64().expect("a number");
        assert!(
            (of("mm_ns") / of("stack_ns") - of("of_stack")).abs() < 1e-6,
            "{alloc}"
        );
    }

    let text = String::from_utf8(vmm(VMM, &format!("{arguments} --stats")).stdout).expect("it is text");
    for part in [
        "alloc p50",
        "by all 2, one by one",
        "ok",
        "Node 0, zone  DMA32",
        "Unmovable",
        "mm_page_pcpu_drain",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let text = String::from_utf8(vmm(VMM, arguments).stdout).expect("it is text");
    assert!(!text.contains("Node 0"), "{text}");
}
