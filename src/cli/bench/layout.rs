//! Who is in which room, and who publishes there: a plan's scenario as plain tables.
//!
//! A *group* is a room's one channel, or a relay's group. A *stream* is one publisher in one group:
//! its messages are numbered from 0 without a hole, which is what every member checks.
//!
//! *Invariants*: a connection is in a group at most once; `seats` and `members` say the same; the
//! groups of a connection stand in rising order, and their place in that order is the index a
//! relay is given.

use fastrand::Rng;

/// One publisher in one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stream {
    /// The connection that publishes.
    pub(super) conn: u32,
    /// Where.
    pub(super) group: u32,
    /// Its place among the streams of the group.
    pub(super) rank: u32,
}

/// One room with its one channel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Group {
    /// The connections in it, publishers included.
    pub(super) members: Vec<u32>,
    /// The streams into it.
    pub(super) streams: Vec<u32>,
    /// How many of its members stop reading.
    pub(super) stalled: u32,
}

/// Everybody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Layout {
    /// The groups of each connection.
    pub(super) seats: Vec<Vec<u32>>,
    /// All groups.
    pub(super) groups: Vec<Group>,
    /// All streams.
    pub(super) streams: Vec<Stream>,
    /// Which connections publish.
    pub(super) publishes: Vec<bool>,
    /// Which connections stop reading, if any do.
    pub(super) stalled: Vec<bool>,
    /// How many streams belong together in the closed model: a token goes round among them. 1 for
    /// all but ping-pong, where the answer is the other side's message.
    pub(super) streams_per_track: usize,
}

impl Layout {
    /// `rooms` rooms of `members` connections of their own, the first `publishers` of which publish.
    pub(super) fn fanout(rooms: u32, members: u32, publishers: u32) -> Layout {
        let mut layout = Layout::with(rooms * members, 1);
        for room in 0..rooms {
            let members: Vec<u32> = (0..members).map(|member| room * members + member).collect();
            layout.add_group(members, publishers);
        }
        layout
    }

    /// `pairs` rooms of two, who answer each other.
    pub(super) fn pairs(pairs: u32) -> Layout {
        Layout { streams_per_track: 2, ..Layout::fanout(pairs, 2, 2) }
    }

    /// `rooms` rooms of `members`, spread evenly and by chance over `connections`.
    pub(super) fn rooms(
        rooms: u32,
        members: u32,
        connections: u32,
        publishers: u32,
        seed: u64,
    ) -> Layout {
        let mut layout = Layout::with(connections, 1);
        let mut rng = Rng::with_seed(seed);
        let mut hand: Vec<u32> = Vec::new();
        for _ in 0..rooms {
            let mut chosen: Vec<u32> = Vec::with_capacity(members as usize);
            while chosen.len() < members as usize {
                if hand.iter().all(|conn| chosen.contains(conn)) {
                    let mut fresh: Vec<u32> = (0..connections).collect();
                    rng.shuffle(&mut fresh);
                    hand.splice(0..0, fresh);
                }
                // The last one that is not in the room yet.
                if let Some(at) = hand.iter().rposition(|conn| !chosen.contains(conn)) {
                    chosen.push(hand.remove(at));
                }
            }
            layout.add_group(chosen, publishers);
        }
        layout
    }

    /// `connections` connections in no room.
    pub(super) fn idle(connections: u32) -> Layout {
        Layout::with(connections, 1)
    }

    fn with(connections: u32, streams_per_track: usize) -> Layout {
        let seats = vec![Vec::new(); connections as usize];
        let publishes = vec![false; connections as usize];
        Layout { seats, publishes, streams_per_track, ..Layout::default() }
    }

    fn add_group(&mut self, members: Vec<u32>, publishers: u32) {
        let group = self.groups.len() as u32;
        let first = self.streams.len() as u32;
        for (rank, &conn) in members.iter().take(publishers as usize).enumerate() {
            self.publishes[conn as usize] = true;
            self.streams.push(Stream { conn, group, rank: rank as u32 });
        }
        for &conn in &members {
            self.seats[conn as usize].push(group);
        }
        let streams = (first..self.streams.len() as u32).collect();
        self.groups.push(Group { members, streams, stalled: 0 });
    }

    /// The last `slow` members of each room stop reading.
    pub(super) fn with_stalled(mut self, slow: u32) -> Layout {
        self.stalled = vec![false; self.seats.len()];
        for group in &mut self.groups {
            for &member in group.members.iter().rev().take(slow as usize) {
                self.stalled[member as usize] = true;
                group.stalled += 1;
            }
        }
        self
    }

