//! `arqonbus bench`: loads a bus the way its users would, and checks every message.
//!
//! | file | what |
//! |---|---|
//! | `args` `presets` `plan` `layout` | what was typed; settings with a name; what it means; who is in which room |
//! | `stamp` `stencil` `shape` `ledger` | what a message carries; how it is made; how it is recognised; what is wrong with it |
//! | `core` `pace` `frames` `shared` `timeline` | the clients: threads, schedule, WebSocket frames, what they share, time |
//! | `measure` `sweep` `round` `pulse` `summary` `progress` | all rounds; the search for the knee; one round; whether the server lives; what it means; what is shown meanwhile |
//! | `aim` `site` `server` `vitals` `counters` `cpus` | the server: which, where, starting it, what it costs, on which cores |
//! | `report` `figures` `table` `csv` `html` `svg` `compare` `threshold` | what is kept, its numbers, and how it is shown and judged |
//!
//! The clients are this crate's own and lean, because a generator that is slower than the server
//! measures itself; tungstenite's client is in the tests, where it is a second opinion.
//!
//! *Invariants*: every message is checked at every member; a round that ended early still reports
//! what it has, and a run that could not begin still writes its files; load goes to this machine unless the person said otherwise.
//!
//! *Not here*: what a bus is. It is a program that is started, and an address.

mod aim;
mod args;
mod compare;
mod core;
mod counters;
mod cpus;
mod csv;
mod figures;
mod frames;
pub(super) mod html;
mod layout;
mod ledger;
mod measure;
mod pace;
mod plan;
mod presets;
mod progress;
mod pulse;
mod report;
mod round;
mod server;
mod shape;
mod shared;
mod site;
mod stamp;
mod stencil;
mod summary;
pub(super) mod svg;
mod sweep;
mod table;
mod threshold;
mod timeline;
mod vitals;

pub(super) use args::BenchArgs;

use crate::cli::bench::args::{CommonArgs, What};
use crate::cli::bench::measure::Measurement;
use crate::cli::bench::plan::Plan;
use crate::cli::bench::report::{FORMAT, Report, Side};
use crate::cli::console::Console;
use crate::cli::failure::Failure;
use crate::cli::machine::Facts;
use crate::cli::place;
use crate::protocol::timestamp;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Measures, and tells.
pub(super) fn run(args: &BenchArgs, console: &mut Console) -> Result<(), Failure> {
    match &args.what {
        What::Compare(args) => return compare::run(args, console),
        What::Preset(args) if args.name == "list" => {
            console.line(presets::list())?;
            return console.flush();
        }
        _ => {}
    }
    let expanded = args.what.expanded()?;
    let what = expanded.as_ref().unwrap_or(&args.what);
    let Some(common) = what.common() else {
        return Ok(());
    };
    let (plan, layout) = Plan::of(what, common)?;
    for (path, flag) in [(&common.json, "--json"), (&common.csv, "--csv"), (&common.html, "--html")]
    {
        path.as_ref().map_or(Ok(()), |path| place::check(path, flag))?;
    }
    let mut report = new_report(plan, common);
    for line in table::opening(&report) {
        console.line(line)?;
    }
    console.flush()?;
    let rng = fastrand::Rng::with_seed(report.plan.seed);
    let mut measurement = Measurement { layout: &layout, common, rng, fresh: fastrand::Rng::new() };
    let outcome = measurement.play(&mut report, console);
    if let Err(failure) = &outcome {
        report.is_partial = true;
        report.troubles.extend(failure.sentence().map(str::to_owned));
    }
    report.sides.iter_mut().for_each(Side::settle);
    // A wrong command line is no run that could be reported.
    let unwritten = match outcome {
        Err(Failure::Usage(_)) => Vec::new(),
        _ => write_files(&report, common),
    };
    // Who could not even begin needs no figures.
    let told = match outcome.is_ok() || report.sides.iter().any(|side| !side.rounds.is_empty()) {
        true => tell(&report, console),
        false => Ok(()),
    };
    unwritten.iter().for_each(|why| console.note(why));
    // What became of the run counts before what became of its report.
    outcome?;
    judge(&report, common, console)?;
    if unwritten.is_empty() { told } else { Err(Failure::Incomplete) }
}

fn new_report(plan: Plan, common: &CommonArgs) -> Report {
    let mut sides = vec![Side::new("arqonbus")];
    if common.relay.is_some() {
        sides.push(Side::new("relay"));
    }
    Report {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").into(),
        at: now_text(),
        is_partial: false,
        troubles: Vec::new(),
        plan,
        sides,
        host: Facts::survey(),
    }
}

/// Shows the report.
fn tell(report: &Report, console: &mut Console) -> Result<(), Failure> {
    console.line("")?;
    for line in table::closing(report) {
        console.line(line)?;
    }
    for side in &report.sides {
        if !report.plan.sweep.is_empty() {
            console.line(table::knee(&report.plan, side, report.is_partial))?;
        }
    }
    console.flush()
}

/// Writes the files that were asked for, each whatever becomes of the others; gives what is to be
/// told of those that could not be written.
fn write_files(report: &Report, common: &CommonArgs) -> Vec<String> {
    let json = common.json.as_ref().map(|path| report.to_json().map(|text| (path, text)));
    let csv = common.csv.as_ref().map(|path| Ok((path, csv::render(report))));
    let html = common.html.as_ref().map(|path| Ok((path, html::render(report))));
    let files = [json, csv, html].into_iter().flatten();
    let outcomes = files.map(|file| file.and_then(|(path, text)| write(path, &text)));
    let failures = outcomes.filter_map(Result::err);
    failures.filter_map(|failure| failure.sentence().map(str::to_owned)).collect()
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text)
        .map_err(|error| Failure::Refused(format!("{} can't be written: {error}", path.display())))
}

/// The exit code: what was lost, and what the person does not accept.
fn judge(report: &Report, common: &CommonArgs, console: &mut Console) -> Result<(), Failure> {
    let mut is_bad = false;
    if !report.is_clean() {
        is_bad = true;
        console.note("messages were lost, doubled, reordered or wrong, or a promise was not kept");
    }
    let figures = report.sides.first().map(|side| &side.median);
    for threshold in &common.fail_if {
        if let Some(why) = figures.and_then(|figures| threshold.judge(figures)) {
            is_bad = true;
            console.note(format!("not accepted: {why}"));
        }
    }
    if !report.plan.sweep.is_empty() && report.sides.iter().any(|side| side.knee.is_none()) {
        is_bad = true;
        console.note("no rate of the sweep was borne");
    }
    if is_bad { Err(Failure::Incomplete) } else { Ok(()) }
}

fn now_text() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    String::from_utf8_lossy(&timestamp::format(since.as_micros() as u64)).into_owned()
}
