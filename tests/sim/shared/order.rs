//! The channels that a node follows: what it hears of them, and what it reads that it missed. What
//! `storage::hub::follow` and `follower` do, played.

use super::hub::Answer;
use super::redis::{Entry, Push, What};
use super::{Flaw, Shared};
use arqonbus::base::ids::ChannelId;
use arqonbus::base::time::Now;
use arqonbus::broker::peers::{Arrival, Attach, PeerNews, To};
use arqonbus::broker::record::{ChannelRecord, KeptChannel};
use arqonbus::protocol::frame::Frame;
use fastrand::Rng;
use std::collections::VecDeque;
use std::sync::Arc;

/// A channel that is followed.
pub(super) struct Follow {
    pub(super) channel: ChannelId,
    messages: u32,
    /// As it was found last; nothing before that.
    pub(super) record: Option<ChannelRecord>,
    /// The last sequence that the home was told.
    told: u64,
    /// Something may have been missed.
    pub(super) is_behind: bool,
    pub(super) pushes: VecDeque<Push>,
}

impl Shared {
    pub(super) fn begin_to_follow(&mut self, node: usize, key: &str, attach: &Attach) {
        let Attach { channel, messages, .. } = *attach;
        let follows = &mut self.hubs[node].follows;
        if follows.get(key).is_none_or(|follow| follow.channel != channel) {
            let (record, told, is_behind, pushes) = (None, 0, false, VecDeque::new());
            let follow = Follow { channel, messages, record, told, is_behind, pushes };
            follows.insert(key.to_owned(), follow);
        }
    }

    /// Forgets that nodes followed a channel that do not live any more. What they were told is there, as
    /// this Redis forgets nothing: so the term goes on.
    pub(super) fn forget_the_dead(&mut self, node: usize, key: &str) {
        let live: Vec<bool> = (0..self.hubs.len()).map(|other| self.lives(other)).collect();
        let order = self.redis.orders.get_mut(key);
        let followers = order.into_iter().map(|order| &mut order.followers);
        followers.for_each(|followers| followers.retain(|&it| it == node || live[it]));
    }

    /// Makes a channel if it is not there, follows it, and reads the end of its order.
    pub(super) fn read(
        &mut self,
        node: usize,
        key: &str,
        record: &ChannelRecord,
        now: Now,
    ) -> Answer {
        let is_new = self.make(node, record);
        let messages = self.hubs[node].follows.get(key).map_or(0, |follow| follow.messages);
        let time = (self.now_ms, now);
        let Some(order) = self.redis.orders.get_mut(key) else { return Answer::Missing };
        order.followers.insert(node);
        let from = order.entries.len().saturating_sub(messages as usize);
        let kept = KeptChannel {
            record: order.record.clone(),
            last: order.last(),
            last_us: order.entries.last().map_or(0, |last| last.at_us),
            messages: order.entries[from..].iter().map(|entry| restore(entry, time)).collect(),
        };
        Answer::Read(kept, is_new)
    }

    pub(super) fn attached(&mut self, node: usize, key: &str, kept: KeptChannel, is_new: bool) {
        let Some(follow) = self.hubs[node].follows.get_mut(key) else { return };
        (follow.told, follow.is_behind) = (kept.last, false);
        follow.record = Some(kept.record.clone());
        let (channel, kept) = (follow.channel, Arc::new(kept));
        let to = To::Shard(channel.home());
        self.tell(node, to, PeerNews::Attached { channel, kept, is_new });
    }

    /// Looks whether something was missed of a channel that is followed.
    pub(super) fn sync(&mut self, node: usize, key: &str, now: Now) {
        let flaw = self.flaw;
        let (page, pages) = match flaw {
            Flaw::WholeCatchUp => (usize::MAX, 1),
            _ => (self.page, self.pages),
        };
        let Some(follow) = self.hubs[node].follows.get_mut(key) else { return };
        let Some(known) = follow.record.clone() else {
            // What was asked for first is still to come.
            follow.is_behind = false;
            return;
        };
        let order = self.redis.orders.get_mut(key).filter(|it| it.record.epoch == known.epoch);
        let missed = order.as_ref().map_or(0, |order| order.last() - follow.told) as usize;
        let Some(order) = order.filter(|_| missed <= page.saturating_mul(pages)) else {
            let is_there = self.redis.orders.contains_key(key);
            let record = if is_there { known } else { anew(&known) };
            if let Answer::Read(kept, is_new) = self.read(node, key, &record, now) {
                self.attached(node, key, kept, is_new);
            }
            return;
        };
        order.followers.insert(node);
        let (channel, told) = (follow.channel, follow.told as usize);
        let to = To::Shard(channel.home());
        let (term, past) = (order.record.term, order.record.past.clone());
        let entries: Vec<Arc<Entry>> =
            order.entries.iter().skip(told).take(page).cloned().collect();
        follow.record = Some(order.record.clone());
        follow.told += entries.len() as u64;
        follow.is_behind = follow.told < order.last();
        if term != known.term {
            self.tell(node, to.clone(), PeerNews::Term { channel, term, past });
        }
        self.arrived(node, channel, entries, now);
    }

