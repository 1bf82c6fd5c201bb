//! The way a traced message went, for a person.

use crate::cli::console::Console;
use crate::cli::failure::Failure;
use serde::Deserialize;

#[derive(Deserialize)]
struct Traced {
    sequence: Option<u64>,
    delivered: Option<u64>,
    #[serde(default)]
    unreported: u64,
    #[serde(default)]
    trace: Vec<Hop>,
}

#[derive(Deserialize)]
struct Hop {
    at: String,
    shard: u64,
    ns: u64,
    members: Option<u64>,
}

/// Prints what the answer to a traced message tells.
pub(super) fn print(id: &str, result: &str, console: &mut Console) -> Result<(), Failure> {
    describe(id, result).iter().try_for_each(|line| console.line(line))
}

fn describe(id: &str, result: &str) -> Vec<String> {
    let Ok(traced) = serde_json::from_str::<Traced>(result) else {
        return vec![format!("{id}: accepted; the trace can't be read")];
    };
    let mut head = id.to_owned();
    if let Some(sequence) = traced.sequence {
        head.push_str(&format!("  sequence {sequence}"));
    }
    if let Some(delivered) = traced.delivered {
        head.push_str(&format!("  delivered to {delivered}"));
    }
    let mut lines = vec![head];
    for Hop { at, shard, ns, members } in traced.trace {
        let micros = ns as f64 / 1_000.0;
        let who = members.map_or(String::new(), |count| format!("  to {count}"));
        lines.push(format!("  {at:<9}  shard {shard:<3}  {micros:>10.1} µs{who}"));
    }
    if traced.unreported > 0 {
        lines.push(format!("  shards that did not report in time: {}", traced.unreported));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hops_are_lines() {
        let result = r#"{"sequence":7,"duplicate":false,"delivered":3,"trace":[
            {"at":"parsed","shard":0,"ns":1500},{"at":"delivered","shard":1,"ns":20000,"members":3}]}"#;
        assert_eq!(
            describe("arq_1", result),
            [
                "arq_1  sequence 7  delivered to 3",
                "  parsed     shard 0           1.5 µs",
                "  delivered  shard 1          20.0 µs  to 3",
            ]
        );
        assert_eq!(describe("arq_1", r#"{"sequence":7}"#), ["arq_1  sequence 7"]);
        let late = "  shards that did not report in time: 2";
        assert_eq!(describe("", r#"{"unreported":2}"#), ["", late]);
        assert_eq!(describe("arq_1", "null").len(), 1);
    }
}
