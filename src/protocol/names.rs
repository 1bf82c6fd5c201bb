//! Names of rooms, channels and clients. A name that exists as a value is a valid one.

use crate::base::limits::NAME_BYTES_MAX;
use crate::protocol::scan::{find, is_no_name_byte};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smol_str::SmolStr;
use std::borrow::{Borrow, Cow};
use std::fmt;
use std::ops::Deref;

/// The channel that stands for every channel of a room.
pub const EVERY_CHANNEL: &str = "*";
/// The `from` of everything the server itself says.
pub const SERVER_ID: &str = "arqonbus_server";
/// The channel that private messages travel in.
pub const PRIVATE_CHANNEL: &str = "pm";
/// The room of the server's own telemetry.
pub const TELEMETRY_ROOM: &str = "integriguard";
/// The channel of [`TELEMETRY_ROOM`] that carries every telemetry event.
pub const TELEMETRY_CHANNEL: &str = "telemetry-stream";
/// The channel of [`TELEMETRY_ROOM`] that carries what agents do.
pub const DASHBOARD_CHANNEL: &str = "dashboard-events";

/// A valid name: `[A-Za-z0-9][A-Za-z0-9._-]{0,63}`, or the one special name `*`. Cheap to clone;
/// a short one, as most are, is wherever it is kept, so that looking at it costs no further look into memory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(SmolStr);

/// Why a string is no name; the text finishes a sentence that begins with what it was meant to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// Nothing there.
    Empty,
    /// Longer than [`NAME_BYTES_MAX`].
    TooLong,
    /// It begins with a character that only a later place may hold.
    BadStart,
    /// It holds a character that no name may hold.
    BadCharacter,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NameError::Empty => "is empty; give 1 to 64 characters of A-Z a-z 0-9 . _ -",
            NameError::TooLong => "is longer than 64 characters",
            NameError::BadStart => "must begin with a letter or a digit",
            NameError::BadCharacter => "may hold only A-Z a-z 0-9 . _ -",
        })
    }
}

/// Checks the rule for names without making one.
pub fn check(text: &str) -> Result<(), NameError> {
    let bytes = text.as_bytes();
    let Some(first) = bytes.first() else {
        return Err(NameError::Empty);
    };
    if bytes.len() > NAME_BYTES_MAX {
        return Err(NameError::TooLong);
    }
    if find(bytes, 0, is_no_name_byte) < bytes.len() {
        return Err(NameError::BadCharacter);
    }
    if !first.is_ascii_alphanumeric() {
        return Err(NameError::BadStart);
    }
    Ok(())
}

/// Whether a room of this name belongs to the system.
pub fn is_system_room(room: &str) -> bool {
    room.starts_with("arqon") || room == TELEMETRY_ROOM
}

/// Whether clients may not take this client id.
pub fn is_reserved_client(client_id: &str) -> bool {
    client_id.starts_with("arqonbus")
}

/// Splits `room:channel`; `None` if there is not exactly one colon.
pub fn split_address(text: &str) -> Option<(&str, &str)> {
    text.split_once(':').filter(|(_, channel)| !channel.contains(':'))
}

impl Name {
    /// A name by the rule; `*` is none.
    pub fn parse(text: &str) -> Result<Name, NameError> {
        check(text).map(|()| Name(text.into()))
    }

    /// A channel name by the rule, or `*`.
    pub fn parse_channel(text: &str) -> Result<Name, NameError> {
        if text == EVERY_CHANNEL { Ok(Name::every()) } else { Name::parse(text) }
    }

    /// The name `*`.
    pub fn every() -> Name {
        Name(EVERY_CHANNEL.into())
    }

    /// A name that the program itself spells out.
    ///
    /// # Panics
    /// If the text is no name.
    pub fn fixed(text: &'static str) -> Name {
        match Name::parse_channel(text) {
            Ok(name) => name,
            Err(error) => panic!("the name {text:?} {error}"),
        }
    }

    /// Whether this is `*`.
    pub fn is_every(&self) -> bool {
        self.0 == EVERY_CHANNEL
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// By the rule; `*` is refused.
impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Name, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        Name::parse(&text).map_err(|why| D::Error::custom(format!("the name {text:?} {why}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule() {
        for good in ["a", "Z9", "a.b_c-d", "0", &"x".repeat(64)] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("", NameError::Empty),
            (&*"x".repeat(65), NameError::TooLong),
            (&*"x".repeat(10_000), NameError::TooLong),
            ("..", NameError::BadStart),
            ("-a", NameError::BadStart),
            ("a b", NameError::BadCharacter),
            ("a\0", NameError::BadCharacter),
            ("*", NameError::BadCharacter),
            ("a:b", NameError::BadCharacter),
            ("é", NameError::BadCharacter),
        ] {
            assert_eq!(check(bad), Err(why), "{bad:?}");
        }
    }

    #[test]
    fn addresses_have_one_colon() {
        assert_eq!(split_address("a:b"), Some(("a", "b")));
        assert_eq!(split_address("a"), None);
        assert_eq!(split_address("a:b:c"), None);
    }
}
