//! Members who stop reading for a while, and what they were told when they read again.
//!
//! A bus may leave out what a slow client does not take, but must say so: every hole in the sequence
//! must lie within a gap notice, or behind a close with 4008.

use super::Core;
use super::conn::Stage;
use crate::cli::bench::frames;
use crate::cli::words::Heard;
use serde::Deserialize;

/// The code that closes whoever is too slow.
const TOO_SLOW: u16 = 4008;

/// What slow members found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::cli::bench) struct SlowFacts {
    /// How many there are.
    pub(in crate::cli::bench) members: u64,
    /// How many were closed with 4008.
    pub(in crate::cli::bench) closed_slow: u64,
    /// How many were closed in another way, and how the first was.
    pub(in crate::cli::bench) closed_otherwise: u64,
    /// In words.
    pub(in crate::cli::bench) first_other: Option<String>,
    /// Gap notices that they got.
    pub(in crate::cli::bench) notices: u64,
    /// Messages in holes that a notice told of.
    pub(in crate::cli::bench) told: u64,
    /// Messages in holes that nobody told of.
    pub(in crate::cli::bench) untold: u64,
    /// Messages that came, in all.
    pub(in crate::cli::bench) got: u64,
}

/// The slow members of a core.
#[derive(Debug, Default)]
pub(super) struct Stalling {
    /// Whether they do not read now.
    pub(super) is_now: bool,
    /// Ranges of sequences: the seat, the first and the last.
    holes: Vec<(u32, u64, u64)>,
    told: Vec<(u32, u64, u64)>,
    facts: SlowFacts,
}

#[derive(Deserialize)]
struct GapBody {
    first: Option<u64>,
    last: Option<u64>,
}

impl Core<'_> {
    /// Whether a connection is one that stops reading.
    #[inline]
    pub(super) fn is_slow(&self, local: usize) -> bool {
        !self.shared.layout.listens(self.global(local))
    }

    /// Lets the slow stop, or read again.
    pub(super) fn mind_stalling(&mut self, is_now: bool) {
        if std::mem::replace(&mut self.stalling.is_now, is_now) && !is_now {
            let slow = (0..self.conns.len()).filter(|&local| self.is_slow(local));
            let slow: Vec<u32> = slow.map(|local| local as u32).collect();
            self.unread.extend(slow);
        }
    }

    /// A slow member got a message.
    pub(super) fn on_slow_message(&mut self, seat: usize, sequence: u64) {
        let last = std::mem::replace(&mut self.seat_sequence[seat], sequence);
        self.stalling.facts.got += 1;
        if sequence <= last {
            self.ledger.checks.reordered += 1;
        } else if sequence > last + 1 {
            self.stalling.holes.push((seat as u32, last + 1, sequence - 1));
        }
    }

    /// A member was told that it misses something.
    pub(super) fn on_gap(&mut self, local: usize, heard: &Heard<'_>) {
        if !self.is_slow(local) {
            self.gaps += 1;
            return;
        }
        self.stalling.facts.notices += 1;
        let Ok(GapBody { first: Some(first), last: Some(last) }) =
            serde_json::from_str(heard.payload.get())
        else {
            return;
        };
        // A slow member is in one room only.
        self.stalling.told.push((self.seat_base[local], first, last));
    }

    /// The connection of a slow member ended.
    pub(super) fn on_slow_end(&mut self, local: usize, how: Result<&[u8], &str>) {
        if self.conns[local].stage == Stage::Closed {
            return;
        }
        self.conns[local].close();
        let facts = &mut self.stalling.facts;
        let words = match how {
            Ok(frame) => {
                let (code, reason) = frames::close_words(frame);
                if code == TOO_SLOW {
                    facts.closed_slow += 1;
                    return;
                }
                format!("closed with {code} {reason:?}")
            }
            Err(why) => why.to_owned(),
        };
        facts.closed_otherwise += 1;
        facts.first_other.get_or_insert(words);
    }

    /// How many frames the slow have got: whether they still get some.
    pub(super) fn slow_progress(&self) -> u64 {
        let facts = &self.stalling.facts;
        facts.got + facts.notices + facts.closed_slow + facts.closed_otherwise
    }

    /// What they found in the end.
    pub(super) fn slow_facts(&mut self) -> SlowFacts {
        let mut facts = std::mem::take(&mut self.stalling.facts);
        facts.members = (0..self.conns.len()).filter(|&local| self.is_slow(local)).count() as u64;
        for &(seat, first, last) in &self.stalling.holes {
            let untold = untold(seat, first, last, &self.stalling.told);
            facts.untold += untold;
            facts.told += last - first + 1 - untold;
        }
        facts
    }
}

/// How many of a seat's sequences from `first` to `last` lie in no range.
fn untold(seat: u32, first: u64, last: u64, ranges: &[(u32, u64, u64)]) -> u64 {
    let mut ranges: Vec<(u64, u64)> = ranges
        .iter()
        .filter(|range| range.0 == seat && range.1 <= last && range.2 >= first)
        .map(|&(_, from, to)| (from.max(first), to.min(last)))
        .collect();
    ranges.sort_unstable();
    let (mut next, mut count) = (first, 0);
    for (from, to) in ranges {
        count += from.saturating_sub(next);
        next = next.max(to + 1);
    }
    count + (last + 1).saturating_sub(next)
}

#[cfg(test)]
mod tests {
    use super::untold;

    #[test]
    fn holes_are_told_by_the_ranges_that_cover_them() {
        for (ranges, expected) in [
            (&[][..], 10),
            (&[(1, 1, 10)], 0),
            (&[(2, 1, 10)], 10),
            (&[(1, 0, 5), (1, 4, 20)], 0),
            (&[(1, 8, 9), (1, 2, 3)], 6),
            (&[(1, 11, 20)], 10),
        ] {
            assert_eq!(untold(1, 1, 10, ranges), expected, "{ranges:?}");
        }
    }
}
