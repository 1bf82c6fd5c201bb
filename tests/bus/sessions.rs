//! Sessions: a client that comes back in time with its token is who it was, joined to what it had
//! joined, also after the server was killed; and nobody else is.

use crate::common::client::{Client, Knock, knock, request};
use crate::common::{Daemon, TelemetryReader, eventually};
use crate::durable::start;
use crate::redis::Redis;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::Duration;

fn token(client: &Client) -> String {
    client.welcome["session"]["token"].as_str().expect("a token").to_owned()
}

#[track_caller]
fn refused(bus: SocketAddr, token: &str) -> (u16, String) {
    match knock(request(bus, &format!("session={token}")), bus) {
        Knock::Refused(status, body) => {
            assert_eq!(body["field"], "session", "{body}");
            assert!(!body.to_string().contains(token), "{body}");
            (status, body["error"].as_str().unwrap().to_owned())
        }
        Knock::Open(..) => panic!("{token} is taken"),
    }
}

fn unknown() -> (u16, String) {
    (404, "SESSION_UNKNOWN".to_owned())
}

/// What is kept in Redis.
fn keys(redis: &Redis) -> Vec<String> {
    let keys = redis.cli(&["KEYS", "arqonbus:{bus}:session:*"]);
    keys.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn a_client_is_who_it_was_after_the_server_was_killed() {
    let redis = Redis::start();
    let daemon = start(&redis, &["--session-ttl-s", "30"]);
    let query =
        "client_id=ann&client_type=ai-agent&screen_name=Ann%20A&avatar=a.png&personality=calm";
    let mut ann = daemon.client_with(&format!("{query}&join=lab:plain"));
    assert_eq!(ann.welcome["session"]["ttl_ms"], 30_000);
    assert_eq!(ann.welcome["session"]["resumed"], false);
    let token = token(&ann);
    ann.join_with("lab:echo", json!({"echo": true}));
    ann.join_with("lab:watched", json!({"presence": true}));
    ann.join("hall:*");
    ann.join("lab:left");
    ann.leave("lab:left");
    ann.publish_acked("lab:plain", json!({"n": 1}));
    let epoch = ann.join("lab:plain")["epoch"].clone();
    let kept = eventually("all of it is kept", || {
        let [key] = &keys(&redis)[..] else { return None };
        let kept: Value = serde_json::from_str(&redis.cli(&["GET", key])).ok()?;
        (kept["subscriptions"].as_array()?.len() == 4).then_some(kept)
    });
    assert!(!kept.to_string().contains(&token) && !keys(&redis)[0].contains(&token));
    daemon.kill();

    let daemon = start(&redis, &["--session-ttl-s", "30"]);
    let mut bob = daemon.client("bob");
    bob.join("lab:plain");
    bob.publish_acked("lab:plain", json!({"n": 2}));
    let mut ann = daemon.client_with(&format!("session={token}&join=lab:new"));
    assert_eq!(ann.id, "ann");
    assert_eq!(ann.welcome["session"], json!({"token": token, "ttl_ms": 30_000, "resumed": true}));
    assert_eq!(
        (&ann.welcome["client_type"], &ann.welcome["role"]),
        (&json!("ai-agent"), &json!("admin"))
    );
    assert_eq!(ann.welcome["refused"], json!([]));
    let joined = ann.welcome["joined"].as_array().unwrap().clone();
    let mut names: Vec<String> = joined
        .iter()
        .map(|one| {
            format!("{}:{}", one["room"].as_str().unwrap(), one["channel"].as_str().unwrap())
        })
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["hall:*", "lab:echo", "lab:new", "lab:plain", "lab:watched"]);
    let listed = bob.command("list_clients", json!({}));
    let row = listed["clients"].as_array().unwrap().iter().find(|row| row["client_id"] == "ann");
    let row = row.unwrap();
    assert_eq!(
        (&row["screen_name"], &row["avatar"], &row["personality"]),
        (&json!("Ann A"), &json!("a.png"), &json!("calm"))
    );
    // What it missed it recovers where it stands: no leaving, no gap, no double.
    let recovered = ann.join_with("lab:plain", json!({"recover": {"epoch": epoch, "sequence": 1}}));
    assert_eq!((&recovered["recovered"], &recovered["missed"]), (&json!(true), &json!(1)));
    let missed = ann.event();
    assert_eq!((&missed["payload"], missed.is_replayed()), (&json!({"n": 2}), true));
    bob.publish_acked("lab:plain", json!({"n": 3}));
    assert_eq!(ann.event()["payload"], json!({"n": 3}));
    // Its options are what they were.
    ann.publish("lab:echo", json!({"own": 1}));
    assert_eq!(ann.event()["payload"], json!({"own": 1}));
    bob.join("lab:watched");
    assert_eq!(ann.notice("joined")["payload"]["client_id"], "bob");
    bob.join("hall:later");
    bob.publish("hall:later", json!({"n": 4}));
    assert_eq!(ann.event()["payload"], json!({"n": 4}));
    eventually("it is counted", || {
        let count = daemon.metric("arqonbus_shard_sessions_resumed_total", "");
        (count == 1.0).then_some(())
    });
    daemon.stop();
}

