//! `arqonbus serve`: runs the bus.
//!
//! *Not here*: everything a bus is; that is the daemon's.

use crate::cli::failure::Failure;
use clap::Args;

/// What `serve` takes.
#[derive(Args, Debug)]
pub(super) struct ServeArgs {}

/// Runs the bus until it is told to stop.
pub(super) fn run(_args: &ServeArgs) -> Result<(), Failure> {
    Err(Failure::Refused("this build has no daemon to run".into()))
}
