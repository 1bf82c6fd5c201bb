//! Several nodes: each with whole engines (edges, homes, doors, outboxes), over a played Redis that
//! answers late, loses answers and links, and sees processes die, end and stand still. Clients go from node
//! to node, and judge what they hear by what that Redis has.
//!
//! | file | what it holds |
//! |---|---|
//! | `mod` | the nodes, and one seeded choice after the other |
//! | `plan` | what one run is like |
//! | `actions` | what clients do |
//! | `client` | what a client may conclude from what it hears |
//! | `wire` | their connections: bytes to and from a node |
//! | `truth` | what was sent, and what is so |
//! | `labour` | how much work one turn did |
//! | `rest` | how a run ends |
//!
//! *Not here*: the played Redis (`crate::shared`), one node by itself (`crate::world`).

mod actions;
mod client;
mod labour;
mod plan;
mod rest;
mod truth;
mod wire;

use crate::nodes::client::Client;
use crate::nodes::labour::Labour;
use crate::nodes::plan::Plan;
use crate::nodes::truth::Sent;
use crate::sabotage::{Bug, Sabotage};
use crate::shared::Shared;
use crate::sim::{Coverage, Report};
use crate::trace::Trace;
use crate::violation;
use crate::world::World;
use arqonbus::base::time::Now;
use arqonbus::broker::peers::{PeerNews, To};
use arqonbus::broker::record::StorageNews;
use fastrand::Rng;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// The nodes, their clients and what they share.
pub struct Nodes {
    plan: Plan,
    shared: Shared,
    nodes: Vec<Node>,
    clients: Vec<Client>,
    sent: Sent,
    seen: Coverage,
    rng: Rng,
    trace: Trace,
    step: usize,
    turns: u64,
    texts: u64,
    links: usize,
    bug: Option<Bug>,
    is_calm: bool,
    /// The private messages that were sent before.
    privates_before: usize,
    now: Now,
}

/// One node, and its process.
struct Node {
    /// The process, while there is one.
    world: Option<World>,
    /// Which of all that there ever were, and so its place in what is shared.
    hub: usize,
    /// What each shard was not told yet.
    waiting: Vec<VecDeque<StorageNews>>,
    /// It does nothing until this step.
    stopped_until: usize,
    /// Whether it may ever have gone on alone.
    is_shaky: bool,
}

impl Nodes {
    /// The beginning of a run.
    pub fn new(seed: u64, bug: Option<Bug>, is_traced: bool) -> Nodes {
        // The tokens of sessions come from here.
        fastrand::seed(seed);
        let mut rng = Rng::with_seed(seed);
        let plan = Plan::new(&mut rng, bug);
        let mut trace = Trace::new(is_traced);
        trace.note(format_args!("seed {seed}: {plan:?}"));
        let flaw = bug.map(Bug::flaw).unwrap_or_default();
        let mut shared = Shared::new(plan.page, plan.pages, flaw);
        shared.lost_answers = plan.lost_answers;
        let new_client = |_| Client {
            link: None,
            said: 0,
            token: None,
            memory: BTreeMap::new(),
            recent: Vec::new(),
        };
        let clients = (0..plan.clients).map(new_client).collect();
        let now = Now { mono_ns: 1_000_000_000, wall_us: 1_764_000_000_000_000 };
        let count = plan.nodes;
        let (sent, seen, nodes) = (Sent::default(), Coverage::new(), Vec::new());
        let (step, turns, texts, links, is_calm, privates_before) = (0, 0, 0, 0, false, 0);
        let mut all = Nodes {
            plan,
            shared,
            nodes,
            clients,
            sent,
            seen,
            rng,
            trace,
            step,
            turns,
            texts,
            links,
            bug,
            is_calm,
            privates_before,
            now,
        };
        all.pass(Duration::ZERO);
        for node in 0..count {
            let (hub, waiting, stopped_until, is_shaky) = (0, Vec::new(), 0, false);
            all.nodes.push(Node { world: None, hub, waiting, stopped_until, is_shaky });
            all.start(node);
        }
        all
    }

