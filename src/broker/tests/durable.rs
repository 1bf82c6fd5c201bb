//! What is kept beyond the life of a home: which records it makes, which acks wait for them, and
//! how it begins again.

use super::*;
use crate::broker::durable::{Durability, of_homes};
use crate::broker::home::Bootstrap;
use crate::broker::record::{ChannelRecord, KeptChannel, RoomRecord, Snapshot, StorageNews};
use crate::protocol::command::{Persist, RoomConfig};

const TIMEOUT_MS: u32 = 5_000;

/// Everything that was recorded, as a storage would keep it.
#[derive(Clone, Default)]
pub(super) struct Shelf {
    /// The messages that were sent so far, for their ids.
    pub(super) sent: u32,
    pub(super) rooms: BTreeMap<String, RoomRecord>,
    pub(super) channels: BTreeMap<String, (ChannelRecord, Vec<Arc<Frame>>)>,
    /// Whether a bus that begins with it does not know yet what is kept.
    pub(super) is_unread: bool,
}

impl Shelf {
    pub(super) fn take(&mut self, record: Record) {
        match record {
            Record::Room(room) => {
                self.rooms.insert(room.name.to_string(), *room);
            }
            Record::RoomGone(name) => {
                self.rooms.remove(name.as_str());
                self.channels.retain(|_, (record, _)| record.address.room != name);
            }
            Record::Channel(channel) => {
                let kept = self.channels.entry(channel.address.to_string());
                let kept = kept.or_insert_with(|| ((*channel).clone(), Vec::new()));
                assert_eq!(kept.0.epoch, channel.epoch, "a life ends with a record");
                kept.0 = *channel;
            }
            Record::ChannelGone(address) => {
                self.channels.remove(&address.to_string());
            }
            Record::Event(event) => {
                let kept = self.channels.get_mut(&event.address.to_string());
                let (channel, frames) = kept.expect("the channel comes before its events");
                assert_eq!(channel.epoch, event.epoch);
                frames.push(event.frame);
            }
            Record::Peer(record) => panic!("there are no peers: {record:?}"),
            Record::Session(record) => panic!("no home has a session: {record:?}"),
            Record::Merged(merged) => panic!("nothing was read late: {merged:?}"),
        }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let kept = self.channels.values().map(|(record, frames)| KeptChannel {
            record: record.clone(),
            last: frames.last().map_or(0, |frame| frame.sequence),
            last_us: frames.last().map_or(0, |frame| frame.timestamp_us),
            messages: frames.clone(),
        });
        let (rooms, channels) = (self.rooms.values().cloned().collect(), kept.collect());
        Snapshot { rooms, channels, is_unread: self.is_unread }
    }
}

fn durability(persist: Persist) -> Durability {
    let (retention_messages, retention_age_ms, is_shared) = (0, 0, false);
    let ack_timeout_ms = TIMEOUT_MS;
    Durability { persist, retention_messages, retention_age_ms, ack_timeout_ms, is_shared }
}

/// A bus that begins with what is on the shelf; the room `lab` with the channel `bench` is
/// configured.
pub(super) fn begun(persist: Persist, shelf: &Shelf) -> Bus {
    let seed = u64::from(shelf.sent);
    let mut bus = Bus::seeded(Limits::default(), PublishAnywhere::default(), seed);
    bus.sent = shelf.sent;
    let name = Name::fixed;
    let config = RoomConfig { member_limit: Some(9), ..RoomConfig::default() };
    let lab = Bootstrap { name: name("lab"), channels: vec![name("bench")], config };
    let home = bus.placement.of_room("lab").index();
    bus.homes[home].bootstrap(bus.now, &lab);
    let parts = of_homes(shelf.snapshot(), &bus.placement);
    for (at, part) in parts.into_iter().enumerate() {
        let mut told = Told::default();
        bus.homes[at].begin_with(bus.now, durability(persist), part, &mut told);
        bus.homes[at].check();
        bus.tell(ShardId(at as u16), told);
    }
    bus
}

