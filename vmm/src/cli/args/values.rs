//! Values of options, from what users write. Errors are what clap puts behind "invalid value '…' for
//! '--option':".

use abi::config::{LockKind, Workload};

use crate::config::Spin;
use crate::units::parse_duration;

pub(super) fn parse_lock(text: &str) -> Result<LockKind, String> {
    LockKind::ALL
        .iter()
        .copied()
        .find(|lock| lock.name() == text)
        .ok_or_else(|| {
            let known: Vec<_> = LockKind::ALL.iter().map(|lock| lock.name()).collect();
            format!("no such lock; there are {}", known.join(", "))
        })
}

pub(super) fn parse_workload(text: &str) -> Result<Workload, String> {
    Workload::ALL
        .iter()
        .copied()
        .find(|workload| workload.name() == text)
        .ok_or_else(|| {
            let known: Vec<_> = Workload::ALL.iter().map(|workload| workload.name()).collect();
            format!("no such workload; there are {}", known.join(", "))
        })
}

pub(super) fn parse_spin(text: &str) -> Result<Spin, String> {
    match text {
        "auto" => Ok(Spin::Auto),
        _ => parse_duration(text)
            .map(Spin::Fixed)
            .map_err(|error| format!("neither 'auto' nor a duration: {error}")),
    }
}

pub(super) fn parse_vcpus(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(0) => Err("a guest needs at least 1 vCPU".into()),
        Ok(vcpus) => Ok(vcpus),
        Err(_) => Err("it has to be a number from 1 to what KVM can do ('vmm doctor' tells)".into()),
    }
}
