//! What `bench` takes, as it is typed.
//!
//! Every scenario takes the same flags about the load, the server and the report; each adds who is
//! where. What a flag leaves out is filled in by the plan, so that a preset can say it first.

use crate::cli::bench::plan::range;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// What `bench` takes.
#[derive(Args, Debug)]
pub(in crate::cli) struct BenchArgs {
    #[command(subcommand)]
    pub(super) what: What,
}

/// A scenario, or what is done with reports.
#[derive(Subcommand, Debug)]
pub(super) enum What {
    /// A few publish, many get it.
    Fanout(FanoutArgs),
    /// Pairs of clients who answer each other.
    Pairs(PairsArgs),
    /// Many small rooms, each connection in several.
    Rooms(RoomsArgs),
    /// Connections that do nothing: how many a second, and what each costs.
    Idle(IdleArgs),
    /// All but the publishers lose their connections at once, return and recover.
    Storm(StormArgs),
    /// Some members stop reading; the others must not notice.
    Slow(SlowArgs),
    /// Everything at once: events, private messages, acks, history, joins and leaves.
    Mix(MixArgs),
    /// A scenario with fixed settings, by its number or its name.
    Preset(PresetArgs),
    /// Put two reports side by side. Differences, other plans and partial reports are told, and do not
    /// change the exit code.
    Compare(CompareArgs),
}

