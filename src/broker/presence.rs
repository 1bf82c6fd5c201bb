//! Who came and went in one channel since its watchers were last told.
//!
//! A notice costs a write for each watcher, and each client can come and go as fast as it can give
//! commands. So changes are not told one by one: those of a turn go together, a client that came and went
//! meanwhile is not mentioned, and how soon a channel's watchers are told again depends on what the last
//! time cost. Every watcher ends up with what is so.
//!
//! A channel has two kinds of watchers: members that it lists, and followers of its room. A client that
//! joins or leaves `*` is told to followers once, with the channel `*`.
//!
//! *Invariants*: a client has at most one change that waits, which differs from what watchers were told;
//! a channel is scheduled once while a change of it waits.

use crate::base::ids::ConnRef;
use crate::base::limits::{
    PRESENCE_CHANGES_MAX, PRESENCE_LETTER_NS, PRESENCE_PER_CLIENT, PRESENCE_RATE_MS,
    PRESENCE_WATCHER_NS,
};
use crate::broker::policy::ClientCard;
use crate::protocol::names::Name;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What became of a client in a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is a member now.
    Joined,
    /// It is none any more.
    Left,
}

impl Change {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Change::Joined => "joined",
            Change::Left => "left",
        }
    }
}

/// Which watchers of a channel are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watchers {
    /// All.
    All,
    /// Members that the channel lists.
    Listed,
    /// Followers of its room.
    Followers,
}

/// A change, and for whom it is news.
#[derive(Clone, Debug)]
pub struct News {
    /// Who came or went.
    pub client: Arc<ClientCard>,
    /// Its connection, if it is here: it is not told of itself.
    pub from: Option<ConnRef>,
    /// What listed members are told.
    pub listed: Option<Change>,
    /// What followers of the room are told.
    pub followers: Option<Change>,
    /// Its place among the changes.
    order: u64,
    /// Until when nobody is told of it, on the monotonic clock in milliseconds.
    not_before_ms: u64,
}

impl News {
    /// The notices to be given, and to whom each.
    pub fn notices(&self) -> impl Iterator<Item = (Change, Watchers)> {
        let (one, other) = match (self.listed, self.followers) {
            (Some(listed), Some(followers)) if listed == followers => {
                (Some((listed, Watchers::All)), None)
            }
            (listed, followers) => (
                listed.map(|change| (change, Watchers::Listed)),
                followers.map(|change| (change, Watchers::Followers)),
            ),
        };
        one.into_iter().chain(other)
    }
}

/// What the watchers of a channel have not been told.
#[derive(Debug, Default)]
pub struct Pending {
    news: BTreeMap<Name, News>,
    /// Whose news they are, in the order in which it happened.
    in_order: BTreeMap<u64, Name>,
    noted: u64,
    /// Until when they are not told anything, on the monotonic clock.
    pub not_before_ns: u64,
    /// Whether it is scheduled to be told.
    pub is_scheduled: bool,
    /// For when, on the monotonic clock in milliseconds.
    pub due_ms: u64,
    /// How often each client was told of in the second that began then, in milliseconds.
    told: (u64, BTreeMap<Name, u32>),
}

impl Pending {
    /// Notes a change, of which nobody is told before a time in milliseconds. What is undone by it is
    /// not told at all.
    pub fn note(
        &mut self,
        client: &Arc<ClientCard>,
        from: Option<ConnRef>,
        change: Change,
        to: Watchers,
        not_before_ms: u64,
    ) {
        self.noted += 1;
        let order = self.noted;
        let news = self.news.entry(client.client_id.clone()).or_insert_with(|| News {
            client: client.clone(),
            from,
            listed: None,
            followers: None,
            order,
            not_before_ms,
        });
        self.in_order.remove(&news.order);
        (news.client, news.from, news.order) = (client.clone(), from, order);
        news.not_before_ms = not_before_ms;
        let halves = [
            (&mut news.listed, to != Watchers::Followers),
            (&mut news.followers, to != Watchers::Listed),
        ];
        for (half, _) in halves.into_iter().filter(|(_, is_meant)| *is_meant) {
            *half = match *half {
                Some(known) if known != change => None,
                _ => Some(change),
            };
        }
        match news.listed.is_none() && news.followers.is_none() {
            true => _ = self.news.remove(&client.client_id),
            false => _ = self.in_order.insert(order, client.client_id.clone()),
        }
    }

    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.news.is_empty()
    }

    /// Takes what is told next, in the order in which it happened; a client that was told of often
    /// enough in this second waits for the next one. At most `most` clients.
    pub fn take(&mut self, now_ms: u64, most: usize) -> Vec<News> {
        let Pending { news, in_order, told: (since_ms, counts), .. } = self;
        if now_ms >= *since_ms + PRESENCE_RATE_MS {
            (*since_ms, *counts) = (now_ms, BTreeMap::new());
        }
        let looked_at = in_order.iter().take(2 * PRESENCE_CHANGES_MAX);
        let next = looked_at.filter(|(_, client_id)| {
            let is_held = news.get(*client_id).is_some_and(|news| news.not_before_ms > now_ms);
            !is_held && counts.get(*client_id).is_none_or(|count| *count < PRESENCE_PER_CLIENT)
        });
        let next: Vec<u64> = next.map(|(order, _)| *order).take(most).collect();
        let mut taken = Vec::with_capacity(next.len());
        for order in next {
            let Some(client_id) = in_order.remove(&order) else { continue };
            taken.extend(news.remove(&client_id));
            *counts.entry(client_id).or_default() += 1;
        }
        taken
    }

    /// When the first of what waits may be told, in milliseconds.
    pub fn next_ms(&self) -> u64 {
        self.news.values().map(|news| news.not_before_ms).min().unwrap_or(0)
    }

    /// When clients that were told of often enough may be told of again, in milliseconds.
    pub fn next_second_ms(&self) -> u64 {
        self.told.0 + PRESENCE_RATE_MS
    }
}

