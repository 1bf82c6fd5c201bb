//! Homes of several nodes, over a storage that is played: it gives places and tells who is where,
//! late or at once, and goes away.

use super::{Bus, Client};
use crate::base::hash::Placement;
use crate::base::ids::{ChannelId, ShardId};
use crate::base::limits::{AHEAD_MS, CLAIM_TIMEOUT_MS, FOLLOW_IDLE_MS, Limits};
use crate::broker::durable::{Durability, of_homes};
use crate::broker::home::Told;
use crate::broker::lane::Ask;
use crate::broker::peers::{
    Arrival, Attach, Peer, PeerId, PeerNews, PeerNote, PeerRecord, Place, Submission, To,
};
use crate::broker::policy::{ClientCard, PublishAnywhere};
use crate::broker::record::{
    ChannelRecord, KeptChannel, Record, RoomRecord, Snapshot, StorageNews,
};
use crate::protocol::command::{Address, Persist};
use crate::protocol::frame::Frame;
use crate::protocol::names::Name;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

const ACK_TIMEOUT_MS: u32 = 5_000;

/// A member: on which node, of what, who.
type Resident = (usize, Arc<Address>, Arc<ClientCard>);
/// By client and channel: the ids that it heard, and the sequences since its last gap.
type Heard = BTreeMap<(usize, String), (BTreeSet<String>, Vec<u64>)>;

/// What several nodes share.
#[derive(Default)]
pub(super) struct Store {
    rooms: BTreeMap<String, RoomRecord>,
    channels: BTreeMap<String, Kept>,
    /// The client ids, and who has them.
    ids: BTreeMap<Name, usize>,
    /// Who is a member of what, on which node.
    members: BTreeMap<(String, Name), Resident>,
    nodes: Vec<Node>,
    terms: u32,
    /// The places that were given, by the ids of the events and the lives of their channel.
    places: BTreeMap<String, BTreeMap<Arc<str>, u64>>,
}

/// One node, as the store sees it.
#[derive(Default)]
struct Node {
    news: VecDeque<(To, StorageNews)>,
    /// Its news are not taken to it now.
    is_late: bool,
    /// It does not reach the store; what it records waits.
    is_away: bool,
    waiting: VecDeque<Record>,
    is_dead: bool,
}

struct Kept {
    record: ChannelRecord,
    frames: Vec<Arc<Frame>>,
    /// The nodes that follow it, under which id, and up to which sequence they were told.
    followers: BTreeMap<usize, (ChannelId, u64)>,
}

impl Store {
    fn tell(&mut self, node: usize, to: To, news: PeerNews) {
        if !self.nodes[node].is_dead {
            self.nodes[node].news.push_back((to, StorageNews::Peer(news)));
        }
    }

    fn tell_others(&mut self, node: usize, to: &To, news: &PeerNews) {
        for other in (0..self.nodes.len()).filter(|&other| other != node) {
            self.tell(other, to.clone(), news.clone());
        }
    }

    fn take(&mut self, node: usize, record: Record) {
        match self.nodes[node].is_away {
            true => self.nodes[node].waiting.push_back(record),
            false => self.keep(node, record),
        }
    }

    fn keep(&mut self, node: usize, record: Record) {
        match record {
            Record::Room(room) => {
                let (to, news) = (To::Room(room.name.clone()), PeerNews::Room(room.clone()));
                self.rooms.insert(room.name.to_string(), *room);
                self.tell_others(node, &to, &news);
            }
            Record::RoomGone(name) => {
                self.rooms.remove(name.as_str());
                self.channels.remove(&format!("{name}:*"));
                self.tell_others(node, &To::Room(name.clone()), &PeerNews::RoomGone(name));
            }
            Record::Channel(channel) => _ = self.make(node, &channel),
            Record::ChannelGone(address) => {
                let Some(kept) = self.channels.get(&address.to_string()) else { return };
                let to = To::Room(address.room.clone());
                if kept.followers.keys().any(|&follower| follower != node) {
                    let again = Box::new(kept.record.clone());
                    return self.tell(node, to, PeerNews::Channel(again));
                }
                self.channels.remove(&address.to_string());
                self.tell_others(node, &to, &PeerNews::ChannelGone(address));
            }
            Record::Event(event) => panic!("a shared storage gives the places: {event:?}"),
            Record::Peer(record) => self.keep_of_peers(node, *record),
            Record::Session(record) => panic!("no home has a session: {record:?}"),
        }
    }

