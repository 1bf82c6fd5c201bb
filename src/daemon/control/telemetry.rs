//! What the shards tell becomes envelopes: for every telemetry reader, and, with the same id, for a
//! channel of the bus.
//!
//! Events are gathered for a few milliseconds and spread together: a burst then costs one wake-up
//! and one turn for many events, and an event is still out long before anyone could miss it.
//!
//! What could not be spread is told of: an event that found no room in the queue from the shards to
//! all readers and to its channel, one that found no room in the lane to its channel to that.
//!
//! *Invariants*: the order of the events is the order of the envelopes, for each reader and for
//! the bus; no event is missing for anybody without a notice, but for one that has not found room yet; an envelope's time never goes back; `agent_activity` goes to the dashboard channel and
//! everything else to the telemetry channel, each to one of them once.

use super::backlog::Entry;
use super::intake::{Lost, Outlet};
use super::status::{self, Totals};
use super::{Publication, Shared};
use crate::base::limits::TELEMETRY_GATHER_MS;
use crate::base::time::Now;
use crate::broker::telemetry::{Event, Place, Telemetry};
use crate::daemon::memory::resident_bytes;
use crate::protocol::command::Address;
use crate::protocol::envelope::{Envelope, MessageType, Metadata};
use crate::protocol::frame::{Draft, Origin};
use crate::protocol::names::{
    DASHBOARD_CHANNEL, Name, SERVER_ID, TELEMETRY_CHANNEL, TELEMETRY_ROOM,
};
use crate::protocol::timestamp;
use axum::extract::ws::Utf8Bytes;
use serde_json::{Value, json};
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};
use ulid::Ulid;

/// The events taken at once before other tasks have their turn.
const BATCH: usize = 256;

/// Makes envelopes and spreads them.
pub(super) struct Spreader {
    shared: Arc<Shared>,
    publish: Box<dyn Fn(Publication) -> bool + Send>,
    stream: Stream,
    dashboard: Stream,
    /// The time of the last envelope, in microseconds since 1970.
    last_us: u64,
    /// What the last `stats` were made from.
    last_totals: (Now, Totals),
}

/// A channel of the bus that is published to.
struct Stream {
    address: Address,
    /// Events that its members miss, and were not told of.
    missed: u64,
}

/// An envelope, and where it is published.
struct Outgoing {
    id: String,
    from: Name,
    /// What the envelope is addressed to.
    address: Address,
    /// The channel of the bus that it travels in.
    channel: Address,
    payload: String,
    metadata: String,
}

impl Spreader {
    /// One that spreads to the readers of `shared` and by `publish`.
    pub(super) fn new(
        shared: Arc<Shared>,
        publish: Box<dyn Fn(Publication) -> bool + Send>,
    ) -> Spreader {
        let room = Name::fixed(TELEMETRY_ROOM);
        let now = (shared.clock)();
        Spreader {
            stream: Stream::new(room.clone(), TELEMETRY_CHANNEL),
            dashboard: Stream::new(room, DASHBOARD_CHANNEL),
            last_us: 0,
            last_totals: (now, Totals::read(&shared.meters)),
            shared,
            publish,
        }
    }

    /// Spreads until told to stop; what was told before that is still spread.
    pub(super) async fn run(
        mut self,
        mut events: Outlet,
        stats_interval: Duration,
        mut stopped: oneshot::Receiver<()>,
    ) {
        let tells_stats = !stats_interval.is_zero();
        // An interval of no time is not allowed, even if nobody waits for it.
        let stats_interval = stats_interval.max(Duration::from_millis(1));
        let mut stats = interval_at(Instant::now() + stats_interval, stats_interval);
        stats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut samples = interval_at(Instant::now(), self.shared.bounds.sample);
        samples.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        let mut has_senders = true;
        loop {
            tokio::select! {
                _ = &mut stopped => break,
                count = events.take_many(&mut batch, BATCH), if has_senders => {
                    has_senders = count > 0;
                    self.spread(&mut batch, &events);
                    if count < BATCH {
                        sleep(Duration::from_millis(TELEMETRY_GATHER_MS)).await;
                    } else {
                        tokio::task::yield_now().await;
                    }
                }
                _ = stats.tick(), if tells_stats => self.spread_stats(),
                _ = samples.tick() => {
                    status::sample(&self.shared);
                    self.tell_of_lost(&events);
                }
            }
        }
        while let Some(event) = events.take() {
            batch.push(event);
        }
        self.spread(&mut batch, &events);
    }

