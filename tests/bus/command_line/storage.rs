//! What a person sees of a bus with a storage: `sub` that goes on with its session, `pub` that waits
//! for Redis, `status` of all of it.

use crate::command_line::{await_client, member};
use crate::common::program::{Process, run, to_bus};
use crate::common::proxy::Proxy;
use crate::common::{Client, Daemon, eventually};
use crate::durable::{DURABLE, start};
use crate::redis::Redis;
use rustix::process::Signal;
use serde_json::json;
use std::collections::BTreeSet;

const WANTED: [&str; 2] = ["hall:*", "lab:log"];

/// The id of the client that has joined what is wanted.
fn id_of_subscriber(admin: &mut Client) -> Option<String> {
    let list = admin.command("list_clients", json!({}));
    let mut clients = list["clients"].as_array()?.iter();
    let is_wanted = |name: &str| WANTED.contains(&name);
    let one = clients.find(|client| {
        let names = client["subscriptions"].as_array().into_iter().flatten();
        names.filter(|name| name.as_str().is_some_and(is_wanted)).count() == WANTED.len()
    })?;
    Some(one["client_id"].as_str()?.to_owned())
}

/// The keys of the sessions that keep all that is wanted.
fn kept(redis: &Redis) -> Vec<String> {
    let keys = redis.cli(&["KEYS", "arqonbus:{bus}:session:*"]);
    let is_whole = |key: &str| {
        let session = redis.cli(&["GET", key]);
        session.contains("hall") && session.contains("log")
    };
    keys.lines().filter(|key| is_whole(key)).map(str::to_owned).collect()
}

#[test]
fn a_subscriber_is_who_it_was_after_the_bus_was_killed_and_misses_nothing() {
    let redis = Redis::start();
    let mut daemon = start(&redis, &[]);
    let proxy = Proxy::to(daemon.bus);
    let words = [&["sub", "--payload"][..], &WANTED].concat();
    let mut sub = Process::spawn(to_bus(proxy.address, &words));
    let mut admin = daemon.client("admin");
    let first = eventually("it has joined", || id_of_subscriber(&mut admin));
    admin.join("lab:log");
    admin.publish_acked("lab:log", json!({"n": 0}));
    assert_eq!(sub.line(), json!({"n": 0}).to_string());
    for (round, is_forgotten) in [false, false, true].into_iter().enumerate() {
        let keys = eventually("its session is kept", || {
            let keys = kept(&redis);
            (!keys.is_empty()).then_some(keys)
        });
        daemon.kill();
        if is_forgotten {
            redis.cli(
                &[&["DEL"][..], &keys.iter().map(String::as_str).collect::<Vec<_>>()].concat(),
            );
        }
        daemon = start(&redis, &[]);
        let mut admin = daemon.client("admin");
        // One of the channels was not there before.
        let made = format!("hall:made-{round}");
        for address in ["lab:log", &made] {
            admin.join(address);
        }
        let said: Vec<String> = (1..=40)
            .map(|n| {
                let address = if n % 2 == 0 { "lab:log" } else { &made };
                let payload = json!({"n": 1_000 * round + n});
                // Half of it is said while it comes back.
                if n == 20 {
                    proxy.lead_to(daemon.bus);
                }
                admin.publish_acked(address, payload.clone());
                payload.to_string()
            })
            .collect();
        let mut heard = Vec::new();
        while !said[38..].iter().all(|text| heard.contains(text)) {
            heard.push(sub.line());
        }
        if is_forgotten {
            // Of a whole room a new client can't say what it knows: its channels come once more.
            heard.retain(|text| said.contains(text));
        }
        for parity in [0, 1] {
            let of = |all: &[String]| -> Vec<u64> {
                let n = |text: &String| {
                    serde_json::from_str::<serde_json::Value>(text).unwrap()["n"].as_u64().unwrap()
                };
                all.iter().map(n).filter(|n| n % 2 == parity).collect()
            };
            assert_eq!(of(&heard), of(&said), "in order, and once");
        }
        let id = eventually("it is back", || id_of_subscriber(&mut admin));
        assert_eq!(id == first, !is_forgotten, "{id}, once {first}");
    }
    sub.signal(Signal::INT);
    let ended = sub.wait();
    assert_eq!((&*ended.stdout, ended.status.code()), ("", Some(130)), "{ended:?}");
    assert_eq!(ended.stderr.matches("may be missed").count(), 1, "{}", ended.stderr);
    let is_token = |word: &str| word.len() >= 32 && word.bytes().all(|b| b.is_ascii_hexdigit());
    let mut words = ended.stderr.split(|c: char| !c.is_ascii_alphanumeric());
    assert!(!words.any(is_token), "{}", ended.stderr);
    daemon.stop();
}

