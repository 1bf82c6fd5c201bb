//! An event as the bytes that every member gets: one allocation, one copy of the payload.
//!
//! The edge that received an event writes everything it knows into a [`Draft`], behind a room for
//! what it does not know. The home, which gives sequence and time, writes those into that room
//! and the WebSocket header before them ([`Draft::stamp`]); from then on the [`Frame`] is shared
//! and never changes. So a hot room's one sequencing core copies no payload.
//!
//! ```text
//! | unused | WebSocket header | {"version":…,"timestamp":…,"metadata":{"sequence":7 | …},"id":… |
//! |<------------------- HEAD_ROOM, written by the home ------------->|<-- tail, by the edge --->|
//! ```
//!
//! What was kept of an event beyond its frame's life is its text; [`Frame::restore`] makes the same
//! frame of it again, to the byte.
//!
//! *Invariants*: a head never reaches into the tail; a draft is as long as its allocation; a frame is one final, unmasked text
//! frame (RFC 6455, section 5.2) whose text is one envelope.
//!
//! *Panics*: names and heads lie where this file wrote them, or where `Frame::restore` found them;
//! a text from Redis that does not fit is an error of `restore` before anything is sliced.

use crate::base::prefetch::prefetch_bytes;
use crate::base::time::Now;
use crate::protocol::envelope::{Envelope, MessageType};
use crate::protocol::json::{self, Value};
use crate::protocol::timestamp;
use std::fmt;
use std::sync::Arc;

mod kept;

pub use kept::{FrameRef, Outline};

/// The room for the longest head: the longest WebSocket header and the longest sequence.
const HEAD_ROOM: usize = 10 + HEAD.len() + 20;
/// A head up to its sequence, before its time is written into it.
const HEAD: &[u8; 82] =
    br#"{"version":"1.0","timestamp":"---------------------------","metadata":{"sequence":"#;
/// The head of a message that has no sequence.
const HEAD_UNORDERED: &[u8; 71] =
    br#"{"version":"1.0","timestamp":"---------------------------","metadata":{"#;
/// Where the time stands in both.
const TIMESTAMP_AT: usize = r#"{"version":"1.0","timestamp":""#.len();
const REPLAYED: &str = r#","replayed":true"#;

/// What a frame takes beside its bytes: itself with its two reference counts, its place in a queue
/// and in an index, and what the allocator rounds up.
const FRAME_SPARE_BYTES: usize = size_of::<Frame>() + 72;

/// What the home needs to know of a message beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// When the edge had read it, on the monotonic clock.
    pub received_ns: u64,
    /// For how long after that it may be delivered.
    pub ttl_ms: Option<u64>,
}

/// A message that lacks its sequence and its time.
#[derive(Clone, Debug)]
pub struct Draft {
    bytes: Vec<u8>,
    names: Names,
    origin: Origin,
}

/// A message ready for the wire, shared by every outbox.
#[derive(Debug)]
pub struct Frame {
    bytes: Vec<u8>,
    start: u32,
    /// Where the tail begins, which follows the sequence; 0 if nothing is known of it.
    tail: u32,
    names: Names,
    /// The place in its channel's order; 0 for a message that has none.
    pub sequence: u64,
    /// The server's time for it, in microseconds since 1970.
    pub timestamp_us: u64,
    /// When it expires, on the monotonic clock in milliseconds.
    pub expires_ms: Option<u64>,
    /// When its edge had read it, on the monotonic clock.
    pub received_ns: u64,
}

/// Where a message's id and its sender stand, one behind the other.
#[derive(Clone, Copy, Debug, Default)]
struct Names {
    id: (u32, u32),
    from: (u32, u32),
}

/// Why a text is not that of a frame that was stamped with a sequence; the text finishes a sentence
/// that begins with what it was meant to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreError {
    /// It is no JSON object, or no envelope.
    NotAnEnvelope,
    /// It is an envelope, but not as this program writes them.
    NotOurs,
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RestoreError::NotAnEnvelope => "is no JSON object with metadata",
            RestoreError::NotOurs => "is not written the way this program writes messages",
        })
    }
}

impl std::error::Error for RestoreError {}

