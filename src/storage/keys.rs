//! The names of the keys. Their layout is told in the documentation of [`storage`](super).

use crate::protocol::command::Address;
use crate::protocol::session::SessionKey;

/// What stands in place of a channel for what belongs to none; no channel has such a name.
const BUS: &str = "{bus}";

/// The keys under one prefix.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: String,
    /// What the names of pub/sub channels begin with: unlike keys they are not of one database.
    told: String,
    /// The set of the channels: `room:channel`.
    pub(super) channels: String,
    /// The hash of the rooms: name to JSON.
    pub(super) rooms: String,
    /// The hash that says who writes.
    pub(super) writer: String,
    /// The hash of the client ids of all nodes: id to token.
    pub(super) clients: String,
    /// What the keys begin with that say which nodes live; a token follows.
    pub(super) leases: String,
    /// The hash of the nodes that share what is kept: token to the end of a lease.
    pub(super) nodes: String,
    /// The sorted set of how many bytes channels hold, and all of them together.
    pub(super) bytes: String,
    /// The token of the node that cuts channels where all together hold too much.
    pub(super) trimmer: String,
}

impl Keys {
    pub(super) fn new(prefix: &str, database: i64) -> Keys {
        Keys {
            prefix: prefix.to_owned(),
            told: match database {
                0 => prefix.to_owned(),
                // No prefix has such a character.
                database => format!("{prefix}@{database}"),
            },
            nodes: format!("{prefix}:{BUS}:nodes"),
            bytes: format!("{prefix}:{BUS}:bytes"),
            trimmer: format!("{prefix}:{BUS}:trimmer"),
            channels: format!("{prefix}:{BUS}:channels"),
            rooms: format!("{prefix}:{BUS}:rooms"),
            writer: format!("{prefix}:{BUS}:writer"),
            clients: format!("{prefix}:{BUS}:clients"),
            leases: format!("{prefix}:{BUS}:node:"),
        }
    }

    /// What names begin with that are only tried: one as of the whole bus, one as of a channel. No
    /// channel has such a name.
    pub(super) fn probes(&self) -> [String; 2] {
        let chance = fastrand::u64(..);
        [
            format!("{}:{BUS}:probe:{chance:016x}", self.prefix),
            format!("{}:{{probe}}:{chance:016x}", self.prefix),
        ]
    }

    /// Where something is told only to try it.
    pub(super) fn probe_channel(&self) -> String {
        format!("{}:probe", self.told)
    }

    /// The stream of a channel.
    pub(super) fn stream(&self, address: &Address) -> String {
        format!("{}:{{{address}}}:stream", self.prefix)
    }

    /// The string of a session. They are all in one slot of a cluster, so that one call has many.
    pub(super) fn session(&self, key: &SessionKey) -> String {
        format!("{}:{BUS}:session:{key}", self.prefix)
    }

    /// The hash of the nodes that follow a channel.
    pub(super) fn followers(&self, address: &Address) -> String {
        format!("{}:{{{address}}}:nodes", self.prefix)
    }

    /// Where those who follow a channel are told of it.
    pub(super) fn push(&self, address: &Address) -> String {
        format!("{}:{{{address}}}:push", self.told)
    }

    /// Where all nodes are told of rooms and channels.
    pub(super) fn catalogue(&self) -> String {
        format!("{}:catalogue", self.told)
    }

    /// Where all nodes are told of each other.
    pub(super) fn census(&self) -> String {
        format!("{}:census", self.told)
    }

    /// Where one node is told something.
    pub(super) fn node(&self, token: &str) -> String {
        format!("{}:node:{token}", self.told)
    }

    /// The hash of a channel.
    pub(super) fn meta(&self, address: &Address) -> String {
        format!("{}:{{{address}}}:meta", self.prefix)
    }
}
