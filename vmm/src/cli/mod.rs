//! The command line of `vmm`.
//!
//! | module | what it does |
//! |---|---|
//! | `args`, `usage` | what users can ask for, and what they hear if they ask for something else |
//! | `configs` | what that means on this host |
//! | `run`, `doctor`, `list`, `boot` | the subcommands |
//! | `summary`, `verdict`, `exits` | results as text: the table, what it means, and what it cost |
//! | `output` | where results go |
//! | `guest` | launching a guest of which only the result is to be seen |
//! | `console`, `escape`, `flood`, `progress` | what is seen of it meanwhile, and what is not |
//! | `confinement` | what the process gives up before it launches guests |
//! | `fuzz` | fuzz targets of all that |
//! | `signals` | how it is stopped |
//! | `failure` | how it fails: messages and exit codes |

mod args;
mod boot;
mod configs;
mod confinement;
mod console;
mod doctor;
mod escape;
mod exits;
mod failure;
mod flood;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod guest;
mod list;
mod output;
mod progress;
mod run;
mod signals;
mod summary;
mod usage;
mod verdict;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use failure::{Failure, say};

use crate::cpuid;

/// Does what the process's arguments ask for, and returns the process's exit code.
pub fn main() -> ExitCode {
    raise_descriptor_limit();
    share_one_heap();
    // Before the arguments are taken apart, which takes a while, too.
    if std::env::args_os().nth(1).is_some_and(|command| command == "run") {
        cpuid::ask_ahead();
    }
    let done = match Cli::try_parse() {
        Ok(cli) => match cli.command {
            Command::Run(args) => run::run(&args),
            Command::Doctor(args) => doctor::doctor(&args),
            Command::List => list::list(),
            Command::Boot(args) => boot::boot(&args),
        },
        Err(error) => usage::answer(&error),
    };
    done.unwrap_or_else(|failure: Failure| {
        say(&failure.to_string());
        failure.exit_code()
    })
}

/// Every vCPU takes a few descriptors, and the usual soft limit is for programs that use `select`.
fn raise_descriptor_limit() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer is valid for a limit.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0 {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: as above. If it fails, the limit stays as it is, and a guest that is too large says so.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    }
}

/// A heap for each thread is for programs that allocate all the time. A vCPU's thread hardly ever does, and
/// setting up its heap would take as long as anything else that the thread does before its guest runs.
fn share_one_heap() {
    // SAFETY: no other thread runs yet. If it fails, there are more heaps.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}