    /// The whole run.
    pub fn run(mut self) -> Report {
        for _ in 0..self.plan.steps {
            self.step += 1;
            self.choose();
            if self.step.is_multiple_of(8) {
                self.check_holders();
            }
        }
        self.rest();
        self.end();
        Report {
            seen: self.seen,
            hash: self.trace.hash(),
            steps: self.step as u64,
            turns: self.turns,
            texts: self.texts,
            events: self.sent.events.len() as u64,
        }
    }

    fn note(&mut self, what: std::fmt::Arguments<'_>) {
        let (step, now) = (self.step, self.now.mono_ms());
        self.trace.note(format_args!("{step} @{now}: {what}"));
    }

    fn see(&mut self, what: &str) {
        *self.seen.entry(format!("nodes: {what}")).or_default() += 1;
    }

    fn choose(&mut self) {
        let Plan { cuts, ends, pace, .. } = self.plan;
        let node = self.rng.usize(..self.nodes.len());
        if self.rng.u32(..1_000) < cuts {
            return self.break_link(node);
        }
        if self.rng.u32(..10_000) < ends {
            return self.end_process(node);
        }
        self.recover(node);
        if self.rng.u8(..100) < pace {
            self.store(node);
        }
        match self.rng.u8(..100) {
            0..25 => self.carry(node),
            25..55 => self.turn_some_shard(node),
            55..65 => self.send_some_bytes(),
            65..75 => self.read_some_bytes(),
            75..91 => {
                let client = self.rng.usize(..self.clients.len());
                self.act(client);
            }
            91..96 => self.breathe(),
            _ => self.let_time_pass(),
        }
    }

    /// A process begins.
    fn start(&mut self, node: usize) {
        let (hub, snapshot) = self.shared.join();
        let setup = self.plan.of_process(hub);
        let shards = usize::from(setup.shards);
        let ahead_us = self.plan.ahead_ms[node] * 1_000;
        let now = Now { wall_us: self.now.wall_us + ahead_us, ..self.now };
        let sabotage = Sabotage::new(self.bug, self.rng.fork());
        let trace = Trace::new(false);
        let world = World::at(now, setup, &mut self.rng, trace, sabotage, snapshot);
        let of_node = &mut self.nodes[node];
        (of_node.world, of_node.hub, of_node.stopped_until) = (Some(world), hub, 0);
        (of_node.waiting, of_node.is_shaky) = (vec![VecDeque::new(); shards], false);
        self.note(format_args!("node {node} begins as process {hub}"));
        self.drain_outlet(node);
    }

    /// What is not for ever ends now and then.
    fn recover(&mut self, node: usize) {
        let Node { hub, stopped_until, ref world, .. } = self.nodes[node];
        if world.is_none() {
            if self.rng.u8(..100) == 0 {
                self.start(node);
            }
        } else if stopped_until > 0 {
            if stopped_until <= self.step {
                self.go_on(node);
            }
        } else if !self.shared.hubs[hub].is_up && self.rng.u8(..50) == 0 {
            self.note(format_args!("node {node} reaches Redis again"));
            self.shared.mend(hub);
        }
    }

    /// A process that stood still goes on: its link is made anew.
    fn go_on(&mut self, node: usize) {
        let hub = self.nodes[node].hub;
        self.note(format_args!("node {node} goes on"));
        (self.nodes[node].stopped_until, self.shared.hubs[hub].is_stopped) = (0, false);
        if self.shared.hubs[hub].is_up {
            self.shared.blink(hub);
        }
    }

    fn break_link(&mut self, node: usize) {
        let hub = self.nodes[node].hub;
        if !self.is_running(node) || !self.shared.hubs[hub].is_up {
            return;
        }
        self.nodes[node].is_shaky = true;
        match self.rng.u8(..4) {
            0 => {
                self.note(format_args!("node {node} loses its link and makes it anew"));
                self.see("a link was made anew");
                self.shared.blink(hub);
            }
            1 if self.shared.hubs[hub].lose_an_event(&mut self.rng) => {
                self.note(format_args!("node {node} loses an event"));
            }
            _ => {
                self.note(format_args!("node {node} is cut off"));
                self.see("a node was cut off");
                self.shared.cut(hub);
            }
        }
    }

