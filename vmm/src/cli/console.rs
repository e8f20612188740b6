//! What guests wrote to their console: kept aside, and shown only if the run fails.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::cli::failure::printable;

/// Most bytes that are kept.
const LIMIT: usize = 64 * 1024;

/// The end of a console's output, up to 64 KiB. Clones share it, so that a guest can write one.
#[derive(Clone, Debug, Default)]
pub(super) struct Tail(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    bytes: VecDeque<u8>,
    dropped: bool,
}

impl Tail {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows it on stderr, each line marked as the guest's.
    pub(super) fn show(&self) {
        let mut stderr = io::stderr().lock();
        for line in self.lines() {
            // Nobody is left to hear that stderr is closed.
            let _ = writeln!(stderr, "guest: {line}");
        }
    }

    /// Its lines, with everything escaped that could do something to a terminal.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut kept = self.kept();
        let mut lines = Vec::new();
        if kept.dropped {
            lines.push(format!("[all but the last {} KiB dropped]", LIMIT / 1024));
        }
        let bytes = kept.bytes.make_contiguous();
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        if !bytes.is_empty() {
            lines.extend(bytes.split(|&byte| byte == b'\n').map(visible));
        }
        lines
    }
}

impl Write for Tail {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut kept = self.kept();
        kept.bytes.extend(bytes);
        let excess = kept.bytes.len().saturating_sub(LIMIT);
        if excess > 0 {
            kept.bytes.drain(..excess);
            kept.dropped = true;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn visible(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut text = String::with_capacity(line.len());
    for chunk in line.utf8_chunks() {
        text.push_str(&printable(chunk.valid()));
        text.extend(chunk.invalid().escape_ascii().map(char::from));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(writes: &[&[u8]]) -> Tail {
        let mut tail = Tail::default();
        for write in writes {
            tail.write_all(write).expect("memory takes everything");
        }
        tail
    }

    #[test]
    fn lines_are_shown_as_written() {
        let panic = "panicked at 'x', src/main.rs:1:2:\r\nµ \\ \"quoted\"\n";
        assert_eq!(
            tail(&[panic.as_bytes()]).lines(),
            ["panicked at 'x', src/main.rs:1:2:", "µ \\ \"quoted\""]
        );
        assert_eq!(tail(&[b"half", b" a line"]).lines(), ["half a line"]);
        assert_eq!(tail(&[b"a\n", b"\n", b"b\n"]).lines(), ["a", "", "b"]);
        assert!(tail(&[]).lines().is_empty());
    }

    #[test]
    fn terminals_are_safe_from_guests() {
        assert_eq!(
            tail(&[b"\x1b]0;title\x07\x08\x9b31m\xff"]).lines(),
            [r"\u{1b}]0;title\u{7}\u{8}\x9b31m\xff"]
        );
    }

    #[test]
    fn only_the_end_is_kept() {
        let mut tail = tail(&[&[b'a'; LIMIT], b"b"]);
        assert_eq!(tail.kept().bytes.len(), LIMIT);
        for _ in 0..10 {
            tail.write_all(&[b'c'; LIMIT + 1])
                .expect("memory takes everything");
        }
        let lines = tail.lines();
        assert_eq!((lines.len(), lines[1].len()), (2, LIMIT));
        assert!(lines[0].contains("64 KiB"));
    }
}
