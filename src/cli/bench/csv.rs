//! The report as lines for a spreadsheet: one for each round, and one for the medians.
//!
//! The machine's facts and what went wrong stand in columns behind the figures, and not in comments: a
//! reader of CSV knows no comments, and lines of several machines can be put into one table.

use crate::cli::bench::figures::{Figure, Figures};
use crate::cli::bench::report::Report;

/// The whole text.
pub(super) fn render(report: &Report) -> String {
    let host = host(report);
    let mut columns = vec!["scenario", "side", "round", "asked"];
    columns.extend(Figure::ALL.iter().map(|figure| figure.id()));
    columns.push("trouble");
    let mut columns: Vec<String> = columns.into_iter().map(str::to_owned).collect();
    columns.extend(host.iter().map(|(name, _)| format!("host-{}", name.replace(' ', "-"))));
    let mut text = columns.join(",") + "\n";
    for side in &report.sides {
        let mut push = |round: String, asked: Option<f64>, figures: &Figures, trouble: &str| {
            let number =
                |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
            let mut cells =
                vec![report.plan.scenario.clone(), side.name.clone(), round, number(asked)];
            cells.extend(Figure::ALL.iter().map(|&figure| number(figures.get(figure))));
            cells.push(quoted(trouble));
            cells.extend(host.iter().map(|(_, text)| quoted(text)));
            text += &(cells.join(",") + "\n");
        };
        for (number, round) in side.rounds.iter().enumerate() {
            let asked = round.step.as_ref().map(|step| step.rate);
            let trouble = round.trouble.as_deref().unwrap_or_default();
            push((number + 1).to_string(), asked, &round.figures, trouble);
        }
        let name = match side.knee {
            Some(_) if side.is_at_least => "knee at least",
            Some(_) => "knee",
            None => "median",
        };
        push(name.into(), side.knee, &side.median, &report.troubles.join("; "));
    }
    text
}

/// The machine's facts, each name once: it may have several network cards.
fn host(report: &Report) -> Vec<(&'static str, String)> {
    let mut facts: Vec<(&'static str, String)> = Vec::new();
    for (name, text) in report.host.lines() {
        match facts.last_mut().filter(|(last, _)| *last == name) {
            Some((_, texts)) => *texts += &format!("; {text}"),
            None => facts.push((name, text)),
        }
    }
    facts
}

/// RFC 4180, section 2: what holds a comma, a quote or a new line stands in quotes.
fn quoted(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_stand_in_quotes_where_they_must() {
        for (text, cell) in
            [("", ""), ("a b", "a b"), ("a, b", "\"a, b\""), ("a \"b\"", "\"a \"\"b\"\"\"")]
        {
            assert_eq!(quoted(text), cell);
        }
    }
}
