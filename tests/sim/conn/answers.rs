//! Answers: what was granted, what was refused, and whether that can be true.

use crate::conn::{Conn, Options, Replay, What, word};
use crate::model::{Model, Publish, life_in};
use crate::setup::VAULT;
use crate::violation;
use serde_json::Value;

impl Conn {
    pub(super) fn hear_answer(&mut self, model: &mut Model, payload: &Value, text: &str) {
        let number = self.number;
        let is_success = payload["status"] == "success";
        let error = payload["error"].as_str().unwrap_or("");
        if error == "INTERNAL" || is_success == payload["error"].is_string() {
            violation!("answers", "{number} got {text}");
        }
        let Some(id) = payload["request_id"].as_str() else {
            if self.is_doomed && error == "MESSAGE_TOO_LARGE" {
                model.see("too large with a reason".to_owned());
                return;
            }
            if self.unreadable == 0 || is_success {
                violation!("one answer", "{number} asked nothing like that: {text}");
            }
            self.unreadable -= 1;
            return;
        };
        let Some(asked) = self.asked.get_mut(id) else {
            violation!("one answer", "{number} did not ask: {text}")
        };
        let is_single = asked.required + asked.optional == 1;
        if asked.required + asked.optional == 0 {
            violation!("one answer", "{number} has its answer: {text}");
        }
        if asked.optional == 0 || is_success && asked.required > 0 {
            asked.required -= 1;
        } else {
            asked.optional -= 1;
            asked.spent += 1;
        }
        let what = asked.what.clone();
        if asked.required + asked.optional == 0 {
            self.asked.remove(id);
        }
        let id = id.to_owned();
        if let What::Identify { .. } = what {
            self.arriving.clear();
        }
        let kind = match &what {
            What::Events(_) => "event",
            What::Join { .. } => "join",
            What::Leave { .. } => "leave",
            What::Private(_) => "private",
            What::History { .. } => "history",
            What::Identify { .. } => "identify",
            What::List { .. } | What::Rooms | What::Command => "command",
            What::Telemetry => "telemetry",
            What::Malformed => "malformed",
        };
        model.see(format!("{kind} {}", if is_success { "granted" } else { error }));
        match is_success {
            true => self.granted(model, &id, what, is_single, &payload["result"], text),
            false => self.refused(model, what, is_single, error, text),
        }
    }

    pub(super) fn granted(
        &mut self,
        model: &mut Model,
        id: &str,
        what: What,
        is_single: bool,
        result: &Value,
        text: &str,
    ) {
        match what {
            What::Events(nonces) => self.accepted(model, &nonces, is_single, result, text),
            What::Join { options, recover, .. } => self.joined(model, result, options, recover),
            What::Leave { room, channel } => {
                self.leaves_done.insert(id.to_owned());
                self.left(&room, &channel);
            }
            What::Private(nonce) => {
                model.privates[nonce].is_delivered = true;
                if result["delivered"] != model.privates[nonce].targets.len() {
                    violation!("private", "delivered to others than asked for: {text}");
                }
            }
            What::History { room, channel, limit, is_whole } => {
                self.read_history(model, (&room, &channel), limit, is_whole, result);
            }
            What::Identify { id } => {
                self.client_id = word(result, "client_id").to_owned();
                self.ids.push(self.client_id.clone());
                if id.is_some_and(|id| id != self.client_id) {
                    violation!("wanted id", "{text}");
                }
                for view in result["joined"].as_array().into_iter().flatten() {
                    self.joined(model, view, Options::default(), None);
                }
                for room in self.rooms.values() {
                    if room.channels.values().any(|member| member.is_early) {
                        violation!("nothing to a stranger", "not joined by {text}");
                    }
                }
                self.rooms.retain(|_, room| room.whole.is_some() || !room.channels.is_empty());
            }
            What::List { room } => {
                for line in result["channels"].as_array().into_iter().flatten() {
                    let name = line.as_str().unwrap_or_else(|| word(line, "name"));
                    self.check_secret(model, &room, name);
                }
            }
            What::Rooms => {
                for room in result["rooms"].as_array().into_iter().flatten() {
                    for name in room["channels"].as_array().into_iter().flatten() {
                        self.check_secret(model, word(room, "name"), name.as_str().unwrap_or(""));
                    }
                }
            }
            What::Malformed => violation!("malformed", "a malformed message was taken: {text}"),
            What::Command | What::Telemetry => {}
        }
    }