impl Bus {
    /// Puts what was recorded on the shelf; each record in a few words.
    pub(super) fn shelve(&mut self, shelf: &mut Shelf) -> Vec<String> {
        shelf.sent = self.sent + 10;
        let records = std::mem::take(&mut self.records);
        let words = records.iter().map(|record| match record {
            Record::Room(room) if room.paused => format!("room {} paused", room.name),
            Record::Room(room) => format!("room {}", room.name),
            Record::RoomGone(name) => format!("room {name} gone"),
            Record::Channel(channel) => format!("channel {}", channel.address),
            Record::ChannelGone(address) => format!("channel {address} gone"),
            Record::Event(event) => format!("event {} {}", event.address, event.frame.sequence),
            Record::Peer(record) => panic!("there are no peers: {record:?}"),
            Record::Session(record) => panic!("no home has a session: {record:?}"),
            Record::Merged(merged) => format!("room {} merged", merged.room),
        });
        let words = words.collect();
        records.into_iter().for_each(|record| shelf.take(record));
        words
    }

    /// The storage says something to every home.
    pub(super) fn news(&mut self, news: &StorageNews) {
        for shard in self.placement.all() {
            self.ask(shard, Ask::Storage(Box::new(news.clone())));
        }
        self.settle();
    }

    pub(super) fn id_of(&self, room: &str, channel: &str) -> ChannelId {
        let home = &self.homes[self.placement.of_room(room).index()];
        home.channel(room, channel).expect("a channel").id
    }

    pub(super) fn stored(&mut self, room: &str, channel: &str, sequence: u64) {
        let id = self.id_of(room, channel);
        self.news(&StorageNews::Stored(vec![(id, sequence)]));
    }

    /// Sends an event with an ack; its id.
    pub(super) fn send(&mut self, client: &Client, address: &str) -> String {
        self.say(client, "event", address, json!({}), json!({"ack": true}))
    }

    /// Sends an event again under the same id.
    pub(super) fn send_again(&mut self, client: &Client, address: &str, id: &str) {
        let (_, text) = self.message(client, "event", address, json!({}), json!({"ack": true}));
        let mut message: Value = serde_json::from_str(&text).unwrap();
        message["id"] = json!(id);
        assert_eq!(self.offer(client, &message.to_string(), false), Flow::Done);
    }

    /// What became of an ack, in a few words.
    pub(super) fn ack(&mut self, client: &Client, id: &str) -> String {
        match self.reply(client, id) {
            None => "waits".to_owned(),
            Some(reply) if reply["status"] == "success" => {
                let again = if reply["result"]["duplicate"] == true { " again" } else { "" };
                format!("{}{again}", reply["result"]["sequence"])
            }
            Some(reply) => format!("{} {}", reply["code"], reply["error"].as_str().unwrap()),
        }
    }
}

pub(super) const UNAVAILABLE: &str = "503 STORAGE_UNAVAILABLE";
pub(super) const LOST: &str = "410 STORAGE_LOST";

#[test]
fn a_home_records_what_its_rooms_say_is_kept() {
    /// What a client does, and what is recorded of it where all is kept.
    type Step = (&'static str, &'static str, Value, &'static [&'static str]);
    let steps: [Step; 11] = [
        ("create_room", "r:*", json!({"config": {"history_size": 5}}), &["room r", "channel r:*"]),
        ("create_channel", "r:c", json!({"metadata": {"a": 1}}), &["channel r:c"]),
        ("join_channel", "r:c", json!({}), &[]),
        ("event", "r:c", json!({}), &["event r:c 1"]),
        ("event", "r:*", json!({}), &["event r:* 1"]),
        ("join_channel", "d:x", json!({}), &["room d", "channel d:*", "channel d:x"]),
        ("private", "r:pm", json!({"target": "ann"}), &[]),
        ("leave_channel", "r:c", json!({}), &[]),
        ("delete_channel", "r:c", json!({}), &["channel r:c gone"]),
        ("delete_room", "r:*", json!({}), &["room r gone"]),
        ("leave_channel", "d:x", json!({}), &[]),
    ];
    for persist in [Persist::None, Persist::History, Persist::All] {
        let (mut bus, mut shelf) = (begun(persist, &Shelf::default()), Shelf::default());
        let ann = bus.connect(0, "ann");
        let at_first: &[&str] = match persist {
            Persist::None => &[],
            _ => &["channel lab:*", "channel lab:bench"],
        };
        assert_eq!(bus.shelve(&mut shelf), at_first);
        for (what, address, parameters, expected) in &steps {
            match *what {
                "event" | "private" => {
                    bus.join(&ann, &address.replace(":pm", ":*"));
                    bus.say(&ann, what, address, parameters.clone(), json!({}));
                    bus.command(&ann, "leave_channel", "r:*", json!({}));
                }
                command => drop(bus.done(&ann, command, address, parameters.clone())),
            }
            let expected: Vec<&str> = match persist {
                Persist::None => Vec::new(),
                Persist::History | Persist::All => expected.to_vec(),
            };
            assert_eq!(bus.shelve(&mut shelf), expected, "{persist:?} {what} {address}");
        }
        bus.pass(61_000);
        let expected: &[&str] = match persist {
            Persist::None => &[],
            _ => &["channel d:x gone", "room d gone"],
        };
        assert_eq!(bus.shelve(&mut shelf), expected, "{persist:?}");
    }
}

