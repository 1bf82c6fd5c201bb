//! What clients on a bus of several nodes do.

use crate::conn::{Options, Stage};
use crate::nodes::Nodes;
use crate::nodes::client::{Link, What};
use crate::nodes::plan::ADDRESSES;
use crate::nodes::truth::{Address, Event, Private};
use serde_json::json;

impl Nodes {
    /// A client does something.
    pub(super) fn act(&mut self, client: usize) {
        let Some(link) = &self.clients[client].link else {
            return self.connect(client);
        };
        if link.stage != Stage::Live || link.is_doomed {
            return;
        }
        if self.rng.u32(..1_000) < self.plan.setup.faults {
            return self.misbehave(client);
        }
        let is_nowhere = self.clients[client].link.as_ref().is_some_and(|it| it.stays.is_empty());
        let times = match self.plan.setup.has_floods && self.rng.u8(..10) == 0 {
            true => self.rng.usize(5..40),
            false => 1,
        };
        match self.rng.u8(..100) {
            kind if is_nowhere && kind < 60 => self.join_some(client),
            0..55 => (0..times).for_each(|_| self.publish_some(client)),
            55..68 => self.join_some(client),
            68..74 => self.leave_some(client),
            74..82 => self.private_some(client),
            82..88 => self.ask_some(client),
            88..93 => self.administer(client),
            _ => self.part(client),
        }
    }

    pub(super) fn some_address(&mut self) -> Address {
        let (room, channel) = ADDRESSES[self.rng.usize(..self.plan.channels)];
        (room.to_owned(), channel.to_owned())
    }

    fn joined_address(&mut self, client: usize) -> Option<Address> {
        let link = self.clients[client].link.as_ref()?;
        let joined: Vec<Address> = link.stays.keys().cloned().collect();
        self.rng.choice(joined)
    }

    fn message_id(&mut self, client: usize) -> String {
        self.clients[client].said += 1;
        format!("arq_{client}-{}", self.clients[client].said)
    }

    fn say(
        &mut self,
        client: usize,
        (kind, id): (&str, &str),
        (room, channel): (&str, &str),
        (payload, metadata): (&str, &str),
    ) {
        let Some(link) = &mut self.clients[client].link else { return };
        let from = &link.client_id;
        let text = format!(
            r#"{{"version":"1.0","id":"{id}","type":"{kind}","room":"{room}","channel":"{channel}","from":"{from}","timestamp":"2025-11-30T12:00:00Z","payload":{payload},"metadata":{{{metadata}}}}}"#
        );
        link.peer.say(&text);
        self.note(format_args!("client {client} says {text}"));
    }

