//! Engines over plain bytes, and clients that do their worst.

use arqonbus::base::hash::Placement;
use arqonbus::base::ids::{ConnId, ShardId};
use arqonbus::base::limits::Limits;
use arqonbus::base::quota::NodeQuotas;
use arqonbus::base::time::Now;
use arqonbus::broker::edge::Facts;
use arqonbus::broker::policy::{Access, PublishAnywhere, Role, Roles};
use arqonbus::protocol::origin::Origins;
use arqonbus::shard::engine::{Engine, Plan};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// How many bytes are handed over at a time, as a socket would give them.
const READ_BYTES: usize = 16 * 1024;

/// One engine. Sockets take everything, or nothing.
pub(crate) struct Bus {
    pub(crate) engine: Engine,
    pub(crate) now: Now,
    turns: u64,
    /// The connections whose sockets take nothing.
    pub(crate) deaf: Vec<ConnId>,
    /// What the last settled turns wrote, to whom.
    pub(crate) written: Vec<(ConnId, Vec<u8>)>,
}

impl Bus {
    pub(crate) fn new(limits: Limits, shards: u16) -> Bus {
        let now = Now { mono_ns: 1_000_000_000, wall_us: 1_764_000_000_000_000 };
        let facts = Facts {
            node: "n".into(),
            version: "0",
            started_ns: 0,
            storage: "memory",
            publish_anywhere: PublishAnywhere::default(),
        };
        let plan = Plan {
            shard: ShardId(0),
            placement: Placement::new(shards, 1),
            limits: Arc::new(limits),
            facts: Arc::new(facts),
            access: Access { origins: Origins::loopback(), roles: Roles::Everybody(Role::Admin) },
            rooms: Arc::new(Vec::new()),
            on_node: NodeQuotas::default(),
            seed: 1,
        };
        let engine = Engine::new(plan, now);
        Bus { engine, now, turns: 0, deaf: Vec::new(), written: Vec::new() }
    }

    /// Runs turns until nothing is left to do.
    pub(crate) fn settle(&mut self) {
        self.written.clear();
        loop {
            self.turn();
            if !self.engine.has_work() {
                return;
            }
        }
    }

    pub(crate) fn turn(&mut self) {
        let (mut dirty, mut resumed) = (Vec::new(), Vec::new());
        self.now = self.now.after(Duration::from_millis(1));
        self.engine.resume(self.now, &mut resumed);
        self.engine.begin_reading();
        self.engine.tick(self.now);
        self.engine.run_own_lane(self.now);
        while self.engine.take_dirty(&mut dirty) {
            for conn in dirty.drain(..) {
                while self.write(conn) {}
            }
        }
        self.engine.end_turn(self.now);
        self.engine.unblock();
        self.engine.take_telemetry().for_each(drop);
        self.engine.take_closed();
        self.engine.take_half_closed();
        self.turns += 1;
        // It looks at everything there is.
        if self.turns.is_multiple_of(256) {
            self.engine.check();
        }
    }

    /// Lets a minute go by, in which every timer of what is gone runs out.
    pub(crate) fn pass_a_minute(&mut self) {
        self.now = self.now.after(Duration::from_secs(60));
        self.settle();
    }

    fn write(&mut self, conn: ConnId) -> bool {
        let bytes = self.engine.output(self.now, conn);
        if bytes.is_empty() {
            self.engine.wrote_nothing(conn);
            return false;
        }
        let is_deaf = self.deaf.contains(&conn);
        let count = if is_deaf { 0 } else { bytes.len() };
        if !is_deaf {
            self.written.push((conn, bytes.to_vec()));
        }
        self.engine.wrote(self.now, conn, count, is_deaf)
    }

    pub(crate) fn open(&mut self) -> ConnId {
        self.engine.open(self.now, None, None)
    }

    /// Hands over bytes as a socket would, as long as the connection is read; how many were.
    pub(crate) fn send(&mut self, conn: ConnId, bytes: &[u8]) -> usize {
        let mut sent = 0;
        for piece in bytes.chunks(READ_BYTES) {
            if !self.engine.wants_input(conn) {
                self.settle();
            }
            if !self.engine.wants_input(conn) {
                return sent;
            }
            self.engine.receive(self.now, conn, &mut piece.to_vec());
            sent += piece.len();
        }
        self.settle();
        sent
    }

    pub(crate) fn connect(&mut self, id: &str) -> ConnId {
        let conn = self.open();
        let hello = format!(
            "GET /?client_id={id} HTTP/1.1\r\nHost: b\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        self.send(conn, hello.as_bytes());
        conn
    }
}

/// A frame as a client sends it, masked with zeros.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..=125 => bytes.push(0x80 | length as u8),
        length @ 126..=65_535 => {
            bytes.push(0xfe);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0xff);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend_from_slice(payload);
    bytes
}

/// A message of a client, as a frame.
pub(crate) fn message(
    kind: &str,
    channel: &str,
    from: &str,
    number: u32,
    payload: &Value,
) -> Vec<u8> {
    let text = json!({
        "version": "1.0", "id": format!("arq_{number}"), "type": kind,
        "room": "r", "channel": channel, "from": from,
        "timestamp": "2025-11-24T16:00:00Z", "payload": payload,
    });
    frame(0x81, text.to_string().as_bytes())
}

pub(crate) fn command(name: &str, parameters: Value) -> Value {
    json!({"command": name, "parameters": parameters})
}
