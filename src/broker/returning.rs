//! Clients that return: what is kept of a client beyond its connection, its server and its node.
//!
//! A client gets a token with its welcome. Its edge records who it is and what it has joined, under
//! the hash of the token, whenever that changes; the storage keeps it while the client is connected
//! and for a while after that. Who comes back with the token is asked for in the storage before the
//! client id is claimed, and joined anew.
//!
//! *Invariants*: what is said of a session carries the life it is of, which grows each time that the
//! session is resumed; what is said of an earlier life changes nothing. No token is in here but the
//! one that its client has not been told yet.

use crate::base::ids::ConnRef;
use crate::broker::channel::Options;
use crate::protocol::command::{Address, ClientType};
use crate::protocol::names::Name;
use crate::protocol::session::{SessionKey, SessionToken, TOKEN_BYTES};

/// How sessions are kept on a node that keeps them.
#[derive(Clone, Copy, Debug)]
pub struct SessionPlan {
    /// How long a session is kept after its client has gone, in milliseconds.
    pub ttl_ms: u64,
    /// How long the storage may take to say whether it has a session.
    pub answer_timeout_ms: u64,
    /// Gives random bytes that nobody can guess, if there are any.
    pub random: fn() -> Option<[u8; TOKEN_BYTES]>,
}

/// For which session a client id is claimed, and in which life of it: whoever claims it for a later
/// one takes it over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stake {
    /// Under which the session is kept.
    pub key: SessionKey,
    /// The life; before it is claimed, the last that is known, or 0.
    pub life: u64,
}

/// What may return of a client that is connected.
#[derive(Debug)]
pub struct Stay {
    /// Under which it is kept.
    pub key: SessionKey,
    /// What its client is told with the welcome, and the server needs no longer.
    pub token: Option<SessionToken>,
    /// Which of its lives this is, as the home of the client id says; before that, the one before.
    pub life: u64,
    /// Whether it was kept from an earlier connection.
    pub is_resumed: bool,
    /// Whether it is listed as to be recorded.
    pub is_changed: bool,
    /// Whether it was recorded since it began or went on here.
    pub is_recorded: bool,
    /// Whether the client was welcomed: nothing is recorded before.
    pub is_welcome: bool,
}

impl Stay {
    /// For what its client id is claimed.
    pub fn stake(&self) -> Stake {
        Stake { key: self.key, life: self.life }
    }

    /// One that begins with this token, or is to go on.
    pub fn new(token: SessionToken, is_resumed: bool) -> Stay {
        let key = token.key();
        Stay {
            key,
            token: Some(token),
            life: 0,
            is_resumed,
            is_changed: false,
            is_recorded: false,
            is_welcome: false,
        }
    }
}

/// A session as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptSession {
    /// Which of its lives this is.
    pub life: u64,
    /// Its client's id.
    pub client_id: Name,
    /// Its kind.
    pub client_type: ClientType,
    /// A name for people.
    pub screen_name: Option<String>,
    /// An avatar's URL or identifier.
    pub avatar: Option<String>,
    /// How an agent behaves.
    pub personality: Option<String>,
    /// What it has joined.
    pub subscriptions: Vec<Subscription>,
}

/// What a client has joined, and how; the channel may be `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// What.
    pub address: Address,
    /// What it asked for.
    pub options: Options,
}

/// What an edge has the storage do with a session.
#[derive(Clone, Debug)]
pub enum SessionRecord {
    /// Keep it as long as nothing else is said of it: its client is connected.
    Here(SessionKey, Box<KeptSession>),
    /// Keep it for the time that a client may be away: the connection has ended.
    Left(SessionKey, Box<KeptSession>),
    /// Keep it no longer; it ends with this life.
    Over(SessionKey, u64),
    /// Say what is kept of it; a connection wants to go on with it.
    Recall(SessionKey, ConnRef),
}

/// What the storage says to a [`SessionRecord::Recall`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recalled {
    /// It is this.
    Found(Box<KeptSession>),
    /// There is none, or not any more.
    Unknown,
    /// That can't be said now.
    Unavailable,
}
