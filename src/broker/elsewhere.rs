//! Who is on the other nodes of the bus, as far as a home asks: the members of its rooms' channels,
//! and the client ids that hash to it.
//!
//! Peers are heard one by one, each in its own order; so a client that moves from one to another may be
//! told by both for a while, in any order. It is there as long as one of them says so. Who moves to this
//! node, or from it, may be a member here as well: then it counts as here.
//!
//! A client that joined `*` of a room is told for `*` alone, and is a member of every channel that is open
//! to the room. So the members of an open channel are those that are told for it and those that are told
//! for `*`, each of them once.
//!
//! *Invariants*: a channel, a room and a client that stand here are told by a peer, or are here; who is
//! in a room is counted once for each of its channels that it is told for.

use crate::base::hash::Map;
use crate::broker::peers::{Peer, PeerId};
use crate::broker::policy::ClientCard;
use crate::protocol::command::Address;
use crate::protocol::names::Name;
use ahash::RandomState;
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// Those who say that a client is there; hardly ever more than one.
type Tellers = SmallVec<[PeerId; 2]>;

/// What the peers have told.
#[derive(Debug)]
pub struct Elsewhere {
    members: Map<Arc<Address>, Members>,
    /// By room.
    people: Map<Name, Crowd<Person>>,
    clients: Map<Name, Tellers>,
    /// The peers.
    pub peers: Arc<Vec<Peer>>,
}

/// The members that are told for a channel, or for `*`.
#[derive(Debug, Default)]
struct Members {
    told: Crowd<Resident>,
    /// By how many the members of this channel and the followers of its room, counted together, are
    /// more than those who are one of the two.
    counted_twice: i32,
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
    /// The channels that it is told for, without `*`.
    channels: SmallVec<[Arc<Address>; 1]>,
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

    /// A client of this node has come to a channel, or gone from it, by one of its connections. Nothing
    /// if it is here by another connection as well, under the same profile; else whether that is new on
    /// the bus.
    pub fn note_here(
        &mut self,
        address: &Arc<Address>,
        client: &Arc<ClientCard>,
        is_member: bool,
    ) -> Option<bool> {
        self.change(address, client, |resident| {
            let before = resident.here;
            resident.here = match is_member {
                true => before + 1,
                false => before.saturating_sub(1),
            };
            let is_change = (before == 0) != (resident.here == 0);
            let has_new_profile = is_member && *resident.client != **client;
            if has_new_profile {
                resident.client = Arc::clone(client);
            }
            let is_new = is_change && resident.tellers.is_empty();
            let is_new = (is_change || has_new_profile).then_some(is_new);
            ((0, resident.here as i32 - before as i32), is_new)
        })
    }

    /// Changes a member, which says by how much it is in the room more or less, on other nodes and here;
    /// gives the rest of its answer.
    fn change<T>(
        &mut self,
        address: &Arc<Address>,
        client: &Arc<ClientCard>,
        work: impl FnOnce(&mut Resident) -> ((i32, i32), T),
    ) -> T {
        let client_id = &client.client_id;
        let affected = self.affected(address, client_id);
        affected.iter().for_each(|address| self.count_twice(address, client_id, -1));
        let members = self.members.entry(Arc::clone(address)).or_default();
        let crowd = &mut members.told;
        let is_unknown = !crowd.all.contains_key(client_id);
        let resident = crowd.all.entry(client_id.clone()).or_insert_with(|| Resident {
            tellers: Tellers::new(),
            client: Arc::clone(client),
            here: 0,
        });
        let was_away = resident.is_away();
        let (step, is_new) = work(resident);
        crowd.away = crowd.away + usize::from(resident.is_away()) - usize::from(was_away);
        let is_gone = resident.tellers.is_empty() && resident.here == 0;
        if is_gone {
            crowd.all.remove(client_id);
            if crowd.all.is_empty() {
                self.members.remove(&**address);
            }
        }
        let listed = match (is_unknown, is_gone) {
            (true, false) => Some(true),
            (false, true) => Some(false),
            _ => None,
        };
        self.count(address, client_id, step, listed);
        affected.iter().for_each(|address| self.count_twice(address, client_id, 1));
        is_new
    }

