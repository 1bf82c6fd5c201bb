//! A strict JSON scanner: it checks a whole text in one pass and hands out the members of the
//! outermost object (or the elements of the outermost array) as spans of that text.
//!
//! The bus passes payloads on byte for byte, so it needs to know that they are sound and where
//! they begin and end, never what is in them. A tree or a tape would be memory written for nobody
//! to read. Strict means: what this accepts, every other JSON parser reads, and reads as the same
//! value. So beside the grammar of RFC 8259 there are no repeated keys, no lone surrogates, no
//! number outside a double's range, and no nesting that would overflow a simpler reader.
//!
//! *Invariants*: the scanner only moves forward; recursion ends at [`JSON_DEPTH_MAX`]; time is
//! linear in the text but for large objects, whose keys are sorted; a text without escaped keys
//! and with few keys at once allocates nothing; every span begins and ends at an ASCII byte, so it
//! can't split a character.
//!
//! *Panics*: positions only come from the scanner and never pass the end of the text, so no text
//! can make a slice fail; the four digits of an escape are checked before what follows them is
//! read.
//!
//! *Not here*: what the members mean; UTF-8, which a `&str` already is.

mod keys;
mod known;
mod text;

pub(super) use known::{KnownKey, KnownMembers};
pub use text::Text;

use crate::base::limits::JSON_DEPTH_MAX;
use crate::protocol::fault::{Fault, Refusal};
use crate::protocol::quote::quote;
use crate::protocol::scan::{find, is_no_digit, is_special};
use keys::Keys;
use text::hex4;

/// A JSON value as a span of the text it stands in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number that a double can hold, as it was written.
    Number(&'a str),
    /// A string.
    Text(Text<'a>),
    /// An array, brackets included.
    Array(&'a str),
    /// An object, braces included.
    Object(&'a str),
}

impl Value<'_> {
    /// The type, with its article, for use in a sentence.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::Text(_) => "a string",
            Value::Array(_) => "an array",
            Value::Object(_) => "an object",
        }
    }

    /// The value as an integer that is not negative, if it is one and written as one.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Value::Number(digits) => digits.parse().ok(),
            _ => None,
        }
    }
}

/// Why a text is refused.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonError {
    /// `InvalidJson`, `DuplicateKey` or `TooDeep`.
    pub fault: Fault,
    /// The byte at which the scanner stopped.
    pub at: usize,
    /// What is wrong and what to do, as a sentence.
    pub message: String,
}

impl From<JsonError> for Refusal {
    fn from(error: JsonError) -> Refusal {
        Refusal::new(error.fault, error.message)
    }
}

/// Checks that `text` is one JSON object and nothing else, and calls `each` for every member, in
/// order, as soon as it is read. What was handed out before an error was well-formed.
pub fn members<'a>(
    text: &'a str,
    mut each: impl FnMut(Text<'a>, Value<'a>),
) -> Result<(), JsonError> {
    let mut scanner = Scanner::new(text);
    let each = |key: Span, value: Span| each(key.text(text), value.value(text));
    scanner.whole(b'{', |scanner| scanner.object(each)).map_err(|why| scanner.error(why))
}

/// [`members`] for a reader that may itself refuse one. The first refusal stands, but a fault of
/// the JSON, wherever it is, goes before.
pub fn try_members<'a, E: From<JsonError>>(
    text: &'a str,
    mut each: impl FnMut(Text<'a>, Value<'a>) -> Result<(), E>,
) -> Result<(), E> {
    let mut result = Ok(());
    members(text, |key, value| {
        if result.is_ok() {
            result = each(key, value);
        }
    })?;
    result
}

/// Checks that `text` is one JSON array and nothing else, and calls `each` for every element, in
/// order, until it refuses one. A fault of the JSON, wherever it is, goes before.
pub fn try_elements<'a, E: From<JsonError>>(
    text: &'a str,
    mut each: impl FnMut(Value<'a>) -> Result<(), E>,
) -> Result<(), E> {
    let mut scanner = Scanner::new(text);
    let mut result = Ok(());
    let each = |value: Span| {
        if result.is_ok() {
            result = each(value.value(text));
        }
    };
    scanner.whole(b'[', |scanner| scanner.array(each)).map_err(|why| scanner.error(why))?;
    result
}