    /// Hears some of what was published of a channel.
    pub(super) fn hear(&mut self, node: usize, key: &str, now: Now, rng: &mut Rng) {
        let page = self.page;
        let Some(follow) = self.hubs[node].follows.get_mut(key) else { return };
        let (channel, many) = (follow.channel, rng.usize(1..=4));
        let (mut entries, mut news) = (Vec::new(), None);
        for _ in 0..many {
            let Some(push) = follow.pushes.pop_front() else { break };
            let Some(record) = &mut follow.record else { continue };
            if follow.is_behind {
                continue;
            }
            let is_of_life = push.life == record.epoch;
            match push.what {
                What::Events(new) if is_of_life && push.term == record.term => {
                    let new: Vec<_> =
                        new.into_iter().filter(|it| it.sequence > follow.told).collect();
                    let next = new.first().map_or(follow.told + 1, |first| first.sequence);
                    match next == follow.told + 1 {
                        true => {
                            follow.told += new.len() as u64;
                            entries.extend(new);
                        }
                        false => follow.is_behind = true,
                    }
                }
                What::Term { .. } if is_of_life && push.term == record.term => {}
                What::Term { former, last }
                    if is_of_life && former == record.term && follow.told == last =>
                {
                    let Some(order) = self.redis.orders.get(key) else { break };
                    // What is past is said with it; more may have ended since.
                    let past = order.record.past.iter().copied();
                    let past: Vec<_> = past.take_while(|(term, _)| *term != push.term).collect();
                    (record.term, record.past) = (push.term, past.clone());
                    news = Some(PeerNews::Term { channel, term: push.term, past });
                    break;
                }
                _ => follow.is_behind = true,
            }
            if entries.len() >= page {
                break;
            }
        }
        self.arrived(node, channel, entries, now);
        if let Some(news) = news {
            self.tell(node, To::Shard(channel.home()), news);
        }
    }

    /// Tells a home the next events of a channel.
    fn arrived(&mut self, node: usize, channel: ChannelId, mut entries: Vec<Arc<Entry>>, now: Now) {
        if self.flaw == Flaw::LoseArrival && entries.last().is_some_and(|it| it.sequence % 3 == 0) {
            entries.pop();
        }
        if entries.is_empty() {
            return;
        }
        let is_lost = self.flaw == Flaw::LoseTicket;
        let ticket = |entry: &Entry| (entry.origin.0 == node && !is_lost).then_some(entry.origin.1);
        let time = (self.now_ms, now);
        let arrival =
            |entry: &Arc<Entry>| Arrival { frame: restore(entry, time), ticket: ticket(entry) };
        let events = entries.iter().map(arrival).collect();
        self.tell(node, To::Shard(channel.home()), PeerNews::Arrived { channel, events });
    }

    pub(super) fn publish(&mut self, key: &str, push: &Push) {
        if matches!(&push.what, What::Events(events) if events.is_empty()) {
            return;
        }
        for hub in self.hubs.iter_mut().filter(|hub| hub.is_up && !hub.is_dead) {
            let follow = hub.follows.get_mut(key);
            follow.into_iter().for_each(|follow| follow.pushes.push_back(push.clone()));
        }
    }
}

/// A channel that goes on in another term, as Redis does not have it any more.
fn anew(record: &ChannelRecord) -> ChannelRecord {
    let mut record = record.clone();
    let former = record.term;
    record.term = former.wrapping_add(0x1000_0000);
    record.past.iter_mut().for_each(|(_, last)| *last = 0);
    record.past.push((former, 0));
    record
}

/// An event as a node gets it, whose clocks say something else than the one of Redis.
fn restore(entry: &Entry, (now_ms, of_node): (u64, Now)) -> Arc<Frame> {
    let left_ms = entry.until_ms.map(|until_ms| until_ms.saturating_sub(now_ms));
    match Frame::restore(&entry.text, of_node, left_ms) {
        Ok(frame) => frame,
        Err(error) => panic!("{} {error}", entry.text),
    }
}
