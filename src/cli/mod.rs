//! The commands a person types. Those that talk to a bus are clients of it like any other: they
//! speak the protocol over a WebSocket, and know nothing of how a bus is built.
//!
//! | file | what |
//! |---|---|
//! | `subscribe` `publish` `history` `status` `ping` `completions` `serve` `check_config` `budget` `doctor` | a command each: what it takes, what it does |
//! | `bench` `tune` | a load generator, with clients of its own; what finds the best settings with it |
//! | `follow` `stream` `window` `session` `asking` `compose` | pure machines: what was seen, what was accepted, when to come back, what is asked, what is sent |
//! | `dial` `handshake` `wire` `ask` | connections: again, opened, used, for one question |
//! | `reactor` `console` `input` `source` `printer` | waiting, telling, reading lines, making messages of them, writing lines |
//! | `child` | what a process that was started here says |
//! | `place` | whether a file can be written where it is wanted |
//! | `machine` | what the machine is that all this runs on |
//! | `target` `words` `failure` `trace` | where the bus is, what is said, why it failed, which way it went |
//!
//! *Invariant*: every way a command can end has its exit code in the table of `failure`.
//!
//! *Not here*: shards and brokers. Only `serve`, `check-config`, `budget`, `doctor` and `tune` reach into the daemon.

mod ask;
mod asking;
mod bench;
mod budget;
mod check_config;
mod child;
mod completions;
mod compose;
mod console;
mod dial;
mod doctor;
mod failure;
mod follow;
mod handshake;
mod history;
mod input;
mod machine;
mod ping;
mod place;
mod printer;
mod publish;
mod reactor;
mod seen;
mod serve;
mod session;
mod source;
mod status;
mod stream;
mod subscribe;
mod target;
#[cfg(test)]
mod tests;
mod trace;
mod tune;
mod window;
mod wire;
mod words;

use crate::cli::console::Console;
use crate::cli::failure::{EXIT_CODES, Failure};
use crate::cli::reactor::Reactor;
use crate::daemon::config::ServeArgs;
use clap::{CommandFactory, Parser, Subcommand};
use std::process::ExitCode;

const EXAMPLES: &str = "\
Examples:
  arqonbus sub science:general
  arqonbus sub --payload --history 10 'science:*'
  arqonbus pub science:general '{\"text\": \"hello\"}'
  tail -f app.log | arqonbus pub --lines logs:app
  arqonbus pub --type private --target ann science:general '{\"text\": \"psst\"}'
  arqonbus history science:general -n 20
  arqonbus status
  arqonbus ping -c 10";

/// ArqonBus: a real-time message bus over WebSocket, and its clients.
#[derive(Parser, Debug)]
#[command(name = "arqonbus", version, arg_required_else_help = true)]
#[command(after_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the bus.
    Serve(Box<ServeArgs>),
    /// Print what is said in channels, one message a line.
    ///
    /// A connection that is lost is made again, and what was missed meanwhile is printed first; if
    /// that can't be done, standard error says what may be missed. Messages sent to a whole room
    /// at once (channel *) are caught up with only by ROOM:*.
    #[command(after_help = "\
Examples:
  arqonbus sub science:general science:share
  arqonbus sub --pretty 'science:*'
  arqonbus sub --history 5 --count 5 --payload science:general")]
    Sub(Box<subscribe::SubArgs>),
    /// Give messages to a channel, and wait until the bus has them.
    ///
    /// After a lost connection whatever was not answered is sent again with the same id and in the
    /// same order, and the bus leaves out what it has already. Only while a bus refuses messages
    /// for being too many can those already on their way overtake the refused one; from there on
    /// they go one by one.
    #[command(after_help = "\
Examples:
  arqonbus pub science:general '{\"text\": \"hello\"}'
  seq 1000 | arqonbus pub --lines science:general
  arqonbus pub --lines --json science:general < messages.jsonl
  arqonbus pub --type private --target ann,bob science:general '{\"text\": \"psst\"}'")]
    Pub(Box<publish::PubArgs>),
    /// Print what was said in a channel before.
    #[command(after_help = "\
Examples:
  arqonbus history science:general -n 20
  arqonbus history science:general --since 2025-11-30T12:00:00Z --payload
  arqonbus history science:general --after 57 -n 1000")]
    History(Box<history::HistoryArgs>),
    /// Print what the bus is and how much it does.
    Status(status::StatusArgs),
    /// Measure how long a question to the bus and its answer take.
    Ping(ping::PingArgs),
    /// Load a bus the way its users would, and check every message.
    #[command(after_help = "\
