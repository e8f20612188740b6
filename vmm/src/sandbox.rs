//! Confinement: what a guest gets hold of if it takes over the thread that runs it.
//!
//! | what | confines | by |
//! |---|---|---|
//! | seccomp | each thread to the system calls of its class | `filter`, `program`; `violation` says what was stopped |
//! | Landlock | the process to the files that it was asked to use | `files` |
//!
//! [`Vm::run`](crate::Vm::run) confines the threads that it starts, and nothing else: it is part of another
//! program. They are confined once they have set themselves up, before they do anything on a guest's
//! behalf. [`confine`] is for programs that do nothing but launch guests, such as `vmm`. It confines the
//! calling thread, and thereby all that come after it: a thread starts with the filters of the one that
//! starts it, and adds its own.
//!
//! **Limits.** The control thread has the next guest to set up, so it may open files, map memory and create
//! VMs; nothing of a guest's runs on it, and all it takes from one are the numbers of the report and the
//! console's last lines. Filters see numbers, not what is behind pointers: which files may be opened is for
//! Landlock to say, and where the kernel has none, for the files' permissions alone. A descriptor that is
//! open can be used by every thread.

mod files;
mod filter;
mod program;
mod violation;

use std::io;
use std::sync::{Arc, OnceLock};

use seccompiler::BpfProgram;

use crate::error::Error;
pub use files::{Files, Landlock};

/// What a thread is for, and so which system calls it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Sets guests up, waits for them, and writes the results.
    Control,
    /// Runs a vCPU.
    Vcpu,
    /// Writes a guest's console output.
    Console,
    /// Stops vCPUs, or keeps their CPUs busy.
    Helper,
}

impl Class {
    const COUNT: usize = 4;

    /// Its name in messages.
    fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Vcpu => "vcpu",
            Self::Console => "console",
            Self::Helper => "helper",
        }
    }
}

/// The filters of a launch's threads, or none. Clones share them. Each is made when the first thread of its
/// class asks.
#[derive(Clone, Default)]
pub(crate) struct Sandbox(Option<Arc<[OnceLock<BpfProgram>; Class::COUNT]>>);

impl Sandbox {
    /// Prepares filters, if they are wanted.
    ///
    /// # Errors
    ///
    /// [`Error::Host`] if this kernel has no seccomp filters.
    pub(crate) fn new(wanted: bool) -> Result<Self, Error> {
        if wanted {
            prepare()?;
        }
        Ok(Self(wanted.then(Arc::default)))
    }

    /// Confines the calling thread to what `class` needs.
    ///
    /// Ends the process, with a line, if the kernel has no memory for the filter: a thread that was to be
    /// confined must not run without.
    pub(crate) fn enter(&self, class: Class) {
        let Some(filters) = &self.0 else { return };
        let program = filters[class as usize].get_or_init(|| filter::program(class));
        violation::this_thread_is(class.name());
        if let Err(error) = seccompiler::apply_filter(program) {
            violation::cannot_confine(class.name(), &error);
        }
    }
}

/// Confines the calling thread, and every thread that it starts from now on, to launching guests and to
/// `files`. For a program that does nothing else, before it starts a thread that has to do with guests: those
/// that run already stay as they are. Returns what of `files` the kernel enforces.
///
/// A system call that launching guests does not need ends the process with a line on stderr and code 1, by
/// way of a handler for `SIGSYS`.
///
/// # Errors
///
/// [`Error::Host`] if this kernel has no seccomp filters, or refuses them.
pub fn confine(files: &Files<'_>) -> Result<Landlock, Error> {
    prepare()?;
    let landlock = files.enforce()?;
    violation::this_thread_is(Class::Control.name());
    seccompiler::apply_filter(&filter::program(Class::Control)).map_err(|error| refused(&error))?;
    Ok(landlock)
}

/// Sees to it that a violation will be seen, and that the kernel knows the action that makes it so. The
/// handler comes first: filters forbid to change it.
fn prepare() -> Result<(), Error> {
    const SECCOMP_GET_ACTION_AVAIL: libc::c_ulong = 2;
    let action: u32 = libc::SECCOMP_RET_TRAP;
    // SAFETY: the kernel reads four bytes from a pointer to as many.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) };
    if result != 0 {
        return Err(refused(&io::Error::last_os_error()));
    }
    violation::install_handler().map_err(|error| refused(&error))
}

fn refused(error: &dyn std::fmt::Display) -> Error {
    Error::Host(format!(
        "cannot confine threads with seccomp: {error}; --no-sandbox runs guests without"
    ))
}
