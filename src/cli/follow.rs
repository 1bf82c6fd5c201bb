//! Which messages of which channels a subscriber has seen, and how it comes by those it missed.
//!
//! A pure machine. What the bus says goes in by `on_*`; what is to be printed, told and asked
//! comes out as [`Step`]s, in order. A channel is recovered by the bus where that is possible
//! (`join_channel` with `recover`). Where it is not, the messages are read from the history, page
//! by page, while live ones are held back: the channels behind a `room:*`, channels the bus could
//! not recover, messages the bus dropped, and what `--history` wants first.
//!
//! *Invariants*: within one life (epoch) of a channel, messages are printed in the order of their
//! sequence and none twice, but for those that a `gap` notice tells of too late; a range that was
//! not printed and is not known to have expired was told.
//!
//! *Not here*: sockets, ids, time limits (`subscribe`). Messages to a whole room, sent to the
//! channel `*`, have an order of their own that only a member of `room:*` can catch up with.

use crate::protocol::command::{Address, Recover};
use crate::protocol::envelope::MessageType;
use crate::protocol::names::{
    DASHBOARD_CHANNEL, EVERY_CHANNEL, Name, TELEMETRY_CHANNEL, TELEMETRY_ROOM,
};
use serde::Deserialize;
use std::collections::BTreeMap;

/// The most live messages that are held back while older ones are read.
const HELD_MAX: usize = 10_000;
/// The most bytes of them.
const HELD_BYTES_MAX: usize = 32 << 20;

/// Something to do, in order.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// Print the message.
    Print(String),
    /// Tell the person.
    Tell(String),
    /// Ask the bus.
    Ask(Question),
}

/// A question for the bus.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Question {
    /// `join_channel`.
    Join {
        /// What to join.
        address: Address,
        /// From where to catch up.
        recover: Option<Recover>,
    },
    /// `history`.
    History {
        /// Whose history.
        address: Address,
        /// Which part of it.
        span: Span,
    },
}

/// A part of a history.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Span {
    /// What came after this sequence.
    After(u64),
    /// From the first to the last of these sequences, both included.
    Range(u64, u64),
    /// Nothing: only the channel's epoch is wanted.
    Epoch,
}

/// What is to be done with a message that has just come.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// Print it.
    Print,
    /// Nothing: it was printed before, or is held back until its time comes.
    Pass,
}

/// The answer to `join_channel`.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Joined {
    epoch: Option<String>,
    sequence: Option<u64>,
    recovered: Option<bool>,
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

/// One answer to `history`.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// The channel's life.
    pub(super) epoch: Option<String>,
    /// The first sequence of the page.
    pub(super) first: Option<u64>,
    /// Whether there is more beyond this page.
    pub(super) has_more: bool,
    /// Sequence and text of each message.
    pub(super) messages: Vec<(u64, String)>,
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
    key: String,
}

#[derive(Debug)]
struct Want {
    address: Address,
    /// Whether it has ever been joined: its channels that appear later were missed, not new.
    was_joined: bool,
}

/// One channel's order, as far as it was seen.
#[derive(Debug)]
struct Stream {
    address: Address,
    /// The life of the channel that `last` belongs to, if it is known.
    epoch: Option<String>,
    /// Everything up to here was printed, told as lost, or came before the subscription.
    last: u64,
    /// Live messages up to here may be repetitions of what was read from the history. Once a
    /// later one has come, none of them can.
    doubles_to: u64,
    /// Whether the channel can be deleted and made anew on one connection: a channel that was
    /// joined by its name can't, it has a member.
    may_begin_anew: bool,
    /// Whether the first of its `--history` was printed, so that what is missing from now on was
    /// missed and not just too long ago.
    is_begun: bool,
    /// Live messages are held back while older ones are read.
    catch_up: Option<CatchUp>,
}

