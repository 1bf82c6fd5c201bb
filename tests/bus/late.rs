//! A server that starts while its Redis is away takes up what was kept when Redis is back: nothing is
//! lost, nothing doubled, and who is there is told.

use crate::common::{Client, TelemetryReader, eventually};
use crate::durable::{ADDRESS, DURABLE, history, start};
use crate::redis::Redis;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Sends an event again, with an ack.
fn send_again(client: &mut Client, id: &str) -> Value {
    let mut again = client.envelope("event", ADDRESS, json!({"n": "again"}));
    again["id"] = id.into();
    again["metadata"] = json!({"ack": true});
    client.send(&again);
    client.reply(id)
}

fn ids(messages: &[(u64, String)]) -> Vec<&str> {
    messages.iter().map(|(_, id)| &**id).collect()
}

/// A room's row of `list_rooms`.
fn room(client: &mut Client, name: &str) -> Value {
    let rooms = client.command("list_rooms", json!({}));
    let rooms = rooms["rooms"].as_array().unwrap();
    rooms.iter().find(|room| room["name"] == name).unwrap().clone()
}

#[test]
fn what_was_kept_comes_back_and_what_was_said_meanwhile_follows_it() {
    let mut redis = Redis::with(&DURABLE);
    let daemon = start(&redis, &[]);
    let mut ann = daemon.client("ann");
    ann.join(ADDRESS);
    let publish = |ann: &mut Client| {
        let id = ann.publish_with(ADDRESS, json!({}), json!({"ack": true}));
        assert_eq!(ann.reply(&id)["status"], "success");
        id
    };
    let mut all: Vec<String> = (0..5).map(|_| publish(&mut ann)).collect();
    let first = ann.command("history", json!({"channel": ADDRESS}))["epoch"].clone();
    ann.command("create_room", json!({"room": "lab", "config": {"member_limit": 7}}));
    let channel = json!({"channel": "lab:secret", "type": "private", "metadata": {"topic": "x"}});
    ann.command("create_channel", channel);
    ann.command("pause_room", json!({"room": "lab"}));
    daemon.stop();
    redis.kill();

    let daemon = start(&redis, &[]);
    let mut telemetry = TelemetryReader::connect(&daemon);
    let (mut ann, mut bob) = (daemon.client("ann"), daemon.client("bob"));
    ann.join(ADDRESS);
    let provisional = bob.join(ADDRESS)["epoch"].clone();
    assert!(ann.refused("channel_info", json!({"channel": "lab:secret"})).what().0 >= 400);
    let mut said: Vec<String> = (0..3).map(|_| ann.publish(ADDRESS, json!({}))).collect();
    // Its first answer may have been lost with the server that gave it.
    assert_eq!(send_again(&mut ann, &all[4])["error"], "STORAGE_UNAVAILABLE");
    said.push(ann.publish(ADDRESS, json!({})));
    assert_eq!(bob.events(5).last().unwrap().sequence(), 5);
    redis.restart();
    telemetry.find("storage_restored", |payload| payload["lost"] == 0);

    // That of the whole room is another one, too.
    let notice =
        bob.find(|message| message["payload"]["event"] == "gap" && message["channel"] == "entries");
    let payload = &notice["payload"];
    assert_eq!((&payload["reason"], &payload["first"]), (&json!("order_changed"), &json!(1)));
    let now = notice["payload"]["epoch"].clone();
    all.extend(said);
    let kept = history(&mut ann);
    assert_eq!(ids(&kept), all);
    assert_eq!(
        kept.iter().map(|(sequence, _)| *sequence).collect::<Vec<_>>(),
        (1..=9).collect::<Vec<_>>()
    );
    let await_stored = |ann: &mut Client, sequence: u64, id: &str| {
        // A slow Redis may be missed once more.
        let result = eventually("it is known to be stored", || {
            Some(send_again(ann, id)["result"].clone()).filter(Value::is_object)
        });
        assert_eq!(result, json!({"sequence": sequence, "duplicate": true}));
    };
    for (sequence, id) in &kept {
        await_stored(&mut ann, *sequence, id);
    }
    let live = ann.publish(ADDRESS, json!({"n": "live"}));
    await_stored(&mut ann, 10, &live);
    let live = bob.event();
    assert_eq!((live.sequence(), &live["payload"]["n"]), (10, &json!("live")), "nothing twice");
    all.push(live["id"].as_str().unwrap().to_owned());
    // Who remembers what was kept gets all since; what was told meanwhile means nothing any more.
    let mut eve = daemon.client("eve");
    let recover =
        |epoch: &Value, sequence: u64| json!({"recover": {"epoch": epoch, "sequence": sequence}});
    let joined = eve.join_with(ADDRESS, recover(&first, 3));
    assert_eq!((&joined["recovered"], &joined["missed"]), (&json!(true), &json!(7)));
    let replayed: Vec<String> =
        eve.events(7).iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(replayed, all[3..]);
    eve.leave(ADDRESS);
    assert_eq!(eve.join_with(ADDRESS, recover(&provisional, 3))["reason"], "epoch_changed");
    eve.leave(ADDRESS);
    assert_eq!(eve.join_with(ADDRESS, recover(&now, 9))["missed"], 1);
    let lab = room(&mut ann, "lab");
    assert_eq!((&lab["state"], &lab["config"]["member_limit"]), (&json!("paused"), &json!(7)));
    let secret = ann.command("channel_info", json!({"channel": "lab:secret"}));
    assert_eq!((&secret["type"], &secret["metadata"]["topic"]), (&json!("private"), &json!("x")));
    daemon.stop();

    // The next start has the same.
    let daemon = start(&redis, &[]);
    let mut ann = daemon.client("ann");
    ann.join(ADDRESS);
    assert_eq!(ids(&history(&mut ann)), all);
    assert_eq!(room(&mut ann, "lab"), lab);
    let joined = daemon.client("eve").join_with(ADDRESS, recover(&now, 9));
    assert_eq!((&joined["recovered"], &joined["missed"]), (&json!(true), &json!(1)));
    let written = redis.cli(&["XLEN", "arqonbus:{ledger:entries}:stream"]);
    assert_eq!(written, "10", "each once");
    daemon.stop();
}

