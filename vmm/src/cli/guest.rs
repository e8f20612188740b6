//! Launching a guest of which only the result is to be seen.

use crate::cli::console::Tail;
use crate::cli::failure::Failure;
use crate::cli::progress::Progress;
use crate::cli::signals::{Signal, Signals};
use crate::config::Config;
use crate::outcome::{Ended, Outcome};
use crate::{Io, Kernel, Vm};

/// Launches the built-in guest. Meanwhile `what` is shown on a terminal; if the guest fails, so is its
/// console.
///
/// # Errors
///
/// Why it could not start, or that the user stopped it. That the guest failed is not an error.
pub(super) fn launch(what: &str, config: &Config, signals: &Signals) -> Result<Outcome, Failure> {
    let console = Tail::default();
    let progress = Progress::new(what, config.duration);
    let io = Io {
        stop: Some(signals.fd()),
        console: Box::new(console.clone()),
        input: None,
    };
    let outcome = Vm::new(config, Kernel::embedded()).and_then(|vm| vm.run(io));
    drop(progress);
    let outcome = outcome?;
    match outcome.ended {
        Ended::Interrupted => Err(stopped(signals)),
        Ended::Completed => Ok(outcome),
        _ => {
            console.show();
            Ok(outcome)
        }
    }
}

/// The failure of a launch that `signals` stopped.
pub(super) fn stopped(signals: &Signals) -> Failure {
    Failure::Stopped(signals.take().unwrap_or(Signal::Interrupt))
}
