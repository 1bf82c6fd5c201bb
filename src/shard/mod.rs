//! One thread's world: an engine that is pure, and the driver that gives it sockets and time.
//!
//! *Not here*: what is configured, who accepts, when the process ends. The daemon says so.

pub mod connection;
pub mod driver;
pub mod engine;
pub mod lanes;
pub mod mail;
pub mod meters;
pub mod outbox;
