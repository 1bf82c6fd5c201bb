//! Who a client says it is, one field at a time: the same keys and rules in the query string of a
//! handshake and in the parameters of `identify`.

use super::{Address, ClientType, Identity};
use crate::base::limits::{JOIN_LIST_MAX, PROFILE_FIELD_BYTES_MAX};
use crate::protocol::fault::{Fault, Refusal};
use crate::protocol::names::{self, Name};
use crate::protocol::quote::quote;

/// Sets the field `key` to what `value` says; `false` if an identity has no such field. `join` is
/// a comma list and may come more than once, all others once. An empty `join` joins nothing. The
/// token is taken as it is: whether it holds is for others to say.
pub fn identity_field(identity: &mut Identity, key: &str, value: &str) -> Result<bool, Refusal> {
    match key {
        "client_id" => set("client_id", &mut identity.client_id, client_id(value)?)?,
        "client_type" => set("client_type", &mut identity.client_type, client_type(value)?)?,
        "screen_name" => {
            set("screen_name", &mut identity.screen_name, profile("screen_name", value)?)?;
        }
        "avatar" => set("avatar", &mut identity.avatar, profile("avatar", value)?)?,
        "personality" => {
            set("personality", &mut identity.personality, profile("personality", value)?)?;
        }
        "token" => set("token", &mut identity.token, value.to_owned())?,
        "join" if value.is_empty() => {}
        "join" => value.split(',').try_for_each(|address| add_join(identity, address))?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// Adds one `room:channel` to what the client wants to be joined to.
pub(super) fn add_join(identity: &mut Identity, address: &str) -> Result<(), Refusal> {
    let bad = |why: &str| bad_identity("join", format!("join {} {why}", quote(address)));
    let (room, channel) = names::split_address(address)
        .ok_or_else(|| bad("is no address; write room:channel, with commas between several"))?;
    let room = Name::parse(room).map_err(|why| bad(&format!("names a room that {why}")))?;
    let channel =
        Name::parse_channel(channel).map_err(|why| bad(&format!("names a channel that {why}")))?;
    let address = Address { room, channel };
    if identity.join.contains(&address) {
        return Ok(());
    }
    if identity.join.len() == JOIN_LIST_MAX {
        let message = format!("join names more than {JOIN_LIST_MAX} channels; join more later");
        return Err(bad_identity("join", message));
    }
    identity.join.push(address);
    Ok(())
}

fn set<T>(field: &'static str, place: &mut Option<T>, value: T) -> Result<(), Refusal> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(bad_identity(field, format!("{field} is given twice; give it once"))),
    }
}

fn client_id(id: &str) -> Result<Name, Refusal> {
    if names::is_reserved_client(id) {
        let message =
            format!("client_id {} is the server's own: it begins with arqonbus", quote(id));
        return Err(bad_identity("client_id", message));
    }
    Name::parse(id)
        .map_err(|why| bad_identity("client_id", format!("client_id {} {why}", quote(id))))
}

fn client_type(text: &str) -> Result<ClientType, Refusal> {
    ClientType::parse(text).ok_or_else(|| {
        let message = format!(
            "client_type {} is not approved; say human, ai-agent, dashboard or service",
            quote(text)
        );
        bad_identity("client_type", message)
    })
}

fn profile(field: &'static str, text: &str) -> Result<String, Refusal> {
    let why = if text.len() > PROFILE_FIELD_BYTES_MAX {
        format!("is longer than {PROFILE_FIELD_BYTES_MAX} bytes")
    } else if text.contains(char::is_control) {
        "may not hold control characters".to_owned()
    } else {
        return Ok(text.to_owned());
    };
    Err(bad_identity(field, format!("{field} {why}")))
}

fn bad_identity(field: &'static str, message: String) -> Refusal {
    Refusal::of_field(Fault::BadIdentity, field, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(fields: &[(&str, &str)]) -> Result<Identity, Refusal> {
        let mut identity = Identity::default();
        for (key, value) in fields {
            assert!(identity_field(&mut identity, key, value)?, "{key} is known");
        }
        Ok(identity)
    }

    #[test]
    fn every_field_is_read() {
        let identity = identity(&[
            ("client_id", "alice"),
            ("client_type", "ai-agent"),
            ("screen_name", "Älice ☺"),
            ("avatar", "https://example.org/a.png"),
            ("personality", ""),
            ("join", "science:general,science:*"),
            ("join", "lab:x,science:*"),
            ("join", ""),
            ("token", "a.b.c"),
        ])
        .unwrap();
        assert_eq!(identity.client_id.unwrap().as_str(), "alice");
        assert_eq!(identity.client_type, Some(ClientType::AiAgent));
        assert_eq!(identity.screen_name.as_deref(), Some("Älice ☺"));
        assert_eq!(identity.avatar.as_deref(), Some("https://example.org/a.png"));
        assert_eq!(identity.personality.as_deref(), Some(""));
        let join: Vec<_> = identity.join.iter().map(Address::to_string).collect();
        assert_eq!(join, ["science:general", "science:*", "lab:x"]);
        assert_eq!(identity.token.as_deref(), Some("a.b.c"));
    }

    #[test]
    fn unknown_fields_are_told() {
        let mut identity = Identity::default();
        for key in ["", "clientId", "room", "joins"] {
            assert_eq!(identity_field(&mut identity, key, "x"), Ok(false), "{key}");
        }
        assert_eq!(identity, Identity::default());
    }

    #[test]
    fn bad_fields_are_refused() {
        let long = "x".repeat(PROFILE_FIELD_BYTES_MAX + 1);
        let many: Vec<_> = (0..=JOIN_LIST_MAX).map(|n| format!("r:c{n}")).collect();
        for fields in [
            &[("client_id", "")][..],
            &[("client_id", "*")],
            &[("client_id", "a b")],
            &[("client_id", &long)],
            &[("client_id", "arqonbus_server")],
            &[("client_id", "arqonbus")],
            &[("client_id", "a"), ("client_id", "a")],
            &[("client_type", "")],
            &[("client_type", "Human")],
            &[("client_type", "robot")],
            &[("screen_name", &long)],
            &[("screen_name", "a\nb")],
            &[("avatar", "a\u{7f}")],
            &[("avatar", "a"), ("avatar", "b")],
            &[("personality", "\u{0}")],
            &[("token", "a"), ("token", "a")],
            &[("join", "science")],
            &[("join", "science:")],
            &[("join", ":general")],
            &[("join", "*:general")],
            &[("join", "a:b:c")],
            &[("join", "a:b,")],
            &[("join", "a:b, c:d")],
            &[("join", &many.join(","))],
        ] {
            let refusal = identity(fields).expect_err(&format!("{fields:?}"));
            assert_eq!(refusal.fault, Fault::BadIdentity);
            assert_eq!(refusal.field.as_deref(), Some(fields[0].0));
            assert!(!refusal.message.is_empty() && refusal.message.len() < 300, "{refusal:?}");
        }
        assert!(identity(&[("join", &many[1..].join(","))]).is_ok());
    }
}
