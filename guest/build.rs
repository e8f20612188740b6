//! Links the kernel as a freestanding static ELF at a fixed address.

fn main() {
    println!("cargo:rerun-if-changed=link.ld");
    for argument in [
        // Cargo links in the workspace's root. Said so, because a checkout that is moved stays built.
        "-Tguest/link.ld",
        "-nostartfiles",
        "-nostdlib",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,-z,noexecstack",
        // Pages of one protection only: what the VMM maps is what the segments say.
        "-Wl,-z,max-page-size=4096",
        "-Wl,-z,norelro",
    ] {
        println!("cargo:rustc-link-arg-bins={argument}");
    }
}
