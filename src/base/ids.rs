//! Ids as newtypes: what they name can't be confused.

use std::fmt;

/// One worker thread: an edge for its connections and a home for its rooms.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ShardId(pub u16);

impl ShardId {
    /// The shard as an index into a table that has a row for each shard.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A connection on one shard. The generation tells a slot's later tenant from an earlier one, so
/// that an answer for a connection that is gone can't reach a stranger.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnId {
    /// The slot in the shard's table of connections.
    pub slot: u32,
    /// How many connections had the slot before.
    pub generation: u32,
}

impl ConnId {
    /// The last one in the order of connections.
    pub const LAST: ConnId = ConnId { slot: u32::MAX, generation: u32::MAX };
}

/// A connection anywhere on this node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnRef {
    /// The shard that holds the socket.
    pub shard: ShardId,
    /// The connection on that shard.
    pub conn: ConnId,
}

/// A channel of one room, never reused while the process lives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ChannelId(u64);

impl ChannelId {
    /// The `count`th channel made by `home`.
    pub fn new(home: ShardId, count: u64) -> ChannelId {
        assert!(count < 1 << 48, "a shard made 2^48 channels");
        ChannelId(u64::from(home.0) << 48 | count)
    }

    /// The shard that owns the channel.
    pub fn home(self) -> ShardId {
        ShardId((self.0 >> 48) as u16)
    }
}
