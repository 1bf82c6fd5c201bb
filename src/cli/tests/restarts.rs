//! The subscriber's memory against a model of a bus that is killed again and again, with sessions
//! that are kept or not, and histories that are kept whole, in part, or not at all.
//!
//! Every message has a number of its own that no other life gives again, so what is printed can be
//! told from what only has the same sequence.

use crate::cli::follow::{Follow, Joined};
use crate::cli::stream::{Page, Question, Span, Step, Verdict};
use crate::protocol::command::{Address, Recover};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const CHANNELS: [&str; 3] = ["a", "b", "*"];

/// A channel as the bus has it, or what is said to the whole room.
#[derive(Default)]
struct Channel {
    life: u64,
    term: u32,
    /// The terms before, each with the last sequence of it that was kept.
    past: Vec<(u32, u64)>,
    /// The number of each message, by sequence.
    log: Vec<u64>,
}

impl Channel {
    fn epoch(&self) -> String {
        match self.term {
            0 => format!("life{}", self.life),
            term => format!("life{}-{term:08x}", self.life),
        }
    }

    fn last(&self) -> u64 {
        self.log.len() as u64
    }

    /// Why it can't be recovered from there, if it can't.
    fn refuses(&self, recover: &Recover, ring: u64, is_long: bool) -> Option<&'static str> {
        let Recover { epoch, sequence } = recover;
        let term_before = |&(term, kept): &(u32, u64)| {
            let before = Channel { life: self.life, term, ..Channel::default() };
            before.epoch() == *epoch && *sequence <= kept
        };
        if *epoch != self.epoch() && !self.past.iter().any(term_before) {
            return Some("epoch_changed");
        }
        match self.last().checked_sub(*sequence) {
            None => Some("unknown_sequence"),
            Some(missed) if missed > ring => Some("history_overrun"),
            Some(missed) if missed > 0 && is_long => Some("too_many_bytes"),
            Some(_) => None,
        }
    }
}

enum Wire {
    Joined(Address, Option<Recover>, Joined),
    Refused(Address),
    Left(Address),
    Page(Address, Span, Page),
    Message(&'static str, u64, String),
}

struct Model {
    rng: fastrand::Rng,
    ring: u64,
    lives: u64,
    numbers: u64,
    channels: BTreeMap<&'static str, Channel>,
    /// What was not kept of a life that was: who has not heard it can't find out that it was said.
    cut_off: BTreeSet<u64>,
    /// What the client is in, with its session and on this connection.
    kept: BTreeSet<&'static str>,
    members: BTreeSet<&'static str>,
    wire: VecDeque<Wire>,
}

impl Model {
    fn publish(&mut self, channel: &'static str) {
        self.numbers += 1;
        let (number, log) = (self.numbers, self.channels.get_mut(channel).unwrap());
        log.log.push(number);
        if self.members.contains(channel) {
            let sequence = log.last();
            self.wire.push_back(Wire::Message(channel, sequence, number.to_string()));
        }
    }

    /// The bus is killed, and another one goes on with what was kept.
    fn restart(&mut self) {
        for (name, channel) in &mut self.channels {
            let Channel { life, term, past, log } = channel;
            if self.rng.u8(0..3) == 0 {
                self.lives += 1;
                (*life, *term) = (self.lives, 0);
                past.clear();
                log.clear();
                continue;
            }
            let kept_before = past.last().map_or(0, |&(_, kept)| kept);
            // A client can't find out that what was said to a whole room was kept in part.
            let is_whole = *name == "*" || self.rng.bool();
            let last = log.len() as u64;
            let kept = if is_whole { last } else { self.rng.u64(kept_before..=last) };
            self.cut_off.extend(log.drain(kept as usize..));
            past.push((*term, kept));
            *term += 1;
        }
    }

    fn answer(&mut self, question: Question) {
        match question {
            Question::Join { address, recover: None } if address.channel.is_every() => {
                self.members = CHANNELS.into();
                let at = |name: &&str| {
                    let channel = &self.channels[*name];
                    json!({"channel": *name, "epoch": channel.epoch(), "sequence": channel.last()})
                };
                let mut answer = at(&"*");
                answer["channels"] = CHANNELS[..2].iter().map(at).collect();
                self.wire.push_back(Wire::Joined(address, None, read(answer)));
            }
            Question::Join { address, recover } => self.join(address, recover),
            Question::Leave { address } => self.wire.push_back(Wire::Left(address)),
            Question::History { address, span } => self.history(address, span),
        }
        self.kept.extend(&self.members);
    }

