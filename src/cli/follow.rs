//! Which messages of which channels a subscriber has seen, and how it comes by those it missed.
//!
//! A pure machine. What the bus says goes in by `on_*`; what is to be printed, told and asked
//! comes out as [`Step`]s, in order. A channel is recovered by the bus where that is possible
//! (`join_channel` with `recover`). Where it is not, the messages are read from the history, page
//! by page, while live ones are held back: the channels behind a `room:*`, channels the bus could
//! not recover, messages the bus dropped, and what `--history` wants first.
//!
//! *Invariants*: within one life (epoch) of a channel, messages are printed in the order of their
//! sequence and none twice, but for those that a `gap` notice tells of too late (that none is printed
//! twice over several epochs is seen to where it is printed, by `seen`); a range that was
//! not printed and is not known to have expired was told.
//!
//! *Not here*: what happens within one channel (`stream`); sockets, ids, time limits (`subscribe`). Messages to a whole room, sent to the
//! channel `*`, have an order of their own that only a member of `room:*` can catch up with.

use crate::cli::stream::{CatchUp, Page, Question, Span, Step, Stream, Verdict, tell_missing};
use crate::protocol::command::{Address, Recover};
use crate::protocol::envelope::MessageType;
use crate::protocol::names::{
    DASHBOARD_CHANNEL, EVERY_CHANNEL, Name, TELEMETRY_CHANNEL, TELEMETRY_ROOM,
};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// The answer to `join_channel`.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Joined {
    epoch: Option<String>,
    sequence: Option<u64>,
    recovered: Option<bool>,
    /// Why it was not recovered.
    reason: Option<String>,
    #[serde(default)]
    channels: Vec<ChannelAt>,
}

/// One channel in the answer to joining all of a room.
#[derive(Debug, Deserialize)]
struct ChannelAt {
    channel: String,
    epoch: String,
    sequence: u64,
}

impl Joined {
    /// Whether the order goes on from where it was to be recovered, and there was only too much of it
    /// to be sent at once, or more than the history still holds.
    fn is_too_much(&self) -> bool {
        matches!(self.reason.as_deref(), Some("too_many_bytes" | "history_overrun"))
    }
}

/// The subscriber's memory.
#[derive(Debug)]
pub(super) struct Follow {
    wants: Vec<Want>,
    /// How many messages of each channel to print first.
    history: u64,
    /// Every channel that has been joined or heard, by `room:channel`.
    streams: BTreeMap<String, Stream>,
    steps: Vec<Step>,
    /// Channels of such rooms that were joined by their name for a recovery, until they are left again.
    to_leave: BTreeSet<Address>,
    key: String,
    /// Whether the session of an earlier connection goes on, so that a channel may be recovered that
    /// was joined already.
    is_resumed: bool,
}

#[derive(Debug)]
struct Want {
    address: Address,
    /// Whether it has ever been joined: its channels that appear later were missed, not new.
    was_joined: bool,
    /// Whether its join was not answered yet on this connection. Who has resumed a session is a member
    /// before that, and gets what comes after what it has missed.
    is_joining: bool,
}

impl Follow {
    /// Follows `addresses`, beginning with the last `history` messages of each channel. A channel
    /// of a room that is followed as a whole is not followed a second time.
    pub(super) fn new(addresses: &[Address], history: u64) -> Follow {
        let mut wants: Vec<Want> = Vec::new();
        for address in addresses {
            let is_covered = !address.channel.is_every()
                && addresses.iter().any(|a| a.channel.is_every() && a.room == address.room);
            if !is_covered && wants.iter().all(|want| want.address != *address) {
                let address = address.clone();
                wants.push(Want { address, was_joined: false, is_joining: false });
            }
        }
        let (streams, steps, to_leave, key, is_resumed) = Default::default();
        Follow { wants, history, streams, steps, to_leave, key, is_resumed }
    }

    /// What is to be done since the last call.
    pub(super) fn take_steps(&mut self) -> Vec<Step> {
        std::mem::take(&mut self.steps)
    }

    /// Whether nothing is asked that messages wait for.
    #[cfg(test)]
    pub(super) fn is_caught_up(&self) -> bool {
        self.streams.values().all(|stream| stream.catch_up.is_none())
    }