#[test]
fn nothing_is_recorded_and_no_ack_waits_without_a_storage() {
    let mut bus = Bus::usual();
    let ann = bus.connect(0, "ann");
    bus.done(&ann, "create_room", "r:*", json!({"config": {"persist": "all"}}));
    bus.join(&ann, "r:c");
    let id = bus.send(&ann, "r:c");
    assert_eq!(bus.ack(&ann, &id), "1");
    assert!(bus.records.is_empty());
}

#[test]
fn an_ack_waits_until_its_event_is_stored() {
    let mut bus = begun(Persist::All, &Shelf::default());
    let ann = bus.connect(0, "ann");
    bus.join(&ann, "r:c");
    let ids: Vec<String> = (0..3).map(|_| bus.send(&ann, "r:c")).collect();
    bus.send_again(&ann, "r:c", &ids[0]);
    let acks = |bus: &mut Bus| ids.iter().map(|id| bus.ack(&ann, id)).collect::<Vec<_>>();
    assert_eq!(acks(&mut bus), ["waits"; 3]);
    bus.stored("r", "c", 2);
    assert_eq!(acks(&mut bus), ["1", "2", "waits"]);
    assert_eq!(bus.ack(&ann, &ids[0]), "1 again", "a repeat waits for the first one");
    // Said twice, and late.
    bus.stored("r", "c", 1);
    assert_eq!(acks(&mut bus), ["waits"; 3]);
    bus.stored("r", "c", 3);
    assert_eq!(acks(&mut bus), ["waits", "waits", "3"]);
    bus.send_again(&ann, "r:c", &ids[1]);
    assert_eq!(bus.ack(&ann, &ids[1]), "2 again", "what is stored is known at once");
}

#[test]
fn a_traced_event_is_acknowledged_when_it_is_stored() {
    let mut bus = begun(Persist::All, &Shelf::default());
    let ann = bus.connect(0, "ann");
    bus.join(&ann, "r:c");
    let metadata = json!({"trace": true});
    let id = bus.say(&ann, "event", "r:c", json!({}), metadata.clone());
    bus.pass(1_000);
    assert_eq!(bus.ack(&ann, &id), "waits");
    bus.stored("r", "c", 1);
    let reply = bus.reply(&ann, &id).unwrap();
    assert_eq!(reply["result"]["trace"].as_array().unwrap().len(), 3, "{reply}");
    let id = bus.say(&ann, "event", "r:c", json!({}), metadata);
    bus.news(&StorageNews::Degraded("gone".into()));
    assert_eq!(bus.ack(&ann, &id), UNAVAILABLE);
    bus.pass(1_000);
    assert_eq!(bus.edges[0].pending_count(), 0);
}

#[test]
fn nobody_waits_for_a_storage_that_stores_nothing() {
    let mut bus = begun(Persist::All, &Shelf::default());
    let ann = bus.connect(0, "ann");
    bus.join(&ann, "r:c");
    bus.done(&ann, "create_room", "q:*", json!({"config": {"ack_when": "accepted"}}));
    bus.join(&ann, "q:c");
    let waiting = bus.send(&ann, "r:c");
    let quick = bus.send(&ann, "q:c");
    assert_eq!((bus.ack(&ann, &waiting).as_str(), bus.ack(&ann, &quick).as_str()), ("waits", "1"));
    bus.news(&StorageNews::Degraded("gone".into()));
    assert_eq!(bus.ack(&ann, &waiting), UNAVAILABLE);
    let late = bus.send(&ann, "r:c");
    let quick = bus.send(&ann, "q:c");
    assert_eq!((bus.ack(&ann, &late).as_str(), bus.ack(&ann, &quick).as_str()), (UNAVAILABLE, "2"));
    bus.news(&StorageNews::Restored);
    bus.send_again(&ann, "r:c", &late);
    assert_eq!(bus.ack(&ann, &late), "waits");
    bus.stored("r", "c", 2);
    assert_eq!(bus.ack(&ann, &late), "2 again");
}