    pub(super) fn refused(
        &mut self,
        model: &mut Model,
        what: What,
        is_single: bool,
        error: &str,
        text: &str,
    ) {
        if matches!(error, "STORAGE_UNAVAILABLE" | "STORAGE_LOST") {
            // It was delivered all the same.
            if model.ledger.is_none() {
                violation!("true refusals", "there is no storage: {text}");
            }
            return;
        }
        match what {
            What::Events(nonces) if is_single && nonces.len() == 1 => {
                let publish = &mut model.publishes[nonces[0]];
                publish.is_refused = true;
                if publish.place.is_some() {
                    violation!("no means no", "it has a place: {text}");
                }
                let is_false = match error {
                    "NOT_JOINED" | "CHANNEL_NOT_FOUND" => publish.is_joined,
                    "ROOM_PAUSED" => !model.paused.contains(&publish.room),
                    "RATE_LIMITED" | "CHANNEL_IS_PM" | "SENDER_MISMATCH" => false,
                    "PUBLISH_FORBIDDEN" => false,
                    "CHANNEL_PRIVATE" => {
                        publish.room != VAULT || publish.is_admins || publish.is_joined
                    }
                    _ => true,
                };
                if is_false {
                    violation!("true refusals", "{text}");
                }
            }
            What::Join { room, .. } if error == "ROOM_PAUSED" => {
                violation!("true refusals", "{room} still answers commands: {text}");
            }
            What::Identify { .. } => {
                self.rooms.retain(|_, room| room.whole.is_some() || !room.channels.is_empty());
            }
            _ => {}
        }
    }

    pub(super) fn accepted(
        &mut self,
        model: &mut Model,
        nonces: &[usize],
        is_single: bool,
        result: &Value,
        text: &str,
    ) {
        let Some(sequence) = result["sequence"].as_u64() else { violation!("acks", "{text}") };
        let is_traced = result["trace"].is_array();
        let is_duplicate = result["duplicate"] == true;
        check_safe(model, nonces[0], sequence, text);
        if result["unreported"].as_u64().is_some_and(|shards| shards > 0) {
            model.see("trace with a hop missing".to_owned());
        }
        if !is_single || nonces.len() != 1 {
            let places = nonces.iter().map(|&nonce| model.publishes[nonce].place);
            let is_known = places.clone().all(|place| place.is_some());
            if is_known && !places.flatten().any(|(_, at)| at == sequence) {
                violation!("acks", "no message of this id has that place: {text}");
            }
            return;
        }
        let nonce = nonces[0];
        let publish = &model.publishes[nonce];
        let (room, channel) = (publish.room.clone(), publish.channel.clone());
        if is_duplicate {
            self.check_duplicate(model, nonce, sequence, text);
            return;
        }
        let left = publish.after_leave.as_ref();
        if left.is_some_and(|leave| self.leaves_done.contains(leave)) {
            violation!("left is left", "accepted after the leave {left:?}: {text}");
        }
        // The answer to a traced event, or to one that had to be stored, may come long after its
        // channel is another one.
        let is_late = is_traced || model.ledger.is_some();
        let life = match self.rooms.get(&room).filter(|_| !is_late) {
            Some(known) if channel == "*" => known.star.as_ref().map(|cursor| cursor.life),
            Some(known) => known.channels.get(&channel).map(|member| member.cursor.life),
            None => None,
        };
        let place = life.unwrap_or_else(|| model.new_life());
        let place = model.place(place, sequence, nonce, "");
        if life.is_some() {
            self.reach(model, (&room, &channel), place, sequence);
        }
    }

