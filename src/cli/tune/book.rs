//! What was tried and what it gave, round by round, and what may be said of it.
//!
//! All settings of a round are measured one after the other, and only within a round are they
//! compared: whatever else the machine does for a minute hits them alike. So of two settings we
//! look at the ratio of their scores in each round that both took part in: at its median, and at
//! how far it spreads.
//!
//! A difference counts if it is larger than the margin: three standard errors of the median, and
//! 2 % at least, for a change of the code's layout alone makes as much.

use crate::cli::tune::goal::{Goal, Trial};
use crate::cli::tune::setting::Setting;

/// No difference below this counts.
const MARGIN_LEAST: f64 = 0.02;
/// No difference below so many standard errors counts: two would take noise for a difference now and
/// then, for a few rounds tell little of how far they spread.
const STANDARD_ERRORS: f64 = 3.0;
/// The rounds below which nothing is said to differ.
const ROUNDS_LEAST: usize = 3;

/// Everything that was tried.
#[derive(Debug)]
pub(super) struct Book {
    /// The default setting is the first: it takes part in every round.
    pub(super) entries: Vec<Entry>,
    /// The rounds so far.
    pub(super) rounds: usize,
    /// The first round that counts. Settings that were picked for having been lucky must show it
    /// again, so the last meeting begins a new count.
    pub(super) from: usize,
    /// What a round is judged by.
    pub(super) goal: Goal,
}

/// A setting, and what it gave.
#[derive(Debug)]
pub(super) struct Entry {
    /// The setting.
    pub(super) setting: Setting,
    /// Its trials, each with the number of its round.
    pub(super) trials: Vec<(usize, Trial)>,
    /// Why it can't be chosen, if it can't.
    pub(super) failure: Option<String>,
}

/// How two settings differ. It is reckoned in logarithms, so that one is as much better as the other
/// is worse.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Comparison {
    /// The median ratio of their scores, less one: 0.1 is ten percent better.
    pub(super) gain: f64,
    /// What a gain must be larger than to count, and its inverse what a loss must be.
    pub(super) margin: f64,
    /// The rounds it is made of.
    pub(super) rounds: usize,
}

impl Comparison {
    /// Whether the first is better beyond doubt.
    pub(super) fn is_better(&self) -> bool {
        self.gain > self.margin
    }

    /// Whether the first is worse beyond doubt.
    pub(super) fn is_worse(&self) -> bool {
        (1.0 + self.gain) * (1.0 + self.margin) < 1.0
    }
}

impl Book {
    /// A book in which the default setting alone stands.
    pub(super) fn new(goal: Goal, default: Setting) -> Book {
        let mut book = Book { entries: Vec::new(), rounds: 0, from: 0, goal };
        book.entry(default);
        book
    }

    /// The default setting.
    pub(super) fn default(&self) -> &Setting {
        &self.entries[0].setting
    }

    /// The place of a setting, made if it is new.
    pub(super) fn entry(&mut self, setting: Setting) -> usize {
        let known = self.entries.iter().position(|entry| entry.setting == setting);
        known.unwrap_or_else(|| {
            self.entries.push(Entry { setting, trials: Vec::new(), failure: None });
            self.entries.len() - 1
        })
    }

    /// How the first differs from the second in the rounds that count; nothing if they never met.
    pub(super) fn compare(&self, first: usize, second: usize) -> Option<Comparison> {
        self.compare_from(self.from, first, second)
    }

    /// How a setting differs from the default in all rounds.
    pub(super) fn overall(&self, place: usize) -> Option<Comparison> {
        self.compare_from(0, place, 0)
    }

    fn compare_from(&self, from: usize, first: usize, second: usize) -> Option<Comparison> {
        let (one, other) = (&self.entries[first], &self.entries[second]);
        let score = |entry: &Entry, round| {
            let (_, trial) = entry.trials.iter().find(|(number, _)| *number == round)?;
            self.goal.score(trial)
        };
        let mut logs: Vec<f64> = one
            .trials
            .iter()
            .filter(|&&(round, _)| round >= from)
            .filter_map(|&(round, _)| Some((score(one, round)? / score(other, round)?).ln()))
            .collect();
        logs.sort_by(f64::total_cmp);
        let rounds = logs.len();
        let gain = quantile(&logs, 0.5)?.exp_m1();
        let margin = if rounds < ROUNDS_LEAST {
            f64::INFINITY
        } else {
            // For a normal spread, the median's error is 1.25 deviations over the root of the count,
            // and a deviation is the distance between the quartiles over 1.35.
            let quartiles = quantile(&logs, 0.75)? - quantile(&logs, 0.25)?;
            let error = 1.25 * quartiles / 1.35 / (rounds as f64).sqrt();
            (STANDARD_ERRORS * error).exp_m1().max(MARGIN_LEAST)
        };
        Some(Comparison { gain, margin, rounds })
    }

