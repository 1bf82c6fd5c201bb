//! A running node: its shards, its acceptor and its control plane, started and stopped together.

use crate::base::hash::Placement;
use crate::base::ids::ShardId;
use crate::base::limits::{ACCEPT_BACKLOG, Limits};
use crate::base::quota::NodeQuotas;
use crate::base::time::Now;
use crate::broker::durable;
use crate::broker::edge;
use crate::broker::home::Bootstrap;
use crate::broker::lane::{Ask, Publish, Target};
use crate::broker::policy::{PublishAnywhere, Role};
use crate::daemon::accept::{AcceptCounts, AcceptParts, Acceptor, Admission, Berth};
use crate::daemon::broadcast::Broadcast;
use crate::daemon::config::{self, Config};
use crate::daemon::control::{
    self, About, Control, ControlThread, Facts, Phase, PortOrigins, Publication,
};
use crate::daemon::logging;
use crate::daemon::memory::MemoryParts;
use crate::daemon::pinning::{self, Pinning};
use crate::daemon::storage::{Courier, Notice, StorageSeam, no_sink};
use crate::protocol::origin::Origins;
use crate::shard::driver::{Clock, Driver, Parts, poll_with_bell};
use crate::shard::engine::{Engine, Plan};
use crate::shard::lanes::Lanes;
use crate::shard::meters::Meters;
use crate::storage;
use crossbeam_channel::Sender;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The version of this server.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The name of this server.
pub const SERVER: &str = "arqonbus";

/// The sockets a node listens on.
#[derive(Debug)]
pub struct Listeners {
    /// The bus.
    pub bus: TcpListener,
    /// Telemetry, if it is on.
    pub telemetry: Option<TcpListener>,
    /// HTTP.
    pub http: TcpListener,
}

/// A running node.
pub struct Node {
    broadcast: Broadcast,
    shards: Vec<JoinHandle<()>>,
    loads: Vec<Arc<AtomicU32>>,
    stop: Arc<AtomicBool>,
    acceptor: Option<Acceptor>,
    control: Option<ControlThread>,
    storage: Option<RunningStorage>,
    /// The guard of the memory, which runs for as long as the sender is there.
    memory: (Sender<Infallible>, JoinHandle<()>),
    facts: Arc<Facts>,
    admission: Arc<Admission>,
    origins: Arc<RwLock<Origins>>,
}

/// What is left of a storage that has been given to a node.
struct RunningStorage {
    end: Box<dyn FnOnce() + Send>,
    /// The courier runs for as long as this is there.
    needed: Sender<Infallible>,
    courier: JoinHandle<()>,
    meters: Arc<storage::Meters>,
}

