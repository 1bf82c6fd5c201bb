//! A message as a line of output.
//!
//! *Invariant*: a message is one line, whatever its sender put into it: white space between the
//! tokens of JSON may hold line breaks, strings can't. Towards a terminal no control character
//! passes.

use crate::cli::console::push_printable;
use crate::cli::words::Heard;
use memchr::memchr2;
use std::io::{self, Write};

/// What of a message is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// The whole envelope, as JSON.
    Envelope,
    /// The payload alone, as JSON.
    Payload,
    /// Time, place, sender and payload, for a person.
    Pretty,
}

/// Prints messages in one style.
#[derive(Debug)]
pub(super) struct Printer {
    style: Style,
    is_terminal: bool,
    line: String,
}

impl Printer {
    /// A printer towards a terminal or not.
    pub(super) fn new(style: Style, is_terminal: bool) -> Printer {
        Printer { style, is_terminal, line: String::new() }
    }

    /// Prints a message: its text, and what was read of it.
    pub(super) fn print(
        &mut self,
        out: &mut dyn Write,
        text: &str,
        heard: &Heard<'_>,
    ) -> io::Result<()> {
        let part = match self.style {
            Style::Envelope => text,
            Style::Payload => heard.payload.get(),
            Style::Pretty => return self.print_pretty(out, heard),
        };
        if !self.is_terminal && memchr2(b'\n', b'\r', part.as_bytes()).is_none() {
            out.write_all(part.as_bytes())?;
            return out.write_all(b"\n");
        }
        self.line.clear();
        self.push_json(part);
        self.line.push('\n');
        out.write_all(self.line.as_bytes())
    }

    fn print_pretty(&mut self, out: &mut dyn Write, heard: &Heard<'_>) -> io::Result<()> {
        let [dim, bold, plain] =
            if self.is_terminal { ["\x1b[2m", "\x1b[1m", "\x1b[0m"] } else { [""; 3] };
        self.line.clear();
        // `2025-11-30T12:00:00.123456Z`: a person wants the time of day to the millisecond.
        let time = heard.timestamp.get(11..23).unwrap_or(&heard.timestamp);
        for (before, text, after) in [
            (dim, time, plain),
            (" ", &heard.room, ":"),
            ("", &heard.channel, " "),
            (bold, &heard.from, plain),
        ] {
            self.line.push_str(before);
            push_printable(&mut self.line, text);
            self.line.push_str(after);
        }
        self.line.push(' ');
        self.push_json(heard.payload.get());
        self.line.push('\n');
        out.write_all(self.line.as_bytes())
    }

    /// JSON on one line. A control character is either white space between tokens, for which a
    /// space will do, or one that JSON lets stand in a string, whose escape means the same.
    fn push_json(&mut self, text: &str) {
        for character in text.chars() {
            match character {
                '\n' | '\r' | '\t' => self.line.push(' '),
                _ if self.is_terminal && character.is_control() => {
                    self.line.push_str(&format!("\\u{:04x}", u32::from(character)));
                }
                _ => self.line.push(character),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "{\"version\":\"1.0\",\"timestamp\":\"2025-11-30T12:00:00.123456Z\",\
        \"id\":\"arq_1\",\"from\":\"ann\",\"type\":\"event\",\"room\":\"r\",\"channel\":\"c\",\
        \"payload\":{\"a\":\r\n\"x\u{9b}y\"}}";

    fn printed(style: Style, is_terminal: bool) -> String {
        let mut out = Vec::new();
        let heard = Heard::read(TEXT).unwrap();
        Printer::new(style, is_terminal).print(&mut out, TEXT, &heard).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_style_is_one_line() {
        assert_eq!(printed(Style::Payload, false), "{\"a\":  \"x\u{9b}y\"}\n");
        assert_eq!(printed(Style::Payload, true), "{\"a\":  \"x\\u009by\"}\n");
        assert_eq!(printed(Style::Pretty, false), "12:00:00.123 r:c ann {\"a\":  \"x\u{9b}y\"}\n");
        for is_terminal in [false, true] {
            let line = printed(Style::Envelope, is_terminal);
            assert_eq!(line.matches('\n').count(), 1);
            let (value, same): (serde_json::Value, serde_json::Value) =
                (serde_json::from_str(&line).unwrap(), serde_json::from_str(TEXT).unwrap());
            assert_eq!(value, same, "the same JSON on one line");
        }
    }

    #[test]
    fn colours_are_for_terminals() {
        assert!(printed(Style::Pretty, true).contains("\x1b[1mann\x1b[0m"));
        assert!(!printed(Style::Pretty, false).contains('\x1b'));
    }
}
