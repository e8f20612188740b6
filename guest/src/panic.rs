//! A panic tells the user where and why, and ends the run.

use core::panic::PanicInfo;

use abi::port::exit_code;

use crate::cpu::Cpu;
use crate::{console, hypercall, println};

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    // A fault, or another panic, from here on is not worth a report of its own.
    if Cpu::current().enter_fault() {
        hypercall::exit(exit_code::NESTED_FAULT);
    }
    console::last_word();
    let index = Cpu::current().index();
    match info.location() {
        Some(place) => println!("guest vCPU {index}: panicked at {place}: {}", info.message()),
        None => println!("guest vCPU {index}: panicked: {}", info.message()),
    }
    hypercall::exit(exit_code::PANIC)
}
