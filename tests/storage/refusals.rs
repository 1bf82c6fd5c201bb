//! What a node must not start with: a clear sentence says it, and nothing is changed.

use crate::desk::{Desk, Line, settings};
use crate::node::{Heard, Node, Post};
use crate::redis::Redis;
use arqonbus::broker::record::Record;
use arqonbus::storage::{LoadError, RedisUrl, Settings, Wrong};
use std::io::{Read, Write};
use std::net::TcpListener;

fn refused(url: &str) -> Wrong {
    let desk = Desk::open(settings(url));
    let answer = desk.load();
    desk.abandon();
    match answer {
        Err(LoadError::Wrong(wrong)) => {
            assert!(!wrong.to_string().contains("s3cret"), "{wrong}");
            wrong
        }
        other => panic!("{url} is not refused: {other:?}"),
    }
}

#[test]
fn a_wrong_login_is_refused() {
    let redis = Redis::with(&["--save", "", "--requirepass", "right"]);
    for url in [redis.url(), format!("redis://:s3cret@127.0.0.1:{}", redis.port())] {
        let wrong = refused(&url);
        assert!(matches!(wrong, Wrong::Login(_)), "{wrong}");
    }
    let (desk, _) = Desk::at(&format!("redis://:right@127.0.0.1:{}", redis.port()));
    desk.abandon();
    let open = Redis::start();
    let wrong = refused(&format!("redis://:s3cret@127.0.0.1:{}", open.port()));
    assert!(matches!(wrong, Wrong::Login(_)), "{wrong}");
}

#[test]
fn a_user_who_may_not_is_refused() {
    let redis = Redis::start();
    redis.cli(&["ACL", "SETUSER", "ann", "on", ">pw", "~*", "+info", "+ping", "+client"]);
    let wrong = refused(&format!("redis://ann:pw@127.0.0.1:{}", redis.port()));
    assert!(matches!(wrong, Wrong::Permission(_)), "{wrong}");
}

#[test]
fn a_database_that_is_not_there_is_refused() {
    let redis = Redis::start();
    let wrong = refused(&format!("{}/99", redis.url()));
    assert!(matches!(wrong, Wrong::Database(_)), "{wrong}");
    let (desk, _) = Desk::at(&format!("{}/3", redis.url()));
    desk.abandon();
    assert_eq!(redis.cli(&["-n", "3", "EXISTS", "arqonbus:{bus}:writer"]), "1");
}

#[test]
fn foreign_keys_are_refused_and_stay() {
    let line = Line::new(1, "r", "c");
    for key in ["arqonbus:{bus}:writer", "arqonbus:{bus}:rooms", "arqonbus:{bus}:channels"] {
        let redis = Redis::start();
        let (desk, _) = Desk::at(&redis.url());
        let mut line = line.clone();
        desk.create(&line);
        desk.say(&mut line, 1);
        desk.wait_stored(&line);
        desk.abandon();
        redis.cli(&["DEL", key]);
        redis.cli(&["SET", key, "precious"]);
        let wrong = refused(&redis.url());
        assert!(wrong.to_string().contains(key), "{wrong}");
        assert!(matches!(wrong, Wrong::ForeignKey { .. }), "{wrong}");
        assert_eq!(redis.cli(&["GET", key]), "precious");
    }
}

#[test]
fn foreign_keys_are_refused_by_nodes_and_stay() {
    for name in ["writer", "rooms", "channels", "nodes", "clients"] {
        let redis = Redis::start();
        let key = format!("arqonbus:{{bus}}:{name}");
        redis.cli(&["SET", &key, "precious"]);
        let node = Node::open("a", settings(&redis.url()));
        let wrong = match node.load() {
            Err(LoadError::Wrong(wrong)) => wrong,
            other => panic!("{key} is not refused: {other:?}"),
        };
        assert!(wrong.to_string().contains(&format!("the key {key} holds a ")), "{wrong}");
        assert!(matches!(wrong, Wrong::ForeignKey { .. }), "{wrong}");
        node.abandon();
        assert_eq!(redis.cli(&["GET", &key]), "precious");
    }
}

