//! Answers about the whole bus, put together from what every shard says; of clients also from what
//! every shard of the other nodes says.
//!
//! *Panics*: a page ends at a place that was just found in the same rows, and is never longer than
//! they are.

use crate::base::ids::ShardId;
use crate::base::limits::{Limits, PAGE_OUTBOX_SHARE, PAGE_ROWS_MAX};
use crate::broker::lane::{ClientsPart, Part};
use crate::broker::peers::{PeerClients, PeerId};
use crate::protocol::names::Name;
use crate::protocol::views::{ClientRow, Counts, RoomRow};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

/// Which rows of a list every shard is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowsWanted {
    /// Those behind this name; all if there is none.
    pub after: Option<Name>,
    /// How many at most.
    pub limit: usize,
    /// How long they may be together, in bytes of JSON, about; one row may be longer.
    pub bytes: usize,
    /// Only their names.
    pub brief: bool,
}

impl RowsWanted {
    /// The first rows, as many as a page may hold.
    pub fn first() -> RowsWanted {
        RowsWanted { after: None, limit: PAGE_ROWS_MAX, bytes: usize::MAX, brief: false }
    }

    /// Where to begin in a tree that is ordered by name.
    pub fn bounds(&self) -> (Bound<&Name>, Bound<&Name>) {
        (self.after.as_ref().map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)
    }
}

/// How long a page may be.
pub fn page_bytes_max(limits: &Limits) -> usize {
    (limits.outbox_bytes / PAGE_OUTBOX_SHARE) as usize
}

/// A row of a list that is ordered by name.
pub trait Row {
    /// By which it is ordered.
    fn name(&self) -> &Name;
    /// How long it is as JSON, about.
    fn bytes(&self) -> usize;
}

impl Row for RoomRow {
    fn name(&self) -> &Name {
        self.room()
    }

    fn bytes(&self) -> usize {
        RoomRow::bytes(self)
    }
}

impl Row for ClientRow {
    fn name(&self) -> &Name {
        self.client_id()
    }

    fn bytes(&self) -> usize {
        ClientRow::bytes(self)
    }
}

/// The rows of one shard: the first that are wanted, by name.
#[derive(Clone, Debug)]
pub struct Rows<R> {
    /// Some, and then more if `last` is nothing.
    pub rows: Vec<R>,
    /// How many there are, wanted or not.
    pub count: u64,
    /// The last of `rows`, if more are wanted that are not among them.
    pub last: Option<Name>,
}

impl<R: Row> Rows<R> {
    /// The first of these rows, as many as are wanted. `next` makes the next row, and is not asked for more
    /// than there is room for.
    pub fn take(wanted: &RowsWanted, count: u64, next: impl Iterator<Item = R>) -> Rows<R> {
        let (mut rows, mut bytes) = (Vec::new(), 0);
        let mut last = None;
        for row in next {
            if rows.len() == wanted.limit || !rows.is_empty() && bytes + row.bytes() > wanted.bytes
            {
                last = rows.last().map(|row: &R| row.name().clone());
                break;
            }
            bytes += row.bytes();
            rows.push(row);
        }
        Rows { rows, count, last }
    }
}

/// Rows of all shards.
///
/// *Invariant*: no row is listed that comes after one that was left out.
#[derive(Debug)]
pub struct Gathered<R> {
    rows: Vec<R>,
    /// How many there are.
    pub count: u64,
    /// Of what comes after it some may not be there.
    last: Option<Name>,
    wanted: RowsWanted,
}

impl<R: Row> Gathered<R> {
    /// Nothing yet.
    pub fn new(wanted: &RowsWanted) -> Gathered<R> {
        Gathered { rows: Vec::new(), count: 0, last: None, wanted: wanted.clone() }
    }

    fn add(&mut self, part: Rows<R>) {
        let Rows { rows, count, last } = part;
        let is_wanted = |row: &R| self.wanted.after.as_ref().is_none_or(|after| row.name() > after);
        self.rows.extend(rows.into_iter().filter(is_wanted));
        self.rows.sort_by(|a, b| a.name().cmp(b.name()));
        // A peer may say anything.
        self.count = self.count.saturating_add(count);
        self.last = [self.last.take(), last].into_iter().flatten().min();
        if self.rows.len() > self.wanted.limit {
            self.rows.truncate(self.wanted.limit);
            let last = self.rows.last().map(|row| row.name().clone());
            self.last = [self.last.take(), last].into_iter().flatten().min();
        }
    }

