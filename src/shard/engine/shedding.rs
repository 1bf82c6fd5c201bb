//! Gives up memory when the process comes near its ceiling: stored messages of the largest histories,
//! and the connections that hold the most.
//!
//! *Not here*: when and how much; `daemon/memory.rs` decides and asks.

use crate::base::ids::ConnId;
use crate::base::limits::{SHED_CLIENT_BYTES_MIN, SHED_CLIENTS_MAX};
use crate::base::time::Now;
use crate::protocol::close::CloseReason;
use crate::shard::connection::{Connection, Stage};
use crate::shard::engine::Engine;
use crate::shard::meters::Counter;

impl Engine {
    /// Gives up so many bytes of histories, and closes the heaviest connections until they have
    /// given up so many bytes.
    pub(super) fn shed(&mut self, now: Now, history_bytes: u64, client_bytes: u64) {
        self.home.give_up(history_bytes, &mut self.told);
        if client_bytes > 0 {
            self.close_heaviest(now, client_bytes);
        }
    }

    /// A client that holds little is never closed: others must be what takes the memory.
    fn close_heaviest(&mut self, now: Now, bytes: u64) {
        let connections = self.connections.iter().flatten();
        let mut heavy: Vec<(usize, ConnId)> = connections
            .filter(|connection| !connection.is_closing())
            .map(|connection| (weight(connection), connection.id))
            .filter(|&(weight, _)| weight >= SHED_CLIENT_BYTES_MIN)
            .collect();
        heavy.sort_unstable_by_key(|&(weight, conn)| (std::cmp::Reverse(weight), conn.slot));
        let mut freed = 0;
        for (weight, conn) in heavy.into_iter().take(SHED_CLIENTS_MAX) {
            if freed >= bytes {
                break;
            }
            freed += weight as u64;
            self.tally.add(Counter::ClientsShed, 1);
            self.settle_now(now, conn);
            self.abandon_backlog(conn);
            self.begin_close(now, conn, CloseReason::Memory, None);
            if let Some(connection) = self.connection_mut(conn) {
                connection.input = Vec::new();
            }
        }
    }
}

/// The bytes that a connection holds beyond what an idle one does.
fn weight(connection: &Connection) -> usize {
    let stalled = connection.stalled.as_ref().map_or(0, |text| text.len());
    let unfinished = match &connection.stage {
        Stage::Open(socket) => socket.assembly_bytes(),
        _ => 0,
    };
    connection.outbox.bytes() + connection.input.capacity() + stalled + unfinished
}
