//! The guest's console: vm-superio's 16550.

use std::convert::Infallible;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::output::Output;
use abi::port;
use vm_superio::serial::SerialEvents;
use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// What the guest's last words begin with, by agreement with nobody: another kernel's are just not found.
const LAST_WORD: &str = "guest vCPU ";

/// The console device, shared by all vCPU threads.
pub(crate) struct Console {
    serial: Mutex<Device>,
    pub(crate) output: Arc<Output>,
    /// Readable when the control side has something to do: the guest has read all input there was, so that
    /// there is room for more; or its output needs a thread to write it.
    pub(crate) attention: Arc<EventFd>,
}

type Device = Serial<NoInterrupt, InputRead, Queued>;

/// The guest polls; there are no interrupts.
struct NoInterrupt;

impl Trigger for NoInterrupt {
    type E = Infallible;
    fn trigger(&self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// Tells when the guest has read all input; the rest of what a 16550 can tell interests nobody.
struct InputRead(Arc<EventFd>);

impl SerialEvents for InputRead {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {
        // Fails only if the counter is full, and then it is readable as well.
        let _ = self.0.write(1);
    }
}

/// Passes output on.
struct Queued(Arc<Output>);

impl Write for Queued {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Console {
    /// A console whose output waits until something is [attached](Output::attach) to write it to.
    pub(crate) fn new() -> io::Result<Self> {
        let attention = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        let events = InputRead(attention.clone());
        let output = Arc::new(Output::new(attention.clone()));
        Ok(Self {
            serial: Mutex::new(Serial::with_events(NoInterrupt, events, Queued(output.clone()))),
            output,
            attention,
        })
    }

    fn serial(&self) -> MutexGuard<'_, Device> {
        // A writer that panicked leaves a device that still works.
        self.serial.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the console answers at `port`.
    pub(crate) fn has(port: u16) -> bool {
        (port::CONSOLE..port::CONSOLE + port::CONSOLE_LEN).contains(&port)
    }

    /// The guest writes `value` to `port`, one of the console's.
    pub(crate) fn write(&self, port: u16, value: u8) {
        // Before the device is locked: who waits for the user must not hold up anybody else.
        self.output.wait_for_room();
        // Neither the interrupt nor the queue can fail.
        let _ = self.serial().write((port - port::CONSOLE) as u8, value);
    }

    /// The guest reads `port`, one of the console's.
    pub(crate) fn read(&self, port: u16) -> u8 {
        self.serial().read((port - port::CONSOLE) as u8)
    }

    /// Gives the guest input; returns how much of it the device had room for.
    pub(crate) fn input(&self, bytes: &[u8]) -> usize {
        let mut serial = self.serial();
        let room = serial.fifo_capacity().min(bytes.len());
        serial.enqueue_raw_bytes(&bytes[..room]).unwrap_or(0)
    }

    /// The line in which the guest said why it ends, if it said so; control characters are escaped.
    pub(crate) fn last_word(&self) -> Option<String> {
        let text = self.output.recent();
        let start = text.rfind(LAST_WORD)?;
        let line = text[start..].lines().next()?;
        Some(
            line.trim()
                .chars()
                .map(|c| {
                    if c.is_control() {
                        c.escape_default().to_string()
                    } else {
                        c.into()
                    }
                })
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_the_last_word() {
        let console = Console::new().unwrap();
        assert_eq!(console.last_word(), None);
        for byte in "noise\n"
            .repeat(10_000) // less than there is room for: nobody writes it
            .bytes()
            .chain(*b"guest vCPU 3: panicked at a.rs:1:2: \x1b[2J why\nmore\n")
        {
            console.write(port::CONSOLE, byte);
        }
        assert_eq!(
            console.last_word().unwrap(),
            "guest vCPU 3: panicked at a.rs:1:2: \\u{1b}[2J why"
        );
    }
}
