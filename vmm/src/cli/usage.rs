//! What is said to arguments that are no command.

use std::process::ExitCode;

use clap::error::ErrorKind;

use crate::cli::failure::{Failure, one_line};
use crate::cli::output;

/// Prints the help that was asked for, or says what is wrong with them.
pub(super) fn answer(error: &clap::Error) -> Result<ExitCode, Failure> {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            output::print(&error.render().to_string()).map(|()| ExitCode::SUCCESS)
        }
        _ => Err(Failure::usage(line(error))),
    }
}

/// The one line of clap's message that says what is wrong, and where to find out more.
pub(super) fn line(error: &clap::Error) -> String {
    let message = error.render().to_string();
    let message = message.strip_prefix("error: ").unwrap_or(&message);
    // clap goes on with tips, the usage and a pointer to the help, each in a paragraph of its own.
    let end = ["\n\n  tip:", "\n\nUsage:", "\n\nFor more"]
        .iter()
        .filter_map(|mark| message.find(mark))
        .min();
    let what = one_line(message.get(..end.unwrap_or(message.len())).unwrap_or(message));
    format!("{what}; see 'vmm --help' or 'vmm COMMAND --help'")
}
