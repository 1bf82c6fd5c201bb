//! Several nodes on one Redis are one bus: one order, one set of rooms and clients, whichever node a
//! client is connected to and whichever of them dies.

use crate::common::{Client, Daemon, eventually};
use crate::durable::{DURABLE, kills, start, under_load};
use crate::redis::Redis;
use serde_json::{Value, json};
use std::thread;
use std::time::{Duration, Instant};

/// How long the members of a node that died may still be shown.
const LEASE: Duration = Duration::from_secs(5);

fn node(redis: &Redis, name: &str) -> Daemon {
    let flags = ["--many-nodes", "true", "--node", name, "--ack-timeout-ms", "20000"];
    // However much a client missed while its id was still that of a dead node, it may be given.
    start(redis, &[&flags[..], &["--outbox-bytes", "1000000000"]].concat())
}

fn participants(client: &mut Client, channel: &str) -> Vec<String> {
    let info = client.command("channel_info", json!({"channel": channel}));
    let participants = info["participants"].as_array().unwrap().iter();
    participants.map(|one| one["client_id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn two_nodes_are_one_bus() {
    let redis = Redis::start();
    let (one, two) = (node(&redis, "one"), node(&redis, "two"));
    let (mut ann, mut bob) = (one.client("ann"), two.client("bob"));
    ann.command("join_channel", json!({"channel": "lab:bench", "presence": true}));
    bob.join("lab:bench");
    let joined = ann.notice("joined");
    assert_eq!(joined["payload"]["client_id"], "bob");
    assert_eq!(bob.publish_acked("lab:bench", json!({"n": 1})), 1);
    assert_eq!(ann.event()["payload"], json!({"n": 1}));
    assert_eq!(ann.publish_acked("lab:bench", json!({"n": 2})), 2);
    assert_eq!(bob.event().sequence(), 2);
    for client in [&mut ann, &mut bob] {
        assert_eq!(participants(client, "lab:bench"), ["ann", "bob"]);
        let listed = client.command("list_channels", json!({"room": "lab"}));
        assert_eq!(listed["channels"][0]["participants"], 2, "{listed}");
        eventually("the status is that of both", || {
            let status = client.command("status", json!({}));
            let other = if status["node"] == "one" { "two" } else { "one" };
            let peers = json!([{"node": other, "clients": 1}]);
            (status["clients"] == 2 && status["peers"] == peers).then_some(())
        });
        let history = client.command("history", json!({"channel": "lab:bench"}));
        assert_eq!(history["messages"].as_array().unwrap().len(), 2);
    }
    for client in [&mut ann, &mut bob] {
        eventually("the clients of both are listed", || {
            let listed = client.command("list_clients", json!({}));
            let rows = listed["clients"].as_array().unwrap().iter();
            let rows: Vec<_> = rows.map(|row| json!([row["client_id"], row["node"]])).collect();
            let is_whole = listed.get("unanswered_nodes").is_none();
            is_whole.then(|| assert_eq!(rows, [json!(["ann", "one"]), json!(["bob", "two"])]))
        });
    }
    // A private message finds its target, whose id nobody else can have.
    let private = ann.envelope("private", "lab:pm", json!({"target": "bob", "secret": 1}));
    ann.send(&private);
    let told = bob.find(|message| message["type"] == "private");
    assert_eq!((&told["from"], &told["payload"]["secret"]), (&json!("ann"), &json!(1)));
    assert!(Client::try_connect(one.bus, "client_id=bob").is_none());
    // What is made here is there.
    ann.command("create_room", json!({"room": "hall", "config": {"member_limit": 3}}));
    ann.command("create_channel", json!({"channel": "hall:a", "metadata": {"topic": "x"}}));
    eventually("the other node knows the channel", || {
        let listed = bob.ask("list_channels", json!({"room": "hall"})).ok()?;
        (listed["channels"][0]["name"] == "a").then_some(())
    });
    ann.command("pause_room", json!({"room": "hall"}));
    bob.join("hall:a");
    eventually("the other node knows that it is paused", || {
        (bob.publish_refused("hall:a", json!({})).what() == (409, "ROOM_PAUSED")).then_some(())
    });
    ann.command("announce", json!({"message": "hello"}));
    assert_eq!(bob.notice("announcement")["payload"]["message"], "hello");
    // A node that ends well takes its clients with it at once.
    let before = Instant::now();
    two.stop();
    assert_eq!(ann.notice("left")["payload"]["client_id"], "bob");
    assert!(before.elapsed() < LEASE);
    assert_eq!(participants(&mut ann, "lab:bench"), ["ann"]);
    one.stop();
}

#[test]
fn what_a_client_missed_it_gets_from_any_node() {
    let redis = Redis::start();
    let (one, two) = (node(&redis, "one"), node(&redis, "two"));
    let (mut ann, mut bob) = (two.client("ann"), one.client("bob"));
    ann.join("lab:bench");
    let joined = bob.command("join_channel", json!({"channel": "lab:bench"}));
    for n in 1..=3 {
        ann.publish_acked("lab:bench", json!({"n": n}));
        assert_eq!(bob.event().sequence(), n);
    }
    eventually("the nodes know each other", || {
        (ann.command("status", json!({}))["peers"][0]["node"] == "one").then_some(())
    });
    one.kill();
    let listed = ann.command("list_clients", json!({}));
    assert_eq!((&listed["count"], &listed["unanswered_nodes"]), (&json!(1), &json!(["one"])));
    for n in 4..=6 {
        ann.publish_acked("lab:bench", json!({"n": n}));
    }
    let mut bob = eventually("the lease of the dead node ends", || {
        Client::try_connect(two.bus, "client_id=bob")
    });
    assert_eq!(participants(&mut ann, "lab:bench"), ["ann"]);
    let recover = json!({"epoch": joined["epoch"], "sequence": 3});
    let parameters = json!({"channel": "lab:bench", "recover": recover});
    let joined = bob.command("join_channel", parameters);
    assert_eq!((&joined["recovered"], &joined["missed"]), (&json!(true), &json!(3)));
    let missed: Vec<u64> = bob.events(3).iter().map(|event| event.sequence()).collect();
    assert_eq!(missed, [4, 5, 6]);
    two.stop();
}

#[test]
fn what_is_deleted_on_one_node_is_gone_on_all_when_that_is_said() {
    let mut redis = Redis::with(&DURABLE);
    let (one, two) = (node(&redis, "one"), node(&redis, "two"));
    let (mut ann, mut bob) = (one.client("ann"), two.client("bob"));
    let there = |client: &mut Client, what: &str| {
        let listed = client.command("list_rooms", json!({}));
        let mut rooms = listed["rooms"].as_array().unwrap().iter();
        rooms.find(|room| room["name"] == "hall").is_some_and(|room| {
            what == "*" || room["channels"].as_array().unwrap().contains(&json!(what))
        })
    };
    for round in 0..5 {
        ann.command("create_channel", json!({"channel": "hall:a"}));
        // Who has been in it, or has looked at it, has its node follow it for a while.
        eventually("the other node knows it", || there(&mut bob, "a").then_some(()));
        bob.join("hall:a");
        bob.publish_acked("hall:a", json!({"round": round}));
        bob.leave("hall:a");
        bob.command("channel_info", json!({"channel": "hall:a"}));
        eventually("nobody is in it", || {
            (participants(&mut ann, "hall:a") == [""; 0]).then_some(())
        });
        let answer = ann.command("delete_channel", json!({"channel": "hall:a"}));
        assert_eq!(answer["deleted"], true);
        assert_eq!(redis.cli(&["SISMEMBER", "arqonbus:{bus}:channels", "hall:a"]), "0");
        assert_eq!(redis.cli(&["KEYS", "arqonbus:{hall:a}:*"]), "");
        eventually("the other node has heard it", || (!there(&mut bob, "a")).then_some(()));
        let answer = ann.command("delete_room", json!({"room": "hall"}));
        assert_eq!(answer["deleted"], true);
        assert_eq!(redis.cli(&["HEXISTS", "arqonbus:{bus}:rooms", "hall"]), "0");
        eventually("and of the room", || (!there(&mut bob, "*")).then_some(()));
        assert!(!there(&mut ann, "*"), "it has not come back");
    }
    ann.command("create_channel", json!({"channel": "hall:a"}));
    eventually("the other node knows it", || there(&mut bob, "a").then_some(()));
    bob.join("hall:a");
    eventually("he is seen", || (participants(&mut ann, "hall:a") == ["bob"]).then_some(()));
    let refused = ann.refused("delete_channel", json!({"channel": "hall:a"}));
    assert_eq!(refused.what(), (409, "CHANNEL_NOT_EMPTY"));
    bob.leave("hall:a");
    redis.kill();
    eventually("the node knows", || {
        (one.get("/status").json()["storage_state"]["state"] == "degraded").then_some(())
    });
    let refused = ann.refused("delete_channel", json!({"channel": "hall:a"}));
    assert_eq!(refused.what(), (503, "STORAGE_UNAVAILABLE"));
    one.kill();
    two.kill();
}

#[test]
fn a_node_that_can_not_reach_redis_goes_on_and_comes_back() {
    let mut redis = Redis::with(&DURABLE);
    let (one, two) = (node(&redis, "one"), node(&redis, "two"));
    let (mut ann, mut bob) = (one.client("ann"), one.client("bob"));
    let mut cat = two.client("cat");
    for client in [&mut ann, &mut bob, &mut cat] {
        client.join("lab:bench");
    }
    ann.publish_acked("lab:bench", json!({"n": 1}));
    assert_eq!((bob.event().sequence(), cat.event().sequence()), (1, 1));
    redis.kill();
    eventually("the node knows", || {
        (one.get("/status").json()["storage_state"]["state"] == "degraded").then_some(())
    });
    let id = ann.publish_with("lab:bench", json!({"n": 2}), json!({"ack": true}));
    assert_eq!(ann.reply(&id)["error"], "STORAGE_UNAVAILABLE");
    assert_eq!(bob.event()["payload"], json!({"n": 2}), "members here get it at once");
    redis.restart();
    assert_eq!(cat.event()["payload"], json!({"n": 2}), "and others when it can be stored");
    let reasons = [(); 2].map(|()| bob.notice("epoch_changed")["payload"]["reason"].clone());
    assert_eq!(reasons, ["storage_unavailable", "storage_restored"]);
    eventually("all is well", || {
        (one.get("/status").json()["storage_state"]["state"] == "ok").then_some(())
    });
    assert_eq!(cat.publish_acked("lab:bench", json!({"n": 3})), 3);
    assert_eq!(bob.event().sequence(), 3);
    one.stop();
    two.stop();
}

#[test]
fn what_was_acknowledged_survives_the_death_of_nodes() {
    let redis = Redis::start();
    let mut nodes = vec![Some(node(&redis, "n0")), Some(node(&redis, "n1"))];
    let addresses: Vec<_> = nodes.iter().flatten().map(|node| node.bus).collect();
    let outcome = under_load(addresses, |bus| {
        let mut rng = fastrand::Rng::new();
        for round in 0..kills() {
            thread::sleep(Duration::from_millis(rng.u64(100..1_500)));
            let at = rng.usize(..nodes.len());
            let old = nodes[at].take().unwrap();
            old.kill();
            thread::sleep(Duration::from_millis(rng.u64(0..500)));
            let new = node(&redis, &format!("n{at}-{round}"));
            bus.0.lock().unwrap()[at] = new.bus;
            nodes[at] = Some(new);
        }
        nodes.pop().flatten().unwrap()
    });
    assert_eq!(outcome.seen.began_anew, 0, "what it missed can always be said");
    outcome.check(&format!("{} kills of nodes", kills()), node(&redis, "auditor"));
    nodes.into_iter().flatten().for_each(|node| drop(node.stop()));
}

#[test]
fn what_was_acknowledged_on_any_node_survives_the_death_of_redis() {
    let mut redis = Redis::with(&DURABLE);
    let mut nodes = vec![node(&redis, "n0"), node(&redis, "n1")];
    let addresses: Vec<_> = nodes.iter().map(|node| node.bus).collect();
    let outcome = under_load(addresses, |_| {
        let mut rng = fastrand::Rng::new();
        for _ in 0..kills() {
            thread::sleep(Duration::from_millis(rng.u64(50..300)));
            redis.kill();
            thread::sleep(Duration::from_millis(rng.u64(0..150)));
            redis.restart();
        }
        for node in &nodes {
            eventually("all is well again", || {
                let state: Value = node.get("/status").json();
                (state["storage_state"]["state"] == "ok").then_some(())
            });
        }
        nodes.pop().unwrap()
    });
    outcome.check(&format!("{} kills of Redis under two nodes", kills()), node(&redis, "auditor"));
    nodes.into_iter().for_each(|node| drop(node.stop()));
}

/// How long an event takes from a client of one node to a client of another, and back: a figure for
/// people, no test.
#[test]
#[ignore = "a measurement"]
fn delivery_across_two_nodes() {
    let redis = Redis::start();
    let (one, two) = (node(&redis, "one"), node(&redis, "two"));
    let (mut ann, mut bob) = (one.client("ann"), two.client("bob"));
    ann.join("lab:bench");
    bob.join("lab:bench");
    for (what, count) in [("warm-up", 200), ("measured", 3_000)] {
        let mut took_us: Vec<u64> = (0..count)
            .map(|n| {
                let started = Instant::now();
                ann.publish("lab:bench", json!({"n": n}));
                bob.event();
                started.elapsed().as_micros() as u64
            })
            .collect();
        took_us.sort_unstable();
        let at = |share: usize| took_us[took_us.len() * share / 100];
        println!("{what}: {count} events one by one, p50 {} us, p99 {} us", at(50), at(99));
    }
    one.stop();
    two.stop();
}

#[test]
fn a_node_is_ready_when_the_others_know_of_it() {
    let redis = Redis::start();
    let one = node(&redis, "one");
    let mut ann = one.client("ann");
    for name in ["two", "three", "four"] {
        let other = node(&redis, name);
        let _bob = other.client(name);
        // As soon as it says so, and not a moment later.
        let end = Instant::now() + Duration::from_secs(20);
        while other.get("/ready").status != 200 {
            assert!(Instant::now() < end, "{name} is never ready");
        }
        let listed = ann.command("list_clients", json!({}));
        let rows = listed["clients"].as_array().unwrap();
        assert!(rows.iter().any(|row| row["client_id"] == name), "{name}: {listed}");
        other.stop();
    }
    one.stop();
}

#[test]
fn an_epoch_holds_over_the_end_and_the_death_of_nodes() {
    let redis = Redis::start();
    let (one, two) = (node(&redis, "one"), node(&redis, "two"));
    let (mut ann, mut bob) = (two.client("ann"), one.client("bob"));
    let epoch = ann.join("lab:bench")["epoch"].clone();
    bob.join("lab:bench");
    assert_eq!(bob.publish_acked("lab:bench", json!({"n": 1})), 1);
    assert_eq!(ann.event().sequence(), 1);
    one.stop();
    for (name, is_killed) in [("three", true), ("four", false), ("five", true)] {
        let other = node(&redis, name);
        let mut cat = other.client(name);
        assert_eq!(cat.join("lab:bench")["epoch"], epoch, "{name} goes on in it");
        let sequence = cat.publish_acked("lab:bench", json!({"by": name}));
        assert_eq!(ann.event().sequence(), sequence);
        match is_killed {
            true => {
                other.kill();
                // Until it is known to be dead.
                thread::sleep(LEASE + Duration::from_secs(1));
            }
            false => drop(other.stop()),
        }
    }
    ann.leave("lab:bench");
    let recover = json!({"recover": {"epoch": epoch, "sequence": 3}});
    let joined = ann.join_with("lab:bench", recover);
    assert_eq!((&joined["recovered"], &joined["epoch"]), (&json!(true), &epoch));
    assert_eq!(ann.event().sequence(), 4);
    assert!(!ann.texts().iter().any(|text| text.contains("epoch_changed")), "nobody was told so");
    two.stop();
}
