//! One channel's order as it comes in: what is next is told, what was told is dropped, and where
//! something is missing it is read.
//!
//! Pushes may be lost, when the connection is, and those that were sent before something was read
//! may come after it. So while a follower reads it holds what comes, and what came before it began
//! to read it forgets: the answer is newer.
//!
//! *Invariants*: what is told is the next of the order, each event once, or a new beginning was told
//! before it; what is held is bounded; who is behind reads until it is not.
//!
//! *Panics*: only marks between the first and the last are weighed, so each has two neighbours.
//!
//! *Not here*: Redis, frames, clocks.

use super::push::{Entry, Mark, Push, What};
use std::collections::VecDeque;
use std::sync::Arc;

/// The marks that are remembered, to find where the order of a Redis that has forgotten ends.
const MARKS_MAX: usize = 32;
/// The bytes of the pushes that are held while something is read.
const HELD_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What comes next in a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Event(Entry),
    Term { term: u32, past: Vec<(u32, u64)> },
}

/// That what was read does not follow what was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Apart;

#[derive(Debug)]
pub(super) struct Follower {
    epoch: Arc<str>,
    term: u32,
    /// Some of what was told, the last of it last; not empty once something was read.
    marks: VecDeque<Mark>,
    state: State,
    held: Vec<Push>,
    held_bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// All that was heard was told.
    Following,
    /// Something must be read.
    Behind,
    /// It is being read.
    Reading,
    /// It is being read, and more came meanwhile than could be held.
    Torn,
}

impl Follower {
    /// Of a channel of which nothing has been read.
    pub(super) fn new() -> Follower {
        Follower {
            epoch: "".into(),
            term: 0,
            marks: VecDeque::new(),
            state: State::Behind,
            held: Vec::new(),
            held_bytes: 0,
        }
    }

    /// The term that was told last.
    pub(super) fn term(&self) -> u32 {
        self.term
    }

    #[cfg(test)]
    /// The life that is followed; `None` before something was read.
    pub(super) fn epoch(&self) -> Option<&Arc<str>> {
        (!self.marks.is_empty()).then_some(&self.epoch)
    }

    /// What was told, the last of it first.
    pub(super) fn marks(&self) -> Vec<Mark> {
        self.marks.iter().rev().cloned().collect()
    }

    /// The last sequence that was told.
    pub(super) fn last(&self) -> u64 {
        self.marks.back().map_or(0, |mark| mark.sequence)
    }

    /// Whether something must be read.
    pub(super) fn is_behind(&self) -> bool {
        self.state == State::Behind
    }

    /// Notes that something may have been missed.
    pub(super) fn fall_behind(&mut self) {
        self.state = match self.state {
            State::Following | State::Behind => State::Behind,
            State::Reading | State::Torn => State::Torn,
        };
    }

    /// Redis is asked now.
    pub(super) fn start_reading(&mut self) {
        self.state = State::Reading;
        self.let_go();
    }

    /// It was asked in vain.
    pub(super) fn stop_reading(&mut self) {
        self.state = State::Behind;
    }

    /// A push came.
    pub(super) fn on_push(&mut self, push: Push, told: &mut Vec<Next>) {
        match self.state {
            State::Following => self.follow(push, told),
            // It is a part of what will be read.
            State::Behind | State::Torn => {}
            State::Reading => {
                self.held_bytes += push.bytes();
                self.held.push(push);
                if self.held_bytes > HELD_BYTES_MAX {
                    self.let_go();
                    self.state = State::Torn;
                }
            }
        }
    }

    /// Everything was read anew, up to `last`.
    pub(super) fn begin(&mut self, epoch: Arc<str>, term: u32, last: Mark, told: &mut Vec<Next>) {
        (self.epoch, self.term) = (epoch, term);
        self.marks.clear();
        self.marks.push_back(last);
        self.catch_up(told);
    }

    /// What follows the last mark was read, as far as it was asked for; `last` is how far it goes on.
    pub(super) fn go_on(
        &mut self,
        (term, past): (u32, &[(u32, u64)]),
        entries: Vec<Entry>,
        last: u64,
        told: &mut Vec<Next>,
    ) -> Result<(), Apart> {
        let first = self.last() + 1;
        let is_run = (first..).zip(&entries).all(|(next, entry)| entry.mark.sequence == next);
        if !is_run || (entries.is_empty() && last >= first) {
            self.state = State::Behind;
            return Err(Apart);
        }
        // What the order holds now belongs to its last term, whichever it was appended in.
        if term != self.term {
            self.term = term;
            told.push(Next::Term { term, past: past.to_vec() });
        }
        self.take(entries, told);
        if self.last() < last {
            self.state = State::Torn;
        }
        self.catch_up(told);
        Ok(())
    }

    fn catch_up(&mut self, told: &mut Vec<Next>) {
        let is_torn = self.state == State::Torn;
        self.state = if is_torn { State::Behind } else { State::Following };
        for push in std::mem::take(&mut self.held) {
            self.on_push(push, told);
        }
        self.let_go();
    }

