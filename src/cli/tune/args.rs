//! What `tune` takes.

use crate::cli::machine::Facts;
use crate::cli::tune::goal::Goal;
use crate::cli::tune::trial::Load;
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// The budgets without and with `--quick`.
const BUDGET: Duration = Duration::from_secs(900);
const BUDGET_QUICK: Duration = Duration::from_secs(120);
/// The CPUs from which on the generator gets some for itself.
const CPUS_TO_SHARE: usize = 4;

/// What `tune` takes.
#[derive(Args, Debug)]
pub(in crate::cli) struct TuneArgs {
    /// What the setting shall be best for.
    #[arg(long, value_enum, default_value_t = Goal::Balanced)]
    pub(super) goal: Goal,
    /// Seconds all of it may take [default: 900, or 120 with --quick].
    #[arg(long, value_name = "SECONDS", value_parser = budget)]
    pub(super) budget: Option<Duration>,
    /// A sweep of two minutes.
    #[arg(long)]
    pub(super) quick: bool,
    /// What this kind of machine is called [default: made from its cores].
    #[arg(long, value_name = "NAME", value_parser = name)]
    pub(super) name: Option<String>,
    /// Where the configuration is written [default: tuning/hosts/NAME.toml].
    #[arg(long, value_name = "FILE")]
    pub(super) out: Option<PathBuf>,
    /// Measure what the parts of a message's way cost here, and predict what more shards would do,
    /// instead of looking for a setting.
    #[arg(long, conflicts_with_all = ["goal", "budget", "quick", "out", "html"])]
    pub(super) model: bool,
    /// Write a page with plots, too.
    #[arg(long, value_name = "FILE")]
    pub(super) html: Option<PathBuf>,

    /// What the clients do: a scenario of `bench`, with its flags.
    #[arg(long, value_name = "SCENARIO", help_heading = "Load")]
    #[arg(default_value = "fanout --rooms 20 --members 10 --publishers 1 --payload 128")]
    pub(super) load: String,
    /// Messages in flight when the daemon is measured at its limit.
    #[arg(long, value_name = "N", default_value_t = 80, help_heading = "Load")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) in_flight: u32,
    /// Deliveries a second when it is measured at a steady rate [default: 30 % of what the default
    /// setting can bear].
    #[arg(long, value_name = "DELIVERIES", value_parser = rate, help_heading = "Load")]
    pub(super) rate: Option<f64>,
    /// Cores for the clients, such as 6-7 [default: the last quarter of four or more].
    #[arg(long, value_name = "LIST", help_heading = "Load")]
    pub(super) client_cpus: Option<String>,
}

impl TuneArgs {
    /// The time all of it may take.
    pub(super) fn budget(&self) -> Duration {
        self.budget.unwrap_or(if self.quick { BUDGET_QUICK } else { BUDGET })
    }

    /// What the clients do, and how many shards they leave room for.
    pub(super) fn load(&self, facts: &Facts) -> (Load, u16) {
        let cpus: Vec<u32> = facts.cpu.allowed.iter().collect();
        let usable = facts.cpu.for_daemon().shards();
        let kept = if cpus.len() < CPUS_TO_SHARE { 0 } else { cpus.len() / 4 };
        let last = &cpus[cpus.len() - kept..];
        let own = self.client_cpus.clone().or_else(|| {
            let list: Vec<String> = last.iter().map(u32::to_string).collect();
            (!list.is_empty()).then(|| list.join(","))
        });
        let threads = kept.clamp(1, 64);
        let mut clients = vec![format!("--client-threads={threads}")];
        clients.extend(own.map(|list| format!("--client-cpus={list}")));
        let is_short = self.budget() < Duration::from_secs(300);
        let load = Load {
            scenario: self.load.split_whitespace().map(str::to_owned).collect(),
            in_flight: self.in_flight,
            rate: self.rate,
            seconds: if is_short { 1.0 } else { 2.0 },
            warmup: if is_short { 0.3 } else { 0.5 },
            clients,
        };
        let kept = u16::try_from(kept).unwrap_or(0);
        (load, usable.saturating_sub(kept).max(1))
    }

    /// Where the configuration is written.
    pub(super) fn out(&self, facts: &Facts) -> PathBuf {
        let name = self.name.clone().unwrap_or_else(|| kind_of(facts));
        self.out.clone().unwrap_or_else(|| format!("tuning/hosts/{name}.toml").into())
    }
}

/// What a machine is called that nobody gave a name: `two-core-vm`, `64-core-metal`.
fn kind_of(facts: &Facts) -> String {
    const WORDS: [&str; 9] = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight"];
    let usable = facts.cpu.for_daemon().usable();
    let count = WORDS.get(usable as usize).map_or_else(|| usable.to_string(), |&it| it.to_owned());
    format!("{count}-core-{}", if facts.cpu.is_virtual { "vm" } else { "metal" })
}

fn name(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    match !text.is_empty() && !text.starts_with('.') && text.chars().all(is_plain) {
        true => Ok(text.to_owned()),
        false => Err("give letters, digits, dots and dashes, such as two-core-vm".to_owned()),
    }
}

fn budget(text: &str) -> Result<Duration, String> {
    within(text, 30.0, 86_400.0, "seconds").map(Duration::from_secs_f64)
}

fn rate(text: &str) -> Result<f64, String> {
    within(text, 1.0, 100_000_000.0, "deliveries a second")
}

fn within(text: &str, least: f64, most: f64, what: &str) -> Result<f64, String> {
    text.replace('_', "")
        .parse::<f64>()
        .ok()
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| format!("give from {least} to {most} {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::machine::made_up;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: TuneArgs,
    }

    fn typed(words: &[&str]) -> Result<TuneArgs, String> {
        let line = Line::try_parse_from([&["tune"], words].concat());
        line.map(|line| line.args).map_err(|error| error.to_string())
    }

    #[test]
    fn clients_get_cores_where_there_are_enough() {
        let mut facts = made_up::server();
        facts.cpu.quota = None;
        let args = typed(&[]).unwrap();
        let (load, shards) = args.load(&facts);
        assert_eq!(load.clients, ["--client-threads=1", "--client-cpus=5"]);
        assert_eq!(shards, 5);
        assert_eq!(args.out(&facts), PathBuf::from("tuning/hosts/six-core-metal.toml"));
        facts.cpu.allowed = "0-1".parse().unwrap();
        let (load, shards) = args.load(&facts);
        assert_eq!((&load.clients[..], shards), (&["--client-threads=1".to_owned()][..], 2));
    }

    #[test]
    fn what_can_not_be_is_refused_with_the_range() {
        for (words, says) in [
            (&["--budget", "5"][..], "from 30 to 86400"),
            (&["--rate", "0"], "from 1 to"),
            (&["--name", "../x"], "letters, digits"),
            (&["--in-flight", "0"], "1..=1000000"),
            (&["--goal", "fame"], "latency"),
        ] {
            let error = typed(words).unwrap_err();
            assert!(error.contains(says), "{words:?}: {error}");
        }
        assert_eq!(typed(&["--quick"]).unwrap().budget(), BUDGET_QUICK);
        assert_eq!(typed(&["--quick", "--budget=60"]).unwrap().budget(), Duration::from_secs(60));
    }
}
