//! What holds for every key, and for the configuration as a whole.

mod documents;
mod mistakes;
mod reloads;

use super::field::{Raw, quoted};
use super::table::{KEYS, Key, find};
use super::*;
use crate::base::limits::Limits;
use crate::broker::policy::{Access, Role, Roles};
use crate::daemon::cgroup::Quota;
use crate::daemon::host::Cores;
use crate::protocol::command::{AckWhen, Persist, Publishers};
use crate::protocol::names::Name;
use crate::protocol::origin::{Origin, Origins};
use clap::{Args, Command, FromArgMatches};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

fn host() -> Host {
    Host {
        cores: Cores { affinity: 8, quota: Some(Quota { time_us: 350_000, period_us: 100_000 }) },
        descriptors: None,
        memory_bytes: None,
        name: Name::fixed("box"),
    }
}

fn flags(words: &[&str]) -> ServeArgs {
    let command = ServeArgs::augment_args(Command::new("serve"));
    let matches = command.try_get_matches_from([&["serve"], words].concat()).unwrap();
    ServeArgs::from_arg_matches(&matches).unwrap()
}

/// A file, an environment and flags, and the machine they are read on.
struct Layers {
    host: Host,
    directory: TempDir,
    env: Vec<(String, String)>,
    args: ServeArgs,
}

impl Layers {
    fn new(words: &[&str]) -> Layers {
        let directory = tempfile::tempdir().unwrap();
        Layers { host: host(), directory, env: Vec::new(), args: flags(words) }
    }

    fn file(mut self, text: &str) -> Layers {
        let path = self.directory.path().join("arqonbus.toml");
        fs::write(&path, text).unwrap();
        self.args.config = Some(path);
        self
    }

