//! `bench compare`: two reports side by side, and what makes them hard to compare.

use crate::cli::bench::args::CompareArgs;
use crate::cli::bench::figures::{Better, Figure, written};
use crate::cli::bench::report::{Bound, Report, Side};
use crate::cli::bench::table::aligned;
use crate::cli::console::Console;
use crate::cli::failure::Failure;
use serde_json::Value;
use std::path::Path;

/// Changes below this share are within what rounds differ by anyway.
const NOISE: f64 = 0.03;

/// Prints the comparison.
pub(super) fn run(args: &CompareArgs, console: &mut Console) -> Result<(), Failure> {
    let before = Report::load(&args.before)?;
    let after = Report::load(&args.after)?;
    for line in lines(&before, &after, [&args.before, &args.after]) {
        console.line(line)?;
    }
    console.flush()
}

fn lines(before: &Report, after: &Report, paths: [&Path; 2]) -> Vec<String> {
    let mut lines = Vec::new();
    for (path, report) in paths.iter().zip([before, after]) {
        let note = if report.is_partial { " (partial)" } else { "" };
        lines.push(format!("{}: {}{note}", path.display(), report.plan.sentence()));
    }
    lines.extend(differences(before, after));
    for side in &before.sides {
        if let Some(other) = after.sides.iter().find(|other| other.name == side.name) {
            lines.push(String::new());
            lines.extend(table(side, other));
        }
    }
    let reasons = reasons_for_care(before, after, paths);
    if !reasons.is_empty() {
        lines.extend([String::new(), format!("take this with care: {}", reasons.join("; "))]);
    }
    lines
}

/// Why the two may not be measured by each other.
fn reasons_for_care(before: &Report, after: &Report, paths: [&Path; 2]) -> Vec<String> {
    let mut reasons = Vec::new();
    if before.plan != after.plan {
        reasons.push("the plans differ, so the two did not do the same".to_owned());
    }
    for (path, report) in paths.iter().zip([before, after]).filter(|(_, report)| report.is_partial)
    {
        let why = report.troubles.first().map(|why| format!(" ({why})")).unwrap_or_default();
        reasons.push(format!("{} is partial{why}", path.display()));
    }
    reasons
}

/// What is not the same about how the two were measured.
fn differences(before: &Report, after: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    if before.version != after.version {
        lines.push(format!("versions differ: {} and {}", before.version, after.version));
    }
    for (what, one, other) in [
        ("plans", serde_json::to_value(&before.plan), serde_json::to_value(&after.plan)),
        ("hosts", serde_json::to_value(&before.host), serde_json::to_value(&after.host)),
    ] {
        if let (Ok(one), Ok(other)) = (one, other) {
            let mut paths = Vec::new();
            unlike("", &one, &other, &mut paths);
            if !paths.is_empty() {
                lines.push(format!("{what} differ: {}", paths.join("; ")));
            }
        }
    }
    lines
}

/// What changes from one minute to the next on every machine.
const PASSING: [&str; 4] = ["load", "free", "available", "steal"];

/// The places at which two values differ, with both values.
fn unlike(at: &str, one: &Value, other: &Value, out: &mut Vec<String>) {
    match (one, other) {
        (Value::Object(ones), Value::Object(others)) => {
            let missing = others.keys().filter(|key| !ones.contains_key(*key));
            for key in ones.keys().chain(missing) {
                if PASSING.iter().any(|passing| key.contains(passing)) {
                    continue;
                }
                let at = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                let value = |object: &serde_json::Map<String, Value>| {
                    object.get(key).cloned().unwrap_or(Value::Null)
                };
                unlike(&at, &value(ones), &value(others), out);
            }
        }
        _ if one == other => {}
        _ => out.push(format!("{at} {one} and {other}")),
    }
}

