//! Whole sessions: the input is a script, each byte of which chooses what a client does next. Clients shake hands in many ways, send commands with odd values, cut messages, break
//! frames, stop reading, hang up, come back; time passes; limits change; the bus drains.
//!
//! A script is played on a bus of two shards without sockets ([`session`]), and on real daemons (`nodes`).

use crate::world::World;
use arqonbus::base::limits::Limits;

/// The most steps of one script.
const STEPS_MAX: usize = 300;

/// Parts of query strings.
const QUERIES: &[&str] = &[
    "",
    "client_id=ann",
    "client_id=bob",
    "client_id=ann&join=lab:a",
    "join=lab:a,lab:*",
    "client_id=%00",
    "client_type=ai-agent&client_id=bot",
    "join=lab:a,lab:a",
    "join=:",
    "client_type=nobody",
    "token=x",
    "session=x",
    "client_id=ann&session=0",
    "screen_name=%F0%9F%A6%80",
    "join=science:general&echo=true",
    "batch=1",
    "batch=2",
    "join=science:*,lab:b&presence=true",
];

/// Payloads and parameters of commands.
const PARAMETERS: &[&str] = &[
    "{}",
    "null",
    r#"{"room":"lab","channel":"a"}"#,
    r#"{"channel":"lab:a","echo":true}"#,
    r#"{"channel":"lab:a","presence":true}"#,
    r#"{"channel":"lab:*"}"#,
    r#"{"room":"lab"}"#,
    r#"{"channel":"lab:a","limit":1000}"#,
    r#"{"channel":"lab:a","limit":0}"#,
    r#"{"channel":"lab:a","after":18446744073709551615}"#,
    r#"{"channel":"lab:a","before":-1}"#,
    r#"{"channel":"lab:a","recover":{"epoch":"x","sequence":1}}"#,
    r#"{"channel":"lab:a","recover":{"epoch":"0000000000000000","sequence":0}}"#,
    r#"{"channel":"lab:a","since":"2020-01-01T00:00:00Z","order":"desc"}"#,
    r#"{"room":"lab","config":{"history_size":1,"member_limit":1}}"#,
    r#"{"limit":1}"#,
    r#"{"limit":1,"cursor":"x"}"#,
    r#"{"limit":1e3}"#,
    r#"{"limit":null,"cursor":null}"#,
    r#"{"client_id":"ann"}"#,
    r#"{"client_id":"ann","reason":"because"}"#,
    r#"{"text":"hello"}"#,
    r#"{"channel":"lab:p","type":"private","metadata":{"members":["ann"]}}"#,
    r#"[]"#,
    r#""x""#,
    r#"{"room":"science","channel":"general"}"#,
    r#"{"room":"integriguard","channel":"*"}"#,
];

/// Names of commands, and some that are none.
const COMMANDS: &[&str] = &[
    "status",
    "ping",
    "help",
    "join_channel",
    "leave_channel",
    "list_channels",
    "channel_info",
    "history",
    "create_channel",
    "delete_channel",
    "identify",
    "list_rooms",
    "create_room",
    "delete_room",
    "pause_room",
    "resume_room",
    "announce",
    "list_clients",
    "disconnect_client",
    "revoke",
    "",
    "PING",
];

/// Metadata of messages.
const METADATA: &[&str] = &[
    "",
    r#""ack":true"#,
    r#""ack":true,"trace":true"#,
    r#""ttl_ms":1"#,
    r#""ttl_ms":0"#,
    r#""ack":null"#,
    r#""sequence":1"#,
    r#""ack":"yes""#,
];

/// A bus that a script is played on, with its clients, which are known by number.
pub(crate) trait Stage {
    /// A new connection; its number.
    fn open(&mut self) -> usize;

    /// How many connections were opened.
    fn count(&self) -> usize;

    /// The first bytes that a client has read, 2 KiB at least if there are so many.
    fn greeting(&self, peer: usize) -> &[u8];

    /// A client sends something.
    fn send(&mut self, peer: usize, bytes: &[u8]);

    /// A client reads no more, or again.
    fn toggle_reading(&mut self, peer: usize);

    /// A client's socket ends.
    fn hang_up(&mut self, peer: usize);