    fn env(mut self, name: &str, value: &str) -> Layers {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    fn lookup(&self, name: &str) -> Option<String> {
        self.env.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    }

    fn load(&self) -> Result<Loaded, Vec<Mistake>> {
        load_on(&self.host, &self.args, |name| self.lookup(name))
    }

    /// The mistakes as a person sees them, without the directory.
    fn mistakes(&self) -> Vec<String> {
        texts(self.load().unwrap_err(), self.directory.path())
    }
}

fn texts(mistakes: Vec<Mistake>, directory: &Path) -> Vec<String> {
    let directory = format!("{}/", directory.display());
    mistakes.iter().map(|mistake| mistake.to_string().replace(&directory, "")).collect()
}

/// Three good values for every key but those of Redis, for file, environment and flag.
const SAMPLES: &[(&str, [&str; 3])] = &[
    ("listen", ["127.0.0.1:1", "0.0.0.0:2", "[::1]:0"]),
    ("telemetry_listen", ["127.0.0.1:1", "0.0.0.0:2", "[::1]:0"]),
    ("http_listen", ["127.0.0.1:1", "0.0.0.0:2", "[::1]:0"]),
    ("node", ["a", "b.example.org", "c-3"]),
    ("shards", ["1", "2", "256"]),
    ("pin", ["on", "off", "auto"]),
    ("storage", ["memory", "memory", "memory"]),
    ("allowed_origins", ["https://a.org", "*", "loopback"]),
    ("telemetry", ["false", "true", "false"]),
    ("stats_interval_ms", ["100", "200", "300"]),
    ("drain_timeout_ms", ["0", "200", "300"]),
    ("log_format", ["json", "text", "json"]),
    ("log_level", ["warn", "debug,arqonbus=trace", "off"]),
    ("bootstrap", ["false", "true", "false"]),
    ("policy.role", ["user", "admin", "by_address"]),
    ("policy.publish_anywhere", ["user", "admin", "user"]),
    ("persistence.persist", ["none", "history", "all"]),
    ("persistence.key_prefix", ["a", "b.c", "d-1"]),
    ("persistence.many_nodes", ["false", "false", "false"]),
    ("persistence.retention_messages", ["1", "0", "1000000"]),
    ("persistence.retention_age_s", ["1", "0", "86400"]),
    ("persistence.backlog_bytes", ["2000000", "3000000", "1000000000"]),
    ("persistence.ack_timeout_ms", ["1", "2", "3"]),
    ("persistence.replicas", ["1", "0", "2"]),
    ("persistence.replicas_timeout_ms", ["1", "2", "3"]),
    ("persistence.session_ttl_s", ["0", "60", "86400"]),
    ("turn.busy_poll_us", ["10", "0", "100000"]),
    ("turn.read_budget_bytes", ["4096", "8192", "262144"]),
    ("turn.lane_budget", ["1", "2", "4096"]),
    ("limits.max_connections", ["1", "2", "3"]),
    ("limits.max_connections_per_address", ["1", "2", "0"]),
    ("limits.max_rooms", ["2", "3", "4"]),
    ("limits.max_channels", ["107", "108", "109"]),
    ("limits.max_channels_per_room", ["7", "8", "9"]),
    ("limits.max_members_per_channel", ["1", "2", "3"]),
    ("limits.max_joins_per_client", ["1", "2", "3"]),
    ("limits.max_memberships", ["1000", "2000", "3000"]),
    ("limits.max_message_bytes", ["1024", "2000", "3000"]),
    ("limits.history_size", ["0", "1", "2"]),
    ("limits.history_bytes", ["2000000", "0", "3000000"]),
    ("limits.history_bytes_total", ["5000000000", "0", "1"]),
    ("limits.memory_limit_bytes", ["100000000", "0", "2000000000"]),
    ("limits.outbox_bytes", ["2000000", "3000000", "5000000"]),
    ("limits.slow_grace_ms", ["1", "2", "3"]),
    ("limits.heartbeat_ms", ["100", "200", "300"]),
    ("limits.handshake_timeout_ms", ["100", "200", "300"]),
    ("limits.max_violations", ["0", "1", "2"]),
    ("limits.rate_messages", ["1", "0", "2"]),
    ("limits.rate_commands", ["1", "0", "2"]),
    ("limits.rate_control_frames", ["1", "0", "2"]),
    ("limits.socket_unsent_bytes", ["1", "0", "2"]),
    ("limits.empty_channel_ttl_ms", ["1", "2", "3"]),
    ("limits.create_on_join", ["false", "true", "false"]),
];

/// A value given as text, as the TOML that the key takes.
fn as_toml(key: &Key, text: &str) -> String {
    let default = key.field.show(&Config::defaults(&host())).unwrap();
    match default.as_bytes()[0] {
        b'"' => quoted(text),
        b'[' => format!("[{}]", quoted(text)),
        _ => text.to_owned(),
    }
}

fn as_file(key: &Key, value: &str) -> String {
    match key.place() {
        ("", name) => format!("{name} = {value}\n"),
        (table, name) => format!("[{table}]\n{name} = {value}\n"),
    }
}

#[test]
fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
    let sampled: Vec<&str> = SAMPLES.iter().map(|(path, _)| *path).collect();
    let keys: Vec<&str> =
        KEYS.iter().map(|key| key.path).filter(|path| !path.starts_with("redis_")).collect();
    assert_eq!(sampled, keys, "every key is in the samples");

    for (path, [in_file, in_env, in_flag]) in SAMPLES {
        let key = find(path).unwrap();
        let holds = |layers: &Layers, value: Option<&str>, source: &str| {
            let loaded = layers.load().unwrap_or_else(|m| panic!("{path}: {m:?}"));
            let expected = match value {
                Some(text) => as_toml(key, text),
                None => key.field.show(&Config::defaults(&host())).unwrap(),
            };
            assert_eq!(key.field.show(&loaded.config), Some(expected), "{path} from {source}");
            assert_eq!(loaded.source(path).as_str(), source, "{path}");
        };
        let file = as_file(key, &as_toml(key, in_file));
        let flag = format!("--{}={in_flag}", key.flag);
        holds(&Layers::new(&[]), None, "default");
        holds(&Layers::new(&[]).file(&file), Some(in_file), "file");
        holds(&Layers::new(&[]).file(&file).env(&key.env(), ""), Some(in_file), "file");
        let layers = Layers::new(&[]).file(&file).env(&key.env(), in_env);
        holds(&layers, Some(in_env), "environment");
        let layers = Layers::new(&[&flag]).file(&file).env(&key.env(), in_env);
        holds(&layers, Some(in_flag), "flag");
    }
}

