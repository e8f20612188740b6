//! `vmm run`: measures locks in guests and compares them.

use std::process::ExitCode;

use crate::cli::args::{Format, RunArgs};
use crate::cli::failure::{Failure, RUN_FAILED, say};
use crate::cli::guest;
use crate::cli::output::Output;
use crate::cli::signals::Signals;
use crate::cli::summary::summary;
use crate::cli::verdict::warnings;
use crate::config::Config;
use crate::host;
use crate::results::{Host, Results, Run};
use crate::sandbox::Files;

/// Launches a guest for each lock, and writes the results once all have ended.
pub(super) fn run(args: &RunArgs) -> Result<ExitCode, Failure> {
    let configs = args.configs()?;
    let output = Output::new(args.output.as_deref())?;
    let files = Files {
        read: None,
        replace_in: output.directory(),
    };
    args.guest.sandbox.confine(&files)?;
    let signals = Signals::block()?;

    let mut runs = Vec::with_capacity(configs.len());
    let mut measured_on = None;
    for (i, config) in configs.iter().enumerate() {
        let what = format!("{} ({} of {})", title(config), i + 1, configs.len());
        let outcome = guest::launch(&what, config, &signals)?;
        measured_on = Some(Host::new(&outcome, host::allowed_cpus()?.len()));
        let run = Run::new(config, &outcome);
        report_problems(&run);
        runs.push(run);
    }

    let all_completed = runs.iter().all(Run::completed);
    let Some(host) = measured_on else {
        return Ok(ExitCode::SUCCESS);
    };
    let results = Results::new(host, runs);
    let text = match args.format {
        Format::Table => summary(&results),
        Format::Json => json(&results)?,
    };
    output.write(&text, signals)?;
    Ok(if all_completed {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(RUN_FAILED)
    })
}

fn title(config: &Config) -> &'static str {
    match config.workload {
        abi::config::Workload::Lock => config.lock.name(),
        workload => workload.name(),
    }
}

fn report_problems(run: &Run) {
    if !run.completed() {
        let detail = if run.detail.is_empty() {
            run.exit.name()
        } else {
            &run.detail
        };
        say(&format!("{}: {detail}", run.name()));
    }
    for warning in warnings(run) {
        say(&warning);
    }
}

fn json(results: &Results) -> Result<String, Failure> {
    match serde_json::to_string_pretty(results) {
        Ok(json) => Ok(json + "\n"),
        Err(error) => Err(Failure::Failed(format!(
            "cannot write the result as JSON: {error}"
        ))),
    }
}
