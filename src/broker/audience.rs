//! Which connections of this shard are in which channel, as the list that a fan-out walks.
//!
//! *Invariants*: a connection has at most one seat in a channel, and `places` says where it is; a
//! [`Mark`] does not outlive a change of the seats.

use crate::base::hash::Map;
use crate::base::ids::{ChannelId, ConnId};
use crate::broker::channel::Options;
use crate::protocol::command::Address;
use ahash::RandomState;
use std::sync::Arc;

/// How many seats are found by looking at all of them.
const FEW_SEATS: usize = 8;

/// The local members of every channel that has any.
#[derive(Debug)]
pub struct Audiences {
    of_channel: Map<ChannelId, Audience>,
    hasher: RandomState,
}

/// The local members of one channel.
#[derive(Debug)]
pub struct Audience {
    address: Arc<Address>,
    seats: Vec<Seat>,
    places: Map<ConnId, u32>,
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
}

impl Audiences {
    /// No members at all.
    pub fn new(hasher: RandomState) -> Audiences {
        Audiences { of_channel: Map::with_hasher(hasher.clone()), hasher }
    }

    /// Gives a connection a seat, or its seat new options.
    pub fn seat(
        &mut self,
        channel: ChannelId,
        address: &Arc<Address>,
        conn: ConnId,
        options: Options,
    ) {
        let audience = self.of_channel.entry(channel).or_insert_with(|| Audience {
            address: address.clone(),
            seats: Vec::new(),
            places: Map::with_hasher(self.hasher.clone()),
            mark: Mark::default(),
        });
        audience.mark = Mark::default();
        match audience.places.get(&conn) {
            Some(&place) => audience.seats[place as usize].options = options,
            None => {
                audience.places.insert(conn, audience.seats.len() as u32);
                audience.seats.push(Seat { conn, options });
            }
        }
    }

    /// Takes a connection's seat away.
    pub fn unseat(&mut self, channel: ChannelId, conn: ConnId) {
        let Some(audience) = self.of_channel.get_mut(&channel) else { return };
        let Some(place) = audience.places.remove(&conn) else { return };
        audience.mark = Mark::default();
        audience.seats.swap_remove(place as usize);
        if let Some(moved) = audience.seats.get(place as usize) {
            audience.places.insert(moved.conn, place);
        }
        if audience.seats.is_empty() {
            self.of_channel.remove(&channel);
        }
    }

    /// The names of a channel in which the connection has a seat.
    pub fn address_for(&self, conn: ConnId, channel: ChannelId) -> Option<&Arc<Address>> {
        let audience = self.of_channel.get(&channel)?;
        audience.places.contains_key(&conn).then_some(&audience.address)
    }

    /// The local members of a channel, if it has any, to look at.
    pub fn of(&self, channel: ChannelId) -> Option<&Audience> {
        self.of_channel.get(&channel)
    }

    /// The local members of a channel, if it has any.
    pub fn of_mut(&mut self, channel: ChannelId) -> Option<&mut Audience> {
        self.of_channel.get_mut(&channel)
    }

    /// Adds to `receivers` who watches who comes and goes, but for the one who does.
    pub fn watchers(
        &self,
        channel: ChannelId,
        subject: Option<ConnId>,
        receivers: &mut Vec<ConnId>,
    ) {
        let Some(audience) = self.of_channel.get(&channel) else { return };
        let gets = |seat: &&Seat| seat.options.presence && Some(seat.conn) != subject;
        receivers.extend(audience.seats.iter().filter(gets).map(|seat| seat.conn));
    }

    /// What a connection asked for, if it has a seat; for the simulator.
    pub fn options(&self, channel: ChannelId, conn: ConnId) -> Option<Options> {
        let audience = self.of_channel.get(&channel)?;
        Some(audience.seats[*audience.places.get(&conn)? as usize].options)
    }

    /// How many seats there are in all; for the simulator.
    pub fn seat_count(&self) -> usize {
        self.of_channel.values().map(|audience| audience.seats.len()).sum()
    }

    /// Asserts every invariant; for tests and the simulator.
    pub fn check(&self) {
        for audience in self.of_channel.values() {
            assert_eq!(audience.seats.len(), audience.places.len());
            assert!(!audience.seats.is_empty(), "an empty audience goes at once");
            for (place, seat) in audience.seats.iter().enumerate() {
                assert_eq!(audience.places[&seat.conn] as usize, place);
            }
        }
    }
}

impl Audience {
    /// Its members.
    pub fn seats(&self) -> &[Seat] {
        &self.seats
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
        let watchers = |audiences: &Audiences, subject| {
            let mut receivers = Vec::new();
            audiences.watchers(channel, subject, &mut receivers);
            receivers.iter().map(|conn| conn.slot).collect::<Vec<_>>()
        };
        assert_eq!(watchers(&audiences, None), [4]);
        assert!(watchers(&audiences, Some(conn(4))).is_empty());
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
}
