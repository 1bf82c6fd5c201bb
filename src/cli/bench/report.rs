//! What is told in the end, and kept: the plan, every round, and the medians over the rounds.
//!
//! A report can be read back, also one of an older version of this program as long as the format is
//! the same: what it lacks is absent.

use crate::cli::bench::counters::Calls;
use crate::cli::bench::figures::{Figure, Figures, grouped};
use crate::cli::bench::ledger::Checks;
use crate::cli::bench::plan::Plan;
use crate::cli::bench::timeline::{Latencies, Moment};
use crate::cli::failure::Failure;
use crate::cli::machine::Facts;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The version of the format.
pub(super) const FORMAT: u32 = 1;

/// Everything.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Report {
    /// The version of the format.
    pub(super) format: u32,
    /// The version of the program.
    pub(super) version: String,
    /// When it began, in UTC.
    pub(super) at: String,
    /// Whether it ended before it was done.
    pub(super) is_partial: bool,
    /// What went wrong, in words.
    pub(super) troubles: Vec<String>,
    /// What was done.
    pub(super) plan: Plan,
    /// The bus, and the measuring stick if there was one.
    pub(super) sides: Vec<Side>,
    /// The machine that the clients, and usually the server, ran on.
    #[serde(default)]
    pub(super) host: Facts,
}

/// A server that was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Side {
    /// What it is.
    pub(super) name: String,
    /// Its rounds; in a sweep, its steps.
    pub(super) rounds: Vec<Round>,
    /// The medians over them; in a sweep, the step at the knee.
    pub(super) median: Figures,
    /// The highest rate that it bore, if rates were swept and it bore one.
    #[serde(default)]
    pub(super) knee: Option<f64>,
    /// Whether the knee may be higher: every rate above it was borne or was not tried, or the sweep
    /// ended early.
    #[serde(default)]
    pub(super) is_at_least: bool,
}

/// How well a ratio is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bound {
    /// It is so.
    Exact,
    /// It is so or larger.
    AtLeast,
    /// It is so or smaller.
    AtMost,
}

/// One round.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Round {
    /// Seconds that were measured.
    pub(super) seconds: f64,
    /// Messages sent, warming up included.
    pub(super) sent: u64,
    /// Deliveries that came, warming up included.
    pub(super) delivered: u64,
    /// What was wrong with them.
    pub(super) checks: Checks,
    /// The first text that was wrong, and why.
    pub(super) first_wrong: Option<String>,
    /// Messages that the bus said it left out for somebody.
    pub(super) gaps: u64,
    /// How the round went.
    pub(super) figures: Figures,
    /// Latencies at many percentiles: how many in 1 are faster, and nanoseconds.
    pub(super) percentiles: Vec<(f64, u64)>,
    /// The measured time in pieces.
    pub(super) moments: Vec<Moment>,
    /// The server's system calls while measured.
    pub(super) calls: Option<Calls>,
    /// Why the generator, and not the server, set the pace, if it did.
    pub(super) generator_limit: Option<String>,
    /// What ended the round early.
    pub(super) trouble: Option<String>,
    /// In a sweep, the rate that was tried.
    #[serde(default)]
    pub(super) step: Option<Step>,
    /// What else the scenario found, in words.
    #[serde(default)]
    pub(super) notes: Vec<String>,
    /// What the scenario found to be against the protocol, in words.
    #[serde(default)]
    pub(super) violations: Vec<String>,
    /// How long the other requests of a mixed load took.
    #[serde(default)]
    pub(super) chores: Vec<Chore>,
}

/// One step of a sweep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Step {
    /// The rate that was tried, in deliveries a second.
    pub(super) rate: f64,
    /// Why the server did not bear it, if it did not.
    pub(super) failed: Option<String>,
}

/// One kind of request.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Chore {
    /// What.
    pub(super) name: String,
    /// How many were answered while measured.
    pub(super) count: u64,
    /// How long the answer took.
    pub(super) figures: Figures,
}

impl Round {
    /// Whether every message came once and in order, and nothing else was against the protocol.
    pub(super) fn is_clean(&self) -> bool {
        self.checks.is_clean() && self.violations.is_empty()
    }

    /// Lets the checks be seen as figures, too.
    pub(super) fn count_checks(&mut self) {
        let Checks { lost, doubled, reordered, wrong } = self.checks;
        for (figure, count) in [
            (Figure::Lost, lost),
            (Figure::Doubled, doubled),
            (Figure::Reordered, reordered),
            (Figure::Wrong, wrong),
        ] {
            self.figures.set(figure, count as f64);
        }
    }
}

impl Side {
    /// Nothing measured yet.
    pub(super) fn new(name: &str) -> Side {
        let (rounds, median) = (Vec::new(), Figures::default());
        Side { name: name.into(), rounds, median, knee: None, is_at_least: false }
    }

    /// Takes the medians of the rounds.
    pub(super) fn settle(&mut self) {
        if self.knee.is_none() {
            self.median = Figures::median(self.rounds.iter().map(|round| &round.figures));
        }
    }

    /// The knee in words.
    pub(super) fn knee_words(&self) -> Option<String> {
        let at_least = if self.is_at_least { "at least " } else { "" };
        self.knee.map(|knee| format!("{at_least}{}", grouped(knee)))
    }

    /// How far the knee is from another's, as far as that can be said.
    pub(super) fn knee_against(&self, other: &Side) -> Option<(Bound, f64)> {
        let bound = match (self.is_at_least, other.is_at_least) {
            (false, false) => Bound::Exact,
            (true, false) => Bound::AtLeast,
            (false, true) => Bound::AtMost,
            (true, true) => return None,
        };
        Some((bound, self.knee? / other.knee?))
    }
}

impl Bound {
    /// What is said before the number.
    pub(super) fn words(self) -> &'static str {
        match self {
            Bound::Exact => "",
            Bound::AtLeast => "at least ",
            Bound::AtMost => "at most ",
        }
    }
}

impl Report {
    /// Whether nothing was lost, doubled, reordered or wrong. A sweep goes on until its server does
    /// not bear the rate; what is lost there says where the knee is.
    pub(super) fn is_clean(&self) -> bool {
        let mut rounds = self.sides.iter().flat_map(|side| &side.rounds);
        rounds.all(|round| round.step.is_some() || round.is_clean())
    }

    /// Reads a report that was written as JSON.
    pub(super) fn load(path: &Path) -> Result<Report, Failure> {
        let wrong = |why: String| Failure::Usage(format!("{}: {why}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let report: Report = serde_json::from_str(&text)
            .map_err(|error| wrong(format!("it is no report of a bench: {error}")))?;
        match report.format {
            FORMAT => Ok(report),
            other => Err(wrong(format!("its format is {other}, and this program reads {FORMAT}"))),
        }
    }

    /// As JSON.
    pub(super) fn to_json(&self) -> Result<String, Failure> {
        let written = serde_json::to_string_pretty(self);
        written.map(|text| text + "\n").map_err(|error| {
            Failure::Refused(format!("the report can't be written as JSON: {error}"))
        })
    }
}

/// A histogram as points for a curve: each step halves the rest that is slower.
pub(super) fn percentiles(latencies: &Latencies) -> Vec<(f64, u64)> {
    latencies
        .iter_quantiles(4)
        .map(|point| (point.quantile_iterated_to(), point.value_iterated_to()))
        .collect()
}
