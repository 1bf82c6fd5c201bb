//! Events: one order for everyone, nothing lost, nothing twice, and who gets what (protocol,
//! sections 3 and 4).

use crate::common::{Client, Daemon, Message, eventually, fresh_id, on_shards};
use serde_json::{Value, json};
use std::thread;

on_shards! {
    every_member_sees_the_same_order
    a_sender_hears_itself_only_if_it_wants_to
    a_whole_room_is_joined_with_its_future
    an_event_to_everyone_comes_to_each_once
    a_message_sent_again_is_delivered_once
    nobody_publishes_where_it_is_not_joined
    a_trace_tells_which_way_a_message_went
    a_paused_room_takes_no_events
    echo_of_a_whole_room_is_of_what_is_joined_now
}

const ADDRESS: &str = "science:general";

/// The sequence, the sender and the number of each event.
fn order(events: &[Message]) -> Vec<(u64, String, u64)> {
    let line = |event: &Message| {
        let from = event["from"].as_str().unwrap().to_owned();
        (event.sequence(), from, event["payload"]["n"].as_u64().unwrap())
    };
    events.iter().map(line).collect()
}

fn every_member_sees_the_same_order(daemon: Daemon) {
    const PUBLISHERS: u64 = 4;
    const EACH: u64 = 200;
    let total = (PUBLISHERS * EACH) as usize;
    let members = (0..6).map(|n| daemon.client_with(&format!("client_id=m{n}&join={ADDRESS}")));
    let members: Vec<Client> = members.collect();
    let publishers = (0..PUBLISHERS).map(|n| {
        let mut client = daemon.client(&format!("p{n}"));
        client.join_with(ADDRESS, json!({"echo": n == 0}));
        client
    });
    let publishers: Vec<Client> = publishers.collect();
    let orders: Vec<_> = thread::scope(|scope| {
        let readers: Vec<_> = members
            .into_iter()
            .map(|mut member| scope.spawn(move || order(&member.events(total))))
            .collect();
        let publishers: Vec<_> = publishers
            .into_iter()
            .enumerate()
            .map(|(place, mut client)| {
                scope.spawn(move || {
                    for n in 0..EACH {
                        client.publish(ADDRESS, json!({"n": n}));
                    }
                    // A publisher is a member, too: it hears the others, and itself if it asked.
                    let heard = if place == 0 { total } else { total - EACH as usize };
                    (client.id.clone(), order(&client.events(heard)))
                })
            })
            .collect();
        let orders: Vec<_> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
        for publisher in publishers {
            let (id, heard) = publisher.join().unwrap();
            let expected = orders[0].iter().filter(|(_, from, _)| id == "p0" || *from != id);
            assert_eq!(heard, expected.cloned().collect::<Vec<_>>(), "{id} hears the others");
        }
        orders
    });
    for order in &orders {
        assert_eq!(*order, orders[0], "one order, the same for all");
    }
    let sequences: Vec<u64> = orders[0].iter().map(|(sequence, ..)| *sequence).collect();
    assert_eq!(sequences, (1..=total as u64).collect::<Vec<_>>(), "from 1, without gaps");
    for publisher in 0..PUBLISHERS {
        let of_one = orders[0].iter().filter(|(_, from, _)| *from == format!("p{publisher}"));
        let numbers: Vec<u64> = of_one.map(|(.., n)| *n).collect();
        assert_eq!(numbers, (0..EACH).collect::<Vec<_>>(), "a sender's own order is kept");
    }
}

#[test]
fn time_never_goes_back_within_a_channel() {
    let daemon = Daemon::with_shards(2);
    let mut ann = daemon.client_with(&format!("join={ADDRESS}"));
    let mut bob = daemon.client_with(&format!("join={ADDRESS}"));
    for n in 0..200 {
        ann.publish(ADDRESS, json!({"n": n}));
    }
    let times: Vec<String> =
        bob.events(200).iter().map(|event| event["timestamp"].as_str().unwrap().into()).collect();
    assert!(times.is_sorted(), "{times:?}");
}

