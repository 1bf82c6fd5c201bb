//! What each command takes; and that the table, `help` and the readers agree.

use super::super::{help, help_brief};
use super::*;
use serde_json::{Value as Tree, json};

/// Parses with an envelope that names nothing.
fn parse_bare(payload: &Tree) -> Result<Request, Refusal> {
    parse(&payload.to_string(), EVERY_CHANNEL, EVERY_CHANNEL)
}

fn command(name: &str, parameters: Tree) -> Result<Command, Refusal> {
    parse_bare(&json!({"command": name, "parameters": parameters})).map(|request| request.command)
}

fn refusal(name: &str, parameters: Tree) -> Refusal {
    let refusal = command(name, parameters.clone()).expect_err(&format!("{name} {parameters}"));
    assert!(!refusal.message.is_empty() && refusal.message.len() < 600, "{refusal:?}");
    refusal
}

/// Every parameter of every command, well used.
fn full_use(name: &str) -> Tree {
    let place = json!({"room": "science", "channel": "general"});
    match name {
        "status" | "ping" | "help" => json!({}),
        "list_rooms" => json!({"limit": 1, "cursor": cursor(List::Rooms)}),
        "list_clients" => json!({"limit": 1000, "cursor": cursor(List::Clients)}),
        "channel_info" => {
            let cursor = cursor(List::Participants("science", "general"));
            json!({"room": "science", "channel": "general", "limit": 1, "cursor": cursor})
        }
        "list_channels" => {
            json!({"room": "science", "limit": 7, "cursor": cursor(List::Channels("science"))})
        }
        "identify" => json!({"client_id": "alice", "client_type": "service", "screen_name": "A",
            "avatar": "a", "personality": "p", "join": ["a:b", "a:*"], "token": "t"}),
        "join_channel" => json!({"room": "science", "channel": "general", "echo": true,
            "presence": true, "recover": {"epoch": "e", "sequence": 0}}),
        "leave_channel" | "delete_channel" => place,
        "delete_room" | "pause_room" | "resume_room" => {
            json!({"room": "science"})
        }
        "history" => json!({"room": "science", "channel": "general", "limit": 1000,
            "since": "2025-11-30T12:00:00Z", "until": "2025-11-30T13:00:00+01:00", "after": 0,
            "before": 9, "order": "desc"}),
        "create_channel" => json!({"room": "science", "channel": "general", "type": "private",
            "metadata": {"members": ["bob", "al", "bob"], "topic": {"a": 1}}}),
        "create_room" => json!({"room": "science", "config": {"history_size": 1, "member_limit": 2,
            "create_on_join": false, "publishers": ["bob"]}}),
        "announce" => json!({"message": "hi", "room": "science"}),
        "disconnect_client" => json!({"client_id": "bob", "reason": "enough"}),
        other => panic!("{other} has no example"),
    }
}

fn cursor(list: List<'_>) -> String {
    Cursor::Name(Name::fixed("x")).text(list)
}

#[test]
fn a_cursor_is_one_that_was_given_for_the_list() {
    let page = |cursor: &str| match command("list_channels", json!({"room": "b", "cursor": cursor}))
    {
        Ok(Command::ListChannels { page, .. }) => Ok(page.cursor),
        Ok(other) => panic!("{other:?}"),
        Err(refusal) => Err((refusal.fault, refusal.field)),
    };
    let own = cursor(List::Channels("b"));
    assert_eq!(page(&own), Ok(Some(Cursor::Name(Name::fixed("x")))));
    let forged = [cursor(List::Channels("a")), cursor(List::Rooms), "x".into(), String::new()];
    for forged in forged {
        let refused = Err((Fault::BadParameter, Some("parameters.cursor".into())));
        assert_eq!(page(&forged), refused, "{forged}");
    }
    for limit in [json!(0), json!(1_001), json!(1.5)] {
        let refusal = refusal("list_rooms", json!({"limit": limit}));
        assert_eq!(refusal.field.as_deref(), Some("parameters.limit"));
    }
    // Whose answer may be long counts as more commands than one.
    let cost = |name, parameters| command(name, parameters).unwrap().cost();
    let place = |channel: &str| json!({"room": "a", "channel": channel});
    assert_eq!((cost("ping", json!({})), cost("list_rooms", json!({}))), (0, 5));
    let join = "join_channel";
    assert_eq!((cost(join, place("c")), cost(join, place("*"))), (1, 5));
}

