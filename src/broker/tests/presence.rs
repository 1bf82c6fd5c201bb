//! Who watches is told who comes and goes, and what that may cost is bounded.

use super::*;

/// What a client was told of who came and went.
fn told(bus: &mut Bus, client: &Client) -> Vec<String> {
    let heard = bus.heard(client).into_iter();
    let notices = heard.filter(|message| message["payload"]["event"] != "welcome");
    let notices = notices.filter(|message| message["type"] == "system");
    notices
        .map(|notice| {
            let (event, who) = (&notice["payload"]["event"], &notice["payload"]["client_id"]);
            format!("{event} {} {who}", notice["channel"]).replace('"', "")
        })
        .collect()
}

fn free() -> Bus {
    Bus::new(Limits { rate_commands: 0, ..Limits::default() }, PublishAnywhere::default())
}

#[test]
fn who_joins_the_whole_room_is_told_once_to_its_followers_and_by_channel_to_others() {
    let mut bus = free();
    let [ann, bob, cat] =
        [(0, "ann"), (1, "bob"), (2, "cat")].map(|(at, name)| bus.connect(at, name));
    let watch = json!({"presence": true});
    for channel in ["a", "b", "c"] {
        bus.join(&cat, &format!("r:{channel}"));
    }
    bus.done(&ann, "join_channel", "r:*", watch.clone());
    bus.done(&bob, "join_channel", "r:a", watch.clone());
    bus.done(&cat, "leave_channel", "r:b", json!({}));
    assert_eq!(told(&mut bus, &ann), ["joined a bob", "left b cat"]);
    assert_eq!(told(&mut bus, &bob), [] as [&str; 0]);
    // Cat is in a by name, so there it is no news; to followers it is.
    bus.join(&cat, "r:*");
    assert_eq!(told(&mut bus, &ann), ["joined * cat"]);
    assert_eq!(told(&mut bus, &bob), [] as [&str; 0]);
    bus.done(&cat, "leave_channel", "r:a", json!({}));
    assert_eq!(told(&mut bus, &bob), [] as [&str; 0], "it is there still");
    bus.done(&cat, "leave_channel", "r:*", json!({}));
    // It left all of the room, and is in c by name as before.
    bus.pass(1_000);
    assert_eq!(told(&mut bus, &ann), ["left * cat", "joined c cat"]);
    assert_eq!(told(&mut bus, &bob), ["left a cat"]);
    bus.join(&cat, "r:*");
    bus.pass(1_000);
    assert_eq!(told(&mut bus, &bob), ["joined a cat"]);
    bus.disconnect(&cat);
    bus.pass(1_000);
    assert_eq!(told(&mut bus, &bob), ["left a cat"]);
}

#[test]
fn one_client_that_comes_and_goes_costs_its_watchers_little_and_they_end_up_right() {
    let mut bus = free();
    let watchers: Vec<Client> = (0..60)
        .map(|number| {
            let name: &'static str = format!("watcher{number}").leak();
            let client = bus.connect(number % 3, name);
            bus.done(&client, "join_channel", "r:c", json!({"presence": true}));
            client
        })
        .collect();
    bus.pass(60_000);
    watchers.iter().for_each(|watcher| drop(told(&mut bus, watcher)));
    let flapper = bus.connect(1, "flapper");
    let mut notices = Vec::new();
    // Five seconds, in which it comes and goes every six milliseconds.
    for _ in 0..400 {
        bus.join(&flapper, "r:c");
        bus.pass(6);
        bus.done(&flapper, "leave_channel", "r:c", json!({}));
        bus.pass(6);
        notices.extend(told(&mut bus, &watchers[0]));
    }
    assert!(notices.len() <= 30, "{} notices", notices.len());
    bus.join(&flapper, "r:c");
    bus.pass(60_000);
    for watcher in &watchers {
        let last = told(&mut bus, watcher).pop();
        assert_eq!(last.as_deref().unwrap_or("joined c flapper"), "joined c flapper");
    }
    // A client that comes when nobody came for a while is told of at once.
    bus.disconnect(&flapper);
    (0..2).for_each(|_| bus.pass(60_000));
    told(&mut bus, &watchers[7]);
    let late = bus.connect(0, "late");
    bus.join(&late, "r:c");
    assert_eq!(told(&mut bus, &watchers[7]), ["joined c late"]);
}

#[test]
fn those_who_come_together_are_told_of_together() {
    let mut bus = free();
    let ann = bus.connect(0, "ann");
    bus.done(&ann, "join_channel", "r:c", json!({"presence": true}));
    let home = bus.placement.of_room("r").index();
    let others: Vec<Client> =
        (0..40).map(|number| bus.connect(1, format!("client{number}").leak())).collect();
    // All of them join in one turn of the home.
    let mut tells = Vec::new();
    for client in &others {
        let (_, text) = bus.message(
            client,
            "command",
            "r:c",
            json!({"command": "join_channel", "parameters": {}}),
            json!({}),
        );
        let (envelope, mut out) = (decode(&text).unwrap(), Deliveries::default());
        bus.edges[1].on_message(bus.now, client.conn, &envelope, false, &mut bus.asks[1], &mut out);
    }
    while let Some(ask) = bus.asks[1].queue(ShardId(home as u16)).pop_front() {
        let mut told = Told::default();
        bus.homes[home].on_ask(bus.now, ask, &mut told);
        tells.append(&mut told.tells);
    }
    let mut told = Told::default();
    bus.homes[home].tell_presence(bus.now, &mut told);
    let presence: Vec<_> = told.tells.iter().collect();
    let [(_, Tell::Presence(tell))] = presence[..] else { panic!("{presence:?}") };
    assert_eq!(tell.notices.len(), 40);
    tells.append(&mut told.tells);
    bus.tell(ShardId(home as u16), Told { tells, ..Told::default() });
    bus.settle();
}