Examples:
  arqonbus bench fanout --members 100 --publishers 4 --in-flight 32
  arqonbus bench fanout --rooms 10 --members 10 --publishers 1 --rate 50_000
  arqonbus bench pairs --pairs 50 --json pairs.json")]
    Bench(Box<bench::BenchArgs>),
    /// Find the setting that suits this machine.
    ///
    /// Settings are measured in interleaved rounds with the bundled load generator: first how many
    /// shards and whether they are pinned, then how long they spin, then what a turn may take. After
    /// each rung of rounds the worse half leaves. In the end the best, the runner-up and the default
    /// meet again. A difference counts if it is larger than three standard errors of the rounds'
    /// median, and 2 % at least; otherwise the simpler setting is chosen.
    #[command(after_help = "\
Examples:
  arqonbus tune --quick --goal latency
  arqonbus tune --goal throughput --budget 1800 --html tune.html
  arqonbus tune --load 'fanout --rooms 1 --members 1000' --name my-kind-of-host")]
    Tune(Box<tune::TuneArgs>),
    /// Check a configuration file.
    CheckConfig(check_config::CheckConfigArgs),
    /// Print what one client may cost: weights, bounds, what happens there, which metric tells.
    Budget(budget::BudgetArgs),
    /// Say what on this machine will hurt a bus, and how to mend it.
    ///
    /// The machine is judged by what the daemon would run with: by the defaults, or by a
    /// configuration file. Nothing is changed. Ends with exit code 1 if there is a problem.
    #[command(after_help = "\
Examples:
  arqonbus doctor
  arqonbus doctor --config /etc/arqonbus/arqonbus.toml
  arqonbus doctor --json | jq -r '.findings[] | select(.severity != \"ok\") | .fix'")]
    Doctor(doctor::DoctorArgs),
    /// Print the completion script of a shell.
    Completions(completions::CompletionsArgs),
}

/// Does what the command line of this process says.
pub fn run() -> ExitCode {
    let typed = match CommandLine::try_parse() {
        Ok(typed) => typed,
        Err(error) => {
            // Nobody is left to be told that nobody can be told.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let reactor = match Reactor::new() {
        Ok(reactor) => reactor,
        Err(error) => {
            console::tell(format_args!("arqonbus: cannot wait for sockets: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let mut console = Console::of_process(reactor);
    let outcome = listen_to_signals(&typed.command, &console)
        .and_then(|()| execute(typed.command, &mut console));
    ExitCode::from(conclude(outcome, &mut console))
}

/// A command that has a connection to close must hear of signals. The others may just die of them,
/// and the daemon has its own way to listen.
fn listen_to_signals(command: &Command, console: &Console) -> Result<(), Failure> {
    match command {
        Command::Serve(_)
        | Command::CheckConfig(_)
        | Command::Budget(_)
        | Command::Doctor(_)
        | Command::Completions(_) => Ok(()),
        Command::Sub(_)
        | Command::Pub(_)
        | Command::History(_)
        | Command::Status(_)
        | Command::Ping(_)
        | Command::Bench(_)
        | Command::Tune(_) => console
            .reactor
            .listen_to_signals()
            .map_err(|error| Failure::Refused(format!("cannot listen to signals: {error}"))),
    }
}

/// Tells why a command failed, if it did and was not told; gives the exit code.
fn conclude(outcome: Result<(), Failure>, console: &mut Console) -> u8 {
    let Err(failure) = outcome else {
        return 0;
    };
    // What another program said may have several lines.
    for line in failure.sentence().into_iter().flat_map(str::lines) {
        console.note(line);
    }
    failure.exit_code()
}

fn execute(command: Command, console: &mut Console) -> Result<(), Failure> {
    match command {
        Command::Serve(args) => serve::run(&args),
        Command::CheckConfig(args) => check_config::run(&args),
        Command::Budget(args) => budget::run(&args, console),
        Command::Doctor(args) => doctor::run(&args, console),
        Command::Completions(args) => completions::run(&args, CommandLine::command(), console),
        Command::Sub(args) => subscribe::run(&args, console),
        Command::Pub(args) => publish::run(&args, console),
        Command::History(args) => history::run(&args, console),
        Command::Status(args) => status::run(&args, console),
        Command::Ping(args) => ping::run(&args, console),
        Command::Bench(args) => bench::run(&args, console),
        Command::Tune(args) => tune::run(&args, console),
    }
}