#[test]
fn a_refused_command_keeps_its_name() {
    for (payload, name) in [
        (json!({"command": "ping", "parameters": {"x": 1}}), Some("ping")),
        (json!({"command": "history", "more": 1}), Some("history")),
        (json!({"command": "pong"}), None),
        (json!({"command": 7}), None),
        (json!({}), None),
    ] {
        assert!(parse_bare(&payload).is_err(), "{payload}");
        assert_eq!(known_name(&payload.to_string()), name, "{payload}");
    }
}

#[test]
fn the_table_and_the_readers_agree() {
    for spec in table::COMMANDS {
        let all = full_use(spec.name);
        let read = command(spec.name, all.clone()).unwrap();
        assert_eq!(read.name(), spec.name);
        assert_eq!(read.requires_admin(), spec.requires_admin);
        assert!(read.cost() >= spec.cost && (read.cost() > 0) == spec.rate_limited);
        assert!(!spec.description.is_empty());
        let mut given: Vec<_> = all.as_object().unwrap().keys().map(String::as_str).collect();
        let mut known: Vec<_> = spec.parameters.iter().map(|parameter| parameter.name).collect();
        given.sort_unstable();
        known.sort_unstable();
        assert_eq!(given, known, "the example of {} uses every parameter", spec.name);
        for parameter in spec.parameters {
            let path = format!("parameters.{}", parameter.name);
            assert!(!parameter.description.is_empty());
            let mut without = all.clone();
            without.as_object_mut().unwrap().remove(parameter.name);
            match command(spec.name, without) {
                Ok(_) => assert!(!parameter.required, "{} needs {path}", spec.name),
                Err(refusal) => {
                    assert!(parameter.required, "{} can do without {path}", spec.name);
                    assert_eq!(refusal.field.as_deref(), Some(&*path));
                }
            }
            let mut null = all.clone();
            null[parameter.name] = json!(null);
            match command(spec.name, null) {
                Ok(_) => assert!(!parameter.required, "{} needs {path}", spec.name),
                Err(refusal) => assert!(parameter.required, "null is left out: {refusal:?}"),
            }
            for wrong in [json!({"a": {}}), json!(-1.5)] {
                if parameter.kind == table::ParameterType::Object && wrong.is_object() {
                    continue;
                }
                let mut bad = all.clone();
                bad[parameter.name] = wrong;
                let refusal = refusal(spec.name, bad);
                assert_eq!(refusal.fault, Fault::BadParameter);
                assert_eq!(refusal.field.as_deref(), Some(&*path));
            }
        }
        let mut more = all;
        more["no_such"] = json!(1);
        let refusal = refusal(spec.name, more);
        assert_eq!(refusal.fault, Fault::BadParameter);
        assert_eq!(refusal.field.as_deref(), Some("parameters.no_such"));
    }
}

#[test]
fn help_shows_the_table() {
    let full = serde_json::to_value(help()).unwrap();
    let brief = serde_json::to_value(help_brief()).unwrap();
    let (full, brief) = (full.as_array().unwrap(), brief.as_array().unwrap());
    assert_eq!((full.len(), brief.len()), (19, 19));
    for (entry, name) in full.iter().zip(brief) {
        assert_eq!(&entry["name"], name);
        assert!(
            parse_bare(&json!({"command": name, "parameters": full_use(name.as_str().unwrap())}))
                .is_ok()
        );
    }
    let join = full.iter().find(|entry| entry["name"] == "join_channel").unwrap();
    assert_eq!(join["requires_admin"], false);
    assert_eq!(join["scope"], "channel");
    assert_eq!(join["rate_limited"], true);
    assert_eq!(join["parameters"][1]["name"], "channel");
    assert_eq!(join["parameters"][1]["type"], "string");
    assert_eq!(join["parameters"][1]["required"], true);
    assert!(join["description"].is_string() && join.get("read").is_none());
    let admins = full.iter().filter(|entry| entry["requires_admin"] == true).count();
    assert_eq!(admins, 9);
}

