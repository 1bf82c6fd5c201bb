//! The open model: messages are due at fixed times, whatever became of those before.
//!
//! Message `i` of the whole round is due `i` intervals after its beginning, and the streams take
//! turns. Each core minds the streams whose publishers it holds, and needs to ask no other.

/// One core's part of the schedule.
#[derive(Debug)]
pub(super) struct Pace {
    start_ns: u64,
    interval_ns: f64,
    /// The streams there are in all: so many messages are due in a cycle.
    cycle_length: u64,
    /// This core's streams, and their places in the cycle.
    own: Vec<(u64, u32)>,
    cycle: u64,
    place: usize,
}

impl Pace {
    /// A schedule of `messages_per_s` over the streams in `order`, of which `is_own` are this core's.
    pub(super) fn new(
        start_ns: u64,
        messages_per_s: f64,
        order: &[u32],
        is_own: impl Fn(u32) -> bool,
    ) -> Pace {
        let places = order.iter().enumerate().map(|(place, &stream)| (place as u64, stream));
        Pace {
            start_ns,
            interval_ns: 1e9 / messages_per_s,
            cycle_length: order.len() as u64,
            own: places.filter(|&(_, stream)| is_own(stream)).collect(),
            cycle: 0,
            place: 0,
        }
    }

    /// When the next message is due; `None` if there is never one.
    pub(super) fn next_ns(&self) -> Option<u64> {
        let (place, _) = self.own.get(self.place)?;
        let number = self.cycle * self.cycle_length + place;
        Some(self.start_ns + (number as f64 * self.interval_ns) as u64)
    }

    /// Takes the next message if it is due by `now_ns`: its stream, and when it was due.
    pub(super) fn take(&mut self, now_ns: u64) -> Option<(u32, u64)> {
        let due_ns = self.next_ns().filter(|&due_ns| due_ns <= now_ns)?;
        let (_, stream) = self.own[self.place];
        self.place += 1;
        if self.place == self.own.len() {
            self.place = 0;
            self.cycle += 1;
        }
        Some((stream, due_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_together_keep_the_schedule() {
        let order = [2, 0, 1];
        let mut all: Vec<(u64, u32)> = Vec::new();
        for core in 0..2 {
            let mut pace = Pace::new(1_000, 1e6, &order, |stream| stream % 2 == core);
            assert_eq!(pace.take(999), None);
            while let Some((stream, due_ns)) = pace.take(6_999) {
                all.push((due_ns, stream));
            }
            assert!(pace.next_ns().unwrap() >= 7_000);
        }
        all.sort_unstable();
        let expected = [(1_000, 2), (2_000, 0), (3_000, 1), (4_000, 2), (5_000, 0), (6_000, 1)];
        assert_eq!(all, expected);
        assert_eq!(Pace::new(0, 1.0, &order, |_| false).next_ns(), None);
    }
}
