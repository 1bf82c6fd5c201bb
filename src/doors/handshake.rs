//! The opening handshake (RFC 6455, section 4.2; protocol, section 2): from the first bytes of a
//! connection to who the client says it is, or to an HTTP answer that says why not.
//!
//! *Invariants*: the answer depends on nothing but the bytes and the policy; an unfinished request
//! is refused before it grows over [`HANDSHAKE_BYTES_MAX`]; a header that decides something stands
//! once, or the request is refused, so that no proxy in front can have read it differently. A
//! token is never said back.
//!
//! *Not here*: whether a token holds, whether a client id is free, how long a client may take.

use crate::base::limits::{HANDSHAKE_BYTES_MAX, HANDSHAKE_HEADERS_MAX};
use crate::doors::{query, refusal};
use crate::protocol::command::Identity;
use crate::protocol::fault::{Fault, Refusal};
use crate::protocol::origin::{self, Origins};
use std::borrow::Cow;
use tungstenite::handshake::derive_accept_key;

/// The one subprotocol of the bus.
pub const SUBPROTOCOL: &str = "arqonbus.v1";

/// How much of what a client made up is said back to it.
const ECHO_BYTES_MAX: usize = 100;

/// What the operator lets connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandshakePolicy {
    /// The web pages that may.
    pub allowed_origins: Origins,
}

/// What came of the bytes so far.
#[derive(Debug)]
pub enum Handshake {
    /// The request has not all arrived.
    Need,
    /// The request is refused: send the response, then close.
    Refused {
        /// A whole HTTP answer.
        response: Vec<u8>,
        /// Why, for the meters.
        fault: Fault,
    },
    /// The request is a good one.
    Hello {
        /// The length of the request; what follows are frames.
        used: usize,
        /// Who asks.
        hello: Box<Hello>,
    },
}

/// A good request, which the server may still refuse with [`refuse`](crate::doors::refuse).
#[derive(Debug, PartialEq)]
pub struct Hello {
    /// Who the client says it is, its token included.
    pub identity: Identity,
    /// The web page's origin, if the client is a browser.
    pub origin: Option<String>,
    /// Whether nothing in the request says that it comes from elsewhere than this machine: its
    /// `Host` is a loopback name, no proxy has forwarded it, and a page that sent it is this machine's.
    pub is_local: bool,
    /// The proof that the request was understood.
    accept_key: String,
    /// Whether the client offered [`SUBPROTOCOL`].
    has_subprotocol: bool,
}

/// Reads the request that `input`, all that has come from a new connection, begins with.
pub fn read(input: &[u8], policy: &HandshakePolicy) -> Handshake {
    match hello(input, policy) {
        Ok(None) => Handshake::Need,
        Ok(Some((used, hello))) => Handshake::Hello { used, hello: Box::new(hello) },
        Err(Rejection::Refused(refusal)) => {
            Handshake::Refused { response: refusal::refuse(&refusal), fault: refusal.fault }
        }
        Err(Rejection::UpgradeRequired(refusal)) => Handshake::Refused {
            response: refusal::upgrade_required(&refusal),
            fault: refusal.fault,
        },
    }
}

impl Hello {
    /// The answer that makes the connection a WebSocket. No extension is taken up. A client that
    /// offers only subprotocols the bus does not have gets none, and decides itself whether to
    /// stay (RFC 6455, section 4.1).
    pub fn accept_response(&self) -> Vec<u8> {
        let key = &self.accept_key;
        let subprotocol = match self.has_subprotocol {
            true => format!("Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n"),
            false => String::new(),
        };
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {key}\r\n{subprotocol}\r\n"
        )
        .into_bytes()
    }
}

/// A refusal, and which status it goes out with.
#[derive(Debug)]
enum Rejection {
    /// The status of its fault.
    Refused(Refusal),
    /// 426: the client should speak WebSocket, or another version of it.
    UpgradeRequired(Refusal),
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Rejection {
        Rejection::Refused(refusal)
    }
}

