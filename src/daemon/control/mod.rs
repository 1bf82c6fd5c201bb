//! The control plane: HTTP and telemetry, on one small runtime in a thread of its own.
//!
//! It reads the shards' [`Meters`] and receives their [`Telemetry`]; the one thing it gives back
//! is a [`Publication`] into the bus, by a call that never waits. So a scrape, a hanging HTTP client
//! or a stuck telemetry reader costs the shards nothing, and a saturated bus delays no answer.
//!
//! | file | what it does |
//! |---|---|
//! | `serve` | accepts on both ports: bounds, timeouts, one task for each connection |
//! | `http` | the endpoints of the HTTP port |
//! | `status` | what is told of the node in JSON, and whether it is ready |
//! | `health` | which parts of the daemon can't do their work, since when and why |
//! | `metrics`, `exposition` | what is told of it to Prometheus |
//! | `telemetry` | events become envelopes, for the readers and for the bus |
//! | `backlog` | the envelopes that wait for readers: one ring, a cursor for each reader |
//! | `reader` | one telemetry WebSocket |
//!
//! *Invariants*: nothing here waits for a shard; every queue, connection count and wait is bounded
//! by a constant of [`limits`](crate::base::limits); a publication makes no telemetry event, for
//! it has no client that connects, joins or is refused, so telemetry can't feed itself.
//!
//! *Not here*: signals, configuration, the decision to drain. The daemon tells them by [`Facts`].

mod backlog;
mod exposition;
pub mod health;
mod http;
pub mod intake;
mod metrics;
mod reader;
mod serve;
mod status;
mod telemetry;
#[cfg(test)]
mod tests;

use crate::base::limits::{
    CLOSE_LINGER_MS, HTTP_CONNECTION_MS_MAX, HTTP_CONNECTIONS_MAX, HTTP_HEAD_TIMEOUT_MS, Limits,
    TELEMETRY_READERS_MAX, TELEMETRY_SEND_TIMEOUT_MS, TELEMETRY_SOCKETS_MAX,
};
use crate::base::time::Now;
use crate::daemon::accept::AcceptCounts;
use crate::daemon::logging::LogCounts;
use crate::protocol::close::CloseReason;
use crate::protocol::command::Address;
use crate::protocol::frame::Draft;
use crate::protocol::origin::Origins;
use crate::shard::meters::Meters;
use crate::storage;
use backlog::Backlog;
use health::{Component, Health};
use status::Load;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot, watch};

/// What the daemon hands over.
pub struct Control {
    /// The HTTP port, bound.
    pub http: TcpListener,
    /// The telemetry port, bound, if telemetry is on.
    pub telemetry: Option<TcpListener>,
    /// The meters of every shard, in the order of the shards.
    pub meters: Vec<Arc<Meters>>,
    /// What the storage counts of itself, if there is one.
    pub storage: Option<Arc<storage::Meters>>,
    /// What the acceptor counts.
    pub accepts: Arc<AcceptCounts>,
    /// What became of the lines of the log.
    pub log: Arc<LogCounts>,
    /// What the shards tell. Bounded; a shard that finds it full drops the event and counts it.
    pub events: intake::Outlet,
    /// Puts a message into the bus without waiting; `false` if the lane to its home is full.
    pub publish: Box<dyn Fn(Publication) -> bool + Send>,
    /// Which web pages may connect.
    pub origins: PortOrigins,
    /// The clock of the shards: publications are dated with it.
    pub clock: Box<dyn Fn() -> Now + Send + Sync>,
    /// What is known of the node.
    pub facts: Arc<Facts>,
    /// How often the server tells its own `stats`, in milliseconds; 0 is never.
    pub stats_interval_ms: u32,
}

/// The origins of the web pages that each port lets in. Each port has its own: what one is open to
/// opens no other.
pub struct PortOrigins {
    /// Those of the telemetry port.
    pub telemetry: Box<OriginSource>,
    /// Those of the HTTP port.
    pub http: Box<OriginSource>,
}

/// Gives the origins that are let in now.
pub type OriginSource = dyn Fn() -> Origins + Send + Sync;

/// A message of the control plane's, for one channel of the bus.
#[derive(Debug)]
pub struct Publication {
    /// Where it is published, which is not always what the envelope is addressed to: a client's
    /// own telemetry keeps its address.
    pub address: Address,
    /// The message, without sequence and time.
    pub draft: Draft,
}

/// What is known of the node, by everyone who tells of it.
#[derive(Debug)]
pub struct Facts {
    about: About,
    limits: RwLock<Limits>,
    outage: RwLock<Option<Outage>>,
    health: Health,
    memory_pressure: AtomicU8,
    ending: RwLock<Option<Arc<str>>>,
    phase: AtomicU8,
}

/// A time in which nothing can be stored.
#[derive(Clone, Debug)]
pub struct Outage {
    /// Since when.
    pub since: Now,
    /// Why: the latest cause.
    pub reason: Arc<str>,
    /// When that was last seen.
    pub reason_at: Now,
}