/// Rooms whose members are in no other.
#[derive(Args, Debug)]
pub(super) struct FanoutArgs {
    /// How many rooms.
    #[arg(long, default_value_t = 1, value_parser = range(1, 10_000))]
    pub(super) rooms: u32,
    /// Members of each room, publishers included.
    #[arg(long, default_value_t = 100, value_parser = range(2, 18_000))]
    pub(super) members: u32,
    /// How many members of each room publish.
    #[arg(long, default_value_t = 4, value_parser = range(1, 18_000))]
    pub(super) publishers: u32,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

/// Rooms of two.
#[derive(Args, Debug)]
pub(super) struct PairsArgs {
    /// How many pairs.
    #[arg(long, default_value_t = 50, value_parser = range(1, 9_000))]
    pub(super) pairs: u32,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

/// Rooms that share their members.
#[derive(Args, Debug)]
pub(super) struct RoomsArgs {
    /// How many rooms.
    #[arg(long, default_value_t = 1_000, value_parser = range(1, 100_000))]
    pub(super) rooms: u32,
    /// Members of each room, publishers included.
    #[arg(long, default_value_t = 3, value_parser = range(2, 1_000))]
    pub(super) members: u32,
    /// How many members of each room publish.
    #[arg(long, default_value_t = 1, value_parser = range(1, 1_000))]
    pub(super) publishers: u32,
    /// The connections that the rooms are spread over.
    #[arg(long, default_value_t = 300, value_parser = range(2, 18_000))]
    pub(super) connections: u32,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

/// Connections in no room.
#[derive(Args, Debug)]
pub(super) struct IdleArgs {
    /// How many.
    #[arg(long, default_value_t = 10_000, value_parser = range(1, 1_000_000))]
    pub(super) connections: u32,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

/// Rooms whose members fall and return.
#[derive(Args, Debug)]
pub(super) struct StormArgs {
    /// How many rooms.
    #[arg(long, default_value_t = 20, value_parser = range(1, 10_000))]
    pub(super) rooms: u32,
    /// Members of each room, the one that publishes included.
    #[arg(long, default_value_t = 50, value_parser = range(2, 18_000))]
    pub(super) members: u32,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

/// Rooms some of whose members stop reading.
#[derive(Args, Debug)]
pub(super) struct SlowArgs {
    /// How many rooms.
    #[arg(long, default_value_t = 1, value_parser = range(1, 10_000))]
    pub(super) rooms: u32,
    /// Members of each room, publishers and slow ones included.
    #[arg(long, default_value_t = 100, value_parser = range(3, 18_000))]
    pub(super) members: u32,
    /// How many members of each room publish.
    #[arg(long, default_value_t = 4, value_parser = range(1, 18_000))]
    pub(super) publishers: u32,
    /// How many members of each room stop reading after a third of the measured time.
    #[arg(long, default_value_t = 10, value_parser = range(1, 18_000))]
    pub(super) slow: u32,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

/// Rooms whose members also ask.
#[derive(Args, Debug)]
pub(super) struct MixArgs {
    /// How many rooms.
    #[arg(long, default_value_t = 20, value_parser = range(1, 10_000))]
    pub(super) rooms: u32,
    /// Members of each room, publishers included.
    #[arg(long, default_value_t = 10, value_parser = range(2, 18_000))]
    pub(super) members: u32,
    /// How many members of each room publish.
    #[arg(long, default_value_t = 2, value_parser = range(1, 18_000))]
    pub(super) publishers: u32,
    /// Requests a second in all: private messages, acks, history, joins, leaves, status and ping.
    #[arg(long, default_value_t = 500, value_parser = range(1, 1_000_000))]
    pub(super) requests: u32,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

/// A scenario with its settings.
#[derive(Args, Debug)]
pub(super) struct PresetArgs {
    /// Which; `list` lists them.
    #[arg(value_name = "NAME")]
    pub(super) name: String,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

/// Two reports.
#[derive(Args, Debug)]
pub(super) struct CompareArgs {
    /// The one to compare with, as --json wrote it.
    #[arg(value_name = "BEFORE.json")]
    pub(super) before: PathBuf,
    /// The other.
    #[arg(value_name = "AFTER.json")]
    pub(super) after: PathBuf,
}

/// What every scenario takes.
#[derive(Args, Debug, Clone)]
pub(super) struct CommonArgs {
    /// Closed model: so many messages in flight in all, each sent again when all its receivers have
    /// it. This is the fastest the server can go.
    #[arg(long, value_name = "N", value_parser = range(1, 1_000_000), conflicts_with = "rate")]
    #[arg(help_heading = "Load")]
    pub(super) in_flight: Option<u32>,
    /// Open model: so many deliveries a second in all, sent on schedule whatever becomes of them.
    #[arg(long, value_name = "DELIVERIES", value_parser = rate, help_heading = "Load")]
    #[arg(allow_negative_numbers = true)]
    pub(super) rate: Option<f64>,
    /// Try one rate after another, and find the highest that is borne (the knee): FROM..TO, or a list
    /// such as 100k,200k,1M.
    #[arg(long, value_name = "RATES", value_parser = crate::cli::bench::sweep::rates)]
    #[arg(help_heading = "Load", conflicts_with_all = ["rate", "in_flight", "rounds"])]
    pub(super) rate_sweep: Option<crate::cli::bench::sweep::Rates>,
    /// Between FROM and TO, so many rates, each the same multiple of the one before.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = range(2, 100))]
    #[arg(help_heading = "Load", requires = "rate_sweep")]
    pub(super) sweep_steps: u32,
    /// A rate is borne if nothing is lost and p99 stays below this.
    #[arg(long, value_name = "TIME", default_value = "10ms", help_heading = "Load")]
    #[arg(value_parser = knee_p99)]
    pub(super) knee_p99: f64,
    /// Bytes of a message's payload.
    #[arg(long, value_name = "BYTES", help_heading = "Load")]
    #[arg(value_parser = range(52, 1_000_000))]
    pub(super) payload: Option<u32>,
    /// Seconds that are measured.
    #[arg(long, value_name = "SECONDS", value_parser = duration, help_heading = "Load")]
    #[arg(allow_negative_numbers = true)]
    pub(super) duration: Option<Duration>,
    /// Seconds before that, which are not.
    #[arg(long, value_name = "SECONDS", value_parser = warmup, help_heading = "Load")]
    #[arg(allow_negative_numbers = true)]
    pub(super) warmup: Option<Duration>,
    /// What decides everything that is left to chance, but for names at a target, which are new each time.
    #[arg(long, default_value_t = 1, help_heading = "Load")]
    pub(super) seed: u64,
    /// Threads that play the clients.
    #[arg(long, default_value_t = 1, value_parser = range(1, 64), help_heading = "Load")]
    pub(super) client_threads: u32,
    /// Cores for the clients, such as 1 or 2-3.
    #[arg(long, value_name = "LIST", value_parser = crate::cli::bench::cpus::read)]
    #[arg(help_heading = "Load")]
    pub(super) client_cpus: Option<crate::cli::bench::cpus::Cpus>,
    /// Repeat so often; each round has a fresh server [default: 1, or 3 with --relay].
    #[arg(long, value_name = "N", value_parser = range(1, 100), help_heading = "Load")]
    pub(super) rounds: Option<u32>,

    /// Measure a bus that runs, instead of starting one.
    #[arg(long, value_name = "URL", env = "ARQONBUS_URL", help_heading = "Server")]
    pub(super) target: Option<String>,
    /// A token for the target.
    #[arg(long, env = "ARQONBUS_TOKEN", hide_env_values = true, help_heading = "Server")]
    pub(super) token: Option<String>,
    /// Allow a target that is not on this machine.
    #[arg(long, requires = "target", help_heading = "Server")]
    pub(super) allow_remote: bool,
    /// The target's process, if it runs here.
    #[arg(long, value_name = "PID", requires = "target", help_heading = "Server")]
    pub(super) server_pid: Option<u32>,
    /// Where the target's HTTP port is, for its counters [default: two above the bus's, if it is
    /// there].
    #[arg(long, value_name = "HOST:PORT", requires = "target", help_heading = "Server")]
    pub(super) http: Option<String>,
    /// Shards of the daemon that is started.
    #[arg(long, value_name = "N", value_parser = range(1, 256), help_heading = "Server")]
    #[arg(conflicts_with = "target")]
    pub(super) shards: Option<u32>,
    /// Whether it pins its shards: auto, on or off.
    #[arg(long, value_name = "HOW", help_heading = "Server", conflicts_with = "target")]
    pub(super) pin: Option<String>,
    /// A flag for it, such as --serve-arg=--history-size=50; may be repeated.
    #[arg(long, value_name = "ARG", allow_hyphen_values = true, help_heading = "Server")]
    #[arg(conflicts_with = "target")]
    pub(super) serve_arg: Vec<String>,
    /// Cores for the server that is started, such as 0.
    #[arg(long, value_name = "LIST", value_parser = crate::cli::bench::cpus::read)]
    #[arg(help_heading = "Server", conflicts_with = "target")]
    pub(super) daemon_cpus: Option<crate::cli::bench::cpus::Cpus>,
    /// Measure this bare relay too, in alternating rounds, as a measuring stick.
    #[arg(long, value_name = "PROGRAM", help_heading = "Server")]
    pub(super) relay: Option<PathBuf>,
    /// Seconds that a connection, or the last messages, may take.
    #[arg(long, default_value = "10", value_name = "SECONDS", help_heading = "Server")]
    #[arg(value_parser = crate::cli::target::seconds)]
    pub(super) timeout: Duration,

