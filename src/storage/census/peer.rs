//! What is known of one peer, and how far.
//!
//! A peer numbers its changes; number 0 is when it had no clients. As long as no number is missing,
//! its table follows from its changes. Otherwise the peer is behind, and all its clients are asked
//! for: a snapshot, in parts, says at which number its first part was made. Later parts may hold
//! later changes already. That does no harm, since those come in any case, and say what is.
//!
//! *Invariants*: the table has all changes up to `number`, and the homes know the table; changes are
//! kept only while one before them is missing; a peer that is not behind asks for nothing.

use crate::broker::peers::{PeerId, PeerNews, To};
use crate::storage::census::table::{Addresses, Change, Table};
use crate::storage::census::wire::Row;
use std::collections::BTreeMap;

/// How long a part of a snapshot is waited for before all of it is asked for again.
pub(super) const ASK_AGAIN_MS: u64 = 1_000;
/// The bytes of changes that are kept while one before them is missing. More are not, so that after
/// the snapshot another one is asked for.
const KEPT_BYTES_MAX: usize = 16 * 1024 * 1024;

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) id: PeerId,
    /// The name of the node.
    pub(super) node: String,
    /// When something came from it.
    pub(super) heard_ms: u64,
    table: Table,
    /// Whether it has said something to this node alone.
    pub(super) knows_us: bool,
    /// The last of its changes that is in the table.
    number: u64,
    /// The last of its changes that is known to be.
    seen: u64,
    /// Whether the table is not that of its number: then something is wrong with a program.
    is_doubted: bool,
    kept: BTreeMap<u64, (Vec<Row>, usize)>,
    kept_bytes: usize,
    asked: Option<Asked>,
}

/// A snapshot that is awaited.
#[derive(Debug)]
struct Asked {
    ask: u64,
    /// When it was asked for, or its last part came.
    at_ms: u64,
    number: u64,
    parts: u32,
    table: Table,
}

/// A part of a snapshot.
pub(super) struct Part {
    pub(super) ask: u64,
    pub(super) number: u64,
    pub(super) part: u32,
    pub(super) is_last: bool,
    pub(super) rows: Vec<Row>,
}

/// Where changes of tables go.
pub(super) struct Desk<'a> {
    pub(super) addresses: &'a mut Addresses,
    pub(super) news: &'a mut Vec<(To, PeerNews)>,
}

impl Peer {
    /// A peer that nothing is known of.
    pub(super) fn new(id: PeerId, node: String, now_ms: u64) -> Peer {
        Peer {
            id,
            node,
            heard_ms: now_ms,
            knows_us: false,
            table: Table::default(),
            number: 0,
            seen: 0,
            is_doubted: false,
            kept: BTreeMap::new(),
            kept_bytes: 0,
            asked: None,
        }
    }

    /// How many clients it has, as far as is known.
    pub(super) fn clients(&self) -> u64 {
        self.table.counts().0
    }

    /// When all its clients are to be asked for, if they are.
    pub(super) fn ask_due_ms(&self) -> Option<u64> {
        let due_ms = self.asked.as_ref().map_or(0, |asked| asked.at_ms + ASK_AGAIN_MS);
        self.is_behind().then_some(due_ms)
    }

    /// Notes that they are asked for, by this number.
    pub(super) fn note_asked(&mut self, ask: u64, now_ms: u64) {
        let table = Table::default();
        self.asked = Some(Asked { ask, at_ms: now_ms, number: 0, parts: 0, table });
    }

    /// Forgets that they were.
    pub(super) fn forget_asked(&mut self) {
        self.asked = None;
    }

    /// The peer has made so many changes, and then so many clients and memberships were there.
    pub(super) fn on_beat(&mut self, number: u64, counts: (u64, u64)) {
        self.seen = self.seen.max(number);
        if self.seen == self.number && number == self.number && counts != self.table.counts() {
            self.is_doubted = true;
        }
    }

    /// These are the changes of this number, `bytes` long.
    pub(super) fn on_changes(
        &mut self,
        number: u64,
        rows: Vec<Row>,
        bytes: usize,
        desk: &mut Desk<'_>,
    ) {
        self.seen = self.seen.max(number);
        if number <= self.number || self.kept.contains_key(&number) {
            return;
        }
        if number == self.number + 1 {
            self.take_over(number, rows, desk);
            self.settle(desk);
        } else if self.kept_bytes + bytes <= KEPT_BYTES_MAX {
            self.kept_bytes += bytes;
            self.kept.insert(number, (rows, bytes));
        }
    }

    /// A part of all its clients has come.
    pub(super) fn on_part(&mut self, part: Part, now_ms: u64, desk: &mut Desk<'_>) {
        let Some(asked) = &mut self.asked else { return };
        if (asked.ask, asked.parts) != (part.ask, part.part) {
            return;
        }
        asked.at_ms = now_ms;
        asked.number = part.number;
        asked.parts += 1;
        for row in part.rows {
            asked.table.apply(row, desk.addresses, &mut |_| {});
        }
        if !part.is_last {
            return;
        }
        // What is older than the table may come of a network that repeats itself.
        if let Some(asked) = self.asked.take().filter(|asked| asked.number >= self.number) {
            let id = self.id;
            self.table.compare(&asked.table, &mut |change| desk.news.push(news(id, change)));
            self.table = asked.table;
            self.number = asked.number;
            self.seen = self.seen.max(self.number);
            self.is_doubted = false;
            self.settle(desk);
        }
    }

    pub(super) fn is_behind(&self) -> bool {
        self.number < self.seen || self.is_doubted
    }

    fn take_over(&mut self, number: u64, rows: Vec<Row>, desk: &mut Desk<'_>) {
        self.number = number;
        let id = self.id;
        for row in rows {
            let tell = &mut |change| desk.news.push(news(id, change));
            self.table.apply(row, desk.addresses, tell);
        }
    }

    /// Goes on with what was kept, as far as nothing is missing.
    fn settle(&mut self, desk: &mut Desk<'_>) {
        while let Some(first) = self.kept.first_entry()
            && *first.key() <= self.number + 1
        {
            let (number, (rows, bytes)) = first.remove_entry();
            self.kept_bytes -= bytes;
            if number > self.number {
                self.take_over(number, rows, desk);
            }
        }
        if !self.is_behind() {
            self.asked = None;
        }
    }

    #[cfg(test)]
    pub(super) fn check(&self) {
        self.table.check();
        assert!(self.number <= self.seen);
        assert!(self.kept.keys().all(|&number| number > self.number + 1));
        assert_eq!(self.kept_bytes, self.kept.values().map(|(_, bytes)| bytes).sum::<usize>());
        assert!(self.is_behind() || self.asked.is_none() && self.kept.is_empty());
    }

    #[cfg(test)]
    pub(super) fn table(&self) -> &Table {
        &self.table
    }
}

fn news(peer: PeerId, change: Change) -> (To, PeerNews) {
    match change {
        Change::Client { client_id, is_connected } => {
            let to = To::Client(client_id.clone());
            (to, PeerNews::Client { peer, client_id, is_connected })
        }
        Change::Member { address, client, is_member } => {
            let to = To::Room(address.room.clone());
            (to, PeerNews::Member { peer, address, client, is_member })
        }
    }
}
