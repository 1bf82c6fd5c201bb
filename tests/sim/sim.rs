//! One run: a world, its clients, and one seeded choice after the other.

use crate::conn::{Conn, Stage};
use crate::model::{Model, Publish, life_in};
use crate::peer::{Heard, Peer};
use crate::sabotage::{Bug, Sabotage};
use crate::setup::{self, Setup, pick};
use crate::storage::Habits;
use crate::trace::Trace;
use crate::violation;
use crate::world::World;
use arqonbus::broker::history::newest;
use arqonbus::broker::lane::Ask;
use arqonbus::protocol::command::Persist;
use arqonbus::protocol::names::Name;
use fastrand::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// A world, its clients, and what they know.
pub struct Sim {
    pub world: World,
    pub clients: Vec<Client>,
    pub model: Model,
    pub rng: Rng,
    pub step: usize,
    /// Once true, nothing may be closed that was not before.
    pub is_calm: bool,
    pub is_draining: bool,
    /// Messages that clients received.
    pub texts: u64,
}

/// A client, which outlives its connections.
#[derive(Default)]
pub struct Client {
    pub conn: Option<Conn>,
    pub messages: u64,
    /// The last message it saw of each channel: epoch and sequence.
    pub memory: BTreeMap<(String, String), (String, u64)>,
    /// Events that it may send again: sender, id and address.
    pub recent: Vec<(String, String, String, String)>,
}

/// What a run came to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub seen: Coverage,
    pub hash: u64,
    pub steps: u64,
    pub turns: u64,
    pub texts: u64,
    pub events: u64,
}

/// How often each kind of thing happened to clients.
pub type Coverage = BTreeMap<String, u64>;

impl Report {
    /// Adds what another run came to.
    pub fn add(&mut self, other: Report) {
        self.steps += other.steps;
        self.turns += other.turns;
        self.texts += other.texts;
        self.events += other.events;
        for (what, times) in other.seen {
            *self.seen.entry(what).or_default() += times;
        }
    }
}

impl Sim {
    /// The beginning of a run.
    pub fn new(seed: u64, bug: Option<Bug>, is_traced: bool) -> Sim {
        let mut rng = Rng::with_seed(seed);
        let mut setup = Setup::new(&mut rng);
        if bug.is_some() {
            // A planted bug sits between shards, and must not drown in other trouble.
            setup.shards = setup.shards.clamp(2, 4);
            setup.roles.resize(usize::from(setup.shards), setup.roles[0]);
            setup.faults = setup.faults.min(5);
        }
        // By a choice of its own, so that a seed without a storage is what it was before there was any.
        let mut own = Rng::with_seed(!seed);
        let has_storage = bug.map_or_else(|| own.bool(), Bug::is_of_storage);
        setup.storage = has_storage.then(|| Habits::new(&mut own));
        if let (Some(_), Some(habits)) = (bug, &mut setup.storage) {
            (habits.faults, habits.crashes, habits.away) = (0, 20, 0);
            if bug == Some(Bug::Misnumber) {
                habits.away = 9;
            }
            if bug == Some(Bug::ForgetTerms) {
                // A client must miss one home and meet the next.
                (habits.pace, habits.crashes) = (4, 100);
            }
        }
        let clients = (0..setup.clients).map(|_| Client::default()).collect();
        let mut trace = Trace::new(is_traced);
        trace.note(format_args!("seed {seed}: {setup:?}"));
        let mut model = Model::default();
        model.history_min = setup::history_kept(&setup.limits);
        model.outbox_min = u64::from(setup.limits.outbox_bytes);
        let sabotage = Sabotage::new(bug, rng.fork());
        let world = World::new(setup, &mut rng, trace, sabotage);
        model.ledger = world.storage.as_ref().map(|storage| storage.ledger.clone());
        let habits = world.setup.storage.as_ref();
        if habits.is_some_and(|habits| habits.durability.persist == Persist::None) {
            model.lax_rooms.extend(setup::ROOMS.map(str::to_owned));
        }
        let (step, is_calm, is_draining, texts) = (0, false, false, 0);
        Sim { world, clients, model, rng, step, is_calm, is_draining, texts }
    }

    /// The whole run.
    pub fn run(mut self) -> Report {
        for _ in 0..self.world.setup.steps {
            self.step += 1;
            self.choose();
            if self.step.is_multiple_of(16) {
                self.check_unique_ids();
            }
        }
        self.rest();
        self.end();
        Report {
            seen: self.model.seen,
            hash: self.world.trace.hash(),
            steps: self.step as u64,
            turns: self.world.turns,
            texts: self.texts,
            events: self.model.publishes.len() as u64,
        }
    }

