//! What the bus tells about itself. A shard hands each event to the control plane and forgets it;
//! the control plane makes an envelope of it and spreads it.
//!
//! *Invariant*: an event names no private channel, nor who made it or is in it: whoever may read
//! telemetry is told that something happened in the room and nothing more.

use crate::protocol::close::CloseReason;
use crate::protocol::command::{Address, ChannelType, ClientType};
use crate::protocol::fault::Fault;
use crate::protocol::names::Name;
use std::sync::Arc;

/// One event, and when it happened in microseconds since 1970.
#[derive(Debug, Clone)]
pub struct Telemetry {
    /// When it happened.
    pub at_us: u64,
    /// What happened.
    pub event: Event,
}

impl Telemetry {
    /// The bytes of what a client sent; what is small whatever a client sends weighs nothing.
    pub fn weight(&self) -> usize {
        match &self.event {
            Event::OfClient { payload, metadata, .. } => payload.len() + metadata.len(),
            _ => 0,
        }
    }
}

/// Where something happened, as far as whoever reads telemetry may know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a channel that everyone may see, or in the room as a whole.
    Open(Address),
    /// In some private channel of this room.
    Private(Name),
    /// In this room; in which channel, the teller does not know to be open.
    Somewhere(Name),
}

impl Place {
    /// The place that a channel of this type is.
    pub fn of(address: &Address, channel_type: ChannelType) -> Place {
        match channel_type {
            ChannelType::Private => Place::Private(address.room.clone()),
            ChannelType::General | ChannelType::System | ChannelType::Pm => {
                Place::Open(address.clone())
            }
        }
    }

    /// The client, unless that would tell who has to do with a private channel.
    pub fn known(&self, client_id: &Name) -> Option<Name> {
        match self {
            Place::Private(_) => None,
            Place::Open(_) | Place::Somewhere(_) => Some(client_id.clone()),
        }
    }
}

/// What may happen.
#[derive(Debug, Clone)]
pub enum Event {
    /// A client has its id.
    ClientConnected {
        /// Who.
        client_id: Name,
        /// What kind of client.
        client_type: ClientType,
        /// The address it came from.
        address: String,
    },
    /// A client took another id by `identify`.
    ClientIdentified {
        /// Who it is now.
        client_id: Name,
        /// Who it was.
        previous_id: Name,
        /// What kind of client it is now.
        client_type: ClientType,
    },
    /// A client is gone.
    ClientDisconnected {
        /// Who.
        client_id: Name,
        /// What kind of client.
        client_type: ClientType,
        /// Why.
        reason: CloseReason,
    },
    /// A channel was made.
    ChannelCreated {
        /// Which.
        place: Place,
        /// By whom, if a client made it and it is not private.
        created_by: Option<Name>,
        /// Whether a join made it.
        auto_created: bool,
    },
    /// A channel is gone.
    ChannelDeleted {
        /// Which.
        place: Place,
    },
    /// A client joined a channel.
    Joined {
        /// Who, unless the channel is private.
        client_id: Option<Name>,
        /// Where.
        place: Place,
    },
    /// A client left a channel.
    Left {
        /// Who, unless the channel is private.
        client_id: Option<Name>,
        /// Where.
        place: Place,
    },
    /// A message was refused.
    MessageRefused {
        /// Whose.
        client_id: Name,
        /// Why.
        fault: Fault,
    },
    /// A client does not keep up, and messages to it were dropped.
    SlowConsumer {
        /// Who.
        client_id: Name,
        /// The bytes that wait for it.
        waiting_bytes: u64,
    },
    /// Nothing can be stored from now on.
    StorageDegraded {
        /// Why.
        reason: Arc<str>,
    },
    /// Still nothing can be stored, for another reason by now.
    StorageStillDegraded {
        /// Why.
        reason: Arc<str>,
    },
    /// What was kept back is stored, and storing goes on.
    StorageRestored {
        /// How long nothing could be stored.
        outage_ms: u64,
        /// Events of that time that could not be kept back and are not stored.
        lost: u64,
    },
    /// An agent did something; at most one a second for each agent.
    AgentActivity {
        /// Which agent.
        client_id: Name,
        /// What it did: `joined`, `left` or `published`.
        action: &'static str,
        /// Where.
        place: Place,
    },
    /// A client's own telemetry, checked: `payload` is a JSON object's text.
    OfClient {
        /// The message's id.
        id: String,
        /// Who sent it.
        from: Name,
        /// What it is addressed to.
        address: Address,
        /// The payload, as it was sent.
        payload: String,
        /// The members of its metadata, as they were sent, without braces.
        metadata: String,
    },
}
