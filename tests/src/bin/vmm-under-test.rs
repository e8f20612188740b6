//! The `vmm` binary once more: cargo tells a package's tests the paths of that package's own binaries only.
//!
//! As `vmm-under-test planted FAULT WORKLOAD` it is a VMM that has a fault, and no command line.

use std::env;
use std::process::ExitCode;

use abi::config::{LockKind, Workload};
use integration_tests::{config, run};
use vmm::{Ended, PlantedFault};

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    match &arguments[..] {
        [mode, fault, workload] if mode == "planted" => planted(fault, workload),
        _ => vmm::cli::main(),
    }
}

fn planted(fault: &str, workload: &str) -> ExitCode {
    let fault = match fault {
        "hoard" => PlantedFault::HoardRefusals,
        "panic" => PlantedFault::PanicAtRefusal,
        _ => panic!("no such fault: {fault}"),
    };
    let workload = Workload::ALL.iter().find(|known| known.name() == workload);
    let mut config = config(*workload.expect("a workload"), LockKind::Tas, 3, 2);
    config.planted_fault = Some(fault);
    let outcome = run(&config);
    println!("{{}}");
    eprintln!("vmm: {}", outcome.detail);
    ExitCode::from(u8::from(outcome.ended != Ended::Completed))
}
