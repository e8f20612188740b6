//! What the process gives up before it launches guests.

use crate::cli::args::SandboxArgs;
use crate::error::Error;
use crate::sandbox::{self, Files, Landlock};

/// How the process is confined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Confinement {
    /// By seccomp, and by this of Landlock.
    Sandbox(Landlock),
    /// Not at all: the user said so.
    Off,
}

impl SandboxArgs {
    /// Confines the calling thread, and those that it starts from now on, unless the user said not to. There
    /// may be one more, which asks KVM for its CPUID and ends ([`ask_ahead`](crate::cpuid::ask_ahead)).
    ///
    /// # Errors
    ///
    /// [`Error::Host`] if the kernel cannot do it.
    pub(super) fn confine(self, files: &Files<'_>) -> Result<Confinement, Error> {
        match self.no_sandbox {
            true => Ok(Confinement::Off),
            false => sandbox::confine(files).map(Confinement::Sandbox),
        }
    }
}

impl Files<'_> {
    /// No files.
    pub(super) const NONE: Self = Self {
        read: None,
        replace_in: None,
    };
}

impl Confinement {
    /// A few words on it, and on what is missing.
    pub(super) fn describe(self) -> &'static str {
        match self {
            Self::Sandbox(Landlock::Full) => "seccomp and Landlock",
            Self::Sandbox(Landlock::Partial) => {
                "seccomp and an older Landlock, which leaves it to seccomp to forbid truncation and device requests"
            }
            Self::Sandbox(Landlock::None) => {
                "seccomp; no Landlock, so only their permissions protect files (it needs Linux 5.13 and a place in lsm=)"
            }
            Self::Off => "none (--no-sandbox)",
        }
    }
}
