//! `/metrics`: the meters as Prometheus reads them, at the moment of the scrape. No number is kept
//! twice.
//!
//! The node's own families have no shard label, so that a script finds one number under one name;
//! those of a shard begin with `arqonbus_shard_` and carry its number as `shard`. Whatever the
//! tables of meters, faults and closes hold appears here by itself.

mod storage;

use super::Shared;
use super::exposition::{Exposition, Family, Kind, Labels, seconds};
use super::health::Component;
use super::status::Totals;
use crate::daemon::memory::resident_bytes;
use crate::protocol::close::CloseReason;
use crate::protocol::fault::Fault;
use crate::shard::meters::{Counter, Drop, Gauge, LATENCY_BOUNDS_NS, Latency, Meters, Pause};
use std::sync::atomic::Ordering::Relaxed;

/// The type of the text.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The whole text.
pub(super) fn render(shared: &Shared) -> String {
    let mut text = Exposition::default();
    node(&mut text, shared);
    errors(&mut text, shared);
    storage::render(&mut text, shared);
    control(&mut text, shared);
    let shards = Shards {
        meters: shared.meters.iter().map(|meters| &**meters).collect(),
        names: (0..shared.meters.len()).map(|shard| shard.to_string()).collect(),
    };
    shards.counters(&mut text);
    shards.gauges(&mut text);
    shards.reasons(&mut text);
    shards.histograms(&mut text);
    text.finish()
}

/// The node as a whole.
fn node(text: &mut Exposition, shared: &Shared) {
    let about = &shared.facts.about;
    let totals = Totals::read(&shared.meters);
    let mut one = |name, kind, help, value: f64| {
        text.family(name, kind, help).sample(&[], value);
    };
    one(
        "arqonbus_active_clients",
        Kind::Gauge,
        "Clients that are connected",
        totals.clients as f64,
    );
    one(
        "arqonbus_websocket_connections",
        Kind::Gauge,
        "Open sockets of the bus, handshaking ones included",
        totals.connections as f64,
    );
    one(
        "arqonbus_messages_received_total",
        Kind::Counter,
        "Well-formed messages received from clients",
        totals.messages_received as f64,
    );
    one(
        "arqonbus_messages_sent_total",
        Kind::Counter,
        "Messages put on their way to clients",
        totals.messages_sent as f64,
    );
    one("arqonbus_rooms_total", Kind::Untyped, "Rooms that there are now", totals.rooms as f64);
    one(
        "arqonbus_channels_total",
        Kind::Untyped,
        "Channels that there are now",
        totals.channels as f64,
    );
    one(
        "arqonbus_uptime_seconds",
        Kind::Gauge,
        "How long the process has lived",
        shared.uptime().as_secs_f64(),
    );
    one("arqonbus_shards", Kind::Gauge, "Shards that share the work", shared.meters.len() as f64);
    if let Some(bytes) = resident_bytes() {
        let help = "Memory of the process that is in RAM";
        one("arqonbus_memory_usage_bytes", Kind::Gauge, help, bytes as f64);
    }
    one(
        "arqonbus_memory_limit_bytes",
        Kind::Gauge,
        "Memory of the process that it does not come near without giving something up; 0 is no limit",
        shared.facts.memory_limit_bytes() as f64,
    );
    one(
        "arqonbus_memory_pressure",
        Kind::Gauge,
        "What is given up for memory: 0 nothing, 1 new connections, 2 also histories, 3 also heavy clients",
        f64::from(shared.facts.memory_pressure()),
    );
    let labels = [("version", about.version), ("node", &about.node), ("storage", about.storage)];
    text.family("arqonbus_build_info", Kind::Gauge, "What runs here; always 1").sample(&labels, 1);
}

/// Refusals, by their word.
fn errors(text: &mut Exposition, shared: &Shared) {
    let mut family =
        text.family("arqonbus_errors_total", Kind::Counter, "Refusals sent to clients");
    for &fault in Fault::ALL {
        let count: u64 = shared.meters.iter().map(|meters| meters.fault(fault)).sum();
        let code = fault.code().to_string();
        family.sample(&[("error", fault.word()), ("code", &code)], count);
    }
}

