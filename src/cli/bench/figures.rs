//! The numbers that are shown, compared and judged, in one table: each with the id by which
//! thresholds and files know it, what it is called, how it is written, and which way is better.

use crate::cli::bench::timeline::Latencies;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;

/// How a figure is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// So many.
    Count,
    /// Nanoseconds, in the unit that suits.
    Time,
    /// Nanoseconds as they are.
    Nanoseconds,
    /// Bytes.
    Bytes,
    /// A share of 1.
    Share,
    /// A small number.
    Ratio,
}

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Better {
    /// More of it.
    More,
    /// Less of it.
    Less,
    /// It says how it was measured, and not how good it is.
    Neither,
}

macro_rules! figures {
    ($($(#[$doc:meta])* $figure:ident = $id:literal $name:literal $unit:ident $better:ident,)+) => {
        /// A number.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Figure { $($(#[$doc])* $figure,)+ }

        impl Figure {
            /// All of them, in the order in which they are shown.
            pub(super) const ALL: &'static [Figure] = &[$(Figure::$figure,)+];

            /// What files and thresholds call it.
            pub(super) fn id(self) -> &'static str {
                match self { $(Figure::$figure => $id,)+ }
            }

            /// What people call it.
            pub(super) fn name(self) -> &'static str {
                match self { $(Figure::$figure => $name,)+ }
            }

            /// How it is written.
            pub(super) fn unit(self) -> Unit {
                match self { $(Figure::$figure => Unit::$unit,)+ }
            }

            /// Which way is better.
            pub(super) fn better(self) -> Better {
                match self { $(Figure::$figure => Better::$better,)+ }
            }
        }
    };
}

figures! {
    /// Deliveries a second while measured.
    Rate = "rate" "deliveries a second" Count More,
    /// The median latency.
    P50 = "p50" "latency p50" Time Less,
    /// The 90th percentile.
    P90 = "p90" "latency p90" Time Less,
    /// The 99th percentile.
    P99 = "p99" "latency p99" Time Less,
    /// The 99.9th percentile.
    P999 = "p999" "latency p99.9" Time Less,
    /// The longest latency.
    Max = "max" "latency max" Time Less,
    /// The 99th percentile before some stopped reading.
    CalmP99 = "calm-p99" "latency p99, all reading" Time Neither,
    /// The 99th percentile of the others after that.
    SlowP99 = "slow-p99" "latency p99 beside slow ones" Time Less,
    /// From everybody's fall until everybody had everything again.
    Recovery = "recovery" "until all are caught up" Time Less,
    /// From everybody's fall until everybody was connected again.
    Reconnect = "reconnect" "until all are back" Time Less,
    /// The server's time on the processors for each delivery.
    Cpu = "cpu" "server CPU a delivery" Nanoseconds Less,
    /// Processors the server used.
    Cores = "cores" "server cores used" Ratio Neither,
    /// How long its threads were ready and had no processor, for each second.
    Wait = "wait" "server waited for a core" Share Neither,
    /// The server's system calls for each delivery.
    Calls = "calls" "system calls a delivery" Ratio Less,
    /// The server's memory.
    Memory = "memory" "server memory" Bytes Less,
    /// Connections opened a second.
    Connects = "connects" "connections opened a second" Count More,
    /// The server's memory for each idle connection.
    ConnMemory = "conn-memory" "memory a connection" Bytes Less,
    /// The server's time on the processors for each idle connection and second.
    ConnCpu = "conn-cpu" "CPU a connection and second" Nanoseconds Less,
    /// The share of the time that the busiest client thread worked.
    ClientBusy = "client-busy" "busiest client thread" Share Neither,
    /// How long it was ready and had no processor, for each second.
    ClientWait = "client-wait" "it waited for a core" Share Neither,
    /// How late messages left, the 99th percentile.
    Late = "late" "sent late, p99" Time Neither,
    /// Messages that a member never got.
    Lost = "lost" "lost" Count Less,
    /// Messages that a member got again.
    Doubled = "doubled" "doubled" Count Less,
    /// Messages that a member got after a later one.
    Reordered = "reordered" "reordered" Count Less,
    /// Texts that are not what was sent.
    Wrong = "wrong" "wrong" Count Less,
}

/// Those numbers that could be had. One that could not is absent, and never 0.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Figures {
    values: [Option<f64>; Figure::ALL.len()],
}

impl Figures {
    /// A figure, if it could be had.
    pub(super) fn get(&self, figure: Figure) -> Option<f64> {
        self.values[figure as usize]
    }

