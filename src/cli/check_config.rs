//! `arqonbus check-config`: says what is wrong with a configuration file before a bus runs with it.
//!
//! *Not here*: what a configuration is; that is the daemon's.

use crate::cli::failure::Failure;
use clap::Args;
use std::path::PathBuf;

/// What `check-config` takes.
#[derive(Args, Debug)]
pub(super) struct CheckConfigArgs {
    /// The configuration file, TOML.
    file: PathBuf,
}

/// Checks the file.
pub(super) fn run(args: &CheckConfigArgs) -> Result<(), Failure> {
    let file = args.file.display();
    Err(Failure::Refused(format!("{file}: this build has no daemon to check it for")))
}