    /// There is a new connection, and whatever was under way on an older one is over. A session that
    /// goes on has made this client a member already.
    pub(super) fn on_connected(&mut self, is_resumed: bool) {
        self.is_resumed = is_resumed;
        self.steps.clear();
        // The session has kept them, and a new client is in none of them.
        self.to_leave.retain(|_| is_resumed);
        for address in &self.to_leave {
            self.steps.push(Step::Ask(Question::Leave { address: address.clone() }));
        }
        for want in &mut self.wants {
            want.is_joining = true;
            let address = want.address.clone();
            let mut recover = None;
            if address.channel.is_every() {
                // Their fate is known when the join is answered.
                for stream in self.streams.values_mut().filter(|s| s.address.room == address.room) {
                    stream.catch_up = Some(CatchUp::default());
                }
            } else if let Some(stream) = self.streams.get_mut(&address.to_string()) {
                stream.catch_up = None;
                let epoch = stream.epoch.clone().filter(|_| stream.is_begun);
                recover = epoch.map(|epoch| Recover { epoch, sequence: stream.last });
            }
            self.steps.push(Step::Ask(Question::Join { address, recover }));
        }
    }

    /// A join was answered. `recover` is what was asked for with it.
    pub(super) fn on_joined(
        &mut self,
        address: &Address,
        recover: Option<&Recover>,
        answer: Joined,
    ) {
        let Some(want) = self.wants.iter_mut().find(|want| want.address == *address) else {
            return self.on_recovered_in_room(address, answer);
        };
        let was_joined = std::mem::replace(&mut want.was_joined, true);
        want.is_joining = false;
        if address.channel.is_every() {
            self.on_joined_room(address, was_joined, answer);
            return;
        }
        let sequence = answer.sequence.unwrap_or_default();
        match recover {
            Some(_) if answer.recovered == Some(true) => {
                // A bus that was started anew goes on with what it kept under another epoch.
                self.go_on_as(address, answer.epoch);
            }
            Some(recover) => {
                if answer.is_too_much() {
                    self.go_on_as(address, answer.epoch.clone());
                }
                if answer.is_too_much() || answer.epoch.as_ref() == Some(&recover.epoch) {
                    self.steps.push(Step::Tell(format!(
                        "{address}: the bus could not recover what came after {}; reading what \
                         its history still holds",
                        recover.sequence
                    )));
                }
                self.resume(address, answer.epoch, sequence);
            }
            None => self.begin_or_resume(address, was_joined, answer.epoch, sequence),
        }
    }

    /// A join was refused for good. False if nothing can be had without it.
    pub(super) fn on_join_refused(&mut self, address: &Address, why: &str) -> bool {
        if !self.is_for_recovery(address) {
            return false;
        }
        self.to_leave.remove(address);
        if let Some(stream) = self.streams.get_mut(&address.to_string()) {
            self.steps.push(Step::Tell(format!(
                "{address}: what was missed can't be recovered: {why}; what came after {} may be \
                 missed, and what the history holds is printed",
                stream.last
            )));
            stream.begin_anew();
            stream.read_on(&mut self.steps);
        }
        true
    }

    /// A channel was left, or this client was not in it.
    pub(super) fn on_left(&mut self, address: &Address) {
        self.to_leave.remove(address);
    }

    /// Whether a channel is joined for a recovery alone, as its room is followed as a whole.
    pub(super) fn is_for_recovery(&self, address: &Address) -> bool {
        self.wants.iter().all(|want| want.address != *address)
    }

    /// A channel of a room that is followed as a whole could be recovered, or not.
    fn on_recovered_in_room(&mut self, address: &Address, answer: Joined) {
        // It was joined by its name for this alone.
        self.to_leave.insert(address.clone());
        self.steps.push(Step::Ask(Question::Leave { address: address.clone() }));
        let Some(stream) = self.streams.get_mut(&address.to_string()) else { return };
        if answer.recovered == Some(true) {
            // What was held comes again, after what was missed.
            (stream.epoch, stream.catch_up) = (answer.epoch, None);
            return;
        }
        if answer.is_too_much() {
            self.go_on_as(address, answer.epoch.clone());
        } else {
            self.steps.push(stream.tell_new_life());
            stream.begin_anew();
        }
        self.resume(address, answer.epoch, answer.sequence.unwrap_or_default());
    }

