//! Builds the guest kernel with a nested cargo and tells the crate where it is, to embed it.
//!
//! The guest gets a target directory of its own, because the outer cargo holds the lock of the usual one; the
//! same toolchain, and the profile that the VMM is built with. It always uses the ordinary host target.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    let variable = |name: &str| env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let root = Path::new(&variable("CARGO_MANIFEST_DIR")).join("..");
    for source in ["guest", "pvlock", "mm", "vmm/abi", "Cargo.toml", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={}", root.join(source).display());
    }
    let target = variable("TARGET");
    assert!(
        target.starts_with("x86_64-") && target.contains("linux"),
        "pvlab runs on x86-64 Linux only"
    );

    let release = variable("PROFILE") == "release";
    let target_dir = PathBuf::from(variable("OUT_DIR")).join("guest-target");
    let mut cargo = Command::new(variable("CARGO"));
    // What the outer build was told (flags, wrappers, a target directory, a job server) is not meant for the
    // guest.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        let for_the_outer_build = name.starts_with("CARGO_") && !is_about_the_registry(&name)
            || name.starts_with("RUSTC")
            || name.ends_with("RUSTFLAGS")
            || name.starts_with("CLIPPY")
            || matches!(&*name, "MAKEFLAGS" | "MFLAGS" | "TARGET" | "PROFILE" | "OUT_DIR");
        if for_the_outer_build {
            cargo.env_remove(&*name);
        }
    }
    // Set, though empty: otherwise flags from the user's cargo configuration, such as a target CPU whose
    // vector registers the guest does not turn on, would apply.
    cargo
        .env("CARGO_ENCODED_RUSTFLAGS", "")
        .current_dir(&root)
        .args([
            "build",
            "--package",
            "guest",
            "--bin",
            "guest",
            "--target",
            &target,
            "--target-dir",
        ])
        .arg(&target_dir)
        .args(release.then_some("--release"));
    let status = cargo.status().expect("cargo can run itself");
    assert!(status.success(), "the guest kernel does not build");

    let image = target_dir
        .join(target)
        .join(if release { "release" } else { "debug" })
        .join("guest");
    assert!(
        fs::metadata(&image).is_ok(),
        "the guest kernel was built, but not to {}",
        image.display()
    );
    println!("cargo:rustc-env=PVLAB_GUEST_ELF={}", image.display());
}

/// Whether a variable of cargo's says where crates come from.
fn is_about_the_registry(name: &str) -> bool {
    [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "CARGO_SOURCE_",
    ]
    .iter()
    .any(|p| name.starts_with(p))
}