#[test]
fn the_edges_of_every_range_hold() {
    let ranges: &[(&str, u64, u64)] = &[
        ("shards", 1, 256),
        ("stats_interval_ms", 100, 3_600_000),
        ("drain_timeout_ms", 0, 600_000),
        ("persistence.retention_messages", 0, 1_000_000_000),
        ("persistence.retention_age_s", 0, 3_153_600_000),
        ("persistence.backlog_bytes", 65_536, 1 << 40),
        ("persistence.ack_timeout_ms", 1, 600_000),
        ("persistence.replicas", 0, 16),
        ("persistence.replicas_timeout_ms", 1, 600_000),
        ("persistence.session_ttl_s", 0, 86_400),
        ("turn.busy_poll_us", 0, 100_000),
        ("turn.read_budget_bytes", 4_096, 4 << 20),
        ("turn.lane_budget", 1, 4_096),
        ("limits.max_connections", 1, 10_000_000),
        ("limits.max_connections_per_address", 0, 10_000_000),
        ("limits.max_rooms", 1, 10_000_000),
        ("limits.max_channels", 1, 10_000_000),
        ("limits.max_channels_per_room", 1, 1_000_000),
        ("limits.max_members_per_channel", 1, 10_000_000),
        ("limits.max_joins_per_client", 1, 1_000_000),
        ("limits.max_memberships", 1, 1_000_000_000),
        ("limits.max_message_bytes", 1_024, 64 << 20),
        ("limits.history_size", 0, 1_000_000),
        ("limits.history_bytes", 0, u32::MAX as u64),
        ("limits.history_bytes_total", 0, 1 << 40),
        ("limits.memory_limit_bytes", 64 << 20, 1 << 50),
        ("limits.outbox_bytes", 1_024 + (64 << 10), 1 << 30),
        ("limits.slow_grace_ms", 1, 600_000),
        ("limits.heartbeat_ms", 100, 3_600_000),
        ("limits.handshake_timeout_ms", 100, 300_000),
        ("limits.max_violations", 0, 1_000),
        ("limits.rate_messages", 0, 10_000_000),
        ("limits.rate_commands", 0, 10_000_000),
        ("limits.rate_control_frames", 0, 1_000_000),
        ("limits.socket_unsent_bytes", 0, 1 << 30),
        ("limits.empty_channel_ttl_ms", 1, 604_800_000),
    ];
    let named: Vec<&str> = ranges.iter().map(|(path, ..)| *path).collect();
    let numbers: Vec<&str> = KEYS
        .iter()
        .filter(|key| matches!(key.field.value_name(), "N" | "MS" | "US" | "BYTES"))
        .map(|key| key.path)
        .collect();
    assert_eq!(named, numbers, "every number is in the table");

    for (path, min, max) in ranges {
        let key = find(path).unwrap();
        let mut config = Config::defaults(&host());
        let before = config.clone();
        let mut read = |text: String| key.field.read(&Raw::Text(text), &mut config);
        for outside in [i128::from(*min) - 1, i128::from(*max) + 1, i128::from(u64::MAX) + 1] {
            let flaws = read(outside.to_string()).unwrap_err();
            let sentence = &flaws[0].sentence;
            for part in [min.to_string(), max.to_string(), outside.to_string()] {
                assert!(sentence.contains(&part), "{path}: {sentence}");
            }
        }
        assert_eq!(config, before, "{path}: what is refused changes nothing");
        for inside in [min, max] {
            key.field.read(&Raw::Text(inside.to_string()), &mut config).unwrap();
            assert_eq!(key.field.show(&config), Some(inside.to_string()), "{path}");
        }
    }
}

