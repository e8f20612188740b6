//! The `vmm` binary; all of it is in [`vmm::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    vmm::cli::main()
}
