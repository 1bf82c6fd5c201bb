//! What is kept of a room beyond the life of its home, and how far a history is safe.
//!
//! [`Durability`] is what the node does if a room does not say otherwise. A history that is kept has
//! a [`Durable`], by which its home knows what the storage has of it.
//!
//! **Terms.** Members get an event at once, and its record follows; so when a home dies, members may
//! have seen the last events of an order that nobody has kept. The home that goes on with the order
//! gives their sequences to other events, and must tell the two apart when a member asks for what it
//! missed. So each home that goes on has a term of its own, which is a part of the epoch that members
//! are told, and remembers how far each earlier term was kept: a sequence of an earlier term means
//! the same to both if it is not beyond that. (As Raft compares index and term of a log's entries:
//! Ongaro and Ousterhout, *In Search of an Understandable Consensus Algorithm*, 2014.)
//!
//! *Invariants*: a history that is not kept has no [`Durable`]; nothing is safe beyond the last
//! sequence given; the holes are apart from each other and in order; nobody is told of a term but
//! the storage hears of it before it hears of an event of that term.
//!
//! *Panics*: an index is used after the length was checked; a home comes from the placement of this
//! node.

use crate::base::hash::Placement;
use crate::base::limits::{HOLES_MAX, PAST_TERMS_MAX};
use crate::broker::late::Renumbering;
use crate::broker::record::{ChannelRecord, Keep, Snapshot};
use crate::protocol::command::{AckWhen, Persist, RoomConfig};
use crate::protocol::names::{Name, TELEMETRY_ROOM};
use std::sync::Arc;

/// What a node keeps, and how long an ack waits for it. Set when the daemon starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Durability {
    /// What is kept of a room that does not say so itself.
    pub persist: Persist,
    /// The messages kept for each channel at least; 0 is as many as its history holds.
    pub retention_messages: u32,
    /// Nothing older is kept, in milliseconds; 0 is no limit.
    pub retention_age_ms: u64,
    /// How long an ack waits before it is refused.
    pub ack_timeout_ms: u32,
    /// Whether several nodes share the storage, which then gives the sequences.
    pub is_shared: bool,
}

impl Durability {
    /// What is kept of a room. What the bus tells about itself is kept only where a room's own
    /// configuration says so.
    pub fn of_room(&self, name: &Name, config: &RoomConfig) -> Persist {
        let is_telemetry = name.as_str() == TELEMETRY_ROOM;
        let default = match is_telemetry {
            true => Persist::None,
            false => self.persist,
        };
        match (self.is_shared, config.persist.unwrap_or(default)) {
            // What a node tells about itself is its own; all else goes through what is shared.
            (true, _) if is_telemetry => Persist::None,
            (true, _) => Persist::All,
            (false, persist) => persist,
        }
    }

    /// How much is kept of a channel whose history holds so many messages, of so many bytes: at least
    /// the last one, so that its order goes on.
    pub fn keep(&self, history_size: u32, history_bytes: u32) -> Keep {
        let messages = match self.retention_messages {
            0 => history_size,
            messages => messages,
        };
        Keep {
            messages: messages.max(1),
            age_ms: self.retention_age_ms,
            bytes: u64::from(history_bytes),
        }
    }
}

/// Whether an event is safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is stored.
    Stored,
    /// The storage has not said.
    Unknown,
    /// It will never be stored.
    Lost,
}

/// What an epoch says of where its sequences are from.
struct Position {
    /// The term; of a fork the one that it left.
    term: u32,
    /// Of a fork, the last sequence that it has of that term.
    fork_at: Option<u64>,
}

/// What is known of how far a history is safe.
#[derive(Clone, Debug)]
pub struct Durable {
    /// How much of it is kept.
    pub keep: Keep,
    /// Its life, over all terms.
    pub life: Arc<str>,
    /// The term in which it gives sequences; 0 is the first.
    pub term: u32,
    /// The terms before, oldest first, each with the last sequence of it that was kept.
    pub past: Vec<(u32, u64)>,
    /// Whether the storage has been told of it, as it is in this term.
    pub is_recorded: bool,
    /// When its events are acknowledged.
    pub ack_when: AckWhen,
    /// Whether the storage gives its sequences, to several nodes.
    pub is_shared: bool,
    /// Of a fork, in which its home goes on alone: the term that it left, and the last sequence that it
    /// has of that.
    left: Option<(u32, u64)>,
    /// Up to which sequence everything is stored, but for the holes.
    stored: u64,
    /// Sequences that will never be stored.
    holes: Vec<(u64, u64)>,
}