#[test]
fn defaults_are_those_of_the_protocol() {
    let config = Layers::new(&[]).load().unwrap().config;
    assert_eq!(config, Config::defaults(&host()));
    assert_eq!(config.listen.to_string(), "127.0.0.1:9100");
    assert_eq!(config.telemetry_listen.to_string(), "127.0.0.1:9101");
    assert_eq!(config.http_listen.to_string(), "127.0.0.1:9102");
    assert_eq!(config.shards, 4, "3.5 cores of 8 are 4 shards");
    assert_eq!(config.node.as_str(), "box");
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.access(), Access { origins: Origins::loopback(), roles: Roles::ByAddress });
    let rooms: Vec<_> =
        config.rooms.iter().map(|room| (room.name.as_str(), room.channels.len())).collect();
    assert_eq!(rooms, [("science", 7), ("integriguard", 2)]);
}

#[test]
fn each_port_lets_in_pages_by_its_own_address() {
    let exact = |text| Origins(vec![Origin::parse(text).unwrap()]);
    let (own, any) = (Origins::loopback, Origins::any);
    // What the bus, the telemetry port and the HTTP port let in.
    for (words, expected) in [
        (&["--listen=[::1]:9100"][..], [own(), own(), own()]),
        (&["--listen=0.0.0.0:9100"], [any(), own(), own()]),
        (&["--http-listen=10.0.0.1:9102"], [own(), own(), any()]),
        (&["--http-listen=0.0.0.0:9102"], [own(), own(), any()]),
        (&["--telemetry-listen=10.0.0.1:9101"], [own(), any(), own()]),
        (&["--listen=0.0.0.0:9100", "--allowed-origins=loopback"], [own(), own(), own()]),
        (&["--allowed-origins=https://a.org"], std::array::from_fn(|_| exact("https://a.org"))),
    ] {
        let config = Layers::new(words).load().unwrap().config;
        let ports = [config.listen, config.telemetry_listen, config.http_listen];
        assert_eq!(ports.map(|port| config.origins_at(port)), expected, "{words:?}");
    }
}

#[test]
fn nobody_is_admin_where_a_foreign_page_may_connect() {
    let user = Roles::Everybody(Role::User);
    for (words, roles) in [
        (&["--http-listen=0.0.0.0:9102"][..], Roles::ByAddress),
        (&["--telemetry-listen=0.0.0.0:9101"], Roles::ByAddress),
        (&["--listen=0.0.0.0:9100"], user),
        (&["--listen=0.0.0.0:9100", "--allowed-origins=loopback"], user),
        (&["--allowed-origins=*"], user),
        (&["--allowed-origins=auto,https://a.org"], user),
        (&["--allowed-origins=null"], user),
        (&["--allowed-origins=loopback,http://localhost:3000"], Roles::ByAddress),
        (&["--role=user"], user),
        (&["--role=admin"], Roles::Everybody(Role::Admin)),
    ] {
        let access = Layers::new(words).load().unwrap().config.access();
        assert_eq!(access.roles, roles, "{words:?}");
        let may_be_admin = access.roles != user;
        assert!(!may_be_admin || access.origins.are_local(), "{words:?}: {access:?}");
    }
    for words in
        [&["--role=admin", "--allowed-origins=*"][..], &["--role=admin", "--listen=[::]:1"]]
    {
        let mistakes = Layers::new(words).mistakes();
        assert!(mistakes[0].contains("`policy.role` is admin, but"), "{mistakes:?}");
    }
}

