//! Several nodes over a network that loses, delays and repeats what they say; nodes die, end, come
//! back and lose Redis. When it is quiet, everybody knows what is true.

use super::*;
use crate::broker::policy::Role;
use crate::protocol::command::ClientType;
use crate::storage::census::table::{Change, Table};
use fastrand::Rng;

/// How long a step takes.
const STEP_MS: u64 = 50;
/// The longest that a message is on its way.
const DELAY_MS: u64 = 300;
/// So little that most tables need several messages.
const ROWS_BYTES: usize = 400;

const CLIENTS: [&str; 6] = ["ann", "bob", "cyd", "dan", "eve", "fay"];
const CHANNELS: [&str; 4] = ["a", "b", "c", "d"];

/// A table as lines, so that two can be compared and read.
type Lines = BTreeMap<String, String>;

struct Node {
    census: Census,
    /// What the news made of each peer.
    model: BTreeMap<PeerId, Lines>,
    shown: Vec<PeerView>,
    /// When something came from each token, or Redis came back; none once it has said goodbye.
    heard_ms: BTreeMap<String, u64>,
    is_connected: bool,
    /// Which peer is which.
    tokens: BTreeMap<PeerId, String>,
}

struct Flight {
    at_ms: u64,
    number: u64,
    to: String,
    from: String,
    bytes: Vec<u8>,
}

struct World {
    rng: Rng,
    now_ms: u64,
    nodes: Vec<Node>,
    flights: Vec<Flight>,
    born: u64,
    sent: u64,
    /// In percent.
    loss: u32,
    delay_ms: u64,
}

fn now(ms: u64) -> Now {
    Now { mono_ns: ms * 1_000_000, wall_us: 0 }
}

fn member_line(address: &Address, id: &Name) -> String {
    format!("{id} in {address}")
}

fn lines(table: &Table) -> Lines {
    let line = |change| match change {
        Change::Client { client_id, .. } => (client_id.to_string(), String::new()),
        Change::Member { address, client, .. } => {
            (member_line(&address, &client.client_id), format!("{client:?}"))
        }
    };
    table.all().into_iter().map(line).collect()
}

impl Node {
    fn new(number: u64) -> Node {
        let mut census = Census::new(format!("t{number}"), format!("n{number}"), number);
        census.own = Own::new(ROWS_BYTES);
        Node {
            census,
            model: BTreeMap::new(),
            shown: Vec::new(),
            heard_ms: BTreeMap::new(),
            is_connected: false,
            tokens: BTreeMap::new(),
        }
    }

    /// Applies what was told, each of which must change something.
    fn read_news(&mut self, now_ms: u64) {
        for (token, peer) in &self.census.peers {
            self.tokens.insert(peer.id, token.clone());
        }
        for (to, news) in self.census.take_news() {
            match news {
                PeerNews::Member { peer, address, client, is_member } => {
                    assert_eq!(to, To::Room(address.room.clone()));
                    let model = self.model.entry(peer).or_default();
                    let key = member_line(&address, &client.client_id);
                    let card = format!("{client:?}");
                    match is_member {
                        true => assert_ne!(model.insert(key, card.clone()), Some(card)),
                        false => assert_eq!(model.remove(&key), Some(card)),
                    }
                }
                PeerNews::Client { peer, client_id, is_connected } => {
                    assert_eq!(to, To::Client(client_id.clone()));
                    let model = self.model.entry(peer).or_default();
                    match is_connected {
                        true => assert_eq!(model.insert(client_id.to_string(), "".into()), None),
                        false => assert!(model.remove(&*client_id).is_some()),
                    }
                }
                PeerNews::PeerGone(peer) => {
                    self.model.remove(&peer);
                    let token = self.tokens.remove(&peer).expect("it was there, and goes once");
                    if let Some(heard_ms) = self.heard_ms.remove(&token) {
                        assert!(now_ms >= heard_ms + LEASE_MS, "{token} was heard");
                    }
                }
                PeerNews::Peers(peers) => self.shown = peers.to_vec(),
                other => panic!("{other:?}"),
            }
        }
        assert!(self.model.keys().all(|id| self.tokens.contains_key(id)), "nothing after the end");
    }