    /// The bus knows what was seen of a channel, and goes on with it under this epoch.
    fn go_on_as(&mut self, address: &Address, epoch: Option<String>) {
        if let Some(stream) = self.streams.get_mut(&address.to_string()) {
            stream.epoch = epoch.or(stream.epoch.take());
        }
    }

    /// A part of a history was read.
    pub(super) fn on_history(&mut self, address: &Address, span: Span, mut page: Page) {
        let Some(stream) = self.streams.get_mut(&address.to_string()) else {
            return;
        };
        page.messages.sort_unstable_by_key(|&(sequence, _)| sequence);
        match span {
            Span::Epoch => stream.epoch = stream.epoch.take().or(page.epoch),
            Span::Range(first, last) => self.on_range(address, first, last, page),
            Span::After(_) => stream.on_page(page, &mut self.steps),
        }
    }

    /// A history can't be read: what was to come from it is told, and live goes on.
    pub(super) fn on_history_refused(&mut self, address: &Address, span: Span, why: &str) {
        let Some(stream) = self.streams.get_mut(&address.to_string()) else {
            return;
        };
        if span == Span::Epoch {
            return;
        }
        self.steps.push(Step::Tell(format!("{address}: its history can't be read: {why}")));
        stream.on_unreadable(&mut self.steps);
    }

    /// A message has come.
    pub(super) fn on_message(
        &mut self,
        (room, channel): (&str, &str),
        sequence: Option<u64>,
        text: &str,
    ) -> Verdict {
        // Only what has a place in an order can be missed or come twice.
        let Some(sequence) = sequence else { return Verdict::Print };
        self.key.clear();
        for part in [room, ":", channel] {
            self.key.push_str(part);
        }
        if let Some(was_joined) = self.is_joining(room, channel) {
            return self.on_early_message((room, channel), was_joined, (sequence, text));
        }
        match self.streams.get_mut(&self.key) {
            Some(stream) => {
                let (verdict, is_new_life) = stream.on_message(sequence, text);
                if is_new_life {
                    self.ask(room, channel, Span::Epoch);
                }
                verdict
            }
            None => {
                self.on_new_channel(room, channel, sequence);
                Verdict::Print
            }
        }
    }

    /// The bus dropped the messages from `first` to `last` for this connection.
    pub(super) fn on_gap(&mut self, (room, channel): (&str, &str), first: u64, last: u64) {
        let is_joining = self.is_joining(room, channel).is_some();
        let Some(stream) = self.streams.get_mut(&format!("{room}:{channel}")) else {
            return;
        };
        if is_joining && stream.catch_up.is_none() {
            // What is recovered has it.
        } else if let Some(catch_up) = &mut stream.catch_up {
            // They are missing among the held ones too: read on until there is no hole.
            catch_up.overflow();
            catch_up.goal = catch_up.goal.max(last);
        } else if first > stream.last {
            stream.catch_up = Some(CatchUp::towards(last));
            let after = stream.last;
            self.ask(room, channel, Span::After(after));
        } else {
            stream.last = stream.last.max(last);
            self.ask(room, channel, Span::Range(first, last));
        }
    }

    /// The order of a channel has another epoch. Up to `sequence` it is the one that was seen; what was
    /// seen beyond has other places by now, or none, and what comes next goes on behind it.
    pub(super) fn on_epoch(
        &mut self,
        (room, channel): (&str, &str),
        epoch: Option<String>,
        sequence: u64,
    ) {
        let is_joining = self.is_joining(room, channel).is_some();
        let Some(stream) = self.streams.get_mut(&format!("{room}:{channel}")) else {
            return;
        };
        match &mut stream.catch_up {
            // The answer to the join says which epoch it is of.
            _ if is_joining => {}
            // What is being read may be of either; and what is held has other sequences by now.
            Some(catch_up) => {
                catch_up.overflow();
                (stream.epoch, stream.last) = (None, stream.last.min(sequence));
            }
            None => {
                stream.epoch = epoch.or(stream.epoch.take());
                (stream.last, stream.doubles_to) = (stream.last.min(sequence), 0);
            }
        }
    }