impl Durable {
    /// A history that begins now.
    pub fn new(life: Arc<str>, keep: Keep, ack_when: Option<AckWhen>) -> Durable {
        Durable {
            keep,
            life,
            term: 0,
            past: Vec::new(),
            is_recorded: false,
            ack_when: ack_when.unwrap_or(AckWhen::Stored),
            is_shared: false,
            left: None,
            stored: 0,
            holes: Vec::new(),
        }
    }

    /// The same history in another term, of which everything up to `last` was kept.
    pub fn go_on(
        mut self,
        (before, mut past): (u32, Vec<(u32, u64)>),
        term: u32,
        last: u64,
    ) -> Durable {
        past.push((before, last));
        past.drain(..past.len().saturating_sub(PAST_TERMS_MAX));
        (self.term, self.past, self.stored) = (term, past, last);
        self
    }

    /// The same history in a fork, of which everything up to `last` is that of the term that it leaves.
    pub fn fork(self, term: u32, last: u64) -> Durable {
        let before = (self.term, self.past.clone());
        let left = Some((self.term, last));
        Durable { left, ..self.go_on(before, term, last) }
    }

    /// Takes what is known of events that have other sequences here.
    pub fn take_losses(&mut self, of: &Durable, renumbering: &Renumbering) {
        for run in of.holes.iter().filter_map(|&run| renumbering.of_run(run)) {
            self.note_lost(run.0, run.1);
        }
    }

    /// It is as it is kept, up to `last`.
    pub fn take_over(&mut self, record: &ChannelRecord, last: u64) {
        (self.life, self.term, self.past) =
            (record.epoch.clone(), record.term, record.past.clone());
        (self.stored, self.is_recorded) = (last, true);
        self.holes.clear();
    }

    /// Nothing of it is here any more.
    pub fn begin_again(&mut self) {
        self.stored = 0;
        self.holes.clear();
    }

    /// The epoch that members are told. That of a fork says which term it left, and where: so every node
    /// knows how far it holds, though no other ever heard of it.
    pub fn epoch(&self) -> Arc<str> {
        match (self.term, self.left) {
            (0, None) => self.life.clone(),
            (term, None) => format!("{}-{term:08x}", self.life).into(),
            (term, Some((left, at))) => {
                format!("{}-{left:08x}-{at:x}-{term:08x}", self.life).into()
            }
        }
    }

    /// Whether a sequence of an earlier term means here what it meant there.
    pub fn knows(&self, epoch: &str, sequence: u64) -> bool {
        let Some(Position { term, fork_at }) = self.position(epoch) else { return false };
        if fork_at.is_some_and(|at| sequence > at) {
            return false;
        }
        let past = self.past.iter().find(|(known, _)| *known == term);
        match past {
            Some((_, last)) => sequence <= *last,
            // What a fork has of the term that goes on here is of this one.
            None => fork_at.is_some() && term == self.term && self.left.is_none(),
        }
    }

    /// Whether an epoch is of this life, in a term that was never heard of: another node may have.
    pub fn is_unheard(&self, epoch: &str) -> bool {
        let is_known =
            |term| term == self.term || self.past.iter().any(|(known, _)| *known == term);
        self.position(epoch).is_some_and(|position| !is_known(position.term))
    }

    /// What an epoch of this life says.
    fn position(&self, epoch: &str) -> Option<Position> {
        let rest = epoch.strip_prefix(&*self.life)?;
        if rest.is_empty() {
            return Some(Position { term: 0, fork_at: None });
        }
        let mut parts = rest.strip_prefix('-')?.split('-');
        let term = u32::from_str_radix(parts.next()?, 16).ok()?;
        let Some(at) = parts.next() else { return Some(Position { term, fork_at: None }) };
        let fork_at = Some(u64::from_str_radix(at, 16).ok()?);
        u32::from_str_radix(parts.next()?, 16).ok()?;
        parts.next().is_none().then_some(Position { term, fork_at })
    }

    /// Whether an event is safe.
    pub fn fate(&self, sequence: u64) -> Fate {
        let is_in = |&(first, last): &(u64, u64)| (first..=last).contains(&sequence);
        if self.holes.iter().any(is_in) {
            return Fate::Lost;
        }
        if sequence <= self.stored { Fate::Stored } else { Fate::Unknown }
    }

