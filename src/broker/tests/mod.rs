//! Edges and homes of a small bus, asked and told by hand: no sockets, bytes or lanes.
//!
//! The clients of shard 0 are admins, all others are users.

mod arrivals;
mod durable;
mod echo;
mod late;
mod limits;
mod listing;
mod nodes;
mod open_fates;
mod presence;
mod returning;
mod secrets;
mod whole_rooms;

use crate::base::hash::{Placement, seeded};
use crate::base::ids::{ChannelId, ConnId, ShardId};
use crate::base::limits::Limits;
use crate::base::quota::NodeQuotas;
use crate::base::time::Now;
use crate::broker::audience::Audience;
use crate::broker::delivery::{Deliveries, Delivery};
use crate::broker::edge::{Edge, Facts, Flow};
use crate::broker::home::{Home, Told};
use crate::broker::lane::{Ask, Asks, ClientsPart, Part, Tell, Topic, TraceReport};
use crate::broker::peers::{PeerNews, PeerNote, PeerRecord};
use crate::broker::policy::{PublishAnywhere, Role};
use crate::broker::record::{Record, StorageNews};
use crate::broker::telemetry::Event;
use crate::protocol::command::{ClientType, Identity};
use crate::protocol::decode::decode;
use crate::protocol::frame::Frame;
use crate::protocol::names::Name;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

const SHARDS: u16 = 3;

/// A small bus.
struct Bus {
    placement: Placement,
    edges: Vec<Edge>,
    homes: Vec<Home>,
    asks: Vec<Asks>,
    now: Now,
    /// A shard whose home answers nothing for now.
    stuck: Option<ShardId>,
    /// A shard that does not report where traced messages went.
    silent: Option<ShardId>,
    /// What every client heard and no test has looked at.
    heard: BTreeMap<(ShardId, ConnId), Vec<Value>>,
    telemetry: Vec<Event>,
    /// What is to be kept and no test has looked at.
    records: Vec<Record>,
    /// What several nodes share, if this is one of them, and which it is.
    shared: Option<(Rc<RefCell<nodes::Store>>, usize)>,
    slots: u32,
    sent: u32,
}

/// A client of it.
#[derive(Clone)]
struct Client {
    shard: ShardId,
    conn: ConnId,
    id: &'static str,
}

impl Bus {
    fn new(limits: Limits, publish_anywhere: PublishAnywhere) -> Bus {
        Bus::seeded(limits, publish_anywhere, 0)
    }

    /// One whose homes make other choices than those of another seed.
    fn seeded(limits: Limits, publish_anywhere: PublishAnywhere, seed: u64) -> Bus {
        let now = Now { mono_ns: 1_000_000_000, wall_us: 1_764_000_000_000_000 };
        let (placement, limits) = (Placement::new(SHARDS, 1), Arc::new(limits));
        let (mut edges, mut homes, quotas) = (Vec::new(), Vec::new(), NodeQuotas::default());
        for shard in placement.all() {
            let facts = Facts {
                node: "n".into(),
                version: "0",
                started_ns: 0,
                storage: "memory",
                publish_anywhere,
            };
            let (hasher, rng) =
                (seeded(1), fastrand::Rng::with_seed(seed << 16 | u64::from(shard.0)));
            let (limits, facts) = (limits.clone(), Arc::new(facts));
            let (quotas, of_home) = (quotas.clone(), (limits.clone(), hasher.clone(), rng.clone()));
            homes.push(Home::new(shard, SHARDS, of_home.0, quotas, of_home.1, of_home.2));
            edges.push(Edge::new(shard, placement.clone(), limits, facts, hasher, rng));
        }
        let asks = placement.all().map(|_| Asks::new(SHARDS)).collect();
        let (heard, telemetry, records) = (BTreeMap::new(), Vec::new(), Vec::new());
        let (stuck, silent, slots, sent) = (None, None, 0, 0);
        Bus {
            placement,
            edges,
            homes,
            asks,
            now,
            stuck,
            silent,
            heard,
            telemetry,
            records,
            shared: None,
            slots,
            sent,
        }
    }

    /// A bus like any other.
    fn usual() -> Bus {
        Bus::new(Limits::default(), PublishAnywhere::default())
    }

    fn connect(&mut self, shard: u16, id: &'static str) -> Client {
        self.connect_as(shard, id, ClientType::Human)
    }

