//! The search: a coarse sweep first, and then finer ones around what was best.
//!
//! Each step tries some settings in rounds, A B C A B C. After a rung of rounds the worse half of
//! them leaves, and those that stay get more rounds (successive halving): what is plainly bad costs
//! little time, what is close gets most of it. The default takes part in every round, so whatever
//! was measured an hour apart can be compared through it. In the end the best of all steps, the
//! runner-up and the default meet once more, and only what they do then decides: who was picked for
//! having been lucky must show it again.
//!
//! *Invariants*: no round begins that the time left is too short for; a setting that failed leaves
//! at once, but for the default; each round begins with another setting, so that no one always
//! follows the same.
//!
//! *Not here*: how a setting is measured; that is handed in, like the clock.

use crate::cli::failure::Failure;
use crate::cli::tune::book::Book;
use crate::cli::tune::goal::Trial;
use crate::cli::tune::setting::{Setting, Step};
use crate::daemon::host::Cores;
use std::time::Duration;

/// The share of the time left that each step may take; the last meeting gets the rest.
const SHARES: [f64; 3] = [0.35, 0.35, 0.35];
/// The rounds after which a step may end.
const ROUNDS_LEAST: usize = 3;
/// The rounds after which more would not change anything.
const ROUNDS_MOST: usize = 9;

/// What a race needs from outside.
pub(super) trait Track {
    /// Measures a setting once; what went wrong with the setting is in words.
    fn measure(&mut self, setting: &Setting) -> Result<Result<Trial, String>, Failure>;
    /// The time since the start.
    fn elapsed(&self) -> Duration;
    /// Tells how far it is.
    fn tell(&mut self, text: String) -> Result<(), Failure>;
}

/// How many settings a race may have at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// The cores the daemon may use.
    pub(super) cores: Cores,
    /// The most shards that are tried.
    pub(super) shards_max: u16,
    /// The time all of it may take.
    pub(super) budget: Duration,
}

/// What came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// The setting that is chosen.
    pub(super) chosen: usize,
    /// The one with the best median, which need not be simpler.
    pub(super) best: usize,
}

/// Runs the whole race into a book.
pub(super) fn run(
    book: &mut Book,
    track: &mut dyn Track,
    bounds: &Bounds,
) -> Result<Outcome, Failure> {
    let mut incumbent = 0;
    for (step, share) in Step::ALL.into_iter().zip(SHARES) {
        let settings =
            step.candidates(book.entries[incumbent].setting, bounds.cores, bounds.shards_max);
        let places: Vec<usize> = settings.into_iter().map(|setting| book.entry(setting)).collect();
        let now = track.elapsed();
        let until = now + bounds.budget.saturating_sub(now).mul_f64(share);
        track.tell(format!("{}: {} settings", step.about(), places.len()))?;
        let mut survivors = narrow(book, track, places, until)?;
        if !survivors.contains(&0) {
            survivors.push(0);
        }
        incumbent = book.favourite(&survivors).ok_or_else(|| nothing_works(book))?;
        let label = book.entries[incumbent].setting.label(book.default());
        track.tell(format!("{}: {label}", step.about()))?;
    }
    let all: Vec<usize> = (0..book.entries.len()).collect();
    let mut finalists = vec![0, incumbent];
    finalists.extend(book.ranked(&all).into_iter().find(|place| !finalists.contains(place)));
    finalists.dedup();
    track.tell("the last meeting: the default, the chosen and the runner-up".to_owned())?;
    book.from = book.rounds;
    while last_round_fits(book, track, &finalists, bounds.budget) {
        round(book, track, &finalists)?;
    }
    // Without time for a last meeting there is nothing to choose by, and the default stays.
    let chosen = book.choose(&finalists).ok_or_else(|| nothing_works(book))?;
    let best = book.ranked(&finalists).first().copied().unwrap_or(chosen);
    Ok(Outcome { chosen, best })
}

fn nothing_works(book: &Book) -> Failure {
    let why = book.entries.iter().find_map(|entry| entry.failure.as_deref());
    Failure::Refused(format!("no setting can be measured: {}", why.unwrap_or("there was no time")))
}

/// Rounds in rungs; after each the worse half leaves. Gives those that stayed.
fn narrow(
    book: &mut Book,
    track: &mut dyn Track,
    mut alive: Vec<usize>,
    until: Duration,
) -> Result<Vec<usize>, Failure> {
    let began = book.rounds;
    let mut rung = 1;
    loop {
        for _ in 0..rung {
            if book.rounds > began && !fits(book, track, &alive, until) {
                return Ok(alive);
            }
            round(book, track, &alive)?;
        }
        let ranked = book.ranked(&alive);
        let rounds = book.rounds - began;
        if rounds >= ROUNDS_MOST || rounds >= ROUNDS_LEAST && is_decided(book, &ranked) {
            return Ok(ranked);
        }
        let keep = ranked.len().div_ceil(2).max(2);
        alive = ranked.into_iter().take(keep).collect();
        rung += 1;
    }
}

/// Whether of those that are left one is better than the other beyond doubt.
fn is_decided(book: &Book, ranked: &[usize]) -> bool {
    match ranked {
        [best, second] => book.compare(*best, *second).is_some_and(|it| it.is_better()),
        _ => ranked.len() < 2,
    }
}

/// Whether another round of these and the default ends in time, as rounds went so far.
fn fits(book: &Book, track: &dyn Track, alive: &[usize], until: Duration) -> bool {
    let trials: usize = book.entries.iter().map(|entry| entry.trials.len()).sum();
    let each = track.elapsed() / u32::try_from(trials.max(1)).unwrap_or(u32::MAX);
    let count = alive.len() + usize::from(!alive.contains(&0));
    track.elapsed() + each * u32::try_from(count).unwrap_or(u32::MAX) <= until
}