    /// The channels whose count depends on what is told of a client for this one.
    fn affected(&self, address: &Arc<Address>, client_id: &Name) -> SmallVec<[Arc<Address>; 1]> {
        if !address.channel.is_every() {
            return SmallVec::from_elem(Arc::clone(address), 1);
        }
        let person = self.people.get(&address.room).and_then(|people| people.all.get(client_id));
        person.map_or_else(SmallVec::new, |person| person.channels.clone())
    }

    /// Counts a client as one that is told for a channel and for `*` of its room, or counts that back.
    fn count_twice(&mut self, address: &Address, client_id: &Name, sign: i32) {
        let Some(follower) = self.follower(&address.room, client_id) else { return };
        let follower = (follower.is_away(), follower.here, !follower.tellers.is_empty());
        let Some(members) = self.members.get_mut(address) else { return };
        let Some(member) = members.told.all.get(client_id) else { return };
        let (is_away, here, is_told) = follower;
        let counted = i32::from(is_away) + i32::from(member.is_away());
        let is_here = here > 0 || member.here > 0;
        let is_one = !is_here && (is_told || !member.tellers.is_empty());
        members.counted_twice += sign * (counted - i32::from(is_one));
    }

    fn follower(&self, room: &Name, client_id: &Name) -> Option<&Resident> {
        let every = Address { room: room.clone(), channel: Name::every() };
        self.members.get(&every)?.told.all.get(client_id)
    }

    fn member(&self, address: &Address, client_id: &Name) -> Option<&Resident> {
        self.members.get(address)?.told.all.get(client_id)
    }

