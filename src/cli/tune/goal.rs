//! What is measured of a setting, and what of it counts.

use clap::ValueEnum;
use serde::Deserialize;

/// What a setting shall be best for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Goal {
    /// The geometric mean of p50 and p90 under a third of the load the daemon can bear.
    Latency,
    /// Deliveries a second at most.
    Throughput,
    /// Throughput, latency and CPU time together: the geometric mean of the three.
    Balanced,
}

/// What one round measured: at the most the daemon can bear, and at a steady rate.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Trial {
    /// At the limit, if the goal asks for it.
    pub(super) limit: Option<Figures>,
    /// At the steady rate, if the goal asks for it.
    pub(super) steady: Option<Figures>,
}

/// The figures of a report of `bench` that count here.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Figures {
    /// Deliveries a second.
    pub(super) rate: Option<f64>,
    /// Latency percentiles.
    #[serde(rename = "p50")]
    pub(super) p50_ns: Option<f64>,
    #[serde(rename = "p90")]
    pub(super) p90_ns: Option<f64>,
    #[serde(rename = "p99")]
    pub(super) p99_ns: Option<f64>,
    /// The daemon's CPU time for each delivery.
    #[serde(rename = "cpu")]
    pub(super) cpu_ns: Option<f64>,
}

impl Goal {
    /// Whether the daemon is measured at its limit.
    pub(super) fn needs_limit(self) -> bool {
        self != Goal::Latency
    }

    /// Whether it is measured at a steady rate.
    pub(super) fn needs_steady(self) -> bool {
        self != Goal::Throughput
    }

    /// What it is, for a person.
    pub(super) fn sentence(self) -> &'static str {
        match self {
            Goal::Latency => {
                "latency: the geometric mean of p50 and p90 at a steady rate (p99 is shown, and is \
                 too noisy to choose by)"
            }
            Goal::Throughput => "throughput: deliveries a second at the limit",
            Goal::Balanced => {
                "balanced: the geometric mean of throughput at the limit, latency at a steady rate \
                 (p50 and p90), and CPU time a delivery at that rate"
            }
        }
    }

    /// How good a round was; more is better. Nothing if a figure is missing.
    pub(super) fn score(self, trial: &Trial) -> Option<f64> {
        let speed = || {
            let steady = trial.steady.as_ref()?;
            Some(1e9 / (positive(steady.p50_ns)? * positive(steady.p90_ns)?).sqrt())
        };
        let rate = || positive(trial.limit.as_ref()?.rate);
        match self {
            Goal::Latency => speed(),
            Goal::Throughput => rate(),
            Goal::Balanced => {
                let thrift = 1e9 / positive(trial.steady.as_ref()?.cpu_ns)?;
                Some((rate()? * speed()? * thrift).cbrt())
            }
        }
    }
}

fn positive(value: Option<f64>) -> Option<f64> {
    value.filter(|&value| value > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn better_figures_score_more() {
        let trial = |rate, latency_ns: f64, cpu_ns| Trial {
            limit: Some(Figures { rate: Some(rate), ..Figures::default() }),
            steady: Some(Figures {
                p50_ns: Some(latency_ns),
                p90_ns: Some(latency_ns * 2.0),
                cpu_ns: Some(cpu_ns),
                ..Figures::default()
            }),
        };
        let base = trial(1e6, 1e5, 1e3);
        for (goal, better, same) in [
            (Goal::Throughput, trial(2e6, 9e5, 9e3), trial(1e6, 9e5, 9e3)),
            (Goal::Latency, trial(1.0, 5e4, 9e3), trial(1.0, 1e5, 9e3)),
            (Goal::Balanced, trial(2e6, 1e5, 1e3), trial(2e6, 2e5, 1e3)),
        ] {
            let score = |trial| goal.score(trial).unwrap();
            assert!(score(&better) > score(&base) * 1.2, "{goal:?}");
            assert!((score(&same) / score(&base) - 1.0).abs() < 1e-9, "{goal:?}");
            assert_eq!(goal.score(&Trial::default()), None, "{goal:?}");
        }
    }
}
