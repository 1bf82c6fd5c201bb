//! What is wrong, where, and in which words.

use super::*;
use crate::daemon::config::summary::check_file_on;
use crate::daemon::config::table;

#[test]
fn bad_values_are_refused_where_they_were_typed() {
    for (flag, value, expected) in [
        ("listen", "9100", "is no address and port"),
        ("listen", "", "is no address and port"),
        ("listen", "example.org:9100", "is no address and port"),
        ("listen", "127.0.0.1:65536", "is no address and port"),
        ("node", "a b", "is no name"),
        ("shards", "many", "must be a whole number"),
        ("shards", "-1", "must be 1 to 256, but is -1"),
        ("shards", "1.5", "must be a whole number"),
        ("log-level", "inof", "`inof` is no level"),
        ("allowed-origins", "a.org,b.org", "`a.org` is no origin"),
        ("publish-anywhere", "admin,root", "`root` is no role"),
        ("heartbeat-ms", "99", "must be 100 to 3600000 ms, but is 99"),
        ("handshake-timeout-ms", "300_001", "must be 100 to 300000 ms, but is 300001"),
        ("storage", "redis", "nothing says where that is; give `redis_url`"),
        ("many-nodes", "true", "but `storage` is memory, which no other node reaches"),
        ("redis-url", "http://u:secret@h", "the scheme of the URL of Redis must be"),
    ] {
        let mistakes = Layers::new(&[&format!("--{flag}={value}")]).mistakes();
        assert!(mistakes[0].starts_with(&format!("--{flag}: ")), "{mistakes:?}");
        assert!(mistakes[0].contains(expected), "{mistakes:?}");
        assert!(!mistakes.concat().contains("secret"));
        if value.is_empty() {
            continue;
        }
        let name = table::env_name(flag);
        let mistakes = Layers::new(&[]).env(&name, value).mistakes();
        assert!(mistakes[0].starts_with(&format!("{name}: ")), "{mistakes:?}");
        assert!(mistakes[0].contains(expected), "{mistakes:?}");
    }
}

