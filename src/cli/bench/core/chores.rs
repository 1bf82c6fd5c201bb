//! What clients do beside publishing: they ask, and wait for the answer.
//!
//! Requests are due on a schedule, like messages of the open model, and their latency counts from
//! when they were due. A client has one request out at a time. Every answer is checked, and every
//! private message and acknowledged event must come to whom it was for.

use super::Core;
use super::conn::Stage;
use crate::cli::bench::plan::Act;
use crate::cli::bench::shared::Shared;
use crate::cli::bench::stencil::{CHANNEL, push_masked_header};
use crate::cli::bench::timeline::{Latencies, latencies};
use crate::cli::words::{self, Reply, Wishes};
use crate::protocol::command::Address;
use crate::protocol::envelope::MessageType;
use crate::protocol::names::Name;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashMap;

/// What the ids of requests begin with; a number follows.
pub(super) const CHORE_ID: &str = "arq_k";
/// The key by which the payloads of requests are known.
pub(super) const CHORE_KEY: &str = "chore";
/// The channel that clients join and leave.
const SIDE_CHANNEL: &str = "side";
/// The messages that are asked of history.
const HISTORY_LIMIT: usize = 20;
/// The wrong answers that are told one by one.
const TOLD_MAX: usize = 5;

/// The kinds of request.
pub(in crate::cli::bench) const KINDS: [&str; 7] =
    ["event with ack", "private with ack", "history", "join", "leave", "status", "ping"];
const ACK: usize = 0;
const PRIVATE: usize = 1;
const HISTORY: usize = 2;
const JOIN: usize = 3;
const LEAVE: usize = 4;
const STATUS: usize = 5;
const PING: usize = 6;

/// What became of the requests.
#[derive(Debug, Default)]
pub(in crate::cli::bench) struct ChoreFacts {
    /// How long the answers took, by kind.
    pub(in crate::cli::bench) latencies: Vec<Latencies>,
    /// Requests that were not answered.
    pub(in crate::cli::bench) unanswered: u64,
    /// Events and private messages that others must get through requests, and that came.
    pub(in crate::cli::bench) to_others: u64,
    /// Those that came.
    pub(in crate::cli::bench) from_others: u64,
    /// Wrong answers, the first few in words.
    pub(in crate::cli::bench) wrong: Vec<String>,
    /// How many there were.
    pub(in crate::cli::bench) wrong_count: u64,
}

/// A request that is out.
#[derive(Debug, Clone, Copy)]
struct Out {
    kind: usize,
    local: u32,
    at_ns: u64,
}

/// The requests of a core.
#[derive(Debug)]
pub(super) struct Chores {
    interval_ns: f64,
    /// How many were due so far.
    count: u64,
    rng: fastrand::Rng,
    out: HashMap<u64, Out>,
    serial: u64,
    /// Who has one out, and who is in the side channel.
    is_busy: Vec<bool>,
    is_beside: Vec<bool>,
    next: usize,
    facts: ChoreFacts,
}

#[derive(Deserialize)]
struct HistoryBody<'a> {
    #[serde(borrow)]
    messages: Vec<Message<'a>>,
}

#[derive(Deserialize)]
struct Message<'a> {
    metadata: Place,
    room: &'a str,
}

#[derive(Deserialize)]
struct Place {
    sequence: u64,
}

impl Chores {
    /// For a core with so many connections; `None` if the plan has none.
    pub(super) fn new(shared: &Shared, core: usize, conns: usize) -> Option<Chores> {
        let Act::Mix { requests_per_s } = shared.act else {
            return None;
        };
        let facts =
            ChoreFacts { latencies: KINDS.map(|_| latencies()).into(), ..ChoreFacts::default() };
        Some(Chores {
            interval_ns: 1e9 * shared.threads as f64 / requests_per_s,
            count: 0,
            rng: fastrand::Rng::with_seed(core as u64),
            out: HashMap::new(),
            serial: 0,
            is_busy: vec![false; conns],
            is_beside: vec![false; conns],
            next: 0,
            facts,
        })
    }

    /// When the next request is due.
    pub(super) fn next_ns(&self, start_ns: u64) -> u64 {
        start_ns + (self.count as f64 * self.interval_ns) as u64
    }