    /// Spreads events in their order and leaves the batch empty. What was lost found the queue full of
    /// them, and came after.
    fn spread(&mut self, batch: &mut Vec<Telemetry>, events: &Outlet) {
        let outgoing = batch.drain(..).map(|telemetry| self.outgoing(telemetry)).collect();
        self.send(outgoing);
        self.tell_of_lost(events);
    }

    /// Tells the readers what the queue had no room for, and the channels what did not reach them.
    fn tell_of_lost(&mut self, events: &Outlet) {
        let Lost { stream, dashboard } = events.take_lost();
        let lost = stream + dashboard;
        if lost > 0 {
            self.shared.counts.lost.fetch_add(lost, Relaxed);
            let now = (self.shared.clock)();
            self.last_us = self.last_us.max(now.wall_us);
            if self.shared.backlog.has_readers() {
                let text = gap(lost, "overloaded", self.last_us);
                self.shared.backlog.extend([Entry { text, events: lost }]);
            }
            self.stream.missed += stream;
            self.dashboard.missed += dashboard;
        }
        self.tell_channel_of_missed(false);
        self.tell_channel_of_missed(true);
    }

    /// Tells a channel what its members miss, if there is room in the lane to it.
    fn tell_channel_of_missed(&mut self, is_dashboard: bool) {
        let stream = if is_dashboard { &self.dashboard } else { &self.stream };
        let (missed, address) = (stream.missed, stream.address.clone());
        if missed == 0 {
            return;
        }
        let now = (self.shared.clock)();
        let message = format!("{missed} telemetry events were dropped: the server had too many");
        let told = json!({ "missed": missed, "reason": "overloaded", "message": message });
        let notice = self.of_server("gap", now.wall_us, &told, address);
        if (self.publish)(notice.publication(now)) {
            let stream = if is_dashboard { &mut self.dashboard } else { &mut self.stream };
            stream.missed = 0;
        }
    }

    /// Tells how the server does.
    fn spread_stats(&mut self) {
        let now = (self.shared.clock)();
        let totals = Totals::read(&self.shared.meters);
        let (before, last) = std::mem::replace(&mut self.last_totals, (now, totals));
        let passed_ns = now.mono_ns.saturating_sub(before.mono_ns).max(1);
        let rate = |now: u64, last: u64| {
            let per_second = now.saturating_sub(last) as f64 * 1e9 / passed_ns as f64;
            (per_second * 10.0).round() / 10.0
        };
        let told = json!({
            "uptime_s": self.shared.uptime().as_secs(),
            "clients": totals.clients,
            "connections": totals.connections,
            "telemetry_connections": self.shared.reader_count(),
            "rooms": totals.rooms,
            "channels": totals.channels,
            "messages_received": totals.messages_received,
            "messages_sent": totals.messages_sent,
            "messages_received_per_s": rate(totals.messages_received, last.messages_received),
            "messages_sent_per_s": rate(totals.messages_sent, last.messages_sent),
            "memory_bytes": resident_bytes(),
        });
        let outgoing = self.of_server("stats", now.wall_us, &told, self.stream.address.clone());
        self.send(vec![outgoing]);
    }