    fn join(&mut self, address: Address, recover: Option<Recover>) {
        let name = CHANNELS.into_iter().find(|name| *name == &*address.channel).unwrap();
        // Who is in the whole room joins it for a recovery.
        if self.members.contains("*") && self.rng.u8(0..6) == 0 {
            return self.wire.push_back(Wire::Refused(address));
        }
        self.members.insert(name);
        let (channel, is_long) = (&self.channels[name], self.rng.u8(0..3) == 0);
        let reason = recover.as_ref().and_then(|at| channel.refuses(at, self.ring, is_long));
        let is_recovered = recover.is_some() && reason.is_none();
        let answer = json!({"epoch": channel.epoch(), "sequence": channel.last(),
                            "recovered": is_recovered, "reason": reason});
        let after = recover.as_ref().filter(|_| is_recovered).map(|recover| recover.sequence);
        self.wire.push_back(Wire::Joined(address, recover, read(answer)));
        for sequence in after.map_or(0, |after| after + 1)..=channel.last() {
            if after.is_some() {
                let text = channel.log[sequence as usize - 1].to_string();
                self.wire.push_back(Wire::Message(name, sequence, text));
            }
        }
    }

    fn history(&mut self, address: Address, span: Span) {
        let channel = &self.channels[&*address.channel];
        let last = channel.last();
        let Span::After(after) = span else {
            let page = Page { epoch: Some(channel.epoch()), ..Page::default() };
            return self.wire.push_back(Wire::Page(address, span, page));
        };
        let from = (after + 1).max(last.saturating_sub(self.ring) + 1);
        let to = last.min(from + self.rng.u64(0..7));
        let text = |sequence: u64| channel.log[sequence as usize - 1].to_string();
        let messages = (from..=to).map(|sequence| (sequence, text(sequence))).collect();
        let page = Page { epoch: Some(channel.epoch()), has_more: to < last, messages };
        self.wire.push_back(Wire::Page(address, span, page));
    }
}

fn read(answer: Value) -> Joined {
    serde_json::from_value(answer).unwrap()
}

/// What a person has before them, of one channel.
#[derive(Default)]
struct Seen {
    printed: BTreeSet<u64>,
    /// The last number since the channel was last told to have begun anew.
    last: u64,
    told: Vec<(u64, u64)>,
    began_anew: u32,
}

#[derive(Default)]
struct Person(BTreeMap<String, Seen>);

impl Person {
    fn read(&mut self, seed: u64, channel: &str, text: &str) {
        let number = text.parse().unwrap();
        let seen = self.0.entry(channel.to_owned()).or_default();
        assert!(number > seen.last, "seed {seed}: {number} of {channel} once, and in order");
        seen.last = number;
        seen.printed.insert(number);
    }

    fn hear(&mut self, text: &str) {
        let rest = text.strip_prefix("hall:").unwrap();
        let (channel, rest) = rest.split_once(": ").unwrap();
        if let Some((_, names)) = rest.split_once("may be missed: ") {
            for name in names.split(", ") {
                self.begin_anew(name.split(' ').next().unwrap());
            }
        } else if rest.contains("began anew") || rest.contains("can't be recovered") {
            self.begin_anew(channel);
        } else if let Some(range) = super::follow::range_of(rest) {
            self.0.entry(channel.to_owned()).or_default().told.push(range);
        }
    }

    fn begin_anew(&mut self, channel: &str) {
        let seen = self.0.entry(channel.to_owned()).or_default();
        (seen.last, seen.began_anew) = (0, seen.began_anew + 1);
        seen.told.clear();
    }

