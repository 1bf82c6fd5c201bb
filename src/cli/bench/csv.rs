//! The report as lines for a spreadsheet: one for each round, and one for the medians.

use crate::cli::bench::figures::{Figure, Figures};
use crate::cli::bench::report::Report;

/// The whole text.
pub(super) fn render(report: &Report) -> String {
    let mut columns = vec!["scenario", "side", "round", "asked"];
    columns.extend(Figure::ALL.iter().map(|figure| figure.id()));
    let mut text = columns.join(",") + "\n";
    for side in &report.sides {
        let mut push = |round: String, asked: Option<f64>, figures: &Figures| {
            let number =
                |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
            let mut cells =
                vec![report.plan.scenario.clone(), side.name.clone(), round, number(asked)];
            cells.extend(Figure::ALL.iter().map(|&figure| number(figures.get(figure))));
            text += &(cells.join(",") + "\n");
        };
        for (number, round) in side.rounds.iter().enumerate() {
            let asked = round.step.as_ref().map(|step| step.rate);
            push((number + 1).to_string(), asked, &round.figures);
        }
        let name = if side.knee.is_some() { "knee" } else { "median" };
        push(name.into(), side.knee, &side.median);
    }
    text
}
