//! What is told of the node in JSON, and whether it is ready for more clients.
//!
//! Everything is read from the meters at the moment of asking; the one thing kept is [`Load`], for
//! a share of time needs two readings.

use super::{Phase, Shared};
use crate::base::limits::{LANE_FULL_PERCENT, LANE_SLOTS};
use crate::protocol::views::{StorageView, Time};
use crate::shard::meters::{Counter, Gauge, Meters};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, PoisonError};

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
    Ready,
    /// With the reason as a sentence.
    Overloaded(String),
    Draining,
}

impl Readiness {
    /// What holds now. Overloaded is a node that has every connection it may have, or a shard
    /// whose lane is nearly full: more clients would only make it slower for the others.
    pub(super) fn read(shared: &Shared) -> Readiness {
        match shared.facts.phase() {
            Phase::Starting => Readiness::Starting,
            Phase::Draining => Readiness::Draining,
            Phase::Ready => match overload(shared) {
                Some(reason) => Readiness::Overloaded(reason),
                None => Readiness::Ready,
            },
        }
    }

    /// The stable word.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Readiness::Starting => "starting",
            Readiness::Ready => "ready",
            Readiness::Overloaded(_) => "overloaded",
            Readiness::Draining => "draining",
        }
    }

    /// Why not, if not.
    pub(super) fn reason(&self) -> Option<&str> {
        match self {
            Readiness::Starting => Some("not all shards run yet"),
            Readiness::Ready => None,
            Readiness::Overloaded(reason) => Some(reason),
            Readiness::Draining => Some("the server is going away"),
        }
    }
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

/// How busy each shard is: the share of the time between the last two samples that it worked.
#[derive(Debug)]
pub(super) struct Load {
    shards: Mutex<Vec<Sample>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    at_ns: u64,
    busy_ns: u64,
    share: f64,
}

impl Load {
    /// No sample yet, for so many shards.
    pub(super) fn new(shards: usize) -> Load {
        Load { shards: Mutex::new(vec![Sample::default(); shards]) }
    }

    /// Takes a sample. Called about once a second.
    pub(super) fn sample(&self, mono_ns: u64, meters: &[Arc<Meters>]) {
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        for (last, meters) in shards.iter_mut().zip(meters) {
            let busy_ns = meters.counter(Counter::BusyNanoseconds);
            let passed = mono_ns.saturating_sub(last.at_ns).max(1);
            let worked = busy_ns.saturating_sub(last.busy_ns);
            // A turn counts when it ends, and may have begun before the last sample.
            let share = (worked as f64 / passed as f64).min(1.0);
            *last = Sample { at_ns: mono_ns, busy_ns, share };
        }
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
        "storage": about.storage,
        "storage_state": storage_state(shared),
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
    let degraded = outage.map(|outage| (Time(outage.since.wall_us), outage.reason));
    let pending = shared.meters.iter().map(|meters| meters.gauge(Gauge::EventsPending)).sum();
    let lost = shared.meters.iter().map(|meters| meters.counter(Counter::EventsLost)).sum();
    Some(StorageView::new(degraded, pending, lost))
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

/// The memory of the process that is in RAM, where the system tells (`VmRSS` of proc(5), which
/// unlike `statm` does not depend on the size of a page).
pub(super) fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
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

    #[test]
    #[cfg(target_os = "linux")]
    fn the_process_knows_its_size() {
        let bytes = resident_bytes().unwrap();
        assert!((1 << 20..1 << 40).contains(&bytes), "{bytes}");
    }
}
