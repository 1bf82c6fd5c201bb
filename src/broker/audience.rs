//! Which connections of this shard are in which channel, as the lists that a fan-out walks.
//!
//! A client that joined `*` has one seat among the followers of the room, however many channels the room
//! has. A channel that is open to a followed room names the room, and an event in it goes to the members
//! of the channel and then to the followers of the room. Whoever is both gets it as a follower.
//!
//! *Invariants*: a connection has at most one seat in a channel, and `places` says where it is; a
//! [`Mark`] does not outlive a change of the seats; the channels that name a room are those that the
//! followed room knows; a seat says whether its connection follows the room that the channel names.
//!
//! *Panics*: a place is written and read here only, together with the seat that it is of. A place
//! without its seat means that this state is lost, and the process ends.

use crate::base::hash::Map;
use crate::base::ids::{ChannelId, ConnId};
use crate::broker::channel::Options;
use crate::broker::presence::Watchers;
use crate::protocol::command::Address;
use crate::protocol::names::Name;
use ahash::RandomState;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How many seats are found by looking at all of them.
const FEW_SEATS: usize = 8;

/// The local members of every channel that has any.
#[derive(Debug)]
pub struct Audiences {
    of_channel: Map<ChannelId, Audience>,
    /// The rooms that connections follow, by the id of their `*`.
    followed: Map<ChannelId, FollowedRoom>,
    hasher: RandomState,
}

/// A room that connections of this shard follow.
#[derive(Debug)]
struct FollowedRoom {
    followers: Audience,
    /// Its channels but private ones.
    channels: BTreeMap<Name, ChannelId>,
}

/// The local members of one channel, or the local followers of a room.
#[derive(Debug)]
pub struct Audience {
    address: Arc<Address>,
    /// The followed room whose followers are members of the channel.
    room: Option<ChannelId>,
    seats: Vec<Seat>,
    places: Map<ConnId, u32>,
    /// The number of seats with `follows`.
    following: usize,
    mark: Mark,
}

/// What whoever delivers leaves with an audience, so as to know it again for as long as nobody
/// comes or goes. What it says is the deliverer's concern.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Until when it holds; 0 for never.
    pub epoch: u64,
    /// What was made for the audience.
    pub batch: u32,
}

/// One local member of a channel.
#[derive(Clone, Copy, Debug)]
pub struct Seat {
    /// Who.
    pub conn: ConnId,
    /// What it asked for.
    pub options: Options,
    /// Whether it is given events as a follower of the room, not by this seat.
    pub follows: bool,
}

impl Audiences {
    /// No members at all.
    pub fn new(hasher: RandomState) -> Audiences {
        let (of_channel, followed) =
            (Map::with_hasher(hasher.clone()), Map::with_hasher(hasher.clone()));
        Audiences { of_channel, followed, hasher }
    }

    /// Gives a connection a seat, or its seat new options.
    pub fn seat(
        &mut self,
        channel: ChannelId,
        address: &Arc<Address>,
        conn: ConnId,
        options: Options,
    ) {
        let Audiences { of_channel, followed, hasher } = self;
        let audience =
            of_channel.entry(channel).or_insert_with(|| Audience::new(address, hasher.clone()));
        let room = audience.room.and_then(|room| followed.get(&room));
        let follows = room.is_some_and(|room| room.followers.places.contains_key(&conn));
        audience.seat(Seat { conn, options, follows });
    }

    /// Takes a connection's seat away.
    pub fn unseat(&mut self, channel: ChannelId, conn: ConnId) {
        let Some(audience) = self.of_channel.get_mut(&channel) else { return };
        audience.unseat(conn);
        if audience.is_unneeded() {
            self.of_channel.remove(&channel);
        }
    }

    /// Makes a connection a follower of a room whose `*` has this id, or gives it other options.
    /// `seats` are the channels of the room in which it has a seat.
    pub fn follow(
        &mut self,
        room: ChannelId,
        every: &Arc<Address>,
        (conn, options): (ConnId, Options),
        seats: impl Iterator<Item = ChannelId>,
    ) {
        let hasher = self.hasher.clone();
        let followed = self.followed.entry(room).or_insert_with(|| FollowedRoom {
            followers: Audience::new(every, hasher),
            channels: BTreeMap::new(),
        });
        followed.followers.seat(Seat { conn, options, follows: false });
        seats.for_each(|channel| self.set_follows(channel, room, conn, true));
    }

