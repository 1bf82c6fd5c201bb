//! What was kept is read when the bus has been at work for a while: how the two go together, and what
//! clients are told of it.

use super::durable::{LOST, Shelf, UNAVAILABLE, begun};
use super::*;
use crate::broker::late::Merged;
use crate::broker::record::StorageNews;
use crate::protocol::command::Persist;
use crate::protocol::timestamp::Writer;

/// A bus that begins without what is on the shelf, degraded.
fn away(persist: Persist, shelf: &Shelf) -> Bus {
    let mut bus = begun(persist, &Shelf { sent: shelf.sent, is_unread: true, ..Shelf::default() });
    bus.news(&StorageNews::Degraded("away".into()));
    bus
}

impl Bus {
    /// The storage is there and has read what is on the shelf; what waits for it is put there as the
    /// homes say.
    fn arrive(&mut self, shelf: &mut Shelf) {
        for kept in shelf.snapshot().by_room() {
            let home = self.placement.of_room(&kept.name);
            self.ask(home, Ask::Storage(Box::new(StorageNews::Late(Box::new(kept)))));
        }
        self.settle();
        let mut waiting = Vec::new();
        for record in std::mem::take(&mut self.records) {
            match record {
                Record::Merged(merged) => waiting = merge(waiting, &merged),
                other => waiting.push(other),
            }
        }
        self.records = waiting;
        self.shelve(shelf);
        // Written in order, each once.
        for (channel, frames) in shelf.channels.values() {
            let sequences: Vec<u64> = frames.iter().map(|frame| frame.sequence).collect();
            assert!(sequences.is_sorted_by(|a, b| a < b), "{} {sequences:?}", channel.address);
        }
        self.news(&StorageNews::Restored);
    }

    /// What a channel's history holds: sequences and ids.
    fn kept(&mut self, client: &Client, address: &str) -> Vec<(u64, String)> {
        let history = self.done(client, "history", address, json!({}));
        let messages = history["messages"].as_array().unwrap().iter();
        let entry = |message: &Value| {
            let sequence = message["metadata"]["sequence"].as_u64().unwrap();
            (sequence, message["id"].as_str().unwrap().to_owned())
        };
        messages.map(entry).collect()
    }

    fn epoch(&mut self, client: &Client, address: &str) -> Value {
        self.done(client, "history", address, json!({}))["epoch"].clone()
    }

    /// Joins from a place on: what is replayed, or why nothing is.
    fn recover(
        &mut self,
        client: &Client,
        address: &str,
        (epoch, sequence): (&Value, u64),
    ) -> Result<Vec<String>, Value> {
        self.heard(client);
        let recover = json!({"recover": {"epoch": epoch, "sequence": sequence}});
        let joined = self.done(client, "join_channel", address, recover);
        let heard = self.heard(client);
        self.done(client, "leave_channel", address, json!({}));
        match joined["recovered"] == true {
            true => Ok(events(&heard)),
            false => Err(joined["reason"].clone()),
        }
    }
}

/// The ids of the events among what was heard.
fn events(heard: &[Value]) -> Vec<String> {
    let events = heard.iter().filter(|message| message["type"] == "event");
    events.map(|message| message["id"].as_str().unwrap().to_owned()).collect()
}

/// Changes what waits as a home says, as the storage does.
fn merge(waiting: Vec<Record>, merged: &Merged) -> Vec<Record> {
    let of = |address: &crate::protocol::command::Address| {
        merged.channels.iter().find(|channel| *channel.address == *address)
    };
    let first = merged.channels.iter().filter_map(|channel| channel.record.clone());
    let mut all: Vec<Record> = first.map(|record| Record::Channel(Box::new(record))).collect();
    let times = &mut Writer::default();
    all.extend(waiting.into_iter().filter_map(|record| match record {
        Record::Room(room) if room.name == merged.room => None,
        Record::RoomGone(name) if name == merged.room => None,
        Record::Channel(channel) if of(&channel.address).is_some() => None,
        Record::ChannelGone(address) if of(&address).is_some() => None,
        Record::Event(event) => match of(&event.address) {
            None => Some(Record::Event(event)),
            Some(channel) => {
                let said = channel.said.as_ref().filter(|said| said.from == event.epoch)?;
                said.of_event(event, times).map(Record::Event)
            }
        },
        other => Some(other),
    }));
    all
}

