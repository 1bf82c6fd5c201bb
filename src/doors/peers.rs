//! The doors talk to an independent WebSocket client over a stream in memory.

use crate::doors::handshake::{self, Handshake, HandshakePolicy};
use crate::doors::{CloseFrame, Event, Step, WebSocket, close, ping, pong};
use crate::protocol::origin::Origins;
use proptest::prelude::*;
use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::rc::Rc;
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::HandshakeError;
use tungstenite::handshake::client::ClientHandshake;
use tungstenite::protocol::Role;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::{Message, protocol};

const MAX: usize = 1 << 20;

/// The client's end of a connection: what it writes, and what it is yet to read.
#[derive(Clone, Default)]
struct Wire {
    from_client: Rc<RefCell<Vec<u8>>>,
    to_client: Rc<RefCell<Vec<u8>>>,
}

impl Wire {
    fn drain(&self) -> Vec<u8> {
        self.from_client.take()
    }

    fn give(&self, bytes: &[u8]) {
        self.to_client.borrow_mut().extend_from_slice(bytes);
    }
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

fn client(wire: &Wire) -> tungstenite::WebSocket<Wire> {
    tungstenite::WebSocket::from_raw_socket(wire.clone(), Role::Client, None)
}

/// What the client said, as the door understood it.
#[derive(Clone, Debug, PartialEq)]
enum Heard {
    Text(String),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, String)>),
}

/// Reads all of `bytes`, which come in pieces of `piece` bytes.
fn hear(socket: &mut WebSocket, bytes: &[u8], piece: usize) -> Vec<Heard> {
    let (mut heard, mut buffer) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(piece) {
        buffer.extend_from_slice(piece);
        let mut at = 0;
        loop {
            match socket.next(&mut buffer[at..], MAX) {
                Step::Event { used, event } => {
                    at += used;
                    heard.extend(event.map(|event| match event {
                        Event::Text(text) => Heard::Text(text.to_owned()),
                        Event::Ping(payload) => Heard::Ping(payload.to_owned()),
                        Event::Pong(payload) => Heard::Pong(payload.to_owned()),
                        Event::Close(close) => Heard::Close(
                            close.map(|CloseFrame { code, reason }| (code, reason.to_owned())),
                        ),
                    }));
                }
                Step::Need { .. } => break,
                Step::Fail(reason) => panic!("{reason:?} for what a library's client wrote"),
            }
        }
        buffer.drain(..at);
    }
    assert!(buffer.is_empty(), "bytes were left over");
    heard
}

#[derive(Clone, Debug)]
enum Said {
    Text(String),
    /// One message, cut at these places, with a ping after each fragment but the last.
    Fragments(String, Vec<usize>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
}

fn say(client: &mut tungstenite::WebSocket<Wire>, said: &Said) -> Vec<Heard> {
    let send = |client: &mut tungstenite::WebSocket<Wire>, message| client.send(message).unwrap();
    match said.clone() {
        Said::Text(text) => {
            send(client, Message::text(text.clone()));
            vec![Heard::Text(text)]
        }
        Said::Ping(payload) => {
            send(client, Message::Ping(payload.clone().into()));
            vec![Heard::Ping(payload)]
        }
        Said::Pong(payload) => {
            send(client, Message::Pong(payload.clone().into()));
            client.flush().unwrap();
            vec![Heard::Pong(payload)]
        }
        Said::Fragments(text, cuts) => {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (text.len() + 1)).collect();
            cuts.sort_unstable();
            cuts.push(text.len());
            let (mut heard, mut from, last) = (Vec::new(), 0, cuts.len() - 1);
            for (n, &to) in cuts.iter().enumerate() {
                let kind = if n == 0 { Data::Text } else { Data::Continue };
                let piece = text.as_bytes()[from..to].to_vec();
                let fragment = Frame::message(piece, OpCode::Data(kind), n == last);
                send(client, Message::Frame(fragment));
                if n < last {
                    send(client, Message::Ping(vec![n as u8].into()));
                    heard.push(Heard::Ping(vec![n as u8]));
                }
                from = to;
            }
            heard.push(Heard::Text(text));
            heard
        }
    }
}