fn last_round_fits(book: &Book, track: &dyn Track, finalists: &[usize], until: Duration) -> bool {
    let met = finalists
        .iter()
        .filter(|&&place| book.entries[place].failure.is_none())
        .filter_map(|&place| book.compare(place, 0))
        .map(|comparison| comparison.rounds)
        .min()
        .unwrap_or(0);
    met < 2 * ROUNDS_MOST && fits(book, track, finalists, until)
}

/// One round: each of them and the default once.
fn round(book: &mut Book, track: &mut dyn Track, alive: &[usize]) -> Result<(), Failure> {
    let mut order: Vec<usize> = alive.to_vec();
    if !order.contains(&0) {
        order.push(0);
    }
    order.retain(|&place| book.entries[place].failure.is_none());
    order.sort_unstable();
    let start = book.rounds % order.len().max(1);
    order.rotate_left(start);
    let number = book.rounds;
    book.rounds += 1;
    for place in order {
        let setting = book.entries[place].setting;
        match track.measure(&setting)? {
            Ok(trial) => book.entries[place].trials.push((number, trial)),
            // Without the default nothing can be compared: a round of it may fail, but not the first.
            Err(_) if place == 0 && !book.entries[0].trials.is_empty() => {}
            Err(why) if place == 0 => {
                return Err(Failure::Refused(format!("the default can't be measured: {why}")));
            }
            Err(why) => book.entries[place].failure = Some(why),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tune::goal::{Figures, Goal};
    use crate::daemon::config::Pin;

    /// A machine on which a formula says how fast a setting is, with noise and drift.
    struct Machine {
        rate: fn(&Setting) -> f64,
        noise: f64,
        rng: fastrand::Rng,
        trials: u32,
        broken: Option<u16>,
    }

    impl Machine {
        fn new(rate: fn(&Setting) -> f64, noise: f64) -> Machine {
            Machine { rate, noise, rng: fastrand::Rng::with_seed(7), trials: 0, broken: None }
        }

        fn race(&mut self, budget_s: u64) -> (Book, Outcome) {
            let cores = Cores { affinity: 8, quota: None };
            let mut book = Book::new(Goal::Throughput, Setting::default_on(cores));
            let bounds = Bounds { cores, shards_max: 8, budget: Duration::from_secs(budget_s) };
            let result = run(&mut book, self, &bounds).unwrap();
            (book, result)
        }
    }

    impl Track for Machine {
        fn measure(&mut self, setting: &Setting) -> Result<Result<Trial, String>, Failure> {
            self.trials += 1;
            if self.broken == Some(setting.shards) {
                return Ok(Err("lost messages".to_owned()));
            }
            let drift = 1.0 + f64::from(self.trials % 50) / 100.0;
            let noise = 1.0 + self.noise * (self.rng.f64() - 0.5);
            let rate = Some((self.rate)(setting) * drift * noise);
            let limit = Some(Figures { rate, ..Figures::default() });
            Ok(Ok(Trial { limit, steady: None }))
        }

        fn elapsed(&self) -> Duration {
            Duration::from_secs(2) * self.trials
        }

        fn tell(&mut self, _: String) -> Result<(), Failure> {
            Ok(())
        }
    }

    #[test]
    fn the_best_is_found_through_noise_and_drift() {
        // Four shards, not pinned, with a short spin are best by far.
        let rate = |setting: &Setting| {
            let shards = 1.0 / (1.0 + (f64::from(setting.shards) - 4.0).abs());
            let pin = if setting.pin == Pin::Off { 1.2 } else { 1.0 };
            let spin = if setting.turn.busy_poll_us == 20 { 1.3 } else { 1.0 };
            1e6 * shards * pin * spin
        };
        let mut machine = Machine::new(rate, 0.05);
        let (book, result) = machine.race(600);
        let chosen = book.entries[result.chosen].setting;
        assert_eq!((chosen.shards, chosen.pin, chosen.turn.busy_poll_us), (4, Pin::Off, 20));
        assert_eq!(chosen.turn.lane_budget, 1_024, "batches made no difference");
        assert!(machine.elapsed() <= Duration::from_secs(610), "{:?}", machine.elapsed());
    }

    #[test]
    fn where_nothing_makes_a_difference_the_default_is_kept() {
        let is_kept = |seed: &u64| {
            let mut machine = Machine::new(|_| 1e6, 0.1);
            machine.rng = fastrand::Rng::with_seed(*seed);
            machine.race(600).1.chosen == 0
        };
        let kept = (0..100).filter(is_kept).count();
        assert!(kept >= 97, "{kept} of 100");
    }

    #[test]
    fn what_is_bad_costs_less_time_than_what_is_good() {
        let mut machine = Machine::new(|setting| f64::from(setting.shards), 0.01);
        let (book, _) = machine.race(900);
        let trials = |shards| {
            let of = book.entries.iter().filter(|entry| entry.setting.shards == shards);
            of.map(|entry| entry.trials.len()).max().unwrap()
        };
        assert!(trials(1) < trials(8) / 2, "{} {}", trials(1), trials(8));
    }

    #[test]
    fn a_setting_that_fails_is_left_out() {
        let mut machine = Machine::new(|setting| 100.0 - f64::from(setting.shards), 0.0);
        machine.broken = Some(1);
        let (book, result) = machine.race(600);
        assert_eq!(book.entries[result.chosen].setting.shards, 2);
        let failed = book.entries.iter().find(|entry| entry.setting.shards == 1).unwrap();
        assert!(failed.trials.is_empty() && failed.failure.is_some());
    }
}