/// What an admin sees of all rooms and some channels, but for members and terms.
fn seen(bus: &mut Bus, client: &Client, addresses: &[&str]) -> Vec<Value> {
    let mut views: Vec<Value> = addresses
        .iter()
        .map(|address| bus.done(client, "channel_info", address, json!({})))
        .collect();
    for view in &mut views {
        for members in ["participants", "participant_count", "state"] {
            view.as_object_mut().unwrap().remove(members);
        }
        let epoch = view["history"]["epoch"].as_str().unwrap().split('-').next().unwrap();
        view["history"]["epoch"] = json!(epoch);
    }
    views.push(bus.done(client, "list_rooms", "*:*", json!({}))["rooms"].clone());
    for room in views.last_mut().unwrap().as_array_mut().unwrap() {
        room.as_object_mut().unwrap().remove("participant_count");
    }
    views
}

/// A bus on which this and that was kept.
fn filled() -> (Shelf, Vec<String>, Value) {
    let (mut bus, mut shelf) = (begun(Persist::All, &Shelf::default()), Shelf::default());
    let ann = bus.connect(0, "ann");
    bus.done(&ann, "create_room", "r:*", json!({"config": {"member_limit": 5}}));
    let private = json!({"type": "private", "metadata": {"members": ["bob"], "a": 1}});
    bus.done(&ann, "create_channel", "r:p", private);
    bus.done(&ann, "create_room", "quiet:*", json!({}));
    bus.done(&ann, "pause_room", "quiet:*", json!({}));
    let addresses = ["r:p", "r:c", "lab:bench", "lab:made", "d:x", "r:*"];
    let mut ids = Vec::new();
    for address in addresses {
        bus.join(&ann, address);
        ids.extend((0..2).map(|_| bus.send(&ann, address)));
    }
    let epoch = bus.epoch(&ann, "r:c");
    bus.shelve(&mut shelf);
    (shelf, ids, epoch)
}

const ADDRESSES: [&str; 5] = ["r:p", "r:c", "lab:bench", "lab:made", "d:x"];

#[test]
fn what_nobody_has_touched_comes_back_as_from_a_start() {
    let (shelf, ids, _) = filled();
    let mut bus = begun(Persist::All, &shelf);
    let ann = bus.connect(0, "ann");
    let expected = seen(&mut bus, &ann, &ADDRESSES);

    let (mut bus, mut late) = (away(Persist::All, &shelf), shelf.clone());
    let ann = bus.connect(0, "ann");
    bus.pass(70_000);
    bus.arrive(&mut late);
    assert_eq!(seen(&mut bus, &ann, &ADDRESSES), expected);
    let same = |shelf: &Shelf| {
        let channels = shelf.channels.iter();
        channels.map(|(name, kept)| (name.clone(), kept.0.term, kept.1.len())).collect::<Vec<_>>()
    };
    assert_eq!(same(&late), same(&shelf), "nothing was written");
    // Their members have their full time from now on.
    bus.pass(59_000);
    assert_eq!(bus.shelve(&mut late), [""; 0]);
    bus.join(&ann, "d:x");
    bus.send_again(&ann, "d:x", &ids[8]);
    assert_eq!(bus.ack(&ann, &ids[8]), "1 again");
    bus.pass(2_000);
    let mut words = bus.shelve(&mut late);
    words.sort_unstable();
    assert_eq!(words, ["channel d:x", "channel lab:made gone", "channel r:c gone"]);
}