    fn follow(&mut self, push: Push, told: &mut Vec<Next>) {
        if push.epoch[..] != self.epoch[..] {
            return self.fall_behind();
        }
        match push.what {
            What::Events(entries) if push.term == self.term => {
                let next = self.last() + 1;
                let mut new = entries.into_iter().skip_while(|entry| entry.mark.sequence < next);
                let new: Vec<Entry> = new.by_ref().collect();
                let is_run = (next..).zip(&new).all(|(next, entry)| entry.mark.sequence == next);
                match is_run {
                    true => self.take(new, told),
                    false => self.fall_behind(),
                }
            }
            What::Term { .. } if push.term == self.term => {}
            What::Term { former, last, past }
                if former == self.term && self.marks.back() == Some(&last) =>
            {
                self.term = push.term;
                told.push(Next::Term { term: push.term, past });
            }
            What::Events(_) | What::Term { .. } => self.fall_behind(),
        }
    }

    fn take(&mut self, entries: Vec<Entry>, told: &mut Vec<Next>) {
        if let Some(entry) = entries.last() {
            self.marks.push_back(entry.mark.clone());
        }
        if self.marks.len() > MARKS_MAX {
            self.thin_out();
        }
        told.extend(entries.into_iter().map(Next::Event));
    }

    /// Lets go of the mark that is missed least: they stay close together near the end, where it is
    /// likely that Redis has forgotten something, and get further apart towards the beginning.
    fn thin_out(&mut self) {
        let last = self.last();
        let weight = |at: usize| {
            let (before, after) = (self.marks[at - 1].sequence, self.marks[at + 1].sequence);
            (after - before) as f64 / (last - before) as f64
        };
        let inner = 1..self.marks.len() - 1;
        if let Some(at) = inner.min_by(|&a, &b| weight(a).total_cmp(&weight(b))) {
            self.marks.remove(at);
        }
    }

    fn let_go(&mut self) {
        self.held.clear();
        self.held_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Redis that has one channel.
    struct Order {
        entries: Vec<Entry>,
        term: u32,
        past: Vec<(u32, u64)>,
    }

    impl Order {
        fn last(&self) -> Mark {
            let none = Mark { sequence: 0, id: "0-0".into(), origin: "-".into() };
            self.entries.last().map_or(none, |entry| entry.mark.clone())
        }

        fn append(&mut self, count: u64, rng: &mut fastrand::Rng) -> Push {
            let first = self.last().sequence + 1;
            let entry = |sequence| Entry {
                mark: Mark {
                    sequence,
                    id: format!("1-{sequence}").into(),
                    origin: rng.u32(..).to_string().into(),
                },
                message: format!("{sequence}"),
                left_ms: None,
            };
            let new: Vec<Entry> = (first..first + count).map(entry).collect();
            self.entries.extend(new.clone());
            Push { epoch: "e".into(), term: self.term, what: What::Events(new) }
        }

        fn bump(&mut self, sure: u64) -> Push {
            let former = self.term;
            self.past.push((former, sure));
            self.term += 1;
            let what = What::Term { former, last: self.last(), past: self.past.clone() };
            Push { epoch: "e".into(), term: self.term, what }
        }
    }

    /// A home: what it was told, and of what it would be wrong.
    fn hear(heard: &mut Vec<Entry>, term: &mut u32, told: Vec<Next>) {
        for next in told {
            match next {
                Next::Event(entry) => {
                    assert_eq!(entry.mark.sequence, heard.len() as u64 + 1, "the next comes");
                    heard.push(entry);
                }
                Next::Term { term: next, .. } => *term = next,
            }
        }
    }

    #[test]
    fn whatever_is_lost_late_or_repeated_the_order_is_told_whole() {
        for seed in 0..1_000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut order = Order { entries: Vec::new(), term: 1, past: Vec::new() };
            let mut follower = Follower::new();
            let (mut heard, mut term) = (Vec::new(), 1);
            let mut wire: VecDeque<Push> = VecDeque::new();
            // An answer: how much there was when it was made.
            let mut answer = None;
            let mut is_asked = false;
            for step in 0..300 {
                let is_calm = step > 200;
                let mut told = Vec::new();
                match rng.u32(..10) {
                    0..3 if !is_calm => {
                        let count = rng.u64(1..5);
                        let push = order.append(count, &mut rng);
                        wire.push_back(push);
                    }
                    3 if !is_calm && rng.u32(..4) == 0 => {
                        let sure = order.last().sequence;
                        wire.push_back(order.bump(sure));
                    }
                    4 if !is_calm && rng.bool() => {
                        // The connection is lost, and made again.
                        wire.clear();
                        follower.fall_behind();
                    }
                    5 if !is_calm && !wire.is_empty() => {
                        let at = rng.usize(..wire.len());
                        let push = wire[at].clone();
                        wire.push_back(push);
                    }
                    6 if !is_calm && wire.len() > 1 => {
                        let at = rng.usize(1..wire.len());
                        wire.swap(at - 1, at);
                    }
                    7 if follower.is_behind() && !is_asked => {
                        is_asked = true;
                        follower.start_reading();
                    }
                    8 if is_asked && answer.is_none() => {
                        let is_new = follower.epoch().is_none() || rng.u32(..8) == 0;
                        let limit = if rng.bool() { 3 } else { usize::MAX };
                        let count = order.entries.len().min(heard.len().saturating_add(limit));
                        let count = if is_new { order.entries.len() } else { count };
                        answer = Some((count, order.term, order.past.clone(), is_new));
                    }
                    9 if answer.is_some() => {
                        let (count, new_term, past, is_new) = answer.take().unwrap();
                        is_asked = false;
                        let last = order.entries[..count].last().map(|entry| entry.mark.clone());
                        let none = Mark { sequence: 0, id: "0-0".into(), origin: "-".into() };
                        if is_new {
                            heard = order.entries[..count].to_vec();
                            term = new_term;
                            follower.begin("e".into(), new_term, last.unwrap_or(none), &mut told);
                        } else {
                            let entries = order.entries[heard.len()..count].to_vec();
                            // As the script gives it: how far it went when it was asked.
                            let last = count as u64;
                            follower.go_on((new_term, &past), entries, last, &mut told).unwrap();
                        }
                    }
                    _ => {
                        if let Some(push) = wire.pop_front() {
                            follower.on_push(push, &mut told);
                        }
                    }
                }
                hear(&mut heard, &mut term, told);
                assert_eq!(heard[..], order.entries[..heard.len()], "seed {seed}");
            }
            // Whatever it was, one more look ends it.
            while let Some(push) = wire.pop_front() {
                let mut told = Vec::new();
                follower.on_push(push, &mut told);
                hear(&mut heard, &mut term, told);
            }
            follower.start_reading();
            let mut told = Vec::new();
            let last = order.last().sequence;
            match follower.epoch() {
                None => {
                    heard = order.entries.clone();
                    term = order.term;
                    follower.begin("e".into(), order.term, order.last(), &mut told);
                }
                Some(_) => {
                    let entries = order.entries[heard.len()..].to_vec();
                    let terms = (order.term, &order.past[..]);
                    follower.go_on(terms, entries, last, &mut told).unwrap();
                }
            }
            hear(&mut heard, &mut term, told);
            assert_eq!((heard.len(), term), (order.entries.len(), order.term), "seed {seed}");
            assert!(!follower.is_behind());
        }
    }