    /// All that is there was printed or told, and so was all that was there once.
    fn check(&self, seed: u64, model: &Model, published: &BTreeMap<&str, Vec<u64>>) {
        let nothing = Seen::default();
        for (name, channel) in &model.channels {
            let seen = self.0.get(*name).unwrap_or(&nothing);
            for (sequence, number) in (1..).zip(&channel.log) {
                let is_told = seen.told.iter().any(|&(from, to)| (from..=to).contains(&sequence));
                let is_printed = seen.printed.contains(number);
                assert!(is_printed || is_told, "seed {seed}: {name} {sequence} {:?}", seen.told);
            }
            let all = published.get(name).map_or(&[][..], Vec::as_slice);
            let is_gone =
                |number: &&u64| !channel.log.contains(number) && !model.cut_off.contains(number);
            let mut gone = all.iter().filter(is_gone);
            let is_missed = gone.any(|number| !seen.printed.contains(number));
            assert!(!is_missed || seen.began_anew > 0, "seed {seed}: {name} is not told");
        }
    }
}

fn play(seed: u64, targets: &[&str], ring: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let targets: Vec<Address> =
        targets.iter().map(|text| crate::cli::target::address(text).unwrap()).collect();
    let channels = if targets.len() == 1 { &CHANNELS[..] } else { &CHANNELS[..2] };
    let mut follow = Follow::new(&targets, 0);
    let mut model = Model {
        rng: rng.fork(),
        ring,
        lives: 0,
        numbers: 0,
        channels: CHANNELS.into_iter().map(|name| (name, Channel::default())).collect(),
        cut_off: BTreeSet::new(),
        kept: BTreeSet::new(),
        members: BTreeSet::new(),
        wire: VecDeque::new(),
    };
    let (mut asked, mut person) = (VecDeque::new(), Person::default());
    let mut published: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    follow.on_connected(false);
    let (mut is_connected, mut is_begun) = (true, false);
    for step in 0.. {
        let is_ending = step > 300;
        match rng.u8(0..14) {
            0..4 if is_begun && !is_ending => {
                let channel = channels[rng.usize(..channels.len())];
                model.publish(channel);
                published.entry(channel).or_default().push(model.numbers);
            }
            4 if is_begun && !is_ending && rng.u8(0..4) == 0 => {
                model.wire.clear();
                model.members.clear();
                asked.clear();
                is_connected = false;
                if rng.bool() {
                    model.restart();
                }
            }
            5 if !is_connected => {
                is_connected = true;
                let is_resumed = rng.u8(0..3) > 0;
                model.kept.retain(|_| is_resumed);
                model.members = model.kept.clone();
                follow.on_connected(is_resumed);
            }
            6..8 => {
                if let Some(question) = asked.pop_front() {
                    model.answer(question);
                }
            }
            _ => {
                if let Some(wire) = model.wire.pop_front() {
                    hear(seed, wire, &mut follow, &mut person);
                }
            }
        }
        for step in follow.take_steps() {
            match step {
                Step::Print(text) => {
                    let number = text.parse().unwrap();
                    let is_of = |name: &&&str| published[**name].contains(&number);
                    let channel = channels.iter().filter(|name| published.contains_key(**name));
                    person.read(seed, channel.clone().find(is_of).unwrap(), &text);
                }
                Step::Ask(question) => asked.push_back(question),
                Step::Tell(text) => person.hear(&text),
            }
        }
        let is_quiet = model.wire.is_empty() && asked.is_empty();
        // It has joined all it wants before anything is said.
        is_begun |= is_quiet && !model.members.is_empty();
        if is_ending && is_quiet && is_connected && follow.is_caught_up() {
            break;
        }
        assert!(step < 5_000, "seed {seed} does not end");
    }
    person.check(seed, &model, &published);
}

fn hear(seed: u64, wire: Wire, follow: &mut Follow, person: &mut Person) {
    match wire {
        Wire::Joined(address, recover, answer) => {
            follow.on_joined(&address, recover.as_ref(), answer);
        }
        Wire::Refused(address) => assert!(follow.on_join_refused(&address, "No.")),
        Wire::Left(address) => follow.on_left(&address),
        Wire::Page(address, span, page) => follow.on_history(&address, span, page),
        Wire::Message(channel, sequence, text) => {
            if follow.on_message(("hall", channel), Some(sequence), &text) == Verdict::Print {
                person.read(seed, channel, &text);
            }
        }
    }
}

#[test]
fn whatever_a_restart_keeps_everything_is_printed_once_or_told() {
    for seed in 0..1_000 {
        for targets in [&["hall:*"][..], &["hall:a", "hall:b"]] {
            for ring in [1_000, 5] {
                play(seed, targets, ring);
            }
        }
    }
}
