//! The one Redis of a bus of several nodes, played: what the scripts of `storage/scripts` do, each in one
//! step. It forgets nothing.
//!
//! *Invariants*: an order has no hole and never changes; a client id is given to one node at a time, as
//! long as that one has a lease.

use arqonbus::base::time::Now;
use arqonbus::broker::peers::{Place, Submission, Verdict};
use arqonbus::broker::record::{ChannelRecord, KeptChannel, RoomRecord, Snapshot};
use arqonbus::broker::returning::{KeptSession, Stake};
use arqonbus::protocol::command::Address;
use arqonbus::protocol::names::Name;
use arqonbus::protocol::session::SessionKey;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The former terms that a channel remembers.
const PAST_MAX: usize = 16;

/// What Redis has.
#[derive(Default)]
pub struct Redis {
    pub rooms: BTreeMap<Name, RoomRecord>,
    /// The channels, by their names; `*` is the order of a room.
    pub orders: BTreeMap<String, Order>,
    /// The orders of channels that were deleted: to look at afterwards.
    pub ended: Vec<Order>,
    /// Which node has a client id, and for which session.
    pub ids: BTreeMap<Name, (usize, Option<Stake>)>,
    /// The sessions, each with its life; one that is over has only that.
    pub sessions: BTreeMap<SessionKey, (u64, Option<KeptSession>)>,
    terms: u32,
}

/// The order of a channel.
pub struct Order {
    pub record: ChannelRecord,
    pub entries: Vec<Arc<Entry>>,
    /// The nodes that follow it.
    pub followers: BTreeSet<usize>,
}

/// An event as it is stored.
#[derive(Debug)]
pub struct Entry {
    pub sequence: u64,
    pub id: String,
    pub from: String,
    /// The node that submitted it, and the ticket.
    pub origin: (usize, u64),
    /// The whole message.
    pub text: String,
    pub at_us: u64,
    /// Until when it may be delivered, on the clock of Redis, in milliseconds.
    pub until_ms: Option<u64>,
}

/// What Redis publishes to those who follow a channel.
#[derive(Clone)]
pub struct Push {
    pub life: Arc<str>,
    pub term: u32,
    pub what: What,
}

#[derive(Clone)]
pub enum What {
    Events(Vec<Arc<Entry>>),
    /// The term that was, and the last sequence that there is.
    Term {
        former: u32,
        last: u64,
    },
}

impl Order {
    /// The last sequence.
    pub fn last(&self) -> u64 {
        self.entries.len() as u64
    }

    /// The event at a sequence.
    pub fn at(&self, sequence: u64) -> Option<&Arc<Entry>> {
        self.entries.get(usize::try_from(sequence.checked_sub(1)?).ok()?)
    }
}

impl Redis {
    /// Makes a channel if it is not there; true if it was made.
    pub fn make(&mut self, record: &ChannelRecord) -> bool {
        let key = record.address.to_string();
        let is_new = !self.orders.contains_key(&key);
        self.orders.entry(key).or_insert_with(|| Order {
            record: record.clone(),
            entries: Vec::new(),
            followers: BTreeSet::new(),
        });
        is_new
    }

    /// Deletes a channel.
    pub fn remove(&mut self, address: &Address) {
        self.ended.extend(self.orders.remove(&address.to_string()));
    }

    /// Ends the term of a channel at a sequence at the latest; what is published.
    pub fn bump(&mut self, key: &str, sure: u64) -> Option<Push> {
        self.terms += 1;
        let term = self.terms;
        let order = self.orders.get_mut(key)?;
        let (last, sure) = (order.last(), sure.min(order.last()));
        let record = &mut order.record;
        let former = std::mem::replace(&mut record.term, term);
        record.past.iter_mut().for_each(|(_, last)| *last = (*last).min(sure));
        record.past.push((former, sure));
        record.past.drain(..record.past.len().saturating_sub(PAST_MAX));
        let what = What::Term { former, last };
        Some(Push { life: Arc::clone(&record.epoch), term, what })
    }

