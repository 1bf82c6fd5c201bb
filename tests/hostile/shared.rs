//! Attacks that need a Redis, or several nodes.

use crate::attack::{Target, named};
use crate::common::raw::{TEXT, frame};
use crate::common::{Client, Daemon, envelope, eventually};
use crate::enemy::{Enemy, handshake};
use crate::gauge::resident_mib;
use crate::ordinary::Pair;
use crate::pace::Pace;
use crate::redis::Redis;
use crate::withstanding::target;
use serde_json::json;
use std::io::Read;
use std::time::{Duration, Instant};

fn node(redis: &Redis, name: &str, more: &[&str]) -> Daemon {
    let url = redis.url();
    let flags = ["--storage", "redis", "--redis-url", &url, "--node", name, "--shards", "2"];
    Daemon::start(
        &[&flags[..], &["--drain-timeout-ms", "500", "--ack-timeout-ms", "20000"], more].concat(),
    )
}

const MANY: [&str; 2] = ["--many-nodes", "true"];

/// The attacks that make the most work for a storage, on one node and on two, while a client of each talks
/// to the other.
fn withstands_with_redis(nodes: usize) {
    let redis = Redis::start();
    let flags: &[&str] = if nodes > 1 { &MANY } else { &[] };
    let names = ["one", "two"];
    let daemons: Vec<Daemon> =
        names[..nodes].iter().map(|name| node(&redis, name, flags)).collect();
    let [first, last] = [&daemons[0], &daemons[nodes - 1]];
    let pair = Pair::start([first.bus, last.bus]);
    for (number, name) in [
        "opened_and_dropped",
        "one_id_for_all",
        "flapping_before_watchers",
        "identified_again_and_again",
        "one_id_again_and_again",
        "short_lives",
        "private_to_all_and_nobody",
        "each_command_read",
        "channels_without_end",
        "whole_rooms",
    ]
    .into_iter()
    .enumerate()
    {
        let target = Target { crowd: 8, ..target(&daemons[number % nodes]) };
        (named(name).run)(&target, &Pace::lasting(Duration::from_millis(500)));
        pair.await_more(5);
    }
    pair.finish();
    for daemon in &daemons {
        eventually("everything is stored", || {
            (daemon.get("/status").json()["storage_state"]["state"] == "ok").then_some(())
        });
        let lost = daemon.metric("arqonbus_shard_events_lost_total", "");
        assert_eq!(lost, 0.0, "what was accepted is stored");
    }
    daemons.into_iter().for_each(|daemon| _ = daemon.stop());
}

#[test]
fn one_node_with_redis_withstands() {
    withstands_with_redis(1);
}

#[test]
fn two_nodes_with_redis_withstand() {
    withstands_with_redis(2);
}

/// While Redis decides whose an id is, nothing that is sent to the id reaches who has only asked for it:
/// neither before the answer to its handshake, nor instead of it.
#[test]
fn who_only_claims_an_id_gets_nothing_of_it() {
    let redis = Redis::start();
    let (one, two) = (node(&redis, "one", &MANY), node(&redis, "two", &MANY));
    let mut holder = two.client_with("client_id=bob&join=lab:talk");
    let mut ann = one.client_with("client_id=ann&join=lab:talk");
    let secret = "secret".repeat(50_000);
    for round in 0..4 {
        // Every second id is held by a client of the other node, the others by nobody.
        let id = if round % 2 == 0 { "bob".to_owned() } else { format!("new-{round}") };
        redis.cli(&["CLIENT", "PAUSE", "600", "ALL"]);
        let mut claimants: Vec<Enemy> = Vec::new();
        for _ in 0..3 {
            let mut claimant = Enemy::narrow(one.bus).expect("the bus takes connections");
            let request = handshake(one.bus, &format!("/?client_id={id}"), "");
            assert!(claimant.push(&request).is_all());
            claimants.push(claimant);
        }
        for _ in 0..6 {
            let private = ann.envelope("private", "lab:pm", json!({"target": id, "text": secret}));
            ann.send(&private);
            std::thread::sleep(Duration::from_millis(50));
        }
        for claimant in &mut claimants {
            let mut first = [0; 9];
            let stream = claimant.stream();
            stream.set_read_timeout(Some(crate::common::PATIENCE)).unwrap();
            let mut reader = stream;
            reader.read_exact(&mut first).expect("the handshake is answered");
            assert_eq!(
                &first,
                b"HTTP/1.1 ",
                "round {round}: {:?}",
                first.escape_ascii().to_string()
            );
        }
        // Of those that are refused none has got anything of what was sent to the id.
        if round % 2 == 0 {
            for claimant in &mut claimants {
                let mut rest = Vec::new();
                let _ = claimant.stream().read_to_end(&mut rest);
                let rest = String::from_utf8_lossy(&rest);
                assert!(!rest.contains("secret"), "round {round}: a claimant was given it");
                assert!(rest.contains("CLIENT_ID_IN_USE"), "{rest}");
            }
        }
    }
    // The holder is there still.
    let private = ann.envelope("private", "lab:pm", json!({"target": "bob", "n": 1}));
    ann.send(&private);
    holder.find(|message| message["payload"]["n"] == 1);
    one.stop();
    two.stop();
}

