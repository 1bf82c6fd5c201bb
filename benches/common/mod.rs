//! What the benchmarks share: messages as clients write them, a [bus](bus) without sockets, and
//! the [daemon](daemon) with its clients over loopback.
#![allow(dead_code, reason = "no benchmark uses all of it")]

pub(crate) mod bus;
pub(crate) mod daemon;

use bus::Client;
use criterion::Criterion;
use std::time::Duration;

/// As in the daemon.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The id of every message; its last digits are its number.
const ID: &str = "arq_01JDZ8Q6YH3V5K9T0000000000";
const ID_DIGITS: usize = 10;

/// How every benchmark measures: long enough to be repeatable, short enough to be run.
pub(crate) fn criterion() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
}

/// A payload of about so many bytes with one long text in it.
pub(crate) fn text_payload(bytes: usize) -> String {
    let sentence = "The quick brown fox says \\\"hi\\\" and jumps over the lazy dog again. ";
    let text: String = sentence.chars().cycle().take(bytes.saturating_sub(11)).collect();
    format!(r#"{{"text":"{}"}}"#, text.trim_end_matches('\\'))
}

/// A payload of about so many bytes with many small records in it.
pub(crate) fn records_payload(bytes: usize) -> String {
    let record = r#"{"sensor":"t-17","at":1764504000.25,"ok":true,"tags":["a","b"]}"#;
    let count = (bytes / (record.len() + 1)).max(1);
    format!(r#"{{"records":[{}]}}"#, vec![record; count].join(","))
}

/// An event as a client writes it; `metadata` is a JSON object, or empty for none.
pub(crate) fn event(room: &str, from: &str, payload: &str, metadata: &str) -> String {
    let metadata = match metadata {
        "" => String::new(),
        metadata => format!(r#","metadata":{metadata}"#),
    };
    format!(
        r#"{{"version":"1.0","id":"{ID}","type":"event","room":"{room}","channel":"general","from":"{from}","timestamp":"2025-11-30T12:00:00.123Z","payload":{payload}{metadata}}}"#
    )
}

/// A command as a client writes it.
pub(crate) fn command(room: &str, from: &str, name: &str, parameters: &str) -> String {
    event(room, from, &format!(r#"{{"command":"{name}","parameters":{parameters}}}"#), "").replacen(
        r#""type":"event""#,
        r#""type":"command""#,
        1,
    )
}

/// The frame in which a client sends a text. Its mask is zero, so that taking it off costs what it
/// always costs and the frame can be used again.
pub(crate) fn client_frame(text: &str) -> Vec<u8> {
    let mut bytes = vec![0x81];
    match text.len() {
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
    bytes.extend(text.as_bytes());
    bytes
}

/// What one client sends at once: frames whose ids are new each time.
#[derive(Clone)]
pub(crate) struct Parcel {
    pub(crate) sender: Client,
    pub(crate) bytes: Vec<u8>,
    /// Where the digits of each message's id are.
    ids: Vec<usize>,
}

impl Parcel {
    pub(crate) fn new(sender: Client) -> Parcel {
        Parcel { sender, bytes: Vec::new(), ids: Vec::new() }
    }

    /// Adds a message that was made by [`event`] or [`command`].
    pub(crate) fn push(&mut self, text: &str) {
        let start = self.bytes.len();
        self.bytes.extend(client_frame(text));
        let is_id = |window: &[u8]| window == ID.as_bytes();
        let at = self.bytes[start..].windows(ID.len()).position(is_id).expect("it has the id");
        self.ids.push(start + at + ID.len() - ID_DIGITS);
    }

    pub(crate) fn messages(&self) -> usize {
        self.ids.len()
    }

    /// Gives every message an id that `next` was not yet used for.
    pub(crate) fn renumber(&mut self, next: &mut u64) {
        for &at in &self.ids {
            let mut number = *next;
            *next += 1;
            for digit in self.bytes[at..at + ID_DIGITS].iter_mut().rev() {
                *digit = b'0' + (number % 10) as u8;
                number /= 10;
            }
        }
    }
}

/// The request that connects a client and joins the channel `general` of each room.
pub(crate) fn hello(client_id: &str, rooms: &[String]) -> Vec<u8> {
    let joins: Vec<String> = rooms.iter().map(|room| format!("{room}:general")).collect();
    format!(
        "GET /?client_id={client_id}&join={} HTTP/1.1\r\nHost: b\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        joins.join(",")
    )
    .into_bytes()
}
