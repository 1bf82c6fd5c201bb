//! How a client becomes one: the handshake, its identity, the welcome, and every way to be turned
//! away (protocol, section 2).

use crate::common::client::{Knock, knock, request};
use crate::common::raw::{self, RawPeer};
use crate::common::{Client, Daemon, Refused, eventually, http, on_shards};
use serde_json::{Value, json};
use std::io::{Read, Write};
use tungstenite::client::IntoClientRequest;
use tungstenite::http::HeaderValue;

on_shards! { an_id_belongs_to_one_connection identify_comes_first_and_once identify_renames_joins_and_frees }

/// The status and the body of a handshake that is refused.
#[track_caller]
fn refused(daemon: &Daemon, query: &str) -> (u16, Value) {
    match knock(request(daemon.bus, query), daemon.bus) {
        Knock::Refused(status, body) => (status, body),
        Knock::Open(..) => panic!("{query} was let in"),
    }
}

/// A client whose handshake has this header.
fn with_header(daemon: &Daemon, query: &str, name: &'static str, value: &str) -> Knock {
    let mut request = request(daemon.bus, query);
    request.headers_mut().insert(name, HeaderValue::from_str(value).unwrap());
    knock(request, daemon.bus)
}

#[test]
fn the_welcome_says_who_and_what_and_how_much() {
    let daemon = Daemon::with_shards(2);
    let client = daemon.client_with(
        "client_id=ann&client_type=ai-agent&screen_name=%C3%84nn%20%E2%98%BA&avatar=a.png\
         &personality=calm&join=science:general,lab:new",
    );
    let welcome = &client.welcome;
    assert_eq!(welcome["client_id"], "ann");
    assert_eq!(welcome["client_type"], "ai-agent");
    assert_eq!(welcome["role"], "admin", "only this machine can connect");
    assert_eq!(welcome["protocol"], "1.0");
    assert_eq!(welcome["server"]["name"], "arqonbus");
    assert_eq!(welcome["server"]["version"], env!("CARGO_PKG_VERSION"));
    assert!(welcome["server"]["node"].is_string());
    assert_eq!(welcome["heartbeat_ms"], 25_000);
    assert_eq!(welcome["limits"]["max_message_bytes"], 1 << 20);
    assert_eq!(welcome["limits"]["history_size"], 500);
    assert_eq!(welcome["limits"]["outbox_bytes"], 4 << 20);
    assert_eq!(welcome["limits"]["max_violations"], 10);
    assert_eq!(welcome["limits"]["max_joins_per_client"], 1_000);
    let mut joined: Vec<_> = welcome["joined"].as_array().unwrap().iter().collect();
    joined.sort_by_key(|view| view["room"].as_str().unwrap().to_owned());
    assert_eq!(joined.len(), 2, "{welcome}");
    assert_eq!((&joined[0]["room"], &joined[0]["created"]), (&json!("lab"), &json!(true)));
    assert_eq!((&joined[1]["room"], &joined[1]["created"]), (&json!("science"), &json!(false)));

    let mut admin = daemon.client("admin");
    let list = admin.command("list_clients", json!({}));
    let ann =
        &list["clients"].as_array().unwrap().iter().find(|c| c["client_id"] == "ann").unwrap();
    assert_eq!(ann["screen_name"], "Änn ☺");
    assert_eq!((&ann["avatar"], &ann["personality"]), (&json!("a.png"), &json!("calm")));
    assert_eq!(ann["subscriptions"], json!(["lab:new", "science:general"]));
    assert_eq!(ann["state"], "connected", "it has said nothing yet");
}

#[test]
fn the_welcome_is_an_envelope_of_the_server() {
    let daemon = Daemon::with_shards(1);
    let mut peer = daemon.socket();
    peer.write_all(&raw::handshake("/", "")).unwrap();
    let welcome = RawPeer::upgraded(peer).message();
    assert_eq!((&welcome["type"], &welcome["from"]), (&json!("system"), &json!("arqonbus_server")));
    assert_eq!((&welcome["room"], &welcome["channel"]), (&json!("*"), &json!("welcome")));
    assert_eq!(welcome["version"], "1.0");
    assert!(welcome["id"].as_str().unwrap().starts_with("arq_"));
}