    /// Makes a connection no follower of a room any more. `seats` are the channels of the room in which it
    /// has a seat.
    pub fn unfollow(
        &mut self,
        room: ChannelId,
        conn: ConnId,
        seats: impl Iterator<Item = ChannelId>,
    ) {
        let Some(followed) = self.followed.get_mut(&room) else { return };
        followed.followers.unseat(conn);
        seats.for_each(|channel| self.set_follows(channel, room, conn, false));
        let is_left = self.followed[&room].followers.seats.is_empty();
        if is_left && let Some(followed) = self.followed.remove(&room) {
            followed.channels.into_values().for_each(|channel| self.close(channel));
        }
    }

    fn set_follows(&mut self, channel: ChannelId, room: ChannelId, conn: ConnId, follows: bool) {
        let audience = self.of_channel.get_mut(&channel);
        let Some(audience) = audience.filter(|known| known.room == Some(room)) else { return };
        if let Some(&place) = audience.places.get(&conn) {
            audience.set_follows(place as usize, follows);
            audience.mark = Mark::default();
        }
    }

    /// A channel is open to a room that is followed here.
    pub fn open(&mut self, room: ChannelId, channel: ChannelId, address: &Arc<Address>) {
        let Audiences { of_channel, followed, hasher } = self;
        let Some(followed) = followed.get_mut(&room) else { return };
        let audience =
            of_channel.entry(channel).or_insert_with(|| Audience::new(address, hasher.clone()));
        if audience.room == Some(room) {
            return;
        }
        followed.channels.insert(address.channel.clone(), channel);
        audience.room = Some(room);
        audience.mark = Mark::default();
        for place in 0..audience.seats.len() {
            let conn = audience.seats[place].conn;
            audience.set_follows(place, followed.followers.places.contains_key(&conn));
        }
    }

    /// A channel is private now.
    pub fn make_private(&mut self, channel: ChannelId) {
        let room = self.of_channel.get(&channel).and_then(|audience| audience.room);
        if let Some(followed) = room.and_then(|room| self.followed.get_mut(&room)) {
            followed.channels.retain(|_, known| *known != channel);
        }
        self.close(channel);
    }

    fn close(&mut self, channel: ChannelId) {
        let Some(audience) = self.of_channel.get_mut(&channel) else { return };
        audience.room = None;
        audience.mark = Mark::default();
        (0..audience.seats.len()).for_each(|place| audience.set_follows(place, false));
        if audience.is_unneeded() {
            self.of_channel.remove(&channel);
        }
    }

    /// The channel of that name that is open to a followed room.
    pub fn open_channel(&self, room: ChannelId, channel: &str) -> Option<ChannelId> {
        self.followed.get(&room)?.channels.get(channel).copied()
    }

    /// The names of a channel that the connection is a member of.
    pub fn address_for(&self, conn: ConnId, channel: ChannelId) -> Option<&Arc<Address>> {
        let audience = self.of_channel.get(&channel)?;
        let followers = audience.room.and_then(|room| self.followers(room));
        let is_member = audience.places.contains_key(&conn)
            || followers.is_some_and(|followers| followers.places.contains_key(&conn));
        is_member.then_some(&audience.address)
    }

    /// The local followers of a room, if it has any, to look at.
    pub fn followers(&self, room: ChannelId) -> Option<&Audience> {
        self.followed.get(&room).map(|room| &room.followers)
    }

    /// The local followers of a room, if it has any.
    pub fn followers_mut(&mut self, room: ChannelId) -> Option<&mut Audience> {
        self.followed.get_mut(&room).map(|room| &mut room.followers)
    }

    /// Whether the sender of an event in a channel that is open to a followed room does not get it, and
    /// whether it would get it as a follower.
    pub fn sender_in(&self, channel: ChannelId, room: ChannelId, sender: ConnId) -> (bool, bool) {
        let seat = self.of_channel.get(&channel).and_then(|audience| audience.seat_of(sender));
        match seat {
            Some(seat) => (!seat.options.echo, seat.follows),
            None => {
                let seat = self.followers(room).and_then(|followers| followers.seat_of(sender));
                (seat.is_some_and(|seat| !seat.options.echo), true)
            }
        }
    }

    /// The local members of a channel, if it has any, to look at.
    pub fn of(&self, channel: ChannelId) -> Option<&Audience> {
        self.of_channel.get(&channel)
    }

    /// The local members of a channel, if it has any.
    pub fn of_mut(&mut self, channel: ChannelId) -> Option<&mut Audience> {
        self.of_channel.get_mut(&channel)
    }

