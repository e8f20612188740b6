//! What happens to a thread that makes a system call which its filter forbids: the process says so and ends.
//!
//! The call is not made. The kernel sends the thread SIGSYS instead, and nothing in this process blocks
//! that; where somebody does, the kernel kills the process.

use std::cell::Cell;
use std::fmt::Display;
use std::io::{self, Write};
use std::sync::OnceLock;

use libc::{c_int, c_void, siginfo_t, ucontext_t};
use vmm_sys_util::signal::register_signal_handler;

/// The process's exit code: that of a run that failed.
const CODE: c_int = 1;

/// `si_code` of a SIGSYS that a filter raised.
const SYS_SECCOMP: c_int = 1;

thread_local! {
    /// The calling thread's class. Without a destructor and initialised at compile time, so that the
    /// handler may use it at any moment of the thread's life.
    static CLASS: Cell<&'static str> = const { Cell::new("control") };
}

/// Names the calling thread's class, for the message.
pub(super) fn this_thread_is(class: &'static str) {
    CLASS.set(class);
}

/// Installs the handler, for the whole process, once.
pub(super) fn install_handler() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    INSTALLED
        .get_or_init(|| register_signal_handler(libc::SIGSYS, handle).map_err(|error| error.errno()))
        .map_err(io::Error::from_raw_os_error)
}

/// Ends the process because a thread cannot be confined.
pub(super) fn cannot_confine(class: &str, error: &dyn Display) -> ! {
    end(format_args!(
        "vmm: cannot confine a thread of class {class}: {error}; free some memory, or use --no-sandbox"
    ))
}

extern "C" fn handle(_: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel hands a handler installed with SA_SIGINFO a valid siginfo.
    if unsafe { (*info).si_code } != SYS_SECCOMP {
        end(format_args!("vmm: ended by SIGSYS, which some process sent"));
    }
    // SAFETY: likewise, and a valid context, in which the registers are those at the system call.
    let registers = unsafe { &(*context.cast::<ucontext_t>()).uc_mcontext.gregs };
    let [call, a, b, c] =
        [libc::REG_RAX, libc::REG_RDI, libc::REG_RSI, libc::REG_RDX].map(|it| registers[it as usize]);
    end(format_args!(
        "vmm: thread class {} made system call {call} ({a:#x}, {b:#x}, {c:#x}), which its filter forbids: this is a bug, \
         please report it; --no-sandbox runs without filters",
        CLASS.get()
    ))
}

/// Writes a line to stderr and ends the process. Usable in a signal handler: formats into a buffer on the
/// stack, takes no lock, allocates nothing, and makes system calls that every filter allows.
fn end(message: std::fmt::Arguments<'_>) -> ! {
    let mut line = [0; 400];
    let mut rest = &mut line[..];
    // A message that is too long is cut off.
    let _ = rest.write_fmt(message).and_then(|()| rest.write_all(b"\n"));
    let free = rest.len();
    // SAFETY: the pointer is valid for that many bytes. Nobody is left to hear that it cannot be written.
    unsafe { libc::write(libc::STDERR_FILENO, line.as_ptr().cast(), line.len() - free) };
    // SAFETY: ends the process at once, without running anything of it.
    unsafe { libc::_exit(CODE) }
}
