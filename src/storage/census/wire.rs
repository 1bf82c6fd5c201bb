//! What nodes say to each other, as JSON.
//!
//! *Invariants*: what is written here is read here as the same; what was garbled or is of another
//! version is told in a sentence, never a panic. Fields that are not known are passed over.

use crate::base::ids::ShardId;
use crate::base::limits::PAGE_ROWS_MAX;
use crate::base::time::Now;
use crate::broker::census::{Rows, RowsWanted};
use crate::broker::lane::{ClientsPart, PendingRef};
use crate::broker::peers::{PeerClients, PeerNote};
use crate::broker::policy::{ClientCard, Role};
use crate::protocol::command::{Address, ClientType};
use crate::protocol::frame::Frame;
use crate::protocol::names::Name;
use crate::protocol::views::ClientRow;
use crate::storage::codec::read_address;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use std::sync::Arc;

/// The version of everything below.
const VERSION: u32 = 1;
/// The longest token, and the longest name of a node, in bytes.
const LABEL_BYTES_MAX: usize = 256;
/// The highest number that is believed: more changes than anybody lives to make.
const NUMBER_MAX: u64 = 1 << 53;

/// The channels that one row names at most.
pub(super) const ROW_CHANNELS_MAX: usize = 256;

/// A message as it is read.
#[derive(Debug, Deserialize)]
pub(super) struct Message {
    /// The token of the sender.
    pub(super) from: String,
    /// The name of its node.
    pub(super) node: String,
    pub(super) say: Say,
}

/// A message as it is written.
#[derive(Serialize)]
struct Letter<'a> {
    v: u32,
    from: &'a str,
    node: &'a str,
    say: &'a Say,
}

/// What of a message every version has.
#[derive(Deserialize)]
struct Head {
    v: u32,
}

/// What is said.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Say {
    /// The sender lives; after its changes of this number it has so many clients and memberships.
    Beat {
        number: u64,
        clients: u64,
        members: u64,
        /// Whether everybody is asked to say the same.
        #[serde(default)]
        hello: bool,
    },
    /// The next of the changes of the sender.
    Changes { number: u64, rows: Vec<Row> },
    /// The receiver is asked for all its clients.
    Ask { ask: u64 },
    /// A part of the answer: all clients, as they were at this number or later.
    Part { ask: u64, number: u64, part: u32, is_last: bool, rows: Vec<Row> },
    /// Something for clients.
    Note(Note),
    /// The sender ends.
    Bye,
}

/// What is so of one client. What is not said is as it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) id: Name,
    /// Whether it is connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) here: Option<bool>,
    /// Where it is a member.
    #[serde(default, rename = "in", skip_serializing_if = "Option::is_none")]
    pub(super) joined: Option<Joined>,
    /// Where it is none.
    #[serde(default, rename = "out", skip_serializing_if = "Vec::is_empty", with = "addresses")]
    pub(super) left: Vec<Arc<Address>>,
}

/// A client that is a member of channels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Joined {
    pub(super) card: Card,
    #[serde(with = "addresses")]
    pub(super) channels: Vec<Arc<Address>>,
}

/// A [`ClientCard`] without the id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Card {
    #[serde(rename = "type", deserialize_with = "client_type")]
    client_type: ClientType,
    #[serde(default, rename = "name", skip_serializing_if = "Option::is_none")]
    screen_name: Option<String>,
    #[serde(deserialize_with = "role")]
    role: Role,
}

/// A [`PeerNote`].
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Note {
    Private { targets: Vec<Name>, message: Text },
    Announce { room: Option<Name>, message: Text },
    Disconnect { client_id: Name, reason: Option<String> },
    LetGo(#[serde(with = "address")] Arc<Address>),
    AskClients(AskClients),
    Clients(Clients),
}

/// Which clients are asked for.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct AskClients {
    shard: u16,
    pending: u32,
    bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after: Option<Name>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    limit: Option<u16>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    brief: bool,
}

/// The clients of one shard, for who has asked for them.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Clients {
    /// The shard and the pending answer of who asked.
    to: (u16, u32),
    /// Which shard, of how many.
    shard: (u16, u16),
    rows: Vec<(Name, Json)>,
    count: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<Name>,
}

/// Some JSON, as it was written.
#[derive(Debug, Serialize)]
struct Json(Box<RawValue>);