    fn send(&mut self, outgoing: Vec<Outgoing>) {
        let now = (self.shared.clock)();
        self.last_us = self.last_us.max(now.wall_us);
        if self.shared.backlog.has_readers() {
            let entry = |outgoing: &Outgoing| Entry {
                text: Utf8Bytes::from(outgoing.text(self.last_us)),
                events: 1,
            };
            self.shared.backlog.extend(outgoing.iter().map(entry));
        }
        self.shared.counts.events.fetch_add(outgoing.len() as u64, Relaxed);
        for outgoing in outgoing {
            let is_dashboard = outgoing.channel == self.dashboard.address;
            // What was missed before is told before; while there is no room for that, there is none.
            self.tell_channel_of_missed(is_dashboard);
            let stream = if is_dashboard { &mut self.dashboard } else { &mut self.stream };
            if stream.missed > 0 || !(self.publish)(outgoing.publication(now)) {
                stream.missed += 1;
                self.shared.counts.unpublished.fetch_add(1, Relaxed);
            }
        }
    }

    /// The envelope of one event.
    fn outgoing(&self, Telemetry { at_us, event }: Telemetry) -> Outgoing {
        match event {
            Event::OfClient { id, from, address, payload, metadata } => {
                let channel = self.stream.address.clone();
                Outgoing { id, from, address, channel, payload, metadata }
            }
            event => {
                let channel = match event {
                    Event::AgentActivity { .. } => &self.dashboard.address,
                    _ => &self.stream.address,
                };
                let (event_type, told) = describe(&event);
                self.of_server(event_type, at_us, &told, channel.clone())
            }
        }
    }

    fn of_server(&self, event_type: &str, at_us: u64, told: &Value, channel: Address) -> Outgoing {
        let at = timestamp::format(at_us);
        let at = String::from_utf8_lossy(&at);
        let payload = json!({ "eventType": event_type, "at": at, "payload": told });
        Outgoing {
            id: server_id((self.shared.clock)().wall_us),
            from: Name::fixed(SERVER_ID),
            address: channel.clone(),
            channel,
            payload: payload.to_string(),
            metadata: String::new(),
        }
    }
}

impl Stream {
    fn new(room: Name, channel: &'static str) -> Stream {
        Stream { address: Address { room, channel: Name::fixed(channel) }, missed: 0 }
    }
}

impl Outgoing {
    fn text(&self, timestamp_us: u64) -> String {
        let kind = MessageType::Telemetry;
        let (from, payload) = (&self.from, &self.payload);
        envelope(&self.id, kind, &self.address, from, timestamp_us, payload, &self.metadata)
    }

    fn publication(self, now: Now) -> Publication {
        let envelope = Envelope {
            id: Cow::Borrowed(&self.id),
            kind: MessageType::Telemetry,
            room: Cow::Borrowed(&self.address.room),
            channel: Cow::Borrowed(&self.address.channel),
            from: Cow::Borrowed(&self.from),
            payload: &self.payload,
            metadata: Metadata { members: (&self.metadata).into(), ..Metadata::default() },
        };
        let origin = Origin { received_ns: now.mono_ns, ttl_ms: None };
        Publication { draft: Draft::new(&envelope, &self.from, origin), address: self.channel }
    }
}

/// The notice for a reader that `missed` events: because it was behind (`too_slow`), or because the
/// server had more than it could tell (`overloaded`).
pub(super) fn gap(missed: u64, reason: &str, now_us: u64) -> Utf8Bytes {
    let advice = match reason {
        "too_slow" => "for this connection; read faster",
        _ => "for everybody; the server had too many",
    };
    let address =
        Address { room: Name::fixed(TELEMETRY_ROOM), channel: Name::fixed(TELEMETRY_CHANNEL) };
    let payload = json!({
        "event": "gap",
        "room": address.room,
        "channel": address.channel,
        "missed": missed,
        "reason": reason,
        "message": format!("{missed} telemetry events were dropped {advice}"),
    });
    let from = Name::fixed(SERVER_ID);
    let (id, kind) = (server_id(now_us), MessageType::System);
    envelope(&id, kind, &address, &from, now_us, &payload.to_string(), "").into()
}

