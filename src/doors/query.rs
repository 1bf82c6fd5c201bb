//! The identity in a handshake's query string (protocol, section 2).
//!
//! The usual form decoders mend what they can't read; here a wrong `%` or a byte that is no UTF-8
//! is refused, because a client that was understood wrongly is worse off than one that was told.
//!
//! *Invariant*: each key stands at most once, and none is passed over in silence.

use crate::protocol::command::{Identity, identity_field};
use crate::protocol::fault::{Fault, Refusal};
use crate::protocol::session::SessionToken;

/// The keys a query string may hold, for the sentence that refuses another.
const KEYS: [&str; 8] = [
    "client_id",
    "client_type",
    "screen_name",
    "avatar",
    "personality",
    "join",
    "token",
    "session",
];

/// The keys that a session answers for.
const KEPT_KEYS: [&str; 5] = ["client_id", "client_type", "screen_name", "avatar", "personality"];

/// How much of a key the client made up is said back to it.
const ECHO_BYTES_MAX: usize = 64;

/// Reads the identity in `query`, the text between `?` and the end of the request target.
pub(super) fn identity(query: &str) -> Result<Identity, Refusal> {
    let mut identity = Identity::default();
    let mut seen: Vec<String> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let key = decode(key).map_err(|error| error.refusal("the query string"))?;
        let value = decode(value).map_err(|error| error.refusal(&format!("`{}`", echo(&key))))?;
        if seen.contains(&key) {
            return Err(refusal(&key, format!("`{}` is given twice; give it once", echo(&key))));
        }
        set(&mut identity, &key, &value)?;
        seen.push(key);
    }
    let is_kept = |key: &&String| KEPT_KEYS.contains(&key.as_str());
    if identity.session.is_some()
        && let Some(key) = seen.iter().find(is_kept)
    {
        let why = format!("`{key}` stands beside `session`, which keeps it; give one of the two");
        return Err(refusal(key, why));
    }
    Ok(identity)
}

/// Takes in a token that did not come in the query string.
pub(super) fn add_token(identity: &mut Identity, token: &str) -> Result<(), Refusal> {
    match &identity.token {
        None => set(identity, "token", token),
        Some(given) if given == token => Ok(()),
        Some(_) => Err(refusal(
            "token",
            "two different tokens are given; give one, in the query string, as \
             `Authorization: Bearer` or as the subprotocol after `arqonbus.v1`",
        )),
    }
}

/// Sets one field; a key that names none is refused.
fn set(identity: &mut Identity, key: &str, value: &str) -> Result<(), Refusal> {
    if key == "session" {
        if value.is_empty() {
            return Err(refusal(key, "`session` is empty; give the token of your last welcome"));
        }
        identity.session = Some(SessionToken::given(value));
        return Ok(());
    }
    if identity_field(identity, key, value)? {
        return Ok(());
    }
    let (key, known) = (echo(key), KEYS.join(", "));
    Err(refusal(key, format!("`{key}` is no key the server knows; it knows {known}")))
}

/// Why a part of a query string can't be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DecodeError {
    Percent,
    NotUtf8,
    Unescaped,
}

impl DecodeError {
    fn refusal(self, place: &str) -> Refusal {
        let why = match self {
            DecodeError::Percent => "holds a `%` without two hexadecimal digits after it",
            DecodeError::NotUtf8 => "is not UTF-8 once its `%` escapes are resolved",
            DecodeError::Unescaped => "holds a character that a URL must escape with `%`",
        };
        Refusal::new(Fault::BadIdentity, format!("{place} {why}"))
    }
}

/// Resolves `%` escapes, and `+` for a space as forms write it.
fn decode(text: &str) -> Result<String, DecodeError> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let digits = [hex_digit(bytes.next())?, hex_digit(bytes.next())?];
                digits[0] << 4 | digits[1]
            }
            b'+' => b' ',
            b'#' => return Err(DecodeError::Unescaped),
            byte if byte.is_ascii_graphic() => byte,
            _ => return Err(DecodeError::Unescaped),
        });
    }
    String::from_utf8(decoded).map_err(|_| DecodeError::NotUtf8)
}

fn hex_digit(byte: Option<u8>) -> Result<u8, DecodeError> {
    let digit = byte.and_then(|byte| char::from(byte).to_digit(16));
    digit.map(|digit| digit as u8).ok_or(DecodeError::Percent)
}

fn echo(key: &str) -> &str {
    &key[..key.floor_char_boundary(ECHO_BYTES_MAX)]
}