impl Draft {
    /// What stands before the time, and what stands between it and the sequence.
    pub const HEAD: (&'static str, &'static str) =
        (r#"{"version":"1.0","timestamp":""#, r#"","metadata":{"sequence":"#);

    /// Everything of `envelope` that its edge knows. `from` is the true sender.
    pub fn new(envelope: &Envelope<'_>, from: &str, origin: Origin) -> Draft {
        Draft::assemble(
            &envelope.id,
            envelope.kind,
            (&envelope.room, &envelope.channel),
            from,
            envelope.payload,
            &envelope.metadata.members,
            origin,
        )
    }

    /// A message of the server's own; `payload` is the text of a JSON object.
    pub fn of_server(
        id: &str,
        kind: MessageType,
        address: (&str, &str),
        payload: &str,
        origin: Origin,
    ) -> Draft {
        Draft::assemble(id, kind, address, crate::protocol::names::SERVER_ID, payload, "", origin)
    }

    fn assemble(
        id: &str,
        kind: MessageType,
        (room, channel): (&str, &str),
        from: &str,
        payload: &str,
        metadata: &str,
        origin: Origin,
    ) -> Draft {
        let kind = kind.as_str();
        let names = id.len() + from.len() + kind.len() + room.len() + channel.len();
        let length = HEAD_ROOM + TAIL_BYTES + names + payload.len() + metadata.len();
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(&[0; HEAD_ROOM]);
        if !metadata.is_empty() {
            bytes.push(b',');
            bytes.extend_from_slice(metadata.as_bytes());
        }
        bytes.extend_from_slice(br#"},"id":""#);
        let id = put_name(&mut bytes, id);
        bytes.extend_from_slice(br#"","from":""#);
        let from = put_name(&mut bytes, from);
        bytes.extend_from_slice(br#"","type":""#);
        bytes.extend_from_slice(kind.as_bytes());
        bytes.extend_from_slice(br#"","room":""#);
        bytes.extend_from_slice(room.as_bytes());
        bytes.extend_from_slice(br#"","channel":""#);
        bytes.extend_from_slice(channel.as_bytes());
        bytes.extend_from_slice(br#"","payload":"#);
        bytes.extend_from_slice(payload.as_bytes());
        bytes.push(b'}');
        Draft { bytes, names: Names { id, from }, origin }
    }

    /// How long it is, in bytes.
    pub fn length(&self) -> usize {
        self.bytes.len()
    }

    /// Looks ahead to it: fetches its bytes.
    pub fn prefetch(&self) {
        prefetch_bytes(&self.bytes);
    }

    /// What follows the sequence in the text of the message. Whoever else gives sequence and time
    /// writes [`Draft::HEAD`] with the time in it, the digits of the sequence, and this.
    pub fn tail(&self) -> &[u8] {
        &self.bytes[HEAD_ROOM..]
    }

    /// The message's id.
    pub fn id(&self) -> &str {
        text(&self.bytes, self.names.id)
    }

    /// The true sender.
    pub fn from(&self) -> &str {
        text(&self.bytes, self.names.from)
    }

    /// The id and the sender: two messages with the same are one.
    pub fn identity(&self) -> &[u8] {
        self.names.identity(&self.bytes)
    }

    /// When the edge read it, and for how long it lives.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// For how long it may still be delivered, in milliseconds, if not for ever.
    pub fn left_ms(&self, now: Now) -> Option<u64> {
        let expires_ms = (self.origin.received_ns / 1_000_000).saturating_add(self.origin.ttl_ms?);
        Some(expires_ms.saturating_sub(now.mono_ms()))
    }

    /// Gives the message its place and its time, and seals it.
    pub fn stamp(self, sequence: u64, timestamp_us: u64) -> Arc<Frame> {
        self.stamp_by(&mut timestamp::Writer::default(), sequence, timestamp_us)
    }

    /// [`Draft::stamp`] by who stamps many.
    pub fn stamp_by(
        mut self,
        times: &mut timestamp::Writer,
        sequence: u64,
        timestamp_us: u64,
    ) -> Arc<Frame> {
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(sequence).as_bytes();
        let digits_start = HEAD_ROOM - digits.len();
        self.bytes[digits_start..HEAD_ROOM].copy_from_slice(digits);
        let time = times.format(timestamp_us);
        let start = put_head(&mut self.bytes, digits_start, HEAD, time);
        Arc::new(self.seal(start, sequence, timestamp_us))
    }

    /// Gives the message its time but no place, for what has no order: private messages. Client
    /// metadata, if there is any, follows an empty beginning.
    pub fn stamp_unordered(mut self, timestamp_us: u64) -> Arc<Frame> {
        // The tail begins with `,` when it continues the metadata; with nothing before it the
        // comma goes, and white space is the one thing that may stand there instead.
        if self.bytes[HEAD_ROOM] == b',' {
            self.bytes[HEAD_ROOM] = b' ';
        }
        let time = timestamp::format(timestamp_us);
        let start = put_head(&mut self.bytes, HEAD_ROOM, HEAD_UNORDERED, &time);
        Arc::new(self.seal(start, 0, timestamp_us))
    }

    fn seal(self, start: usize, sequence: u64, timestamp_us: u64) -> Frame {
        let lives_ms = self.origin.ttl_ms;
        Frame {
            start: start as u32,
            tail: HEAD_ROOM as u32,
            names: self.names,
            sequence,
            timestamp_us,
            expires_ms: lives_ms.map(|ms| self.origin.received_ns / 1_000_000 + ms),
            received_ns: self.origin.received_ns,
            bytes: self.bytes,
        }
    }
}

impl Frame {
    /// A finished text that has no place in any order: a reply or a notice.
    pub fn of_text(text: &str, received_ns: u64) -> Arc<Frame> {
        let mut bytes = Vec::with_capacity(text.len() + 10);
        push_header(&mut bytes, text.len());
        bytes.extend_from_slice(text.as_bytes());
        Frame::of_wire(bytes, received_ns)
    }

    /// Finished bytes of any frame, such as a ping or a close.
    pub fn of_wire(bytes: Vec<u8>, received_ns: u64) -> Arc<Frame> {
        Arc::new(Frame {
            bytes,
            start: 0,
            tail: 0,
            names: Names::default(),
            sequence: 0,
            timestamp_us: 0,
            expires_ms: None,
            received_ns,
        })
    }

    /// The frame that was stamped once and of which `text` was kept: its wire bytes are the same
    /// again. It counts as received at `now`. If it may expire, `left_ms` says how long it may still be
    /// delivered, as it was measured on one clock. Only where nobody measured that, since an older
    /// version kept it, its time is compared with this machine's clock, which may be another than the
    /// one that it was taken from.
    pub fn restore(text: &str, now: Now, left_ms: Option<u64>) -> Result<Arc<Frame>, RestoreError> {
        let kept = Kept::parse(text)?;
        let mut bytes = Vec::with_capacity(HEAD_ROOM + kept.tail.len());
        bytes.extend_from_slice(&[0; HEAD_ROOM]);
        bytes.extend_from_slice(kept.tail.as_bytes());
        let origin = Origin { received_ns: now.mono_ns, ttl_ms: None };
        let names = kept.names.ok_or(RestoreError::NotOurs)?;
        let mut frame = Draft { bytes, names, origin }.stamp(kept.sequence, kept.timestamp_us);
        if frame.text() != text.as_bytes() {
            return Err(RestoreError::NotOurs);
        }
        if let (Some(ttl_ms), Some(frame)) = (kept.ttl_ms, Arc::get_mut(&mut frame)) {
            let by_time = || {
                let until_ms = (kept.timestamp_us / 1_000).saturating_add(ttl_ms);
                until_ms.saturating_sub(now.wall_us / 1_000)
            };
            let left_ms = left_ms.unwrap_or_else(by_time).min(ttl_ms);
            frame.expires_ms = Some(now.mono_ms().saturating_add(left_ms));
        }
        Ok(frame)
    }

    /// The envelope as JSON text, as it goes over the wire.
    pub fn text(&self) -> &[u8] {
        let wire = self.wire();
        &wire[header_length(wire)..]
    }

    /// The bytes for the socket.
    pub fn wire(&self) -> &[u8] {
        &self.bytes[self.start as usize..]
    }

    /// The memory it takes where it is kept, in bytes.
    pub fn memory_bytes(&self) -> usize {
        FRAME_SPARE_BYTES + self.bytes.len()
    }

    /// The message's id; empty for a reply or a notice.
    pub fn id(&self) -> &str {
        text(&self.bytes, self.names.id)
    }

    /// The sender; empty for a reply or a notice.
    pub fn from(&self) -> &str {
        text(&self.bytes, self.names.from)
    }

    /// The id and the sender: two messages with the same are one.
    pub fn identity(&self) -> &[u8] {
        self.names.identity(&self.bytes)
    }

    /// For how long it may still be delivered, in milliseconds, if not for ever.
    pub fn left_ms(&self, now: Now) -> Option<u64> {
        Some(self.expires_ms?.saturating_sub(now.mono_ms()))
    }

    /// Whether the message may no longer be delivered.
    pub fn is_expired(&self, now_ms: u64) -> bool {
        self.expires_ms.is_some_and(|expires_ms| now_ms >= expires_ms)
    }
}

/// What the text of a kept frame says, as far as the home asks.
struct Kept<'a> {
    sequence: u64,
    timestamp_us: u64,
    ttl_ms: Option<u64>,
    /// What follows the sequence.
    tail: &'a str,
    /// Where the names stand behind a [`HEAD_ROOM`] and `tail`; `None` if they are not there.
    names: Option<Names>,
}

impl<'a> Kept<'a> {
    fn parse(text: &'a str) -> Result<Kept<'a>, RestoreError> {
        let mut metadata = None;
        let mut time = None;
        json::members(text, |key, value| match (&*key.get(), value) {
            ("metadata", Value::Object(object)) => metadata = Some(object),
            ("timestamp", Value::Text(text)) => time = timestamp::parse_us(&text.get()),
            _ => {}
        })
        .map_err(|_| RestoreError::NotAnEnvelope)?;
        let metadata = metadata.ok_or(RestoreError::NotAnEnvelope)?;
        let (mut sequence, mut ttl_ms) = (None, None);
        json::members(metadata, |key, value| match &*key.get() {
            "sequence" => sequence = value.as_u64(),
            "ttl_ms" => ttl_ms = value.as_u64(),
            _ => {}
        })
        .map_err(|_| RestoreError::NotAnEnvelope)?;
        let (Some(sequence), Some(timestamp_us)) = (sequence, time) else {
            return Err(RestoreError::NotOurs);
        };
        let digits = itoa::Buffer::new().format(sequence).len();
        let tail = text.get(HEAD.len() + digits..).ok_or(RestoreError::NotOurs)?;
        // The head ends within the metadata, so its end is in the tail, if the head is ours.
        let metadata_end = metadata.as_ptr() as usize + metadata.len() - text.as_ptr() as usize;
        let names = metadata_end.checked_sub(HEAD.len() + digits).and_then(|end| {
            let rest = tail.get(end..)?.strip_prefix(r#","id":""#)?;
            let (id, rest) = rest.split_once('"')?;
            let (from, _) = rest.strip_prefix(r#","from":""#)?.split_once('"')?;
            let is_short = |name: &str| name.len() <= NAME_BYTES_MAX && name.is_ascii();
            if !is_short(id) || !is_short(from) {
                return None;
            }
            let id_start = HEAD_ROOM + end + r#","id":""#.len();
            let from_start = id_start + id.len() + r#"","from":""#.len();
            let span = |start: usize, name: &str| (start as u32, (start + name.len()) as u32);
            Some(Names { id: span(id_start, id), from: span(from_start, from) })
        });
        Ok(Kept { sequence, timestamp_us, ttl_ms, tail, names })
    }
}

impl Names {
    /// Neither holds a quote, so what stands between the two keeps them apart.
    fn identity(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.id.0 as usize..self.from.1 as usize]
    }
}

/// No id or sender is longer that this program ever wrote.
const NAME_BYTES_MAX: usize = 1_024;

/// What of a tail is the same in every message, and a comma.
const TAIL_BYTES: usize =
    r#",},"id":"","from":"","type":"","room":"","channel":"","payload":}"#.len();

/// Appends a name; gives where it stands.
fn put_name(bytes: &mut Vec<u8>, name: &str) -> (u32, u32) {
    let start = bytes.len() as u32;
    bytes.extend_from_slice(name.as_bytes());
    (start, bytes.len() as u32)
}

/// Writes a head, with its time, so that it ends where `end` is, and the WebSocket header before
/// it; gives where they begin.
fn put_head<const N: usize>(
    bytes: &mut [u8],
    end: usize,
    head: &[u8; N],
    time: &[u8; timestamp::LENGTH],
) -> usize {
    let mut head = *head;
    head[TIMESTAMP_AT..TIMESTAMP_AT + timestamp::LENGTH].copy_from_slice(time);
    let head_start = end - N;
    bytes[head_start..end].copy_from_slice(&head);
    let (header, length) = text_header(bytes.len() - head_start);
    // All ten bytes: what is before the header is unused.
    bytes[head_start - header.len()..head_start].copy_from_slice(&header);
    head_start - length
}

/// The header of one final, unmasked text frame, at the end of the bytes, and its length.
fn text_header(payload: usize) -> ([u8; 10], usize) {
    let mut header = [0; 10];
    match payload {
        0..=125 => {
            header[8..].copy_from_slice(&[0x81, payload as u8]);
            (header, 2)
        }
        126..=65_535 => {
            header[6..8].copy_from_slice(&[0x81, 126]);
            header[8..].copy_from_slice(&(payload as u16).to_be_bytes());
            (header, 4)
        }
        _ => {
            header[..2].copy_from_slice(&[0x81, 127]);
            header[2..].copy_from_slice(&(payload as u64).to_be_bytes());
            (header, 10)
        }
    }
}

/// The length of the header that a frame of ours begins with.
fn header_length(wire: &[u8]) -> usize {
    match wire.get(1) {
        Some(126) => 4,
        Some(127) => 10,
        _ => 2,
    }
}

fn push_header(out: &mut Vec<u8>, payload: usize) {
    let (header, length) = text_header(payload);
    out.extend_from_slice(&header[header.len() - length..]);
}

fn text(bytes: &[u8], (from, to): (u32, u32)) -> &str {
    // Both ends were taken around a whole string when the bytes were written.
    std::str::from_utf8(&bytes[from as usize..to as usize]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn draft(metadata: &str, payload: &str) -> Draft {
        let origin = Origin { received_ns: 5_000_000, ttl_ms: Some(3) };
        Draft::assemble(
            "arq_1",
            MessageType::Event,
            ("science", "general"),
            "ann",
            payload,
            metadata,
            origin,
        )
    }

    fn envelope(frame: &Frame) -> Value {
        let wire = frame.wire();
        serde_json::from_slice(&wire[header_length(wire)..]).unwrap()
    }

    #[test]
    fn stamped_frames_are_whole_envelopes() {
        for sequence in [1, u64::MAX] {
            for metadata in ["", r#""ack":true"#] {
                let frame = draft(metadata, r#"{"a":1}"#).stamp(sequence, 1_764_000_000_123_456);
                let value = envelope(&frame);
                assert_eq!(value["metadata"]["sequence"], json!(sequence));
                assert_eq!(value["id"], "arq_1");
                assert_eq!(value["from"], "ann");
                assert_eq!(value["type"], "event");
                assert_eq!(value["timestamp"], "2025-11-24T16:00:00.123456Z");
                assert_eq!(value["payload"], json!({"a": 1}));
                assert_eq!((frame.id(), frame.from()), ("arq_1", "ann"));
                assert_eq!(frame.expires_ms, Some(8));
                let again = envelope(&frame.replayed());
                assert_eq!(again["metadata"]["replayed"], true);
                assert_eq!(again["payload"], value["payload"]);
            }
        }
    }

    #[test]
    fn kept_frames_are_restored_to_the_byte() {
        let now = Now { mono_ns: 9_000_000_000, wall_us: 1_764_000_000_200_000 };
        let large = format!(r#"{{"t":"{}"}}"#, "x".repeat(70_000));
        for payload in ["{}", r#"{"a":"\u0007 \"id\":\"no\" ü 😀","b":[1e3,{}]}"#, &large] {
            for metadata in ["", r#""ack":true"#, r#""x":{"id":"}"}, "ttl_ms":5 ,"ü":"\"}""#] {
                for sequence in [1, 1_234_567, u64::MAX] {
                    let sent = draft(metadata, payload).stamp(sequence, 1_764_000_000_199_001);
                    let text = std::str::from_utf8(sent.text()).unwrap();
                    let back = Frame::restore(text, now, None).unwrap();
                    assert_eq!(back.wire(), sent.wire());
                    assert_eq!(back.replayed().wire(), sent.replayed().wire());
                    assert_eq!(back.identity(), sent.identity());
                    assert_eq!((back.id(), back.from()), (sent.id(), sent.from()));
                    assert_eq!(back.sequence, sent.sequence);
                    assert_eq!(back.timestamp_us, sent.timestamp_us);
                    assert_eq!(back.memory_bytes(), sent.memory_bytes());
                    // 1 ms of its 5 had gone by on the wall.
                    let expires_ms = metadata.contains("ttl_ms").then_some(9_004);
                    assert_eq!(back.expires_ms, expires_ms);
                    // Whatever the wall says, what was measured counts, and never more than it had.
                    for (left_ms, expected) in [(0, 9_000), (3, 9_003), (u64::MAX, 9_005)] {
                        let now = Now { wall_us: u64::MAX / 2, ..now };
                        let back = Frame::restore(text, now, Some(left_ms)).unwrap();
                        assert_eq!(back.expires_ms, expires_ms.map(|_| expected));
                    }
                }
            }
        }
    }

    #[test]
    fn expired_frames_are_restored_as_expired() {
        let sent = draft(r#""ttl_ms":5"#, "{}").stamp(1, 1_000_000);
        let now = Now { mono_ns: 7_000_000, wall_us: 9_000_000 };
        let text = std::str::from_utf8(sent.text()).unwrap();
        let back = Frame::restore(text, now, None).unwrap();
        assert!(back.is_expired(now.mono_ms()));
    }

    #[test]
    fn what_is_not_ours_is_not_restored() {
        let sent = draft("", "{}").stamp(12, 1_764_000_000_123_456);
        let text = std::str::from_utf8(sent.text()).unwrap();
        let error = |text: &str| Frame::restore(text, Now::default(), None).unwrap_err();
        for end in 0..text.len() {
            assert_eq!(error(&text[..end]), RestoreError::NotAnEnvelope);
        }
        for (from, to) in [
            (":12", ": 12"),
            (":12", ":\"12\""),
            ("\"version\":\"1.0\",", ""),
            ("2025-11-24T", "2025-11-24t"),
            ("2025-11-24T", "2025-99-24T"),
            ("\"id\"", "\"ID\""),
            ("\"from\"", "\"form\""),
            ("{\"sequence\":12}", "{}"),
            ("arq_1", &format!("arq_{}", "x".repeat(70_000))),
            ("\"ann\"", "\"änn\""),
        ] {
            assert_eq!(error(&text.replace(from, to)), RestoreError::NotOurs, "{to}");
        }
        assert_eq!(error("{}"), RestoreError::NotAnEnvelope);
        assert_eq!(error(r#"{"metadata":{},"timestamp":""}"#), RestoreError::NotOurs);
    }

    #[test]
    fn unordered_frames_have_no_sequence() {
        for (metadata, keys) in [("", 0), (r#""x":1,"y":2"#, 2)] {
            let value = envelope(&draft(metadata, "{}").stamp_unordered(0));
            assert_eq!(value["metadata"].as_object().unwrap().len(), keys);
        }
    }

    #[test]
    fn headers_fit_every_length() {
        for length in [0, 1, 60, 125, 126, 65_000, 65_535, 65_536, 1_000_000] {
            let payload = format!(r#"{{"t":"{}"}}"#, "x".repeat(length));
            let frame = draft("", &payload).stamp(9, 1);
            assert_eq!(envelope(&frame)["payload"]["t"].as_str().unwrap().len(), length);
        }
    }
}
