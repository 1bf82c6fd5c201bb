//! Who is on the other nodes of the bus, as far as a home asks: the members of its rooms' channels,
//! and the client ids that hash to it.
//!
//! Peers are heard one by one, each in its own order; so a client that moves from one to another may be
//! told by both for a while, in any order. It is there as long as one of them says so.
//!
//! *Invariants*: a channel, a room and a client that stand here are told by a peer; who is in a room is
//! counted once for each of its channels that it is in.

use crate::base::hash::Map;
use crate::broker::peers::{Peer, PeerId};
use crate::broker::policy::ClientCard;
use crate::protocol::command::Address;
use crate::protocol::names::Name;
use ahash::RandomState;
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Those who say that a client is there; hardly ever more than one.
type Tellers = SmallVec<[PeerId; 2]>;

/// What the peers have told.
#[derive(Debug)]
pub struct Elsewhere {
    members: Map<Arc<Address>, BTreeMap<Name, Resident>>,
    /// By room: in how many of its channels, `*` among them, each client is.
    people: Map<Name, BTreeMap<Name, u32>>,
    clients: Map<Name, Tellers>,
    /// The peers.
    pub peers: Arc<Vec<Peer>>,
}

/// A client of a peer.
#[derive(Clone, Debug)]
struct Resident {
    tellers: Tellers,
    client: Arc<ClientCard>,
}

impl Elsewhere {
    /// Nobody.
    pub fn new(hasher: RandomState) -> Elsewhere {
        Elsewhere {
            members: Map::with_hasher(hasher.clone()),
            people: Map::with_hasher(hasher.clone()),
            clients: Map::with_hasher(hasher),
            peers: Arc::default(),
        }
    }

    /// A client has come to a channel, or gone from it; true if that is new.
    pub fn note_member(
        &mut self,
        peer: PeerId,
        address: &Arc<Address>,
        client: &Arc<ClientCard>,
        is_member: bool,
    ) -> bool {
        if is_member {
            let members = self.members.entry(Arc::clone(address)).or_default();
            let resident = members.entry(client.client_id.clone()).or_insert_with(|| Resident {
                tellers: Tellers::new(),
                client: Arc::clone(client),
            });
            resident.client = Arc::clone(client);
            let is_new = resident.tellers.is_empty();
            if !resident.tellers.contains(&peer) {
                resident.tellers.push(peer);
            }
            if is_new {
                let people = self.people.entry(address.room.clone()).or_default();
                *people.entry(client.client_id.clone()).or_default() += 1;
            }
            return is_new;
        }
        let Some(members) = self.members.get_mut(&**address) else { return false };
        let Some(resident) = members.get_mut(&client.client_id) else { return false };
        resident.tellers.retain(|teller| *teller != peer);
        let is_gone = resident.tellers.is_empty();
        if is_gone {
            members.remove(&client.client_id);
            if members.is_empty() {
                self.members.remove(&**address);
            }
            self.leave_room(&address.room, &client.client_id);
        }
        is_gone
    }

    /// A client id is connected to a peer, or is not any more.
    pub fn note_client(&mut self, peer: PeerId, client_id: Name, is_connected: bool) {
        let tellers = self.clients.entry(client_id.clone()).or_default();
        tellers.retain(|teller| *teller != peer);
        if is_connected {
            tellers.push(peer);
        }
        if tellers.is_empty() {
            self.clients.remove(&client_id);
        }
    }

    /// A peer is gone; gives who has left what by that, in order.
    pub fn forget_peer(&mut self, peer: PeerId) -> Vec<(Arc<Address>, Arc<ClientCard>)> {
        self.clients.retain(|_, tellers| {
            tellers.retain(|teller| *teller != peer);
            !tellers.is_empty()
        });
        let mut left = Vec::new();
        for (address, members) in &self.members {
            let of_it = members.values().filter(|resident| resident.tellers.contains(&peer));
            left.extend(of_it.map(|resident| (Arc::clone(address), Arc::clone(&resident.client))));
        }
        left.sort_by_cached_key(|(address, client)| {
            (address.room.clone(), address.channel.clone(), client.client_id.clone())
        });
        left.retain(|(address, client)| self.note_member(peer, address, client, false));
        left
    }

    /// The members of a channel, in the order of their ids.
    pub fn members(&self, address: &Address) -> impl Iterator<Item = &Arc<ClientCard>> {
        let members = self.members.get(address);
        members.into_iter().flat_map(BTreeMap::values).map(|resident| &resident.client)
    }

