//! The kinds of values a key can have: how each is read from a file or from text, how it is
//! written back, and where in the configuration it lives.
//!
//! A field holds a pair of functions that point at its place, so that one row of the table is
//! enough to read a key, to print it, to copy it and to describe it.
//!
//! *Invariants*: what a field shows, it also reads, and to the same value, but for a password, which
//! it does not show; a field that refuses a value leaves the configuration as it was.

use std::fmt::Write;
use toml::Spanned;
use toml::de::DeValue;

/// A value as it was typed.
#[derive(Debug)]
pub(super) enum Raw<'t> {
    /// In a flag or in the environment: text without a type.
    Text(String),
    /// In a file.
    Toml(Spanned<DeValue<'t>>),
}

/// What is wrong with a value.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Flaw {
    /// Where in the file, if only a part of the value is wrong.
    pub at: Option<usize>,
    /// What is wrong, and what would be right.
    pub sentence: String,
}

impl Flaw {
    pub(super) fn new(sentence: impl Into<String>) -> Flaw {
        Flaw { at: None, sentence: sentence.into() }
    }
}

/// Whether a value was taken; if not, everything that is wrong with it.
pub(super) type Taken = Result<(), Vec<Flaw>>;

/// What all kinds of values can do; `C` is what they are a part of.
pub(super) trait Field<C>: Sync {
    /// What may be given, in words.
    fn accepts(&self) -> String;
    /// What stands for the value in a usage line.
    fn value_name(&self) -> &'static str;
    /// All values there are, if they are few.
    fn options(&self) -> &'static [&'static str] {
        &[]
    }
    /// Whether several values can be given, apart from each other.
    fn is_list(&self) -> bool {
        false
    }
    /// Takes a value.
    fn read(&self, raw: &Raw<'_>, into: &mut C) -> Taken;
    /// The value as TOML; `None` if there is none.
    fn show(&self, of: &C) -> Option<String>;
    /// Whether two configurations have the same value.
    fn is_same(&self, a: &C, b: &C) -> bool {
        self.show(a) == self.show(b)
    }
    /// Takes the value of another configuration.
    fn copy(&self, from: &C, to: &mut C);
}

/// Where a value lives.
pub(super) struct Lens<C, T> {
    pub get: fn(&C) -> &T,
    pub get_mut: fn(&mut C) -> &mut T,
}

/// Points at a field of a type by its path.
macro_rules! at {
    ($whole:ty, $($path:tt)+) => {
        $crate::daemon::config::field::Lens {
            get: |it: &$whole| &it.$($path)+,
            get_mut: |it: &mut $whole| &mut it.$($path)+,
        }
    };
}
pub(super) use at;

/// A whole number in a range.
pub(super) struct Number<C, T> {
    pub at: Lens<C, T>,
    /// The least, beside 0 where that means something of its own.
    pub min: u64,
    pub max: u64,
    /// What is counted, if it isn't plain from the key.
    pub unit: &'static str,
    /// What 0 means, where it means something of its own.
    pub zero: Option<&'static str>,
}

/// The types a [`Number`] can be kept in.
pub(super) trait Whole: Sized {
    fn from_u64(number: u64) -> Option<Self>;
    fn to_u64(&self) -> Option<u64>;
}

impl Whole for u16 {
    fn from_u64(number: u64) -> Option<u16> {
        number.try_into().ok()
    }

    fn to_u64(&self) -> Option<u64> {
        Some((*self).into())
    }
}

impl Whole for u32 {
    fn from_u64(number: u64) -> Option<u32> {
        number.try_into().ok()
    }

    fn to_u64(&self) -> Option<u64> {
        Some((*self).into())
    }
}

impl Whole for u64 {
    fn from_u64(number: u64) -> Option<u64> {
        Some(number)
    }

    fn to_u64(&self) -> Option<u64> {
        Some(*self)
    }
}

impl Whole for Option<u32> {
    fn from_u64(number: u64) -> Option<Option<u32>> {
        u32::from_u64(number).map(Some)
    }

    fn to_u64(&self) -> Option<u64> {
        self.map(u64::from)
    }
}

impl<C, T: Whole + Clone> Field<C> for Number<C, T> {
    fn accepts(&self) -> String {
        let mut text = format!("{} to {}", self.min, self.max);
        if !self.unit.is_empty() {
            let _ = write!(text, " {}", self.unit);
        }
        if let Some(meaning) = self.zero {
            let _ = write!(text, "; 0: {meaning}");
        }
        text
    }

