//! Who may do what. Every decision about permission is a function of this file.

use crate::protocol::command::{ChannelType, ClientType, Publishers, RoomConfig};
use crate::protocol::fault::{Fault, Refusal};
use crate::protocol::names::Name;
use crate::protocol::origin::Origins;
use serde::Serialize;
use std::fmt;

/// What a client may do on the whole bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Join, publish, ask.
    #[default]
    User,
    /// All that, and make, delete, pause and disconnect.
    Admin,
}

impl Role {
    /// The role of that name.
    pub fn parse(text: &str) -> Option<Role> {
        match text {
            "user" => Some(Role::User),
            "admin" => Some(Role::Admin),
            _ => None,
        }
    }

    /// The role as it stands on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::User => "user",
            Role::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which role a client has while nobody proves who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Roles {
    /// Admin for clients of this machine, user for all others.
    ByAddress,
    /// The same for everybody.
    Everybody(Role),
}

impl Roles {
    /// The role of a client. `is_local` says that its connection comes from this machine, and that
    /// nothing in its handshake says otherwise.
    pub fn role_of(self, is_local: bool) -> Role {
        match self {
            Roles::ByAddress if is_local => Role::Admin,
            Roles::ByAddress => Role::User,
            Roles::Everybody(role) => role,
        }
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Roles::ByAddress => f.write_str("by_address"),
            Roles::Everybody(role) => role.fmt(f),
        }
    }
}

/// Whom a shard lets connect, and as what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The web pages that may connect.
    pub origins: Origins,
    /// The roles of clients.
    pub roles: Roles,
}

/// Which roles may publish without being joined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublishAnywhere {
    /// Whether users may.
    pub user: bool,
    /// Whether admins may.
    pub admin: bool,
}

impl PublishAnywhere {
    /// Whether `role` may publish without being joined.
    pub fn allows(self, role: Role) -> bool {
        match role {
            Role::User => self.user,
            Role::Admin => self.admin,
        }
    }
}

/// A client as every part of the bus knows it: made once, shared, never changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCard {
    /// Its id.
    pub client_id: Name,
    /// Its kind.
    pub client_type: ClientType,
    /// A name for people.
    pub screen_name: Option<String>,
    /// What it may do.
    pub role: Role,
}

/// Whether a client may give a command that needs the role admin.
pub fn may_administer(role: Role, command: &'static str) -> Result<(), Refusal> {
    if role == Role::Admin {
        return Ok(());
    }
    Err(Refusal::new(
        Fault::AdminRequired,
        format!("{command} needs the role admin; yours is {}.", role.as_str()),
    ))
}

/// Whether a client may see and join a channel, and publish in it where it may publish unjoined.
/// `creator` and `members` are the channel's.
pub fn may_enter(
    (role, client_id): (Role, &str),
    channel_type: ChannelType,
    creator: Option<&Name>,
    members: &[Name],
) -> bool {
    channel_type != ChannelType::Private
        || role == Role::Admin
        || creator.is_some_and(|creator| creator.as_str() == client_id)
        || members.iter().any(|member| member.as_str() == client_id)
}

/// The refusal of whoever may not enter a private channel.
pub fn private_channel() -> Refusal {
    Refusal::of_field(
        Fault::ChannelPrivate,
        "channel",
        "The channel is private: it is for its creator, its metadata.members and admins.",
    )
}

/// Whether a room's configuration lets a client publish events in it.
pub fn may_publish(role: Role, client_id: &str, config: &RoomConfig) -> bool {
    match &config.publishers {
        None | Some(Publishers::Members) => true,
        Some(_) if role == Role::Admin => true,
        Some(Publishers::Admins) => false,
        Some(Publishers::Clients(ids)) => ids.iter().any(|id| id.as_str() == client_id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_channels_open_to_creator_members_and_admins_only() {
        let ann = Name::fixed("ann");
        let members = [Name::fixed("bob")];
        let may = |id, role| may_enter((role, id), ChannelType::Private, Some(&ann), &members);
        assert!(may("ann", Role::User));
        assert!(may("bob", Role::User));
        assert!(may("eve", Role::Admin));
        assert!(!may("eve", Role::User));
        assert!(may_enter((Role::User, "eve"), ChannelType::General, None, &[]));
    }

    #[test]
    fn publishers_are_who_the_room_says() {
        let config = |publishers| RoomConfig { publishers, ..RoomConfig::default() };
        assert!(may_publish(Role::User, "ann", &config(None)));
        assert!(!may_publish(Role::User, "ann", &config(Some(Publishers::Admins))));
        assert!(may_publish(Role::Admin, "ann", &config(Some(Publishers::Admins))));
        let list = config(Some(Publishers::Clients(vec![Name::fixed("bob")])));
        assert!(may_publish(Role::User, "bob", &list));
        assert!(!may_publish(Role::User, "ann", &list));
    }
}