    /// The channel whose order a message stands in. A telemetry event keeps the room and the
    /// channel it is about, but its place is the telemetry stream's.
    pub(super) fn place<'a>(
        &self,
        kind: MessageType,
        (room, channel): (&'a str, &'a str),
        payload: &str,
    ) -> (&'a str, &'a str) {
        if kind != MessageType::Telemetry || !self.follows(TELEMETRY_ROOM, TELEMETRY_CHANNEL) {
            return (room, channel);
        }
        let is_of_dashboard = (room, channel) == (TELEMETRY_ROOM, DASHBOARD_CHANNEL)
            && payload.contains(r#""agent_activity""#);
        if is_of_dashboard { (room, channel) } else { (TELEMETRY_ROOM, TELEMETRY_CHANNEL) }
    }

    fn follows(&self, room: &str, channel: &str) -> bool {
        self.wants.iter().any(|Want { address, .. }| {
            *address.room == *room && (*address.channel == *channel || address.channel.is_every())
        })
    }

    /// Whether the join by which a channel is followed was not answered yet; and if so, whether it was
    /// ever joined before.
    fn is_joining(&self, room: &str, channel: &str) -> Option<bool> {
        let is_of = |address: &Address| {
            *address.room == *room && (*address.channel == *channel || address.channel.is_every())
        };
        let mut wants = self.wants.iter();
        let want = wants.find(|want| want.is_joining && is_of(&want.address))?;
        Some(want.was_joined)
    }

    /// A message has come before the join was answered: what was missed comes before it. It is in what
    /// is recovered, or waits until the history was read.
    fn on_early_message(
        &mut self,
        (room, channel): (&str, &str),
        was_joined: bool,
        (sequence, text): (u64, &str),
    ) -> Verdict {
        let is_new = !self.streams.contains_key(&self.key);
        if was_joined && is_new && self.follows(room, EVERY_CHANNEL) {
            // It was made while this client was away, and all of it was missed.
            self.on_new_channel(room, channel, 0);
            if let Some(stream) = self.streams.get_mut(&self.key) {
                stream.catch_up = Some(CatchUp::default());
            }
        }
        if let Some(stream) = self.streams.get_mut(&self.key)
            && stream.catch_up.is_some()
        {
            stream.on_message(sequence, text);
        }
        Verdict::Pass
    }

    fn ask(&mut self, room: &str, channel: &str, span: Span) {
        if let (Ok(room), Ok(channel)) = (Name::parse(room), Name::parse_channel(channel)) {
            let address = Address { room, channel };
            self.steps.push(Step::Ask(Question::History { address, span }));
        }
    }

    /// A channel begins with its first join, and again while its beginning was not yet printed.
    fn begin_or_resume(
        &mut self,
        address: &Address,
        was_joined: bool,
        epoch: Option<String>,
        sequence: u64,
    ) {
        let stream = self.streams.get(&address.to_string());
        if !was_joined || stream.is_some_and(|stream| !stream.is_begun) {
            self.begin(address, epoch, sequence);
        } else {
            self.resume(address, epoch, sequence);
        }
    }

    /// A channel is joined for the first time: it begins where it is, or a little before.
    fn begin(&mut self, address: &Address, epoch: Option<String>, sequence: u64) {
        // Sequences have no gaps, so the last messages are the last numbers.
        let last = sequence.saturating_sub(self.history);
        let is_begun = last == sequence;
        let stream = Stream {
            address: address.clone(),
            epoch,
            last,
            doubles_to: last,
            may_begin_anew: self.follows(&address.room, EVERY_CHANNEL),
            is_begun,
            catch_up: (!is_begun).then(|| CatchUp::towards(sequence)),
        };
        if !is_begun {
            let span = Span::After(last);
            let address = address.clone();
            self.steps.push(Step::Ask(Question::History { address, span }));
        }
        self.streams.insert(address.to_string(), stream);
    }

    /// A channel that was seen before, or would have been, is read on from where it was seen.
    fn resume(&mut self, address: &Address, epoch: Option<String>, sequence: u64) {
        let may_begin_anew = self.follows(&address.room, EVERY_CHANNEL);
        let stream = self.streams.entry(address.to_string()).or_insert_with(|| Stream {
            address: address.clone(),
            epoch: epoch.clone(),
            last: 0,
            doubles_to: 0,
            may_begin_anew,
            is_begun: true,
            catch_up: None,
        });
        if stream.is_other_life((&epoch, sequence), self.is_resumed) {
            if let Some(recover) = stream.may_recover(self.is_resumed) {
                // A bus that was started anew goes on with what it kept under another epoch. Who has
                // joined the room is a member of the channel, so it can't go before it is joined by
                // its name, and is not made anew by that.
                stream.catch_up.get_or_insert_default();
                let address = address.clone();
                self.to_leave.insert(address.clone());
                let question = Question::Join { address, recover: Some(recover) };
                return self.steps.push(Step::Ask(question));
            }
            self.steps.push(stream.tell_new_life());
            stream.begin_anew();
        }
        stream.epoch = epoch.or(stream.epoch.take());
        let catch_up = stream.catch_up.get_or_insert_default();
        if sequence > stream.last {
            catch_up.goal = sequence;
            let span = Span::After(stream.last);
            let address = address.clone();
            self.steps.push(Step::Ask(Question::History { address, span }));
        } else {
            stream.settle(&mut self.steps);
        }
    }

    fn on_joined_room(&mut self, address: &Address, was_joined: bool, answer: Joined) {
        let mut listed: Vec<(Name, Option<String>, u64)> = Vec::new();
        for ChannelAt { channel, epoch, sequence } in answer.channels {
            if let Ok(channel) = Name::parse(&channel) {
                listed.push((channel, Some(epoch), sequence));
            }
        }
        if let Some(sequence) = answer.sequence {
            // What is sent to the whole room at once has an order of its own.
            listed.push((Name::every(), answer.epoch, sequence));
        }
        self.tell_new_lives(address, &listed);
        for (channel, epoch, sequence) in listed {
            let address = Address { room: address.room.clone(), channel };
            self.begin_or_resume(&address, was_joined, epoch, sequence);
        }
    }

    /// Channels of a room that are gone or began anew are told in one sentence: after a bus has
    /// lost its memory, that is all of them.
    fn tell_new_lives(&mut self, room: &Address, listed: &[(Name, Option<String>, u64)]) {
        let mut names: Vec<String> = Vec::new();
        self.streams.retain(|_, stream| {
            if stream.address.room != room.room || !stream.is_begun {
                return true;
            }
            let now = listed.iter().find(|(channel, ..)| *channel == stream.address.channel);
            let may_be_same = now.is_some_and(|(_, epoch, sequence)| {
                !stream.is_other_life((epoch, *sequence), self.is_resumed)
                    || stream.may_recover(self.is_resumed).is_some()
            });
            if !may_be_same {
                let channel = &stream.address.channel;
                names.push(match stream.last {
                    0 => channel.to_string(),
                    last => format!("{channel} (after {last})"),
                });
                stream.begin_anew();
            }
            now.is_some()
        });
        if !names.is_empty() {
            self.steps.push(Step::Tell(format!(
                "{room}: while this client was away channels went or began anew, and what was \
                 said in them before that may be missed: {}",
                names.join(", ")
            )));
        }
    }

    /// A message of a channel that was not there when its room was joined.
    fn on_new_channel(&mut self, room: &str, channel: &str, sequence: u64) {
        if !self.follows(room, EVERY_CHANNEL) {
            return;
        }
        if let (Ok(room), Ok(channel)) = (Name::parse(room), Name::parse_channel(channel)) {
            let stream = Stream {
                address: Address { room, channel },
                epoch: None,
                last: sequence,
                doubles_to: 0,
                may_begin_anew: true,
                is_begun: true,
                catch_up: None,
            };
            self.streams.insert(stream.address.to_string(), stream);
        }
        self.ask(room, channel, Span::Epoch);
    }

    fn on_range(&mut self, address: &Address, first: u64, last: u64, page: Page) {
        match page.messages.first() {
            Some(&(oldest, _)) if oldest > first => {
                self.steps.push(tell_missing(address, first, last.min(oldest - 1)));
            }
            Some(_) => {}
            None => self.steps.push(tell_missing(address, first, last)),
        }
        let mut next = first;
        for (sequence, text) in page.messages {
            if (next..=last).contains(&sequence) {
                next = sequence + 1;
                self.steps.push(Step::Print(text));
            }
        }
        if page.has_more && next > first && next <= last {
            self.ask(&address.room, &address.channel, Span::Range(next, last));
        }
    }
}