#[test]
fn the_payload_is_read_strictly() {
    for (payload, brief) in [
        (json!({"command": "ping"}), false),
        (json!({"command": "ping", "parameters": {}}), false),
        (json!({"command": "ping", "response_format": "full"}), false),
        (json!({"command": "ping", "response_format": "brief"}), true),
        (json!({"command": "ping", "response_format": null, "parameters": null}), false),
    ] {
        assert_eq!(parse_bare(&payload).unwrap().brief, brief, "{payload}");
    }
    for (payload, fault, field) in [
        (json!({}), Fault::MissingField, "payload.command"),
        (json!({"command": null}), Fault::MissingField, "payload.command"),
        (json!({"command": 1}), Fault::WrongType, "payload.command"),
        (json!({"command": "pong"}), Fault::UnknownCommand, "payload.command"),
        (json!({"command": "ping", "parameters": []}), Fault::WrongType, "payload.parameters"),
        (json!({"command": "ping", "params": {}}), Fault::BadParameter, "payload.params"),
        (
            json!({"command": "ping", "response_format": "short"}),
            Fault::BadParameter,
            "payload.response_format",
        ),
    ] {
        let refusal = parse_bare(&payload).expect_err(&payload.to_string());
        assert_eq!((refusal.fault, refusal.field.as_deref()), (fault, Some(field)), "{payload}");
    }
    assert_eq!(parse("{", "a", "b").unwrap_err().fault, Fault::InvalidJson);
}

#[test]
fn near_misses_get_a_suggestion() {
    for (name, suggestion) in [
        ("pong", Some("ping")),
        ("joinchannel", Some("join_channel")),
        ("list_channel", Some("list_channels")),
        ("Status", Some("status")),
        ("", None),
        ("frobnicate", None),
    ] {
        let message = refusal(name, json!({})).message;
        match suggestion {
            Some(nearest) => {
                assert!(message.contains(&format!("did you mean {nearest}?")), "{message}")
            }
            None => assert!(message.contains("send help"), "{message}"),
        }
    }
    refusal(&"x".repeat(1_000_000), json!({}));
}

