//! `vmm boot`: launches a guest image of the user's with its console here.

use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use crate::cli::args::BootArgs;
use crate::cli::failure::Failure;
use crate::cli::guest::stopped;
use crate::cli::signals::Signals;
use crate::outcome::Ended;
use crate::{Io, Kernel};

/// Users stop their guests themselves.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// Launches the image and waits for its end, which is the command's.
pub(super) fn boot(args: &BootArgs) -> Result<ExitCode, Failure> {
    let kernel = Kernel::open(&args.kernel)?;
    let (config, _) = args.guest.config(DEFAULT_TIMEOUT)?;
    let signals = Signals::block()?;
    let stdin = io::stdin();
    let io = Io {
        stop: Some(signals.fd()),
        console: Box::new(Stdout),
        input: Some(stdin.as_fd()),
    };
    let outcome = crate::launch(&config, &kernel, io)?;
    match outcome.ended {
        Ended::Completed => Ok(ExitCode::SUCCESS),
        Ended::Interrupted => Err(stopped(&signals)),
        _ => Err(Failure::Failed(outcome.detail)),
    }
}

/// The process's stdout, without the buffer that would keep a prompt back.
struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
        if written
            .as_ref()
            .is_err_and(|error| error.kind() == ErrorKind::BrokenPipe)
        {
            // Nobody reads the console any more: end as a program does that leaves SIGPIPE alone. Nothing is
            // lost, since a guest has no other way out.
            std::process::exit(128 + libc::SIGPIPE);
        }
        written.map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
