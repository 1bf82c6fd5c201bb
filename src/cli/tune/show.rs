//! What was tried, as a table, as bars, and in words.

use crate::cli::tune::book::{Book, Comparison, quantile};
use crate::cli::tune::goal::{Figures, Trial};
use crate::cli::tune::race::Outcome;

/// The widest bar, in characters.
const BAR: f64 = 40.0;

/// A row of the table: a setting, best first.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// What it is.
    pub(super) label: String,
    /// Against the default in all rounds.
    pub(super) comparison: Option<Comparison>,
    /// Its shards and how they are pinned, where nothing else is not the default.
    pub(super) shards: Option<(u16, &'static str)>,
    /// Whether it is the chosen one.
    pub(super) is_chosen: bool,
    /// The cells.
    pub(super) cells: Vec<String>,
}

/// The columns.
pub(super) const COLUMNS: [&str; 9] = [
    "setting",
    "rounds",
    "deliveries/s",
    "lowest-highest",
    "p50",
    "p90",
    "p99",
    "CPU/delivery",
    "score",
];

/// The rows, the best first.
pub(super) fn rows(book: &Book, chosen: Option<usize>) -> Vec<Row> {
    let gain = |place: usize| book.overall(place).map_or(f64::NEG_INFINITY, |it| it.gain);
    let mut places: Vec<usize> = (0..book.entries.len()).collect();
    places.retain(|&place| {
        let entry = &book.entries[place];
        !entry.trials.is_empty() || entry.failure.is_some()
    });
    places.sort_by(|&one, &other| gain(other).total_cmp(&gain(one)));
    places.into_iter().map(|place| row(book, place, chosen == Some(place))).collect()
}

fn row(book: &Book, place: usize, is_chosen: bool) -> Row {
    let entry = &book.entries[place];
    let label = entry.setting.label(book.default());
    let mut label = if place == 0 { format!("{label} (default)") } else { label };
    if is_chosen {
        label += " <- chosen";
    }
    let comparison = book.overall(place).filter(|_| entry.failure.is_none());
    let cells = match &entry.failure {
        Some(why) => vec![label.clone(), format!("failed: {why}")],
        None => {
            let steady = |trial: &Trial| trial.steady.clone().or_else(|| trial.limit.clone());
            let over = |of: &dyn Fn(&Trial) -> Option<Figures>,
                        figure: fn(&Figures) -> Option<f64>| {
                let mut values: Vec<f64> =
                    entry.trials.iter().filter_map(|(_, trial)| figure(&of(trial)?)).collect();
                values.sort_by(f64::total_cmp);
                values
            };
            let rates = over(&|trial| trial.limit.clone(), |figures| figures.rate);
            let median = |figure| quantile(&over(&steady, figure), 0.5);
            let range = rates.first().zip(rates.last());
            vec![
                label.clone(),
                entry.trials.len().to_string(),
                quantile(&rates, 0.5).map_or_else(dash, thousands),
                range.map_or_else(dash, |(low, high)| {
                    format!("{}-{}", thousands(*low), thousands(*high))
                }),
                median(|figures| figures.p50_ns).map_or_else(dash, micros),
                median(|figures| figures.p90_ns).map_or_else(dash, micros),
                median(|figures| figures.p99_ns).map_or_else(dash, micros),
                median(|figures| figures.cpu_ns).map_or_else(dash, |ns| format!("{ns:.0} ns")),
                match place {
                    0 => "0".to_owned(),
                    _ => comparison.map_or_else(dash, |it| percent(&it)),
                },
            ]
        }
    };
    let is_plain = entry.setting.turn == book.default().turn;
    let shards = is_plain.then(|| (entry.setting.shards, entry.setting.pin_word()));
    Row { label, comparison, shards, is_chosen, cells }
}

fn dash() -> String {
    "-".to_owned()
}

fn thousands(value: f64) -> String {
    format!("{:.0}k", value / 1e3)
}

fn micros(ns: f64) -> String {
    format!("{:.0} us", ns / 1e3)
}

/// `+12.3 % ± 4.0`; without enough rounds nobody knows how far it spreads.
fn percent(comparison: &Comparison) -> String {
    let gain = comparison.gain * 100.0;
    match comparison.margin.is_finite() {
        true => format!("{gain:+.1} % ± {:.1}", comparison.margin * 100.0),
        false => format!("{gain:+.1} % ± ?"),
    }
}

