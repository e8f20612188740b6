//! A guest's console output, made safe for a terminal.

use std::io::{self, Write};
use std::str;

use crate::cli::failure::printable;

/// Passes text on to `out` with everything escaped that could do more to a terminal than show a character:
/// control characters other than newline and tab, invisible ones, and bytes that are no UTF-8. A carriage
/// return is dropped before a newline.
///
/// A prompt is not held back; only what could still become something else is: part of a character, a
/// carriage return.
#[derive(Debug)]
pub(super) struct Escape<W: Write> {
    out: W,
    /// The bytes of a character that is not complete yet, or a carriage return.
    held: Vec<u8>,
}

impl<W: Write> Escape<W> {
    pub(super) fn new(out: W) -> Self {
        Self {
            out,
            held: Vec::new(),
        }
    }

    /// Makes `held` visible, but for an end that more bytes could change, unless this is the `end`.
    fn take_visible(&mut self, end: bool) -> String {
        let mut visible = String::new();
        let mut rest = &self.held[..];
        loop {
            let (valid, bad) = match str::from_utf8(rest) {
                Ok(text) => (text, 0),
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    let bad = error.error_len().unwrap_or(if end { after.len() } else { 0 });
                    (str::from_utf8(valid).unwrap_or_default(), bad)
                }
            };
            rest = &rest[valid.len()..];
            let unfinished = if end || !rest.is_empty() { "" } else { "\r" };
            let complete = valid.strip_suffix(unfinished).unwrap_or(valid);
            if complete.len() < valid.len() {
                rest = b"\r";
            }
            push_visible(&mut visible, complete);
            if bad == 0 {
                break;
            }
            visible.extend(rest[..bad].escape_ascii().map(char::from));
            rest = &rest[bad..];
        }
        self.held = rest.to_vec();
        visible
    }
}

/// Appends whole characters.
fn push_visible(visible: &mut String, text: &str) {
    for piece in text.replace("\r\n", "\n").split_inclusive(['\n', '\t']) {
        let end = piece.trim_end_matches(['\n', '\t']).len();
        visible.push_str(&printable(&piece[..end]));
        visible.push_str(&piece[end..]);
    }
}

impl<W: Write> Write for Escape<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.held.extend(bytes);
        let visible = self.take_visible(false);
        self.out.write_all(visible.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl<W: Write> Drop for Escape<W> {
    fn drop(&mut self) {
        let visible = self.take_visible(true);
        // Whoever cares about errors has looked at those of the writes before.
        let _ = self
            .out
            .write_all(visible.as_bytes())
            .and_then(|()| self.out.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of `bytes`, written in pieces of `size`.
    fn escaped(bytes: &[u8], size: usize) -> String {
        let mut out = Vec::new();
        let mut escape = Escape::new(&mut out);
        for piece in bytes.chunks(size) {
            assert_eq!(escape.write(piece).expect("memory takes everything"), piece.len());
        }
        drop(escape);
        String::from_utf8(out).expect("all of it is visible, and so UTF-8")
    }

    #[test]
    fn however_it_is_cut_no_control_reaches_the_terminal() {
        let cases: [(&[u8], &str); 9] = [
            ("µ \\ \"quoted\"\n\ttab ✓".as_bytes(), "µ \\ \"quoted\"\n\ttab ✓"),
            (b"\x1b[2J\x1b]0;title\x07", r"\u{1b}[2J\u{1b}]0;title\u{7}"),
            ("\u{9b}31m\u{202e}".as_bytes(), r"\u{9b}31m\u{202e}"),
            (b"\x9b31m\xff\xe2\x28", r"\x9b31m\xff\xe2("),
            (b"one\r\ntwo\r\r\n", "one\ntwo\\r\n"),
            (b"100 %\rspoofed\r", "100 %\\rspoofed\\r"),
            (b"\x08\x7f\0", r"\u{8}\u{7f}\0"),
            (b"\r\xff\r", r"\r\xff\r"),
            (b"cut \xe2\x9c", r"cut \xe2\x9c"),
        ];
        for (bytes, visible) in cases {
            for size in 1..=bytes.len() {
                assert_eq!(escaped(bytes, size), visible, "in pieces of {size}");
            }
        }
    }

    #[test]
    fn prompts_are_not_held_back() {
        let mut out = Vec::new();
        let mut escape = Escape::new(&mut out);
        escape.write_all(b"login: ").expect("memory takes everything");
        assert_eq!(escape.out, b"login: ");
    }
}