fn hello(input: &[u8], policy: &HandshakePolicy) -> Result<Option<(usize, Hello)>, Rejection> {
    let mut slots = [httparse::EMPTY_HEADER; HANDSHAKE_HEADERS_MAX];
    let mut request = httparse::Request::new(&mut slots);
    let used = match request.parse(input) {
        Ok(httparse::Status::Complete(used)) if used <= HANDSHAKE_BYTES_MAX => used,
        Ok(httparse::Status::Partial) if input.len() < HANDSHAKE_BYTES_MAX => return Ok(None),
        Ok(_) => return Err(malformed(format!("it is longer than {HANDSHAKE_BYTES_MAX} bytes"))),
        Err(error) => return Err(unreadable(input, error)),
    };
    let headers = Headers(request.headers);
    check_protocol(request.method, request.version, &headers)?;
    let query = check_target(request.path.unwrap_or_default(), &headers)?;
    let accept_key = accept_key(&headers)?;
    let origin = check_origin(&headers, policy)?;
    let subprotocols = Subprotocols::of(&headers)?;
    let mut identity = query::identity(query)?;
    for token in [bearer_token(&headers)?, subprotocols.token].into_iter().flatten() {
        query::add_token(&mut identity, token)?;
    }
    let has_subprotocol = subprotocols.has_ours;
    let is_local = is_local(request.path.unwrap_or_default(), &headers, origin.as_deref());
    Ok(Some((used, Hello { identity, origin, is_local, accept_key, has_subprotocol })))
}

/// The request asks for WebSocket 13 over HTTP/1.1.
fn check_protocol(
    method: Option<&str>,
    version: Option<u8>,
    headers: &Headers<'_>,
) -> Result<(), Rejection> {
    if method != Some("GET") {
        return Err(bad("the method of a WebSocket handshake must be GET").into());
    }
    if version != Some(1) {
        return Err(bad("a WebSocket handshake needs HTTP/1.1").into());
    }
    if headers.all("Upgrade").next().is_none() {
        return Err(Rejection::UpgradeRequired(bad(
            "this port speaks WebSocket, not plain HTTP: connect with a WebSocket client to \
             ws://; health and metrics are on the HTTP port",
        )));
    }
    if !headers.lists("Upgrade", "websocket") {
        return Err(bad_header("Upgrade", "the Upgrade header must be `websocket`").into());
    }
    if !headers.lists("Connection", "upgrade") {
        return Err(bad_header("Connection", "the Connection header must hold `Upgrade`").into());
    }
    match headers.one("Sec-WebSocket-Version")? {
        Some(b"13") => Ok(()),
        Some(_) => Err(Rejection::UpgradeRequired(bad_header(
            "Sec-WebSocket-Version",
            "the server speaks version 13 of WebSocket (RFC 6455) alone",
        ))),
        None => {
            let why = "the Sec-WebSocket-Version header is missing; it must be 13";
            Err(bad_header("Sec-WebSocket-Version", why).into())
        }
    }
}

/// The request is for the bus, and is a request and nothing more. Gives the query string.
fn check_target<'t>(target: &'t str, headers: &Headers<'_>) -> Result<&'t str, Refusal> {
    if headers.one("Host")?.is_none() {
        return Err(bad_header("Host", "the Host header is missing"));
    }
    let length = headers.one("Content-Length")?;
    if length.is_some_and(|length| length != b"0") || headers.one("Transfer-Encoding")?.is_some() {
        return Err(bad("a WebSocket handshake has no body"));
    }
    let (path, query) = split_target(target);
    if path != "/" {
        let path = echo(path);
        return Err(bad(format!("the bus is at the path `/`; there is nothing at `{path}`")));
    }
    Ok(query)
}