impl<'de> Deserialize<'de> for Json {
    /// A [`RawValue`] accepts text that no [`serde_json::Value`] can hold: a number that is too large,
    /// half a surrogate pair, deep nesting. It is refused here, because an answer is built of the text
    /// later, and that would panic.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Json, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        serde_json::from_str::<serde_json::Value>(text.get()).map_err(D::Error::custom)?;
        Ok(Json(text))
    }
}

impl PartialEq for Json {
    fn eq(&self, other: &Json) -> bool {
        self.0.get() == other.0.get()
    }
}

/// A [`Frame`] as its text.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Text {
    text: String,
    /// For how long it may still be delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    left_ms: Option<u64>,
}

/// The bytes of a message.
pub(super) fn encode(from: &str, node: &str, say: &Say) -> Vec<u8> {
    match serde_json::to_vec(&Letter { v: VERSION, from, node, say }) {
        Ok(bytes) => bytes,
        // Every key is a text and nothing is written to but memory.
        Err(error) => unreachable!("a message that is no JSON: {error}"),
    }
}

/// The message of these bytes; the error is a sentence.
pub(super) fn decode(bytes: &[u8]) -> Result<Message, String> {
    let head: Head = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if head.v != VERSION {
        return Err(format!("it is of version {}, this node speaks {VERSION}", head.v));
    }
    let message: Message = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    for label in [&message.from, &message.node] {
        if label.is_empty() || label.len() > LABEL_BYTES_MAX {
            return Err(format!("a name of the sender has {} characters", label.len()));
        }
    }
    match message.say {
        Say::Beat { number, .. } | Say::Changes { number, .. } | Say::Part { number, .. }
            if number > NUMBER_MAX =>
        {
            Err(format!("its number is {number}"))
        }
        _ => Ok(message),
    }
}

impl Row {
    /// About how long it is as JSON, and not less.
    pub(super) fn bytes(&self) -> usize {
        let channels = self.joined.iter().flat_map(|joined| &joined.channels).chain(&self.left);
        let channels: usize = channels.map(|at| at.room.len() + at.channel.len() + 4).sum();
        let name = self.joined.as_ref().and_then(|joined| joined.card.screen_name.as_ref());
        // A control character is written as six.
        128 + self.id.len() + channels + name.map_or(0, |name| 6 * name.len())
    }
}

impl Card {
    pub(super) fn new(card: &ClientCard) -> Card {
        let ClientCard { client_id: _, client_type, screen_name, role } = card;
        Card { client_type: *client_type, screen_name: screen_name.clone(), role: *role }
    }

    /// The card of the client of this id.
    pub(super) fn of(self, client_id: Name) -> ClientCard {
        let Card { client_type, screen_name, role } = self;
        ClientCard { client_id, client_type, screen_name, role }
    }
}

impl Note {
    pub(super) fn new(note: &PeerNote, now: Now) -> Note {
        match note {
            PeerNote::Private { targets, frame } => {
                Note::Private { targets: targets.clone(), message: Text::new(frame, now) }
            }
            PeerNote::Announce { room, frame } => {
                Note::Announce { room: room.clone(), message: Text::new(frame, now) }
            }
            PeerNote::Disconnect { client_id, reason } => {
                Note::Disconnect { client_id: client_id.clone(), reason: reason.clone() }
            }
            PeerNote::LetGo(address) => Note::LetGo(Arc::clone(address)),
            PeerNote::AskClients { reply_to: PendingRef { shard, pending }, rows } => {
                Note::AskClients(AskClients {
                    shard: shard.0,
                    pending: *pending,
                    bytes: rows.bytes as u64,
                    after: rows.after.clone(),
                    limit: u16::try_from(rows.limit).ok(),
                    brief: rows.brief,
                })
            }
            PeerNote::Clients(clients) => Note::Clients(Clients::new(clients)),
        }
    }

    pub(super) fn read(self, now: Now) -> PeerNote {
        match self {
            Note::Private { targets, message } => {
                PeerNote::Private { targets, frame: message.read(now) }
            }
            Note::Announce { room, message } => {
                PeerNote::Announce { room, frame: message.read(now) }
            }
            Note::Disconnect { client_id, reason } => PeerNote::Disconnect { client_id, reason },
            Note::LetGo(address) => PeerNote::LetGo(address),
            Note::AskClients(AskClients { shard, pending, bytes, after, limit, brief }) => {
                let reply_to = PendingRef { shard: ShardId(shard), pending };
                let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                let limit = limit.map_or(PAGE_ROWS_MAX, |limit| PAGE_ROWS_MAX.min(limit.into()));
                PeerNote::AskClients { reply_to, rows: RowsWanted { after, limit, bytes, brief } }
            }
            Note::Clients(clients) => PeerNote::Clients(Box::new(clients.read())),
        }
    }
}