/// What never changes while the process lives.
#[derive(Clone, Debug)]
pub struct About {
    /// The name of the server software.
    pub server: &'static str,
    /// Its version.
    pub version: &'static str,
    /// The name of this node.
    pub node: String,
    /// When the process started, by the clock that [`Control`] is given.
    pub started: Now,
    /// Where history is kept: `memory` or `redis`.
    pub storage: &'static str,
    /// The bus port's address.
    pub bus: SocketAddr,
    /// The telemetry port's address, if telemetry is on.
    pub telemetry: Option<SocketAddr>,
    /// The HTTP port's address.
    pub http: SocketAddr,
}

/// Where the process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Not all shards run yet.
    Starting,
    /// Clients are welcome.
    Ready,
    /// The process is about to end and takes no clients.
    Draining,
}

#[cfg(test)]
impl Facts {
    /// Those of a node that only a test knows.
    pub fn of_a_test(started: Now) -> Facts {
        let address = ([127, 0, 0, 1], 1).into();
        let about = About {
            server: "arqonbus",
            version: "0",
            node: "n".to_owned(),
            started,
            storage: "redis",
            bus: address,
            telemetry: None,
            http: address,
        };
        Facts::new(about, Limits::default())
    }
}

impl Facts {
    /// The facts of a process that is [`Phase::Starting`].
    pub fn new(about: About, limits: Limits) -> Facts {
        let (limits, outage, ending) = (RwLock::new(limits), RwLock::default(), RwLock::default());
        let (health, phase) = (Health::default(), AtomicU8::new(Phase::Starting as u8));
        let memory_pressure = AtomicU8::new(0);
        Facts { about, limits, outage, health, ending, memory_pressure, phase }
    }

    /// What never changes.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// The limits in force.
    pub fn limits(&self) -> Limits {
        self.limits.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts other limits in force.
    pub fn set_limits(&self, limits: Limits) {
        *self.limits.write().unwrap_or_else(PoisonError::into_inner) = limits;
    }

    /// Which parts of the daemon can do their work.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Since when nothing can be stored, if that is so.
    pub fn outage(&self) -> Option<Outage> {
        self.outage.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says whether anything can be stored now.
    pub fn set_outage(&self, outage: Option<Outage>) {
        *self.outage.write().unwrap_or_else(PoisonError::into_inner) = outage;
    }

    /// The limit of the process's memory that is in force, in bytes; 0 is none.
    pub fn memory_limit_bytes(&self) -> u64 {
        self.limits.read().unwrap_or_else(PoisonError::into_inner).memory_limit_bytes
    }

    /// How much is given up for memory: 0 nothing, 3 the most.
    pub fn memory_pressure(&self) -> u8 {
        self.memory_pressure.load(Relaxed)
    }

    /// Says how much is given up for memory.
    pub fn set_memory_pressure(&self, level: u8) {
        self.memory_pressure.store(level, Relaxed);
    }

    /// Why the process can't do its work any more and is about to end by itself, if that is so.
    pub fn ending(&self) -> Option<Arc<str>> {
        self.ending.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says that the process can't do its work any more; the first reason stays.
    pub fn set_ending(&self, reason: Arc<str>) {
        let mut ending = self.ending.write().unwrap_or_else(PoisonError::into_inner);
        ending.get_or_insert(reason);
    }

    /// Where the process is in its life.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Relaxed) {
            phase if phase == Phase::Starting as u8 => Phase::Starting,
            phase if phase == Phase::Ready as u8 => Phase::Ready,
            _ => Phase::Draining,
        }
    }

    /// Says where the process is now.
    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
    }
}

/// The control plane's thread.
#[derive(Debug)]
pub struct ControlThread {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl ControlThread {
    /// Spreads what was told so far, closes every connection (telemetry readers with 1001) and
    /// waits for the end, which comes within about a second. `false` if the thread panicked.
    pub fn stop(self) -> bool {
        // The receiver is gone only if the thread is, and then there is nothing to tell it.
        let _ = self.stop.send(());
        self.thread.join().is_ok()
    }
}

/// Starts the control plane in a thread of its own. Dropping what this gives stops it, too.
pub fn spawn(control: Control) -> io::Result<ControlThread> {
    spawn_at(control, Bounds::default())
}

/// How often the shards and the log are looked at.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// How long things may take and how many there may be; tests are content with less.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// For the head of an HTTP request.
    head: Duration,
    /// For all of an HTTP connection.
    connection: Duration,
    /// For a telemetry reader to take one batch.
    send: Duration,
    /// For a peer to take the end of a connection.
    linger: Duration,
    /// Between two looks at the shards and the log.
    sample: Duration,
    /// TCP connections of the HTTP port.
    http_sockets: usize,
    /// TCP connections of the telemetry port.
    telemetry_sockets: usize,
    /// Telemetry readers.
    readers: usize,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            head: Duration::from_millis(HTTP_HEAD_TIMEOUT_MS),
            connection: Duration::from_millis(HTTP_CONNECTION_MS_MAX),
            send: Duration::from_millis(TELEMETRY_SEND_TIMEOUT_MS),
            linger: Duration::from_millis(CLOSE_LINGER_MS),
            sample: SAMPLE_INTERVAL,
            http_sockets: HTTP_CONNECTIONS_MAX,
            telemetry_sockets: TELEMETRY_SOCKETS_MAX,
            readers: TELEMETRY_READERS_MAX,
        }
    }
}

