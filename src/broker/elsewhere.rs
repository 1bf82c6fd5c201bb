//! Who is on the other nodes of the bus, as far as a home asks: the members of its rooms' channels,
//! and the client ids that hash to it.
//!
//! Peers are heard one by one, each in its own order; so a client that moves from one to another may be
//! told by both for a while, in any order. It is there as long as one of them says so. Who moves to this
//! node, or from it, may be a member here as well: then it counts as here.
//!
//! *Invariants*: a channel, a room and a client that stand here are told by a peer, or are here; who is
//! in a room is counted once for each of its channels that it is in.

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
    members: Map<Arc<Address>, Crowd<Resident>>,
    /// By room.
    people: Map<Name, Crowd<Person>>,
    clients: Map<Name, Tellers>,
    /// The peers.
    pub peers: Arc<Vec<Peer>>,
}

/// Those who are in one place.
#[derive(Debug)]
struct Crowd<T> {
    all: BTreeMap<Name, T>,
    /// How many of them are on other nodes only.
    away: usize,
}

/// A member of a channel.
#[derive(Debug)]
struct Resident {
    tellers: Tellers,
    client: Arc<ClientCard>,
    /// By how many connections it is one here.
    here: u32,
}

/// In how many channels of a room, `*` among them, a client is.
#[derive(Debug, Default)]
struct Person {
    elsewhere: u32,
    here: u32,
}

impl<T> Default for Crowd<T> {
    fn default() -> Crowd<T> {
        Crowd { all: BTreeMap::new(), away: 0 }
    }
}

impl Resident {
    fn is_away(&self) -> bool {
        self.here == 0 && !self.tellers.is_empty()
    }
}

impl Person {
    fn is_away(&self) -> bool {
        self.here == 0 && self.elsewhere > 0
    }
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

    /// A client of a peer has come to a channel, or gone from it; true if that is new on the bus.
    pub fn note_member(
        &mut self,
        peer: PeerId,
        address: &Arc<Address>,
        client: &Arc<ClientCard>,
        is_member: bool,
    ) -> bool {
        self.change(address, client, |resident| {
            let was_told = !resident.tellers.is_empty();
            resident.tellers.retain(|teller| *teller != peer);
            if is_member {
                resident.tellers.push(peer);
                resident.client = Arc::clone(client);
            }
            let is_told = !resident.tellers.is_empty();
            let step = i32::from(is_told) - i32::from(was_told);
            ((step, 0), step != 0 && resident.here == 0)
        })
    }

    /// A client of this node has come to a channel, or gone from it; true if that is new on the bus.
    pub fn note_here(
        &mut self,
        address: &Arc<Address>,
        client: &Arc<ClientCard>,
        is_member: bool,
    ) -> bool {
        self.change(address, client, |resident| {
            let before = resident.here;
            resident.here = match is_member {
                true => before + 1,
                false => before.saturating_sub(1),
            };
            ((0, resident.here as i32 - before as i32), resident.tellers.is_empty())
        })
    }

    /// Changes a member, which says by how much it is in the room more or less, on other nodes and here;
    /// gives the rest of its answer.
    fn change(
        &mut self,
        address: &Arc<Address>,
        client: &Arc<ClientCard>,
        work: impl FnOnce(&mut Resident) -> ((i32, i32), bool),
    ) -> bool {
        let crowd = self.members.entry(Arc::clone(address)).or_default();
        let resident = crowd.all.entry(client.client_id.clone()).or_insert_with(|| Resident {
            tellers: Tellers::new(),
            client: Arc::clone(client),
            here: 0,
        });
        let was_away = resident.is_away();
        let (step, is_new) = work(resident);
        crowd.away = crowd.away + usize::from(resident.is_away()) - usize::from(was_away);
        if resident.tellers.is_empty() && resident.here == 0 {
            crowd.all.remove(&client.client_id);
            if crowd.all.is_empty() {
                self.members.remove(&**address);
            }
        }
        self.count(&address.room, &client.client_id, step);
        is_new
    }

