use clap::CommandFactory;

use super::*;
use crate::cli::usage::line;
use crate::config::Ring;

fn parse(words: &[&str]) -> Result<Command, clap::Error> {
    Cli::try_parse_from([&["vmm"], words].concat()).map(|cli| cli.command)
}

fn run(words: &[&str]) -> RunArgs {
    match parse(&[&["run"], words].concat()) {
        Ok(Command::Run(args)) => args,
        other => panic!("{words:?}: {other:?}"),
    }
}

#[test]
fn the_declaration_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn defaults_are_as_documented() {
    let args = run(&[]);
    assert_eq!(args.lock, [LockKind::QSpinlock, LockKind::PvQSpinlock]);
    assert_eq!(args.workload, Workload::Lock);
    assert_eq!(args.duration, Duration::from_secs(2));
    assert_eq!(
        (args.hold, args.think),
        (Duration::from_nanos(100), Duration::from_nanos(100))
    );
    assert_eq!((args.spin, args.format, args.output), (None, Format::Table, None));
    assert_eq!(
        (args.guest.vcpus, args.guest.pcpus, args.guest.timeout),
        (None, None, None)
    );
    assert_eq!(args.guest.memory, None);
}

#[test]
fn options_are_understood() {
    let args = run(&[
        "--vcpus",
        "8",
        "--pcpus",
        "2",
        "--lock",
        "tas,pvqspinlock-linux,tas",
        "--hold",
        "1.5us",
    ]);
    assert_eq!((args.guest.vcpus, args.guest.pcpus), (Some(8), Some(2)));
    assert_eq!(
        args.lock,
        [LockKind::Tas, LockKind::PvQSpinlockLinux, LockKind::Tas]
    );
    assert_eq!(args.hold, Duration::from_nanos(1500));
    assert_eq!(run(&["--spin", "auto"]).spin, Some(Spin::Auto));
    assert_eq!(
        run(&["--spin", "20us"]).spin,
        Some(Spin::Fixed(Duration::from_micros(20)))
    );
    assert_eq!(
        Option::<Ring>::from(run(&["--guest-ring", "3"]).guest.guest_ring),
        Some(Ring::Three)
    );
    let preempt = run(&["--preempt", "holder:1ms:5ms"]).preemption.preempt.unwrap();
    assert_eq!(preempt.to_string(), "holder:1ms:5ms");
    assert_eq!(run(&["--neighbours", "3"]).preemption.neighbours, 3);
    for lock in LockKind::ALL {
        assert_eq!(run(&["--lock", lock.name()]).lock, [*lock]);
    }
    for workload in Workload::ALL {
        assert_eq!(run(&["--workload", workload.name()]).workload, *workload);
    }
}

#[test]
fn bad_usage_is_one_line_with_what_and_what_to_do() {
    let bad: &[(&[&str], &str)] = &[
        (&[], "subcommand"),
        (&["frobnicate"], "frobnicate"),
        (&["--frobnicate"], "--frobnicate"),
        (&["boot"], "--kernel"),
        (&["doctor", "now"], "now"),
        (&["run", "--vcpus"], "--vcpus"),
        (&["run", "--vcpus", "0"], "at least 1"),
        (&["run", "--vcpus", "-1"], "--vcpus"),
        (&["run", "--vcpus", "99999999999"], "--vcpus"),
        (&["run", "--pcpus", "-1"], "--pcpus"),
        (&["run", "--lock", "tas,nope"], "pvqspinlock-linux"),
        (&["run", "--lock", ""], "no such lock"),
        (&["run", "--workload", "nope"], "ping-pong"),
        (&["run", "--duration", "5"], "unit is missing"),
        (&["run", "--duration", "-5s"], "--duration"),
        (&["run", "--duration", "25h"], "24h"),
        (&["run", "--duration", "0s"], "longer than 0"),
        (&["run", "--timeout", "0"], "longer than 0"),
        (&["run", "--spin", "-1us"], "auto"),
        (&["run", "--memory", "many"], "256M"),
        (&["run", "--guest-ring", "1"], "[possible values: auto, 0, 3]"),
        (&["run", "--format", "xml"], "[possible values: table, json]"),
        (&["run", "--preempt", "holder"], "holder:1ms:5ms"),
        (&["run", "--preempt", "owner:1ms:5ms"], "holder, waiter or any"),
        (&["run", "--preempt", "any:0:5ms"], "longer than 0"),
        (&["run", "--preempt", "any:1ms:5"], "unit is missing"),
        (&["run", "--neighbours", "-1"], "--neighbours"),
        (&["run", "--neighbours", "5000"], "1024"),
        (&["run", "--seed", "x"], "--seed"),
        (&["run", "--seed", "1", "--seed", "2"], "--seed"),
        (&["run", "--lock", "a\n\nb\x1b[2J\r"], "\\u{1b}"),
    ];
    for (words, part) in bad {
        let message = line(&parse(words).expect_err("bad usage"));
        assert!(message.contains(part), "{words:?}: {message}");
        assert!(!message.contains(char::is_control), "{words:?}: {message}");
        assert!(
            message.ends_with("see 'vmm --help' or 'vmm COMMAND --help'"),
            "{message}"
        );
    }
}

#[test]
fn help_ends_with_the_exit_codes() {
    for words in [&["--help"][..], &["run", "--help"], &["boot", "-h"]] {
        let help = parse(words).expect_err("help").render().to_string();
        let last = help.trim_end().lines().last().unwrap_or_default();
        assert!(last.contains("128+n"), "{help}");
    }
}
