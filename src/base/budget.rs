//! The budget: everything that a client can make the bus hold or do, what one of it weighs, where
//! it is bounded, what happens at the bound, and which counter tells. `arqonbus budget` prints the
//! table, and `docs/budget.md` is that page with the default configuration.
//!
//! A weight is what one item really takes from the process: its own bytes, what points to it and
//! what the allocator adds; not its bytes on the wire. `tests/memory.rs` measures them.
//!
//! *Invariants*: the code charges the constants of this file, so the table and the accounting can't
//! differ; a bound that an operator can set names its key, so the page shows the value in force.

use crate::base::limits::{self, Limits};
use crate::base::work::{LATE_UNITS_MAX, TURN_UNITS};
use std::fmt::{self, Write};

/// A connection that is open and idle: its entry in the shard, its session at the edge, its client
/// id in the directory, its socket's registration.
pub const CONNECTION_BYTES: u64 = 1_024;
/// A frame that waits in a connection's backlog, beside the bytes of the frame: its place in the
/// queue, the frame's header and its two reference counts.
pub const LETTER_BYTES: u64 = 192;
/// A membership of a client in one channel: the entry at the home and the one at the edge.
pub const MEMBERSHIP_BYTES: u64 = 144;
/// A client in a room, beside its memberships: what the room's home knows of it, and the list of its memberships
/// at the edge.
pub const PERSON_BYTES: u64 = 448;
/// A range of messages that one connection missed in one channel, until it is told.
pub const GAP_BYTES: u64 = 192;
/// A session that is kept, beside its bytes: its hash, its place in the index.
pub const SESSION_BYTES: u64 = 512;
/// A channel without members and messages, its place in its room and in the indexes.
pub const CHANNEL_BYTES: u64 = 1_600;
/// A row of an answer (a client, a channel, a room) until the answer is written.
pub const ROW_BYTES: u64 = 256;
/// A telemetry event in the queue to the control plane, beside what a client sent itself.
pub const TELEMETRY_EVENT_BYTES: u64 = 256;
/// A request that waits for something: an ack for the storage, a join for a channel's state.
pub const REQUEST_BYTES: u64 = 384;

/// An event that waits for Redis, beside the bytes of its message: its record, its message's header and its
/// place in the queue; on several nodes its place at its home, too.
pub const PENDING_EVENT_BYTES: u64 = 384;

/// What one item weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// So many bytes of memory.
    Bytes(u64),
    /// So many bytes of memory, and the bytes of the item itself.
    BytesAndOwn(u64),
    /// Its own bytes, as they are.
    OwnBytes,
    /// Time of a shard, in the units of a turn's work.
    Work,
}

/// Where something is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Not counted here: the bounds beside it hold.
    None,
    /// So many, or so many bytes, always.
    Fixed(u64, &'static str),
    /// By a key of the configuration, `limits.` and the name that is given.
    Key(&'static str, &'static str),
    /// In words, where the bound is made of others.
    By(&'static str),
}

/// One row of the budget.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// What a client can make the bus hold or do.
    pub thing: &'static str,
    /// What one of it weighs.
    pub weight: Weight,
    /// The bound for one client.
    pub client: Bound,
    /// The bound for one address; IPv6 addresses count by their first 64 bits, loopback ones do not count.
    pub address: Bound,
    /// The bound for one room or channel.
    pub room: Bound,
    /// The bound for the node.
    pub node: Bound,
    /// What happens at the bound.
    pub at_bound: &'static str,
    /// The metrics that tell, separated by spaces.
    pub counters: &'static [&'static str],
}

use Bound::{By, Fixed, Key};

