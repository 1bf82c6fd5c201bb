//! The table of faults: every way in which the server says no, each with an HTTP-like code and a
//! stable upper-case word. Clients may match on the word; the sentence beside it is for people.

use std::borrow::Cow;

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident = $code:literal $word:literal,)+) => {
        /// Why something was refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Fault { $($(#[$doc])* $name,)+ }

        impl Fault {
            /// Every fault, in the order of the table.
            pub const ALL: &'static [Fault] = &[$(Fault::$name,)+];

            /// The HTTP-like code.
            pub fn code(self) -> u16 {
                match self { $(Fault::$name => $code,)+ }
            }

            /// The stable word.
            pub fn word(self) -> &'static str {
                match self { $(Fault::$name => $word,)+ }
            }
        }
    };
}

faults! {
    /// The message is not JSON, or not one whole JSON object.
    InvalidJson = 400 "INVALID_JSON",
    /// A key stands twice in one object.
    DuplicateKey = 400 "DUPLICATE_KEY",
    /// The JSON nests too deep.
    TooDeep = 400 "TOO_DEEP",
    /// A required field is absent or null.
    MissingField = 400 "MISSING_FIELD",
    /// A top-level field that the envelope does not have.
    UnknownField = 400 "UNKNOWN_FIELD",
    /// A field holds the wrong JSON type.
    WrongType = 400 "WRONG_TYPE",
    /// `version` is not "1.0".
    UnsupportedVersion = 400 "UNSUPPORTED_VERSION",
    /// `id` does not follow its rule.
    BadId = 400 "BAD_ID",
    /// `type` is none of the six.
    BadType = 400 "BAD_TYPE",
    /// A room, channel or client name does not follow the naming rule.
    BadName = 400 "BAD_NAME",
    /// `timestamp` is not an RFC 3339 time with a zone.
    BadTimestamp = 400 "BAD_TIMESTAMP",
    /// `metadata` has too many keys, or a key of the client's has a wrong value.
    BadMetadata = 400 "BAD_METADATA",
    /// `metadata` holds a key that only the server may set.
    ReservedMetadata = 400 "RESERVED_METADATA",
    /// A telemetry message lacks `eventType` or `payload`.
    BadTelemetry = 400 "BAD_TELEMETRY",
    /// `payload.target` of a private message is not a client id or a list of them.
    BadTarget = 400 "BAD_TARGET",
    /// The command is none the server knows.
    UnknownCommand = 400 "UNKNOWN_COMMAND",
    /// A parameter is missing, of the wrong type, or out of its range.
    BadParameter = 400 "BAD_PARAMETER",
    /// The identity given at connect or by `identify` does not follow its rules.
    BadIdentity = 400 "BAD_IDENTITY",
    /// The HTTP request can't be read or is no WebSocket handshake.
    BadHandshake = 400 "BAD_HANDSHAKE",
    /// No token, or one that does not hold.
    Unauthorized = 401 "UNAUTHORIZED",
    /// `from` is not the sender's own client id.
    SenderMismatch = 403 "SENDER_MISMATCH",
    /// The type is the server's to send.
    TypeForbidden = 403 "TYPE_FORBIDDEN",
    /// The sender is not joined to the channel, or not in the room.
    NotJoined = 403 "NOT_JOINED",
    /// The command needs the role admin.
    AdminRequired = 403 "ADMIN_REQUIRED",
    /// The channel is private and the client is not one of its members.
    ChannelPrivate = 403 "CHANNEL_PRIVATE",
    /// The room's configuration does not let this client publish.
    PublishForbidden = 403 "PUBLISH_FORBIDDEN",
    /// The channel carries private messages; nobody joins it or sends events to it.
    ChannelIsPm = 403 "CHANNEL_IS_PM",
    /// The web page's origin may not connect.
    OriginForbidden = 403 "ORIGIN_FORBIDDEN",
    /// No such room.
    RoomNotFound = 404 "ROOM_NOT_FOUND",
    /// No such channel.
    ChannelNotFound = 404 "CHANNEL_NOT_FOUND",
    /// No such client.
    ClientNotFound = 404 "CLIENT_NOT_FOUND",
    /// A target of a private message is not connected.
    TargetNotFound = 404 "TARGET_NOT_FOUND",
    /// No session is kept under this token, or not any more.
    SessionUnknown = 404 "SESSION_UNKNOWN",
    /// The client id belongs to another connection.
    ClientIdInUse = 409 "CLIENT_ID_IN_USE",
    /// `identify` came too late.
    AlreadyIdentified = 409 "ALREADY_IDENTIFIED",
    /// The client is already joined, so nothing can be recovered.
    AlreadyJoined = 409 "ALREADY_JOINED",
    /// The room is paused.
    RoomPaused = 409 "ROOM_PAUSED",
    /// The room is there already.
    RoomExists = 409 "ROOM_EXISTS",
    /// The channel is there already.
    ChannelExists = 409 "CHANNEL_EXISTS",
    /// The room still has channels.
    RoomNotEmpty = 409 "ROOM_NOT_EMPTY",
    /// The channel still has members.
    ChannelNotEmpty = 409 "CHANNEL_NOT_EMPTY",
    /// The room belongs to the system.
    RoomProtected = 409 "ROOM_PROTECTED",
    /// The channel is hard-coded.
    ChannelProtected = 409 "CHANNEL_PROTECTED",
    /// The event will never be stored, though it may have been delivered.
    StorageLost = 410 "STORAGE_LOST",
    /// The message is longer than the limit.
    MessageTooLarge = 413 "MESSAGE_TOO_LARGE",
    /// More messages or commands a second than the limit; commands with long answers count as 5.
    RateLimited = 429 "RATE_LIMITED",
    /// The client is joined to as many channels as it may be.
    JoinLimit = 429 "JOIN_LIMIT",
    /// The node has as many memberships of clients in channels as it may have.
    MembershipLimit = 429 "MEMBERSHIP_LIMIT",
    /// The node has as many rooms as it may have.
    RoomLimit = 429 "ROOM_LIMIT",
    /// The room has as many channels as it may have.
    ChannelLimit = 429 "CHANNEL_LIMIT",
    /// The node has as many channels as it may have.
    NodeChannelLimit = 429 "NODE_CHANNEL_LIMIT",
    /// The channel or room has as many members as it may have.
    MemberLimit = 429 "MEMBER_LIMIT",
    /// The address has as many connections as it may have.
    AddressLimit = 429 "ADDRESS_LIMIT",
    /// The server failed; nothing of why is told to a client.
    Internal = 500 "INTERNAL",
    /// The node has as many connections as it may have.
    ConnectionLimit = 503 "CONNECTION_LIMIT",
    /// The server is going away.
    Draining = 503 "DRAINING",
    /// The event is not known to be stored, though it may have been delivered; or a session can't be read now; or it is not known whether something is deleted on all nodes.
    StorageUnavailable = 503 "STORAGE_UNAVAILABLE",
}