#[test]
fn a_server_that_starts_without_its_redis_under_load_loses_and_doubles_nothing() {
    let mut redis = Redis::with(&DURABLE);
    let daemon = start(&redis, &[]);
    let mut ann = daemon.client("ann");
    ann.join(ADDRESS);
    (0..200).for_each(|_| drop(ann.publish(ADDRESS, json!({}))));
    assert_eq!(ann.publish_acked(ADDRESS, json!({})), 201);
    let mut all: Vec<String> = history(&mut ann).into_iter().map(|(_, id)| id).collect();
    daemon.stop();
    redis.kill();

    let daemon = start(&redis, &["--ack-timeout-ms", "20000"]);
    let mut ann = daemon.client("ann");
    ann.join(ADDRESS);
    all.extend((0..500).map(|_| ann.publish(ADDRESS, json!({}))));
    redis.restart();
    // What comes while everything is put together is neither lost nor doubled.
    let is_well = || daemon.get("/status").json()["storage_state"]["state"] == "ok";
    let end = Instant::now() + Duration::from_secs(60);
    while !is_well() {
        assert!(Instant::now() < end, "it never takes up what was kept");
        all.extend((0..20).map(|_| ann.publish(ADDRESS, json!({}))));
    }
    all.extend((0..100).map(|_| ann.publish(ADDRESS, json!({}))));
    let id = ann.publish_with(ADDRESS, json!({}), json!({"ack": true}));
    ann.reply(&id);
    let last = eventually("the last is stored", || {
        send_again(&mut ann, &id)["result"]["sequence"].as_u64()
    });
    all.push(id);
    assert_eq!(last, all.len() as u64);
    assert_eq!(ids(&history(&mut ann)), all);
    daemon.stop();
    let daemon = start(&redis, &[]);
    let mut ann = daemon.client("ann");
    ann.join(ADDRESS);
    assert_eq!(ids(&history(&mut ann)), all);
    daemon.stop();
}
