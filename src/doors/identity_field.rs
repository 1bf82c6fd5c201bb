//! One field of an identity, from the text a query string holds.

use crate::base::limits::{JOIN_LIST_MAX, PROFILE_FIELD_BYTES_MAX};
use crate::protocol::command::{Address, ClientType, Identity};
use crate::protocol::fault::{Fault, Refusal};
use crate::protocol::names::{self, Name, NameError};

/// Reads `value` into the field that `key` names; `false` if no field has that name.
pub(super) fn identity_field(
    identity: &mut Identity,
    key: &str,
    value: &str,
) -> Result<bool, Refusal> {
    match key {
        "client_id" => identity.client_id = Some(client_id(value)?),
        "client_type" => identity.client_type = Some(client_type(value)?),
        "screen_name" => identity.screen_name = Some(profile("screen_name", value)?),
        "avatar" => identity.avatar = Some(profile("avatar", value)?),
        "personality" => identity.personality = Some(profile("personality", value)?),
        "join" => identity.join = join(value)?,
        "token" if value.is_empty() => return Err(refusal("token", "`token` is empty")),
        "token" => identity.token = Some(value.to_owned()),
        _ => return Ok(false),
    }
    Ok(true)
}

fn client_id(value: &str) -> Result<Name, Refusal> {
    let name =
        Name::parse(value).map_err(|error| refusal("client_id", format!("`client_id` {error}")))?;
    if names::is_reserved_client(&name) {
        return Err(refusal("client_id", "ids that begin with `arqonbus` belong to the server"));
    }
    Ok(name)
}

fn client_type(value: &str) -> Result<ClientType, Refusal> {
    ClientType::parse(value).ok_or_else(|| {
        refusal("client_type", "`client_type` must be human, ai-agent, dashboard or service")
    })
}

fn profile(key: &'static str, value: &str) -> Result<String, Refusal> {
    if value.len() > PROFILE_FIELD_BYTES_MAX {
        let most = PROFILE_FIELD_BYTES_MAX;
        return Err(refusal(key, format!("`{key}` is longer than {most} bytes")));
    }
    Ok(value.to_owned())
}

fn join(value: &str) -> Result<Vec<Address>, Refusal> {
    if value.split(',').count() > JOIN_LIST_MAX {
        return Err(refusal("join", format!("`join` lists more than {JOIN_LIST_MAX} channels")));
    }
    value.split(',').map(address).collect()
}

fn address(pair: &str) -> Result<Address, Refusal> {
    let (room, channel) = names::split_address(pair)
        .ok_or_else(|| refusal("join", "each entry of `join` must be `room:channel`"))?;
    let in_words = |what, error: NameError| refusal("join", format!("a {what} in `join` {error}"));
    Ok(Address {
        room: Name::parse(room).map_err(|error| in_words("room", error))?,
        channel: Name::parse_channel(channel).map_err(|error| in_words("channel", error))?,
    })
}

fn refusal(field: &'static str, message: impl Into<std::borrow::Cow<'static, str>>) -> Refusal {
    Refusal::of_field(Fault::BadIdentity, field, message)
}