    /// Appends those who watch who comes and goes in a channel, or who joins and leaves `*` of a room.
    pub fn watchers(&self, channel: ChannelId, to: Watchers, receivers: &mut Vec<ConnId>) {
        let audience = self.of_channel.get(&channel);
        // The seats of a room's `*` are not those of its followers, who alone may watch it.
        let followers = self.followers(channel);
        let listed = audience.filter(|_| followers.is_none() && to != Watchers::Followers);
        let watches = |seat: &&Seat| seat.options.presence;
        let seats = listed.into_iter().flat_map(|audience| &audience.seats);
        receivers.extend(seats.filter(watches).map(|seat| seat.conn));
        let room = audience.and_then(|audience| audience.room);
        let followers = followers.or_else(|| room.and_then(|room| self.followers(room)));
        let seats = followers.filter(|_| to != Watchers::Listed).map(|known| &known.seats);
        let watching = seats.into_iter().flatten().filter(watches);
        // What a member asked for by the channel's name counts before what it asked for by `*`.
        let own = |seat: &Seat| audience.and_then(|audience| audience.seat_of(seat.conn));
        let is_told = |seat: &&Seat| match own(seat) {
            Some(own) => to == Watchers::Followers && own.options.presence || room.is_none(),
            None => true,
        };
        receivers.extend(watching.filter(is_told).map(|seat| seat.conn));
    }

    /// What a connection asked for, if it has a seat; for the simulator.
    pub fn options(&self, channel: ChannelId, conn: ConnId) -> Option<Options> {
        let audience = self.of_channel.get(&channel)?;
        Some(audience.seats[*audience.places.get(&conn)? as usize].options)
    }

    /// How many seats there are in all, those of followers included; for the simulator.
    pub fn seat_count(&self) -> usize {
        let followers = self.followed.values().map(|room| room.followers.seats.len());
        let members = self.of_channel.values().map(|audience| audience.seats.len());
        members.chain(followers).sum()
    }

    /// Asserts every invariant; for tests and the simulator.
    pub fn check(&self) {
        for (id, audience) in &self.of_channel {
            audience.check();
            assert!(!audience.is_unneeded(), "an empty audience goes at once");
            let followed = audience.room.map(|room| &self.followed[&room]);
            let known = followed.map(|room| room.channels.get(&audience.address.channel));
            assert!(known.is_none_or(|known| known == Some(id)), "a room knows its channels");
            for seat in &audience.seats {
                let is_in = |room: &FollowedRoom| room.followers.places.contains_key(&seat.conn);
                assert_eq!(seat.follows, followed.is_some_and(is_in), "who follows is known");
            }
        }
        for (room, followed) in &self.followed {
            followed.followers.check();
            assert!(!followed.followers.seats.is_empty(), "a room is followed by somebody");
            let names_it = |id: &ChannelId| self.of_channel[id].room == Some(*room);
            assert!(followed.channels.values().all(names_it));
        }
    }
}

impl Audience {
    fn new(address: &Arc<Address>, hasher: RandomState) -> Audience {
        let (address, places) = (address.clone(), Map::with_hasher(hasher));
        let (seats, mark) = (Vec::new(), Mark::default());
        Audience { address, room: None, seats, places, following: 0, mark }
    }

    fn seat(&mut self, seat: Seat) {
        self.mark = Mark::default();
        self.following += usize::from(seat.follows);
        match self.places.get(&seat.conn) {
            Some(&place) => {
                let before = std::mem::replace(&mut self.seats[place as usize], seat);
                self.following -= usize::from(before.follows);
            }
            None => {
                self.places.insert(seat.conn, self.seats.len() as u32);
                self.seats.push(seat);
            }
        }
    }

    fn unseat(&mut self, conn: ConnId) {
        let Some(place) = self.places.remove(&conn) else { return };
        self.mark = Mark::default();
        let gone = self.seats.swap_remove(place as usize);
        self.following -= usize::from(gone.follows);
        if let Some(moved) = self.seats.get(place as usize) {
            self.places.insert(moved.conn, place);
        }
    }

    fn set_follows(&mut self, place: usize, follows: bool) {
        let before = std::mem::replace(&mut self.seats[place].follows, follows);
        self.following = self.following + usize::from(follows) - usize::from(before);
    }

    fn is_unneeded(&self) -> bool {
        self.seats.is_empty() && self.room.is_none()
    }

