//! What clients do: everything the protocol has, and some things it does not.

use crate::conn::{Options, Stage, What};
use crate::model::{Private, Publish};
use crate::setup::{CHANNELS, LAX_ROOM, ROOMS, SECRETS, VAULT, guests, pick};
use crate::sim::Sim;
use crate::storage::Storage;
use arqonbus::protocol::command::Persist;
use serde_json::json;

impl Sim {
    /// A client does something.
    pub fn act(&mut self, client: usize) {
        let Some(conn) = &self.clients[client].conn else {
            return self.connect(client);
        };
        if conn.stage != Stage::Live || conn.is_doomed {
            return;
        }
        let times = match self.world.setup.has_floods && self.rng.u8(..10) == 0 {
            true => self.rng.usize(5..60),
            false => 1,
        };
        if times > 1 && self.rng.bool() {
            // Nothing but pings and questions: the answers must wait for the client, too.
            for _ in 0..times {
                self.command(client, "help", ("*", "*"), "{}", What::Command);
            }
            return;
        }
        let is_first = !conn.has_spoken;
        let kind = match is_first && self.rng.u8(..6) == 0 {
            true => 98,
            false => self.rng.u8(..100),
        };
        let is_nowhere = conn.rooms.is_empty() && conn.asked.is_empty();
        let kind = if is_nowhere && self.rng.u8(..4) > 0 { 50 } else { kind };
        for _ in 0..times {
            match kind {
                0..45 => self.publish(client),
                45..62 => self.join(client),
                62..69 => self.leave(client),
                69..76 => self.private(client),
                76..82 => self.history(client),
                82..90 => self.question(client),
                90..94 => self.administer(client),
                94..96 => self.telemetry(client),
                96..98 => self.malformed(client),
                98 => self.identify(client),
                _ => return self.part(client),
            }
        }
    }

    /// Some address; the channel may be `*`.
    pub fn some_address(&mut self) -> (String, String) {
        let room = pick(&mut self.rng, &ROOMS);
        let channel = match (room, self.rng.u8(..10)) {
            (_, 0) => "*",
            (VAULT, _) => pick(&mut self.rng, &SECRETS),
            (_, 1) => "pm",
            _ => pick(&mut self.rng, &CHANNELS),
        };
        (room.to_owned(), channel.to_owned())
    }

    /// Most often an address that the client is joined to.
    fn known_address(&mut self, client: usize) -> (String, String) {
        let Some(conn) = &self.clients[client].conn else { return self.some_address() };
        let known: Vec<(String, String)> = conn
            .rooms
            .iter()
            .flat_map(|(room, known)| {
                let star = known.whole.map(|_| "*".to_owned());
                known.channels.keys().cloned().chain(star).map(|channel| (room.clone(), channel))
            })
            .collect();
        match known.is_empty() || self.rng.u8(..8) == 0 {
            true => self.some_address(),
            false => known[self.rng.usize(..known.len())].clone(),
        }
    }

    fn message_id(&mut self, client: usize) -> String {
        self.clients[client].messages += 1;
        format!("arq_{client}-{}", self.clients[client].messages)
    }

    fn say(&mut self, client: usize, text: &str) {
        self.note(format_args!("client {client} says {text}"));
        if let Some(conn) = &mut self.clients[client].conn {
            conn.has_spoken = true;
            conn.peer.say(text);
        }
    }

    fn envelope(
        &self,
        client: usize,
        (kind, id): (&str, &str),
        (room, channel): (&str, &str),
        payload: &str,
        metadata: &str,
    ) -> String {
        let from = self.clients[client].conn.as_ref().map_or("", |conn| &conn.client_id);
        format!(
            r#"{{"version":"1.0","id":"{id}","type":"{kind}","room":"{room}","channel":"{channel}","from":"{from}","timestamp":"2025-11-30T12:00:00Z","payload":{payload},"metadata":{{{metadata}}}}}"#
        )
    }

