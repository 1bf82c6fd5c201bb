//! `arqonbus serve`: runs the bus.
//!
//! *Not here*: everything a bus is; that is the daemon's.

use crate::cli::console;
use crate::cli::failure::Failure;
use crate::daemon::config::{self, Mistake, ServeArgs};
use crate::daemon::serve::{ServeError, serve};
use std::io::Write;

/// Runs the bus until it is told to stop, or prints the configuration it would run with.
pub(super) fn run(args: &ServeArgs) -> Result<(), Failure> {
    if args.print_config {
        let loaded = config::load(args, config::environment).map_err(|all| told(&all))?;
        let text = config::print_config(&loaded);
        return std::io::stdout()
            .write_all(text.as_bytes())
            .map_err(|error| Failure::of_output(&error));
    }
    serve(args).map_err(|error| match error {
        ServeError::Config(mistakes) => told(&mistakes),
        error => {
            console::tell_in_time(format!("arqonbus: {error}"));
            Failure::Incomplete
        }
    })
}

/// Tells every mistake in a line of its own, as `check-config` does.
fn told(mistakes: &[Mistake]) -> Failure {
    let lines: Vec<String> = mistakes.iter().map(|it| format!("arqonbus: {it}")).collect();
    console::tell_in_time(lines.join("\n"));
    Failure::Misconfigured
}