fn refusal(key: &str, message: impl Into<std::borrow::Cow<'static, str>>) -> Refusal {
    Refusal::of_field(Fault::BadIdentity, echo(key).to_owned(), message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limits::JOIN_LIST_MAX;
    use crate::protocol::command::ClientType;
    use proptest::prelude::*;

    #[test]
    fn a_full_identity_is_read() {
        let query = "client_id=ann&client_type=ai-agent&screen_name=Ann%20the+%C3%89lan\
                     &avatar=https%3A%2F%2Fa.example%2Fx.png%3Fy%3D1&personality=%2B100%25\
                     &join=science:general,lab:*,ops%3Anews&token=a.b-c=";
        let identity = identity(query).unwrap();
        assert_eq!(identity.client_id.as_deref(), Some("ann"));
        assert_eq!(identity.client_type, Some(ClientType::AiAgent));
        assert_eq!(identity.screen_name.as_deref(), Some("Ann the Élan"));
        assert_eq!(identity.avatar.as_deref(), Some("https://a.example/x.png?y=1"));
        assert_eq!(identity.personality.as_deref(), Some("+100%"));
        assert_eq!(identity.token.as_deref(), Some("a.b-c="));
        let joins: Vec<_> = identity.join.iter().map(ToString::to_string).collect();
        assert_eq!(joins, ["science:general", "lab:*", "ops:news"]);
    }

    #[test]
    fn nothing_said_is_nothing() {
        for query in ["", "&", "&&"] {
            assert_eq!(identity(query), Ok(Identity::default()), "{query}");
        }
    }

    #[test]
    fn every_known_key_is_one() {
        for key in KEYS {
            let unknown = |refusal: &Refusal| refusal.message.contains("no key the server knows");
            assert!(!set(&mut Identity::default(), key, "x").is_err_and(|e| unknown(&e)), "{key}");
        }
    }

    #[test]
    fn bad_identities_are_refused_with_a_reason() {
        let many: Vec<String> = (0..=JOIN_LIST_MAX).map(|n| format!("a:b{n}")).collect();
        let many = format!("join={}", many.join(","));
        for (query, field, says) in [
            ("client_id=", Some("client_id"), "empty"),
            ("client_id", Some("client_id"), "empty"),
            ("client_id=a%20b", Some("client_id"), "may hold only"),
            ("client_id=arqonbus_server", Some("client_id"), "server"),
            ("client_id=a&client_id=a", Some("client_id"), "twice"),
            ("client_id=a&%63lient_id=a", Some("client_id"), "twice"),
            ("client_type=robot", Some("client_type"), "human, ai-agent, dashboard"),
            ("join=science", Some("join"), "room:channel"),
            ("join=a:b,", Some("join"), "room:channel"),
            ("join=*:b", Some("join"), "may hold only"),
            ("join=a:b:c", Some("join"), "room:channel"),
            (&many, Some("join"), "64"),
            ("clientid=a", Some("clientid"), "client_id, client_type"),
            ("Client_Id=a", Some("Client_Id"), "client_id, client_type"),
            ("=a", Some(""), "no key"),
            ("screen_name=%", None, "hexadecimal"),
            ("screen_name=%4", None, "hexadecimal"),
            ("screen_name=%zz", None, "hexadecimal"),
            ("screen_name=%+4", None, "hexadecimal"),
            ("screen_name=%ff", None, "UTF-8"),
            ("screen_name=é", None, "escape"),
            ("screen_name=a#b", None, "escape"),
            ("%ff=a", None, "UTF-8"),
        ] {
            let refusal = identity(query).unwrap_err();
            assert_eq!(refusal.fault, Fault::BadIdentity, "{query}");
            assert_eq!(refusal.field.as_deref(), field, "{query}");
            assert!(refusal.message.contains(says), "{query}: {}", refusal.message);
        }
    }

    #[test]
    fn a_session_stands_for_all_that_it_keeps() {
        let identity = identity("session=5eC.re-t&join=a:b&token=t").unwrap();
        assert_eq!(identity.session, Some(SessionToken::given("5eC.re-t")));
        assert_eq!((identity.join.len(), identity.token.as_deref()), (1, Some("t")));
        for key in KEPT_KEYS {
            for query in
                [format!("session=secret&{key}=human"), format!("{key}=human&session=secret")]
            {
                let refusal = super::identity(&query).unwrap_err();
                assert_eq!(refusal.field.as_deref(), Some(key));
                assert!(!refusal.message.contains("secret"), "{}", refusal.message);
            }
        }
        for query in ["session=", "session=a&session=b"] {
            assert_eq!(super::identity(query).unwrap_err().field.as_deref(), Some("session"));
        }
    }

    #[test]
    fn a_long_key_is_not_said_back_whole() {
        let refusal = identity(&"k".repeat(9_000)).unwrap_err();
        assert_eq!(refusal.field.map(|field| field.len()), Some(ECHO_BYTES_MAX));
        assert!(refusal.message.len() < 300);
    }

    #[test]
    fn one_token_may_come_twice_but_not_two() {
        let mut identity = identity("token=abc").unwrap();
        assert_eq!(add_token(&mut identity, "abc"), Ok(()));
        let refusal = add_token(&mut identity, "abd").unwrap_err();
        assert_eq!((refusal.fault, refusal.field.as_deref()), (Fault::BadIdentity, Some("token")));
        assert!(!refusal.message.contains("abc") && !refusal.message.contains("abd"));
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding(text in ".*") {
            let encoded: String = form_urlencoded::byte_serialize(text.as_bytes()).collect();
            prop_assert_eq!(decode(&encoded), Ok(text));
        }

        #[test]
        fn any_query_is_read_or_refused(query in ".*") {
            let _ = identity(&query);
        }
    }
}
