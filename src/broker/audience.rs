//! Which connections of this shard are in which channel, as the list that a fan-out walks.
//!
//! *Invariant*: a connection has at most one seat in a channel, and `places` says where it is.

use crate::base::hash::Map;
use crate::base::ids::{ChannelId, ConnId};
use crate::broker::channel::Options;
use crate::broker::lane::Listeners;
use crate::protocol::command::Address;
use ahash::RandomState;
use std::sync::Arc;

/// The local members of every channel that has any.
#[derive(Debug)]
pub struct Audiences {
    of_channel: Map<ChannelId, Audience>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Audience {
    address: Arc<Address>,
    seats: Vec<Seat>,
    places: Map<ConnId, u32>,
}

#[derive(Clone, Copy, Debug)]
struct Seat {
    conn: ConnId,
    options: Options,
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
        });
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
        audience.seats.swap_remove(place as usize);
        if let Some(moved) = audience.seats.get(place as usize) {
            audience.places.insert(moved.conn, place);
        }
        if audience.seats.is_empty() {
            self.of_channel.remove(&channel);
        }
    }

    /// The names of a channel that has local members.
    pub fn address(&self, channel: ChannelId) -> Option<&Arc<Address>> {
        Some(&self.of_channel.get(&channel)?.address)
    }

    /// Adds to `receivers` who of the listeners gets a message; the sender only if it wants to.
    pub fn select(
        &self,
        channel: ChannelId,
        listeners: Listeners,
        sender: Option<ConnId>,
        receivers: &mut Vec<ConnId>,
    ) {
        let Some(audience) = self.of_channel.get(&channel) else { return };
        match (listeners, sender) {
            (Listeners::Members, None) => {
                receivers.extend(audience.seats.iter().map(|seat| seat.conn));
            }
            (Listeners::Members, Some(sender)) => {
                let gets = |seat: &&Seat| seat.conn != sender || seat.options.echo;
                receivers.extend(audience.seats.iter().filter(gets).map(|seat| seat.conn));
            }
            (Listeners::PresenceWatchers, sender) => {
                let gets = |seat: &&Seat| seat.options.presence && Some(seat.conn) != sender;
                receivers.extend(audience.seats.iter().filter(gets).map(|seat| seat.conn));
            }
        }
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
        let select = |audiences: &Audiences, listeners, sender| {
            let mut receivers = Vec::new();
            audiences.select(channel, listeners, sender, &mut receivers);
            receivers.sort_unstable();
            receivers.iter().map(|conn| conn.slot).collect::<Vec<_>>()
        };
        assert_eq!(select(&audiences, Listeners::Members, None), [1, 2, 3, 4]);
        assert_eq!(select(&audiences, Listeners::Members, Some(conn(2))), [1, 3, 4]);
        assert_eq!(select(&audiences, Listeners::Members, Some(conn(4))), [1, 2, 3, 4]);
        assert_eq!(select(&audiences, Listeners::PresenceWatchers, None), [4]);
        for slot in 1..5 {
            audiences.unseat(channel, conn(slot));
        }
        audiences.check();
        assert_eq!(audiences.seat_count(), 0);
    }
}