/// The table, in aligned lines.
pub(super) fn table(rows: &[Row]) -> Vec<String> {
    let head: Vec<String> = COLUMNS.iter().map(|&name| name.to_owned()).collect();
    let lines: Vec<&Vec<String>> =
        std::iter::once(&head).chain(rows.iter().map(|row| &row.cells)).collect();
    let width = |column: usize| {
        // What failed says so in words, which are no column.
        let cells = lines.iter().filter(|line| line.len() > 2).filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();
    let first = lines.iter().map(|line| line[0].chars().count()).max().unwrap_or(0);
    let line = |cells: &Vec<String>| {
        let rest = cells.iter().enumerate().skip(1).map(|(column, cell)| {
            if cells.len() == 2 { cell.clone() } else { format!("{cell:>w$}", w = widths[column]) }
        });
        let rest: Vec<String> = rest.collect();
        format!("{:<first$}  {}", cells[0], rest.join("  "))
    };
    lines.into_iter().map(line).collect()
}

/// The scores as bars; the default is one of them.
pub(super) fn bars(rows: &[Row]) -> Vec<String> {
    let shown: Vec<(&Row, Comparison)> =
        rows.iter().filter_map(|row| Some((row, row.comparison?))).collect();
    let most = shown.iter().map(|(_, it)| 1.0 + it.gain).fold(0.0, f64::max);
    let first = shown.iter().map(|(row, _)| row.label.chars().count()).max().unwrap_or(0);
    shown
        .iter()
        .map(|(row, it)| {
            let length = if most > 0.0 { (1.0 + it.gain) / most * BAR } else { 0.0 };
            let bar = "#".repeat(length.round() as usize);
            format!("{:<first$}  {bar} {:.2}", row.label, 1.0 + it.gain)
        })
        .collect()
}

/// Why this setting was chosen.
pub(super) fn verdict(book: &Book, outcome: Outcome) -> Vec<String> {
    let label = |place: usize| book.entries[place].setting.label(book.default());
    let Outcome { chosen, best } = outcome;
    let mut lines = Vec::new();
    match book.compare(chosen, 0) {
        _ if chosen == 0 => lines.push(format!("The default is kept: {}.", label(0))),
        Some(it) => lines.push(format!(
            "Chosen: {}. Against the default it scored {} in {} rounds of the last meeting.",
            label(chosen),
            percent(&it),
            it.rounds
        )),
        None => lines.push(format!("Chosen: {}.", label(chosen))),
    }
    if best != chosen
        && let Some(it) = book.compare(best, chosen)
    {
        let than = if it.rounds < 3 {
            "too few rounds to tell a difference from noise".to_owned()
        } else {
            format!("a difference within the noise of {} rounds", it.rounds)
        };
        lines.push(format!(
            "{} had the better median by {}: {than}, so the simpler setting is preferred.",
            label(best),
            percent(&it)
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tune::goal::Goal;
    use crate::cli::tune::setting::Setting;
    use crate::daemon::host::Cores;

    fn book(gain: f64, rounds: usize) -> Book {
        let default = Setting::default_on(Cores { affinity: 2, quota: None });
        let mut book = Book::new(Goal::Throughput, default);
        let other = book.entry(Setting { shards: 1, ..default });
        let broken = book.entry(Setting { shards: 9, ..default });
        book.entries[broken].failure = Some("lost 3 messages".to_owned());
        for round in 0..rounds {
            for (place, rate) in [(0, 1e6), (other, 1e6 * (1.0 + gain))] {
                let limit = Some(Figures { rate: Some(rate), ..Figures::default() });
                book.entries[place].trials.push((round, Trial { limit, steady: None }));
            }
        }
        book
    }

    #[test]
    fn the_best_row_is_first_and_what_failed_is_last() {
        let rows = rows(&book(0.25, 4), Some(1));
        let text = table(&rows);
        assert!(text[1].starts_with("1 shard, pin auto <- chosen"), "{text:#?}");
        assert!(text[1].contains("1250k") && text[1].contains("+25.0 % ± 2.0"), "{text:#?}");
        assert!(text[2].starts_with("2 shards, pin auto (default)"), "{text:#?}");
        assert!(text[3].ends_with("failed: lost 3 messages"), "{text:#?}");
        let bars = bars(&rows);
        assert_eq!(bars.len(), 2, "{bars:#?}");
        assert!(bars[0].ends_with(&format!("{} 1.25", "#".repeat(40))), "{bars:#?}");
        assert!(bars[1].ends_with(&format!("{} 1.00", "#".repeat(32))), "{bars:#?}");
    }

    #[test]
    fn the_verdict_says_how_sure_it_is() {
        let better = verdict(&book(0.25, 4), Outcome { chosen: 1, best: 1 });
        assert_eq!(better.len(), 1);
        assert!(better[0].contains("scored +25.0 % ± 2.0 in 4 rounds"));
        let same = verdict(&book(0.01, 4), Outcome { chosen: 0, best: 1 });
        assert!(same[0].starts_with("The default is kept"), "{same:?}");
        assert!(same[1].contains("within the noise of 4 rounds"), "{same:?}");
        let few = verdict(&book(0.5, 2), Outcome { chosen: 0, best: 1 });
        assert!(few[1].contains("+50.0 % ± ?") && few[1].contains("too few rounds"), "{few:?}");
    }
}