    /// Those that are listed, and the name behind which the next page begins, if there is one.
    pub fn page(&self) -> (&[R], Option<&Name>) {
        let is_sure = |row: &R| self.last.as_ref().is_none_or(|last| row.name() <= last);
        let sure = &self.rows[..self.rows.partition_point(is_sure)];
        let mut bytes = 0;
        let fits = |row: &&R| {
            bytes += row.bytes();
            bytes <= self.wanted.bytes
        };
        let fitting = sure.iter().take_while(fits).count();
        let listed = &sure[..fitting.max(1).min(sure.len())];
        let is_cut = self.last.is_some() || listed.len() < self.rows.len();
        (listed, listed.last().filter(|_| is_cut).map(Row::name))
    }
}

/// What has been gathered so far.
#[derive(Debug)]
pub enum Census {
    /// Counts.
    Status(Box<Counts>),
    /// Rooms.
    Rooms(Box<Gathered<RoomRow>>),
    /// Clients.
    Clients(Box<Clients>),
    /// How many clients heard an announcement.
    Announced(u64),
}

impl Census {
    /// Adds one shard's part. What is no part of it adds nothing.
    pub fn add(&mut self, part: Part) {
        match (self, part) {
            (Census::Status(sum), Part::Status(counts)) => {
                sum.clients += counts.clients;
                sum.rooms += counts.rooms;
                sum.channels += counts.channels;
                sum.messages_in += counts.messages_in;
                sum.messages_out += counts.messages_out;
                sum.peers = sum.peers.take().or(counts.peers);
                sum.storage = match (sum.storage.take(), counts.storage) {
                    (Some(known), Some(more)) => Some(known.plus(more)),
                    (known, more) => known.or(more),
                };
            }
            (Census::Rooms(rooms), Part::Rooms(part)) => rooms.add(part),
            (Census::Clients(clients), Part::Clients(part)) => clients.add(*part),
            (Census::Announced(total), Part::Announced(count)) => *total += count,
            // An answer of another kind is none to this question.
            _ => {}
        }
    }
}

/// The clients of all nodes, the first of them by name.
///
/// *Invariant*: a shard of a peer is added once.
#[derive(Debug)]
pub struct Clients {
    rows: Gathered<ClientRow>,
    peers: BTreeMap<PeerId, Answers>,
}

/// What has come of a peer.
#[derive(Debug, Default)]
struct Answers {
    /// Its name, if it was asked.
    node: Option<String>,
    from: BTreeSet<u16>,
    /// How many shards it has, once that is known.
    shards: Option<u16>,
}

impl Answers {
    fn is_awaited(&self) -> bool {
        self.node.is_some()
            && self.shards.is_none_or(|shards| self.from.len() < usize::from(shards))
    }
}

impl Clients {
    /// Nobody yet.
    pub fn new(wanted: &RowsWanted) -> Clients {
        Clients { rows: Gathered::new(wanted), peers: BTreeMap::new() }
    }

    fn add(&mut self, part: ClientsPart) {
        let ClientsPart { rows, peers } = part;
        self.rows.add(rows);
        for peer in &*peers {
            self.peers.entry(peer.id).or_default().node = Some(peer.node.clone());
        }
    }

    /// Adds what a shard of a peer says, once.
    pub fn add_of_peer(&mut self, peer: PeerId, clients: PeerClients) {
        let PeerClients { shard, shards, part, .. } = clients;
        let answers = self.peers.entry(peer).or_default();
        if shard < shards && answers.from.insert(shard) {
            answers.shards = Some(shards);
            self.add(ClientsPart { peers: Arc::default(), ..part });
        }
    }

    /// Whether a peer that was asked has not answered, or not all of it.
    pub fn awaits_peers(&self) -> bool {
        self.peers.values().any(Answers::is_awaited)
    }

    /// Which these are.
    pub fn unanswered_nodes(&self) -> Vec<&str> {
        let awaited = self.peers.values().filter(|answers| answers.is_awaited());
        let mut nodes: Vec<&str> = awaited.filter_map(|answers| answers.node.as_deref()).collect();
        nodes.sort_unstable();
        nodes
    }

    /// What was gathered of them.
    pub fn rows(&self) -> &Gathered<ClientRow> {
        &self.rows
    }
}