#[test]
fn who_gives_no_id_gets_one() {
    let daemon = Daemon::with_shards(2);
    let mut ids: Vec<String> = (0..8).map(|_| daemon.client_with("").id).collect();
    for id in &ids {
        let ulid = id.strip_prefix("arq_client_").expect("the server's ids say so");
        assert_eq!(ulid.len(), 26, "{id}");
        assert!(ulid.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit()));
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 8);
}

fn an_id_belongs_to_one_connection(daemon: Daemon) {
    for n in 0..6 {
        let query = format!("client_id=c{n}");
        let first = daemon.client_with(&query);
        let (status, body) = refused(&daemon, &query);
        assert_eq!((status, &body["error"]), (409, &json!("CLIENT_ID_IN_USE")), "{body}");
        assert_eq!((&body["status"], &body["field"]), (&json!("error"), &json!("client_id")));
        first.close();
        // The id is free again once the bus has seen the end of its connection.
        eventually("the id to be free", || match knock(request(daemon.bus, &query), daemon.bus) {
            Knock::Open(..) => Some(()),
            Knock::Refused(status, _) => {
                assert_eq!(status, 409);
                None
            }
        });
    }
}

#[test]
fn bad_identities_are_refused_before_the_upgrade() {
    let daemon = Daemon::with_shards(1);
    let long = "x".repeat(65);
    for (query, field) in [
        ("client_id=", "client_id"),
        ("client_id=a%20b", "client_id"),
        ("client_id=..", "client_id"),
        ("client_id=*", "client_id"),
        ("client_id=arqonbus_server", "client_id"),
        (&*format!("client_id={long}"), "client_id"),
        ("client_id=a&client_id=b", "client_id"),
        ("client_type=robot", "client_type"),
        ("screen_name=a%0Ab", "screen_name"),
        (&*format!("personality={}", "y".repeat(513)), "personality"),
        ("join=science", "join"),
        ("join=science:general:x", "join"),
        ("join=science:gen%20eral", "join"),
        ("join=*:general", "join"),
        ("room=science", "room"),
        ("screen_name=%ff", ""),
    ] {
        let (status, body) = refused(&daemon, query);
        assert_eq!((status, &body["error"]), (400, &json!("BAD_IDENTITY")), "{query}: {body}");
        assert_eq!(body["code"], 400);
        assert_eq!(body["field"].as_str().unwrap_or(""), field, "{query}: {body}");
        assert!(!body["message"].as_str().unwrap().is_empty());
    }
}

#[test]
fn a_join_that_is_refused_is_told_in_the_welcome() {
    let daemon = Daemon::for_users(&["--shards", "2"]);
    let client = daemon.client_with("join=science:general,arqonx:y,science:pm");
    assert_eq!(client.welcome["joined"].as_array().unwrap().len(), 1, "{}", client.welcome);
    let mut errors: Vec<_> = client.welcome["refused"]
        .as_array()
        .unwrap()
        .iter()
        .map(|refused| refused["error"].as_str().unwrap())
        .collect();
    errors.sort_unstable();
    assert_eq!(errors, ["CHANNEL_IS_PM", "ROOM_PROTECTED"]);
}