    fn count(&mut self, room: &Name, client_id: &Name, (elsewhere, here): (i32, i32)) {
        let crowd = self.people.entry(room.clone()).or_default();
        let person = crowd.all.entry(client_id.clone()).or_default();
        let was_away = person.is_away();
        person.elsewhere = person.elsewhere.saturating_add_signed(elsewhere);
        person.here = person.here.saturating_add_signed(here);
        crowd.away = crowd.away + usize::from(person.is_away()) - usize::from(was_away);
        if person.elsewhere == 0 && person.here == 0 {
            crowd.all.remove(client_id);
            if crowd.all.is_empty() {
                self.people.remove(room);
            }
        }
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
            let of_it = members.all.values().filter(|resident| resident.tellers.contains(&peer));
            left.extend(of_it.map(|resident| (Arc::clone(address), Arc::clone(&resident.client))));
        }
        left.sort_by_cached_key(|(address, client)| {
            (address.room.clone(), address.channel.clone(), client.client_id.clone())
        });
        left.retain(|(address, client)| self.note_member(peer, address, client, false));
        left
    }

    /// The members of a channel who are not here, in the order of their ids.
    pub fn members(&self, address: &Address) -> impl Iterator<Item = &Arc<ClientCard>> {
        let members = self.members.get(address);
        let members = members.into_iter().flat_map(|members| members.all.values());
        members.filter(|resident| resident.is_away()).map(|resident| &resident.client)
    }

    /// How many they are.
    pub fn member_count(&self, address: &Address) -> usize {
        self.members.get(address).map_or(0, |members| members.away)
    }

    /// Whether a client is one of them.
    pub fn has_member(&self, address: &Address, client_id: &Name) -> bool {
        let member = self.members.get(address).and_then(|members| members.all.get(client_id));
        member.is_some_and(Resident::is_away)
    }

    /// How many clients that are not here are in a room.
    pub fn people_count(&self, room: &Name) -> usize {
        self.people.get(room).map_or(0, |people| people.away)
    }

    /// Whether a client is one of them.
    pub fn has_person(&self, room: &Name, client_id: &Name) -> bool {
        let person = self.people.get(room).and_then(|people| people.all.get(client_id));
        person.is_some_and(Person::is_away)
    }

    /// The peer that a client id is connected to.
    pub fn peer_of(&self, client_id: &str) -> Option<PeerId> {
        self.clients.get(client_id)?.last().copied()
    }

    /// How many clients all peers have.
    pub fn client_count(&self) -> u64 {
        self.peers.iter().map(|peer| peer.clients).sum()
    }

    /// Asserts the invariants; for tests and the simulator.
    pub fn check(&self) {
        let residents = || self.members.values().flat_map(|members| members.all.values());
        assert!(residents().all(|resident| !resident.tellers.is_empty() || resident.here > 0));
        assert!(self.clients.values().all(|tellers| !tellers.is_empty()));
        for members in self.members.values() {
            assert!(!members.all.is_empty());
            let away = members.all.values().filter(|resident| resident.is_away());
            assert_eq!(members.away, away.count(), "who is away is counted right");
        }
        for people in self.people.values() {
            assert!(people.all.values().all(|person| person.elsewhere > 0 || person.here > 0));
            let away = people.all.values().filter(|person| person.is_away());
            assert_eq!(people.away, away.count(), "who is away is counted right");
        }
        let people = || self.people.values().flat_map(|people| people.all.values());
        let elsewhere: u32 = people().map(|person| person.elsewhere).sum();
        let told = residents().filter(|resident| !resident.tellers.is_empty());
        assert_eq!(elsewhere as usize, told.count(), "people are counted right");
        let here: u32 = people().map(|person| person.here).sum();
        assert_eq!(
            here,
            residents().map(|resident| resident.here).sum::<u32>(),
            "so are those here"
        );
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
    fn who_is_here_as_well_counts_as_here_and_comes_and_goes_once() {
        let (one, ann, a) = (PeerId(1), card("ann"), address("a"));
        // Whether it is said of here, whether she is there, and whether that is new; how many are
        // away then.
        let moves_here = [(false, true, true, 1), (true, true, false, 0), (false, false, false, 0)];
        let moves_away = [(true, true, true, 0), (false, true, false, 0), (true, false, false, 1)];
        let back_again = [(false, true, true, 1), (true, true, false, 0), (true, false, false, 1)];
        let (last_here, last_away) = ((true, false, true, 0), (false, false, true, 0));
        for (moves, last) in
            [(moves_here, last_here), (moves_away, last_away), (back_again, last_away)]
        {
            let mut elsewhere = Elsewhere::new(seeded(1));
            for (is_here, is_there, is_new, away) in moves.into_iter().chain([last]) {
                let noted = match is_here {
                    true => elsewhere.note_here(&a, &ann, is_there),
                    false => elsewhere.note_member(one, &a, &ann, is_there),
                };
                assert_eq!(noted, is_new, "{is_here} {is_there}");
                elsewhere.check();
                assert_eq!(elsewhere.member_count(&a), away);
                assert_eq!(elsewhere.members(&a).count(), away);
                assert_eq!(elsewhere.people_count(&a.room), away);
                assert_eq!(elsewhere.has_member(&a, &ann.client_id), away > 0);
                assert_eq!(elsewhere.has_person(&a.room, &ann.client_id), away > 0);
            }
            assert!(elsewhere.members.is_empty() && elsewhere.people.is_empty());
        }
        // By two connections she is here until the last has gone; with a dead peer she does not go.
        let mut elsewhere = Elsewhere::new(seeded(1));
        elsewhere.note_member(one, &a, &ann, true);
        assert!(!elsewhere.note_here(&a, &ann, true) && !elsewhere.note_here(&a, &ann, true));
        elsewhere.note_here(&a, &ann, false);
        assert_eq!((elsewhere.member_count(&a), elsewhere.forget_peer(one).len()), (0, 0));
        assert!(elsewhere.note_here(&a, &ann, false) && elsewhere.members.is_empty());
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