#[test]
fn values_of_flags_may_be_written_in_several_ways() {
    let config = Layers::new(&[
        "--listen=localhost:7000",
        "--history-size",
        "1_000",
        "--max-rooms=0x10",
        "--allowed-origins=https://a.org, https://b.org",
        "--allowed-origins=loopback",
        "--publish-anywhere=admin,user",
    ])
    .env("ARQONBUS_CREATE_ON_JOIN", "off")
    .load()
    .unwrap()
    .config;
    assert_eq!(config.listen.to_string(), "127.0.0.1:7000");
    assert_eq!(config.limits.history_size, 1_000);
    assert_eq!(config.limits.max_rooms, 16);
    assert_eq!(config.allowed_origins.rules().len(), 3);
    assert_eq!(config.publish_anywhere, [Role::Admin, Role::User]);
    assert!(!config.limits.create_on_join);
}

#[test]
fn the_file_may_be_named_by_the_environment() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.toml");
    fs::write(&path, "shards = 0b11\nlimits.max_rooms = 0x1_0").unwrap();
    let layers = Layers::new(&[]).env("ARQONBUS_CONFIG", path.to_str().unwrap());
    let loaded = layers.load().unwrap();
    assert_eq!((loaded.config.shards, loaded.config.limits.max_rooms), (3, 16));
    assert_eq!(loaded.file.as_deref(), Some(&*path));
    assert_eq!(Layers::new(&[]).env("ARQONBUS_CONFIG", "").load().unwrap().file, None);
}

#[test]
fn more_shards_than_cores_are_warned_of() {
    let warnings = |words: &[&str]| Layers::new(words).load().unwrap().warnings;
    assert!(warnings(&["--shards=4"]).is_empty());
    let text = warnings(&["--shards=5"]).concat();
    assert!(text.contains("`shards` is 5") && text.contains("4 cores"), "{text}");
}

const EVERYTHING: &str = r#"
listen = "0.0.0.0:1"
telemetry_listen = "[::1]:2"
http_listen = "127.0.0.1:0"
node = "n.1"
shards = 3
pin = "off"
storage = "memory"
allowed_origins = ["https://a.org", "loopback"]
telemetry = false
stats_interval_ms = 500
drain_timeout_ms = 0
log_format = "json"
log_level = "info,[turn{name=\"a\"}]=debug"
bootstrap = false
policy.publish_anywhere = ["user", "admin"]
policy.role = "user"

[turn]
busy_poll_us = 50

[limits]
history_size = 0
create_on_join = false

[[rooms]]
name = "integriguard"
channels = ["dashboard-events", "more"]
history_size = 7

[[rooms]]
name = "arqon-ops"
channels = ["a", "b", "a"]
history_size = 0
member_limit = 9
create_on_join = false
publishers = ["alice", "bob"]
persist = "history"
ack_when = "accepted"

[[rooms]]
name = "news"
publishers = "admins"

[[rooms]]
name = "talk"
publishers = "members"
"#;

#[test]
fn rooms_of_the_file_join_the_hard_coded_ones() {
    let rooms = Layers::new(&[]).file(EVERYTHING).load().unwrap().config.rooms;
    let names: Vec<_> = rooms.iter().map(|room| room.name.as_str()).collect();
    assert_eq!(names, ["integriguard", "arqon-ops", "news", "talk"]);
    let channels =
        |index: usize| rooms[index].channels.iter().map(Name::as_str).collect::<Vec<_>>();
    assert_eq!(channels(0), ["telemetry-stream", "dashboard-events", "more"]);
    assert_eq!(channels(1), ["a", "b"]);
    let config = &rooms[1].config;
    assert_eq!((config.history_size, config.member_limit), (Some(0), Some(9)));
    assert_eq!(config.create_on_join, Some(false));
    let kept = (config.persist, config.ack_when);
    assert_eq!(kept, (Some(Persist::History), Some(AckWhen::Accepted)));
    let named = Publishers::Clients(vec![Name::fixed("alice"), Name::fixed("bob")]);
    assert_eq!(config.publishers, Some(named));
    assert_eq!(rooms[2].config.publishers, Some(Publishers::Admins));
    assert_eq!(rooms[3].config.publishers, Some(Publishers::Members));
}