    #[test]
    fn another_event_in_the_place_of_the_last_is_no_continuation() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut order = Order { entries: Vec::new(), term: 1, past: Vec::new() };
        let (mut follower, mut told) = (Follower::new(), Vec::new());
        follower.begin("e".into(), 1, order.last(), &mut told);
        follower.on_push(order.append(3, &mut rng), &mut told);
        order.entries.pop();
        order.append(1, &mut rng);
        let before = told.len();
        follower.on_push(order.bump(2), &mut told);
        assert_eq!(told.len(), before);
        assert!(follower.is_behind());
        // A run that does not follow is refused.
        follower.start_reading();
        let entries = vec![order.entries[0].clone()];
        assert_eq!(follower.go_on((2, &[]), entries, 9, &mut told), Err(Apart));
    }

    #[test]
    fn however_much_is_gone_a_mark_is_left_that_is_not_much_older() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut order = Order { entries: Vec::new(), term: 1, past: Vec::new() };
        let (mut follower, mut told) = (Follower::new(), Vec::new());
        follower.begin("e".into(), 1, order.last(), &mut told);
        for _ in 0..5_000 {
            let count = rng.u64(1..4);
            follower.on_push(order.append(count, &mut rng), &mut told);
            let (marks, last) = (follower.marks(), follower.last());
            assert!(marks.len() <= MARKS_MAX && last == order.last().sequence);
            for gone in [1, 10, 100, 1_000, last] {
                let sure = last.saturating_sub(gone);
                let mark = marks.iter().find(|mark| mark.sequence <= sure).expect("the first");
                let too_many = sure - mark.sequence;
                assert!(too_many <= gone + 6, "{gone} of {last}: {too_many}");
            }
        }
    }

    #[test]
    fn more_than_can_be_held_is_read_again() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut order = Order { entries: Vec::new(), term: 1, past: Vec::new() };
        let (mut follower, mut told) = (Follower::new(), Vec::new());
        follower.start_reading();
        let none = order.last();
        for _ in 0..70 {
            let mut push = order.append(1, &mut rng);
            if let What::Events(entries) = &mut push.what {
                entries[0].message = "x".repeat(100_000);
            }
            follower.on_push(push, &mut told);
            assert!(follower.held_bytes <= HELD_BYTES_MAX + 200_000);
        }
        follower.begin("e".into(), 1, none, &mut told);
        assert!(told.is_empty() && follower.is_behind());
    }
}