/// A whole envelope as text. Ids and names need no escaping, by their rules; payload and metadata
/// are JSON already.
fn envelope(
    id: &str,
    kind: MessageType,
    address: &Address,
    from: &Name,
    timestamp_us: u64,
    payload: &str,
    metadata: &str,
) -> String {
    let kind = kind.as_str();
    let Address { room, channel } = address;
    let time = timestamp::format(timestamp_us);
    let time = String::from_utf8_lossy(&time);
    format!(
        r#"{{"version":"1.0","id":"{id}","type":"{kind}","room":"{room}","channel":"{channel}","from":"{from}","timestamp":"{time}","payload":{payload},"metadata":{{{metadata}}}}}"#
    )
}

fn server_id(now_us: u64) -> String {
    format!("arq_{}", Ulid::from_parts(now_us / 1_000, fastrand::u128(..)))
}

/// The type of an event, and what it tells.
fn describe(event: &Event) -> (&'static str, Value) {
    match event {
        Event::ClientConnected { client_id, client_type, address } => (
            "client_connected",
            json!({ "client_id": client_id, "client_type": client_type.as_str(), "address": address }),
        ),
        Event::ClientIdentified { client_id, previous_id, client_type } => (
            "client_identified",
            json!({
                "client_id": client_id,
                "previous_client_id": previous_id,
                "client_type": client_type.as_str(),
            }),
        ),
        Event::ClientDisconnected { client_id, client_type, reason } => (
            "client_disconnected",
            json!({
                "client_id": client_id,
                "client_type": client_type.as_str(),
                "reason": reason.label(),
                "code": reason.code(),
            }),
        ),
        Event::ChannelCreated { place, created_by, auto_created } => {
            let made = json!({ "created_by": created_by, "auto_created": auto_created });
            ("channel_created", told_of(place, made))
        }
        Event::ChannelDeleted { place } => ("channel_deleted", told_of(place, json!({}))),
        Event::Joined { client_id, place } => {
            ("joined", told_of(place, json!({ "client_id": client_id })))
        }
        Event::Left { client_id, place } => {
            ("left", told_of(place, json!({ "client_id": client_id })))
        }
        Event::MessageRefused { client_id, fault } => (
            "message_refused",
            json!({ "client_id": client_id, "error": fault.word(), "code": fault.code() }),
        ),
        Event::SlowConsumer { client_id, waiting_bytes } => {
            ("slow_consumer", json!({ "client_id": client_id, "waiting_bytes": waiting_bytes }))
        }
        Event::StorageDegraded { reason } => ("storage_degraded", json!({ "reason": reason })),
        Event::StorageStillDegraded { reason } => {
            ("storage_still_degraded", json!({ "reason": reason }))
        }
        Event::StorageRestored { outage_ms, lost } => {
            ("storage_restored", json!({ "outage_ms": outage_ms, "lost": lost }))
        }
        Event::AgentActivity { client_id, action, place } => {
            let who = json!({ "client_id": client_id, "action": action });
            ("agent_activity", told_of(place, who))
        }
        // A client says itself what it tells.
        Event::OfClient { from, address, .. } => {
            ("of_client", told_of(&Place::Open(address.clone()), json!({ "client_id": from })))
        }
    }
}

/// What is told, and where it happened: of a private channel the room alone.
fn told_of(place: &Place, mut told: Value) -> Value {
    let (room, channel) = match place {
        Place::Open(address) => (&address.room, Some(&address.channel)),
        Place::Private(room) | Place::Somewhere(room) => (room, None),
    };
    told["room"] = json!(room);
    told["channel"] = json!(channel);
    if let Place::Private(_) = place {
        told["private"] = true.into();
    }
    told
}
