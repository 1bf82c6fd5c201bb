//! Looking ahead: what the next messages will touch is fetched before they are handled.
//!
//! With many connections and channels most of what a message touches has left the caches since it was
//! last needed. The messages of a turn have little to do with each other, so all of them can wait for
//! memory together; one after the other they would wait for each link of each way: connection,
//! session, membership; channel, history; audience, member. Each loop here follows one more link.
//!
//! *Invariant*: nothing here changes anything.

use crate::base::ids::{ChannelId, ConnId};
use crate::base::prefetch::prefetch;
use crate::broker::lane::{Ask, Publish, Target, Tell};
use crate::protocol::frame::Draft;
use crate::shard::engine::Engine;
use smallvec::SmallVec;

/// For how many messages the engine looks ahead: what they touch fits into a first cache.
pub const AHEAD: usize = 16;
/// So few messages are handled sooner than looked ahead to.
const AHEAD_MIN: usize = 3;
/// For how many members of an audience.
const MEMBERS_AHEAD: usize = 8;

impl Engine {
    /// Looks ahead to the bytes of these connections.
    pub fn expect_input(&self, conns: impl ExactSizeIterator<Item = ConnId> + Clone) {
        if conns.len() < AHEAD_MIN {
            return;
        }
        for conn in conns.clone() {
            if let Some(Some(connection)) = self.connections.get(conn.slot as usize) {
                prefetch(&**connection);
            }
            self.edge.expect_sender(conn);
        }
        conns.clone().for_each(|conn| self.edge.expect_memberships(conn));
        conns.for_each(|conn| self.edge.expect_names(conn));
    }

    /// Looks ahead to the next events that the shard asks itself to publish.
    pub(super) fn expect_asks(&mut self) {
        let Engine { asks, home, shard, .. } = self;
        let queue = asks.queue(*shard);
        if queue.len() < AHEAD_MIN {
            return;
        }
        let event = |ask| match ask {
            &Ask::Publish(Publish { to: Target::Channel(id), ref draft, .. }) => Some((id, draft)),
            _ => None,
        };
        // A run for one channel needs to wait once.
        let mut last = None;
        let is_other = |(id, _): &(ChannelId, &Draft)| last.replace(*id) != Some(*id);
        let events = queue.iter().take(AHEAD).filter_map(event).filter(is_other);
        let events: SmallVec<[_; AHEAD]> = events.collect();
        if events.len() < AHEAD_MIN {
            return;
        }
        events.iter().for_each(|&(id, _)| home.expect_channel(id));
        let hash = |&(id, draft)| (id, home.expect_event(id, draft));
        let hashes: SmallVec<[_; AHEAD]> = events.iter().map(hash).collect();
        hashes.into_iter().for_each(|(id, hash)| home.expect_id(id, hash));
    }

    /// Looks ahead to the next events that the shard tells itself of.
    pub(super) fn expect_tells(&self) {
        let queue = &self.tells[self.shard.index()];
        if queue.len() < AHEAD_MIN {
            return;
        }
        let channel = |tell: &Tell| match tell {
            Tell::Fanout(fanout) => Some(fanout.channel),
            _ => None,
        };
        let channels = queue.iter().take(AHEAD).filter_map(channel);
        let mut channels: SmallVec<[_; AHEAD]> = channels.collect();
        channels.dedup();
        if channels.len() < AHEAD_MIN {
            return;
        }
        channels.iter().for_each(|&channel| self.edge.expect_audience(channel));
        channels.iter().for_each(|&channel| self.edge.expect_seats(channel));
        for channel in channels {
            for conn in self.edge.members(channel).take(MEMBERS_AHEAD) {
                if let Some(Some(connection)) = self.connections.get(conn.slot as usize) {
                    connection.expect_delivery();
                }
            }
        }
    }
}
