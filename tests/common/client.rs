//! A client that waits for what a test names and keeps the rest for later, in order.

use super::{PATIENCE, command_text, envelope};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::ops::Deref;
use std::time::{Duration, Instant};
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::client::{Request, Response};
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Error, Message as Frame, WebSocket};

/// A connected client that was welcomed.
pub(crate) struct Client {
    socket: WebSocket<TcpStream>,
    /// Its client id.
    pub id: String,
    /// The payload of its welcome.
    pub welcome: Value,
    kept: VecDeque<Message>,
}

/// A message from the bus: its text, and what the text means.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// The text, byte for byte.
    pub text: String,
    json: Value,
}

impl Deref for Message {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.json
    }
}

impl Message {
    /// The text of the payload, byte for byte.
    pub(crate) fn payload_text(&self) -> &str {
        #[derive(serde::Deserialize)]
        struct Outer<'a> {
            #[serde(borrow)]
            payload: &'a serde_json::value::RawValue,
        }
        let outer: Outer<'_> = serde_json::from_str(&self.text).expect("a message is an envelope");
        outer.payload.get()
    }

    /// Its place in its channel.
    #[track_caller]
    pub(crate) fn sequence(&self) -> u64 {
        self["metadata"]["sequence"].as_u64().expect("an event has a sequence")
    }

    /// Whether it comes from history.
    pub(crate) fn is_replayed(&self) -> bool {
        self["metadata"]["replayed"] == true
    }
}

/// What a refusal says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Refused {
    /// The HTTP-like code.
    pub code: u64,
    /// The stable word.
    pub error: String,
    /// The field at fault.
    pub field: Option<String>,
    /// The sentence.
    pub message: String,
}

impl Refused {
    /// Reads the payload of a `command_response` that says no.
    #[track_caller]
    pub(crate) fn of(payload: &Value) -> Refused {
        assert_eq!(payload["status"], "error", "{payload}");
        let refused = Refused {
            code: payload["code"].as_u64().expect("a refusal has a code"),
            error: payload["error"].as_str().expect("a refusal has a word").to_owned(),
            field: payload["field"].as_str().map(str::to_owned),
            message: payload["message"].as_str().expect("a refusal has a sentence").to_owned(),
        };
        assert!(!refused.message.is_empty() && refused.message.len() < 500, "{refused:?}");
        refused
    }

    /// The code and the word, to be compared.
    pub(crate) fn what(&self) -> (u64, &str) {
        (self.code, &self.error)
    }
}

/// How a connection that was asked for came out.
#[allow(
    clippy::large_enum_variant,
    reason = "there is one at a time, and it is taken apart at once"
)]
pub(crate) enum Knock {
    /// It is a WebSocket.
    Open(WebSocket<TcpStream>, Response),
    /// It was refused: the status, and the body.
    Refused(u16, Value),
}

/// Asks for a WebSocket.
#[track_caller]
pub(crate) fn knock(request: Request, bus: SocketAddr) -> Knock {
    knock_over(TcpStream::connect(bus).expect("the bus takes connections"), request)
}

/// Asks for a WebSocket over a connection with options of its own.
#[track_caller]
pub(crate) fn knock_over(stream: TcpStream, request: Request) -> Knock {
    try_knock(stream, request).unwrap_or_else(|error| panic!("the handshake failed: {error}"))
}

