//! The report as one page that needs nothing else: no network, no script, no font. It follows the
//! reader's choice of light or dark.

use crate::cli::bench::figures::{Figure, Unit, grouped, written};
use crate::cli::bench::plan::Act;
use crate::cli::bench::report::{Report, Round, Side};
use crate::cli::bench::svg::{Axis, Line, Scale, escaped, plot};
use crate::cli::bench::table;
use crate::cli::bench::timeline::Moment;
use std::fmt::Write;

/// How every page of this program looks.
pub(in crate::cli) const STYLE: &str = "
:root{color-scheme:light dark;--paper:#fff;--ink:#1c2430;--soft:#5b6675;--rule:#dfe3e8;--card:#f6f8fa;
--c0:#2563eb;--c1:#d9730d;--c2:#0f8a5f;--c3:#9333ea;--bad:#c62828;--good:#1b7f4b}
@media (prefers-color-scheme:dark){:root{--paper:#12161c;--ink:#e4e8ee;--soft:#98a3b3;--rule:#2b323c;
--card:#1a2028;--c0:#6ea8fe;--c1:#f5a54a;--c2:#4cc38a;--c3:#c08cff;--bad:#ff7b72;--good:#56d394}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:800px;margin:0 auto;padding:32px 20px 64px}
h1{font-size:24px;margin:0 0 4px}h2{font-size:17px;margin:36px 0 8px}
p{margin:4px 0}.soft{color:var(--soft)}.bad{color:var(--bad)}.good{color:var(--good)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:10px;margin:18px 0}
.card{background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:10px 12px}
.card b{display:block;font-size:19px;font-variant-numeric:tabular-nums}
.card span{color:var(--soft);font-size:13px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:5px 10px;border-bottom:1px solid var(--rule);text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}th{color:var(--soft);font-weight:600}
td.words{white-space:normal;text-align:left}
svg{width:100%;height:auto;display:block;margin:6px 0}
svg text{fill:var(--soft);font:12px system-ui,sans-serif}svg .title{fill:var(--ink)}
.grid{stroke:var(--rule);stroke-width:1;fill:none}.line{fill:none;stroke-width:1.8;stroke-linejoin:round}
.dashed{stroke-dasharray:5 4}
.c0{stroke:var(--c0)}.c1{stroke:var(--c1)}.c2{stroke:var(--c2)}.c3{stroke:var(--c3)}
.dot.c0{fill:var(--c0)}.dot.c1{fill:var(--c1)}.dot.c2{fill:var(--c2)}.dot.c3{fill:var(--c3)}
";

/// The whole page.
pub(super) fn render(report: &Report) -> String {
    let title = escaped(&format!("arqonbus bench: {}", report.plan.scenario));
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>{title}</title><style>{STYLE}</style></head><body><main><h1>{title}</h1>\n"
    );
    opening(&mut page, report);
    cards(&mut page, report);
    verdicts(&mut page, report);
    plots(&mut page, report);
    numbers(&mut page, report);
    steps(&mut page, report);
    chores(&mut page, report);
    about(&mut page, report);
    page += "</main></body></html>\n";
    page
}

fn opening(page: &mut String, report: &Report) {
    for line in [report.plan.sentence(), table::method(&report.plan.load)] {
        let _ = writeln!(page, "<p>{}</p>", escaped(&line));
    }
    let _ = writeln!(
        page,
        "<p class=\"soft\">{} UTC, version {}, {} of {} s after {} s of warming up</p>",
        escaped(&report.at.get(..19).unwrap_or(&report.at).replace('T', " ")),
        escaped(&report.version),
        table::counted(report.plan.rounds, "round"),
        report.plan.duration_s,
        report.plan.warmup_s
    );
    if report.is_partial {
        page.push_str(
            "<p class=\"bad\"><b>Partial:</b> not everything that was planned was measured.</p>\n",
        );
    }
    for trouble in &report.troubles {
        let _ = writeln!(page, "<p class=\"bad\">{}</p>", escaped(trouble));
    }
}

/// The few numbers that are looked for first.
fn cards(page: &mut String, report: &Report) {
    let Some(side) = report.sides.first() else {
        return;
    };
    page.push_str("<div class=\"cards\">");
    let mut card = |name: &str, text: &str| {
        let _ = write!(
            page,
            "<div class=\"card\"><b>{}</b><span>{}</span></div>",
            escaped(text),
            escaped(name)
        );
    };
    if let Some(knee) = side.knee_words() {
        card("knee, deliveries a second", &knee);
    }
    let about_messages =
        [Figure::Rate, Figure::P50, Figure::P99, Figure::Recovery, Figure::Cpu, Figure::Calls];
    let about_connections = [Figure::ConnMemory, Figure::Connects, Figure::ConnCpu];
    let figures: &[Figure] = match report.plan.act {
        Act::Idle => &about_connections,
        _ => &about_messages,
    };
    for &figure in figures {
        if let Some(value) = side.median.get(figure) {
            card(figure.name(), &written(value, figure.unit()));
        }
    }
    page.push_str("</div>\n");
}

fn verdicts(page: &mut String, report: &Report) {
    for side in report.sides.iter().filter(|side| !side.rounds.is_empty()) {
        let is_clean = side.rounds.iter().all(Round::is_clean);
        let class = if is_clean { "good" } else { "bad" };
        let _ = writeln!(page, "<p class=\"{class}\">{}</p>", escaped(&table::verdict(side)));
    }
    if let Some(line) = table::relative(report) {
        let _ = writeln!(page, "<p>{}</p>", escaped(&line));
    }
    for (side, round) in all_rounds(report) {
        let name = escaped(&side.name);
        let mut say = |class: &str, text: &str| {
            let _ = writeln!(page, "<p class=\"{class}\">{name}: {}</p>", escaped(text));
        };
        if let Some(why) = round.generator_limit.as_ref().filter(|_| round.step.is_none()) {
            say("soft", &format!("the generator set the pace: {why}"));
        }
        round.notes.iter().for_each(|note| say("soft", note));
        round.violations.iter().for_each(|violation| say("bad", violation));
    }
}

fn all_rounds(report: &Report) -> impl Iterator<Item = (&Side, &Round)> {
    report.sides.iter().flat_map(|side| side.rounds.iter().map(move |round| (side, round)))
}

fn plots(page: &mut String, report: &Report) {
    let time = |value: f64| written(value, Unit::Time).replace(".00", "").replace(".0 ", " ");
    let mut section = |title: &str, svg: String| {
        if !svg.is_empty() {
            let _ = writeln!(page, "<h2>{}</h2>{svg}", escaped(title));
        }
    };
    let latency = Axis { title: "latency", scale: Scale::Log, mark: time };
    let share = Axis { title: "percentile", scale: Scale::Log, mark: percentile };
    let seconds = Axis { title: "seconds", scale: Scale::Linear, mark: plainly };
    let rate = Axis { title: "deliveries a second", scale: Scale::Linear, mark: short };
    if !report.plan.sweep.is_empty() {
        let rate = Axis { scale: Scale::Log, ..rate.clone() };
        section("The knee: latency by rate", knee(report, &rate, &latency));
    }
    let lines = |of: fn(&Round) -> Vec<(f64, f64)>| lines_of(report, of);
    section("Latency by percentile", plot(&share, &latency, &lines(curve)));
    section("Throughput over time", plot(&seconds, &rate, &lines(throughput)));
    let mut over_time = lines(|round| latencies(round, |moment| moment.p50_ns));
    let slow = lines(|round| latencies(round, |moment| moment.p99_ns));
    name(&mut over_time, "p50");
    let mut slow: Vec<Line> =
        slow.into_iter().map(|line| Line { is_dashed: true, ..line }).collect();
    name(&mut slow, "p99");
    over_time.extend(slow);
    section("Latency over time", plot(&seconds, &latency, &over_time));
}

fn name(lines: &mut [Line], what: &str) {
    for name in lines.iter_mut().filter_map(|line| line.name.as_mut()) {
        *name += &format!(" {what}");
    }
}

/// A line for each round of each side, of which the first carries the name. A sweep shows its knee.
fn lines_of(report: &Report, of: fn(&Round) -> Vec<(f64, f64)>) -> Vec<Line> {
    let mut lines = Vec::new();
    for (color, side) in report.sides.iter().enumerate() {
        let shown = side
            .rounds
            .iter()
            .filter(|round| round.step.as_ref().is_none_or(|step| Some(step.rate) == side.knee));
        for (number, round) in shown.enumerate() {
            let points = of(round);
            if !points.is_empty() {
                let name = (number == 0).then(|| side.name.clone());
                lines.push(Line { color, name, points, has_dots: false, is_dashed: false });
            }
        }
    }
    lines
}

/// Each point is at how rare it is: 10 is p90, 100 is p99.
fn curve(round: &Round) -> Vec<(f64, f64)> {
    let points = round.percentiles.iter().filter(|(share, _)| *share < 1.0);
    points.map(|&(share, ns)| (1.0 / (1.0 - share), ns as f64)).collect()
}

/// Nothing if nothing was sent, as between idle connections.
fn throughput(round: &Round) -> Vec<(f64, f64)> {
    match round.moments.iter().any(|moment| moment.rate > 0.0) {
        true => moments(round, |moment| moment.rate),
        false => Vec::new(),
    }
}

fn moments(round: &Round, of: fn(&Moment) -> f64) -> Vec<(f64, f64)> {
    round.moments.iter().map(|moment| (moment.at_s, of(moment))).collect()
}

/// A moment in which nothing arrived has no latency.
fn latencies(round: &Round, of: fn(&Moment) -> u64) -> Vec<(f64, f64)> {
    let heard = round.moments.iter().filter(|moment| moment.p50_ns > 0);
    heard.map(|moment| (moment.at_s, of(moment) as f64)).collect()
}

fn knee(report: &Report, rate: &Axis, latency: &Axis) -> String {
    let mut lines = Vec::new();
    for (color, side) in report.sides.iter().enumerate() {
        for (figure, is_dashed) in [(Figure::P50, false), (Figure::P99, true)] {
            let mut points: Vec<(f64, f64)> = side
                .rounds
                .iter()
                .filter_map(|round| Some((round.step.as_ref()?.rate, round.figures.get(figure)?)))
                .collect();
            points.sort_by(|one, next| one.0.total_cmp(&next.0));
            let name = Some(format!("{} {}", side.name, figure.id()));
            lines.push(Line { color, name, points, has_dots: true, is_dashed });
        }
    }
    let rates = || lines.iter().flat_map(|line| line.points.iter().map(|point| point.0));
    let (least, most) = (rates().fold(f64::INFINITY, f64::min), rates().fold(0.0, f64::max));
    let limit = report.plan.knee_p99_ns;
    lines.push(Line {
        color: 3,
        name: Some("limit".into()),
        points: vec![(least, limit), (most, limit)],
        has_dots: false,
        is_dashed: true,
    });
    plot(rate, latency, &lines)
}

fn percentile(rarity: f64) -> String {
    let percent = 100.0 * (1.0 - 1.0 / rarity);
    // 10 is p90, 100 is p99, and each further power of ten has a 9 more.
    let digits = (rarity.log10().round() as i32 - 2).clamp(0, 7) as usize;
    format!("p{percent:.digits$}")
}

/// A sum of tenths is not always what it seems.
fn plainly(value: f64) -> String {
    ((value * 1e6).round() / 1e6).to_string()
}

fn short(value: f64) -> String {
    match value {
        _ if value >= 1e6 => format!("{}M", (value / 1e4).round() / 100.0),
        _ if value >= 1e3 => format!("{}k", (value / 10.0).round() / 100.0),
        _ => plainly(value),
    }
}

fn numbers(page: &mut String, report: &Report) {
    page.push_str("<h2>Figures</h2><div class=\"scroll\"><table><tr><th></th>");
    let is_swept = !report.plan.sweep.is_empty();
    for side in &report.sides {
        let what = match (is_swept, side.rounds.len()) {
            (true, _) if side.is_at_least => ", at the highest rate that was borne",
            (true, _) => ", at the knee",
            (_, 0 | 1) => "",
            _ => ", median",
        };
        let _ = write!(page, "<th>{}{what}</th>", escaped(&side.name));
        for round in 1..=side.rounds.len() {
            if side.rounds.len() > 1 && !is_swept {
                let _ = write!(page, "<th>round {round}</th>");
            }
        }
    }
    page.push_str("</tr>");
    for &figure in Figure::ALL {
        let cell = |value: Option<f64>| {
            let text = value.map_or("-".into(), |value| written(value, figure.unit()));
            format!("<td>{text}</td>")
        };
        if report.sides.iter().all(|side| side.median.get(figure).is_none()) {
            continue;
        }
        let _ = write!(page, "<tr><td>{}</td>", figure.name());
        for side in &report.sides {
            *page += &cell(side.median.get(figure));
            if side.rounds.len() > 1 && !is_swept {
                side.rounds.iter().for_each(|round| *page += &cell(round.figures.get(figure)));
            }
        }
        page.push_str("</tr>");
    }
    page.push_str("</table></div>\n");
}

fn steps(page: &mut String, report: &Report) {
    if report.plan.sweep.is_empty() {
        return;
    }
    page.push_str(
        "<h2>Steps</h2><div class=\"scroll\"><table><tr><th>server</th><th>asked</th><th>got</th>\
         <th>p50</th><th>p99</th><th>CPU</th><th>client</th><th>borne</th></tr>",
    );
    for (side, round) in all_rounds(report) {
        let Some(step) = &round.step else {
            continue;
        };
        let _ = write!(page, "<tr><td>{}</td><td>{}</td>", escaped(&side.name), grouped(step.rate));
        for figure in [Figure::Rate, Figure::P50, Figure::P99, Figure::Cpu, Figure::ClientBusy] {
            let value = round.figures.get(figure);
            let text = value.map_or("-".into(), |value| written(value, figure.unit()));
            let _ = write!(page, "<td>{text}</td>");
        }
        let _ = match &step.failed {
            None => write!(page, "<td class=\"words good\">yes</td></tr>"),
            Some(why) => write!(page, "<td class=\"words bad\">no: {}</td></tr>", escaped(why)),
        };
    }
    page.push_str("</table></div>\n");
}

fn chores(page: &mut String, report: &Report) {
    let rounds = all_rounds(report).filter(|(_, round)| !round.chores.is_empty());
    let Some((_, round)) = rounds.last() else {
        return;
    };
    page.push_str(
        "<h2>Requests</h2><div class=\"scroll\"><table><tr><th>request</th><th>answered</th><th>p50</th>\
         <th>p90</th><th>p99</th><th>max</th></tr>",
    );
    for chore in &round.chores {
        let _ = write!(
            page,
            "<tr><td>{}</td><td>{}</td>",
            escaped(&chore.name),
            grouped(chore.count as f64)
        );
        for figure in [Figure::P50, Figure::P90, Figure::P99, Figure::Max] {
            let value = chore.figures.get(figure);
            let text = value.map_or("-".into(), |value| written(value, Unit::Time));
            let _ = write!(page, "<td>{text}</td>");
        }
        page.push_str("</tr>");
    }
    page.push_str("</table></div>\n");
}

/// The plan and the machine.
fn about(page: &mut String, report: &Report) {
    let mut rows = |title: &str, rows: Vec<(String, String)>| {
        let _ = write!(page, "<h2>{title}</h2><div class=\"scroll\"><table>");
        for (name, value) in rows {
            let (name, value) = (escaped(&name), escaped(&value));
            let _ = write!(page, "<tr><td>{name}</td><td class=\"words\">{value}</td></tr>");
        }
        page.push_str("</table></div>\n");
    };
    let plan = serde_json::to_value(&report.plan).unwrap_or_default();
    let plan = plan.as_object().cloned().unwrap_or_default();
    let is_said = |value: &serde_json::Value| {
        !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty())
    };
    let plan = plan.into_iter().filter(|(_, value)| is_said(value));
    rows("Plan", plan.map(|(name, value)| (name, plain(&value))).collect());
    let host = report.host.lines().into_iter();
    rows("Host", host.map(|(name, value)| (name.to_owned(), value)).collect());
}

fn plain(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Array(list) => list.iter().map(plain).collect::<Vec<_>>().join(" "),
        serde_json::Value::Object(fields) => {
            let field =
                |(name, value): (&String, &serde_json::Value)| format!("{name} {}", plain(value));
            fields.iter().map(field).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_short() {
        for (rarity, text) in
            [(1.0, "p0"), (10.0, "p90"), (100.0, "p99"), (1_000.0, "p99.9"), (100_000.0, "p99.999")]
        {
            assert_eq!(percentile(rarity), text);
        }
        for (value, text) in [(0.0, "0"), (500.0, "500"), (1_500.0, "1.5k"), (2.98e6, "2.98M")] {
            assert_eq!(short(value), text);
        }
    }
}
