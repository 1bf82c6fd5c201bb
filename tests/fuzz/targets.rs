//! What is fuzzed: each target takes any bytes and must come back. It asserts what must hold for
//! every input, so that not only a panic is found.

use arqonbus::broker::policy::Role;
use arqonbus::daemon::config::check_file;
use arqonbus::doors::handshake::{self, Handshake, HandshakePolicy};
use arqonbus::doors::{Event, Step, WebSocket};
use arqonbus::protocol::decode::{decode, decode_any};
use arqonbus::protocol::fault::Fault;
use arqonbus::protocol::origin::Origins;
use arqonbus::storage::RedisUrl;
use serde_json::Value;
use std::io::Write;

/// The longest message that the frame target accepts, in bytes.
const MESSAGE_BYTES_MAX: usize = 1_000;

/// A target: its name, which is the folder of its corpus, and its function.
pub(crate) type Target = (&'static str, fn(&[u8]));

/// All targets.
pub(crate) const TARGETS: &[Target] = &[
    ("handshake", handshake),
    ("frames", frames),
    ("envelope", envelope),
    ("config", config),
    ("session", crate::session::session),
];

/// The head of an HTTP request: refused, accepted or incomplete, and the same for any longer input.
pub(crate) fn handshake(input: &[u8]) {
    let policy = HandshakePolicy { allowed_origins: Origins::loopback() };
    match handshake::read(input, &policy) {
        Handshake::Need => {}
        Handshake::Refused { response, .. } => {
            assert!(response.starts_with(b"HTTP/1.1 4"), "a refusal is an HTTP answer");
        }
        Handshake::Hello { used, hello } => {
            assert!(used <= input.len(), "no byte is used that is not there");
            assert!(hello.accept_response().starts_with(b"HTTP/1.1 101 "));
            let again = handshake::read(&input[..used], &policy);
            assert!(matches!(again, Handshake::Hello { used: same, .. } if same == used));
        }
    }
}

/// WebSocket frames: the same events, however the bytes were cut by the network.
pub(crate) fn frames(input: &[u8]) {
    let whole = events(input, usize::MAX);
    for piece in [1, 3] {
        let cut = events(input, piece);
        assert_eq!(cut, whole, "pieces of {piece} bytes give other events");
    }
}

/// The events of bytes that come in pieces of that size.
fn events(input: &[u8], piece: usize) -> Vec<String> {
    let (mut socket, mut waiting, mut seen) = (WebSocket::new(), Vec::new(), Vec::new());
    for bytes in input.chunks(piece.min(input.len().max(1))) {
        waiting.extend_from_slice(bytes);
        loop {
            let length = waiting.len();
            let used = match socket.next(&mut waiting, MESSAGE_BYTES_MAX) {
                Step::Need { .. } => break,
                Step::Fail(reason) => {
                    seen.push(format!("failed: {reason:?}"));
                    return seen;
                }
                Step::Event { used, event } => {
                    assert!(used <= length, "no byte is used that is not there");
                    let is_over = matches!(event, Some(Event::Close(_)));
                    seen.extend(event.map(|event| format!("{event:?}")));
                    if is_over {
                        return seen;
                    }
                    used
                }
            };
            waiting.drain(..used);
            if used == 0 {
                break;
            }
        }
    }
    seen
}

/// An envelope: the other JSON parser has to agree on what is JSON at all.
pub(crate) fn envelope(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let judged: Result<Value, _> = serde_json::from_str(text);
    let decoded = decode(text);
    // The short way through the decoder and the long one give the same verdict.
    assert_eq!(decoded.is_ok(), decode_any(text).is_ok());
    match (&decoded, judged) {
        (Ok(_), Ok(value)) => {
            let fields = value.as_object().expect("an envelope is an object");
            assert_eq!(fields["version"], "1.0");
            assert!(fields["id"].as_str().is_some_and(|id| id.starts_with("arq_")));
            assert!(fields["payload"].is_object());
        }
        (Ok(_), Err(error)) => panic!("accepted, but the other parser says {error}: {text:?}"),
        (Err(rejected), Ok(value)) => {
            let is_wrong_json = rejected.refusal.fault == Fault::InvalidJson && value.is_object();
            assert!(!is_wrong_json, "refused as no JSON, but it is: {text:?}");
        }
        (Err(_), Err(_)) => {}
    }
    let _ = Role::parse(text);
}

/// A configuration file, and the URL of a Redis server.
pub(crate) fn config(input: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(input).expect("the file takes it");
    if let Err(mistakes) = check_file(file.path()) {
        assert!(!mistakes.is_empty(), "what is refused has a reason");
        for mistake in mistakes {
            assert!(!mistake.to_string().is_empty());
        }
    }
    if let Ok(text) = std::str::from_utf8(input) {
        let _ = RedisUrl::parse(text);
    }
}
