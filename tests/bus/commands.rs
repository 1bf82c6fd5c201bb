//! Every command of the protocol's table: what it answers, who may give it, and every limit that
//! has a code of its own (protocol, sections 3 and 5).

use crate::common::{Client, Daemon, eventually, on_shards};
use serde_json::{Value, json};

on_shards! {
    status_counts_the_whole_bus
    rooms_and_channels_are_made_shown_and_deleted
    joins_and_leaves_are_answered_in_full
    announcements_reach_whom_they_are_for
    clients_are_listed_and_sent_away
    the_limit_of_rooms_is_the_nodes
}

const ADMIN_COMMANDS: [&str; 9] = [
    "announce",
    "create_channel",
    "create_room",
    "delete_channel",
    "delete_room",
    "disconnect_client",
    "list_clients",
    "pause_room",
    "resume_room",
];
const OTHER_COMMANDS: [&str; 10] = [
    "channel_info",
    "help",
    "history",
    "identify",
    "join_channel",
    "leave_channel",
    "list_channels",
    "list_rooms",
    "ping",
    "status",
];

/// Good parameters for a command.
fn parameters(name: &str) -> Value {
    match name {
        "announce" => json!({"message": "hello"}),
        "create_room" | "delete_room" | "pause_room" | "resume_room" | "list_channels" => {
            json!({"room": "science"})
        }
        "create_channel" | "delete_channel" | "channel_info" | "history" | "join_channel"
        | "leave_channel" => json!({"room": "science", "channel": "general"}),
        "disconnect_client" => json!({"client_id": "nobody"}),
        _ => json!({}),
    }
}

