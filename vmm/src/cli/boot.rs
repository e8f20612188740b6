//! `vmm boot`: launches a guest image of the user's with its console here.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use crate::cli::args::BootArgs;
use crate::cli::escape::Escape;
use crate::cli::failure::{Failure, RUN_FAILED, say};
use crate::cli::flood::Limit;
use crate::cli::guest::stopped;
use crate::cli::signals::Signals;
use crate::outcome::Ended;
use crate::sandbox::Files;
use crate::{Io, Kernel, Vm};

/// Users stop their guests themselves.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// Launches the image and waits for its end, which is the command's.
pub(super) fn boot(args: &BootArgs) -> Result<ExitCode, Failure> {
    let files = Files {
        read: Some(&args.kernel),
        replace_in: None,
    };
    args.guest.sandbox.confine(&files)?;
    let kernel = Kernel::open(&args.kernel)?;
    let config = args.guest.config(DEFAULT_TIMEOUT)?;
    let signals = Signals::block()?;
    let stdin = io::stdin();
    let io = Io {
        stop: Some(signals.fd()),
        console: console(),
        input: Some(stdin.as_fd()),
    };
    let outcome = Vm::new(&config, &kernel)?.run(io)?;
    match outcome.ended {
        Ended::Completed => Ok(ExitCode::SUCCESS),
        Ended::Interrupted => Err(stopped(&signals)),
        _ => Err(Failure::Failed(outcome.detail)),
    }
}

/// Where the guest's output goes: to stdout, as much of it as is decent. A terminal does more than show, so
/// what it gets is escaped; a file or a pipe gets what the guest wrote.
fn console() -> Box<dyn Write + Send> {
    if io::stdout().is_terminal() {
        Box::new(Limit::new(Escape::new(Stdout)))
    } else {
        Box::new(Limit::new(Stdout))
    }
}

/// The process's stdout, without the buffer that would keep a prompt back. If it cannot be written, that is
/// the end: a guest has no other way out, so nothing else is lost.
struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            Ok(()) => Ok(bytes.len()),
            // Nobody reads the console any more: end as a program does that leaves SIGPIPE alone.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(128 + libc::SIGPIPE),
            Err(error) => {
                say(&format!(
                    "cannot write the guest's console output: {error}; make room, or send stdout elsewhere"
                ));
                std::process::exit(RUN_FAILED.into())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