    fn make(&mut self, node: usize, record: &ChannelRecord) -> bool {
        let key = record.address.to_string();
        if self.channels.contains_key(&key) {
            return false;
        }
        let (record, frames) = (record.clone(), Vec::new());
        let to = To::Room(record.address.room.clone());
        self.tell_others(node, &to, &PeerNews::Channel(Box::new(record.clone())));
        self.channels.insert(key, Kept { record, frames, followers: BTreeMap::new() });
        true
    }

    fn keep_of_peers(&mut self, node: usize, record: PeerRecord) {
        match record {
            PeerRecord::Attach(attach) => {
                let Attach { channel, record, .. } = *attach;
                let is_new = self.make(node, &record);
                self.attach(node, channel, &record.address.to_string(), is_new);
            }
            PeerRecord::Detach(_, address) => {
                if let Some(kept) = self.channels.get_mut(&address.to_string()) {
                    kept.followers.remove(&node);
                }
            }
            PeerRecord::Submit(submission) => self.submit(node, &submission),
            PeerRecord::Fork { address, base, .. } => {
                self.terms += 1;
                let term = self.terms;
                let Some(kept) = self.channels.get_mut(&address.to_string()) else { return };
                let sure = base.min(kept.frames.len() as u64);
                let before = std::mem::replace(&mut kept.record.term, term);
                kept.record.past.push((before, sure));
                let past = kept.record.past.clone();
                for (node, (channel, _)) in kept.followers.clone() {
                    let news = PeerNews::Term { channel, term, past: past.clone() };
                    self.tell(node, To::Shard(channel.home()), news);
                }
            }
            PeerRecord::Member { address, client, is_member } => {
                let key = (address.to_string(), client.client_id.clone());
                let member = (node, Arc::clone(&address), Arc::clone(&client));
                match is_member {
                    true => _ = self.members.insert(key, member),
                    false => _ = self.members.remove(&key),
                }
                let (to, peer) = (To::Room(address.room.clone()), PeerId(node as u32));
                let news = PeerNews::Member { peer, address, client, is_member };
                self.tell_others(node, &to, &news);
            }
            PeerRecord::Claim(client_id, conn) => {
                let holder = *self.ids.entry(client_id.clone()).or_insert(node);
                let is_granted = holder == node;
                let to = To::Client(client_id.clone());
                if is_granted {
                    self.tell_client(node, &client_id, true);
                }
                self.tell(node, to, PeerNews::Claimed { client_id, conn, is_granted });
            }
            PeerRecord::Release(client_id) => {
                if self.ids.get(&client_id) == Some(&node) {
                    self.ids.remove(&client_id);
                }
                self.tell_client(node, &client_id, false);
            }
            PeerRecord::Send(peer, note) => self.send(peer.0 as usize, note),
            PeerRecord::SendAll(note) => {
                for other in (0..self.nodes.len()).filter(|&other| other != node) {
                    self.send(other, note.clone());
                }
            }
        }
    }

