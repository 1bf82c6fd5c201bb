//! Every key of the configuration, one row each. The flags, the environment, the file, `--help`,
//! `--print-config`, the reload and the reference in the README are all made from this table.
//!
//! *Invariants*: the TOML key is the flag with `_` for `-`, in a table or not; the environment name
//! is `ARQONBUS_` and the flag in capitals with `_`; rows of one TOML table stand together, those
//! of none first. (Tests hold the rows to it.)
//!
//! *Not here*: what depends on two keys at once (`check`); the rooms (`rooms`).

use crate::base::limits::{HISTORY_SIZE_MAX, LANE_SLOTS, MAX_VIOLATIONS_MAX, SHARDS_MAX};
use crate::broker::policy::{Role, Roles};
use crate::daemon::config::field::{Field, List, Number, Switch, Word, at};
use crate::daemon::config::meaning::{Config, Pin, Storage};
use crate::daemon::config::redis_url::{RedisUrlField, SentinelField};
use crate::daemon::config::rooms::parse_name;
use crate::daemon::logging::{Filter, Format};
use crate::protocol::command::Persist;
use crate::protocol::names::Name;
use crate::protocol::origin::Origin;
use std::fmt;
use std::net::SocketAddr;

/// One key.
pub(super) struct Key {
    /// The flag, without its dashes.
    pub flag: &'static str,
    /// Where it stands in the file.
    pub path: &'static str,
    /// What it is for, in a sentence.
    pub doc: &'static str,
    /// The default in words, where it depends on the machine or on other keys.
    pub default: Option<&'static str>,
    /// Whether a reload can change it while the daemon runs.
    pub is_live: bool,
    /// What it takes, and where it lives.
    pub field: &'static dyn Field<Config>,
}

impl Key {
    /// The name of its environment variable.
    pub(super) fn env(&self) -> String {
        env_name(self.flag)
    }

    /// The TOML table it stands in, empty for none, and its name there.
    pub(super) fn place(&self) -> (&'static str, &'static str) {
        self.path.split_once('.').unwrap_or(("", self.path))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.path)
    }
}

/// The flag that names the file itself; it is no key of the configuration, but is given like one.
pub(super) const FILE_FLAG: &str = "config";
/// What [`FILE_FLAG`] is for.
pub(super) const FILE_DOC: &str = "The configuration file, in TOML.";

/// The environment name of a flag.
pub(super) fn env_name(flag: &str) -> String {
    format!("ARQONBUS_{}", flag.replace('-', "_").to_ascii_uppercase())
}

/// The key at that place of the file.
pub(super) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// Whether that is a table of keys.
pub(super) fn is_table(path: &str) -> bool {
    !path.is_empty() && KEYS.iter().any(|key| key.place().0 == path)
}

/// Whatever may stand in the file: the keys, the tables, and `rooms`.
pub(super) fn known_paths() -> impl Iterator<Item = &'static str> {
    let tables = KEYS.iter().map(|key| key.place().0).filter(|table| !table.is_empty());
    KEYS.iter().map(|key| key.path).chain(tables).chain(["rooms"])
}

/// A listener.
macro_rules! listener {
    ($field:ident, $flag:literal, $doc:literal) => {
        Key {
            flag: $flag,
            path: stringify!($field),
            doc: $doc,
            default: None,
            is_live: false,
            field: &Word {
                at: at!(Config, $field),
                accepts: "address:port; port 0 picks a free one",
                value_name: "ADDRESS",
                options: &[],
                parse: parse_address,
                show: SocketAddr::to_string,
            },
        }
    };
}

/// A number among the limits: its field, its flag, its range, perhaps a unit and what 0 means.
macro_rules! limit {
    ($field:ident $flag:literal from $min:tt to $max:tt $($unit:ident)? $(, 0 is $zero:literal)?:
        $doc:literal) => {
        Key {
            flag: $flag,
            path: concat!("limits.", stringify!($field)),
            doc: $doc,
            default: None,
            is_live: true,
            field: &Number {
                at: at!(Config, limits.$field),
                min: $min as u64,
                max: $max as u64,
                unit: concat!($(stringify!($unit))?),
                zero: optional!($($zero)?),
            },
        }
    };
}