/// The budget.
pub static BUDGET: &[Row] = &[
    Row {
        thing: "connection",
        weight: Weight::Bytes(CONNECTION_BYTES),
        client: Fixed(1, ""),
        address: Key("max_connections_per_address", ""),
        room: Bound::None,
        node: Key("max_connections", ""),
        at_bound: "closed with 1013 after its handshake; beyond 256 of these at once, closed without an answer",
        counters: &["arqonbus_connections_turned_away_total", "arqonbus_connections_dropped_total"],
    },
    Row {
        thing: "unfinished handshake",
        weight: Weight::BytesAndOwn(CONNECTION_BYTES),
        client: Fixed(limits::HANDSHAKE_BYTES_MAX as u64, "bytes"),
        address: Key("max_connections_per_address", ""),
        room: Bound::None,
        node: Key("max_connections", ""),
        at_bound: "refused with 400; closed after `limits.handshake_timeout_ms`",
        counters: &["arqonbus_shard_closes_total"],
    },
    Row {
        thing: "unfinished message",
        weight: Weight::OwnBytes,
        client: Key("max_message_bytes", "bytes"),
        address: By("connections"),
        room: Bound::None,
        node: Key("memory_limit_bytes", "bytes"),
        at_bound: "closed with 1009",
        counters: &["arqonbus_shard_closes_total"],
    },
    Row {
        thing: "message that waits to be sent",
        weight: Weight::BytesAndOwn(LETTER_BYTES),
        client: Key("outbox_bytes", "bytes"),
        address: By("connections"),
        room: Bound::None,
        node: Key("memory_limit_bytes", "bytes"),
        at_bound: "dropped, told by a `gap` notice; after `limits.slow_grace_ms` closed with 4008",
        counters: &["arqonbus_shard_drops_total", "arqonbus_shard_gaps_total"],
    },
    Row {
        thing: "reply that waits to be sent",
        weight: Weight::BytesAndOwn(LETTER_BYTES),
        client: Key("outbox_bytes", "bytes"),
        address: By("connections"),
        room: Bound::None,
        node: Key("memory_limit_bytes", "bytes"),
        at_bound: "the client is not read until it reads; after `limits.slow_grace_ms` closed with 4008",
        counters: &["arqonbus_shard_pauses_total"],
    },
    Row {
        thing: "range of missed messages, until it is told",
        weight: Weight::Bytes(GAP_BYTES),
        client: Fixed(limits::GAPS_MAX as u64, ""),
        address: By("connections"),
        room: Bound::None,
        node: By("memberships"),
        at_bound: "ranges of one channel are merged; those of further channels are told without the channel; at most 256 are told per turn",
        counters: &["arqonbus_shard_gaps_total"],
    },
    Row {
        thing: "bytes that the kernel holds and has not sent",
        weight: Weight::OwnBytes,
        client: Key("socket_unsent_bytes", "bytes"),
        address: By("connections"),
        room: Bound::None,
        node: By("connections"),
        at_bound: "the rest waits in the outbox",
        counters: &["arqonbus_shard_outbox_bytes"],
    },
    Row {
        thing: "WebSocket ping or pong",
        weight: Weight::Work,
        client: Key("rate_control_frames", "per second"),
        address: By("connections"),
        room: Bound::None,
        node: By("connections"),
        at_bound: "closed with 1008; of several pings only the latest is answered",
        counters: &["arqonbus_shard_closes_total"],
    },
    Row {
        thing: "input of a connection",
        weight: Weight::Work,
        client: By("a sixteenth of a turn"),
        address: Bound::None,
        room: Bound::None,
        node: Fixed(TURN_UNITS, "units of work per turn, about 1 ns each"),
        at_bound: "the rest waits for the next turn",
        counters: &["arqonbus_shard_pauses_total"],
    },
    Row {
        thing: "write of a message to many members, or of a large one",
        weight: Weight::Work,
        client: Fixed(LATE_UNITS_MAX, "units of work that wait to be written"),
        address: Bound::None,
        room: Bound::None,
        node: By("half of a turn"),
        at_bound: "written over several turns, after all other connections; the publisher is not read meanwhile",
        counters: &["arqonbus_shard_pauses_total"],
    },
    Row {
        thing: "write of a backlog to a socket that takes bytes again",
        weight: Weight::Work,
        client: Fixed(limits::WRITE_BYTES as u64, "bytes at a time"),
        address: Bound::None,
        room: Bound::None,
        node: By("a quarter of a turn"),
        at_bound: "goes on in the next turns, after all other connections, in order",
        counters: &["arqonbus_shard_outbox_bytes"],
    },
    Row {
        thing: "byte from a connection that is being closed",
        weight: Weight::Work,
        client: Fixed(limits::LINGER_BYTES_MAX, "bytes within a second"),
        address: By("connections"),
        room: Bound::None,
        node: By("connections"),
        at_bound: "the connection ends at once",
        counters: &["arqonbus_shard_closes_total"],
    },
    Row {
        thing: "client in a room",
        weight: Weight::Bytes(PERSON_BYTES),
        client: By("joins"),
        address: By("connections"),
        room: By("memberships"),
        node: By("memberships"),
        at_bound: "see the membership of a channel",
        counters: &["arqonbus_errors_total"],
    },
    Row {
        thing: "membership of a channel",
        weight: Weight::Bytes(MEMBERSHIP_BYTES),
        client: Key("max_joins_per_client", ""),
        address: By("connections"),
        room: Key("max_members_per_channel", "per channel"),
        node: Key("max_memberships", ""),
        at_bound: "429 `JOIN_LIMIT`, 429 `MEMBER_LIMIT`, 429 `MEMBERSHIP_LIMIT`; a join of `*` is one membership",
        counters: &["arqonbus_errors_total"],
    },
    Row {
        thing: "channel",
        weight: Weight::Bytes(CHANNEL_BYTES),
        client: By("joins"),
        address: Bound::None,
        room: Key("max_channels_per_room", "per room"),
        node: Key("max_channels", ""),
        at_bound: "429 `CHANNEL_LIMIT`, 429 `NODE_CHANNEL_LIMIT`; an empty one is deleted after `limits.empty_channel_ttl_ms`",
        counters: &["arqonbus_errors_total"],
    },
    Row {
        thing: "stored message",
        weight: Weight::BytesAndOwn(80),
        client: Bound::None,
        address: Bound::None,
        room: Key("history_bytes", "bytes per channel"),
        node: Key("history_bytes_total", "bytes"),
        at_bound: "the oldest messages are deleted, of the largest channel first",
        counters: &["arqonbus_shard_history_shed_total"],
    },
    Row {
        thing: "message stored in Redis",
        weight: Weight::OwnBytes,
        client: Bound::None,
        address: Bound::None,
        room: Key("history_bytes", "bytes per channel"),
        node: Key("history_bytes_total", "bytes of Redis, for all nodes"),
        at_bound: "the oldest messages are deleted, of the largest channel first",
        counters: &["arqonbus_storage_trimmed_total"],
    },
    Row {
        thing: "message that waits for Redis",
        weight: Weight::BytesAndOwn(PENDING_EVENT_BYTES),
        client: By("messages per second"),
        address: Bound::None,
        room: Bound::None,
        node: By("`persistence.backlog_bytes`, 268,435,456 bytes if it is not set"),
        at_bound: "not stored: 503 `STORAGE_UNAVAILABLE` to who asked for an ack; counted",
        counters: &["arqonbus_storage_pending_bytes", "arqonbus_storage_lost_total"],
    },
    Row {
        thing: "request that waits for the storage",
        weight: Weight::Bytes(REQUEST_BYTES),
        client: By("commands and messages per second"),
        address: Bound::None,
        room: Bound::None,
        node: Fixed(limits::ACKS_WAITING_MAX as u64, "per shard"),
        at_bound: "503 `STORAGE_UNAVAILABLE`",
        counters: &["arqonbus_errors_total"],
    },
    Row {
        thing: "change of a session that is stored",
        weight: Weight::BytesAndOwn(SESSION_BYTES),
        client: Fixed(1_000 / limits::SESSION_EVERY_MS, "per second, whatever changes"),
        address: Bound::None,
        room: Bound::None,
        node: Fixed(limits::SESSION_UPDATES_BYTES_A_SECOND, "bytes per second"),
        at_bound: "the session is stored later, as it is then",
        counters: &["arqonbus_storage_records_total"],
    },
    Row {
        thing: "session whose client has gone, until Redis has heard of it",
        weight: Weight::BytesAndOwn(SESSION_BYTES),
        client: Fixed(1, ""),
        address: Bound::None,
        room: Bound::None,
        node: Fixed(limits::SESSIONS_GONE_BYTES_MAX as u64, "bytes"),
        at_bound: "the session ends as it was stored last",
        counters: &["arqonbus_storage_sessions_lost_total"],
    },
    Row {
        thing: "news of the storage that a shard has not taken",
        weight: Weight::OwnBytes,
        client: Bound::None,
        address: Bound::None,
        room: Bound::None,
        node: Fixed(limits::NEWS_BYTES_MAX, "bytes per shard, or 16,384 news"),
        at_bound: "its channels fall behind and are read again; at twice as much the node closes its connection to Redis",
        counters: &["arqonbus_storage_news_behind_total", "arqonbus_storage_news_bytes"],
    },
    Row {
        thing: "row of an answer",
        weight: Weight::Bytes(ROW_BYTES),
        client: Fixed(limits::HISTORY_LIMIT_MAX as u64, "per answer"),
        address: Bound::None,
        room: Bound::None,
        node: By("commands per second"),
        at_bound: "the answer is a page; `cursor` asks for the next one",
        counters: &[],
    },
    Row {
        thing: "command",
        weight: Weight::Work,
        client: Key("rate_commands", "per second"),
        address: Bound::None,
        room: Bound::None,
        node: By("connections"),
        at_bound: "429 `RATE_LIMITED`; a command with a long answer counts as 5",
        counters: &["arqonbus_errors_total"],
    },
    Row {
        thing: "client that comes or goes, told to who watches",
        weight: Weight::Work,
        client: Fixed(limits::PRESENCE_PER_CLIENT as u64, "per second and channel"),
        address: Bound::None,
        room: By("a twentieth of the time of a shard"),
        node: By("a fifth of the time of a shard"),
        at_bound: "told later, and only what is so then",
        counters: &["arqonbus_shard_presence_told_total", "arqonbus_shard_presence_deferred_total"],
    },
    Row {
        thing: "message",
        weight: Weight::Work,
        client: Key("rate_messages", "per second"),
        address: Bound::None,
        room: Bound::None,
        node: By("connections"),
        at_bound: "429 `RATE_LIMITED`",
        counters: &["arqonbus_errors_total"],
    },
    Row {
        thing: "malformed message",
        weight: Weight::Work,
        client: Key("max_violations", "per minute"),
        address: Bound::None,
        room: Bound::None,
        node: Bound::None,
        at_bound: "closed with 1008",
        counters: &["arqonbus_shard_closes_total"],
    },
    Row {
        thing: "telemetry reader",
        weight: Weight::OwnBytes,
        client: Fixed(limits::TELEMETRY_BACKLOG_BYTES as u64, "bytes shared by all"),
        address: Bound::None,
        room: Bound::None,
        node: Fixed(limits::TELEMETRY_READERS_MAX as u64, ""),
        at_bound: "503; a slow one misses events, told by a `gap`, and is closed with 4008",
        counters: &["arqonbus_telemetry_missed_total"],
    },
    Row {
        thing: "telemetry event that waits to be told",
        weight: Weight::BytesAndOwn(TELEMETRY_EVENT_BYTES),
        client: Bound::None,
        address: Bound::None,
        room: Bound::None,
        node: Fixed(limits::TELEMETRY_SLOTS as u64, "or 32 MiB of clients' own"),
        at_bound: "dropped, told by a `gap` to all readers and on the bus",
        counters: &["arqonbus_telemetry_lost_total"],
    },
    Row {
        thing: "line of the log that waits to be written",
        weight: Weight::OwnBytes,
        client: Bound::None,
        address: Bound::None,
        room: Bound::None,
        node: Fixed(limits::LOG_QUEUE_BYTES as u64, "bytes"),
        at_bound: "dropped, told by a line of the log",
        counters: &["arqonbus_log_lines_dropped_total"],
    },
    Row {
        thing: "HTTP connection",
        weight: Weight::BytesAndOwn(limits::HTTP_HEAD_BYTES_MAX as u64),
        client: Bound::None,
        address: Bound::None,
        room: Bound::None,
        node: Fixed(limits::HTTP_CONNECTIONS_MAX as u64, ""),
        at_bound: "503 at once; a slow one is closed after 10 s, any after 60 s",
        counters: &["arqonbus_http_refused_total"],
    },
];