    fn tell_client(&mut self, node: usize, client_id: &Name, is_connected: bool) {
        let (peer, client_id) = (PeerId(node as u32), client_id.clone());
        let to = To::Client(client_id.clone());
        self.tell_others(node, &to, &PeerNews::Client { peer, client_id, is_connected });
        for other in 0..self.nodes.len() {
            let peers = (0..self.nodes.len()).filter(|&at| at != other && !self.nodes[at].is_dead);
            let peers = peers.map(|at| Peer {
                id: PeerId(at as u32),
                node: format!("n{at}"),
                clients: self.ids.values().filter(|&&of| of == at).count() as u64,
            });
            let peers = Arc::new(peers.collect());
            self.tell(other, To::All, PeerNews::Peers(peers));
        }
    }

    fn send(&mut self, node: usize, note: PeerNote) {
        let to = match &note {
            PeerNote::Private { targets, .. } => {
                for target in targets.clone() {
                    let PeerNote::Private { frame, .. } = &note else { return };
                    let frame = frame.clone();
                    let one = PeerNote::Private { targets: vec![target.clone()], frame };
                    self.tell(node, To::Client(target), PeerNews::Note(one));
                }
                return;
            }
            PeerNote::Disconnect { client_id, .. } => To::Client(client_id.clone()),
            PeerNote::Announce { room: Some(room), .. } => To::Room(room.clone()),
            PeerNote::Announce { room: None, .. } => To::All,
        };
        self.tell(node, to, PeerNews::Note(note));
    }

    fn attach(&mut self, node: usize, channel: ChannelId, key: &str, is_new: bool) {
        let Some(kept) = self.channels.get_mut(key) else { return };
        let last = kept.frames.len() as u64;
        kept.followers.insert(node, (channel, last));
        let from = kept.frames.len().saturating_sub(500);
        let kept = Arc::new(KeptChannel {
            record: kept.record.clone(),
            last,
            last_us: kept.frames.last().map_or(0, |frame| frame.timestamp_us),
            messages: kept.frames[from..].to_vec(),
        });
        let to = To::Shard(channel.home());
        self.tell(node, to, PeerNews::Attached { channel, kept, is_new });
    }

    fn submit(&mut self, node: usize, submission: &Submission) {
        let Submission { channel, address, ticket, seen, draft, at_us, .. } = submission;
        let kept = self.channels.get_mut(&address.to_string()).expect("who submits has attached");
        assert!(*seen <= kept.frames.len() as u64, "nobody has seen what is not there");
        let unseen = &kept.frames[*seen as usize..];
        let first = unseen.iter().find(|frame| frame.identity() == draft.identity());
        let (ticket, is_duplicate) = (*ticket, first.is_some());
        let sequence = first.map_or(kept.frames.len() as u64 + 1, |frame| frame.sequence);
        let to = To::Shard(channel.home());
        if !is_duplicate {
            let last_us = kept.frames.last().map_or(0, |frame| frame.timestamp_us);
            let stamp = || (**draft).clone().stamp(sequence, last_us.max(*at_us));
            kept.frames.push(stamp());
            let key = format!("{address} {}", draft.id());
            let life = kept.record.epoch.clone();
            let places = self.places.entry(key).or_default();
            let before = places.insert(life, sequence);
            assert_eq!(
                before,
                None,
                "a repeat gets no place: {address} {} seen {seen}",
                draft.id()
            );
            for (follower, (channel, last)) in kept.followers.clone() {
                if self.nodes[follower].is_away {
                    continue;
                }
                assert_eq!(last + 1, sequence, "who is not away is told at once");
                let ticket = (follower == node).then_some(ticket);
                let events = vec![Arrival { frame: stamp(), ticket }];
                self.tell(
                    follower,
                    To::Shard(channel.home()),
                    PeerNews::Arrived { channel, events },
                );
                let kept = self.channels.get_mut(&address.to_string()).expect("it is there");
                kept.followers.insert(follower, (channel, sequence));
            }
        }
        let places = vec![Place { ticket, sequence, is_duplicate }];
        self.tell(node, to, PeerNews::Placed { channel: *channel, places });
    }