    /// Notes a choice.
    pub fn note(&mut self, what: std::fmt::Arguments<'_>) {
        let (step, now) = (self.step, self.world.now.mono_ms());
        self.world.trace.note(format_args!("{step} @{now}: {what}"));
    }

    fn choose(&mut self) {
        if let Some(Habits { pace, crashes, .. }) = self.world.setup.storage {
            if self.rng.u32(..10_000) < crashes {
                return self.die();
            }
            if self.rng.u8(..100) < pace {
                return self.world.store();
            }
        }
        if self.rng.u32(..1_000) < self.world.setup.faults {
            return self.break_something();
        }
        if self.rng.u8(..100) < self.world.setup.breaths {
            return self.breathe();
        }
        match self.rng.u8(..100) {
            0..30 => self.turn_some_shard(),
            30..48 => self.send_some_bytes(),
            48..64 => self.read_some_bytes(),
            64..94 => {
                let client = self.rng.usize(..self.clients.len());
                self.act(client);
            }
            94..99 => self.let_time_pass(),
            _ => self.reconfigure(),
        }
    }

    /// The node dies, and another begins with what was kept.
    fn die(&mut self) {
        self.note(format_args!("the node dies"));
        self.world.die();
        for client in 0..self.clients.len() {
            if let Some(conn) = &mut self.clients[client].conn {
                conn.is_doomed = true;
                self.read(client, usize::MAX);
            }
        }
        self.world.begin_again();
        self.note(format_args!("another node begins"));
        for (address, said) in std::mem::take(&mut self.world.moves) {
            self.model.note_move(&address, said);
        }
        if let Some(storage) = &self.world.storage {
            self.model.bury(&storage.channels, self.world.pipes.len());
        }
        self.check_begun();
    }

    /// A home that has just begun holds what was kept.
    fn check_begun(&mut self) {
        let Some(storage) = &self.world.storage else { return };
        let ledger = storage.ledger.borrow();
        for &nonce in &self.model.acked {
            let Publish { room, channel, from, id, .. } = &self.model.publishes[nonce];
            let identity = (room.clone(), channel.clone(), from.clone(), id.clone());
            let mut places = ledger.get(&identity).into_iter().flatten();
            if !places.any(|place| storage.still_has(&identity, place)) {
                violation!("safe means safe", "the acknowledged message {nonce} is gone");
            }
        }
        if storage.is_late() {
            return self.model.see("a node began without what was kept".to_owned());
        }
        for ((room, channel), kept) in &storage.channels {
            let home = self.world.placement.of_room(room).index();
            let home = self.world.shards[home].engine.home();
            let history = match channel.as_str() {
                "*" => home.whole_room(room),
                channel => home.channel(room, channel).map(|channel| &channel.history),
            };
            let Some(history) = history else {
                violation!("it comes back", "{room}:{channel} is gone");
            };
            if life_in(history.epoch()) != &*kept.record.epoch || history.last() != kept.last {
                violation!("it comes back", "{room}:{channel} is at {}", history.last());
            }
            let (Ok(room), Ok(channel)) = (Name::parse(room), Name::parse(channel)) else {
                continue;
            };
            let page = history.page(&newest(room, channel, 2_000), 0, usize::MAX).messages;
            let kept = kept.frames.iter().rev();
            let is_same = page.iter().rev().zip(kept.clone()).all(|(a, b)| a.wire() == b.wire());
            let least = (kept.len() as u64).min(self.model.history_min);
            if !is_same || (page.len() as u64) < least {
                violation!("it comes back", "{} of {} messages", page.len(), kept.len());
            }
        }
    }

    /// Everyone has a turn, and sends and reads what there is.
    fn breathe(&mut self) {
        for _ in 0..self.rng.usize(1..4) {
            for shard in 0..self.world.shards.len() {
                if self.world.shards[shard].stuck_until <= self.step {
                    self.world.turn(shard);
                }
            }
            for client in 0..self.clients.len() {
                let conn = self.clients[client].conn.as_ref();
                if conn.is_some_and(|conn| conn.deaf_until <= self.step) {
                    self.flush(client);
                }
            }
        }
    }

    fn turn_some_shard(&mut self) {
        let shard = self.rng.usize(..self.world.shards.len());
        if self.world.shards[shard].stuck_until > self.step {
            return;
        }
        self.note(format_args!("shard {shard} has a turn"));
        self.world.turn(shard);
    }