    fn seat_of(&self, conn: ConnId) -> Option<&Seat> {
        self.places.get(&conn).map(|&place| &self.seats[place as usize])
    }

    fn check(&self) {
        assert_eq!(self.seats.len(), self.places.len());
        assert_eq!(self.seats.iter().filter(|seat| seat.follows).count(), self.following);
        for (place, seat) in self.seats.iter().enumerate() {
            assert_eq!(self.places[&seat.conn] as usize, place);
        }
    }

    /// Its members.
    pub fn seats(&self) -> &[Seat] {
        &self.seats
    }

    /// Whether somebody is given events by a seat here, and not as a follower.
    pub fn has_own_receivers(&self) -> bool {
        self.following < self.seats.len()
    }

    /// The followed room whose followers are members, too.
    pub fn room(&self) -> Option<ChannelId> {
        self.room
    }

    /// Whether a member gets everything but what it sent itself.
    pub fn is_deaf_to_itself(&self, conn: ConnId) -> bool {
        let seat = match self.seats.len() {
            // Who delivers looks at the seats anyway.
            ..=FEW_SEATS => self.seats.iter().find(|seat| seat.conn == conn),
            _ => self.places.get(&conn).map(|&place| &self.seats[place as usize]),
        };
        seat.is_some_and(|seat| !seat.options.echo)
    }