    /// A node does not reach the store any more.
    fn leave(&mut self, node: usize) {
        self.nodes[node].is_away = true;
        let news = StorageNews::Degraded("gone".into());
        self.nodes[node].news.push_back((To::All, news));
    }

    /// A node reaches the store again: what it missed is told, and what waited is kept.
    fn come_back(&mut self, node: usize) {
        self.nodes[node].is_away = false;
        let mut missed = Vec::new();
        for kept in self.channels.values_mut() {
            if let Some((channel, last)) = kept.followers.get_mut(&node) {
                let frames = kept.frames[*last as usize..].to_vec();
                *last = kept.frames.len() as u64;
                missed.push((*channel, kept.record.clone(), frames));
            }
        }
        for (channel, record, frames) in missed {
            let to = To::Shard(channel.home());
            let (term, past) = (record.term, record.past);
            self.tell(node, to.clone(), PeerNews::Term { channel, term, past });
            if !frames.is_empty() {
                let events =
                    frames.into_iter().map(|frame| Arrival { frame, ticket: None }).collect();
                self.tell(node, to, PeerNews::Arrived { channel, events });
            }
        }
        for record in std::mem::take(&mut self.nodes[node].waiting) {
            self.keep(node, record);
        }
        self.nodes[node].news.push_back((To::All, StorageNews::Restored));
    }

    /// A node is dead.
    fn bury(&mut self, node: usize) {
        self.nodes[node].is_dead = true;
        self.ids.retain(|_, of| *of != node);
        self.members.retain(|_, (of, ..)| *of != node);
        self.channels.values_mut().for_each(|kept| _ = kept.followers.remove(&node));
        self.tell_others(node, &To::All, &PeerNews::PeerGone(PeerId(node as u32)));
    }

    fn snapshot(&self) -> Snapshot {
        let kept = self.channels.values().map(|kept| KeptChannel {
            record: kept.record.clone(),
            last: kept.frames.len() as u64,
            last_us: 0,
            messages: Vec::new(),
        });
        Snapshot { rooms: self.rooms.values().cloned().collect(), channels: kept.collect() }
    }
}

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
        let mut bus = Bus::seeded(Limits::default(), PublishAnywhere::default(), 7 + node as u64);
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
            for (client_id, of) in store.ids.clone() {
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
    let arrived =
        |(_, news): &(To, StorageNews)| matches!(news, StorageNews::Peer(PeerNews::Arrived { .. }));
    let kept_back: Vec<_> = {
        let mut store = world.store.borrow_mut();
        let (back, now): (Vec<_>, Vec<_>) = store.nodes[1].news.drain(..).partition(arrived);
        store.nodes[1].news.extend(now);
        back
    };
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
    let arrived =
        |(_, news): &(To, StorageNews)| matches!(news, StorageNews::Peer(PeerNews::Arrived { .. }));
    let kept_back: Vec<_> = {
        let mut store = world.store.borrow_mut();
        let (back, now): (Vec<_>, Vec<_>) = store.nodes[1].news.drain(..).partition(arrived);
        store.nodes[1].news.extend(now);
        back
    };
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
        edge.connect(bus.now, conn, None, identity, asks);
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
    assert_eq!(world.events(0, &bob), ["1 ann", "2 ann"], "members here go on hearing each other");
    world.publish(1, &cat, "r:c");
    assert_eq!(world.events(1, &cat), ["1 ann"]);
    world.mend(0);
    // What cat said is second now; what ann said alone is third, and bob has it already.
    assert_eq!(world.events(0, &bob), ["gap ", "2 cat"]);
    assert_eq!(world.events(1, &cat), ["3 ann"]);
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
    assert!(world.events(0, &bob).iter().all(|event| event.starts_with("gap")));
    let cat = world.nodes[1].connect(1, "cat");
    let joined = world.nodes[1].done(&cat, "join_channel", "r:c", json!({}));
    assert_eq!((&joined["sequence"], &joined["participants"]), (&json!(1), &json!(3)));
    world.publish(0, &ann, "r:c");
    assert_eq!(world.events(0, &bob), ["2 ann"]);
    assert_eq!(world.events(1, &cat), ["2 ann"]);
}