    fn value_name(&self) -> &'static str {
        match self.unit {
            "ms" => "MS",
            "us" => "US",
            "bytes" => "BYTES",
            _ => "N",
        }
    }

    fn read(&self, raw: &Raw<'_>, into: &mut C) -> Taken {
        let number = integer(raw).map_err(|flaw| vec![flaw])?;
        let taken = u64::try_from(number)
            .ok()
            .filter(|&number| {
                (self.min..=self.max).contains(&number) || (number == 0 && self.zero.is_some())
            })
            .and_then(T::from_u64);
        match taken {
            Some(value) => {
                *(self.at.get_mut)(into) = value;
                Ok(())
            }
            None => Err(vec![Flaw::new(format!("must be {}, but is {number}", self.accepts()))]),
        }
    }

    fn show(&self, of: &C) -> Option<String> {
        (self.at.get)(of).to_u64().map(|number| number.to_string())
    }

    fn copy(&self, from: &C, to: &mut C) {
        *(self.at.get_mut)(to) = (self.at.get)(from).clone();
    }
}

/// True or false.
pub(super) struct Switch<C, T> {
    pub at: Lens<C, T>,
}

impl<C, T: From<bool> + Into<Option<bool>> + Clone> Field<C> for Switch<C, T> {
    fn accepts(&self) -> String {
        "true or false".to_owned()
    }

    fn value_name(&self) -> &'static str {
        "BOOL"
    }

    fn options(&self) -> &'static [&'static str] {
        &["true", "false"]
    }

    fn read(&self, raw: &Raw<'_>, into: &mut C) -> Taken {
        let value = match raw {
            Raw::Text(text) => match text.as_str() {
                "true" | "on" | "yes" | "1" => true,
                "false" | "off" | "no" | "0" => false,
                _ => {
                    return Err(vec![Flaw::new(format!("must be true or false, but is `{text}`"))]);
                }
            },
            Raw::Toml(value) => match value.get_ref() {
                DeValue::Boolean(value) => *value,
                other => return Err(vec![wrong_type("true or false", other)]),
            },
        };
        *(self.at.get_mut)(into) = T::from(value);
        Ok(())
    }

    fn show(&self, of: &C) -> Option<String> {
        (self.at.get)(of).clone().into().map(|value| value.to_string())
    }

    fn copy(&self, from: &C, to: &mut C) {
        *(self.at.get_mut)(to) = (self.at.get)(from).clone();
    }
}

/// A string that means something.
pub(super) struct Word<C, T> {
    pub at: Lens<C, T>,
    pub accepts: &'static str,
    pub value_name: &'static str,
    pub options: &'static [&'static str],
    pub parse: fn(&str) -> Result<T, String>,
    pub show: fn(&T) -> String,
}

impl<C, T: Clone> Field<C> for Word<C, T> {
    fn accepts(&self) -> String {
        self.accepts.to_owned()
    }

    fn value_name(&self) -> &'static str {
        self.value_name
    }

    fn options(&self) -> &'static [&'static str] {
        self.options
    }

    fn read(&self, raw: &Raw<'_>, into: &mut C) -> Taken {
        let text = match raw {
            Raw::Text(text) => text.as_str(),
            Raw::Toml(value) => string(value).map_err(|flaw| vec![flaw])?,
        };
        let value = (self.parse)(text).map_err(|sentence| vec![Flaw::new(sentence)])?;
        *(self.at.get_mut)(into) = value;
        Ok(())
    }

    fn show(&self, of: &C) -> Option<String> {
        Some(quoted(&(self.show)((self.at.get)(of))))
    }

    fn copy(&self, from: &C, to: &mut C) {
        *(self.at.get_mut)(to) = (self.at.get)(from).clone();
    }
}

/// One of a few words, or none.
pub(super) struct Choice<C, T> {
    pub at: Lens<C, Option<T>>,
    pub words: &'static [&'static str],
    pub parse: fn(&str) -> Option<T>,
    pub show: fn(T) -> &'static str,
}

impl<C, T: Copy> Field<C> for Choice<C, T> {
    fn accepts(&self) -> String {
        let words: Vec<String> = self.words.iter().map(|word| quoted(word)).collect();
        words.join(" or ")
    }

    fn value_name(&self) -> &'static str {
        "WORD"
    }

    fn options(&self) -> &'static [&'static str] {
        self.words
    }

    fn read(&self, raw: &Raw<'_>, into: &mut C) -> Taken {
        let text = match raw {
            Raw::Text(text) => text.as_str(),
            Raw::Toml(value) => string(value).map_err(|flaw| vec![flaw])?,
        };
        let Some(value) = (self.parse)(text) else {
            return Err(vec![Flaw::new(format!("must be {}, but is `{text}`", self.accepts()))]);
        };
        *(self.at.get_mut)(into) = Some(value);
        Ok(())
    }

    fn show(&self, of: &C) -> Option<String> {
        (self.at.get)(of).map(|value| quoted((self.show)(value)))
    }

    fn copy(&self, from: &C, to: &mut C) {
        *(self.at.get_mut)(to) = *(self.at.get)(from);
    }
}

/// A list of strings that mean something; as text, with commas between them.
pub(super) struct List<C, I> {
    pub at: Lens<C, Vec<I>>,
    pub accepts: &'static str,
    pub parse: fn(&str) -> Result<I, String>,
    pub show: fn(&I) -> String,
}