    fn check(&self, now_ms: u64) {
        self.census.own.check();
        for (token, peer) in &self.census.peers {
            peer.check();
            // It takes long, and a difference stays.
            if now_ms.is_multiple_of(20 * STEP_MS) {
                let model = self.model.get(&peer.id).cloned().unwrap_or_default();
                assert_eq!(lines(peer.table()), model, "the news of {token}");
            }
            let heard_ms = self.heard_ms.get(token).copied();
            let is_late = heard_ms.is_none_or(|heard_ms| now_ms >= heard_ms + LEASE_MS);
            assert!(!self.is_connected || !is_late, "{token} is kept beyond its lease");
        }
    }
}

impl World {
    fn new(seed: u64) -> World {
        let mut rng = Rng::with_seed(seed);
        let count = rng.u64(3..=5);
        let loss = rng.u32(1..30);
        let delay_ms = if rng.bool() { DELAY_MS } else { 0 };
        let nodes = (0..count).map(Node::new).collect();
        let flights = Vec::new();
        World { rng, now_ms: 10_000, nodes, flights, born: count, sent: 0, loss, delay_ms }
    }

    fn connect(&mut self, at: usize, is_connected: bool) {
        let (now_ms, node) = (self.now_ms, &mut self.nodes[at]);
        node.is_connected = is_connected;
        node.census.set_connected(now(now_ms), is_connected);
        node.heard_ms.values_mut().filter(|_| is_connected).for_each(|heard| *heard = now_ms);
    }

    fn clients_step(&mut self, at: usize) {
        let rng = &mut self.rng;
        let (id, channel) = (CLIENTS[rng.usize(..CLIENTS.len())], rng.usize(..CHANNELS.len()));
        let id = Name::fixed(id);
        let room = Name::fixed(if rng.bool() { "r" } else { "s" });
        let channel = Name::fixed(CHANNELS[channel]);
        let is_so = rng.u32(..3) > 0;
        let census = &mut self.nodes[at].census;
        if rng.u32(..4) == 0 {
            return census.on_client(&id, is_so);
        }
        let screen_name = (rng.u32(..8) == 0).then(|| "x".to_owned());
        let (client_type, role) = (ClientType::Human, Role::User);
        let card = ClientCard { client_id: id, client_type, screen_name, role };
        census.on_member(&Arc::new(Address { room, channel }), &Arc::new(card), is_so);
    }

    fn chaos_step(&mut self, at: usize) {
        match self.rng.u32(..1_000) {
            0 | 1 => {
                self.nodes[at] = Node::new(self.born);
                self.born += 1;
            }
            2 => {
                let bye = self.nodes[at].census.bye();
                let from = self.nodes[at].census.token.clone();
                self.send(&from, bye);
                self.nodes[at] = Node::new(self.born);
                self.born += 1;
            }
            3..12 => self.connect(at, false),
            12..50 if !self.nodes[at].is_connected => self.connect(at, true),
            50 => {
                let garbled = Outgoing { to: Reach::Everyone, bytes: b"{\"v\":1,".to_vec() };
                self.send("nobody", garbled);
            }
            _ => {}
        }
    }

    fn send(&mut self, from: &str, outgoing: Outgoing) {
        let hears = |node: &&Node| match &outgoing.to {
            Reach::Everyone => true,
            Reach::One(token) => node.census.token == *token,
        };
        let tokens = self.nodes.iter().filter(hears).map(|node| node.census.token.clone());
        for to in tokens.collect::<Vec<_>>() {
            let copies = match self.rng.u32(..100) {
                dice if dice < self.loss => 0,
                dice if dice >= 97 && self.loss > 0 => 2,
                _ => 1,
            };
            for _ in 0..copies {
                let late_ms = if self.loss > 0 { self.rng.u64(..=self.delay_ms) } else { 0 };
                self.sent += 1;
                let at_ms = self.now_ms + late_ms;
                let (from, bytes) = (from.to_owned(), outgoing.bytes.clone());
                self.flights.push(Flight { at_ms, number: self.sent, to: to.clone(), from, bytes });
            }
        }
    }

