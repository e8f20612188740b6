//! libFuzzer around the target that `FUZZ_TARGET` names; its seeds are written to the directory `FUZZ_SEEDS`.
#![no_main]

use std::sync::OnceLock;
use std::{env, fs, path::Path};

use libfuzzer_sys::fuzz_target;
use vmm::fuzz::{PLANTED, TARGETS, Target};

static TARGET: OnceLock<Target> = OnceLock::new();

fn choose() {
    let name = env::var("FUZZ_TARGET").expect("scripts/fuzz names a target");
    let target = TARGETS
        .iter()
        .chain([&PLANTED])
        .find(|target| target.name == name);
    let target = target.unwrap_or_else(|| panic!("no such target: {name}"));
    let seeds = env::var_os("FUZZ_SEEDS").expect("scripts/fuzz gives the seeds a place");
    // The planted fault is to be found from nothing: it takes the right port, width and count, which chance
    // alone would not hit in a hundred million inputs.
    let given = if name == PLANTED.name {
        Vec::new()
    } else {
        (target.seeds)()
    };
    for (i, seed) in given.iter().enumerate() {
        fs::write(Path::new(&seeds).join(format!("seed-{i}")), seed).expect("a seed can be written");
    }
    assert!(TARGET.set(*target).is_ok(), "chosen twice");
}

fuzz_target!(init: choose(), |data: &[u8]| {
    if let Some(target) = TARGET.get() {
        (target.run)(data);
    }
});