#[test]
fn an_ack_waits_no_longer_than_its_time() {
    let mut bus = begun(Persist::All, &Shelf::default());
    let ann = bus.connect(0, "ann");
    bus.join(&ann, "r:c");
    let early = bus.send(&ann, "r:c");
    bus.pass(u64::from(TIMEOUT_MS) / 2);
    let late = bus.send(&ann, "r:c");
    bus.pass(u64::from(TIMEOUT_MS) / 2 + 64);
    let acks = (bus.ack(&ann, &early), bus.ack(&ann, &late));
    assert_eq!((acks.0.as_str(), acks.1.as_str()), (UNAVAILABLE, "waits"));
    bus.pass(u64::from(TIMEOUT_MS) / 2);
    assert_eq!(bus.ack(&ann, &late), UNAVAILABLE);
    bus.stored("r", "c", 2);
    bus.send_again(&ann, "r:c", &early);
    assert_eq!(bus.ack(&ann, &early), "1 again");
}

#[test]
fn what_is_lost_is_never_called_safe() {
    let mut bus = begun(Persist::All, &Shelf::default());
    let ann = bus.connect(0, "ann");
    bus.join(&ann, "r:c");
    let ids: Vec<String> = (0..3).map(|_| bus.send(&ann, "r:c")).collect();
    let channel = bus.id_of("r", "c");
    bus.news(&StorageNews::Lost { channel, first: 2, last: 2 });
    bus.stored("r", "c", 3);
    let acks: Vec<String> = ids.iter().map(|id| bus.ack(&ann, id)).collect();
    assert_eq!(acks, ["1", LOST, "3"]);
    bus.send_again(&ann, "r:c", &ids[1]);
    assert_eq!(bus.ack(&ann, &ids[1]), LOST);
    // The channel goes, and with it the hope for what was not stored.
    let waiting = bus.send(&ann, "r:c");
    bus.done(&ann, "leave_channel", "r:c", json!({}));
    bus.pass(u64::from(TIMEOUT_MS) / 2);
    bus.done(&ann, "delete_channel", "r:c", json!({}));
    assert_eq!(bus.ack(&ann, &waiting), LOST);
}

#[test]
fn a_home_begins_where_it_ended() {
    let (mut bus, mut shelf) = (begun(Persist::All, &Shelf::default()), Shelf::default());
    let ann = bus.connect(0, "ann");
    bus.done(&ann, "create_room", "r:*", json!({"config": {"publishers": ["ann"]}}));
    let private = json!({"type": "private", "metadata": {"members": ["bob"], "a": 1}});
    bus.done(&ann, "create_channel", "r:p", private);
    bus.done(&ann, "create_room", "quiet:*", json!({}));
    bus.done(&ann, "pause_room", "quiet:*", json!({}));
    for address in ["r:p", "lab:bench", "lab:made", "d:x", "r:*"] {
        bus.join(&ann, address);
    }
    let ids: Vec<String> = (0..3).map(|_| bus.send(&ann, "lab:bench")).collect();
    for address in ["r:p", "d:x", "r:*", "lab:made"] {
        bus.send(&ann, address);
    }
    let infos = ["r:p", "lab:bench", "lab:made", "d:x"];
    let told = |bus: &mut Bus, client: &Client| {
        let mut views: Vec<Value> = infos
            .iter()
            .map(|address| bus.done(client, "channel_info", address, json!({})))
            .collect();
        for view in &mut views {
            for members in ["participants", "participant_count", "state"] {
                view.as_object_mut().unwrap().remove(members);
            }
            // What the epoch is in another term follows it.
            let epoch = view["history"]["epoch"].as_str().unwrap().split('-').next().unwrap();
            view["history"]["epoch"] = json!(epoch);
        }
        views.push(bus.done(client, "list_rooms", "*:*", json!({}))["rooms"].clone());
        for room in views.last_mut().unwrap().as_array_mut().unwrap() {
            room.as_object_mut().unwrap().remove("participant_count");
        }
        views
    };
    let before = told(&mut bus, &ann);
    let epoch = bus.done(&ann, "history", "lab:bench", json!({}))["epoch"].clone();
    bus.shelve(&mut shelf);

    let mut bus = begun(Persist::All, &shelf);
    assert_eq!(bus.shelve(&mut shelf), [""; 0], "all of it is known");
    let ann = bus.connect(0, "ann");
    assert_eq!(told(&mut bus, &ann), before);
    let recover = json!({"recover": {"epoch": epoch, "sequence": 1}});
    let joined = bus.done(&ann, "join_channel", "lab:bench", recover);
    assert_eq!((&joined["recovered"], &joined["missed"]), (&json!(true), &json!(2)));
    let heard = bus.heard(&ann);
    let replayed = heard.iter().filter(|message| message["type"] == "event");
    let replayed: Vec<_> = replayed.map(|message| message["id"].as_str().unwrap()).collect();
    assert_eq!(replayed, [&*ids[1], &*ids[2]]);
    bus.send_again(&ann, "lab:bench", &ids[2]);
    assert_eq!(bus.ack(&ann, &ids[2]), "3 again", "what was stored is known at once");
    let next = bus.send(&ann, "lab:bench");
    assert_eq!(bus.ack(&ann, &next), "waits");
    bus.stored("lab", "bench", 4);
    assert_eq!(bus.ack(&ann, &next), "4");
    assert_eq!(bus.shelve(&mut shelf), ["channel lab:bench", "event lab:bench 4"]);
    // Of the channels that joins made, those that nobody joins again have their full time.
    bus.pass(59_000);
    assert_eq!(bus.shelve(&mut shelf), [""; 0]);
    bus.pass(2_000);
    let gone = ["channel d:x gone", "room d gone", "channel lab:made gone"];
    let mut recorded = bus.shelve(&mut shelf);
    recorded.sort_unstable();
    let mut expected = gone.to_vec();
    expected.sort_unstable();
    assert_eq!(recorded, expected);
}