/// The budget as a page of Markdown, with these limits in force.
pub fn page(limits: &Limits) -> String {
    written(&serde_json::to_value(limits).unwrap_or_default())
}

/// The same with the defaults, on a machine that is not known.
pub fn page_of_defaults() -> String {
    let mut values = serde_json::to_value(Limits::default()).unwrap_or_default();
    values["memory_limit_bytes"] = serde_json::Value::Null;
    written(&values)
}

fn written(values: &serde_json::Value) -> String {
    let mut text = String::from(INTRODUCTION);
    text.push_str(
        "| what | weight | per client | per address | per room or channel | per node | at the bound | metric |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for row in BUDGET {
        let bound = |bound| Shown { bound, values };
        let counters: Vec<String> = row.counters.iter().map(|name| format!("`{name}`")).collect();
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            row.thing,
            row.weight,
            bound(row.client),
            bound(row.address),
            bound(row.room),
            bound(row.node),
            row.at_bound,
            counters.join(", "),
        );
    }
    text
}

const INTRODUCTION: &str = "\
# What a client may cost

Everything that a client can make the bus hold or do, and where it ends. `arqonbus budget` prints
this page with the configuration that it is given. A weight is what one item takes from the process,
the allocator's share included; where it says `+ its bytes`, the bytes of the item come on top.