fn any_said() -> impl Strategy<Value = Said> {
    let long = (".{1,20}", 0usize..9_000).prop_map(|(text, times)| text.repeat(times));
    let payload = || proptest::collection::vec(any::<u8>(), 0..=125);
    prop_oneof![
        ".{0,200}".prop_map(Said::Text),
        long.prop_map(Said::Text),
        (".{0,200}", proptest::collection::vec(any::<usize>(), 0..6))
            .prop_map(|(text, cuts)| Said::Fragments(text, cuts)),
        payload().prop_map(Said::Ping),
        payload().prop_map(Said::Pong),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_a_client_says_is_what_is_heard(
        all_said in proptest::collection::vec(any_said(), 1..8),
        piece in 1usize..5_000,
    ) {
        let wire = Wire::default();
        let mut client = client(&wire);
        let mut expected = Vec::new();
        for said in &all_said {
            expected.extend(say(&mut client, said));
        }
        let bytes = wire.drain();
        prop_assert_eq!(hear(&mut WebSocket::new(), &bytes, bytes.len().max(1)), &*expected);
        prop_assert_eq!(hear(&mut WebSocket::new(), &bytes, piece), expected);
    }
}

#[test]
fn a_client_hears_control_frames_and_the_close_handshake_ends() {
    let wire = Wire::default();
    let mut client = client(&wire);
    let mut socket = WebSocket::new();
    wire.give(&[ping(b"are you there"), pong(b""), close(1001, "going away")].concat());
    assert_eq!(client.read().unwrap(), Message::Ping("are you there".into()));
    assert_eq!(client.read().unwrap(), Message::Pong("".into()));
    let Message::Close(Some(close_frame)) = client.read().unwrap() else { panic!("no close") };
    assert_eq!((u16::from(close_frame.code), close_frame.reason.as_str()), (1001, "going away"));
    let _ = client.flush();
    let heard = hear(&mut socket, &wire.drain(), 1);
    let close_reply = Heard::Close(Some((1001, "going away".to_owned())));
    assert_eq!(heard, [Heard::Pong(b"are you there".to_vec()), close_reply]);
}

#[test]
fn a_client_closes_first() {
    let wire = Wire::default();
    let mut client = client(&wire);
    client
        .close(Some(protocol::CloseFrame { code: 4321.into(), reason: "enough".into() }))
        .unwrap();
    let mut bytes = wire.drain();
    let mut socket = WebSocket::new();
    let Step::Event { event: Some(Event::Close(close_frame)), .. } = socket.next(&mut bytes, MAX)
    else {
        panic!("no close");
    };
    wire.give(&crate::doors::close_reply(close_frame.as_ref()));
    let Message::Close(Some(reply)) = client.read().unwrap() else { panic!("no reply") };
    assert_eq!(u16::from(reply.code), 4321);
}

#[test]
fn a_client_shakes_hands_and_talks() {
    let wire = Wire::default();
    let mut request = "ws://127.0.0.1:9100/?client_id=ann&join=science:general&screen_name=Ann%20A"
        .into_client_request()
        .unwrap();
    let headers = request.headers_mut();
    headers.insert("Sec-WebSocket-Protocol", "arqonbus.v1, secret".parse().unwrap());
    headers.insert("Origin", "http://localhost:3000".parse().unwrap());
    let begun = ClientHandshake::start(wire.clone(), request, None).unwrap();
    let Err(HandshakeError::Interrupted(begun)) = begun.handshake() else {
        panic!("the client did not wait for an answer");
    };

    let policy = HandshakePolicy { allowed_origins: Origins::loopback() };
    let bytes = wire.drain();
    let Handshake::Hello { used, hello } = handshake::read(&bytes, &policy) else {
        panic!("refused: {}", String::from_utf8_lossy(&bytes));
    };
    assert_eq!(used, bytes.len());
    assert_eq!(hello.identity.client_id.as_deref(), Some("ann"));
    assert_eq!(hello.identity.screen_name.as_deref(), Some("Ann A"));
    assert_eq!(hello.identity.token.as_deref(), Some("secret"));
    assert_eq!(hello.identity.join[0].to_string(), "science:general");
    assert_eq!(hello.origin.as_deref(), Some("http://localhost:3000"));

    wire.give(&hello.accept_response());
    let (mut client, response) = begun.handshake().unwrap();
    assert_eq!(response.headers()["Sec-WebSocket-Protocol"], "arqonbus.v1");
    client.send(Message::text("hello")).unwrap();
    let heard = hear(&mut WebSocket::new(), &wire.drain(), 3);
    assert_eq!(heard, [Heard::Text("hello".to_owned())]);
}

#[test]
fn a_refused_client_can_read_why() {
    let wire = Wire::default();
    let request = "ws://127.0.0.1:9100/elsewhere".into_client_request().unwrap();
    let begun = ClientHandshake::start(wire.clone(), request, None).unwrap();
    let Err(HandshakeError::Interrupted(begun)) = begun.handshake() else {
        panic!("the client did not wait for an answer");
    };
    let policy = HandshakePolicy { allowed_origins: Origins::loopback() };
    let Handshake::Refused { response, .. } = handshake::read(&wire.drain(), &policy) else {
        panic!("not refused");
    };
    wire.give(&response);
    let Err(HandshakeError::Failure(tungstenite::Error::Http(response))) = begun.handshake() else {
        panic!("the client did not see an HTTP answer");
    };
    assert_eq!(response.status(), 400);
    let body: serde_json::Value =
        serde_json::from_slice(response.body().as_ref().unwrap()).unwrap();
    assert_eq!(body["error"], "BAD_HANDSHAKE");
}
