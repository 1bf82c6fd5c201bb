//! What nodes tell each other: who is where, whose a client id is, and what is for the clients of
//! another node.
//!
//! A message for all nodes goes out at `PREFIX:census`, one for a single node at `PREFIX:node:TOKEN`;
//! each node hears its own messages, too. Nothing that is said here is kept: who was not there did
//! not hear it.

use super::Hub;
use crate::broker::peers::{PeerNews, PeerRecord, To};
use std::time::Instant;

/// By this a node hears that it hears.
const BEAT: &[u8] = b"beat";

impl Hub {
    /// A home has something for other nodes.
    pub(super) fn on_gossip_of_homes(&mut self, record: PeerRecord) {
        if let PeerRecord::Claim(client_id, conn) = record {
            let to = To::Client(client_id.clone());
            self.tell(to, PeerNews::Claimed { client_id, conn, is_granted: true });
        }
    }

    /// Another node, or this one, said something to all or to this one.
    pub(super) fn on_gossip(&mut self, name: &str, message: &[u8]) {
        if message == BEAT && name == self.keys.node(&self.token) {
            self.state.heard_at = Some(Instant::now());
        }
    }
}