/// The longest text that is scanned: spans of keys are kept in 31 bits.
const TEXT_BYTES_MAX: usize = (1 << 31) - 1;

/// Why scanning stopped; where is `Scanner::at`. One byte, so that a result is returned in
/// registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Complaint {
    TextTooLong,
    NotObject,
    NotArray,
    NoValue,
    NoKey,
    NoColon,
    NoCommaInObject,
    NoCommaInArray,
    ControlCharacter,
    BadEscape,
    LoneSurrogate,
    BadNumber,
    NumberTooLarge,
    Trailing,
    DuplicateKey,
    TooDeep,
}

impl Complaint {
    fn fault(self) -> Fault {
        match self {
            Complaint::DuplicateKey => Fault::DuplicateKey,
            Complaint::TooDeep => Fault::TooDeep,
            _ => Fault::InvalidJson,
        }
    }

    fn sentence(self) -> &'static str {
        match self {
            Complaint::TextTooLong => "the text is longer than 2 GiB",
            Complaint::NotObject => "it must be one JSON object, beginning with {",
            Complaint::NotArray => "it must be one JSON array, beginning with [",
            Complaint::NoValue => "a value is expected here",
            Complaint::NoKey => {
                "a key in double quotes is expected here; no comma may be left over"
            }
            Complaint::NoColon => "a colon must follow a key",
            Complaint::NoCommaInObject => "a comma or } must follow a member",
            Complaint::NoCommaInArray => "a comma or ] must follow an element",
            Complaint::ControlCharacter => {
                "a control character in a string must be escaped, such as \\n or \\u0000"
            }
            Complaint::BadEscape => {
                "an escape must be one of \\\" \\\\ \\/ \\b \\f \\n \\r \\t or \\u and four hex digits"
            }
            Complaint::LoneSurrogate => {
                "a \\u escape between D800 and DFFF must be one of a pair, high then low"
            }
            Complaint::BadNumber => "a number must look like -12.5e3, without leading zeros",
            Complaint::NumberTooLarge => {
                "the number is larger than a double can hold; send it as a string"
            }
            Complaint::Trailing => "nothing may follow the end; send one message per frame",
            Complaint::DuplicateKey => "each key may stand only once in an object",
            Complaint::TooDeep => "it may nest at most 64 levels deep, the message being the first",
        }
    }
}

/// What kind of value was passed over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Null,
    True,
    False,
    Number,
    Text,
    EscapedText,
    Array,
    Object,
}

/// Where a value stands. A string's quotes belong to it.
#[derive(Clone, Copy)]
struct Span {
    start: usize,
    end: usize,
    kind: Kind,
}

impl Span {
    /// The string, between its quotes.
    #[inline]
    fn text(self, text: &str) -> Text<'_> {
        let is_escaped = self.kind == Kind::EscapedText;
        Text::new(&text[self.start + 1..self.end - 1], is_escaped)
    }

    #[inline(always)] // As with `Scanner::key`.
    fn value(self, text: &str) -> Value<'_> {
        match self.kind {
            Kind::Null => Value::Null,
            Kind::True => Value::Bool(true),
            Kind::False => Value::Bool(false),
            Kind::Number => Value::Number(&text[self.start..self.end]),
            Kind::Text | Kind::EscapedText => Value::Text(self.text(text)),
            Kind::Array => Value::Array(&text[self.start..self.end]),
            Kind::Object => Value::Object(&text[self.start..self.end]),
        }
    }
}

struct Scanner<'a> {
    text: &'a str,
    /// The next byte to look at; never beyond the end of the text.
    at: usize,
    /// How many objects and arrays are open.
    depth: usize,
    keys: Keys,
}