#[derive(Debug, Default)]
struct CatchUp {
    /// The sequence that is known to exist.
    goal: u64,
    held: Vec<(u64, String)>,
    held_bytes: usize,
    /// Held messages were thrown away, so the history must be read on.
    has_overflowed: bool,
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
                wants.push(Want { address: address.clone(), was_joined: false });
            }
        }
        let (streams, steps, key) = Default::default();
        Follow { wants, history, streams, steps, key }
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

    /// There is a new connection, and whatever was under way on an older one is over.
    pub(super) fn on_connected(&mut self) {
        self.steps.clear();
        for want in &self.wants {
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
            return;
        };
        let was_joined = std::mem::replace(&mut want.was_joined, true);
        if address.channel.is_every() {
            self.on_joined_room(address, was_joined, answer);
            return;
        }
        let sequence = answer.sequence.unwrap_or_default();
        match recover {
            Some(_) if answer.recovered == Some(true) => {}
            Some(recover) => {
                if answer.epoch.as_ref() == Some(&recover.epoch) {
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

    /// A part of a history was read.
    pub(super) fn on_history(&mut self, address: &Address, span: Span, mut page: Page) {
        let Some(stream) = self.streams.get_mut(&address.to_string()) else {
            return;
        };
        page.messages.sort_unstable_by_key(|&(sequence, _)| sequence);
        page.first = page.first.filter(|&first| first > 0);
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
        stream.is_begun = true;
        if let Some(catch_up) = &mut stream.catch_up {
            // Nothing more can be read, so what is held is the best there is.
            let held_from = catch_up.held.first().map_or(0, |&(sequence, _)| sequence);
            let was_thrown_away = std::mem::take(&mut catch_up.has_overflowed);
            let goal = if was_thrown_away { held_from.saturating_sub(1) } else { catch_up.goal };
            stream.tell_missing(goal, &mut self.steps);
            stream.settle(&mut self.steps);
        }
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
        let Some(stream) = self.streams.get_mut(&format!("{room}:{channel}")) else {
            return;
        };
        if let Some(catch_up) = &mut stream.catch_up {
            // They are missing among the held ones too: read on until there is no hole.
            catch_up.overflow();
            catch_up.goal = catch_up.goal.max(last);
        } else if first > stream.last {
            stream.catch_up = Some(CatchUp { goal: last, ..CatchUp::default() });
            let after = stream.last;
            self.ask(room, channel, Span::After(after));
        } else {
            stream.last = stream.last.max(last);
            self.ask(room, channel, Span::Range(first, last));
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
            catch_up: (!is_begun).then(|| CatchUp { goal: sequence, ..CatchUp::default() }),
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
        let is_new_life = match (&stream.epoch, &epoch) {
            (Some(old), Some(new)) => old != new,
            _ => sequence < stream.last,
        };
        if is_new_life {
            stream.begin_anew(&mut self.steps);
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
        let is_gone = |stream: &Stream| {
            stream.address.room == address.room
                && listed.iter().all(|(channel, ..)| *channel != stream.address.channel)
        };
        for stream in self.streams.values().filter(|stream| is_gone(stream)) {
            self.steps.push(Step::Tell(format!(
                "{}: the channel is gone; what came after {} may be missed",
                stream.address, stream.last
            )));
        }
        self.streams.retain(|_, stream| !is_gone(stream));
        for (channel, epoch, sequence) in listed {
            let address = Address { room: address.room.clone(), channel };
            self.begin_or_resume(&address, was_joined, epoch, sequence);
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
        if let Some(oldest) = page.first.filter(|&oldest| oldest > first) {
            self.steps.push(tell_missing(address, first, last.min(oldest - 1)));
        } else if page.first.is_none() && page.messages.is_empty() {
            self.steps.push(tell_missing(address, first, last));
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

impl Stream {
    /// Says what is to be done with a message, and whether it belongs to another life of the
    /// channel than all before it.
    fn on_message(&mut self, sequence: u64, text: &str) -> (Verdict, bool) {
        if let Some(catch_up) = &mut self.catch_up {
            catch_up.hold(sequence, text);
            return (Verdict::Pass, false);
        }
        if sequence > self.last {
            self.last = sequence;
            self.doubles_to = 0;
            return (Verdict::Print, false);
        }
        if sequence <= self.doubles_to || !self.may_begin_anew {
            return (Verdict::Pass, false);
        }
        self.last = sequence;
        self.doubles_to = 0;
        self.epoch = None;
        (Verdict::Print, true)
    }

    fn on_page(&mut self, page: Page, steps: &mut Vec<Step>) {
        let Some(catch_up) = &mut self.catch_up else {
            return;
        };
        let goal = catch_up.goal;
        let is_new_life = page.epoch.is_some() && self.epoch.is_some() && page.epoch != self.epoch;
        if is_new_life {
            catch_up.overflow();
            catch_up.goal = 0;
            self.epoch = page.epoch;
            self.begin_anew(steps);
            self.read_on(steps);
            return;
        }
        let oldest = page.first.or(page.messages.first().map(|&(sequence, _)| sequence));
        let gone = oldest.map_or(goal, |oldest| oldest.saturating_sub(1));
        if std::mem::replace(&mut self.is_begun, true) {
            self.tell_missing(gone, steps);
        } else {
            self.last = self.last.max(gone);
        }
        let before = self.last;
        for (sequence, text) in page.messages {
            if sequence > self.last {
                self.last = sequence;
                steps.push(Step::Print(text));
            }
        }
        if page.has_more && self.last > before {
            self.read_on(steps);
        } else {
            self.settle(steps);
        }
    }

    /// The history is read to its end: what was held back follows, and live goes on.
    fn settle(&mut self, steps: &mut Vec<Step>) {
        let Some(catch_up) = self.catch_up.take() else {
            return;
        };
        self.doubles_to = self.last;
        if catch_up.has_overflowed {
            self.catch_up = Some(CatchUp { goal: catch_up.goal, ..CatchUp::default() });
            self.read_on(steps);
            return;
        }
        for (sequence, text) in catch_up.held {
            if sequence > self.last {
                self.last = sequence;
                steps.push(Step::Print(text));
            }
        }
        self.doubles_to = self.last;
    }

    fn read_on(&mut self, steps: &mut Vec<Step>) {
        let (address, span) = (self.address.clone(), Span::After(self.last));
        steps.push(Step::Ask(Question::History { address, span }));
    }

    /// The channel was made anew: all of its messages are unseen.
    fn begin_anew(&mut self, steps: &mut Vec<Step>) {
        steps.push(Step::Tell(format!(
            "{}: the channel began anew while this client was away; what came after {} before \
             that may be missed",
            self.address, self.last
        )));
        self.last = 0;
        self.doubles_to = 0;
    }

    /// What comes after the last seen message and up to `to` can't be had.
    fn tell_missing(&mut self, to: u64, steps: &mut Vec<Step>) {
        if to > self.last {
            steps.push(tell_missing(&self.address, self.last + 1, to));
            self.last = to;
        }
    }
}

impl CatchUp {
    fn hold(&mut self, sequence: u64, text: &str) {
        if self.held.len() >= HELD_MAX || self.held_bytes + text.len() > HELD_BYTES_MAX {
            self.overflow();
        }
        self.held_bytes += text.len();
        self.held.push((sequence, text.to_owned()));
    }

    /// Throws the held messages away; the history has them too.
    fn overflow(&mut self) {
        self.held.clear();
        self.held_bytes = 0;
        self.has_overflowed = true;
    }
}

fn tell_missing(address: &Address, first: u64, last: u64) -> Step {
    Step::Tell(format!(
        "{address}: messages {first} to {last} may be missed; the history does not hold them"
    ))
}