#[test]
fn what_is_configured_wins_over_what_was_kept() {
    let (mut bus, mut shelf) = (begun(Persist::All, &Shelf::default()), Shelf::default());
    let ann = bus.connect(0, "ann");
    bus.join(&ann, "r:c");
    bus.send(&ann, "r:c");
    bus.shelve(&mut shelf);
    let mut kept = shelf.rooms["r"].clone();
    kept.name = Name::fixed("lab");
    (kept.paused, kept.config.member_limit) = (true, Some(1));
    shelf.rooms.insert("lab".to_owned(), kept);
    // Nothing is kept of a room any more that says so.
    shelf.rooms.get_mut("r").unwrap().config.persist = Some(Persist::None);
    let mut bus = begun(Persist::All, &shelf);
    let mut recorded = bus.shelve(&mut Shelf::default());
    recorded.retain(|word| !word.contains("lab"));
    assert_eq!(recorded.first().map(String::as_str), Some("room r gone"));
    let ann = bus.connect(0, "ann");
    let rooms = bus.done(&ann, "list_rooms", "*:*", json!({}));
    let lab = rooms["rooms"].as_array().unwrap().iter().find(|room| room["name"] == "lab");
    let lab = lab.unwrap();
    assert_eq!((&lab["state"], &lab["config"]["member_limit"]), (&json!("active"), &json!(9)));
}

#[test]
fn a_room_that_alone_says_it_is_kept_comes_back_as_it_was() {
    for default in [Persist::None, Persist::All] {
        let (mut bus, mut shelf) = (begun(default, &Shelf::default()), Shelf::default());
        let ann = bus.connect(0, "ann");
        let config = json!({"persist": "history", "publishers": ["ann"], "member_limit": 3});
        bus.done(&ann, "create_room", "r:*", json!({"config": config}));
        bus.join(&ann, "r:c");
        bus.send(&ann, "r:c");
        bus.stored("r", "c", 1);
        bus.shelve(&mut shelf);
        let mut bus = begun(default, &shelf);
        assert_eq!(bus.shelve(&mut shelf), [""; 0], "{default:?}");
        let ann = bus.connect(0, "ann");
        bus.join(&ann, "r:c");
        let history = bus.done(&ann, "history", "r:c", json!({}));
        assert_eq!(history["messages"].as_array().unwrap().len(), 1, "{default:?}");
        let rooms = bus.done(&ann, "list_rooms", "*:*", json!({}))["rooms"].clone();
        let room = rooms.as_array().unwrap().iter().find(|room| room["name"] == "r").unwrap();
        assert_eq!(room["config"], config, "{default:?}");
    }
}

