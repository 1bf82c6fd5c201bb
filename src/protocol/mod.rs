//! What goes over the wire, and nothing of who sends it where.
//!
//! *Not here*: clocks, sockets, connections, rooms.

pub mod close;
pub mod command;
pub mod decode;
pub mod envelope;
pub mod fault;
pub mod frame;
pub mod json;
pub mod names;
pub mod origin;
pub mod page;
pub mod quote;
pub mod reply;
mod scan;
pub mod session;
pub mod timestamp;
pub mod views;
