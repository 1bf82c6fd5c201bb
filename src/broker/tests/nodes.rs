//! Homes of several nodes, over a storage that is played: it gives places and tells who is where,
//! late or at once, and goes away.

mod claims;
mod deleting;
mod listing;
mod orders;
mod returning;
mod schedule;
mod store;
mod unknown;
mod waiting;

use super::{Bus, Client};
use crate::base::hash::Placement;
use crate::base::ids::ShardId;
use crate::base::limits::{AHEAD_MS, CLAIM_TIMEOUT_MS, FOLLOW_IDLE_MS, Limits};
use crate::broker::durable::{Durability, of_homes};
use crate::broker::home::Told;
use crate::broker::lane::Ask;
use crate::broker::peers::{PeerId, PeerNews, To};
use crate::broker::policy::{PublishAnywhere, Role};
use crate::broker::record::StorageNews;
use crate::protocol::command::Persist;
use crate::protocol::names::Name;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::rc::Rc;
use store::Node;
pub(super) use store::Store;

const ACK_TIMEOUT_MS: u32 = 5_000;

impl Bus {
    /// Gives what is recorded to the store, and takes its news; true if there was anything.
    pub(super) fn trade(&mut self) -> bool {
        let Some((store, node)) = self.shared.clone() else { return false };
        let records = std::mem::take(&mut self.records);
        let is_something = !records.is_empty();
        records.into_iter().for_each(|record| store.borrow_mut().take(node, record));
        is_something || self.hear_one()
    }

    /// Takes one of the store's news, unless they are late.
    fn hear_one(&mut self) -> bool {
        let Some((store, node)) = self.shared.clone() else { return false };
        let next = {
            let of_node = &mut store.borrow_mut().nodes[node];
            if of_node.is_late { None } else { of_node.news.pop_front() }
        };
        let Some((to, news)) = next else { return false };
        self.hear_news(&to, &news);
        true
    }

    fn hear_news(&mut self, to: &To, news: &StorageNews) {
        let homes: Vec<ShardId> = match to {
            To::Shard(shard) => vec![*shard],
            To::Room(name) => vec![self.placement.of_room(name)],
            To::Client(client_id) => vec![self.placement.of_client(client_id)],
            To::All => Placement::new(super::SHARDS, 1).all().collect(),
        };
        for home in homes {
            self.ask(home, Ask::Storage(Box::new(news.clone())));
        }
    }
}

/// Some nodes on one store.
struct World {
    store: Rc<RefCell<Store>>,
    nodes: Vec<Bus>,
}

impl World {
    fn new(count: usize) -> World {
        let store = Rc::new(RefCell::new(Store::default()));
        let mut world = World { store, nodes: Vec::new() };
        (0..count).for_each(|_| world.start());
        world.settle();
        world
    }

    /// One more node.
    fn start(&mut self) {
        let node = self.nodes.len();
        self.store.borrow_mut().nodes.push(Node::default());
        let snapshot = self.store.borrow().snapshot();
        let anywhere = PublishAnywhere { user: false, admin: true };
        let mut bus = Bus::seeded(Limits::default(), anywhere, 7 + node as u64);
        // Ids of messages are unique for the sender; senders move from node to node.
        bus.sent = 1_000_000 * node as u32;
        bus.shared = Some((Rc::clone(&self.store), node));
        let durability = Durability {
            persist: Persist::All,
            retention_messages: 0,
            retention_age_ms: 0,
            ack_timeout_ms: ACK_TIMEOUT_MS,
            is_shared: true,
        };
        for (at, part) in of_homes(snapshot, &bus.placement).into_iter().enumerate() {
            let mut told = Told::default();
            bus.homes[at].begin_with(bus.now, durability.clone(), part, &mut told);
            bus.tell(ShardId(at as u16), told);
        }
        {
            let mut store = self.store.borrow_mut();
            for ((_, _), (of, address, client)) in store.members.clone() {
                let (peer, to) = (PeerId(of as u32), To::Room(address.room.clone()));
                let is_member = true;
                store.tell(node, to, PeerNews::Member { peer, address, client, is_member });
            }
            for (client_id, (of, ..)) in store.ids.clone() {
                let (peer, to, is_connected) =
                    (PeerId(of as u32), To::Client(client_id.clone()), true);
                store.tell(node, to, PeerNews::Client { peer, client_id, is_connected });
            }
        }
        self.nodes.push(bus);
    }

