//! `arqonbus bench`: loads a bus the way its users would, and checks every message.
//!
//! | file | what |
//! |---|---|
//! | `args` `plan` `layout` | what was typed; what it means; who is in which room |
//! | `stamp` `stencil` `shape` `ledger` | what a message carries; how it is made; how it is recognised; what is wrong with it |
//! | `core` `pace` `frames` `shared` `timeline` | the clients: threads, schedule, WebSocket frames, what they share, time |
//! | `round` `site` `server` `vitals` `counters` `cpus` | one round, and the server in it: where it is, starting it, what it costs |
//! | `report` `table` | what is kept, and what is shown |
//!
//! The clients are this crate's own and lean, because a generator that is slower than the server
//! measures itself; tungstenite's client is in the tests, where it is a second opinion.
//!
//! *Invariants*: every message is checked at every member; a round that ended early still reports
//! what it has; load goes to this machine unless the person said otherwise.
//!
//! *Not here*: what a bus is. It is a program that is started, and an address.

mod args;
mod core;
mod counters;
mod cpus;
mod frames;
mod layout;
mod ledger;
mod pace;
mod plan;
mod report;
mod round;
mod server;
mod shape;
mod shared;
mod site;
mod stamp;
mod stencil;
mod table;
mod timeline;
mod vitals;

pub(super) use args::BenchArgs;

use crate::cli::bench::args::CommonArgs;
use crate::cli::bench::layout::Layout;
use crate::cli::bench::plan::Plan;
use crate::cli::bench::report::{FORMAT, Figures, Report, Round, Side};
use crate::cli::bench::round::{Watched, play_round};
use crate::cli::bench::server::{RelayCounts, Server};
use crate::cli::bench::shared::Shared;
use crate::cli::bench::site::Site;
use crate::cli::console::Console;
use crate::cli::failure::Failure;
use crate::protocol::timestamp;
use std::time::{SystemTime, UNIX_EPOCH};

/// Measures, and tells.
pub(super) fn run(args: &BenchArgs, console: &mut Console) -> Result<(), Failure> {
    let (plan, layout) = Plan::of(&args.what)?;
    let common = args.what.common();
    let mut report = Report {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION").into(),
        at: now_text(),
        is_partial: false,
        troubles: Vec::new(),
        sides: vec![side("arqonbus")],
        plan,
    };
    if common.relay.is_some() {
        report.sides.push(side("relay"));
    }
    for line in table::opening(&report) {
        console.line(line)?;
    }
    console.flush()?;
    let outcome = play_all(&mut report, &layout, common, console);
    if let Err(failure) = &outcome {
        report.is_partial = true;
        report.troubles.extend(failure.sentence().map(str::to_owned));
    }
    tell(&report, common, console)?;
    outcome?;
    match report.is_clean() {
        true => Ok(()),
        false => Err(Failure::Refused("messages were lost, doubled, reordered or wrong".into())),
    }
}

fn side(name: &str) -> Side {
    Side { name: name.into(), rounds: Vec::new(), median: Figures::default() }
}

/// All rounds, the sides in turn, so that whatever else the machine does hits them alike.
fn play_all(
    report: &mut Report,
    layout: &Layout,
    common: &CommonArgs,
    console: &mut Console,
) -> Result<(), Failure> {
    let mut rng = fastrand::Rng::with_seed(report.plan.seed);
    for number in 1..=report.plan.rounds {
        for side in 0..report.sides.len() {
            let round = play_one(&report.plan, side, layout, common, &mut rng, console)?;
            let trouble = round.trouble.clone();
            let name = &report.sides[side].name;
            if report.plan.rounds > 1 || report.sides.len() > 1 {
                console.line(format!("{name}, round {number}: {}", in_short(&round)))?;
                console.flush()?;
            }
            report.sides[side].rounds.push(round);
            console.reactor.check()?;
            if let Some(trouble) = trouble {
                return Err(Failure::Refused(trouble));
            }
        }
    }
    Ok(())
}

/// One round of one side, with a fresh server.
fn play_one(
    plan: &Plan,
    side: usize,
    layout: &Layout,
    common: &CommonArgs,
    rng: &mut fastrand::Rng,
    console: &mut Console,
) -> Result<Round, Failure> {
    let cpus = common.daemon_cpus.as_ref();
    let mut server = match (side, &common.relay) {
        (1, Some(program)) => Server::relay(program, cpus)?,
        _ => Server::daemon(&plan.serve_args, cpus)?,
    };
    let watched = Watched { pid: Some(server.pid()), http: server.http };
    let shared = share(plan, layout, server.site.clone(), common, rng)?;
    let client_cpus = common.client_cpus.as_ref();
    let mut round = play_round(plan, &shared, &watched, client_cpus, console)?;
    if let Some(how) = server.has_ended() {
        round.trouble = Some(how);
    }
    if let Some(counts) = server.stop() {
        round.figures.calls = Some(relay_calls(&counts));
    }
    match (shared.trouble(), round.figures.rate) {
        // Nothing was measured: there is only the trouble to tell.
        (Some(trouble), None) => Err(trouble.into_failure()),
        _ => Ok(round),
    }
}

fn share(
    plan: &Plan,
    layout: &Layout,
    site: Site,
    common: &CommonArgs,
    rng: &mut fastrand::Rng,
) -> Result<Shared, Failure> {
    let threads = plan.client_threads as usize;
    Shared::new(layout.clone(), plan.load, site, plan.payload, threads, common.timeout, rng)
        .map_err(|error| Failure::Refused(format!("the clients can't be prepared: {error}")))
}

/// A relay counts its whole life, connecting and warming up included.
fn relay_calls(counts: &RelayCounts) -> f64 {
    (counts.reads + counts.writes + counts.polls) as f64 / counts.frames_out.max(1) as f64
}

fn in_short(round: &Round) -> String {
    let figures = &round.figures;
    let parts =
        table::ROWS.iter().zip(figures.fields()).filter_map(|((id, _, unit), (_, value))| {
            let is_shown = matches!(*id, "rate" | "p50" | "p99" | "cpu" | "calls");
            value.filter(|_| is_shown).map(|value| format!("{id} {}", table::written(value, *unit)))
        });
    parts.collect::<Vec<_>>().join(", ")
}

/// Shows the report and writes the files that were asked for.
fn tell(report: &Report, common: &CommonArgs, console: &mut Console) -> Result<(), Failure> {
    let mut report = report.clone();
    for side in &mut report.sides {
        side.median = Figures::median(&side.rounds);
    }
    console.line("")?;
    for line in table::closing(&report) {
        console.line(line)?;
    }
    console.flush()?;
    if let Some(path) = &common.json {
        let text = serde_json::to_string_pretty(&report)
            .map_err(|error| Failure::Refused(format!("the report can't be written: {error}")))?;
        std::fs::write(path, text + "\n").map_err(|error| {
            Failure::Refused(format!("{} can't be written: {error}", path.display()))
        })?;
    }
    Ok(())
}

fn now_text() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    String::from_utf8_lossy(&timestamp::format(since.as_micros() as u64)).into_owned()
}
