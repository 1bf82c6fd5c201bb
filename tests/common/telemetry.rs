//! A reader of the telemetry WebSocket, which speaks from its first message on and has no welcome.

use super::client::{Knock, knock, request};
use super::{Daemon, PATIENCE};
use serde_json::Value;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::Instant;
use tungstenite::{Error, Message as Frame, WebSocket};

/// A connected reader, and everything it was told so far.
pub(crate) struct TelemetryReader {
    socket: WebSocket<TcpStream>,
    /// Every envelope, in order.
    pub heard: Vec<Value>,
}

impl TelemetryReader {
    /// Connects; whatever happens from now on is told.
    #[track_caller]
    pub(crate) fn connect(daemon: &Daemon) -> TelemetryReader {
        match knock(request(daemon.telemetry, ""), daemon.telemetry) {
            Knock::Open(socket, _) => TelemetryReader { socket, heard: Vec::new() },
            Knock::Refused(status, body) => panic!("{status}: {body}"),
        }
    }

    /// The first envelope of this type whose inner payload is meant, among those heard and to come.
    #[track_caller]
    pub(crate) fn find(&mut self, event: &str, is_meant: impl Fn(&Value) -> bool) -> Value {
        let is_it = |envelope: &Value| {
            let payload = &envelope["payload"];
            payload["eventType"] == event && is_meant(&payload["payload"])
        };
        if let Some(known) = self.heard.iter().find(|envelope| is_it(envelope)) {
            return known.clone();
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let envelope = self.next();
            if is_it(&envelope) {
                return envelope;
            }
            let heard = || self.heard.iter().map(|heard| &heard["payload"]["eventType"]);
            assert!(Instant::now() < deadline, "no {event}, but {:?}", heard().collect::<Vec<_>>());
        }
    }

    /// The first envelope of this type that is about this client.
    #[track_caller]
    pub(crate) fn about(&mut self, event: &str, client_id: &str) -> Value {
        self.find(event, |told| told["client_id"] == client_id)
    }

    /// The next envelope.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Value {
        loop {
            match self.socket.read().expect("the telemetry port has something to say") {
                Frame::Text(text) => {
                    let envelope: Value =
                        serde_json::from_str(&text).expect("the telemetry port sends JSON");
                    self.heard.push(envelope.clone());
                    return envelope;
                }
                Frame::Close(frame) => panic!("the telemetry port closed: {frame:?}"),
                _ => {}
            }
        }
    }

    /// Hears what has come by now, without waiting for more.
    #[track_caller]
    pub(crate) fn drain(&mut self) {
        self.stream().set_nonblocking(true).expect("a socket can be told not to wait");
        loop {
            match self.socket.read() {
                Ok(Frame::Text(text)) => {
                    let envelope = serde_json::from_str(&text).expect("JSON");
                    self.heard.push(envelope);
                }
                Ok(_) => {}
                Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("the telemetry port went away: {error}"),
            }
        }
        self.stream().set_nonblocking(false).expect("a socket can be told to wait");
    }

    /// The bare socket, for what no well-behaved reader does.
    pub(crate) fn stream(&mut self) -> &mut TcpStream {
        self.socket.get_mut()
    }
}