fn a_sender_hears_itself_only_if_it_wants_to(daemon: Daemon) {
    let mut ann = daemon.client("ann");
    let mut bob = daemon.client("bob");
    ann.join(ADDRESS);
    bob.join_with(ADDRESS, json!({"echo": true}));
    ann.publish_acked(ADDRESS, json!({"of": "ann"}));
    bob.publish_acked(ADDRESS, json!({"of": "bob"}));
    assert_eq!(bob.event()["payload"]["of"], "ann");
    let echo = bob.event();
    assert_eq!((&echo["payload"]["of"], echo.sequence()), (&json!("bob"), 2));
    assert_eq!(ann.event()["payload"]["of"], "bob");
    ann.assert_quiet();
    // Joining again is no second membership, and may change one's mind.
    bob.join_with(ADDRESS, json!({"echo": false}));
    bob.publish_acked(ADDRESS, json!({"of": "bob"}));
    ann.publish_acked(ADDRESS, json!({"of": "ann"}));
    assert_eq!(bob.event()["payload"]["of"], "ann");
    bob.assert_quiet();
}

fn a_whole_room_is_joined_with_its_future(daemon: Daemon) {
    let mut ann = daemon.client("ann");
    let mut bob = daemon.client("bob");
    bob.join("lab:old");
    let view = ann.join("lab:*");
    assert_eq!((&view["channel"], &view["created"]), (&json!("*"), &json!(false)), "{view}");
    assert_eq!(view["channels"][0]["channel"], "old");
    // By name as well: a second tie, but one member.
    ann.join("lab:old");
    bob.join("lab:new");
    for address in ["lab:old", "lab:new"] {
        bob.publish_acked(address, json!({"to": address}));
        let event = ann.event();
        assert_eq!((&event["payload"]["to"], event.sequence()), (&json!(address), 1));
    }
    ann.assert_quiet();
    let info = bob.command("channel_info", json!({"channel": "lab:old"}));
    assert_eq!(info["participant_count"], 2);
    // She may speak in all of them, also in those she never named.
    ann.publish_acked("lab:new", json!({}));
    assert_eq!(bob.event()["from"], "ann");
    // The whole room is left: what was joined by name stays.
    ann.leave("lab:*");
    bob.publish_acked("lab:new", json!({"n": 1}));
    bob.publish_acked("lab:old", json!({"n": 2}));
    assert_eq!(ann.event()["payload"]["n"], 2);
    ann.assert_quiet();
    assert_eq!(ann.publish_refused("lab:new", json!({})).what(), (403, "NOT_JOINED"));
}

fn an_event_to_everyone_comes_to_each_once(daemon: Daemon) {
    let mut ann = daemon.client("ann");
    ann.join("lab:a");
    let mut everywhere = daemon.client("everywhere");
    everywhere.join("lab:*");
    everywhere.join("lab:a");
    everywhere.join("lab:b");
    let mut one = daemon.client("one");
    one.join("lab:b");
    let mut other_room = daemon.client("other_room");
    other_room.join("science:general");
    let sequence = ann.publish_acked("lab:*", json!({"n": 1}));
    assert_eq!(sequence, 1, "what is sent to everyone has an order of its own");
    for client in [&mut everywhere, &mut one] {
        let event = client.event();
        assert_eq!((&event["channel"], &event["payload"]["n"]), (&json!("*"), &json!(1)));
        assert_eq!(event.sequence(), 1);
        client.assert_quiet();
    }
    ann.assert_quiet();
    ann.join_with("lab:a", json!({"echo": true}));
    assert_eq!(ann.publish_acked("lab:*", json!({"n": 2})), 2);
    assert_eq!(ann.event()["payload"]["n"], 2);
    // Whoever follows only its own channel's order sees no hole in it.
    assert_eq!(ann.publish_acked("lab:a", json!({})), 1);
    other_room.assert_quiet();
    assert_eq!(other_room.publish_refused("lab:*", json!({})).what(), (403, "NOT_JOINED"));
}

fn a_message_sent_again_is_delivered_once(daemon: Daemon) {
    let mut ann = daemon.client_with(&format!("client_id=ann&join={ADDRESS}"));
    let mut eve = daemon.client_with(&format!("client_id=eve&join={ADDRESS}"));
    let mut bob = daemon.client_with(&format!("client_id=bob&join={ADDRESS}"));
    let id = fresh_id();
    let send = |client: &mut Client, payload: Value| {
        let mut event = client.envelope("event", ADDRESS, payload);
        event["id"] = id.as_str().into();
        event["metadata"] = json!({"ack": true});
        client.send(&event);
        client.reply(&id)["result"].clone()
    };
    assert_eq!(send(&mut ann, json!({"n": 1})), json!({"sequence": 1, "duplicate": false}));
    ann.publish_acked(ADDRESS, json!({"n": 2}));
    for _ in 0..3 {
        assert_eq!(send(&mut ann, json!({"n": 3})), json!({"sequence": 1, "duplicate": true}));
    }
    // The same id from somebody else is another message.
    assert_eq!(send(&mut eve, json!({"n": 4})), json!({"sequence": 3, "duplicate": false}));
    let heard: Vec<_> = bob.events(3).iter().map(|event| event["payload"]["n"].clone()).collect();
    assert_eq!(heard, [1, 2, 4]);
    bob.assert_quiet();
    // A retry on a new connection of the same client is known as well.
    ann.close();
    let mut ann = eventually("ann's id to be free", || {
        let others = daemon.get("/status").json()["clients"] == 2;
        others.then(|| daemon.client_with(&format!("client_id=ann&join={ADDRESS}")))
    });
    assert_eq!(send(&mut ann, json!({"n": 5})), json!({"sequence": 1, "duplicate": true}));
    bob.assert_quiet();
}

