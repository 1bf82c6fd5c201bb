//! The control frames a server sends: pings, pongs and closes (RFC 6455, section 5.5). Never
//! masked, always one frame.

use crate::doors::header::CONTROL_BYTES_MAX;
use crate::doors::websocket::CloseFrame;

/// The code that stands for "no code was given" and is never sent.
const NO_CODE: u16 = 1005;

/// A ping. A payload over 125 bytes is cut.
pub fn ping(payload: &[u8]) -> Vec<u8> {
    frame(0x89, &[payload])
}

/// The answer to a ping, with the ping's own payload.
pub fn pong(payload: &[u8]) -> Vec<u8> {
    frame(0x8a, &[payload])
}

/// A close. The reason is cut at a character so that it fits; a code that may not be sent, such as
/// the 1006 of a lost connection, gives a close without a code.
pub fn close(code: u16, reason: &str) -> Vec<u8> {
    if !may_be_sent(code) {
        return frame(0x88, &[]);
    }
    let reason = &reason[..reason.floor_char_boundary(CONTROL_BYTES_MAX - 2)];
    frame(0x88, &[&code.to_be_bytes(), reason.as_bytes()])
}

/// The answer to a peer's close: the same code, or none if it gave none.
pub fn close_reply(close_frame: Option<&CloseFrame<'_>>) -> Vec<u8> {
    close(close_frame.map_or(NO_CODE, |frame| frame.code), "")
}

/// Whether a close frame may carry `code` (RFC 6455, section 7.4, and the registry it founded):
/// those that have a meaning for an endpoint, and the ranges left to libraries and applications.
pub(super) fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1013 | 3000..=4999)
}

fn frame(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(2 + parts.iter().map(|part| part.len()).sum::<usize>());
    bytes.extend_from_slice(&[first, 0]);
    for part in parts {
        bytes.extend_from_slice(part);
    }
    bytes.truncate(2 + CONTROL_BYTES_MAX);
    bytes[1] = (bytes.len() - 2) as u8;
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::close::CloseReason;
    use tungstenite::protocol::frame::coding::CloseCode;

    #[test]
    fn frames_are_unmasked_and_short() {
        assert_eq!(ping(b"hi"), b"\x89\x02hi");
        assert_eq!(pong(b""), b"\x8a\x00");
        assert_eq!(pong(&[7; 125]).len(), 127);
        let cut = ping(&[7; 300]);
        assert_eq!((cut.len(), cut[1]), (127, 125));
    }

    #[test]
    fn closes_carry_what_may_be_sent() {
        assert_eq!(close(1000, "bye"), b"\x88\x05\x03\xe8bye");
        for never in [0, 999, 1004, 1005, 1006, 1015, 2999, 5000] {
            assert_eq!(close(never, "bye"), b"\x88\x00", "{never}");
        }
        assert_eq!(close_reply(None), b"\x88\x00");
        let peers = CloseFrame { code: 4999, reason: "said the peer" };
        assert_eq!(close_reply(Some(&peers)), b"\x88\x02\x13\x87");
    }

    #[test]
    fn reasons_are_cut_between_characters() {
        for (reason, kept) in
            [("x".repeat(123), 123), ("x".repeat(124), 123), ("é".repeat(99), 122)]
        {
            let bytes = close(1008, &reason);
            assert_eq!(bytes[1] as usize, 2 + kept);
            assert_eq!(std::str::from_utf8(&bytes[4..]).unwrap(), &reason[..kept]);
        }
        for reason in CloseReason::ALL.iter().filter(|reason| reason.code() != 1006) {
            assert!(close(reason.code(), reason.reason()).ends_with(reason.reason().as_bytes()));
        }
    }

    #[test]
    fn the_codes_are_those_a_strict_library_allows() {
        for code in 0..=u16::MAX {
            assert_eq!(
                may_be_sent(code),
                code != 0 && CloseCode::from(code).is_allowed(),
                "{code}"
            );
        }
    }
}