    pub(super) fn check_duplicate(
        &mut self,
        model: &mut Model,
        nonce: usize,
        sequence: u64,
        text: &str,
    ) {
        model.duplicates += 1;
        let this = &model.publishes[nonce];
        if this.place.is_some() {
            violation!("idempotency", "the first of its kind is no repeat: {text}");
        }
        let is_kin = |other: &&Publish| {
            (&other.from, &other.id, &other.room, &other.channel)
                == (&this.from, &this.id, &this.room, &this.channel)
        };
        let kin: Vec<_> = model.publishes.iter().filter(is_kin).collect();
        let is_settled = kin
            .iter()
            .all(|other| std::ptr::eq(*other, this) || other.place.is_some() || other.is_refused);
        // Its place may be another one by now.
        let is_there = |other: &&Publish| {
            other.place.is_some_and(|(_, at)| {
                at == sequence || model.moved_from(nonce, at).any(|at| at == sequence)
            })
        };
        if kin.len() == 1 || is_settled && !kin.iter().any(is_there) {
            violation!("idempotency", "no first message has that place: {text}");
        }
        let before = model.conns_before;
        if this.conn >= before && kin.iter().any(|other| other.conn < before) {
            model.see("a repeat after a death".to_owned());
        }
        model.publishes[nonce].is_duplicate = true;
    }

    pub(super) fn read_history(
        &mut self,
        model: &mut Model,
        (room, channel): (&str, &str),
        limit: u64,
        is_whole: bool,
        result: &Value,
    ) {
        self.check_secret(model, room, channel);
        let life = model.life_of(word(result, "epoch"));
        let messages: Vec<&Value> = result["messages"].as_array().into_iter().flatten().collect();
        let mut sequences = Vec::new();
        for message in &messages {
            let nonce = message["payload"]["n"].as_u64().unwrap_or(u64::MAX) as usize;
            let Some(publish) = model.publishes.get(nonce) else {
                violation!("nothing made up", "{message}")
            };
            if (publish.room.as_str(), publish.channel.as_str()) != (room, channel)
                || message["metadata"]["replayed"] != true
            {
                violation!("as it was sent", "message {nonce} came as {message}");
            }
            let sequence = message["metadata"]["sequence"].as_u64().unwrap_or(0);
            model.place(life, sequence, nonce, word(message, "timestamp"));
            sequences.push(sequence);
        }
        let has_ttl = model.with_ttl.contains(&(room.to_owned(), channel.to_owned()));
        for pair in sequences.windows(2) {
            let distance = pair[0].abs_diff(pair[1]);
            if distance == 0 || distance > 1 && !has_ttl {
                violation!("history", "{sequences:?} of {room}:{channel}");
            }
        }
        let last = sequences.iter().copied().max().unwrap_or(0);
        let Some(member) = self.member_mut(room, channel) else { return };
        let expected = member.cursor.last.min(model.history_min).min(limit);
        let is_short = (sequences.len() as u64) < expected && result["more"] == false;
        let has_hole = model.is_short(word(result, "epoch"));
        if is_whole
            && !has_ttl
            && !has_hole
            && (is_short || expected > 0 && last < member.cursor.last)
        {
            violation!("history", "{sequences:?} ends before {}", member.cursor.last);
        }
        if last > member.cursor.last {
            self.reach(model, (room, channel), life, last);
        }
    }

