//! The names of the keys. Their layout is told in the documentation of [`storage`](super).

use crate::protocol::command::Address;
use crate::protocol::session::SessionKey;

/// What stands in place of a channel for what belongs to none; no channel has such a name.
const BUS: &str = "{bus}";

/// The keys under one prefix.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: String,
    /// The set of the channels: `room:channel`.
    pub(super) channels: String,
    /// The hash of the rooms: name to JSON.
    pub(super) rooms: String,
    /// The hash that says who writes.
    pub(super) writer: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Keys {
        Keys {
            prefix: prefix.to_owned(),
            channels: format!("{prefix}:{BUS}:channels"),
            rooms: format!("{prefix}:{BUS}:rooms"),
            writer: format!("{prefix}:{BUS}:writer"),
        }
    }

    /// The stream of a channel.
    pub(super) fn stream(&self, address: &Address) -> String {
        format!("{}:{{{address}}}:stream", self.prefix)
    }

    /// The string of a session. They are all in one slot of a cluster, so that one call has many.
    pub(super) fn session(&self, key: &SessionKey) -> String {
        format!("{}:{BUS}:session:{key}", self.prefix)
    }

    /// The hash of a channel.
    pub(super) fn meta(&self, address: &Address) -> String {
        format!("{}:{{{address}}}:meta", self.prefix)
    }
}