    pub(super) fn command(
        &mut self,
        client: usize,
        command: &str,
        (room, channel): (&str, &str),
        parameters: &str,
        what: What,
    ) {
        let id = self.message_id(client);
        let payload = format!(r#"{{"command":"{command}","parameters":{parameters}}}"#);
        let Some(link) = &mut self.clients[client].link else { return };
        link.ask(&id, what, true);
        self.say(client, ("command", &id), (room, channel), (&payload, ""));
    }

    fn publish_some(&mut self, client: usize) {
        let Some(mut address) = self.joined_address(client) else { return };
        let mut id = self.message_id(client);
        let Some(link) = &self.clients[client].link else { return };
        let from = link.client_id.clone();
        let again = self.clients[client].recent.iter().copied();
        let again = again.filter(|&event| self.sent.events[event].identity.0 == from);
        let again: Vec<usize> = again.collect();
        if !again.is_empty() && self.rng.u8(..8) == 0 {
            let event = &self.sent.events[again[self.rng.usize(..again.len())]];
            (id, address) = (event.identity.1.clone(), event.address.clone());
        }
        self.publish(client, &id, address);
    }

    pub(super) fn publish(&mut self, client: usize, id: &str, address: Address) {
        let Some(link) = &self.clients[client].link else { return };
        let (from, key) = (link.client_id.clone(), link.key);
        let number = self.sent.events.len();
        let pad = match self.rng.u8(..20) {
            0 => self.rng.usize(..20_000),
            _ => self.rng.usize(..100),
        };
        // A repeat is the same message: it may be the one that is taken.
        let known = self.sent.events.iter().find(|event| {
            event.identity == (from.clone(), id.to_owned()) && event.address == address
        });
        let payload = match known {
            Some(event) => event.payload.clone(),
            None => format!(r#"{{"n":{number},"pad":"{}"}}"#, "x".repeat(pad)),
        };
        // Whatever the clocks say, what lives for an hour is delivered.
        let ttl_ms = (known.is_none() && !self.is_calm && self.rng.u8(..8) == 0)
            .then(|| if self.rng.bool() { 200 } else { 3_600_000 });
        let has_ttl = ttl_ms == Some(200);
        let has_ack = self.is_calm || self.rng.u32(..100) < self.plan.setup.acks;
        let ttl = ttl_ms.map(|ms| format!(r#","ttl_ms":{ms}"#)).unwrap_or_default();
        let metadata = format!(r#""ack":{has_ack}{ttl}"#);
        self.sent.events.push(Event {
            identity: (from, id.to_owned()),
            address: address.clone(),
            link: key,
            payload: payload.clone(),
            has_ttl,
        });
        let recent = &mut self.clients[client].recent;
        recent.push(number);
        if recent.len() > 8 {
            recent.remove(0);
        }
        if let Some(link) = &mut self.clients[client].link {
            link.ask(id, What::Event(number), has_ack);
        }
        self.say(client, ("event", id), (&address.0, &address.1), (&payload, &metadata));
    }

    fn join_some(&mut self, client: usize) {
        let address = self.some_address();
        let Some(link) = &self.clients[client].link else { return };
        let is_asked = link
            .asked
            .values()
            .any(|asked| matches!(&asked.what, What::Join { .. } | What::Leave(_)));
        if link.stays.contains_key(&address) || is_asked {
            return;
        }
        let (echo, presence) = (self.rng.u8(..3) == 0, self.rng.u8(..3) == 0);
        self.join(client, &address, Options { echo, presence });
    }

    /// Joins, and goes on from where the client was.
    pub(super) fn join(&mut self, client: usize, address: &Address, options: Options) {
        let recover = self.clients[client].memory.remove(address);
        let Options { echo, presence } = options;
        let mut parameters = json!({"echo": echo, "presence": presence});
        if let Some(memory) = &recover {
            parameters["recover"] = json!({"epoch": memory.epoch, "sequence": memory.sequence});
        }
        let what = What::Join { options, recover };
        let at = (address.0.as_str(), address.1.as_str());
        self.command(client, "join_channel", at, &parameters.to_string(), what);
    }

    fn leave_some(&mut self, client: usize) {
        if let Some(address) = self.joined_address(client) {
            self.leave(client, &address);
        }
    }

    pub(super) fn leave(&mut self, client: usize, address: &Address) {
        let Some(link) = &mut self.clients[client].link else { return };
        let Some(stay) = link.stays.get_mut(address) else { return };
        if std::mem::replace(&mut stay.is_leaving, true) {
            return;
        }
        let at = (address.0.as_str(), address.1.as_str());
        self.command(client, "leave_channel", at, "{}", What::Leave(address.clone()));
    }

    fn private_some(&mut self, client: usize) {
        let target = format!("c{}", self.rng.usize(..self.clients.len()));
        self.private(client, target);
    }

    pub(super) fn private(&mut self, client: usize, target: String) {
        let Some((room, _)) = self.joined_address(client) else { return };
        let id = self.message_id(client);
        let Some(link) = &self.clients[client].link else { return };
        let (number, hub) = (self.sent.privates.len(), link.hub);
        let is_it =
            |link: &&Link| link.client_id == target && link.stage == Stage::Live && link.hub == hub;
        let mut links = self.clients.iter().filter_map(|client| client.link.as_ref());
        let link = links.find(is_it).map(|link| link.key);
        let payload = json!({"target": [target], "p": number}).to_string();
        let private = Private { target, hub, link, is_acked: false, heard_by: Vec::new() };
        self.sent.privates.push(private);
        if let Some(link) = &mut self.clients[client].link {
            link.ask(&id, What::Private(number), true);
        }
        self.say(client, ("private", &id), (&room, "pm"), (&payload, r#""ack":true"#));
    }

    fn ask_some(&mut self, client: usize) {
        let address = self.some_address();
        let at = (address.0.as_str(), address.1.as_str());
        match self.rng.u8(..5) {
            0 => self.command(client, "list_clients", at, "{}", What::Clients),
            1 => self.command(client, "status", at, "{}", What::Command),
            2 => self.command(client, "history", at, "{}", What::Command),
            _ => self.command(client, "channel_info", at, "{}", What::Info(address.clone())),
        }
    }

    fn administer(&mut self, client: usize) {
        let address = self.some_address();
        let commands =
            ["delete_channel", "delete_channel", "announce", "disconnect_client", "create_channel"];
        let command = commands[self.rng.usize(..commands.len())];
        let parameters = match command {
            "announce" => json!({"message": "hear, hear"}),
            "disconnect_client" => {
                let client = self.rng.usize(..self.clients.len());
                json!({"client_id": format!("c{client}")})
            }
            _ => json!({}),
        };
        let at = (address.0.as_str(), address.1.as_str());
        self.command(client, command, at, &parameters.to_string(), What::Command);
    }

    fn misbehave(&mut self, client: usize) {
        let until = self.step + self.rng.usize(10..200);
        let how = self.rng.u8(..4);
        let Some(link) = &mut self.clients[client].link else { return };
        let (node, number) = (link.node, link.number);
        if how == 0 {
            link.deaf_until = until;
            return self.note(format_args!("client {client} reads nothing until {until}"));
        }
        link.is_doomed = true;
        self.note(format_args!("client {client} breaks off"));
        let Some(world) = &mut self.nodes[node].world else { return };
        match how {
            1 => world.end(number),
            2 => {
                world.reset(number);
                self.disconnected(client);
            }
            // Half open: the server is told nothing, and nobody reads.
            _ => self.disconnected(client),
        }
    }

    fn part(&mut self, client: usize) {
        if self.rng.u8(..4) > 0 {
            return;
        }
        self.note(format_args!("client {client} says goodbye"));
        if let Some(link) = &mut self.clients[client].link {
            link.peer.close();
            link.is_doomed = true;
        }
    }
}