#[test]
fn a_channel_that_lives_goes_on_with_what_was_kept() {
    for address in ["r:c", "lab:bench", "r:*", "d:x", "lab:made"] {
        let (mut shelf, ids, _) = filled();
        let mut before = begun(Persist::All, &shelf);
        let reader = before.connect(0, "ann");
        before.join(&reader, address);
        let (first, kept) = (before.epoch(&reader, address), before.kept(&reader, address));
        before.shelve(&mut shelf);

        let mut bus = away(Persist::All, &shelf);
        let (ann, bob, eve) = (bus.connect(0, "ann"), bus.connect(1, "bob"), bus.connect(2, "eve"));
        bus.join(&ann, address);
        bus.join(&bob, address);
        let said: Vec<String> = (0..3).map(|_| bus.send(&ann, address)).collect();
        // A client of before sends again what was kept, and was not acknowledged to it.
        bus.send_again(&ann, address, &kept[1].1);
        let last = bus.send(&ann, address);
        assert_eq!(bus.ack(&ann, &kept[1].1), UNAVAILABLE);
        let provisional = bus.epoch(&ann, address);
        assert_ne!(provisional, first);
        assert_eq!(events(&bus.heard(&bob)).len(), 5);
        bus.arrive(&mut shelf);

        let now = bus.epoch(&ann, address);
        // The order of the whole room is another one, too.
        let mut heard = bus.heard(&bob);
        let is_of = |message: &Value| format!("{}:{}", message["room"], message["channel"]);
        heard.retain(|message| is_of(message).replace('"', "") == address);
        assert_eq!(heard.len(), 2, "{heard:?}");
        let (room, channel) = address.split_once(':').unwrap();
        let told = json!({
            "event": "epoch_changed", "room": room, "channel": channel, "epoch": now, "sequence": 0,
            "reason": "storage_restored",
        });
        assert_eq!(heard[0]["payload"], told);
        let notice = json!({
            "event": "gap", "channel": address.split_once(':').unwrap().1, "first": 1, "last": 6,
            "count": null, "reason": "order_changed", "epoch": now,
        });
        assert_eq!(heard[1]["payload"], notice);
        let mut expected: Vec<String> = kept.iter().map(|(_, id)| id.clone()).collect();
        expected.extend(said.iter().cloned().chain([last.clone()]));
        let expected: Vec<(u64, String)> = (1..).zip(expected).collect();
        assert_eq!(bus.kept(&ann, address), expected, "{address}");
        let written = |shelf: &Shelf| {
            let frames = shelf.channels[address].1.iter();
            frames.map(|frame| (frame.sequence, frame.id().to_owned())).collect::<Vec<_>>()
        };
        assert_eq!(written(&shelf), expected);
        bus.heard(&ann);
        // Repeats of either are recognised, and what was kept is known to be stored.
        for (sequence, id) in [&expected[0], &expected[1], &expected[2]] {
            bus.send_again(&ann, address, id);
            let ack = if *sequence > 2 { "waits".to_owned() } else { format!("{sequence} again") };
            assert_eq!(bus.ack(&ann, id), ack);
        }
        let id = expected[2].1.clone();
        bus.news(&StorageNews::Stored(vec![(bus_id(&bus, address), 6)]));
        assert_eq!(bus.ack(&ann, &id), "3 again");
        // Whoever remembers what was kept has missed what was said since; what was told meanwhile
        // means nothing any more.
        if !address.ends_with('*') {
            let all: Vec<String> = expected[1..].iter().map(|(_, id)| id.clone()).collect();
            assert_eq!(bus.recover(&eve, address, (&first, 1)), Ok(all));
            let changed = Err(json!("epoch_changed"));
            assert_eq!(bus.recover(&eve, address, (&first, 3)), changed);
            assert_eq!(bus.recover(&eve, address, (&provisional, 3)), changed);
            assert_eq!(bus.recover(&eve, address, (&now, 5)), Ok(vec![last.clone()]));
        }
        let next = bus.send(&ann, address);
        assert_eq!(bus.heard(&bob).last().unwrap()["metadata"]["sequence"], 7);
        bus.shelve(&mut shelf);

        let mut bus = begun(Persist::All, &shelf);
        let ann = bus.connect(0, "ann");
        bus.join(&ann, address);
        let mut all = expected.clone();
        all.push((7, next));
        assert_eq!(bus.kept(&ann, address), all, "the next start has the same");
        bus.done(&ann, "leave_channel", address, json!({}));
        if !address.ends_with('*') {
            assert_eq!(bus.recover(&ann, address, (&now, 6)).map(|events| events.len()), Ok(1));
        }
        drop(ids);
    }
}

