//! `arqonbus doctor`: says what this machine is.
//!
//! *Not here*: what the facts are; that is `machine`'s.

use crate::cli::console::Console;
use crate::cli::failure::Failure;
use crate::cli::machine::Facts;
use clap::Args;

/// What `doctor` takes.
#[derive(Args, Debug)]
pub(super) struct DoctorArgs {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Prints the facts.
pub(super) fn run(args: &DoctorArgs, console: &mut Console) -> Result<(), Failure> {
    let facts = Facts::survey();
    if args.json {
        let text = serde_json::to_string_pretty(&facts)
            .map_err(|error| Failure::Refused(format!("cannot write the facts: {error}")))?;
        console.line(text)?;
    } else {
        for (about, text) in facts.lines() {
            console.line(format!("{about:<10} {text}"))?;
        }
    }
    console.flush()
}
