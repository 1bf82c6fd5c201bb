//! How a run ends: the trouble stops, everyone reads, and all must come to rest and add up; then
//! everyone leaves, and nothing may be left.

use crate::conn::{Conn, Stage};
use crate::model::Model;
use crate::setup::{CHANNELS, ROOMS, SECRETS};
use crate::sim::Sim;
use crate::violation;
use arqonbus::base::ids::{ConnRef, ShardId};
use arqonbus::broker::census::RowsWanted;
use arqonbus::broker::history::{History, newest};
use arqonbus::broker::home::{Home, Told};
use arqonbus::broker::lane::Ask;
use arqonbus::broker::policy::{ClientCard, Role};
use arqonbus::protocol::close::CloseReason;
use arqonbus::protocol::command::ClientType;
use arqonbus::protocol::names::Name;
use arqonbus::protocol::views::RoomRow;
use arqonbus::shard::meters::{Counter, Gauge, Meters};
use std::collections::BTreeSet;
use std::time::Duration;

/// Turns in which everything that is under way must have come to its end.
const TURNS_MAX: u64 = 300_000;

impl Sim {
    /// The trouble stops; everything under way comes to its end, and then stays as it is.
    pub fn rest(&mut self) {
        self.note(format_args!("the trouble stops"));
        for shard in &mut self.world.shards {
            shard.stuck_until = 0;
        }
        self.work_off();
        self.check_no_wakeup_was_lost();
        // Answers that wait for a deadline are the only ones that may be missing now.
        self.is_calm = true;
        self.note(format_args!("all is calm"));
        self.pass(self.patience_ms());
        self.check_quiet();
        self.check_counters();
    }

    /// Everyone leaves, or is sent away.
    pub fn end(&mut self) {
        self.is_calm = false;
        match self.world.setup.ends_with_drain {
            true => self.drain(),
            false => self.leave_all(),
        }
        self.pass(self.patience_ms());
        for client in 0..self.clients.len() {
            if let Some(conn) = &self.clients[client].conn {
                violation!("all gone", "client {client} still has connection {}", conn.number);
            }
        }
        let ttl_ms = 61_000;
        self.pass(ttl_ms);
        self.check_empty();
        self.check_counters();
    }

    fn drain(&mut self) {
        for client in 0..self.clients.len() {
            // Some are just about to come.
            if self.clients[client].conn.is_none() && self.rng.bool() {
                self.connect(client);
            }
        }
        self.is_draining = true;
        for _ in 0..self.rng.usize(..20) {
            self.step += 1;
            let shard = self.rng.usize(..self.world.shards.len());
            self.world.turn(shard);
            let client = self.rng.usize(..self.clients.len());
            self.flush(client);
        }
        self.note(format_args!("drain"));
        for shard in 0..self.world.shards.len() {
            while !self.world.ask(shard, Ask::Drain { window_ms: 500 }) {
                self.world.turn(shard);
            }
        }
        for client in &mut self.clients {
            if let Some(conn) = &mut client.conn {
                conn.is_doomed = true;
            }
        }
        self.work_off();
        self.pass(600 + 2_000);
    }

    fn leave_all(&mut self) {
        self.note(format_args!("everyone leaves"));
        for client in 0..self.clients.len() {
            let Some(conn) = &mut self.clients[client].conn else { continue };
            conn.is_doomed = true;
            let number = conn.number;
            match self.rng.u8(..3) {
                0 => conn.peer.close(),
                1 => self.world.end(number),
                _ => {
                    self.world.reset(number);
                    self.disconnected(client);
                }
            }
        }
        self.work_off();
    }

    /// How long it may take until the last timer has done what it does.
    fn patience_ms(&self) -> u64 {
        2 * 25_000 + 10_000 + 5_000 + 2_000
    }