A **turn** is one round of a shard: it reads from its sockets, handles what came, and writes. Its work is
counted in **units**, about a nanosecond each; what is over goes on in the next turn. A bound in words
(`connections`, `joins`) follows from the row of that name, and `–` means that there is none of this kind.

";

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Weight::Bytes(bytes) => write!(f, "{} bytes", Grouped(bytes)),
            Weight::BytesAndOwn(bytes) => write!(f, "{} bytes + its bytes", Grouped(bytes)),
            Weight::OwnBytes => f.write_str("its bytes"),
            Weight::Work => f.write_str("work of a turn"),
        }
    }
}

/// A bound with the values that are in force.
struct Shown<'v> {
    bound: Bound,
    values: &'v serde_json::Value,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bound {
            Bound::None => f.write_str("–"),
            Fixed(most, unit) => write!(f, "{}{}", Grouped(most), Unit(unit)),
            By(words) => f.write_str(words),
            Key(key, unit) => match self.values[key].as_u64() {
                // Only the limit of memory depends on the machine.
                None => {
                    write!(f, "`limits.{key}`: 80 % of the memory of the cgroup or the machine")
                }
                Some(0) => write!(f, "`limits.{key}`: no limit"),
                Some(most) => write!(f, "`limits.{key}`: {}{}", Grouped(most), Unit(unit)),
            },
        }
    }
}

