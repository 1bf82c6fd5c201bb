//! The envelope as a client sends it, borrowed from the bytes it came in.

use serde::Serialize;
use std::borrow::Cow;

/// The six types of the data model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageType {
    /// Something that happened, for every member of a channel.
    Event,
    /// Said by the server only.
    System,
    /// Something the server shall do.
    Command,
    /// For named clients alone.
    Private,
    /// Said by the server only, as the answer to one client.
    CommandResponse,
    /// A measurement, for whoever watches.
    Telemetry,
}

impl MessageType {
    /// The type as it stands in an envelope.
    pub fn as_str(self) -> &'static str {
        match self {
            MessageType::Event => "event",
            MessageType::System => "system",
            MessageType::Command => "command",
            MessageType::Private => "private",
            MessageType::CommandResponse => "command_response",
            MessageType::Telemetry => "telemetry",
        }
    }

    /// The type of that name.
    pub fn parse(text: &str) -> Option<MessageType> {
        Some(match text {
            "event" => MessageType::Event,
            "system" => MessageType::System,
            "command" => MessageType::Command,
            "private" => MessageType::Private,
            "command_response" => MessageType::CommandResponse,
            "telemetry" => MessageType::Telemetry,
            _ => return None,
        })
    }

    /// Whether only the server may say it.
    pub fn is_of_server(self) -> bool {
        matches!(self, MessageType::System | MessageType::CommandResponse)
    }
}

/// A checked envelope: every rule that needs only the message itself holds.
///
/// *Invariants*: `id` follows its rule; `room` is a valid name, or `*` in a command; `channel` is a
/// valid name, or `*` in a command or an event; `payload` is the
/// text of one JSON object, exactly as it was sent; `kind` is neither `System` nor
/// `CommandResponse`.
#[derive(Debug, PartialEq)]
pub struct Envelope<'a> {
    /// The message id, `arq_` and 1 to 124 more characters.
    pub id: Cow<'a, str>,
    /// What the message is.
    pub kind: MessageType,
    /// The room it is addressed to.
    pub room: Cow<'a, str>,
    /// The channel it is addressed to.
    pub channel: Cow<'a, str>,
    /// Who it says it is from; not yet compared with who sent it.
    pub from: Cow<'a, str>,
    /// The payload's JSON object, braces included, byte for byte as sent.
    pub payload: &'a str,
    /// The metadata, if any was sent.
    pub metadata: Metadata<'a>,
}

/// What a client put into `metadata`.
#[derive(Debug, Default, PartialEq)]
pub struct Metadata<'a> {
    /// The members of the object without its braces, trimmed; empty if there was none. The server's own
    /// keys are not among them, not even as `null`.
    pub members: Cow<'a, str>,
    /// The sender wants to know when the message is safe.
    pub ack: bool,
    /// The sender wants to know which way the message went.
    pub trace: bool,
    /// The message is not to be delivered or replayed after this many milliseconds.
    pub ttl_ms: Option<u64>,
}
