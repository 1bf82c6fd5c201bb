//! The real program over real sockets: each module shows one part of what the protocol promises.
//!
//! Every test has a daemon of its own on free ports, so they run side by side. Those about order
//! and membership run with one, two and four shards.

#![allow(clippy::unwrap_used, reason = "a test that can't go on says so by a panic")]

mod advice;
mod bench;
mod command_line;
mod commands;
#[path = "../common/mod.rs"]
mod common;
mod connecting;
mod control_plane;
mod degraded;
mod durable;
mod envelope;
mod events;
mod failover;
mod foreign_clients;
mod history;
mod late;
mod lifecycle;
mod memory;
mod nodes;
mod presence;
mod private;
#[path = "../redis/mod.rs"]
mod redis;
mod sessions;
mod slow_consumers;
mod sockets;
mod start_up;
mod storage_states;
mod turns;