#[test]
fn a_join_does_not_wait_for_ever_and_who_is_gone_joins_nothing() {
    let mut world = World::new(2);
    let ann = world.nodes[0].connect(0, "ann");
    let bob = world.nodes[0].connect(1, "bob");
    world.store.borrow_mut().nodes[0].is_late = true;
    let join = |world: &mut World, client: &Client| {
        let payload = json!({"command": "join_channel", "parameters": {}});
        world.nodes[0].say(client, "command", "r:c", payload, json!({}))
    };
    let of_ann = join(&mut world, &ann);
    join(&mut world, &bob);
    assert!(world.nodes[0].reply(&ann, &of_ann).is_none());
    world.nodes[0].disconnect(&bob);
    world.nodes[0].pass(u64::from(ACK_TIMEOUT_MS));
    let reply = world.nodes[0].reply(&ann, &of_ann).unwrap();
    assert_eq!(reply["result"]["participants"], 1, "{reply}");
    world.set_late(0, false);
    world.publish(0, &ann, "r:c");
    let info = world.nodes[0].done(&ann, "channel_info", "r:c", json!({}));
    assert_eq!(
        (&info["participant_count"], &info["history"]["last_sequence"]),
        (&json!(1), &json!(1))
    );
}

/// A schedule that a seed chooses: clients on three nodes join, leave, publish and move, while nodes
/// hear late or are cut off. Afterwards every member has heard each event at most once; what it heard
/// since its last gap is a run; and what was acknowledged has just that place.
#[test]
fn whatever_happens_everybody_ends_in_one_order() {
    let number = |name: &str, default: u64| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let first = number("NODES_FIRST", 0);
    for seed in first..first + number("NODES_SEEDS", 60) {
        println!("seed {seed}");
        run(seed);
    }
}