    /// Until nobody has anything to say.
    fn settle(&mut self) {
        loop {
            let mut is_quiet = true;
            for node in 0..self.nodes.len() {
                if !self.store.borrow().nodes[node].is_dead {
                    self.nodes[node].settle();
                }
            }
            for node in self.store.borrow().nodes.iter() {
                is_quiet &= node.news.is_empty() || node.is_late || node.is_dead;
            }
            if is_quiet {
                return;
            }
        }
    }

    fn pass(&mut self, ms: u64) {
        self.nodes.iter_mut().for_each(|bus| bus.pass(ms));
        self.settle();
    }

    fn set_late(&mut self, node: usize, is_late: bool) {
        self.store.borrow_mut().nodes[node].is_late = is_late;
        self.settle();
    }

    /// Takes the events from what a node has not heard yet.
    fn keep_back_events(&mut self, node: usize) -> Vec<(To, StorageNews)> {
        let arrived = |(_, news): &(To, StorageNews)| {
            matches!(news, StorageNews::Peer(PeerNews::Arrived { .. }))
        };
        let news = &mut self.store.borrow_mut().nodes[node].news;
        let (back, now): (Vec<_>, Vec<_>) = news.drain(..).partition(arrived);
        news.extend(now);
        back
    }

    fn cut_off(&mut self, node: usize) {
        self.store.borrow_mut().leave(node);
        self.settle();
    }

    fn mend(&mut self, node: usize) {
        self.store.borrow_mut().come_back(node);
        self.settle();
    }

    fn publish(&mut self, node: usize, client: &Client, address: &str) -> String {
        let id = self.nodes[node].send(client, address);
        self.settle();
        id
    }

    fn ack(&mut self, node: usize, client: &Client, id: &str) -> String {
        self.nodes[node].ack(client, id)
    }

    /// The events that a client heard: of each its sequence and its sender, with a star if it came
    /// from history; notices by their name.
    fn events(&mut self, node: usize, client: &Client) -> Vec<String> {
        let heard = self.nodes[node].heard(client).into_iter();
        heard.filter_map(|message| in_words(&message)).collect()
    }
}

/// Runs a schedule for each of `NODES_SEEDS` seeds, from `NODES_FIRST`.
fn for_each_seed(run: impl Fn(u64)) {
    let number = |name: &str, default: u64| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let first = number("NODES_FIRST", 0);
    for seed in first..first + number("NODES_SEEDS", 60) {
        println!("seed {seed}");
        run(seed);
    }
}

fn in_words(message: &Value) -> Option<String> {
    let from = message["from"].as_str().unwrap_or_default();
    match message["type"].as_str().unwrap_or_default() {
        "event" => {
            let star = if message["metadata"]["replayed"] == true { "*" } else { "" };
            Some(format!("{}{star} {from}", message["metadata"]["sequence"]))
        }
        "system" => {
            let payload = &message["payload"];
            let who = payload["client_id"].as_str().unwrap_or_default();
            Some(format!("{} {who}", payload["event"].as_str().unwrap_or_default()))
        }
        "private" => Some(format!("private {from}")),
        _ => None,
    }
}

#[test]
fn members_on_all_nodes_get_all_events_in_one_order() {
    let mut world = World::new(3);
    let ann = world.nodes[0].connect(0, "ann");
    let bob = world.nodes[1].connect(1, "bob");
    let cat = world.nodes[2].connect(2, "cat");
    world.nodes[0].join(&ann, "r:c");
    let joined = world.nodes[1].done(&bob, "join_channel", "r:c", json!({}));
    assert_eq!((&joined["participants"], &joined["created"]), (&json!(2), &json!(false)));
    world.nodes[2].join(&cat, "r:*");
    world.settle();
    let first = world.publish(0, &ann, "r:c");
    let second = world.publish(1, &bob, "r:c");
    assert_eq!((world.ack(0, &ann, &first), world.ack(1, &bob, &second)), ("1".into(), "2".into()));
    assert_eq!(world.events(0, &ann), ["2 bob"]);
    assert_eq!(world.events(1, &bob), ["1 ann"]);
    assert_eq!(world.events(2, &cat), ["1 ann", "2 bob"]);
    world.publish(2, &cat, "r:*");
    assert_eq!(world.events(0, &ann), ["1 cat"], "the room's own order");
    assert_eq!(world.events(1, &bob), ["1 cat"]);
}