    /// Lets time pass, as it does when every driver sleeps until its next timer.
    fn pass(&mut self, ms: u64) {
        let until_ms = self.world.now.mono_ms() + ms;
        loop {
            self.work_off();
            let now_ms = self.world.now.mono_ms();
            if now_ms >= until_ms {
                return;
            }
            let ticks = self.world.shards.iter().filter_map(|shard| shard.engine.next_tick_ms());
            let next_ms = ticks.min().unwrap_or(u64::MAX).clamp(now_ms + 1, until_ms);
            self.world.pass(Duration::from_millis(next_ms - now_ms));
        }
    }

    /// Runs shards and clients as long as any of them has a reason to do something.
    fn work_off(&mut self) {
        let begun = self.world.turns;
        loop {
            let mut is_busy = false;
            for shard in 0..self.world.shards.len() {
                if self.world.reason(shard).is_some() {
                    is_busy = true;
                    self.world.turn(shard);
                }
            }
            for client in 0..self.clients.len() {
                is_busy |= self.flush(client);
            }
            is_busy |= self.world.store_all();
            if !is_busy {
                return;
            }
            if self.world.turns - begun > TURNS_MAX {
                violation!("liveness", "no rest after {TURNS_MAX} turns");
            }
        }
    }

    /// A client sends and reads everything; false if there was nothing.
    pub fn flush(&mut self, client: usize) -> bool {
        let Some(conn) = &mut self.clients[client].conn else { return false };
        conn.out.extend(conn.peer.take_out());
        let bytes = std::mem::take(&mut conn.out);
        let number = conn.number;
        if !bytes.is_empty() {
            self.world.send(number, &bytes);
        }
        let pipe = &self.world.pipes[number];
        let has_news = !pipe.down.is_empty() || pipe.is_closed;
        if has_news {
            self.read(client, usize::MAX);
        }
        has_news || !bytes.is_empty()
    }

    /// A driver that would sleep has nothing to do: a turn without a reason changes nothing.
    fn check_no_wakeup_was_lost(&mut self) {
        // At the beginning of a millisecond, so that no timer comes due meanwhile.
        let beyond_ns = self.world.now.mono_ns % 1_000_000;
        self.world.pass(Duration::from_nanos(1_000_000 - beyond_ns));
        self.work_off();
        let sent = self.world.bytes_sent;
        for shard in 0..self.world.shards.len() {
            self.world.turn(shard);
        }
        let now_sent = self.world.bytes_sent;
        if now_sent > sent {
            violation!("no lost wakeup", "{} bytes came out of nowhere", now_sent - sent);
        }
        for shard in 0..self.world.shards.len() {
            if let Some(reason) = self.world.reason(shard) {
                violation!("no lost wakeup", "shard {shard} has {reason} out of nowhere");
            }
        }
    }

    fn check_quiet(&mut self) {
        let numbers: BTreeSet<usize> =
            self.clients.iter().flat_map(|client| &client.conn).map(|conn| conn.number).collect();
        for (shard, own) in self.world.shards.iter_mut().enumerate() {
            let engine = &mut own.engine;
            engine.set_gauges();
            let here = |conn: &&Conn| conn.shard == shard;
            let conns = || self.clients.iter().filter_map(|client| client.conn.as_ref());
            let connections = conns().filter(here).count();
            let live = conns().filter(here).filter(|conn| conn.stage == Stage::Live).count();
            let facts = [
                ("connections", engine.connection_count(), connections),
                ("sessions", engine.edge().session_count(), live),
                ("clients", engine.edge().client_count() as usize, live),
                ("pending answers", engine.edge().pending_count(), 0),
                ("paused", engine.tally().gauge(Gauge::Paused) as usize, 0),
                ("outbox bytes", engine.tally().gauge(Gauge::OutboxBytes) as usize, 0),
                ("events not stored", engine.tally().gauge(Gauge::EventsPending) as usize, 0),
                ("acks waiting", engine.tally().gauge(Gauge::AcksWaiting) as usize, 0),
            ];
            for (what, count, expected) in facts {
                if count != expected {
                    violation!("quiet", "shard {shard} has {count} {what}, not {expected}");
                }
            }
        }
        let ids: usize =
            self.world.shards.iter().map(|shard| shard.engine.home().client_id_count()).sum();
        let live = self.clients.iter().flat_map(|client| &client.conn);
        let live = live.filter(|conn| conn.stage == Stage::Live).count();
        if ids != live {
            violation!("client ids", "{ids} ids are taken by {live} clients");
        }
        self.check_channels();
        for client in &self.clients {
            let Some(conn) = &client.conn else { continue };
            conn.check_missing(&self.model, true);
            if let Some((id, asked)) = conn.unanswered().next() {
                violation!(
                    "every answer",
                    "connection {} waits for {id}: {:?}",
                    conn.number,
                    asked.what
                );
            }
            if conn.unreadable > 0 {
                violation!("every answer", "{} unreadable messages", conn.unreadable);
            }
        }
        self.check_privates(&numbers);
    }

