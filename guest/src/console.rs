//! The console: a 16550 whose transmitter is always ready, as the VMM's is.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use abi::port;

use crate::hypercall;

/// Writes to the console, a port access a byte.
pub(crate) struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            hypercall::out8(port::CONSOLE, byte);
        }
        Ok(())
    }
}

/// Writes to the console.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => {{
        use core::fmt::Write as _;
        // The console cannot fail; what could is a `Display` of ours, and then a part of the text is better
        // than none.
        let _ = $crate::console::Console.write_fmt(format_args!($($argument)*));
    }};
}

/// Writes a line to the console.
#[macro_export]
macro_rules! println {
    ($($argument:tt)*) => { $crate::print!("{}\n", format_args!($($argument)*)) };
}

/// Gives the console to the first vCPU that has a last word to say, for good: the run ends with it. Others
/// that come later sleep until then.
pub(crate) fn last_word() {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    // Relaxed: the flag hands over no data, and its own modification order picks exactly one winner.
    if TAKEN.swap(true, Ordering::Relaxed) {
        loop {
            hypercall::halt();
        }
    }
}
