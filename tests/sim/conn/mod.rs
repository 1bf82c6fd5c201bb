//! One connection of a client, and everything it may conclude from what it hears.
//!
//! What a home says about a channel reaches a client in the order in which the home said it: events,
//! the answers to joins and leaves, acks and history. So a client can say at every place of what it
//! hears whether it is a member, and which sequence must come next. Whatever it skips is noted in
//! `missing` and has to be explained in the end: by a gap notice, or because the client sent it.

mod answers;
mod order;

use crate::model::Model;
use crate::peer::Peer;
use crate::setup::{SECRETS, VAULT, guests};
use crate::violation;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A connection of a client.
pub struct Conn {
    pub number: usize,
    pub shard: usize,
    pub peer: Peer,
    pub stage: Stage,
    pub client_id: String,
    /// Every id it ever had.
    pub ids: Vec<String>,
    pub wanted_id: Option<String>,
    pub is_admin: bool,
    pub rooms: BTreeMap<String, Room>,
    pub asked: BTreeMap<String, Asked>,
    /// Messages without an id that can be read, which are answered to nobody in particular.
    pub unreadable: u32,
    /// Leaves after which nothing was joined that would undo them, by address.
    pub leaves: BTreeMap<(String, String), String>,
    /// Rooms that it ever asked to join as a whole.
    pub stars: BTreeSet<String>,
    pub welcomed_at: u64,
    /// What it wrote and the network has not taken.
    pub out: Vec<u8>,
    /// It reads nothing before this step.
    pub deaf_until: usize,
    /// It did something for which it may be closed.
    pub is_doomed: bool,
    /// Whether it has sent any message.
    pub has_spoken: bool,
    pub texts: u64,
    /// Joins of an `identify` that was not answered.
    arriving: BTreeSet<(String, String)>,
    leaves_done: BTreeSet<String>,
    /// How often it became a member of anything.
    stays: u64,
    /// It reads its welcome: what came between two joins of one channel follows.
    is_entering: bool,
    missing: Vec<Missing>,
    gaps: Vec<Gap>,
    /// Messages without an order that were dropped.
    pub unordered_lost: u64,
    replays_lost: u64,
    privates: BTreeMap<usize, usize>,
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Shaking,
    Shaken,
    Live,
    Over,
}

/// What a client asked for when it joined.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    pub echo: bool,
    pub presence: bool,
}

/// What a client knows of a room it is in.
#[derive(Default)]
pub struct Room {
    pub whole: Option<Options>,
    pub channels: BTreeMap<String, Member>,
    star: Option<Cursor>,
    /// How often the connection had become a member of anything before it came in.
    stay: u64,
    /// Whether it may have missed where the order of a channel is that it has seen nothing of.
    is_unsure_of_others: bool,
}

impl Room {
    /// Whether its own events to `*` come back: as it joined `*`, or else any channel.
    fn echoes(&self) -> bool {
        let mut named = self.channels.values().filter_map(|member| member.named);
        self.whole.map_or_else(|| named.any(|options| options.echo), |options| options.echo)
    }

    /// Notes that it may have changed, in a way that leaves open when.
    fn note_echo(&mut self, before: bool) {
        if self.echoes() != before
            && let Some(star) = &mut self.star
        {
            star.is_echo_unsure = true;
        }
    }
}

/// What a client knows of a channel it is a member of.
pub struct Member {
    pub named: Option<Options>,
    pub whole: Option<Options>,
    pub cursor: Cursor,
    /// How often the connection had become a member of anything before.
    stay: u64,
    /// It came before the answer that explains it.
    is_early: bool,
}

/// How far a client has come in the order of a channel.
pub struct Cursor {
    pub life: usize,
    pub last: u64,
    pub replay: Option<Replay>,
    /// Whether echo was changed in a way that leaves open when.
    is_echo_unsure: bool,
    /// Whether it may have missed that the order is another one.
    is_order_unsure: bool,
}

/// What a recovery still owes.
pub struct Replay {
    pub seen: u64,
    last: u64,
    left: u64,
}

/// A message that waits for its answer, or several with the same id.
pub struct Asked {
    pub required: u32,
    pub optional: u32,
    /// Answers to those that need none. When several messages have one id, such an answer may be
    /// that of one that needs it.
    pub spent: u32,
    pub what: What,
}

