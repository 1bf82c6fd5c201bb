//! What was promised about one channel, and what became of it.
//!
//! *Invariant*: of what an auditor was shown, and of what was acknowledged, everything that the bus still
//! shows is held, so a later audit finds what an earlier one has seen in the same place.

use std::collections::BTreeMap;
use std::sync::Mutex;

/// The entries that are remembered; more than the histories hold.
const REMEMBERED: usize = 100_000;

/// One channel's promises.
pub(super) struct Ledger {
    pub channel: &'static str,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The sequence of each entry that was acknowledged, by its number.
    acknowledged: BTreeMap<u64, u64>,
    /// The number of each entry that an auditor was shown, by its sequence.
    shown: BTreeMap<u64, u64>,
    counts: Counts,
    /// The first things that were wrong, in words.
    faults: Vec<String>,
}

/// What a run has come to.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    acknowledged: u64,
    audits: u64,
    audited: u64,
    delivered: u64,
    recovered: u64,
    began_anew: u64,
    lost: u64,
    doubled: u64,
    reordered: u64,
}

impl Ledger {
    pub(super) fn new(channel: &'static str) -> Ledger {
        Ledger { channel, state: Mutex::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nobody panicked over the ledger")
    }

    /// The bus has said that this entry is safe, and where.
    pub(super) fn acknowledge(&self, number: u64, sequence: u64) {
        let mut state = self.state();
        state.counts.acknowledged += 1;
        if let Some(before) = state.acknowledged.insert(number, sequence)
            && before != sequence
        {
            state.reordered(format!("{number} was at {before}, and is at {sequence}"));
        }
        if state.acknowledged.len() > REMEMBERED {
            state.acknowledged.pop_first();
        }
    }

    /// What was acknowledged so far: the sequence of each number.
    pub(super) fn acknowledged(&self) -> BTreeMap<u64, u64> {
        self.state().acknowledged.clone()
    }

    /// Holds a history against `promised`, which was acknowledged before it was asked for. `is_whole`: the
    /// history goes up to the end of everything that was promised.
    pub(super) fn audit(&self, rows: &[(u64, u64)], promised: &BTreeMap<u64, u64>, is_whole: bool) {
        let mut state = self.state();
        state.counts.audits += 1;
        state.counts.audited += rows.len() as u64;
        let Some((&(first, _), &(last, _))) = rows.first().zip(rows.last()) else { return };
        for pair in rows.windows(2) {
            if pair[1].0 != pair[0].0 + 1 {
                state.reordered(format!("a history goes from {} to {}", pair[0].0, pair[1].0));
            }
        }
        let by_number: BTreeMap<u64, u64> = rows.iter().map(|&(at, number)| (number, at)).collect();
        if by_number.len() < rows.len() {
            let count = (rows.len() - by_number.len()) as u64;
            state.doubled(count, format!("{count} entries stand twice in a history"));
        }
        for (number, &sequence) in promised {
            match by_number.get(number) {
                Some(&at) if at == sequence => {}
                Some(at) => state.reordered(format!("{number} moved from {sequence} to {at}")),
                None if sequence >= first && (sequence <= last || is_whole) => {
                    state.lost(format!("{number}, acknowledged at {sequence}, is gone"));
                }
                None => {}
            }
        }
        state.show(rows, promised);
    }

    /// A member was given these, one after the other, in one epoch.
    pub(super) fn delivered(&self, count: u64) {
        self.state().counts.delivered += count;
    }

    pub(super) fn recovered(&self) {
        self.state().counts.recovered += 1;
    }

    pub(super) fn began_anew(&self) {
        self.state().counts.began_anew += 1;
    }

    /// A member was given something twice, or in the wrong order.
    pub(super) fn member_doubled(&self, what: String) {
        self.state().doubled(1, what);
    }

    /// See [`Ledger::member_doubled`].
    pub(super) fn member_reordered(&self, what: String) {
        self.state().reordered(what);
    }

    pub(super) fn report(&self, what: &str) {
        let Counts {
            acknowledged,
            audits,
            audited,
            delivered,
            recovered,
            began_anew,
            lost,
            doubled,
            reordered,
        } = self.state().counts;
        println!(
            "{what}, {}: {acknowledged} acknowledged, {delivered} delivered, {audited} audited in \
             {audits} audits: {lost} lost, {doubled} doubled, {reordered} reordered; members recovered \
             {recovered} times and began anew {began_anew} times",
            self.channel
        );
    }

    /// The first things that were wrong, and when.
    pub(super) fn faults(&self) -> Vec<String> {
        self.state().faults.clone()
    }

    /// Fails if nothing happened.
    pub(super) fn check(&self) {
        let state = self.state();
        let Counts { acknowledged, delivered, audited, .. } = state.counts;
        assert!(acknowledged > 50 && delivered > 50 && audited > 50, "{:?}", state.counts);
    }
}

impl State {
    /// Remembers what was acknowledged and shown in one place, which must be the same later.
    fn show(&mut self, rows: &[(u64, u64)], promised: &BTreeMap<u64, u64>) {
        for &(sequence, number) in rows {
            // What nobody was promised may be gone after a failover, and its place another's.
            if !promised.contains_key(&number) {
                continue;
            }
            if let Some(before) = self.shown.insert(sequence, number)
                && before != number
            {
                self.reordered(format!("{sequence} was {before}, and is {number}"));
            }
        }
        while self.shown.len() > REMEMBERED {
            self.shown.pop_first();
        }
    }

    fn lost(&mut self, what: String) {
        self.counts.lost += 1;
        self.fault(what);
    }

    fn doubled(&mut self, count: u64, what: String) {
        self.counts.doubled += count;
        self.fault(what);
    }

    fn reordered(&mut self, what: String) {
        self.counts.reordered += 1;
        self.fault(what);
    }

    fn fault(&mut self, what: String) {
        if self.faults.len() < 20 {
            self.faults.push(format!("{} {what}", jiff::Timestamp::now()));
        }
    }
}

#[test]
fn a_ledger_finds_what_is_lost_doubled_and_reordered() {
    let ledger = Ledger::new("a:b");
    (1..=5).for_each(|n| ledger.acknowledge(n, n + 10));
    let promised = ledger.acknowledged();
    let good = [(11, 1), (12, 2), (13, 3), (14, 4), (15, 5)];
    ledger.audit(&good, &promised, true);
    // What history no longer reaches back to, or what a node has not heard of yet, is not lost.
    ledger.audit(&good[2..], &promised, true);
    ledger.audit(&good[..3], &promised, false);
    assert!(ledger.state().faults.is_empty(), "{:?}", ledger.state().faults);
    let faults = |rows: &[(u64, u64)], is_whole| {
        let ledger = Ledger::new("a:b");
        ledger.audit(rows, &promised, is_whole);
        let Counts { lost, doubled, reordered, .. } = ledger.state().counts;
        (lost, doubled, reordered)
    };
    assert_eq!(faults(&good[..3], true), (2, 0, 0));
    assert_eq!(faults(&[(11, 1), (12, 2), (13, 9), (14, 4), (15, 5)], true), (1, 0, 0));
    assert_eq!(
        faults(&[(11, 1), (12, 2), (13, 3), (14, 4), (15, 5), (16, 9), (17, 9)], true),
        (0, 1, 0)
    );
    assert_eq!(faults(&[(11, 2), (12, 1), (13, 3), (14, 4), (15, 5)], true), (0, 0, 2));
    assert_eq!(faults(&[(11, 1), (13, 3), (14, 4), (15, 5)], true), (1, 0, 1));
}
