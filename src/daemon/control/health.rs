//! Parts of the daemon that can't do their work for now, though the process goes on: which, since when,
//! and why. `/ready`, `/status`, `/metrics` and the log all read it here, so they name it alike.
//!
//! *Invariants*: the beginning and the end of a degradation are logged once each, and in between only
//! another cause is, or the same once a minute; what is shown is the latest cause, with its time.
//!
//! *Not here*: the storage, which has a state of its own ([`Outage`](super::Outage)).

use crate::base::time::Now;
use crate::protocol::views::Time;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// How often a cause that lasts is logged again.
const REMIND_NS: u64 = 60_000_000_000;

/// A part of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// What accepts connections to the bus.
    Accept,
    /// What accepts connections to the HTTP port.
    Http,
    /// What accepts connections to the telemetry port.
    Telemetry,
    /// The shards.
    Shards,
    /// The log.
    Log,
    /// The memory of the process.
    Memory,
}

impl Component {
    /// All of them, in the order of the enum.
    pub const ALL: &'static [Component] = &[
        Component::Accept,
        Component::Http,
        Component::Telemetry,
        Component::Shards,
        Component::Log,
        Component::Memory,
    ];

    /// The stable word.
    pub fn label(self) -> &'static str {
        match self {
            Component::Accept => "accept",
            Component::Http => "http",
            Component::Telemetry => "telemetry",
            Component::Shards => "shards",
            Component::Log => "log",
            Component::Memory => "memory",
        }
    }

    /// What it means for the bus, and what to do.
    fn advice(self) -> &'static str {
        match self {
            Component::Accept => {
                "clients can't connect to the bus; it is tried again (see limits.max_connections and \
                 `ulimit -n`)"
            }
            Component::Http => "the HTTP port can't accept connections; it is tried again",
            Component::Telemetry => {
                "the telemetry port can't accept connections; it is tried again"
            }
            Component::Shards => {
                "clients of a shard get nothing; if it lasts, restart the server and report it"
            }
            Component::Log => "log lines are dropped; read standard error, or lower `log_level`",
            Component::Memory => {
                "raise limits.memory_limit_bytes, or lower limits.history_bytes_total, \
                 limits.outbox_bytes or limits.max_connections"
            }
        }
    }

    /// Whether clients had better go to another node meanwhile.
    pub fn is_needed_by_clients(self) -> bool {
        matches!(self, Component::Accept | Component::Shards | Component::Memory)
    }
}

/// That a part can't do its work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Degradation {
    /// Since when.
    pub since: Now,
    /// The latest cause.
    pub cause: Arc<str>,
    /// When that was seen last.
    pub at: Now,
    /// How often it has failed in this time.
    pub failures: u64,
    /// When it was logged last.
    logged_ns: u64,
}

/// How all parts do.
#[derive(Debug, Default)]
pub struct Health {
    parts: [Part; Component::ALL.len()],
}

#[derive(Debug, Default)]
struct Part {
    /// Whether there is a degradation: what works asks nothing more.
    is_degraded: AtomicBool,
    failures: AtomicU64,
    degradation: Mutex<Option<Degradation>>,
}

impl Health {
    /// Notes that a part has failed.
    pub fn fail(&self, component: Component, now: Now, cause: &str) {
        let part = &self.parts[component as usize];
        part.failures.fetch_add(1, Relaxed);
        let mut degradation = part.degradation.lock().unwrap_or_else(PoisonError::into_inner);
        let logged_ns = match &mut *degradation {
            Some(known) => {
                let is_due = *known.cause != *cause
                    || now.mono_ns.saturating_sub(known.logged_ns) >= REMIND_NS;
                if *known.cause != *cause {
                    known.cause = cause.into();
                }
                (known.at, known.failures) = (now, known.failures + 1);
                if !is_due {
                    return;
                }
                &mut known.logged_ns
            }
            none => {
                let (cause, logged_ns) = (cause.into(), now.mono_ns);
                let begun = Degradation { since: now, cause, at: now, failures: 1, logged_ns };
                &mut none.insert(begun).logged_ns
            }
        };
        *logged_ns = now.mono_ns;
        part.is_degraded.store(true, Relaxed);
        drop(degradation);
        let (component, advice) = (component.label(), component.advice());
        tracing::warn!(component, cause, "degraded: {advice}");
    }

    /// Notes that a part does its work. Costs next to nothing while it did so before.
    pub fn succeed(&self, component: Component, now: Now) {
        let part = &self.parts[component as usize];
        if !part.is_degraded.load(Relaxed) {
            return;
        }
        let ended = part.degradation.lock().unwrap_or_else(PoisonError::into_inner).take();
        part.is_degraded.store(false, Relaxed);
        let Some(Degradation { since, cause, failures, .. }) = ended else { return };
        let lasted_ms = now.mono_ns.saturating_sub(since.mono_ns) / 1_000_000;
        let component = component.label();
        tracing::info!(component, %cause, failures, lasted_ms, "works again");
    }

    /// The parts that can't do their work now.
    pub fn degradations(&self) -> Vec<(Component, Degradation)> {
        let of = |&component: &Component| {
            let part = &self.parts[component as usize].degradation;
            let degradation = part.lock().unwrap_or_else(PoisonError::into_inner).clone();
            degradation.map(|degradation| (component, degradation))
        };
        Component::ALL.iter().filter_map(of).collect()
    }

    /// How often a part has failed since the start.
    pub fn failures(&self, component: Component) -> u64 {
        self.parts[component as usize].failures.load(Relaxed)
    }
}

/// Degradations as `/ready` and `/status` show them.
pub(super) fn rows(degradations: &[(Component, Degradation)]) -> Value {
    let row = |(component, degradation): &(Component, Degradation)| {
        let Degradation { since, cause, at, failures, .. } = degradation;
        json!({
            "component": component.label(),
            "cause": cause,
            "cause_at": Time(at.wall_us),
            "since": Time(since.wall_us),
            "failures": failures,
        })
    };
    degradations.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> Now {
        Now { mono_ns: s * 1_000_000_000, wall_us: 1_764_000_000_000_000 + s * 1_000_000 }
    }

    #[test]
    fn the_latest_cause_and_its_time_are_shown_from_the_first_failure_to_the_end() {
        let health = Health::default();
        health.succeed(Component::Accept, at(1));
        assert!(health.degradations().is_empty());
        for (s, cause) in [(2, "no descriptors"), (3, "no descriptors"), (5, "no memory")] {
            health.fail(Component::Accept, at(s), cause);
        }
        health.fail(Component::Log, at(6), "broken pipe");
        let shown = rows(&health.degradations());
        let expected = json!([
            {"component": "accept", "cause": "no memory", "failures": 3,
             "cause_at": "2025-11-24T16:00:05.000000Z", "since": "2025-11-24T16:00:02.000000Z"},
            {"component": "log", "cause": "broken pipe", "failures": 1,
             "cause_at": "2025-11-24T16:00:06.000000Z", "since": "2025-11-24T16:00:06.000000Z"},
        ]);
        assert_eq!(shown, expected);
        health.succeed(Component::Accept, at(7));
        assert_eq!(health.degradations().len(), 1);
        assert_eq!(health.failures(Component::Accept), 3, "a counter does not go back");
    }

    #[test]
    fn components_stand_in_the_order_of_the_enum() {
        for (place, &component) in Component::ALL.iter().enumerate() {
            assert_eq!(component as usize, place);
        }
    }
}
