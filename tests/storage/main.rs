//! The storage against real Redis servers: what it promises, whatever happens to them.

#![allow(clippy::unwrap_used, reason = "a test that can't go on says so by a panic")]

#[path = "../redis/mod.rs"]
mod redis;

mod bounds;
mod broken;
mod clocks;
mod cluster;
mod crashes;
mod desk;
mod failover;
mod failures;
mod ids;
mod late;
mod ledger;
mod loading;
mod node;
mod refusals;
mod repairs;
mod rights;
mod sessions;
mod shared;
mod slow;
mod speed;
mod tls;
mod writing;