    fn free(&mut self) -> Option<usize> {
        for _ in 0..self.is_busy.len() {
            self.next = (self.next + 1) % self.is_busy.len();
            if !self.is_busy[self.next] {
                return Some(self.next);
            }
        }
        None
    }

    fn choose(&mut self, local: usize) -> usize {
        match self.rng.usize(..6) {
            JOIN if self.is_beside[local] => LEAVE,
            LEAVE => STATUS,
            STATUS => PING,
            kind => kind,
        }
    }

    fn note_wrong(&mut self, what: String) {
        self.facts.wrong_count += 1;
        if self.facts.wrong.len() < TOLD_MAX {
            self.facts.wrong.push(what);
        }
    }
}

impl Core<'_> {
    /// Sends the requests that are due.
    pub(super) fn take_chores(&mut self) {
        let Some(timeline) = self.timeline else {
            return;
        };
        let Some(mut chores) = self.chores.take() else {
            return;
        };
        let until_ns = self.shared.clock.now_ns().min(timeline.to_ns - 1);
        loop {
            let due_ns = chores.next_ns(timeline.start_ns);
            if due_ns > until_ns {
                break;
            }
            let Some(local) = chores.free() else {
                break;
            };
            chores.count += 1;
            self.ask(&mut chores, local, due_ns);
        }
        self.chores = Some(chores);
    }

    fn ask(&mut self, chores: &mut Chores, local: usize, at_ns: u64) {
        if self.conns[local].stage != Stage::Live {
            return;
        }
        let kind = chores.choose(local);
        let Some((text, receivers)) = self.request(chores, local, kind) else {
            return;
        };
        chores.is_busy[local] = true;
        chores.out.insert(chores.serial, Out { kind, local: local as u32, at_ns });
        chores.facts.to_others += receivers;
        self.expected += receivers;
        let mut frame = Vec::with_capacity(text.len() + 14);
        push_masked_header(&mut frame, 0x81, text.len(), 0);
        frame.extend_from_slice(text.as_bytes());
        self.write(local, &frame);
    }

    /// A request as text, and how many others get something by it.
    fn request(&self, chores: &mut Chores, local: usize, kind: usize) -> Option<(String, u64)> {
        let (conn, naming) = (self.global(local), &self.shared.naming);
        let group = *self.shared.layout.seats[conn as usize].first()?;
        let members = &self.shared.layout.groups[group as usize].members;
        let client = naming.client(conn);
        chores.serial += 1;
        let id = format!("{CHORE_ID}{}", chores.serial);
        let at = |channel| {
            let room = Name::parse(&naming.room(group)).ok()?;
            Some(Address { room, channel: Name::parse(channel).ok()? })
        };
        let (main, side) = (at(CHANNEL)?, at(SIDE_CHANNEL)?);
        let payload = |mut payload: Value| {
            payload[CHORE_KEY] = chores.serial.into();
            payload.to_string()
        };
        let wishes = Wishes { ack: true, ..Wishes::default() };
        let command = |address, name, parameters| {
            Some((words::command(&id, &client, address, name, parameters), 0))
        };
        match kind {
            ACK => {
                let (kind, payload) = (MessageType::Event, payload(json!({})));
                let text = words::message(kind, &id, &client, &main, &payload, &wishes);
                Some((text, members.len() as u64 - 1))
            }
            PRIVATE => {
                let other = members.iter().position(|&member| member == conn)?;
                let other = (other + 1 + chores.rng.usize(..members.len() - 1)) % members.len();
                let payload = payload(json!({"target": naming.client(members[other])}));
                let kind = MessageType::Private;
                Some((words::message(kind, &id, &client, &main, &payload, &wishes), 1))
            }
            HISTORY => command(Some(&main), "history", json!({"limit": HISTORY_LIMIT})),
            JOIN => command(Some(&side), "join_channel", json!({})),
            LEAVE => command(Some(&side), "leave_channel", json!({})),
            STATUS => command(None, "status", json!({})),
            _ => command(None, "ping", json!({})),
        }
    }

    /// An answer to a request.
    pub(super) fn on_chore_reply(&mut self, serial: &str, reply: &Reply<'_>) {
        let Some(chores) = &mut self.chores else {
            return;
        };
        let out = serial.parse().ok().and_then(|serial: u64| chores.out.remove(&serial));
        let Some(Out { kind, local, at_ns }) = out else {
            return chores.note_wrong(format!("an answer to {serial}, which is not out"));
        };
        let local = local as usize;
        chores.is_busy[local] = false;
        if matches!(kind, JOIN | LEAVE) {
            chores.is_beside[local] = kind == JOIN;
        }
        let answer = match reply.outcome() {
            Ok(result) => check(kind, result),
            Err(refused) => Err(refused.to_string()),
        };
        if let Err(why) = answer {
            chores.note_wrong(format!("{}: {why}", KINDS[kind]));
        }
        if self.timeline.is_some_and(|timeline| timeline.measures(at_ns)) {
            let now_ns = self.shared.clock.now_ns();
            chores.facts.latencies[kind].saturating_record(now_ns.saturating_sub(at_ns));
        }
    }

    /// Another's event or private message came through a request.
    pub(super) fn on_chore_message(&mut self) {
        if let Some(chores) = &mut self.chores {
            chores.facts.from_others += 1;
            self.received += 1;
        }
    }

    /// How many requests are out.
    pub(super) fn chores_out(&self) -> u64 {
        self.chores.as_ref().map_or(0, |chores| chores.out.len() as u64)
    }

    /// What became of all.
    pub(super) fn chore_facts(&mut self) -> Option<ChoreFacts> {
        let chores = self.chores.take()?;
        Some(ChoreFacts { unanswered: chores.out.len() as u64, ..chores.facts })
    }
}

