//! Which host CPUs threads run on.

use std::mem;

use libc::cpu_set_t;

use crate::error::Error;

/// CPUs that a `cpu_set_t` has room for.
const MOST: usize = 8 * size_of::<cpu_set_t>();

/// The host CPUs that this process may use, by number, ascending.
///
/// # Errors
///
/// [`Error::Host`] if the kernel does not tell.
pub fn allowed_cpus() -> Result<Vec<usize>, Error> {
    // SAFETY: all zeroes is the empty set.
    let mut set: cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: the pointer is valid for the size given.
    let result = unsafe { libc::sched_getaffinity(0, size_of::<cpu_set_t>(), &mut set) };
    if result != 0 {
        let error = std::io::Error::last_os_error();
        return Err(Error::Host(format!(
            "cannot tell which CPUs this process may use: {error}"
        )));
    }
    // SAFETY: below the set's size.
    Ok((0..MOST)
        .filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) })
        .collect())
}

/// Checks that threads can be bound to `cpus`.
pub(crate) fn check(cpus: &[usize]) -> Result<(), Error> {
    let allowed = allowed_cpus()?;
    match cpus.iter().find(|cpu| !allowed.contains(cpu)) {
        None if cpus.is_empty() => Err(Error::Usage("vCPUs need at least one host CPU".into())),
        None => Ok(()),
        Some(cpu) => Err(Error::Usage(format!(
            "host CPU {cpu} is not one that this process may use: {allowed:?}"
        ))),
    }
}

/// Lets the calling thread run on `cpus` only, which were checked. Returns whether the host let it.
pub(crate) fn bind_this_thread(cpus: &[usize]) -> bool {
    // SAFETY: all zeroes is the empty set.
    let mut set: cpu_set_t = unsafe { mem::zeroed() };
    for cpu in cpus.iter().filter(|cpu| **cpu < MOST) {
        // SAFETY: below the set's size.
        unsafe { libc::CPU_SET(*cpu, &mut set) };
    }
    // Fails if the CPUs were taken from the process since they were checked, or where the call itself is
    // forbidden, as some containers do. SAFETY: the pointer is valid for the size given.
    unsafe { libc::sched_setaffinity(0, size_of::<cpu_set_t>(), &set) == 0 }
}
