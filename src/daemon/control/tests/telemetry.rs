//! The telemetry port, and what is published into the bus.

use super::*;
use crate::base::limits::TELEMETRY_BACKLOG;
use crate::broker::telemetry::Place;
use crate::protocol::command::{ChannelType, ClientType};
use crate::protocol::fault::Fault;
use crate::shard::meters::{Counter, Gauge};
use serde_json::json;

#[test]
fn events_reach_readers_and_the_bus_in_order_under_one_id() {
    let node = Node::start();
    let mut readers = [node.read_telemetry(), node.read_telemetry()];
    assert_eq!(node.metric("arqonbus_telemetry_connections "), 2.0);
    let count = 2_000;
    for n in 0..count {
        node.tell(joined(n));
    }
    let envelopes =
        readers.each_mut().map(|reader| (0..count).map(|_| next(reader)).collect::<Vec<_>>());
    assert_eq!(envelopes[0], envelopes[1]);
    let copies = copies_of_stream(&node, count);
    for (n, envelope) in envelopes[0].iter().enumerate() {
        assert_eq!(envelope["type"], "telemetry");
        assert_eq!(envelope["version"], "1.0");
        assert_eq!(envelope["from"], "arqonbus_server");
        assert_eq!(envelope["room"], "integriguard");
        assert_eq!(envelope["channel"], "telemetry-stream");
        let payload = &envelope["payload"];
        assert_eq!(payload["eventType"], "joined");
        assert_eq!(payload["payload"]["client_id"], format!("client-{n}"));
        assert_eq!(payload["payload"]["channel"], "general");
        let Some(copy) = &copies[n] else { continue };
        for field in ["id", "type", "room", "channel", "from", "payload"] {
            assert_eq!(copy[field], envelope[field], "{field}");
        }
    }
    // One lane in ten was full.
    let missed = copies.iter().filter(|copy| copy.is_none()).count();
    assert!((150..=250).contains(&missed), "{missed}");
    assert_eq!(node.metric("arqonbus_telemetry_unpublished_total "), missed as f64);
    assert_eq!(node.metric("arqonbus_telemetry_events_total "), 2_000.0);
}

