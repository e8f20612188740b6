//! Fuzz targets of the command line: what users write, and what they are shown of guests. See
//! [`crate::fuzz`].

use std::io::Write;
use std::time::Duration;

use clap::Parser;

use crate::cli::args::{Cli, Command};
use crate::cli::console::Tail;
use crate::cli::summary::summary;
use crate::cli::usage;
use crate::cli::verdict::warnings;
use crate::config::Config;
use crate::fuzz::Target;
use crate::results::{Host, Kvm, Results, Run};
use crate::units;

/// Arguments of the program, and what is made of their quantities.
pub(crate) const ARGUMENTS: Target = Target {
    name: "arguments",
    run: arguments,
    seeds: || {
        let seeds: [&[u8]; 8] = [
            b"run\0--duration\x001.5ms\0--vcpus\x003",
            b"run\0--hold=20us\0--think=0\0--spin=auto",
            b"run\0--lock=tas,qspinlock\0--format=json\0--stats",
            b"run\0--memory\x00256M\0--pin\0--timeout=24h",
            b"run\0--workload=ping-pong\0--rounds=10\0--seed=18446744073709551615",
            b"boot\0--kernel=/x\0--guest-ring=3\0--pcpus=2",
            b"99999999999999999999s",
            b"1.5GiB",
        ];
        seeds.map(<[u8]>::to_vec).into()
    },
};

/// What a guest prints, shown to a user.
pub(crate) const CONSOLE: Target = Target {
    name: "console",
    run: console,
    seeds: || vec![b"\x1b]0;title\x07 guest vCPU 1:\xff\xc0 \x9b31m\r\n\xe2\x80\xae".to_vec()],
};

/// A launch that does nothing, on `vcpus` vCPUs.
pub(crate) fn idle(vcpus: u32) -> Config {
    Config {
        vcpus,
        ..Config::default()
    }
}

/// `run` as JSON, and as text with its warnings.
pub(crate) fn show(run: Run) -> (String, String) {
    let host = Host {
        kvm: Kvm::Native,
        ring0_ns_per_instruction: None,
        guest_ring: 0,
        pcpus: 1,
        tsc_khz: 1,
        kernel: String::new(),
    };
    let warnings = warnings(&run).join("\n");
    let results = Results::new(host, vec![run]);
    let json = serde_json::to_string(&results).expect("results are plain data");
    (json, summary(&results) + &warnings)
}

fn arguments(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let one_line = |text: &str| assert!(!text.is_empty() && !text.contains(char::is_control), "{text:?}");
    match units::parse_duration(&text) {
        Ok(duration) => {
            assert!(duration <= Duration::from_secs(24 * 60 * 60));
            one_line(&units::time(duration.as_nanos() as u64));
        }
        Err(why) => one_line(&why),
    }
    match units::parse_size(&text) {
        Ok(size) => one_line(&units::size(size)),
        Err(why) => one_line(&why),
    }
    match Cli::try_parse_from(["vmm"].into_iter().chain(text.split('\0'))) {
        Ok(Cli {
            command: Command::Run(run),
        }) => assert!(run.duration > Duration::ZERO && run.guest.vcpus != Some(0)),
        Ok(_) => {}
        Err(error) => one_line(&usage::line(&error)),
    }
}

fn console(data: &[u8]) {
    let mut tail = Tail::default();
    for chunk in data.chunks(7) {
        tail.write_all(chunk).expect("memory takes everything");
    }
    for line in tail.lines() {
        assert!(!line.contains(char::is_control), "{line:?}");
        // An escaped byte takes four characters, an escaped character ten at most.
        assert!(line.len() <= 10 * data.len() + 100);
    }
}