    /// Somebody knocks; what follows is not looked at.
    fn knock(&mut self, shard: u16, id: &'static str, identity: Identity) -> Client {
        let (shard, conn) = (ShardId(shard), ConnId { slot: self.slots, generation: 0 });
        self.slots += 1;
        let (edge, asks) = (&mut self.edges[shard.index()], &mut self.asks[shard.index()]);
        let role = if shard.0 == 0 { Role::Admin } else { Role::User };
        assert_eq!(edge.connect(self.now, conn, (None, role), identity, asks), Flow::Done);
        self.settle();
        Client { shard, conn, id }
    }

    fn connect_as(&mut self, shard: u16, id: &'static str, client_type: ClientType) -> Client {
        let identity = Identity {
            client_id: Some(Name::fixed(id)),
            client_type: Some(client_type),
            ..Identity::default()
        };
        let client = self.knock(shard, id, identity);
        assert_eq!(self.heard(&client)[0]["payload"]["event"], "welcome");
        client
    }

    /// A client goes.
    fn disconnect(&mut self, client: &Client) {
        self.end(client, crate::protocol::close::CloseReason::ByClient);
    }

    /// The connection of a client ends.
    fn end(&mut self, client: &Client, reason: crate::protocol::close::CloseReason) {
        let mut out = Deliveries::default();
        let asks = &mut self.asks[client.shard.index()];
        self.edges[client.shard.index()].disconnect(client.conn, reason, asks, &mut out);
        self.deliver(client.shard, out);
        self.settle();
    }

    /// A client says something, and all that follows from it happens; the message's id.
    fn say(
        &mut self,
        client: &Client,
        kind: &str,
        address: &str,
        payload: Value,
        metadata: Value,
    ) -> String {
        let (id, text) = self.message(client, kind, address, payload, metadata);
        let mut flow = self.offer(client, &text, false);
        if flow == Flow::Waiting {
            flow = self.offer(client, &text, true);
        }
        assert_eq!(flow, Flow::Done, "one answer is enough to wait for");
        id
    }

    /// A message that nobody has sent yet: its id and its text.
    fn message(
        &mut self,
        client: &Client,
        kind: &str,
        address: &str,
        payload: Value,
        metadata: Value,
    ) -> (String, String) {
        self.sent += 1;
        let id = format!("arq_{}", self.sent);
        let (room, channel) = address.split_once(':').unwrap();
        let text = json!({
            "version": "1.0", "id": id, "type": kind, "room": room, "channel": channel,
            "from": client.id, "timestamp": "2025-11-24T16:00:00Z", "payload": payload,
            "metadata": metadata,
        });
        (id, text.to_string())
    }

    /// Offers a message to the edge of its client, and lets happen what follows from it.
    fn offer(&mut self, client: &Client, text: &str, again: bool) -> Flow {
        let (envelope, mut out) = (decode(text).unwrap(), Deliveries::default());
        let at = client.shard.index();
        let (edge, asks) = (&mut self.edges[at], &mut self.asks[at]);
        let flow = edge.on_message(self.now, client.conn, &envelope, again, asks, &mut out);
        edge.note_parsed(self.now);
        self.deliver(client.shard, out);
        self.settle();
        flow
    }

    /// Publishes an event; its ack or refusal.
    fn publish(&mut self, client: &Client, address: &str) -> Value {
        let id = self.say(client, "event", address, json!({}), json!({"ack": true}));
        self.reply(client, &id).unwrap()
    }

    /// Gives a command; the payload of its answer.
    fn command(&mut self, client: &Client, name: &str, address: &str, parameters: Value) -> Value {
        let payload = json!({"command": name, "parameters": parameters});
        let id = self.say(client, "command", address, payload, json!({}));
        self.reply(client, &id).unwrap()
    }

    /// Gives a command that is obeyed; its result.
    #[track_caller]
    fn done(&mut self, client: &Client, name: &str, address: &str, parameters: Value) -> Value {
        let answer = self.command(client, name, address, parameters);
        assert_eq!(answer["status"], "success", "{answer}");
        answer["result"].clone()
    }

    fn join(&mut self, client: &Client, address: &str) {
        self.done(client, "join_channel", address, json!({}));
    }

    /// What a client heard since it was last asked.
    fn heard(&mut self, client: &Client) -> Vec<Value> {
        self.heard.remove(&(client.shard, client.conn)).unwrap_or_default()
    }

