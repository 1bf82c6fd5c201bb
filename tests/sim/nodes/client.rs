//! A client on a bus of several nodes, and what it may conclude from what it hears.

use crate::conn::{Options, Stage, word};
use crate::nodes::truth::{
    self, Address, Identity, Sent, entry, holds_up_to, is_at, is_common, is_so, parts,
};
use crate::peer::Peer;
use crate::shared::Shared;
use crate::sim::Coverage;
use crate::violation;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A client, which outlives its connections and goes from node to node.
pub struct Client {
    pub link: Option<Link>,
    pub said: u64,
    /// By what it returns, and as whom.
    pub token: Option<(String, String)>,
    pub memory: BTreeMap<Address, Memory>,
    /// Events that it may send again, as numbers of what was sent.
    pub recent: Vec<usize>,
}

/// How far a client had come in a channel.
#[derive(Clone, Debug)]
pub struct Memory {
    pub epoch: String,
    pub sequence: u64,
    heard: BTreeMap<u64, Identity>,
    /// It may have missed that the order is another one.
    is_unsure: bool,
}

/// A connection of a client.
pub struct Link {
    /// Which of all that there ever were.
    pub key: usize,
    pub node: usize,
    /// The process.
    pub hub: usize,
    pub number: usize,
    pub peer: Peer,
    pub stage: Stage,
    pub wanted: Option<String>,
    /// Whether it returns to a session.
    pub returns: bool,
    pub client_id: String,
    pub is_admin: bool,
    pub out: Vec<u8>,
    pub deaf_until: usize,
    /// It did something, or something was done, for which it may be closed.
    pub is_doomed: bool,
    pub asked: BTreeMap<String, Asked>,
    pub stays: BTreeMap<Address, Stay>,
    /// Messages without an order that were dropped.
    pub unordered_lost: u64,
    /// The participants of channels, as it was told last.
    pub infos: BTreeMap<Address, BTreeSet<String>>,
    /// The clients of the bus, as it was told last, and whether that was all of them.
    pub listed: Option<(BTreeSet<String>, bool)>,
}

/// A message that waits for its answer, or several with one id.
pub struct Asked {
    pub what: What,
    pub required: u32,
    pub optional: u32,
}

/// What was asked.
#[derive(Clone, Debug)]
pub enum What {
    Event(usize),
    Join { options: Options, recover: Option<Memory> },
    Leave(Address),
    Private(usize),
    Info(Address),
    Clients,
    Command,
}

/// A client's time in a channel.
pub struct Stay {
    pub epoch: String,
    /// As it was asked for; who has returned to a session may have asked for something else before.
    pub options: Option<Options>,
    /// After which sequence it was told everything.
    from: u64,
    /// How far it has come.
    pub seen: u64,
    /// What it heard of the order as it is, by sequence.
    heard: BTreeMap<u64, Identity>,
    /// All that it heard.
    ids: BTreeSet<Identity>,
    /// What it heard in an order that was given up: if that was lost, a repeat is an event like any other.
    given_up: BTreeSet<Identity>,
    gaps: Vec<(u64, u64)>,
    /// What it heard is not in the order that all share, or not yet.
    pub is_forked: bool,
    /// What had been sent when it joined in a fork, or when something was dropped there: that was said to
    /// the members of its node, and gets its place later.
    sent_before: usize,
    replay: Option<Replay>,
    /// Who came, and who went, last.
    watched: BTreeMap<String, bool>,
    /// It asked to leave.
    pub is_leaving: bool,
}

/// What a recovery still owes.
struct Replay {
    seen: u64,
    last: u64,
    left: u64,
}

/// What clients are judged by.
pub struct Judge<'a> {
    pub shared: &'a Shared,
    pub sent: &'a mut Sent,
    pub seen: &'a mut Coverage,
    /// Whether the node may ever have gone on alone.
    pub is_shaky: bool,
    /// Whether all trouble is over.
    pub is_calm: bool,
    pub history_size: u64,
    pub has_small_outbox: bool,
}

impl Judge<'_> {
    fn see(&mut self, what: String) {
        *self.seen.entry(what).or_default() += 1;
    }
}

impl Link {
    /// Asks something.
    pub fn ask(&mut self, id: &str, what: What, is_required: bool) {
        let asked = self.asked.entry(id.to_owned());
        let asked = asked.or_insert(Asked { what, required: 0, optional: 0 });
        asked.required += u32::from(is_required);
        asked.optional += u32::from(!is_required);
    }