#[test]
fn nobody_comes_back_too_late_or_with_another_token() {
    let redis = Redis::start();
    let daemon = start(&redis, &["--session-ttl-s", "2"]);
    let ann = daemon.client("ann");
    let of_ann = token(&ann);
    let key = eventually("one session to be stored", || match &keys(&redis)[..] {
        [key] => Some(key.clone()),
        _ => None,
    });
    let hash = key.rsplit(':').next().unwrap().to_owned();
    assert_eq!(hash.len(), 64);
    for wrong in ["x", &hash, &of_ann[1..], "%00", "0000000000000000000000000000000000000000"] {
        assert_eq!(refused(daemon.bus, wrong), unknown(), "{wrong}");
    }
    // However long it is connected, its session is there.
    sleep(Duration::from_secs(4));
    assert_eq!(keys(&redis).len(), 1);
    ann.close();
    sleep(Duration::from_millis(300));
    let ann = daemon.client_with(&format!("session={of_ann}"));
    assert_eq!(ann.id, "ann");
    drop(ann);
    sleep(Duration::from_millis(2_700));
    assert_eq!(refused(daemon.bus, &of_ann), unknown());
    // Nor after the server was killed.
    let of_bob = token(&daemon.client("bob"));
    daemon.kill();
    let daemon = start(&redis, &["--session-ttl-s", "2"]);
    sleep(Duration::from_millis(3_200));
    assert_eq!(refused(daemon.bus, &of_bob), unknown());
    daemon.stop();
}

#[test]
fn of_two_at_once_the_later_goes_on_and_who_was_sent_away_does_not() {
    let redis = Redis::start();
    let daemon = start(&redis, &[]);
    let mut old = daemon.client_with("client_id=ann&join=lab:bench");
    let token = token(&old);
    for _ in 0..4 {
        // Whichever shard it comes to.
        let new = Client::connect(daemon.bus, &format!("session={token}"));
        assert_eq!(
            (new.id.as_str(), &new.welcome["joined"][0]["channel"]),
            ("ann", &json!("bench"))
        );
        let (code, reason) = old.await_close();
        assert_eq!((code, reason.as_str()), (4013, "your session goes on in another connection"));
        old = new;
    }
    // Another client has the id meanwhile: it keeps it.
    old.close();
    let other = daemon.client("ann");
    let (status, error) = {
        let Knock::Refused(status, body) =
            knock(request(daemon.bus, &format!("session={token}")), daemon.bus)
        else {
            panic!("the id is another's")
        };
        (status, body["error"].clone())
    };
    assert_eq!((status, error), (409, json!("CLIENT_ID_IN_USE")));
    other.close();
    let mut ann = eventually("the id is free again", || {
        Client::try_connect_or_refused(daemon.bus, &format!("session={token}"))
    });
    assert_eq!(ann.id, "ann");
    daemon.client("boss").command("disconnect_client", json!({"client_id": "ann"}));
    assert_eq!(ann.await_close().0, 4013);
    assert_eq!(refused(daemon.bus, &token), unknown());
    daemon.stop();
}