    /// Everything up to a sequence is stored.
    pub fn note_stored(&mut self, sequence: u64) {
        self.stored = self.stored.max(sequence);
    }

    /// These will never be stored.
    pub fn note_lost(&mut self, first: u64, last: u64) {
        // Almost always one more of the same.
        if let Some(newest) = self.holes.last_mut()
            && (newest.0..=newest.1 + 1).contains(&first)
        {
            newest.1 = newest.1.max(last);
            return;
        }
        self.holes.push((first, last));
        self.holes.sort_unstable();
        let mut apart: Vec<(u64, u64)> = Vec::with_capacity(self.holes.len());
        for &(first, last) in &self.holes {
            match apart.last_mut() {
                Some(before) if first <= before.1 + 1 => before.1 = before.1.max(last),
                _ => apart.push((first, last)),
            }
        }
        if apart.len() > HOLES_MAX {
            // Better to call something lost that is not than the other way round.
            let oldest = apart.remove(0);
            apart[0].0 = oldest.0;
        }
        self.holes = apart;
    }

    /// What was stored is there no more.
    pub fn note_forgotten(&mut self) {
        if self.stored > 0 {
            self.note_lost(1, self.stored);
        }
    }

    /// How many of the sequences up to `last` are neither stored nor lost.
    pub fn open(&self, last: u64) -> u64 {
        let beyond = |&(first, to): &(u64, u64)| {
            let (first, to) = (first.max(self.stored + 1), to.min(last));
            (to + 1).saturating_sub(first)
        };
        last.saturating_sub(self.stored) - self.holes.iter().map(beyond).sum::<u64>()
    }

    /// Asserts every invariant; for tests and the simulator.
    pub fn check(&self, last: u64) {
        assert!(self.stored <= last, "nothing is safe that was never given");
        let is_apart = |pair: &[(u64, u64)]| pair[0].1 + 1 < pair[1].0;
        assert!(self.holes.windows(2).all(is_apart), "holes are apart");
        assert!(self.holes.iter().all(|(first, to)| first <= to && *to <= last));
    }
}

