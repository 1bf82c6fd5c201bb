//! Frames that are made once and patched: a message costs a copy and a few digits.
//!
//! A client must mask what it sends (RFC 6455, section 5.3), with any key; a key of 0 is legal and
//! changes no byte. Unpredictable keys protect caches between a browser and a server from bytes
//! that a web page chose. Here is no browser, no page and no cache, and the server takes the mask
//! off all the same, so its work is what it is with any key.
//!
//! To a relay goes the text that a bus would deliver, so that the same bytes travel to the members;
//! its mask key is not a mask but the index of the group (see `relay`).
//!
//! *Invariant*: every text a scenario sends has the same length, and so has every text that is
//! delivered but for the digits of its sequence. [`Naming`] sees to that with fixed widths.

use crate::cli::bench::layout::Layout;
use crate::cli::bench::stamp::{DIGITS, Stamp, write_digits};

/// The message's id without what makes it unique: the stream and the number follow.
const ID_HEAD: &str = "arq_b";
/// Before the stamp stands this, and behind it only the end of two objects.
pub(super) const STAMP_KEY: &[u8] = br#""stamp":""#;
/// The end of the payload and of the envelope.
pub(super) const STAMP_END: &[u8] = br#""}}"#;
/// A payload that holds nothing but its stamp.
pub(super) const PAYLOAD_BYTES_MIN: usize = 1 + STAMP_KEY.len() + DIGITS + 2;
/// What the filling costs beside itself.
const FILL_BYTES: usize = r#""fill":"","#.len();
/// The sequence in a text for a relay, which gives none: as long as one of a busy channel.
const RELAY_SEQUENCE: &str = "100000";

/// The names of one round; a target that is not ours may still hold those of another.
#[derive(Debug, Clone)]
pub(super) struct Naming {
    tag: String,
}

impl Naming {
    /// Names with a tag of their own.
    pub(super) fn new(rng: &mut fastrand::Rng) -> Naming {
        Naming { tag: (0..6).map(|_| rng.lowercase()).collect() }
    }

    /// A room, or a relay's group.
    pub(super) fn room(&self, group: u32) -> String {
        format!("bench-{}-{group:06}", self.tag)
    }

    /// A client.
    pub(super) fn client(&self, conn: u32) -> String {
        format!("bench-{}-c{conn:06}", self.tag)
    }
}

/// The one channel of every room.
pub(super) const CHANNEL: &str = "main";

/// A payload's text up to the digits of its stamp.
#[derive(Debug, Clone)]
pub(super) struct Filling(String);

