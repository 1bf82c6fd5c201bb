//! The report for a person: the first lines say how it was measured, then the numbers side by side.

use crate::cli::bench::plan::Load;
use crate::cli::bench::report::{Figures, Report, Round, Side};

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

/// The figures of the table, with what they are called and how they are written.
pub(super) const ROWS: [(&str, &str, Unit); 14] = [
    ("rate", "deliveries a second", Unit::Count),
    ("p50", "latency p50", Unit::Time),
    ("p90", "latency p90", Unit::Time),
    ("p99", "latency p99", Unit::Time),
    ("p999", "latency p99.9", Unit::Time),
    ("max", "latency max", Unit::Time),
    ("cpu", "server CPU a delivery", Unit::Nanoseconds),
    ("cores", "server cores used", Unit::Ratio),
    ("wait", "server waited for a core", Unit::Share),
    ("calls", "system calls a delivery", Unit::Ratio),
    ("memory", "server memory", Unit::Bytes),
    ("connects", "connections a second", Unit::Count),
    ("client-busy", "busiest client thread", Unit::Share),
    ("late", "sent late, p99", Unit::Time),
];

/// Writes a number.
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

/// What is said before anything is measured.
pub(super) fn opening(report: &Report) -> Vec<String> {
    let plan = &report.plan;
    let how = match plan.load {
        Load::None => "no messages are sent".to_owned(),
        Load::Open { messages_per_s, .. } => format!(
            "open model: {} messages a second on schedule; latency counts from when a message was due, \
             so a slow server is not spared (coordinated omission corrected)",
            grouped(messages_per_s)
        ),
        Load::Closed { .. } => {
            "closed model: a message is sent when an earlier one has reached all its receivers; \
             latency counts from when it was sent, and is that of a server at its limit"
                .to_owned()
        }
    };
    vec![
        plan.sentence(),
        how,
        format!(
            "{} round(s) of {} s after {} s of warming up, {} client thread(s)",
            plan.rounds, plan.duration_s, plan.warmup_s, plan.client_threads
        ),
    ]
}

/// The table, and what must be said beside it.
pub(super) fn closing(report: &Report) -> Vec<String> {
    let mut lines = table(&report.sides);
    lines.push(String::new());
    for side in &report.sides {
        lines.push(verdict(side));
    }
    lines.extend(relative(report));
    for side in &report.sides {
        for (number, round) in side.rounds.iter().enumerate() {
            lines.extend(remarks(side, number, round));
        }
    }
    lines
}

fn table(sides: &[Side]) -> Vec<String> {
    let mut rows = vec![vec![String::new()]];
    for side in sides {
        rows[0].push(side.name.clone());
        if side.rounds.len() > 1 {
            rows[0].push("(least to most)".into());
        }
    }
    for (place, (_, name, unit)) in ROWS.iter().enumerate() {
        let of = |figures: &Figures| figures.fields()[place].1;
        if sides.iter().all(|side| of(&side.median).is_none()) {
            continue;
        }
        let mut row = vec![(*name).to_owned()];
        for side in sides {
            row.push(of(&side.median).map_or("-".into(), |value| written(value, *unit)));
            if side.rounds.len() > 1 {
                row.push(spread(side, of, *unit));
            }
        }
        rows.push(row);
    }
    aligned(&rows)
}

fn spread(side: &Side, of: impl Fn(&Figures) -> Option<f64>, unit: Unit) -> String {
    let values = || side.rounds.iter().filter_map(|round| of(&round.figures));
    match (values().reduce(f64::min), values().reduce(f64::max)) {
        (Some(least), Some(most)) => {
            format!("({} to {})", written(least, unit), written(most, unit))
        }
        _ => String::new(),
    }
}

/// Columns of equal width, the first to the left and the others to the right.
pub(super) fn aligned(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().enumerate().map(|(column, cell)| match column {
            0 => format!("{cell:<width$}", width = widths[0]),
            _ => format!("{cell:>width$}", width = widths[column]),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

fn verdict(side: &Side) -> String {
    let (mut delivered, mut checks) = (0, crate::cli::bench::ledger::Checks::default());
    for round in &side.rounds {
        delivered += round.delivered;
        checks.add(&round.checks);
    }
    format!(
        "{}: {} deliveries checked; {} lost, {} doubled, {} reordered, {} wrong",
        side.name,
        grouped(delivered as f64),
        checks.lost,
        checks.doubled,
        checks.reordered,
        checks.wrong
    )
}

/// How far the first side is from the measuring stick.
fn relative(report: &Report) -> Option<String> {
    let [bus, relay, ..] = report.sides.as_slice() else {
        return None;
    };
    let ratio = |of: fn(&Figures) -> Option<f64>| {
        of(&bus.median).zip(of(&relay.median)).map(|(ours, theirs)| ours / theirs)
    };
    let parts: Vec<String> = [
        ("CPU a delivery", ratio(|figures| figures.cpu_ns)),
        ("system calls", ratio(|figures| figures.calls)),
        ("p50", ratio(|figures| figures.p50_ns)),
        ("p99", ratio(|figures| figures.p99_ns)),
        ("rate", ratio(|figures| figures.rate)),
    ]
    .into_iter()
    .filter_map(|(name, ratio)| Some(format!("{name} {:.2}x", ratio?)))
    .collect();
    Some(format!("{} against {} (medians): {}", bus.name, relay.name, parts.join(", ")))
}

fn remarks(side: &Side, number: usize, round: &Round) -> Vec<String> {
    let name = format!("{}, round {}", side.name, number + 1);
    let mut lines = Vec::new();
    if let Some(why) = &round.generator_limit {
        lines.push(format!("{name}: the generator set the pace: {why}"));
    }
    if round.gaps > 0 {
        lines.push(format!("{name}: the bus told of {} gaps", round.gaps));
    }
    if let Some(wrong) = &round.first_wrong {
        lines.push(format!("{name}: a wrong message: {wrong}"));
    }
    if let Some(trouble) = &round.trouble {
        lines.push(format!("{name}: ended early: {trouble}"));
    }
    lines
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
        let fields = Figures::default().fields();
        assert!(fields.iter().zip(ROWS).all(|(field, row)| field.0 == row.0));
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["a".into(), "12".into()], vec!["long".into(), "µ".into()]];
        assert_eq!(aligned(&rows), ["a     12", "long   µ"]);
    }
}
