//! What every member has got of every stream, and what is wrong with it.
//!
//! A member expects the numbers of a stream one after the other. A number that is skipped is
//! missing; if it comes later it was reordered, if it comes twice it was doubled, and what is
//! missing in the end is lost.
//!
//! *Invariant*: `next[c]` is one more than the highest number that came; `missing` holds what is
//! below it and did not come.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};

/// The skipped numbers that are remembered; a bus that loses more is only counted.
const MISSING_MAX: usize = 1_000_000;

/// What was wrong, in all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Checks {
    /// Messages that a member never got.
    pub(super) lost: u64,
    /// Messages that a member got again.
    pub(super) doubled: u64,
    /// Messages that a member got after a later one, or whose sequence did not rise.
    pub(super) reordered: u64,
    /// Texts that are not what was sent.
    pub(super) wrong: u64,
}

impl Checks {
    /// Whether nothing was wrong.
    pub(super) fn is_clean(&self) -> bool {
        *self == Checks::default()
    }

    /// These and those.
    pub(super) fn add(&mut self, other: &Checks) {
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.reordered += other.reordered;
        self.wrong += other.wrong;
    }
}

/// The account of one core's members.
#[derive(Debug)]
pub(super) struct Ledger {
    /// The number that is expected, by cursor: a member and a stream that it gets.
    next: Vec<u32>,
    missing: HashMap<u32, BTreeSet<u32>>,
    missing_count: usize,
    /// What was wrong so far; what is lost is known only in the end.
    pub(super) checks: Checks,
}

impl Ledger {
    /// For so many cursors.
    pub(super) fn new(cursors: usize) -> Ledger {
        Ledger {
            next: vec![0; cursors],
            missing: HashMap::new(),
            missing_count: 0,
            checks: Checks::default(),
        }
    }

    /// A message came. Whether it is the first time.
    #[inline]
    pub(super) fn on_message(&mut self, cursor: usize, number: u32) -> bool {
        if number == self.next[cursor] {
            self.next[cursor] = number + 1;
            return true;
        }
        self.on_surprise(cursor, number)
    }

    #[cold]
    fn on_surprise(&mut self, cursor: usize, number: u32) -> bool {
        let next = self.next[cursor];
        if number > next {
            let skipped = (number - next) as usize;
            if self.missing_count + skipped <= MISSING_MAX {
                self.missing_count += skipped;
                self.missing.entry(cursor as u32).or_default().extend(next..number);
            } else {
                self.checks.lost += skipped as u64;
            }
            self.next[cursor] = number + 1;
            return true;
        }
        let was_missing =
            self.missing.get_mut(&(cursor as u32)).is_some_and(|missing| missing.remove(&number));
        if was_missing {
            self.missing_count -= 1;
            self.checks.reordered += 1;
        } else {
            self.checks.doubled += 1;
        }
        was_missing
    }

    /// Nothing more comes: what a member should have got of `sent` messages is lost.
    pub(super) fn close(&mut self, cursor: usize, sent: u32) {
        self.checks.lost += u64::from(sent.saturating_sub(self.next[cursor]));
        let missing = self.missing.remove(&(cursor as u32)).unwrap_or_default();
        self.missing_count -= missing.len();
        self.checks.lost += missing.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_can_go_wrong_is_counted_once() {
        for (numbers, sent, expected) in [
            (&[0, 1, 2][..], 3, [0, 0, 0]),
            (&[0, 1], 3, [1, 0, 0]),
            (&[], 2, [2, 0, 0]),
            (&[0, 2], 3, [1, 0, 0]),
            (&[0, 2, 1], 3, [0, 0, 1]),
            (&[0, 0, 1, 2], 3, [0, 1, 0]),
            (&[2, 1, 1, 0], 3, [0, 1, 2]),
            (&[1], 4, [3, 0, 0]),
        ] {
            let mut ledger = Ledger::new(1);
            for &number in numbers {
                ledger.on_message(0, number);
            }
            ledger.close(0, sent);
            let Checks { lost, doubled, reordered, .. } = ledger.checks;
            assert_eq!([lost, doubled, reordered], expected, "{numbers:?}");
        }
    }

    #[test]
    fn losses_beyond_what_is_remembered_are_counted() {
        let mut ledger = Ledger::new(1);
        ledger.on_message(0, 50_000_000);
        ledger.close(0, 50_000_002);
        assert_eq!(ledger.checks.lost, 50_000_001);
    }
}
