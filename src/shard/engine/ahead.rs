//! Looking ahead: what the next messages will touch is fetched before they are handled.
//!
//! With many connections and channels most of what a message touches has left the caches since it was
//! last needed. The messages of a turn have little to do with each other, so all of them can wait for
//! memory together; one after the other they would wait for each link of each way: connection,
//! session, membership; channel, history; audience, member. Each loop here follows one more link.
//!
//! *Invariant*: nothing here changes anything.

use crate::base::ids::{ChannelId, ConnId};
use crate::base::prefetch::{FETCHES, prefetch, prefetch_bytes};
use crate::broker::audience::{Audience, Seat};
use crate::broker::history::History;
use crate::broker::lane::{Ask, Fanout, Publish, Target, Tell};
use crate::protocol::frame::{Draft, Frame};
use crate::shard::engine::Engine;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::sync::Arc;

/// For how many messages the engine looks ahead: what they touch fits easily into a second cache.
pub const AHEAD: usize = 16;
/// So few messages are handled sooner than looked ahead to.
const AHEAD_MIN: usize = 3;
/// For how many members of an audience.
const MEMBERS_AHEAD: usize = 8;

type Few<T> = SmallVec<[T; AHEAD]>;

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

    /// Looks ahead to the bytes of events that other shards ask to be published: they are where their
    /// processors wrote them.
    pub(super) fn prefetch_drafts(&self, asks: &VecDeque<Ask>) {
        if FETCHES && asks.len() >= AHEAD_MIN {
            for ask in asks {
                if let Ask::Publish(publish) = ask {
                    publish.draft.prefetch();
                }
            }
        }
    }

    /// Looks ahead to the next events to be published, and to those of this shard who are told of them.
    pub(super) fn prefetch_asks<'a>(&self, asks: impl ExactSizeIterator<Item = &'a Ask>) {
        if !FETCHES || asks.len() < AHEAD_MIN {
            return;
        }
        let event = |ask: &'a Ask| match ask {
            &Ask::Publish(Publish { to: Target::Channel(id), ref draft, .. }) => Some((id, draft)),
            _ => None,
        };
        // A run for one channel needs to wait once.
        let mut last = None;
        let is_other = |(id, _): &(ChannelId, &Draft)| last.replace(*id) != Some(*id);
        let events: Few<_> = asks.take(AHEAD).filter_map(event).filter(is_other).collect();
        if events.len() < AHEAD_MIN {
            return;
        }
        let audiences = self.prefetch_audiences(events.iter().map(|&(id, _)| id));
        let known = |(id, draft)| {
            let channel = self.home.channel_of(id)?;
            channel.prefetch_event();
            Some((&channel.history, draft))
        };
        let known: Few<(&History, &Draft)> = events.into_iter().filter_map(known).collect();
        audiences.iter().flat_map(|audience| audience.seats().first()).for_each(prefetch);
        let hashes: Few<(&History, u64)> = known
            .into_iter()
            .map(|(history, draft)| (history, history.prefetch_append(draft)))
            .collect();
        self.prefetch_members(&audiences);
        hashes.into_iter().for_each(|(history, hash)| history.prefetch_id(hash));
    }

    /// Looks ahead to the next events that other shards tell of.
    pub(super) fn prefetch_tells(&self, tells: &VecDeque<Tell>) {
        if !FETCHES || tells.len() < AHEAD_MIN {
            return;
        }
        let event = |tell| match tell {
            &Tell::Fanout(Fanout { channel, ref frame, .. }) => Some((channel, frame)),
            _ => None,
        };
        let events: Few<(ChannelId, &Arc<Frame>)> = tells.iter().filter_map(event).collect();
        events.iter().for_each(|(_, frame)| prefetch(&***frame));
        let mut channels: Few<ChannelId> = events.iter().map(|&(channel, _)| channel).collect();
        channels.dedup();
        let audiences = self.prefetch_audiences(channels.into_iter());
        // These bytes are still where another shard's processor wrote them, too.
        events.iter().for_each(|(_, frame)| prefetch_bytes(frame.wire()));
        audiences.iter().flat_map(|audience| audience.seats().first()).for_each(prefetch);
        self.prefetch_members(&audiences);
    }

    fn prefetch_audiences(&self, channels: impl Iterator<Item = ChannelId>) -> Few<&Audience> {
        let audiences: Few<&Audience> =
            channels.filter_map(|channel| self.edge.audience_of(channel)).collect();
        audiences.iter().copied().for_each(prefetch);
        audiences
    }

    fn prefetch_members(&self, audiences: &[&Audience]) {
        for audience in audiences {
            for &Seat { conn, .. } in audience.seats().iter().take(MEMBERS_AHEAD) {
                if let Some(Some(connection)) = self.connections.get(conn.slot as usize) {
                    connection.prefetch_delivery();
                }
            }
        }
    }
}
