//! Answers about the whole bus, put together from what every shard says.

use crate::base::ids::ShardId;
use crate::broker::lane::Part;
use crate::protocol::views::{ClientView, Counts, RoomView};

/// The most rooms or clients one answer lists; it says how many there are in all.
pub const ROWS_MAX: usize = 1_000;

/// What has been gathered so far.
#[derive(Debug)]
pub enum Census {
    /// Counts.
    Status(Box<Counts>),
    /// Rooms, and how many there are.
    Rooms(Vec<RoomView>, u64),
    /// Clients, and how many there are.
    Clients(Vec<ClientView>, u64),
    /// How many clients heard an announcement.
    Announced(u64),
}

impl Census {
    /// Adds one shard's part.
    pub fn add(&mut self, part: Part) {
        match (self, part) {
            (Census::Status(sum), Part::Status(counts)) => {
                sum.clients += counts.clients;
                sum.rooms += counts.rooms;
                sum.channels += counts.channels;
                sum.messages_in += counts.messages_in;
                sum.messages_out += counts.messages_out;
                sum.peers = sum.peers.take().or(counts.peers);
                sum.storage = match (sum.storage.take(), counts.storage) {
                    (Some(known), Some(more)) => Some(known.plus(more)),
                    (known, more) => known.or(more),
                };
            }
            (Census::Rooms(rooms, total), Part::Rooms(more, count)) => {
                rooms.extend(more);
                rooms.sort_unstable_by(|a, b| a.name.cmp(&b.name));
                rooms.truncate(ROWS_MAX);
                *total += count;
            }
            (Census::Clients(clients, total), Part::Clients(more, count)) => {
                clients.extend(more);
                clients.sort_unstable_by(|a, b| a.client_id.cmp(&b.client_id));
                clients.truncate(ROWS_MAX);
                *total += count;
            }
            (Census::Announced(total), Part::Announced(count)) => *total += count,
            (census, part) => unreachable!("{part:?} is no part of {census:?}"),
        }
    }
}

/// The shards whose part did not come, from the flags of those that are awaited.
pub fn unanswered(awaited: &[bool]) -> Vec<u16> {
    let missing = |(shard, awaited): (usize, &bool)| awaited.then_some(ShardId(shard as u16).0);
    awaited.iter().enumerate().filter_map(missing).collect()
}
