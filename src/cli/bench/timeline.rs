//! The time of a round, and what happened in each piece of it.
//!
//! A round warms up, is measured from `from_ns` to `to_ns`, and is then let run dry. Latency counts
//! for every message that was *meant* to be sent while it was measured, whenever it came; speed
//! counts what came meanwhile.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// The shortest latency that is told from a shorter one, and the longest that is told at all.
const LATENCY_NS: (u64, u64) = (100, 600_000_000_000);
/// Latencies are kept to three digits.
const DIGITS: u8 = 3;
/// Into how many pieces the measured time is cut, about.
const PIECES: u64 = 60;
/// The shortest piece.
const PIECE_NS_MIN: u64 = 100_000_000;

/// A clock that counts from the round's beginning.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock(Instant);

impl Clock {
    /// A clock that begins now.
    pub(super) fn start() -> Clock {
        Clock(Instant::now())
    }

    /// Nanoseconds since.
    #[inline]
    pub(super) fn now_ns(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// When what begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Timeline {
    /// The first message.
    pub(super) start_ns: u64,
    /// The end of warming up.
    pub(super) from_ns: u64,
    /// A third into it: what befalls a scenario, befalls it now.
    pub(super) event_ns: u64,
    /// The end of sending.
    pub(super) to_ns: u64,
    /// The length of one piece.
    pub(super) piece_ns: u64,
}

impl Timeline {
    /// A round that begins at `start_ns`.
    pub(super) fn new(start_ns: u64, warmup_ns: u64, duration_ns: u64) -> Timeline {
        let from_ns = start_ns + warmup_ns;
        let piece_ns = (duration_ns / PIECES).max(PIECE_NS_MIN);
        let event_ns = from_ns + duration_ns / 3;
        Timeline { start_ns, from_ns, event_ns, to_ns: from_ns + duration_ns, piece_ns }
    }

    /// Whether a time is measured.
    #[inline]
    pub(super) fn measures(&self, at_ns: u64) -> bool {
        (self.from_ns..self.to_ns).contains(&at_ns)
    }

    /// The piece that a time lies in, if it is measured.
    #[inline]
    pub(super) fn piece(&self, at_ns: u64) -> Option<usize> {
        self.measures(at_ns).then(|| ((at_ns - self.from_ns) / self.piece_ns) as usize)
    }

    /// How long a piece is in truth: the last one may be shorter.
    pub(super) fn piece_length_ns(&self, piece: usize) -> u64 {
        let start = self.from_ns + piece as u64 * self.piece_ns;
        self.piece_ns.min(self.to_ns.saturating_sub(start))
    }
}

/// A histogram of latencies in nanoseconds.
pub(super) type Latencies = Histogram<u64>;

/// An empty one.
pub(super) fn latencies() -> Latencies {
    let (low, high) = LATENCY_NS;
    let made = Histogram::new_with_bounds(low, high, DIGITS);
    made.unwrap_or_else(|error| unreachable!("the bounds are constants that fit: {error}"))
}

/// What came in one piece of time.
#[derive(Debug)]
pub(super) struct Piece {
    /// Deliveries that came.
    pub(super) deliveries: u64,
    /// The latencies of those that were meant to be sent while measured.
    pub(super) latencies: Latencies,
}

impl Default for Piece {
    fn default() -> Piece {
        Piece { deliveries: 0, latencies: latencies() }
    }
}

impl Piece {
    /// Adds another, and empties it.
    pub(super) fn take(&mut self, other: &mut Piece) {
        self.deliveries += std::mem::take(&mut other.deliveries);
        // Both were made with the same bounds, so that everything fits.
        let added = self.latencies.add(&other.latencies);
        debug_assert!(added.is_ok());
        other.latencies.reset();
    }
}

/// One piece as the report shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Moment {
    /// Seconds since measuring began.
    pub(super) at_s: f64,
    /// Deliveries a second.
    pub(super) rate: f64,
    /// The median latency.
    pub(super) p50_ns: u64,
    /// The 99th percentile.
    pub(super) p99_ns: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_measured_time_has_pieces() {
        let timeline = Timeline::new(1_000, 500, 6_050_000_000);
        assert_eq!(timeline.piece(1_499), None);
        assert_eq!(timeline.piece(1_500), Some(0));
        assert_eq!(timeline.piece(timeline.to_ns - 1), Some(60));
        assert_eq!(timeline.piece(timeline.to_ns), None);
        assert_eq!(timeline.piece_length_ns(0), 100_833_333);
        let total: u64 = (0..=60).map(|piece| timeline.piece_length_ns(piece)).sum();
        assert_eq!(total, 6_050_000_000);
    }
}
