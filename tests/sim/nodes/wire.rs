//! Clients' ends: connecting, bytes to and from a node, and what is made of them.

use crate::conn::Stage;
use crate::nodes::Nodes;
use crate::nodes::client::{Judge, Link};
use crate::peer::{Heard, Peer};
use crate::violation;
use std::collections::BTreeMap;

impl Nodes {
    /// A client connects anew, to some node.
    pub(super) fn connect(&mut self, client: usize) {
        let node = self.rng.usize(..self.nodes.len());
        if self.nodes[node].world.is_none() {
            return;
        }
        let shard = self.rng.usize(..usize::from(self.plan.setup.shards));
        let mut query = Vec::new();
        let token = self.clients[client].token.clone().filter(|_| self.rng.u8(..4) > 0);
        let returns = token.is_some();
        let wanted = match (token, self.rng.u8(..8)) {
            (Some((token, id)), _) => {
                query.push(format!("session={token}"));
                Some(id)
            }
            (None, 0) => Some(format!("c{}", self.rng.usize(..self.clients.len()))),
            (None, _) => Some(format!("c{client}")),
        };
        if !returns {
            query.extend(wanted.as_ref().map(|id| format!("client_id={id}")));
        }
        if self.rng.u8(..3) == 0 {
            let (room, channel) = self.some_address();
            query.push(format!("join={room}:{channel}"));
        }
        let query = format!("?{}", query.join("&"));
        let Some(world) = &mut self.nodes[node].world else { return };
        let number = world.connect(shard, None);
        self.links += 1;
        let (key, hub) = (self.links, self.nodes[node].hub);
        self.note(format_args!("client {client} connects to node {node} as link {key}: {query}"));
        self.clients[client].link = Some(Link {
            key,
            node,
            hub,
            number,
            peer: Peer::connect(&mut self.rng, &query),
            stage: Stage::Shaking,
            wanted,
            returns,
            client_id: String::new(),
            is_admin: false,
            out: Vec::new(),
            deaf_until: 0,
            is_doomed: false,
            asked: BTreeMap::new(),
            stays: BTreeMap::new(),
            unordered_lost: 0,
            infos: BTreeMap::new(),
            listed: None,
        });
    }

    pub(super) fn send_some_bytes(&mut self) {
        let client = self.rng.usize(..self.clients.len());
        let is_all = self.rng.bool();
        let Some(link) = &mut self.clients[client].link else { return };
        link.out.extend(link.peer.take_out());
        if link.out.is_empty() {
            return;
        }
        let count = if is_all { link.out.len() } else { self.rng.usize(1..=link.out.len()) };
        let bytes: Vec<u8> = link.out.drain(..count).collect();
        let (node, number) = (link.node, link.number);
        self.note(format_args!("client {client} sends {count} bytes"));
        if let Some(world) = &mut self.nodes[node].world {
            world.send(number, &bytes);
        }
    }

    pub(super) fn read_some_bytes(&mut self) {
        let client = self.rng.usize(..self.clients.len());
        let Some(link) = &self.clients[client].link else { return };
        if link.deaf_until > self.step {
            return;
        }
        let Some(world) = &self.nodes[link.node].world else { return };
        let waiting = world.pipes[link.number].down.len();
        let count = if self.rng.bool() { waiting } else { self.rng.usize(..=waiting) };
        self.read(client, count);
    }

    /// A client sends and reads everything; false if there was nothing.
    pub(super) fn flush(&mut self, client: usize) -> bool {
        let Some(link) = &mut self.clients[client].link else { return false };
        link.out.extend(link.peer.take_out());
        let (bytes, node, number) = (std::mem::take(&mut link.out), link.node, link.number);
        let Some(world) = &mut self.nodes[node].world else { return false };
        if !bytes.is_empty() {
            world.send(number, &bytes);
        }
        let pipe = &world.pipes[number];
        let has_news = !pipe.down.is_empty() || pipe.is_closed;
        if has_news {
            self.read(client, usize::MAX);
        }
        has_news || !bytes.is_empty()
    }