/// What it costs, in nanoseconds, to tell so many watchers of so many changes at once.
pub fn cost_ns(watchers: u64, changes: u64) -> u64 {
    watchers * (PRESENCE_WATCHER_NS + changes * PRESENCE_LETTER_NS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::policy::Role;
    use crate::protocol::command::ClientType;

    fn card(name: &'static str) -> Arc<ClientCard> {
        let (client_id, client_type) = (Name::fixed(name), ClientType::Human);
        Arc::new(ClientCard { client_id, client_type, screen_name: None, role: Role::User })
    }

    fn told(pending: &mut Pending) -> Vec<String> {
        let news = pending.take(0, PRESENCE_CHANGES_MAX);
        let line = |news: &News| {
            let notices: Vec<_> = news.notices().collect();
            format!("{} {notices:?}", news.client.client_id)
        };
        news.iter().map(line).collect()
    }

    #[test]
    fn who_comes_and_goes_meanwhile_is_not_mentioned() {
        let (ann, bob) = (card("ann"), card("bob"));
        let mut pending = Pending::default();
        for change in [Change::Joined, Change::Left, Change::Joined] {
            pending.note(&ann, None, change, Watchers::All, 0);
            pending.note(&bob, None, Change::Joined, Watchers::All, 0);
        }
        pending.note(&bob, None, Change::Left, Watchers::All, 0);
        assert_eq!(told(&mut pending), ["ann [(Joined, All)]"]);
        assert!(pending.is_empty());
        // Of those whom the watchers know already the same holds.
        pending.note(&ann, None, Change::Left, Watchers::All, 0);
        pending.note(&ann, None, Change::Joined, Watchers::All, 0);
        assert!(pending.is_empty());
    }

    #[test]
    fn who_goes_on_by_another_connection_is_not_mentioned_and_who_does_not_is_later() {
        let (ann, bob) = (card("ann"), card("bob"));
        let mut pending = Pending::default();
        pending.note(&ann, None, Change::Left, Watchers::All, 2_000);
        pending.note(&bob, None, Change::Left, Watchers::All, 2_000);
        assert!(pending.take(1_999, PRESENCE_CHANGES_MAX).is_empty() && pending.next_ms() == 2_000);
        pending.note(&ann, None, Change::Joined, Watchers::All, 0);
        let last = pending.take(2_000, PRESENCE_CHANGES_MAX);
        assert_eq!((last.len(), &*last[0].client.client_id), (1, "bob"));
        assert!(pending.is_empty());
    }

    #[test]
    fn listed_members_and_followers_are_told_what_is_news_to_each() {
        let ann = card("ann");
        let mut pending = Pending::default();
        pending.note(&ann, None, Change::Joined, Watchers::Followers, 0);
        pending.note(&ann, None, Change::Left, Watchers::All, 0);
        assert_eq!(told(&mut pending), ["ann [(Left, Listed)]"]);
        pending.note(&ann, None, Change::Joined, Watchers::Listed, 0);
        pending.note(&ann, None, Change::Left, Watchers::Followers, 0);
        assert_eq!(told(&mut pending), ["ann [(Joined, Listed), (Left, Followers)]"]);
    }

    #[test]
    fn only_so_many_are_told_at_once_and_the_first_come_first() {
        let mut pending = Pending::default();
        for number in (0..2 * PRESENCE_CHANGES_MAX).rev() {
            let name = Name::parse(&format!("c{number:03}")).unwrap();
            let client = Arc::new(ClientCard { client_id: name, ..(*card("x")).clone() });
            pending.note(&client, None, Change::Joined, Watchers::All, 0);
        }
        let first = pending.take(0, PRESENCE_CHANGES_MAX);
        assert_eq!(first.len(), PRESENCE_CHANGES_MAX);
        assert_eq!(first[0].client.client_id.as_str(), "c127");
        let rest = pending.take(0, PRESENCE_CHANGES_MAX);
        assert_eq!((rest.len(), rest[0].client.client_id.as_str()), (64, "c063"));
    }

    #[test]
    fn a_client_is_told_of_so_often_and_then_what_is_so() {
        let ann = card("ann");
        let mut pending = Pending::default();
        let mut told_of = Vec::new();
        // It comes and goes all the time, and each time the watchers might be told.
        for ms in 0..3 * PRESENCE_RATE_MS {
            let change = if ms % 2 == 0 { Change::Joined } else { Change::Left };
            pending.note(&ann, None, change, Watchers::All, 0);
            told_of.extend(
                pending.take(ms, PRESENCE_CHANGES_MAX).into_iter().filter_map(|news| news.listed),
            );
        }
        assert!(told_of.len() as u32 <= 3 * PRESENCE_PER_CLIENT);
        assert!(told_of.chunks(2).all(|pair| pair == [Change::Joined, Change::Left]));
        pending.note(&ann, None, Change::Joined, Watchers::All, 0);
        let last = pending.take(10 * PRESENCE_RATE_MS, PRESENCE_CHANGES_MAX);
        assert_eq!(last[0].listed, Some(Change::Joined));
    }
}
