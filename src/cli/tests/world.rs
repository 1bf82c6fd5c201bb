//! What the small bus knows: channels, members and messages, and how it is to misbehave.
//!
//! *Not here*: sockets (`bus`). A peer is a queue that something else writes to its socket.

use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::Sender;
use std::time::Duration;

/// Something to do to a peer's connection, in order.
#[derive(Debug)]
pub(super) enum Out {
    Text(String),
    Close(u16, String),
    Cut,
}

/// How the bus misbehaves.
#[derive(Debug, Default)]
pub(super) struct Moods {
    /// Cut the sender's connection after so many more events.
    pub(super) cut_after_events: Option<u64>,
    /// Cut a member's connection after so many more deliveries.
    pub(super) cut_after_deliveries: Option<u64>,
    /// How many of the events before a cut are left without an answer.
    pub(super) keep_acks: u64,
    /// Refuse the events whose turn it is: every `n`th, with this code and word.
    pub(super) refuse_every: Option<(u64, u64, &'static str)>,
    /// Refuse so many events, then no more.
    pub(super) refuse_next: VecDeque<(u64, &'static str)>,
    /// Refuse this command with this code and word, so many times.
    pub(super) refuse_command: Option<(&'static str, u64, &'static str, u64)>,
    /// Hold every connection open and do nothing at all.
    pub(super) is_frozen: bool,
    /// Answer nothing.
    pub(super) is_silent: bool,
    /// Answer no events.
    pub(super) ignores_events: bool,
    /// Think before each answer.
    pub(super) thinks_for: Duration,
    /// Answer every handshake with this status and body.
    pub(super) http: Option<(u16, &'static str)>,
    /// The session that each client gets.
    pub(super) session: Option<&'static str>,
    /// Say this instead of a welcome.
    pub(super) instead_of_welcome: Option<&'static str>,
    /// Lose so many deliveries and tell of them.
    pub(super) drops: u64,
    /// What the welcome says of limits.
    pub(super) limits: Value,
    /// What the welcome says of the heartbeat; peers that are silent for two are closed.
    pub(super) heartbeat: Option<Duration>,
}

#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) moods: Moods,
    pub(super) history_size: usize,
    /// What peers did wrong.
    pub(super) errors: Vec<String>,
    /// The path and the token of every handshake.
    pub(super) handshakes: Vec<(String, Option<String>)>,
    /// The close code of every peer that said goodbye.
    pub(super) goodbyes: Vec<u16>,
    /// Every command, by name.
    pub(super) commands: Vec<(String, Value)>,
    channels: BTreeMap<(String, String), Channel>,
    rooms: BTreeMap<String, BTreeMap<u64, bool>>,
    peers: BTreeMap<u64, Peer>,
    peers_made: u64,
    epochs_made: u64,
    events_seen: u64,
}

#[derive(Debug)]
struct Peer {
    client_id: String,
    out: Sender<Out>,
}

#[derive(Debug, Default)]
struct Channel {
    epoch: String,
    sequence: u64,
    ring: VecDeque<Value>,
    /// Everything ever accepted, across epochs.
    accepted: Vec<Value>,
    /// Members, and whether they want their own messages.
    members: BTreeMap<u64, bool>,
}

impl World {
    pub(super) fn new() -> World {
        World { history_size: 500, ..World::default() }
    }

    /// A peer arrives; refuses a client id that is taken.
    pub(super) fn enter(&mut self, client_id: Option<String>, out: Sender<Out>) -> Option<u64> {
        if self.peers.values().any(|peer| Some(&peer.client_id) == client_id.as_ref()) {
            return None;
        }
        self.peers_made += 1;
        let peer = self.peers_made;
        let client_id = client_id.unwrap_or_else(|| format!("arq_client_{peer}"));
        let welcome = match self.moods.instead_of_welcome {
            Some(text) => text.to_owned(),
            None => system(
                "*",
                "welcome",
                json!({
                    "event": "welcome", "client_id": client_id, "client_type": "human",
                    "role": "admin", "protocol": "1.0", "joined": [],
                    "server": {"name": "small", "version": "1", "node": "n"},
                    "heartbeat_ms": self.moods.heartbeat.map_or(25_000, |h| h.as_millis() as u64),
                    "limits": self.moods.limits,
                    "session": self.moods.session.map(|token| json!({"token": token})),
                }),
            ),
        };
        let _ = out.send(Out::Text(welcome));
        self.peers.insert(peer, Peer { client_id, out });
        Some(peer)
    }

    pub(super) fn leave(&mut self, peer: u64, code: Option<u16>) {
        self.goodbyes.extend(code);
        self.peers.remove(&peer);
        let channels = self.channels.values_mut().map(|channel| &mut channel.members);
        for members in channels.chain(self.rooms.values_mut()) {
            members.remove(&peer);
        }
    }

    pub(super) fn peer_count(&self) -> usize {
        self.peers.len()
    }

    /// Does something to every peer.
    pub(super) fn all(&mut self, mut out: impl FnMut() -> Out) {
        for peer in self.peers.values() {
            let _ = peer.out.send(out());
        }
    }

    /// Loses all memory, as a restart does; members stay members.
    pub(super) fn forget(&mut self) {
        for channel in self.channels.values_mut() {
            self.epochs_made += 1;
            channel.epoch = format!("epoch-{}", self.epochs_made);
            channel.sequence = 0;
            channel.ring.clear();
        }
    }

    /// Publishes as somebody else.
    pub(super) fn publish(&mut self, room: &str, channel: &str, payload: Value) -> u64 {
        let message = json!({
            "version": "1.0", "id": format!("arq_other_{}", fastrand::u64(..)), "type": "event",
            "room": room, "channel": channel, "from": "other", "payload": payload,
        });
        self.append(None, (room, channel), message)
    }

    /// Publishes a telemetry event that is about one channel into the stream of them.
    pub(super) fn publish_telemetry(&mut self, room: &str, channel: &str, payload: Value) -> u64 {
        let message = json!({
            "version": "1.0", "id": format!("arq_{}", fastrand::u64(..)), "type": "telemetry",
            "room": room, "channel": channel, "from": "arqonbus_server", "payload": payload,
        });
        self.append(None, ("integriguard", "telemetry-stream"), message)
    }

    /// Every payload ever accepted in a channel, in order.
    pub(super) fn accepted(&self, room: &str, channel: &str) -> Vec<Value> {
        let channel = self.channels.get(&(room.into(), channel.into()));
        let all = channel.into_iter().flat_map(|channel| &channel.accepted);
        all.map(|message| message["payload"].clone()).collect()
    }

    pub(super) fn is_member(&self, room: &str, channel: &str) -> bool {
        let channel = self.channels.get(&(room.into(), channel.into()));
        channel.is_some_and(|channel| !channel.members.is_empty())
    }

    /// A peer said something.
    pub(super) fn on_text(&mut self, peer: u64, text: &str) {
        let Ok(message) = serde_json::from_str::<Value>(text) else {
            self.errors.push(format!("no JSON: {text}"));
            return;
        };
        self.check(peer, &message);
        if self.moods.is_silent {
            return;
        }
        match message["type"].as_str().unwrap_or_default() {
            "command" => self.on_command(peer, &message),
            "event" if self.moods.ignores_events => {}
            "event" => self.on_event(peer, message),
            "private" => self.on_private(peer, message),
            other => self.errors.push(format!("type {other}")),
        }
    }

    fn check(&mut self, peer: u64, message: &Value) {
        let client_id = self.peers.get(&peer).map(|peer| peer.client_id.clone());
        for field in ["version", "id", "type", "room", "channel", "from", "timestamp"] {
            if !message[field].is_string() {
                self.errors.push(format!("{field} is no string in {message}"));
            }
        }
        if message["from"].as_str() != client_id.as_deref() || !message["payload"].is_object() {
            self.errors.push(format!("from or payload is wrong in {message}"));
        }
    }

    fn send(&self, peer: u64, text: String) {
        if let Some(peer) = self.peers.get(&peer) {
            let _ = peer.out.send(Out::Text(text));
        }
    }

    fn answer(&self, peer: u64, message: &Value, outcome: Result<Value, (u64, &str)>) {
        let id = &message["id"];
        let payload = match outcome {
            Ok(result) => json!({"request_id": id, "status": "success", "result": result}),
            Err((code, word)) => json!({
                "request_id": id, "status": "error", "code": code, "error": word,
                "message": format!("The bus says {word}."),
            }),
        };
        let mut envelope: Value = serde_json::from_str(&system("*", "*", payload)).unwrap();
        envelope["type"] = "command_response".into();
        self.send(peer, envelope.to_string());
    }

    fn on_event(&mut self, peer: u64, message: Value) {
        self.events_seen += 1;
        let refusal = match self.moods.refuse_every {
            Some((every, code, word)) if self.events_seen.is_multiple_of(every) => {
                Some((code, word))
            }
            _ => self.moods.refuse_next.pop_front(),
        };
        if let Some(refusal) = refusal {
            return self.answer(peer, &message, Err(refusal));
        }
        let room = message["room"].as_str().unwrap_or_default().to_owned();
        let name = message["channel"].as_str().unwrap_or_default().to_owned();
        let is_member = self
            .channels
            .get(&(room.clone(), name.clone()))
            .is_some_and(|channel| channel.members.contains_key(&peer));
        if !is_member {
            return self.answer(peer, &message, Err((403, "NOT_JOINED")));
        }
        let known = self.channels[&(room.clone(), name.clone())]
            .ring
            .iter()
            .find(|known| known["id"] == message["id"] && known["from"] == message["from"]);
        let (sequence, duplicate) = match known {
            Some(known) => (known["metadata"]["sequence"].as_u64().unwrap(), true),
            None => (self.append(Some(peer), (&room, &name), message.clone()), false),
        };
        let cut_in = self.moods.cut_after_events;
        let is_acked = cut_in.is_none_or(|left| left > self.moods.keep_acks);
        if message["metadata"]["ack"] == true && is_acked {
            let mut ack = json!({"sequence": sequence, "duplicate": duplicate});
            if message["metadata"]["trace"] == true {
                ack["delivered"] = 0.into();
                ack["trace"] = json!([{"at": "parsed", "shard": 0, "ns": 1000}]);
            }
            self.answer(peer, &message, Ok(ack));
        }
        if let Some(left) = cut_in {
            self.moods.cut_after_events = (left > 1).then(|| left - 1);
            if left <= 1
                && let Some(peer) = self.peers.get(&peer)
            {
                let _ = peer.out.send(Out::Cut);
            }
        }
    }

    fn on_private(&mut self, peer: u64, message: Value) {
        let targets: Vec<String> = match &message["payload"]["target"] {
            Value::String(one) => vec![one.clone()],
            many => serde_json::from_value(many.clone()).unwrap_or_default(),
        };
        for target in &targets {
            let Some(found) = self.peers.values().find(|peer| peer.client_id == *target) else {
                return self.answer(peer, &message, Err((404, "TARGET_NOT_FOUND")));
            };
            let _ = found.out.send(Out::Text(message.to_string()));
        }
        self.answer(peer, &message, Ok(json!({"delivered": targets.len()})));
    }

    /// Gives a message its place and delivers it.
    fn append(&mut self, from: Option<u64>, (room, name): (&str, &str), mut message: Value) -> u64 {
        let history_size = self.history_size;
        let whole_room = self.rooms.get(room).cloned().unwrap_or_default();
        let channel = self.channel(room, name);
        channel.sequence += 1;
        let sequence = channel.sequence;
        message["metadata"] = json!({"sequence": sequence});
        message["timestamp"] = "2025-11-30T12:00:00.000000Z".into();
        channel.ring.push_back(message.clone());
        if channel.ring.len() > history_size {
            channel.ring.pop_front();
        }
        channel.accepted.push(message.clone());
        let mut receivers = whole_room;
        receivers.extend(channel.members.iter());
        let text = message.to_string();
        for (peer, wants_own) in receivers {
            if Some(peer) != from || wants_own {
                self.deliver(peer, (room, name), sequence, &text);
            }
        }
        sequence
    }

    fn deliver(&mut self, peer: u64, (room, channel): (&str, &str), sequence: u64, text: &str) {
        if self.moods.drops > 0 {
            self.moods.drops -= 1;
            if self.moods.drops == 0 {
                let gap = json!({"event": "gap", "channel": channel, "first": sequence,
                                 "last": sequence, "count": 1, "reason": "slow"});
                self.send(peer, system(room, channel, gap));
            }
            return;
        }
        self.send(peer, text.to_owned());
        if let Some(left) = self.moods.cut_after_deliveries {
            self.moods.cut_after_deliveries = (left > 1).then(|| left - 1);
            if left <= 1
                && let Some(peer) = self.peers.get(&peer)
            {
                let _ = peer.out.send(Out::Cut);
            }
        }
    }

    fn channel(&mut self, room: &str, name: &str) -> &mut Channel {
        let epochs_made = &mut self.epochs_made;
        self.channels.entry((room.into(), name.into())).or_insert_with(|| {
            *epochs_made += 1;
            Channel { epoch: format!("epoch-{epochs_made}"), ..Channel::default() }
        })
    }

    fn on_command(&mut self, peer: u64, message: &Value) {
        let command = message["payload"]["command"].as_str().unwrap_or_default().to_owned();
        let parameters = &message["payload"]["parameters"];
        self.commands.push((command.clone(), parameters.clone()));
        if let Some((refused, code, word, times)) = &mut self.moods.refuse_command
            && *refused == command
            && *times > 0
        {
            *times -= 1;
            let refusal = (*code, *word);
            return self.answer(peer, message, Err(refusal));
        }
        let text = |name: &str| parameters[name].as_str().unwrap_or_default().to_owned();
        match command.as_str() {
            "ping" => self.answer(peer, message, Ok(json!({"pong": true}))),
            "status" => {
                let status = json!({"server": "small", "uptime_s": 61, "clients": 1});
                self.answer(peer, message, Ok(status));
            }
            "join_channel" if text("channel") == "*" => self.join_room(peer, message),
            "join_channel" => self.join(peer, message),
            "history" => self.history(peer, message),
            other => self.errors.push(format!("command {other}")),
        }
    }

    fn join(&mut self, peer: u64, message: &Value) {
        let parameters = &message["payload"]["parameters"];
        let (room, name) = (&parameters["room"], &parameters["channel"]);
        let (room, name) = (room.as_str().unwrap(), name.as_str().unwrap());
        let channel = self.channel(room, name);
        channel.members.insert(peer, parameters["echo"] == true);
        let (epoch, sequence) = (channel.epoch.clone(), channel.sequence);
        let mut result = json!({"room": room, "channel": name, "epoch": epoch,
            "sequence": sequence, "participants": 1, "created": false, "recovered": false});
        let mut replay = Vec::new();
        if let Some(recover) = parameters.get("recover") {
            let after = recover["sequence"].as_u64().unwrap();
            let has_all = after + channel.ring.len() as u64 >= sequence;
            if recover["epoch"] == *epoch && has_all && after <= sequence {
                result["recovered"] = true.into();
                replay = replayed(channel, |s| s > after);
            }
        }
        result["missed"] = replay.len().into();
        self.answer(peer, message, Ok(result));
        for message in replay {
            self.send(peer, message.to_string());
        }
    }

    fn join_room(&mut self, peer: u64, message: &Value) {
        let parameters = &message["payload"]["parameters"];
        if parameters.get("recover").is_some() {
            self.errors.push("recover is not for *".into());
        }
        let room = parameters["room"].as_str().unwrap().to_owned();
        self.rooms.entry(room.clone()).or_default().insert(peer, parameters["echo"] == true);
        let channels: Vec<Value> = self
            .channels
            .iter()
            .filter(|((of, _), _)| *of == room)
            .map(|((_, name), channel)| {
                json!({"channel": name, "epoch": channel.epoch, "sequence": channel.sequence})
            })
            .collect();
        let result = json!({"room": room, "channel": "*", "epoch": "room", "sequence": 0,
            "participants": 1, "created": false, "recovered": false, "missed": 0,
            "channels": channels});
        self.answer(peer, message, Ok(result));
    }

    fn history(&mut self, peer: u64, message: &Value) {
        let parameters = &message["payload"]["parameters"];
        let number = |name: &str| parameters.get(name).map(|value| value.as_u64().unwrap());
        let key =
            [&parameters["room"], &parameters["channel"]].map(|v| v.as_str().unwrap().to_owned());
        let Some(channel) = self.channels.get(&key.into()) else {
            return self.answer(peer, message, Err((404, "CHANNEL_NOT_FOUND")));
        };
        let limit = number("limit").unwrap_or(50) as usize;
        let is_asc = parameters["order"] != "desc";
        let mut messages = replayed(channel, |sequence| {
            number("after").is_none_or(|after| sequence > after)
                && number("before").is_none_or(|before| sequence < before)
        });
        let more = messages.len() > limit;
        if is_asc && number("after").is_some() {
            messages.truncate(limit);
        } else {
            messages.drain(..messages.len().saturating_sub(limit));
        }
        if !is_asc {
            messages.reverse();
        }
        let edge = |message: Option<&Value>| message.map(|m| m["metadata"]["sequence"].clone());
        let result = json!({"epoch": channel.epoch, "first": edge(messages.first()),
            "last": edge(messages.last()), "more": more, "messages": messages});
        self.answer(peer, message, Ok(result));
    }
}

fn replayed(channel: &Channel, wants: impl Fn(u64) -> bool) -> Vec<Value> {
    let wanted =
        channel.ring.iter().filter(|m| m["metadata"]["sequence"].as_u64().is_some_and(&wants));
    let mut messages: Vec<Value> = wanted.cloned().collect();
    for message in &mut messages {
        message["metadata"]["replayed"] = true.into();
    }
    messages
}

/// A message of the bus's own.
pub(super) fn system(room: &str, channel: &str, payload: Value) -> String {
    json!({
        "version": "1.0", "id": "arq_small", "type": "system", "room": room, "channel": channel,
        "from": "arqonbus_server", "timestamp": "2025-11-30T12:00:00.000000Z", "payload": payload,
    })
    .to_string()
}
