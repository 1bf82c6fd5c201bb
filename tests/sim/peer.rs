//! A client's end of a WebSocket connection, over buffers: bytes in, what was heard out.
//!
//! Most clients are this file's own reader and writer, which is fast and can write what a library
//! would not. Some are a library's, which nobody here wrote.

use fastrand::Rng;
use serde_json::Value;
use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::rc::Rc;
use tungstenite::Message;
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::client::ClientHandshake;
use tungstenite::handshake::{HandshakeError, MidHandshake, derive_accept_key};
use tungstenite::protocol::CloseFrame;

/// What the server did, as a client hears it.
#[derive(Debug)]
pub enum Heard {
    /// It took the handshake.
    Accepted,
    /// It refused the handshake, with this status.
    Refused(u16),
    /// A message.
    Text(String),
    /// A ping, which the peer answers itself.
    Ping,
    /// A pong.
    Pong,
    /// The server's last word.
    Close(u16, String),
    /// The bytes break the rules.
    Broken(String),
}

/// A client's end of a connection.
pub enum Peer {
    /// This file's own.
    Own(Own),
    /// A library's.
    Library(Box<Library>),
}

impl Peer {
    /// Begins a handshake with this query string.
    pub fn connect(rng: &mut Rng, query: &str) -> Peer {
        if rng.u8(..5) == 0 {
            return Peer::Library(Box::new(Library::connect(query)));
        }
        Peer::Own(Own::connect(rng.fork(), query))
    }

    /// Reads what came.
    pub fn hear(&mut self, bytes: &[u8], heard: &mut Vec<Heard>) {
        match self {
            Peer::Own(own) => own.hear(bytes, heard),
            Peer::Library(library) => library.hear(bytes, heard),
        }
    }

    /// Writes a message.
    pub fn say(&mut self, text: &str) {
        match self {
            Peer::Own(own) => own.say(text),
            Peer::Library(library) => library.send(Message::text(text)),
        }
    }

    /// Writes a ping.
    pub fn ping(&mut self) {
        match self {
            Peer::Own(own) => own.frame(0x89, b"are you there"),
            Peer::Library(library) => library.send(Message::Ping("are you there".into())),
        }
    }

    /// Says goodbye.
    pub fn close(&mut self) {
        match self {
            Peer::Own(own) => own.frame(0x88, &[0x03, 0xe8]),
            Peer::Library(library) => {
                let reason = CloseFrame { code: 1000.into(), reason: "bye".into() };
                library.send(Message::Close(Some(reason)));
            }
        }
    }

    /// Writes something that breaks the rules; false if this peer can't.
    pub fn misbehave(&mut self, how: u8) -> bool {
        let Peer::Own(own) = self else { return false };
        match how % 5 {
            0 => own.frame(0x82, b"binary"),
            1 => own.frame(0x81, &[0xff, 0xfe]),
            2 => own.frame(0x83, b"what"),
            3 => own.out.extend_from_slice(&[0x81, 0x05, b'h', b'e', b'l', b'l', b'o']),
            _ => own.frame(0x80, b"continues nothing"),
        }
        true
    }

    /// What waits to be sent.
    pub fn take_out(&mut self) -> Vec<u8> {
        match self {
            Peer::Own(own) => std::mem::take(&mut own.out),
            Peer::Library(library) => library.wire.from_client.take(),
        }
    }
}

/// The reader and writer of this file.
pub struct Own {
    rng: Rng,
    accept_key: String,
    is_open: bool,
    is_over: bool,
    input: Vec<u8>,
    out: Vec<u8>,
}

