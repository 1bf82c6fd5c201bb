//! What is told of the node in JSON, and whether it is ready for more clients.
//!
//! Everything is read from the meters at the moment of asking; the one thing kept is [`Load`], for
//! a share of time needs two readings.

use super::health::{self, Component};
use super::{Phase, Shared};
use crate::base::limits::{LANE_FULL_PERCENT, LANE_SLOTS, STUCK_SAMPLES};
use crate::daemon::logging::LogCounts;
use crate::daemon::memory::resident_bytes;
use crate::protocol::views::{StorageView, Time};
use crate::shard::meters::{Counter, Gauge, Meters};
use crate::storage;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// The channels in quarantine that `/status` names.
const QUARANTINE_ROWS_MAX: usize = 100;

/// The sums over all shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) connections: u64,
    pub(super) clients: u64,
    pub(super) rooms: u64,
    pub(super) channels: u64,
    pub(super) messages_received: u64,
    pub(super) messages_sent: u64,
}

impl Totals {
    /// The sums as they are now.
    pub(super) fn read(meters: &[Arc<Meters>]) -> Totals {
        let gauge = |gauge| meters.iter().map(|shard| shard.gauge(gauge)).sum();
        let counter = |counter| meters.iter().map(|shard| shard.counter(counter)).sum();
        Totals {
            connections: gauge(Gauge::Connections),
            clients: gauge(Gauge::Clients),
            rooms: gauge(Gauge::Rooms),
            channels: gauge(Gauge::Channels),
            messages_received: counter(Counter::MessagesReceived),
            messages_sent: counter(Counter::MessagesSent),
        }
    }
}

/// Whether the node is ready for more clients, and if not, why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    Starting,
    /// So many other nodes of the bus do not know of this one yet.
    Joining(String),
    Ready,
    /// With the part that can't do its work, and why.
    Degraded(String),
    /// With the reason as a sentence.
    Overloaded(String),
    /// With the reason, if it is not that somebody wants it to end.
    Draining(Option<Arc<str>>),
}

impl Readiness {
    /// What holds now. Overloaded is a node that has every connection it may have, or a shard
    /// whose lane is nearly full: more clients would only make it slower for the others.
    pub(super) fn read(shared: &Shared) -> Readiness {
        if let Some(ending) = shared.facts.ending() {
            return Readiness::Draining(Some(ending));
        }
        match shared.facts.phase() {
            Phase::Starting => Readiness::Starting,
            Phase::Draining => Readiness::Draining(None),
            Phase::Ready => {
                let degradations = shared.facts.health().degradations();
                let hinders = |(component, _): &&(Component, _)| component.is_needed_by_clients();
                if let Some((component, degradation)) = degradations.iter().find(hinders) {
                    let reason = format!("{}: {}", component.label(), degradation.cause);
                    return Readiness::Degraded(reason);
                }
                match joining(shared) {
                    Some(reason) => Readiness::Joining(reason),
                    None => overload(shared).map_or(Readiness::Ready, Readiness::Overloaded),
                }
            }
        }
    }

    /// The stable word.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Readiness::Starting | Readiness::Joining(_) => "starting",
            Readiness::Ready => "ready",
            Readiness::Degraded(_) => "degraded",
            Readiness::Overloaded(_) => "overloaded",
            Readiness::Draining(_) => "draining",
        }
    }

    /// Why not, if not.
    pub(super) fn reason(&self) -> Option<&str> {
        match self {
            Readiness::Starting => Some("not all shards run yet"),
            Readiness::Ready => None,
            Readiness::Joining(reason)
            | Readiness::Degraded(reason)
            | Readiness::Overloaded(reason) => Some(reason),
            Readiness::Draining(reason) => {
                Some(reason.as_deref().unwrap_or("the server is going away"))
            }
        }
    }
}

/// What other nodes do not know of a node that has just started, they can't tell their clients.
fn joining(shared: &Shared) -> Option<String> {
    let awaited = shared.storage.as_ref()?.peers_awaited.load(Relaxed);
    let nodes = if awaited == 1 { "node does" } else { "nodes do" };
    (awaited > 0).then(|| format!("{awaited} other {nodes} not know of this node yet"))
}

