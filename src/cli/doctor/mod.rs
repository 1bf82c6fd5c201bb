//! `arqonbus doctor`: says what on this machine will hurt a bus, and how to mend it.
//!
//! | file | what |
//! |---|---|
//! | `finding` | what a check finds, and how bad it is |
//! | `checks` | the table of checks; each check is a small function |
//!
//! *Invariants*: nothing is changed, and nothing is measured but the clock of Redis: it reads the machine
//! and the configuration, and judges one by the other.
//!
//! *Not here*: what the facts are; that is `machine`'s.

mod checks;
mod finding;

use crate::cli::console::{self, Console};
use crate::cli::doctor::checks::Case;
use crate::cli::doctor::finding::{Finding, Severity};
use crate::cli::failure::Failure;
use crate::cli::machine::Facts;
use crate::daemon::config::{self, ServeArgs, Source};
use crate::daemon::host::Host;
use crate::daemon::storage::compare_clocks;
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;

/// What `doctor` takes.
#[derive(Args, Debug)]
pub(super) struct DoctorArgs {
    /// The configuration file, TOML, that the machine is judged for; the environment counts, too.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'r> {
    worst: Severity,
    findings: &'r [Finding],
    host: &'r Facts,
}

/// Examines this machine; a problem is a failure.
pub(super) fn run(args: &DoctorArgs, console: &mut Console) -> Result<(), Failure> {
    // The facts come first: whoever loads a configuration raises the limit of descriptors.
    let case = case(Facts::survey(), args)?;
    let findings = checks::examine(&case);
    let worst = findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Ok);
    if args.json {
        let report = Report { worst, findings: &findings, host: &case.facts };
        let text = serde_json::to_string_pretty(&report)
            .map_err(|error| Failure::Refused(format!("cannot write the report: {error}")))?;
        console.line(text)?;
    } else {
        print(&case, &findings, console)?;
    }
    console.flush()?;
    if worst == Severity::Problem { Err(Failure::Incomplete) } else { Ok(()) }
}

/// The machine, and what the daemon would run with on it.
fn case(facts: Facts, args: &DoctorArgs) -> Result<Case, Failure> {
    let typed = args.config.as_deref().map(ServeArgs::of_file).unwrap_or_default();
    // Whether the connections fit the descriptors is a check of its own here.
    let host = Host { cores: facts.cpu.for_daemon(), descriptors: None, ..Host::anywhere() };
    let loaded = config::load_on(&host, &typed, config::environment).map_err(|mistakes| {
        for mistake in &mistakes {
            console::tell(format_args!("arqonbus: {mistake}"));
        }
        Failure::Misconfigured
    })?;
    let asks_for_connections = *loaded.source("limits.max_connections") != Source::Default;
    let redis_clock = compare_clocks(&loaded.config);
    Ok(Case { facts, config: loaded.config, asks_for_connections, redis_clock })
}

fn print(case: &Case, findings: &[Finding], console: &mut Console) -> Result<(), Failure> {
    for (about, text) in case.facts.lines() {
        console.line(format!("{about:<10} {text}"))?;
    }
    console.line("")?;
    let mut worst_first: Vec<&Finding> = findings.iter().collect();
    worst_first.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    for finding in worst_first {
        for line in finding.lines(console.is_terminal) {
            console.line(line)?;
        }
    }
    console.line("")?;
    console.line(tally(findings))
}

/// How many there are of each severity.
fn tally(findings: &[Finding]) -> String {
    let parts: Vec<String> = Severity::ALL
        .iter()
        .rev()
        .map(|severity| {
            let count = findings.iter().filter(|finding| finding.severity == *severity).count();
            let plural = if count == 1 || *severity == Severity::Ok { "" } else { "s" };
            format!("{count} {}{plural}", severity.as_str())
        })
        .collect();
    parts.join(", ")
}
