//! `vmm doctor`: what this host offers to guests, and what it costs.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use abi::config::Workload;

use crate::cli::failure::Failure;
use crate::cli::signals::Signals;
use crate::cli::summary::{per_hand_off, vcpus_on_cpus};
use crate::cli::{guest, output};
use crate::config::Config;
use crate::error::Error;
use crate::host::{self, Facts};
use crate::results::Run;
use crate::table::{self, Align};
use crate::units::{count, counted, frequency, time};

/// How long hand-offs are timed.
const HAND_OFFS: Duration = Duration::from_millis(500);

/// A line of the report: what, and how it is here.
type Line = Vec<String>;

/// Prints what there is, then tries it. Fails if guests cannot run.
pub(super) fn doctor() -> Result<ExitCode, Failure> {
    let cpus = host::allowed_cpus()?;
    let facts = host::facts()?;
    let signals = Signals::block()?;
    let mut lines = describe(&facts, cpus.len());
    let tried = try_launch(&cpus, &signals).and_then(|launch| {
        lines.push(launch);
        lines.push(try_hand_offs(&cpus, &signals)?);
        Ok(())
    });
    output::print(&table::render(&[Align::Left, Align::Left], &lines))?;
    tried.map(|()| ExitCode::SUCCESS)
}

fn line(what: &str, how: String) -> Line {
    vec![what.to_owned(), how]
}

fn describe(facts: &Facts, cpus: usize) -> Vec<Line> {
    let per_instruction = facts.ring0.ns_per_instruction;
    let ring0 = match facts.ring0.emulated {
        true => format!("emulated, {per_instruction:.0} ns an instruction: guests will run in ring 3"),
        false => "native: guests will run in ring 0".into(),
    };
    vec![
        line("/dev/kvm", "usable".into()),
        line("ring 0", ring0),
        line("vCPUs", format!("up to {} in a guest", facts.max_vcpus)),
        line(
            "CPUs",
            format!("{} allowed to this process", counted(cpus as u64, "CPU")),
        ),
        line("TSC", frequency(facts.tsc_khz)),
        line("kernel", format!("Linux {}", facts.kernel)),
    ]
}

fn try_launch(cpus: &[usize], signals: &Signals) -> Result<Line, Failure> {
    let config = Config {
        pcpus: cpus.to_vec(),
        ..Config::default()
    };
    let start = Instant::now();
    let run = completed(&config, signals)?;
    let whole = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    Ok(line(
        "launch",
        format!(
            "{} until the guest runs, {} until it has ended",
            time(run.setup_ns),
            time(whole)
        ),
    ))
}

fn try_hand_offs(cpus: &[usize], signals: &Signals) -> Result<Line, Failure> {
    let pcpus = cpus.iter().copied().take(2).collect();
    let config = Config {
        vcpus: 2,
        pcpus,
        workload: Workload::PingPong,
        duration: HAND_OFFS,
        ..Config::default()
    };
    let run = completed(&config, signals)?;
    let each = per_hand_off(&run).ok_or_else(|| cannot_run(&run, "no vCPU woke another"))?;
    let (all, place) = (count(run.measured.acquisitions), vcpus_on_cpus(&run));
    Ok(line(
        "hand-off",
        format!(
            "{} to halt, be kicked and wake up (mean of {all}, {place})",
            time(each)
        ),
    ))
}

fn completed(config: &Config, signals: &Signals) -> Result<Run, Failure> {
    let outcome = guest::launch(&format!("trying {}", config.workload.name()), config, signals)?;
    let run = Run::new(config, &outcome);
    if run.completed() {
        Ok(run)
    } else {
        Err(cannot_run(&run, &run.detail))
    }
}

fn cannot_run(run: &Run, why: &str) -> Failure {
    let what = run.name();
    Error::Host(format!(
        "guests cannot run here: {what}: {why}; please report this with the lines above"
    ))
    .into()
}