fn table(before: &Side, after: &Side) -> Vec<String> {
    let mut rows = vec![vec![
        before.name.clone(),
        "before".to_owned(),
        "after".to_owned(),
        "ratio".to_owned(),
        String::new(),
    ]];
    rows.extend(knees(before, after));
    for &figure in Figure::ALL {
        let (Some(one), Some(other)) = (before.median.get(figure), after.median.get(figure)) else {
            continue;
        };
        if one == 0.0 && other == 0.0 {
            continue;
        }
        let unit = figure.unit();
        rows.push(vec![
            figure.name().to_owned(),
            written(one, unit),
            written(other, unit),
            if one > 0.0 { format!("{:.2}x", other / one) } else { "-".into() },
            verdict(figure.better(), one, other).to_owned(),
        ]);
    }
    aligned(&rows)
}

/// The row of the knees, if both have one. Of one that is only known to be at least so high, it may be
/// known all the same that it is better.
fn knees(before: &Side, after: &Side) -> Option<Vec<String>> {
    let (one, other) = (before.knee?, after.knee?);
    let verdict = verdict(Better::More, one, other);
    let (ratio, verdict) = match after.knee_against(before) {
        None => ("-".to_owned(), ""),
        Some((bound, ratio)) => {
            let may_be_otherwise = match bound {
                Bound::Exact => "",
                Bound::AtLeast => "worse",
                Bound::AtMost => "better",
            };
            let verdict = if verdict == may_be_otherwise { "" } else { verdict };
            (format!("{}{ratio:.2}x", bound.words()), verdict)
        }
    };
    let row = ["knee".into(), before.knee_words()?, after.knee_words()?, ratio, verdict.into()];
    Some(row.into())
}

fn verdict(better: Better, one: f64, other: f64) -> &'static str {
    let change = other - one;
    if change.abs() <= one.abs() * NOISE {
        return "";
    }
    match (better, change > 0.0) {
        (Better::Neither, _) => "",
        (Better::More, true) | (Better::Less, false) => "better",
        (Better::More, false) | (Better::Less, true) => "worse",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn differences_are_named_where_they_are() {
        let mut paths = Vec::new();
        unlike(
            "",
            &json!({"a": {"b": 1, "load_1": 3}, "c": [1]}),
            &json!({"a": {"b": 2, "load_1": 4}, "c": [1], "d": "x"}),
            &mut paths,
        );
        assert_eq!(paths, ["a.b 1 and 2", "d null and \"x\""]);
    }

    #[test]
    fn a_knee_that_is_only_known_to_be_at_least_there_is_told_so() {
        let side = |knee, is_at_least| Side { knee, is_at_least, ..Side::new("arqonbus") };
        for (before, after, row) in [
            ((1_000.0, false), (2_000.0, false), ["1,000", "2,000", "2.00x", "better"]),
            (
                (1_000.0, false),
                (2_000.0, true),
                ["1,000", "at least 2,000", "at least 2.00x", "better"],
            ),
            ((2_000.0, false), (1_000.0, true), ["2,000", "at least 1,000", "at least 0.50x", ""]),
            ((1_000.0, true), (2_000.0, false), ["at least 1,000", "2,000", "at most 2.00x", ""]),
            (
                (2_000.0, true),
                (1_000.0, false),
                ["at least 2,000", "1,000", "at most 0.50x", "worse"],
            ),
            ((1_000.0, true), (2_000.0, true), ["at least 1,000", "at least 2,000", "-", ""]),
        ] {
            let sides = [before, after].map(|(knee, is_at_least)| side(Some(knee), is_at_least));
            let told = knees(&sides[0], &sides[1]).unwrap();
            assert_eq!(told[1..], row, "{before:?} {after:?}");
        }
        assert_eq!(knees(&side(None, false), &side(Some(1.0), false)), None);
    }

    #[test]
    fn small_changes_are_no_verdict() {
        for (better, one, other, word) in [
            (Better::Less, 100.0, 102.0, ""),
            (Better::Less, 100.0, 110.0, "worse"),
            (Better::Less, 100.0, 80.0, "better"),
            (Better::More, 100.0, 110.0, "better"),
            (Better::More, 100.0, 90.0, "worse"),
            (Better::Neither, 100.0, 200.0, ""),
            (Better::Less, 0.0, 1.0, "worse"),
        ] {
            assert_eq!(verdict(better, one, other), word, "{one} {other}");
        }
    }
}