fn run(seed: u64) {
    const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
    const CHANNELS: [&str; 3] = ["r:x", "r:y", "s:x"];
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut world = World::new(3);
    let mut clients: Vec<(usize, Client)> = Vec::new();
    for (at, name) in NAMES.into_iter().enumerate() {
        let client = world.nodes[at % 3].connect(at as u16 % 2, name);
        clients.push((at % 3, client));
        world.settle();
    }
    let mut joined: Vec<BTreeSet<&str>> = vec![BTreeSet::new(); NAMES.len()];
    let mut heard = Heard::new();
    let mut sent: Vec<(usize, &str, String)> = Vec::new();
    let mut joined_at: BTreeMap<(usize, String), usize> = BTreeMap::new();
    let mut acked: BTreeMap<String, u64> = BTreeMap::new();
    for _ in 0..120 {
        let at = rng.usize(..clients.len());
        let (node, client) = clients[at].clone();
        let channel = CHANNELS[rng.usize(..CHANNELS.len())];
        match rng.u8(..13) {
            0..=5 if joined[at].contains(channel) => {
                let id = world.nodes[node].send(&client, channel);
                sent.push((at, channel, id));
            }
            // Sends one of its last events again.
            11 if joined[at].contains(channel) => {
                let of_it = |(of, to, _): &&(usize, &str, String)| *of == at && *to == channel;
                let last: Vec<String> =
                    sent.iter().rev().filter(of_it).take(5).map(|(_, _, id)| id.clone()).collect();
                if let Some(id) = rng.choice(last) {
                    world.nodes[node].send_again(&client, channel, &id);
                }
            }
            6..=7 if !joined[at].contains(channel) => {
                let payload = json!({"command": "join_channel", "parameters": {}});
                world.nodes[node].say(&client, "command", channel, payload, json!({}));
                // It may wait, and is answered in any case before it is looked at.
                world.store.borrow_mut().nodes[node].is_late = false;
                world.settle();
                joined[at].insert(channel);
                joined_at.insert((at, channel.to_owned()), sent.len());
                heard.remove(&(at, channel.to_owned()));
            }
            8 if joined[at].contains(channel) => {
                world.nodes[node].done(&client, "leave_channel", channel, json!({}));
                listen(&mut world, at, &clients[at], &mut heard, &sent, &mut acked);
                joined[at].remove(channel);
            }
            9 => world.store.borrow_mut().nodes[node].is_late ^= true,
            10 => {
                let is_away = world.store.borrow().nodes[node].is_away;
                match is_away {
                    true => world.mend(node),
                    false => world.cut_off(node),
                }
            }
            _ => world.pass(rng.u64(..40_000)),
        }
        if rng.bool() {
            world.settle();
        }
        for (at, client) in clients.iter().enumerate() {
            listen(&mut world, at, client, &mut heard, &sent, &mut acked);
        }
    }
    for node in 0..3 {
        world.store.borrow_mut().nodes[node].is_late = false;
        let is_away = world.store.borrow().nodes[node].is_away;
        if is_away {
            world.mend(node);
        }
    }
    world.settle();
    world.pass(1);
    for (at, client) in clients.iter().enumerate() {
        listen(&mut world, at, client, &mut heard, &sent, &mut acked);
    }
    let store = world.store.borrow();
    for (key, sequence) in &acked {
        let is_so = store.places[key].values().any(|place| place == sequence);
        assert!(is_so, "seed {seed}: {key} was acknowledged with {sequence}");
    }
    for ((at, channel), (ids, run)) in &heard {
        if !joined[*at].contains(channel.as_str()) {
            continue;
        }
        let is_grown = run.windows(2).all(|pair| pair[0] < pair[1]);
        assert!(is_grown, "seed {seed}: {at} in {channel}: {run:?}");
        let frames = &store.channels[channel].frames;
        let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
        for frame in frames.iter().filter(|frame| (*first..=*last).contains(&frame.sequence)) {
            let is_own = frame.from() == NAMES[*at];
            // What it heard before a gap it does not hear again; what was said to the members of its
            // node before it was one may have got its place since.
            let is_heard = ids.contains(frame.id());
            let said = sent.iter().position(|(_, _, id)| id == frame.id()).unwrap();
            let is_early = said < joined_at[&(*at, channel.clone())];
            let name = frame.id();
            assert!(
                is_own != is_heard || is_early,
                "seed {seed}: {at} in {channel}: {run:?} {name}"
            );
        }
    }
}

/// Takes note of what a client heard.
fn listen(
    world: &mut World,
    at: usize,
    (node, client): &(usize, Client),
    heard: &mut Heard,
    sent: &[(usize, &str, String)],
    acked: &mut BTreeMap<String, u64>,
) {
    for message in world.nodes[*node].heard(client) {
        let text = |field: &str| message[field].as_str().unwrap_or_default().to_owned();
        let key = (at, format!("{}:{}", text("room"), text("channel")));
        let payload = &message["payload"];
        match text("type").as_str() {
            "event" => {
                let (ids, run) = heard.entry(key).or_default();
                assert!(ids.insert(text("id")), "{at} heard {message} before");
                run.push(message["metadata"]["sequence"].as_u64().unwrap());
            }
            "system" if payload["event"] == "gap" => heard.entry(key).or_default().1.clear(),
            "command_response" if payload["status"] == "success" => {
                let id = payload["request_id"].as_str().unwrap_or_default();
                if let Some((_, channel, _)) = sent.iter().find(|(_, _, known)| known == id) {
                    let sequence = payload["result"]["sequence"].as_u64().unwrap();
                    acked.insert(format!("{channel} {id}"), sequence);
                }
            }
            _ => {}
        }
    }
}