    /// What was left with it, if nobody came or went since.
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// Leaves something with it.
    pub fn set_mark(&mut self, mark: Mark) {
        self.mark = mark;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::hash::seeded;
    use crate::base::ids::ShardId;
    use crate::protocol::names::Name;

    #[test]
    fn seats_come_and_go_and_the_sender_hears_only_its_echo() {
        let mut audiences = Audiences::new(seeded(1));
        let channel = ChannelId::new(ShardId(0), 1);
        let address = Arc::new(Address { room: Name::fixed("r"), channel: Name::fixed("c") });
        let conn = |slot| ConnId { slot, generation: 0 };
        let echo = Options { echo: true, presence: true };
        for slot in 0..5 {
            audiences.seat(channel, &address, conn(slot), Options::default());
        }
        audiences.seat(channel, &address, conn(4), echo);
        audiences.unseat(channel, conn(0));
        audiences.unseat(channel, conn(0));
        audiences.check();
        let audience = audiences.of_mut(channel).unwrap();
        let mut seats: Vec<u32> = audience.seats().iter().map(|seat| seat.conn.slot).collect();
        seats.sort_unstable();
        assert_eq!(seats, [1, 2, 3, 4]);
        assert!(audience.is_deaf_to_itself(conn(2)) && !audience.is_deaf_to_itself(conn(4)));
        assert!(!audience.is_deaf_to_itself(conn(9)), "who has no seat is no member");
        // Of few seats and of many.
        for slot in 5..5 + 2 * FEW_SEATS as u32 {
            let options = if slot % 2 == 0 { echo } else { Options::default() };
            audiences.seat(ChannelId::new(ShardId(0), 2), &address, conn(slot), options);
            let many = audiences.of(ChannelId::new(ShardId(0), 2)).unwrap();
            for known in 0..5 + 2 * FEW_SEATS as u32 {
                let is_deaf = (5..=slot).contains(&known) && known % 2 == 1;
                assert_eq!(many.is_deaf_to_itself(conn(known)), is_deaf, "{known} of {slot}");
            }
        }
        for slot in 5..5 + 2 * FEW_SEATS as u32 {
            audiences.unseat(ChannelId::new(ShardId(0), 2), conn(slot));
        }
        let watchers = |audiences: &Audiences, to| {
            let mut receivers = Vec::new();
            audiences.watchers(channel, to, &mut receivers);
            receivers.iter().map(|conn| conn.slot).collect::<Vec<_>>()
        };
        assert_eq!(watchers(&audiences, Watchers::All), [4]);
        assert_eq!(watchers(&audiences, Watchers::Listed), [4]);
        assert!(watchers(&audiences, Watchers::Followers).is_empty());
        // A mark lasts until somebody comes, goes, or wants something else.
        let mark = Mark { epoch: 7, batch: 1 };
        let mut is_kept = |change: &dyn Fn(&mut Audiences)| {
            audiences.of_mut(channel).unwrap().set_mark(mark);
            change(&mut audiences);
            audiences.of_mut(channel).unwrap().mark() == mark
        };
        assert!(is_kept(&|_| {}));
        assert!(is_kept(&|audiences| audiences.unseat(channel, conn(9))));
        assert!(!is_kept(&|audiences| audiences.unseat(channel, conn(1))));
        assert!(!is_kept(&|audiences| audiences.seat(channel, &address, conn(1), echo)));
        assert!(!is_kept(&|audiences| {
            audiences.seat(channel, &address, conn(1), Options::default())
        }));
        for slot in 1..5 {
            audiences.unseat(channel, conn(slot));
        }
        audiences.check();
        assert_eq!(audiences.seat_count(), 0);
    }

    #[test]
    fn followers_of_a_room_are_members_of_its_channels_and_get_everything_once() {
        let mut audiences = Audiences::new(seeded(1));
        let [room, a, b, secret] = [1, 2, 3, 4].map(|number| ChannelId::new(ShardId(0), number));
        let address = |channel: &'static str| {
            Arc::new(Address { room: Name::fixed("r"), channel: Name::fixed(channel) })
        };
        let every = Arc::new(Address { room: Name::fixed("r"), channel: Name::every() });
        let conn = |slot| ConnId { slot, generation: 0 };
        let (silent, watching) = (Options::default(), Options { echo: false, presence: true });
        let given = |audiences: &Audiences, channel| {
            let Some(audience) = audiences.of(channel) else { return Vec::new() };
            let own = audience.seats().iter().filter(|seat| !seat.follows);
            let room = audience.room().and_then(|room| audiences.followers(room));
            let followers = room.into_iter().flat_map(|followers| followers.seats());
            let mut slots: Vec<u32> = own.chain(followers).map(|seat| seat.conn.slot).collect();
            slots.sort_unstable();
            slots
        };
        // A member by name, then one that follows the room as well, then one that only follows.
        audiences.seat(a, &address("a"), conn(1), silent);
        audiences.seat(a, &address("a"), conn(2), silent);
        audiences.seat(secret, &address("secret"), conn(2), silent);
        for slot in [2, 3] {
            audiences.follow(room, &every, (conn(slot), watching), [a, secret].into_iter());
            audiences.open(room, a, &address("a"));
            audiences.open(room, b, &address("b"));
        }
        audiences.check();
        assert_eq!(given(&audiences, a), [1, 2, 3]);
        assert_eq!(given(&audiences, b), [2, 3]);
        assert_eq!(given(&audiences, secret), [2]);
        assert_eq!(audiences.open_channel(room, "b"), Some(b));
        assert_eq!(
            audiences.address_for(conn(3), b).map(|known| known.to_string()),
            Some("r:b".into())
        );
        assert_eq!(audiences.address_for(conn(1), b), None);
        // A join by name of who follows changes what it is told, not how often it gets events.
        audiences.seat(b, &address("b"), conn(3), Options { echo: true, presence: false });
        assert_eq!(given(&audiences, b), [2, 3]);
        assert_eq!(audiences.sender_in(b, room, conn(3)), (false, true));
        assert_eq!(audiences.sender_in(a, room, conn(3)), (true, true));
        assert_eq!(audiences.sender_in(a, room, conn(1)), (true, false));
        let watchers = |audiences: &Audiences, channel, to| {
            let mut receivers = Vec::new();
            audiences.watchers(channel, to, &mut receivers);
            receivers.iter().map(|conn| conn.slot).collect::<Vec<_>>()
        };
        assert_eq!(watchers(&audiences, room, Watchers::All), [2, 3]);
        assert_eq!(watchers(&audiences, b, Watchers::All), [2], "by name it did not ask");
        assert_eq!(
            watchers(&audiences, a, Watchers::All),
            [3],
            "by name the other one did not ask"
        );
        assert_eq!(watchers(&audiences, a, Watchers::Listed), [] as [u32; 0]);
        // A channel may become private, and open again.
        audiences.make_private(b);
        audiences.check();
        assert_eq!((given(&audiences, b), audiences.open_channel(room, "b")), (vec![3], None));
        audiences.open(room, b, &address("b"));
        assert_eq!(given(&audiences, b), [2, 3]);
        // The last follower that leaves takes the room with it; members by name stay.
        audiences.unfollow(room, conn(3), [b].into_iter());
        audiences.check();
        assert_eq!((given(&audiences, a), given(&audiences, b)), (vec![1, 2], vec![2, 3]));
        audiences.unfollow(room, conn(2), [a, secret].into_iter());
        audiences.check();
        assert_eq!((given(&audiences, a), given(&audiences, b)), (vec![1, 2], vec![3]));
        assert!(audiences.followers(room).is_none());
    }
}