    /// Homes and clients agree on who is where, and everyone has come as far as the channel.
    fn check_channels(&mut self) {
        for room in ROOMS {
            let home = self.world.placement.of_room(room).index();
            let home = self.world.shards[home].engine.home();
            for channel in CHANNELS.iter().chain(&SECRETS) {
                let mut expected = 0;
                for client in &mut self.clients {
                    let Some(conn) = &mut client.conn else { continue };
                    let Some(known) = home.channel(room, channel) else {
                        if conn.is_member(room, channel) {
                            violation!("members", "{} is in no {room}:{channel}", conn.number);
                        }
                        continue;
                    };
                    let Some(at) = self.world.pipes[conn.number].conn else { continue };
                    let at = ConnRef { shard: ShardId(conn.shard as u16), conn: at };
                    let is_member = home.is_member(known, at);
                    expected += usize::from(is_member);
                    if conn.is_member(room, channel) && !is_member {
                        violation!("members", "{} is no member of {room}:{channel}", conn.number);
                    }
                    if is_member {
                        let last = known.history.last();
                        conn.check_tail(&mut self.model, room, channel, last);
                        if last > 0 && !conn.is_member(room, channel) {
                            violation!("members", "{} in {room}:{channel}?", conn.number);
                        }
                    }
                }
                if let Some(known) = home.channel(room, channel) {
                    check_history(&mut self.model, room, channel, &known.history);
                }
                let count = home.member_count_of(room, channel);
                if count != expected {
                    violation!("members", "{room}:{channel} has {count}, not {expected}");
                }
            }
            for client in &mut self.clients {
                if let (Some(conn), Some(history)) = (&mut client.conn, home.whole_room(room)) {
                    conn.check_tail(&mut self.model, room, "*", history.last());
                }
            }
        }
    }

    /// A private message that was delivered to everyone reached everyone who stayed.
    fn check_privates(&self, numbers: &BTreeSet<usize>) {
        for (nonce, private) in self.model.privates.iter().enumerate() {
            if !private.is_delivered || private.has_ttl {
                continue;
            }
            for conn in self.clients.iter().flat_map(|client| &client.conn) {
                let is_meant = conn.ids.len() == 1
                    && private.targets.contains(&conn.client_id)
                    && conn.welcomed_at < private.sent_at
                    && numbers.contains(&conn.number);
                if is_meant && !private.heard_by.contains(&conn.number) && conn.unordered_lost == 0
                {
                    violation!("private", "{} never got private message {nonce}", conn.number);
                }
            }
        }
    }