fn overload(shared: &Shared) -> Option<String> {
    let most = u64::from(shared.facts.limits().max_connections);
    let connections = Totals::read(&shared.meters).connections;
    if most > 0 && connections >= most {
        return Some(format!("all {most} connections are in use"));
    }
    for (shard, meters) in shared.meters.iter().enumerate() {
        for (lane, gauge) in [("ask", Gauge::AskLane), ("tell", Gauge::TellLane)] {
            let depth = meters.gauge(gauge);
            if depth * 100 > LANE_SLOTS as u64 * LANE_FULL_PERCENT {
                return Some(format!(
                    "the {lane} lane of shard {shard} holds {depth} of {LANE_SLOTS}"
                ));
            }
        }
    }
    None
}

/// Looks how the shards and the log do. Called about once a second.
pub(super) fn sample(shared: &Shared) {
    let (now, health) = ((shared.clock)(), shared.facts.health());
    match shared.load.sample(now.mono_ns, &shared.meters) {
        Some(shard) => {
            let cause = format!("shard {shard} does not end its turn");
            health.fail(Component::Shards, now, &cause);
        }
        None => health.succeed(Component::Shards, now),
    }
    match shared.load.lines_dropped(&shared.log) {
        0 if shared.log.failed_write().is_none() => health.succeed(Component::Log, now),
        // Nothing was logged, so nobody knows.
        0 => {}
        _ => {
            let full = || "standard error is full".to_owned();
            let cause = shared.log.failed_write().unwrap_or_else(full);
            health.fail(Component::Log, now, &cause);
        }
    }
}

/// How busy each shard is: the share of the time between the last two samples that it worked.
#[derive(Debug)]
pub(super) struct Load {
    shards: Mutex<Vec<Sample>>,
    /// The lines that the log had dropped at the last look.
    lines_dropped: AtomicU64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    at_ns: u64,
    busy_ns: u64,
    share: f64,
    turns: u64,
    /// How many samples in a row found no turn ended. (One that sleeps ends two a second.)
    standing: u32,
}

impl Load {
    /// No sample yet, for so many shards.
    pub(super) fn new(shards: usize) -> Load {
        Load {
            shards: Mutex::new(vec![Sample::default(); shards]),
            lines_dropped: AtomicU64::new(0),
        }
    }

    /// Takes a sample; gives a shard that is stuck. Samples are counted, not seconds, so that a process
    /// that was stopped for a while is not taken for one with stuck shards.
    fn sample(&self, mono_ns: u64, meters: &[Arc<Meters>]) -> Option<usize> {
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        for (last, meters) in shards.iter_mut().zip(meters) {
            let busy_ns = meters.counter(Counter::BusyNanoseconds);
            let passed = mono_ns.saturating_sub(last.at_ns).max(1);
            let worked = busy_ns.saturating_sub(last.busy_ns);
            // A turn counts when it ends, and may have begun before the last sample.
            let share = (worked as f64 / passed as f64).min(1.0);
            let turns = meters.counter(Counter::Turns);
            let is_standing = turns > 0 && turns == last.turns;
            let standing = if is_standing { last.standing.saturating_add(1) } else { 0 };
            *last = Sample { at_ns: mono_ns, busy_ns, share, turns, standing };
        }
        shards.iter().position(|shard| shard.standing >= STUCK_SAMPLES)
    }

    /// How many lines the log has dropped since the last call.
    fn lines_dropped(&self, log: &LogCounts) -> u64 {
        let dropped = log.dropped.load(Relaxed);
        dropped - self.lines_dropped.swap(dropped, Relaxed)
    }

    /// The share of each shard, from 0 to 1.
    pub(super) fn shares(&self) -> Vec<f64> {
        let shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        shards.iter().map(|sample| sample.share).collect()
    }
}