impl Own {
    fn connect(rng: Rng, query: &str) -> Own {
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        let request = format!(
            "GET /{query} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        let accept_key = derive_accept_key(key.as_bytes());
        let (is_open, is_over, input) = (false, false, Vec::new());
        Own { rng, accept_key, is_open, is_over, input, out: request.into_bytes() }
    }

    /// Writes a message, now and then in fragments with pings between them.
    fn say(&mut self, text: &str) {
        let bytes = text.as_bytes();
        if self.rng.u8(..8) > 0 {
            return self.frame(0x81, bytes);
        }
        let (mut at, mut opcode) = (0, 0x01);
        while self.rng.u8(..3) > 0 {
            let next = self.rng.usize(at..=bytes.len());
            self.frame(opcode, &bytes[at..next]);
            (at, opcode) = (next, 0x00);
            if self.rng.u8(..3) == 0 {
                self.frame(0x89, b"between");
            }
        }
        self.frame(opcode | 0x80, &bytes[at..]);
    }

    fn frame(&mut self, first: u8, payload: &[u8]) {
        self.out.push(first);
        match payload.len() {
            length @ 0..=125 => self.out.push(0x80 | length as u8),
            length @ 126..=65_535 => {
                self.out.push(0xfe);
                self.out.extend((length as u16).to_be_bytes());
            }
            length => {
                self.out.push(0xff);
                self.out.extend((length as u64).to_be_bytes());
            }
        }
        let mask = self.rng.u32(..).to_be_bytes();
        self.out.extend(mask);
        self.out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    }

    fn hear(&mut self, bytes: &[u8], heard: &mut Vec<Heard>) {
        self.input.extend_from_slice(bytes);
        if !self.is_open && !self.hear_answer(heard) {
            return;
        }
        let input = std::mem::take(&mut self.input);
        let mut at = 0;
        while let Some(used) = self.hear_frame(&input[at..], heard) {
            at += used;
        }
        self.input = input[at..].to_vec();
    }

    /// The answer to the handshake; true if frames follow it.
    fn hear_answer(&mut self, heard: &mut Vec<Heard>) -> bool {
        if self.input.len() >= 5 && !self.input.starts_with(b"HTTP/") {
            heard.push(Heard::Broken("what answers the handshake is not HTTP".into()));
        }
        let end = self.input.windows(4).position(|window| window == b"\r\n\r\n");
        let (Some(end), false) = (end, self.is_over) else { return false };
        let head = String::from_utf8_lossy(&self.input[..end]).into_owned();
        let status: u16 = head.get(9..12).and_then(|text| text.parse().ok()).unwrap_or(0);
        if status == 101 {
            if !head.contains(&self.accept_key) {
                heard.push(Heard::Broken("the accept key is wrong".into()));
            }
            self.input.drain(..end + 4);
            self.is_open = true;
            heard.push(Heard::Accepted);
            return true;
        }
        let length = head.split("Content-Length: ").nth(1);
        let length: usize =
            length.and_then(|text| text.lines().next()?.parse().ok()).unwrap_or_default();
        let body = &self.input[end + 4..];
        if body.len() < length {
            return false;
        }
        self.is_over = true;
        let body: Result<Value, _> = serde_json::from_slice(&body[..length]);
        heard.push(match body {
            Ok(body) if status == 426 || body["code"] == status => Heard::Refused(status),
            other => Heard::Broken(format!("status {status} with the body {other:?}")),
        });
        false
    }

    fn hear_frame(&mut self, input: &[u8], heard: &mut Vec<Heard>) -> Option<usize> {
        let (&first, &second) = (input.first()?, input.get(1)?);
        let (header, length) = match second {
            0..=125 => (2, usize::from(second)),
            126 => (4, usize::from(u16::from_be_bytes(input.get(2..4)?.try_into().ok()?))),
            127 => (10, u64::from_be_bytes(input.get(2..10)?.try_into().ok()?) as usize),
            _ => {
                heard.push(Heard::Broken("the server masked a frame".into()));
                return None;
            }
        };
        let used = header + length;
        if length > 1 << 26 {
            heard.push(Heard::Broken(format!("a frame of {length} bytes")));
            return None;
        }
        let payload = input.get(header..used)?;
        if self.is_over {
            heard.push(Heard::Broken(format!("a frame {first:#x} after the close")));
            return None;
        }
        match first {
            0x81 => match std::str::from_utf8(payload) {
                Ok(text) => heard.push(Heard::Text(text.to_owned())),
                Err(error) => heard.push(Heard::Broken(error.to_string())),
            },
            0x89 => {
                self.frame(0x8a, payload);
                heard.push(Heard::Ping);
            }
            0x8a => heard.push(Heard::Pong),
            0x88 => {
                self.is_over = true;
                let code = payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default());
                self.frame(0x88, payload);
                heard.push(Heard::Close(code, reason.into_owned()));
            }
            other => {
                heard.push(Heard::Broken(format!("a frame that begins with {other:#x}")));
                return None;
            }
        }
        Some(used)
    }
}

