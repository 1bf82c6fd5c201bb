//! `arqonbus completions`: what a shell needs to complete this program's command lines.

use crate::cli::console::Console;
use crate::cli::failure::Failure;
use clap::{Args, Command};
use clap_complete::Shell;

/// What `completions` takes.
#[derive(Args, Debug)]
pub(super) struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

/// Prints the script for a shell. `command` is the whole command line.
pub(super) fn run(
    args: &CompletionsArgs,
    mut command: Command,
    console: &mut Console,
) -> Result<(), Failure> {
    // Written to memory first: the generator panics when its writer fails.
    let mut script = Vec::new();
    let name = command.get_name().to_owned();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    console.out.write_all(&script).map_err(|error| Failure::of_output(&error))?;
    console.flush()
}