    fn end_process(&mut self, node: usize) {
        if !self.is_running(node) || self.running() < 2 {
            return;
        }
        match self.rng.u8(..3) {
            0 => {
                self.note(format_args!("node {node} is killed"));
                self.see("a node was killed");
                let hub = self.nodes[node].hub;
                self.shared.kill(hub);
                self.bury(node);
            }
            1 => {
                self.note(format_args!("node {node} is ended"));
                self.see("a node was ended");
                self.end_well(node);
            }
            _ => {
                let until = self.step + self.rng.usize(10..300);
                self.note(format_args!("node {node} stands still until {until}"));
                self.see("a node stood still");
                let hub = self.nodes[node].hub;
                self.nodes[node].is_shaky = true;
                (self.nodes[node].stopped_until, self.shared.hubs[hub].is_stopped) = (until, true);
            }
        }
    }

    /// The process of a node is gone: what its sockets were given still reaches the clients.
    fn bury(&mut self, node: usize) {
        for client in 0..self.clients.len() {
            let link = self.clients[client].link.as_mut();
            if let Some(link) = link.filter(|link| link.node == node) {
                link.is_doomed = true;
                if let Some(world) = &mut self.nodes[node].world {
                    world.pipes[link.number].is_closed = true;
                }
                self.read(client, usize::MAX);
                self.disconnected(client);
            }
        }
        self.nodes[node].world = None;
    }

    fn running(&self) -> usize {
        (0..self.nodes.len()).filter(|&node| self.is_running(node)).count()
    }

    fn is_running(&self, node: usize) -> bool {
        let Node { world, stopped_until, .. } = &self.nodes[node];
        world.is_some() && *stopped_until <= self.step
    }

    /// Redis and a node do something.
    fn store(&mut self, node: usize) {
        if !self.is_running(node) {
            return;
        }
        let hub = self.nodes[node].hub;
        let now = self.time_of(node);
        let before = self.shared.hubs[hub].is_up;
        if let Some(what) = self.shared.step(hub, now, &mut self.rng) {
            self.note(format_args!("node {node} {what}"));
        }
        if before && !self.shared.hubs[hub].is_up {
            self.nodes[node].is_shaky = true;
            self.see("an answer was lost");
        }
    }

    /// The clocks of a node.
    fn time_of(&self, node: usize) -> Now {
        self.nodes[node].world.as_ref().map_or(self.now, |world| world.now)
    }

    /// Takes some of what a node was told to its homes, as far as their lanes take it.
    fn carry(&mut self, node: usize) {
        if !self.is_running(node) {
            return;
        }
        let hub = self.nodes[node].hub;
        let many = self.rng.usize(1..20);
        for _ in 0..many {
            let Some((to, news)) = self.shared.hubs[hub].news.pop_front() else { break };
            self.route(node, to, news);
        }
        for shard in 0..self.nodes[node].waiting.len() {
            let many = self.rng.usize(..20);
            self.offer(node, shard, many);
        }
    }

    fn route(&mut self, node: usize, to: To, news: StorageNews) {
        self.note(format_args!("node {node} is told {}", in_words(&news)));
        let Node { world: Some(world), waiting, .. } = &mut self.nodes[node] else { return };
        let shard = match to {
            To::Shard(shard) => shard,
            To::Room(name) => world.placement.of_room(&name),
            To::Client(client_id) => world.placement.of_client(&client_id),
            To::All => {
                return waiting.iter_mut().for_each(|waiting| waiting.push_back(news.clone()));
            }
        };
        // What another node says may be for a shard that is not there.
        waiting.get_mut(shard.index()).into_iter().for_each(|it| it.push_back(news.clone()));
    }

    fn offer(&mut self, node: usize, shard: usize, many: usize) {
        let Node { world: Some(world), waiting, .. } = &mut self.nodes[node] else { return };
        for _ in 0..many {
            let Some(news) = waiting[shard].pop_front() else { return };
            if let Err(news) = world.inform(shard, news) {
                return waiting[shard].push_front(news);
            }
        }
    }