    /// The payload of the answer to this message, if it has come.
    fn reply(&mut self, client: &Client, id: &str) -> Option<Value> {
        let heard = self.heard.get_mut(&(client.shard, client.conn))?;
        let at = heard.iter().position(|message| message["payload"]["request_id"] == id)?;
        Some(heard.remove(at)["payload"].clone())
    }

    /// What was told about the bus since it was last asked.
    fn telemetry(&mut self) -> String {
        format!("{:?}", std::mem::take(&mut self.telemetry))
    }

    /// New limits, everywhere.
    fn reconfigure(&mut self, limits: Limits) {
        let limits = Arc::new(limits);
        let told = &mut Told::default();
        self.homes.iter_mut().for_each(|home| home.reconfigure(limits.clone(), told));
        self.edges.iter_mut().for_each(|edge| edge.reconfigure(limits.clone()));
    }

    /// Time passes.
    fn pass(&mut self, ms: u64) {
        self.now = self.now.after(Duration::from_millis(ms));
        for shard in self.placement.all() {
            let mut out = Deliveries::default();
            self.edges[shard.index()].tick(self.now, &mut out);
            self.deliver(shard, out);
            let mut told = Told::default();
            self.homes[shard.index()].expire(self.now, &mut told);
            self.tell(shard, told);
        }
        self.settle();
    }

    /// Asks and tells until nothing is left to be said.
    fn settle(&mut self) {
        let shards = || Placement::new(SHARDS, 1).all();
        loop {
            let mut is_quiet = true;
            for (from, to) in shards().flat_map(|from| shards().map(move |to| (from, to))) {
                while self.stuck != Some(to)
                    && let Some(ask) = self.asks[from.index()].queue(to).pop_front()
                {
                    is_quiet = false;
                    self.ask(to, ask);
                }
            }
            if is_quiet && !self.trade() && !self.go_on() {
                break;
            }
        }
        self.edges.iter().for_each(Edge::check);
        self.homes.iter().for_each(Home::check);
    }

    /// Homes go on with what they do by and by; true if there was anything.
    fn go_on(&mut self) -> bool {
        let mut is_something = false;
        for shard in self.placement.all() {
            let (home, mut told) = (&mut self.homes[shard.index()], Told::default());
            home.go_on_leaving(self.now, &mut told);
            home.go_on_opening(self.now, &mut told);
            home.tell_presence(self.now, &mut told);
            is_something |= home.has_leaving()
                || home.has_opening()
                || !told.tells.is_empty()
                || !told.records.is_empty();
            self.tell(shard, told);
        }
        is_something
    }

    fn ask(&mut self, shard: ShardId, ask: Ask) {
        let (now, at) = (self.now, shard.index());
        let mut told = Told::default();
        match ask {
            Ask::Survey(survey) => {
                let part = match survey.topic {
                    Topic::Rooms(wanted) => {
                        Part::Rooms(self.homes[at].rooms_part(&survey.client, &wanted, &mut told))
                    }
                    Topic::Clients(wanted) => {
                        let rows = self.edges[at].clients_part(&wanted);
                        let peers = match at {
                            0 => self.homes[0].ask_for_clients(survey.reply_to, &wanted, &mut told),
                            _ => Arc::default(),
                        };
                        Part::Clients(Box::new(ClientsPart { rows, peers }))
                    }
                    topic => unreachable!("no test asks for {topic:?}"),
                };
                let pending = survey.reply_to.pending;
                told.tell(survey.reply_to.shard, Tell::Part { pending, shard, part });
            }
            Ask::Traced(report) => {
                let mut out = Deliveries::default();
                self.edges[at].on_traced(now, report, &mut out);
                self.deliver(shard, out);
            }
            Ask::Storage(news) => self.on_news(shard, *news, &mut told),
            ask => self.homes[at].on_ask(now, ask, &mut told),
        }
        self.tell(shard, told);
    }