/// The path and the query string of a request target, which a proxy may have made absolute.
fn split_target(target: &str) -> (&str, &str) {
    let is_scheme = |scheme: &str| {
        ["ws", "wss", "http", "https"].iter().any(|known| known.eq_ignore_ascii_case(scheme))
    };
    let local = match target.split_once("://") {
        Some((scheme, rest)) if is_scheme(scheme) => {
            rest.find(['/', '?']).map_or("/", |at| &rest[at..])
        }
        _ => target,
    };
    match local.split_once('?') {
        Some(("", query)) if local.len() < target.len() => ("/", query),
        Some((path, query)) => (path, query),
        None => (local, ""),
    }
}

/// Host and port of an absolute request target.
fn authority(target: &str) -> Option<&str> {
    let (_, rest) = target.split_once("://").filter(|(scheme, _)| !scheme.contains(['/', '?']))?;
    Some(&rest[..rest.find(['/', '?']).unwrap_or(rest.len())])
}

/// The answer to the client's key, which must be 16 bytes in base64.
fn accept_key(headers: &Headers<'_>) -> Result<String, Refusal> {
    const NAME: &str = "Sec-WebSocket-Key";
    let key = headers
        .one(NAME)?
        .ok_or_else(|| bad_header(NAME, "the Sec-WebSocket-Key header is missing"))?;
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    // 16 bytes are 22 characters and padding; the last character has only two bits to carry.
    let is_good = matches!(key, [digits @ .., b'A' | b'Q' | b'g' | b'w', b'=', b'=']
        if digits.len() == 21 && digits.iter().all(is_base64));
    if !is_good {
        return Err(bad_header(NAME, "the Sec-WebSocket-Key header must be 16 bytes in base64"));
    }
    Ok(derive_accept_key(key))
}

fn check_origin(
    headers: &Headers<'_>,
    policy: &HandshakePolicy,
) -> Result<Option<String>, Refusal> {
    let Some(origin) = headers.one("Origin")? else {
        return Ok(None);
    };
    let origin = String::from_utf8_lossy(origin);
    if !policy.allowed_origins.allows(&origin) {
        let why = origin::refusal(&origin);
        return Err(Refusal::of_field(Fault::OriginForbidden, "Origin", why));
    }
    Ok(Some(origin.into_owned()))
}

/// Whether the request says nothing of another machine. A proxy that adds no header and asks for a
/// loopback name can't be told from a program of this machine.
fn is_local(target: &str, headers: &Headers<'_>, origin: Option<&str>) -> bool {
    let host = headers.all("Host").next().unwrap_or_default();
    let is_of_here = |host: &str| origin::is_loopback_host(host);
    std::str::from_utf8(host).is_ok_and(is_of_here)
        && authority(target).is_none_or(is_of_here)
        && origin.is_none_or(|origin| Origins::loopback().allows(origin))
        && !headers.0.iter().any(|header| is_added_by_proxies(header.name))
}

/// Whether proxies add that header to what they forward.
fn is_added_by_proxies(name: &str) -> bool {
    const FORWARDED: &str = "X-Forwarded-";
    let is_prefixed = name.get(..FORWARDED.len());
    is_prefixed.is_some_and(|prefix| prefix.eq_ignore_ascii_case(FORWARDED))
        || ["Forwarded", "Via", "X-Real-IP"].iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// The token in `Authorization: Bearer`. Other schemes are meant for a proxy in front, and passed
/// over.
fn bearer_token<'h>(headers: &Headers<'h>) -> Result<Option<&'h str>, Refusal> {
    const NAME: &str = "Authorization";
    let Some(value) = headers.one(NAME)? else {
        return Ok(None);
    };
    let value = std::str::from_utf8(value).unwrap_or_default();
    let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
    if !scheme.eq_ignore_ascii_case("Bearer") {
        return Ok(None);
    }
    let token = token.trim_ascii();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        let why = "the Authorization header must be `Bearer`, a space and one token";
        return Err(Refusal::of_field(Fault::BadIdentity, NAME, why));
    }
    Ok(Some(token))
}