/// What the tasks of the control plane share.
struct Shared {
    meters: Vec<Arc<Meters>>,
    storage: Option<Arc<storage::Meters>>,
    accepts: Arc<AcceptCounts>,
    log: Arc<LogCounts>,
    facts: Arc<Facts>,
    clock: Box<dyn Fn() -> Now + Send + Sync>,
    origins: PortOrigins,
    backlog: Backlog,
    counts: Counts,
    load: Load,
    bounds: Bounds,
    /// A permit for each TCP connection of the HTTP port.
    http_sockets: Arc<Semaphore>,
    /// A permit for each TCP connection of the telemetry port.
    telemetry_sockets: Arc<Semaphore>,
    /// A permit for each telemetry reader.
    readers: Arc<Semaphore>,
    /// Becomes true when the control plane stops.
    stopping: watch::Receiver<bool>,
}

/// What the control plane counts of itself.
#[derive(Default)]
struct Counts {
    /// Telemetry events made into envelopes.
    events: AtomicU64,
    /// Envelopes that some reader missed because it was behind.
    missed: AtomicU64,
    /// Events that found the queue from the shards full.
    lost: AtomicU64,
    /// Publications that found their lane full.
    unpublished: AtomicU64,
    /// HTTP requests answered.
    requests: AtomicU64,
    /// TCP connections closed at once because the port was full.
    refused: AtomicU64,
    /// Telemetry connections that ended, by reason.
    closes: [AtomicU64; CloseReason::ALL.len()],
}

impl Shared {
    /// How long the process has lived.
    fn uptime(&self) -> Duration {
        let started_ns = self.facts.about.started.mono_ns;
        Duration::from_nanos((self.clock)().mono_ns.saturating_sub(started_ns))
    }

    /// How many telemetry readers are connected.
    fn reader_count(&self) -> usize {
        self.bounds.readers.saturating_sub(self.readers.available_permits())
    }
}

fn spawn_at(control: Control, bounds: Bounds) -> io::Result<ControlThread> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (http, telemetry) = {
        let _inside = runtime.enter();
        (listener(control.http)?, control.telemetry.map(listener).transpose()?)
    };
    let (set_stopping, stopping) = watch::channel(false);
    let shared = Arc::new(Shared {
        load: Load::new(control.meters.len()),
        meters: control.meters,
        storage: control.storage,
        accepts: control.accepts,
        log: control.log,
        facts: control.facts,
        clock: control.clock,
        origins: control.origins,
        backlog: Backlog::default(),
        counts: Counts::default(),
        bounds,
        http_sockets: Arc::new(Semaphore::new(bounds.http_sockets)),
        telemetry_sockets: Arc::new(Semaphore::new(bounds.telemetry_sockets)),
        readers: Arc::new(Semaphore::new(bounds.readers)),
        stopping,
    });
    let (stop, told_to_stop) = oneshot::channel();
    let spreader = telemetry::Spreader::new(Arc::clone(&shared), control.publish);
    let stats_interval = Duration::from_millis(u64::from(control.stats_interval_ms));
    let events = control.events;
    let all = async move {
        let port = serve::Port {
            component: Component::Http,
            listener: http,
            router: http::router(&shared),
            sockets: Arc::clone(&shared.http_sockets),
        };
        tokio::spawn(serve::serve(port, Arc::clone(&shared)));
        if let Some(listener) = telemetry {
            let port = serve::Port {
                component: Component::Telemetry,
                listener,
                router: reader::router(&shared),
                sockets: Arc::clone(&shared.telemetry_sockets),
            };
            tokio::spawn(serve::serve(port, Arc::clone(&shared)));
        }
        spreader.run(events, stats_interval, told_to_stop).await;
        // Nobody listens if every connection is gone already.
        let _ = set_stopping.send(true);
        let _ = tokio::time::timeout(bounds.linger, farewell(&shared)).await;
    };
    let thread = std::thread::Builder::new()
        .name("control".to_owned())
        .spawn(move || runtime.block_on(all))?;
    Ok(ControlThread { stop, thread })
}

/// Waits until the control plane stops. When its end of the channel is gone, it has.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stops| *stops).await;
}

/// Waits until every reader and every HTTP connection is gone.
async fn farewell(shared: &Shared) {
    for (permits, all) in [
        (&shared.readers, shared.bounds.readers),
        (&shared.telemetry_sockets, shared.bounds.telemetry_sockets),
        (&shared.http_sockets, shared.bounds.http_sockets),
    ] {
        // These semaphores are never closed, and their sizes fit.
        let _ = permits.acquire_many(all as u32).await;
    }
}

fn listener(listener: TcpListener) -> io::Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}