/// The control plane itself, and the acceptor.
fn control(text: &mut Exposition, shared: &Shared) {
    let counts = &shared.counts;
    text.family(
        "arqonbus_telemetry_connections",
        Kind::Gauge,
        "Telemetry readers that are connected",
    )
    .sample(&[], shared.reader_count());
    let health = shared.facts.health();
    let degradations = health.degradations();
    let help = "Whether a part of the daemon can't do its work now: 1 if so";
    let mut family = text.family("arqonbus_degraded", Kind::Gauge, help);
    for &component in Component::ALL {
        let is_degraded = degradations.iter().any(|(degraded, _)| *degraded == component);
        family.sample(&[("component", component.label())], u64::from(is_degraded));
    }
    let help = "Times that a part of the daemon could not do its work";
    let mut family = text.family("arqonbus_failures_total", Kind::Counter, help);
    for &component in Component::ALL {
        family.sample(&[("component", component.label())], health.failures(component));
    }
    for (name, help, count) in [
        (
            "arqonbus_log_lines_dropped_total",
            "Lines of the log that standard error did not take in time",
            &shared.log.dropped,
        ),
        ("arqonbus_telemetry_events_total", "Telemetry events spread", &counts.events),
        (
            "arqonbus_telemetry_lost_total",
            "Telemetry events that the control plane was too slow for",
            &counts.lost,
        ),
        (
            "arqonbus_telemetry_missed_total",
            "Telemetry events that a reader was too slow for",
            &counts.missed,
        ),
        (
            "arqonbus_telemetry_unpublished_total",
            "Telemetry events that found no place in the lane to their channel",
            &counts.unpublished,
        ),
        ("arqonbus_http_requests_total", "HTTP requests to the control plane", &counts.requests),
        (
            "arqonbus_http_refused_total",
            "Connections to the control plane closed because it had enough",
            &counts.refused,
        ),
        (
            "arqonbus_connections_turned_away_total",
            "Connections told that the node or their address was full",
            &shared.accepts.turned_away,
        ),
        (
            "arqonbus_connections_dropped_total",
            "Connections closed unheard because too many were being turned away",
            &shared.accepts.dropped,
        ),
        (
            "arqonbus_accept_failures_total",
            "Failures to accept a connection, such as a lack of file descriptors",
            &shared.accepts.failures,
        ),
    ] {
        text.family(name, Kind::Counter, help).sample(&[], count.load(Relaxed));
    }
    let help = "Telemetry readers that went, by reason";
    let mut family = text.family("arqonbus_telemetry_closes_total", Kind::Counter, help);
    for (&reason, count) in CloseReason::ALL.iter().zip(&counts.closes) {
        let code = reason.code().to_string();
        family.sample(&[("reason", reason.label()), ("code", &code)], count.load(Relaxed));
    }
}

/// What each shard counts, one family after the other.
struct Shards<'a> {
    meters: Vec<&'a Meters>,
    names: Vec<String>,
}

impl Shards<'_> {
    fn counters(&self, text: &mut Exposition) {
        for &counter in Counter::ALL {
            // Time is counted in nanoseconds and told in seconds, the format's unit.
            if counter == Counter::BusyNanoseconds {
                let help = "Seconds the poll loop worked, sleep left out";
                let mut family =
                    text.family("arqonbus_shard_busy_seconds_total", Kind::Counter, help);
                self.each(|shard, meters| {
                    family.sample(&[shard], seconds(meters.counter(counter)));
                });
                continue;
            }
            let name = format!("arqonbus_shard_{}_total", counter.label());
            let mut family = text.family(&name, Kind::Counter, counter.help());
            self.each(|shard, meters| {
                family.sample(&[shard], meters.counter(counter));
            });
        }
    }

    fn gauges(&self, text: &mut Exposition) {
        for &gauge in Gauge::ALL {
            let name = format!("arqonbus_shard_{}", gauge.label());
            let mut family = text.family(&name, Kind::Gauge, gauge.help());
            self.each(|shard, meters| {
                family.sample(&[shard], meters.gauge(gauge));
            });
        }
    }

    fn reasons(&self, text: &mut Exposition) {
        let help = "Times that connections were not read for a while, by reason";
        let mut family = text.family("arqonbus_shard_pauses_total", Kind::Counter, help);
        self.each(|shard, meters| {
            for &pause in Pause::ALL {
                family.sample(&[shard, ("reason", pause.label())], meters.pause(pause));
            }
        });
        let help = "Messages that did not reach someone who would have got them, by reason";
        let mut family = text.family("arqonbus_shard_drops_total", Kind::Counter, help);
        self.each(|shard, meters| {
            for &reason in Drop::ALL {
                family.sample(&[shard, ("reason", reason.label())], meters.dropped(reason));
            }
        });
        let help = "Connections that ended, by reason";
        let mut family = text.family("arqonbus_shard_closes_total", Kind::Counter, help);
        self.each(|shard, meters| {
            for &reason in CloseReason::ALL {
                let code = reason.code().to_string();
                let labels: Labels<'_> = &[shard, ("reason", reason.label()), ("code", &code)];
                family.sample(labels, meters.close(reason));
            }
        });
    }

    fn histograms(&self, text: &mut Exposition) {
        let help = "How long deliveries took, from the sender's socket to the member's";
        let mut family =
            text.family("arqonbus_shard_delivery_latency_seconds", Kind::Histogram, help);
        self.each(|shard, meters| {
            latency(&mut family, shard, &meters.delivery());
        });
        let help = "How long a turn of the poll loop worked, sleep left out";
        let mut family = text.family("arqonbus_shard_turn_duration_seconds", Kind::Histogram, help);
        self.each(|shard, meters| {
            latency(&mut family, shard, &meters.turns());
        });
    }

    fn each(&self, mut visit: impl FnMut((&str, &str), &Meters)) {
        for (name, meters) in self.names.iter().zip(&self.meters) {
            visit(("shard", name), meters);
        }
    }
}

fn latency(family: &mut Family<'_>, shard: (&str, &str), latency: &Latency) {
    family.histogram(&[shard], &LATENCY_BOUNDS_NS, &latency.buckets, latency.sum_ns);
}