    /// A view of a join, from a welcome or an answer.
    pub(super) fn joined(
        &mut self,
        model: &mut Model,
        view: &Value,
        options: Options,
        recover: Option<(String, u64)>,
    ) {
        let (room, channel) = (word(view, "room").to_owned(), word(view, "channel").to_owned());
        let sequence = view["sequence"].as_u64().unwrap_or(0);
        let life = model.life_of(word(view, "epoch"));
        self.check_secret(model, &room, &channel);
        let was_in = self.rooms.contains_key(&room);
        let known = self.room_mut(&room);
        let echoed = known.echoes();
        if channel == "*" {
            // A client that came into the room by an earlier join of its welcome may have got
            // events to `*` since, which follow the welcome.
            if !(was_in && self.is_entering) {
                self.reach(model, (&room, "*"), life, sequence);
            }
            let Some(known) = self.rooms.get_mut(&room) else { return };
            known.whole = Some(options);
            let listed = |name: &str| {
                let positions = view["channels"].as_array().into_iter().flatten();
                positions.into_iter().any(|position| position["channel"] == name)
            };
            if let Some(name) = known.channels.keys().find(|name| !listed(name)) {
                violation!("whole room", "{room}:{name} is not in {view}");
            }
            for position in view["channels"].as_array().into_iter().flatten() {
                let name = word(position, "channel").to_owned();
                self.check_secret(model, &room, &name);
                let life = model.life_of(word(position, "epoch"));
                let sequence = position["sequence"].as_u64().unwrap_or(0);
                self.reach(model, (&room, &name), life, sequence);
                if let Some(member) = self.member_mut(&room, &name) {
                    member.whole = Some(options);
                }
            }
            return;
        }
        let was_member = self.is_member(&room, &channel);
        self.reach(model, (&room, &channel), life, sequence);
        let number = self.number;
        let whole = self.rooms.get(&room).and_then(|known| known.whole);
        let Some(member) = self.member_mut(&room, &channel) else { return };
        member.named = Some(options);
        // Who joined the whole room is a member of a new channel by that as well.
        member.whole = member.whole.or(whole);
        if let Some(known) = self.rooms.get_mut(&room) {
            known.note_echo(echoed);
        }
        let Some(member) = self.member_mut(&room, &channel) else { return };
        let missed = view["missed"].as_u64().unwrap_or(0);
        match (&recover, view["recovered"] == true) {
            (None, true) => violation!("recovery", "{number} did not ask for it: {view}"),
            (Some((epoch, from)), true) => {
                let is_other = word(view, "epoch") != epoch;
                let is_known = match is_other {
                    false => true,
                    true => model.kept_up_to(epoch).is_some_and(|last| *from <= last),
                };
                if life_in(word(view, "epoch")) != life_in(epoch)
                    || !is_known
                    || was_member
                    || sequence < *from
                {
                    violation!("recovery", "{number} asked for {recover:?}: {view}");
                }
                if is_other {
                    model.see("recovered after a death".to_owned());
                }
                if missed > sequence - from {
                    violation!("recovery", "more than was missed after {from}: {view}");
                }
                model.see(format!("recovered {}", if missed > 0 { "some" } else { "none" }));
                member.cursor.replay = Some(Replay { seen: *from, last: sequence, left: missed });
            }
            (_, false) if missed > 0 => violation!("recovery", "nothing old: {view}"),
            (None, false) => {}
            (Some((epoch, from)), false) => {
                let is_other = word(view, "epoch") != epoch;
                let reason = view["reason"].as_str().unwrap_or("none");
                if is_other && life_in(word(view, "epoch")) == life_in(epoch) {
                    model.see("not recovered after a death".to_owned());
                }
                model.see(format!("not recovered {reason}"));
                let is_true = match reason {
                    "epoch_changed" => is_other,
                    "unknown_sequence" => *from > sequence,
                    "history_overrun" => {
                        sequence - from > model.history_min || model.is_short(epoch)
                    }
                    "too_many_bytes" => model.outbox_min < 1 << 20,
                    _ => false,
                };
                if !is_true {
                    violation!("recovery", "asked for {epoch} {from}, not recovered: {view}");
                }
            }
        }
    }
}

/// An ack of what is to be stored comes when it is.
fn check_safe(model: &mut Model, nonce: usize, sequence: u64, text: &str) {
    let Some(ledger) = &model.ledger else { return };
    let Publish { room, channel, from, id, .. } = &model.publishes[nonce];
    if model.lax_rooms.contains(room) {
        return;
    }
    let identity = (room.clone(), channel.clone(), from.clone(), id.clone());
    let is_there = |(_, at): &(String, u64)| *at == sequence;
    if !ledger.borrow().get(&identity).is_some_and(|places| places.iter().any(is_there)) {
        violation!("safe means safe", "nobody has stored what is acknowledged: {text}");
    }
    model.acked.insert(nonce);
}