#[test]
fn a_channel_that_is_made_elsewhere_is_joined_by_who_joined_its_whole_room() {
    let mut world = World::new(2);
    let ann = world.nodes[0].connect(0, "ann");
    let bob = world.nodes[1].connect(1, "bob");
    world.nodes[1].join(&bob, "r:*");
    // Node 1 hears nothing for a while: what is said meanwhile must not be missed.
    world.store.borrow_mut().nodes[1].is_late = true;
    world.nodes[0].join(&ann, "r:new");
    world.publish(0, &ann, "r:new");
    world.publish(0, &ann, "r:new");
    world.set_late(1, false);
    world.publish(0, &ann, "r:new");
    assert_eq!(world.events(1, &bob), ["1 ann", "2 ann", "3 ann"]);
    let listed = world.nodes[1].done(&bob, "list_channels", "r:*", json!({}));
    assert_eq!(listed["channels"][0]["participants"], 2, "{listed}");
    let info = world.nodes[0].done(&ann, "channel_info", "r:new", json!({}));
    let names: Vec<&str> = info["participants"]
        .as_array()
        .unwrap()
        .iter()
        .map(|participant| participant["client_id"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["ann", "bob"]);
}

#[test]
fn a_repeat_on_another_node_is_the_first_one() {
    let mut world = World::new(2);
    let ann = world.nodes[0].connect(0, "ann");
    world.nodes[0].join(&ann, "r:c");
    let id = world.publish(0, &ann, "r:c");
    world.publish(0, &ann, "r:c");
    world.nodes[0].disconnect(&ann);
    world.settle();
    let ann = world.nodes[1].connect(1, "ann");
    let bob = world.nodes[1].connect(1, "bob");
    world.nodes[1].join(&ann, "r:c");
    world.nodes[1].join(&bob, "r:c");
    world.nodes[1].send_again(&ann, "r:c", &id);
    world.settle();
    assert_eq!(world.ack(1, &ann, &id), "1 again");
    assert_eq!(world.events(1, &bob), Vec::<String>::new());
}

#[test]
fn an_event_that_its_home_has_not_seen_is_known_for_a_repeat_all_the_same() {
    let mut world = World::new(2);
    let ann = world.nodes[0].connect(0, "ann");
    let bob = world.nodes[1].connect(1, "bob");
    world.nodes[0].join(&ann, "r:c");
    world.nodes[1].join(&bob, "r:c");
    world.settle();
    world.store.borrow_mut().nodes[1].is_late = true;
    let id = world.publish(0, &ann, "r:c");
    world.nodes[0].disconnect(&ann);
    world.nodes[0].settle();
    // Node 1 lets her in by and by, and has not heard of the event when she repeats it.
    let kept_back = world.keep_back_events(1);
    assert_eq!(kept_back.len(), 1);
    world.set_late(1, false);
    let ann = world.nodes[1].connect(1, "ann");
    world.nodes[1].join(&ann, "r:c");
    world.nodes[1].send_again(&ann, "r:c", &id);
    world.settle();
    assert_eq!(world.ack(1, &ann, &id), "1 again");
    for (to, news) in &kept_back {
        world.nodes[1].hear_news(to, news);
    }
    world.settle();
    assert_eq!(world.events(1, &bob), ["1 ann"]);
}

#[test]
fn a_client_recovers_on_another_node_what_it_missed() {
    let mut world = World::new(2);
    let ann = world.nodes[0].connect(0, "ann");
    let bob = world.nodes[0].connect(1, "bob");
    let joined = world.nodes[0].done(&bob, "join_channel", "r:c", json!({}));
    world.nodes[0].join(&ann, "r:c");
    (0..3).for_each(|_| drop(world.publish(0, &ann, "r:c")));
    assert_eq!(world.events(0, &bob), ["1 ann", "2 ann", "3 ann"]);
    (0..2).for_each(|_| drop(world.publish(0, &ann, "r:c")));
    // The node dies; the other one has never had anybody in the channel.
    world.store.borrow_mut().bury(0);
    world.settle();
    let bob = world.nodes[1].connect(1, "bob");
    let recover = json!({"recover": {"epoch": joined["epoch"], "sequence": 3}});
    let joined = world.nodes[1].done(&bob, "join_channel", "r:c", recover);
    assert_eq!((&joined["recovered"], &joined["missed"]), (&json!(true), &json!(2)));
    assert_eq!(joined["participants"], 1, "who was on the dead node is gone");
    assert_eq!(world.events(1, &bob), ["4* ann", "5* ann"]);
}

#[test]
fn a_client_that_has_seen_more_than_its_new_node_waits_for_it() {
    let mut world = World::new(2);
    let ann = world.nodes[0].connect(0, "ann");
    let bob = world.nodes[0].connect(1, "bob");
    let cat = world.nodes[1].connect(1, "cat");
    let joined = world.nodes[0].done(&bob, "join_channel", "r:c", json!({}));
    world.nodes[0].join(&ann, "r:c");
    world.nodes[1].join(&cat, "r:c");
    world.settle();
    world.store.borrow_mut().nodes[1].is_late = true;
    (0..3).for_each(|_| drop(world.publish(0, &ann, "r:c")));
    world.nodes[0].disconnect(&bob);
    world.settle();
    let kept_back = world.keep_back_events(1);
    world.set_late(1, false);
    let bob = world.nodes[1].connect(1, "bob");
    let recover = json!({"epoch": joined["epoch"], "sequence": 2});
    let payload = json!({"command": "join_channel", "parameters": {"recover": recover}});
    let id = world.nodes[1].say(&bob, "command", "r:c", payload, json!({}));
    assert!(world.nodes[1].reply(&bob, &id).is_none());
    for (to, news) in &kept_back {
        world.nodes[1].hear_news(to, news);
    }
    world.settle();
    let reply = world.nodes[1].reply(&bob, &id).unwrap();
    let result = &reply["result"];
    assert_eq!((&result["recovered"], &result["missed"]), (&json!(true), &json!(0)), "{reply}");
    assert_eq!(world.events(1, &bob), ["3 ann"]);
    // What nobody has ever seen is not waited for for long.
    world.nodes[1].done(&bob, "leave_channel", "r:c", json!({}));
    let recover = json!({"epoch": joined["epoch"], "sequence": 9});
    let payload = json!({"command": "join_channel", "parameters": {"recover": recover}});
    let id = world.nodes[1].say(&bob, "command", "r:c", payload, json!({}));
    assert!(world.nodes[1].reply(&bob, &id).is_none());
    world.pass(AHEAD_MS);
    assert_eq!(world.nodes[1].reply(&bob, &id).unwrap()["result"]["recovered"], false);
}

#[test]
fn a_history_holds_what_was_acknowledged_before_it_was_asked_for() {
    let mut world = World::new(1);
    let ann = world.nodes[0].connect(0, "ann");
    world.nodes[0].join(&ann, "r:c");
    world.settle();
    let ask = |world: &mut World| {
        let payload = json!({"command": "history", "parameters": {}});
        world.nodes[0].say(&ann, "command", "r:c", payload, json!({}))
    };
    let found = |reply: Value| reply["result"]["messages"].as_array().map(Vec::len);
    for round in 1..=2 {
        // It has its place, but is still on its way back.
        world.set_late(0, true);
        let id = world.publish(0, &ann, "r:c");
        world.settle();
        let kept_back = world.keep_back_events(0);
        world.set_late(0, false);
        world.settle();
        assert_eq!(world.ack(0, &ann, &id), format!("{round}"), "it is stored");
        let id = ask(&mut world);
        assert!(world.nodes[0].reply(&ann, &id).is_none());
        match round {
            1 => {
                for (to, news) in &kept_back {
                    world.nodes[0].hear_news(to, news);
                }
                world.settle();
                assert_eq!(found(world.nodes[0].reply(&ann, &id).unwrap()), Some(1));
            }
            // It is not waited for for ever.
            _ => {
                world.pass(AHEAD_MS);
                assert_eq!(found(world.nodes[0].reply(&ann, &id).unwrap()), Some(1));
            }
        }
    }
}

#[test]
fn who_is_not_let_into_a_channel_that_turns_out_to_be_private_leaves_it() {
    let mut world = World::new(2);
    let ann = world.nodes[0].connect(0, "ann");
    let bob = world.nodes[1].connect(1, "bob");
    let cat = world.nodes[1].connect(1, "cat");
    let dan = world.nodes[1].connect(0, "dan");
    world.nodes[1].join(&cat, "r:*");
    world.settle();
    world.cut_off(1);
    // Where nobody hears of the other node the channel is made once more, for everyone.
    let private = json!({"type": "private", "metadata": {"members": ["dan"]}});
    world.nodes[0].done(&ann, "create_channel", "r:x", private);
    world.nodes[1].join(&bob, "r:x");
    world.nodes[1].join(&dan, "r:x");
    world.nodes[1].heard(&cat);
    world.mend(1);
    for client in [&bob, &cat] {
        let events = world.events(1, client);
        assert!(events.contains(&format!("left {}", client.id)), "{events:?}");
    }
    world.events(1, &dan);
    world.nodes[0].join(&ann, "r:x");
    world.settle();
    world.publish(0, &ann, "r:x");
    assert_eq!(world.events(1, &bob), Vec::<String>::new());
    assert_eq!(world.events(1, &cat), Vec::<String>::new());
    assert_eq!(world.events(1, &dan).len(), 1);
    // They go on as if nothing had been.
    world.nodes[1].join(&bob, "r:y");
    world.nodes[1].done(&bob, "leave_channel", "r:y", json!({}));
    world.nodes[1].done(&cat, "leave_channel", "r:*", json!({}));
}

#[test]
fn client_ids_are_unique_and_private_messages_find_them_on_all_nodes() {
    let mut world = World::new(2);
    let ann = world.nodes[0].connect(0, "ann");
    let bob = world.nodes[1].connect(1, "bob");
    world.nodes[0].join(&ann, "r:c");
    world.settle();
    let payload = json!({"target": ["bob", "zoe"]});
    let id = world.nodes[0].say(&ann, "private", "r:pm", payload, json!({}));
    world.settle();
    let refused = world.nodes[0].reply(&ann, &id).unwrap();
    assert_eq!(refused["error"], "TARGET_NOT_FOUND");
    assert!(refused["message"].as_str().unwrap().contains("zoe"), "{refused}");
    assert_eq!(world.events(1, &bob), ["private ann"]);
    world.nodes[0].done(&ann, "disconnect_client", "r:*", json!({"client_id": "bob"}));
    world.settle();
    assert_eq!(world.nodes[1].heard(&bob), [json!({"closed": 4013})]);
}

#[test]
fn a_claim_is_granted_when_nobody_answers_and_taken_back_when_another_has_it() {
    let mut world = World::new(2);
    world.nodes[0].connect(0, "ann");
    world.settle();
    for how in ["late", "away"] {
        match how {
            "late" => world.store.borrow_mut().nodes[1].is_late = true,
            _ => world.cut_off(1),
        }
        // The two do not know of each other.
        let id = if how == "late" { "bob" } else { "cat" };
        let identity = crate::protocol::command::Identity {
            client_id: Some(Name::fixed(id)),
            ..Default::default()
        };
        let bus = &mut world.nodes[1];
        let conn = crate::base::ids::ConnId { slot: 900 + u32::from(how == "late"), generation: 0 };
        let (edge, asks) = (&mut bus.edges[0], &mut bus.asks[0]);
        edge.connect(bus.now, conn, (None, Role::Admin), identity, asks);
        bus.settle();
        let client = Client { shard: ShardId(0), conn, id };
        if how == "late" {
            assert!(world.nodes[1].heard(&client).is_empty(), "the storage is asked first");
            world.nodes[1].pass(CLAIM_TIMEOUT_MS);
        }
        assert_eq!(world.nodes[1].heard(&client)[0]["payload"]["event"], "welcome", "{how}");
        if how == "late" {
            world.set_late(1, false);
            continue;
        }
        world.nodes[0].connect(0, "cat");
        world.settle();
        world.mend(1);
        assert_eq!(world.nodes[1].heard(&client), [json!({"closed": 4013})], "{how}");
    }
}

#[test]
fn who_watches_hears_of_those_on_other_nodes() {
    let mut world = World::new(2);
    let ann = world.nodes[0].connect(0, "ann");
    let bob = world.nodes[1].connect(1, "bob");
    let cat = world.nodes[1].connect(1, "cat");
    world.nodes[0].done(&ann, "join_channel", "r:c", json!({"presence": true}));
    world.settle();
    world.nodes[1].join(&bob, "r:c");
    world.nodes[1].join(&cat, "r:c");
    world.settle();
    world.nodes[1].done(&bob, "leave_channel", "r:c", json!({}));
    world.settle();
    world.store.borrow_mut().bury(1);
    world.settle();
    assert_eq!(world.events(0, &ann), ["joined bob", "joined cat", "left bob", "left cat"]);
}

#[test]
fn rooms_and_channels_are_the_same_on_all_nodes() {
    let mut world = World::new(2);
    let ann = world.nodes[0].connect(0, "ann");
    let bob = world.nodes[1].connect(0, "bob");
    let config = json!({"config": {"history_size": 7}});
    world.nodes[0].done(&ann, "create_room", "r:*", config);
    let private = json!({"type": "private", "metadata": {"members": ["bob"]}});
    world.nodes[0].done(&ann, "create_channel", "r:secret", private);
    world.settle();
    let again = world.nodes[1].command(&bob, "create_channel", "r:secret", json!({}));
    assert_eq!(again["error"], "CHANNEL_EXISTS");
    world.nodes[1].join(&bob, "r:secret");
    world.settle();
    let refused = world.nodes[0].command(&ann, "delete_channel", "r:secret", json!({}));
    assert_eq!(refused["error"], "CHANNEL_NOT_EMPTY", "{refused}");
    world.nodes[0].done(&ann, "pause_room", "r:*", json!({}));
    world.settle();
    let refused = world.nodes[1].publish(&bob, "r:secret");
    assert_eq!(refused["error"], "ROOM_PAUSED");
    // A node that starts later has it all.
    world.start();
    world.settle();
    let cat = world.nodes[2].connect(0, "cat");
    world.nodes[2].join(&cat, "r:secret");
    assert_eq!(world.nodes[2].publish(&cat, "r:secret")["error"], "ROOM_PAUSED");
    world.nodes[2].done(&cat, "leave_channel", "r:secret", json!({}));
    world.nodes[1].done(&bob, "leave_channel", "r:secret", json!({}));
    world.settle();
    world.pass(FOLLOW_IDLE_MS);
    world.nodes[0].done(&ann, "delete_channel", "r:secret", json!({}));
    world.nodes[0].done(&ann, "delete_room", "r:*", json!({}));
    world.settle();
    for node in 1..3 {
        let home = world.nodes[node].placement.of_room("r").index();
        assert!(world.nodes[node].homes[home].whole_room("r").is_none(), "node {node}");
    }
}

#[test]
fn a_channel_stays_while_it_has_members_anywhere_and_goes_when_it_has_none() {
    let mut world = World::new(2);
    let ann = world.nodes[0].connect(0, "ann");
    let bob = world.nodes[1].connect(1, "bob");
    world.nodes[0].join(&ann, "r:c");
    world.nodes[1].join(&bob, "r:c");
    world.settle();
    world.nodes[0].done(&ann, "leave_channel", "r:c", json!({}));
    world.settle();
    world.pass(200_000);
    world.publish(1, &bob, "r:c");
    let joined = world.nodes[0].done(&ann, "join_channel", "r:c", json!({}));
    assert_eq!((&joined["sequence"], &joined["created"]), (&json!(1), &json!(false)));
    world.nodes[0].done(&ann, "leave_channel", "r:c", json!({}));
    world.nodes[1].disconnect(&bob);
    world.settle();
    world.pass(200_000);
    world.pass(200_000);
    world.pass(200_000);
    assert!(world.store.borrow().channels.is_empty());
    for bus in &world.nodes {
        let home = bus.placement.of_room("r").index();
        assert!(bus.homes[home].whole_room("r").is_none());
    }
}

#[test]
fn a_node_that_is_cut_off_goes_on_alone_and_comes_back_into_the_order() {
    let mut world = World::new(2);
    let ann = world.nodes[0].connect(0, "ann");
    let bob = world.nodes[0].connect(1, "bob");
    let cat = world.nodes[1].connect(1, "cat");
    for (node, client) in [(0, &ann), (0, &bob), (1, &cat)] {
        world.nodes[node].join(client, "r:c");
    }
    world.settle();
    world.publish(0, &ann, "r:c");
    let before = world.nodes[0].done(&bob, "channel_info", "r:c", json!({}));
    world.cut_off(0);
    let alone = world.publish(0, &ann, "r:c");
    assert_eq!(world.ack(0, &ann, &alone), "503 STORAGE_UNAVAILABLE");
    let heard = world.events(0, &bob);
    assert_eq!(
        heard,
        ["1 ann", "epoch_changed ", "2 ann"],
        "members here go on hearing each other"
    );
    world.publish(1, &cat, "r:c");
    assert_eq!(world.events(1, &cat), ["1 ann"]);
    world.mend(0);
    // What cat said is second now; what ann said alone is third, and bob has it already.
    assert_eq!(world.events(0, &bob), ["epoch_changed ", "2 cat", "epoch_changed "]);
    assert_eq!(world.events(1, &cat), ["epoch_changed ", "3 ann"]);
    world.publish(0, &ann, "r:c");
    assert_eq!(world.events(0, &bob), ["4 ann"]);
    assert_eq!(world.events(1, &cat), ["4 ann"]);
    world.nodes[0].send_again(&ann, "r:c", &alone);
    world.settle();
    assert_eq!(world.ack(0, &ann, &alone), "3 again");
    // Who has seen the second of the fork can't be told what came after it; who has seen the first can.
    for (sequence, expected) in [(2, false), (1, true)] {
        world.nodes[0].done(&bob, "leave_channel", "r:c", json!({}));
        let epoch = &before["history"]["epoch"];
        let recover = json!({"recover": {"epoch": epoch, "sequence": sequence}});
        let joined = world.nodes[0].done(&bob, "join_channel", "r:c", recover);
        assert_eq!(joined["recovered"], expected, "{sequence}");
    }
}

#[test]
fn what_is_joined_while_the_storage_is_away_is_made_there_afterwards() {
    let mut world = World::new(2);
    let ann = world.nodes[0].connect(0, "ann");
    let bob = world.nodes[0].connect(1, "bob");
    world.cut_off(0);
    world.nodes[0].join(&ann, "r:c");
    world.nodes[0].join(&bob, "r:c");
    world.publish(0, &ann, "r:c");
    assert_eq!(world.events(0, &bob), ["1 ann"]);
    world.mend(0);
    // The order of the whole room is another one, too.
    assert_eq!(world.events(0, &bob), ["epoch_changed ", "epoch_changed "]);
    let cat = world.nodes[1].connect(1, "cat");
    let joined = world.nodes[1].done(&cat, "join_channel", "r:c", json!({}));
    assert_eq!((&joined["sequence"], &joined["participants"]), (&json!(1), &json!(3)));
    world.publish(0, &ann, "r:c");
    assert_eq!(world.events(0, &bob), ["2 ann"]);
    assert_eq!(world.events(1, &cat), ["2 ann"]);
}

#[test]
fn what_has_a_place_in_an_order_that_is_over_keeps_nothing_followed() {
    let mut world = World::new(1);
    let ann = world.nodes[0].connect(0, "ann");
    world.nodes[0].join(&ann, "r:c");
    world.settle();
    world.store.borrow_mut().nodes[0].is_late = true;
    world.publish(0, &ann, "r:c");
    // Its place is heard, and the event never.
    drop(world.keep_back_events(0));
    world.set_late(0, false);
    world.store.borrow_mut().begin_anew(0, "r:c");
    world.settle();
    assert!(world.store.borrow().follows(0, "r:c"));
    world.nodes[0].done(&ann, "leave_channel", "r:c", json!({}));
    world.pass(FOLLOW_IDLE_MS);
    assert!(!world.store.borrow().follows(0, "r:c"));
}
