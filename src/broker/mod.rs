//! The truth as pure state machines: who is connected, which rooms there are, what was said.
//!
//! An [`edge::Edge`] knows the clients that are connected to its shard, a [`home::Home`] the rooms
//! and client ids that hash to it. Four kinds of message exist and each only feeds the next:
//!
//! ```text
//! client -> edge --Ask--> home --Tell--> edge --Delivery--> outbox
//! ```
//!
//! *Invariants*: handling an [`lane::Ask`] makes only [`lane::Tell`]s, handling a `Tell` makes only
//! [`delivery::Delivery`]s: the signatures say so. What a `Tell` obliges an edge to ask later waits
//! in the edge as an errand and is asked when the client's input is next looked at, where there is
//! a way to wait.
//!
//! *Not here*: sockets, JSON text, threads, clocks.

pub mod acks;
pub mod audience;
pub mod census;
pub mod channel;
pub mod delivery;
pub mod directory;
pub mod durable;
pub mod edge;
pub mod elsewhere;
pub mod history;
pub mod home;
pub mod lane;
pub mod late;
pub mod members;
pub mod peers;
pub mod pending;
pub mod policy;
pub mod presence;
pub mod record;
pub mod retention;
pub mod returning;
pub mod room;
pub mod session;
pub mod staged;
pub mod telemetry;
pub mod violations;

#[cfg(test)]
mod tests;
