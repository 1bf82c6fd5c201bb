//! Answers about the whole bus, put together from what every shard says; of clients also from what
//! every shard of the other nodes says.

use crate::base::ids::ShardId;
use crate::broker::lane::{ClientsPart, Part};
use crate::broker::peers::{PeerClients, PeerId};
use crate::protocol::names::Name;
use crate::protocol::views::{ClientRow, Counts, RoomView};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The most rooms or clients one answer lists; it says how many there are in all.
pub const ROWS_MAX: usize = 1_000;

/// What has been gathered so far.
#[derive(Debug)]
pub enum Census {
    /// Counts.
    Status(Box<Counts>),
    /// Rooms, and how many there are.
    Rooms(Vec<RoomView>, u64),
    /// Clients.
    Clients(Box<Clients>),
    /// How many clients heard an announcement.
    Announced(u64),
}

impl Census {
    /// Adds one shard's part.
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
            (Census::Rooms(rooms, total), Part::Rooms(more, count)) => {
                rooms.extend(more);
                rooms.sort_unstable_by(|a, b| a.name.cmp(&b.name));
                rooms.truncate(ROWS_MAX);
                *total += count;
            }
            (Census::Clients(clients), Part::Clients(part)) => clients.add(*part),
            (Census::Announced(total), Part::Announced(count)) => *total += count,
            (census, part) => unreachable!("{part:?} is no part of {census:?}"),
        }
    }
}

/// The clients of all nodes, the first of them by name.
///
/// *Invariants*: a shard of a peer is added once; no row is listed that comes after one that was left out.
#[derive(Debug, Default)]
pub struct Clients {
    rows: Vec<ClientRow>,
    /// How many there are.
    pub count: u64,
    /// Of what comes after it some may not be there.
    last: Option<Name>,
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
    fn add(&mut self, part: ClientsPart) {
        let ClientsPart { rows, count, last, peers } = part;
        self.rows.extend(rows);
        self.rows.sort_by(|a, b| a.client_id().cmp(b.client_id()));
        self.rows.truncate(ROWS_MAX);
        // A peer may say anything.
        self.count = self.count.saturating_add(count);
        self.last = [self.last.take(), last].into_iter().flatten().min();
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

    /// Those that are listed.
    pub fn rows(&self) -> &[ClientRow] {
        let is_sure =
            |row: &ClientRow| self.last.as_ref().is_none_or(|last| row.client_id() <= last);
        &self.rows[..self.rows.partition_point(is_sure)]
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
        let (rows, peers) = (names.iter().map(row).collect(), Arc::default());
        ClientsPart { rows, count, last: last.map(|last| Name::parse(last).unwrap()), peers }
    }

    fn of_peer((shard, shards): (u16, u16), part: ClientsPart) -> PeerClients {
        let reply_to = PendingRef { shard: ShardId(0), pending: 1 };
        PeerClients { reply_to, shard, shards, part }
    }

    fn names(clients: &Clients) -> Vec<&str> {
        clients.rows().iter().map(|row| row.client_id().as_str()).collect()
    }

    #[test]
    fn each_shard_of_each_peer_is_awaited_and_counted_once() {
        let (one, two) = (PeerId(1), PeerId(2));
        let mut clients = Clients::default();
        // One answers before it is known that it was asked.
        clients.add_of_peer(one, of_peer((0, 2), part(&["b"], 1, None)));
        let peer = |id, node: &str| Peer { id, node: node.to_owned(), clients: 0 };
        let peers = Arc::new(vec![peer(two, "two"), peer(one, "one")]);
        clients.add(ClientsPart { peers, ..part(&["a", "d"], 2, None) });
        assert_eq!(clients.unanswered_nodes(), ["one", "two"]);
        clients.add_of_peer(one, of_peer((0, 2), part(&["b"], 1, None)));
        clients.add_of_peer(one, of_peer((7, 2), part(&["x"], 1, None)));
        assert_eq!((names(&clients), clients.count), (vec!["a", "b", "d"], 3));
        clients.add_of_peer(one, of_peer((1, 2), part(&["c"], 1, None)));
        assert_eq!(clients.unanswered_nodes(), ["two"]);
        clients.add_of_peer(two, of_peer((0, 1), part(&[], 0, None)));
        // Nobody has asked it, but it is there.
        clients.add_of_peer(PeerId(3), of_peer((0, 2), part(&["e"], 1, None)));
        assert!(!clients.awaits_peers());
        assert_eq!((names(&clients), clients.count), (vec!["a", "b", "c", "d", "e"], 5));
    }

    #[test]
    fn what_is_listed_has_no_hole() {
        let mut clients = Clients::default();
        clients.add(part(&["a", "e", "g"], 3, None));
        clients.add_of_peer(PeerId(1), of_peer((0, 1), part(&["b", "f"], 9, Some("f"))));
        assert_eq!(names(&clients), ["a", "b", "e", "f"]);
        clients.add_of_peer(PeerId(2), of_peer((0, 1), part(&["c", "d"], 8, Some("d"))));
        assert_eq!((names(&clients), clients.count), (vec!["a", "b", "c", "d"], 20));
        let many: Vec<String> = (0..2 * ROWS_MAX).map(|n| format!("c{n:05}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        clients.add(part(&many, 2_000, None));
        assert_eq!((clients.rows().len(), names(&clients)[2]), (ROWS_MAX, "c"));
    }
}
