//! What this host offers.

use std::ffi::CStr;
use std::mem;

use kvm_ioctls::Kvm;

pub use crate::affinity::allowed_cpus;
use crate::config::Config;
use crate::error::Error;
use crate::hardware::Hardware;
use crate::kernel::Kernel;
pub use crate::probe::Ring0;
use crate::transport::Transport;

/// Memory of the guest that is created to look at the host.
const SMALL: u64 = 16 << 20;

/// What matters to a guest.
#[derive(Clone, Debug)]
pub struct Facts {
    /// How ring 0 runs.
    pub ring0: Ring0,
    /// Most vCPUs a guest can have.
    pub max_vcpus: u32,
    /// Frequency of the guest's TSC in kHz.
    pub tsc_khz: u64,
    /// Release of the host's kernel.
    pub kernel: String,
}

/// Looks at the host, with a guest that is never started.
///
/// # Errors
///
/// [`Error::Host`] if it cannot run guests, with what to do about it.
pub fn facts() -> Result<Facts, Error> {
    let config = Config {
        memory: SMALL,
        vcpus: 1,
        ..Config::default()
    };
    let vm = Hardware::create(&config, Kernel::embedded(), &Transport::default())?;
    Ok(Facts {
        max_vcpus: max_vcpus()?,
        tsc_khz: vm.start.boot.tsc_khz,
        ring0: vm.ring0()?,
        kernel: kernel_release(),
    })
}

/// Most vCPUs a guest can have.
pub(crate) fn max_vcpus() -> Result<u32, Error> {
    Ok(u32::try_from(open_kvm()?.get_max_vcpus()).unwrap_or(u32::MAX))
}

/// Release of the host's kernel.
pub(crate) fn kernel_release() -> String {
    // SAFETY: plain bytes, for which zeroes are valid.
    let mut names: libc::utsname = unsafe { mem::zeroed() };
    // SAFETY: the pointer is valid for the structure. Should it fail, the release is empty.
    unsafe { libc::uname(&mut names) };
    let release = names.release.map(|character| character as u8);
    CStr::from_bytes_until_nul(&release)
        .map(|release| release.to_string_lossy().into())
        .unwrap_or_default()
}

/// Opens `/dev/kvm`.
pub(crate) fn open_kvm() -> Result<Kvm, Error> {
    let kvm = Kvm::new().map_err(|error| {
        let advice = match error.errno() {
            libc::ENOENT | libc::ENXIO | libc::ENODEV => {
                "load the kvm_intel or kvm_amd module, turn virtualisation on in the firmware, or give the container \
                 the device"
            }
            libc::EACCES | libc::EPERM => "join the group that owns it, usually kvm, or run as root",
            _ => "see the kernel's log",
        };
        Error::Host(format!("cannot open /dev/kvm ({error}): {advice}"))
    })?;
    match kvm.get_api_version() {
        12 => Ok(kvm),
        _ => Err(Error::Host(
            "/dev/kvm is not a KVM that speaks version 12 of its API: see what device that is".into(),
        )),
    }
}