#[test]
fn nothing_is_given_up_for_a_room_that_nothing_is_known_of() {
    let (mut bus, mut shelf) = (begun(Persist::All, &Shelf::default()), Shelf::default());
    let ann = bus.connect(0, "ann");
    bus.done(&ann, "create_channel", "r:c", json!({}));
    bus.join(&ann, "r:c");
    bus.send(&ann, "r:c");
    bus.shelve(&mut shelf);
    shelf.rooms.clear();
    for default in [Persist::None, Persist::All] {
        let mut bus = begun(default, &shelf);
        let words = bus.shelve(&mut shelf.clone());
        assert!(words.iter().all(|word| !word.contains("r:c")), "{default:?} {words:?}");
        let ann = bus.connect(0, "ann");
        bus.join(&ann, "r:c");
        let history = bus.done(&ann, "history", "r:c", json!({}));
        assert_eq!(history["messages"].as_array().unwrap().len(), 1, "{default:?}");
        bus.send(&ann, "r:c");
        assert_eq!(bus.shelve(&mut shelf.clone()).last().unwrap(), "event r:c 2", "{default:?}");
    }
    // The room is there, and says none.
    let mut bus = begun(Persist::None, &{
        let mut shelf = shelf.clone();
        let kept = shelf.channels["r:c"].clone();
        let mut moved = kept.0.clone();
        moved.address = Arc::new(crate::protocol::command::Address {
            room: Name::fixed("lab"),
            ..(*moved.address).clone()
        });
        shelf.channels.insert("lab:c".to_owned(), (moved, kept.1));
        shelf
    });
    assert!(bus.shelve(&mut shelf).contains(&"channel lab:c gone".to_owned()));
}

#[test]
fn what_a_join_made_waits_its_full_time_for_its_members() {
    let (mut bus, mut shelf) = (begun(Persist::All, &Shelf::default()), Shelf::default());
    let ann = bus.connect(0, "ann");
    for address in ["d:*", "e:*", "f:x"] {
        bus.join(&ann, address);
    }
    let id = bus.send(&ann, "d:*");
    bus.shelve(&mut shelf);
    let mut bus = begun(Persist::All, &shelf);
    assert_eq!(bus.shelve(&mut shelf), [""; 0]);
    bus.pass(59_000);
    let ann = bus.connect(0, "ann");
    bus.join(&ann, "d:*");
    bus.send_again(&ann, "d:*", &id);
    assert_eq!(bus.ack(&ann, &id), "1 again");
    bus.pass(2_000);
    let mut words = bus.shelve(&mut shelf);
    words.sort_unstable();
    assert_eq!(words, ["channel f:x gone", "room e gone", "room f gone"]);
}

#[test]
fn a_full_node_gives_up_nothing_whose_members_are_not_back() {
    let (mut bus, mut shelf) = (begun(Persist::All, &Shelf::default()), Shelf::default());
    let ann = bus.connect(0, "ann");
    bus.join(&ann, "d:x");
    bus.shelve(&mut shelf);
    let mut bus = begun(Persist::All, &shelf);
    let ann = bus.connect(0, "ann");
    let home = bus.placement.of_room("d");
    let is_beside = |name: &&&str| bus.placement.of_room(name) == home;
    let other = *["a", "b", "c", "e", "f", "g", "h"].iter().find(is_beside).unwrap();
    bus.join(&ann, "d:z");
    bus.done(&ann, "leave_channel", "d:z", json!({}));
    bus.shelve(&mut shelf);
    let taken = shelf.clone();
    let full = |bus: &mut Bus, max_channels, max_rooms, address: &str| {
        bus.reconfigure(Limits { max_channels, max_rooms, ..Limits::default() });
        let answer = bus.command(&ann, "join_channel", address, json!({}));
        (answer["error"].as_str().unwrap_or("joined").to_owned(), bus.shelve(&mut taken.clone()))
    };
    // There are lab:bench, d:x and d:z, in two rooms.
    let other = format!("{other}:y");
    for (max_channels, max_rooms, address, expected, gone) in [
        (2, 9, "d:y", "NODE_CHANNEL_LIMIT", None),
        (9, 2, &*other, "ROOM_LIMIT", None),
        (3, 9, "d:y", "joined", Some("channel d:z gone")),
        (3, 9, "d:w", "NODE_CHANNEL_LIMIT", None),
    ] {
        let (answer, words) = full(&mut bus, max_channels, max_rooms, address);
        let went: Vec<_> =
            words.iter().map(String::as_str).filter(|word| word.ends_with("gone")).collect();
        assert_eq!((&*answer, went), (expected, gone.as_slice().to_vec()));
    }
}

