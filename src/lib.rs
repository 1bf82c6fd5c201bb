//! ArqonBus: a real-time message bus over WebSocket.
//!
//! The crate is a house of floors; a module imports only from the floors below its own.
//!
//! | floor | module | what lives there |
//! |---|---|---|
//! | 0 | [`base`] | time as a value, ids, seeded hashing, every limit of the program |
//! | 1 | [`protocol`] | envelopes, frames, names, commands and faults: what goes over the wire |
//! | 2 | [`broker`] | the truth: sessions, rooms, channels, history, directory, as pure state machines |
//! | 3 | [`doors`] | byte machines: WebSocket bytes in, events out |
//! | 4 | [`shard`] | one thread's world: the engine, the lanes, the outboxes and the poll loop |
//! | 4 | [`storage`] | beside `shard`: keeps in Redis Streams what homes record |
//! | 5 | [`daemon`] | configuration, accepting, pinning, signals, drain and the control plane |
//! | 6 | [`cli`] | the commands a person types |
//!
//! `ARCHITECTURE.md` follows one message through all of them.

pub mod base;
pub mod broker;
pub mod cli;
pub mod daemon;
pub mod doors;
pub mod protocol;
pub mod shard;
pub mod storage;
