//! The server's own counters, read from its `/metrics` before and after.

use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest answer that is read.
const BYTES_MAX: u64 = 16 << 20;

/// System calls of the server's hot path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Calls {
    /// Reads from client sockets.
    pub(super) reads: u64,
    /// Writes to them.
    pub(super) writes: u64,
    /// Waits for them: one each turn, and those of shards that spin.
    pub(super) waits: u64,
    /// Wake-ups between its threads.
    pub(super) wakeups: u64,
}

impl Calls {
    /// All of them.
    pub(super) fn total(&self) -> u64 {
        self.reads + self.writes + self.waits + self.wakeups
    }

    /// From then to now.
    pub(super) fn since(&self, then: &Calls) -> Calls {
        Calls {
            reads: self.reads.saturating_sub(then.reads),
            writes: self.writes.saturating_sub(then.writes),
            waits: self.waits.saturating_sub(then.waits),
            wakeups: self.wakeups.saturating_sub(then.wakeups),
        }
    }

    /// The sums over the shards in a text of metrics.
    fn read(metrics: &str) -> Option<Calls> {
        let mut calls = Calls::default();
        let mut has_any = false;
        for line in metrics.lines() {
            let Some((name, value)) = line
                .strip_prefix("arqonbus_shard_")
                .and_then(|line| line.split_once("_total{"))
                .and_then(|(name, rest)| Some((name, rest.rsplit_once(' ')?.1)))
            else {
                continue;
            };
            let counter = match name {
                "socket_reads" => &mut calls.reads,
                "socket_writes" => &mut calls.writes,
                "turns" | "spins" => &mut calls.waits,
                "wakeups" => &mut calls.wakeups,
                _ => continue,
            };
            *counter += value.parse::<u64>().ok()?;
            has_any = true;
        }
        has_any.then_some(calls)
    }
}

/// Asks a bus.
pub(super) fn ask(http: SocketAddr) -> Option<Calls> {
    Calls::read(&get(http, "/metrics")?)
}

/// The body of a page.
pub(super) fn get(http: SocketAddr, path: &str) -> Option<String> {
    let mut socket = TcpStream::connect_timeout(&http, PATIENCE).ok()?;
    socket.set_read_timeout(Some(PATIENCE)).ok()?;
    write!(socket, "GET {path} HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    socket.take(BYTES_MAX).read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_summed_over_shards() {
        let text = "# HELP arqonbus_shard_turns_total x\n\
            arqonbus_shard_turns_total{shard=\"0\"} 3\narqonbus_shard_turns_total{shard=\"1\"} 4\n\
            arqonbus_shard_socket_reads_total{shard=\"0\"} 5\n\
            arqonbus_shard_pauses_total{shard=\"0\",reason=\"x\"} 9\n";
        let calls = Calls::read(text).unwrap();
        assert_eq!(calls, Calls { reads: 5, writes: 0, waits: 7, wakeups: 0 });
        assert_eq!(calls.total(), 12);
        assert_eq!(Calls::read("other 1\n"), None);
    }
}
