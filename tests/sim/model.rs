//! What all clients together know: which message has which place in which life of a channel.
//!
//! The model never looks into an engine for this. A message carries a number that no other has, so
//! whoever sees it, live, replayed or in history, sees *that* message, and all must agree on its
//! place and its time. Lives of channels are told apart by their epochs where a client was told
//! one; where none was (a channel that opened in a room joined as a whole) they are equal when
//! they hold the same message.

use crate::storage::{Kept, Ledger};
use crate::violation;
use arqonbus::broker::late::Renumbering;
use arqonbus::protocol::command::Address;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// What all clients together know.
#[derive(Default)]
pub struct Model {
    pub publishes: Vec<Publish>,
    pub privates: Vec<Private>,
    lives: Vec<Life>,
    by_epoch: BTreeMap<String, usize>,
    /// Every client id that ever made a private channel of that name.
    pub creators: BTreeMap<String, BTreeSet<String>>,
    /// Rooms that were ever paused.
    pub paused: BTreeSet<String>,
    /// The smallest history that was ever configured.
    pub history_min: u64,
    /// The smallest outbox that was ever configured.
    pub outbox_min: u64,
    /// How often a repeat was answered as one.
    pub duplicates: u64,
    /// What happened to clients, and how often.
    pub seen: BTreeMap<String, u64>,
    /// Channels that a message with a time to live was sent to.
    pub with_ttl: BTreeSet<(String, String)>,
    /// All that was ever stored, if there is a storage.
    pub ledger: Option<Rc<RefCell<Ledger>>>,
    /// Events that were acknowledged, and so are stored.
    pub acked: BTreeSet<usize>,
    /// Rooms in which an ack may promise less.
    pub lax_rooms: BTreeSet<String>,
    /// The connections there were when the node last died.
    pub conns_before: usize,
    /// How far the epochs of dead nodes were kept.
    kept: BTreeMap<String, u64>,
    /// How messages found other places, because what was kept was read late, by channel.
    moves: BTreeMap<(String, String), Vec<Renumbering>>,
    /// Lives of which less came back than a history holds, for something in between was lost.
    short: BTreeSet<String>,
}

/// An event that was sent.
pub struct Publish {
    pub conn: usize,
    pub payload: String,
    /// Its sender knew that it was a member.
    pub is_joined: bool,
    pub from: String,
    /// Its sender was an admin.
    pub is_admins: bool,
    pub id: String,
    pub room: String,
    pub channel: String,
    pub has_ttl: bool,
    pub place: Option<(usize, u64)>,
    pub is_refused: bool,
    pub is_duplicate: bool,
    /// The node died before it was stored.
    pub is_lost: bool,
    /// The leave that was under way when it was sent, as a request id of its connection.
    pub after_leave: Option<String>,
}

/// A private message that was sent.
pub struct Private {
    pub conn: usize,
    pub targets: Vec<String>,
    pub has_ttl: bool,
    pub sent_at: u64,
    pub is_delivered: bool,
    pub heard_by: BTreeSet<usize>,
}

/// What of an epoch is the same whichever node goes on with it.
pub fn life_in(epoch: &str) -> &str {
    epoch.split('-').next().unwrap_or(epoch)
}

/// One life of one channel.
#[derive(Default)]
struct Life {
    /// The life that this one turned out to be.
    is_really: Option<usize>,
    /// What of its epoch is the same whichever node goes on with it.
    epoch: Option<String>,
    /// The epoch that was told last.
    told: Option<String>,
    messages: BTreeMap<u64, usize>,
    times: BTreeMap<u64, String>,
}

impl Model {
    /// Notes that something happened to a client.
    pub fn see(&mut self, what: String) {
        *self.seen.entry(what).or_default() += 1;
    }

    /// A life that nothing is known of.
    pub fn new_life(&mut self) -> usize {
        self.lives.push(Life::default());
        self.lives.len() - 1
    }

    /// The life of that epoch.
    pub fn life_of(&mut self, epoch: &str) -> usize {
        let told = Some(epoch.to_owned());
        let epoch = life_in(epoch);
        if let Some(&life) = self.by_epoch.get(epoch) {
            let life = self.real(life);
            self.lives[life].told = told;
            return life;
        }
        let life = self.new_life();
        (self.lives[life].epoch, self.lives[life].told) = (Some(epoch.to_owned()), told);
        self.by_epoch.insert(epoch.to_owned(), life);
        life
    }

