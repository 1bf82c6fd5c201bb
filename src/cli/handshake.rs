//! Opening a connection: find the host, connect, upgrade, and hear the welcome.
//!
//! Each step has the same deadline, and a signal ends any of them but the look-up of the host's
//! name, which the system offers only as a call that blocks.
//!
//! *Invariant*: a link that comes out of here talks to a bus: its first message was a welcome.

use crate::cli::failure::Failure;
use crate::cli::reactor::Reactor;
use crate::cli::target::Target;
use crate::cli::wire::{self, Halt, Link, Lost, Secret, Stream, Welcome};
use crate::cli::words::Heard;
use crate::protocol::envelope::MessageType;
use crate::protocol::names::Name;
use mio::net::TcpStream;
use serde::Deserialize;
use std::io::{self, Read};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tungstenite::handshake::HandshakeError;
use tungstenite::handshake::client::Response;
use tungstenite::{Error, WebSocket};

/// The most of a refusal's body that is read.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// The longest heartbeat, and what stands for none: it holds until the welcome tells the true one.
const HEARTBEAT_MAX: Duration = Duration::from_secs(3_600);
/// The shortest heartbeat that is believed.
const HEARTBEAT_MIN: Duration = Duration::from_millis(10);

/// Why there is no connection.
#[derive(Debug, PartialEq)]
pub(super) enum Denied {
    /// Nothing answers there.
    Unreachable(String),
    /// Something answers, but it is no bus.
    NotABus(String),
    /// It was refused, with an HTTP answer or, behind the handshake, with a message of the same.
    Http {
        /// The HTTP status.
        status: u16,
        /// The bus's word for it, if it said one.
        error: String,
        /// What the bus says is wrong.
        message: String,
    },
    /// The bus closed the connection before it welcomed the client.
    Closed(Lost),
    /// The command is over.
    Failed(Failure),
}

impl From<Failure> for Denied {
    fn from(failure: Failure) -> Denied {
        Denied::Failed(failure)
    }
}

impl From<Halt> for Denied {
    fn from(halt: Halt) -> Denied {
        match halt {
            Halt::Failed(failure) => Denied::Failed(failure),
            Halt::Lost(lost @ Lost::Closed { .. }) => Denied::Closed(lost),
            Halt::Lost(Lost::Broken(why)) => Denied::NotABus(why),
        }
    }
}

/// Opens a connection.
pub(super) fn open(target: &Target, reactor: &mut Reactor) -> Result<(Link, Welcome), Denied> {
    let until = Instant::now() + target.timeout;
    let stream = connect(target, reactor, until)?;
    let socket = upgrade(target, stream, reactor, until)?;
    let mut link = Link::new(socket, HEARTBEAT_MAX);
    let welcome = hear_welcome(&mut link, reactor, until)?;
    link.set_heartbeat(welcome.heartbeat);
    Ok((link, welcome))
}