    /// The gain over the default, for ranking.
    pub(super) fn gain(&self, place: usize) -> f64 {
        self.compare(place, 0).map_or(f64::NEG_INFINITY, |it| it.gain)
    }

    /// Those that can be chosen, the best first.
    pub(super) fn ranked(&self, places: &[usize]) -> Vec<usize> {
        let mut ranked: Vec<usize> =
            places.iter().copied().filter(|&place| self.entries[place].failure.is_none()).collect();
        ranked.sort_by(|&one, &other| self.gain(other).total_cmp(&self.gain(one)));
        ranked
    }

    /// The simplest of those that were seen to be as good as the best.
    pub(super) fn favourite(&self, places: &[usize]) -> Option<usize> {
        let ranked = self.ranked(places);
        let best = *ranked.first()?;
        let is_as_good = |&place: &usize| {
            let is_known = |it: &Comparison| it.rounds >= ROUNDS_LEAST;
            let seen = self.compare(place, best).filter(is_known);
            place == best || seen.is_some_and(|it| !it.is_worse())
        };
        ranked
            .into_iter()
            .filter(is_as_good)
            .min_by_key(|&place| self.entries[place].setting.weight(self.default()))
    }

    /// The favourite if it is better than the default beyond doubt; the default otherwise.
    pub(super) fn choose(&self, places: &[usize]) -> Option<usize> {
        let favourite = self.favourite(places)?;
        let is_sure = self.compare(favourite, 0).is_none_or(|it| it.is_better());
        Some(if is_sure || self.entries[0].failure.is_some() { favourite } else { 0 })
    }
}

/// A quantile of sorted values, between two of them where it falls there.
pub(super) fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = share * last as f64;
    let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    Some(low + (high - low) * place.fract())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tune::goal::Figures;
    use crate::daemon::host::Cores;

    fn of_rate(rate: f64) -> Trial {
        let limit = Some(Figures { rate: Some(rate), ..Figures::default() });
        Trial { limit, steady: None }
    }

    /// A book with the default and one other, and their rates in each round.
    fn book(rates: &[(f64, f64)]) -> Book {
        let default = Setting::default_on(Cores { affinity: 2, quota: None });
        let mut book = Book::new(Goal::Throughput, default);
        let other = book.entry(Setting { shards: 1, ..default });
        for (round, &(default, one)) in rates.iter().enumerate() {
            book.entries[0].trials.push((round, of_rate(default)));
            book.entries[other].trials.push((round, of_rate(one)));
        }
        book
    }

    #[test]
    fn drift_of_the_machine_is_no_difference() {
        // The machine slows down to a third, and one setting is 10 % better in every round.
        let rates: Vec<(f64, f64)> = (0..5)
            .map(|round| 900.0 / (1.0 + f64::from(round) / 2.0))
            .map(|r| (r, r * 1.1))
            .collect();
        let comparison = book(&rates).compare(1, 0).unwrap();
        assert!(comparison.is_better() && (comparison.gain - 0.1).abs() < 1e-9, "{comparison:?}");
        assert!(book(&rates).compare(0, 1).unwrap().is_worse());
    }

    #[test]
    fn what_is_within_the_noise_is_the_simpler_setting() {
        let noise = [(100.0, 110.0), (100.0, 91.0), (100.0, 108.0), (100.0, 97.0), (100.0, 104.0)];
        let book_of_noise = book(&noise);
        let comparison = book_of_noise.compare(1, 0).unwrap();
        assert!(!comparison.is_better() && comparison.gain > 0.0, "{comparison:?}");
        assert_eq!(book_of_noise.ranked(&[0, 1]), [1, 0]);
        assert_eq!(book_of_noise.choose(&[0, 1]), Some(0), "the default is simpler");
        assert_eq!(book(&[(100.0, 130.0); 4]).choose(&[0, 1]), Some(1));
        assert_eq!(book(&[(100.0, 101.0); 9]).choose(&[0, 1]), Some(0), "1 % is no difference");
        assert_eq!(book(&[(100.0, 190.0); 2]).choose(&[0, 1]), Some(0), "two rounds say nothing");
    }

    #[test]
    fn what_failed_is_never_chosen() {
        let mut book = book(&[(100.0, 130.0); 4]);
        book.entries[1].failure = Some("lost messages".to_owned());
        assert_eq!(book.choose(&[0, 1]), Some(0));
        book.entries[0].failure = Some("too".to_owned());
        assert_eq!(book.choose(&[0, 1]), None);
    }

    #[test]
    fn quantiles_lie_between_values() {
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[1.0], 0.9), Some(1.0));
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.5), Some(2.0));
        assert_eq!(quantile(&[1.0, 2.0], 0.5), Some(1.5));
    }
}