/// Everything that `/status` tells.
pub(super) fn status(shared: &Shared) -> Value {
    let about = &shared.facts.about;
    let totals = Totals::read(&shared.meters);
    let readiness = Readiness::read(shared);
    json!({
        "server": about.server,
        "version": about.version,
        "protocol": "1.0",
        "node": about.node,
        "pid": std::process::id(),
        "state": readiness.label(),
        "reason": readiness.reason(),
        "uptime_s": shared.uptime().as_secs(),
        "clients": totals.clients,
        "connections": totals.connections,
        "rooms": totals.rooms,
        "channels": totals.channels,
        "messages_received": totals.messages_received,
        "messages_sent": totals.messages_sent,
        "telemetry_connections": shared.reader_count(),
        "memory_bytes": resident_bytes(),
        "memory_limit_bytes": shared.facts.memory_limit_bytes(),
        "degraded": health::rows(&shared.facts.health().degradations()),
        "storage": about.storage,
        "storage_state": storage_state(shared),
        "clock": clock(shared),
        "storage_quarantine": shared.storage.as_deref().map(quarantine),
        "listen": {
            "bus": about.bus,
            "telemetry": about.telemetry,
            "http": about.http,
        },
        "limits": shared.facts.limits(),
        "shards": shared.meters.len(),
        "per_shard": shared
            .meters
            .iter()
            .zip(shared.load.shares())
            .enumerate()
            .map(|(shard, (meters, busy_share))| row(shard, meters, busy_share))
            .collect::<Vec<_>>(),
    })
}

/// How the storage does, if there is one beyond memory: as the command `status` tells it.
pub(super) fn storage_state(shared: &Shared) -> Option<StorageView> {
    if shared.facts.about.storage == "memory" {
        return None;
    }
    let outage = shared.facts.outage();
    let degraded = outage
        .map(|outage| (Time(outage.since.wall_us), outage.reason, Time(outage.reason_at.wall_us)));
    let pending = shared.meters.iter().map(|meters| meters.gauge(Gauge::EventsPending)).sum();
    let lost = shared.meters.iter().map(|meters| meters.counter(Counter::EventsLost)).sum();
    Some(StorageView::new(degraded, pending, lost))
}

/// How this machine's clock compares with that of Redis, once that was measured.
fn clock(shared: &Shared) -> Option<Value> {
    let clock = shared.storage.as_ref()?.clock()?;
    Some(json!({
        "ahead_of_redis_ms": clock.ahead_us / 1_000,
        "within_ms": clock.within_us.div_ceil(1_000),
        "is_apart": clock.is_apart(),
    }))
}

/// The channels that can't be stored because of what stands at their keys: how many, and the first of
/// them with the reason.
fn quarantine(meters: &storage::Meters) -> Value {
    let (count, rows) = meters.quarantine.list(QUARANTINE_ROWS_MAX);
    let rows = rows.iter().map(|it| {
        json!({
            "channel": it.address.to_string(),
            "since": Time(it.since_us),
            "reason": it.reason,
        })
    });
    json!({ "count": count, "channels": rows.collect::<Vec<_>>() })
}

/// One shard of `/status`.
fn row(shard: usize, meters: &Meters, busy_share: f64) -> Value {
    json!({
        "shard": shard,
        "busy_share": (busy_share * 1_000.0).round() / 1_000.0,
        "clients": meters.gauge(Gauge::Clients),
        "connections": meters.gauge(Gauge::Connections),
        "paused_connections": meters.gauge(Gauge::Paused),
        "rooms": meters.gauge(Gauge::Rooms),
        "channels": meters.gauge(Gauge::Channels),
        "history_messages": meters.gauge(Gauge::HistoryMessages),
        "history_bytes": meters.gauge(Gauge::HistoryBytes),
        "ask_lane_depth": meters.gauge(Gauge::AskLane),
        "tell_lane_depth": meters.gauge(Gauge::TellLane),
        "lane_slots": LANE_SLOTS,
        "outbox_bytes": meters.gauge(Gauge::OutboxBytes),
        "messages_received": meters.counter(Counter::MessagesReceived),
        "messages_sent": meters.counter(Counter::MessagesSent),
        "deliveries": meters.counter(Counter::Deliveries),
        "gaps": meters.counter(Counter::Gaps),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::meters::Tally;

    #[test]
    fn busy_is_a_share_of_the_time_between_samples() {
        let meters = [Arc::new(Meters::default())];
        let load = Load::new(1);
        let mut tally = Tally::default();
        for (at_ns, more_ns, share) in
            [(1_000, 100, 0.1), (2_000, 250, 0.25), (3_000, 0, 0.0), (4_000, 9_999, 1.0)]
        {
            tally.add(Counter::BusyNanoseconds, more_ns);
            meters[0].publish(&tally);
            load.sample(at_ns, &meters);
            assert_eq!(load.shares(), [share], "at {at_ns}");
        }
    }
}