impl Node {
    /// Starts everything; clients may come when this returns. Without a storage, nothing is kept
    /// beyond the life of the process.
    ///
    /// # Errors
    /// If a thread or a poll could not be made.
    pub fn start(
        config: &Config,
        listeners: Listeners,
        pinning: &Pinning,
        clock: Clock,
        storage: Option<StorageSeam>,
    ) -> io::Result<Node> {
        let now = clock();
        let placement = Placement::new(config.shards, fastrand::u64(..));
        let admission = Arc::new(Admission {
            connections_max: AtomicU32::new(config.limits.max_connections),
            per_address_max: AtomicU32::new(config.limits.max_connections_per_address),
            is_short_of_memory: AtomicBool::new(false),
            unsent_bytes: AtomicU32::new(config.limits.socket_unsent_bytes),
        });
        let origins = Arc::new(RwLock::new(config.allowed_origins.clone()));
        let facts = Arc::new(Facts::new(about(config, &listeners, now)?, config.limits.clone()));
        let stop = Arc::new(AtomicBool::new(false));

        let mut polls = Vec::new();
        for _ in 0..config.shards {
            polls.push(poll_with_bell()?);
        }
        let bells = polls.iter().map(|(_, bell)| bell.clone()).collect();
        let (lanes, inboxes) = Lanes::new(bells);
        let (events, events_in) = control::intake::queue();
        let (departures, departures_in) = crossbeam_channel::unbounded();
        let plans = plans(config, &placement, now);
        let mut storage = storage;
        let mut kept = storage.as_mut().map(|storage| {
            let snapshot = std::mem::take(&mut storage.snapshot);
            durable::of_homes(snapshot, &placement).into_iter()
        });
        let (mut shards, mut berths, mut loads, mut meters) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (((poll, bell), inbox), plan) in polls.into_iter().zip(inboxes).zip(plans) {
            let (arrivals, arrivals_in) = crossbeam_channel::unbounded();
            let (load, of_shard) = (Arc::new(AtomicU32::new(0)), Arc::new(Meters::default()));
            let (events, is_told) = (events.clone(), config.telemetry);
            let shard = plan.shard;
            let mut engine = Engine::new(plan, now);
            let records = match (&mut storage, kept.as_mut().and_then(Iterator::next)) {
                (Some(storage), Some(kept)) => {
                    engine.begin_with(now, storage.durability.clone(), kept);
                    if let Some(plan) = storage.sessions {
                        engine.keep_sessions(plan);
                    }
                    (storage.sink)()
                }
                _ => no_sink(),
            };
            let parts = Parts {
                engine,
                poll,
                bell,
                inbox,
                lanes: lanes.clone(),
                arrivals: arrivals_in,
                departures: departures.clone(),
                load: load.clone(),
                meters: of_shard.clone(),
                telemetry: Box::new(move |event| !is_told || events.offer(event)),
                records,
                turn: config.turn,
                clock: clock.clone(),
                stop: stop.clone(),
            };
            shards.push(spawn_shard(shard, parts, pinning.cores.get(shard.index()).copied())?);
            berths.push(Berth { arrivals, load: load.clone() });
            loads.push(load);
            meters.push(of_shard);
        }
        let storage_meters = storage.as_ref().map(|storage| storage.meters.clone());
        let storage = match storage {
            None => None,
            Some(StorageSeam { news, end, meters: counts, .. }) => {
                let load = Arc::clone(&counts.news);
                let notice = Notice {
                    facts: facts.clone(),
                    meters: meters.clone(),
                    events: config.telemetry.then(|| events.clone()),
                    clock: clock.clone(),
                    lost_before: 0,
                    lost_since: 0,
                    end_process: end_this_process,
                };
                let waiting = (0..config.shards).map(|_| VecDeque::new()).collect();
                let (needed, quit) = crossbeam_channel::bounded(0);
                let (lanes, stop) = (lanes.clone(), stop.clone());
                let placement = placement.clone();
                let courier = Courier { news, lanes, placement, notice, waiting, load, stop, quit };
                Some(RunningStorage { end, needed, courier: courier.spawn()?, meters: counts })
            }
        };
        drop((events, departures));

        let (memory_needed, memory_quit) = crossbeam_channel::bounded(0);
        let memory = MemoryParts {
            facts: facts.clone(),
            admission: admission.clone(),
            lanes: lanes.clone(),
            meters: meters.clone(),
            clock: clock.clone(),
            quit: memory_quit,
        };
        let memory = (memory_needed, memory.spawn()?);
        let counts = Arc::new(AcceptCounts::default());
        let control = control::spawn(Control {
            http: listeners.http,
            telemetry: listeners.telemetry,
            meters,
            storage: storage_meters,
            accepts: counts.clone(),
            log: logging::counts(),
            events: events_in,
            publish: publisher(lanes.clone(), placement.clone()),
            origins: PortOrigins {
                telemetry: origins_at(&origins, config.telemetry_listen),
                http: origins_at(&origins, config.http_listen),
            },
            clock: Box::new({
                let clock = clock.clone();
                move || clock()
            }),
            facts: facts.clone(),
            stats_interval_ms: config.stats_interval_ms,
        })?;
        let acceptor = Acceptor::start(AcceptParts {
            listener: listeners.bus,
            berths,
            departures: departures_in,
            lanes: lanes.clone(),
            admission: admission.clone(),
            counts,
            facts: facts.clone(),
            clock: clock.clone(),
        })?;
        facts.set_phase(Phase::Ready);
        Ok(Node {
            broadcast: Broadcast::new(lanes, placement),
            shards,
            loads,
            stop,
            acceptor: Some(acceptor),
            control: Some(control),
            storage,
            memory,
            facts,
            admission,
            origins,
        })
    }

    /// Puts other limits in force.
    pub fn set_limits(&mut self, limits: Limits) {
        self.admission.connections_max.store(limits.max_connections, Relaxed);
        self.admission.per_address_max.store(limits.max_connections_per_address, Relaxed);
        self.admission.unsent_bytes.store(limits.socket_unsent_bytes, Relaxed);
        self.facts.set_limits(limits.clone());
        if let Some(storage) = &self.storage {
            storage.meters.stored_bytes_max.store(limits.history_bytes_total, Relaxed);
        }
        let limits = Arc::new(limits);
        self.broadcast.ask(|| Ask::Reconfigure(limits.clone()));
    }

    /// Lets other web pages in, or gives other roles.
    pub fn admit(&mut self, config: &Config) {
        let origins = config.allowed_origins.clone();
        *self.origins.write().unwrap_or_else(PoisonError::into_inner) = origins;
        self.broadcast.ask(|| Ask::Admit(Box::new(config.access())));
    }

