//! The report for a person: the first lines say how it was measured, then the numbers side by side.

use crate::cli::bench::figures::{Figure, Unit, grouped, written};
use crate::cli::bench::ledger::Checks;
use crate::cli::bench::plan::{Load, Plan};
use crate::cli::bench::report::{Report, Round, Side};

/// What the verdict says in words.
const NOT_IN_TABLE: [Figure; 4] = [Figure::Lost, Figure::Doubled, Figure::Reordered, Figure::Wrong];

/// What is said before anything is measured.
pub(super) fn opening(report: &Report) -> Vec<String> {
    let plan = &report.plan;
    let mut lines = vec![plan.sentence(), method(&plan.load)];
    lines.push(format!(
        "{} of {} s after {} s of warming up, {}, host: {}",
        counted(plan.rounds, "round"),
        plan.duration_s,
        plan.warmup_s,
        counted(plan.client_threads, "client thread"),
        report.host.lines().into_iter().next().map(|(_, text)| text).unwrap_or_default(),
    ));
    if !plan.serve_args.is_empty() {
        lines.push(format!("server flags: {}", plan.serve_args.join(" ")));
    }
    lines
}

/// How latency is to be understood.
pub(super) fn method(load: &Load) -> String {
    match load {
        Load::None => "no messages are sent".to_owned(),
        Load::Open { messages_per_s, .. } => format!(
            "open model: {} messages a second on schedule; latency counts from when a message was \
             due, so a slow server is not spared (coordinated omission corrected)",
            grouped(*messages_per_s)
        ),
        Load::Closed { .. } => {
            "closed model: a message is sent when an earlier one has reached all its receivers; \
             latency counts from when it was sent, and is that of a server at its limit"
                .to_owned()
        }
    }
}