fn bus_id(bus: &Bus, address: &str) -> ChannelId {
    let (room, channel) = address.split_once(':').unwrap();
    match channel {
        "*" => {
            let home = &bus.homes[bus.placement.of_room(room).index()];
            home.whole_room_id(room).expect("a room")
        }
        channel => bus.id_of(room, channel),
    }
}

#[test]
fn what_was_made_meanwhile_has_the_settings_of_both() {
    let (mut shelf, ..) = filled();
    let mut bus = away(Persist::All, &shelf);
    let (ann, bob) = (bus.connect(0, "ann"), bus.connect(1, "bob"));
    // One room by a command that says something, one by a join.
    let config = json!({"history_size": 3, "create_on_join": false});
    bus.done(&ann, "create_room", "r:*", json!({"config": config}));
    bus.done(&ann, "create_channel", "r:c", json!({"metadata": {"b": 2}}));
    bus.join(&bob, "quiet:talk");
    bus.join(&bob, "d:x");
    bus.arrive(&mut shelf);
    let rooms = bus.done(&ann, "list_rooms", "*:*", json!({}))["rooms"].clone();
    let room =
        |name: &str| rooms.as_array().unwrap().iter().find(|room| room["name"] == name).cloned();
    let r = room("r").unwrap();
    let both = json!({"history_size": 3, "member_limit": 5, "create_on_join": false});
    assert_eq!((&r["config"], &r["type"]), (&both, &json!("user")), "{r}");
    let quiet = room("quiet").unwrap();
    assert_eq!((&quiet["state"], &quiet["type"]), (&json!("paused"), &json!("user")), "{quiet}");
    let info = bus.done(&ann, "channel_info", "r:c", json!({}));
    assert_eq!((&info["metadata"], &info["auto_created"]), (&json!({"b": 2}), &json!(false)));
    assert_eq!(info["history"]["size"], 3);
    let refused = bus.publish(&bob, "quiet:talk");
    assert_eq!(refused["error"], "ROOM_PAUSED");
    // All of that is kept.
    bus.shelve(&mut shelf);
    assert_eq!(shelf.rooms["r"].config.history_size, Some(3));
    assert_eq!(shelf.rooms["r"].config.member_limit, Some(5));
    assert!(shelf.rooms["quiet"].paused && shelf.channels.contains_key("quiet:talk"));
    let expected = seen(&mut bus, &ann, &["r:c", "quiet:talk", "d:x"]);
    let mut bus = begun(Persist::All, &shelf);
    let ann = bus.connect(0, "ann");
    assert_eq!(seen(&mut bus, &ann, &["r:c", "quiet:talk", "d:x"]), expected);
}

#[test]
fn who_may_not_be_in_a_private_channel_goes_and_sees_nothing_of_it() {
    let (mut shelf, ..) = filled();
    let mut bus = away(Persist::All, &shelf);
    let (bob, eve) = (bus.connect(1, "bob"), bus.connect(2, "eve"));
    for client in [&bob, &eve] {
        bus.join(client, "r:p");
        bus.heard(client);
    }
    bus.send(&eve, "r:p");
    bus.heard(&bob);
    bus.heard(&eve);
    bus.arrive(&mut shelf);
    let has_gap = |heard: &[Value]| {
        let is_gap = |message: &Value| message["payload"]["event"] == "gap";
        heard.iter().any(|message| is_gap(message) && message["channel"] == "p")
    };
    assert!(has_gap(&bus.heard(&bob)) && !has_gap(&bus.heard(&eve)));
    let answer = bus.command(&eve, "history", "r:p", json!({}));
    assert_eq!(answer["status"], "error", "{answer}");
    let answer = bus.command(&eve, "join_channel", "r:p", json!({}));
    assert_eq!(answer["error"], "CHANNEL_PRIVATE");
    assert_eq!(bus.kept(&bob, "r:p").len(), 3);
}