/// A number of a shard's turn: its field, its flag, its range, perhaps a unit and what 0 means.
macro_rules! turn {
    ($field:ident $flag:literal from $min:tt to $max:tt $unit:literal $(, 0 is $zero:literal)?:
        $doc:literal) => {
        Key {
            flag: $flag,
            path: concat!("turn.", stringify!($field)),
            doc: $doc,
            default: None,
            is_live: false,
            field: &Number {
                at: at!(Config, turn.$field),
                min: $min as u64,
                max: $max as u64,
                unit: $unit,
                zero: optional!($($zero)?),
            },
        }
    };
}

/// A number of what is kept: its field, its flag, its range, perhaps a unit and what 0 means.
macro_rules! kept {
    ($field:ident $flag:literal from $min:tt to $max:tt $unit:literal $(, 0 is $zero:literal)?:
        $doc:literal) => {
        Key {
            flag: $flag,
            path: concat!("persistence.", stringify!($field)),
            doc: $doc,
            default: None,
            is_live: false,
            field: &Number {
                at: at!(Config, persistence.$field),
                min: $min as u64,
                max: $max as u64,
                unit: $unit,
                zero: optional!($($zero)?),
            },
        }
    };
}

macro_rules! optional {
    () => {
        None
    };
    ($value:expr) => {
        Some($value)
    };
}

