//! WebSocket by hand: frames as a client writes them, right or wrong, and as a server does.

use super::http::Answer;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;

/// The first byte of frames.
pub(crate) const TEXT: u8 = 0x81;
pub(crate) const BINARY: u8 = 0x82;
pub(crate) const CLOSE: u8 = 0x88;
pub(crate) const PING: u8 = 0x89;
pub(crate) const PONG: u8 = 0x8a;

/// A masked frame; `first` is its first byte.
pub(crate) fn frame(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    const MASK: [u8; 4] = [0x1d, 0xa2, 0x33, 0xc4];
    let payload = payload.as_ref();
    let mut bytes = header(first, payload.len() as u64);
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// The header of a masked frame, without its mask.
pub(crate) fn header(first: u8, length: u64) -> Vec<u8> {
    let mut bytes = vec![first];
    match length {
        0..=125 => bytes.push(0x80 | length as u8),
        126..=65_535 => {
            bytes.push(0xfe);
            bytes.extend((length as u16).to_be_bytes());
        }
        _ => {
            bytes.push(0xff);
            bytes.extend(length.to_be_bytes());
        }
    }
    bytes
}

/// A request for a WebSocket; `more` are further header lines, each with its line break.
pub(crate) fn handshake(target: &str, more: &str) -> Vec<u8> {
    format!(
        "GET {target} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    )
    .into_bytes()
}

/// One end of a WebSocket that sends and sees frames.
pub(crate) struct RawPeer {
    stream: TcpStream,
    unread: Vec<u8>,
    /// The answer to the handshake.
    pub answer: Answer,
}

impl RawPeer {
    /// Shakes hands and reads the welcome.
    #[track_caller]
    pub(crate) fn connect(mut stream: TcpStream, query: &str) -> RawPeer {
        stream.write_all(&handshake(&format!("/?{query}"), "")).expect("the bus reads");
        let mut peer = RawPeer::upgraded(stream);
        assert_eq!(peer.message()["payload"]["event"], "welcome");
        peer
    }

    /// A peer whose request was sent: reads the answer, which upgrades.
    #[track_caller]
    pub(crate) fn upgraded(stream: TcpStream) -> RawPeer {
        RawPeer::half_upgraded(stream, b"")
    }

    /// The same for a peer that has read the beginning of the answer.
    #[track_caller]
    pub(crate) fn half_upgraded(mut stream: TcpStream, begun: &[u8]) -> RawPeer {
        let mut bytes = begun.to_vec();
        let end = loop {
            if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            let mut more = [0; 4096];
            let count = stream.read(&mut more).expect("the bus answers");
            assert!(count > 0, "the bus hung up after {:?}", String::from_utf8_lossy(&bytes));
            bytes.extend_from_slice(&more[..count]);
        };
        let answer = Answer::parse(&bytes[..end]);
        assert_eq!(answer.status, 101, "{}", answer.head);
        RawPeer { stream, unread: bytes.split_off(end), answer }
    }

    /// Sends bytes as they are; a bus that has hung up already is no failure.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// The next frame: its first byte and its payload; `None` when the bus has hung up.
    #[track_caller]
    pub(crate) fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let head = self.take(2)?;
        assert_eq!(head[1] & 0x80, 0, "a server does not mask");
        let length = match head[1] {
            126 => u16::from_be_bytes(self.take(2)?.try_into().ok()?) as usize,
            127 => u64::from_be_bytes(self.take(8)?.try_into().ok()?) as usize,
            short => short as usize,
        };
        Some((head[0], self.take(length)?))
    }

    /// The next message, which is text.
    #[track_caller]
    pub(crate) fn message(&mut self) -> Value {
        let (first, payload) = self.frame().expect("the bus says something");
        assert_eq!(first, TEXT, "{:?}", String::from_utf8_lossy(&payload));
        serde_json::from_slice(&payload).expect("the bus sends JSON")
    }

    /// Passes over messages until the bus closes; the code and the reason.
    #[track_caller]
    pub(crate) fn await_close(&mut self) -> (u16, String) {
        loop {
            let (first, payload) = self.frame().expect("the bus closes before it hangs up");
            if first == CLOSE {
                let code = u16::from_be_bytes([payload[0], payload[1]]);
                return (code, String::from_utf8_lossy(&payload[2..]).into_owned());
            }
        }
    }

    /// Whether the bus hangs up, whatever it says before.
    #[track_caller]
    pub(crate) fn is_hung_up(&mut self) -> bool {
        while self.frame().is_some() {}
        true
    }

    /// The socket.
    pub(crate) fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.unread.len() < count {
            let mut more = [0; 16 * 1024];
            match self.stream.read(&mut more) {
                Ok(0) => return None,
                Ok(read) => self.unread.extend_from_slice(&more[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("the bus said nothing in time: {error}"),
            }
        }
        let rest = self.unread.split_off(count);
        Some(std::mem::replace(&mut self.unread, rest))
    }
}
