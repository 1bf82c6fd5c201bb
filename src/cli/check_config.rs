//! `arqonbus check-config`: says what is wrong with a configuration file before a bus runs with it.
//!
//! *Not here*: what a configuration is; that is the daemon's.

use crate::cli::console;
use crate::cli::failure::Failure;
use crate::daemon::config::check_file;
use clap::Args;
use std::io::Write;
use std::path::PathBuf;

/// What `check-config` takes.
#[derive(Args, Debug)]
pub(super) struct CheckConfigArgs {
    /// The configuration file, TOML.
    file: PathBuf,
}

/// Checks the file: a line for each mistake, as compilers write them.
pub(super) fn run(args: &CheckConfigArgs) -> Result<(), Failure> {
    match check_file(&args.file) {
        Ok(summary) => {
            writeln!(std::io::stdout(), "{summary}").map_err(|error| Failure::of_output(&error))
        }
        Err(mistakes) => {
            for mistake in &mistakes {
                console::tell(mistake);
            }
            Err(Failure::Misconfigured)
        }
    }
}
