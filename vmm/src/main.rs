//! The `vmm` binary; all of it is in [`vmm::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    vmm::cli::main()
}

/// C's `pow`, which indicatif calls for its estimate of a rate. In the C library it is in a shared object of
/// its own, and loading that would take a thirtieth of the time from the program's start to the guest's.
// SAFETY: of the name, which C gives to this very function: x to the power of y.
#[unsafe(no_mangle)]
extern "C" fn pow(x: f64, y: f64) -> f64 {
    libm::pow(x, y)
}