    /// Hears a message.
    pub fn hear(&mut self, judge: &mut Judge<'_>, text: &str) {
        let key = self.key;
        let Ok(message) = serde_json::from_str::<Value>(text) else {
            violation!("sound JSON", "link {key} got {text}")
        };
        if self.is_doomed && message["payload"]["error"] == "CONNECTION_LIMIT" {
            return;
        }
        let is_welcome = message["payload"]["event"] == "welcome" && message["type"] == "system";
        if is_welcome != (self.stage == Stage::Shaken) {
            violation!("welcome first", "link {key} got {text}");
        }
        match word(&message, "type") {
            "event" => self.hear_event(judge, &message, text),
            "private" => self.hear_private(judge, &message),
            "command_response" => self.hear_answer(judge, &message["payload"], text),
            "system" if is_welcome => self.hear_welcome(judge, &message["payload"]),
            "system" => self.hear_notice(judge, &message),
            other => violation!("known types", "a message of type {other}"),
        }
    }

    fn hear_welcome(&mut self, judge: &mut Judge<'_>, payload: &Value) {
        self.stage = Stage::Live;
        self.client_id = word(payload, "client_id").to_owned();
        self.is_admin = payload["role"] == "admin";
        if self.wanted.as_ref().is_some_and(|wanted| *wanted != self.client_id) {
            violation!("wanted id", "{:?} became {}", self.wanted, self.client_id);
        }
        if self.returns {
            judge.see("nodes: returned".to_owned());
            if payload["session"]["resumed"] != true {
                violation!("sessions", "{} returned to nothing: {payload}", self.client_id);
            }
        }
        for view in payload["joined"].as_array().into_iter().flatten() {
            self.joined(judge, view, None, None);
        }
    }

    fn hear_notice(&mut self, judge: &mut Judge<'_>, message: &Value) {
        let payload = &message["payload"];
        let address = (word(message, "room").to_owned(), word(message, "channel").to_owned());
        let event = word(payload, "event");
        judge.see(format!("nodes: notice {event}"));
        let stay = self.stays.get_mut(&address);
        match event {
            "gap" if payload["reason"] == "order_changed" => {
                let (first, last) = (number(payload, "first"), number(payload, "last"));
                if let Some(stay) = stay {
                    stay.gaps.push((first, last));
                    stay.seen = last;
                }
            }
            "epoch_changed" => {
                let Some(stay) = stay else { return };
                stay.change_epoch(word(payload, "epoch"), number(payload, "sequence"));
                stay.is_forked = !is_common(judge.shared, &address, &stay.epoch);
                if stay.is_forked && !judge.is_shaky {
                    violation!("epochs are honest", "nobody knows the epoch of {message}");
                }
                judge.see(format!("nodes: epoch_changed {}", word(payload, "reason")));
            }
            "gap" => match (payload["first"].as_u64(), payload["last"].as_u64()) {
                (Some(first), Some(last)) => {
                    let Some(stay) = stay else { return };
                    stay.gaps.push((first, last));
                    if judge.is_shaky {
                        // What was dropped in a fork has another place later, and does not come again.
                        stay.sent_before = judge.sent.events.len();
                    }
                }
                _ => self.unordered_lost += number(payload, "count"),
            },
            "joined" | "left" => {
                let who = word(payload, "client_id").to_owned();
                let is_there = event == "joined";
                if who == self.client_id && !is_there {
                    self.stays.remove(&address);
                } else if let Some(stay) = stay {
                    let before = stay.watched.insert(who, is_there);
                    if before == Some(is_there) && !judge.is_shaky && self.unordered_lost == 0 {
                        violation!("presence", "{} hears twice: {message}", self.key);
                    }
                }
            }
            "announcement" | "closing" => {}
            other => violation!("known notices", "{other}"),
        }
    }

    fn hear_private(&mut self, judge: &mut Judge<'_>, message: &Value) {
        let number = number(&message["payload"], "p") as usize;
        let Some(private) = judge.sent.privates.get_mut(number) else {
            violation!("nothing made up", "{message}")
        };
        if private.target != self.client_id {
            violation!("private", "{} got what is for {}", self.client_id, private.target);
        }
        if private.heard_by.contains(&self.key) {
            violation!("once", "private message {number} came twice to {}", self.key);
        }
        private.heard_by.push(self.key);
        judge.see("nodes: private".to_owned());
    }