impl<'a> Scanner<'a> {
    fn new(text: &'a str) -> Scanner<'a> {
        Scanner { text, at: 0, depth: 0, keys: Keys::default() }
    }

    fn whole(
        &mut self,
        opening: u8,
        walk: impl FnOnce(&mut Self) -> Result<(), Complaint>,
    ) -> Result<(), Complaint> {
        if self.text.len() > TEXT_BYTES_MAX {
            return Err(Complaint::TextTooLong);
        }
        if self.next_byte() != opening {
            return Err(if opening == b'{' { Complaint::NotObject } else { Complaint::NotArray });
        }
        walk(self)?;
        self.next_byte();
        if self.at < self.text.len() { Err(Complaint::Trailing) } else { Ok(()) }
    }

    /// Reads an object from its opening brace to after its closing one.
    #[inline]
    fn object(&mut self, mut each: impl FnMut(Span, Span)) -> Result<(), Complaint> {
        self.open()?;
        let mut mark = self.keys.open();
        if self.next_byte() != b'}' {
            loop {
                let key = self.key(&mut mark)?;
                let value = self.value()?;
                each(key, value);
                match self.next_byte() {
                    b',' => self.at += 1,
                    b'}' => break,
                    _ => return Err(Complaint::NoCommaInObject),
                }
            }
        }
        self.keys.close(self.text, mark)?;
        self.at += 1;
        self.depth -= 1;
        Ok(())
    }

    /// Reads an array from its opening bracket to after its closing one.
    #[inline]
    fn array(&mut self, mut each: impl FnMut(Span)) -> Result<(), Complaint> {
        self.open()?;
        if self.next_byte() != b']' {
            loop {
                let value = self.value()?;
                each(value);
                match self.next_byte() {
                    b',' => self.at += 1,
                    b']' => break,
                    _ => return Err(Complaint::NoCommaInArray),
                }
            }
        }
        self.at += 1;
        self.depth -= 1;
        Ok(())
    }

    fn open(&mut self) -> Result<(), Complaint> {
        if self.depth == JSON_DEPTH_MAX {
            return Err(Complaint::TooDeep);
        }
        self.depth += 1;
        self.at += 1;
        Ok(())
    }

    /// Reads a key, its colon and the space around it.
    #[inline(always)] // A span in memory, written in parts and read as a whole, stalls the CPU.
    fn key(&mut self, object: &mut keys::Mark) -> Result<Span, Complaint> {
        if self.next_byte() != b'"' {
            return Err(Complaint::NoKey);
        }
        let start = self.at;
        let kind = self.string()?;
        let key = Span { start, end: self.at, kind };
        if let Err(why) = self.keys.add(self.text, object, key) {
            self.at = start;
            return Err(why);
        }
        if self.next_byte() != b':' {
            return Err(Complaint::NoColon);
        }
        self.at += 1;
        Ok(key)
    }

    #[inline(always)]
    fn value(&mut self) -> Result<Span, Complaint> {
        let first = self.next_byte();
        let start = self.at;
        let kind = if first == b'"' { self.string()? } else { self.pass(first)? };
        Ok(Span { start, end: self.at, kind })
    }

    /// Moves behind the value that begins here with `first`, if it is no string. The one recursion of the scanner, bounded by
    /// `open`.
    fn pass(&mut self, first: u8) -> Result<Kind, Complaint> {
        match first {
            b'{' => self.object(|_, _| ()).map(|()| Kind::Object),
            b'[' => self.array(|_| ()).map(|()| Kind::Array),
            b'-' | b'0'..=b'9' => self.number().map(|()| Kind::Number),
            b't' => self.literal("true", Kind::True),
            b'f' => self.literal("false", Kind::False),
            b'n' => self.literal("null", Kind::Null),
            _ => Err(Complaint::NoValue),
        }
    }

    fn literal(&mut self, word: &str, kind: Kind) -> Result<Kind, Complaint> {
        if !self.rest().starts_with(word.as_bytes()) {
            return Err(Complaint::NoValue);
        }
        self.at += word.len();
        Ok(kind)
    }

    /// Moves from an opening quote to after the closing one; says whether there were escapes.
    #[inline(always)] // As with `Scanner::key`.
    fn string(&mut self) -> Result<Kind, Complaint> {
        let end = find(self.text.as_bytes(), self.at + 1, is_special);
        match self.text.as_bytes().get(end) {
            Some(b'"') => {
                self.at = end + 1;
                Ok(Kind::Text)
            }
            _ => self.escaped_string(end),
        }
    }

    /// The rest of a string from its first escape, or whatever is at `at`.
    fn escaped_string(&mut self, mut at: usize) -> Result<Kind, Complaint> {
        let bytes = self.text.as_bytes();
        loop {
            match bytes.get(at) {
                Some(b'\\') => {
                    let escape = &bytes[at + 1..];
                    if escape.first().is_some_and(|&char| IS_SHORT_ESCAPE[usize::from(char)]) {
                        at += 2;
                    } else {
                        self.at = at;
                        at += unit_escape(escape)?;
                    }
                }
                Some(b'"') => {
                    self.at = at + 1;
                    return Ok(Kind::EscapedText);
                }
                _ => {
                    self.at = at;
                    return Err(Complaint::ControlCharacter);
                }
            }
            at = find(bytes, at, is_special);
        }
    }

    fn number(&mut self) -> Result<(), Complaint> {
        let start = self.at;
        if self.peek() == b'-' {
            self.at += 1;
        }
        let leading_zero = self.peek() == b'0';
        if self.digits()? > 1 && leading_zero {
            self.at = start;
            return Err(Complaint::BadNumber);
        }
        if self.peek() == b'.' {
            self.at += 1;
            self.digits()?;
        }
        let mut exponent_digits = 0;
        if matches!(self.peek(), b'e' | b'E') {
            self.at += 1;
            if matches!(self.peek(), b'+' | b'-') {
                self.at += 1;
            }
            exponent_digits = self.digits()?;
        }
        // At most 200 digits and an exponent of at most 99 stay below 10^299: no need to compute.
        let number = &self.text[start..self.at];
        let is_small = number.len() <= 200 && exponent_digits <= 2;
        if !is_small && !number.parse::<f64>().is_ok_and(f64::is_finite) {
            self.at = start;
            return Err(Complaint::NumberTooLarge);
        }
        Ok(())
    }

    /// Passes one digit or more; says how many.
    #[inline(always)]
    fn digits(&mut self) -> Result<usize, Complaint> {
        let start = self.at;
        self.at = find(self.text.as_bytes(), start, is_no_digit);
        if self.at == start { Err(Complaint::BadNumber) } else { Ok(self.at - start) }
    }

    /// Passes space; the byte behind it, as [`Scanner::peek`] gives it.
    #[inline(always)]
    fn next_byte(&mut self) -> u8 {
        loop {
            // Mostly there is no space, which one comparison settles.
            match self.peek() {
                byte if byte > b' ' => return byte,
                b' ' | b'\t' | b'\n' | b'\r' => self.at += 1,
                byte => return byte,
            }
        }
    }

    /// The next byte; at the end of the text 0, which no place of the grammar allows.
    #[inline]
    fn peek(&self) -> u8 {
        self.text.as_bytes().get(self.at).copied().unwrap_or(0)
    }

    #[inline]
    fn rest(&self) -> &'a [u8] {
        &self.text.as_bytes()[self.at..]
    }

