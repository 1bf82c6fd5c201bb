//! What all clients together know: which message has which place in which life of a channel.
//!
//! The model never looks into an engine for this. A message carries a number that no other has, so
//! whoever sees it, live, replayed or in history, sees *that* message, and all must agree on its
//! place and its time. Lives of channels are told apart by their epochs where a client was told
//! one; where none was (a channel that opened in a room joined as a whole) they are equal when
//! they hold the same message.

use crate::violation;
use std::collections::{BTreeMap, BTreeSet};

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

/// One life of one channel.
#[derive(Default)]
struct Life {
    /// The life that this one turned out to be.
    is_really: Option<usize>,
    epoch: Option<String>,
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
        if let Some(&life) = self.by_epoch.get(epoch) {
            return self.real(life);
        }
        let life = self.new_life();
        self.lives[life].epoch = Some(epoch.to_owned());
        self.by_epoch.insert(epoch.to_owned(), life);
        life
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
            (None, epoch) => self.lives[a].epoch = epoch,
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
        if let Some((known, at)) = self.publishes[nonce].place {
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
        self.lives[self.real(life)].epoch.as_deref()
    }

    /// Messages that were seen with a place.
    pub fn placed(&self) -> u64 {
        self.lives.iter().map(|life| life.messages.len() as u64).sum()
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
