//! One engine with one shard, driven turn by turn over plain bytes.

use super::*;
use crate::base::limits::CLOSE_LINGER_MS;
use crate::base::time::Now;
use crate::broker::policy::{Access, PublishAnywhere, Role, Roles};
use crate::protocol::frame::Frame;
use crate::protocol::names::Name;
use crate::protocol::origin::Origins;
use serde_json::{Value, json};
use std::time::Duration;

struct Bus {
    engine: Engine,
    now: Now,
    half_closed: Vec<ConnId>,
    /// The connections whose sockets take nothing.
    deaf: Vec<ConnId>,
}

/// A client whose socket takes everything.
struct Client {
    conn: ConnId,
    id: &'static str,
    sent: u32,
}

impl Bus {
    fn new(limits: Limits) -> Bus {
        Bus::with_shards(limits, 1)
    }

    /// The first of some shards; what it asks the others stays staged.
    fn with_shards(limits: Limits, shards: u16) -> Bus {
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
        Bus { engine: Engine::new(plan, now), now, half_closed: Vec::new(), deaf: Vec::new() }
    }

    /// Runs turns until nothing is left to do; what every connection was sent, in order.
    fn settle(&mut self) -> Vec<(ConnId, Vec<u8>)> {
        let mut written = self.turn();
        while self.engine.has_work() {
            written.extend(self.turn());
        }
        written
    }

    /// Runs one turn; what every connection was sent, in order.
    fn turn(&mut self) -> Vec<(ConnId, Vec<u8>)> {
        let (mut written, mut dirty, mut resumed) = (Vec::new(), Vec::new(), Vec::new());
        self.now = self.now.after(Duration::from_millis(1));
        self.engine.take_left_tells(self.now);
        self.engine.resume(self.now, &mut resumed);
        self.engine.begin_reading();
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
                    let is_deaf = self.deaf.contains(&conn);
                    let count = if is_deaf { 0 } else { bytes.len() };
                    if !is_deaf {
                        written.push((conn, bytes));
                    }
                    if !self.engine.wrote(self.now, conn, count, is_deaf) {
                        break;
                    }
                }
            }
        }
        self.engine.end_turn(self.now);
        self.engine.unblock();
        self.half_closed.extend(self.engine.take_half_closed());
        self.engine.check();
        written
    }

    /// Sends bytes that need not be messages.
    fn send(&mut self, client: &Client, bytes: &[u8]) {
        self.engine.receive(self.now, client.conn, &mut bytes.to_vec());
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
        let bytes = frames(client, messages);
        self.send(client, &bytes);
        let written = self.settle();
        let own = written.into_iter().filter(|(conn, _)| *conn == client.conn);
        texts(&own.flat_map(|(_, bytes)| bytes).collect::<Vec<u8>>())
    }
}