    fn turn_some_shard(&mut self, node: usize) {
        let shard = self.rng.usize(..usize::from(self.plan.setup.shards));
        self.turn(node, shard);
    }

    fn turn(&mut self, node: usize, shard: usize) {
        if !self.is_running(node) {
            return;
        }
        self.note(format_args!("shard {shard} of node {node} has a turn"));
        let Some(world) = &mut self.nodes[node].world else { return };
        let before = Labour::of(world, shard);
        world.turn(shard);
        Labour::of(world, shard).check_after(&before, &self.plan);
        self.turns += 1;
        self.drain_outlet(node);
    }

    /// What homes want written waits with the storage.
    fn drain_outlet(&mut self, node: usize) {
        let Node { world: Some(world), hub, .. } = &mut self.nodes[node] else { return };
        for record in world.outlet.drain(..) {
            self.shared.take(*hub, record);
        }
    }

    /// Everyone has a turn, and sends and reads what there is.
    fn breathe(&mut self) {
        for node in 0..self.nodes.len() {
            for shard in 0..usize::from(self.plan.setup.shards) {
                self.turn(node, shard);
            }
            self.carry(node);
        }
        for client in 0..self.clients.len() {
            let link = self.clients[client].link.as_ref();
            if link.is_some_and(|link| link.deaf_until <= self.step) {
                self.flush(client);
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now.after(time);
        for world in self.nodes.iter_mut().filter_map(|node| node.world.as_mut()) {
            world.pass(time);
        }
        self.shared.set_time(self.now.mono_ms());
    }

    fn let_time_pass(&mut self) {
        let ms = match self.rng.u8(..20) {
            0..14 => self.rng.u64(..5),
            14..19 => self.rng.u64(..300),
            _ if self.plan.setup.has_leaps => self.rng.u64(..30_000),
            _ => 0,
        };
        if ms >= u64::from(self.plan.ack_timeout_ms) / 4 {
            // Homes may go on alone that wait for what has not come.
            self.nodes.iter_mut().for_each(|node| node.is_shaky = true);
        }
        self.note(format_args!("{ms} ms pass"));
        self.pass(Duration::from_millis(ms));
    }

    /// A client id belongs to one connection that was welcomed, on each node; on all nodes together, as
    /// long as nothing goes wrong between them and no session moves.
    fn check_holders(&self) {
        let is_strict = self.plan.is_steady() && !self.plan.has_sessions;
        let mut all = BTreeMap::new();
        for (number, node) in self.nodes.iter().enumerate() {
            let mut own = BTreeMap::new();
            let Some(world) = &node.world else { continue };
            for (shard, of_shard) in world.shards.iter().enumerate() {
                let edge = of_shard.engine.edge();
                for session in edge.clients().filter_map(|conn| edge.session(conn)) {
                    let id = session.card.client_id.to_string();
                    if let Some(other) = own.insert(id.clone(), shard) {
                        violation!("one holder", "{id} is on {other} and {shard} of node {number}");
                    }
                    if let Some(other) = all.insert(id.clone(), number).filter(|_| is_strict) {
                        violation!("one holder", "{id} is on the nodes {other} and {number}");
                    }
                }
            }
        }
    }
}

/// What a node is told, for the trace.
fn in_words(news: &StorageNews) -> String {
    let StorageNews::Peer(news) = news else { return format!("{news:?}") };
    match news {
        PeerNews::Arrived { channel, events } => {
            let events = events.iter().map(|it| (it.frame.sequence, it.frame.id(), it.ticket));
            format!("of {channel:?}: {:?}", events.collect::<Vec<_>>())
        }
        PeerNews::Attached { channel, kept, is_new } => {
            let (epoch, term, last) = (&kept.record.epoch, kept.record.term, kept.last);
            let address = &kept.record.address;
            format!("{address} {channel:?} is attached, {epoch}-{term} {last}, new {is_new}")
        }
        PeerNews::Note(_) => "a note".to_owned(),
        other => format!("{other:?}"),
    }
}