/// The keys, in the order in which they are printed.
pub(super) static KEYS: &[Key] = &[
    listener!(listen, "listen", "Where the bus listens for WebSocket clients."),
    listener!(telemetry_listen, "telemetry-listen", "Where the telemetry WebSocket listens."),
    listener!(
        http_listen,
        "http-listen",
        "Where the HTTP server with health, metrics and status listens."
    ),
    Key {
        flag: "node",
        path: "node",
        doc: "What this node is called.",
        default: Some("the host name"),
        is_live: false,
        field: &Word {
            at: at!(Config, node),
            accepts: "a name",
            value_name: "NAME",
            options: &[],
            parse: parse_name,
            show: Name::to_string,
        },
    },
    Key {
        flag: "shards",
        path: "shards",
        doc: "How many worker threads share the connections and the rooms.",
        default: Some("the cores this process may use, CPU quota included"),
        is_live: false,
        field: &Number {
            at: at!(Config, shards),
            min: 1,
            max: SHARDS_MAX as u64,
            unit: "",
            zero: None,
        },
    },
    Key {
        flag: "pin",
        path: "pin",
        doc: "Whether each shard stays on a core of its own; auto does so only where it helps.",
        default: None,
        is_live: false,
        field: &Word {
            at: at!(Config, pin),
            accepts: "auto, on or off",
            value_name: "WHEN",
            options: &["auto", "on", "off"],
            parse: parse_pin,
            show: show_pin,
        },
    },
    Key {
        flag: "storage",
        path: "storage",
        doc: "Where history is kept: in this process as long as it lives, or in Redis beyond that.",
        default: None,
        is_live: false,
        field: &Word {
            at: at!(Config, storage),
            accepts: "memory or redis",
            value_name: "KIND",
            options: &["memory", "redis"],
            parse: parse_storage,
            show: |storage| storage.as_str().to_owned(),
        },
    },
    Key {
        flag: "redis-url",
        path: "redis_url",
        doc: "Where Redis is, with `storage` = redis; the password is never shown. User and password \
              are those of Redis, also behind sentinels.",
        default: Some("none"),
        is_live: false,
        field: &RedisUrlField,
    },
    Key {
        flag: "redis-sentinel-user",
        path: "redis_sentinel_user",
        doc: "The user of the sentinels, if they ask for one; that of the master stands in `redis_url`.",
        default: Some("none"),
        is_live: false,
        field: &SentinelField::User,
    },
    Key {
        flag: "redis-sentinel-password",
        path: "redis_sentinel_password",
        doc: "The password of the sentinels, if they ask for one; it is never shown. Others see flags: \
              give it in the file or in the environment.",
        default: Some("none"),
        is_live: false,
        field: &SentinelField::Password,
    },
    Key {
        flag: "allowed-origins",
        path: "allowed_origins",
        doc: "The web origins whose pages may connect: `loopback` is any page of this machine, \
              `*` any page at all, `null` pages without an origin (files, the sandboxed frames of every \
              website), and `auto` is `loopback` for a port that listens on loopback and `*` for any \
              other; programs that are no browsers always may.",
        default: None,
        is_live: true,
        field: &List {
            at: at!(Config, allowed_origins.0),
            accepts: "a list of origins, `auto`, `loopback`, `null` or `*`",
            parse: Origin::parse,
            show: Origin::to_string,
        },
    },
    Key {
        flag: "telemetry",
        path: "telemetry",
        doc: "Whether telemetry events are published, and the telemetry port is open.",
        default: None,
        is_live: false,
        field: &Switch { at: at!(Config, telemetry) },
    },
    Key {
        flag: "stats-interval-ms",
        path: "stats_interval_ms",
        doc: "How often the telemetry event `stats` is published.",
        default: None,
        is_live: false,
        field: &Number {
            at: at!(Config, stats_interval_ms),
            min: 100,
            max: 3_600_000,
            unit: "ms",
            zero: None,
        },
    },
    Key {
        flag: "drain-timeout-ms",
        path: "drain_timeout_ms",
        doc: "How long clients get to leave when the daemon is told to stop.",
        default: None,
        is_live: true,
        field: &Number {
            at: at!(Config, drain_timeout_ms),
            min: 0,
            max: 600_000,
            unit: "ms",
            zero: Some("stop at once"),
        },
    },
    Key {
        flag: "log-format",
        path: "log_format",
        doc: "How the log on standard error looks: text for people, json for programs.",
        default: None,
        is_live: false,
        field: &Word {
            at: at!(Config, log_format),
            accepts: "text or json",
            value_name: "FORMAT",
            options: &["text", "json"],
            parse: parse_format,
            show: show_format,
        },
    },
    Key {
        flag: "log-level",
        path: "log_level",
        doc: "What the log says: a level, or levels for parts, such as \
              `info,arqonbus::shard=debug`.",
        default: None,
        is_live: true,
        field: &Word {
            at: at!(Config, log_level),
            accepts: "error, warn, info, debug, trace, off or a filter",
            value_name: "LEVEL",
            options: &[],
            parse: Filter::parse,
            show: |filter| filter.as_str().to_owned(),
        },
    },
    Key {
        flag: "bootstrap",
        path: "bootstrap",
        doc: "Whether the room `science` is there from the start; `integriguard` always is.",
        default: None,
        is_live: false,
        field: &Switch { at: at!(Config, bootstrap) },
    },
    Key {
        flag: "role",
        path: "policy.role",
        doc: "What clients are while no authentication is configured. `by_address` makes admins of this \
              machine's own programs and pages, while `listen` is on loopback and no page of another \
              website may connect; all others are users. Set `user` behind a proxy on the same machine.",
        default: None,
        is_live: true,
        field: &Word {
            at: at!(Config, roles),
            accepts: "by_address, user or admin",
            value_name: "ROLE",
            options: &["by_address", "user", "admin"],
            parse: parse_roles,
            show: Roles::to_string,
        },
    },
    Key {
        flag: "publish-anywhere",
        path: "policy.publish_anywhere",
        doc: "The roles that may publish in channels they have not joined.",
        default: Some("none"),
        is_live: false,
        field: &List {
            at: at!(Config, publish_anywhere),
            accepts: "a list of user and admin",
            parse: parse_role,
            show: Role::to_string,
        },
    },
    Key {
        flag: "persist",
        path: "persistence.persist",
        doc: "What Redis keeps of a room that does not say so itself: nothing, what was said \
              and the room's settings, or also whether it is paused. The room `integriguard` says so itself or keeps \
              nothing.",
        default: None,
        is_live: false,
        field: &Word {
            at: at!(Config, persistence.persist),
            accepts: "none, history or all",
            value_name: "WHAT",
            options: Persist::WORDS,
            parse: parse_persist,
            show: |persist| persist.as_str().to_owned(),
        },
    },
    Key {
        flag: "key-prefix",
        path: "persistence.key_prefix",
        doc: "What the keys in Redis begin with; one bus writes to one prefix.",
        default: None,
        is_live: false,
        field: &Word {
            at: at!(Config, persistence.key_prefix),
            accepts: "a name",
            value_name: "NAME",
            options: &[],
            parse: parse_name,
            show: Name::to_string,
        },
    },
    Key {
        flag: "many-nodes",
        path: "persistence.many_nodes",
        doc: "Whether all nodes with the same Redis and `key_prefix` are one bus; each of them has to \
              say so.",
        default: None,
        is_live: false,
        field: &Switch { at: at!(Config, persistence.many_nodes) },
    },
    kept!(retention_messages "retention-messages" from 0 to 1_000_000_000 "messages", 0 is "as many as the history holds":
        "Messages that Redis keeps of each channel."),
    kept!(retention_age_s "retention-age-s" from 0 to 3_153_600_000 "s", 0 is "no limit":
        "How old a stored message may become; older ones are deleted from Redis and listed no more."),
    kept!(backlog_bytes "backlog-bytes" from 65_536 to 1_099_511_627_776 "bytes":
        "Bytes that may wait for Redis; what comes on top while it is slow or gone is lost."),
    kept!(ack_timeout_ms "ack-timeout-ms" from 1 to 600_000 "ms":
        "How long an ack waits for Redis before it says that it can't tell."),
    kept!(replicas "replicas" from 0 to 16 "replicas", 0 is "none":
        "Replicas that must have an event before it is acknowledged."),
    kept!(replicas_timeout_ms "replicas-timeout-ms" from 1 to 600_000 "ms":
        "How long replicas are waited for."),
    kept!(session_ttl_s "session-ttl-s" from 0 to 86_400 "s", 0 is "no sessions":
        "How long a client may be away and still go on with its session."),
    turn!(busy_poll_us "busy-poll-us" from 0 to 100_000 "us", 0 is "sleep at once":
        "How long a shard that ran out of work looks for more before it sleeps; each shard that \
         looks keeps a core busy."),
    turn!(read_budget_bytes "read-budget-bytes" from 4_096 to 4_194_304 "bytes":
        "Bytes read from one connection before others have their turn."),
    turn!(lane_budget "lane-budget" from 1 to LANE_SLOTS "":
        "Asks and tells, each, that a shard takes from other shards before it looks at its \
         sockets."),
    limit!(max_connections "max-connections" from 1 to 10_000_000:
        "Connections on this node; the default is lowered to what the file descriptor limit allows."),
    limit!(max_connections_per_address "max-connections-per-address" from 0 to 10_000_000, 0 is "no limit":
        "Connections from one IPv4 address, or from one IPv6 network of 64 bits; those of this machine are not counted, as a proxy on it connects for many."),
    limit!(max_rooms "max-rooms" from 1 to 10_000_000:
        "Rooms on this node."),
    limit!(max_channels "max-channels" from 1 to 10_000_000:
        "Channels on this node."),
    limit!(max_channels_per_room "max-channels-per-room" from 1 to 1_000_000:
        "Channels in one room."),
    limit!(max_members_per_channel "max-members-per-channel" from 1 to 10_000_000:
        "Members of one channel."),
    limit!(max_joins_per_client "max-joins-per-client" from 1 to 1_000_000:
        "Channels one client is joined to."),
    limit!(max_memberships "max-memberships" from 1 to 1_000_000_000:
        "Memberships of clients in channels on this node; a join of `*` is one."),
    limit!(max_message_bytes "max-message-bytes" from 1_024 to 67_108_864 bytes:
        "The longest message."),
    limit!(history_size "history-size" from 0 to HISTORY_SIZE_MAX messages, 0 is "no history":
        "Messages kept for each channel."),
    limit!(history_bytes "history-bytes" from 0 to 4_294_967_295 bytes, 0 is "no limit":
        "Bytes kept for each channel, in memory and in Redis; the oldest messages go first."),
    limit!(history_bytes_total "history-bytes-total" from 0 to 1_099_511_627_776 bytes, 0 is "no limit":
        "Bytes kept for all channels, in the memory of this node and in Redis; the channels that hold the most give up first."),
    Key {
        flag: "memory-limit-bytes",
        path: "limits.memory_limit_bytes",
        doc: "Memory of the process that it does not come near without giving something up: from 85 % of it \
              on new connections, from 90 % the largest histories, from 95 % the clients that hold the most.",
        default: Some("80 % of what the control group or the machine allows"),
        is_live: true,
        field: &Number {
            at: at!(Config, limits.memory_limit_bytes),
            min: 64 << 20,
            max: 1 << 50,
            unit: "bytes",
            zero: Some("no limit"),
        },
    },
    limit!(outbox_bytes "outbox-bytes" from 66_560 to 1_073_741_824 bytes:
        "Bytes that may wait for one client before messages to it are dropped."),
    limit!(slow_grace_ms "slow-grace-ms" from 1 to 600_000 ms:
        "How long a client's outbox may stay over its limit before the client is closed."),
    limit!(heartbeat_ms "heartbeat-ms" from 100 to 3_600_000 ms:
        "Silence after which the server pings; twice as much closes the connection."),
    limit!(handshake_timeout_ms "handshake-timeout-ms" from 100 to 300_000 ms:
        "How long a new connection may take to become a WebSocket."),
    limit!(max_violations "max-violations" from 0 to MAX_VIOLATIONS_MAX, 0 is "no limit":
        "Malformed messages within a minute that close a connection."),
    limit!(rate_messages "rate-messages" from 0 to 10_000_000, 0 is "no limit":
        "Messages a second from one client."),
    limit!(rate_commands "rate-commands" from 0 to 10_000_000, 0 is "no limit":
        "Commands a second from one client."),
    limit!(rate_control_frames "rate-control-frames" from 0 to 1_000_000, 0 is "no limit":
        "Pings and pongs a second from one client; one that sends more is closed."),
    limit!(socket_unsent_bytes "socket-unsent-bytes" from 0 to 1_073_741_824 bytes, 0 is "as the kernel likes":
        "Bytes that the kernel takes for one client before they can go out, for connections that come from now on."),
    limit!(empty_channel_ttl_ms "empty-channel-ttl-ms" from 1 to 604_800_000 ms:
        "How long a channel that a join made may stay empty before it goes."),
    Key {
        flag: "create-on-join",
        path: "limits.create_on_join",
        doc: "Whether joining a channel that is not there makes it.",
        default: None,
        is_live: true,
        field: &Switch { at: at!(Config, limits.create_on_join) },
    },
];

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    // The one host name that means the same everywhere and needs no resolver.
    let numeric = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    numeric.parse().map_err(|_| {
        format!("`{text}` is no address and port; give 127.0.0.1:9100, 0.0.0.0:9100 or [::]:9100")
    })
}