/// The same of a bus that may die meanwhile.
fn try_knock(stream: TcpStream, request: Request) -> Result<Knock, String> {
    stream.set_nodelay(true).expect("small writes can be sent at once");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout can be set");
    let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
    match tungstenite::client::client_with_config(request, stream, Some(config)) {
        Ok((socket, response)) => Ok(Knock::Open(socket, response)),
        Err(tungstenite::HandshakeError::Failure(Error::Http(response))) => {
            let body = response.body().as_deref().unwrap_or_default();
            let body = serde_json::from_slice(body).expect("a refusal's body is JSON");
            Ok(Knock::Refused(response.status().as_u16(), body))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// The request for a WebSocket with this query string.
pub(crate) fn request(bus: SocketAddr, query: &str) -> Request {
    format!("ws://{bus}/?{query}").into_client_request().expect("the test's URL is one")
}

impl Client {
    /// Connects with this query string and awaits the welcome.
    #[track_caller]
    pub(crate) fn connect(bus: SocketAddr, query: &str) -> Client {
        Client::connect_by(bus, request(bus, query))
    }

    /// Connects with this request and awaits the welcome.
    #[track_caller]
    pub(crate) fn connect_by(bus: SocketAddr, request: Request) -> Client {
        Client::welcomed(knock(request, bus))
    }

    /// Connects over a connection with options of its own.
    #[track_caller]
    pub(crate) fn connect_over(stream: TcpStream, query: &str) -> Client {
        let bus = stream.peer_addr().expect("the connection is one");
        Client::welcomed(knock_over(stream, request(bus, query)))
    }

    /// Connects to a bus that may not be there, or die meanwhile: then there is no client.
    pub(crate) fn try_connect(bus: SocketAddr, query: &str) -> Option<Client> {
        match try_knock(TcpStream::connect(bus).ok()?, request(bus, query)).ok()? {
            // Its id is still that of a connection to a node that has died.
            Knock::Refused(409, _) => None,
            knock => Client::try_welcomed(knock).ok(),
        }
    }

    /// The same of a bus that is there, and may refuse.
    pub(crate) fn try_connect_or_refused(bus: SocketAddr, query: &str) -> Option<Client> {
        match knock(request(bus, query), bus) {
            Knock::Refused(..) => None,
            open => Client::try_welcomed(open).ok(),
        }
    }

    #[track_caller]
    fn welcomed(knock: Knock) -> Client {
        Client::try_welcomed(knock).unwrap_or_else(|end| panic!("closed unwelcomed: {end:?}"))
    }

    #[track_caller]
    fn try_welcomed(knock: Knock) -> Result<Client, End> {
        match knock {
            Knock::Open(socket, _) => {
                let (id, welcome, kept) = Default::default();
                let mut client = Client { socket, id, welcome, kept };
                let first = client.try_next()?;
                assert_eq!(first["payload"]["event"], "welcome", "{}", first.text);
                client.welcome = first["payload"].clone();
                client.id = client.welcome["client_id"].as_str().expect("an id").to_owned();
                Ok(client)
            }
            Knock::Refused(status, body) => panic!("{status}: {body}"),
        }
    }

    /// The next message, whatever it is.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Message {
        match self.kept.pop_front() {
            Some(message) => message,
            None => self.read().unwrap_or_else(|end| panic!("{} was closed: {end:?}", self.id)),
        }
    }

    /// The next message, or how the connection ended.
    #[track_caller]
    pub(crate) fn try_next(&mut self) -> Result<Message, End> {
        self.kept.pop_front().map_or_else(|| self.read(), Ok)
    }

    /// The first message that is meant; those before it are kept for later.
    #[track_caller]
    pub(crate) fn find(&mut self, is_meant: impl Fn(&Message) -> bool) -> Message {
        if let Some(at) = self.kept.iter().position(&is_meant) {
            return self.kept.remove(at).expect("the place was just found");
        }
        // What keeps coming may be anything but what is meant.
        let deadline = Instant::now() + 2 * PATIENCE;
        loop {
            let message = self.read().unwrap_or_else(|end| {
                panic!("{} was closed: {end:?}; kept at last {:#?}", self.id, self.last_texts())
            });
            if is_meant(&message) {
                return message;
            }
            self.kept.push_back(message);
            let is_late = Instant::now() >= deadline;
            assert!(!is_late, "{} got all but it: {:#?}", self.id, self.last_texts());
        }
    }

    /// The next event.
    #[track_caller]
    pub(crate) fn event(&mut self) -> Message {
        self.find(|message| message["type"] == "event")
    }

    /// The next `count` events.
    #[track_caller]
    pub(crate) fn events(&mut self, count: usize) -> Vec<Message> {
        (0..count).map(|_| self.event()).collect()
    }

    /// The next notice of that name.
    #[track_caller]
    pub(crate) fn notice(&mut self, event: &str) -> Message {
        self.find(|message| message["type"] == "system" && message["payload"]["event"] == event)
    }

    /// The payload of the answer to the message with this id.
    #[track_caller]
    pub(crate) fn reply(&mut self, id: &str) -> Value {
        let reply = self.find(|message| {
            message["type"] == "command_response" && message["payload"]["request_id"] == id
        });
        assert_eq!(reply["from"], "arqonbus_server");
        reply["payload"].clone()
    }

    /// The next refusal of a message whose id could not be read or is not remembered.
    #[track_caller]
    pub(crate) fn refusal(&mut self) -> (Value, Refused) {
        let reply = self.find(|message| {
            message["type"] == "command_response" && message["payload"]["status"] == "error"
        });
        (reply["payload"]["request_id"].clone(), Refused::of(&reply["payload"]))
    }

    /// The oldest message that was kept, without waiting for more.
    pub(crate) fn take_kept(&mut self) -> Option<Message> {
        self.kept.pop_front()
    }

    /// Forgets what was kept.
    pub(crate) fn forget(&mut self) {
        self.kept.clear();
    }

    /// What was kept and never asked for.
    pub(crate) fn texts(&self) -> Vec<&str> {
        self.kept.iter().map(|message| message.text.as_str()).collect()
    }

    /// The last of them, for a panic.
    fn last_texts(&self) -> Vec<&str> {
        let texts = self.texts();
        texts[texts.len().saturating_sub(10)..].to_vec()
    }

    /// Waits until the bus has answered everything before this, and asserts that nothing else
    /// came.
    #[track_caller]
    pub(crate) fn assert_quiet(&mut self) {
        self.command("ping", json!({}));
        assert!(self.kept.is_empty(), "{} got {:#?}", self.id, self.texts());
    }

    /// Sends text as it is.
    #[track_caller]
    pub(crate) fn send_text(&mut self, text: impl Into<String>) {
        let text: String = text.into();
        self.socket.send(Frame::text(text)).expect("the bus reads");
    }

    /// Sends text that may find the connection closed.
    pub(crate) fn try_send_text(&mut self, text: impl Into<String>) -> Result<(), Error> {
        let text: String = text.into();
        self.socket.send(Frame::text(text))
    }

    /// Sends an envelope and gives its id.
    #[track_caller]
    pub(crate) fn send(&mut self, envelope: &Value) -> String {
        self.send_text(envelope.to_string());
        envelope["id"].as_str().unwrap_or_default().to_owned()
    }

    /// A good envelope from this client.
    pub(crate) fn envelope(&self, kind: &str, address: &str, payload: Value) -> Value {
        envelope(kind, &self.id, address, payload)
    }

    /// Publishes an event and gives its id.
    #[track_caller]
    pub(crate) fn publish(&mut self, address: &str, payload: Value) -> String {
        let event = self.envelope("event", address, payload);
        self.send(&event)
    }

    /// Publishes an event with metadata and gives its id.
    #[track_caller]
    pub(crate) fn publish_with(
        &mut self,
        address: &str,
        payload: Value,
        metadata: Value,
    ) -> String {
        let mut event = self.envelope("event", address, payload);
        event["metadata"] = metadata;
        self.send(&event)
    }

    /// Publishes an event, waits until the bus has it, and gives its sequence.
    #[track_caller]
    pub(crate) fn publish_acked(&mut self, address: &str, payload: Value) -> u64 {
        let id = self.publish_with(address, payload, json!({"ack": true}));
        let reply = self.reply(&id);
        assert_eq!(reply["status"], "success", "{reply}");
        assert_eq!(reply["result"]["duplicate"], false);
        reply["result"]["sequence"].as_u64().expect("an ack has the sequence")
    }

    /// Publishes an event that is refused.
    #[track_caller]
    pub(crate) fn publish_refused(&mut self, address: &str, payload: Value) -> Refused {
        let id = self.publish(address, payload);
        Refused::of(&self.reply(&id))
    }

    /// Gives a command; its result, or the refusal.
    #[track_caller]
    pub(crate) fn ask(&mut self, name: &str, parameters: Value) -> Result<Value, Refused> {
        let (id, text) = command_text(&self.id, name, parameters);
        self.send_text(text);
        let reply = self.reply(&id);
        assert_eq!(reply["command"], name, "{reply}");
        match reply["status"].as_str() {
            Some("success") => Ok(reply["result"].clone()),
            _ => Err(Refused::of(&reply)),
        }
    }

    /// Gives a command that is obeyed; its result.
    #[track_caller]
    pub(crate) fn command(&mut self, name: &str, parameters: Value) -> Value {
        match self.ask(name, parameters) {
            Ok(result) => result,
            Err(refused) => panic!("{name}: {refused:?}"),
        }
    }

    /// Gives a command that is refused.
    #[track_caller]
    pub(crate) fn refused(&mut self, name: &str, parameters: Value) -> Refused {
        match self.ask(name, parameters) {
            Ok(result) => panic!("{name} was obeyed: {result}"),
            Err(refused) => refused,
        }
    }

    /// Joins `room:channel`.
    #[track_caller]
    pub(crate) fn join(&mut self, address: &str) -> Value {
        self.command("join_channel", json!({"channel": address}))
    }

    /// Joins `room:channel` with more parameters.
    #[track_caller]
    pub(crate) fn join_with(&mut self, address: &str, mut parameters: Value) -> Value {
        parameters["channel"] = address.into();
        self.command("join_channel", parameters)
    }

    /// Leaves `room:channel`.
    #[track_caller]
    pub(crate) fn leave(&mut self, address: &str) -> Value {
        self.command("leave_channel", json!({"channel": address}))
    }

    /// Reads on until the bus closes; the code and the reason.
    #[track_caller]
    pub(crate) fn await_close(&mut self) -> (u16, String) {
        loop {
            match self.read() {
                Ok(message) => self.kept.push_back(message),
                Err(End::Closed(code, reason)) => return (code, reason),
                Err(End::Lost(why)) => panic!("{} was cut off instead of closed: {why}", self.id),
            }
        }
    }

    /// Says goodbye and waits for the bus's.
    #[track_caller]
    pub(crate) fn close(mut self) {
        self.socket.close(None).expect("a close can be sent");
        while self.socket.read().is_ok() {}
    }

    /// The bare socket, for what no well-behaved client does.
    pub(crate) fn stream(&mut self) -> &mut TcpStream {
        self.socket.get_mut()
    }

    /// Reads one message; why not, if the connection ended.
    #[track_caller]
    fn read(&mut self) -> Result<Message, End> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.socket.read() {
                Ok(Frame::Text(text)) => {
                    let text = text.as_str().to_owned();
                    let json = serde_json::from_str(&text).expect("the bus sends JSON");
                    return Ok(Message { text, json });
                }
                Ok(Frame::Close(frame)) => {
                    let (code, reason) = match frame {
                        Some(frame) => (frame.code.into(), frame.reason.as_str().to_owned()),
                        None => (1005, String::new()),
                    };
                    // The answer to the close goes out with the next read, which ends.
                    let _ = self.socket.read();
                    return Err(End::Closed(code, reason));
                }
                Ok(_) => {}
                Err(Error::Io(error))
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    panic!(
                        "{} waited {PATIENCE:?} in vain; kept {:#?}",
                        self.id,
                        self.last_texts()
                    );
                }
                Err(error) => return Err(End::Lost(error.to_string())),
            }
            assert!(Instant::now() < deadline, "{} heard nothing but pings", self.id);
        }
    }

    /// Reads for a while and keeps what comes; for a client whose silence is awaited elsewhere.
    pub(crate) fn drain_for(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            let left = left.max(Duration::from_millis(1));
            self.stream().set_read_timeout(Some(left)).expect("a timeout can be set");
            match self.socket.read() {
                Ok(Frame::Text(text)) => {
                    let text = text.as_str().to_owned();
                    let json = serde_json::from_str(&text).expect("the bus sends JSON");
                    self.kept.push_back(Message { text, json });
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
        self.stream().set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    }
}

/// How a connection ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The bus closed it, with this code and reason.
    Closed(u16, String),
    /// It broke.
    Lost(String),
}