    /// Gives events their places and appends them, but for repeats; what is published.
    pub fn submit(
        &mut self,
        node: usize,
        key: &str,
        submissions: &[Submission],
        (now_ms, of_node): (u64, Now),
    ) -> Option<(Vec<Place>, Push)> {
        let order = self.orders.get_mut(key)?;
        let mut new = Vec::new();
        let mut places = Vec::new();
        for submission in submissions {
            let Submission { ticket, seen, draft, at_us, .. } = submission;
            let origin = (node, *ticket);
            let is_it = |entry: &&Arc<Entry>| entry.origin == origin;
            let is_same = |entry: &&Arc<Entry>| {
                entry.sequence > *seen && entry.id == draft.id() && entry.from == draft.from()
            };
            // It was placed by a call whose answer was lost; or it is a repeat.
            let placed = order.entries.iter().rev().find(is_it).map(|it| (it.sequence, false));
            let first = order.entries.iter().rev().find(is_same).map(|it| (it.sequence, true));
            let (sequence, is_duplicate) = placed.or(first).unwrap_or_else(|| {
                let sequence = order.entries.len() as u64 + 1;
                let at_us = order.entries.last().map_or(0, |last| last.at_us).max(*at_us);
                let frame = (**draft).clone().stamp(sequence, at_us);
                let text = String::from_utf8_lossy(frame.text()).into_owned();
                let (id, from) = (draft.id().to_owned(), draft.from().to_owned());
                let until_ms = draft.left_ms(of_node).map(|left_ms| now_ms + left_ms);
                let entry = Arc::new(Entry { sequence, id, from, origin, text, at_us, until_ms });
                new.push(Arc::clone(&entry));
                order.entries.push(entry);
                (sequence, false)
            });
            places.push(Place { ticket: *ticket, sequence, is_duplicate });
        }
        let (life, term) = (Arc::clone(&order.record.epoch), order.record.term);
        Some((places, Push { life, term, what: What::Events(new) }))
    }

    /// Gives a client id to a node, if it may have it; `is_again` if that had it before.
    pub fn take(
        &mut self,
        node: usize,
        client_id: &Name,
        stake: Option<Stake>,
        is_again: bool,
        lives: impl Fn(usize) -> bool,
    ) -> Verdict {
        let held = self.ids.get(client_id).copied().filter(|(holder, _)| *holder != node);
        if let Some((holder, of)) = held {
            let same = stake.zip(of).filter(|(it, of)| it.key == of.key);
            let is_later = same.is_some_and(|(it, of)| it.life > of.life);
            let is_earlier = same.is_some_and(|(it, of)| it.life < of.life);
            if is_earlier && (is_again || lives(holder)) {
                return Verdict::Superseded;
            }
            if !is_later && lives(holder) {
                return Verdict::Taken;
            }
        }
        self.ids.insert(client_id.clone(), (node, stake));
        Verdict::Granted
    }

    /// A node gives a client id back.
    pub fn free(&mut self, node: usize, client_id: &Name) {
        if self.ids.get(client_id).is_some_and(|(holder, _)| *holder == node) {
            self.ids.remove(client_id);
        }
    }

    /// Writes what is said of a session in one of its lives, unless it has a later one.
    pub fn keep_session(&mut self, key: SessionKey, life: u64, kept: Option<KeptSession>) {
        if self.sessions.get(&key).is_none_or(|(known, _)| *known <= life) {
            self.sessions.insert(key, (life, kept));
        }
    }

    /// All that there is, for a node that starts.
    pub fn snapshot(&self) -> Snapshot {
        let kept = self.orders.values().map(|order| KeptChannel {
            record: order.record.clone(),
            last: order.last(),
            last_us: order.entries.last().map_or(0, |last| last.at_us),
            messages: Vec::new(),
        });
        let (rooms, channels) = (self.rooms.values().cloned().collect(), kept.collect());
        Snapshot { rooms, channels, is_unread: false }
    }
}