#[test]
fn a_token_comes_in_three_ways_and_in_one_only() {
    let daemon = Daemon::with_shards(1);
    drop(daemon.client_with("token=t.o-k"));
    for (name, value) in
        [("authorization", "Bearer t.o-k"), ("sec-websocket-protocol", "arqonbus.v1, t.o-k")]
    {
        match with_header(&daemon, "", name, value) {
            Knock::Open(_, response) => {
                let chosen = response.headers().get("sec-websocket-protocol");
                let chosen = chosen.map(|value| value.to_str().unwrap());
                assert_eq!(chosen.is_some(), name == "sec-websocket-protocol");
                assert!(chosen.is_none_or(|chosen| chosen == "arqonbus.v1"), "no token in it");
            }
            Knock::Refused(status, body) => panic!("{name}: {status} {body}"),
        }
    }
    for (name, value, field) in [
        ("authorization", "Bearer", "Authorization"),
        ("authorization", "Bearer a b", "Authorization"),
        ("authorization", "Bearer another", "token"),
    ] {
        match with_header(&daemon, "token=t.o-k", name, value) {
            Knock::Refused(status, body) => {
                assert_eq!((status, &body["field"]), (400, &json!(field)), "{value}: {body}");
                assert!(!body.to_string().contains("t.o-k"), "a token is never said back");
            }
            Knock::Open(..) => panic!("{value} was let in"),
        }
    }
}

#[test]
fn the_subprotocol_is_chosen_only_if_it_is_offered() {
    let daemon = Daemon::with_shards(1);
    for (offered, chosen) in [
        ("", false),
        ("Sec-WebSocket-Protocol: arqonbus.v1\r\n", true),
        ("Sec-WebSocket-Protocol: chat, arqonbus.v1\r\n", true),
        ("Sec-WebSocket-Protocol: chat\r\n", false),
    ] {
        let mut stream = daemon.socket();
        stream.write_all(&raw::handshake("/", offered)).unwrap();
        let head = RawPeer::upgraded(stream).answer.head;
        assert_eq!(head.contains("Sec-WebSocket-Protocol: arqonbus.v1"), chosen, "{head}");
        assert!(!head.contains("Sec-WebSocket-Extensions"), "no extension is taken up");
    }
}

#[test]
fn only_pages_of_this_machine_may_connect_to_a_local_bus() {
    let local = Daemon::with_shards(1);
    let listed =
        Daemon::start(&["--allowed-origins", "https://app.example.org,https://b.org:8443"]);
    let public = Daemon::for_users(&[]);
    for (origin, on_local, on_listed) in [
        ("http://localhost:5173", true, false),
        ("http://127.0.0.1", true, false),
        ("http://evil.example", false, false),
        ("http://localhost.evil.example", false, false),
        ("null", false, false),
        ("https://app.example.org", false, true),
        ("http://app.example.org", false, false),
        ("https://app.example.org.evil.com", false, false),
        ("https://b.org:8443", false, true),
    ] {
        for (daemon, is_let_in) in [(&local, on_local), (&listed, on_listed), (&public, true)] {
            match with_header(daemon, "", "origin", origin) {
                Knock::Open(..) => assert!(is_let_in, "{origin} was let in"),
                Knock::Refused(status, body) => {
                    assert!(!is_let_in, "{origin}: {body}");
                    assert_eq!((status, &body["error"]), (403, &json!("ORIGIN_FORBIDDEN")));
                }
            }
        }
    }
}