    fn send_some_bytes(&mut self) {
        let client = self.rng.usize(..self.clients.len());
        let is_all = self.rng.bool();
        let Some(conn) = &mut self.clients[client].conn else { return };
        conn.out.extend(conn.peer.take_out());
        if conn.out.is_empty() {
            return;
        }
        let count = if is_all { conn.out.len() } else { self.rng.usize(1..=conn.out.len()) };
        let number = conn.number;
        let bytes: Vec<u8> = conn.out.drain(..count).collect();
        self.note(format_args!("client {client} sends {count} bytes"));
        self.world.send(number, &bytes);
    }

    fn read_some_bytes(&mut self) {
        let client = self.rng.usize(..self.clients.len());
        let step = self.step;
        let Some(conn) = &self.clients[client].conn else { return };
        if conn.deaf_until > step {
            return;
        }
        let waiting = self.world.pipes[conn.number].down.len();
        let count = if self.rng.bool() { waiting } else { self.rng.usize(..=waiting) };
        self.read(client, count);
    }

    /// A client reads up to `count` bytes, and learns of the end of its connection.
    pub fn read(&mut self, client: usize, count: usize) {
        for (address, said) in std::mem::take(&mut self.world.moves) {
            self.model.note_move(&address, said);
        }
        let Some(conn) = &mut self.clients[client].conn else { return };
        let number = conn.number;
        let bytes = self.world.recv(number, count);
        if !bytes.is_empty() {
            let mut heard = Vec::new();
            conn.peer.hear(&bytes, &mut heard);
            let texts = heard.iter().filter(|heard| matches!(heard, Heard::Text(_))).count();
            self.texts += texts as u64;
            let read = bytes.len();
            self.note(format_args!("client {client} reads {read} bytes, {texts} messages"));
            for heard in heard {
                self.hear(client, heard);
            }
        }
        let pipe = &self.world.pipes[number];
        if pipe.is_closed && pipe.down.is_empty() {
            self.note(format_args!("client {client} is disconnected"));
            self.disconnected(client);
        }
    }

    fn hear(&mut self, client: usize, heard: Heard) {
        let at = self.step as u64;
        let Sim { clients, model, is_calm, is_draining, world, .. } = self;
        let Some(conn) = &mut clients[client].conn else { return };
        match heard {
            Heard::Accepted => conn.stage = Stage::Shaken,
            Heard::Refused(status) => {
                conn.stage = Stage::Over;
                model.see(format!("refused {status}"));
                world.trace.note(format_args!("client {client} is refused with {status}"));
                if status == 503 && !*is_draining || status >= 500 && status != 503 {
                    violation!("refusals", "client {client} was refused with {status}");
                }
            }
            Heard::Text(text) => {
                world.trace.note(format_args!("client {client} hears {text}"));
                conn.hear(model, &text, at);
            }
            Heard::Close(code, reason) => {
                world.trace.note(format_args!("client {client} is closed: {code} {reason}"));
                if *is_calm && !conn.is_doomed {
                    violation!("calm", "client {client} was closed: {code} {reason}");
                }
                model.see(format!("closed {code}"));
                conn.is_doomed = true;
                conn.stage = Stage::Over;
            }
            Heard::Broken(why) => violation!("sound frames", "client {client} got {why}"),
            Heard::Ping | Heard::Pong => {}
        }
    }

    /// A client id belongs to one connection that was welcomed, on all shards together.
    fn check_unique_ids(&self) {
        let mut ids = BTreeSet::new();
        for shard in &self.world.shards {
            let edge = shard.engine.edge();
            for session in edge.clients().filter_map(|conn| edge.session(conn)) {
                if !ids.insert(session.card.client_id.clone()) {
                    violation!("client ids", "two clients are {}", session.card.client_id);
                }
            }
        }
    }

    /// A connection is over for the client.
    pub fn disconnected(&mut self, client: usize) {
        let Some(conn) = self.clients[client].conn.take() else { return };
        if self.is_calm && !conn.is_doomed && conn.stage != Stage::Over {
            violation!("calm", "client {client} lost its connection {}", conn.number);
        }
        conn.check_missing(&self.model, false);
        for (room, known) in &conn.rooms {
            for (channel, member) in &known.channels {
                let cursor = &member.cursor;
                let seen = cursor.replay.as_ref().map_or(cursor.last, |replay| replay.seen);
                if let Some(epoch) = self.model.epoch(cursor.life) {
                    let address = (room.clone(), channel.clone());
                    self.clients[client].memory.insert(address, (epoch.to_owned(), seen));
                }
            }
        }
    }