fn parse_pin(text: &str) -> Result<Pin, String> {
    Ok(match text {
        "auto" => Pin::Auto,
        "on" => Pin::On,
        "off" => Pin::Off,
        _ => return Err(format!("must be auto, on or off, but is `{text}`")),
    })
}

fn show_pin(pin: &Pin) -> String {
    match pin {
        Pin::Auto => "auto",
        Pin::On => "on",
        Pin::Off => "off",
    }
    .to_owned()
}

fn parse_storage(text: &str) -> Result<Storage, String> {
    match text {
        "memory" => Ok(Storage::Memory),
        "redis" => Ok(Storage::Redis),
        _ => Err(format!("must be memory or redis, but is `{text}`")),
    }
}

fn parse_persist(text: &str) -> Result<Persist, String> {
    Persist::parse(text).ok_or_else(|| format!("must be none, history or all, but is `{text}`"))
}

fn parse_format(text: &str) -> Result<Format, String> {
    match text {
        "text" => Ok(Format::Text),
        "json" => Ok(Format::Json),
        _ => Err(format!("must be text or json, but is `{text}`")),
    }
}

fn show_format(format: &Format) -> String {
    match format {
        Format::Text => "text",
        Format::Json => "json",
    }
    .to_owned()
}

fn parse_roles(text: &str) -> Result<Roles, String> {
    match text {
        "by_address" => Ok(Roles::ByAddress),
        _ => Role::parse(text)
            .map(Roles::Everybody)
            .ok_or_else(|| format!("must be by_address, user or admin, but is `{text}`")),
    }
}

