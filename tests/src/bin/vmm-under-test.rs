//! The `vmm` binary once more: cargo tells a package's tests the paths of that package's own binaries only.

use std::process::ExitCode;

fn main() -> ExitCode {
    vmm::cli::main()
}