/// What the members of the stream got: each of `count` events, or nothing in place of one that they
/// were told they miss.
fn copies_of_stream(node: &Node, count: usize) -> Vec<Option<Value>> {
    let (mut copies, mut tried, begin) = (Vec::new(), 0, Instant::now());
    while copies.len() < count {
        assert!(begin.elapsed() < PATIENCE * 6, "of {count} came {}", copies.len());
        let publications = node.published.lock().unwrap().split_off(0);
        for publication in publications {
            tried += 1;
            assert_eq!(publication.address, address("integriguard", "telemetry-stream"));
            let copy = delivered(publication);
            if is_full(tried) {
                continue;
            }
            match copy["payload"]["payload"]["missed"].as_u64() {
                Some(missed) => {
                    assert_eq!(copy["payload"]["eventType"], "gap");
                    copies.extend(std::iter::repeat_n(None, missed as usize));
                }
                None => copies.push(Some(copy)),
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(copies.len(), count);
    copies
}

#[test]
fn what_the_control_plane_was_too_slow_for_is_told_to_all_who_miss_it() {
    let node = Node::start();
    let mut readers = [node.read_telemetry(), node.read_telemetry()];
    let count = 2 * crate::base::limits::TELEMETRY_SLOTS;
    let mut lost = 0;
    for n in 0..count {
        let event = joined(n);
        lost += u64::from(!node.events.offer(Telemetry { at_us: 0, event }));
    }
    assert!(lost > 0, "the control plane was too quick for this test");
    for reader in &mut readers {
        let (mut got, mut missed) = (0, 0);
        while got + missed < count as u64 {
            let envelope = next(reader);
            if envelope["type"] == "system" {
                let gap = &envelope["payload"];
                assert_eq!((&gap["event"], &gap["reason"]), (&"gap".into(), &"overloaded".into()));
                missed += gap["missed"].as_u64().unwrap();
            } else {
                got += 1;
            }
        }
        assert_eq!((got, missed), (count as u64 - lost, lost));
    }
    let copies = copies_of_stream(&node, count);
    let unpublished = node.metric("arqonbus_telemetry_unpublished_total ");
    let missing = copies.iter().filter(|copy| copy.is_none()).count();
    assert_eq!(missing as f64, lost as f64 + unpublished);
    assert_eq!(node.metric("arqonbus_telemetry_lost_total "), lost as f64);
}

#[test]
fn every_event_has_its_type_and_its_channel() {
    let node = Node::start();
    let mut reader = node.read_telemetry();
    let (who, open) = (name("ann"), Place::Open(address("science", "general")));
    let client_type = ClientType::AiAgent;
    let told = [
        (
            "client_connected",
            Event::ClientConnected {
                client_id: who.clone(),
                client_type,
                address: "127.0.0.1:1".into(),
            },
        ),
        (
            "client_disconnected",
            Event::ClientDisconnected {
                client_id: who.clone(),
                client_type,
                reason: CloseReason::Silent,
            },
        ),
        (
            "channel_created",
            Event::ChannelCreated {
                place: open.clone(),
                created_by: Some(who.clone()),
                auto_created: true,
            },
        ),
        ("channel_deleted", Event::ChannelDeleted { place: open.clone() }),
        ("joined", Event::Joined { client_id: Some(who.clone()), place: open.clone() }),
        ("left", Event::Left { client_id: Some(who.clone()), place: open.clone() }),
        (
            "message_refused",
            Event::MessageRefused { client_id: who.clone(), fault: Fault::NotJoined },
        ),
        ("slow_consumer", Event::SlowConsumer { client_id: who.clone(), waiting_bytes: 5 }),
        ("storage_degraded", Event::StorageDegraded { reason: "gone".into() }),
        ("storage_still_degraded", Event::StorageStillDegraded { reason: "still".into() }),
        ("storage_restored", Event::StorageRestored { outage_ms: 5, lost: 0 }),
        (
            "agent_activity",
            Event::AgentActivity {
                client_id: who.clone(),
                action: "published",
                place: open.clone(),
            },
        ),
    ];
    for (event_type, event) in told {
        node.tell(event);
        let envelope = next(&mut reader);
        let payload = &envelope["payload"];
        assert_eq!(payload["eventType"], event_type);
        if !event_type.starts_with("channel_") && !event_type.starts_with("storage_") {
            assert_eq!(payload["payload"]["client_id"], "ann");
        }
        let channel =
            if event_type == "agent_activity" { "dashboard-events" } else { "telemetry-stream" };
        assert_eq!(envelope["channel"], channel);
        // The bus gets it in the same turn as the readers.
        let publication = node.published.lock().unwrap().pop().unwrap();
        assert_eq!(publication.address, address("integriguard", channel));
        assert!(node.published.lock().unwrap().is_empty(), "published once");
    }
}

#[test]
fn of_a_private_channel_only_the_room_is_told() {
    let node = Node::start();
    let mut reader = node.read_telemetry();
    let place = Place::of(&address("vault", "plan-b"), ChannelType::Private);
    let who = place.known(&name("ann"));
    let nowhere = json!({"room": "vault", "channel": null, "private": true});
    let told = [
        (
            Event::ChannelCreated {
                place: place.clone(),
                created_by: who.clone(),
                auto_created: false,
            },
            json!({"created_by": null, "auto_created": false}),
        ),
        (
            Event::Joined { client_id: who.clone(), place: place.clone() },
            json!({"client_id": null}),
        ),
        (Event::Left { client_id: who, place: place.clone() }, json!({"client_id": null})),
        (Event::ChannelDeleted { place: place.clone() }, json!({})),
        (
            Event::AgentActivity { client_id: name("bot"), action: "published", place },
            json!({"client_id": "bot", "action": "published"}),
        ),
    ];
    for (event, mut expected) in told {
        node.tell(event);
        let payload = &next(&mut reader)["payload"]["payload"];
        let expected = expected.as_object_mut().unwrap();
        expected.extend(nowhere.as_object().unwrap().clone());
        assert_eq!(payload.as_object().unwrap(), expected);
    }
}

#[test]
fn a_clients_own_telemetry_stays_its_own() {
    let node = Node::start();
    let mut reader = node.read_telemetry();
    for metadata in ["", r#""ack":true,"x":[1]"#] {
        node.tell(Event::OfClient {
            id: "arq_mine".into(),
            from: name("ann"),
            address: address("science", "share"),
            payload: r#"{"eventType":"cpu","payload":{ "load" : 0.5 }}"#.into(),
            metadata: metadata.into(),
        });
        let envelope = next(&mut reader);
        let publication = node.published.lock().unwrap().pop().unwrap();
        assert_eq!(publication.address, address("integriguard", "telemetry-stream"));
        let copy = delivered(publication);
        for envelope in [&envelope, &copy] {
            assert_eq!(envelope["id"], "arq_mine");
            assert_eq!(envelope["from"], "ann");
            assert_eq!(envelope["type"], "telemetry");
            assert_eq!(envelope["room"], "science");
            assert_eq!(envelope["channel"], "share");
            assert_eq!(envelope["payload"]["payload"]["load"], 0.5);
            assert_eq!(envelope["metadata"].get("ack").is_some(), !metadata.is_empty());
        }
    }
}

#[test]
fn stats_are_told_at_their_interval() {
    let node = Node::with(FAST, Limits::default(), 100);
    let mut reader = node.read_telemetry();
    let first = next(&mut reader);
    assert_eq!(first["payload"]["eventType"], "stats");
    node.tally(0, |tally| {
        tally.set(Gauge::Clients, 12);
        tally.add(Counter::MessagesReceived, 50);
    });
    let stats = loop {
        let stats = next(&mut reader)["payload"]["payload"].clone();
        if stats["clients"] == 12 {
            break stats;
        }
    };
    assert_eq!(stats["messages_received"], 50);
    let rate = stats["messages_received_per_s"].as_f64().unwrap();
    assert!((1.0..=600.0).contains(&rate), "{rate}");
    assert_eq!(stats["messages_sent_per_s"], 0.0);
    assert_eq!(stats["telemetry_connections"], 1);
}

#[test]
fn a_stuck_reader_blocks_nobody_and_is_closed() {
    let node = Node::with(FAST, Limits::default(), 0);
    let stuck = node.read_telemetry();
    let mut reader = node.read_telemetry();
    let count = 64;
    for n in 0..count {
        node.tell(Event::OfClient {
            id: format!("arq_{n}"),
            from: name("ann"),
            address: address("science", "share"),
            payload: format!(r#"{{"x":"{}"}}"#, "x".repeat(200_000)),
            metadata: String::new(),
        });
    }
    for n in 0..count {
        assert_eq!(next(&mut reader)["id"], format!("arq_{n}"));
    }
    let closed = "arqonbus_telemetry_closes_total{reason=\"too_slow\",code=\"4008\"} ";
    node.wait_for_metric(closed, 1.0);
    node.wait_for_metric("arqonbus_telemetry_connections ", 1.0);
    drop(stuck);
    node.tell(joined(1));
    assert_eq!(next(&mut reader)["payload"]["eventType"], "joined");
}

#[test]
fn a_slow_reader_learns_what_it_missed_and_goes_on() {
    let bounds = Bounds { send: PATIENCE * 6, ..FAST };
    let node = Node::with(bounds, Limits::default(), 0);
    let mut slow = node.read_telemetry();
    // More than the ring and the sockets' buffers hold.
    let count = TELEMETRY_BACKLOG * 2;
    for n in 0..count {
        if n.is_multiple_of(8_192) {
            // So that none is lost before it comes into the ring.
            node.wait_for_metric("arqonbus_telemetry_events_total ", n as f64);
        }
        node.tell(joined(n));
    }
    node.wait_for_metric("arqonbus_telemetry_events_total ", count as f64);
    let (mut at, mut gaps) = (0, 0);
    while at < count {
        let envelope = next(&mut slow);
        if envelope["type"] == "system" {
            let gap = &envelope["payload"];
            assert_eq!(
                (&gap["event"], &gap["channel"]),
                (&"gap".into(), &"telemetry-stream".into())
            );
            at += gap["missed"].as_u64().unwrap() as usize;
            gaps += 1;
        } else {
            assert_eq!(envelope["payload"]["payload"]["client_id"], format!("client-{at}"));
            at += 1;
        }
    }
    assert!(gaps > 0);
    assert!(node.metric("arqonbus_telemetry_missed_total ") > 0.0);
}

#[test]
fn what_readers_send_is_ignored_or_ends_them() {
    let node = Node::with(FAST, Limits::default(), 0);
    let mut polite = node.read_telemetry();
    polite.send(Message::text("hello")).unwrap();
    polite.send(Message::Ping("x".into())).unwrap();
    assert_eq!(polite.read().unwrap(), Message::Pong("x".into()));
    node.tell(joined(1));
    assert_eq!(next(&mut polite)["payload"]["eventType"], "joined");
    polite.close(None).unwrap();
    assert!(matches!(polite.read().unwrap(), Message::Close(_)));

    let mut binary = node.read_telemetry();
    binary.send(Message::binary(vec![1, 2])).unwrap();
    assert_eq!(close_code(&mut binary), 1003);

    for flood in [Message::text("{}"), Message::Ping("".into()), Message::Pong("".into())] {
        let mut flooding = node.read_telemetry();
        for _ in 0..200 {
            // The server may have closed before all of it is out.
            let _ = flooding.send(flood.clone());
        }
        assert_eq!(close_code(&mut flooding), 1008, "{flood:?}");
    }

    let mut long = node.read_telemetry();
    long.send(Message::text("x".repeat(100_000))).unwrap();
    assert_eq!(close_code(&mut long), 1009);

    let mut wrong = node.read_telemetry();
    // A masked text frame of one byte that is no UTF-8, and one with reserved bits.
    wrong.get_mut().write_all(&[0x81, 0x81, 0, 0, 0, 0, 0xff]).unwrap();
    assert_eq!(close_code(&mut wrong), 1007);
    let mut wrong = node.read_telemetry();
    wrong.get_mut().write_all(&[0xf1, 0x80, 0, 0, 0, 0]).unwrap();
    assert_eq!(close_code(&mut wrong), 1002);
    node.wait_for_metric("arqonbus_telemetry_connections ", 0.0);
}

#[test]
fn silent_readers_are_pinged_and_then_closed() {
    let node = Node::with(FAST, Limits { heartbeat_ms: 150, ..Limits::default() }, 0);
    let mut alive = node.read_telemetry();
    let mut silent = node.read_telemetry();
    let begin = Instant::now();
    // Reading answers pings, so this one lives on.
    alive.get_mut().set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut pings = 0;
    while begin.elapsed() < Duration::from_millis(700) {
        match alive.read() {
            Ok(Message::Ping(_)) => pings += 1,
            Ok(other) => panic!("{other:?}"),
            Err(tungstenite::Error::Io(error)) => {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(pings >= 3, "{pings}");
    assert_eq!(close_code(&mut silent), 4010);
}

#[test]
fn only_handshakes_from_allowed_origins_become_readers() {
    let node = Node::start();
    assert!(connect(node.telemetry, &[("origin", "http://good")]).is_ok());
    assert_eq!(connect(node.telemetry, &[("origin", "http://evil")]).err(), Some(403));
    let protocol = [("sec-websocket-protocol", "arqonbus.v1")];
    assert!(connect(node.telemetry, &protocol).is_ok());
    let plain = get(node.telemetry, "/");
    assert_eq!(plain.code, 426);
    assert_eq!(plain.json()["error"], "UPGRADE_REQUIRED");
    assert!(plain.head.contains("upgrade: websocket"), "{}", plain.head);
    let broken =
        request(node.telemetry, "GET", "/", "upgrade: websocket\r\nsec-websocket-version: 12\r\n");
    assert_eq!((broken.code, &broken.json()["error"]), (400, &"BAD_HANDSHAKE".into()));
}

#[test]
fn readers_beyond_the_bound_are_told_to_wait() {
    let node = Node::with(FAST, Limits::default(), 0);
    let mut readers: Vec<_> = (0..FAST.readers).map(|_| node.read_telemetry()).collect();
    assert_eq!(connect(node.telemetry, &[]).err(), Some(503));
    readers.pop();
    node.wait_for_metric("arqonbus_telemetry_connections ", FAST.readers as f64 - 1.0);
    assert!(connect(node.telemetry, &[]).is_ok());
}

#[test]
fn stopping_spreads_the_rest_and_says_goodbye() {
    let node = Node::start();
    let mut reader = node.read_telemetry();
    for n in 0..500 {
        node.tell(joined(n));
    }
    let stopping = std::thread::spawn(move || node.thread.stop());
    for n in 0..500 {
        assert_eq!(next(&mut reader)["payload"]["payload"]["client_id"], format!("client-{n}"));
    }
    assert_eq!(close_code(&mut reader), 1001);
    // The close is answered by reading on to the end.
    let _ = reader.read();
    assert!(stopping.join().unwrap());
}
