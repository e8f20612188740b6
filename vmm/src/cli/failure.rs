//! How commands fail: one line on stderr, and an exit code.

use std::io::Write;
use std::process::ExitCode;

use crate::cli::signals::Signal;
use crate::error::Error;

/// The exit code of a command whose guest failed.
pub(super) const RUN_FAILED: u8 = 1;
const BAD_USAGE: u8 = 2;
const HOST_CANNOT: u8 = 3;
const STOPPED_BY: u8 = 128;

/// Why a command did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// It could not start.
    #[error(transparent)]
    Refused(#[from] Error),
    /// It started and failed.
    #[error("{0}")]
    Failed(String),
    /// The user stopped it.
    #[error("stopped by {0}")]
    Stopped(Signal),
}

impl Failure {
    /// Bad usage, of which `why` says what and what to do.
    pub(super) fn usage(why: impl Into<String>) -> Self {
        Self::Refused(Error::Usage(why.into()))
    }

    /// The process's exit code for it.
    pub(super) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Refused(Error::Usage(_)) => BAD_USAGE,
            Self::Refused(Error::Host(_)) => HOST_CANNOT,
            Self::Failed(_) => RUN_FAILED,
            Self::Stopped(signal) => STOPPED_BY + signal.number(),
        })
    }
}

/// Says `message` on stderr, in one line.
pub(super) fn say(message: &str) {
    // Nobody is left to hear that stderr is closed.
    let _ = writeln!(std::io::stderr(), "vmm: {}", one_line(message));
}

/// `text` in one line: runs of white space become a space each, other control characters are escaped.
pub(super) fn one_line(text: &str) -> String {
    printable(&text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// `text` with everything escaped that is not a visible character or a space.
pub(super) fn printable(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            // Visible, though the escapes of a string literal would mark them.
            '\'' | '"' | '\\' => line.push(character),
            _ => line.extend(character.escape_debug()),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_one_visible_line() {
        assert_eq!(one_line("a\n  b\r\n\tc "), "a b c");
        assert_eq!(one_line("it's \"x\" \\ µ"), "it's \"x\" \\ µ");
        assert_eq!(one_line("\x1b[2J\u{202e}\0"), "\\u{1b}[2J\\u{202e}\\0");
    }

    #[test]
    fn exit_codes_are_as_documented() {
        let code = |failure: Failure| failure.exit_code();
        assert_eq!(code(Failure::Failed(String::new())), ExitCode::from(1));
        assert_eq!(code(Failure::usage("")), ExitCode::from(2));
        assert_eq!(code(Error::Host(String::new()).into()), ExitCode::from(3));
        assert_eq!(code(Failure::Stopped(Signal::Interrupt)), ExitCode::from(130));
        assert_eq!(code(Failure::Stopped(Signal::Terminate)), ExitCode::from(143));
    }
}