/// So many of something, in words.
pub(super) fn counted(count: u32, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The table, and what must be said beside it.
pub(super) fn closing(report: &Report) -> Vec<String> {
    let mut lines = table(&report.sides);
    let chores = chores(report);
    if !chores.is_empty() {
        lines.push(String::new());
        lines.extend(chores);
    }
    lines.push(String::new());
    lines.extend(report.sides.iter().filter(|side| !side.rounds.is_empty()).map(verdict));
    lines.extend(relative(report));
    for side in &report.sides {
        for (number, round) in side.rounds.iter().enumerate() {
            lines.extend(remarks(side, number, round));
        }
    }
    if report.is_partial {
        lines.push("this report is partial: not everything that was planned was measured".into());
    }
    lines
}

fn table(sides: &[Side]) -> Vec<String> {
    let mut rows = vec![vec![String::new()]];
    let is_swept = |side: &Side| side.rounds.iter().any(|round| round.step.is_some());
    let has_spread = |side: &Side| side.rounds.len() > 1 && !is_swept(side);
    for side in sides {
        rows[0].push(side.name.clone());
        if has_spread(side) {
            rows[0].push("least to most".into());
        }
    }
    for &figure in Figure::ALL.iter().filter(|figure| !NOT_IN_TABLE.contains(figure)) {
        if sides.iter().all(|side| side.median.get(figure).is_none()) {
            continue;
        }
        let mut row = vec![figure.name().to_owned()];
        for side in sides {
            let value = side.median.get(figure);
            row.push(value.map_or("-".into(), |value| written(value, figure.unit())));
            if has_spread(side) {
                row.push(spread(side, figure));
            }
        }
        rows.push(row);
    }
    match sides.iter().any(is_swept) {
        true => [vec![head(sides)], aligned(&rows)].concat(),
        false => aligned(&rows),
    }
}

/// Where in a sweep the figures were measured.
fn head(sides: &[Side]) -> String {
    let place = |side: &Side| match side.knee {
        None => "over the rates that were tried",
        Some(_) if side.is_at_least => {
            "at the highest rate that was borne, and the knee is at least there"
        }
        Some(_) => "at the knee",
    };
    let places: Vec<&str> = sides.iter().map(place).collect();
    if let [first, rest @ ..] = &places[..]
        && rest.iter().all(|place| place == first)
    {
        return format!("{first}:");
    }
    let each = sides.iter().zip(places).map(|(side, place)| format!("{} {place}", side.name));
    each.collect::<Vec<_>>().join("; ") + ":"
}

fn spread(side: &Side, figure: Figure) -> String {
    let values = || side.rounds.iter().filter_map(|round| round.figures.get(figure));
    match (values().reduce(f64::min), values().reduce(f64::max)) {
        (Some(least), Some(most)) => {
            format!("{} to {}", written(least, figure.unit()), written(most, figure.unit()))
        }
        _ => String::new(),
    }
}

/// The knee of a side, and why it is not known better; a partial sweep ended early.
pub(super) fn knee(plan: &Plan, side: &Side, is_partial: bool) -> String {
    let limit = written(plan.knee_p99_ns, Figure::P99.unit());
    let is_highest = side.knee.is_some() && side.knee == plan.sweep.last().copied();
    let (at, how) = match side.is_at_least {
        true if is_highest => ("", "; sweep higher rates to find it"),
        true => ("", "; the sweep ended early, so it may be higher"),
        false => ("at ", ""),
    };
    match side.knee_words() {
        Some(knee) => format!(
            "{}: the knee is {at}{knee} deliveries a second: p99 below {limit} and nothing lost{how}",
            side.name
        ),
        None if is_partial => {
            format!("{}: no rate was borne before the sweep ended early", side.name)
        }
        None => format!("{}: not even the lowest rate was borne", side.name),
    }
}

/// The requests of a mixed load.
fn chores(report: &Report) -> Vec<String> {
    let Some(round) = report.sides.first().and_then(|side| side.rounds.last()) else {
        return Vec::new();
    };
    if round.chores.is_empty() {
        return Vec::new();
    }
    let head = ["request", "answered", "p50", "p90", "p99", "max"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for chore in &round.chores {
        let mut row = vec![chore.name.clone(), grouped(chore.count as f64)];
        for figure in [Figure::P50, Figure::P90, Figure::P99, Figure::Max] {
            let value = chore.figures.get(figure);
            row.push(value.map_or("-".into(), |value| written(value, Unit::Time)));
        }
        rows.push(row);
    }
    aligned(&rows)
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

/// What became of all messages of a side.
pub(super) fn verdict(side: &Side) -> String {
    let (mut delivered, mut checks) = (0, Checks::default());
    for round in &side.rounds {
        delivered += round.delivered;
        checks.add(&round.checks);
    }
    let Checks { lost, doubled, reordered, wrong } = checks;
    format!(
        "{}: {} deliveries checked; {lost} lost, {doubled} doubled, {reordered} reordered, {wrong} \
         wrong",
        side.name,
        grouped(delivered as f64),
    )
}

/// How far the first side is from the measuring stick.
pub(super) fn relative(report: &Report) -> Option<String> {
    let [bus, relay, ..] = report.sides.as_slice() else {
        return None;
    };
    let ratio = |figure| {
        let (ours, theirs) = (bus.median.get(figure)?, relay.median.get(figure)?);
        (theirs > 0.0).then_some(ours / theirs)
    };
    let mut parts: Vec<String> = [
        ("CPU a delivery", ratio(Figure::Cpu)),
        ("system calls", ratio(Figure::Calls)),
        ("p50", ratio(Figure::P50)),
        ("p99", ratio(Figure::P99)),
        ("rate", ratio(Figure::Rate)),
        ("memory a connection", ratio(Figure::ConnMemory)),
        ("connections a second", ratio(Figure::Connects)),
    ]
    .into_iter()
    .filter_map(|(name, ratio)| Some(format!("{name} {:.2}x", ratio?)))
    .collect();
    let knee = bus.knee_against(relay);
    parts.extend(knee.map(|(bound, ratio)| format!("knee {}{ratio:.2}x", bound.words())));
    if parts.is_empty() {
        return None;
    }
    Some(format!("{} against the bare {}: {}", bus.name, relay.name, parts.join(", ")))
}

fn remarks(side: &Side, number: usize, round: &Round) -> Vec<String> {
    let name = match side.rounds.len() {
        1 => side.name.clone(),
        _ => format!("{}, {} {}", side.name, word(round), number + 1),
    };
    let mut lines = Vec::new();
    if let Some(why) = round.generator_limit.as_ref().filter(|_| round.step.is_none()) {
        lines.push(format!("{name}: the generator set the pace: {why}"));
    }
    if round.gaps > 0 {
        lines.push(format!("{name}: the bus told of gaps {} times", round.gaps));
    }
    if let Some(wrong) = &round.first_wrong {
        lines.push(format!("{name}: a wrong message: {wrong}"));
    }
    lines.extend(round.notes.iter().map(|note| format!("{name}: {note}")));
    lines.extend(round.violations.iter().map(|violation| format!("{name}: WRONG: {violation}")));
    if let Some(trouble) = &round.trouble {
        lines.push(format!("{name}: ended early: {trouble}"));
    }
    lines
}

/// What a round is called.
pub(super) fn word(round: &Round) -> &'static str {
    if round.step.is_some() { "step" } else { "round" }
}

/// A round in a line.
pub(super) fn in_short(round: &Round) -> String {
    let shown: &[Figure] = &[
        Figure::Rate,
        Figure::P50,
        Figure::P99,
        Figure::Cpu,
        Figure::Calls,
        Figure::ConnMemory,
        Figure::Recovery,
    ];
    let is_idle = round.figures.get(Figure::ConnMemory).is_some();
    let extra = [Figure::Connects, Figure::ConnCpu];
    let shown = shown.iter().chain(extra.iter().filter(|_| is_idle));
    let parts = shown.filter_map(|&figure| {
        let value = round.figures.get(figure)?;
        Some(format!("{} {}", figure.id(), written(value, figure.unit())))
    });
    let mut text = parts.collect::<Vec<_>>().join(", ");
    if let Some(failed) = round.step.as_ref().and_then(|step| step.failed.as_ref()) {
        text += &format!(" - not borne: {failed}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::args::What;

    #[test]
    fn a_knee_says_why_it_is_not_known_better() {
        let what = What::of_words("fanout --rate-sweep 100,200").unwrap();
        let (plan, _) = Plan::of(&what, what.common().unwrap()).unwrap();
        for (knee, is_at_least, is_partial, words) in [
            (Some(200.0), true, false, "at least 200 deliveries"),
            (Some(200.0), true, true, "; sweep higher rates to find it"),
            (Some(100.0), true, true, "; the sweep ended early, so it may be higher"),
            (Some(150.0), false, true, "the knee is at 150 deliveries"),
            (None, false, true, "no rate was borne before the sweep ended early"),
            (None, false, false, "not even the lowest rate was borne"),
        ] {
            let side = Side { knee, is_at_least, ..Side::new("arqonbus") };
            let told = super::knee(&plan, &side, is_partial);
            assert!(told.contains(words), "{told}");
            let is_early = is_partial && (knee.is_none() || knee == Some(100.0));
            assert_eq!(told.contains("ended early"), is_early, "{told}");
        }
    }

    #[test]
    fn each_side_is_told_where_it_was_measured() {
        let at_least = "at the highest rate that was borne, and the knee is at least there";
        for (bus, relay, words) in [
            ((Some(1.0), false), (Some(2.0), false), "at the knee:".to_owned()),
            ((Some(1.0), true), (Some(2.0), true), format!("{at_least}:")),
            ((Some(1.0), false), (Some(2.0), true), format!("bus at the knee; relay {at_least}:")),
            (
                (None, false),
                (Some(2.0), false),
                "bus over the rates that were tried; relay at the knee:".to_owned(),
            ),
        ] {
            let side = |name, (knee, is_at_least)| Side { knee, is_at_least, ..Side::new(name) };
            assert_eq!(head(&[side("bus", bus), side("relay", relay)]), words);
        }
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["a".into(), "12".into()], vec!["long".into(), "µ".into()]];
        assert_eq!(aligned(&rows), ["a     12", "long   µ"]);
    }
}