    #[cold]
    fn error(&self, why: Complaint) -> JsonError {
        let at = self.at;
        let message = match (why, self.keys.duplicate()) {
            _ if self.text.is_empty() => "the message is empty; send one JSON object".to_owned(),
            (Complaint::DuplicateKey, Some(key)) => format!(
                "the key {} stands twice in one object (noticed at byte {at}); {}",
                quote(key),
                why.sentence()
            ),
            (Complaint::TooDeep, _) => {
                format!("the JSON nests too deep at byte {at}; {}", why.sentence())
            }
            _ if at == self.text.len() => {
                format!("the JSON ends too early, after {at} bytes; send the whole message")
            }
            _ => format!("not valid JSON at byte {at}: {}", why.sentence()),
        };
        JsonError { fault: why.fault(), at, message }
    }
}

/// Which bytes make an escape with the backslash before them.
const IS_SHORT_ESCAPE: [bool; 256] = {
    let (mut table, chars) = ([false; 256], br#""\/bfnrt"#);
    let mut at = 0;
    while at < chars.len() {
        table[chars[at] as usize] = true;
        at += 1;
    }
    table
};

/// The length of an escape by its UTF-16 units, one or a pair, from what follows its backslash.
fn unit_escape(escape: &[u8]) -> Result<usize, Complaint> {
    let [b'u', digits @ ..] = escape else { return Err(Complaint::BadEscape) };
    match hex4(digits).ok_or(Complaint::BadEscape)? {
        0xD800..=0xDBFF => match &digits[4..] {
            [b'\\', b'u', low @ ..] if matches!(hex4(low), Some(0xDC00..=0xDFFF)) => Ok(12),
            _ => Err(Complaint::LoneSurrogate),
        },
        0xDC00..=0xDFFF => Err(Complaint::LoneSurrogate),
        _ => Ok(6),
    }
}

#[cfg(test)]
mod tests;