#[test]
fn an_id_is_known_for_as_long_as_its_message_is_kept() {
    let daemon = Daemon::start(&["--shards", "2", "--history-size", "3"]);
    let mut ann = daemon.client_with(&format!("client_id=ann&join={ADDRESS}"));
    let mut event = ann.envelope("event", ADDRESS, json!({}));
    event["metadata"] = json!({"ack": true});
    let send = |ann: &mut Client| {
        let id = ann.send(&event);
        ann.reply(&id)["result"].clone()
    };
    assert_eq!(send(&mut ann), json!({"sequence": 1, "duplicate": false}));
    ann.publish_acked(ADDRESS, json!({}));
    ann.publish_acked(ADDRESS, json!({}));
    assert_eq!(send(&mut ann), json!({"sequence": 1, "duplicate": true}));
    ann.publish_acked(ADDRESS, json!({}));
    assert_eq!(send(&mut ann), json!({"sequence": 5, "duplicate": false}));
}

#[test]
fn an_event_is_answered_only_if_it_asks() {
    let daemon = Daemon::with_shards(2);
    let mut ann = daemon.client_with(&format!("client_id=ann&join={ADDRESS}"));
    for metadata in [json!({}), json!({"ack": false}), json!({"mine": {"ack": true}})] {
        ann.publish_with(ADDRESS, json!({}), metadata);
    }
    assert_eq!(ann.publish_acked(ADDRESS, json!({})), 4);
    ann.assert_quiet();
    let event = ann.envelope("event", ADDRESS, json!({}));
    let id = ann.send(&event);
    ann.publish_acked(ADDRESS, json!({}));
    ann.assert_quiet();
    assert!(!id.is_empty());
}

#[test]
fn what_has_expired_is_not_replayed() {
    let daemon = Daemon::with_shards(2);
    let mut ann = daemon.client_with(&format!("client_id=ann&join={ADDRESS}"));
    let epoch = ann.join(ADDRESS)["epoch"].clone();
    let id = ann.publish_with(ADDRESS, json!({"n": 1}), json!({"ttl_ms": 1, "ack": true}));
    ann.reply(&id);
    ann.publish_acked(ADDRESS, json!({"n": 2}));
    let id = ann.publish_with(ADDRESS, json!({"n": 3}), json!({"ttl_ms": 600_000, "ack": true}));
    ann.reply(&id);
    eventually("the first message to expire", || {
        let page = ann.command("history", json!({"channel": ADDRESS}));
        (page["messages"].as_array().unwrap().len() == 2).then_some(())
    });
    let mut bob = daemon.client("bob");
    let view = bob.join_with(ADDRESS, json!({"recover": {"epoch": epoch, "sequence": 0}}));
    assert_eq!((&view["recovered"], &view["missed"]), (&json!(true), &json!(2)), "{view}");
    let numbers: Vec<_> = bob.events(2).iter().map(|event| event["payload"]["n"].clone()).collect();
    assert_eq!(numbers, [2, 3]);
    bob.assert_quiet();
}

fn nobody_publishes_where_it_is_not_joined(daemon: Daemon) {
    let mut ann = daemon.client("ann");
    let mut bob = daemon.client_with(&format!("client_id=bob&join={ADDRESS}"));
    for address in [ADDRESS, "science:explore", "none:none", "science:*", "science:pm"] {
        let refused = ann.publish_refused(address, json!({}));
        assert_eq!(refused.what(), (403, "NOT_JOINED"), "{address}");
    }
    ann.join("science:explore");
    assert_eq!(ann.publish_refused(ADDRESS, json!({})).what(), (403, "NOT_JOINED"));
    // What is sent behind a join on its way counts, and behind a leave it does not.
    let (join, text) =
        crate::common::command_text("ann", "join_channel", json!({"channel": ADDRESS}));
    ann.send_text(text);
    let first = ann.publish_with(ADDRESS, json!({"n": 1}), json!({"ack": true}));
    let (leave, text) =
        crate::common::command_text("ann", "leave_channel", json!({"channel": ADDRESS}));
    ann.send_text(text);
    let second = ann.publish(ADDRESS, json!({"n": 2}));
    assert_eq!(ann.reply(&join)["status"], "success");
    assert_eq!(ann.reply(&first)["result"]["sequence"], 1);
    assert_eq!(ann.reply(&leave)["result"]["left"], true);
    assert_eq!(ann.reply(&second)["error"], "NOT_JOINED");
    assert_eq!(bob.event()["payload"]["n"], 1);
    bob.assert_quiet();
    ann.assert_quiet();
}

