//! `arqonbus tune`: finds out which setting suits this machine, and says how sure that is.
//!
//! | file | what |
//! |---|---|
//! | `args` `goal` `setting` | what was typed; what counts; what is tried |
//! | `race` `book` | the search; what was tried, and what may be said of it |
//! | `trial` | measuring one setting with the load generator |
//! | `model` | what the parts of a message's way cost, and what more shards would do |
//! | `show` `page` `evidence` | for a person; as a page; as a configuration with its evidence |
//!
//! *Invariants*: nothing on the machine is changed but the file that is written; the default is
//! chosen unless another setting is better beyond the noise.
//!
//! *Not here*: the load generator and the daemon: both are this program, started anew for each
//! trial.

mod args;
mod book;
mod evidence;
mod goal;
mod model;
mod page;
mod race;
mod setting;
mod show;
mod trial;

pub(super) use args::TuneArgs;

use crate::cli::console::Console;
use crate::cli::failure::Failure;
use crate::cli::machine::{Facts, Worked};
use crate::cli::place;
use crate::cli::tune::book::Book;
use crate::cli::tune::evidence::Evidence;
use crate::cli::tune::page::Page;
use crate::cli::tune::race::{Bounds, Outcome};
use crate::cli::tune::setting::Setting;
use crate::cli::tune::trial::{Load, Trials};
use crate::daemon::node::VERSION;
use crate::protocol::timestamp;
use std::time::{SystemTime, UNIX_EPOCH};

/// Searches, shows, and writes what was found.
pub(super) fn run(args: &TuneArgs, console: &mut Console) -> Result<(), Failure> {
    // The facts come first: the children inherit what this process is.
    let facts = Facts::survey();
    let (load, shards_max) = args.load(&facts);
    if args.model {
        return model::run(load, Setting::default_on(facts.cpu.for_daemon()), console);
    }
    place::check_with_directories(&args.out(&facts), "--out")?;
    args.html.as_ref().map_or(Ok(()), |path| place::check(path, "--html"))?;
    let bounds = Bounds { cores: facts.cpu.for_daemon(), shards_max, budget: args.budget() };
    open(args, &facts, &load, console)?;
    let mut book = Book::new(args.goal, Setting::default_on(bounds.cores));
    let before = Worked::now();
    let (outcome, load) = search(&mut book, load, &bounds, console)?;
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(failure) => {
            // What was measured until then is worth seeing.
            for line in show::table(&show::rows(&book, None)) {
                console.line(line)?;
            }
            console.flush()?;
            return Err(failure);
        }
    };
    let rows = show::rows(&book, Some(outcome.chosen));
    let mut verdict = show::verdict(&book, outcome);
    if let Some((now, before)) = Worked::now().zip(before) {
        let percent = now.by_others_since(&before) * 100.0;
        verdict
            .push(format!("Meanwhile other programs used {percent:.0} % of this machine's CPUs."));
    }
    console.line("")?;
    for line in show::table(&rows) {
        console.line(line)?;
    }
    console.line("")?;
    for line in show::bars(&rows).iter().chain(&[String::new()]).chain(&verdict) {
        console.line(line)?;
    }
    let parts = vec![
        ("When and how", when_and_how(args, &load)),
        (
            "Host",
            facts.lines().into_iter().map(|(about, it)| format!("{about:<10} {it}")).collect(),
        ),
        ("What was measured, best first; scores are against the default", show::table(&rows)),
        ("Decision", verdict),
    ];
    let setting = book.entries[outcome.chosen].setting;
    let evidence = Evidence { setting, default: *book.default(), parts };
    let path = args.out(&facts);
    evidence.write(&path)?;
    console.line(format!("Written: {}", path.display()))?;
    if let Some(path) = &args.html {
        Page { goal: args.goal, rows: &rows, parts: &evidence.parts }.write(path)?;
        console.line(format!("Written: {}", path.display()))?;
    }
    console.flush()
}

/// The search, and the load it was made with, which holds the steady rate then.
fn search(
    book: &mut Book,
    load: Load,
    bounds: &Bounds,
    console: &mut Console,
) -> Result<(Result<Outcome, Failure>, Load), Failure> {
    let mut trials = Trials::new(console, book.goal, load)?;
    trials.calibrate(&book.default().clone())?;
    let outcome = race::run(book, &mut trials, bounds);
    Ok((outcome, trials.load))
}

fn open(args: &TuneArgs, facts: &Facts, load: &Load, console: &mut Console) -> Result<(), Failure> {
    for (about, text) in facts.lines().into_iter().take(5) {
        console.line(format!("{about:<10} {text}"))?;
    }
    console.line(format!("goal       {}", args.goal.sentence()))?;
    console.line(format!("load       {}", load.scenario.join(" ")))?;
    if facts.cpu.allowed.len() < 4 {
        console.line("clients    share the cores with the daemon, for there are few")?;
    }
    console.line(format!("budget     {} s", args.budget().as_secs()))?;
    console.line("")?;
    console.flush()
}

fn when_and_how(args: &TuneArgs, load: &Load) -> Vec<String> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let time = timestamp::format(u64::try_from(since.as_micros()).unwrap_or(0));
    let date = String::from_utf8_lossy(&time[..10]).into_owned();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let mut lines = vec![
        format!("{date}, arqonbus {VERSION}, command: arqonbus {}", words.join(" ")),
        format!("goal {}", args.goal.sentence()),
        format!("load: arqonbus bench {} {}", load.scenario.join(" "), load.clients.join(" ")),
        format!(
            "each trial: {} s measured after {} s, {} in flight at the limit{}",
            load.seconds,
            load.warmup,
            load.in_flight,
            load.rate.map_or_else(String::new, |rate| {
                format!(", {rate:.0} deliveries a second at the steady rate")
            })
        ),
    ];
    if load.clients.len() == 1 {
        lines.push("the clients shared the cores with the daemon".to_owned());
    }
    lines
}
