//! One engine with one shard, driven turn by turn over plain bytes.

use super::*;
use crate::base::limits::CLOSE_LINGER_MS;
use crate::base::time::Now;
use crate::broker::policy::{Access, PublishAnywhere, Role, Roles};
use crate::protocol::origin::Origins;
use serde_json::{Value, json};
use std::time::Duration;

struct Bus {
    engine: Engine,
    now: Now,
}

/// A client whose socket takes everything.
struct Client {
    conn: ConnId,
    id: &'static str,
    sent: u32,
}

impl Bus {
    fn new(limits: Limits) -> Bus {
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
            placement: Placement::new(1, 1),
            limits: Arc::new(limits),
            facts: Arc::new(facts),
            access: Access { origins: Origins::loopback(), roles: Roles::Everybody(Role::Admin) },
            rooms: Arc::new(Vec::new()),
            on_node: NodeQuotas::default(),
            seed: 1,
        };
        Bus { engine: Engine::new(plan, now), now }
    }

    /// Runs turns until nothing is left to do; what every connection was sent, in order.
    fn settle(&mut self) -> Vec<(ConnId, Vec<u8>)> {
        let (mut written, mut dirty, mut resumed) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            self.now = self.now.after(Duration::from_millis(1));
            self.engine.resume(self.now, &mut resumed);
            self.engine.tick(self.now);
            self.engine.run_own_lane(self.now);
            while self.engine.take_dirty(&mut dirty) {
                for conn in dirty.drain(..) {
                    loop {
                        let bytes = self.engine.output(self.now, conn).to_vec();
                        if bytes.is_empty() {
                            self.engine.wrote_nothing(conn);
                            break;
                        }
                        let count = bytes.len();
                        written.push((conn, bytes));
                        if !self.engine.wrote(self.now, conn, count, false) {
                            break;
                        }
                    }
                }
            }
            self.engine.end_turn(self.now);
            self.engine.unblock();
            self.engine.check();
            if !self.engine.has_work() {
                return written;
            }
        }
    }

    fn connect(&mut self, id: &'static str) -> Client {
        let conn = self.engine.open(self.now, None, None);
        let mut hello = format!(
            "GET /?client_id={id} HTTP/1.1\r\nHost: b\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        .into_bytes();
        self.engine.receive(self.now, conn, &mut hello);
        self.settle();
        Client { conn, id, sent: 0 }
    }

    /// Sends all messages in one piece; the texts that come back.
    fn exchange(&mut self, client: &mut Client, messages: &[(&str, &str, Value)]) -> Vec<Value> {
        let mut bytes = Vec::new();
        for (kind, channel, payload) in messages {
            client.sent += 1;
            let text = json!({
                "version": "1.0", "id": format!("arq_{}", client.sent), "type": kind,
                "room": "r", "channel": channel, "from": client.id,
                "timestamp": "2025-11-24T16:00:00Z", "payload": payload,
            })
            .to_string();
            bytes.push(0x81);
            match text.len() {
                length @ 0..=125 => bytes.push(0x80 | length as u8),
                length => {
                    bytes.push(0xfe);
                    bytes.extend((length as u16).to_be_bytes());
                }
            }
            bytes.extend([0; 4]);
            bytes.extend(text.as_bytes());
        }
        self.engine.receive(self.now, client.conn, &mut bytes);
        let written = self.settle();
        let own = written.into_iter().filter(|(conn, _)| *conn == client.conn);
        texts(&own.flat_map(|(_, bytes)| bytes).collect::<Vec<u8>>())
    }
}

fn texts(mut bytes: &[u8]) -> Vec<Value> {
    let mut texts = Vec::new();
    while let [first, length, rest @ ..] = bytes {
        assert_eq!(*first, 0x81, "only text is expected, not a close");
        let (length, rest) = match length {
            126 => (u16::from_be_bytes([rest[0], rest[1]]) as usize, &rest[2..]),
            127 => (u64::from_be_bytes(rest[..8].try_into().unwrap()) as usize, &rest[8..]),
            length => (usize::from(*length), rest),
        };
        texts.push(serde_json::from_slice(&rest[..length]).unwrap());
        bytes = &rest[length..];
    }
    texts
}

fn command(name: &str, parameters: Value) -> Value {
    json!({"command": name, "parameters": parameters})
}

#[test]
fn a_client_that_recovers_many_channels_at_once_gets_them_all() {
    let limits = Limits { max_message_bytes: 16_384, outbox_bytes: 100_000, ..Limits::default() };
    let mut bus = Bus::new(limits);
    let mut ann = bus.connect("ann");
    let names: Vec<String> = (0..20).map(|n| format!("c{n}")).collect();
    let mut recoveries = Vec::new();
    for name in &names {
        let joined =
            bus.exchange(&mut ann, &[("command", name, command("join_channel", json!({})))]);
        let epoch = &joined[0]["payload"]["result"]["epoch"];
        let recover = json!({"recover": {"epoch": epoch, "sequence": 0}});
        recoveries.push(("command", name.as_str(), command("join_channel", recover)));
        let event = || ("event", name.as_str(), json!({"b": "x".repeat(10_000)}));
        bus.exchange(&mut ann, &[event(), event(), event(), event()]);
    }
    let mut bob = bus.connect("bob");
    let got = bus.exchange(&mut bob, &recoveries);
    let is_event = |text: &&Value| text["type"] == "event";
    assert_eq!(got.iter().filter(is_event).count(), 4 * names.len());
    assert_eq!(got.len(), 5 * names.len(), "every join is answered, and nothing else is said");
    // Each answer comes before what it promises, and all of it before the next answer.
    for (chunk, name) in got.chunks(5).zip(&names) {
        assert_eq!(chunk[0]["payload"]["result"]["missed"], 4);
        assert!(chunk.iter().all(|text| text["channel"] == name.as_str()));
    }
}

