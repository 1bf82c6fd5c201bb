//! What a JSON string says once its escapes are resolved.
//!
//! *Panics*: the scanner has checked every escape, so each is complete and ends at the start of a
//! character.

use memchr::memchr;
use std::borrow::Cow;

/// What stands between the quotes of a JSON string that the scanner has checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text<'a> {
    raw: &'a str,
    escaped: bool,
}

impl<'a> Text<'a> {
    pub(super) fn new(raw: &'a str, escaped: bool) -> Text<'a> {
        Text { raw, escaped }
    }

    /// What the string says. Borrowed, unless it holds escapes.
    #[inline]
    pub fn get(self) -> Cow<'a, str> {
        if self.escaped { Cow::Owned(self.unescaped()) } else { Cow::Borrowed(self.raw) }
    }

    #[cold]
    fn unescaped(self) -> String {
        let mut text = String::with_capacity(self.raw.len());
        self.unescape_into(&mut text);
        text
    }

    /// Appends what the string says.
    pub(super) fn unescape_into(self, out: &mut String) {
        let mut rest = self.raw;
        while let Some(at) = memchr(b'\\', rest.as_bytes()) {
            out.push_str(&rest[..at]);
            let (char, length) = escaped_char(&rest.as_bytes()[at..]);
            out.push(char);
            rest = &rest[at + length..];
        }
        out.push_str(rest);
    }
}

/// Four hex digits as a number.
#[inline]
pub(super) fn hex4(bytes: &[u8]) -> Option<u16> {
    let digits = bytes.first_chunk::<4>()?;
    digits.iter().try_fold(0, |value, &byte| {
        let digit = char::from(byte).to_digit(16)?;
        Some(value << 4 | digit as u16)
    })
}

/// The character that a checked escape stands for, and the escape's length.
fn escaped_char(escape: &[u8]) -> (char, usize) {
    let char = match escape.get(1) {
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(b'u') => return escaped_unit(escape),
        Some(&other) => char::from(other),
        None => char::REPLACEMENT_CHARACTER,
    };
    (char, escape.len().min(2))
}

fn escaped_unit(escape: &[u8]) -> (char, usize) {
    let unit_at = |at: usize| escape.get(at..).and_then(hex4).map_or(0, u32::from);
    let high = unit_at(2);
    let (code, length) = if (0xD800..0xDC00).contains(&high) {
        (0x10000 + ((high - 0xD800) << 10) + (unit_at(8) & 0x3FF), 12)
    } else {
        (high, 6)
    };
    (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), length.min(escape.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_resolved() {
        for (raw, said) in [
            ("plain", "plain"),
            (r#"\"\\\/\b\f\n\r\t"#, "\"\\/\u{8}\u{c}\n\r\t"),
            (r"a\u0061\u00e9\u20AC", "aaé€"),
            (r"x\ud83d\ude00y", "x😀y"),
            (r"\u0000", "\0"),
            (r"\uffff", "\u{ffff}"),
        ] {
            assert_eq!(Text::new(raw, raw.contains('\\')).get(), said);
        }
    }
}
