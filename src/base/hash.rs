//! Seeded hashing: maps that a peer can't flood, and the rule that places rooms and clients.

use crate::base::ids::ShardId;
use ahash::RandomState;
use std::hash::Hash;

/// A hash map with seeded ahash. Nothing may depend on the order in which it is walked.
pub type Map<K, V> = hashbrown::HashMap<K, V, RandomState>;

/// A hash set with seeded ahash. Nothing may depend on the order in which it is walked.
pub type Set<K> = hashbrown::HashSet<K, RandomState>;

/// The hash function of one process, from its seed.
pub fn seeded(seed: u64) -> RandomState {
    let mut rng = fastrand::Rng::with_seed(seed);
    RandomState::with_seeds(rng.u64(..), rng.u64(..), rng.u64(..), rng.u64(..))
}

/// Which shard is home to a room or to a client id: the same answer on every shard.
#[derive(Clone, Debug)]
pub struct Placement {
    shards: u16,
    state: RandomState,
}

impl Placement {
    /// A placement over `shards` shards.
    pub fn new(shards: u16, seed: u64) -> Placement {
        assert!(shards > 0, "a bus has at least one shard");
        Placement { shards, state: seeded(seed) }
    }

    /// How many shards there are.
    pub fn shards(&self) -> u16 {
        self.shards
    }

    /// Every shard, in order.
    pub fn all(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.shards).map(ShardId)
    }

    /// The home of a room.
    pub fn of_room(&self, room: &str) -> ShardId {
        self.place(("room", room))
    }

    /// The home of a client id.
    pub fn of_client(&self, client_id: &str) -> ShardId {
        self.place(("client", client_id))
    }

    fn place(&self, key: impl Hash) -> ShardId {
        let hash = self.state.hash_one(key);
        // The high half times the count: even over any count, without a division.
        ShardId((((hash >> 32) * u64::from(self.shards)) >> 32) as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_spread_evenly_and_stay_where_they_are() {
        let placement = Placement::new(4, 7);
        let mut counts = [0u32; 4];
        for n in 0..4_000 {
            let room = format!("room-{n}");
            assert_eq!(placement.of_room(&room), placement.of_room(&room));
            counts[placement.of_room(&room).index()] += 1;
        }
        assert!(counts.iter().all(|&count| count > 800), "{counts:?}");
    }
}
