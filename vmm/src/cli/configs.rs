//! From options to launches, on the host at hand.

use std::time::Duration;

use abi::config::Workload;

use crate::cli::args::{GuestArgs, GuestRing, KickName, RunArgs};
use crate::config::{Config, Kick, Ring, Spin};
use crate::error::Error;
use crate::host;
use crate::units::counted;

/// vCPUs for each CPU, unless the user says otherwise: enough for lock holders to be preempted all the time.
const VCPUS_PER_CPU: u32 = 4;

/// Guest memory, and how much of it each vCPU may need, in bytes.
const DEFAULT_MEMORY: u64 = 64 << 20;
const MEMORY_PER_VCPU: u64 = 256 << 10;

/// How much longer than the workload a run may take: booting tens of vCPUs on a busy host takes seconds.
const TIMEOUT_MARGIN: Duration = Duration::from_secs(30);

impl GuestArgs {
    /// A launch on this host that does nothing, for [`RunArgs::configs`] and its like to refine.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] for what the host can never do; [`Error::Host`] if it cannot run guests.
    pub(super) fn config(&self, default_timeout: Duration) -> Result<Config, Error> {
        let mut pcpus = host::allowed_cpus()?;
        // What is wrong on every host comes first.
        let allowed = pcpus.len();
        let wanted = self.pcpus.unwrap_or(allowed);
        if wanted == 0 || wanted > allowed {
            let cpus = counted(allowed as u64, "CPU");
            return Err(Error::Usage(format!(
                "--pcpus {wanted} is not possible: this process may use {cpus}; give a number from 1 to {allowed}"
            )));
        }
        pcpus.truncate(wanted);
        let most = host::max_vcpus()?;
        let default_vcpus = u32::try_from(wanted)
            .unwrap_or(u32::MAX)
            .saturating_mul(VCPUS_PER_CPU)
            .min(most);
        let vcpus = self.vcpus.unwrap_or(default_vcpus);
        if vcpus > most {
            return Err(Error::Usage(format!(
                "--vcpus {vcpus} is too many: this host's KVM runs up to {most} in a guest; give at most that"
            )));
        }
        let config = Config {
            vcpus,
            pcpus,
            pin: self.pin,
            memory: self
                .memory
                .unwrap_or(DEFAULT_MEMORY.max(u64::from(vcpus) * MEMORY_PER_VCPU)),
            guest_ring: self.guest_ring.into(),
            sandbox: !self.sandbox.no_sandbox,
            timeout: self.timeout.unwrap_or(default_timeout),
            ..Config::default()
        };
        Ok(config)
    }
}

impl RunArgs {
    /// One launch for each lock, in order; a single one if the workload takes no locks.
    ///
    /// # Errors
    ///
    /// As those of [`GuestArgs::config`].
    pub(super) fn configs(&self) -> Result<Vec<Config>, Error> {
        if self.yield_on_kick && self.kick != KickName::Pio {
            return Err(Error::Usage(
                "--yield-on-kick is for --kick pio: the VMM does not see the kicks of ioeventfd, and KVM's own yield \
                 anyway; leave it out"
                    .into(),
            ));
        }
        // A vCPU that is stopped at the end may be the one that the others wait for.
        let stopped = self
            .preemption
            .preempt
            .map_or(Duration::ZERO, |preempt| preempt.length);
        let base = self.guest.config(self.duration + stopped + TIMEOUT_MARGIN)?;
        let locks = match self.workload {
            Workload::Lock => self.lock.len(),
            _ => 1,
        };
        let with = |&lock| Config {
            workload: self.workload,
            lock,
            duration: self.duration,
            hold: self.hold,
            think: self.think,
            spin: self.spin.unwrap_or(Spin::Default),
            kick: self.kick.into(),
            halt_poll: self.halt_poll,
            yield_on_kick: self.yield_on_kick,
            rounds: self.rounds,
            preempt: self.preemption.preempt,
            neighbours: self.preemption.neighbours,
            seed: self.seed,
            exit_stats: self.stats,
            ..base.clone()
        };
        Ok(self.lock.iter().take(locks).map(with).collect())
    }
}

impl From<KickName> for Kick {
    fn from(name: KickName) -> Self {
        match name {
            KickName::Pio => Self::Pio,
            KickName::IoEventFd => Self::IoEventFd,
            KickName::Kvm => Self::Kvm,
        }
    }
}

impl From<GuestRing> for Option<Ring> {
    fn from(ring: GuestRing) -> Self {
        match ring {
            GuestRing::Auto => None,
            GuestRing::Zero => Some(Ring::Zero),
            GuestRing::Three => Some(Ring::Three),
        }
    }
}
