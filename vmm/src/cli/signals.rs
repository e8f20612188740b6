//! SIGINT and SIGTERM as a file descriptor, so that they stop guests in an orderly way.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd};
use std::ptr;

use vmm_sys_util::signal::create_sigset;

use crate::error::Error;

/// A signal that asks the process to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// Ctrl-C.
    Interrupt = libc::SIGINT as isize,
    /// What `kill` sends.
    Terminate = libc::SIGTERM as isize,
}

impl Signal {
    const ALL: [Self; 2] = [Self::Interrupt, Self::Terminate];

    /// Its number.
    pub(super) const fn number(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        })
    }
}

/// While it lives, [`Signal`]s do not end the process but make a file descriptor readable.
///
/// They are blocked in the calling thread and in those that it starts: it has to be made before any other
/// thread is, but for one that blocks them itself ([`ask_ahead`](crate::cpuid::ask_ahead)).
pub(super) struct Signals {
    file: File,
    mask_before: libc::sigset_t,
}

impl Signals {
    /// Blocks the signals.
    ///
    /// # Errors
    ///
    /// [`Error::Host`] if the process has no file descriptor left.
    pub(super) fn block() -> Result<Self, Error> {
        Self::try_block().map_err(|error| {
            Error::Host(format!(
                "cannot watch for signals: {error}; raise the limit of open files (ulimit -n)"
            ))
        })
    }

    fn try_block() -> io::Result<Self> {
        let signals = create_sigset(&Signal::ALL.map(|signal| signal.number().into()))?;
        // SAFETY: the set is initialised; -1 asks for a new file descriptor.
        let fd = unsafe { libc::signalfd(-1, &signals, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the file descriptor is new, so nobody else owns it.
        let file = unsafe { File::from_raw_fd(fd) };
        let mut mask_before = create_sigset(&[])?;
        // SAFETY: both sets are initialised.
        let error = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &signals, &mut mask_before) };
        match error {
            0 => Ok(Self { file, mask_before }),
            _ => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// Readable once a signal has come, until [`take`](Self::take) takes it.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// The next signal that has come, if any.
    pub(super) fn take(&self) -> Option<Signal> {
        let mut info = [0; size_of::<libc::signalfd_siginfo>()];
        (&self.file).read_exact(&mut info).ok()?;
        // It begins with the signal's number, of 32 bits.
        let number = u32::from_ne_bytes(*info.first_chunk()?);
        Signal::ALL
            .into_iter()
            .find(|signal| u32::from(signal.number()) == number)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // SAFETY: the mask is an initialised set; the old one is not asked for.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.mask_before, ptr::null_mut()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_read_instead_of_ending_the_process() {
        let signals = Signals::block().expect("there are file descriptors left");
        assert_eq!(signals.take(), None);
        for signal in Signal::ALL {
            // SAFETY: the signal goes to this thread, which has it blocked.
            unsafe { libc::raise(signal.number().into()) };
            assert_eq!(signals.take(), Some(signal));
        }
        assert_eq!(signals.take(), None);
    }
}
