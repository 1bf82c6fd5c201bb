//! A frame without an allocation of its own: its bytes, wherever they lie, and what is to be known of
//! them. So a history can hold its messages beside each other.
//!
//! *Invariants*: an outline is that of the bytes that it is used with; names are as short as names are.
//!
//! *Panics*: an outline is only made of a frame, and stays with a copy of its bytes; only a frame
//! with a sequence has a tail, and histories hold no others.

use super::{Draft, Frame, HEAD_ROOM, Names, Origin, REPLAYED, header_length, push_header, text};
use crate::protocol::timestamp;
use std::num::NonZeroU64;
use std::sync::Arc;

/// What stands between an id and its sender.
const BETWEEN: usize = r#"","from":""#.len();

/// Where what stands in the wire bytes of a stamped message, and what is known of it beside them.
#[derive(Clone, Copy, Debug)]
pub struct Outline {
    timestamp_us: u64,
    /// When it expires, on the monotonic clock in milliseconds.
    expires_ms: Option<NonZeroU64>,
    /// Where the id begins.
    id: u32,
    id_length: u16,
    from_length: u16,
    /// Where the tail begins, which follows the sequence.
    tail: u16,
}

/// A stamped message that lies somewhere.
#[derive(Clone, Copy, Debug)]
pub struct FrameRef<'a> {
    wire: &'a [u8],
    outline: Outline,
    /// The place in its channel's order.
    pub sequence: u64,
}

impl Frame {
    /// What is to be kept of a stamped message beside its wire bytes and its sequence.
    pub fn outline(&self) -> Outline {
        let Frame { start, names, tail, .. } = *self;
        Outline {
            timestamp_us: self.timestamp_us,
            expires_ms: self.expires_ms.map(|ms| NonZeroU64::new(ms).unwrap_or(NonZeroU64::MIN)),
            id: names.id.0 - start,
            id_length: (names.id.1 - names.id.0) as u16,
            from_length: (names.from.1 - names.from.0) as u16,
            tail: (tail - start) as u16,
        }
    }

    fn view(&self) -> FrameRef<'_> {
        FrameRef { wire: self.wire(), outline: self.outline(), sequence: self.sequence }
    }

    /// The same message marked as coming from history, ready for the wire.
    pub fn replayed(&self) -> Arc<Frame> {
        self.view().replayed()
    }

    /// Appends the envelope, marked as coming from history, as JSON text. Only for a frame that
    /// was stamped with a sequence.
    pub fn write_replayed(&self, out: &mut Vec<u8>) {
        self.view().write_replayed(out);
    }

    /// The same message in another place and at another time. Only for a frame that was stamped with a
    /// sequence.
    pub fn moved(
        &self,
        times: &mut timestamp::Writer,
        sequence: u64,
        timestamp_us: u64,
    ) -> Arc<Frame> {
        self.view().moved(times, sequence, timestamp_us)
    }
}

impl<'a> FrameRef<'a> {
    /// The message that these bytes are.
    pub fn new(wire: &'a [u8], outline: Outline, sequence: u64) -> FrameRef<'a> {
        FrameRef { wire, outline, sequence }
    }

    /// The server's time for it, in microseconds since 1970.
    pub fn timestamp_us(&self) -> u64 {
        self.outline.timestamp_us
    }

    /// The bytes for the socket.
    pub fn wire(&self) -> &'a [u8] {
        self.wire
    }

    /// The message's id.
    pub fn id(&self) -> &'a str {
        let identity = self.identity();
        text(identity, (0, u32::from(self.outline.id_length)))
    }

    /// The sender.
    pub fn from(&self) -> &'a str {
        let identity = self.identity();
        let length = identity.len() as u32;
        text(identity, (length - u32::from(self.outline.from_length), length))
    }

    /// The id and the sender: two messages with the same are one.
    pub fn identity(&self) -> &'a [u8] {
        let Outline { id, id_length, from_length, .. } = self.outline;
        let length = usize::from(id_length) + BETWEEN + usize::from(from_length);
        &self.wire[id as usize..id as usize + length]
    }

    /// Whether the message may no longer be delivered.
    pub fn is_expired(&self, now_ms: u64) -> bool {
        self.outline.expires_ms.is_some_and(|expires_ms| now_ms >= expires_ms.get())
    }

    /// The message as a frame of its own. When it was read nobody knows any more.
    pub fn to_frame(self) -> Arc<Frame> {
        let (names, tail) = (self.names(0), u32::from(self.outline.tail));
        Arc::new(Frame { names, tail, ..self.frame_of(self.wire.to_vec()) })
    }

    /// The same message in another place and at another time. When it was read nobody knows any more.
    pub fn moved(
        self,
        times: &mut timestamp::Writer,
        sequence: u64,
        timestamp_us: u64,
    ) -> Arc<Frame> {
        let tail = usize::from(self.outline.tail);
        let mut bytes = vec![0; HEAD_ROOM];
        bytes.extend_from_slice(&self.wire[tail..]);
        let names = self.names((HEAD_ROOM - tail) as u32);
        let draft = Draft { bytes, names, origin: Origin { received_ns: 0, ttl_ms: None } };
        let mut frame = draft.stamp_by(times, sequence, timestamp_us);
        if let Some(frame) = Arc::get_mut(&mut frame) {
            frame.expires_ms = self.outline.expires_ms.map(NonZeroU64::get);
        }
        frame
    }

    /// Where its names stand if its bytes begin so much later.
    fn names(&self, shift: u32) -> Names {
        let Outline { id, id_length, from_length, .. } = self.outline;
        let id = (shift + id, shift + id + u32::from(id_length));
        let from = id.1 + BETWEEN as u32;
        Names { id, from: (from, from + u32::from(from_length)) }
    }

    /// The same message marked as coming from history, ready for the wire.
    pub fn replayed(self) -> Arc<Frame> {
        let length = self.wire.len() - header_length(self.wire) + REPLAYED.len();
        let mut bytes = Vec::with_capacity(length + 10);
        push_header(&mut bytes, length);
        self.write_replayed(&mut bytes);
        Arc::new(self.frame_of(bytes))
    }

    /// Appends the envelope, marked as coming from history, as JSON text.
    pub fn write_replayed(self, out: &mut Vec<u8>) {
        let (head, tail) = self.wire.split_at(usize::from(self.outline.tail));
        out.extend_from_slice(&head[header_length(head)..]);
        out.extend_from_slice(REPLAYED.as_bytes());
        out.extend_from_slice(tail);
    }

    /// A frame with these bytes and this place, of which nothing else is known.
    fn frame_of(self, bytes: Vec<u8>) -> Frame {
        Frame {
            bytes,
            start: 0,
            tail: 0,
            names: Names::default(),
            sequence: self.sequence,
            timestamp_us: self.outline.timestamp_us,
            expires_ms: self.outline.expires_ms.map(NonZeroU64::get),
            received_ns: 0,
        }
    }
}