#[test]
fn what_is_no_run_is_not_taken_and_the_order_goes_on() {
    let (mut bus, mut shelf) = (begun(Persist::All, &Shelf::default()), Shelf::default());
    let ann = bus.connect(0, "ann");
    bus.join(&ann, "lab:bench");
    for _ in 0..4 {
        bus.send(&ann, "lab:bench");
    }
    bus.shelve(&mut shelf);
    for (lost, left) in [(3, vec![]), (1, vec![]), (0, vec![2, 3, 4])] {
        let mut shelf = shelf.clone();
        shelf.channels.get_mut("lab:bench").unwrap().1.remove(lost);
        let mut snapshot = shelf.snapshot();
        let kept = |kept: &&mut KeptChannel| kept.record.address.channel.as_str() == "bench";
        snapshot.channels.iter_mut().find(kept).unwrap().last = 4;
        let mut home = Bus::usual().homes.remove(0);
        let told = &mut Told::default();
        home.begin_with(bus.now, durability(Persist::All), snapshot, told);
        home.check();
        let history = &home.channel("lab", "bench").unwrap().history;
        let query = crate::broker::history::newest(Name::fixed("lab"), Name::fixed("bench"), 9);
        let page = history.page(&query, 0, usize::MAX).messages;
        let sequences: Vec<u64> = page.iter().map(|frame| frame.sequence).collect();
        assert_eq!((history.last(), sequences), (4, left), "without message {lost}");
    }
}

#[test]
fn a_channel_is_recorded_again_if_its_record_was_lost() {
    let mut bus = begun(Persist::All, &Shelf::default());
    let ann = bus.connect(0, "ann");
    bus.records.clear();
    bus.join(&ann, "r:c");
    let home = bus.placement.of_room("r");
    for record in std::mem::take(&mut bus.records) {
        bus.homes[home.index()].lose(record, &mut Told::default());
    }
    bus.tell(home, Told::default());
    bus.tell(home, Told::default());
    let words: Vec<String> = bus.shelve(&mut Shelf::default());
    assert_eq!(words, ["room r", "channel r:*", "channel r:c"]);
}

#[test]
fn that_something_is_gone_is_told_again_unless_it_was_made_anew() {
    let mut bus = begun(Persist::All, &Shelf::default());
    let ann = bus.connect(0, "ann");
    bus.done(&ann, "create_room", "r:*", json!({}));
    for address in ["r:c", "r:d"] {
        bus.done(&ann, "create_channel", address, json!({}));
    }
    bus.done(&ann, "pause_room", "r:*", json!({}));
    let home = bus.placement.of_room("r");
    let lose = |bus: &mut Bus| {
        let told = &mut Told::default();
        std::mem::take(&mut bus.records).into_iter().for_each(|record| {
            bus.homes[home.index()].lose(record, told);
        });
        bus.homes[home.index()].check();
    };
    bus.records.clear();
    bus.done(&ann, "resume_room", "r:*", json!({}));
    for address in ["r:c", "r:d"] {
        bus.done(&ann, "delete_channel", address, json!({}));
    }
    lose(&mut bus);
    bus.done(&ann, "create_channel", "r:d", json!({}));
    let words = bus.shelve(&mut Shelf::default());
    assert_eq!(words, ["channel r:c gone", "room r", "channel r:d"]);
    bus.done(&ann, "delete_channel", "r:d", json!({}));
    bus.done(&ann, "delete_room", "r:*", json!({}));
    lose(&mut bus);
    bus.done(&ann, "create_room", "r:*", json!({"config": {"persist": "none"}}));
    assert_eq!(bus.shelve(&mut Shelf::default()), ["room r gone", "channel r:d gone"]);
    bus.tell(home, Told::default());
    assert_eq!(bus.shelve(&mut Shelf::default()), [""; 0]);
}