    fn hear_event(&mut self, judge: &mut Judge<'_>, message: &Value, text: &str) {
        let key = self.key;
        let address = (word(message, "room").to_owned(), word(message, "channel").to_owned());
        let identity = (word(message, "from").to_owned(), word(message, "id").to_owned());
        let number = number(&message["payload"], "n") as usize;
        let Some(event) = judge.sent.events.get(number) else {
            violation!("nothing made up", "{text}")
        };
        let is_as_sent = event.identity == identity && event.address == address;
        if !is_as_sent || !text.contains(&event.payload) {
            violation!("as it was sent", "event {number} came as {text}");
        }
        let Some(sequence) = message["metadata"]["sequence"].as_u64() else {
            violation!("sequenced", "{text}")
        };
        let is_replay = message["metadata"]["replayed"] == true;
        let is_own = event.link == key;
        let Some(stay) = self.stays.get_mut(&address) else {
            violation!("nothing to a stranger", "{key} got {text}")
        };
        if is_own && !is_replay && stay.options.is_some_and(|options| !options.echo) {
            violation!("echo", "{key} got its own {text}");
        }
        match is_replay {
            true => stay.hear_replayed(key, sequence),
            false => {
                stay.replay = None;
                if sequence <= stay.seen {
                    violation!("order", "{key}: {sequence} of {address:?} after {}", stay.seen);
                }
                stay.seen = sequence;
            }
        }
        if !stay.ids.insert(identity.clone()) && !stay.may_repeat(judge, &identity, sequence) {
            violation!("once", "{key} got {identity:?} of {address:?} again, as {sequence}");
        }
        if !is_at(judge.shared, &address, &stay.epoch, sequence, &identity) {
            if !judge.is_shaky {
                violation!("one order", "{key}: {identity:?} is not {sequence} of {address:?}");
            }
            stay.is_forked = true;
        }
        stay.heard.insert(sequence, identity);
    }

    fn hear_answer(&mut self, judge: &mut Judge<'_>, payload: &Value, text: &str) {
        let key = self.key;
        let id = word(payload, "request_id").to_owned();
        let error = word(payload, "error");
        let is_success = payload["status"] == "success";
        let Some(asked) = self.asked.get_mut(&id) else {
            violation!("one answer", "{key} did not ask: {text}")
        };
        match asked.required > 0 {
            true => asked.required -= 1,
            false => asked.optional = asked.optional.saturating_sub(1),
        }
        let what = asked.what.clone();
        if asked.required + asked.optional == 0 {
            self.asked.remove(&id);
        }
        if error == "INTERNAL" {
            violation!("answers", "{key} got {text}");
        }
        let result = &payload["result"];
        let kind = what.kind();
        judge.see(format!("nodes: {kind} {}", if is_success { "granted" } else { error }));
        match what {
            What::Event(number) if is_success => accepted(judge, number, result, text),
            What::Event(number) => {
                let event = &judge.sent.events[number];
                let is_in = self.stays.get(&event.address).is_some_and(|stay| !stay.is_leaving);
                if error == "NOT_JOINED" && is_in && self.asked.is_empty() {
                    violation!("true refusals", "{key} is in {:?}: {text}", event.address);
                }
            }
            What::Join { options, recover } if is_success => {
                self.joined(judge, result, Some(options), recover);
            }
            What::Leave(address) if is_success => {
                if let Some(stay) = self.stays.remove(&address) {
                    stay.check(judge, key, &address, stay.seen);
                }
            }
            What::Leave(address) => {
                self.stays.get_mut(&address).into_iter().for_each(|stay| stay.is_leaving = false);
            }
            What::Private(number) => judge.sent.privates[number].is_acked = is_success,
            What::Info(address) if is_success => {
                let names = result["participants"].as_array().into_iter().flatten();
                let names = names.map(|one| word(one, "client_id").to_owned()).collect();
                self.infos.insert(address, names);
            }
            What::Clients if is_success && result["unanswered_nodes"].is_null() => {
                let names = result["clients"].as_array().into_iter().flatten();
                let names = names.map(|one| word(one, "client_id").to_owned()).collect();
                self.listed = Some((names, result["more"] != true));
            }
            _ => {}
        }
    }

