//! Times launches of guests that do nothing, beside the floor (`launch-floor`), the one after the other.
//!
//! `launch-times FLOOR VMM VCPUS PAIRS` prints a JSON object: for 1 and for VCPUS vCPUs, the times of PAIRS
//! launches by each program in nanoseconds, from before the program is started until vCPU 0 is about to
//! enter its guest (`entered`), and until the program has ended (`ended`).

use std::env;
use std::process::{Command, Stdio};

use integration_tests::monotonic_ns;
use serde_json::{Value, json};

fn main() {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [floor, vmm, vcpus, pairs] = arguments.as_slice() else {
        panic!("launch-times FLOOR VMM VCPUS PAIRS");
    };
    let pairs: usize = pairs.parse().expect("a number of pairs");
    let mut result = json!({});
    for vcpus in ["1", vcpus] {
        let mut times = [const { [Vec::new(), Vec::new()] }; 2];
        for pair in 0..=pairs {
            let floor = launch(floor, &[vcpus]);
            let vmm = launch(
                vmm,
                &["run", "--workload", "idle", "--format", "json", "--vcpus", vcpus],
            );
            // The first pair fills the caches.
            if pair > 0 {
                for (times, time) in times.iter_mut().zip([floor, vmm]) {
                    times[0].push(time.0);
                    times[1].push(time.1);
                }
            }
        }
        let [floor, vmm] = times.map(|[entered, ended]| json!({ "entered": entered, "ended": ended }));
        result[vcpus] = json!({ "floor": floor, "vmm": vmm });
    }
    println!("{result}");
}

/// Nanoseconds until the guest was entered and until `program` had ended.
fn launch(program: &str, arguments: &[&str]) -> (u64, u64) {
    let begun = monotonic_ns();
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .expect("the program can be run");
    let ended = monotonic_ns();
    assert!(output.status.success(), "{program} {arguments:?} failed");
    // The floor prints a number, the VMM its results.
    let entered = match serde_json::from_slice(&output.stdout).expect("JSON") {
        Value::Number(entered) => entered.as_u64(),
        results => results["runs"][0]["entered_ns"].as_u64(),
    };
    (entered.expect("the time of entry") - begun, ended - begun)
}