/// The shards whose part did not come, from the flags of those that are awaited.
pub fn unanswered(awaited: &[bool]) -> Vec<u16> {
    let missing = |(shard, awaited): (usize, &bool)| awaited.then_some(ShardId(shard as u16).0);
    awaited.iter().enumerate().filter_map(missing).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::ShardId;
    use crate::broker::lane::PendingRef;
    use crate::broker::peers::Peer;
    use serde_json::value::RawValue;

    fn part(names: &[&str], count: u64, last: Option<&str>) -> ClientsPart {
        let row = |name: &&str| {
            let text = RawValue::from_string(format!(r#"{{"client_id":"{name}"}}"#)).unwrap();
            ClientRow::Elsewhere(Name::parse(name).unwrap(), text.into())
        };
        let rows = names.iter().map(row).collect();
        let rows = Rows { rows, count, last: last.map(|last| Name::parse(last).unwrap()) };
        ClientsPart { rows, peers: Arc::default() }
    }

    fn of_peer((shard, shards): (u16, u16), part: ClientsPart) -> PeerClients {
        let reply_to = PendingRef { shard: ShardId(0), pending: 1 };
        PeerClients { reply_to, shard, shards, part }
    }

    fn names(clients: &Clients) -> Vec<&str> {
        clients.rows().page().0.iter().map(|row| row.name().as_str()).collect()
    }

    #[test]
    fn each_shard_of_each_peer_is_awaited_and_counted_once() {
        let (one, two) = (PeerId(1), PeerId(2));
        let mut clients = Clients::new(&RowsWanted::first());
        // One answers before it is known that it was asked.
        clients.add_of_peer(one, of_peer((0, 2), part(&["b"], 1, None)));
        let peer = |id, node: &str| Peer { id, node: node.to_owned(), clients: 0 };
        let peers = Arc::new(vec![peer(two, "two"), peer(one, "one")]);
        clients.add(ClientsPart { peers, ..part(&["a", "d"], 2, None) });
        assert_eq!(clients.unanswered_nodes(), ["one", "two"]);
        clients.add_of_peer(one, of_peer((0, 2), part(&["b"], 1, None)));
        clients.add_of_peer(one, of_peer((7, 2), part(&["x"], 1, None)));
        assert_eq!((names(&clients), clients.rows().count), (vec!["a", "b", "d"], 3));
        clients.add_of_peer(one, of_peer((1, 2), part(&["c"], 1, None)));
        assert_eq!(clients.unanswered_nodes(), ["two"]);
        clients.add_of_peer(two, of_peer((0, 1), part(&[], 0, None)));
        // Nobody has asked it, but it is there.
        clients.add_of_peer(PeerId(3), of_peer((0, 2), part(&["e"], 1, None)));
        assert!(!clients.awaits_peers());
        assert_eq!((names(&clients), clients.rows().count), (vec!["a", "b", "c", "d", "e"], 5));
    }

    #[test]
    fn what_is_listed_has_no_hole() {
        let mut clients = Clients::new(&RowsWanted::first());
        clients.add(part(&["a", "e", "g"], 3, None));
        clients.add_of_peer(PeerId(1), of_peer((0, 1), part(&["b", "f"], 9, Some("f"))));
        assert_eq!(names(&clients), ["a", "b", "e", "f"]);
        clients.add_of_peer(PeerId(2), of_peer((0, 1), part(&["c", "d"], 8, Some("d"))));
        assert_eq!((names(&clients), clients.rows().count), (vec!["a", "b", "c", "d"], 20));
        assert_eq!(clients.rows().page().1.map(Name::as_str), Some("d"));
        let many: Vec<String> = (0..2 * PAGE_ROWS_MAX).map(|n| format!("c{n:05}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let mut clients = Clients::new(&RowsWanted::first());
        clients.add(part(&["d"], 1, None));
        clients.add(part(&many, 2_000, None));
        assert_eq!((names(&clients).len(), names(&clients)[2]), (PAGE_ROWS_MAX, "c00002"));
        assert_eq!(clients.rows().page().1.map(Name::as_str), Some("c00999"));
    }

    #[test]
    fn pages_give_every_row_once_however_it_is_divided() {
        let mut rng = fastrand::Rng::with_seed(11);
        for _ in 0..200 {
            let names: Vec<Name> =
                (0..rng.usize(0..60)).map(|n| Name::parse(&format!("c{n:03}")).unwrap()).collect();
            let shards: Vec<usize> = names.iter().map(|_| rng.usize(0..3)).collect();
            let limit = rng.usize(1..20);
            let mut wanted = RowsWanted { limit, bytes: rng.usize(1..400), ..RowsWanted::first() };
            let mut listed = Vec::new();
            for pages in 0.. {
                assert!(pages <= names.len(), "it goes on");
                let mut gathered = Gathered::new(&wanted);
                for shard in 0..3 {
                    let is_its = |at: &usize| {
                        shards[*at] == shard
                            && wanted.after.as_ref().is_none_or(|n| names[*at] > *n)
                    };
                    let rows = (0..names.len()).filter(is_its);
                    let rows = rows.map(|at| RoomRow::Brief(names[at].clone()));
                    let count = shards.iter().filter(|of| **of == shard).count() as u64;
                    gathered.add(Rows::take(&wanted, count, rows));
                }
                assert_eq!(gathered.count, names.len() as u64);
                let (rows, next) = gathered.page();
                assert!(rows.len() <= limit);
                listed.extend(rows.iter().map(|row| row.name().clone()));
                wanted.after = next.cloned();
                if wanted.after.is_none() {
                    break;
                }
            }
            assert_eq!(listed, names);
        }
    }
}