    /// A view of a join, from a welcome or an answer.
    fn joined(
        &mut self,
        judge: &mut Judge<'_>,
        view: &Value,
        options: Option<Options>,
        recover: Option<Memory>,
    ) {
        let key = self.key;
        let address = (word(view, "room").to_owned(), word(view, "channel").to_owned());
        let (epoch, sequence) = (word(view, "epoch").to_owned(), number(view, "sequence"));
        let is_shared = is_common(judge.shared, &address, &epoch);
        if !is_shared && !judge.is_shaky {
            violation!("epochs are honest", "{key}: nobody knows the epoch of {view}");
        }
        if let Some(stay) = self.stays.get_mut(&address) {
            stay.options = options.or(stay.options);
            return;
        }
        let (mut from, mut replay, mut heard) = (sequence, None, BTreeMap::new());
        let missed = number(view, "missed");
        match (recover, view["recovered"] == true) {
            (None, true) => violation!("recovery", "{key} did not ask for it: {view}"),
            (Some(memory), true) => {
                check_recovered(judge, key, &address, &memory, view, is_shared);
                judge.see(format!("nodes: recovered {}", if missed > 0 { "some" } else { "none" }));
                from = memory.sequence;
                replay = Some(Replay { seen: from, last: sequence, left: missed });
                heard = memory.heard;
            }
            (Some(memory), false) => {
                let reason = word(view, "reason");
                judge.see(format!("nodes: not recovered {reason}"));
                check_not_recovered(judge, key, &address, &memory, view, is_shared);
            }
            (None, false) => {}
        }
        let ids = heard.values().cloned().collect();
        let stay = Stay {
            epoch,
            options: options.or((!self.returns).then(Options::default)),
            from,
            seen: sequence,
            heard,
            ids,
            given_up: BTreeSet::new(),
            gaps: Vec::new(),
            is_forked: !is_shared,
            sent_before: if judge.is_shaky { judge.sent.events.len() } else { 0 },
            replay,
            watched: BTreeMap::new(),
            is_leaving: false,
        };
        self.stays.insert(address, stay);
    }

    /// The connection is over, or all is at rest: what it missed must have a reason.
    pub fn check_stays(&self, judge: &Judge<'_>) {
        for (address, stay) in &self.stays {
            let up_to = match judge.is_calm {
                false => stay.seen,
                true => {
                    // A notice that was dropped says nothing.
                    if self.unordered_lost == 0 {
                        stay.check_calm(judge, self.key, address);
                    }
                    truth::orders_of(judge.shared, address, &stay.epoch)
                        .next()
                        .map_or(0, |order| order.last())
                }
            };
            stay.check(judge, self.key, address, up_to);
        }
    }

    /// How far it has come in each channel.
    pub fn memories(&self) -> impl Iterator<Item = (Address, Memory)> + '_ {
        self.stays.iter().map(|(address, stay)| {
            let sequence = stay.replay.as_ref().map_or(stay.seen, |replay| replay.seen);
            let heard = stay.heard.clone();
            let is_unsure = self.unordered_lost > 0;
            (address.clone(), Memory { epoch: stay.epoch.clone(), sequence, heard, is_unsure })
        })
    }
}

impl What {
    fn kind(&self) -> &'static str {
        match self {
            What::Event(_) => "event",
            What::Join { .. } => "join",
            What::Leave(_) => "leave",
            What::Private(_) => "private",
            What::Info(_) => "info",
            What::Clients | What::Command => "command",
        }
    }
}

impl Stay {
    /// The order goes on under another epoch; up to a sequence it is the one that was told.
    fn change_epoch(&mut self, epoch: &str, sequence: u64) {
        let first = if parts(epoch).life == parts(&self.epoch).life { sequence + 1 } else { 0 };
        self.given_up.extend(self.heard.split_off(&first).into_values());
        self.epoch = epoch.to_owned();
        (self.seen, self.replay) = (sequence, None);
    }

    /// Whether an event that it heard may come once more: it was sent again when the first was lost, or
    /// was so long ago that nobody could know.
    fn may_repeat(&mut self, judge: &Judge<'_>, identity: &Identity, sequence: u64) -> bool {
        let same = judge.sent.events.iter().filter(|event| event.identity == *identity);
        let last = self.heard.iter().rev().find(|(_, known)| *known == identity);
        let is_old = last.is_some_and(|(&at, _)| at + judge.history_size <= sequence);
        same.count() > 1 && (self.given_up.remove(identity) || is_old)
    }

    fn hear_replayed(&mut self, key: usize, sequence: u64) {
        let Some(replay) = &mut self.replay else {
            violation!("recovery", "{key} got {sequence} replayed for no reason")
        };
        if sequence <= replay.seen || sequence > replay.last || replay.left == 0 {
            violation!("recovery", "{key} got {sequence} replayed after {}", replay.seen);
        }
        (replay.seen, replay.left) = (sequence, replay.left - 1);
        if replay.left == 0 {
            self.replay = None;
        }
    }

