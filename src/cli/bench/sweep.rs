//! Which rates are tried to find the knee: the highest that a server bears.
//!
//! First a grid from low to high, until two rates in a row were not borne; then a few halvings
//! between the highest that was and the lowest above it that was not.
//!
//! *Invariant*: a rate is tried at most once, and the tries are bounded.

use crate::cli::bench::args::{RATE_MAX, RATE_MIN, rate};
use crate::cli::bench::figures::{Figure, grouped, written};
use crate::cli::bench::report::Round;

/// The rates in a row that must fail before higher ones are not tried.
const FAILURES_MAX: usize = 2;
/// The halvings at the end.
const HALVINGS: usize = 3;
/// A server that makes less than this of what was asked for does not bear it.
const RATE_SHARE_MIN: f64 = 0.97;

/// What was typed.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Rates {
    /// From and to.
    Range(f64, f64),
    /// One after the other.
    List(Vec<f64>),
}

/// Reads `FROM..TO` or a list.
pub(super) fn rates(text: &str) -> Result<Rates, String> {
    if let Some((from, to)) = text.split_once("..") {
        let (from, to) = (rate(from)?, rate(to)?);
        return match from < to {
            true => Ok(Rates::Range(from, to)),
            false => Err("the first rate must be lower than the last".into()),
        };
    }
    let list: Vec<f64> = text.split(',').map(rate).collect::<Result<_, _>>()?;
    match list.is_sorted_by(|one, next| one < next) {
        true => Ok(Rates::List(list)),
        false => Err("the rates must rise".into()),
    }
}

impl Rates {
    /// Each rate of the grid.
    pub(super) fn grid(&self, steps: u32) -> Vec<f64> {
        match self {
            Rates::List(list) => list.clone(),
            Rates::Range(from, to) => (0..steps)
                .map(|step| from * (to / from).powf(f64::from(step) / f64::from(steps - 1)))
                .map(|rate| rate.round().clamp(RATE_MIN, RATE_MAX))
                .collect(),
        }
    }
}

/// One server's search.
#[derive(Debug)]
pub(super) struct Search {
    grid: std::vec::IntoIter<f64>,
    /// Each rate that was tried, and whether it was borne.
    tried: Vec<(f64, bool)>,
    halvings: usize,
}

impl Search {
    /// Over this grid.
    pub(super) fn new(grid: Vec<f64>) -> Search {
        Search { grid: grid.into_iter(), tried: Vec::new(), halvings: HALVINGS }
    }

    /// The next rate to try.
    pub(super) fn next(&mut self) -> Option<f64> {
        let failures = self.tried.iter().rev().take_while(|(_, is_borne)| !is_borne).count();
        let is_on_grid = self.halvings == HALVINGS && failures < FAILURES_MAX;
        if let Some(rate) = is_on_grid.then(|| self.grid.next()).flatten() {
            return Some(rate);
        }
        let (low, high) = (self.knee()?, self.lowest_failed_above_it()?);
        self.halvings = self.halvings.checked_sub(1)?;
        Some(((low + high) / 2.0).round())
    }

    /// What became of it.
    pub(super) fn note(&mut self, rate: f64, is_borne: bool) {
        self.tried.push((rate, is_borne));
    }

    /// The highest rate that was borne. A lower one that was not says what else the machine did then:
    /// who bears more for a whole round bears less, too.
    pub(super) fn knee(&self) -> Option<f64> {
        let borne = self.tried.iter().filter(|(_, is_borne)| *is_borne);
        borne.map(|&(rate, _)| rate).reduce(f64::max)
    }

    /// Whether nothing says yet that the knee is not higher.
    pub(super) fn is_open_above(&self) -> bool {
        self.lowest_failed_above_it().is_none()
    }

    /// The lowest rate above the knee that was not borne.
    fn lowest_failed_above_it(&self) -> Option<f64> {
        let knee = self.knee().unwrap_or(0.0);
        let failed = self.tried.iter().filter(|&&(rate, is_borne)| !is_borne && rate > knee);
        failed.map(|&(rate, _)| rate).reduce(f64::min)
    }
}

/// Why a server did not bear a rate, if it did not.
pub(super) fn failure(round: &Round, asked: f64, p99_max_ns: f64) -> Option<String> {
    let got = round.figures.get(Figure::Rate).unwrap_or(0.0);
    let p99 = round.figures.get(Figure::P99).unwrap_or(f64::INFINITY);
    let why = if let Some(trouble) = &round.trouble {
        trouble.clone()
    } else if !round.is_clean() {
        "messages were lost, doubled, reordered or wrong".into()
    } else if got < asked * RATE_SHARE_MIN {
        format!("it made {} deliveries a second", grouped(got))
    } else if p99 >= p99_max_ns {
        format!("p99 is {}", written(p99, Figure::P99.unit()))
    } else {
        return None;
    };
    Some(match &round.generator_limit {
        Some(_) => format!("{why}, and the generator was at its own limit"),
        None => why,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read() {
        assert_eq!(rates("10k..80k"), Ok(Rates::Range(10e3, 80e3)));
        assert_eq!(rates("1,2_000,3M"), Ok(Rates::List(vec![1.0, 2e3, 3e6])));
        let grid = rates("10k..80k").unwrap().grid(4);
        assert_eq!(grid, [10e3, 20e3, 40e3, 80e3]);
        for bad in ["", "2..1", "5..5", "3,2", "0..5", "a..b", "1..1e99"] {
            assert!(rates(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_knee_is_found_for_any_server() {
        for limit in [0.0, 500.0, 1_000.0, 1_500.0, 3_333.0, 1e9] {
            let mut search = Search::new(rates("1000..8000").unwrap().grid(4));
            let mut tries = 0;
            while let Some(rate) = search.next() {
                assert!(search.tried.iter().all(|&(tried, _)| tried != rate), "{rate} again");
                search.note(rate, rate <= limit);
                tries += 1;
            }
            assert!(tries <= 4 + HALVINGS);
            assert_eq!(search.is_open_above(), limit >= 8_000.0, "{limit}");
            match search.knee() {
                None => assert!(limit < 1_000.0),
                Some(knee) => {
                    assert!(knee <= limit && (knee == 8_000.0 || knee > limit * 0.85), "{limit}");
                }
            }
        }
    }

    #[test]
    fn a_rate_that_the_machine_hindered_is_no_limit() {
        let mut search = Search::new(vec![100.0, 200.0, 400.0, 800.0, 1_600.0]);
        let mut tried = Vec::new();
        while let Some(rate) = search.next() {
            search.note(rate, rate <= 500.0 && rate != 100.0);
            tried.push(rate);
        }
        assert_eq!(tried, [100.0, 200.0, 400.0, 800.0, 1_600.0, 600.0, 500.0, 550.0]);
        assert_eq!(search.knee(), Some(500.0));
    }
}
