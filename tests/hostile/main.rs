//! Hostile, slow and unlucky clients against the real program, while ordinary clients talk.
//!
//! Each attack is one entry of [`attack::ALL`]: a function that misbehaves in one way until it is told
//! to stop. Three runners share the table:
//! - `withstanding` runs each attack for a second against a daemon of its own. Two ordinary clients
//!   exchange messages meanwhile: none is lost, doubled or reordered, none takes long by the daemon's
//!   own histogram; memory and descriptors stay within bounds and come back; SIGTERM works during the
//!   attack.
//! - `strict` (`make hostile`) measures the release binary on a core of its own and checks the figures
//!   that the project promises. It is ignored in `make test`, where timings mean nothing.
//! - `soak` (`make soak-hostile`) mixes all of them for as long as it is told, and keeps a ledger of what
//!   was acknowledged.
//!
//! `answers` holds what a client must be told: the close code of each broken frame, the end of a
//! half-closed connection. `shared` holds the attacks that need a Redis or several nodes.

#![allow(clippy::unwrap_used, reason = "a test that can't go on says so by a panic")]

mod answers;
mod attack;
#[allow(dead_code, unused_imports, unused_macros, reason = "each suite uses a part of it")]
#[path = "../common/mod.rs"]
mod common;
mod enemy;
mod gauge;
mod ordinary;
mod pace;
#[allow(dead_code, reason = "each suite uses a part of it")]
#[path = "../redis/mod.rs"]
mod redis;
mod shared;
mod soak;
mod strict;
mod withstanding;
