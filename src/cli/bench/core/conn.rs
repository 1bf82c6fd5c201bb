//! What is known of one connection. An idle one owns its socket and nothing else.

use super::sending::Due;
use std::net::TcpStream;

/// How far a connection is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Stage {
    /// Not begun.
    #[default]
    Unopened,
    /// The kernel connects it.
    Connecting,
    /// The request is sent, the answer's head is awaited.
    Upgrading,
    /// The bus's welcome is awaited.
    Entering,
    /// A client.
    Live,
    /// No more.
    Closed,
}

/// One connection.
#[derive(Debug, Default)]
pub(super) struct Conn {
    /// Its socket, while it has one.
    pub(super) socket: Option<TcpStream>,
    /// How far it is.
    pub(super) stage: Stage,
    /// Whether the poll also tells when it can be written to.
    pub(super) is_out_watched: bool,
    /// The beginning of a frame whose end has not come.
    pub(super) partial: Vec<u8>,
    /// What the socket has not taken.
    pub(super) backlog: Vec<u8>,
    /// Messages that wait until it has.
    pub(super) held: Vec<Due>,
    /// Messages it got.
    pub(super) seen: u32,
}

impl Conn {
    /// Whether messages can be given to its socket.
    pub(super) fn is_open(&self) -> bool {
        self.stage == Stage::Live && self.backlog.is_empty()
    }

    /// Ends it.
    pub(super) fn close(&mut self) {
        *self = Conn { stage: Stage::Closed, ..Conn::default() };
    }
}