    fn publish(&mut self, client: usize) {
        let (mut room, mut channel) = self.known_address(client);
        let mut id = self.message_id(client);
        let Some(conn) = &self.clients[client].conn else { return };
        let from = conn.client_id.clone();
        let again = self.clients[client].recent.iter().filter(|(sender, ..)| *sender == from);
        let again: Vec<_> = again.cloned().collect();
        // What was kept and is not known yet is what a repeat must be held against.
        let is_late = self.world.storage.as_ref().is_some_and(Storage::is_late);
        let seldom = if is_late { 2 } else { 8 };
        let is_again = !again.is_empty() && self.rng.u8(..seldom) == 0;
        if is_again {
            (_, id, room, channel) = again[self.rng.usize(..again.len())].clone();
        }
        let nonce = self.model.publishes.len();
        let text_max = self.world.setup.limits.max_message_bytes as usize - 600;
        let pad = match self.rng.u8(..20) {
            0 => self.rng.usize(..text_max),
            1..4 => self.rng.usize(..2_000.min(text_max)),
            _ => self.rng.usize(..60),
        };
        let payload = format!(r#"{{"n":{nonce},"pad":"{}"}}"#, "x".repeat(pad));
        let has_ack = self.rng.u32(..100) < self.world.setup.acks;
        let has_trace = !is_again && self.rng.u8(..10) == 0;
        let ttl_ms = (self.rng.u8(..8) == 0).then(|| self.rng.u64(1..300));
        let mut metadata = vec![format!(r#""ack":{has_ack}"#)];
        metadata.extend(has_trace.then(|| r#""trace":true"#.to_owned()));
        metadata.extend(ttl_ms.map(|ms| format!(r#""ttl_ms":{ms}"#)));
        let metadata = metadata.join(",");
        let text = self.envelope(client, ("event", &id), (&room, &channel), &payload, &metadata);
        let address = (room.clone(), channel.clone());
        if ttl_ms.is_some() {
            self.model.with_ttl.insert(address.clone());
        }
        let anywhere = self.world.setup.publish_anywhere;
        let Some(conn) = &mut self.clients[client].conn else { return };
        let may_anywhere = if conn.is_admin { anywhere.admin } else { anywhere.user };
        let leave = conn.leaves.get(&address).cloned();
        let leave = leave.filter(|_| !may_anywhere && !conn.stars.contains(&room));
        self.model.publishes.push(Publish {
            conn: conn.number,
            payload,
            is_joined: conn.is_surely_member(&room, &channel),
            from: from.clone(),
            is_admins: conn.is_admin,
            id: id.clone(),
            room: room.clone(),
            channel: channel.clone(),
            has_ttl: ttl_ms.is_some(),
            place: None,
            is_refused: false,
            is_duplicate: false,
            is_lost: false,
            after_leave: leave,
        });
        conn.ask(&id, What::Events(vec![nonce]), has_ack || has_trace);
        if !has_trace {
            let recent = &mut self.clients[client].recent;
            recent.push((from, id, room, channel));
            if recent.len() > 8 {
                recent.remove(0);
            }
        }
        self.say(client, &text);
    }

    fn command(
        &mut self,
        client: usize,
        command: &str,
        (room, channel): (&str, &str),
        parameters: &str,
        what: What,
    ) {
        let id = self.message_id(client);
        let format = if self.rng.u8(..4) == 0 { r#","response_format":"brief""# } else { "" };
        let payload = format!(r#"{{"command":"{command}","parameters":{parameters}{format}}}"#);
        let text = self.envelope(client, ("command", &id), (room, channel), &payload, "");
        let Some(conn) = &mut self.clients[client].conn else { return };
        match &what {
            What::Join { room, channel, .. } => {
                let star = (room.clone(), "*".to_owned());
                conn.leaves.remove(&star);
                if channel == "*" {
                    conn.stars.insert(room.clone());
                    conn.leaves.retain(|(other, _), _| other != room);
                }
                conn.leaves.remove(&(room.clone(), channel.clone()));
            }
            What::Leave { room, channel } => {
                conn.leaves.insert((room.clone(), channel.clone()), id.clone());
            }
            _ => {}
        }
        conn.ask(&id, what, true);
        self.say(client, &text);
    }

    fn join(&mut self, client: usize) {
        let (mut room, mut channel) = self.some_address();
        let memory: Vec<_> = self.clients[client].memory.keys().cloned().collect();
        if !memory.is_empty() && self.rng.bool() {
            (room, channel) = memory[self.rng.usize(..memory.len())].clone();
        }
        let (echo, presence) = (self.rng.u8(..3) == 0, self.rng.u8(..3) == 0);
        let memory = self.clients[client].memory.get(&(room.clone(), channel.clone()));
        let mut recover = memory.cloned().filter(|_| channel != "*");
        if let Some((epoch, sequence)) = &mut recover {
            match self.rng.u8(..10) {
                0 => *sequence += 1,
                1 => *epoch = "another".to_owned(),
                2 => *sequence = 0,
                3 => recover = None,
                _ => {}
            }
        }
        let mut parameters = json!({"echo": echo, "presence": presence});
        if let Some((epoch, sequence)) = &recover {
            parameters["recover"] = json!({"epoch": epoch, "sequence": sequence});
        }
        let options = Options { echo, presence };
        let what = What::Join { room: room.clone(), channel: channel.clone(), options, recover };
        self.command(client, "join_channel", (&room, &channel), &parameters.to_string(), what);
    }

    fn leave(&mut self, client: usize) {
        let (room, channel) = self.known_address(client);
        let what = What::Leave { room: room.clone(), channel: channel.clone() };
        self.command(client, "leave_channel", (&room, &channel), "{}", what);
    }

    fn private(&mut self, client: usize) {
        let (room, _) = self.known_address(client);
        let id = self.message_id(client);
        let mut targets = vec![format!("c{}", self.rng.usize(..self.clients.len()))];
        if self.rng.u8(..4) == 0 {
            targets.push(format!("c{}", self.rng.usize(..self.clients.len() + 2)));
            targets.dedup();
        }
        let nonce = self.model.privates.len();
        let has_ack = self.rng.bool();
        let has_ttl = self.rng.u8(..8) == 0;
        let payload = json!({"target": targets, "p": nonce}).to_string();
        let ttl = if has_ttl { r#","ttl_ms":20"# } else { "" };
        let metadata = format!(r#""ack":{has_ack}{ttl}"#);
        let text = self.envelope(client, ("private", &id), (&room, "pm"), &payload, &metadata);
        let Some(conn) = &mut self.clients[client].conn else { return };
        self.model.privates.push(Private {
            conn: conn.number,
            targets,
            has_ttl,
            sent_at: self.step as u64,
            is_delivered: false,
            heard_by: Default::default(),
        });
        conn.ask(&id, What::Private(nonce), has_ack);
        self.say(client, &text);
    }

    fn history(&mut self, client: usize) {
        let (room, channel) = self.known_address(client);
        let limit = self.rng.u64(1..30);
        let mut parameters = json!({"limit": limit});
        let is_whole = self.rng.u8(..3) > 0;
        if !is_whole {
            match self.rng.u8(..3) {
                0 => parameters["after"] = json!(self.rng.u64(..20)),
                1 => parameters["before"] = json!(self.rng.u64(..20)),
                _ => parameters["since"] = json!("2025-11-24T16:00:01Z"),
            }
        }
        if self.rng.bool() {
            parameters["order"] = json!("desc");
        }
        let what = What::History { room: room.clone(), channel: channel.clone(), limit, is_whole };
        self.command(client, "history", (&room, &channel), &parameters.to_string(), what);
    }

    fn question(&mut self, client: usize) {
        let (room, channel) = self.some_address();
        let address = (room.as_str(), channel.as_str());
        let list = What::List { room: room.clone() };
        match self.rng.u8(..8) {
            0 => self.command(client, "status", address, "{}", What::Command),
            1 => self.command(client, "list_rooms", address, "{}", What::Rooms),
            2 => self.command(client, "list_clients", address, "{}", What::Command),
            3 => self.command(client, "channel_info", address, "{}", What::Command),
            4 => self.command(client, "list_channels", address, "{}", list),
            5 => self.command(client, "help", address, "{}", What::Command),
            6 => {
                if let Some(conn) = &mut self.clients[client].conn {
                    conn.peer.ping();
                }
            }
            _ => self.command(client, "ping", address, "{}", What::Command),
        }
    }

    fn administer(&mut self, client: usize) {
        let (room, channel) = self.some_address();
        let address = (room.as_str(), channel.as_str());
        let command = pick(
            &mut self.rng,
            &[
                "create_channel",
                "create_channel",
                "delete_channel",
                "create_room",
                "delete_room",
                "pause_room",
                "resume_room",
                "resume_room",
                "announce",
                "disconnect_client",
            ],
        );
        let parameters = match command {
            "create_channel" if room == VAULT => {
                if let Some(conn) = &self.clients[client].conn
                    && conn.is_admin
                {
                    let creators = self.model.creators.entry(channel.clone()).or_default();
                    creators.insert(conn.client_id.clone());
                }
                json!({"type": "private", "metadata": {"members": guests(&channel)}})
            }
            "create_room" if room == LAX_ROOM && self.model.ledger.is_some() => {
                match self.rng.u8(..3) {
                    0 => json!({"config": {"persist": "none"}}),
                    1 => json!({"config": {"ack_when": "accepted"}}),
                    _ => json!({}),
                }
            }
            "create_room" => {
                let mut config = match self.rng.u8(..3) {
                    0 => json!({"history_size": 2, "member_limit": 2}),
                    1 => json!({"publishers": ["c0", "c1"]}),
                    _ => json!({}),
                };
                let habits = self.world.setup.storage.as_ref();
                if habits.is_some_and(|habits| habits.durability.persist == Persist::None)
                    && room != "r0"
                {
                    // It alone says that it is kept.
                    config["persist"] = json!(if room == "r1" { "all" } else { "history" });
                }
                match config == json!({}) {
                    true => config,
                    false => json!({"config": config}),
                }
            }
            "announce" => json!({"message": "hear, hear"}),
            "disconnect_client" => {
                json!({"client_id": format!("c{}", self.rng.usize(..self.clients.len()))})
            }
            _ => json!({}),
        };
        match command {
            "create_room" => {
                self.model.history_min = self.model.history_min.min(2);
                if room == LAX_ROOM {
                    self.model.lax_rooms.insert(room.clone());
                }
            }
            "pause_room" => {
                self.model.paused.insert(room.clone());
            }
            _ => {}
        }
        self.command(client, command, address, &parameters.to_string(), What::Command);
    }

    fn telemetry(&mut self, client: usize) {
        let (room, id) = (pick(&mut self.rng, &ROOMS), self.message_id(client));
        let has_ack = self.rng.bool();
        let payload = r#"{"eventType":"cpu","payload":{"percent":7}}"#;
        let metadata = format!(r#""ack":{has_ack}"#);
        let text = self.envelope(client, ("telemetry", &id), (room, "cpu"), payload, &metadata);
        if let Some(conn) = &mut self.clients[client].conn {
            conn.ask(&id, What::Telemetry, has_ack);
        }
        self.say(client, &text);
    }

    fn malformed(&mut self, client: usize) {
        let id = self.message_id(client);
        let Some(conn) = &mut self.clients[client].conn else { return };
        let how = self.rng.u8(..9);
        if how < 3 {
            conn.is_doomed |= conn.peer.misbehave(self.rng.u8(..));
            self.note(format_args!("client {client} misbehaves"));
            return;
        }
        let (kind, address, payload, metadata) = match how {
            3 => {
                conn.unreadable += 1;
                return self.say(client, "{\"version\":");
            }
            4 => {
                conn.is_doomed = true;
                let oversize = self.world.setup.limits.max_message_bytes as usize + 1;
                return self.say(client, &"x".repeat(oversize));
            }
            5 => ("event", ("science", "not a name"), "{}", ""),
            6 => ("system", ("science", "general"), "{}", ""),
            7 => ("event", ("science", "general"), "{}", r#""sequence":7"#),
            _ => ("command", ("science", "general"), r#"{"command":"pong"}"#, ""),
        };
        conn.ask(&id, What::Malformed, true);
        let text = self.envelope(client, (kind, &id), address, payload, metadata);
        self.say(client, &text);
    }

    fn identify(&mut self, client: usize) {
        let (room, channel) = self.some_address();
        let Some(conn) = &mut self.clients[client].conn else { return };
        if !conn.asked.is_empty() {
            return;
        }
        let id = (self.rng.bool()).then(|| format!("d{client}"));
        let mut parameters = json!({"join": [format!("{room}:{channel}")]});
        if let Some(id) = &id {
            parameters["client_id"] = json!(id);
        }
        if channel == "*" {
            conn.stars.insert(room.clone());
        }
        // Until it is answered, the client can't say who it is.
        let what = What::Identify { id };
        self.command(client, "identify", ("*", "*"), &parameters.to_string(), what);
    }

    fn part(&mut self, client: usize) {
        self.note(format_args!("client {client} says goodbye"));
        if let Some(conn) = &mut self.clients[client].conn {
            conn.peer.close();
            conn.is_doomed = true;
        }
    }
}