/// A snapshot's parts for each home, in the order of the shards.
pub fn of_homes(snapshot: Snapshot, placement: &Placement) -> Vec<Snapshot> {
    let is_unread = snapshot.is_unread;
    let part = |_| Snapshot { is_unread, ..Snapshot::default() };
    let mut parts: Vec<Snapshot> = placement.all().map(part).collect();
    for room in snapshot.rooms {
        parts[placement.of_room(&room.name).index()].rooms.push(room);
    }
    for channel in snapshot.channels {
        let home = placement.of_room(&channel.record.address.room);
        parts[home.index()].channels.push(channel);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn durable() -> Durable {
        Durable::new("e".into(), Keep { messages: 10, age_ms: 0, bytes: 0 }, None)
    }

    #[test]
    fn a_sequence_means_the_same_as_far_as_its_term_was_kept() {
        let first = durable();
        assert_eq!(&*first.epoch(), "e");
        let second = durable().go_on((0, Vec::new()), 0xa, 7);
        let third = durable().go_on((second.term, second.past.clone()), 0xb, 9);
        assert_eq!((&*second.epoch(), &*third.epoch()), ("e-0000000a", "e-0000000b"));
        for (epoch, sequence, expected) in [
            ("e", 7, true),
            ("e", 8, false),
            ("e-0000000a", 9, true),
            ("e-0000000a", 10, false),
            ("e-0000000c", 1, false),
            ("e-", 1, false),
            ("ex", 1, false),
            ("f", 1, false),
        ] {
            assert_eq!(third.knows(epoch, sequence), expected, "{epoch} {sequence}");
        }
        let mut durable = durable();
        for term in 1..100 {
            durable = self::durable().go_on((durable.term, durable.past), term, 1);
        }
        assert_eq!(durable.past.len(), PAST_TERMS_MAX);
        assert!(durable.knows("e-00000062", 1) && !durable.knows("e", 1));
    }

    #[test]
    fn the_epoch_of_a_fork_holds_on_every_node_up_to_where_it_began() {
        let second = durable().go_on((0, Vec::new()), 0xa, 7);
        let fork = second.clone().fork(0xf, 9);
        assert_eq!(&*fork.epoch(), "e-0000000a-9-0000000f");
        let third = durable().go_on((second.term, second.past.clone()), 0xb, 8);
        for (epoch, sequence, of_fork, of_second, of_third) in [
            ("e", 7, true, true, true),
            ("e", 8, false, false, false),
            ("e-0000000a", 9, true, false, false),
            ("e-0000000a", 8, true, false, true),
            ("e-0000000a-9-0000000f", 8, true, true, true),
            ("e-0000000a-9-0000000f", 9, true, true, false),
            ("e-0000000a-9-0000000f", 10, false, false, false),
            ("e-00000000-9-0000000f", 7, true, true, true),
            ("e-0000000a-9-0000000f-1", 1, false, false, false),
            ("e-0000000a-9", 1, false, false, false),
            ("e-0000000a-x-0000000f", 1, false, false, false),
        ] {
            let found = [&fork, &second, &third].map(|durable| durable.knows(epoch, sequence));
            assert_eq!(found, [of_fork, of_second, of_third], "{epoch} {sequence}");
        }
        assert!(!second.is_unheard(&fork.epoch()) && durable().is_unheard(&fork.epoch()));
    }

    #[test]
    fn what_is_lost_stays_lost_whatever_is_stored_after_it() {
        let mut durable = durable();
        durable.note_stored(3);
        durable.note_lost(5, 6);
        let fates = |durable: &Durable| (1..=8).map(|at| durable.fate(at)).collect::<Vec<_>>();
        use Fate::{Lost, Stored, Unknown};
        let expected = [Stored, Stored, Stored, Unknown, Lost, Lost, Unknown, Unknown];
        assert_eq!(fates(&durable), expected);
        assert_eq!(durable.open(8), 3);
        durable.note_stored(7);
        // Said twice, and late.
        durable.note_stored(4);
        assert_eq!(fates(&durable), [Stored, Stored, Stored, Stored, Lost, Lost, Stored, Unknown]);
        assert_eq!((durable.open(8), durable.open(7)), (1, 0));
    }

    #[test]
    fn what_was_forgotten_is_lost_and_what_comes_is_not() {
        let mut durable = durable();
        durable.note_forgotten();
        durable.note_stored(4);
        durable.note_lost(2, 2);
        durable.note_forgotten();
        durable.note_stored(6);
        let fates: Vec<Fate> = [1, 4, 5, 6, 7].map(|at| durable.fate(at)).to_vec();
        assert_eq!(fates, [Fate::Lost, Fate::Lost, Fate::Stored, Fate::Stored, Fate::Unknown]);
        assert_eq!(durable.open(7), 1);
        durable.check(7);
    }

    #[test]
    fn losses_side_by_side_are_one_and_there_are_never_too_many() {
        let mut durable = durable();
        for at in [7, 5, 6, 6] {
            durable.note_lost(at, at);
        }
        assert_eq!(durable.holes, [(5, 7)]);
        for at in 0..2 * HOLES_MAX as u64 {
            durable.note_lost(10 + 3 * at, 10 + 3 * at);
            durable.check(1_000);
        }
        assert_eq!(durable.holes.len(), HOLES_MAX);
        assert_eq!(durable.fate(5), Fate::Lost);
    }

    #[test]
    fn at_least_the_last_message_is_kept_and_telemetry_only_on_demand() {
        let mut durability = Durability {
            persist: Persist::All,
            retention_messages: 0,
            retention_age_ms: 7,
            ack_timeout_ms: 1,
            is_shared: false,
        };
        assert_eq!(durability.keep(500, 8), Keep { messages: 500, age_ms: 7, bytes: 8 });
        assert_eq!(durability.keep(0, 0).messages, 1);
        durability.retention_messages = 9;
        assert_eq!(durability.keep(500, 0).messages, 9);
        let config = |persist| RoomConfig { persist, ..RoomConfig::default() };
        for (room, persist, expected) in [
            ("r", None, Persist::All),
            ("r", Some(Persist::None), Persist::None),
            (TELEMETRY_ROOM, None, Persist::None),
            (TELEMETRY_ROOM, Some(Persist::History), Persist::History),
        ] {
            let kept = durability.of_room(&Name::fixed(room), &config(persist));
            assert_eq!(kept, expected, "{room}");
        }
    }
}