#[test]
fn rooms_and_channels_come_from_parameters_or_the_envelope() {
    let address = |parameters: Tree, room: &str, channel: &str| {
        let payload = json!({"command": "leave_channel", "parameters": parameters}).to_string();
        parse(&payload, room, channel).map(|request| match request.command {
            Command::LeaveChannel(address) => address.to_string(),
            other => panic!("{other:?}"),
        })
    };
    for (parameters, room, channel, expected) in [
        (json!({}), "a", "b", "a:b"),
        (json!({}), "a", "*", "a:*"),
        (json!({"room": "c"}), "a", "b", "c:b"),
        (json!({"channel": "d"}), "a", "b", "a:d"),
        (json!({"channel": "d"}), "a", "*", "a:d"),
        (json!({"room": "c", "channel": "d"}), "a", "b", "c:d"),
        (json!({"room": "c", "channel": "d"}), "*", "*", "c:d"),
        (json!({"room": "c", "channel": "*"}), "*", "x", "c:*"),
        (json!({"room": "a"}), "a", "*", "a:*"),
        (json!({"room": "c:d"}), "a", "b", "c:d"),
        (json!({"channel": "c:d"}), "*", "*", "c:d"),
        (json!({"channel": "c:*"}), "a", "b", "c:*"),
        (json!({"room": "c", "channel": "c:d"}), "*", "*", "c:d"),
        (json!({"room": "c:d", "channel": "d"}), "*", "*", "c:d"),
        (json!({"room": "c:d", "channel": "c:d"}), "*", "*", "c:d"),
    ] {
        assert_eq!(
            address(parameters.clone(), room, channel).as_deref(),
            Ok(expected),
            "{parameters}"
        );
    }
    for (parameters, room, channel, fault, field) in [
        (json!({}), "*", "*", Fault::BadParameter, "room"),
        (json!({"channel": "d"}), "*", "b", Fault::BadParameter, "room"),
        (json!({"room": "c"}), "*", "*", Fault::BadParameter, "channel"),
        (json!({"room": "c"}), "a", "*", Fault::BadParameter, "channel"),
        (json!({"room": "c", "channel": "x:d"}), "a", "b", Fault::BadParameter, "room"),
        (json!({"room": "c:d", "channel": "x"}), "a", "b", Fault::BadParameter, "channel"),
        (json!({"room": "*", "channel": "b"}), "a", "b", Fault::BadName, "room"),
        (json!({"room": "", "channel": "b"}), "a", "b", Fault::BadName, "room"),
        (json!({"room": "c d"}), "a", "b", Fault::BadName, "room"),
        (json!({"room": "c:d:e"}), "a", "b", Fault::BadName, "room"),
        (json!({"channel": "c:d:e"}), "a", "b", Fault::BadName, "channel"),
        (json!({"channel": "c:"}), "a", "b", Fault::BadName, "channel"),
        (json!({"channel": ":d"}), "a", "b", Fault::BadName, "room"),
        (json!({"channel": "**"}), "a", "b", Fault::BadName, "channel"),
    ] {
        let refusal = address(parameters.clone(), room, channel).unwrap_err();
        let field = format!("parameters.{field}");
        assert_eq!(
            (refusal.fault, refusal.field.as_deref()),
            (fault, Some(&*field)),
            "{parameters}"
        );
    }
}

#[test]
fn every_channel_is_for_joining_leaving_and_history_only() {
    for name in ["channel_info", "create_channel", "delete_channel"] {
        let said = refusal(name, json!({"room": "a", "channel": "*"}));
        assert_eq!(said.fault, Fault::BadName, "{name}");
        let left_out = parse(&json!({"command": name}).to_string(), "a", "*").unwrap_err();
        assert_eq!(left_out.fault, Fault::BadParameter, "{name}");
        assert_eq!(left_out.field.as_deref(), Some("parameters.channel"), "{name}");
    }
    for name in ["list_channels", "create_room"] {
        assert_eq!(refusal(name, json!({"room": "a:b"})).fault, Fault::BadName);
        assert_eq!(refusal(name, json!({})).fault, Fault::BadParameter);
        assert!(parse(&json!({"command": name}).to_string(), "a", "*").is_ok());
    }
}

#[test]
fn joins_are_read() {
    let Ok(Command::JoinChannel(join)) = command("join_channel", full_use("join_channel")) else {
        panic!("no join");
    };
    assert!(join.echo && join.presence);
    assert_eq!(join.recover, Some(Recover { epoch: "e".into(), sequence: 0 }));
    let Ok(Command::JoinChannel(join)) = command("join_channel", json!({"channel": "a:b"})) else {
        panic!("no join");
    };
    assert!(!join.echo && !join.presence && join.recover.is_none());
    for (recover, field) in [
        (json!({}), "epoch"),
        (json!({"epoch": "e"}), "sequence"),
        (json!({"sequence": 1}), "epoch"),
        (json!({"epoch": 1, "sequence": 1}), "epoch"),
        (json!({"epoch": "", "sequence": 1}), "epoch"),
        (json!({"epoch": "x".repeat(65), "sequence": 1}), "epoch"),
        (json!({"epoch": "e", "sequence": -1}), "sequence"),
        (json!({"epoch": "e", "sequence": "1"}), "sequence"),
        (json!({"epoch": "e", "sequence": 1, "more": 1}), "more"),
    ] {
        let refusal = refusal("join_channel", json!({"channel": "a:b", "recover": recover}));
        assert_eq!(refusal.fault, Fault::BadParameter);
        assert_eq!(refusal.field, Some(format!("parameters.recover.{field}").into()));
    }
    let recover = json!({"epoch": "e", "sequence": 1});
    let refusal = refusal("join_channel", json!({"channel": "a:*", "recover": recover}));
    assert_eq!(refusal.field.as_deref(), Some("parameters.recover"));
}

