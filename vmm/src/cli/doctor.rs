//! `vmm doctor`: what this host offers to guests, and what it costs.

mod costs;
mod floor;
mod preemption;

use std::process::ExitCode;
use std::time::Instant;

use crate::cli::args::DoctorArgs;
use crate::cli::confinement::Confinement;
use crate::cli::failure::Failure;
use crate::cli::signals::Signals;
use crate::cli::{guest, output};
use crate::config::Config;
use crate::error::Error;
use crate::host::{self, Facts};
use crate::results::Run;
use crate::sandbox::Files;
use crate::table::{self, Align};
use crate::units::{counted, frequency, time};

/// A line of the report: what, and how it is here.
type Line = Vec<String>;

/// Prints what there is, then tries it. Fails if guests cannot run.
pub(super) fn doctor(args: &DoctorArgs) -> Result<ExitCode, Failure> {
    let confinement = args.sandbox.confine(&Files::NONE)?;
    let sandbox = !args.sandbox.no_sandbox;
    let cpus = host::allowed_cpus()?;
    let facts = host::facts()?;
    let signals = Signals::block()?;
    let mut lines = describe(&facts, cpus.len(), confinement);
    let base = Config {
        pcpus: cpus,
        sandbox,
        ..Config::default()
    };
    let tried = try_launch(&base, &signals).and_then(|launch| {
        lines.push(launch);
        lines.extend(preemption::try_hints(&base, &signals)?);
        costs::measure(&base, &signals)
    });
    output::print(&table::render(&[Align::Left, Align::Left], &lines))?;
    output::print(&tried?)?;
    Ok(ExitCode::SUCCESS)
}

fn line(what: &str, how: String) -> Line {
    vec![what.to_owned(), how]
}

fn describe(facts: &Facts, cpus: usize, confinement: Confinement) -> Vec<Line> {
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
        line("sandbox", confinement.describe().into()),
    ]
}

fn try_launch(base: &Config, signals: &Signals) -> Result<Line, Failure> {
    let start = Instant::now();
    let run = completed(base, signals)?;
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