    fn let_time_pass(&mut self) {
        let has_leaps = self.world.setup.has_leaps;
        let ms = match self.rng.u8(..20) {
            0..14 => self.rng.u64(..5),
            14..19 => self.rng.u64(..300),
            _ if has_leaps => self.rng.u64(..30_000),
            _ => 0,
        };
        self.note(format_args!("{ms} ms pass"));
        self.world.pass(Duration::from_millis(ms));
        if has_leaps && self.rng.u8(..10) == 0 {
            // An operator sets the clock.
            let seconds = self.rng.u64(..20);
            self.world.now.wall_us -= seconds * 1_000_000;
        }
    }

    fn break_something(&mut self) {
        let client = self.rng.usize(..self.clients.len());
        let until = self.step + self.rng.usize(10..200);
        match self.rng.u8(..7) {
            0 | 1 => {
                let shard = self.rng.usize(..self.world.shards.len());
                self.note(format_args!("shard {shard} is stuck until {until}"));
                self.world.shards[shard].stuck_until = until;
            }
            2 | 3 => {
                self.note(format_args!("client {client} reads nothing until {until}"));
                if let Some(conn) = &mut self.clients[client].conn {
                    conn.deaf_until = until;
                }
            }
            4 => {
                let Some(conn) = &mut self.clients[client].conn else { return };
                conn.is_doomed = true;
                let number = conn.number;
                self.note(format_args!("client {client} resets connection {number}"));
                self.world.reset(number);
                self.disconnected(client);
            }
            5 => {
                let Some(conn) = &mut self.clients[client].conn else { return };
                conn.is_doomed = true;
                let number = conn.number;
                self.note(format_args!("client {client} ends connection {number}"));
                self.world.end(number);
            }
            _ => {
                // Half open: the server is told nothing, and nobody reads.
                self.note(format_args!("client {client} vanishes"));
                if let Some(conn) = &mut self.clients[client].conn {
                    conn.is_doomed = true;
                }
                self.disconnected(client);
            }
        }
    }

    fn reconfigure(&mut self) {
        if self.rng.u8(..4) > 0 {
            return;
        }
        let mut limits = setup::limits(&mut self.rng);
        // What is on its way keeps its rules.
        limits.max_message_bytes = self.world.setup.limits.max_message_bytes;
        self.note(format_args!("reconfigured: {limits:?}"));
        self.model.history_min = self.model.history_min.min(setup::history_kept(&limits));
        let outbox_bytes = limits.outbox_bytes;
        self.model.outbox_min = self.model.outbox_min.min(u64::from(outbox_bytes));
        let largest = &mut self.world.setup.limits.outbox_bytes;
        *largest = (*largest).max(outbox_bytes);
        let limits = Arc::new(limits);
        for shard in 0..self.world.shards.len() {
            // A shard whose lane is full keeps its old limits; then each has its own.
            self.world.ask(shard, Ask::Reconfigure(limits.clone()));
        }
    }

    /// A client connects anew.
    pub fn connect(&mut self, client: usize) {
        let shard = self.rng.usize(..self.world.shards.len());
        let mut query = Vec::new();
        let wanted = match self.rng.u8(..10) {
            0 => None,
            1 => Some(format!("c{}", self.rng.usize(..self.clients.len()))),
            _ => Some(format!("c{client}")),
        };
        query.extend(wanted.as_ref().map(|id| format!("client_id={id}")));
        if self.rng.u8(..3) == 0 {
            let kind = pick(&mut self.rng, &["human", "ai-agent", "dashboard", "service", "robot"]);
            query.push(format!("client_type={kind}"));
        }
        let mut stars = Vec::new();
        if self.rng.u8(..3) == 0 {
            let mut joins = Vec::new();
            for _ in 0..self.rng.usize(1..5) {
                let (room, channel) = self.some_address();
                joins.push(format!("{room}:{channel}"));
                stars.extend((channel == "*").then_some(room));
            }
            query.push(format!("join={}", joins.join(",")));
        }
        let query = match query.is_empty() {
            true => String::new(),
            false => format!("?{}", query.join("&")),
        };
        let turned_away =
            (self.rng.u8(..50) == 0).then_some(arqonbus::protocol::close::CloseReason::Full);
        let number = self.world.connect(shard, turned_away);
        self.note(format_args!("client {client} connects to {shard} as {number} with {query}"));
        let peer = Peer::connect(&mut self.rng, &query);
        let mut conn = Conn::new(number, shard, peer, wanted);
        conn.is_doomed = turned_away.is_some();
        conn.stars.extend(stars);
        if self.rng.u8(..40) == 0 {
            // It connects and says nothing, or stops in the middle of its request.
            let begun = conn.peer.take_out();
            let some = self.rng.usize(..begun.len());
            self.world.send(number, &begun[..some]);
            self.model.see("half a handshake".into());
            return;
        }
        self.clients[client].conn = Some(conn);
    }
}