    /// Sets a figure.
    pub(super) fn set(&mut self, figure: Figure, value: f64) {
        self.values[figure as usize] = Some(value);
    }

    /// Sets a figure, if it could be had.
    pub(super) fn set_if(&mut self, figure: Figure, value: Option<f64>) {
        self.values[figure as usize] = value.or(self.get(figure));
    }

    /// Sets the latencies of a histogram that has any.
    pub(super) fn set_latencies(&mut self, latencies: &Latencies) {
        if latencies.is_empty() {
            return;
        }
        for (figure, quantile) in [
            (Figure::P50, 0.5),
            (Figure::P90, 0.9),
            (Figure::P99, 0.99),
            (Figure::P999, 0.999),
            (Figure::Max, 1.0),
        ] {
            self.set(figure, latencies.value_at_quantile(quantile) as f64);
        }
    }

    /// The median of each figure over those that have it.
    pub(super) fn median<'a>(all: impl Iterator<Item = &'a Figures> + Clone) -> Figures {
        let mut medians = Figures::default();
        for &figure in Figure::ALL {
            let values = all.clone().filter_map(|figures| figures.get(figure)).collect();
            medians.set_if(figure, median(values));
        }
        medians
    }
}

impl Serialize for Figures {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let known = Figure::ALL.iter().filter_map(|&figure| Some((figure.id(), self.get(figure)?)));
        serializer.collect_map(known)
    }
}

impl<'de> Deserialize<'de> for Figures {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Figures, D::Error> {
        // A report of another version may have figures that this one does not know.
        let values = BTreeMap::<String, f64>::deserialize(deserializer)?;
        let mut figures = Figures::default();
        for &figure in Figure::ALL {
            figures.set_if(figure, values.get(figure.id()).copied());
        }
        Ok(figures)
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

/// Writes a number for people.
pub(super) fn written(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Count => grouped(value),
        Unit::Nanoseconds => format!("{} ns", grouped(value)),
        Unit::Time if value < 1e3 => format!("{value:.0} ns"),
        Unit::Time if value < 1e6 => format!("{:.1} µs", value / 1e3),
        Unit::Time if value < 1e9 => format!("{:.2} ms", value / 1e6),
        Unit::Time => format!("{:.2} s", value / 1e9),
        Unit::Bytes if value < 1e4 => format!("{value:.0} B"),
        Unit::Bytes if value < 1e6 => format!("{:.1} kB", value / 1e3),
        Unit::Bytes => format!("{:.1} MB", value / 1e6),
        Unit::Share => format!("{:.1} %", value * 100.0),
        Unit::Ratio => format!("{value:.3}"),
    }
}

/// A whole number with its thousands apart.
pub(super) fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let (sign, digits) = match digits.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", digits.as_str()),
    };
    let mut out = String::from(sign);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        for (value, unit, text) in [
            (0.0, Unit::Count, "0"),
            (999.0, Unit::Count, "999"),
            (1_234_567.4, Unit::Count, "1,234,567"),
            (-1_234.0, Unit::Count, "-1,234"),
            (999.0, Unit::Time, "999 ns"),
            (1_500.0, Unit::Time, "1.5 µs"),
            (2_345_678.0, Unit::Time, "2.35 ms"),
            (3.2e9, Unit::Time, "3.20 s"),
            (9_999.0, Unit::Bytes, "9999 B"),
            (34_000_000.0, Unit::Bytes, "34.0 MB"),
            (0.123, Unit::Share, "12.3 %"),
        ] {
            assert_eq!(written(value, unit), text);
        }
    }

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
        let mut all = [Figures::default(), Figures::default(), Figures::default()];
        all[0].set(Figure::Rate, 1.0);
        all[2].set(Figure::Rate, 3.0);
        let medians = Figures::median(all.iter());
        assert_eq!((medians.get(Figure::Rate), medians.get(Figure::Cpu)), (Some(2.0), None));
    }

    #[test]
    fn ids_are_unique_and_figures_survive_being_written() {
        let mut figures = Figures::default();
        for (number, &figure) in Figure::ALL.iter().enumerate() {
            assert_eq!(Figure::ALL.iter().filter(|other| other.id() == figure.id()).count(), 1);
            if number % 2 == 0 {
                figures.set(figure, number as f64);
            }
        }
        let text = serde_json::to_string(&figures).unwrap();
        assert_eq!(serde_json::from_str::<Figures>(&text).unwrap(), figures);
        assert!(serde_json::from_str::<Figures>(r#"{"unheard-of":1.5}"#).is_ok());
    }
}