#[test]
fn what_ended_meanwhile_ends_nothing_that_was_kept() {
    let (mut shelf, ..) = filled();
    let mut bus = away(Persist::All, &shelf);
    let ann = bus.connect(0, "ann");
    bus.done(&ann, "create_room", "r:*", json!({}));
    bus.done(&ann, "create_channel", "r:c", json!({}));
    bus.join(&ann, "r:c");
    bus.send(&ann, "r:c");
    bus.done(&ann, "leave_channel", "r:c", json!({}));
    bus.done(&ann, "delete_channel", "r:c", json!({}));
    bus.done(&ann, "delete_room", "r:*", json!({}));
    // Made, ended, and made once more.
    bus.join(&ann, "d:x");
    bus.send(&ann, "d:x");
    bus.done(&ann, "leave_channel", "d:x", json!({}));
    bus.pass(61_000);
    bus.join(&ann, "d:x");
    let said = bus.send(&ann, "d:x");
    // That all of it is gone was told twice.
    let home = bus.placement.of_room("r").index();
    let gone = Record::RoomGone(Name::fixed("r"));
    bus.homes[home].lose(gone, &mut Told::default());
    bus.arrive(&mut shelf);
    assert_eq!(bus.kept(&ann, "d:x").len(), 3, "the two that were kept, and one of this life");
    assert_eq!(bus.kept(&ann, "d:x")[2], (3, said));
    bus.join(&ann, "r:c");
    assert_eq!(bus.kept(&ann, "r:c").len(), 2);
    bus.shelve(&mut shelf);
    assert_eq!(shelf.channels["r:c"].1.len(), 2);
    assert_eq!(shelf.channels["d:x"].1.len(), 3);
    assert_eq!(shelf.rooms["r"].config.member_limit, Some(5));
}

#[test]
fn what_was_lost_meanwhile_is_lost_under_its_new_sequence() {
    let (mut shelf, ..) = filled();
    let mut bus = away(Persist::All, &shelf);
    let ann = bus.connect(0, "ann");
    bus.join(&ann, "r:c");
    let ids: Vec<String> = (0..4).map(|_| bus.send(&ann, "r:c")).collect();
    let channel = bus.id_of("r", "c");
    bus.news(&StorageNews::Lost { channel, first: 2, last: 3 });
    bus.records.retain(|record| match record {
        Record::Event(event) => event.channel != channel || ![2, 3].contains(&event.frame.sequence),
        _ => true,
    });
    bus.arrive(&mut shelf);
    bus.stored("r", "c", 6);
    ids.iter().for_each(|id| drop(bus.reply(&ann, id)));
    let acks: Vec<String> = ids
        .iter()
        .map(|id| {
            bus.send_again(&ann, "r:c", id);
            bus.ack(&ann, id)
        })
        .collect();
    assert_eq!(acks, ["3 again", LOST, LOST, "6 again"]);
}

#[test]
fn a_room_that_says_none_takes_nothing_and_deletes_nothing_unless_it_is_configured_so() {
    let (mut shelf, ..) = filled();
    let mut bus = away(Persist::All, &shelf);
    let ann = bus.connect(0, "ann");
    bus.done(&ann, "create_room", "r:*", json!({"config": {"persist": "none"}}));
    bus.join(&ann, "r:c");
    bus.send(&ann, "r:c");
    bus.arrive(&mut shelf);
    assert_eq!(bus.kept(&ann, "r:c").len(), 1);
    bus.done(&ann, "leave_channel", "r:c", json!({}));
    bus.pass(61_000);
    bus.done(&ann, "delete_room", "r:*", json!({}));
    bus.shelve(&mut shelf);
    assert_eq!((shelf.channels["r:c"].1.len(), shelf.rooms.contains_key("r")), (2, true));
    // What the configuration does not keep any more goes, as with any start.
    let mut bus = away(Persist::None, &shelf);
    bus.arrive(&mut shelf);
    assert!(shelf.channels.is_empty(), "{:?}", shelf.channels.keys());
}