/// A client with a thousand joins that joins and leaves one more is not written to Redis as a whole each
/// time.
#[test]
fn a_flapping_session_writes_little() {
    let redis = Redis::with(&["--save", "", "--appendonly", "yes", "--appendfsync", "no"]);
    let daemon = node(&redis, "one", &[]);
    // Somebody else keeps the channels, so that none is made and unmade.
    let mut keeper = daemon.client("keeper");
    keeper.join("lab:door");
    let mut flapping = Enemy::client(daemon.bus, "").expect("it is welcomed");
    for n in 0..900 {
        let join = flapping.command("join_channel", json!({"channel": format!("many:c{n}")}));
        assert!(flapping.push(&join).is_all());
        flapping.skim();
        // A bus that takes so many commands a second gives the rest time.
        std::thread::sleep(Duration::from_millis(if n < 150 { 1 } else { 11 }));
    }
    let size = || {
        let info = redis.cli(&["INFO", "persistence"]);
        let size = info.lines().find_map(|line| line.strip_prefix("aof_current_size:"));
        size.and_then(|text| text.trim().parse::<u64>().ok())
            .expect("Redis says how long its file is")
    };
    // What the joins wrote comes first.
    std::thread::sleep(Duration::from_millis(2_500));
    let before = size();
    let mut bytes = Vec::new();
    for name in ["join_channel", "leave_channel"] {
        let parameters = json!({"channel": "lab:door"});
        bytes.extend(frame(TEXT, crate::common::command_text(&flapping.id, name, parameters).1));
    }
    let (bytes, mut sent) = (bytes.repeat(5), 0);
    let started = Instant::now();
    for _ in 0..400 {
        assert!(flapping.push(&bytes).is_all());
        sent += bytes.len() as u64;
        flapping.skim();
        std::thread::sleep(Duration::from_millis(5));
    }
    // What is left is written within two seconds.
    std::thread::sleep(Duration::from_millis(2_500));
    let (grew, seconds) = (size() - before, started.elapsed().as_secs());
    println!("4,000 changes in {seconds} s, {sent} bytes sent: the file grew by {grew} bytes");
    // A session of 900 joins takes less than 40 kB, and is to be written at most once a second.
    let right = (seconds + 1) * 40_000;
    assert!(grew <= right, "{grew} bytes in {seconds} s; {right} are right");
    daemon.stop();
}

