//! The storage, where there is one: what the homes know of it, and what it counts of itself.
//!
//! *Invariant*: without a storage none of these families is there, so that an alert on one of them
//! says nothing about a bus that keeps nothing.

use super::Shared;
use crate::daemon::control::exposition::{Exposition, Kind};
use crate::daemon::control::status::storage_state;
use crate::shard::meters::{Counter, Gauge};
use crate::storage::{COMMIT_BOUNDS_MS, Meters};
use std::sync::atomic::Ordering::Relaxed;

pub(super) fn render(text: &mut Exposition, shared: &Shared) {
    homes(text, shared);
    if let Some(meters) = &shared.storage {
        itself(text, meters);
    }
}

/// What the homes made of what they were told.
fn homes(text: &mut Exposition, shared: &Shared) {
    let Some(state) = storage_state(shared) else { return };
    let sum = |counter| shared.meters.iter().map(|meters| meters.counter(counter)).sum::<u64>();
    let waiting = shared.meters.iter().map(|meters| meters.gauge(Gauge::AcksWaiting)).sum();
    for (name, kind, help, value) in [
        (
            "arqonbus_storage_degraded",
            Kind::Gauge,
            "Whether nothing can be stored now: 1 if so",
            u64::from(state.since.is_some()),
        ),
        (
            "arqonbus_storage_records_total",
            Kind::Counter,
            "Records made for the storage: events, channels, rooms",
            sum(Counter::Records),
        ),
        (
            "arqonbus_storage_stored_total",
            Kind::Counter,
            "Events of which the storage said that they are stored",
            sum(Counter::EventsStored),
        ),
        (
            "arqonbus_storage_lost_total",
            Kind::Counter,
            "Events that will never be stored",
            state.lost,
        ),
        (
            "arqonbus_storage_pending",
            Kind::Gauge,
            "Events that are to be stored and are not stored yet",
            state.pending,
        ),
        (
            "arqonbus_storage_ack_waits_total",
            Kind::Counter,
            "Acks that had to wait until their events were stored",
            sum(Counter::AckWaits),
        ),
        (
            "arqonbus_storage_acks_waiting",
            Kind::Gauge,
            "Acks that wait until their events are stored",
            waiting,
        ),
    ] {
        text.family(name, kind, help).sample(&[], value);
    }
}

/// What the storage's own thread counts.
fn itself(text: &mut Exposition, meters: &Meters) {
    for (name, kind, help, count) in [
        (
            "arqonbus_storage_pending_bytes",
            Kind::Gauge,
            "Bytes of events that the storage keeps back until Redis has them",
            &meters.pending_bytes,
        ),
        (
            "arqonbus_storage_batches_total",
            Kind::Counter,
            "Batches written: the events of one channel in one round, or one other record",
            &meters.steps,
        ),
        (
            "arqonbus_storage_connections_total",
            Kind::Counter,
            "Connections made to Redis; all but the first are reconnects",
            &meters.connections,
        ),
        (
            "arqonbus_storage_failures_total",
            Kind::Counter,
            "Rounds and connections that failed; what was in them is tried again",
            &meters.failures,
        ),
        (
            "arqonbus_storage_spoilt_total",
            Kind::Counter,
            "Times that a channel could not be stored because of what stood at its keys",
            &meters.spoilt,
        ),
        (
            "arqonbus_storage_far_behind_total",
            Kind::Counter,
            "Channels of which this node had missed more than a history holds, and that began anew",
            &meters.far_behind,
        ),
        (
            "arqonbus_storage_unreadable_total",
            Kind::Counter,
            "Entries and records that could not be read back at the start",
            &meters.unreadable,
        ),
        (
            "arqonbus_storage_swept_total",
            Kind::Counter,
            "Client ids and names of channels that nodes had left in Redis when they died, removed",
            &meters.swept,
        ),
        (
            "arqonbus_storage_sessions_lost_total",
            Kind::Counter,
            "Sessions of clients that went while too many waited to be stored; they end as they were stored last",
            &meters.lost_sessions,
        ),
        (
            "arqonbus_storage_news_behind_total",
            Kind::Counter,
            "Pushes that a shard was not told, as too much waited for it; they are read again",
            &meters.news_behind,
        ),
        ("arqonbus_peers", Kind::Gauge, "Other nodes of the bus that live", &meters.peers),
        (
            "arqonbus_peers_garbled_total",
            Kind::Counter,
            "Messages of other nodes that could not be read",
            &meters.garbled,
        ),
        (
            "arqonbus_peers_notes_lost_total",
            Kind::Counter,
            "Private messages, announcements and disconnections for other nodes that were not sent",
            &meters.lost_notes,
        ),
    ] {
        text.family(name, kind, help).sample(&[], count.load(Relaxed));
    }
    if let Some(clock) = meters.clock() {
        let help =
            "By how much the clock of this machine is ahead of that of Redis; negative if behind";
        text.family("arqonbus_storage_clock_ahead_seconds", Kind::Gauge, help)
            .sample(&[], clock.ahead_us as f64 / 1e6);
    }
    let (count, bytes) = meters.news.waiting();
    for (name, help, value) in [
        ("arqonbus_storage_news", "What the storage has told and no shard has taken yet", count),
        ("arqonbus_storage_news_bytes", "Bytes of what no shard has taken yet", bytes),
    ] {
        text.family(name, Kind::Gauge, help).sample(&[], value);
    }
    let help = "Channels that can't be stored now because of what stands at their keys; /status names them";
    let (quarantined, _) = meters.quarantine.list(0);
    text.family("arqonbus_storage_quarantined", Kind::Gauge, help).sample(&[], quarantined as u64);
    let help = "Events deleted from Redis because of a bound: of their channel's messages, their age, \
                their channel's bytes, or the bytes of all channels";
    let mut trimmed = text.family("arqonbus_storage_trimmed_total", Kind::Counter, help);
    for (bound, count) in [
        ("messages", &meters.trimmed_by_count),
        ("age", &meters.trimmed_by_age),
        ("bytes", &meters.trimmed_by_bytes),
        ("bytes_total", &meters.trimmed_for_all),
    ] {
        trimmed.sample(&[("bound", bound)], count.load(Relaxed));
    }
    let help = "How long rounds of writing took; each carries all that had come together";
    let counts: Vec<u64> = meters.commits.iter().map(|count| count.load(Relaxed)).collect();
    let sum_ns = meters.commits_us.load(Relaxed) * 1_000;
    text.family("arqonbus_storage_commit_duration_seconds", Kind::Histogram, help).histogram(
        &[],
        &COMMIT_BOUNDS_MS.map(|ms| ms * 1_000_000),
        &counts,
        sum_ns,
    );
}
