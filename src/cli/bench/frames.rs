//! A server's WebSocket frames (RFC 6455, section 5.2), found where the socket put them.
//!
//! *Not here*: what is in them; and messages cut into fragments, which no server here sends: they
//! are a fault, told as such.

/// The longest frame that is believed.
const FRAME_BYTES_MAX: u64 = 64 << 20;

/// One frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    /// What it is.
    pub(super) kind: Kind,
    /// Its payload.
    pub(super) payload: &'a [u8],
    /// Its length with its header.
    pub(super) length: usize,
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A whole text message.
    Text,
    /// The end.
    Close,
    /// A question whether we are there.
    Ping,
    /// The answer to such a question.
    Pong,
}

/// What stands at the beginning of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<'a> {
    /// A frame.
    Frame(Frame<'a>),
    /// The beginning of one.
    Partial,
    /// What no server may send.
    Wrong(&'static str),
}

/// The frame at the beginning of `bytes`.
#[inline]
pub(super) fn next(bytes: &[u8]) -> Next<'_> {
    let [first, second, ..] = *bytes else {
        return Next::Partial;
    };
    let (header, length) = match second {
        0..=125 => (2, u64::from(second)),
        126 => match bytes.get(2..4).and_then(|length| length.try_into().ok()) {
            Some(length) => (4, u64::from(u16::from_be_bytes(length))),
            None => return Next::Partial,
        },
        127 => match bytes.get(2..10).and_then(|length| length.try_into().ok()) {
            Some(length) => (10, u64::from_be_bytes(length)),
            None => return Next::Partial,
        },
        _ => return Next::Wrong("a masked frame"),
    };
    let kind = match first {
        0x81 => Kind::Text,
        0x88 => Kind::Close,
        0x89 => Kind::Ping,
        0x8a => Kind::Pong,
        0x01 | 0x00 | 0x80 => return Next::Wrong("a message in fragments"),
        0x82 | 0x02 => return Next::Wrong("a binary message"),
        _ => return Next::Wrong("a frame that is none"),
    };
    if length > FRAME_BYTES_MAX {
        return Next::Wrong("a frame that is too long");
    }
    let end = header + length as usize;
    match bytes.get(header..end) {
        Some(payload) => Next::Frame(Frame { kind, payload, length: end }),
        None => Next::Partial,
    }
}

/// The code and the reason of a close frame.
pub(super) fn close_words(payload: &[u8]) -> (u16, String) {
    match payload {
        [high, low, reason @ ..] => {
            (u16::from_be_bytes([*high, *low]), String::from_utf8_lossy(reason).into_owned())
        }
        // RFC 6455, section 7.1.5: a close frame without a code counts as 1005.
        _ => (1005, String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_every_length_are_found() {
        for length in [0usize, 1, 125, 126, 127, 65_535, 65_536, 200_000] {
            let mut bytes = match length {
                0..=125 => vec![0x81, length as u8],
                126..=65_535 => [&[0x81, 126][..], &(length as u16).to_be_bytes()].concat(),
                _ => [&[0x81, 127][..], &(length as u64).to_be_bytes()].concat(),
            };
            let header = bytes.len();
            bytes.resize(header + length, b'x');
            bytes.push(0x81);
            let Next::Frame(frame) = next(&bytes) else { panic!("{length}") };
            assert_eq!((frame.kind, frame.payload.len()), (Kind::Text, length));
            assert_eq!(frame.length, header + length);
            for end in [0, 1, header - 1, header + length.saturating_sub(1)] {
                if end < header + length {
                    assert_eq!(next(&bytes[..end]), Next::Partial, "{length} cut at {end}");
                }
            }
        }
    }

    #[test]
    fn what_no_server_may_send_is_told() {
        for (bytes, what) in [
            (vec![0x81, 0x81, 0, 0, 0, 0, 0], "masked"),
            (vec![0x01, 0], "fragments"),
            (vec![0x82, 0], "binary"),
            (vec![0xc1, 0], "none"),
            ([&[0x81, 127][..], &u64::MAX.to_be_bytes()].concat(), "long"),
        ] {
            match next(&bytes) {
                Next::Wrong(why) => assert!(why.contains(what), "{why}"),
                other => panic!("{bytes:?}: {other:?}"),
            }
        }
        assert_eq!(close_words(&[0x0f, 0xa8, b'a']), (4008, "a".into()));
        assert_eq!(close_words(&[]), (1005, String::new()));
    }
}