fn node(redis: &Redis, name: &str) -> Daemon {
    start(redis, &["--many-nodes", "true", "--node", name])
}

/// How many nodes are taken to live by who is asked whose a client id is.
fn living(redis: &Redis) -> usize {
    let leases = redis.cli(&["KEYS", "arqonbus:{bus}:node:*"]);
    leases.lines().filter(|line| !line.is_empty()).count()
}

fn participants(client: &mut Client) -> Vec<String> {
    let info = client.command("channel_info", json!({"channel": "lab:bench"}));
    let participants = info["participants"].as_array().unwrap().iter();
    participants.map(|one| one["client_id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_client_of_a_node_that_was_killed_is_on_another_before_anybody_has_noticed() {
    let redis = Redis::start();
    let (one, two) = (node(&redis, "one"), node(&redis, "two"));
    let mut ann = one.client_with("client_id=ann&screen_name=Ann");
    ann.join_with("lab:bench", json!({"echo": true}));
    let query = format!("session={}", token(&ann));
    let mut bob = two.client("bob");
    bob.join_with("lab:bench", json!({"presence": true}));
    eventually("both are there", || {
        let status = bob.command("status", json!({}));
        let is_so = status["clients"] == 2 && participants(&mut bob) == ["ann", "bob"];
        is_so.then_some(())
    });
    // A session that changes is recorded once a second.
    eventually("the session to know of the channel", || {
        let keys = redis.cli(&["KEYS", "arqonbus:{bus}:session:*"]);
        let mut sessions = keys.lines().map(|key| redis.cli(&["GET", key]));
        sessions.any(|text| text.contains("Ann") && text.contains("bench")).then_some(())
    });
    one.kill();
    assert_eq!(bob.publish_acked("lab:bench", json!({"n": 1})), 1);
    let mut ann = Client::connect(two.bus, &query);
    // The lease of the dead node stands, and its members are still shown.
    assert_eq!(living(&redis), 2);
    let status = bob.command("status", json!({}));
    assert_eq!(status["peers"][0]["node"], "one", "{status}");
    assert_eq!((ann.id.as_str(), &ann.welcome["session"]["resumed"]), ("ann", &json!(true)));
    let joined = &ann.welcome["joined"][0];
    assert_eq!((&joined["channel"], &joined["sequence"]), (&json!("bench"), &json!(1)));
    assert_eq!(
        (&joined["participants"], participants(&mut bob)),
        (&json!(2), vec!["ann".into(), "bob".into()])
    );
    ann.publish("lab:bench", json!({"own": 1}));
    assert_eq!(ann.event()["payload"], json!({"own": 1}));
    let private = bob.envelope("private", "lab:pm", json!({"target": "ann", "secret": 1}));
    bob.send(&private);
    assert_eq!(ann.find(|message| message["type"] == "private")["payload"]["secret"], 1);
    eventually("the dead node is noticed", || {
        let status = bob.command("status", json!({}));
        (status["peers"] == json!([]) && living(&redis) == 1).then_some(())
    });
    assert_eq!(participants(&mut bob), ["ann", "bob"]);
    let left = bob.texts().into_iter().any(|text| text.contains(r#""event":"left""#));
    assert!(!left, "she was never gone");
    two.stop();
}

#[test]
fn the_connection_that_a_client_has_left_for_another_node_is_closed() {
    let redis = Redis::start();
    let (one, two) = (node(&redis, "one"), node(&redis, "two"));
    let mut old = one.client_with("client_id=ann&join=lab:bench");
    let query = format!("session={}", token(&old));
    let (mut bob, mut cat) = (one.client("bob"), two.client("cat"));
    bob.join("lab:other");
    cat.join("lab:other");
    // Without the token nobody takes it over.
    assert!(Client::try_connect(two.bus, "client_id=ann").is_none());
    for turn in 0..6 {
        let bus = if turn % 2 == 0 { two.bus } else { one.bus };
        let mut new = Client::connect(bus, &query);
        assert_eq!(
            (new.id.as_str(), &new.welcome["joined"][0]["channel"]),
            ("ann", &json!("bench"))
        );
        let (code, reason) = old.await_close();
        assert_eq!((code, reason.as_str()), (4013, "your session goes on in another connection"));
        for sender in [&mut bob, &mut cat] {
            let private =
                sender.envelope("private", "lab:pm", json!({"target": "ann", "turn": turn}));
            sender.send(&private);
            let told = new.find(|message| message["type"] == "private");
            assert_eq!(
                (&told["from"], &told["payload"]["turn"]),
                (&json!(sender.id), &json!(turn))
            );
        }
        eventually("she is where she was, and the end of the old one takes nothing away", || {
            (participants(&mut cat) == ["ann"] && participants(&mut bob) == ["ann"]).then_some(())
        });
        for bus in [one.bus, two.bus] {
            assert!(Client::try_connect(bus, "client_id=ann").is_none(), "her id is hers");
        }
        old = new;
    }
    // Nor does it end the session.
    let mut ann = Client::connect(two.bus, &query);
    assert_eq!(ann.welcome["session"]["resumed"], true);
    ann.publish_acked("lab:bench", json!({"n": 1}));
    // A clean end on one node is a way to the other, too.
    two.stop();
    let ann =
        eventually("the first node takes her", || Client::try_connect_or_refused(one.bus, &query));
    assert_eq!(ann.welcome["joined"][0]["sequence"], 1);
    one.stop();
}

#[test]
fn a_token_is_told_to_its_client_alone() {
    let redis = Redis::start();
    let daemon = start(&redis, &["--log-level", "trace"]);
    let mut telemetry = TelemetryReader::connect(&daemon);
    let mut boss = daemon.client("boss");
    boss.join("integriguard:telemetry-stream");
    let ann = daemon.client_with("client_id=ann&join=lab:bench");
    let token = token(&ann);
    drop(ann);
    let ann = Client::connect(daemon.bus, &format!("session={token}"));
    assert_eq!(refused(daemon.bus, "wrong-token"), unknown());
    telemetry.about("client_connected", "ann");
    boss.command("ping", json!({}));
    let mut seen = vec![boss.command("list_clients", json!({})).to_string()];
    seen.push(boss.command("status", json!({})).to_string());
    seen.extend(boss.texts().into_iter().map(str::to_owned));
    seen.extend(["/metrics", "/status"].map(|path| daemon.get(path).body));
    seen.push(redis.cli(&["KEYS", "*"]));
    seen.extend(keys(&redis).iter().map(|key| redis.cli(&["GET", key])));
    ann.close();
    telemetry.about("client_disconnected", "ann");
    seen.extend(telemetry.heard.iter().map(Value::to_string));
    let log = daemon.stop();
    seen.extend(log.lines().iter().map(Value::to_string));
    let hint = &token[..12];
    for text in seen {
        assert!(!text.contains(hint) && !text.contains("wrong-token"), "{text}");
    }
}

#[test]
fn without_a_storage_there_are_no_sessions_and_with_one_that_is_away_they_wait() {
    let daemon = Daemon::start(&[]);
    let ann = daemon.client("ann");
    assert_eq!(ann.welcome.get("session"), None);
    assert_eq!(refused(daemon.bus, "any"), unknown());
    daemon.stop();
    let mut redis = Redis::start();
    let off = start(&redis, &["--session-ttl-s", "0"]);
    assert_eq!(off.client("ann").welcome.get("session"), None);
    assert_eq!(refused(off.bus, "any"), unknown());
    off.stop();
    let daemon = start(&redis, &["--ack-timeout-ms", "500"]);
    let ann = daemon.client_with("client_id=ann&join=lab:bench");
    let token = token(&ann);
    redis.kill();
    let unavailable = (503, "STORAGE_UNAVAILABLE".to_owned());
    // A new client is taken all the same.
    daemon.client("bob");
    assert_eq!(refused(daemon.bus, &token), unavailable);
    ann.close();
    assert_eq!(refused(daemon.bus, &token), unavailable);
    // A Redis that has forgotten everything is told again.
    redis.restart();
    let ann = eventually("Redis is there again", || {
        Client::try_connect_or_refused(daemon.bus, &format!("session={token}"))
    });
    assert_eq!(ann.welcome["joined"][0]["channel"], "bench");
    daemon.stop();
}