    /// What the storage says is for the edge, or else for the home.
    fn on_news(&mut self, shard: ShardId, news: StorageNews, told: &mut Told) {
        let (now, at) = (self.now, shard.index());
        match news {
            StorageNews::Peer(PeerNews::AskClients { peer, reply_to, rows }) => {
                let clients = Box::new(self.edges[at].clients_for_peer(reply_to, &rows));
                let answer = PeerRecord::Send(peer, PeerNote::Clients(clients));
                told.records.push(Record::Peer(Box::new(answer)));
            }
            StorageNews::Peer(PeerNews::Clients(peer, clients)) => {
                let mut out = Deliveries::default();
                self.edges[at].on_peer_clients(now, peer, *clients, &mut out);
                self.deliver(shard, out);
            }
            news => self.homes[at].on_ask(now, Ask::Storage(Box::new(news)), told),
        }
    }

    /// Does what a home wants told.
    fn tell(&mut self, home: ShardId, mut told: Told) {
        self.telemetry.append(&mut told.telemetry);
        self.records.extend(self.homes[home.index()].take_overdue(&mut told));
        self.records.append(&mut told.records);
        for (to, tell) in told.tells {
            let mut out = Deliveries::default();
            self.edges[to.index()].on_tell(self.now, tell, &mut out);
            self.deliver(to, out);
        }
    }

    fn deliver(&mut self, shard: ShardId, out: Deliveries) {
        let Deliveries { list, receivers, mut telemetry, .. } = out;
        self.telemetry.append(&mut telemetry);
        let mut receivers = receivers.into_iter();
        for delivery in list {
            match delivery {
                Delivery::Fanout { frame, channel, sender, trace } => {
                    let conns = self.listeners(shard, channel, sender);
                    conns.iter().for_each(|&conn| self.hear(shard, conn, &frame));
                    if let Some(to) = trace.filter(|_| self.silent != Some(shard)) {
                        let (delivered_ns, members) = (self.now.mono_ns, conns.len() as u64);
                        let pending = to.pending;
                        let report = TraceReport { pending, shard, delivered_ns, members };
                        self.asks[shard.index()].push(to.shard, Ask::Traced(report));
                    }
                }
                Delivery::Together { frames, receivers: count } => {
                    for conn in receivers.by_ref().take(count) {
                        let others = frames.iter().filter(|(_, about)| *about != Some(conn));
                        others.for_each(|(frame, _)| self.hear(shard, conn, frame));
                    }
                }
                Delivery::Message(conn, frame)
                | Delivery::Reply(conn, frame)
                | Delivery::Welcome(conn, frame) => self.hear(shard, conn, &frame),
                Delivery::Resume(conn) => {
                    let asks = &mut self.asks[shard.index()];
                    self.edges[shard.index()].run_errands(conn, asks);
                }
                Delivery::Close(conn, reason, _) => {
                    let heard = self.heard.entry((shard, conn)).or_default();
                    heard.push(json!({"closed": reason.code()}));
                }
                Delivery::Admit(_) => {}
                Delivery::Reject(conn, refusal) => {
                    let heard = self.heard.entry((shard, conn)).or_default();
                    heard.push(json!({"rejected": refusal.fault.word()}));
                }
            }
        }
    }

    /// Who on a shard gets what is sent to a channel.
    fn listeners(
        &mut self,
        shard: ShardId,
        channel: ChannelId,
        sender: Option<ConnId>,
    ) -> Vec<ConnId> {
        let edge = &mut self.edges[shard.index()];
        let Some(audience) = edge.audience(channel) else { return Vec::new() };
        let room = audience.room();
        let deaf = |audience: &Audience, sender| audience.is_deaf_to_itself(sender);
        let own = audience.seats().iter().filter(|seat| !seat.follows);
        let mut conns: Vec<ConnId> = own.map(|seat| seat.conn).collect();
        let is_deaf = match (room, sender) {
            (_, None) => false,
            (None, Some(sender)) => deaf(audience, sender),
            (Some(room), Some(sender)) => edge.sender_in(channel, room, sender).0,
        };
        let followers = room.and_then(|room| edge.followers(room));
        let followers = followers.into_iter().flat_map(|followers| followers.seats());
        conns.extend(followers.map(|seat| seat.conn));
        conns.retain(|&conn| !is_deaf || Some(conn) != sender);
        conns
    }

    fn hear(&mut self, shard: ShardId, conn: ConnId, frame: &Frame) {
        let wire = frame.wire();
        let begin = wire.windows(2).position(|bytes| bytes == b"{\"").unwrap();
        let message = serde_json::from_slice(&wire[begin..]).unwrap();
        self.heard.entry((shard, conn)).or_default().push(message);
    }
}
