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

/// What is counted over all shards.
const COUNTS: [&str; 5] = ["clients", "rooms", "channels", "messages_in", "messages_out"];

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
    // What a shard that did not answer would add is not known.
    let unanswered = status.get("unanswered_shards").and_then(Value::as_array);
    let is_partial = unanswered.is_some_and(|shards| !shards.is_empty());
    let rows: Vec<(String, Vec<String>)> = first
        .chain(rest.map(|(name, value)| (name.as_str(), value)))
        .map(|(name, value)| match (name, value.as_u64()) {
            ("uptime_s", Some(seconds)) => ("uptime".into(), vec![duration(seconds)]),
            (name, Some(count)) if is_partial && COUNTS.contains(&name) => {
                (name.replace('_', " "), vec![format!("at least {count}")])
            }
            _ => (name.replace('_', " "), lines(name, value)),
        })
        .collect();
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let line = |(name, text): (&str, &String)| format!("{name:<width$}  {text}");
    // What has more than one line has its name before the first.
    rows.iter()
        .flat_map(|(name, lines)| {
            let names = std::iter::once(name.as_str()).chain(std::iter::repeat(""));
            names.zip(lines).map(line)
        })
        .collect()
}

/// A value in one line, or in one for each of its items.
fn lines(name: &str, value: &Value) -> Vec<String> {
    match (name, value) {
        (_, Value::Array(items)) if items.is_empty() => vec!["none".into()],
        ("peers", Value::Array(items)) => items.iter().map(peer).collect(),
        ("storage_state", Value::Object(state)) => vec![storage_state(state)],
        _ => vec![text(value)],
    }
}

/// Another node.
fn peer(peer: &Value) -> String {
    match (&peer["node"], peer["clients"].as_u64()) {
        (node @ Value::String(_), Some(clients)) => {
            format!("{}, {clients} {}", text(node), if clients == 1 { "client" } else { "clients" })
        }
        _ => text(peer),
    }
}

/// How the storage does, with the reason at the end, as it may be long.
fn storage_state(state: &Map<String, Value>) -> String {
    let known = ["state", "since", "reason", "reason_at"];
    let said = |name: &str| state.get(name).map(text).unwrap_or_default();
    let mut line = said("state");
    if state.contains_key("since") {
        line += &format!(" since {}", said("since"));
    }
    for (name, value) in state.iter().filter(|(name, _)| !known.contains(&name.as_str())) {
        line += &format!(", {} {}", text(value), name.replace('_', " "));
    }
    if state.contains_key("reason") {
        line += &format!(": {}", said("reason"));
    }
    if state.contains_key("reason_at") {
        line += &format!(" (at {})", said("reason_at"));
    }
    line
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => {
            let mut line = String::new();
            crate::cli::console::push_printable(&mut line, text);
            line
        }
        Value::Array(items) if items.iter().all(|item| !item.is_object() && !item.is_array()) => {
            items.iter().map(text).collect::<Vec<_>>().join(", ")
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
    fn peers_and_the_state_of_the_storage_are_told_in_words() {
        let status = json!({
            "peers": [{"node": "one", "clients": 1}, {"node": "two\u{1b}", "clients": 0}],
            "storage_state": {"state": "degraded", "since": "2026-11-26T01:00:00Z",
                              "reason": "Connection refused", "pending": 3, "lost": 0},
            "unanswered_shards": [3, 5],
            "clients": 0,
        });
        let table = table(status.as_object().unwrap());
        assert_eq!(table.len(), 5, "{table:?}");
        assert_eq!(table[0], "clients            at least 0");
        let table = &table[1..];
        assert_eq!(table[0], "peers              one, 1 client");
        assert!(
            table[1].starts_with("                   two") && table[1].ends_with(", 0 clients")
        );
        assert!(!table[1].contains('\u{1b}'), "{}", table[1]);
        let state = "degraded since 2026-11-26T01:00:00Z, 0 lost, 3 pending: Connection refused";
        assert_eq!(table[2], format!("storage state      {state}"));
        assert_eq!(table[3], "unanswered shards  3, 5");
        let well = json!({"peers": [], "storage_state": {"state": "ok", "pending": 0, "lost": 2}});
        assert_eq!(
            super::table(well.as_object().unwrap()),
            ["peers          none", "storage state  ok, 2 lost, 0 pending"]
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
