//! What a guest can ask for: accesses to any port, of any width, with garbage in the shared pages; and the
//! words that are found for the end it comes to.

use abi::interrupt;
use abi::port::{self, exit_code, measure};
use kvm_bindings::kvm_regs;

use super::{Input, Target};
use crate::cli::fuzz::idle;
use crate::config::{Config, PlantedFault};
use crate::console::Console;
use crate::control::Event;
use crate::diagnosis;
use crate::hypercall::{self, Next};
use crate::kernel::Kernel;
use crate::machine::{Cause, Crash, Machine};
use crate::vcpu::Place;

pub(super) const TARGET: Target = Target {
    name: "requests",
    run: |data| requests(data, None),
    seeds,
};

pub(super) const PLANTED: Target = Target {
    name: "planted",
    run: |data| requests(data, Some(PlantedFault::PanicAtRefusal)),
    // Nothing that is refused.
    seeds: || vec![encode(&[Request::Write(port::KICK_CPU, 0)])],
};

const VCPUS: u32 = 3;

enum Request {
    Write(u16, u32),
    Print(u8),
}

fn encode(requests: &[Request]) -> Vec<u8> {
    let mut input = Vec::new();
    for request in requests {
        match *request {
            Request::Write(port, value) => {
                input.extend([0, 1, 4]);
                input.extend(port.to_le_bytes());
                input.extend(value.to_le_bytes());
                input.extend([0; 4]);
            }
            Request::Print(byte) => {
                input.extend([0, 1, 1]);
                input.extend(port::CONSOLE.to_le_bytes());
                input.extend([byte, 0, 0, 0, 0, 0, 0, 0]);
            }
        }
    }
    input
}

fn seeds() -> Vec<Vec<u8>> {
    let ends = [
        exit_code::DONE,
        exit_code::PANIC,
        exit_code::FAULT,
        exit_code::NESTED_FAULT,
        9,
    ];
    let last_word = b"guest vCPU 1: panicked at a.rs:1:2: why\n".map(Request::Print);
    let mut seeds: Vec<_> = ends
        .iter()
        .map(|&code| {
            encode(&[
                Request::Write(port::KICK_CPU, 1),
                Request::Write(port::MEASURE, measure::BEGIN),
                Request::Write(port::MEASURE, measure::END),
                Request::Write(port::SEND_IPI, interrupt::ipi(interrupt::target::OTHERS, 40)),
                Request::Write(port::SEND_IPI, interrupt::ipi(interrupt::target::MASK, 40)),
                Request::Write(port::SET_TIMER, 40),
                Request::Write(port::PREEMPT_ME, 0),
                Request::Write(port::EXIT, code),
            ])
        })
        .collect();
    seeds.push([encode(&last_word), seeds[1].clone()].concat());
    seeds.push(encode(&[
        Request::Write(0x80, 0),
        Request::Write(port::KICK_CPU, 77),
    ]));
    seeds
}

fn requests(data: &[u8], planted: Option<PlantedFault>) {
    let mut input = Input(data);
    let machine = Machine::without_kvm(&Config {
        planted_fault: planted,
        ..idle(VCPUS)
    });
    let mut cause = None;
    while cause.is_none() && !input.is_empty() {
        cause = request(&machine, &mut input);
    }
    end(machine, cause.unwrap_or(Cause::Exit(exit_code::FAULT)));
}

/// One request; returns why the run is over, if it is.
fn request(machine: &Machine, input: &mut Input<'_>) -> Option<Cause> {
    let (kind, count, width, port) = (input.u8(), input.u8(), input.u8() % 9, input.u16());
    let mut bytes: [u8; 8] = input.take();
    let data = &mut bytes[..width.into()];
    let refused = machine.rejected();
    match kind % 4 {
        0 => {
            let known = [
                port::KICK_CPU,
                port::EXIT,
                port::MEASURE,
                port::SEND_IPI,
                port::SET_TIMER,
                port::PREEMPT_ME,
            ];
            let argument = <[u8; 4]>::try_from(&*data).map(u32::from_le_bytes);
            let next = hypercall::write(machine, 0, port, count.into(), data);
            // An IPI is refused for each of its targets that does not exist.
            let most = if port == port::SEND_IPI { 64 } else { 1 };
            assert!(
                machine.rejected() - refused <= most,
                "refused more often than asked"
            );
            match (next, argument) {
                (None, _) => {
                    let single = count == 1 && (width == 4 && known.contains(&port));
                    assert!(!single, "a hypercall that nobody knows");
                }
                (Some(Next::Exit(code)), Ok(argument)) => {
                    assert_eq!((port, code), (port::EXIT, argument));
                    return Some(Cause::Exit(code));
                }
                (Some(Next::Continue), argument) => {
                    assert_eq!(count, 1);
                    if let (port::KICK_CPU, Ok(vcpu)) = (port, argument) {
                        let latched = machine
                            .latches
                            .get(vcpu as usize)
                            .is_some_and(|latch| latch.clear());
                        assert_eq!(
                            latched,
                            machine.rejected() == refused,
                            "a kick is latched or refused"
                        );
                    }
                }
                (Some(next), _) => panic!("{next:?} in answer to a write"),
            }
        }
        1 => {
            let read = hypercall::read(machine, port, data);
            assert_eq!(read, Console::has(port) && width == 1);
        }
        2 => drop(machine.console.input(data)),
        // Garbage in a vCPU's page, of which the diagnosis reads some.
        _ => {
            let page = machine.layout.vcpu_pages.base + u64::from(port % 3) * abi::PAGE_SIZE;
            let garbage = u64::from_le_bytes(bytes);
            machine
                .memory
                .write_bytes(page + u64::from(count) * 8, &garbage.to_le_bytes())
                .expect("the layout's page is memory");
        }
    }
    None
}

/// The diagnosis of any end is bounded, and shows no control characters.
fn end(machine: Machine, cause: Cause) {
    let kernel = Kernel::embedded();
    let said = machine.console.last_word().unwrap_or_default();
    assert!(!said.contains(char::is_control), "{said:?}");
    let garbage = machine.memory.load_hint(machine.layout.vcpu_pages.base);
    let places = [
        Place::Halted,
        Place::Guest { rip: garbage },
        Place::Guest { rip: kernel.entry() },
    ];
    let crash = Cause::Crash(Crash {
        vcpu: 1,
        shutdown: garbage & 1 == 0,
        what: "did it".into(),
        registers: kvm_regs {
            rip: garbage,
            ..Default::default()
        },
    });
    let event = match cause {
        Cause::Exit(exit_code::VERSION) => Event::Timeout,
        Cause::Exit(exit_code::NESTED_FAULT) => {
            machine.end(crash);
            Event::Ended
        }
        cause => {
            machine.end(cause);
            Event::Ended
        }
    };
    let outcome = diagnosis::outcome(&machine, kernel, &idle(VCPUS), event, &places);
    let outcome = outcome.expect("the layout's report is memory");
    assert!(outcome.detail.len() < 20_000, "{}", outcome.detail.len());
    machine.console.output.finish();
}