#[test]
fn a_role_that_may_publish_anywhere_does() {
    let daemon = Daemon::start(&["--shards", "4", "--publish-anywhere", "admin"]);
    let mut ann = daemon.client("ann");
    let mut bob = daemon.client_with(&format!("client_id=bob&join={ADDRESS}"));
    assert_eq!(ann.publish_acked(ADDRESS, json!({"n": 1})), 1);
    assert_eq!(ann.publish_acked("science:*", json!({"n": 2})), 1);
    assert_eq!(bob.event()["payload"]["n"], 1);
    assert_eq!(bob.event()["payload"]["n"], 2);
    let refused = ann.publish_refused("none:none", json!({}));
    assert_eq!(refused.what(), (404, "CHANNEL_NOT_FOUND"));
}

fn a_trace_tells_which_way_a_message_went(daemon: Daemon) {
    let shards = daemon.get("/status").json()["shards"].as_u64().unwrap();
    let mut ann = daemon.client_with(&format!("client_id=ann&join={ADDRESS}"));
    let mut members: Vec<Client> =
        (0..8).map(|_| daemon.client_with(&format!("join={ADDRESS}"))).collect();
    let id = ann.publish_with(ADDRESS, json!({}), json!({"trace": true, "ack": true}));
    let result = ann.reply(&id)["result"].clone();
    assert_eq!((&result["sequence"], &result["duplicate"]), (&json!(1), &json!(false)));
    assert_eq!(result["delivered"], 8, "{result}");
    let hops = result["trace"].as_array().unwrap();
    let at = |name: &str| hops.iter().filter(|hop| hop["at"] == name).collect::<Vec<_>>();
    assert_eq!((at("parsed").len(), at("routed").len()), (1, 1), "{result}");
    let delivered = at("delivered");
    assert_eq!(delivered.len() as u64, shards, "each shard has members: {result}");
    let members_of = |hop: &&Value| hop["members"].as_u64().unwrap();
    assert_eq!(delivered.iter().map(members_of).sum::<u64>(), 8);
    let ns = |hop: &Value| hop["ns"].as_u64().expect("nanoseconds since receipt");
    for hop in &delivered {
        assert!(ns(hop) >= ns(at("routed")[0]), "{result}");
        assert!(hop["shard"].as_u64().unwrap() < shards);
    }
    for member in &mut members {
        member.event();
    }
    // A repeat was routed and delivered to nobody.
    let mut again = ann.envelope("event", ADDRESS, json!({}));
    again["id"] = id.as_str().into();
    again["metadata"] = json!({"trace": true});
    ann.send(&again);
    let result = ann.reply(&id)["result"].clone();
    assert_eq!((&result["duplicate"], &result["delivered"]), (&json!(true), &json!(0)), "{result}");
}

fn a_paused_room_takes_no_events(daemon: Daemon) {
    let mut ann = daemon.client_with("client_id=ann&join=lab:a,lab:b");
    let mut bob = daemon.client_with("client_id=bob&join=lab:a,lab:b");
    let room = ann.command("pause_room", json!({"room": "lab"}));
    assert_eq!((&room["name"], &room["state"]), (&json!("lab"), &json!("paused")));
    for address in ["lab:a", "lab:b", "lab:*"] {
        let refused = bob.publish_refused(address, json!({}));
        assert_eq!(refused.what(), (409, "ROOM_PAUSED"), "{address}");
    }
    // Channels made meanwhile are paused, too, and commands and private messages go on.
    bob.join("lab:c");
    assert_eq!(bob.publish_refused("lab:c", json!({})).what(), (409, "ROOM_PAUSED"));
    bob.command("history", json!({"channel": "lab:a"}));
    let private = bob.envelope("private", "lab:a", json!({"target": "ann"}));
    bob.send(&private);
    ann.find(|message| message["type"] == "private");
    assert_eq!(ann.command("resume_room", json!({"room": "lab"}))["state"], "active");
    for address in ["lab:a", "lab:b", "lab:*", "lab:c"] {
        assert_eq!(bob.publish_acked(address, json!({})), 1, "no number was used up");
    }
    assert_eq!(ann.events(3).len(), 3);
    ann.assert_quiet();
}