impl Filling {
    /// For payloads of so many bytes, of which the least is [`PAYLOAD_BYTES_MIN`]. A length that
    /// is a little more than the stamp needs, but has no room for a filling, gets white space.
    pub(super) fn new(bytes: usize) -> Filling {
        let spare = bytes.saturating_sub(PAYLOAD_BYTES_MIN);
        let key = String::from_utf8_lossy(STAMP_KEY);
        Filling(match spare.checked_sub(FILL_BYTES) {
            Some(length) => format!(r#"{{"fill":"{}",{key}"#, "x".repeat(length)),
            None => format!("{{{}{key}", " ".repeat(spare)),
        })
    }

    /// The text.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The part of a delivered text behind its sequence, with zeros for the unique digits. Also where
/// the id's digits begin in it.
pub(super) fn delivered_tail(
    layout: &Layout,
    naming: &Naming,
    filling: &Filling,
    stream: u32,
) -> (String, usize) {
    let source = layout.streams[stream as usize];
    let mut text = format!(r#"}},"id":"{ID_HEAD}"#);
    let id_at = text.len();
    text += &format!(
        r#"{:016}","from":"{}","type":"event","room":"{}","channel":"{CHANNEL}","payload":{}{:040}"}}}}"#,
        0,
        naming.client(source.conn),
        naming.room(source.group),
        filling.as_str(),
        0
    );
    (text, id_at)
}

/// A whole masked frame whose digits are patched for each message.
#[derive(Debug)]
pub(super) struct Stencil {
    frame: Vec<u8>,
    id_at: usize,
    stamp_at: usize,
}

impl Stencil {
    /// For a bus: the envelope as a client writes it.
    pub(super) fn for_bus(
        layout: &Layout,
        naming: &Naming,
        filling: &Filling,
        stream: u32,
    ) -> Stencil {
        let source = layout.streams[stream as usize];
        let mut text = format!(r#"{{"version":"1.0","id":"{ID_HEAD}"#);
        let id_at = text.len();
        text += &format!(
            r#"{:016}","type":"event","room":"{}","channel":"{CHANNEL}","from":"{}","timestamp":"2025-01-01T00:00:00Z","payload":{}{:040}"}}}}"#,
            0,
            naming.room(source.group),
            naming.client(source.conn),
            filling.as_str(),
            0
        );
        Stencil::of_text(&text, id_at, 0)
    }

    /// For a relay: the envelope as a bus delivers it, and the group's index as the mask key.
    pub(super) fn for_relay(
        layout: &Layout,
        naming: &Naming,
        filling: &Filling,
        stream: u32,
    ) -> Stencil {
        let source = layout.streams[stream as usize];
        let index = layout.seat_of(source.conn, source.group).unwrap_or_default();
        let head = format!(
            r#"{{"version":"1.0","timestamp":"2025-01-01T00:00:00.000000Z","metadata":{{"sequence":{RELAY_SEQUENCE}"#
        );
        let (tail, id_at) = delivered_tail(layout, naming, filling, stream);
        Stencil::of_text(&format!("{head}{tail}"), head.len() + id_at, index as u32)
    }

    fn of_text(text: &str, id_at: usize, key: u32) -> Stencil {
        let mut frame = Vec::with_capacity(text.len() + 14);
        push_masked_header(&mut frame, 0x81, text.len(), key);
        let header = frame.len();
        frame.extend_from_slice(text.as_bytes());
        let stamp_at = frame.len() - STAMP_END.len() - DIGITS;
        Stencil { id_at: header + id_at, stamp_at, frame }
    }

    /// Appends one message.
    pub(super) fn push(&self, out: &mut Vec<u8>, stamp: &Stamp) {
        let start = out.len();
        out.extend_from_slice(&self.frame);
        let frame = &mut out[start..];
        let mut digits = [0; DIGITS];
        stamp.write(&mut digits);
        frame[self.id_at..self.id_at + 16].copy_from_slice(&digits[..16]);
        frame[self.stamp_at..self.stamp_at + DIGITS].copy_from_slice(&digits);
    }
}

/// Appends the header of a client's frame. The payload that follows is not masked: see above.
pub(super) fn push_masked_header(out: &mut Vec<u8>, first: u8, length: usize, key: u32) {
    out.push(first);
    match length {
        0..=125 => out.push(0x80 | length as u8),
        126..=65_535 => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&key.to_be_bytes());
}

/// Writes the digits that make a delivered tail one message's.
pub(super) fn patch_tail(tail: &mut [u8], id_at: usize, stamp: &Stamp) {
    let at = tail.len() - STAMP_END.len() - DIGITS;
    write_digits(&mut tail[id_at..id_at + 8], u64::from(stamp.stream));
    write_digits(&mut tail[id_at + 8..id_at + 16], u64::from(stamp.number));
    let mut digits = [0; DIGITS];
    stamp.write(&mut digits);
    tail[at..at + DIGITS].copy_from_slice(&digits);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    const STAMP: Stamp = Stamp { stream: 1, number: 77, token: 3, at_ns: 1_234 };

    fn frame_of(stencil: &Stencil) -> Vec<u8> {
        let mut out = b"before".to_vec();
        stencil.push(&mut out, &STAMP);
        out.split_off(6)
    }

    #[test]
    fn payloads_have_the_length_that_was_asked_for() {
        for bytes in [PAYLOAD_BYTES_MIN, PAYLOAD_BYTES_MIN + 3, 64, 128, 1_024, 70_000] {
            let (layout, naming) = (Layout::fanout(1, 3, 2), Naming { tag: "abcdef".into() });
            let filling = Filling::new(bytes);
            for stencil in [
                Stencil::for_bus(&layout, &naming, &filling, 1),
                Stencil::for_relay(&layout, &naming, &filling, 1),
            ] {
                let frame = frame_of(&stencil);
                let start = frame.iter().position(|&byte| byte == b'{').unwrap();
                let text = std::str::from_utf8(&frame[start..]).unwrap();
                let envelope: Value = serde_json::from_str(text).unwrap();
                let payload = text.split_once(r#""payload":"#).unwrap().1;
                assert_eq!(payload.len() - 1, bytes);
                assert_eq!(envelope["id"], "arq_b0000000100000077");
                assert_eq!(envelope["from"], "bench-abcdef-c000001");
                assert_eq!(envelope["room"], "bench-abcdef-000000");
                let stamp = envelope["payload"]["stamp"].as_str().unwrap();
                assert_eq!(Stamp::read(stamp.as_bytes().try_into().unwrap()), Some(STAMP));
            }
        }
    }

    #[test]
    fn a_relay_is_told_the_group_by_the_mask_key() {
        let layout = Layout::rooms(4, 2, 2, 1, 1);
        let (naming, filling) = (Naming { tag: "abcdef".into() }, Filling::new(100));
        for stream in 0..4 {
            let frame = frame_of(&Stencil::for_relay(&layout, &naming, &filling, stream));
            assert_eq!(frame[..2], [0x81, 0x80 | 126]);
            assert_eq!(frame[4..8], stream.to_be_bytes(), "both are in all four rooms");
        }
    }
}