    /// How many they are.
    pub fn member_count(&self, address: &Address) -> usize {
        self.members.get(address).map_or(0, BTreeMap::len)
    }

    /// How many clients are in a room.
    pub fn people_count(&self, room: &Name) -> usize {
        self.people.get(room).map_or(0, BTreeMap::len)
    }

    /// The peer that a client id is connected to.
    pub fn peer_of(&self, client_id: &str) -> Option<PeerId> {
        self.clients.get(client_id)?.last().copied()
    }

    /// How many clients all peers have.
    pub fn client_count(&self) -> u64 {
        self.peers.iter().map(|peer| peer.clients).sum()
    }

    fn leave_room(&mut self, room: &Name, client_id: &Name) {
        let Some(people) = self.people.get_mut(room) else { return };
        if let Some(count) = people.get_mut(client_id) {
            *count -= 1;
            if *count == 0 {
                people.remove(client_id);
            }
        }
        if people.is_empty() {
            self.people.remove(room);
        }
    }

    /// Asserts the invariants; for tests and the simulator.
    pub fn check(&self) {
        assert!(self.members.values().all(|members| !members.is_empty()));
        let residents = || self.members.values().flat_map(BTreeMap::values);
        assert!(residents().all(|resident| !resident.tellers.is_empty()));
        assert!(self.clients.values().all(|tellers| !tellers.is_empty()));
        let counted: u32 = self.people.values().flat_map(BTreeMap::values).sum();
        assert_eq!(counted as usize, residents().count(), "people are counted right");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::hash::seeded;
    use crate::broker::policy::Role;
    use crate::protocol::command::ClientType;

    fn card(name: &'static str) -> Arc<ClientCard> {
        Arc::new(ClientCard {
            client_id: Name::fixed(name),
            client_type: ClientType::Human,
            screen_name: None,
            role: Role::User,
        })
    }

    fn address(channel: &'static str) -> Arc<Address> {
        Arc::new(Address { room: Name::fixed("r"), channel: Name::fixed(channel) })
    }

    #[test]
    fn whoever_moves_is_there_as_long_as_one_says_so_in_whatever_order() {
        let (one, two, ann, a) = (PeerId(1), PeerId(2), card("ann"), address("a"));
        // What is told, whether it is new, and whether she is there then.
        let orders = [
            [(one, true, true), (two, true, false), (one, false, false), (two, false, true)],
            [(two, true, true), (one, true, false), (one, false, false), (two, false, true)],
            [(one, true, true), (one, false, true), (two, true, true), (two, false, true)],
        ];
        for order in orders {
            let mut elsewhere = Elsewhere::new(seeded(1));
            for (peer, is_there, is_new) in order {
                assert_eq!(elsewhere.note_member(peer, &a, &ann, is_there), is_new);
                elsewhere.note_client(peer, Name::fixed("ann"), is_there);
                let count = elsewhere.member_count(&a);
                assert_eq!(elsewhere.peer_of("ann").is_some(), count == 1);
                assert_eq!(elsewhere.people_count(&a.room), count);
                elsewhere.check();
            }
            assert_eq!(elsewhere.member_count(&a), 0);
        }
    }

    #[test]
    fn with_a_peer_go_all_its_clients_and_nobody_else() {
        let mut elsewhere = Elsewhere::new(seeded(1));
        let (one, two) = (PeerId(1), PeerId(2));
        for (peer, channel, name) in
            [(one, "b", "ann"), (one, "a", "bob"), (two, "a", "cat"), (one, "a", "ann")]
        {
            elsewhere.note_member(peer, &address(channel), &card(name), true);
            elsewhere.note_client(peer, Name::fixed(name), true);
        }
        assert_eq!(elsewhere.people_count(&Name::fixed("r")), 3);
        let left: Vec<String> = elsewhere
            .forget_peer(one)
            .iter()
            .map(|(address, client)| format!("{address} {}", client.client_id))
            .collect();
        assert_eq!(left, ["r:a ann", "r:a bob", "r:b ann"]);
        let rest: Vec<&str> =
            elsewhere.members(&address("a")).map(|card| card.client_id.as_str()).collect();
        assert_eq!(rest, ["cat"]);
        assert_eq!((elsewhere.peer_of("ann"), elsewhere.peer_of("cat")), (None, Some(two)));
        elsewhere.check();
    }
}