    /// The messages of a channel have other places.
    pub fn note_move(&mut self, address: &Address, said: Renumbering) {
        self.see("an order was changed".to_owned());
        if !said.dropped.is_empty() {
            self.see("a repeat of what was kept went".to_owned());
        }
        let key = (address.room.to_string(), address.channel.to_string());
        self.moves.entry(key).or_default().push(said);
    }

    /// Whether any have.
    pub fn has_moved(&self) -> bool {
        !self.moves.is_empty()
    }

    /// The sequence that one of a message's channel became, in whichever life.
    pub fn moved_from(&self, nonce: usize, sequence: u64) -> impl Iterator<Item = u64> + '_ {
        self.moves_of(nonce).filter_map(move |said| said.of(sequence))
    }

    fn moves_of(&self, nonce: usize) -> impl Iterator<Item = &Renumbering> {
        let Publish { room, channel, .. } = &self.publishes[nonce];
        self.moves.get(&(room.clone(), channel.clone())).into_iter().flatten()
    }

    /// Whether a message that had a place has another one, as far as the lives are known.
    fn is_moved(&self, nonce: usize, (a, from): (usize, u64), (b, to): (usize, u64)) -> bool {
        let is = |life: usize, epoch: &str| {
            self.lives[life].epoch.as_ref().is_none_or(|known| known == epoch)
        };
        self.moves_of(nonce)
            .any(|said| is(a, &said.from) && is(b, &said.to) && said.of(from) == Some(to))
    }

    /// The node died, and another begins with what was kept.
    pub fn bury(&mut self, channels: &BTreeMap<(String, String), Kept>, conns: usize) {
        self.conns_before = conns;
        self.see("the node died".to_owned());
        let ledger = self.ledger.clone().unwrap_or_default();
        let ledger = ledger.borrow();
        let real: Vec<usize> = (0..self.lives.len()).map(|life| self.real(life)).collect();
        for (number, life) in self.lives.iter_mut().enumerate() {
            life.messages.retain(|sequence, nonce| {
                let publish = &mut self.publishes[*nonce];
                if publish.place.is_some_and(|(at, _)| real[at] != number) {
                    life.times.remove(sequence);
                    return false;
                }
                let address = (publish.room.clone(), publish.channel.clone());
                let mut moves = self.moves.get(&address).into_iter().flatten();
                let is_elsewhere = channels.get(&address).is_some_and(|kept| {
                    let (from, id) = (publish.from.clone(), publish.id.clone());
                    let identity = (address.0.clone(), address.1.clone(), from, id);
                    let places = ledger.get(&identity);
                    moves.any(|said| {
                        let is_it = life.epoch.as_ref().is_none_or(|known| **known == *said.from);
                        let to = said.of(*sequence).filter(|to| is_it && *to <= kept.last);
                        kept.record.epoch == said.to
                            && to.is_some_and(|to| {
                                let place = (said.to.to_string(), to);
                                places.is_some_and(|places| places.contains(&place))
                            })
                    })
                });
                if is_elsewhere {
                    publish.place = None;
                    life.times.remove(sequence);
                    return false;
                }
                let is_kept = channels.get(&address).is_some_and(|kept| {
                    let (from, id) = (publish.from.clone(), publish.id.clone());
                    let epoch = kept.record.epoch.to_string();
                    let is_same = life.epoch.as_ref().is_none_or(|known| *known == epoch);
                    let places = ledger.get(&(address.0.clone(), address.1.clone(), from, id));
                    let place = (epoch, *sequence);
                    is_same
                        && *sequence <= kept.last
                        && places.is_some_and(|places| places.contains(&place))
                });
                if !is_kept {
                    (publish.place, publish.is_lost) = (None, true);
                    life.times.remove(sequence);
                }
                is_kept
            });
        }
        for kept in channels.values() {
            let life = self.by_epoch.get(&*kept.record.epoch).map(|&life| self.real(life));
            if let Some(told) = life.and_then(|life| self.lives[life].told.clone()) {
                self.kept.entry(told).or_insert(kept.last);
            }
            if (kept.frames.len() as u64) < kept.last.min(self.history_min) {
                self.short.insert(kept.record.epoch.to_string());
            }
        }
    }

    /// How far an epoch of a dead node was kept, if it was.
    pub fn kept_up_to(&self, epoch: &str) -> Option<u64> {
        self.kept.get(epoch).copied()
    }

    /// Whether less came back of a life than a history holds.
    pub fn is_short(&self, epoch: &str) -> bool {
        self.short.contains(life_in(epoch))
    }

    /// Two lives are one.
    pub fn unite(&mut self, a: usize, b: usize) -> usize {
        let (a, b) = (self.real(a), self.real(b));
        if a == b {
            return a;
        }
        let gone = std::mem::take(&mut self.lives[b]);
        self.lives[b].is_really = Some(a);
        match (&self.lives[a].epoch, gone.epoch) {
            (Some(one), Some(other)) => {
                violation!("one epoch", "one message is in the lives {one} and {other}")
            }
            (None, epoch) => (self.lives[a].epoch, self.lives[a].told) = (epoch, gone.told),
            _ => {}
        }
        for (sequence, nonce) in gone.messages {
            self.publishes[nonce].place = None;
            let time = gone.times[&sequence].clone();
            self.place(a, sequence, nonce, &time);
        }
        self.real(a)
    }

    /// Someone saw a message at a place in a life.
    pub fn place(&mut self, life: usize, sequence: u64, nonce: usize, time: &str) -> usize {
        let mut life = self.real(life);
        if self.publishes[nonce].is_lost {
            violation!("lost is lost", "message {nonce} was not stored, and is there again");
        }
        let place = self.publishes[nonce].place.map(|(known, at)| (self.real(known), at));
        if let Some((known, at)) = place.filter(|place| *place != (life, sequence)) {
            if self.is_moved(nonce, (known, at), (life, sequence)) {
                self.publishes[nonce].place = None;
                return self.place(life, sequence, nonce, time);
            }
            if self.is_moved(nonce, (life, sequence), (known, at)) {
                // It was on its way when it got the other place.
                let Life { messages, times, .. } = &mut self.lives[life];
                messages.insert(sequence, nonce);
                times.entry(sequence).or_default();
                return life;
            }
            if at != sequence {
                violation!("one place", "message {nonce} has the sequences {at} and {sequence}");
            }
            life = self.unite(known, life);
        }
        let Life { messages, times, .. } = &mut self.lives[life];
        if let Some(&other) = messages.get(&sequence)
            && other != nonce
        {
            violation!("one order", "sequence {sequence} is message {other} and message {nonce}");
        }
        messages.insert(sequence, nonce);
        if !time.is_empty() {
            let known = times.entry(sequence).or_default();
            if known.is_empty() {
                *known = time.to_owned();
            } else if known != time {
                violation!("one time", "message {nonce} has the times {known} and {time}");
            }
            let before = times.range(..sequence).rev().find(|(_, time)| !time.is_empty());
            let after = times.range(sequence + 1..).find(|(_, time)| !time.is_empty());
            if before.is_some_and(|(_, before)| before.as_str() > time)
                || after.is_some_and(|(_, after)| after.as_str() < time)
            {
                violation!("time goes on", "sequence {sequence} at {time}, {before:?}, {after:?}");
            }
        } else {
            times.entry(sequence).or_default();
        }
        self.check_repeats(life, sequence, nonce);
        self.publishes[nonce].place = Some((life, sequence));
        self.real(life)
    }

    /// The message at a place, if anyone saw it.
    pub fn at(&self, life: usize, sequence: u64) -> Option<usize> {
        self.lives[self.real(life)].messages.get(&sequence).copied()
    }

    /// The epoch of a life, if anyone was told.
    pub fn epoch(&self, life: usize) -> Option<&str> {
        self.lives[self.real(life)].told.as_deref()
    }

    /// Messages that were seen with a place.
    pub fn placed(&self) -> u64 {
        self.publishes.iter().filter(|publish| publish.place.is_some()).count() as u64
    }

    /// A message with the same sender and id can't have a second place while the first is kept.
    fn check_repeats(&self, life: usize, sequence: u64, nonce: usize) {
        let this = &self.publishes[nonce];
        if this.is_refused || this.is_duplicate {
            violation!("no means no", "message {nonce} was refused or a repeat, and has a place");
        }
        let history = self.history_min;
        let messages = &self.lives[life].messages;
        let from = sequence.saturating_sub(history);
        for (&at, &other) in messages.range(from..=sequence.saturating_add(history)) {
            let other = &self.publishes[other];
            if at != sequence && (&other.from, &other.id) == (&this.from, &this.id) {
                violation!("idempotency", "id {} has the places {at} and {sequence}", this.id);
            }
        }
    }

    fn real(&self, mut life: usize) -> usize {
        while let Some(really) = self.lives[life].is_really {
            life = really;
        }
        life
    }
}