    fn count(
        &mut self,
        address: &Arc<Address>,
        client_id: &Name,
        (elsewhere, here): (i32, i32),
        listed: Option<bool>,
    ) {
        let room = &address.room;
        let crowd = self.people.entry(room.clone()).or_default();
        let person = crowd.all.entry(client_id.clone()).or_default();
        let was_away = person.is_away();
        person.elsewhere = person.elsewhere.saturating_add_signed(elsewhere);
        person.here = person.here.saturating_add_signed(here);
        match listed.filter(|_| !address.channel.is_every()) {
            Some(true) => person.channels.push(Arc::clone(address)),
            Some(false) => person.channels.retain(|known| known != address),
            None => {}
        }
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
            let told = members.told.all.values();
            let of_it = told.filter(|resident| resident.tellers.contains(&peer));
            left.extend(of_it.map(|resident| (Arc::clone(address), Arc::clone(&resident.client))));
        }
        left.sort_by_cached_key(|(address, client)| {
            (address.room.clone(), address.channel.clone(), client.client_id.clone())
        });
        left.retain(|(address, client)| self.note_member(peer, address, client, false));
        left
    }

    /// The members of a channel who are not here, in the order of their ids, behind one of them.
    /// `is_open` says whether the channel is open to its room.
    pub fn members_after<'e>(
        &'e self,
        address: &Address,
        is_open: bool,
        after: Option<&Name>,
    ) -> impl Iterator<Item = &'e Arc<ClientCard>> + use<'e> {
        let from = after.map_or(Bound::Unbounded, |name| Bound::Excluded(name.clone()));
        let of = |address: &Address| {
            let members = self.members.get(address).into_iter();
            let from = from.clone();
            members
                .flat_map(move |members| members.told.all.range((from.clone(), Bound::Unbounded)))
        };
        let every = Address { room: address.room.clone(), channel: Name::every() };
        let (mut listed, mut followers) =
            (of(address).peekable(), of(&every).filter(move |_| is_open).peekable());
        let next = move || {
            let is_behind =
                |listed: &(&Name, _), follower: &(&Name, &Resident)| listed.0 <= follower.0;
            match (listed.peek(), followers.peek()) {
                (Some(one), Some(other)) if one.0 == other.0 => {
                    followers.next().and_then(|other| Some((listed.next()?.1, Some(other.1))))
                }
                (Some(one), Some(other)) if !is_behind(one, other) => {
                    followers.next().map(|other| (other.1, None))
                }
                (Some(_), _) => listed.next().map(|one| (one.1, None)),
                (None, _) => followers.next().map(|other| (other.1, None)),
            }
        };
        std::iter::from_fn(next)
            .filter(|(one, other)| is_away(Some(one), *other))
            .map(|(one, _)| &one.client)
    }

    /// How many they are.
    pub fn member_count(&self, address: &Address, is_open: bool) -> usize {
        let members = self.members.get(address);
        let (listed, twice) =
            members.map_or((0, 0), |members| (members.told.away, members.counted_twice));
        if !is_open {
            return listed;
        }
        let every = Address { room: address.room.clone(), channel: Name::every() };
        let followers = self.members.get(&every).map_or(0, |members| members.told.away);
        (listed + followers).saturating_add_signed(-twice as isize)
    }

    /// Whether a client is one of them.
    pub fn has_member(&self, address: &Address, is_open: bool, client_id: &Name) -> bool {
        let follower = self.follower(&address.room, client_id).filter(|_| is_open);
        is_away(self.member(address, client_id), follower)
    }

    /// Whether a peer says that a client is a member of a channel.
    pub fn is_told(&self, address: &Address, is_open: bool, client_id: &Name) -> bool {
        let follower = self.follower(&address.room, client_id).filter(|_| is_open);
        let told = |resident: Option<&Resident>| {
            resident.is_some_and(|resident| !resident.tellers.is_empty())
        };
        told(self.member(address, client_id)) || told(follower)
    }

    /// Whether a client is told for a channel itself, by a peer or by this node.
    pub fn is_listed(&self, address: &Address, client_id: &Name) -> bool {
        self.member(address, client_id).is_some()
    }

    /// Whether a client joined `*` of a room, on any node.
    pub fn follows(&self, room: &Name, client_id: &Name) -> bool {
        self.follower(room, client_id).is_some()
    }

    /// The channels of a room that a client is told for, without `*`.
    pub fn channels_of(&self, room: &Name, client_id: &Name) -> Vec<Arc<Address>> {
        let person = self.people.get(room).and_then(|people| people.all.get(client_id));
        person.map_or_else(Vec::new, |person| person.channels.to_vec())
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
        let residents = || self.members.values().flat_map(|members| members.told.all.values());
        assert!(residents().all(|resident| !resident.tellers.is_empty() || resident.here > 0));
        assert!(self.clients.values().all(|tellers| !tellers.is_empty()));
        for (address, members) in &self.members {
            let crowd = &members.told;
            assert!(!crowd.all.is_empty());
            let away = crowd.all.values().filter(|resident| resident.is_away());
            assert_eq!(crowd.away, away.count(), "who is away is counted right");
            let count = self.members_after(address, true, None).count();
            let is_every = address.channel.is_every();
            assert!(is_every || self.member_count(address, true) == count, "and counted once");
            let people = &self.people[&address.room].all;
            let is_known = |id: &Name| is_every || people[id].channels.contains(address);
            assert!(crowd.all.keys().all(is_known), "where a client is told for is known");
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

/// Whether a client is a member on other nodes only, by what is told for the channel and for `*`.
fn is_away(listed: Option<&Resident>, follower: Option<&Resident>) -> bool {
    let here = listed.map_or(0, |known| known.here) + follower.map_or(0, |known| known.here);
    let told =
        |resident: Option<&Resident>| resident.is_some_and(|known| !known.tellers.is_empty());
    here == 0 && (told(listed) || told(follower))
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
    fn peers_are_told_of_clients_and_of_their_profiles_but_not_of_connections() {
        let (ann, a) = (card("ann"), address("a"));
        let renamed = Arc::new(ClientCard { screen_name: Some("Ann".into()), ..(*ann).clone() });
        let mut elsewhere = Elsewhere::new(seeded(1));
        // The client, whether it joins or leaves, and whether that is new to peers and to the bus.
        let steps = [
            (&ann, true, Some(true)),
            (&ann, true, None),
            (&renamed, true, Some(false)),
            (&ann, false, None),
            (&ann, false, None),
            (&renamed, false, Some(true)),
        ];
        for (client, is_member, is_told) in steps {
            assert_eq!(elsewhere.note_here(&a, client, is_member), is_told);
            elsewhere.check();
        }
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
                let count = elsewhere.member_count(&a, true);
                assert_eq!(elsewhere.peer_of("ann").is_some(), count == 1);
                assert_eq!(elsewhere.people_count(&a.room), count);
                elsewhere.check();
            }
            assert_eq!(elsewhere.member_count(&a, true), 0);
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
                    true => elsewhere.note_here(&a, &ann, is_there).unwrap(),
                    false => elsewhere.note_member(one, &a, &ann, is_there),
                };
                assert_eq!(noted, is_new, "{is_here} {is_there}");
                elsewhere.check();
                assert_eq!(elsewhere.member_count(&a, true), away);
                assert_eq!(elsewhere.members_after(&a, true, None).count(), away);
                assert_eq!(elsewhere.people_count(&a.room), away);
                assert_eq!(elsewhere.has_member(&a, true, &ann.client_id), away > 0);
                assert_eq!(elsewhere.has_person(&a.room, &ann.client_id), away > 0);
            }
            assert!(elsewhere.members.is_empty() && elsewhere.people.is_empty());
        }
        // By two connections she is here until the last has gone; with a dead peer she does not go.
        let mut elsewhere = Elsewhere::new(seeded(1));
        elsewhere.note_member(one, &a, &ann, true);
        let mut notes = |is_there| elsewhere.note_here(&a, &ann, is_there);
        assert_eq!([notes(true), notes(true), notes(false)], [Some(false), None, None]);
        assert_eq!((elsewhere.member_count(&a, true), elsewhere.forget_peer(one).len()), (0, 0));
        assert_eq!(elsewhere.note_here(&a, &ann, false), Some(true));
        assert!(elsewhere.members.is_empty());
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
        let rest: Vec<&str> = elsewhere
            .members_after(&address("a"), true, None)
            .map(|card| card.client_id.as_str())
            .collect();
        assert_eq!(rest, ["cat"]);
        assert_eq!((elsewhere.peer_of("ann"), elsewhere.peer_of("cat")), (None, Some(two)));
        elsewhere.check();
    }

    #[test]
    fn who_joined_the_whole_room_is_a_member_of_open_channels_and_counts_once() {
        let peers = [PeerId(1), PeerId(2)];
        let names = ["ann", "bob", "cat", "dan"].map(card);
        let places = ["a", "b", "*"].map(|channel| match channel {
            "*" => Arc::new(Address { room: Name::fixed("r"), channel: Name::every() }),
            channel => address(channel),
        });
        let mut rng = fastrand::Rng::with_seed(5);
        let mut elsewhere = Elsewhere::new(seeded(1));
        // Who is told by which peer, and by how many connections each is here.
        let mut told = std::collections::BTreeSet::new();
        let mut here = BTreeMap::<(usize, usize), u32>::new();
        for _ in 0..4_000 {
            let (place, name, is_there) = (rng.usize(..3), rng.usize(..4), rng.bool());
            if rng.bool() {
                let peer = rng.usize(..2);
                elsewhere.note_member(peers[peer], &places[place], &names[name], is_there);
                match is_there {
                    true => _ = told.insert((place, name, peer)),
                    false => _ = told.remove(&(place, name, peer)),
                }
            } else {
                let count = here.entry((place, name)).or_default();
                if is_there || *count > 0 {
                    elsewhere.note_here(&places[place], &names[name], is_there);
                    *count = if is_there { *count + 1 } else { *count - 1 };
                }
            }
            elsewhere.check();
            for (channel, place) in places.iter().enumerate().take(2) {
                let is_here = |name: usize| {
                    [channel, 2].iter().any(|place| here.get(&(*place, name)).copied() > Some(0))
                };
                let is_told = |name: usize| {
                    told.iter().any(|&(place, who, _)| who == name && [channel, 2].contains(&place))
                };
                let expected: Vec<&str> = (0..4)
                    .filter(|&name| is_told(name) && !is_here(name))
                    .map(|name| names[name].client_id.as_str())
                    .collect();
                let listed = elsewhere.members_after(place, true, None);
                let listed: Vec<&str> = listed.map(|card| card.client_id.as_str()).collect();
                assert_eq!(listed, expected);
                assert_eq!(elsewhere.member_count(place, true), expected.len());
            }
        }
    }
}