/// Gives a command that wants names and counts only.
fn brief(client: &mut Client, name: &str, parameters: Value) -> Value {
    let payload = json!({"command": name, "parameters": parameters, "response_format": "brief"});
    let command = client.envelope("command", "*:*", payload);
    let id = client.send(&command);
    let reply = client.reply(&id);
    assert_eq!(reply["status"], "success", "{reply}");
    reply["result"].clone()
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

fn find<'a>(list: &'a Value, name: &str) -> &'a Value {
    let list = list.as_array().expect("a list");
    let found = list.iter().find(|entry| entry["name"] == name || entry["client_id"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {list:?}"))
}

#[test]
fn help_describes_every_command() {
    let daemon = Daemon::with_shards(2);
    let mut ann = daemon.client("ann");
    let help = ann.command("help", json!({}));
    let mut names: Vec<&str> =
        help.as_array().unwrap().iter().map(|spec| spec["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    let mut all = [&ADMIN_COMMANDS[..], &OTHER_COMMANDS[..]].concat();
    all.sort_unstable();
    assert_eq!(names, all);
    for spec in help.as_array().unwrap() {
        let name = spec["name"].as_str().unwrap();
        assert_eq!(spec["requires_admin"], ADMIN_COMMANDS.contains(&name), "{name}");
        assert!(["none", "room", "channel"].contains(&spec["scope"].as_str().unwrap()), "{spec}");
        assert!(spec["rate_limited"].is_boolean() && spec["description"].is_string());
        let described = spec["parameters"].as_array().unwrap();
        for given in keys(&parameters(name)) {
            assert!(described.iter().any(|known| known["name"] == given), "{name} {given}");
        }
        for parameter in described {
            assert!(parameter["type"].is_string() && parameter["required"].is_boolean());
            assert!(!parameter["description"].as_str().unwrap().is_empty());
        }
    }
    let mut names = brief(&mut ann, "help", json!({}));
    names.as_array_mut().unwrap().sort_by_key(Value::to_string);
    assert_eq!(names, json!(all));
}

#[test]
fn only_admins_give_admin_commands() {
    let daemon = Daemon::for_users(&["--shards", "2"]);
    daemon.log().line("nobody is admin");
    let mut ann = daemon.client_with("client_id=ann&join=science:general");
    assert_eq!(ann.welcome["role"], "user");
    for name in ADMIN_COMMANDS {
        let refused = ann.refused(name, parameters(name));
        assert_eq!(refused.what(), (403, "ADMIN_REQUIRED"), "{name}");
    }
    for name in OTHER_COMMANDS.into_iter().filter(|name| *name != "identify") {
        ann.command(name, parameters(name));
    }
    // Joins make no channels in system rooms for users.
    let refused = ann.refused("join_channel", json!({"channel": "integriguard:mine"}));
    assert_eq!(refused.what(), (409, "ROOM_PROTECTED"));
    ann.join("integriguard:telemetry-stream");

    let daemon = Daemon::with_shards(2);
    daemon.log().line("its programs and pages are admin");
    let mut ann = daemon.client_with("client_id=ann");
    for name in ADMIN_COMMANDS {
        if let Err(refused) = ann.ask(name, parameters(name)) {
            assert_ne!(refused.code, 403, "{name}: {refused:?}");
        }
    }
}

#[test]
fn what_is_no_command_is_refused() {
    let daemon = Daemon::with_shards(2);
    let mut ann = daemon.client_with("client_id=ann&join=lab:a");
    let long = "x".repeat(5_000);
    for (payload, code, error, field) in [
        (json!({}), 400, "MISSING_FIELD", "payload.command"),
        (json!({"command": null}), 400, "MISSING_FIELD", "payload.command"),
        (json!({"command": 7}), 400, "WRONG_TYPE", "payload.command"),
        (json!({"command": "STATUS"}), 400, "UNKNOWN_COMMAND", "payload.command"),
        (json!({"command": "shutdown"}), 400, "UNKNOWN_COMMAND", "payload.command"),
        (json!({"command": &long}), 400, "UNKNOWN_COMMAND", "payload.command"),
        (json!({"command": "ping", "parameters": []}), 400, "WRONG_TYPE", "payload.parameters"),
        (json!({"command": "ping", "parameters": {"x": 1}}), 400, "BAD_PARAMETER", "parameters.x"),
        (json!({"command": "ping", "extra": 1}), 400, "BAD_PARAMETER", "payload.extra"),
        (
            json!({"command": "ping", "response_format": "xml"}),
            400,
            "BAD_PARAMETER",
            "payload.response_format",
        ),
    ] {
        let command = ann.envelope("command", "*:*", payload.clone());
        let id = ann.send(&command);
        let refused = crate::common::Refused::of(&ann.reply(&id));
        assert_eq!(refused.what(), (code, error), "{payload}");
        assert_eq!(refused.field.as_deref(), Some(field), "{payload}");
        assert!(refused.message.len() < 400);
    }
    for (name, parameters, error, field) in [
        ("join_channel", json!({}), "BAD_PARAMETER", "parameters.room"),
        ("join_channel", json!({"room": "lab"}), "BAD_PARAMETER", "parameters.channel"),
        ("join_channel", json!({"channel": "a b:c"}), "BAD_NAME", "parameters.room"),
        ("join_channel", json!({"channel": "a:b:c"}), "BAD_NAME", "parameters.channel"),
        (
            "join_channel",
            json!({"room": "x", "channel": "y:z"}),
            "BAD_PARAMETER",
            "parameters.room",
        ),
        (
            "join_channel",
            json!({"channel": "lab:a", "echo": "yes"}),
            "BAD_PARAMETER",
            "parameters.echo",
        ),
        (
            "join_channel",
            json!({"channel": "lab:a", "recover": {}}),
            "BAD_PARAMETER",
            "parameters.recover.epoch",
        ),
        (
            "join_channel",
            json!({"channel": "lab:*", "recover": {"epoch": "x", "sequence": 0}}),
            "BAD_PARAMETER",
            "parameters.recover",
        ),
        ("history", json!({"channel": "lab:a", "limit": 0}), "BAD_PARAMETER", "parameters.limit"),
        (
            "history",
            json!({"channel": "lab:a", "limit": 1001}),
            "BAD_PARAMETER",
            "parameters.limit",
        ),
        ("history", json!({"channel": "lab:a", "limit": -1}), "BAD_PARAMETER", "parameters.limit"),
        (
            "history",
            json!({"channel": "lab:a", "since": "now"}),
            "BAD_PARAMETER",
            "parameters.since",
        ),
        (
            "history",
            json!({"channel": "lab:a", "order": "up"}),
            "BAD_PARAMETER",
            "parameters.order",
        ),
        (
            "create_channel",
            json!({"channel": "lab:x", "type": "system"}),
            "BAD_PARAMETER",
            "parameters.type",
        ),
        ("create_channel", json!({"channel": "lab:*"}), "BAD_NAME", "parameters.channel"),
        (
            "create_channel",
            json!({"channel": "lab:x", "metadata": {"m": "x".repeat(17_000)}}),
            "BAD_PARAMETER",
            "parameters.metadata",
        ),
        (
            "create_room",
            json!({"room": "x", "config": {"colour": 1}}),
            "BAD_PARAMETER",
            "parameters.config.colour",
        ),
        (
            "create_room",
            json!({"room": "x", "config": {"publishers": "all"}}),
            "BAD_PARAMETER",
            "parameters.config.publishers",
        ),
        ("delete_room", json!({"room": "*"}), "BAD_NAME", "parameters.room"),
        ("announce", json!({"message": ""}), "BAD_PARAMETER", "parameters.message"),
        ("announce", json!({"message": "x".repeat(5_000)}), "BAD_PARAMETER", "parameters.message"),
        (
            "disconnect_client",
            json!({"client_id": "a", "reason": "x".repeat(124)}),
            "BAD_PARAMETER",
            "parameters.reason",
        ),
    ] {
        let refused = ann.refused(name, parameters.clone());
        assert_eq!(refused.what(), (400, error), "{name} {parameters}: {refused:?}");
        assert_eq!(refused.field.as_deref(), Some(field), "{name} {parameters}: {refused:?}");
    }
    ann.assert_quiet();
}

#[test]
fn the_target_is_the_parameters_or_the_envelopes() {
    let daemon = Daemon::with_shards(2);
    let mut ann = daemon.client("ann");
    let info = |ann: &mut Client, address: &str, parameters: Value| {
        let payload = json!({"command": "channel_info", "parameters": parameters});
        let command = ann.envelope("command", address, payload);
        let id = ann.send(&command);
        let reply = ann.reply(&id);
        match reply["status"] == "success" {
            true => json!([reply["result"]["room"], reply["result"]["name"]]),
            false => reply["error"].clone(),
        }
    };
    let both = json!(["science", "explore"]);
    for (address, parameters) in [
        ("*:*", json!({"room": "science", "channel": "explore"})),
        ("*:*", json!({"channel": "science:explore"})),
        ("*:*", json!({"room": "science:explore"})),
        ("science:explore", json!({})),
        ("science:general", json!({"channel": "explore"})),
        ("integriguard:x", json!({"channel": "science:explore"})),
        ("science:explore", json!({"room": "science"})),
    ] {
        assert_eq!(info(&mut ann, address, parameters.clone()), both, "{address} {parameters}");
    }
    assert_eq!(info(&mut ann, "science:*", json!({})), "BAD_PARAMETER");
    assert_eq!(info(&mut ann, "science:none", json!({})), "CHANNEL_NOT_FOUND");
    assert_eq!(info(&mut ann, "none:none", json!({})), "ROOM_NOT_FOUND");
}

fn status_counts_the_whole_bus(daemon: Daemon) {
    let mut clients: Vec<Client> =
        (0..7).map(|n| daemon.client_with(&format!("client_id=c{n}&join=lab{n}:a"))).collect();
    let mut ann = clients.pop().unwrap();
    for _ in 0..5 {
        ann.publish_acked("lab6:a", json!({}));
    }
    let status = ann.command("status", json!({}));
    assert_eq!((&status["server"], &status["storage"]), (&json!("arqonbus"), &json!("memory")));
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert!(status["uptime_s"].is_u64() && status["node"].is_string());
    assert_eq!(status["shards"], daemon.get("/status").json()["shards"]);
    assert_eq!(status["clients"], 7);
    assert_eq!(status["rooms"], 9, "science, integriguard and seven more");
    assert_eq!(status["channels"], 7 + 2 + 7);
    assert!(status["messages_in"].as_u64().unwrap() >= 5);
    assert!(status["messages_out"].as_u64().unwrap() >= 12);
    assert!(status.get("unanswered_shards").is_none());
    let pong = ann.command("ping", json!({}));
    assert_eq!(pong["pong"], true);
    assert!(pong["time"].as_str().unwrap().ends_with('Z'));
    drop(clients);
    eventually("the clients and their rooms to be counted out", || {
        let status = ann.command("status", json!({}));
        (status["clients"] == 1).then_some(())
    });
}

#[test]
fn the_rooms_that_are_there_from_the_start() {
    let daemon = Daemon::with_shards(4);
    let mut ann = daemon.client("ann");
    let list = ann.command("list_rooms", json!({}));
    assert_eq!((&list["count"], &list["more"]), (&json!(2), &json!(false)));
    let names = brief(&mut ann, "list_rooms", json!({}));
    assert_eq!(names["rooms"], json!(["integriguard", "science"]));
    let science = find(&list["rooms"], "science");
    assert_eq!((&science["type"], &science["state"]), (&json!("system"), &json!("active")));
    assert_eq!(
        science["channels"],
        json!(["design", "execute", "explore", "general", "hypothesize", "interpret", "share"])
    );
    for key in ["created_at", "created_by", "config", "participant_count"] {
        assert!(keys(science).contains(&key), "{science}");
    }
    let guard = ann.command("list_channels", json!({"room": "integriguard"}));
    assert_eq!(guard["count"], 2);
    for channel in guard["channels"].as_array().unwrap() {
        assert_eq!((&channel["type"], &channel["hardcoded"]), (&json!("system"), &json!(true)));
    }
    // None of them can go or be paused.
    for room in ["science", "integriguard"] {
        for command in ["delete_room", "pause_room"] {
            let refused = ann.refused(command, json!({"room": room}));
            assert_eq!(refused.what(), (409, "ROOM_PROTECTED"), "{command} {room}");
        }
    }
    let refused = ann.refused("delete_channel", json!({"channel": "science:general"}));
    assert_eq!(refused.what(), (409, "CHANNEL_PROTECTED"));
    for room in ["arqon", "arqonaut", "integriguard"] {
        let refused = ann.refused("create_room", json!({"room": room}));
        assert_eq!(refused.code, 409, "{room}: {refused:?}");
    }
    assert_eq!(
        ann.refused("join_channel", json!({"channel": "arqonx:a"})).what(),
        (409, "ROOM_PROTECTED")
    );
    assert_eq!(
        ann.refused("create_channel", json!({"channel": "arqonx:a"})).what(),
        (409, "ROOM_PROTECTED")
    );

    let bare = Daemon::start(&["--bootstrap", "false"]);
    let rooms = brief(&mut bare.client("ann"), "list_rooms", json!({}));
    assert_eq!(rooms["rooms"], json!(["integriguard"]));
}

fn rooms_and_channels_are_made_shown_and_deleted(daemon: Daemon) {
    let mut ann = daemon.client_with("client_id=ann&screen_name=Ann&client_type=service");
    let config = json!({"history_size": 3, "member_limit": 2, "create_on_join": false,
                        "publishers": ["ann", "bob"]});
    let room = ann.command("create_room", json!({"room": "lab", "config": config}));
    assert_eq!((&room["name"], &room["type"]), (&json!("lab"), &json!("user")));
    assert_eq!((&room["created_by"], &room["config"]), (&json!("ann"), &config));
    assert_eq!((&room["channels"], &room["participant_count"]), (&json!([]), &json!(0)));
    assert_eq!(ann.refused("create_room", json!({"room": "lab"})).what(), (409, "ROOM_EXISTS"));
    assert_eq!(find(&ann.command("list_rooms", json!({}))["rooms"], "lab"), &room);

    let refused = ann.refused("join_channel", json!({"channel": "lab:a"}));
    assert_eq!(refused.what(), (404, "CHANNEL_NOT_FOUND"), "joins make no channels here");
    let metadata = json!({"topic": "x", "members": ["bob"]});
    let made = ann.command("create_channel", json!({"channel": "lab:a", "metadata": metadata}));
    assert_eq!(
        (&made["room"], &made["name"], &made["type"]),
        (&json!("lab"), &json!("a"), &json!("general"))
    );
    assert_eq!((&made["hardcoded"], &made["auto_created"]), (&json!(false), &json!(false)));
    assert_eq!((&made["metadata"], &made["created_by"]), (&metadata, &json!("ann")));
    assert_eq!((&made["state"], &made["participants"]), (&json!("empty"), &json!([])));
    assert_eq!(
        (&made["history"]["size"], &made["history"]["last_sequence"]),
        (&json!(3), &Value::Null)
    );
    assert_eq!(
        ann.refused("create_channel", json!({"channel": "lab:a"})).what(),
        (409, "CHANNEL_EXISTS")
    );

    ann.join("lab:a");
    for _ in 0..5 {
        ann.publish_acked("lab:a", json!({}));
    }
    let info = ann.command("channel_info", json!({"channel": "lab:a"}));
    assert_eq!(info["state"], "active");
    assert_eq!(
        info["participants"],
        json!([{"client_id": "ann", "client_type": "service", "screen_name": "Ann"}])
    );
    assert_eq!(
        (&info["history"]["first_sequence"], &info["history"]["last_sequence"]),
        (&json!(3), &json!(5))
    );
    assert_eq!(
        brief(&mut ann, "channel_info", json!({"channel": "lab:a"}))["participants"],
        json!([])
    );
    let line = &ann.command("list_channels", json!({"room": "lab"}))["channels"][0];
    assert_eq!(
        (&line["name"], &line["participants"], &line["type"]),
        (&json!("a"), &json!(1), &json!("general"))
    );
    assert!(line["created_at"].is_string());
    assert_eq!(brief(&mut ann, "list_channels", json!({"room": "lab"}))["channels"], json!(["a"]));
    assert_eq!(
        ann.refused("list_channels", json!({"room": "none"})).what(),
        (404, "ROOM_NOT_FOUND")
    );

    // Nothing goes that is in use.
    assert_eq!(
        ann.refused("delete_channel", json!({"channel": "lab:a"})).what(),
        (409, "CHANNEL_NOT_EMPTY")
    );
    assert_eq!(ann.refused("delete_room", json!({"room": "lab"})).what(), (409, "ROOM_NOT_EMPTY"));
    ann.leave("lab:a");
    assert_eq!(ann.refused("delete_room", json!({"room": "lab"})).what(), (409, "ROOM_NOT_EMPTY"));
    let deleted = ann.command("delete_channel", json!({"channel": "lab:a"}));
    assert_eq!(deleted, json!({"deleted": true, "room": "lab", "channel": "a"}));
    assert_eq!(
        ann.refused("delete_channel", json!({"channel": "lab:a"})).what(),
        (404, "CHANNEL_NOT_FOUND")
    );
    assert_eq!(
        ann.command("delete_room", json!({"room": "lab"})),
        json!({"deleted": true, "room": "lab"})
    );
    assert_eq!(ann.refused("delete_room", json!({"room": "lab"})).what(), (404, "ROOM_NOT_FOUND"));
    // A channel makes its room if need be.
    ann.command("create_channel", json!({"channel": "new:private", "type": "private"}));
    let rooms = ann.command("list_rooms", json!({}));
    assert_eq!(find(&rooms["rooms"], "new")["type"], "user");
    ann.assert_quiet();
}

fn joins_and_leaves_are_answered_in_full(daemon: Daemon) {
    let mut ann = daemon.client("ann");
    let mut bob = daemon.client("bob");
    let view = ann.join("lab:a");
    assert_eq!(
        (&view["room"], &view["channel"], &view["created"]),
        (&json!("lab"), &json!("a"), &json!(true))
    );
    assert_eq!((&view["sequence"], &view["participants"]), (&json!(0), &json!(1)));
    assert_eq!((&view["recovered"], &view["missed"]), (&json!(false), &json!(0)));
    ann.publish_acked("lab:a", json!({}));
    let later = bob.join("lab:a");
    assert_eq!(
        (&later["created"], &later["sequence"], &later["participants"]),
        (&json!(false), &json!(1), &json!(2))
    );
    assert_eq!(later["epoch"], view["epoch"]);
    assert_eq!(bob.leave("lab:a"), json!({"left": true, "room": "lab", "channel": "a"}));
    let refused = bob.refused("leave_channel", json!({"channel": "lab:a"}));
    assert_eq!(refused.what(), (403, "NOT_JOINED"));
    assert_eq!(bob.refused("history", json!({"channel": "lab:a"})).what(), (403, "NOT_JOINED"));
    let rooms = ann.command("list_rooms", json!({}));
    let lab = find(&rooms["rooms"], "lab");
    assert_eq!((&lab["type"], &lab["participant_count"]), (&json!("dynamic"), &json!(1)));
    let line = &ann.command("list_channels", json!({"room": "lab"}))["channels"][0];
    assert_eq!(line["auto_created"], true);
}

#[test]
fn empty_channels_go_in_time_and_take_their_history() {
    let daemon = Daemon::start(&["--shards", "2", "--empty-channel-ttl-ms", "50"]);
    let mut ann = daemon.client("ann");
    let first = ann.join("lab:a");
    ann.publish_acked("lab:a", json!({}));
    ann.command("create_channel", json!({"channel": "kept:a"}));
    ann.join("kept:a");
    ann.leave("kept:a");
    ann.leave("lab:a");
    eventually("the room and its channel to go", || {
        let rooms = brief(&mut ann, "list_rooms", json!({}));
        (rooms["rooms"] == json!(["integriguard", "kept", "science"])).then_some(())
    });
    let again = ann.join("lab:a");
    assert_eq!((&again["created"], &again["sequence"]), (&json!(true), &json!(0)));
    assert_ne!(again["epoch"], first["epoch"], "a new life");
    assert_eq!(ann.command("history", json!({"channel": "lab:a"}))["messages"], json!([]));
}

fn announcements_reach_whom_they_are_for(daemon: Daemon) {
    let mut ann = daemon.client("ann");
    let mut inside: Vec<Client> =
        (0..4).map(|n| daemon.client_with(&format!("client_id=i{n}&join=lab:{n},lab:*"))).collect();
    let mut outside = daemon.client_with("client_id=out&join=science:general");
    let result = ann.command("announce", json!({"message": "to all \u{1f600}"}));
    assert_eq!(result["clients"], 6);
    for client in inside.iter_mut().chain([&mut outside, &mut ann]) {
        let notice = client.notice("announcement");
        assert_eq!(
            (&notice["payload"]["message"], &notice["payload"]["by"]),
            (&json!("to all \u{1f600}"), &json!("ann"))
        );
        assert_eq!((&notice["room"], &notice["channel"]), (&json!("*"), &json!("*")));
    }
    let result = ann.command("announce", json!({"message": "to a room", "room": "lab"}));
    assert_eq!(result["clients"], 4);
    for client in &mut inside {
        let notice = client.notice("announcement");
        assert_eq!(
            (&notice["payload"]["message"], &notice["room"]),
            (&json!("to a room"), &json!("lab"))
        );
        client.assert_quiet();
    }
    assert_eq!(
        ann.refused("announce", json!({"message": "x", "room": "none"})).what(),
        (404, "ROOM_NOT_FOUND")
    );
    outside.assert_quiet();
    ann.assert_quiet();
}

fn clients_are_listed_and_sent_away(daemon: Daemon) {
    let mut ann = daemon.client("ann");
    let mut bob = daemon.client_with("client_id=bob&client_type=dashboard&join=lab:a");
    bob.join("lab:*");
    let list = ann.command("list_clients", json!({}));
    assert_eq!((&list["count"], &list["more"]), (&json!(2), &json!(false)));
    let view = find(&list["clients"], "bob");
    assert_eq!(
        (&view["client_type"], &view["role"], &view["state"]),
        (&json!("dashboard"), &json!("admin"), &json!("active"))
    );
    assert_eq!(view["subscriptions"], json!(["lab:*", "lab:a"]));
    for key in ["connected_at", "last_activity", "screen_name", "avatar", "personality", "shard"] {
        assert!(keys(view).contains(&key), "{view}");
    }
    assert!(view["last_activity"].as_str() >= view["connected_at"].as_str());
    assert_eq!(brief(&mut ann, "list_clients", json!({}))["clients"], json!(["ann", "bob"]));
    let refused = ann.refused("disconnect_client", json!({"client_id": "zoe"}));
    assert_eq!(refused.what(), (404, "CLIENT_NOT_FOUND"));
    let result =
        ann.command("disconnect_client", json!({"client_id": "bob", "reason": "enough, bob"}));
    assert_eq!(result, json!({"disconnected": true, "client_id": "bob"}));
    assert_eq!(bob.await_close(), (4013, "enough, bob".to_owned()));
    eventually("bob to be gone", || {
        (brief(&mut ann, "list_clients", json!({}))["clients"] == json!(["ann"])).then_some(())
    });
    // Oneself, without a word.
    ann.command("disconnect_client", json!({"client_id": "ann"}));
    let (code, reason) = ann.await_close();
    assert!(code == 4013 && !reason.is_empty(), "{code} {reason}");
}

fn the_limit_of_rooms_is_the_nodes(daemon: Daemon) {
    let shards = daemon.get("/status").json()["shards"].to_string();
    drop(daemon);
    let daemon = Daemon::start(&["--shards", &shards, "--max-rooms", "5"]);
    let mut ann = daemon.client("ann");
    for n in 0..3 {
        ann.join(&format!("r{n}:a"));
    }
    assert_eq!(ann.refused("join_channel", json!({"channel": "r3:a"})).what(), (429, "ROOM_LIMIT"));
    assert_eq!(ann.refused("create_room", json!({"room": "r4"})).what(), (429, "ROOM_LIMIT"));
    assert_eq!(
        ann.refused("create_channel", json!({"channel": "r5:a"})).what(),
        (429, "ROOM_LIMIT")
    );
    ann.join("r1:b");
    ann.leave("r2:a");
    ann.command("delete_channel", json!({"channel": "r2:a"}));
    ann.command("create_room", json!({"room": "r4"}));
}

#[test]
fn every_other_limit_has_its_code() {
    let daemon = Daemon::start(&[
        "--shards",
        "2",
        "--max-channels-per-room",
        "8",
        "--max-members-per-channel",
        "2",
        "--max-joins-per-client",
        "3",
    ]);
    let mut ann = daemon.client("ann");
    for n in 0..8 {
        ann.command("create_channel", json!({"channel": format!("lab:c{n}")}));
    }
    assert_eq!(
        ann.refused("create_channel", json!({"channel": "lab:c8"})).what(),
        (429, "CHANNEL_LIMIT")
    );
    assert_eq!(
        ann.refused("join_channel", json!({"channel": "lab:c8"})).what(),
        (429, "CHANNEL_LIMIT")
    );
    for n in 0..3 {
        ann.join(&format!("lab:c{n}"));
    }
    assert_eq!(
        ann.refused("join_channel", json!({"channel": "lab:c3"})).what(),
        (429, "JOIN_LIMIT")
    );
    ann.join("lab:c2");
    assert_eq!(
        ann.refused("join_channel", json!({"channel": "lab:*"})).what(),
        (429, "JOIN_LIMIT")
    );
    ann.leave("lab:c2");
    ann.join("lab:*");
    let mut bob = daemon.client_with("client_id=bob&join=lab:c0");
    let mut eve = daemon.client("eve");
    assert_eq!(
        eve.refused("join_channel", json!({"channel": "lab:c0"})).what(),
        (429, "MEMBER_LIMIT")
    );
    bob.leave("lab:c0");
    eve.join("lab:c0");
    // A room's own limit.
    ann.command("create_room", json!({"room": "small", "config": {"member_limit": 1}}));
    eve.join("small:a");
    eve.join("small:b");
    assert_eq!(
        bob.refused("join_channel", json!({"channel": "small:c"})).what(),
        (429, "MEMBER_LIMIT")
    );
    assert_eq!(
        bob.refused("join_channel", json!({"channel": "small:*"})).what(),
        (429, "MEMBER_LIMIT")
    );
    // At connect a refused join is no reason not to be let in, and the first ones wished for win.
    let carl = daemon.client_with("join=lab:c0,lab:c1,lab:c2,lab:c3,lab:c4");
    let names = |list: &Value| -> Vec<String> {
        let list = list.as_array().unwrap().iter();
        list.map(|one| format!("{} {}", one["channel"], one["error"])).collect()
    };
    let joined = names(&carl.welcome["joined"]);
    assert_eq!(joined, [r#""c1" null"#, r#""c2" null"#], "{}", carl.welcome);
    assert_eq!(
        names(&carl.welcome["refused"]),
        [r#""c3" "JOIN_LIMIT""#, r#""c4" "JOIN_LIMIT""#, r#""c0" "MEMBER_LIMIT""#]
    );
}

#[test]
fn joins_make_channels_unless_configured_off() {
    let daemon = Daemon::start(&["--shards", "2", "--create-on-join", "false"]);
    let mut ann = daemon.client("ann");
    assert_eq!(
        ann.refused("join_channel", json!({"channel": "lab:a"})).what(),
        (404, "ROOM_NOT_FOUND")
    );
    assert_eq!(
        ann.refused("join_channel", json!({"channel": "science:x"})).what(),
        (404, "CHANNEL_NOT_FOUND")
    );
    ann.join("science:general");
    ann.command("create_room", json!({"room": "open", "config": {"create_on_join": true}}));
    assert_eq!(ann.join("open:a")["created"], true);
}

#[test]
fn whoever_says_too_much_is_slowed_down() {
    let daemon = Daemon::start(&["--shards", "2", "--rate-messages", "20", "--rate-commands", "3"]);
    let mut bob = daemon.client_with("client_id=bob&join=science:general");
    let mut ann = daemon.client_with("client_id=ann&join=science:general");
    assert_eq!(
        (&ann.welcome["limits"]["rate_messages"], &ann.welcome["limits"]["rate_commands"]),
        (&json!(20), &json!(3))
    );
    let ids: Vec<String> = (0..60)
        .map(|n| ann.publish_with("science:general", json!({"n": n}), json!({"ack": true})))
        .collect();
    let replies: Vec<Value> = ids.iter().map(|id| ann.reply(id)).collect();
    let refused: Vec<_> = replies.iter().filter(|reply| reply["status"] == "error").collect();
    assert!(!refused.is_empty() && refused.len() < 60, "{} of 60", refused.len());
    for reply in &refused {
        assert_eq!((&reply["code"], &reply["error"]), (&json!(429), &json!("RATE_LIMITED")));
    }
    // Exactly what was accepted arrives, in order; the rest can be sent again, with the same id.
    let accepted: Vec<_> = (0..60).filter(|&n| replies[n]["status"] == "success").collect();
    let heard: Vec<_> = bob
        .events(accepted.len())
        .iter()
        .map(|e| e["payload"]["n"].as_u64().unwrap() as usize)
        .collect();
    assert_eq!(heard, accepted);
    let again = refused[0]["request_id"].as_str().unwrap().to_owned();
    eventually("the rate to allow one more", || {
        let mut event = ann.envelope("event", "science:general", json!({"again": true}));
        event["id"] = again.as_str().into();
        event["metadata"] = json!({"ack": true});
        ann.send(&event);
        (ann.reply(&again)["status"] == "success").then_some(())
    });
    assert_eq!(bob.event()["payload"]["again"], true);
    // Commands have a limit of their own; pings are free of it.
    let outcomes: Vec<_> = (0..6).map(|_| bob.ask("list_rooms", json!({}))).collect();
    assert!(outcomes.iter().any(Result::is_ok));
    let limited = outcomes.into_iter().find_map(Result::err).expect("one of six was too many");
    assert_eq!(limited.what(), (429, "RATE_LIMITED"));
    bob.command("ping", json!({}));
}

#[test]
fn channels_that_stand_empty_make_room_for_new_ones() {
    // A home makes room by what stands empty at it.
    let daemon = Daemon::start(&["--shards", "1", "--max-channels", "40", "--rate-commands", "0"]);
    let mut ann = daemon.client("ann");
    for n in 0..500 {
        let address = format!("room{}:c{n}", n % 7);
        ann.join(&address);
        ann.leave(&address);
    }
    let mut bob = daemon.client("bob");
    bob.join("bobs:own");
    let held: usize = (0..200)
        .take_while(|n| bob.ask("join_channel", json!({"channel": format!("more:c{n}")})).is_ok())
        .count();
    assert!((10..40).contains(&held), "{held} more channels");
    let refused = bob.refused("join_channel", json!({"channel": "yet:another"}));
    assert_eq!(refused.what(), (429, "NODE_CHANNEL_LIMIT"));
    bob.publish_acked("bobs:own", json!({}));
    bob.leave("more:c0");
    bob.join("yet:another");
}