/// Messages of a client, as frames.
fn frames(client: &mut Client, messages: &[(&str, &str, Value)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, channel, payload) in messages {
        client.sent += 1;
        let text = json!({
            "version": "1.0", "id": format!("arq_{}", client.sent), "type": kind,
            "room": "r", "channel": channel, "from": client.id,
            "timestamp": "2025-11-24T16:00:00Z", "payload": payload,
            "metadata": {"ack": *kind == "event" && payload["ack"] == true},
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
    bytes
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
    let mut bus = Bus::new(Limits { rate_commands: 0, ..limits });
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
    let limits = Limits { max_message_bytes: 1_024, outbox_bytes: 6_000, ..Limits::default() };
    let mut bus = Bus::new(limits);
    let mut ann = bus.connect("ann");
    let help = ("command", "c", command("help", json!({})));
    let mut brief = help.clone();
    brief.2["response_format"] = json!("brief");
    let got = bus.exchange(&mut ann, &[help, brief]);
    assert_eq!((&got[0]["payload"]["code"], got.len()), (&json!(413), 2));
    assert_eq!(got[1]["payload"]["result"][0], "status");
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

#[test]
fn the_input_of_one_client_is_spread_over_turns_and_others_do_not_wait_for_it() {
    let mut bus = Bus::new(Limits::default());
    let (mut mallory, mut bob) = (bus.connect("mallory"), bus.connect("bob"));
    bus.exchange(&mut bob, &[("command", "c", command("join_channel", json!({})))]);
    // Some 300 KB of input at once: so much no driver reads of one socket in a turn.
    bus.exchange(&mut mallory, &[("command", "d", command("join_channel", json!({})))]);
    let many: Vec<_> = (0..2_000).map(|number| ("event", "d", json!({"n": number}))).collect();
    let bytes = frames(&mut mallory, &many);
    bus.send(&mallory, &bytes);
    assert!(!bus.engine.wants_input(mallory.conn), "the rest of it waits");
    let (asks, letters) = (Counter::Asks, Counter::MessagesSent);
    let mut handled = 0;
    let mut turns = 0;
    while bus.engine.has_work() {
        let before = (bus.engine.tally().counter(asks), bus.engine.tally().counter(letters));
        let own = frames(&mut bob, &[("event", "c", json!({"ack": true}))]);
        bus.send(&bob, &own);
        let written = bus.turn();
        let is_answered = written.iter().any(|(conn, _)| *conn == bob.conn);
        assert!(is_answered, "turn {turns}: a client with little to say has its answer at once");
        let after = (bus.engine.tally().counter(asks), bus.engine.tally().counter(letters));
        let bound = 2 * TURN_UNITS / work::ASK;
        assert!(after.0 - before.0 <= bound, "asks of one turn: {}", after.0 - before.0);
        assert!(after.1 - before.1 <= bound, "letters of one turn: {}", after.1 - before.1);
        handled += after.0 - before.0;
        turns += 1;
    }
    assert!(turns >= 3, "{turns} turns");
    assert!(handled >= 2_000, "all of it is handled: {handled}");
    assert!(bus.engine.tally().pauses(Pause::TurnSpent) > 0, "the pause is counted");
}

#[test]
fn who_comes_from_a_full_address_is_told_so_after_the_handshake() {
    let mut bus = Bus::new(Limits::default());
    let conn = bus.engine.open(bus.now, None, Some(CloseReason::AddressFull));
    let mut hello = b"GET / HTTP/1.1\r\nHost: b\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        .to_vec();
    bus.engine.receive(bus.now, conn, &mut hello);
    let sent: Vec<u8> = bus.settle().into_iter().flat_map(|(_, bytes)| bytes).collect();
    let text = String::from_utf8_lossy(&sent);
    assert!(text.starts_with("HTTP/1.1 101") && text.contains("address"), "{text}");
    let code = 1013_u16.to_be_bytes();
    assert!(sent.windows(2).any(|pair| pair == code), "{text}");
}

#[test]
fn nothing_goes_to_a_connection_whose_handshake_is_not_answered() {
    let mut bus = Bus::with_shards(Limits::default(), 2);
    // A client id whose home is the other shard, which never answers.
    let id = ["a", "b", "c", "d", "e", "f", "g", "h"]
        .into_iter()
        .find(|id| bus.engine.placement.of_client(&Name::fixed(id)) == ShardId(1))
        .unwrap();
    let client = bus.connect(id);
    let frame = Frame::of_text(&"x".repeat(1_000_000), 0);
    let mut tell = Some(Tell::Deliver(client.conn, frame));
    bus.engine.take_tells(bus.now, 1, || tell.take());
    assert!(bus.settle().is_empty(), "nothing is written");
    assert_eq!(bus.engine.tally().drops(DropReason::NotOpen), 1, "and that is counted");
    let mut claimed = Some(Tell::Claimed { conn: client.conn, granted: true, life: 0 });
    bus.engine.take_tells(bus.now, 1, || claimed.take());
    let written = bus.settle();
    let bytes: Vec<u8> = written.into_iter().flat_map(|(_, bytes)| bytes).collect();
    assert!(bytes.starts_with(b"HTTP/1.1 101"), "the answer is the first that comes");
    assert_eq!(bytes.windows(9).filter(|some| some == b"HTTP/1.1 ").count(), 1);
}

#[test]
fn a_client_that_broke_the_rules_is_told_and_ends_with_its_own_close() {
    // A reserved opcode, binary, text that is none, a message that is too long, a ping that is too long.
    let broken: [&[u8]; 5] = [
        &[0x83, 0x80, 0, 0, 0, 0],
        &[0x82, 0x81, 0, 0, 0, 0, 1],
        &[0x81, 0x81, 0, 0, 0, 0, 0xff],
        &[0x81, 0xff, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
        &[0x89, 0xfe, 0, 126, 0, 0, 0, 0],
    ];
    for (number, bytes) in broken.into_iter().enumerate() {
        let mut bus = Bus::new(Limits::default());
        let client = bus.connect("mallory");
        bus.send(&client, bytes);
        let written = bus.settle();
        let (_, last) = written.last().unwrap();
        assert!(last.contains(&0x88), "{number}: a close was written");
        assert_eq!(bus.half_closed, [client.conn], "{number}: and nothing follows it");
        // The rest of what was announced, and its own close behind it.
        let rest = match number {
            3 => (1 << 24) + 100_000,
            4 => 126,
            _ => 0,
        };
        for piece in vec![b'x'; rest].chunks(100_000) {
            bus.send(&client, piece);
            assert_eq!(bus.engine.waiting_bytes(client.conn).0, 0, "nothing of it is kept");
        }
        if number == 3 {
            assert_eq!(bus.engine.connection_count(), 0, "more than enough came after the close");
            continue;
        }
        assert_eq!(bus.engine.connection_count(), 1);
        bus.send(&client, &[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xea]);
        bus.settle();
        assert_eq!(bus.engine.connection_count(), 0, "{number}: its close ends it");
    }
}

#[test]
fn who_closes_half_of_the_socket_still_gets_its_answers() {
    let mut bus = Bus::new(Limits::default());
    let mut ann = bus.connect("ann");
    bus.exchange(&mut ann, &[("command", "c", command("join_channel", json!({})))]);
    let bytes = frames(&mut ann, &[("event", "c", json!({"ack": true}))]);
    bus.send(&ann, &bytes);
    bus.engine.ended(bus.now, ann.conn);
    let written = bus.settle();
    let answers = texts(&written.into_iter().flat_map(|(_, bytes)| bytes).collect::<Vec<u8>>());
    assert_eq!(answers[0]["payload"]["status"], "success", "{answers:?}");
    assert_eq!(bus.engine.connection_count(), 0, "and is gone then");
    // Who is owed nothing is gone at once; who waits for what never comes, after a while.
    let bob = bus.connect("bob");
    bus.engine.ended(bus.now, bob.conn);
    bus.settle();
    assert_eq!(bus.engine.connection_count(), 0);
}

#[test]
fn many_members_are_written_to_over_turns_and_in_order() {
    let mut bus = Bus::new(Limits::default());
    bus.engine.set_fan_out_units_max(3 * work::WRITE);
    let names: Vec<&'static str> =
        (0..40).map(|number| &*Box::leak(format!("m{number}").into_boxed_str())).collect();
    let mut members: Vec<Client> = names.iter().map(|name| bus.connect(name)).collect();
    for member in &mut members {
        bus.exchange(member, &[("command", "c", command("join_channel", json!({})))]);
    }
    let (mut ann, mut bob) = (bus.connect("ann"), bus.connect("bob"));
    for client in [&mut ann, &mut bob] {
        bus.exchange(client, &[("command", "few", command("join_channel", json!({})))]);
    }
    bus.exchange(&mut ann, &[("command", "c", command("join_channel", json!({})))]);
    // A turn in which some eight writes fit.
    bus.engine.set_turn_units(32_000);
    let mut got: std::collections::BTreeMap<ConnId, Vec<u8>> = Default::default();
    let (count, mut turns) = (50, 0);
    for number in 0..count {
        let bytes = frames(&mut ann, &[("event", "c", json!({"n": number}))]);
        if bus.engine.wants_input(ann.conn) {
            bus.send(&ann, &bytes);
        } else {
            // It is paused; its input comes behind.
            bus.engine.receive(bus.now, ann.conn, &mut bytes.clone());
        }
        let private = frames(&mut bob, &[("event", "few", json!({"ack": true}))]);
        bus.send(&bob, &private);
        let written = bus.turn();
        turns += 1;
        assert!(written.iter().any(|(conn, _)| *conn == bob.conn), "bob waits for nobody");
        for (conn, bytes) in written {
            got.entry(conn).or_default().extend(bytes);
        }
    }
    while bus.engine.has_work() {
        turns += 1;
        for (conn, bytes) in bus.turn() {
            got.entry(conn).or_default().extend(bytes);
        }
    }
    assert!(turns > count, "it took longer than it came: {turns} turns");
    for member in &members {
        let texts = texts(&got[&member.conn]);
        let numbers: Vec<u64> =
            texts.iter().filter_map(|text| text["payload"]["n"].as_u64()).collect();
        assert_eq!(numbers, (0..count as u64).collect::<Vec<_>>(), "{}", member.id);
    }
    assert_eq!(bus.engine.tally().drops(DropReason::OutboxFull), 0);
}

#[test]
fn timers_and_ends_of_many_at_once_are_spread_over_turns() {
    let mut bus = Bus::new(Limits::default());
    bus.engine.set_turn_units(32_000);
    let names: Vec<&'static str> =
        (0..200).map(|number| &*Box::leak(format!("m{number}").into_boxed_str())).collect();
    let clients: Vec<Client> = names.iter().map(|name| bus.connect(name)).collect();
    bus.now = bus.now.after(Duration::from_millis(25_000));
    let mut pings = Vec::new();
    while bus.engine.has_work() || pings.len() < clients.len() {
        let written = bus.turn();
        assert!(written.len() <= 32, "{} pings in one turn", written.len());
        assert!(pings.len() + written.len() > 0, "somebody is pinged in the first turn");
        pings.extend(written);
    }
    assert_eq!(pings.len(), clients.len(), "everybody is pinged, once");
    for client in &clients {
        bus.engine.lost(bus.now, client.conn);
    }
    let (mut turns, mut before) = (0, bus.engine.edge().client_count());
    assert_eq!(before, 200);
    while before > 0 {
        bus.turn();
        let after = bus.engine.edge().client_count();
        assert!(before - after <= 100, "{} sessions ended in one turn", before - after);
        (before, turns) = (after, turns + 1);
    }
    assert!(turns > 2, "{turns}");
    bus.settle();
    assert_eq!(bus.engine.home().client_id_count(), 0);
}

#[test]
fn many_gaps_are_told_over_turns() {
    const CHANNELS: usize = 600;
    let mut bus = Bus::new(Limits { outbox_bytes: 70_000, rate_commands: 0, ..Limits::default() });
    let (mut ann, mut mallory) = (bus.connect("ann"), bus.connect("mallory"));
    let names: Vec<String> = (0..CHANNELS).map(|number| format!("c{number}")).collect();
    for client in [&mut ann, &mut mallory] {
        for some in names.chunks(50) {
            let join = |name| ("command", name, command("join_channel", json!({})));
            let joins: Vec<_> = some.iter().map(|name| join(name.as_str())).collect();
            bus.exchange(client, &joins);
        }
    }
    bus.deaf = vec![mallory.conn];
    let long = json!({"b": "x".repeat(40_000)});
    for _ in 0..4 {
        bus.exchange(&mut ann, &[("event", "c0", long.clone())]);
    }
    for name in &names {
        bus.exchange(&mut ann, &[("event", name, json!({}))]);
    }
    bus.deaf.clear();
    bus.engine.writable(mallory.conn);
    let (mut told, mut turns) = (0, 0);
    while bus.engine.has_work() {
        bus.turn();
        let gaps = bus.engine.tally().counter(Counter::Gaps);
        let more = gaps - told;
        assert!(more <= GAP_NOTICES_PER_TURN as u64, "{more} notices in one turn");
        (told, turns) = (gaps, turns + 1);
    }
    assert_eq!(told, CHANNELS as u64, "one for each channel, in {turns} turns");
}

/// Thirty members of a channel who have read nothing while so much was published, and now read all at once.
fn behind(bus: &mut Bus, messages: u32) -> Vec<Client> {
    let mut ann = bus.connect("ann");
    let ids: Vec<&'static str> =
        (0..30).map(|number| &*format!("member-{number}").leak()).collect();
    let mut members: Vec<Client> = ids.into_iter().map(|id| bus.connect(id)).collect();
    for client in members.iter_mut().chain([&mut ann]) {
        bus.exchange(client, &[("command", "c", command("join_channel", json!({})))]);
    }
    bus.deaf = members.iter().map(|member| member.conn).collect();
    let filler = "x".repeat(60_000);
    for number in 0..messages {
        bus.exchange(&mut ann, &[("event", "c", json!({"n": number, "filler": filler}))]);
    }
    bus.deaf.clear();
    members.iter().for_each(|member| bus.engine.writable(member.conn));
    members
}

#[test]
fn what_many_catch_up_on_at_once_is_spread_over_turns() {
    let mut bus = Bus::new(Limits::default());
    let members = behind(&mut bus, 40);
    let (mut got, mut turns) = (vec![Vec::new(); members.len()], 0);
    while bus.engine.has_work() {
        let written = bus.turn();
        let bytes: usize = written.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(bytes <= 2 * crate::base::work::TURN_UNITS as usize, "{bytes} bytes in one turn");
        for (conn, bytes) in written {
            if let Some(at) = members.iter().position(|member| member.conn == conn) {
                got[at].extend(bytes);
            }
        }
        turns += 1;
    }
    assert!(turns > 100, "it took {turns} turns");
    for bytes in got {
        let numbers: Vec<u64> =
            texts(&bytes).iter().filter_map(|text| text["payload"]["n"].as_u64()).collect();
        assert_eq!(numbers, Vec::from_iter(0..40), "all of it, in order");
    }
}

#[test]
fn who_waits_for_its_turn_to_be_written_to_is_not_too_slow() {
    let mut bus = Bus::new(Limits::default());
    let mut members = behind(&mut bus, 90);
    // All read at once, and the bus needs longer to write to them than a slow client may take.
    let mut waited = Duration::ZERO;
    while bus.engine.has_work() {
        bus.turn();
        bus.now = bus.now.after(Duration::from_millis(100));
        waited += Duration::from_millis(100);
    }
    let grace = Duration::from_millis(u64::from(Limits::default().slow_grace_ms));
    assert!(waited > 2 * grace, "{waited:?}");
    for member in &mut members {
        let answers = bus.exchange(member, &[("command", "c", command("ping", json!({})))]);
        assert_eq!(answers.len(), 1, "{} is still connected", member.id);
    }
}

#[test]
fn who_is_not_read_for_long_is_not_taken_for_silent() {
    let limits = Limits { outbox_bytes: 70_000, slow_grace_ms: 600_000, ..Limits::default() };
    let mut bus = Bus::new(Limits { rate_commands: 0, ..limits });
    let mut ann = bus.connect("ann");
    bus.exchange(&mut ann, &[("command", "c", command("join_channel", json!({})))]);
    bus.deaf = vec![ann.conn];
    // What it does not read pauses it, and what it sends meanwhile, a pong too, is not looked at.
    let questions: Vec<_> =
        (0..100).map(|_| ("command", "c", command("help", json!({})))).collect();
    let bytes = frames(&mut ann, &questions);
    bus.send(&ann, &bytes);
    bus.settle();
    let silence = Duration::from_millis(u64::from(Limits::default().heartbeat_ms));
    for _ in 0..10 {
        bus.now = bus.now.after(silence);
        bus.settle();
        assert_eq!(bus.engine.connection_count(), 1, "its pause is not its silence");
    }
    bus.deaf.clear();
    bus.engine.writable(ann.conn);
    assert!(!bus.settle().is_empty());
}
