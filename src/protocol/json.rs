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
//! *Not here*: what the members mean; UTF-8, which a `&str` already is.

mod keys;
mod text;

pub use text::Text;

use crate::base::limits::JSON_DEPTH_MAX;
use crate::protocol::fault::{Fault, Refusal};
use crate::protocol::quote::quote;
use keys::Keys;
use std::ops::ControlFlow;
use text::{clean_run, hex4};

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
pub fn members<'a>(text: &'a str, each: impl FnMut(Text<'a>, Value<'a>)) -> Result<(), JsonError> {
    let mut scanner = Scanner::new(text);
    scanner.whole(b'{', |scanner| scanner.object(each)).map_err(|why| scanner.error(why))
}

/// Checks that `text` is one JSON array and nothing else, and calls `each` for every element, in
/// order, until it breaks off; what comes after that is not checked.
pub fn elements<'a>(
    text: &'a str,
    each: impl FnMut(Value<'a>) -> ControlFlow<()>,
) -> Result<(), JsonError> {
    let mut scanner = Scanner::new(text);
    match scanner.whole(b'[', |scanner| scanner.array(each)) {
        Ok(()) | Err(Complaint::BrokenOff) => Ok(()),
        Err(why) => Err(scanner.error(why)),
    }
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
    /// No complaint: the reader has seen enough.
    BrokenOff,
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
            Complaint::BrokenOff => "the rest is not needed",
        }
    }
}

