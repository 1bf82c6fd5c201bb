//! What a bus of many shards can do, on paper: from what the parts of a message's way cost on one
//! machine to how many messages a second some number of shards carries.
//!
//! A publish costs something once, at its edge and at its home; something for each member it is
//! delivered to; and something for each message between shards that it takes: an ask if its edge is
//! not its home, a tell for each other shard that has a member. The more shards there are, the more
//! of them a room's members are on, until each member has a shard of its own. And a room has one
//! home: what its home does for it is done by one core, however many there are.
//!
//! *Invariants*: clients are spread evenly over shards, and publish as often as they are members;
//! everything here is a mean over that.
//!
//! *Not here*: measuring the costs; caches and memory that shards share, which is why a machine may
//! do worse than this says.

/// What the parts of a publish's way cost, in nanoseconds of a core.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Costs {
    /// Taking a message and giving it its place, whoever gets it.
    pub publish_ns: f64,
    /// Each delivery, the write to the socket included.
    pub member_ns: f64,
    /// Each message between shards, at both ends, wake-ups included.
    pub crossing_ns: f64,
    /// The share of `publish_ns` that the home does; the edge does the rest.
    pub home_share: f64,
}

/// The messages between shards that a publish takes, in the mean.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Crossings {
    /// Asks: at most one.
    pub asks: f64,
    /// Tells: at most one for each other shard.
    pub tells: f64,
}

/// What some number of shards can do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// The messages between shards for each publish.
    pub crossings: Crossings,
    /// Publishes a second.
    pub publishes_per_s: f64,
    /// Deliveries a second.
    pub deliveries_per_s: f64,
    /// How busy the other shards are while the one with the hottest room is full: 1 is evenly.
    pub evenness: f64,
}

/// The crossings of a publish into a room with so many members, the sender one of them.
pub fn crossings(members: u32, shards: u16) -> Crossings {
    let (shards, members) = (f64::from(shards.max(1)), f64::from(members));
    let elsewhere = (shards - 1.0) / shards;
    // A shard that is not the home has a member unless every member is on another one.
    let has_member = 1.0 - elsewhere.powf(members);
    Crossings { asks: elsewhere, tells: (shards - 1.0) * has_member }
}

/// Sizes of rooms as they are found where people choose their rooms: the second has half the
/// members of the first, the third a third, and none less than `least`.
pub fn zipf(rooms: u32, largest: u32, least: u32) -> Vec<u32> {
    (1..=rooms).map(|rank| (largest / rank).max(least).max(2)).collect()
}

/// What `shards` shards, each with a core of its own, can do for rooms of these sizes.
pub fn predict(costs: &Costs, rooms: &[u32], shards: u16) -> Prediction {
    let seats: f64 = rooms.iter().map(|&size| f64::from(size)).sum();
    let (mut all, mut deliveries, mut work) = (Crossings::default(), 0.0, 0.0);
    // What the home of one room does for it, for each publish into any room.
    let mut hottest = 0.0_f64;
    for &size in rooms {
        let weight = f64::from(size) / seats;
        let each = crossings(size, shards);
        let receivers = f64::from(size.saturating_sub(1));
        let crossing_ns = (each.asks + each.tells) * costs.crossing_ns;
        all.asks += weight * each.asks;
        all.tells += weight * each.tells;
        deliveries += weight * receivers;
        work += weight * (costs.publish_ns + receivers * costs.member_ns + crossing_ns);
        // A crossing costs its two ends about the same, and one of them is the home.
        let home_ns = costs.home_share * costs.publish_ns + crossing_ns / 2.0;
        hottest = hottest.max(weight * home_ns);
    }
    let rest = (work - hottest) / f64::from(shards.max(1));
    let publishes_per_s = 1e9 / (hottest + rest);
    Prediction {
        crossings: all,
        publishes_per_s,
        deliveries_per_s: publishes_per_s * deliveries,
        evenness: rest / (hottest + rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COSTS: Costs =
        Costs { publish_ns: 1_000.0, member_ns: 500.0, crossing_ns: 400.0, home_share: 0.5 };

    #[test]
    fn crossings_grow_until_each_member_has_a_shard() {
        assert_eq!(crossings(10, 1), Crossings { asks: 0.0, tells: 0.0 });
        assert_eq!(crossings(2, 2), Crossings { asks: 0.5, tells: 0.75 });
        let wide = crossings(3, 10_000);
        assert!((wide.tells - 3.0).abs() < 0.01 && wide.asks > 0.99, "{wide:?}");
        let large = crossings(100_000, 8);
        assert!((large.tells - 7.0).abs() < 0.01, "{large:?}");
    }

    #[test]
    fn one_shard_does_all_the_work_and_crosses_nothing() {
        let one = predict(&COSTS, &[3], 1);
        assert!((one.publishes_per_s - 1e9 / 2_000.0).abs() < 1e-6, "{one:?}");
        assert!((one.deliveries_per_s / one.publishes_per_s - 2.0).abs() < 1e-9, "{one:?}");
    }

    #[test]
    fn many_small_rooms_scale_and_one_hot_room_does_not() {
        let speed_up = |rooms: &[u32], shards| {
            predict(&COSTS, rooms, shards).publishes_per_s
                / predict(&COSTS, rooms, 1).publishes_per_s
        };
        let small = vec![10; 10_000];
        assert!(speed_up(&small, 64) > 30.0, "{}", speed_up(&small, 64));
        // Two members, one home: the home's part is what is left.
        assert!(speed_up(&[2], 64) < 3.0, "{}", speed_up(&[2], 64));
        for shards in 1..64 {
            let (fewer, more) = (speed_up(&small, shards), speed_up(&small, shards + 1));
            assert!(more > fewer * 0.99 || shards == 1, "{shards}: {fewer} {more}");
        }
    }

    #[test]
    fn sizes_fall_as_one_over_rank() {
        assert_eq!(zipf(5, 12, 3), [12, 6, 4, 3, 3]);
        assert_eq!(zipf(2, 1, 0), [2, 2], "a room with fewer than two members delivers nothing");
    }
}
