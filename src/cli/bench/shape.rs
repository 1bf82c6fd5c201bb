//! Whether a delivered text is the one that was meant: byte for byte on a sample, by its length,
//! its beginning, its end and its numbers on every other.
//!
//! A delivered text is `{"version":"1.0","timestamp":"…","metadata":{"sequence":7` and a tail whose
//! length is the same for every message of a round. So the stamp stands at a fixed distance from
//! the end, and a text of another length is no message of ours.

use crate::cli::bench::layout::Layout;
use crate::cli::bench::stamp::{DIGITS, Stamp};
use crate::cli::bench::stencil::{
    Filling, Naming, STAMP_END, STAMP_KEY, delivered_tail, patch_tail,
};

const BEGIN: &[u8] = br#"{"version":"1.0","timestamp":""#;
const TIME_BYTES: usize = "2025-01-01T00:00:00.000000Z".len();
const SEQUENCE_KEY: &[u8] = br#"","metadata":{"sequence":"#;
/// Where the sequence's digits begin.
const SEQUENCE_AT: usize = BEGIN.len() + TIME_BYTES + SEQUENCE_KEY.len();
/// What a replayed message says behind its sequence.
const REPLAYED: &[u8] = br#","replayed":true"#;

/// What a text turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// A message of the scenario.
    Message {
        /// Its own account.
        stamp: Stamp,
        /// Its place in the channel's order.
        sequence: u64,
        /// Whether it comes from history.
        is_replayed: bool,
    },
    /// A message with a stamp, but not as it was sent.
    Wrong(String),
    /// Something else: a notice, a reply.
    Other,
}

/// The shape of one round's messages.
#[derive(Debug)]
pub(super) struct Shape {
    tail_length: usize,
    naming: Naming,
    filling: Filling,
}

impl Shape {
    /// For everything a layout sends.
    pub(super) fn new(layout: &Layout, naming: Naming, filling: Filling) -> Shape {
        let tail_length = match layout.streams.is_empty() {
            true => 0,
            false => delivered_tail(layout, &naming, &filling, 0).0.len(),
        };
        Shape { tail_length, naming, filling }
    }

    /// The look that every text gets.
    #[inline]
    pub(super) fn glance(&self, text: &[u8]) -> Seen {
        let Some(rest) = text.strip_suffix(STAMP_END) else {
            return Seen::Other;
        };
        let Some((rest, digits)) = rest.split_last_chunk::<DIGITS>() else {
            return Seen::Other;
        };
        if !rest.ends_with(STAMP_KEY) || !text.starts_with(BEGIN) {
            return Seen::Other;
        }
        let Some(stamp) = Stamp::read(digits) else {
            return Seen::Wrong("its stamp is not made of digits".into());
        };
        let Some(sequence) = text.len().checked_sub(self.tail_length) else {
            return Seen::Wrong("it is too short".into());
        };
        match read_sequence(text.get(SEQUENCE_AT..sequence).unwrap_or_default()) {
            Some((sequence, is_replayed)) => Seen::Message { stamp, sequence, is_replayed },
            None => Seen::Wrong("its length is not what was sent, or it has no sequence".into()),
        }
    }

    /// Whether a text that passed the glance is right in every byte; if not, what is wrong.
    pub(super) fn inspect(
        &self,
        layout: &Layout,
        text: &[u8],
        stamp: &Stamp,
    ) -> Result<(), String> {
        if stamp.stream as usize >= layout.streams.len() {
            return Err(format!("nobody sends a stream {}", stamp.stream));
        }
        let time = &text[BEGIN.len()..BEGIN.len() + TIME_BYTES];
        let time = std::str::from_utf8(time).unwrap_or_default();
        if crate::protocol::timestamp::check(time).is_err() {
            return Err(format!("{time:?} is no time"));
        }
        if !text[BEGIN.len() + TIME_BYTES..].starts_with(SEQUENCE_KEY) {
            return Err("its metadata does not begin with a sequence".into());
        }
        let (tail, id_at) = delivered_tail(layout, &self.naming, &self.filling, stamp.stream);
        let mut tail = tail.into_bytes();
        patch_tail(&mut tail, id_at, stamp);
        match text.ends_with(&tail) {
            true => Ok(()),
            false => Err(format!(
                "it should end with {}",
                String::from_utf8_lossy(&tail[..tail.len().min(200)])
            )),
        }
    }
}

/// The digits between the key and the end of the metadata.
#[inline]
fn read_sequence(text: &[u8]) -> Option<(u64, bool)> {
    let (digits, is_replayed) = match text.strip_suffix(REPLAYED) {
        Some(digits) => (digits, true),
        None => (text, false),
    };
    if digits.is_empty() || digits.len() > 19 {
        return None;
    }
    let mut value = 0u64;
    for &byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value * 10 + u64::from(digit);
    }
    Some((value, is_replayed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::decode::decode;
    use crate::protocol::frame::{Draft, Origin};

    const STAMP: Stamp = Stamp { stream: 1, number: 77, token: 3, at_ns: 1_234 };

    fn round() -> (Layout, Shape, crate::cli::bench::stencil::Stencil) {
        let layout = Layout::fanout(1, 3, 2);
        let naming = Naming::new(&mut fastrand::Rng::with_seed(1));
        let filling = Filling::new(128);
        let stencil = crate::cli::bench::stencil::Stencil::for_bus(&layout, &naming, &filling, 1);
        (layout.clone(), Shape::new(&layout, naming, filling), stencil)
    }

    /// What the bus's own code makes of what the stencil sends.
    fn delivered(sequence: u64, is_replayed: bool) -> Vec<u8> {
        let (_, _, stencil) = round();
        let mut frame = Vec::new();
        stencil.push(&mut frame, &STAMP);
        let text = std::str::from_utf8(&frame[8..]).unwrap();
        let envelope = decode(text).unwrap();
        let origin = Origin { received_ns: 0, ttl_ms: None };
        let frame = Draft::new(&envelope, &envelope.from, origin).stamp(sequence, 1_764_000_000);
        let frame = if is_replayed { frame.replayed() } else { frame };
        frame.wire()[4..].to_vec()
    }

    #[test]
    fn what_a_bus_delivers_is_recognised() {
        let (layout, shape, _) = round();
        for sequence in [1, 77, 1_234_567] {
            for is_replayed in [false, true] {
                let text = delivered(sequence, is_replayed);
                let expected = Seen::Message { stamp: STAMP, sequence, is_replayed };
                assert_eq!(shape.glance(&text), expected);
                assert_eq!(shape.inspect(&layout, &text, &STAMP), Ok(()));
            }
        }
    }

    #[test]
    fn what_was_changed_on_the_way_is_told() {
        let (layout, shape, _) = round();
        let text = String::from_utf8(delivered(7, false)).unwrap();
        for (from, to) in [
            ("xx", "x"),
            (r#""sequence":7"#, r#""sequence":x"#),
            (r#""sequence":7"#, r#""sequence":"#),
            ("0000000000001234\"", "000000000000123x\""),
        ] {
            let changed = text.replacen(from, to, 1);
            assert!(matches!(shape.glance(changed.as_bytes()), Seen::Wrong(_)), "{changed}");
        }
        for (from, to) in [("xx", "yx"), ("event", "evenT"), ("arq_b", "arq_c"), ("1970", "19x0")] {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text);
            assert!(shape.inspect(&layout, changed.as_bytes(), &STAMP).is_err(), "{changed}");
        }
        for other in ["", "{}", r#"{"version":"1.0","timestamp":"x"}"#] {
            assert_eq!(shape.glance(other.as_bytes()), Seen::Other);
        }
    }
}
