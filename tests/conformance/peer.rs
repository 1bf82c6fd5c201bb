//! One end of a TCP connection to the daemon, which never blocks and keeps what came as lines.

use crate::common::raw::{BINARY, CLOSE, PING, PONG, TEXT, frame, handshake};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

/// A connection.
pub(crate) struct Peer {
    stream: TcpStream,
    unread: Vec<u8>,
    is_upgraded: bool,
    is_over: bool,
    answers_pings: bool,
    /// What came and was not taken.
    lines: VecDeque<String>,
}

impl Peer {
    /// Connects, and sends these bytes.
    pub(crate) fn open(bus: SocketAddr, request: &[u8]) -> Peer {
        let mut stream = TcpStream::connect(bus).expect("the bus takes connections");
        stream.set_nodelay(true).expect("small writes can be sent at once");
        stream.write_all(request).expect("the bus reads");
        stream.set_nonblocking(true).expect("a socket need not block");
        let (unread, lines) = Default::default();
        Peer { stream, unread, is_upgraded: false, is_over: false, answers_pings: true, lines }
    }

    /// Connects and asks for a WebSocket.
    pub(crate) fn connect(bus: SocketAddr, target: &str, headers: &str) -> Peer {
        Peer::open(bus, &handshake(target, headers))
    }

    /// From now on pings get no answer.
    pub(crate) fn sleep(&mut self) {
        self.answers_pings = false;
    }

    /// Ends the connection for good.
    pub(crate) fn hang_up(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
        self.is_over = true;
    }

    /// Sends a frame; a daemon that has hung up already is no failure.
    pub(crate) fn send_frame(&mut self, kind: Kind, payload: &[u8]) {
        let first = match kind {
            Kind::Text => TEXT,
            Kind::Binary => BINARY,
            Kind::Ping => PING,
            Kind::Pong => PONG,
            Kind::Close => CLOSE,
        };
        self.send(&frame(first, payload));
    }

    /// Sends bytes, all of them.
    pub(crate) fn send(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.read(),
                Err(_) => return,
            }
        }
    }

    /// Takes what is there; whether something was.
    pub(crate) fn poll(&mut self) -> bool {
        let before = self.lines.len();
        self.read();
        self.lines.len() > before
    }

    /// How many lines have come and were not taken.
    pub(crate) fn len(&self) -> usize {
        self.lines.len()
    }

    /// The lines that came.
    pub(crate) fn take(&mut self) -> Vec<String> {
        self.lines.drain(..).collect()
    }

    fn read(&mut self) {
        let mut bytes = [0; 64 * 1024];
        while !self.is_over {
            match self.stream.read(&mut bytes) {
                Ok(0) => self.end(),
                Ok(count) => self.unread.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return self.cut(),
                Err(_) => self.end(),
            }
        }
    }

    fn end(&mut self) {
        self.cut();
        self.is_over = true;
        self.lines.push_back("end".to_owned());
    }

    /// Cuts what was read into lines.
    fn cut(&mut self) {
        loop {
            let cut = match self.is_upgraded {
                true => self.cut_frame(),
                false => self.cut_head(),
            };
            if cut.is_none() {
                return;
            }
        }
    }

    fn cut_head(&mut self) -> Option<()> {
        let end = self.unread.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let head = String::from_utf8_lossy(&self.unread[..end]).into_owned();
        let header = |name: &str| {
            head.lines().find_map(|line| {
                let (key, value) = line.split_once(": ")?;
                key.eq_ignore_ascii_case(name).then(|| value.to_owned())
            })
        };
        let status = head.split(' ').nth(1)?.to_owned();
        if status == "101" {
            self.unread.drain(..end);
            self.is_upgraded = true;
            if let Some(chosen) = header("sec-websocket-protocol") {
                self.lines.push_back(format!("101 {chosen}"));
            }
            return Some(());
        }
        let length: usize = header("content-length")?.parse().ok()?;
        let body = self.unread.get(end..end + length)?;
        let body = String::from_utf8_lossy(body).into_owned();
        self.unread.drain(..end + length);
        let more = ["Retry-After", "Sec-WebSocket-Version", "Allow"]
            .iter()
            .filter_map(|name| Some(format!("{name}: {}, ", header(name)?)))
            .collect::<String>();
        self.lines.push_back(format!("{status} {more}{}", body.trim_end()));
        Some(())
    }

    fn cut_frame(&mut self) -> Option<()> {
        let bytes = &self.unread;
        let (first, second) = (*bytes.first()?, *bytes.get(1)?);
        let (start, length) = match second {
            126 => (4, u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?) as usize),
            127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize),
            short => (2, short as usize),
        };
        let payload = bytes.get(start..start + length)?.to_vec();
        self.unread.drain(..start + length);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match first {
            TEXT => self.lines.push_back(text(&payload)),
            PING if self.answers_pings => self.send(&frame(PONG, &payload)),
            PING => {}
            PONG => self.lines.push_back(format!("pong {}", text(&payload))),
            CLOSE => {
                let code = payload.first_chunk().map_or(1005, |&two| u16::from_be_bytes(two));
                let reason = text(payload.get(2..).unwrap_or_default());
                self.lines.push_back(format!("close {code} {reason}").trim_end().to_owned());
                // A client echoes the close, so that the daemon need not wait for it.
                self.send(&frame(CLOSE, &payload));
            }
            other => self.lines.push_back(format!("a frame that begins with {other:#x}")),
        }
        Some(())
    }
}

/// A kind of frame.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Text,
    Binary,
    Ping,
    Pong,
    Close,
}
