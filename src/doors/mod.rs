//! Byte machines: what a socket read goes in, what it meant comes out.
//!
//! A connection starts with a [`handshake`]; after it, [`websocket`] reads frames and [`control`]
//! writes the few that the server makes of its own. Nobody above this floor knows a byte of HTTP or
//! of WebSocket, except for the header in front of an envelope, which
//! [`protocol::frame`](crate::protocol::frame) writes where the envelope is encoded.
//!
//! The frames are read by this project's own machine rather than by a library's, because an idle
//! connection must own no buffer and a message must be read where the socket put it; libraries own
//! a buffer for each connection. The tests hold it against a library's client.
//!
//! *Invariants*: bytes from a peer never panic; nothing is kept of a connection but the fragments
//! of an unfinished message.
//!
//! *Panics*: a slice ends at a length that was just compared with the input, or at a character
//! boundary that was just searched for.
//!
//! *Not here*: sockets, clocks, threads; who a client is and what it may do.

pub mod control;
pub mod farewell;
pub mod handshake;
pub mod websocket;

mod header;
mod mask;
#[cfg(test)]
mod peers;
mod query;
mod refusal;

pub use control::{close, close_reply, ping, pong};
pub use farewell::Farewell;
pub use handshake::{Handshake, HandshakePolicy, Hello};
pub use refusal::refuse;
pub use websocket::{CloseFrame, Event, Step, WebSocket};