impl Clients {
    fn new(clients: &PeerClients) -> Clients {
        let PeerClients { reply_to, shard, shards, part } = clients;
        let text = |row: &ClientRow| match serde_json::value::to_raw_value(row) {
            Ok(text) => (row.client_id().clone(), Json(text)),
            Err(error) => unreachable!("a row that is no JSON: {error}"),
        };
        Clients {
            to: (reply_to.shard.0, reply_to.pending),
            shard: (*shard, *shards),
            rows: part.rows.rows.iter().map(text).collect(),
            count: part.rows.count,
            last: part.rows.last.clone(),
        }
    }

    fn read(self) -> PeerClients {
        let Clients { to: (to, pending), shard: (shard, shards), rows, count, last } = self;
        let row = |(client_id, Json(text))| ClientRow::Elsewhere(client_id, Arc::from(text));
        let rows = rows.into_iter().map(row).collect();
        let part = ClientsPart { rows: Rows { rows, count, last }, peers: Arc::default() };
        let reply_to = PendingRef { shard: ShardId(to), pending };
        PeerClients { reply_to, shard, shards, part }
    }
}

impl Text {
    fn new(frame: &Frame, now: Now) -> Text {
        Text {
            text: String::from_utf8_lossy(frame.text()).into_owned(),
            left_ms: frame.left_ms(now),
        }
    }

    fn read(self, now: Now) -> Arc<Frame> {
        let mut frame = Frame::of_text(&self.text, now.mono_ns);
        if let (Some(left_ms), Some(frame)) = (self.left_ms, Arc::get_mut(&mut frame)) {
            frame.expires_ms = Some(now.mono_ms().saturating_add(left_ms));
        }
        frame
    }
}

/// A channel as `room:channel`.
mod address {
    use super::*;

    pub(super) fn serialize<S: Serializer>(
        address: &Arc<Address>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(address)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Arc<Address>, D::Error> {
        let text = String::deserialize(deserializer)?;
        read_address(&text).map(Arc::new).map_err(D::Error::custom)
    }
}

/// Channels as `room:channel`.
mod addresses {
    use super::*;