#[test]
fn a_foreign_key_costs_nodes_its_channel_and_no_other() {
    for kind in ["stream", "meta", "nodes"] {
        let redis = Redis::start();
        let node = Node::at("a", &redis.url());
        let mut good = node.follow(2, "r", "good");
        let mut bad = Post::new("a", 1, "r", "bad");
        let key = bad.key(kind);
        redis.cli(&["SET", &key, "precious"]);
        node.attach(&bad);
        for n in 0..10 {
            node.say(&mut bad, &format!("bad-{n}"));
            node.say(&mut good, &format!("good-{n}"));
        }
        node.wait_placed(&good);
        let lost = |heard: &Heard| heard.of(&bad).lost.iter().map(|(a, b)| b - a + 1).sum::<u64>();
        let heard = node.wait("the loss", |heard| lost(heard) == 10);
        assert!(heard.degraded.is_empty() && heard.of(&bad).placed.is_empty(), "{kind}");
        node.offer(Record::ChannelGone(bad.address.clone()));
        node.say(&mut good, "more");
        node.wait_placed(&good);
        assert_eq!(redis.cli(&["GET", &key]), "precious", "{kind}");
        // Once it is out of the way the channel is followed.
        redis.cli(&["RENAME", &key, "elsewhere"]);
        let before = node.order(&bad).attached;
        node.attach(&bad);
        let heard = node.wait("attached", |heard| heard.of(&bad).attached > before);
        bad.life = heard.of(&bad).epoch.into();
        node.submit(&bad, "at last", 11, 0);
        node.wait("placed", |heard| heard.of(&bad).placed.contains_key(&11));
        node.abandon();
    }
}

#[test]
fn a_foreign_key_in_place_of_a_lease_is_named_and_stays() {
    let redis = Redis::start();
    let stays = |rename: bool| {
        let node = Node::at("a", &redis.url());
        let key = redis.cli(&["KEYS", "arqonbus:{bus}:node:*"]);
        redis.cli(&["DEL", &key]);
        redis.cli(&["HSET", &key, "precious", "1"]);
        if rename {
            let heard = node.wait("degraded", |heard| !heard.degraded.is_empty());
            let reason = &heard.degraded[0];
            assert!(reason.contains(&format!("the key {key} holds a ")), "{reason}");
            assert_eq!(redis.cli(&["HGET", &key, "precious"]), "1");
            redis.cli(&["RENAME", &key, "elsewhere"]);
            node.wait("restored", |heard| heard.restored == heard.degraded.len());
            assert_eq!(redis.cli(&["GET", &key]), "a");
        }
        node.stop();
        redis.cli(&["HGET", &key, "precious"])
    };
    assert_eq!(stays(false), "1", "who ends leaves it");
    redis.cli(&["FLUSHALL"]);
    assert_eq!(stays(true), "", "its own lease ends with it");
    assert_eq!(redis.cli(&["HGET", "elsewhere", "precious"]), "1");
}

#[test]
fn without_the_replicas_that_were_asked_for_nodes_say_of_nothing_that_it_is_placed() {
    let (redis, replica) = (Redis::start(), Redis::start());
    let settings = Settings { replicas: 1, replicas_timeout_ms: 100, ..settings(&redis.url()) };
    let nodes = ["a", "b"].map(|name| Node::open(name, settings.clone()));
    // Nothing that a start does has to be on a replica.
    nodes.iter().for_each(|node| _ = node.load().unwrap());
    // It is of one life, whichever of them makes it.
    let mut posts = [1, 1].map(|number| Post::new("either", number, "r", "c"));
    for (node, post) in nodes.iter().zip(&mut posts) {
        node.attach(post);
        (0..10).for_each(|n| node.say(post, &format!("{}-{n}", node.name)));
    }
    for (node, post) in nodes.iter().zip(&posts) {
        // Before that it may have been something else.
        let heard = node.wait("the reason", |_| {
            let degraded = node.storage().meters().degraded();
            degraded.is_some_and(|degraded| degraded.reason.contains("0 of 1 replicas"))
        });
        assert!(heard.of(post).placed.is_empty() && !heard.degraded.is_empty());
    }
    replica.cli(&["REPLICAOF", "127.0.0.1", &redis.port().to_string()]);
    for (node, post) in nodes.iter().zip(&posts) {
        let order = node.wait_placed(post);
        assert!(order.lost.is_empty() && order.placed.values().all(|place| !place.is_duplicate));
        assert_eq!(node.wait_last(post, 20).last(), 20, "each once");
        node.wait("restored", |heard| heard.restored == heard.degraded.len());
    }
    assert_eq!(replica.cli(&["XLEN", &posts[0].key("stream")]), "20");
    nodes.into_iter().for_each(Node::stop);
}