/// What kind of value was passed over.
#[derive(Clone, Copy)]
enum Kind {
    Null,
    True,
    False,
    Number,
    Text { escaped: bool },
    Array,
    Object,
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
        self.space();
        if self.peek() != opening {
            return Err(if opening == b'{' { Complaint::NotObject } else { Complaint::NotArray });
        }
        walk(self)?;
        self.space();
        if self.at < self.text.len() { Err(Complaint::Trailing) } else { Ok(()) }
    }

    /// Reads an object from its opening brace to after its closing one.
    #[inline]
    fn object(&mut self, mut each: impl FnMut(Text<'a>, Value<'a>)) -> Result<(), Complaint> {
        self.open()?;
        let mark = self.keys.open();
        if self.peek() != b'}' {
            loop {
                let key = self.key(&mark)?;
                let value = self.value()?;
                each(key, value);
                self.space();
                match self.peek() {
                    b',' => self.at += 1,
                    b'}' => break,
                    _ => return Err(Complaint::NoCommaInObject),
                }
                self.space();
            }
        }
        self.keys.close(self.text, mark)?;
        self.at += 1;
        self.depth -= 1;
        Ok(())
    }

    /// Reads an array from its opening bracket to after its closing one.
    #[inline]
    fn array(
        &mut self,
        mut each: impl FnMut(Value<'a>) -> ControlFlow<()>,
    ) -> Result<(), Complaint> {
        self.open()?;
        if self.peek() != b']' {
            loop {
                let value = self.value()?;
                if each(value).is_break() {
                    return Err(Complaint::BrokenOff);
                }
                self.space();
                match self.peek() {
                    b',' => self.at += 1,
                    b']' => break,
                    _ => return Err(Complaint::NoCommaInArray),
                }
                self.space();
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
        self.space();
        Ok(())
    }

    /// Reads a key, its colon and the space around it.
    #[inline]
    fn key(&mut self, mark: &keys::Mark) -> Result<Text<'a>, Complaint> {
        if self.peek() != b'"' {
            return Err(Complaint::NoKey);
        }
        let start = self.at;
        let escaped = self.string()?;
        let key = Text::new(&self.text[start + 1..self.at - 1], escaped);
        if let Err(why) = self.keys.add(self.text, mark, start + 1, key) {
            self.at = start;
            return Err(why);
        }
        self.space();
        if self.peek() != b':' {
            return Err(Complaint::NoColon);
        }
        self.at += 1;
        self.space();
        Ok(key)
    }

    #[inline]
    fn value(&mut self) -> Result<Value<'a>, Complaint> {
        let start = self.at;
        let kind = self.pass()?;
        let span = &self.text[start..self.at];
        Ok(match kind {
            Kind::Null => Value::Null,
            Kind::True => Value::Bool(true),
            Kind::False => Value::Bool(false),
            Kind::Number => Value::Number(span),
            Kind::Text { escaped } => Value::Text(Text::new(&span[1..span.len() - 1], escaped)),
            Kind::Array => Value::Array(span),
            Kind::Object => Value::Object(span),
        })
    }

    /// Moves behind the value that begins here. The one recursion of the scanner, bounded by
    /// `open`.
    fn pass(&mut self) -> Result<Kind, Complaint> {
        match self.peek() {
            b'"' => self.string().map(|escaped| Kind::Text { escaped }),
            b'{' => self.object(|_, _| ()).map(|()| Kind::Object),
            b'[' => self.array(|_| ControlFlow::Continue(())).map(|()| Kind::Array),
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
    #[inline]
    fn string(&mut self) -> Result<bool, Complaint> {
        self.at += 1;
        let mut escaped = false;
        loop {
            self.at += clean_run(self.rest());
            match self.peek() {
                b'"' => {
                    self.at += 1;
                    return Ok(escaped);
                }
                b'\\' => {
                    self.escape()?;
                    escaped = true;
                }
                _ => return Err(Complaint::ControlCharacter),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Complaint> {
        self.at += match self.rest() {
            [_, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => 2,
            [_, b'u', digits @ ..] => match hex4(digits).ok_or(Complaint::BadEscape)? {
                0xD800..=0xDBFF => match &digits[4..] {
                    [b'\\', b'u', low @ ..] if matches!(hex4(low), Some(0xDC00..=0xDFFF)) => 12,
                    _ => return Err(Complaint::LoneSurrogate),
                },
                0xDC00..=0xDFFF => return Err(Complaint::LoneSurrogate),
                _ => 6,
            },
            _ => return Err(Complaint::BadEscape),
        };
        Ok(())
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
    fn digits(&mut self) -> Result<usize, Complaint> {
        let start = self.at;
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
        if self.at == start { Err(Complaint::BadNumber) } else { Ok(self.at - start) }
    }

    #[inline]
    fn space(&mut self) {
        while matches!(self.peek(), b' ' | b'\t' | b'\n' | b'\r') {
            self.at += 1;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> Option<Fault> {
        let error = members(text, |_, _| ()).err()?;
        assert!(error.at <= text.len() && !error.message.is_empty(), "{error:?}");
        assert!(error.message.len() < 300, "{error:?}");
        Some(error.fault)
    }

    /// `{"a":{"a":…}}`, so many levels deep.
    fn nested(depth: usize) -> String {
        format!("{}0{}", r#"{"a":"#.repeat(depth), "}".repeat(depth))
    }

    #[test]
    fn good_texts_are_accepted() {
        for text in [
            "{}",
            " \t\r\n{ \t\r\n} \t\r\n",
            r#"{"":""}"#,
            r#"{"a":[],"b":{},"c":[{}],"d":[[[]]]}"#,
            r#"{ "a" : [ 1 , 2 ] , "b" : null , "c":true,"d":false}"#,
            r#"{"a":0,"b":-0,"c":1.5,"d":-0.0,"e":1E+2,"f":1e-400,"g":0e0,"h":1e308}"#,
            r#"{"a":123456789012345678901234567890,"b":1.7976931348623157e308}"#,
            r#"{"a":"\"\\\/\b\f\n\r\t\u0000\uD83D\uDE00\ud83d\ude00"}"#,
            "{\"a\":\"\u{7f}\u{80}\u{2028}é😀\"}",
            r#"{"a":{"a":{"a":1},"b":{"a":1}},"b":[{"a":1},{"a":1}]}"#,
            r#"{"a":1,"A":2,"a ":3,"\u0061\u0061":4}"#,
            &nested(64),
        ] {
            assert_eq!(fault(text), None, "{text}");
        }
    }

    #[test]
    fn bad_texts_are_refused() {
        for text in [
            "",
            " ",
            "[]",
            "1",
            "null",
            "\"a\"",
            "{",
            "}",
            "{]",
            "{}{}",
            "{}x",
            "{},",
            "{}\0",
            "\u{feff}{}",
            "{a:1}",
            "{'a':1}",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            r#"{,"a":1}"#,
            r#"{"a":1 "b":2}"#,
            r#"{"a" 1}"#,
            r#"{"a"::1}"#,
            r#"{"a":1;"b":2}"#,
            r#"{1:1}"#,
            r#"{"a":[1,]}"#,
            r#"{"a":[,1]}"#,
            r#"{"a":[1 2]}"#,
            r#"{"a":[1}"#,
            r#"{"a":{]}"#,
            r#"{"a":[}"#,
            r#"{"a":01}"#,
            r#"{"a":-}"#,
            r#"{"a":-01}"#,
            r#"{"a":00}"#,
            r#"{"a":+1}"#,
            r#"{"a":1.}"#,
            r#"{"a":.5}"#,
            r#"{"a":1e}"#,
            r#"{"a":1e+}"#,
            r#"{"a":1.e5}"#,
            r#"{"a":0x10}"#,
            r#"{"a":1_0}"#,
            r#"{"a":NaN}"#,
            r#"{"a":Infinity}"#,
            r#"{"a":-Infinity}"#,
            r#"{"a":1e400}"#,
            r#"{"a":-1e400}"#,
            r#"{"a":1e309}"#,
            r#"{"a":[[1e999999999999999999999]]}"#,
            r#"{"a":True}"#,
            r#"{"a":tru}"#,
            r#"{"a":nul}"#,
            r#"{"a":truefalse}"#,
            r#"{"a":undefined}"#,
            r#"{"a":"}"#,
            r#"{"a":"\"}"#,
            r#"{"a":"\x41"}"#,
            r#"{"a":"\u12"}"#,
            r#"{"a":"\u12g4"}"#,
            r#"{"a":"\U0041"}"#,
            r#"{"a":"\uD800"}"#,
            r#"{"a":"\uDC00"}"#,
            r#"{"a":"\uD800\uD800"}"#,
            r#"{"a":"\uD800x"}"#,
            r#"{"a":"\uDC00\uD800"}"#,
            r#"{"a":"\uD800\u0041"}"#,
            r#"{"\uD800":1}"#,
            "{\"a\":\"\n\"}",
            "{\"a\":\"\t\"}",
            "{\"a\":\"\0\"}",
            "{\"a\n\":1}",
            "{\"a\":\u{a0}1}",
            "{\"a\":1}\u{a0}",
            "{\u{b}}",
            "{/**/}",
            "{}//",
        ] {
            assert_eq!(fault(text), Some(Fault::InvalidJson), "{text}");
        }
        let digits = "9".repeat(400);
        assert_eq!(fault(&format!(r#"{{"a":{digits}}}"#)), Some(Fault::InvalidJson));
    }

    #[test]
    fn nesting_ends_at_the_limit() {
        assert_eq!(fault(&nested(65)), Some(Fault::TooDeep));
        let arrays = |depth| format!(r#"{{"a":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
        assert_eq!(fault(&arrays(63)), None);
        assert_eq!(fault(&arrays(64)), Some(Fault::TooDeep));
        assert_eq!(fault(&format!(r#"{{"a":{}"#, "[".repeat(1_000_000))), Some(Fault::TooDeep));
        assert_eq!(fault(&r#"{"a":"#.repeat(200_000)), Some(Fault::TooDeep));
        // Siblings don't add up.
        let siblings = format!(r#"{{"a":[{}0]}}"#, "[[]],".repeat(1_000));
        assert_eq!(fault(&siblings), None);
    }

    #[test]
    fn no_key_stands_twice() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":1}"#,
            r#"{"\u0061":1,"a":1}"#,
            r#"{"\u0061":1,"\u0061":1}"#,
            r#"{"\n":1,"\u000a":1}"#,
            r#"{"":1,"b":2,"":1}"#,
            r#"{"x":[{"y":{"abcdefgh-long-key":1,"abcdefgh-long-key":2}}]}"#,
            r#"{"x":{"a":1,"b":{"a":2,"\t":3},"a":3}}"#,
            r#"{"\ud83d\ude00":1,"😀":2}"#,
        ] {
            assert_eq!(fault(text), Some(Fault::DuplicateKey), "{text}");
        }
        let error = members(r#"{"a":1,"say \"hi\"":1,"say \"hi\"":1}"#, |_, _| ()).unwrap_err();
        assert!(error.message.contains(r#"the key "say \"hi\"" stands twice"#), "{error:?}");
        assert_eq!(error.at, 22);
    }

    #[test]
    fn large_objects_are_checked_too_and_in_time() {
        for count in [1, 23, 24, 25, 26, 100, 100_000] {
            let keys: Vec<_> = (0..count).map(|n| format!(r#""key-{n}":0"#)).collect();
            let text = |more: &str| format!(r#"{{"x":{{{}{more}}}}}"#, keys.join(","));
            assert_eq!(fault(&text("")), None, "{count} keys");
            for more in [r#","key-0":0"#, r#","\u006bey-0":0"#] {
                assert_eq!(fault(&text(more)), Some(Fault::DuplicateKey), "{count} keys, {more}");
            }
            let escaped = text("").replace("key", r"\u006bey");
            assert_eq!(fault(&escaped), None, "{count} escaped keys");
        }
        // An object inside a large one, and keys that come after it.
        let many: Vec<_> = (0..50).map(|n| format!(r#""{n}":{{"0":{n}}}"#)).collect();
        let text = format!("{{{},\"7\":0}}", many.join(","));
        assert_eq!(fault(&text), Some(Fault::DuplicateKey));
    }

    #[test]
    fn members_come_in_order_with_their_spans() {
        let text = r#" {"a" : {"x": [1, 2]} ,"\u0062":"\n","c":-1.5e3,"d":[ ],"e":null,"f":true}"#;
        let mut seen = Vec::new();
        members(text, |key, value| seen.push((key.get().into_owned(), value))).unwrap();
        let keys: Vec<_> = seen.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["a", "b", "c", "d", "e", "f"]);
        assert_eq!(seen[0].1, Value::Object(r#"{"x": [1, 2]}"#));
        assert!(matches!(seen[1].1, Value::Text(text) if text.get() == "\n"));
        assert_eq!(seen[2].1, Value::Number("-1.5e3"));
        assert_eq!(seen[3].1, Value::Array("[ ]"));
        assert_eq!(seen[4].1, Value::Null);
        assert_eq!(seen[5].1, Value::Bool(true));
    }

    #[test]
    fn elements_come_until_they_are_not_wanted() {
        let mut seen = Vec::new();
        let all = elements(r#"[1, "a", {}]"#, |value| {
            seen.push(value.type_name());
            ControlFlow::Continue(())
        });
        assert_eq!((all, &*seen), (Ok(()), &["a number", "a string", "an object"][..]));
        let mut count = 0;
        let some = elements("[1,2,3", |_| {
            count += 1;
            if count < 2 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        assert_eq!((some, count), (Ok(()), 2));
        for bad in ["", "{}", "[1", "[1,]", "[] []"] {
            assert!(elements(bad, |_| ControlFlow::Continue(())).is_err(), "{bad}");
        }
    }

    #[test]
    fn integers_are_written_as_integers() {
        for (digits, integer) in [
            ("0", Some(0)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("-0", None),
            ("-1", None),
            ("1.0", None),
            ("1e3", None),
        ] {
            assert_eq!(Value::Number(digits).as_u64(), integer, "{digits}");
        }
    }

    #[test]
    fn sentences_say_where() {
        for (text, part) in [
            ("", "the message is empty"),
            (r#"{"a":1"#, "ends too early, after 6 bytes"),
            (r#"{"a":1,}"#, "at byte 7: a key"),
            (r#"{"a":1e999}"#, "at byte 5: the number is larger"),
            (r#"{} {}"#, "at byte 3: nothing may follow"),
            (r#"{"a":"é\q"}"#, "at byte 8: an escape"),
        ] {
            let error = members(text, |_, _| ()).unwrap_err();
            assert!(error.message.contains(part), "{text}: {error:?}");
        }
    }
}