#[test]
fn what_is_no_handshake_is_answered_in_http() {
    let daemon = Daemon::with_shards(1);
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: bus\r\n\r\n").into_bytes();
    for (bytes, status, says) in [
        (get("/"), 426, "ws://"),
        (get("/health"), 426, "HTTP port"),
        (raw::handshake("/ws", ""), 400, "`/ws`"),
        (raw::handshake("/../", ""), 400, "path"),
        (b"POST / HTTP/1.1\r\nHost: bus\r\n\r\n".to_vec(), 400, "GET"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01".to_vec(), 400, "wss://"),
        (b"hello\r\n\r\n".to_vec(), 400, "HTTP/1.1"),
        (raw::handshake("/", &format!("X: {}\r\n", "y".repeat(17_000))), 400, "16384"),
    ] {
        let answer = http::exchange(daemon.bus, &bytes);
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(answer.head.contains("application/json"), "{}", answer.head);
        let body = answer.json();
        assert_eq!((&body["status"], &body["error"]), (&json!("error"), &json!("BAD_HANDSHAKE")));
        assert!(body["message"].as_str().unwrap().contains(says), "{says}: {body}");
        if status == 426 {
            assert!(answer.head.contains("Upgrade: websocket"), "{}", answer.head);
        }
    }
    drop(daemon.client("ann"));
}

fn identify_comes_first_and_once(daemon: Daemon) {
    let mut client = daemon.client_with("");
    let result = client.command(
        "identify",
        json!({"client_id": "ann", "client_type": "service", "screen_name": "Ann",
               "join": ["science:general", "lab:x"]}),
    );
    client.id = "ann".into();
    assert_eq!((&result["client_id"], &result["client_type"]), (&json!("ann"), &json!("service")));
    assert_eq!(result["joined"].as_array().unwrap().len(), 2, "{result}");
    let again = client.refused("identify", json!({"client_id": "eve"}));
    assert_eq!(again.what(), (409, "ALREADY_IDENTIFIED"));
    client.publish_acked("science:general", json!({}));

    let mut late = daemon.client("late");
    late.command("ping", json!({}));
    assert_eq!(late.refused("identify", json!({})).what(), (409, "ALREADY_IDENTIFIED"));

    let mut joined = daemon.client_with("client_id=joined&join=science:general");
    let refused = joined.refused("identify", json!({"client_id": "other"}));
    assert_eq!(refused.what(), (409, "ALREADY_IDENTIFIED"));
}

fn identify_renames_joins_and_frees(daemon: Daemon) {
    let mut holder = daemon.client("taken");
    let mut client = daemon.client("old");
    let refused = client.refused("identify", json!({"client_id": "taken"}));
    assert_eq!(refused.what(), (409, "CLIENT_ID_IN_USE"));
    // It is who it was, `from` must say so, and it may choose another id as it was told to.
    let refused = client.refused("identify", json!({"client_id": "b a d"}));
    assert_eq!(refused.what(), (400, "BAD_IDENTITY"));
    client.command("identify", json!({"client_id": "another"}));
    client.id = "another".into();
    client.command("ping", json!({}));
    let refused = client.refused("identify", json!({"client_id": "one-more"}));
    assert_eq!(refused.what(), (409, "ALREADY_IDENTIFIED"));

    let mut second = daemon.client("second");
    second.command("identify", json!({"client_id": "new", "join": "science:general"}));
    second.id = "new".into();
    holder.join("science:general");
    second.publish("science:general", json!({"n": 1}));
    let event = holder.event();
    assert_eq!(event["from"], "new");
    let mut forger = second.envelope("event", "science:general", json!({}));
    forger["from"] = "second".into();
    let id = second.send(&forger);
    assert_eq!(Refused::of(&second.reply(&id)).what(), (403, "SENDER_MISMATCH"));
    // Its first id is free for others now.
    eventually("the old id to be free", || {
        match knock(request(daemon.bus, "client_id=second"), daemon.bus) {
            Knock::Open(..) => Some(()),
            Knock::Refused(..) => None,
        }
    });
    // A private message finds it under its new name.
    let private = holder.envelope("private", "science:general", json!({"target": "new", "n": 2}));
    holder.send(&private);
    assert_eq!(second.find(|message| message["type"] == "private")["payload"]["n"], 2);
}

#[test]
fn identify_with_a_bad_field_changes_nothing() {
    let daemon = Daemon::with_shards(2);
    for (parameters, field) in [
        (json!({"client_id": "a b"}), "parameters.client_id"),
        (json!({"client_type": "robot"}), "parameters.client_type"),
        (json!({"join": ["science"]}), "parameters.join"),
    ] {
        let mut client = daemon.client("ann");
        let refused = client.refused("identify", parameters);
        assert_eq!(refused.what(), (400, "BAD_IDENTITY"));
        assert_eq!(refused.field.as_deref(), Some(field));
        client.close();
        eventually("the id to be free", || {
            daemon.get("/status").json()["clients"].as_u64().filter(|&clients| clients == 0)
        });
    }
}

#[test]
fn a_full_node_says_try_later() {
    let daemon = Daemon::start(&["--shards", "2", "--max-connections", "3"]);
    let mut inside: Vec<Client> = (0..3).map(|n| daemon.client(&format!("c{n}"))).collect();
    let mut peer = knocking(&daemon, "client_id=late");
    let (code, reason) = peer.await_close();
    assert_eq!(code, 1013);
    assert!(reason.contains("full"), "{reason}");
    eventually("the node to say that it is full", || {
        (daemon.get("/ready").status == 503).then_some(())
    });
    for client in &mut inside {
        client.command("ping", json!({}));
    }
    drop(inside.pop());
    eventually("a place to be free", || {
        let mut peer = knocking(&daemon, "client_id=late");
        let (first, payload) = peer.frame()?;
        (first == raw::TEXT && String::from_utf8_lossy(&payload).contains("welcome")).then_some(())
    });
}

#[test]
fn a_proxy_on_this_machine_may_connect_for_more_than_an_address_may() {
    let daemon = Daemon::start(&["--max-connections-per-address", "1"]);
    let clients = ["a", "b", "c"].map(|id| daemon.client(id));
    assert_eq!(daemon.metric("arqonbus_connections_turned_away_total", ""), 0.0);
    drop(clients);
}

/// A WebSocket whose first words are awaited.
fn knocking(daemon: &Daemon, query: &str) -> RawPeer {
    let mut stream = daemon.socket();
    stream.write_all(&raw::handshake(&format!("/?{query}"), "")).unwrap();
    RawPeer::upgraded(stream)
}

#[test]
fn who_does_not_shake_hands_in_time_is_dropped() {
    let daemon = Daemon::start(&["--handshake-timeout-ms", "300"]);
    let mut silent = daemon.socket();
    let mut slow = daemon.socket();
    slow.write_all(b"GET / HTTP/1.1\r\nHost: bus\r\n").unwrap();
    for stream in [&mut silent, &mut slow] {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty(), "{:?}", String::from_utf8_lossy(&rest));
    }
    eventually("the close to be counted", || {
        let count = daemon.metric("arqonbus_shard_closes_total", "handshake_timeout");
        (count == 2.0).then_some(())
    });
    drop(daemon.client("ann"));
}