    /// Every event up to a sequence was heard, or there is a reason why not.
    fn check(&self, judge: &Judge<'_>, key: usize, address: &Address, up_to: u64) {
        if self.is_forked {
            return;
        }
        let from = self.replay.as_ref().map_or(self.from, |_| self.seen);
        for sequence in from + 1..=up_to {
            let Some(entry) = entry(judge.shared, address, &self.epoch, sequence) else { continue };
            let identity = (entry.from.clone(), entry.id.clone());
            let is_told = self.gaps.iter().any(|&(a, b)| (a..=b).contains(&sequence));
            let kin = judge.sent.events.iter().enumerate();
            let mut kin = kin.filter(|(_, event)| event.identity == identity);
            let is_excused = kin.any(|(number, event)| {
                event.has_ttl || event.link == key || number < self.sent_before
            });
            if !is_told && !is_excused && !self.ids.contains(&identity) {
                violation!("no gap", "{key} never got {sequence} of {address:?}: {identity:?}");
            }
        }
    }

    /// With all trouble over, what it was told last is what all nodes say.
    fn check_calm(&self, judge: &Judge<'_>, key: usize, address: &Address) {
        let Stay { epoch, seen, .. } = self;
        let current = truth::orders(judge.shared, address).next();
        let is_current = current.is_some_and(|order| *order.record.epoch == *parts(epoch).life);
        if !is_current || !is_common(judge.shared, address, epoch) {
            violation!("epochs are honest", "{key} was told no epoch of {address:?} but {epoch}");
        }
        if !is_so(judge.shared, address, epoch, &self.heard, *seen) {
            let heard = &self.heard;
            violation!("epochs are honest", "{key} heard of {address:?} in {epoch}: {heard:?}");
        }
    }
}

fn accepted(judge: &mut Judge<'_>, number: usize, result: &Value, text: &str) {
    let event = &judge.sent.events[number];
    let Some(sequence) = result["sequence"].as_u64() else { violation!("acks", "{text}") };
    let is_there = truth::orders(judge.shared, &event.address).any(|order| {
        let entry = order.at(sequence);
        entry.is_some_and(|it| (&it.from, &it.id) == (&event.identity.0, &event.identity.1))
    });
    if !is_there {
        violation!("safe means safe", "no order has what is acknowledged: {text}");
    }
}

/// What was recovered is all that was missed, and what was heard before is so.
fn check_recovered(
    judge: &Judge<'_>,
    key: usize,
    address: &Address,
    memory: &Memory,
    view: &Value,
    is_shared: bool,
) {
    let (epoch, last) = (word(view, "epoch"), number(view, "sequence"));
    if !is_shared {
        return;
    }
    if !is_so(judge.shared, address, epoch, &memory.heard, memory.sequence) {
        violation!("recovery", "{key} heard something else than what it goes on from: {view}");
    }
    let events = (memory.sequence + 1..=last)
        .filter_map(|sequence| entry(judge.shared, address, epoch, sequence));
    let lasting = events.filter(|entry| {
        let is_it = |event: &&truth::Event| event.identity.1 == entry.id;
        judge.sent.events.iter().filter(is_it).all(|event| !event.has_ttl)
    });
    let (least, missed) = (lasting.count() as u64, number(view, "missed"));
    let most = last.saturating_sub(memory.sequence);
    if !judge.is_shaky && !(least..=most).contains(&missed) {
        violation!("recovery", "{key} missed {least} to {most} after {memory:?}: {view}");
    }
}

/// A recovery is refused for a true reason.
fn check_not_recovered(
    judge: &Judge<'_>,
    key: usize,
    address: &Address,
    memory: &Memory,
    view: &Value,
    is_common_now: bool,
) {
    let (epoch, last) = (word(view, "epoch"), number(view, "sequence"));
    let holds_up_to = holds_up_to(judge.shared, address, &memory.epoch);
    let is_same = is_common_now
        && !memory.is_unsure
        && parts(epoch).life == parts(&memory.epoch).life
        && holds_up_to.is_some_and(|last| memory.sequence <= last)
        && is_so(judge.shared, address, epoch, &memory.heard, memory.sequence);
    let is_false = match word(view, "reason") {
        "epoch_changed" => is_same,
        "unknown_sequence" => is_same && judge.is_calm,
        "history_overrun" => {
            // What a node says alone pushes what it had heard before out of its history.
            is_common_now
                && !judge.is_shaky
                && last.saturating_sub(memory.sequence) <= judge.history_size
        }
        "too_many_bytes" => !judge.has_small_outbox,
        _ => true,
    };
    if is_false {
        violation!("epochs are honest", "{key} was refused {memory:?}: {view}");
    }
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or(0)
}