/// What was asked.
#[derive(Clone, Debug)]
pub enum What {
    Events(Vec<usize>),
    Join { room: String, channel: String, options: Options, recover: Option<(String, u64)> },
    Leave { room: String, channel: String },
    Private(usize),
    History { room: String, channel: String, limit: u64, is_whole: bool },
    Identify { id: Option<String> },
    List { room: String },
    Rooms,
    Command,
    Telemetry,
    Malformed,
}

struct Missing {
    room: String,
    channel: String,
    life: usize,
    sequences: (u64, u64),
    may_be_own: bool,
    /// Whether a later event came all the same.
    is_skipped: bool,
    /// During which stay.
    stay: Option<u64>,
}

struct Gap {
    room: String,
    channel: String,
    first: u64,
    last: u64,
    count: u64,
}

impl Conn {
    /// A connection that has just been made.
    pub fn new(number: usize, shard: usize, peer: Peer, wanted_id: Option<String>) -> Conn {
        Conn {
            number,
            shard,
            peer,
            stage: Stage::Shaking,
            client_id: String::new(),
            ids: Vec::new(),
            wanted_id,
            is_admin: false,
            rooms: BTreeMap::new(),
            asked: BTreeMap::new(),
            unreadable: 0,
            leaves: BTreeMap::new(),
            stars: BTreeSet::new(),
            welcomed_at: 0,
            out: Vec::new(),
            deaf_until: 0,
            is_doomed: false,
            has_spoken: false,
            texts: 0,
            arriving: BTreeSet::new(),
            leaves_done: BTreeSet::new(),
            is_entering: false,
            stays: 0,
            missing: Vec::new(),
            gaps: Vec::new(),
            unordered_lost: 0,
            replays_lost: 0,
            privates: BTreeMap::new(),
        }
    }

    /// Asks something.
    pub fn ask(&mut self, id: &str, what: What, is_required: bool) {
        if let What::Identify { .. } = what {
            self.arriving.insert((String::new(), String::new()));
        }
        let asked = self.asked.entry(id.to_owned());
        let new = asked.or_insert(Asked { required: 0, optional: 0, spent: 0, what: what.clone() });
        new.required += u32::from(is_required);
        new.optional += u32::from(!is_required);
        match (&mut new.what, what) {
            (What::Events(known), What::Events(more)) if new.required + new.optional > 1 => {
                known.extend(more);
            }
            (known, what) => *known = what,
        }
    }

    /// Whether it is a member, as far as it knows now.
    pub fn is_member(&self, room: &str, channel: &str) -> bool {
        self.rooms.get(room).is_some_and(|room| match channel {
            "*" => true,
            channel => room.channels.contains_key(channel),
        })
    }

    /// Whether it is a member and has done nothing to change that.
    pub fn is_surely_member(&self, room: &str, channel: &str) -> bool {
        let Some(known) = self.rooms.get(room) else { return false };
        let is_leaving = |channel: &str| {
            self.leaves.contains_key(&(room.to_owned(), channel.to_owned()))
                || self.asked.values().any(|asked| {
                    matches!(&asked.what, What::Leave { room: r, channel: c }
                        if r == room && c == channel)
                })
        };
        if channel == "*" {
            return known.whole.is_some() && !is_leaving("*");
        }
        let Some(member) = known.channels.get(channel) else { return false };
        member.named.is_some() && !is_leaving(channel)
            || member.whole.is_some() && !is_leaving("*") && !is_leaving(channel)
    }

    /// Answers that must still come.
    pub fn unanswered(&self) -> impl Iterator<Item = (&String, &Asked)> {
        self.asked.iter().filter(|(_, asked)| asked.required > asked.spent)
    }

    /// Hears a message.
    pub fn hear(&mut self, model: &mut Model, text: &str, at: u64) {
        self.texts += 1;
        let Ok(message) = serde_json::from_str::<Value>(text) else {
            violation!("sound JSON", "connection {} got {text}", self.number)
        };
        for field in ["id", "type", "room", "channel", "from", "timestamp"] {
            if !message[field].is_string() {
                violation!("whole envelopes", "{field} is missing in {text}");
            }
        }
        if message["version"] != "1.0" || !message["payload"].is_object() {
            violation!("whole envelopes", "{text}");
        }
        if self.is_doomed && message["payload"]["error"] == "CONNECTION_LIMIT" {
            model.see("turned away with a reason".to_owned());
            return;
        }
        let is_welcome = message["payload"]["event"] == "welcome" && message["type"] == "system";
        if is_welcome != (self.stage == Stage::Shaken) {
            violation!("welcome first", "connection {} got {text}", self.number);
        }
        match word(&message, "type") {
            "event" => self.hear_event(model, &message, text),
            "private" => self.hear_private(model, &message),
            "command_response" => self.hear_answer(model, &message["payload"], text),
            "system" if is_welcome => self.hear_welcome(model, &message["payload"], at),
            "system" => {
                model.see(format!("notice {}", word(&message["payload"], "event")));
                self.hear_notice(model, &message);
            }
            other => violation!("known types", "a message of type {other}"),
        }
    }

