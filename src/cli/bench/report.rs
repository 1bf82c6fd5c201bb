//! What is told in the end, and kept: the plan, every round, and the medians over the rounds.
//!
//! *Invariant*: a number that could not be had is absent, and never 0.

use crate::cli::bench::counters::Calls;
use crate::cli::bench::ledger::Checks;
use crate::cli::bench::plan::Plan;
use crate::cli::bench::timeline::{Latencies, Moment};
use serde::{Deserialize, Serialize};

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
}

/// A server that was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Side {
    /// What it is.
    pub(super) name: String,
    /// Its rounds.
    pub(super) rounds: Vec<Round>,
    /// The medians over them.
    pub(super) median: Figures,
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
}

/// The numbers that are compared.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Figures {
    /// Deliveries a second.
    pub(super) rate: Option<f64>,
    /// Latency percentiles in nanoseconds.
    pub(super) p50_ns: Option<f64>,
    /// The 90th.
    pub(super) p90_ns: Option<f64>,
    /// The 99th.
    pub(super) p99_ns: Option<f64>,
    /// The 99.9th.
    pub(super) p999_ns: Option<f64>,
    /// The longest.
    pub(super) max_ns: Option<f64>,
    /// The server's time on the processors for each delivery, in nanoseconds.
    pub(super) cpu_ns: Option<f64>,
    /// Processors the server used.
    pub(super) cpu_cores: Option<f64>,
    /// The share of the time that the server was ready and had no processor.
    pub(super) cpu_wait: Option<f64>,
    /// The server's system calls for each delivery.
    pub(super) calls: Option<f64>,
    /// The server's memory in bytes.
    pub(super) memory: Option<f64>,
    /// Connections opened a second.
    pub(super) connects: Option<f64>,
    /// The share of the time that the busiest client core worked.
    pub(super) client_busy: Option<f64>,
    /// How late messages left, the 99th percentile, in nanoseconds.
    pub(super) late_p99_ns: Option<f64>,
}

impl Figures {
    /// Every figure with its name.
    pub(super) fn fields(&self) -> [(&'static str, Option<f64>); 14] {
        [
            ("rate", self.rate),
            ("p50", self.p50_ns),
            ("p90", self.p90_ns),
            ("p99", self.p99_ns),
            ("p999", self.p999_ns),
            ("max", self.max_ns),
            ("cpu", self.cpu_ns),
            ("cores", self.cpu_cores),
            ("wait", self.cpu_wait),
            ("calls", self.calls),
            ("memory", self.memory),
            ("connects", self.connects),
            ("client-busy", self.client_busy),
            ("late", self.late_p99_ns),
        ]
    }

    /// The median of each figure over those rounds that have it.
    pub(super) fn median(rounds: &[Round]) -> Figures {
        let of = |figure: fn(&Figures) -> Option<f64>| {
            median(rounds.iter().filter_map(|round| figure(&round.figures)).collect())
        };
        Figures {
            rate: of(|figures| figures.rate),
            p50_ns: of(|figures| figures.p50_ns),
            p90_ns: of(|figures| figures.p90_ns),
            p99_ns: of(|figures| figures.p99_ns),
            p999_ns: of(|figures| figures.p999_ns),
            max_ns: of(|figures| figures.max_ns),
            cpu_ns: of(|figures| figures.cpu_ns),
            cpu_cores: of(|figures| figures.cpu_cores),
            cpu_wait: of(|figures| figures.cpu_wait),
            calls: of(|figures| figures.calls),
            memory: of(|figures| figures.memory),
            connects: of(|figures| figures.connects),
            client_busy: of(|figures| figures.client_busy),
            late_p99_ns: of(|figures| figures.late_p99_ns),
        }
    }

    /// Takes the latencies of a histogram.
    pub(super) fn set_latencies(&mut self, latencies: &Latencies) {
        if latencies.is_empty() {
            return;
        }
        let at = |quantile| Some(latencies.value_at_quantile(quantile) as f64);
        self.p50_ns = at(0.5);
        self.p90_ns = at(0.9);
        self.p99_ns = at(0.99);
        self.p999_ns = at(0.999);
        self.max_ns = Some(latencies.max() as f64);
    }
}

impl Report {
    /// Whether a message was lost, doubled, reordered or wrong.
    pub(super) fn is_clean(&self) -> bool {
        self.sides.iter().flat_map(|side| &side.rounds).all(|round| round.checks.is_clean())
    }
}

/// The value in the middle.
pub(super) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

/// A histogram as points for a curve: each step halves the rest that is slower.
pub(super) fn percentiles(latencies: &Latencies) -> Vec<(f64, u64)> {
    latencies
        .iter_quantiles(4)
        .map(|point| (point.quantile_iterated_to(), point.value_iterated_to()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_leave_out_what_is_absent() {
        for (values, expected) in [
            (vec![], None),
            (vec![3.0], Some(3.0)),
            (vec![3.0, 1.0], Some(2.0)),
            (vec![9.0, 1.0, 4.0], Some(4.0)),
        ] {
            assert_eq!(median(values), expected);
        }
        let round =
            |rate| Round { figures: Figures { rate, ..Figures::default() }, ..Round::default() };
        let rounds = [round(Some(1.0)), round(None), round(Some(3.0))];
        assert_eq!(Figures::median(&rounds).rate, Some(2.0));
        assert_eq!(Figures::median(&rounds).cpu_ns, None);
    }
}