#[test]
fn contradictions_name_every_key_they_are_about() {
    let room = |n: usize| format!("[[rooms]]\nname = \"r{n}\"\n");
    let crowd: String = (0..3).map(room).collect();
    for (words, file, named) in [
        (
            &["--http-listen=127.0.0.1:9100"][..],
            "",
            &["--http-listen: ", "`http_listen`", "`listen`"][..],
        ),
        (&["--listen=127.0.0.1:9101"], "", &["--listen: ", "`telemetry_listen`", "`listen`"]),
        (
            &[],
            "http_listen = '0.0.0.0:9101'",
            &["a.toml:1:15: ", "`http_listen`", "`telemetry_listen`"],
        ),
        (
            &["--outbox-bytes=1_000_000"],
            "",
            &["--outbox-bytes: ", "`limits.outbox_bytes`", "`limits.max_message_bytes`", "1114112"],
        ),
        (
            &["--backlog-bytes=1_000_000"],
            "",
            &["--backlog-bytes: ", "`persistence.backlog_bytes`", "`limits.max_message_bytes`"],
        ),
        (
            &["--redis-url=redis://:secret@h"],
            "storage = 'memory'",
            &["--redis-url: ", "`redis_url`", "`storage`"],
        ),
        (
            &[],
            "[limits]\nmax_message_bytes = 5_000_000",
            &["a.toml:2:21: limits.max_message_bytes: ", "`limits.outbox_bytes`"],
        ),
        (
            &["--max-rooms=4"],
            &crowd,
            &["--max-rooms: ", "`limits.max_rooms`", "`rooms`", "`bootstrap`"],
        ),
        (
            &["--max-channels-per-room=6"],
            "",
            &[
                "--max-channels-per-room: ",
                "`science`",
                "`limits.max_channels_per_room`",
                "`rooms`",
            ],
        ),
        (&["--allowed-origins=*,loopback"], "", &["--allowed-origins: ", "`*`"]),
    ] {
        let mistakes = Layers::new(words).file(file).mistakes();
        assert_eq!(mistakes.len(), 1, "{mistakes:?}");
        let text = mistakes[0].replace("arqonbus.toml", "a.toml");
        for part in named {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
    for good in [
        &["--listen=127.0.0.1:0", "--http-listen=127.0.0.1:0"][..],
        &["--listen=127.0.0.1:9101", "--telemetry=false"],
        &["--max-message-bytes=4128768"],
        &["--max-rooms=2"],
    ] {
        Layers::new(good).load().unwrap_or_else(|mistakes| panic!("{good:?}: {mistakes:?}"));
    }
}

#[test]
fn connections_fit_into_the_descriptors() {
    let with = |descriptors, words: &[&str]| {
        let mut layers = Layers::new(words);
        layers.host.descriptors = descriptors;
        layers
    };
    for (descriptors, expected, warned) in [
        (None, 100_000, false),
        (Some(1_000_000), 100_000, false),
        (Some(100_000 + 256 + 16), 100_000, false),
        (Some(100_000 + 256 + 15), 99_999, true),
        (Some(1_024), 752, true),
    ] {
        let loaded = with(descriptors, &[]).load().unwrap();
        assert_eq!(loaded.config.limits.max_connections, expected);
        assert_eq!(!loaded.warnings.is_empty(), warned, "{:?}", loaded.warnings);
    }
    with(Some(1_024), &["--max-connections=752"]).load().unwrap();
    let mistakes = with(Some(1_024), &["--max-connections=753"]).mistakes();
    for part in ["--max-connections: ", "ulimit -n 1025", "`shards`", "1024", "752"] {
        assert!(mistakes[0].contains(part), "{part} in {mistakes:?}");
    }
    let mistakes = with(Some(200), &[]).mistakes();
    assert!(mistakes[0].contains("ulimit -n 273"), "{mistakes:?}");
}

#[test]
fn check_config_tells_every_mistake_and_its_place() {
    let cases: &[(&str, &[&str])] = &[
        ("shards = 0", &["1:10: shards: must be 1 to 256, but is 0"]),
        ("shards = \"4\"", &["1:10: shards: must be a whole number, but is a string"]),
        ("shards = 4.0", &["1:10: shards: must be a whole number, but is a float"]),
        ("pin = true", &["1:7: pin: must be a string, but is a boolean"]),
        ("telemetry = 1", &["1:13: telemetry: must be true or false, but is an integer"]),
        ("storage = 'redis'", &["1:11: storage: `storage` is redis, but nothing says where"]),
        (
            "redis_url = 'redis://:secret@h'",
            &["1:13: redis_url: `redis_url` is given, but `storage` is memory"],
        ),
        ("redis_url = 'secret'", &["1:13: redis_url: the URL of Redis has no scheme"]),
        (
            "[[rooms]]\nname = 'a'\npersist = 'some'\nack_when = 1",
            &[
                "3:11: rooms.persist: must be \"none\" or \"history\" or \"all\", but is `some`",
                "4:12: rooms.ack_when: must be a string",
            ],
        ),
        ("\n  shrads = 2", &["2:3: shrads: is no key; did you mean `shards`?"]),
        ("max_rooms = 2", &["1:1: max_rooms: is no key; did you mean `limits.max_rooms`?"]),
        ("[limits]\nlisten = 2", &["2:1: limits.listen: is no key; did you mean `listen`?"]),
        ("[limit]\nmax_rooms = 2", &["1:2: limit: is no key; did you mean `limits`?"]),
        ("weather = 'wet'", &["1:1: weather: is no key; `arqonbus serve --print-config`"]),
        ("limits = 3", &["1:10: limits: must be a table, but is an integer"]),
        ("rooms = 3", &["1:9: rooms: must be a list of tables"]),
        ("rooms = [3]", &["1:10: rooms: must be a table"]),
        ("[[rooms]]\nchannels = ['a']", &["1:1: rooms.name: must be given"]),
        ("[[rooms]]\nname = 'a b'", &["2:8: rooms.name: `a b` is no name: it may hold only"]),
        ("[[rooms]]\nname = 'a'\n[[rooms]]\nname = 'a'", &["4:8: rooms.name: the room `a` is"]),
        ("[[rooms]]\nname = 'a'\nchanels = []", &["3:1: rooms.chanels: is no key of a room; did"]),
        (
            "[[rooms]]\nname = 'a'\nchannels = ['b', 'c d', 'pm', 1]",
            &["3:31: rooms.channels: must be a string, but is an integer"],
        ),
        (
            "[[rooms]]\nname = 'a'\nchannels = ['b', 'c d', 'pm']",
            &["3:18: rooms.channels: `c d` is no name", "3:25: rooms.channels: `pm` is a channel"],
        ),
        (
            "[[rooms]]\nname = 'a'\nhistory_size = -1\nmember_limit = 0",
            &["3:16: rooms.history_size: must be 0 to", "4:16: rooms.member_limit: must be 1 to"],
        ),
        ("[[rooms]]\nname = 'a'\npublishers = 'all'", &["3:14: rooms.publishers: must be \"mem"]),
        ("[[rooms]]\nname = 'a'\npublishers = []", &["3:14: rooms.publishers: names nobody"]),
        ("[[rooms]]\nname = 'a'\npublishers = 3", &["3:14: rooms.publishers: must be \"members"]),
        (
            "allowed_origins = ['https://é.org/', 'loopback',\n 'b']",
            &["1:20: allowed_origins: `https://é.org/`", "2:2: allowed_origins: `b` is no origin"],
        ),
        (
            "# é\nnode = 'é' \nshards = 0\n[limits]\nheartbeat_ms = 99\nmax_rom = 1\n",
            &[
                "2:8: node: `é` is no name",
                "3:10: shards: must be 1 to 256",
                "5:16: limits.heartbeat_ms: must be 100",
                "6:1: limits.max_rom: is no key; did you mean `limits.max_rooms`?",
            ],
        ),
        ("shards = 1\nshards = 2", &["2:1: syntax: duplicate key"]),
        ("shards = \npin = \"on\"\nnode = ]", &["1:", "3:"]),
        ("limits.outbox_bytes = 70_000", &["1:23: limits.outbox_bytes: `limits.outbox_bytes` is"]),
        ("limits.max_rooms = 999999999999999999999", &["1:20: limits.max_rooms: must be 1 to"]),
    ];
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bad.toml");
    for (text, expected) in cases {
        fs::write(&path, text).unwrap();
        let found = texts(check_file_on(&host(), &path).unwrap_err(), directory.path());
        assert_eq!(found.len(), expected.len(), "{text}: {found:#?}");
        for (found, expected) in found.iter().zip(*expected) {
            assert!(found.starts_with(&format!("bad.toml:{expected}")), "{text}: {found}");
        }
    }
}

#[test]
fn a_file_that_can_not_be_read_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.toml");
    let check = || texts(check_file_on(&host(), &path).unwrap_err(), directory.path());
    assert!(check()[0].starts_with("x.toml: can't be read: "), "{:?}", check());
    fs::write(&path, b"node = 'a'\n\xff").unwrap();
    assert_eq!(check(), ["x.toml: line 2 is not UTF-8 text"]);
    fs::write(&path, "#".repeat(5 << 20)).unwrap();
    assert!(check()[0].contains("larger than 4 MiB"), "{:?}", check());
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(check()[0].starts_with("x.toml: can't be read: "), "{:?}", check());
}

#[test]
fn check_config_sums_up_what_a_good_file_changes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("good.toml");
    let small = Host { descriptors: Some(1_024), ..host() };
    for (text, expected) in [
        ("", "ok\n  all values are the defaults\n"),
        ("shards = 4\nlisten = '127.0.0.1:9100'", "ok\n  all values are the defaults\n"),
        (
            "shards = 2\n[limits]\nrate_messages = 5\n[[rooms]]\nname = 'lobby'\nchannels = ['a']",
            "ok\n  shards = 2 (default 4)\n  limits.rate_messages = 5 (default 0)\n  \
             rooms.lobby = 1 channel (default no such room)\n",
        ),
    ] {
        fs::write(&path, text).unwrap();
        assert_eq!(check_file_on(&small, &path).unwrap().to_string(), expected, "{text}");
    }
    fs::write(&path, "limits.max_connections = 5000").unwrap();
    let summary = check_file_on(&small, &path).unwrap();
    assert_eq!(summary.differences[0].value, "5000");
    assert!(summary.warnings[0].contains("ulimit -n 5272"), "{summary}");
}