#[test]
fn history_queries_are_read() {
    let query = |parameters| match command("history", parameters) {
        Ok(Command::History(query)) => *query,
        other => panic!("{other:?}"),
    };
    let all = query(full_use("history"));
    assert_eq!((all.limit, all.newest_first), (1_000, true));
    assert_eq!((all.after, all.before), (Some(0), Some(9)));
    assert_eq!(all.since_us, Some(1_764_504_000_000_000));
    assert_eq!(all.until_us, all.since_us);
    let plain = query(json!({"channel": "a:b", "order": "asc"}));
    assert_eq!((plain.limit, plain.newest_first), (50, false));
    assert_eq!(
        (plain.after, plain.before, plain.since_us, plain.until_us),
        (None, None, None, None)
    );
    for (name, bad) in [
        ("limit", json!(0)),
        ("limit", json!(1_001)),
        ("limit", json!("5")),
        ("limit", json!(5.0)),
        ("since", json!("yesterday")),
        ("since", json!("2025-11-30T12:00:00")),
        ("until", json!(1_764_504_000)),
        ("after", json!(-1)),
        ("before", json!("9")),
        ("order", json!("ASC")),
    ] {
        let refusal = refusal("history", json!({"channel": "a:b", name: bad}));
        assert_eq!(refusal.fault, Fault::BadParameter);
        assert_eq!(refusal.field, Some(format!("parameters.{name}").into()));
    }
}

#[test]
fn channels_to_create_are_read() {
    let create = |parameters| match command("create_channel", parameters) {
        Ok(Command::CreateChannel(create)) => *create,
        other => panic!("{other:?}"),
    };
    let names = |names: &[Name]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    let private = create(full_use("create_channel"));
    assert_eq!(private.channel_type, ChannelType::Private);
    assert_eq!(names(&private.members), ["al", "bob"]);
    let kept: Tree = serde_json::from_str(private.metadata.unwrap().get()).unwrap();
    assert_eq!(kept["topic"]["a"], 1);
    // Members mean nothing to a general channel; its metadata is the creator's own.
    let general = create(json!({"channel": "a:b", "metadata": {"members": 7}}));
    assert_eq!((general.channel_type, general.members.len()), (ChannelType::General, 0));
    let large = "x".repeat(ENTITY_METADATA_BYTES_MAX);
    for (parameters, field) in [
        (json!({"type": "system"}), "type"),
        (json!({"type": "pm"}), "type"),
        (json!({"type": "secret"}), "type"),
        (json!({"metadata": {"x": large}}), "metadata"),
        (json!({"type": "private", "metadata": {"members": "bob"}}), "metadata.members"),
        (json!({"type": "private", "metadata": {"members": [1]}}), "metadata.members"),
        (json!({"type": "private", "metadata": {"members": ["a b"]}}), "metadata.members"),
    ] {
        let mut parameters = parameters;
        parameters["channel"] = json!("a:b");
        let refusal = refusal("create_channel", parameters);
        assert_eq!(refusal.field, Some(format!("parameters.{field}").into()));
    }
}