    /// Time passes.
    fn pass_ms(&mut self, ms: u64);

    /// Other limits are in force.
    fn reconfigure(&mut self, limits: Limits);

    /// Something happens to the bus that no client does: the great thing (0) or another one (1 to 3).
    fn disturb(&mut self, what: u8, how: u8);

    /// A client sends many pings at once.
    fn flood(&mut self, peer: usize);

    /// Everybody has time to do something.
    fn turn(&mut self);

    /// One of the latest connections, or the first if there is none yet.
    fn pick(&mut self, choice: u8) -> usize {
        match self.count() {
            0 => self.open(),
            count => count - 1 - usize::from(choice) % count.min(8),
        }
    }

    /// The id that a client was given, as far as it has read it.
    fn client_id(&self, peer: usize) -> String {
        let text = String::from_utf8_lossy(self.greeting(peer));
        let id = text.split_once(r#""client_id":""#).and_then(|(_, rest)| rest.split_once('"'));
        id.map_or("nobody", |(id, _)| id).to_owned()
    }
}

/// Plays a script on a bus of two shards without sockets. After every step each engine's own checks hold,
/// and the first bytes of every connection are HTTP; in the end, when everybody has hung up, nothing is
/// left.
pub(crate) fn session(input: &[u8]) {
    let mut world = World::new(2);
    play(&mut world, input);
    world.end();
}

/// Plays a script.
pub(crate) fn play(stage: &mut impl Stage, input: &[u8]) {
    let mut script = Script { bytes: input };
    for _ in 0..STEPS_MAX {
        let Some(choice) = script.next() else { break };
        step(stage, &mut script, choice);
        stage.turn();
    }
}

fn step(world: &mut impl Stage, script: &mut Script<'_>, choice: u8) {
    match choice % 16 {
        0 | 1 => {
            let peer = world.open();
            let query = script.pick(QUERIES);
            world.send(peer, &request(query, script.byte()));
        }
        2 => {
            world.open();
        }
        3..=6 => {
            let text = command(script);
            speak(world, script, &text);
        }
        7..=9 => {
            let text = event(script);
            speak(world, script, &text);
        }
        10 => {
            let peer = world.pick(script.byte());
            let length = usize::from(script.byte() % 32);
            let bytes = script.take(length).to_vec();
            world.send(peer, &bytes);
        }
        11 => {
            let peer = world.pick(script.byte());
            world.toggle_reading(peer);
        }
        12 => {
            let peer = world.pick(script.byte());
            world.hang_up(peer);
        }
        13 => world.pass_ms(1 << (script.byte() % 17)),
        14 => {
            let outbox_bytes = 70_000 << (script.byte() % 4);
            world.reconfigure(Limits { outbox_bytes, ..limits() });
        }
        _ => match script.byte() % 8 {
            0 => world.disturb(0, 0),
            what @ 1..=3 => world.disturb(what, script.byte()),
            _ => {
                let peer = world.pick(script.byte());
                world.flood(peer);
            }
        },
    }
}

/// Limits that a short script can reach.
pub(crate) fn limits() -> Limits {
    Limits {
        max_message_bytes: 2_048,
        outbox_bytes: 70_000,
        history_size: 8,
        history_bytes: 8_192,
        history_bytes_total: 65_536,
        max_rooms: 6,
        max_channels: 20,
        max_channels_per_room: 10,
        max_joins_per_client: 6,
        max_members_per_channel: 4,
        ..Limits::default()
    }
}

fn request(query: &str, oddity: u8) -> Vec<u8> {
    let more = match oddity % 8 {
        1 => "Origin: http://evil.example\r\n",
        2 => "Origin: null\r\n",
        3 => "Sec-WebSocket-Protocol: arqonbus.v1, token\r\n",
        4 => "X-Forwarded-For: 1.2.3.4\r\n",
        5 => "Content-Length: 5\r\n",
        _ => "",
    };
    let host = if oddity % 8 == 6 { "evil.example" } else { "127.0.0.1" };
    format!(
        "GET /?{query} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    )
    .into_bytes()
}

fn command(script: &mut Script<'_>) -> Text {
    let (name, parameters) = (script.pick(COMMANDS), script.pick(PARAMETERS));
    let format = if script.byte().is_multiple_of(4) { r#","response_format":"brief""# } else { "" };
    Text {
        kind: "command",
        payload: format!(r#"{{"command":"{name}","parameters":{parameters}{format}}}"#),
        metadata: script.pick(METADATA),
        address: address(script.byte()),
    }
}

fn event(script: &mut Script<'_>) -> Text {
    let kind = ["event", "private", "telemetry", "event", "system"][usize::from(script.byte() % 5)];
    let payload = match script.byte() % 6 {
        0 => r#"{"target":"ann"}"#.to_owned(),
        1 => r#"{"target":["ann","bob","nobody"]}"#.to_owned(),
        2 => r#"{"eventType":"x","payload":{}}"#.to_owned(),
        3 => format!(r#"{{"t":"{}"}}"#, "x".repeat(usize::from(script.byte()) * 12)),
        4 => r#"{"target":[]}"#.to_owned(),
        _ => "{}".to_owned(),
    };
    Text { kind, payload, metadata: script.pick(METADATA), address: address(script.byte()) }
}

fn address(choice: u8) -> (&'static str, &'static str) {
    const ADDRESSES: &[(&str, &str)] = &[
        ("lab", "a"),
        ("lab", "*"),
        ("lab", "b"),
        ("science", "general"),
        ("lab", "pm"),
        ("lab", "p"),
        ("*", "*"),
        ("integriguard", "telemetry-stream"),
    ];
    ADDRESSES[usize::from(choice) % ADDRESSES.len()]
}

/// What a message says, without its sender.
struct Text {
    kind: &'static str,
    payload: String,
    metadata: &'static str,
    address: (&'static str, &'static str),
}

/// Has some client send a message: whole, in fragments, cut short or as another kind of frame.
fn speak(world: &mut impl Stage, script: &mut Script<'_>, text: &Text) {
    let peer = world.pick(script.byte());
    let from = match script.byte() % 16 {
        0 => "ann".to_owned(),
        _ => world.client_id(peer),
    };
    let (room, channel) = text.address;
    let id = script.byte();
    let json = format!(
        r#"{{"version":"1.0","id":"arq_{id}","type":"{}","room":"{room}","channel":"{channel}","from":"{from}","timestamp":"2025-11-30T00:00:00Z","payload":{},"metadata":{{{}}}}}"#,
        text.kind, text.payload, text.metadata
    );
    let bytes = match script.byte() % 16 {
        0 => {
            let at = json.len() / 2;
            let mut parts = frame(0x01, &json.as_bytes()[..at]);
            parts.extend(frame(0x89, b"between"));
            parts.extend(frame(0x80, &json.as_bytes()[at..]));
            parts
        }
        1 => frame(0x82, json.as_bytes()),
        2 => frame(0x81, &json.as_bytes()[..json.len() / 3]),
        3 => {
            let mut cut = frame(0x81, json.as_bytes());
            cut.truncate(cut.len() / 2);
            cut
        }
        4 => frame(0x89, b"ping"),
        5 => frame(0x88, &[0x03, 0xe8]),
        6 => frame(0x83, json.as_bytes()),
        _ => frame(0x81, json.as_bytes()),
    };
    world.send(peer, &bytes);
}

/// A masked frame with that first byte.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x1d, 0xa2, 0x33, 0xc4];
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..=125 => bytes.push(0x80 | short as u8),
        long => {
            bytes.push(0xfe);
            bytes.extend((long as u16).to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// The bytes of the input that are left.
struct Script<'i> {
    bytes: &'i [u8],
}

impl<'i> Script<'i> {
    fn next(&mut self) -> Option<u8> {
        let (&first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(first)
    }

    /// The next byte, or 0 at the end.
    fn byte(&mut self) -> u8 {
        self.next().unwrap_or(0)
    }

    fn take(&mut self, count: usize) -> &'i [u8] {
        let (taken, rest) = self.bytes.split_at(count.min(self.bytes.len()));
        self.bytes = rest;
        taken
    }

    fn pick(&mut self, from: &'static [&'static str]) -> &'static str {
        from[usize::from(self.byte()) % from.len()]
    }
}
