//! `arqonbus status`: what the bus is and how much it does.

use crate::cli::ask::with_bus;
use crate::cli::console::Console;
use crate::cli::failure::Failure;
use crate::cli::target::ConnectArgs;
use clap::Args;
use serde_json::{Map, Value, json};

/// What a person wants to see first, in this order; whatever else the bus tells follows.
const FIRST: [&str; 11] = [
    "server",
    "version",
    "node",
    "uptime_s",
    "shards",
    "clients",
    "rooms",
    "channels",
    "messages_in",
    "messages_out",
    "storage",
];

/// What `status` takes.
#[derive(Args, Debug)]
pub(super) struct StatusArgs {
    /// Print the bus's answer as one line of JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connect: ConnectArgs,
}

/// Prints the bus's status.
pub(super) fn run(args: &StatusArgs, console: &mut Console) -> Result<(), Failure> {
    with_bus(&args.connect, console, |bus, console| {
        let result = bus.ask(console, None, "status", json!({}))?;
        if args.json {
            return console.line(result);
        }
        let status: Map<String, Value> = serde_json::from_str(&result)
            .map_err(|_| Failure::Refused("the bus's answer to status can't be read".into()))?;
        table(&status).iter().try_for_each(|line| console.line(line))
    })
}

fn table(status: &Map<String, Value>) -> Vec<String> {
    let first = FIRST.iter().filter_map(|&name| status.get(name).map(|value| (name, value)));
    let rest = status.iter().filter(|(name, _)| !FIRST.contains(&name.as_str()));
    let rows: Vec<(String, String)> = first
        .chain(rest.map(|(name, value)| (name.as_str(), value)))
        .map(|(name, value)| match (name, value.as_u64()) {
            ("uptime_s", Some(seconds)) => ("uptime".into(), duration(seconds)),
            _ => (name.replace('_', " "), text(value)),
        })
        .collect();
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    rows.iter().map(|(name, value)| format!("{name:<width$}  {value}")).collect()
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => {
            let mut line = String::new();
            crate::cli::console::push_printable(&mut line, text);
            line
        }
        other => other.to_string(),
    }
}

fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_row_for_everything_the_bus_tells() {
        let status = json!({"zeal": {"a": 1}, "uptime_s": 61, "clients": 3, "server": "arqonbus",
                            "messages_in": 7});
        assert_eq!(
            table(status.as_object().unwrap()),
            [
                "server       arqonbus",
                "uptime       1 min 1 s",
                "clients      3",
                "messages in  7",
                "zeal         {\"a\":1}",
            ]
        );
    }

    #[test]
    fn durations_are_told_in_two_units() {
        for (seconds, expected) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min 0 s"),
            (3_599, "59 min 59 s"),
            (3_660, "1 h 1 min"),
            (90_000, "1 d 1 h"),
        ] {
            assert_eq!(duration(seconds), expected);
        }
    }
}