/// A library's client.
pub struct Library {
    wire: Wire,
    state: State,
}

enum State {
    Shaking(Option<MidHandshake<ClientHandshake<Wire>>>),
    Open(tungstenite::WebSocket<Wire>),
    Over,
}

/// The stream under a library's client.
#[derive(Clone, Default)]
struct Wire {
    from_client: Rc<RefCell<Vec<u8>>>,
    to_client: Rc<RefCell<Vec<u8>>>,
}

impl Read for Wire {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut waiting = self.to_client.borrow_mut();
        if waiting.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let count = into.len().min(waiting.len());
        into[..count].copy_from_slice(&waiting[..count]);
        waiting.drain(..count);
        Ok(count)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.from_client.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Library {
    fn connect(query: &str) -> Library {
        let wire = Wire::default();
        let request = format!("ws://localhost/{query}").into_client_request().unwrap();
        let state = match tungstenite::client(request, wire.clone()) {
            Err(HandshakeError::Interrupted(mid)) => State::Shaking(Some(mid)),
            Err(HandshakeError::Failure(error)) => panic!("the library's client: {error}"),
            Ok(_) => panic!("nobody has answered the handshake"),
        };
        Library { wire, state }
    }

    fn send(&mut self, message: Message) {
        if let State::Open(socket) = &mut self.state {
            // A socket that has closed takes no more; the model does not count on it.
            let _ = socket.send(message);
        }
    }

    fn hear(&mut self, bytes: &[u8], heard: &mut Vec<Heard>) {
        self.wire.to_client.borrow_mut().extend_from_slice(bytes);
        if let State::Shaking(mid) = &mut self.state {
            match mid.take().map(MidHandshake::handshake) {
                Some(Ok((socket, _))) => {
                    heard.push(Heard::Accepted);
                    self.state = State::Open(socket);
                }
                Some(Err(HandshakeError::Interrupted(mid))) => {
                    self.state = State::Shaking(Some(mid));
                }
                Some(Err(HandshakeError::Failure(tungstenite::Error::Http(response)))) => {
                    heard.push(Heard::Refused(response.status().as_u16()));
                    self.state = State::Over;
                }
                Some(Err(HandshakeError::Failure(error))) => {
                    heard.push(Heard::Broken(error.to_string()));
                    self.state = State::Over;
                }
                None => {}
            }
        }
        let State::Open(socket) = &mut self.state else { return };
        loop {
            match socket.read() {
                Ok(Message::Text(text)) => heard.push(Heard::Text(text.as_str().to_owned())),
                Ok(Message::Ping(_)) => heard.push(Heard::Ping),
                Ok(Message::Pong(_)) => heard.push(Heard::Pong),
                Ok(Message::Close(frame)) => {
                    let (code, reason) = frame.map_or((1005, String::new()), |frame| {
                        (frame.code.into(), frame.reason.as_str().to_owned())
                    });
                    heard.push(Heard::Close(code, reason));
                }
                Ok(other) => heard.push(Heard::Broken(format!("a message {other:?}"))),
                Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    let _ = socket.flush();
                    return;
                }
                Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed) => {
                    self.state = State::Over;
                    return;
                }
                Err(error) => {
                    heard.push(Heard::Broken(error.to_string()));
                    self.state = State::Over;
                    return;
                }
            }
        }
    }
}
