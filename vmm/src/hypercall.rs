//! What the guest's port accesses do.

use abi::port::{self, measure};

use crate::console::Console;
use crate::machine::Machine;

/// What a vCPU does after an exit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Continue,
    /// The guest ends the run, with this code.
    Exit(u32),
    /// It cannot go on: the processor shut down.
    Shutdown,
    /// It cannot go on: what it did.
    Unexpected(String),
}

/// The guest writes `data` to `port`; `None` if there is no such thing as that port, accessed so.
pub(crate) fn write(machine: &Machine, port: u16, data: &[u8]) -> Option<Next> {
    if let ([value], true) = (data, Console::has(port)) {
        machine.console.write(port, *value);
        return Some(Next::Continue);
    }
    let argument = u32::from_le_bytes(data.try_into().ok()?);
    match port {
        port::KICK_CPU => kick(machine, argument),
        port::EXIT => return Some(Next::Exit(argument)),
        port::MEASURE => measure(machine, argument),
        _ => return None,
    }
    Some(Next::Continue)
}

/// The guest reads from `port` into `data`; returns whether there is such a port.
pub(crate) fn read(machine: &Machine, port: u16, data: &mut [u8]) -> bool {
    if let ([value], true) = (data, Console::has(port)) {
        *value = machine.console.read(port);
        return true;
    }
    false
}

/// `KICK_CPU`: an index that no vCPU has is refused.
fn kick(machine: &Machine, index: u32) {
    match machine.latches.get(index as usize) {
        Some(latch) => latch.kick(),
        None => machine.reject(),
    }
}

/// `MEASURE`: each edge counts once.
fn measure(machine: &Machine, edge: u32) {
    let accepted = match edge {
        measure::BEGIN => machine.accounts.begin(),
        measure::END => machine.accounts.end(),
        _ => false,
    };
    if !accepted {
        machine.reject();
    }
}