/// What the client offers as subprotocols. A browser can send no other header of its own, so the
/// one after ours is its token.
struct Subprotocols<'h> {
    has_ours: bool,
    token: Option<&'h str>,
}

impl<'h> Subprotocols<'h> {
    fn of(headers: &Headers<'h>) -> Result<Subprotocols<'h>, Refusal> {
        const NAME: &str = "Sec-WebSocket-Protocol";
        let mut offered = headers.list(NAME);
        let has_ours = offered.any(|one| one == SUBPROTOCOL.as_bytes());
        let token = offered.next().map(std::str::from_utf8).transpose().map_err(|_| {
            Refusal::of_field(Fault::BadIdentity, NAME, "the token after `arqonbus.v1` is no text")
        })?;
        Ok(Subprotocols { has_ours, token })
    }
}

/// The headers of a request, by name.
struct Headers<'h>(&'h [httparse::Header<'h>]);

impl<'h> Headers<'h> {
    /// Every value of a header.
    fn all(&self, name: &'static str) -> impl Iterator<Item = &'h [u8]> + use<'h> {
        let named = move |header: &&httparse::Header<'_>| header.name.eq_ignore_ascii_case(name);
        self.0.iter().filter(named).map(|header| header.value)
    }

    /// The value of a header that may stand only once.
    fn one(&self, name: &'static str) -> Result<Option<&'h [u8]>, Refusal> {
        let mut values = self.all(name);
        let value = values.next();
        match values.next() {
            None => Ok(value),
            Some(_) => Err(bad_header(name, format!("the {name} header is given twice"))),
        }
    }

    /// The members of a header that is a comma list, over all its values.
    fn list(&self, name: &'static str) -> impl Iterator<Item = &'h [u8]> + use<'h> {
        let members = self.all(name).flat_map(|value| value.split(|&byte| byte == b','));
        members.map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
    }

    /// Whether a comma list holds `member`, in any case.
    fn lists(&self, name: &'static str, member: &str) -> bool {
        self.list(name).any(|one| one.eq_ignore_ascii_case(member.as_bytes()))
    }
}

fn bad(message: impl Into<Cow<'static, str>>) -> Refusal {
    Refusal::new(Fault::BadHandshake, message)
}

fn bad_header(name: &'static str, message: impl Into<Cow<'static, str>>) -> Refusal {
    Refusal::of_field(Fault::BadHandshake, name, message)
}

fn malformed(why: String) -> Rejection {
    bad(format!("the HTTP request can't be taken: {why}")).into()
}

/// Bytes that are no HTTP request; says what they look like where that helps.
fn unreadable(input: &[u8], error: httparse::Error) -> Rejection {
    const TLS_HANDSHAKE: [u8; 2] = [0x16, 0x03];
    if input.starts_with(&TLS_HANDSHAKE) {
        return bad("this port does not speak TLS; connect with ws://, not wss://").into();
    }
    malformed(match error {
        httparse::Error::TooManyHeaders => {
            format!("it has more than {HANDSHAKE_HEADERS_MAX} headers")
        }
        httparse::Error::Version => "a WebSocket handshake needs HTTP/1.1".to_owned(),
        httparse::Error::HeaderName | httparse::Error::HeaderValue => {
            "a header is malformed".to_owned()
        }
        _ => "it is not HTTP/1.1".to_owned(),
    })
}

fn echo(text: &str) -> &str {
    &text[..text.floor_char_boundary(ECHO_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn policy() -> HandshakePolicy {
        HandshakePolicy { allowed_origins: Origins::loopback() }
    }

    /// The headers of a good request, each on its line.
    const GOOD: &str = "Host: bus\nUpgrade: websocket\nConnection: Upgrade\n\
                        Sec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n";

    fn request(first_line: &str, headers: &str) -> Vec<u8> {
        format!("{first_line}\n{headers}\n").replace('\n', "\r\n").into_bytes()
    }

    fn get(target: &str) -> Vec<u8> {
        request(&format!("GET {target} HTTP/1.1"), GOOD)
    }

    fn with(more: &str) -> Vec<u8> {
        request("GET / HTTP/1.1", &format!("{GOOD}{more}\n"))
    }

    /// A request in which the header that `from` names is `to` instead; an empty `to` leaves it out.
    fn without(from: &str, to: &str) -> Vec<u8> {
        let changed: String = GOOD
            .lines()
            .map(|line| if line.starts_with(from) { to } else { line })
            .filter(|line| !line.is_empty())
            .map(|line| format!("{line}\n"))
            .collect();
        assert_ne!(changed, GOOD, "{from} is no header of the request");
        request("GET / HTTP/1.1", &changed)
    }

    fn accept(bytes: &[u8]) -> Hello {
        match read(bytes, &policy()) {
            Handshake::Hello { used, hello } => {
                assert_eq!(used, bytes.len());
                *hello
            }
            other => panic!("{other:?} for {}", String::from_utf8_lossy(bytes)),
        }
    }

    /// The status, the fault and the body's error word, field and message.
    fn refused(bytes: &[u8]) -> (u16, Fault, Value) {
        let Handshake::Refused { response, fault } = read(bytes, &policy()) else {
            panic!("not refused: {}", String::from_utf8_lossy(bytes));
        };
        let text = String::from_utf8(response).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["error"], fault.word());
        (head[9..12].parse().unwrap(), fault, body)
    }

    #[test]
    fn the_example_of_the_rfc_is_accepted() {
        let hello = accept(&with("Sec-WebSocket-Protocol: chat, superchat"));
        let expected = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                        Connection: Upgrade\r\n\
                        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        assert_eq!(String::from_utf8(hello.accept_response()).unwrap(), expected);
        assert_eq!(hello.identity, Identity::default());
        assert_eq!(hello.origin, None);
    }

    #[test]
    fn what_real_clients_write_is_accepted() {
        for bytes in [
            get("/?"),
            get("http://bus:9100/"),
            get("ws://bus:9100"),
            without("Connection", "connection: keep-alive, upgrade"),
            without("Connection", "Connection: keep-alive\nConnection: UPGRADE"),
            without("Upgrade", "upgrade: WebSocket"),
            with("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"),
            with("Content-Length: 0"),
            with("Authorization: Basic dXNlcjpwYXNz"),
            with("Origin: http://localhost:5173"),
        ] {
            assert_eq!(accept(&bytes).identity, Identity::default());
        }
        for target in ["/?client_id=ann", "ws://bus?client_id=ann", "http://bus/?client_id=ann"] {
            assert_eq!(accept(&get(target)).identity.client_id.as_deref(), Some("ann"), "{target}");
        }
    }

    #[test]
    fn every_prefix_of_a_request_needs_more() {
        let bytes = with("Origin: http://localhost");
        for cut in 0..bytes.len() {
            assert!(matches!(read(&bytes[..cut], &policy()), Handshake::Need), "cut at {cut}");
        }
        let with_frames = [&*bytes, b"\x81\x80\0\0\0\0"].concat();
        let Handshake::Hello { used, .. } = read(&with_frames, &policy()) else {
            panic!("no hello")
        };
        assert_eq!(used, bytes.len());
    }

    #[test]
    fn a_token_comes_in_three_ways() {
        let ours = "Sec-WebSocket-Protocol: arqonbus.v1";
        let head = request("GET /?token=t.o-k HTTP/1.1", GOOD);
        let twice =
            request("GET /?token=t.o-k HTTP/1.1", &format!("{GOOD}Authorization: Bearer t.o-k\n"));
        for (bytes, token, selected) in [
            (head, Some("t.o-k"), false),
            (twice, Some("t.o-k"), false),
            (with("Authorization: bearer  t.o-k"), Some("t.o-k"), false),
            (with(&format!("{ours}, t.o-k")), Some("t.o-k"), true),
            (with(&format!("{ours}\nSec-WebSocket-Protocol: t.o-k")), Some("t.o-k"), true),
            (with(&format!("{ours},")), None, true),
            (with(ours), None, true),
            (with("Sec-WebSocket-Protocol: other, t.o-k"), None, false),
        ] {
            let hello = accept(&bytes);
            assert_eq!(hello.identity.token.as_deref(), token);
            let response = String::from_utf8(hello.accept_response()).unwrap();
            let line = "\r\nSec-WebSocket-Protocol: arqonbus.v1\r\n";
            assert_eq!(response.contains(line), selected, "{response}");
            assert!(!response.contains("t.o-k"));
        }
    }

    #[test]
    fn bad_requests_are_told_why() {
        let key = "Sec-WebSocket-Key";
        let version = "Sec-WebSocket-Version";
        let many = "X: y\n".repeat(HANDSHAKE_HEADERS_MAX);
        let long = format!("X: {}", "y".repeat(HANDSHAKE_BYTES_MAX));
        for (bytes, status, field, says) in [
            (request("GET / HTTP/1.1", "Host: bus\n"), 426, "", "ws://"),
            (request("GET /favicon.ico HTTP/1.1", "Host: bus\n"), 426, "", "not plain HTTP"),
            (request("POST / HTTP/1.1", GOOD), 400, "", "GET"),
            (request("GET / HTTP/1.0", GOOD), 400, "", "HTTP/1.1"),
            (request("GET / HTTP/2.0", GOOD), 400, "", "HTTP/1.1"),
            (b"\x16\x03\x01\x02\x00\x01\x00".to_vec(), 400, "", "ws://, not wss://"),
            (b"\x81\x85\x01\x02\x03\x04hello".to_vec(), 400, "", "not HTTP/1.1"),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), 400, "", "HTTP/1.1"),
            (with("Bad Header: x"), 400, "", "malformed"),
            (with("X: a\n folded"), 400, "", "malformed"),
            (with(&many), 400, "", "64 headers"),
            (with(&long), 400, "", "16384 bytes"),
            (with(&long)[..HANDSHAKE_BYTES_MAX].to_vec(), 400, "", "16384 bytes"),
            (without("Host", ""), 400, "Host", "missing"),
            (with("Host: another"), 400, "Host", "twice"),
            (without("Upgrade", "Upgrade: h2c"), 400, "Upgrade", "websocket"),
            (without("Connection", ""), 400, "Connection", "Upgrade"),
            (without("Connection", "Connection: close"), 400, "Connection", "Upgrade"),
            (without(version, ""), 400, version, "13"),
            (without(version, "Sec-WebSocket-Version: 8"), 426, version, "13"),
            (without(version, "Sec-WebSocket-Version: 13, 8"), 426, version, "13"),
            (with("Sec-WebSocket-Version: 13"), 400, version, "twice"),
            (without(key, ""), 400, key, "missing"),
            (without(key, "Sec-WebSocket-Key:"), 400, key, "base64"),
            (without(key, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ"), 400, key, "base64"),
            (without(key, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZR=="), 400, key, "base64"),
            (without(key, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub2!jZQ=="), 400, key, "base64"),
            (without(key, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAAAA"), 400, key, "base64"),
            (with("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), 400, key, "twice"),
            (with("Content-Length: 5"), 400, "", "no body"),
            (with("Transfer-Encoding: chunked"), 400, "", "no body"),
            (get("/ws"), 400, "", "`/ws`"),
            (get("//"), 400, "", "`//`"),
            (get("/../?client_id=a"), 400, "", "`/../`"),
            (get("http://bus/chat"), 400, "", "`/chat`"),
            (get("*"), 400, "", "`*`"),
            (get("?client_id=a"), 400, "", "path"),
            (with("Origin: http://localhost\nOrigin: http://localhost"), 400, "Origin", "twice"),
        ] {
            let (was, fault, body) = refused(&bytes);
            assert_eq!((was, fault), (status, Fault::BadHandshake), "{body}");
            assert_eq!(body["field"].as_str().unwrap_or(""), field, "{body}");
            assert!(body["message"].as_str().unwrap().contains(says), "{body}");
        }
    }

    #[test]
    fn bad_identities_and_origins_are_told_why() {
        let bearer = "Authorization: Bearer";
        let two_tokens = format!("{bearer} one\nSec-WebSocket-Protocol: arqonbus.v1, two");
        for (bytes, status, fault, field) in [
            (get("/?client_id=-"), 400, Fault::BadIdentity, "client_id"),
            (get("/?client_id=a&client_id=b"), 400, Fault::BadIdentity, "client_id"),
            (get("/?room=science"), 400, Fault::BadIdentity, "room"),
            (get("/?join=science"), 400, Fault::BadIdentity, "join"),
            (get("/?screen_name=%zz"), 400, Fault::BadIdentity, ""),
            (with(bearer), 400, Fault::BadIdentity, "Authorization"),
            (with(&format!("{bearer} a b")), 400, Fault::BadIdentity, "Authorization"),
            (with(&format!("{bearer} a\n{bearer} a")), 400, Fault::BadHandshake, "Authorization"),
            (with(&two_tokens), 400, Fault::BadIdentity, "token"),
            (with("Origin: http://evil.example"), 403, Fault::OriginForbidden, "Origin"),
            (with("Origin: null"), 403, Fault::OriginForbidden, "Origin"),
            (with("Origin:"), 403, Fault::OriginForbidden, "Origin"),
        ] {
            let (was, because, body) = refused(&bytes);
            assert_eq!((was, because), (status, fault), "{body}");
            assert_eq!(body["field"].as_str().unwrap_or(""), field, "{body}");
        }
        let long = refused(&with(&format!("Origin: http://{}", "é".repeat(2_000)))).2;
        assert!(long["message"].as_str().unwrap().len() < 300);
    }

    #[test]
    fn whatever_names_another_machine_is_not_local() {
        let local = |host: &str, more: &str| {
            let text = String::from_utf8(with(more)).unwrap().replace("Host: bus", host);
            accept(text.as_bytes()).is_local
        };
        for (host, more, expected) in [
            ("Host: 127.0.0.1:9100", "X: y", true),
            ("Host: localhost", "X: y", true),
            ("Host: [::1]:9100", "Origin: http://localhost:3000", true),
            ("Host: bus", "X: y", false),
            ("Host: evil.example:9100", "X: y", false),
            ("Host: localhost", "Forwarded: for=192.0.2.1", false),
            ("Host: localhost", "x-forwarded-for: 192.0.2.1", false),
            ("Host: localhost", "X-Forwarded-Proto: https", false),
            ("Host: localhost", "X-Real-IP: 192.0.2.1", false),
            ("Host: localhost", "Via: 1.1 proxy", false),
            ("Host: localhost", "Viable: yes", true),
        ] {
            assert_eq!(local(host, more), expected, "{host}, {more}");
        }
        let foreign = HandshakePolicy { allowed_origins: Origins::any() };
        let page = with("Origin: https://a.org");
        let page = String::from_utf8(page).unwrap().replace("Host: bus", "Host: localhost");
        let Handshake::Hello { hello, .. } = read(page.as_bytes(), &foreign) else { panic!() };
        assert!(!hello.is_local, "an allowed page is not of this machine for that");
        for (target, expected) in [("ws://localhost/", true), ("ws://bus/", false)] {
            let bytes = get(target);
            let text = String::from_utf8(bytes).unwrap().replace("Host: bus", "Host: localhost");
            assert_eq!(accept(text.as_bytes()).is_local, expected, "{target}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes, &policy());
        }

        #[test]
        fn no_change_of_a_good_request_panics(at in 0usize..170, byte in any::<u8>()) {
            let mut bytes = get("/?client_id=ann&join=a:b,c:*&screen_name=x%20y");
            bytes[at] = byte;
            let _ = read(&bytes, &policy());
        }
    }
}