    pub(super) fn serialize<S: Serializer>(
        channels: &[Arc<Address>],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(channels.iter().map(|address| address.to_string()))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Arc<Address>>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        let read = |text: &String| read_address(text).map(Arc::new);
        texts.iter().map(read).collect::<Result<_, _>>().map_err(D::Error::custom)
    }
}

fn client_type<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ClientType, D::Error> {
    let text = String::deserialize(deserializer)?;
    ClientType::parse(&text).ok_or_else(|| D::Error::custom(format!("no type {text:?} of clients")))
}

fn role<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Role, D::Error> {
    let text = String::deserialize(deserializer)?;
    Role::parse(&text).ok_or_else(|| D::Error::custom(format!("no role {text:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        let at = |text| Arc::new(read_address(text).unwrap());
        let id = Name::fixed("ann");
        let card = |name: Option<&str>| {
            let screen_name = name.map(str::to_owned);
            Card { client_type: ClientType::AiAgent, screen_name, role: Role::Admin }
        };
        let joined = |name, channels| Some(Joined { card: card(name), channels });
        let row = Row { id, here: None, joined: None, left: Vec::new() };
        vec![
            row.clone(),
            Row { here: Some(false), left: vec![at("r:c"), at("r:*")], ..row.clone() },
            Row { here: Some(true), joined: joined(None, vec![at("r:*")]), ..row.clone() },
            Row { joined: joined(Some("\u{1}\"ü"), vec![at("r:c"), at("s:c")]), ..row },
        ]
    }

    fn clients(last: Option<Name>) -> Clients {
        let json = RawValue::from_string(r#"{"a":[1,"\u0007 ü"]}"#.into()).unwrap();
        let rows = vec![(Name::fixed("ann"), Json(json))];
        Clients { to: (1, 2), shard: (3, 4), rows, count: 5, last }
    }

    #[test]
    fn what_is_said_of_clients_is_read_as_it_was() {
        let said = clients(Some(Name::fixed("ann")));
        let PeerNote::Clients(told) = Note::Clients(said).read(Now::default()) else { panic!() };
        assert_eq!((told.reply_to.shard, told.reply_to.pending), (ShardId(1), 2));
        assert_eq!(Clients::new(&told), clients(Some(Name::fixed("ann"))));
    }

    #[test]
    fn rows_that_no_answer_can_hold_are_refused() {
        let deep = |count| format!("{}{}", "[".repeat(count), "]".repeat(count));
        let said = |json: &str| {
            let row = (Name::fixed("ann"), Json(RawValue::from_string(json.into()).unwrap()));
            let clients = Clients { rows: vec![row], ..clients(None) };
            encode("t", "n", &Say::Note(Note::Clients(clients)))
        };
        for json in ["1e999", r#""\ud800""#, &deep(200)] {
            decode(&said(json)).unwrap_err();
        }
        for json in ["1e99", r#""\ud83d\ude00""#, &deep(100)] {
            let Say::Note(Note::Clients(clients)) = decode(&said(json)).unwrap().say else {
                panic!("it is of clients")
            };
            serde_json::to_value(&clients.read().part.rows.rows[0]).unwrap();
        }
    }

    #[test]
    fn messages_are_read_as_they_were_written() {
        let text = |left_ms| Text { text: r#"{"a":"\u0007 ü"}"#.into(), left_ms };
        let ann = || Name::fixed("ann");
        let room = Some(Name::fixed("r"));
        for say in [
            Say::Beat { number: 1, clients: 2, members: 3, hello: true },
            Say::Changes { number: NUMBER_MAX, rows: rows() },
            Say::Ask { ask: 7 },
            Say::Part { ask: 7, number: 1, part: 2, is_last: true, rows: rows() },
            Say::Note(Note::Private { targets: vec![ann()], message: text(Some(1)) }),
            Say::Note(Note::Announce { room: room.clone(), message: text(None) }),
            Say::Note(Note::Announce { room: None, message: text(None) }),
            Say::Note(Note::Disconnect { client_id: ann(), reason: Some("\"".into()) }),
            Say::Note(Note::Disconnect { client_id: ann(), reason: None }),
            Say::Note(Note::LetGo(Arc::new(read_address("r:*").unwrap()))),
            Say::Note(Note::AskClients(ask_clients(None, None, false))),
            Say::Note(Note::AskClients(ask_clients(Some(ann()), Some(7), true))),
            Say::Note(Note::Clients(clients(Some(ann())))),
            Say::Note(Note::Clients(Clients { rows: Vec::new(), ..clients(None) })),
            Say::Bye,
        ] {
            let bytes = encode("t/1", "ü", &say);
            let back = decode(&bytes).unwrap();
            assert_eq!((&*back.from, &*back.node), ("t/1", "ü"));
            assert_eq!(back.say, say);
            for end in 0..bytes.len() {
                decode(&bytes[..end]).unwrap_err();
            }
        }
    }

    fn ask_clients(after: Option<Name>, limit: Option<u16>, brief: bool) -> AskClients {
        AskClients { shard: 1, pending: 2, bytes: 3, after, limit, brief }
    }

    #[test]
    fn rows_are_not_longer_than_they_say() {
        for row in rows() {
            let length = serde_json::to_string(&row).unwrap().len();
            assert!(length <= row.bytes(), "{length} of {}", row.bytes());
        }
    }

    #[test]
    fn garbled_messages_are_refused_and_fields_of_later_versions_are_not() {
        let good = r#"{"v":1,"from":"t","node":"n","x":1,"say":{"changes":{"number":1,"x":[],
            "rows":[{"id":"ann","x":{},"in":{"card":{"type":"human","role":"user","x":0},
            "channels":["r:c"]}}]}}}"#;
        decode(good.as_bytes()).unwrap();
        for (from, to) in [
            (r#""v":1"#, r#""v":2"#),
            (r#""v":1,"#, ""),
            (r#""from":"t""#, r#""from":"""#),
            (r#""number":1"#, r#""number":9007199254740993"#),
            (r#""number":1"#, r#""number":-1"#),
            ("changes", "other"),
            ("ann", "a b"),
            ("r:c", "r"),
            ("r:c", "*:c"),
            ("human", "cat"),
            ("user", "king"),
            (r#""rows":"#, r#""rowing":"#),
        ] {
            assert!(good.contains(from), "{from}");
            decode(good.replace(from, to).as_bytes()).unwrap_err();
        }
        for bad in [&b""[..], b"1", b"[]", b"\xff", b"{\"v\":1}", &[b'['; 100_000]] {
            decode(bad).unwrap_err();
        }
        assert!(decode(br#"{"v":9}"#).unwrap_err().contains("version 9"));
    }
}