    fn hear_welcome(&mut self, model: &mut Model, payload: &Value, at: u64) {
        self.stage = Stage::Live;
        self.welcomed_at = at;
        self.client_id = word(payload, "client_id").to_owned();
        self.ids.push(self.client_id.clone());
        self.is_admin = payload["role"] == "admin";
        if self.wanted_id.as_ref().is_some_and(|wanted| *wanted != self.client_id) {
            violation!("wanted id", "{:?} became {}", self.wanted_id, self.client_id);
        }
        self.is_entering = true;
        for view in payload["joined"].as_array().into_iter().flatten() {
            self.joined(model, view, Options::default(), None);
        }
        self.is_entering = false;
    }

    fn hear_notice(&mut self, model: &mut Model, message: &Value) {
        let (room, channel) = (word(message, "room"), word(message, "channel"));
        let payload = &message["payload"];
        match word(payload, "event") {
            "epoch_changed" => {
                let life = model.life_of(word(payload, "epoch"));
                let sequence = payload["sequence"].as_u64().unwrap_or(0);
                self.change_order((room, channel), life, sequence);
            }
            "gap" if payload["reason"] == "order_changed" => {
                let life = model.life_of(word(payload, "epoch"));
                let last = payload["last"].as_u64().unwrap_or(0);
                self.change_order((room, channel), life, last);
            }
            "gap" => {
                let count = payload["count"].as_u64().unwrap_or(0);
                match (payload["first"].as_u64(), payload["last"].as_u64()) {
                    (Some(first), Some(last)) => {
                        let (room, channel) = (room.to_owned(), channel.to_owned());
                        self.gaps.push(Gap { room, channel, first, last, count });
                    }
                    _ => {
                        self.unordered_lost += count;
                        if model.has_moved() {
                            // A notice that an order is another one may have been among them.
                            self.doubt_orders();
                        }
                    }
                }
            }
            "left" if payload["client_id"] == *self.client_id => {
                // It became a member while it was not known for whom the channel is.
                self.left(room, channel);
                self.let_go(room, channel);
            }
            "joined" | "left" => {
                // A channel that opened in a room joined as a whole may have no event yet. When somebody
                // leaves all of a room, who watches that is told what it is still in.
                let options = self.rooms.get(room).and_then(|known| {
                    let member = known.channels.get(channel);
                    member.map_or(known.whole, |member| member.named.or(member.whole))
                });
                let whole = self.rooms.get(room).and_then(|known| known.whole);
                let whole = whole.filter(|_| payload["event"] == "joined");
                let is_asked = options.into_iter().chain(whole).any(|options| options.presence);
                if !is_asked && self.arriving.is_empty() {
                    violation!("presence", "connection {} got {message}", self.number);
                }
            }
            "announcement" => {
                if room != "*" && !self.rooms.contains_key(room) && self.arriving.is_empty() {
                    violation!("nothing to a stranger", "{} got {message}", self.number);
                }
            }
            "closing" => {}
            other => violation!("known notices", "{other}"),
        }
    }

    fn hear_private(&mut self, model: &mut Model, message: &Value) {
        let nonce = message["payload"]["p"].as_u64().unwrap_or(u64::MAX) as usize;
        let Some(private) = model.privates.get_mut(nonce) else {
            violation!("nothing made up", "{message}")
        };
        if !private.targets.iter().any(|target| self.ids.contains(target)) {
            violation!("private", "{:?} got what is for {:?}", self.ids, private.targets);
        }
        if !private.heard_by.insert(self.number) {
            violation!("once", "private message {nonce} came twice");
        }
        let sender = private.conn;
        if let Some(before) = self.privates.insert(sender, nonce)
            && before > nonce
        {
            violation!("private order", "{nonce} came after {before}");
        }
    }