    fn check_counters(&mut self) {
        let (mut received, mut sent, mut accepted, mut repeats, mut messages) = (0, 0, 0, 0, 0);
        for meters in &self.world.dead {
            received += meters.counter(Counter::BytesReceived);
            sent += meters.counter(Counter::BytesSent);
            accepted += meters.counter(Counter::EventsAccepted);
            repeats += meters.counter(Counter::EventsDuplicate);
            messages += meters.counter(Counter::MessagesSent);
        }
        for (number, shard) in self.world.shards.iter_mut().enumerate() {
            let meters = Meters::default();
            shard.engine.set_gauges();
            meters.publish(shard.engine.tally());
            let closed: u64 = CloseReason::ALL.iter().map(|reason| meters.close(*reason)).sum();
            let opened = meters.counter(Counter::ConnectionsOpened);
            let open = meters.gauge(Gauge::Connections);
            if opened != closed + open {
                violation!("counters", "{number}: {opened} opened, {closed} closed, {open} open");
            }
            received += meters.counter(Counter::BytesReceived);
            sent += meters.counter(Counter::BytesSent);
            accepted += meters.counter(Counter::EventsAccepted);
            repeats += meters.counter(Counter::EventsDuplicate);
            messages += meters.counter(Counter::MessagesSent);
        }
        let open = |publish: &&crate::model::Publish| {
            publish.place.is_none() && !publish.is_refused && !publish.is_duplicate
        };
        let unknown = self.model.publishes.iter().filter(open).count() as u64;
        let placed = self.model.placed();
        if accepted < placed || accepted > placed + unknown {
            violation!("counters", "{accepted} accepted, {placed} seen, {unknown} unknown");
        }
        let repeated = self.model.duplicates;
        if repeats < repeated || repeats > repeated + unknown {
            violation!("counters", "{repeats} repeats, {repeated} seen, {unknown} unknown");
        }
        let world = (self.world.bytes_received, self.world.bytes_sent);
        if (received, sent) != world || messages < self.texts {
            violation!("counters", "{received} and {sent} bytes, not {world:?}; {messages}");
        }
    }

    fn check_empty(&mut self) {
        let admin = ClientCard {
            client_id: Name::fixed("admin"),
            client_type: ClientType::Human,
            screen_name: None,
            role: Role::Admin,
        };
        for (number, shard) in self.world.shards.iter_mut().enumerate() {
            let engine = &shard.engine;
            let home: &Home = engine.home();
            let facts = [
                ("connections", engine.connection_count()),
                ("sessions", engine.edge().session_count()),
                ("pending answers", engine.edge().pending_count()),
                ("client ids", home.client_id_count()),
                ("people in rooms", home.presence_count()),
            ];
            for (what, count) in facts {
                if count > 0 {
                    violation!("all gone", "shard {number} still has {count} {what}");
                }
            }
            let rooms = home.rooms_part(&admin, &RowsWanted::first(), &mut Told::default());
            for room in rooms.rows {
                let RoomRow::Full(room) = room else { continue };
                if room.room_type == "dynamic" && room.channels.is_empty() {
                    violation!("all gone", "the dynamic room {} is left", room.name);
                }
                for channel in &room.channels {
                    let known = home.channel(&room.name, channel);
                    let members = home.member_count_of(&room.name, channel);
                    if known.is_some_and(|known| known.auto_created || members > 0) {
                        violation!("all gone", "{}:{channel} is left", room.name);
                    }
                }
            }
        }
    }
}

/// What a home keeps is what clients saw.
fn check_history(model: &mut Model, room: &str, channel: &str, history: &History) {
    let (Ok(named), Ok(channel_name)) = (Name::parse(room), Name::parse(channel)) else { return };
    let life = model.life_of(history.epoch());
    for frame in history.page(&newest(named, channel_name, 1_000), 0, usize::MAX).messages {
        let Some(nonce) = model.at(life, frame.sequence) else { continue };
        let publish = &model.publishes[nonce];
        if (publish.id.as_str(), publish.from.as_str()) != (frame.id(), frame.from()) {
            violation!("history", "{room}:{channel} keeps {} as {}", frame.id(), frame.sequence);
        }
    }
}