/// Whatever stands in a file, the outcome is a configuration or a list of mistakes with places.
#[test]
fn no_file_is_too_broken_to_be_told_of() {
    let path = Path::new("broken.toml");
    let read = |text: String| {
        let document = Document::of(path, text);
        resolve(Typed::collect(&ServeArgs::default(), |_| None, Some(&document)), &host())
    };
    assert!(read(EVERYTHING.to_owned()).is_ok());
    let (mut good, mut bad) = (0, 0);
    for (at, _) in EVERYTHING.char_indices() {
        let (before, after) = EVERYTHING.split_at(at);
        let torn = ["", "\"", "[", "]", "=", "\n", "é", "\u{0}"]
            .iter()
            .flat_map(|wedge| [format!("{before}{wedge}"), format!("{before}{wedge}{after}")]);
        for text in torn {
            match read(text) {
                Ok(_) => good += 1,
                Err(mistakes) => {
                    bad += 1;
                    assert!(mistakes.iter().all(|mistake| mistake.rank().1.is_some()));
                }
            }
        }
    }
    assert!(good > 100 && bad > 1_000, "{good} {bad}");
}

/// Each advice is followed: what it says to give is given, and taken.
#[test]
fn what_is_advised_works() {
    let rows: &[(&[&str], &str, &[&str])] = &[
        (&["--allowed-origins=a.org"], "give scheme://host", &["--allowed-origins=https://a.org"]),
        (
            &["--allowed-origins=a.org"],
            "scheme://host:port",
            &["--allowed-origins=https://a.org:1"],
        ),
        (&["--allowed-origins=a.org"], "`loopback`", &["--allowed-origins=loopback"]),
        (&["--allowed-origins=a.org"], "`null`", &["--allowed-origins=null"]),
        (&["--allowed-origins=a.org"], "`auto`", &["--allowed-origins=auto"]),
        (&["--allowed-origins=a.org"], "`*` for every origin", &["--allowed-origins=*"]),
        (&["--allowed-origins=*,https://a.org"], "give it alone", &["--allowed-origins=*"]),
        (
            &["--allowed-origins=*,https://a.org"],
            "leave it out",
            &["--allowed-origins=https://a.org"],
        ),
        (
            &["--role=admin", "--listen=0.0.0.0:1"],
            "give `allowed_origins` = [\"loopback\"]",
            &["--role=admin", "--listen=0.0.0.0:1", "--allowed-origins=loopback"],
        ),
        (
            &["--role=admin", "--listen=0.0.0.0:1"],
            "leave `policy.role` out",
            &["--listen=0.0.0.0:1"],
        ),
        (&["--listen=9100"], "127.0.0.1:9100", &["--listen=127.0.0.1:9100"]),
        (&["--listen=9100"], "0.0.0.0:9100", &["--listen=0.0.0.0:9100"]),
        (&["--listen=9100"], "[::]:9100", &["--listen=[::]:9100"]),
        (&["--listen=127.0.0.1:9102"], "need different ports", &["--listen=127.0.0.1:9103"]),
        (&["--log-level=loud"], "error, warn, info", &["--log-level=error"]),
        (&["--log-level=loud"], "or off", &["--log-level=off"]),
        (
            &["--log-level=loud"],
            "`info,arqonbus::shard=debug`",
            &["--log-level=info,arqonbus::shard=debug"],
        ),
        (
            &["--storage=redis"],
            "redis://127.0.0.1:6379",
            &["--storage=redis", "--redis-url=redis://127.0.0.1:6379"],
        ),
        (
            &["--redis-url=redis://h"],
            "`storage` = \"redis\"",
            &["--storage=redis", "--redis-url=redis://h"],
        ),
        (
            &["--many-nodes=true"],
            "`storage` = \"redis\" and `redis_url`",
            &["--many-nodes=true", "--storage=redis", "--redis-url=redis://h"],
        ),
        (&["--redis-url=h:1"], "redis://", &["--storage=redis", "--redis-url=redis://h:1"]),
        (&["--outbox-bytes=66560"], "at least 1114112", &["--outbox-bytes=1114112"]),
        (&["--history-bytes=1000"], "at least 1049600", &["--history-bytes=1049600"]),
        (&["--history-bytes=1000"], "0 for no limit", &["--history-bytes=0"]),
        (&["--backlog-bytes=65536"], "at least 1049600", &["--backlog-bytes=1049600"]),
        (&["--shards=0"], "1 to 256", &["--shards=256"]),
        (&["--max-connections=0"], "1 to 10000000", &["--max-connections=1"]),
        (&["--node=a b"], "A-Z a-z 0-9 . _ -", &["--node=a.b_-"]),
        (&["--publish-anywhere=root"], "user or admin", &["--publish-anywhere=user,admin"]),
    ];
    for (bad, advice, good) in rows {
        let said = Layers::new(bad).mistakes().join("\n");
        assert!(said.contains(advice), "{bad:?}: {advice} in {said}");
        let taken = Layers::new(good).load();
        assert!(taken.is_ok(), "{advice} is said of {bad:?}, but {good:?} gives {taken:?}");
    }
    // So is what is said of the file descriptors.
    for (descriptors, has_room) in [(300, true), (200, false)] {
        let mut layers = Layers::new(&["--shards=1", "--max-connections=100"]);
        layers.host.descriptors = Some(descriptors);
        let said = layers.mistakes().concat();
        let most = said.split("ask for at most ").nth(1);
        assert_eq!(most.is_some(), has_room, "{said}");
        let mut followed = match most {
            Some(most) => Layers::new(&["--shards=1", &format!("--max-connections={most}")]),
            None => Layers::new(&["--shards=1", "--max-connections=100"]),
        };
        let raised = said.split("ulimit -n ").nth(1).and_then(|rest| rest.split('`').next());
        let raised = raised.unwrap().parse().unwrap();
        followed.host.descriptors = Some(if has_room { descriptors } else { raised });
        assert!(followed.load().is_ok(), "{said}");
    }
}
