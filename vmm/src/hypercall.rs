//! What the guest's port accesses do.

use std::thread;

use abi::interrupt::{self, NMI, target};
use abi::port::{self, measure};
use abi::vcpu_page::VcpuPage;

use crate::config::Kick;
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

/// The guest writes `data` to `port`, on `vcpu`, in `count` accesses; `None` if there is no such thing as
/// that port, accessed so.
pub(crate) fn write(machine: &Machine, vcpu: u32, port: u16, count: u32, data: &[u8]) -> Option<Next> {
    // KVM may report a string of writes at once; four of a byte are not one of 32 bits.
    if count != 1 {
        return None;
    }
    if let ([value], true) = (data, Console::has(port)) {
        machine.console.write(port, *value);
        return Some(Next::Continue);
    }
    let argument = u32::from_le_bytes(data.try_into().ok()?);
    match port {
        port::KICK_CPU => kick(machine, argument),
        port::EXIT => return Some(Next::Exit(argument)),
        port::MEASURE => measure(machine, argument),
        port::SEND_IPI => send_ipi(machine, vcpu, argument),
        port::SET_TIMER => set_timer(machine, vcpu, argument),
        port::PREEMPT_ME => preempt_me(machine, vcpu, argument),
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

/// `KICK_CPU`: refused for an index that no vCPU has, and where halted vCPUs sleep in KVM, out of its reach.
fn kick(machine: &Machine, index: u32) {
    match machine.latches.get(index as usize) {
        Some(latch) if machine.kick != Kick::Kvm => latch.kick(),
        _ => return machine.reject(),
    }
    if machine.yield_on_kick {
        // The woken thread may have been put on this very CPU's queue; which thread gets the CPU is the
        // scheduler's choice.
        thread::yield_now();
    }
}

/// `MEASURE`: each edge counts once.
fn measure(machine: &Machine, edge: u32) {
    let accepted = match edge {
        measure::BEGIN => machine.accounts.begin(),
        measure::END => machine.accounts.end(),
        measure::SYNC => machine.hints.sync(),
        _ => false,
    };
    match (accepted, edge) {
        (false, _) => machine.reject(),
        (_, measure::BEGIN) => machine.preemption.begin(),
        (_, measure::END) => machine.preemption.end(),
        _ => {}
    }
}

/// `PREEMPT_ME`: only what was offered can be taken.
fn preempt_me(machine: &Machine, vcpu: u32, argument: u32) {
    if argument != 0 || !machine.preemption.take(machine, vcpu) {
        machine.reject();
    }
}

/// `SEND_IPI`: a vector that is neither external nor the NMI is refused, and so is each target that is no
/// vCPU.
fn send_ipi(machine: &Machine, sender: u32, argument: u32) {
    let [vector, ..] = argument.to_le_bytes();
    if vector != NMI && !interrupt::is_external(vector) {
        return machine.reject();
    }
    match argument >> 8 {
        target::OTHERS => (0..machine.interrupts.len() as u32)
            .filter(|index| *index != sender)
            .for_each(|index| machine.deliver(index, vector)),
        target::MASK => {
            let field = |offset| machine.layout.vcpu_page(sender) + offset as u64;
            // The sender wrote them before its `out`, and it is in that.
            let mask: u64 = machine
                .memory
                .load_hint(field(std::mem::offset_of!(VcpuPage, ipi_mask)));
            let base: u32 = machine
                .memory
                .load_hint(field(std::mem::offset_of!(VcpuPage, ipi_base)));
            (0..u64::BITS)
                .filter(|bit| mask & 1 << bit != 0)
                .for_each(|bit| machine.deliver(base.saturating_add(bit), vector));
        }
        index => machine.deliver(index, vector),
    }
}

/// `SET_TIMER`: a vector that is not external is refused.
fn set_timer(machine: &Machine, vcpu: u32, argument: u32) {
    match u8::try_from(argument) {
        Ok(vector) if interrupt::is_external(vector) => {
            let field = std::mem::offset_of!(VcpuPage, deadline) as u64;
            let deadline: u64 = machine.memory.load_hint(machine.layout.vcpu_page(vcpu) + field);
            machine
                .timers
                .set(vcpu, (deadline != 0).then_some(deadline), vector);
        }
        _ => machine.reject(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fuzz::idle;

    const CALLS: [u16; 6] = [
        port::KICK_CPU,
        port::EXIT,
        port::MEASURE,
        port::SEND_IPI,
        port::SET_TIMER,
        port::PREEMPT_ME,
    ];

    #[test]
    fn only_single_accesses_of_the_right_width_are_hypercalls() {
        let machine = Machine::without_kvm(&idle(2));
        for port in 0..=u16::MAX {
            let call = CALLS.contains(&port);
            let console = Console::has(port);
            for (count, width) in [
                (1, 1),
                (1, 2),
                (1, 4),
                (2, 2),
                (4, 1),
                (0, 4),
                (2, 4),
                (1, 0),
                (1, 8),
            ] {
                let data = &[0; 8][..width as usize];
                let taken = write(&machine, 0, port, count, data).is_some();
                let expected = count == 1 && (call && width == 4 || console && width == 1);
                assert_eq!(taken, expected, "{count} of {width} bytes to {port:#x}");
                let taken = read(&machine, port, &mut [0; 8][..width as usize]);
                assert_eq!(taken, console && width == 1, "{width} bytes from {port:#x}");
            }
        }
    }

    #[test]
    fn arguments_that_make_no_sense_are_counted() {
        let machine = Machine::without_kvm(&idle(2));
        let call = |port, argument: u32| write(&machine, 0, port, 1, &argument.to_le_bytes());
        for absent in [2, 3, u32::MAX] {
            assert_eq!(call(port::KICK_CPU, absent), Some(Next::Continue));
        }
        assert_eq!(machine.rejected(), 3);
        call(port::KICK_CPU, 1);
        // The end before the beginning, edges that do not exist, and each of the two again.
        for edge in [
            measure::END,
            3,
            measure::BEGIN,
            measure::BEGIN,
            measure::END,
            measure::END,
        ] {
            call(port::MEASURE, edge);
        }
        assert_eq!(machine.rejected(), 3 + 4);
        assert_eq!(call(port::EXIT, 77), Some(Next::Exit(77)));
    }
}