/// Tries each address of the host in turn; each gets its share of the time that is left.
fn connect(target: &Target, reactor: &mut Reactor, until: Instant) -> Result<Stream, Denied> {
    let unreachable = |error: &dyn std::fmt::Display| {
        Denied::Unreachable(format!(
            "cannot connect to {}: {error}; start a bus there, or say with --url where it is",
            target.name()
        ))
    };
    let addresses: Vec<SocketAddr> = (target.host.as_str(), target.port)
        .to_socket_addrs()
        .map_err(|error| unreachable(&error))?
        .collect();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for (tried, &address) in addresses.iter().enumerate() {
        let left = until.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - tried).unwrap_or(1);
        match connect_to(address, reactor, Instant::now() + share)? {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(unreachable(&last))
}

fn connect_to(
    address: SocketAddr,
    reactor: &mut Reactor,
    until: Instant,
) -> Result<io::Result<Stream>, Failure> {
    let mut stream = match TcpStream::connect(address) {
        Ok(stream) => stream,
        Err(error) => return Ok(Err(error)),
    };
    if let Err(error) = reactor.watch(&mut stream) {
        return Ok(Err(error));
    }
    while Instant::now() < until {
        reactor.wait(Some(until))?;
        if let Ok(Some(error)) | Err(error) = stream.take_error() {
            return Ok(Err(error));
        }
        // Connected is who has a peer.
        if stream.peer_addr().is_ok() {
            let nodelay = stream.set_nodelay(true);
            return Ok(nodelay.map(|()| Stream(Arc::new(stream))));
        }
    }
    Ok(Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")))
}

fn upgrade(
    target: &Target,
    stream: Stream,
    reactor: &mut Reactor,
    until: Instant,
) -> Result<WebSocket<Stream>, Denied> {
    let request = target.request()?;
    let mut attempt =
        tungstenite::client::client_with_config(request, stream.clone(), Some(wire::config()));
    loop {
        match attempt {
            Ok((socket, _)) => return Ok(socket),
            Err(HandshakeError::Interrupted(_)) if Instant::now() >= until => {
                return Err(Denied::NotABus("it does not answer the handshake".into()));
            }
            Err(HandshakeError::Interrupted(unfinished)) => {
                reactor.wait(Some(until))?;
                attempt = unfinished.handshake();
            }
            Err(HandshakeError::Failure(Error::Http(response))) => {
                return Err(refusal(*response, stream, reactor)?);
            }
            Err(HandshakeError::Failure(error)) => {
                return Err(Denied::NotABus(error.to_string()));
            }
        }
    }
}

/// The words of an HTTP refusal.
#[derive(Deserialize)]
struct RefusalBody {
    message: Option<String>,
    error: Option<String>,
}

fn refusal(response: Response, stream: Stream, reactor: &mut Reactor) -> Result<Denied, Failure> {
    let status = response.status();
    let body = read_body(response, stream, reactor)?;
    let said = serde_json::from_slice::<RefusalBody>(&body).ok();
    let (message, error) = said.map_or((None, None), |said| (said.message, said.error));
    let other = || status.canonical_reason().unwrap_or("no reason given").to_owned();
    let message = message.or_else(|| error.clone()).unwrap_or_else(other);
    Ok(Denied::Http { status: status.as_u16(), error: error.unwrap_or_default(), message })
}

/// The handshake read only what came with the head; the rest of the body may still be on its way.
fn read_body(
    response: Response,
    mut stream: Stream,
    reactor: &mut Reactor,
) -> Result<Vec<u8>, Failure> {
    let length = response.headers().get("content-length");
    let length = length.and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    let length = length.unwrap_or(BODY_BYTES_MAX).min(BODY_BYTES_MAX);
    let mut body = response.into_body().unwrap_or_default();
    let until = Instant::now() + Duration::from_secs(1);
    let mut chunk = [0; 4096];
    while body.len() < length && Instant::now() < until {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => body.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                reactor.wait(Some(until))?;
            }
            Err(_) => break,
        }
    }
    body.truncate(length);
    Ok(body)
}

#[derive(Deserialize)]
struct WelcomeBody {
    event: String,
    client_id: String,
    heartbeat_ms: u64,
    limits: Option<LimitsBody>,
    session: Option<SessionBody>,
}

#[derive(Deserialize)]
struct SessionBody {
    token: String,
    #[serde(default)]
    resumed: bool,
}

#[derive(Deserialize, Default)]
struct LimitsBody {
    max_message_bytes: Option<u64>,
    rate_messages: Option<u64>,
    history_size: Option<u64>,
}

fn hear_welcome(link: &mut Link, reactor: &mut Reactor, until: Instant) -> Result<Welcome, Denied> {
    loop {
        if let Some(text) = link.read().map_err(Halt::from)? {
            return read_welcome(&text).ok_or_else(|| read_refusal(&text));
        }
        if Instant::now() >= until {
            return Err(Denied::NotABus("it sends no welcome".into()));
        }
        link.wait(reactor, Some(until))?;
    }
}

