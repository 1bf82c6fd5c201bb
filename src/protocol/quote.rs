//! Quoting what a peer sent inside a sentence: short, and free of anything that could break a
//! terminal or a log.

use crate::protocol::names;

/// The most characters of a peer's text that one sentence repeats.
const QUOTED_CHARS_MAX: usize = 32;

/// `text` between quotation marks, escaped, and cut after 32 characters.
pub fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len().min(QUOTED_CHARS_MAX) + 5);
    quoted.push('"');
    let mut chars = text.chars();
    for char in chars.by_ref().take(QUOTED_CHARS_MAX) {
        quoted.extend(char.escape_debug());
    }
    quoted.push('"');
    if chars.next().is_some() {
        quoted.push('…');
    }
    quoted
}

/// A key that a peer made up, as the name of the field at fault: as it is if it follows the rule
/// for names, else quoted.
pub fn field_name(key: &str) -> String {
    if names::check(key).is_ok() { key.to_owned() } else { quote(key) }
}

#[cfg(test)]
mod tests {
    use super::{field_name, quote};

    #[test]
    fn field_names_are_plain_or_quoted() {
        assert_eq!(field_name("roomName"), "roomName");
        assert_eq!(field_name(""), r#""""#);
        assert_eq!(field_name("a\nb"), r#""a\nb""#);
    }

    #[test]
    fn quotes_are_short_and_clean() {
        for (text, quoted) in [
            ("", r#""""#),
            ("a b", r#""a b""#),
            ("a\"\u{1b}[31m\n", r#""a\"\u{1b}[31m\n""#),
            ("\u{202e}x", r#""\u{202e}x""#),
            ("né", r#""né""#),
        ] {
            assert_eq!(quote(text), quoted);
        }
        assert_eq!(quote(&"x".repeat(32)), format!("\"{}\"", "x".repeat(32)));
        assert_eq!(quote(&"x".repeat(33)), format!("\"{}\"…", "x".repeat(32)));
        assert!(quote(&"\u{10ffff}".repeat(1_000_000)).len() < 400);
    }
}
