//! The simulator: many shards in one thread, virtual time, one seeded choice per step.
//!
//! An engine is a pure machine, so a second driver can run any number of them: [`world`] is that
//! driver, with queues for lanes and sockets. [`peer`] is a client's end of a socket, [`actions`]
//! is what clients do, [`conn`] is what a client may conclude from what it hears, [`model`] what all
//! of them together know, [`rest`] how a run ends, and [`sabotage`] plants bugs, to see that they
//! are noticed. [`storage`] keeps what homes record, and outlives them. [`nodes`] runs several nodes, whose
//! engines are worlds of their own, over [`shared`], a played Redis. [`crossing`] counts what goes between
//! shards.
//!
//! - `SIM_SEED=n` runs just one seed; with `SIM_TRACE=1` it prints every choice, with `SIM_BUG=name` it
//!   plants that bug.
//! - `SIM_SEEDS=count` runs as many, from `SIM_FIRST=n` on.
//! - `SIM_BUG_SEEDS=count` is for how many seeds a planted bug may go unnoticed; `SIM_BUG=name`
//!   plants that one alone.
//! - With `NODES_` in place of `SIM_` they are for several nodes.
//!
//! *Invariant*: a run depends on its seed alone.
//!
//! *Not here*: the real driver, its threads and its sockets; tests of the whole daemon have those.

#![allow(clippy::unwrap_used, missing_docs, reason = "a simulator panics where it finds a bug")]
#![allow(unreachable_pub, reason = "a test has no interface")]

mod actions;
mod conn;
mod crossing;
mod model;
mod nodes;
mod peer;
mod rest;
mod sabotage;
mod setup;
mod shared;
mod sim;
mod storage;
mod trace;
mod world;

use nodes::Nodes;
use sabotage::Bug;
use sim::{Report, Sim};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;

/// Threads that run seeds.
const THREADS: u64 = 2;

/// What clients must have met in the seeds that run if nobody says otherwise: a simulator that
/// never gets there finds nothing there.
const MUST_SEE: &[&str] = &[
    "closed 1000",
    "closed 1001",
    "closed 1002",
    "closed 1003",
    "closed 1007",
    "closed 1008",
    "closed 1009",
    "closed 1013",
    "too large with a reason",
    "turned away with a reason",
    "closed 4008",
    "closed 4010",
    "closed 4013",
    "refused 400",
    "refused 409",
    "refused 503",
    "event granted",
    "event STORAGE_UNAVAILABLE",
    "event STORAGE_LOST",
    "event ROOM_PAUSED",
    "event CHANNEL_NOT_FOUND",
    "trace with a hop missing",
    "join ALREADY_JOINED",
    "join MEMBER_LIMIT",
    "private granted",
    "private TARGET_NOT_FOUND",
    "identify granted",
    "history granted",
    "recovered some",
    "not recovered epoch_changed",
    "not recovered history_overrun",
    "not recovered too_many_bytes",
    "the node died",
    "recovered after a death",
    "a repeat after a death",
    "not recovered after a death",
    "a node began without what was kept",
    "an order was changed",
    "a repeat of what was kept went",
    "notice gap",
    "notice left",
];

/// The same where there are several nodes.
const NODES_MUST_SEE: &[&str] = &[
    "nodes: a node was cut off",
    "nodes: a link was made anew",
    "nodes: an answer was lost",
    "nodes: a node was killed",
    "nodes: a node was ended",
    "nodes: a node stood still",
    "nodes: refused 409",
    "nodes: private",
    "nodes: event granted",
    "nodes: event STORAGE_UNAVAILABLE",
    "nodes: event STORAGE_LOST",
    "nodes: private granted",
    "nodes: private TARGET_NOT_FOUND",
    "nodes: recovered some",
    "nodes: not recovered history_overrun",
    "nodes: notice gap",
    "nodes: notice joined",
    "nodes: notice left",
    "nodes: closed 4013",
    "nodes: returned",
];

thread_local! {
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// One simulation: of one node, or of several.
#[derive(Clone, Copy)]
struct Kind {
    /// What its variables begin with.
    name: &'static str,
    /// How one seed is replayed.
    replay: &'static str,
    /// How many seeds run if nobody says otherwise.
    seeds: u64,
    /// For how many seeds a planted bug may go unnoticed.
    bug_seeds: u64,
    bugs: &'static [Bug],
    must_see: &'static [&'static str],
    run: fn(u64, Option<Bug>, bool) -> Report,
}

const ONE: Kind = Kind {
    name: "SIM",
    replay: "make sim SEED",
    seeds: 1_000,
    bug_seeds: 1_500,
    bugs: &Bug::ALL,
    must_see: MUST_SEE,
    run: |seed, bug, is_traced| Sim::new(seed, bug, is_traced).run(),
};

const SEVERAL: Kind = Kind {
    name: "NODES",
    replay: "make sim-nodes SEED",
    seeds: 150,
    bug_seeds: 200,
    bugs: &Bug::OF_NODES,
    must_see: NODES_MUST_SEE,
    run: |seed, bug, is_traced| Nodes::new(seed, bug, is_traced).run(),
};

