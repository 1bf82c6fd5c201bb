//! Who is on the other nodes of the bus, as far as a home asks: the members of its rooms' channels,
//! and the client ids that hash to it.
//!
//! *Invariants*: a client is at one peer; whoever has moved from one peer to another is at the later
//! one, in whatever order the two tell it; a channel that stands here has a member.

use crate::base::hash::Map;
use crate::broker::peers::{Peer, PeerId};
use crate::broker::policy::ClientCard;
use crate::protocol::command::Address;
use crate::protocol::names::Name;
use ahash::RandomState;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the peers have told.
#[derive(Debug)]
pub struct Elsewhere {
    members: Map<Arc<Address>, BTreeMap<Name, Resident>>,
    clients: Map<Name, PeerId>,
    /// The peers.
    pub peers: Arc<Vec<Peer>>,
}

/// A client of a peer.
#[derive(Clone, Debug)]
struct Resident {
    peer: PeerId,
    client: Arc<ClientCard>,
}

impl Elsewhere {
    /// Nobody.
    pub fn new(hasher: RandomState) -> Elsewhere {
        Elsewhere {
            members: Map::with_hasher(hasher.clone()),
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
            let resident = Resident { peer, client: Arc::clone(client) };
            return members.insert(client.client_id.clone(), resident).is_none();
        }
        let Some(members) = self.members.get_mut(&**address) else { return false };
        let is_here = members.get(&client.client_id).is_some_and(|known| known.peer == peer);
        if is_here {
            members.remove(&client.client_id);
            if members.is_empty() {
                self.members.remove(&**address);
            }
        }
        is_here
    }

    /// A client id is connected to a peer, or is not any more.
    pub fn note_client(&mut self, peer: PeerId, client_id: Name, is_connected: bool) {
        if is_connected {
            self.clients.insert(client_id, peer);
        } else if self.clients.get(&client_id) == Some(&peer) {
            self.clients.remove(&client_id);
        }
    }

    /// A peer is gone; gives who has left what by that, in order.
    pub fn forget_peer(&mut self, peer: PeerId) -> Vec<(Arc<Address>, Arc<ClientCard>)> {
        self.clients.retain(|_, of| *of != peer);
        let mut left = Vec::new();
        self.members.retain(|address, members| {
            members.retain(|_, resident| {
                let stays = resident.peer != peer;
                if !stays {
                    left.push((Arc::clone(address), Arc::clone(&resident.client)));
                }
                stays
            });
            !members.is_empty()
        });
        let key = |(address, client): &(Arc<Address>, Arc<ClientCard>)| {
            (address.room.clone(), address.channel.clone(), client.client_id.clone())
        };
        left.sort_by_cached_key(key);
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

    /// The peer that a client id is connected to.
    pub fn peer_of(&self, client_id: &str) -> Option<PeerId> {
        self.clients.get(client_id).copied()
    }

    /// How many clients all peers have.
    pub fn client_count(&self) -> u64 {
        self.peers.iter().map(|peer| peer.clients).sum()
    }

    /// Asserts the invariants; for tests and the simulator.
    pub fn check(&self) {
        assert!(self.members.values().all(|members| !members.is_empty()));
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
    fn whoever_moves_is_at_the_later_peer_however_it_is_told() {
        let mut elsewhere = Elsewhere::new(seeded(1));
        let (one, two, ann, a) = (PeerId(1), PeerId(2), card("ann"), address("a"));
        assert!(elsewhere.note_member(one, &a, &ann, true));
        assert!(!elsewhere.note_member(two, &a, &ann, true), "it was there already");
        assert!(!elsewhere.note_member(one, &a, &ann, false), "it is at the other one");
        assert_eq!(elsewhere.member_count(&a), 1);
        assert!(elsewhere.note_member(two, &a, &ann, false));
        elsewhere.note_client(one, Name::fixed("ann"), true);
        elsewhere.note_client(two, Name::fixed("ann"), true);
        elsewhere.note_client(one, Name::fixed("ann"), false);
        assert_eq!(elsewhere.peer_of("ann"), Some(two));
        elsewhere.check();
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