/// Why a first message is no welcome: a bus that is full says so and closes the connection.
fn read_refusal(text: &str) -> Denied {
    #[derive(Deserialize)]
    struct InBand {
        code: u16,
        error: String,
        message: String,
    }
    let payload =
        Heard::read(text).and_then(|heard| serde_json::from_str(heard.payload.get()).ok());
    match payload {
        Some(InBand { code: status, error, message }) => Denied::Http { status, error, message },
        None => Denied::NotABus("its first message is no welcome".into()),
    }
}

fn read_welcome(text: &str) -> Option<Welcome> {
    let heard = Heard::read(text).filter(|heard| heard.kind() == Some(MessageType::System))?;
    let body: WelcomeBody = serde_json::from_str(heard.payload.get()).ok()?;
    let client_id = Name::parse(&body.client_id).ok()?;
    let limits = body.limits.unwrap_or_default();
    let count = |limit: Option<u64>| limit.and_then(|count| usize::try_from(count).ok());
    (body.event == "welcome").then(|| Welcome {
        client_id,
        heartbeat: match body.heartbeat_ms {
            0 => HEARTBEAT_MAX,
            ms => Duration::from_millis(ms).clamp(HEARTBEAT_MIN, HEARTBEAT_MAX),
        },
        message_bytes_max: count(limits.max_message_bytes),
        history_size: count(limits.history_size),
        is_rate_limited: limits.rate_messages.is_some_and(|rate| rate > 0),
        is_resumed: body.session.as_ref().is_some_and(|session| session.resumed),
        session: body.session.map(|session| Secret(session.token)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system(payload: &str) -> String {
        format!(
            r#"{{"version":"1.0","id":"arq_1","type":"system","room":"*","channel":"welcome",
                 "from":"arqonbus_server","timestamp":"t","payload":{payload}}}"#
        )
    }

    #[test]
    fn a_welcome_tells_what_a_client_needs() {
        let text = system(
            r#"{"event":"welcome","client_id":"ann","client_type":"human","heartbeat_ms":250,
                "limits":{"max_message_bytes":1048576,"rate_messages":5,"other":null}}"#,
        );
        let welcome = read_welcome(&text).unwrap();
        assert_eq!(welcome.client_id, Name::fixed("ann"));
        assert_eq!(welcome.heartbeat, Duration::from_millis(250));
        assert_eq!(welcome.message_bytes_max, Some(1_048_576));
        assert!(welcome.is_rate_limited);
        let text = system(r#"{"event":"welcome","client_id":"ann","heartbeat_ms":0}"#);
        let welcome = read_welcome(&text).unwrap();
        assert_eq!((welcome.message_bytes_max, welcome.is_rate_limited), (None, false));
        assert_eq!((welcome.heartbeat, welcome.session), (HEARTBEAT_MAX, None));
        let text = system(
            r#"{"event":"welcome","client_id":"ann","heartbeat_ms":1,
                "session":{"token":"s3cret","ttl_ms":120000,"resumed":true}}"#,
        );
        let welcome = read_welcome(&text).unwrap();
        let session = (welcome.session.clone(), welcome.is_resumed);
        assert_eq!(session, (Some(Secret("s3cret".into())), true));
        assert!(!format!("{welcome:?}").contains("s3cret"));
    }

    #[test]
    fn whatever_else_comes_first_is_no_welcome() {
        for text in [
            String::new(),
            "hello".into(),
            system(r#"{"event":"closing"}"#),
            system(r#"{"event":"closing","client_id":"ann","heartbeat_ms":1}"#),
            system(r#"{"event":"welcome","client_id":"a b","heartbeat_ms":1}"#),
            system(r#"{"event":"welcome","client_id":"ann","heartbeat_ms":1}"#)
                .replace("system", "event"),
        ] {
            assert_eq!(read_welcome(&text), None, "{text}");
        }
    }
}
