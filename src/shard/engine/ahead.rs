//! Looking ahead: what the next messages will touch is fetched before they are handled.
//!
//! With many connections and channels most of what a message touches has left the caches since it was
//! last needed. The messages of a turn have little to do with each other, so all of them can wait for
//! memory together; one after the other they would wait for each link of each way: connection,
//! session, membership; channel, history; audience, member. Each loop here follows one more link.
//!
//! Only what the shard asks and tells itself is looked ahead to; what comes by a lane is taken one by one.
//!
//! *Invariant*: nothing here changes anything.

use crate::base::ids::{ChannelId, ConnId};
use crate::base::prefetch::{FETCHES, prefetch};
use crate::broker::audience::{Audience, Seat};
use crate::broker::history::History;
use crate::broker::lane::{Ask, Publish, Target, Tell};
use crate::protocol::frame::Draft;
use crate::shard::engine::Engine;
use smallvec::SmallVec;

/// For how many messages the engine looks ahead: what they touch fits easily into a second cache.
pub const AHEAD: usize = 16;
/// So few messages are handled sooner than looked ahead to.
const AHEAD_MIN: usize = 3;
/// For how many members of an audience.
const MEMBERS_AHEAD: usize = 8;

impl Engine {
    /// Looks ahead to the bytes of these connections.
    pub fn prefetch_input(&self, conns: impl ExactSizeIterator<Item = ConnId> + Clone) {
        if !FETCHES || conns.len() < AHEAD_MIN {
            return;
        }
        for conn in conns.clone() {
            if let Some(Some(connection)) = self.connections.get(conn.slot as usize) {
                prefetch(&**connection);
            }
            self.edge.prefetch_session(conn);
        }
        conns.clone().for_each(|conn| self.edge.prefetch_memberships(conn));
        conns.for_each(|conn| self.edge.prefetch_names(conn));
    }

    /// Looks ahead to the next events that the shard asks itself to publish.
    pub(super) fn prefetch_asks(&mut self) {
        let Engine { asks, home, shard, .. } = self;
        let queue = asks.queue(*shard);
        if !FETCHES || queue.len() < AHEAD_MIN {
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
        let known = |(id, draft)| {
            let channel = home.channel_of(id)?;
            channel.prefetch_event();
            Some((&channel.history, draft))
        };
        let known: SmallVec<[(&History, &Draft); AHEAD]> =
            events.into_iter().filter_map(known).collect();
        let hashes: SmallVec<[(&History, u64); AHEAD]> = known
            .into_iter()
            .map(|(history, draft)| (history, history.prefetch_append(draft)))
            .collect();
        hashes.into_iter().for_each(|(history, hash)| history.prefetch_id(hash));
    }

    /// Looks ahead to the next events that the shard tells itself of.
    pub(super) fn prefetch_tells(&self) {
        let queue = &self.tells[self.shard.index()];
        if !FETCHES || queue.len() < AHEAD_MIN {
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
        let known = |channel| {
            let audience = self.edge.audience_of(channel)?;
            prefetch(audience);
            Some(audience)
        };
        let known: SmallVec<[&Audience; AHEAD]> = channels.into_iter().filter_map(known).collect();
        known.iter().flat_map(|audience| audience.seats().first()).for_each(prefetch);
        for audience in known {
            for &Seat { conn, .. } in audience.seats().iter().take(MEMBERS_AHEAD) {
                if let Some(Some(connection)) = self.connections.get(conn.slot as usize) {
                    connection.prefetch_delivery();
                }
            }
        }
    }
}
