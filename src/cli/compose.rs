//! From what a person types or pipes to the payload of a message.
//!
//! *Invariant*: what comes out is the text of one JSON object, the bytes the person gave wherever
//! they gave an object.

use crate::cli::input::{Line, TooLong};
use crate::protocol::names::Name;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// How a line becomes a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LineForm {
    /// The line is text: `{"line": "…"}`.
    Text,
    /// The line is text, and bytes that are not UTF-8 are replaced.
    LossyText,
    /// The line is a JSON object.
    Json,
}

/// Makes payloads.
#[derive(Debug)]
pub(super) struct Composer {
    form: LineForm,
    /// The member that names the receivers of private messages, with the comma or brace after it.
    target: Option<String>,
}

impl Composer {
    /// Payloads from lines of this form; with targets, payloads of private messages.
    pub(super) fn new(form: LineForm, targets: &[Name]) -> Composer {
        let target = match targets {
            [] => None,
            [one] => Some(Value::from(one.as_str())),
            many => Some(many.iter().map(|name| Value::from(name.as_str())).collect()),
        };
        Composer { form, target: target.map(|target| format!(r#"{{"target":{target}"#)) }
    }

    /// The payload that is the text of a JSON object.
    pub(super) fn of_json(&self, text: &str) -> Result<String, String> {
        let object = check_object(text)?;
        let Some(target) = &self.target else {
            return Ok(object.to_owned());
        };
        let members: Map<String, Value> =
            serde_json::from_str(object).map_err(|error| format!("the payload: {error}"))?;
        if members.contains_key("target") {
            return Err("the payload names a target already; leave it to --target".into());
        }
        let joint = if members.is_empty() { "" } else { "," };
        Ok(format!("{target}{joint}{}", &object[1..]))
    }

    /// The payload for a line of input; `None` for a line that says nothing.
    pub(super) fn of_line(&self, line: &Line) -> Result<Option<String>, String> {
        let bytes = match &line.bytes {
            Ok(bytes) => bytes,
            Err(TooLong) => return Err("is too long".into()),
        };
        let text = match (self.form, std::str::from_utf8(bytes)) {
            (_, Ok(text)) => text,
            (LineForm::LossyText, Err(_)) => {
                return self.of_text(&String::from_utf8_lossy(bytes)).map(Some);
            }
            (_, Err(error)) => {
                let place = error.valid_up_to() + 1;
                return Err(format!("is not UTF-8 at byte {place}; --lossy sends it anyhow"));
            }
        };
        match self.form {
            LineForm::Json if text.trim().is_empty() => Ok(None),
            LineForm::Json => self.of_json(text).map(Some),
            LineForm::Text | LineForm::LossyText => self.of_text(text).map(Some),
        }
    }

    fn of_text(&self, text: &str) -> Result<String, String> {
        let (begin, joint) = self.target.as_deref().map_or(("{", ""), |target| (target, ","));
        Ok(format!(r#"{begin}{joint}"line":{}}}"#, Value::from(text)))
    }
}

fn check_object(text: &str) -> Result<&str, String> {
    const EXAMPLE: &str = r#"give an object such as {"text": "hello"}"#;
    let raw: &RawValue = serde_json::from_str(text)
        .map_err(|error| format!("the payload is not JSON ({error}); {EXAMPLE}"))?;
    let what = match raw.get().as_bytes().first() {
        Some(b'{') => return Ok(raw.get()),
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    };
    Err(format!("the payload is {what}; {EXAMPLE}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn line(bytes: &[u8]) -> Line {
        Line { number: 1, bytes: Ok(bytes.into()) }
    }

    #[test]
    fn objects_are_kept_byte_for_byte_and_all_else_is_refused() {
        let composer = Composer::new(LineForm::Json, &[]);
        assert_eq!(composer.of_json(" { \"a\" : 1 } ").unwrap(), "{ \"a\" : 1 }");
        for (text, why) in [
            ("\"hi\"", "a string"),
            ("3", "a number"),
            ("-3", "a number"),
            ("[1]", "an array"),
            ("true", "a boolean"),
            ("null", "null"),
            ("", "not JSON"),
            ("{", "not JSON"),
            ("{} {}", "not JSON"),
            ("hello", "not JSON"),
        ] {
            let told = composer.of_json(text).unwrap_err();
            assert!(told.contains(why), "{text}: {told}");
        }
    }

    #[test]
    fn targets_are_put_into_the_payload() {
        let names = [Name::fixed("ann"), Name::fixed("bob")];
        for (targets, text, expected) in [
            (&names[..1], "{}", json!({"target": "ann"})),
            (&names[..1], r#"{ "a": 1 }"#, json!({"target": "ann", "a": 1})),
            (&names[..], r#"{"a":1}"#, json!({"target": ["ann", "bob"], "a": 1})),
        ] {
            let payload = Composer::new(LineForm::Json, targets).of_json(text).unwrap();
            assert_eq!(serde_json::from_str::<Value>(&payload).unwrap(), expected);
        }
        let composer = Composer::new(LineForm::Text, &names[..1]);
        let payload = composer.of_line(&line(b"x")).unwrap().unwrap();
        let expected = json!({"target": "ann", "line": "x"});
        assert_eq!(serde_json::from_str::<Value>(&payload).unwrap(), expected);
        assert!(composer.of_json(r#"{"target":"eve"}"#).is_err());
    }

    #[test]
    fn lines_are_text_or_objects() {
        let of = |form, bytes: &[u8]| Composer::new(form, &[]).of_line(&line(bytes));
        assert_eq!(of(LineForm::Text, b"a\"b\t"), Ok(Some(r#"{"line":"a\"b\t"}"#.into())));
        assert_eq!(of(LineForm::Text, b""), Ok(Some(r#"{"line":""}"#.into())));
        let told = of(LineForm::Text, b"ab\xff").unwrap_err();
        assert!(told.contains("byte 3") && told.contains("--lossy"), "{told}");
        assert_eq!(of(LineForm::LossyText, b"a\xff"), Ok(Some("{\"line\":\"a\u{fffd}\"}".into())));
        assert_eq!(of(LineForm::Json, br#"{"a":1}"#), Ok(Some(r#"{"a":1}"#.into())));
        assert_eq!(of(LineForm::Json, b"  "), Ok(None));
        assert!(of(LineForm::Json, b"hello").is_err());
        let too_long = Line { number: 1, bytes: Err(TooLong) };
        assert!(Composer::new(LineForm::Text, &[]).of_line(&too_long).is_err());
    }
}
