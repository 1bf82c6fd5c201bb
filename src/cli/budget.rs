//! `arqonbus budget`: what each client may cost a bus with this configuration.
//!
//! *Not here*: the table itself; that is [`base::budget`](crate::base::budget).

use crate::base::budget;
use crate::cli::console::Console;
use crate::cli::failure::Failure;
use crate::daemon::config::{self, ServeArgs};
use clap::Args;
use std::path::PathBuf;

/// What `budget` takes.
#[derive(Args, Debug)]
pub(super) struct BudgetArgs {
    /// The configuration file, TOML; without it, the defaults and the environment.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Prints the page.
pub(super) fn run(args: &BudgetArgs, console: &mut Console) -> Result<(), Failure> {
    let serve = args.config.as_deref().map(ServeArgs::of_file).unwrap_or_default();
    let loaded = config::load(&serve, config::environment).map_err(|mistakes| {
        for mistake in &mistakes {
            eprintln!("arqonbus: {mistake}");
        }
        Failure::Misconfigured
    })?;
    let page = budget::page(&loaded.config.limits);
    console.out.write_all(page.as_bytes()).map_err(|error| Failure::of_output(&error))?;
    console.flush()
}