#[test]
fn a_repeat_of_what_the_storage_has_forgotten_is_not_called_safe() {
    let mut bus = begun(Persist::All, &Shelf::default());
    let ann = bus.connect(0, "ann");
    bus.join(&ann, "r:c");
    let ids: Vec<String> = (0..4).map(|_| bus.send(&ann, "r:c")).collect();
    let channel = bus.id_of("r", "c");
    let again = |bus: &mut Bus| {
        ids.iter().for_each(|id| bus.send_again(&ann, "r:c", id));
        ids.iter().map(|id| bus.ack(&ann, id)).collect::<Vec<_>>()
    };
    bus.stored("r", "c", 3);
    bus.news(&StorageNews::Forgotten { channel, first: 2, last: 2 });
    ids.iter().for_each(|id| drop(bus.reply(&ann, id)));
    assert_eq!(again(&mut bus), ["1 again", LOST, "3 again", "waits"]);
    bus.news(&StorageNews::AllForgotten);
    assert_eq!(again(&mut bus), [LOST, LOST, LOST, "waits"]);
    bus.stored("r", "c", 4);
    ids.iter().for_each(|id| drop(bus.reply(&ann, id)));
    assert_eq!(again(&mut bus)[3], "4 again");
}

#[test]
fn whoever_saw_what_was_not_kept_does_not_recover() {
    let (mut bus, mut shelf) = (begun(Persist::All, &Shelf::default()), Shelf::default());
    let ann = bus.connect(0, "ann");
    bus.join(&ann, "lab:bench");
    for _ in 0..2 {
        bus.send(&ann, "lab:bench");
    }
    bus.shelve(&mut shelf);
    // Members get this, but the home dies before it is stored.
    bus.send(&ann, "lab:bench");
    let epoch = |bus: &mut Bus, client: &Client| {
        bus.done(client, "history", "lab:bench", json!({}))["epoch"].clone()
    };
    let first = epoch(&mut bus, &ann);

    let mut bus = begun(Persist::All, &shelf);
    let ann = bus.connect(0, "ann");
    bus.join(&ann, "lab:bench");
    for _ in 0..2 {
        bus.send(&ann, "lab:bench");
    }
    let second = epoch(&mut bus, &ann);
    bus.shelve(&mut shelf);

    let mut bus = begun(Persist::All, &shelf);
    let ann = bus.connect(0, "ann");
    let mut recover = |epoch: &Value, sequence: u64| {
        let recover = json!({"recover": {"epoch": epoch, "sequence": sequence}});
        let joined = bus.done(&ann, "join_channel", "lab:bench", recover);
        bus.done(&ann, "leave_channel", "lab:bench", json!({}));
        match joined["recovered"] == true {
            true => Ok(joined["missed"].as_u64().unwrap()),
            false => Err(joined["reason"].as_str().unwrap().to_owned()),
        }
    };
    let changed = Err("epoch_changed".to_owned());
    assert_ne!(first, second);
    assert_eq!(recover(&first, 2), Ok(2));
    assert_eq!(recover(&first, 3), changed, "its third message is not this third message");
    assert_eq!(recover(&second, 3), Ok(1));
    assert_eq!(recover(&second, 4), Ok(0));
    assert_eq!(recover(&second, 5), changed);
}

#[test]
fn what_is_too_old_is_neither_listed_nor_recovered() {
    let shelf = Shelf::default();
    let mut bus = begun(Persist::All, &shelf);
    for home in 0..bus.homes.len() {
        let mut told = Told::default();
        let kept = Durability { retention_age_ms: 5_000, ..durability(Persist::All) };
        let nothing = Snapshot { rooms: Vec::new(), channels: Vec::new(), is_unread: false };
        bus.homes[home].begin_with(bus.now, kept, nothing, &mut told);
    }
    let [ann, bob] = [(0, "ann"), (1, "bob")].map(|(at, id)| bus.connect(at, id));
    bus.join(&ann, "r:c");
    let epoch = bus.done(&bob, "join_channel", "r:c", json!({}))["epoch"].clone();
    bus.send(&ann, "r:c");
    bus.stored("r", "c", 1);
    bus.pass(4_000);
    bus.send(&ann, "r:c");
    bus.stored("r", "c", 2);
    assert_eq!(bus.done(&ann, "history", "r:c", json!({}))["first"], 1);
    bus.pass(2_000);
    assert_eq!(bus.done(&ann, "history", "r:c", json!({}))["first"], 2);
    bus.pass(10_000);
    bus.done(&bob, "leave_channel", "r:c", json!({}));
    let recover = json!({"recover": {"epoch": epoch, "sequence": 1}});
    let joined = bus.done(&bob, "join_channel", "r:c", recover);
    assert_eq!(
        (&joined["recovered"], &joined["reason"]),
        (&json!(false), &json!("history_overrun"))
    );
}