    /// Takes no clients any more and sends those that are here away, within `timeout`. Ends when
    /// all are gone, when time is up, or when `is_urgent` says so; gives how many were left.
    pub fn drain(&mut self, timeout: Duration, mut is_urgent: impl FnMut() -> bool) -> u32 {
        self.facts.set_phase(Phase::Draining);
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.stop();
        }
        let deadline = Instant::now() + timeout;
        // The last closes need a moment to be written and answered.
        let window_ms = timeout.as_millis() as u64 * 6 / 10;
        if !timeout.is_zero() {
            self.broadcast.ask(|| Ask::Drain { window_ms });
        }
        loop {
            self.broadcast.offer();
            let left: u32 = self.loads.iter().map(|load| load.load(Relaxed)).sum();
            if left == 0 || Instant::now() >= deadline || is_urgent() {
                return left;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Why the process can't do its work any more and ends by itself, if that is so.
    pub fn ending(&self) -> Option<Arc<str>> {
        self.facts.ending()
    }

    /// Ends every thread; what clients there are lose their connections.
    pub fn stop(mut self) {
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.stop();
        }
        self.stop.store(true, Relaxed);
        self.broadcast.ring();
        for shard in self.shards.drain(..) {
            if shard.join().is_err() {
                tracing::error!("a shard panicked");
            }
        }
        let (needed, guard) = self.memory;
        drop(needed);
        if guard.join().is_err() {
            tracing::error!("the guard of the memory panicked");
        }
        if let Some(RunningStorage { end, needed, courier, .. }) = self.storage.take() {
            end();
            // The storage may not have ended in time; its news are of no use any more.
            drop(needed);
            if courier.join().is_err() {
                tracing::error!("the courier of the storage panicked");
            }
        }
        if let Some(control) = self.control.take()
            && !control.stop()
        {
            tracing::error!("the control plane panicked");
        }
    }

    /// Offers the shards again what they had no room for; gives how long to wait before the next time.
    pub fn offer(&mut self) -> Duration {
        self.broadcast.offer()
    }
}

fn about(config: &Config, listeners: &Listeners, now: Now) -> io::Result<About> {
    let telemetry = listeners.telemetry.as_ref().map(TcpListener::local_addr).transpose()?;
    Ok(About {
        server: SERVER,
        version: VERSION,
        node: config.node.to_string(),
        started: now,
        storage: config.storage.as_str(),
        bus: listeners.bus.local_addr()?,
        telemetry,
        http: listeners.http.local_addr()?,
    })
}

fn plans(config: &Config, placement: &Placement, now: Now) -> Vec<Plan> {
    let anywhere = &config.publish_anywhere;
    let facts = Arc::new(edge::Facts {
        node: config.node.as_str().into(),
        version: VERSION,
        started_ns: now.mono_ns,
        storage: config.storage.as_str(),
        publish_anywhere: PublishAnywhere {
            user: anywhere.contains(&Role::User),
            admin: anywhere.contains(&Role::Admin),
        },
    });
    let rooms = config.rooms.iter().map(|room| Bootstrap {
        name: room.name.clone(),
        channels: room.channels.clone(),
        config: room.config.clone(),
    });
    let (rooms, on_node) = (Arc::new(rooms.collect()), NodeQuotas::default());
    let limits = Arc::new(config.limits.clone());
    let seed = fastrand::u64(..);
    let plan = |shard| Plan {
        shard,
        placement: placement.clone(),
        limits: limits.clone(),
        facts: facts.clone(),
        access: config.access(),
        rooms: Arc::clone(&rooms),
        on_node: on_node.clone(),
        seed,
    };
    placement.all().map(plan).collect()
}

fn spawn_shard(shard: ShardId, parts: Parts, core: Option<usize>) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(format!("shard-{shard}")).spawn(move || {
        if let Some(core) = core
            && let Err(error) = pinning::pin_here(core)
        {
            tracing::warn!(%shard, core, %error, "the shard could not be pinned to its core");
        }
        if let Err(error) = Driver::new(parts).run() {
            tracing::error!(%shard, %error, "the shard's poll failed; the process ends");
            logging::abort();
        }
    })
}

/// Has the process drain and end, as if it had been told to: whoever waits for signals is woken.
fn end_this_process() {
    if let Err(error) = signal_hook::low_level::raise(signal_hook::consts::SIGTERM) {
        tracing::error!(%error, "the process can't end itself in good order");
        std::process::abort();
    }
}

/// The control plane's way into the bus: an ask like any other, dropped if the lane is full.
fn publisher(lanes: Lanes, placement: Placement) -> Box<dyn Fn(Publication) -> bool + Send> {
    Box::new(move |publication| {
        let Publication { address, draft } = publication;
        let home = placement.of_room(&address.room);
        let to = Target::Named(Box::new(address));
        let publish = Publish { to, draft, from: None, role: Role::Admin, ack: false, trace: None };
        lanes.ask(home, Ask::Publish(publish)).is_ok()
    })
}

/// The pages that a port of the control plane lets in, as they are at the moment of asking.
fn origins_at(origins: &Arc<RwLock<Origins>>, port: SocketAddr) -> Box<control::OriginSource> {
    let (origins, is_loopback) = (origins.clone(), config::is_loopback(port));
    Box::new(move || origins.read().unwrap_or_else(PoisonError::into_inner).for_port(is_loopback))
}

/// Opens a listening socket that may take over a port whose last owner has just gone.
///
/// # Errors
/// If the address is in use or is none of this machine.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(ACCEPT_BACKLOG.into())?;
    Ok(socket.into())
}