#[test]
fn long_answers_come_one_at_a_time_and_short_ones_in_their_order() {
    let limits = Limits { max_message_bytes: 16_384, outbox_bytes: 100_000, ..Limits::default() };
    let mut bus = Bus::new(limits);
    let mut ann = bus.connect("ann");
    bus.exchange(&mut ann, &[("command", "c", command("join_channel", json!({})))]);
    for _ in 0..5 {
        bus.exchange(&mut ann, &[("event", "c", json!({"b": "x".repeat(10_000)}))]);
    }
    let one = [
        ("command", "c", command("history", json!({}))),
        ("command", "c", command("ping", json!({}))),
    ];
    let many: Vec<_> = std::iter::repeat_n(one, 50).flatten().collect();
    let got = bus.exchange(&mut ann, &many);
    assert_eq!(got.len(), 100);
    let sent = |text: &Value| text["payload"]["request_id"].as_str().unwrap()[4..].to_owned();
    let mut numbers: Vec<u32> = got.iter().map(|text| sent(text).parse().unwrap()).collect();
    assert!(got.iter().all(|text| text["payload"]["status"] == "success"));
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 100, "every question has its answer");
}

#[test]
fn an_answer_that_no_outbox_holds_is_refused_and_costs_no_connection() {
    let limits = Limits { max_message_bytes: 16_384, outbox_bytes: 70_000, ..Limits::default() };
    let mut bus = Bus::new(limits);
    let mut ann = bus.connect("ann");
    let names: Vec<String> = (0..900).map(|n| format!("c{n}")).collect();
    let join = |name| ("command", name, command("join_channel", json!({})));
    for part in names.chunks(50) {
        let joins: Vec<_> = part.iter().map(|name| join(name.as_str())).collect();
        bus.exchange(&mut ann, &joins);
    }
    let list = ("command", "c", command("list_channels", json!({})));
    let mut brief = list.clone();
    brief.2["response_format"] = json!("brief");
    let got = bus.exchange(&mut ann, &[list, brief]);
    assert_eq!((&got[0]["payload"]["code"], got.len()), (&json!(413), 2));
    assert_eq!(got[1]["payload"]["result"]["count"], names.len());
}

#[test]
fn what_is_sent_behind_a_leave_comes_from_no_member() {
    let mut bus = Bus::new(Limits::default());
    let join = |channel, parameters| ("command", channel, command("join_channel", parameters));
    let leave = |channel| ("command", channel, command("leave_channel", json!({})));
    let event = |channel| ("event", channel, json!({}));
    // What is joined, what is left, and what may still be sent to `c`, to `d` and to `*`.
    let table: [(&[&str], &[&str], [bool; 3]); 8] = [
        (&["c"], &["c"], [false, false, false]),
        (&["*"], &["*"], [false, false, false]),
        (&["*"], &[], [true, true, true]),
        (&["c", "*"], &["*"], [true, false, true]),
        (&["c", "*"], &["c"], [true, true, true]),
        (&["c", "*"], &["c", "*"], [false, false, false]),
        (&["c", "*"], &["*", "c"], [false, false, false]),
        (&["c", "d"], &["c"], [false, true, true]),
    ];
    for (round, (joined, left, may)) in table.into_iter().enumerate() {
        let mut ann = bus.connect(["a", "b", "c", "d", "e", "f", "g", "h"][round]);
        let mut keeper = bus.connect(["k0", "k1", "k2", "k3", "k4", "k5", "k6", "k7"][round]);
        bus.exchange(&mut keeper, &[join("c", json!({})), join("d", json!({}))]);
        let joins: Vec<_> = joined.iter().map(|&channel| join(channel, json!({}))).collect();
        bus.exchange(&mut ann, &joins);
        let mut messages: Vec<_> = left.iter().map(|&channel| leave(channel)).collect();
        messages.extend(["c", "d", "*"].map(event));
        let got = bus.exchange(&mut ann, &messages);
        let refused = |channel: &str| {
            got.iter()
                .any(|text| text["payload"]["error"] == "NOT_JOINED" && text["channel"] == channel)
        };
        assert_eq!(["c", "d", "*"].map(|channel| !refused(channel)), may, "{joined:?} {left:?}");
        let answers = got.iter().filter(|text| text["payload"]["status"] == "success");
        assert_eq!(answers.count(), left.len(), "{joined:?} {left:?}");
    }
}

#[test]
fn who_comes_behind_a_drain_is_not_waited_for() {
    for window_ms in [6_000, 200] {
        let mut bus = Bus::new(Limits { handshake_timeout_ms: 60_000, ..Limits::default() });
        let mut drain = Some(Ask::Drain { window_ms });
        bus.engine.take_asks(bus.now, 1, || drain.take());
        // It was accepted before, but its shard hears of it only now, and it says nothing.
        bus.engine.open(bus.now, None, None);
        bus.settle();
        assert_eq!(bus.engine.connection_count(), 1, "it still may shake hands");
        bus.now = bus.now.after(Duration::from_millis(CLOSE_LINGER_MS.min(window_ms) + 10));
        bus.settle();
        assert_eq!(bus.engine.connection_count(), 0, "{window_ms}");
    }
}