/// The bytes that a channel may keep are those that Redis keeps of it, too.
#[test]
fn a_channel_keeps_no_more_bytes_in_redis_than_it_may() {
    const MIB: u64 = 1024 * 1024;
    for flags in [&[][..], &MANY] {
        let redis = Redis::start();
        let bytes = ["--history-bytes", "1048576", "--max-message-bytes", "524288"];
        let daemon = node(&redis, "one", &[flags, &bytes].concat());
        let mut ann = daemon.client_with("client_id=ann&join=lab:large");
        for _ in 0..40 {
            ann.publish_acked("lab:large", json!({"text": "x".repeat(250_000)}));
        }
        let key = redis.cli(&["KEYS", "*lab:large*:stream"]);
        let mut last = 0;
        eventually("no more is kept than may be", || {
            let text = redis.cli(&["MEMORY", "USAGE", &key, "SAMPLES", "0"]);
            last = text.parse().expect("Redis says how much it takes");
            // Twice as much for what Redis needs around it, and for the newest event.
            (last <= 2 * MIB + MIB / 2).then_some(())
        });
        println!("10 MB published, 1 MiB may be kept: {last} bytes in Redis");
        daemon.stop();
    }
}

/// Messages to one that is just coming, by one that does not wait for it.
#[test]
fn private_messages_to_who_is_coming_come_after_the_welcome() {
    let daemon = Daemon::with_shards(4);
    let mut ann = daemon.client_with("client_id=ann&join=lab:talk");
    for round in 0..50 {
        let id = format!("coming-{round}");
        let mut coming = Enemy::connect(daemon.bus).expect("the bus takes connections");
        assert!(coming.push(&handshake(daemon.bus, &format!("/?client_id={id}"), "")).is_all());
        for _ in 0..20 {
            let mut private = envelope("private", "ann", "lab:pm", json!({"target": id}));
            private["metadata"] = json!({});
            let bytes = private.to_string();
            ann.send_text(bytes);
        }
        let text = coming.read_until("\"role\"").expect("it is welcomed");
        assert!(text.starts_with("HTTP/1.1 101"), "{text}");
        let welcome = text.find("\"event\":\"welcome\"").expect("it is welcomed");
        let private = text.find("\"type\":\"private\"").unwrap_or(text.len());
        assert!(welcome < private, "the welcome comes first: {text}");
        let _ = coming.push(&frame(TEXT, "{}"));
        ann.command("ping", json!({}));
        ann.forget();
    }
    daemon.stop();
}

/// A client that is there when it is asked for is found, whatever else is being decided.
#[test]
fn clients_come_and_go_on_two_nodes() {
    let redis = Redis::start();
    let (one, two) = (node(&redis, "one", &MANY), node(&redis, "two", &MANY));
    let pair = Pair::start([one.bus, two.bus]);
    let mut granted = 0;
    for round in 0..30 {
        let query = format!("client_id=shared-{}", round % 3);
        let both = [one.bus, two.bus].map(|bus| Client::try_connect_or_refused(bus, &query));
        let count = both.iter().flatten().count();
        assert!(count <= 1, "one id, {count} clients");
        granted += count;
    }
    assert!(granted >= 3, "an id that nobody has is given: {granted}");
    pair.finish();
    one.stop();
    two.stop();
}

/// What waits for Redis takes no more memory than it is counted with, so `backlog_bytes` bounds it.
#[test]
fn what_waits_for_redis_weighs_what_is_counted() {
    for more in [&[][..], &MANY] {
        let mut redis = Redis::start();
        let bounds = ["--backlog-bytes", "67108864", "--history-bytes-total", "1048576"];
        let daemon = node(&redis, "one", &[&bounds[..], more].concat()).expect_errors();
        let mut ann = daemon.client("ann");
        ann.join("lab:a");
        redis.kill();
        let before = resident_mib(daemon.pid());
        let text = "x".repeat(100);
        let counted = || daemon.metric("arqonbus_storage_pending_bytes", "");
        let lost = || daemon.metric("arqonbus_storage_lost_total", "");
        eventually("the backlog to be full", || {
            for _ in 0..20_000 {
                ann.publish("lab:a", json!({"text": text}));
            }
            (lost() > 0.0).then_some(())
        });
        let grown = resident_mib(daemon.pid()).saturating_sub(before);
        let counted = (counted() / 1_048_576.0) as u64;
        println!("{more:?}: {grown} MiB for {counted} MiB that are counted");
        // One channel leaves a fifth of it to the others.
        assert!((50..=64).contains(&counted), "{counted} MiB are counted");
        assert!(grown <= counted + 24, "{grown} MiB for {counted} MiB that are counted");
        daemon.kill();
    }
}
