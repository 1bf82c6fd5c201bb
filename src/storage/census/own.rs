//! The clients of this node, and what is to be said of them.
//!
//! What has changed is only marked; what is so is looked up when it is said. So who joins and leaves
//! between two messages costs nothing, and what waits is bounded by what there is. Changes that
//! nobody will be told leave a hole in the numbers, and whoever sees it asks for all.
//!
//! *Invariants*: when nothing is marked, the table is that of `number`; a number is said once.
//!
//! *Panics*: a beat is only made when there are no changes to send; messages of peers mark nothing
//! here.

use crate::broker::policy::ClientCard;
use crate::protocol::command::Address;
use crate::protocol::names::Name;
use crate::storage::census::table::{Change, Cursor, Table};
use crate::storage::census::wire::{ROW_CHANNELS_MAX, Row, Say};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// The changes that may wait to be said. If there are more, nobody is told them one by one.
const MARKED_MAX: usize = 256 * 1024;

#[derive(Debug)]
pub(super) struct Own {
    table: Table,
    /// The last changes that were said, or will never be.
    number: u64,
    marked: BTreeMap<Name, Marked>,
    marked_count: usize,
    snapshots: VecDeque<Snapshot>,
    /// The bytes of rows at which a message is full.
    rows_bytes: usize,
}

/// What has changed of a client.
#[derive(Debug, Default)]
struct Marked {
    is_here: bool,
    channels: BTreeSet<Arc<Address>>,
}

/// All clients, on their way to a peer.
#[derive(Debug)]
struct Snapshot {
    token: String,
    ask: u64,
    number: u64,
    part: u32,
    cursor: Option<Cursor>,
}

impl Marked {
    fn is_empty(&self) -> bool {
        !self.is_here && self.channels.is_empty()
    }
}

impl Own {
    /// Of a node without clients, whose messages are full at so many bytes of rows.
    pub(super) fn new(rows_bytes: usize) -> Own {
        Own {
            table: Table::default(),
            number: 0,
            marked: BTreeMap::new(),
            marked_count: 0,
            snapshots: VecDeque::new(),
            rows_bytes,
        }
    }

    /// A client is a member or is none.
    pub(super) fn on_member(
        &mut self,
        address: &Arc<Address>,
        client: &Arc<ClientCard>,
        is_member: bool,
    ) {
        let marked = self.marked.entry(client.client_id.clone()).or_default();
        let marked_count = &mut self.marked_count;
        // With another card it is another one in all its channels.
        let mark = &mut |change| {
            if let Change::Member { address, .. } = change {
                *marked_count += usize::from(marked.channels.insert(address));
            }
        };
        match is_member {
            true => self.table.join(address, client, mark),
            false => self.table.leave(address, &client.client_id, mark),
        }
        if marked.is_empty() {
            self.marked.remove(&client.client_id);
        }
        self.bound();
    }

    /// A client is connected or is not.
    pub(super) fn on_client(&mut self, client_id: &Name, is_connected: bool) {
        if self.table.set_connected(client_id, is_connected) {
            let marked = self.marked.entry(client_id.clone()).or_default();
            self.marked_count += usize::from(!marked.is_here);
            marked.is_here = true;
            self.bound();
        }
    }

    /// A peer wants to know all clients.
    pub(super) fn on_ask(&mut self, token: String, ask: u64) {
        self.snapshots.retain(|snapshot| snapshot.token != token);
        let number = self.number;
        self.snapshots.push_back(Snapshot { token, ask, number, part: 0, cursor: None });
    }

    /// Snapshots that are on their way will not come; who needs one asks again.
    pub(super) fn forget_asks(&mut self) {
        self.snapshots.clear();
    }

    /// The next changes to be said to everyone.
    pub(super) fn take_changes(&mut self) -> Option<Say> {
        let (mut rows, mut bytes) = (Vec::new(), 0);
        while bytes < self.rows_bytes
            && let Some(mut first) = self.marked.first_entry()
        {
            let marked = first.get_mut();
            let mut channels = Vec::new();
            while channels.len() < ROW_CHANNELS_MAX
                && let Some(address) = marked.channels.pop_first()
            {
                channels.push(address);
            }
            let is_here = std::mem::take(&mut marked.is_here);
            self.marked_count -= channels.len() + usize::from(is_here);
            let is_done = marked.is_empty();
            let row = self.table.row(first.key(), is_here, channels);
            if is_done {
                first.remove();
            }
            bytes += row.bytes();
            rows.push(row);
        }
        if rows.is_empty() {
            return None;
        }
        self.number += 1;
        Some(Say::Changes { number: self.number, rows })
    }

    /// That this node lives; to be said when there are no changes to be.
    pub(super) fn beat(&self, hello: bool) -> Say {
        assert!(self.marked.is_empty(), "the counts are those of the number");
        let (clients, members) = self.table.counts();
        Say::Beat { number: self.number, clients, members, hello }
    }

    /// The next part of a snapshot, and for whom. Those who wait have their turns.
    pub(super) fn take_part(&mut self) -> Option<(String, Say)> {
        let Snapshot { token, ask, number, part, cursor } = self.snapshots.pop_front()?;
        let (rows, cursor): (Vec<Row>, _) = self.table.rows(cursor.as_ref(), self.rows_bytes);
        let say = Say::Part { ask, number, part, is_last: cursor.is_none(), rows };
        if cursor.is_some() {
            let rest = Snapshot { token: token.clone(), ask, number, part: part + 1, cursor };
            self.snapshots.push_back(rest);
        }
        Some((token, say))
    }

    fn bound(&mut self) {
        if self.marked_count > MARKED_MAX {
            self.marked.clear();
            self.marked_count = 0;
            self.number += 1;
        }
    }

    #[cfg(test)]
    pub(super) fn check(&self) {
        self.table.check();
        let marks = |marked: &Marked| marked.channels.len() + usize::from(marked.is_here);
        assert_eq!(self.marked_count, self.marked.values().map(marks).sum::<usize>());
        assert!(self.marked.values().all(|marked| marks(marked) > 0));
    }

    #[cfg(test)]
    pub(super) fn table(&self) -> &Table {
        &self.table
    }
}