    /// Whether a connection reads all the time.
    #[inline]
    pub(super) fn listens(&self, conn: u32) -> bool {
        self.stalled.get(conn as usize).is_none_or(|is_stalled| !is_stalled)
    }

    /// How many members must get a message of this stream.
    #[inline]
    pub(super) fn receivers(&self, stream: u32) -> u32 {
        let group = &self.groups[self.streams[stream as usize].group as usize];
        group.members.len() as u32 - 1 - group.stalled
    }

    /// Deliveries of one message of each stream, on average.
    pub(super) fn mean_receivers(&self) -> f64 {
        let all: u64 = (0..self.streams.len() as u32).map(|s| u64::from(self.receivers(s))).sum();
        all as f64 / self.streams.len().max(1) as f64
    }

    /// The place of `group` among the groups of `conn`.
    pub(super) fn seat_of(&self, conn: u32, group: u32) -> Option<usize> {
        match self.seats[conn as usize].as_slice() {
            [only] => (*only == group).then_some(0),
            many => many.binary_search(&group).ok(),
        }
    }

    /// The closed model: for each of `in_flight` messages the streams it goes round in. With more
    /// messages than tracks several share one; with fewer each visits several.
    pub(super) fn tracks(&self, in_flight: u32) -> Vec<Vec<u32>> {
        let per_track = self.streams_per_track as u32;
        let tracks = self.streams.len() as u32 / per_track;
        let streams = |track: u32| track * per_track..(track + 1) * per_track;
        (0..in_flight)
            .map(|token| match in_flight >= tracks {
                true => streams(token % tracks).collect(),
                false => (token..tracks).step_by(in_flight as usize).flat_map(streams).collect(),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(layout: &Layout) {
        for (number, group) in layout.groups.iter().enumerate() {
            let mut members = group.members.clone();
            members.sort_unstable();
            members.dedup();
            assert_eq!(members.len(), group.members.len(), "nobody is there twice");
            for &member in &members {
                assert!(layout.seat_of(member, number as u32).is_some());
            }
        }
        let seats: usize = layout.seats.iter().map(Vec::len).sum();
        let members: usize = layout.groups.iter().map(|group| group.members.len()).sum();
        assert_eq!(seats, members);
        assert!(layout.seats.iter().all(|seats| seats.is_sorted()));
    }

    #[test]
    fn layouts_are_what_their_scenarios_say() {
        for (layout, conns, groups, streams, receivers) in [
            (Layout::fanout(1, 100, 4), 100, 1, 4, 99.0),
            (Layout::fanout(10, 10, 1), 100, 10, 10, 9.0),
            (Layout::pairs(50), 100, 50, 100, 1.0),
            (Layout::rooms(1_000, 3, 300, 1, 7), 300, 1_000, 1_000, 2.0),
            (Layout::rooms(7, 5, 5, 2, 7), 5, 7, 14, 4.0),
            (Layout::idle(9), 9, 0, 0, 0.0),
        ] {
            check(&layout);
            assert_eq!(
                (layout.seats.len(), layout.groups.len(), layout.streams.len()),
                (conns, groups, streams)
            );
            assert!((layout.mean_receivers() - receivers).abs() < 1e-9);
        }
        let slow = Layout::fanout(2, 10, 2).with_stalled(3);
        assert_eq!(slow.receivers(0), 6);
        assert!(slow.listens(6) && !slow.listens(7) && slow.listens(10));
        let spread = Layout::rooms(1_000, 3, 300, 1, 7);
        assert!(spread.seats.iter().all(|seats| seats.len() == 10), "evenly spread");
        assert_eq!(spread, Layout::rooms(1_000, 3, 300, 1, 7), "the seed decides");
        assert_ne!(spread, Layout::rooms(1_000, 3, 300, 1, 8));
    }

    #[test]
    fn every_stream_is_on_a_track_and_pairs_answer() {
        for (layout, in_flight) in [
            (Layout::fanout(1, 100, 4), 32),
            (Layout::fanout(10, 10, 2), 3),
            (Layout::rooms(100, 3, 30, 1, 1), 64),
            (Layout::pairs(5), 10),
        ] {
            let tracks = layout.tracks(in_flight);
            assert_eq!(tracks.len(), in_flight as usize);
            let mut visited: Vec<u32> = tracks.concat();
            visited.sort_unstable();
            visited.dedup();
            assert_eq!(visited.len(), layout.streams.len());
        }
        assert_eq!(Layout::pairs(2).tracks(2), [vec![0, 1], vec![2, 3]]);
        assert_eq!(Layout::fanout(1, 9, 2).tracks(3), [vec![0], vec![1], vec![0]]);
    }
}