/// Whether a result is what its request asked for.
fn check(kind: usize, result: &str) -> Result<(), String> {
    let value = |key: &str| -> Option<Value> {
        let value: Value = serde_json::from_str(result).ok()?;
        value.get(key).cloned()
    };
    let is_right = match kind {
        ACK => value("sequence").is_some_and(|sequence| sequence.as_u64() > Some(0)),
        HISTORY => return check_history(result),
        JOIN => value("epoch").is_some_and(|epoch| epoch.is_string()),
        LEAVE => value("left") == Some(Value::Bool(true)),
        STATUS => value("clients").is_some_and(|clients| clients.as_u64() > Some(0)),
        PING => value("pong") == Some(Value::Bool(true)),
        _ => true,
    };
    if is_right { Ok(()) } else { Err(format!("the answer is {result}")) }
}

fn check_history(result: &str) -> Result<(), String> {
    let body: HistoryBody<'_> = serde_json::from_str(result).map_err(|error| error.to_string())?;
    let room = body.messages.first().map_or("", |message| message.room);
    let places: Vec<u64> = body.messages.iter().map(|message| message.metadata.sequence).collect();
    let is_whole = places.windows(2).all(|pair| pair[1] == pair[0] + 1);
    let is_one_room = body.messages.iter().all(|message| message.room == room);
    match is_whole && is_one_room && places.len() <= HISTORY_LIMIT {
        true => Ok(()),
        false => Err(format!("it holds the sequences {places:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_checked() {
        let history = |places: &[u64]| {
            let messages: Vec<Value> = places
                .iter()
                .map(|place| json!({"metadata": {"sequence": place}, "room": "r", "x": 1}))
                .collect();
            json!({"messages": messages}).to_string()
        };
        for (kind, result, is_right) in [
            (ACK, r#"{"sequence":1}"#.to_owned(), true),
            (ACK, r#"{"sequence":0}"#.to_owned(), false),
            (ACK, "null".to_owned(), false),
            (HISTORY, history(&[4, 5, 6]), true),
            (HISTORY, history(&[]), true),
            (HISTORY, history(&[4, 6]), false),
            (HISTORY, history(&[5, 4]), false),
            (JOIN, r#"{"epoch":"x"}"#.to_owned(), true),
            (LEAVE, r#"{"left":true}"#.to_owned(), true),
            (LEAVE, "{}".to_owned(), false),
            (STATUS, r#"{"clients":3}"#.to_owned(), true),
            (PING, r#"{"pong":true}"#.to_owned(), true),
        ] {
            assert_eq!(check(kind, &result).is_ok(), is_right, "{} {result}", KINDS[kind]);
        }
    }
}