    /// Write the report as JSON.
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub(super) json: Option<PathBuf>,
    /// Write a line for each round as CSV.
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub(super) csv: Option<PathBuf>,
    /// Write one HTML page with plots, which needs nothing else.
    #[arg(long, value_name = "FILE", help_heading = "Report")]
    pub(super) html: Option<PathBuf>,
    /// Fail if this holds, such as p99>5ms, cpu>2us or rate<100k; may be repeated.
    #[arg(long, value_name = "CONDITION", help_heading = "Report")]
    #[arg(value_parser = crate::cli::bench::threshold::read)]
    pub(super) fail_if: Vec<crate::cli::bench::threshold::Threshold>,
}

/// The lowest rate of deliveries a second.
pub(super) const RATE_MIN: f64 = 1.0;
/// The highest.
pub(super) const RATE_MAX: f64 = 100_000_000.0;

/// Reads a rate of deliveries a second.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    let rate = crate::cli::bench::threshold::count(text).unwrap_or(f64::NAN);
    match (RATE_MIN..=RATE_MAX).contains(&rate) {
        true => Ok(rate),
        false => Err(format!("give from {RATE_MIN} to {RATE_MAX} deliveries a second")),
    }
}

/// Reads what p99 must stay below, in nanoseconds: no more than a latency that can be told.
fn knee_p99(text: &str) -> Result<f64, String> {
    crate::cli::bench::threshold::time(text)
        .ok()
        .filter(|time| (1.0..=600e9).contains(time))
        .ok_or_else(|| "give from 1ns to 600s, with the unit: ns, us, ms or s".into())
}

fn duration(text: &str) -> Result<Duration, String> {
    number(text, 0.1, 3_600.0, "seconds").map(Duration::from_secs_f64)
}

fn warmup(text: &str) -> Result<Duration, String> {
    number(text, 0.0, 600.0, "seconds").map(Duration::from_secs_f64)
}

/// A number within bounds.
fn number(text: &str, least: f64, most: f64, what: &str) -> Result<f64, String> {
    text.parse::<f64>()
        .ok()
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| format!("give from {least} to {most} {what}"))
}

#[cfg(test)]
impl What {
    /// What these words of a command line say, presets expanded.
    pub(super) fn of_words(words: &str) -> Result<What, crate::cli::failure::Failure> {
        use crate::cli::failure::Failure;
        use clap::Parser;
        #[derive(Parser)]
        struct Typed {
            #[command(subcommand)]
            what: What,
        }
        let words = ["bench"].into_iter().chain(words.split(' '));
        let typed =
            Typed::try_parse_from(words).map_err(|error| Failure::Usage(error.to_string()))?;
        Ok(typed.what.expanded()?.unwrap_or(typed.what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_can_not_be_are_refused_with_the_range() {
        assert_eq!(rate("50_000"), Ok(50_000.0));
        assert_eq!(duration("0.5"), Ok(Duration::from_millis(500)));
        for (answer, range) in [
            (rate("0").map(drop), "from 1 to 100000000"),
            (rate("inf").map(drop), "from 1 to"),
            (rate("nan").map(drop), "from 1 to"),
            (duration("0").map(drop), "from 0.1 to 3600"),
            (duration("1e9").map(drop), "from 0.1 to 3600"),
            (warmup("-1").map(drop), "from 0 to 600"),
            (knee_p99("0ms").map(drop), "from 1ns to 600s"),
            (knee_p99("601s").map(drop), "from 1ns to 600s"),
            (knee_p99("5").map(drop), "from 1ns to 600s"),
            (crate::cli::target::seconds("0").map(drop), "from 0.001 to 86400"),
            (crate::cli::target::seconds("1e30").map(drop), "from 0.001 to 86400"),
            (crate::cli::target::seconds("nan").map(drop), "from 0.001 to 86400"),
        ] {
            let told = answer.unwrap_err();
            assert!(told.contains(range), "{told}");
        }
    }
}