#[test]
fn a_room_says_who_may_publish() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        file.path(),
        "[[rooms]]\nname = \"news\"\nchannels = [\"daily\"]\npublishers = [\"bob\"]\n\
         [[rooms]]\nname = \"official\"\nchannels = [\"daily\"]\npublishers = \"admins\"\n",
    )
    .unwrap();
    let config = file.path().to_str().unwrap();
    let daemon = Daemon::for_users(&["--config", config, "--shards", "2"]);
    let mut ann = daemon.client_with("client_id=ann&join=news:daily,official:daily");
    let mut bob = daemon.client_with("client_id=bob&join=news:daily,official:daily");
    for address in ["news:daily", "news:*", "official:daily", "official:*"] {
        let refused = ann.publish_refused(address, json!({}));
        assert_eq!(refused.what(), (403, "PUBLISH_FORBIDDEN"), "{address}");
    }
    assert_eq!(bob.publish_refused("official:daily", json!({})).what(), (403, "PUBLISH_FORBIDDEN"));
    assert_eq!(bob.publish_acked("news:daily", json!({})), 1);
    assert_eq!(ann.event()["from"], "bob");
    let rooms = bob.command("list_rooms", json!({}));
    let news = rooms["rooms"].as_array().unwrap().iter().find(|room| room["name"] == "news");
    assert_eq!(news.unwrap()["config"]["publishers"], json!(["bob"]));
}

#[test]
fn a_clients_own_telemetry_reaches_the_stream() {
    let daemon = Daemon::with_shards(2);
    let mut watcher = daemon.client_with("client_id=watcher&join=integriguard:telemetry-stream");
    let mut ann = daemon.client_with("client_id=ann&join=lab:x");
    for (payload, field) in [
        (json!({}), "payload.eventType"),
        (json!({"eventType": 7, "payload": {}}), "payload.eventType"),
        (json!({"eventType": "load"}), "payload.payload"),
        (json!({"eventType": "load", "payload": []}), "payload.payload"),
    ] {
        let bad = ann.envelope("telemetry", "lab:x", payload);
        let id = ann.send(&bad);
        let refused = crate::common::Refused::of(&ann.reply(&id));
        assert_eq!(refused.what(), (400, "BAD_TELEMETRY"));
        assert_eq!(refused.field.as_deref(), Some(field));
    }
    let payload = json!({"eventType": "load", "payload": {"cpu": 0.5}, "more": [1]});
    let good = ann.envelope("telemetry", "lab:x", payload.clone());
    ann.send(&good);
    let message = watcher.find(|message| {
        message["type"] == "telemetry" && message["payload"]["eventType"] == "load"
    });
    assert_eq!((&message["from"], &message["id"]), (&json!("ann"), &good["id"]));
    assert_eq!((&message["room"], &message["channel"]), (&json!("lab"), &json!("x")));
    assert_eq!(message["payload"], payload);
    assert!(message["metadata"]["sequence"].is_u64());
}

fn echo_of_a_whole_room_is_of_what_is_joined_now(daemon: Daemon) {
    let mut ann = daemon.client("ann");
    let echo_after = |ann: &mut Client| {
        ann.publish_acked("lab:*", json!({}));
        ann.command("ping", json!({}));
        let heard = ann.take_kept();
        assert!(ann.take_kept().is_none(), "at most its own event");
        heard.is_some_and(|message| message["type"] == "event")
    };
    ann.join_with("lab:a", json!({"echo": true}));
    assert!(echo_after(&mut ann));
    ann.join("lab:a");
    assert!(!echo_after(&mut ann), "joining again without echo ends it");
    ann.join_with("lab:b", json!({"echo": true}));
    assert!(echo_after(&mut ann));
    ann.leave("lab:b");
    assert!(!echo_after(&mut ann), "leaving ends it");
    ann.join_with("lab:*", json!({"echo": true}));
    assert!(echo_after(&mut ann));
    ann.join_with("lab:b", json!({"echo": true}));
    ann.join("lab:*");
    assert!(!echo_after(&mut ann), "whoever joined * said there what it wants of it");
    ann.leave("lab:*");
    assert!(echo_after(&mut ann));
}