impl<C, I: Clone> Field<C> for List<C, I> {
    fn accepts(&self) -> String {
        self.accepts.to_owned()
    }

    fn value_name(&self) -> &'static str {
        "LIST"
    }

    fn is_list(&self) -> bool {
        true
    }

    fn read(&self, raw: &Raw<'_>, into: &mut C) -> Taken {
        let mut items = Vec::new();
        let mut flaws = Vec::new();
        for (at, text) in strings(raw)? {
            match (self.parse)(text) {
                Ok(item) => items.push(item),
                Err(sentence) => flaws.push(Flaw { at, sentence }),
            }
        }
        if !flaws.is_empty() {
            return Err(flaws);
        }
        *(self.at.get_mut)(into) = items;
        Ok(())
    }

    fn show(&self, of: &C) -> Option<String> {
        Some(array((self.at.get)(of).iter().map(self.show)))
    }

    fn copy(&self, from: &C, to: &mut C) {
        *(self.at.get_mut)(to) = (self.at.get)(from).clone();
    }
}

/// The string in a value of a file.
pub(super) fn string<'v>(value: &'v Spanned<DeValue<'_>>) -> Result<&'v str, Flaw> {
    match value.get_ref() {
        DeValue::String(text) => Ok(text),
        other => Err(wrong_type("a string", other)),
    }
}

/// The strings of a list, each with its place if it has one.
pub(super) fn strings<'v>(raw: &'v Raw<'_>) -> Result<Vec<(Option<usize>, &'v str)>, Vec<Flaw>> {
    let items = match raw {
        Raw::Text(text) if text.trim().is_empty() => return Ok(Vec::new()),
        Raw::Text(text) => return Ok(text.split(',').map(|item| (None, item.trim())).collect()),
        Raw::Toml(value) => match value.get_ref() {
            DeValue::Array(items) => items,
            other => return Err(vec![wrong_type("an array of strings", other)]),
        },
    };
    let mut found = Vec::new();
    let mut flaws = Vec::new();
    for item in items.iter() {
        let at = Some(item.span().start);
        match string(item) {
            Ok(text) => found.push((at, text)),
            Err(flaw) => flaws.push(Flaw { at, ..flaw }),
        }
    }
    if flaws.is_empty() { Ok(found) } else { Err(flaws) }
}

/// A string as TOML.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// An array of strings as TOML.
pub(super) fn array(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.map(|item| quoted(&item)).collect();
    format!("[{}]", items.join(", "))
}

pub(super) fn wrong_type(wanted: &str, found: &DeValue<'_>) -> Flaw {
    let found = match found {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    };
    Flaw::new(format!("must be {wanted}, but is {found}"))
}

fn integer(raw: &Raw<'_>) -> Result<i128, Flaw> {
    match raw {
        Raw::Text(text) => integer_of_text(text)
            .ok_or_else(|| Flaw::new(format!("must be a whole number, but is `{text}`"))),
        Raw::Toml(value) => match value.get_ref() {
            DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix())
                .map_err(|_| Flaw::new("is a number far too large")),
            other => Err(wrong_type("a whole number", other)),
        },
    }
}

/// An integer as TOML writes it: `1_000`, `0x10`.
fn integer_of_text(text: &str) -> Option<i128> {
    let (digits, radix) = match text.get(..2) {
        Some("0x") => (&text[2..], 16),
        Some("0o") => (&text[2..], 8),
        Some("0b") => (&text[2..], 2),
        _ => (text, 10),
    };
    if digits.starts_with('_') || digits.ends_with('_') || digits.contains("__") {
        return None;
    }
    if radix != 10 && digits.starts_with(['+', '-']) {
        return None;
    }
    i128::from_str_radix(&digits.replace('_', ""), radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_in_text_are_written_as_in_toml() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1_000", Some(1_000)),
            ("0x10", Some(16)),
            ("0xff_ff", Some(65_535)),
            ("0o17", Some(15)),
            ("0b101", Some(5)),
            ("-5", Some(-5)),
            ("+5", Some(5)),
            ("", None),
            ("_1", None),
            ("1_", None),
            ("1__0", None),
            ("0x-1", None),
            ("1.0", None),
            ("1e3", None),
            (" 1", None),
            ("12é", None),
            ("é", None),
            ("99999999999999999999999999999999999999999999", None),
        ] {
            assert_eq!(integer_of_text(text), expected, "{text:?}");
        }
    }

    #[test]
    fn strings_are_quoted_so_that_they_read_back() {
        for text in ["", "a", "a\"b", "a\\b", "a\nb", "é", "'", "a\u{7f}"] {
            let document = format!("key = {}", quoted(text));
            let table: toml::Table = document.parse().unwrap();
            assert_eq!(table["key"].as_str(), Some(text), "{document}");
        }
    }
}