#[test]
fn every_seed_keeps_the_rules() {
    run_seeds(ONE);
}

#[test]
fn every_seed_keeps_the_rules_of_several_nodes() {
    run_seeds(SEVERAL);
}

#[test]
fn a_seed_says_it_all() {
    for kind in [ONE, SEVERAL] {
        for seed in 1..12 {
            let (one, other) =
                (run(kind, seed, None, false).unwrap(), run(kind, seed, None, false).unwrap());
            assert_eq!(one.hash, other.hash, "two runs of the seed {seed} differ");
        }
    }
}

#[test]
fn planted_bugs_are_caught() {
    find_bugs(ONE);
}

#[test]
fn planted_bugs_of_several_nodes_are_caught() {
    find_bugs(SEVERAL);
}

fn run_seeds(kind: Kind) {
    if let Some(seed) = kind.variable("SEED") {
        println!("seed {seed}");
        match run(kind, seed, kind.bug(), kind.variable("TRACE") == Some(1)) {
            Ok(report) => println!("seed {seed}: {report:?}"),
            Err(why) => panic!("seed {seed}: {why}"),
        }
        return;
    }
    let (first, count) =
        (kind.variable("FIRST").unwrap_or(1), kind.variable("SEEDS").unwrap_or(kind.seeds));
    let next = AtomicU64::new(first);
    let work = || {
        let (mut sum, mut failures) = (Report::default(), Vec::new());
        loop {
            let seed = next.fetch_add(1, Relaxed);
            if seed >= first + count {
                return (sum, failures);
            }
            match run(kind, seed, None, false) {
                Ok(report) => sum.add(report),
                Err(why) => {
                    println!("seed {seed}: {why}\n    {}={seed}", kind.replay);
                    failures.push(seed);
                }
            }
        }
    };
    let (mut sum, mut failures) = (Report::default(), Vec::new());
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            let (report, failed) = thread.join().unwrap();
            sum.add(report);
            failures.extend(failed);
        }
    });
    for (what, times) in &sum.seen {
        println!("{times:>9} {what}");
    }
    let Report { steps, turns, texts, events, .. } = &sum;
    println!(
        "{count} seeds from {first}: {steps} steps, {turns} turns, {events} events sent, \
         {texts} messages received"
    );
    let is_usual = (first, count) == (1, kind.seeds);
    let unseen = kind.must_see.iter().find(|what| !sum.seen.contains_key(**what));
    failures.sort_unstable();
    assert!(failures.is_empty(), "{} seeds failed: {failures:?}", failures.len());
    assert!(!is_usual || unseen.is_none(), "nobody met {unseen:?}");
}

fn find_bugs(kind: Kind) {
    let seeds = kind.variable("BUG_SEEDS").unwrap_or(kind.bug_seeds);
    let mut missed = Vec::new();
    let only = std::env::var(format!("{}_BUG", kind.name)).ok();
    let is_wanted = |bug: &Bug| only.as_ref().is_none_or(|name| format!("{bug:?}") == *name);
    for bug in kind.bugs.iter().copied().filter(is_wanted) {
        let mut caught_by: BTreeMap<String, u64> = BTreeMap::new();
        let mut first = None;
        for seed in 1..=seeds {
            if let Err(why) = run(kind, seed, Some(bug), false) {
                let rule = why.split(']').next().unwrap_or("").trim_start_matches('[').to_owned();
                *caught_by.entry(rule).or_default() += 1;
                first.get_or_insert(seed);
                if caught_by.values().sum::<u64>() >= 3 {
                    break;
                }
            }
        }
        println!("{bug:?}: first caught with seed {first:?}, by {caught_by:?}");
        if first.is_none() {
            missed.push(bug);
        }
    }
    assert!(missed.is_empty(), "nobody noticed {missed:?} within {seeds} seeds");
}

/// Runs one seed; what went wrong, if anything did.
fn run(kind: Kind, seed: u64, bug: Option<Bug>, is_traced: bool) -> Result<Report, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let default = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let is_simulated = PANIC.with_borrow(|text| text == "running");
            if !is_simulated {
                return default(info);
            }
            let message = info.payload_as_str().unwrap_or("no message").to_owned();
            let place = info.location().map(|place| format!("{}:{}", place.file(), place.line()));
            PANIC.set(format!("{message} ({})", place.unwrap_or_default()));
        }));
    });
    PANIC.set("running".to_owned());
    let result = panic::catch_unwind(AssertUnwindSafe(|| (kind.run)(seed, bug, is_traced)));
    let text = PANIC.take();
    result.map_err(|_| text)
}

impl Kind {
    fn variable(&self, name: &str) -> Option<u64> {
        variable(&format!("{}_{name}", self.name))
    }

    /// The bug that is planted where one seed is replayed.
    fn bug(&self) -> Option<Bug> {
        let name = std::env::var(format!("{}_BUG", self.name)).ok()?;
        self.bugs.iter().copied().find(|bug| format!("{bug:?}") == name)
    }
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