#[test]
fn a_second_writer_is_refused_while_the_first_lives() {
    let redis = Redis::start();
    let (first, _) = Desk::at(&redis.url());
    let wrong = refused(&redis.url());
    assert!(matches!(&wrong, Wrong::AnotherWriter { node, .. } if node == "arqonbus"), "{wrong}");
    let mut line = Line::new(1, "r", "c");
    first.create(&line);
    first.say(&mut line, 1);
    first.wait_stored(&line);
    // Another prefix is another bus.
    let mut other = settings(&redis.url());
    other.prefix = "other".into();
    let other = Desk::open(other);
    other.load().unwrap();
    other.abandon();
    // Who ends well leaves nothing that a later writer would have to wait for.
    first.stop();
    let number = |words: &[&str]| redis.cli(words).lines().next().unwrap().parse::<u64>().unwrap();
    let until_ms = number(&["HGET", "arqonbus:{bus}:writer", "until_ms"]);
    assert!(until_ms < (number(&["TIME"]) + 1) * 1_000, "the right to write goes on");
    let (second, _) = Desk::at(&redis.url());
    second.abandon();
}

#[test]
fn a_writer_that_was_overtaken_writes_nothing_more() {
    let redis = Redis::start();
    let (old, _) = Desk::at(&redis.url());
    let mut line = Line::new(1, "r", "c");
    old.create(&line);
    old.say(&mut line, 10);
    old.wait_stored(&line);
    // The old one hangs for longer than its lease: then another may take its place.
    redis.cli(&["HSET", "arqonbus:{bus}:writer", "until_ms", "0"]);
    let (new, snapshot) = Desk::at(&redis.url());
    assert_eq!(snapshot.channels[0].last, 10);
    let mut theirs = line.clone();
    old.say(&mut line, 5);
    old.wait("the loss", |news| news.lost_of(&line) == [11, 12, 13, 14, 15]);
    let news = old.wait("the end", |news| !news.ended.is_empty());
    let whereabouts = format!("process {}, since 20", std::process::id());
    for reason in [&news.degraded[0], &news.ended[0]] {
        assert!(reason.contains("writes under the prefix arqonbus"), "{reason}");
        assert!(reason.contains(&whereabouts) && reason.contains("(host "), "{reason}");
    }
    assert!(old.storage().meters().is_degraded());
    old.say(&mut line, 1);
    old.wait("the loss", |news| news.lost_of(&line).last() == Some(&16));
    new.say(&mut theirs, 2);
    new.wait_stored(&theirs);
    assert_eq!(redis.cli(&["XLEN", &line.stream()]), "12");
    assert!(new.news().degraded.is_empty());
    old.abandon();
    new.abandon();
}

#[test]
fn a_redis_that_is_too_old_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut bytes = [0; 4096];
        while let Ok(length @ 1..) = socket.read(&mut bytes) {
            let text = String::from_utf8_lossy(&bytes[..length]).to_uppercase();
            for word in text.split("\r\n") {
                let about = "# Server\r\nredis_version:6.0.16\r\nredis_mode:standalone\r\n";
                let answer = match word {
                    "INFO" => format!("${}\r\n{about}\r\n", about.len()),
                    "CLIENT" | "SELECT" => "+OK\r\n".to_owned(),
                    _ => continue,
                };
                socket.write_all(answer.as_bytes()).unwrap();
            }
        }
    });
    let wrong = refused(&format!("redis://127.0.0.1:{port}"));
    assert_eq!(wrong, Wrong::TooOld("6.0.16".into()));
    assert!(wrong.to_string().contains("6.2"), "{wrong}");
    server.join().unwrap();
}

#[test]
fn several_servers_that_are_no_cluster_are_refused() {
    let redis = Redis::start();
    let wrong = refused(&format!("{},127.0.0.1:1", redis.url()));
    assert!(matches!(wrong, Wrong::Url(_)), "{wrong}");
}

#[test]
fn a_server_that_is_no_sentinel_is_refused() {
    let redis = Redis::start();
    let wrong = refused(&format!("redis+sentinel://127.0.0.1:{}/main", redis.port()));
    assert!(matches!(wrong, Wrong::Url(_)) && wrong.to_string().contains("sentinel"), "{wrong}");
}

#[test]
fn settings_that_can_not_be_are_refused() {
    let mut settings = settings("redis://127.0.0.1");
    settings.prefix = "a b".into();
    let error = arqonbus::storage::start(settings, Box::new(|_, _| {})).unwrap_err();
    assert!(error.to_string().contains("prefix"), "{error}");
    assert!(RedisUrl::parse("http://127.0.0.1").is_err());
}