impl Fault {
    /// Whether a peer that does this is malformed rather than merely unlucky: such refusals count
    /// towards `max_violations`.
    pub fn is_violation(self) -> bool {
        self <= Fault::BadTarget || matches!(self, Fault::SenderMismatch | Fault::TypeForbidden)
    }
}

/// One refusal: the fault, and what a person needs to know to mend it.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// Which fault.
    pub fault: Fault,
    /// The field or parameter at fault, if there is one.
    pub field: Option<Cow<'static, str>>,
    /// All fields of an envelope that are at fault, `field` first; nothing for anything else.
    pub fields: Vec<Cow<'static, str>>,
    /// What is wrong and what to do, as a sentence. Never internal text.
    pub message: Cow<'static, str>,
}

impl Refusal {
    /// A refusal that no single field is to blame for.
    pub fn new(fault: Fault, message: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal { fault, field: None, fields: Vec::new(), message: message.into() }
    }

    /// A refusal of one field.
    pub fn of_field(
        fault: Fault,
        field: impl Into<Cow<'static, str>>,
        message: impl Into<Cow<'static, str>>,
    ) -> Refusal {
        let (field, fields) = (Some(field.into()), Vec::new());
        Refusal { fault, field, fields, message: message.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_unique_and_codes_are_the_protocols() {
        let mut words: Vec<_> = Fault::ALL.iter().map(|fault| fault.word()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Fault::ALL.len());
        for fault in Fault::ALL {
            assert!([400, 401, 403, 404, 409, 410, 413, 429, 500, 503].contains(&fault.code()));
        }
    }

    #[test]
    fn asking_for_what_is_not_there_is_no_violation() {
        assert!(Fault::InvalidJson.is_violation());
        assert!(Fault::SenderMismatch.is_violation());
        assert!(!Fault::UnknownCommand.is_violation());
        assert!(!Fault::RoomNotFound.is_violation());
        assert!(!Fault::RateLimited.is_violation());
    }
}