#[test]
fn room_configurations_are_read() {
    let config = |config: Tree| match command("create_room", json!({"room": "a", "config": config}))
    {
        Ok(Command::CreateRoom { config, .. }) => config,
        other => panic!("{other:?}"),
    };
    assert_eq!(config(json!({})), RoomConfig::default());
    let all = json!({"history_size": 1_000_000, "member_limit": 1, "create_on_join": true,
        "publishers": ["al", "bob"], "persist": "history", "ack_when": "accepted"});
    assert_eq!(serde_json::to_value(config(all.clone())).unwrap(), all);
    assert_eq!(config(json!({"publishers": "admins"})).publishers, Some(Publishers::Admins));
    assert_eq!(config(json!({"publishers": "members"})).publishers, Some(Publishers::Members));
    for (field, bad) in [
        ("history_size", json!(0)),
        ("history_size", json!(1_000_001)),
        ("history_size", json!("9")),
        ("member_limit", json!(0)),
        ("member_limit", json!(u64::from(u32::MAX) + 1)),
        ("create_on_join", json!("yes")),
        ("publishers", json!("everyone")),
        ("publishers", json!(["a b"])),
        ("persist", json!("some")),
        ("persist", json!(true)),
        ("ack_when", json!("delivered")),
        ("no_such", json!(1)),
    ] {
        let refusal = refusal("create_room", json!({"room": "a", "config": {field: bad}}));
        assert_eq!(refusal.field, Some(format!("parameters.config.{field}").into()));
    }
}

#[test]
fn identities_are_read() {
    let identity = |parameters| match command("identify", parameters) {
        Ok(Command::Identify(identity)) => *identity,
        other => panic!("{other:?}"),
    };
    let all = identity(full_use("identify"));
    assert_eq!(all.client_id.as_deref(), Some("alice"));
    assert_eq!(all.join.len(), 2);
    assert_eq!(identity(json!({"join": "a:b,c:*"})).join.len(), 2);
    assert_eq!(identity(json!({})), Identity::default());
    for (name, bad, fault) in [
        ("client_id", json!("arqonbus_x"), Fault::BadIdentity),
        ("client_type", json!("robot"), Fault::BadIdentity),
        ("avatar", json!("\n"), Fault::BadIdentity),
        ("join", json!(["a"]), Fault::BadIdentity),
        ("join", json!("a"), Fault::BadIdentity),
        ("join", json!([1]), Fault::BadParameter),
        ("token", json!(1), Fault::BadParameter),
    ] {
        let refusal = refusal("identify", json!({ name: bad }));
        assert_eq!(refusal.fault, fault, "{name}");
        assert_eq!(refusal.field, Some(format!("parameters.{name}").into()));
    }
}

#[test]
fn announcements_and_disconnections_are_read() {
    let room = |parameters: Tree, room: &str| {
        let payload = json!({"command": "announce", "parameters": parameters}).to_string();
        match parse(&payload, room, "x").unwrap().command {
            Command::Announce { room, .. } => room.map(|room| room.to_string()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(room(json!({"message": "hi"}), "*"), None);
    assert_eq!(room(json!({"message": "hi"}), "a").as_deref(), Some("a"));
    assert_eq!(room(json!({"message": "hi", "room": "*"}), "a"), None);
    assert_eq!(room(json!({"message": "hi", "room": "b"}), "a").as_deref(), Some("b"));
    for (name, parameters, field) in [
        ("announce", json!({"message": ""}), "message"),
        ("announce", json!({"message": "x".repeat(ANNOUNCEMENT_BYTES_MAX + 1)}), "message"),
        ("announce", json!({"message": "x", "room": ".."}), "room"),
        ("disconnect_client", json!({"client_id": "*"}), "client_id"),
        ("disconnect_client", json!({"client_id": ""}), "client_id"),
        ("disconnect_client", json!({"client_id": "a", "reason": "a\nb"}), "reason"),
        ("disconnect_client", json!({"client_id": "a", "reason": "é".repeat(62)}), "reason"),
    ] {
        assert_eq!(refusal(name, parameters).field, Some(format!("parameters.{field}").into()));
    }
}