    /// A client reads up to `count` bytes, and learns of the end of its connection.
    pub(super) fn read(&mut self, client: usize, count: usize) {
        let Some(link) = &mut self.clients[client].link else { return };
        let (node, number) = (link.node, link.number);
        let Some(world) = &mut self.nodes[node].world else { return };
        let bytes = world.recv(number, count);
        let mut heard = Vec::new();
        if !bytes.is_empty() {
            link.peer.hear(&bytes, &mut heard);
        }
        let read = bytes.len();
        for heard in heard {
            self.hear(client, heard);
        }
        if read > 0 {
            self.note(format_args!("client {client} has read {read} bytes"));
        }
        let Some(world) = &self.nodes[node].world else { return };
        let pipe = &world.pipes[number];
        if pipe.is_closed && pipe.down.is_empty() {
            self.note(format_args!("client {client} is disconnected"));
            self.disconnected(client);
        }
    }

    fn hear(&mut self, client: usize, heard: Heard) {
        match heard {
            Heard::Accepted => {
                if let Some(link) = &mut self.clients[client].link {
                    link.stage = Stage::Shaken;
                }
            }
            Heard::Refused(status) => self.refused(client, status),
            Heard::Text(text) => {
                self.note(format_args!("client {client} hears {text}"));
                self.texts += 1;
                self.judge(client, |link, judge| link.hear(judge, &text));
                self.note_token(client, &text);
            }
            Heard::Close(code, reason) => {
                self.note(format_args!("client {client} is closed: {code} {reason}"));
                self.see(&format!("closed {code}"));
                let Some(link) = &mut self.clients[client].link else { return };
                if self.is_calm && !link.is_doomed {
                    violation!("calm", "client {client} was closed: {code} {reason}");
                }
                (link.is_doomed, link.stage) = (true, Stage::Over);
            }
            Heard::Broken(why) => violation!("sound frames", "client {client} got {why}"),
            Heard::Ping | Heard::Pong => {}
        }
    }

    fn refused(&mut self, client: usize, status: u16) {
        self.note(format_args!("client {client} is refused with {status}"));
        self.see(&format!("refused {status}"));
        let Some(link) = &mut self.clients[client].link else { return };
        link.stage = Stage::Over;
        let may_be = match status {
            409 => true,
            // Nobody knows the session, or it can't be read now.
            400..500 => link.returns,
            503 => link.returns || link.is_doomed,
            _ => false,
        };
        if !may_be {
            violation!("refusals", "client {client} was refused with {status}");
        }
        // It begins anew.
        self.clients[client].token = None;
    }

    /// A client learns by what it may return.
    fn note_token(&mut self, client: usize, text: &str) {
        if !text.contains(r#""token":""#) {
            return;
        }
        let Ok(message) = serde_json::from_str::<serde_json::Value>(text) else { return };
        let token = message["payload"]["session"]["token"].as_str().map(str::to_owned);
        let id = message["payload"]["client_id"].as_str().map(str::to_owned);
        self.clients[client].token = token.zip(id);
    }

    /// Has a client judge something.
    pub(super) fn judge(&mut self, client: usize, work: impl FnOnce(&mut Link, &mut Judge<'_>)) {
        let Nodes { clients, nodes, shared, sent, seen, is_calm, plan, .. } = self;
        let Some(link) = &mut clients[client].link else { return };
        let limits = &plan.setup.limits;
        let mut judge = Judge {
            shared,
            sent,
            seen,
            is_shaky: nodes[link.node].is_shaky,
            is_calm: *is_calm,
            history_size: u64::from(limits.history_size),
            has_small_outbox: limits.outbox_bytes < 1 << 20,
        };
        work(link, &mut judge);
    }

    /// A connection is over for the client.
    pub(super) fn disconnected(&mut self, client: usize) {
        let is_calm = self.is_calm;
        self.judge(client, |link, judge| {
            if is_calm && !link.is_doomed && link.stage != Stage::Over {
                violation!("calm", "client {client} lost link {}", link.key);
            }
            judge.is_calm = false;
            link.check_stays(judge);
        });
        let Some(link) = self.clients[client].link.take() else { return };
        let memory: Vec<_> = link.memories().collect();
        self.clients[client].memory.extend(memory);
    }
}