#[test]
fn a_subscriber_comes_back_while_redis_is_away() {
    let mut redis = Redis::start();
    // Its last words are that some of it was not stored.
    let daemon = start(&redis, &["--ack-timeout-ms", "500"]).expect_errors();
    let proxy = Proxy::to(daemon.bus);
    let words = ["sub", "--payload", "--client-id", "sub", "lab:log"];
    let mut sub = Process::spawn(to_bus(proxy.address, &words));
    await_client(&daemon, "sub", Some("lab:log"));
    let mut ann = member(&daemon, "ann", "lab:log");
    redis.kill();
    proxy.cut();
    ann.publish("lab:log", json!({"n": 1}));
    sub.note("connected again");
    ann.publish("lab:log", json!({"n": 2}));
    for n in 1..=2 {
        assert_eq!(sub.line(), json!({"n": n}).to_string());
    }
    daemon.stop();
}

#[test]
fn a_publisher_says_that_it_waits_for_redis() {
    let mut redis = Redis::with(&DURABLE);
    let daemon = start(&redis, &[]);
    let mut ann = member(&daemon, "ann", "lab:log");
    redis.kill();
    let mut publisher = Process::spawn(to_bus(daemon.bus, &["pub", "lab:log", "{\"n\":1}"]));
    let note = publisher.note("STORAGE_UNAVAILABLE");
    assert!(note.contains("may have been delivered"), "{note}");
    publisher.note("with the same id until it is stored");
    assert_eq!(ann.event()["payload"], json!({"n": 1}));
    redis.restart();
    publisher.note("is stored now");
    let ended = publisher.wait();
    assert!(ended.stderr.contains("sent 1, accepted 1, duplicate 1, refused 0"), "{ended:?}");
    assert_eq!(ended.stderr.matches("STORAGE_UNAVAILABLE").count(), 1, "{}", ended.stderr);
    ended.ok();
    ann.assert_quiet();
    daemon.stop();
}

#[test]
fn status_tells_of_the_storage_and_of_the_other_nodes() {
    let redis = Redis::start();
    let node = |name| start(&redis, &["--many-nodes", "true", "--node", name]);
    let daemons: [Daemon; 3] = ["one", "two", "three"].map(node);
    let _ann = daemons[1].client("ann");
    let lines = eventually("the others are known", || {
        let printed = run(&daemons[0], &["status"], "").ok();
        let lines: Vec<&str> = printed.lines().collect();
        let at = lines.iter().position(|line| line.starts_with("peers "))?;
        let peers =
            [lines[at], lines[at + 1]].map(|line| line.replace("peers", "").trim().to_owned());
        let wanted = ["two, 1 client", "three, 0 clients"].map(str::to_owned);
        let is_so = BTreeSet::from(peers) == BTreeSet::from(wanted);
        is_so.then(|| lines.iter().map(|&line| line.to_owned()).collect::<Vec<_>>())
    });
    let state = "storage state  ok, 0 lost, 0 pending".to_owned();
    assert!(lines.contains(&state), "{lines:?}");
    daemons.into_iter().for_each(|daemon| _ = daemon.stop());
}