#[test]
fn a_handshake_and_its_first_message_may_come_in_any_pieces() {
    let daemon = Daemon::with_shards(2);
    let envelope = crate::common::command_text("ann", "ping", json!({})).1;
    let mut bytes = raw::handshake("/?client_id=ann&join=science:general", "");
    bytes.extend(raw::frame(raw::TEXT, envelope));
    for cut in [1, 7, 64, 1_000] {
        let mut stream = daemon.socket();
        for piece in bytes.chunks(cut) {
            stream.write_all(piece).unwrap();
        }
        let mut peer = RawPeer::upgraded(stream);
        assert_eq!(peer.message()["payload"]["event"], "welcome");
        assert_eq!(peer.message()["payload"]["result"]["pong"], true, "the welcome comes first");
        peer.send(&raw::frame(raw::CLOSE, 1000u16.to_be_bytes()));
        assert_eq!(peer.await_close().0, 1000);
        assert!(peer.is_hung_up());
    }
}

#[test]
fn the_whole_request_target_may_be_absolute() {
    let daemon = Daemon::with_shards(1);
    let request = format!("ws://{}/?client_id=ann", daemon.bus).into_client_request().unwrap();
    assert_eq!(Client::connect_by(daemon.bus, request).id, "ann");
    let mut stream = daemon.socket();
    stream.write_all(&raw::handshake("http://bus:9100/?client_id=bob", "")).unwrap();
    assert_eq!(RawPeer::upgraded(stream).message()["payload"]["client_id"], "bob");
}
