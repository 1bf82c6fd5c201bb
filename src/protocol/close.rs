//! Why the server closes a connection: a WebSocket close code and a reason in words for each.

macro_rules! closes {
    ($($(#[$doc:meta])* $name:ident = $code:literal $label:literal $reason:literal,)+) => {
        /// Why the server closed a connection.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum CloseReason { $($(#[$doc])* $name,)+ }

        impl CloseReason {
            /// Every reason, in the order of the table.
            pub const ALL: &'static [CloseReason] = &[$(CloseReason::$name,)+];

            /// The WebSocket close code (RFC 6455, section 7.4, and the protocol's own in 4000..).
            pub fn code(self) -> u16 {
                match self { $(CloseReason::$name => $code,)+ }
            }

            /// The stable label in metrics and telemetry.
            pub fn label(self) -> &'static str {
                match self { $(CloseReason::$name => $label,)+ }
            }

            /// What the client is told.
            pub fn reason(self) -> &'static str {
                match self { $(CloseReason::$name => $reason,)+ }
            }
        }
    };
}

closes! {
    /// The client closed first.
    ByClient = 1000 "by_client" "goodbye",
    /// The client's socket ended without a close frame.
    Lost = 1006 "lost" "the connection was lost",
    /// The server is going away.
    GoingAway = 1001 "going_away" "the server is going away; come back after retry_after_ms",
    /// The bytes are no WebSocket frames.
    Protocol = 1002 "protocol_error" "the bytes break the WebSocket protocol (RFC 6455)",
    /// A binary message.
    Binary = 1003 "binary" "binary messages are not accepted; send JSON text",
    /// A text message that is not UTF-8.
    NotUtf8 = 1007 "not_utf8" "a text message must be UTF-8",
    /// Too many malformed messages.
    Violations = 1008 "violations" "too many malformed messages within a minute",
    /// More pings and pongs than the limit.
    ControlFlood = 1008 "control_flood" "more pings and pongs than limits.rate_control_frames a second",
    /// The server failed.
    Internal = 1011 "internal" "the server failed; connect again",
    /// A message over the size limit.
    TooBig = 1009 "too_big" "the message is longer than limits.max_message_bytes",
    /// The server has as many connections as it may have.
    Full = 1013 "full" "the server is full; try again later",
    /// The address has as many connections as it may have.
    AddressFull = 1013 "address_full" "too many connections from this address; close one or try again later",
    /// The process comes near its memory limit.
    Memory = 1013 "memory" "the server is short of memory; try again later, and read faster",
    /// The token does not hold any more.
    Unauthorized = 4001 "unauthorized" "the token is missing, wrong or expired",
    /// The client does not read what it is sent.
    TooSlow = 4008 "too_slow" "messages wait longer than this connection may be behind; read faster and recover",
    /// Nothing was heard from the client.
    Silent = 4010 "silent" "nothing was heard for two heartbeats; answer pings",
    /// An admin closed it.
    Disconnected = 4013 "disconnected" "disconnected by an admin",
    /// Its client has come back by another connection.
    Superseded = 4013 "superseded" "your session goes on in another connection",
    /// The handshake did not come in time.
    HandshakeTimeout = 1006 "handshake_timeout" "the handshake did not come in time",
    /// The handshake was refused with an HTTP answer.
    HandshakeRefused = 1006 "handshake_refused" "the handshake was refused",
}

#[cfg(test)]
mod tests {
    use super::CloseReason;

    #[test]
    fn reasons_fit_a_close_frame() {
        for reason in CloseReason::ALL {
            assert!(reason.reason().len() <= 123, "{reason:?}");
        }
    }
}