/// A unit behind a number, if there is one.
struct Unit(&'static str);

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " {}", self.0) }
    }
}

/// A number with a comma before each group of three digits.
struct Grouped(u64);

impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (at, digit) in digits.char_indices() {
            if at > 0 && (digits.len() - at).is_multiple_of(3) {
                f.write_char(',')?;
            }
            f.write_char(digit)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_a_limit_and_every_row_is_bounded() {
        let values = serde_json::to_value(Limits::default()).unwrap();
        for row in BUDGET {
            let bounds = [row.client, row.address, row.room, row.node];
            assert!(bounds.iter().any(|&bound| bound != Bound::None), "{}", row.thing);
            for bound in bounds {
                if let Key(key, _) = bound {
                    assert!(values[key].is_u64(), "{}: limits.{key} is no limit", row.thing);
                }
            }
        }
    }

    #[test]
    fn no_ceiling_of_memory_is_told_as_none() {
        let page_of =
            |memory_limit_bytes| page(&Limits { memory_limit_bytes, ..Limits::default() });
        assert!(page_of(0).contains("`limits.memory_limit_bytes`: no limit"));
        assert!(page_of(1 << 30).contains("`limits.memory_limit_bytes`: 1,073,741,824"));
        assert!(page_of_defaults().contains("`limits.memory_limit_bytes`: 80 %"));
    }

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (16_777_216, "16,777,216")]
        {
            assert_eq!(Grouped(number).to_string(), text);
        }
    }
}