    fn arrive(&mut self, flight: Flight) {
        let now_ms = self.now_ms;
        let Some(node) = self.nodes.iter_mut().find(|node| node.census.token == flight.to) else {
            return;
        };
        if !node.is_connected {
            return;
        }
        if let Ok(message) = decode(&flight.bytes) {
            match message.say {
                Say::Bye => _ = node.heard_ms.remove(&flight.from),
                _ => _ = node.heard_ms.insert(flight.from, now_ms),
            }
        }
        node.census.on_message(now(now_ms), &flight.bytes);
        node.read_news(now_ms);
    }

    fn step(&mut self, is_quiet: bool) {
        self.now_ms += STEP_MS;
        for at in 0..self.nodes.len() {
            if !is_quiet {
                (0..self.rng.u32(..3)).for_each(|_| self.clients_step(at));
                self.chaos_step(at);
            }
            let node = &mut self.nodes[at];
            node.census.tick(now(self.now_ms));
            node.read_news(self.now_ms);
            let from = node.census.token.clone();
            // What is not taken now has changed when it is.
            for _ in 0..if is_quiet { 100 } else { self.rng.u32(..6) } {
                let node = &mut self.nodes[at];
                let next = node.is_connected.then(|| node.census.next_outgoing()).flatten();
                next.into_iter().for_each(|out| self.send(&from, out));
            }
        }
        // What is said in answer comes in the next step.
        let now_ms = self.now_ms;
        let (mut due, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.flights).into_iter().partition(|one| one.at_ms <= now_ms);
        self.flights = rest;
        due.sort_by_key(|flight| (flight.at_ms, flight.number));
        due.into_iter().for_each(|flight| self.arrive(flight));
        self.nodes.iter().for_each(|node| node.check(now_ms));
    }

    /// Whether all know what is true.
    fn check_truth(&self) {
        for node in &self.nodes {
            let others =
                || self.nodes.iter().filter(|other| other.census.token != node.census.token);
            let mut tokens: Vec<_> = others().map(|other| &other.census.token).collect();
            tokens.sort();
            assert_eq!(node.census.peers.keys().collect::<Vec<_>>(), tokens);
            for other in others() {
                let peer = &node.census.peers[&other.census.token];
                let truth = lines(other.census.own.table());
                assert_eq!(lines(peer.table()), truth, "{} of {}", node.census.token, peer.node);
                assert_eq!(peer.node, other.census.node);
            }
            assert_eq!(node.shown, node.census.peers());
        }
    }
}

fn run(seed: u64) {
    println!("seed {seed}");
    let mut world = World::new(seed);
    for _ in 0..2 {
        let loss = world.loss;
        (0..world.nodes.len()).for_each(|at| world.connect(at, true));
        (0..600).for_each(|_| world.step(false));
        world.loss = 0;
        for at in 0..world.nodes.len() {
            if !world.nodes[at].is_connected {
                world.connect(at, true);
            }
        }
        let quiet_ms = LEASE_MS + 2 * DELAY_MS + 4 * BEAT_MS;
        (0..quiet_ms / STEP_MS).for_each(|_| world.step(true));
        world.check_truth();
        world.loss = loss;
    }
}

#[test]
fn everybody_knows_what_is_true_when_it_is_quiet() {
    let seeds = std::env::var("CENSUS_SEEDS").ok().and_then(|count| count.parse().ok());
    (0..seeds.unwrap_or(10)).for_each(run);
}