fn parse_role(text: &str) -> Result<Role, String> {
    Role::parse(text).ok_or_else(|| format!("`{text}` is no role; give user or admin"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::host::Host;
    use std::collections::BTreeSet;

    #[test]
    fn rows_follow_the_rules_for_names() {
        let mut tables = vec![""];
        let mut flags = BTreeSet::new();
        for key in KEYS {
            let (table, name) = key.place();
            assert_eq!(name, key.flag.replace('-', "_"), "{}", key.path);
            assert!(flags.insert(key.flag), "{} twice", key.flag);
            assert!(key.doc.ends_with('.') && !key.doc.contains("  "), "{}: {}", key.path, key.doc);
            if tables.last() != Some(&table) {
                assert!(!tables.contains(&table), "the rows of [{table}] are torn apart");
                tables.push(table);
            }
        }
        assert!(!flags.contains(FILE_FLAG));
        assert_eq!(find("limits.rate_messages").unwrap().env(), "ARQONBUS_RATE_MESSAGES");
    }

    #[test]
    fn every_limit_has_its_row() {
        let config = Config::defaults(&Host::anywhere());
        let fields = serde_json::to_value(&config.limits).unwrap();
        let fields: BTreeSet<String> = fields.as_object().unwrap().keys().cloned().collect();
        let rows: BTreeSet<String> = KEYS
            .iter()
            .filter_map(|key| key.path.strip_prefix("limits."))
            .map(str::to_owned)
            .collect();
        assert_eq!(rows, fields);
        assert!(KEYS.iter().all(|key| key.is_live || key.place().0 != "limits"));
    }
}
