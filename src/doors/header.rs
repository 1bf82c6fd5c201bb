//! The header of a client's frame (RFC 6455, section 5.2).
//!
//! *Invariants*: a [`Header`] that exists follows every rule that can be told from it alone; a
//! header is refused at the first of its bytes that makes it wrong, payload or no payload.
//!
//! *Not here*: rules between frames, and the size limit.

use crate::protocol::close::CloseReason;

/// The longest payload of a control frame.
pub(super) const CONTROL_BYTES_MAX: usize = 125;

/// What a frame is. Binary is missing because the bus refuses it, wherever it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opcode {
    /// More of the message that the frames before began.
    Continuation,
    /// A text message, or its first fragment.
    Text,
    /// The peer ends the conversation.
    Close,
    /// Are you there?
    Ping,
    /// I am.
    Pong,
}

/// The header of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// What the frame is.
    pub(super) opcode: Opcode,
    /// Whether the message ends with this frame.
    pub(super) is_final: bool,
    /// What the payload is masked with.
    pub(super) mask: [u8; 4],
    /// The length of the header itself.
    pub(super) header_bytes: usize,
    /// The length of the payload; saturates where the machine's word is too small for it.
    pub(super) payload_bytes: usize,
}

impl Header {
    /// Reads the header that `input` begins with; `None` if it has not all arrived.
    pub(super) fn parse(input: &[u8]) -> Result<Option<Header>, CloseReason> {
        let Some((&[first, second], rest)) = input.split_first_chunk::<2>() else {
            return Ok(None);
        };
        let opcode = opcode(first)?;
        let is_final = first & 0x80 != 0;
        // A client that does not mask may be a web page that speaks through a confused proxy.
        if second & 0x80 == 0 {
            return Err(CloseReason::Protocol);
        }
        let short_length = second & 0x7f;
        let is_control = !matches!(opcode, Opcode::Text | Opcode::Continuation);
        if is_control && (!is_final || usize::from(short_length) > CONTROL_BYTES_MAX) {
            return Err(CloseReason::Protocol);
        }
        let Some((payload_bytes, rest)) = payload_length(short_length, rest)? else {
            return Ok(None);
        };
        let Some((&mask, rest)) = rest.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let header_bytes = input.len() - rest.len();
        Ok(Some(Header { opcode, is_final, mask, header_bytes, payload_bytes }))
    }
}

/// The opcode in a frame's first byte. No extension was agreed on, so no reserved bit may be set.
fn opcode(first: u8) -> Result<Opcode, CloseReason> {
    if first & 0x70 != 0 {
        return Err(CloseReason::Protocol);
    }
    match first & 0x0f {
        0x0 => Ok(Opcode::Continuation),
        0x1 => Ok(Opcode::Text),
        0x2 => Err(CloseReason::Binary),
        0x8 => Ok(Opcode::Close),
        0x9 => Ok(Opcode::Ping),
        0xa => Ok(Opcode::Pong),
        _ => Err(CloseReason::Protocol),
    }
}

/// The payload's length and what follows it. A length must be written in the fewest bytes.
fn payload_length(short: u8, rest: &[u8]) -> Result<Option<(usize, &[u8])>, CloseReason> {
    let (length, rest) = match short {
        126 => match rest.split_first_chunk::<2>() {
            Some((bytes, rest)) => (u64::from(u16::from_be_bytes(*bytes)), rest),
            None => return Ok(None),
        },
        127 => match rest.split_first_chunk::<8>() {
            Some((bytes, rest)) => (u64::from_be_bytes(*bytes), rest),
            None => return Ok(None),
        },
        short => return Ok(Some((usize::from(short), rest))),
    };
    let fewest = if short == 126 { 126 } else { 65_536 };
    if length < fewest || length > i64::MAX as u64 {
        return Err(CloseReason::Protocol);
    }
    Ok(Some((usize::try_from(length).unwrap_or(usize::MAX), rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: [u8; 4] = [1, 2, 3, 4];

    #[test]
    fn lengths_are_read_at_every_boundary() {
        for (length, extended) in [
            (0, &[][..]),
            (125, &[]),
            (126, &[0, 126]),
            (65_535, &[0xff, 0xff]),
            (65_536, &[0, 0, 0, 0, 0, 1, 0, 0]),
            (i64::MAX as usize, &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ] {
            let short = match extended.len() {
                0 => length as u8,
                2 => 126,
                _ => 127,
            };
            let bytes = [&[0x81, 0x80 | short], extended, &MASK].concat();
            let expected = Header {
                opcode: Opcode::Text,
                is_final: true,
                mask: MASK,
                header_bytes: bytes.len(),
                payload_bytes: length,
            };
            assert_eq!(Header::parse(&bytes), Ok(Some(expected)), "{length}");
            for cut in 0..bytes.len() {
                assert_eq!(Header::parse(&bytes[..cut]), Ok(None), "{length} cut at {cut}");
            }
        }
    }

    #[test]
    fn lengths_in_more_bytes_than_needed_are_refused() {
        for bytes in [
            &[0x81, 0xfe, 0, 125][..],
            &[0x81, 0xfe, 0, 0],
            &[0x81, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff],
            &[0x81, 0xff, 0, 0, 0, 0, 0, 0, 0, 1],
            &[0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0],
            &[0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        ] {
            assert_eq!(Header::parse(bytes), Err(CloseReason::Protocol), "{bytes:x?}");
        }
    }

    #[test]
    fn every_first_two_bytes_are_judged_at_once() {
        for first in 0..=u8::MAX {
            for second in 0..=u8::MAX {
                let (opcode, control) = (first & 0x0f, first & 0x08 != 0);
                let expected = if first & 0x70 != 0 || matches!(opcode, 3..=7 | 11..=15) {
                    Err(CloseReason::Protocol)
                } else if opcode == 2 {
                    Err(CloseReason::Binary)
                } else if second < 0x80 || control && (first < 0x80 || second & 0x7f > 125) {
                    Err(CloseReason::Protocol)
                } else {
                    Ok(None)
                };
                let judged = Header::parse(&[first, second]);
                assert_eq!(judged, expected, "{first:#x} {second:#x}");
            }
        }
    }
}