#[test]
fn what_was_said_in_a_room_that_is_kept_after_all_is_kept_too() {
    let (mut before, mut shelf) = (begun(Persist::None, &Shelf::default()), Shelf::default());
    let ann = before.connect(0, "ann");
    before.done(&ann, "create_room", "r:*", json!({"config": {"persist": "history"}}));
    before.join(&ann, "r:c");
    before.send(&ann, "r:c");
    before.shelve(&mut shelf);
    let mut bus = away(Persist::None, &shelf);
    let ann = bus.connect(0, "ann");
    bus.join(&ann, "r:c");
    bus.join(&ann, "r:new");
    for address in ["r:c", "r:new", "r:new"] {
        let id = bus.send(&ann, address);
        assert!(!bus.ack(&ann, &id).starts_with('5'), "nobody waits for what is not kept");
    }
    bus.arrive(&mut shelf);
    assert_eq!(bus.kept(&ann, "r:c").len(), 2);
    let kept = |name: &str| shelf.channels[name].1.iter().map(|f| f.sequence).collect::<Vec<_>>();
    assert_eq!((kept("r:c"), kept("r:new")), (vec![1, 2], vec![1, 2]));
}

#[test]
fn who_is_in_a_whole_room_is_in_what_comes_back() {
    let (mut shelf, ..) = filled();
    let mut bus = away(Persist::All, &shelf);
    let (ann, eve) = (bus.connect(0, "ann"), bus.connect(2, "eve"));
    bus.join(&ann, "r:*");
    bus.join(&eve, "r:*");
    bus.arrive(&mut shelf);
    let heard = bus.heard(&eve);
    let mut of_it = heard.iter().filter(|message| message["channel"] == "c");
    assert_eq!(of_it.next().expect("its order is told")["payload"]["event"], "epoch_changed");
    let gap = of_it.next().expect("and what is missed");
    let (epoch, last) = (&gap["payload"]["epoch"], &gap["payload"]["last"]);
    assert_eq!((epoch, last), (&bus.epoch(&ann, "r:c"), &json!(2)));
    for (address, hears) in [("r:c", true), ("r:p", false)] {
        let id = bus.send(&ann, address);
        assert_eq!(events(&bus.heard(&eve)).contains(&id), hears, "{address}");
    }
    // The terms that they are told came with the answer.
    bus.shelve(&mut shelf);
    assert_ne!(shelf.channels["r:c"].0.term, 0);
}

#[test]
fn what_was_not_read_is_not_called_unknown() {
    let (mut shelf, ..) = filled();
    let mut bus = away(Persist::All, &shelf);
    let (ann, bob) = (bus.connect(0, "ann"), bus.connect(1, "bob"));
    let recover = json!({"recover": {"epoch": "of an earlier run", "sequence": 1}});
    for address in ["r:c", "r:never"] {
        let refused = bus.command(&ann, "join_channel", address, recover.clone());
        assert_eq!(
            (&refused["error"], &refused["code"]),
            (&json!("STORAGE_UNAVAILABLE"), &json!(503))
        );
    }
    for (command, address) in
        [("channel_info", "r:c"), ("list_channels", "r:*"), ("channel_info", "nowhere:c")]
    {
        let refused = bus.command(&ann, command, address, json!({}));
        assert_eq!(refused["error"], "STORAGE_UNAVAILABLE", "{command} {address}: {refused}");
    }
    // What it knows itself it says, also how far it goes.
    let joined = bus.done(&bob, "join_channel", "r:new", json!({}));
    bus.done(&bob, "leave_channel", "r:new", json!({}));
    let recover = json!({"recover": {"epoch": joined["epoch"], "sequence": 0}});
    let joined = bus.done(&bob, "join_channel", "r:new", recover);
    assert_eq!(joined["recovered"], true, "{joined}");
    assert_eq!(bus.done(&bob, "history", "r:new", json!({}))["incomplete"], true);
    bus.arrive(&mut shelf);
    assert!(bus.done(&bob, "history", "r:new", json!({})).get("incomplete").is_none());
    assert_eq!(bus.command(&ann, "channel_info", "nowhere:c", json!({}))["code"], 404);
    let recover = json!({"recover": {"epoch": "of an earlier run", "sequence": 1}});
    let joined = bus.done(&ann, "join_channel", "r:c", recover);
    assert_eq!(joined["reason"], "epoch_changed");
}