    fn hear_event(&mut self, model: &mut Model, message: &Value, text: &str) {
        let (room, channel) = (word(message, "room"), word(message, "channel"));
        let nonce = message["payload"]["n"].as_u64().unwrap_or(u64::MAX) as usize;
        let Some(publish) = model.publishes.get(nonce) else {
            violation!("nothing made up", "{text}")
        };
        let is_as_sent = publish.room == room
            && publish.channel == channel
            && publish.from == word(message, "from")
            && publish.id == word(message, "id")
            && text.contains(&publish.payload);
        if !is_as_sent {
            violation!("as it was sent", "message {nonce} came as {text}");
        }
        let Some(sequence) = message["metadata"]["sequence"].as_u64() else {
            violation!("sequenced", "{text}")
        };
        let is_own = publish.conn == self.number;
        let from = std::slice::from_ref(&publish.from);
        if !publish.is_admins && !is_for(model, room, channel, from) {
            violation!("private channels", "{} published in {channel}: {text}", publish.from);
        }
        let is_replay = message["metadata"]["replayed"] == true;
        self.check_secret(model, room, channel);
        let life = self.take_place(model, (room, channel), sequence, is_own, is_replay);
        model.place(life, sequence, nonce, word(message, "timestamp"));
    }

    /// Moves the cursor of a channel on to an event, and checks that it may come here.
    fn take_place(
        &mut self,
        model: &mut Model,
        (room, channel): (&str, &str),
        sequence: u64,
        is_own: bool,
        is_replay: bool,
    ) -> usize {
        let number = self.number;
        let is_arriving = !self.arriving.is_empty();
        if is_arriving {
            self.room_mut(room);
        }
        let Some(known) = self.rooms.get_mut(room) else {
            violation!("nothing to a stranger", "{number} got {sequence} of {room}:{channel}")
        };
        if channel == "*" {
            let echoes = known.echoes();
            let new = || Cursor::new(model.new_life(), sequence - 1);
            let cursor = known.star.get_or_insert_with(new);
            let may_be_own = !echoes || cursor.is_echo_unsure;
            cursor.settle_order(model, sequence);
            if is_own && !echoes {
                violation!("echo", "{number} got its own {sequence} of {room}:*");
            }
            let missing = cursor.step(sequence);
            let life = cursor.life;
            self.miss((room, channel), life, missing, (may_be_own, true));
            return life;
        }
        if !known.channels.contains_key(channel) {
            // A channel that opened in a room that was joined as a whole begins with 1.
            let (whole, last) = match known.whole {
                Some(options) if known.is_unsure_of_others => (Some(options), sequence - 1),
                Some(options) => (Some(options), 0),
                None if is_arriving => (None, sequence - 1),
                None => {
                    violation!("nothing to a stranger", "{number}: {sequence} of {room}:{channel}")
                }
            };
            let cursor = Cursor::new(model.new_life(), last);
            self.stays += 1;
            let stay = self.stays;
            let member = Member { named: None, whole, cursor, stay, is_early: is_arriving };
            known.channels.insert(channel.to_owned(), member);
        }
        let Some(member) = known.channels.get_mut(channel) else { return 0 };
        let echo = member.named.or(member.whole).is_some_and(|options| options.echo);
        let may_be_own = !echo || member.cursor.is_echo_unsure;
        if is_own && !echo && !is_replay {
            violation!("echo", "{number} got its own {sequence} of {room}:{channel}");
        }
        let cursor = &mut member.cursor;
        if !is_replay {
            cursor.settle_order(model, sequence);
        }
        let life = cursor.life;
        if is_replay {
            cursor.replayed(sequence, number, channel);
            return life;
        }
        let lost = cursor.replay.take().map_or(0, |replay| replay.left);
        let missing = cursor.step(sequence);
        self.replays_lost += lost;
        self.miss((room, channel), life, missing, (may_be_own, true));
        life
    }

    fn check_secret(&self, model: &Model, room: &str, channel: &str) {
        if !self.is_admin && !is_for(model, room, channel, &self.ids) {
            violation!("private channels", "{:?} heard of {channel}", self.ids);
        }
    }
}

/// Whether a channel is for a user that had one of these ids.
fn is_for(model: &Model, room: &str, channel: &str, ids: &[String]) -> bool {
    if room != VAULT || !SECRETS.contains(&channel) {
        return true;
    }
    let guests = guests(channel);
    let creators = model.creators.get(channel);
    let is_creator = |id| creators.is_some_and(|creators| creators.contains(id));
    ids.iter().any(|id| guests.contains(id) || is_creator(id))
}

/// A string of an object, empty if there is none.
pub fn word<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("")
}
