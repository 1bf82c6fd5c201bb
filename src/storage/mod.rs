//! The storage: keeps in Redis Streams what homes record, and says what is safe.
//!
//! One thread with a small runtime of its own. Shards hand [`Record`]s over by a call that never
//! waits; the thread writes all that has come together, in rounds: the events of one channel are
//! one call of a script, the calls of a round go out at once, and what comes meanwhile makes the
//! next round. So the busier the bus, the larger the rounds. What is safe, and what can't be kept,
//! is told to the channel's home as [`StorageNews`].
//!
//! # Keys
//!
//! All begin with a prefix, `arqonbus` unless said otherwise. What belongs to a channel has its
//! name in braces, so that it is in one slot of a cluster.
//!
//! | key | type | what it holds |
//! |---|---|---|
//! | `PREFIX:{room:channel}:stream` | stream | the events; `*` for the channel is the order of a whole room |
//! | `PREFIX:{room:channel}:meta` | hash | `epoch`, `term` and `past`, `type`, `created_us`, `created_by`, `metadata`, `guests`, `auto_created`; `last` and `last_us`, the sequence and the time of the last event; `top`, the id of the last entry; `writer`, the generation that wrote last; `bytes`, all that was ever appended, and `bytes_before`, how much of it was gone when that was looked at last |
//! | `PREFIX:{bus}:channels` | set | `room:channel` of every channel |
//! | `PREFIX:{bus}:rooms` | hash | the name of every room, and in JSON what is known of it |
//! | `PREFIX:{bus}:bytes` | sorted set | where several share: `room:channel` and the bytes that its stream holds; `*` is the sum |
//! | `PREFIX:{bus}:trimmer` | string | where several share: the token of the node that cuts streams where that sum is too large |
//! | `PREFIX:{bus}:session:HASH` | string | a client's session in JSON, under the SHA-256 of its token, or `{"life":N,"over":true}` if it has ended by order; it expires |
//! | `PREFIX:{bus}:writer` | hash | `token`, `node`, `host`, `since_ms`, `generation` and `until_ms` of the node that may write; `changes` counts those of rooms and channels; where several share, the token is `shared`, and `repair` says at which of the changes they were last told again, and by whom |
//!
//! Where several nodes share what is kept (`hub`) there is more:
//!
//! | key or pub/sub channel | type | what it holds |
//! |---|---|---|
//! | `PREFIX:{bus}:nodes` | hash | the token of every node that lives, and until when in ms |
//! | `PREFIX:{bus}:clients` | hash | every client id, and the token of the node that it is connected to; if it has a session, ` HASH LIFE` follows: under which that is kept, and which life of it this is |
//! | `PREFIX:{bus}:node:TOKEN` | string | the name of a node that lives; runs out when it does not any more |
//! | `PREFIX:{room:channel}:nodes` | hash | the tokens of the nodes that follow the channel, each with the run of the Redis server that was last found to have all that the node was told: its `run_id` and `master_replid` |
//! | `PREFIX:{room:channel}:meta` | | besides: `mark`, the id and the origin of the last entry; `last_time`, its time in us and as text |
//! | `PREFIX:{room:channel}:stream` | | besides, in each entry: `origin`, `TOKEN.NUMBER:TICKET` of who asked for its place |
//! | `PREFIX:{room:channel}:push` | pub/sub | what was appended to the channel, and its terms |
//! | `PREFIX:catalogue` | pub/sub | changes of rooms and channels |
//! | `PREFIX:census` | pub/sub | what nodes tell all nodes |
//! | `PREFIX:node:TOKEN` | pub/sub | what is told to one node |
//!
//! Who removes what a crash leaves of each, ARCHITECTURE.md says.
//!
//! Pub/sub channels are of no database: for another than 0 they begin with `PREFIX@DATABASE`.
//!
//! An entry has the id `time-sequence`, the time in milliseconds, and the fields `epoch`,
//! `sequence`, `id`, `from` and `message`, the whole envelope as it went over the wire; if the event may
//! expire also `until`, the time when it does, in milliseconds of the clock of Redis; and `at_bytes`, how
//! many bytes were appended to the stream before it. So
//! `XREVRANGE 'arqonbus:{science:general}:stream' + - COUNT 10` shows what was said last, and a
//! worker follows with `XREAD BLOCK`. Sequences grow by one within an epoch. A hole is what was
//! lost while Redis was away; another epoch is another life of the channel, whose sequences begin
//! anew while the ids of the entries go on.
//!
//! # Order and failures
//!
//! The order is the home's, not Redis's, unless nodes share it. A script appends all of its events or none, and passes
//! over what is there already, so a call whose answer was lost is simply made again; and nothing of
//! a channel is written before what failed of it. A call of an older connection or of another node
//! is refused (`holder`), whenever it arrives. While Redis takes nothing, records wait in order
//! (`backlog`); events that find no room are lost, from there on until there is room, and told.
//!
//! | file | what it does |
//! |---|---|
//! | `settings`, `url` | what it is told once; where Redis is |
//! | `intake` | the lane that shards put records into |
//! | `backlog` | what waits, by channel, in order (pure) |
//! | `keeper` | the thread: rounds, retries, news |
//! | `write`, `load` | one round of writing; reading everything back |
//! | `together` | calls that replicas must have |
//! | `trimming`, `cut` | when streams are cut, beside appending (pure); how |
//! | `quarantine` | the channels whose records can't be used |
//! | `sessions` | the sessions of clients: written, renewed, read |
//! | `clock` | how far this machine's clock is apart from that of Redis |
//! | `holder` | the right to write under a prefix |
//! | `census` | who is connected to which node of a bus, and in which channels (pure) |
//! | `claims` | which node has a client id |
//! | `link`, `sentinel`, `scripts/` | the connection, where the master is, and what Redis does at once |
//! | `codec`, `keys` | how things stand in Redis, and where |
//! | `hub/` | in place of `keeper`, `write` and `known`: several nodes, whose order Redis gives |
//! | `known` | rooms and channels, to be told again to a Redis that has forgotten them |
//! | `trouble`, `health` | what went wrong, and what follows; whether anything can be stored |
//! | `meters`, `news` | what is counted; what of the news is not taken yet |
//!
//! *Invariants*: nobody waits for the storage but the start and the end of the process; events of a
//! channel are stored in the order of their sequence, each once; what was told as stored is in the
//! stream, and on so many replicas as were asked for; every event that was taken is told as stored
//! or as lost, unless the process ends; nothing is written before what is kept was read; nothing that
//! is not ours is changed or deleted.
//!
//! *Not here*: what clients are told; who gives sequences, unless nodes share them.

mod backlog;
mod census;
mod claims;
mod clock;
mod codec;
mod cut;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod health;
mod holder;
mod hub;
mod intake;
mod keeper;
mod keys;
mod known;
mod link;
mod load;
mod meters;
mod news;
mod quarantine;
mod sentinel;
mod sessions;
mod settings;
mod together;
mod trimming;
mod trouble;
mod url;
mod write;

pub use clock::{ClockReading, compare_clocks};
pub use intake::{INTAKE_BYTES_MAX, INTAKE_SLOTS, RecordSender};
pub use meters::{COMMIT_BOUNDS_MS, Degraded, Meters};
pub use news::NewsLoad;
pub use quarantine::{Quarantine, Quarantined};
pub use settings::{GRACE_MS, LEASE_MS, Settings};
pub use trouble::Wrong;
pub use url::{Login, RedisUrl, UrlError};

use crate::base::time::Now;
use crate::broker::peers::To;
#[cfg(doc)]
use crate::broker::record::Record;
use crate::broker::record::{Snapshot, StorageNews};
use hub::Hub;
use keeper::{Keeper, Load, State, Stop, Tell};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// How long the thread may take beyond its deadline to give the right to write back.
const STOP_GRACE: Duration = Duration::from_millis(500);

/// The storage's thread.
#[derive(Debug)]
pub struct Storage {
    loads: mpsc::UnboundedSender<Load>,
    stop: oneshot::Sender<Stop>,
    meters: Arc<Meters>,
    thread: JoinHandle<()>,
}

/// Why nothing was read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// Redis can't be reached; the bus can go on without, and the storage goes on trying.
    Unreachable(String),
    /// Waiting changes nothing: the process should not start.
    Wrong(Wrong),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LoadError::Unreachable(said) => write!(f, "Redis can't be reached ({said})"),
            LoadError::Wrong(wrong) => wrong.fmt(f),
        }
    }
}

impl std::error::Error for LoadError {}

/// What was not stored when the storage ended.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsaved {
    /// The events that waited.
    pub events: u64,
}

/// Starts the storage of a node. It writes nothing until [`Storage::load`] has
/// been called, and, if Redis could not be reached then, until it has read what is kept and the homes
/// have answered ([`crate::broker::late`]). `news` is called on the storage's thread, and must not wait.
pub fn start(
    settings: Settings,
    news: Box<dyn Fn(To, StorageNews) + Send>,
) -> io::Result<(Storage, RecordSender)> {
    start_bounded(settings, news, Arc::new(NewsLoad::new(0)))
}

/// The same for homes that may be slow to take what they are told: as `load` says.
pub fn start_bounded(
    settings: Settings,
    news: Box<dyn Fn(To, StorageNews) + Send>,
    load: Arc<NewsLoad>,
) -> io::Result<(Storage, RecordSender)> {
    settings.check().map_err(|sentence| io::Error::new(io::ErrorKind::InvalidInput, sentence))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // The client's TLS takes the provider of the process; who set one before keeps it.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (sender, intake) = intake::lane();
    let (loads, loads_in) = mpsc::unbounded_channel();
    let (stop, stop_in) = oneshot::channel();
    let meters = Arc::new(Meters::for_news(load));
    meters.stored_bytes_max.store(settings.retention_bytes_total, Relaxed);
    let database = settings.url.database();
    let keys = Arc::new(keys::Keys::new(&settings.prefix, database));
    let (settings, counts) = (Arc::new(settings), Arc::clone(&meters));
    let orders = (loads_in, stop_in);
    let thread = match settings.is_shared {
        true => {
            let hub = Hub::new(settings, keys, news, intake, orders, counts);
            spawn(runtime, move || hub.run())
        }
        false => {
            let keeper = keeper(settings, keys, news, intake, orders, counts);
            spawn(runtime, move || keeper.run())
        }
    }?;
    Ok((Storage { loads, stop, meters, thread }, sender))
}

/// Who writes alone.
fn keeper(
    settings: Arc<Settings>,
    keys: Arc<keys::Keys>,
    tell: Tell,
    intake: intake::Intake,
    (loads, stop): (mpsc::UnboundedReceiver<Load>, oneshot::Receiver<Stop>),
    meters: Arc<Meters>,
) -> Keeper {
    Keeper {
        keys,
        tell,
        intake,
        loads,
        stop,
        meters,
        backlog: backlog::Backlog::new(settings.backlog_bytes),
        sessions: sessions::Sessions::new(Duration::from_millis(settings.session_ttl_ms)),
        known: known::Known::new(),
        trimming: trimming::Trimming::new(),
        holder: Arc::new(holder::Holder::new()),
        health: health::Health::default(),
        state: State::default(),
        settings,
    }
}

/// Has a thread do it.
fn spawn<W: Future<Output = ()>>(
    runtime: tokio::runtime::Runtime,
    work: impl FnOnce() -> W + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("storage".to_owned()).spawn(move || {
        runtime.block_on(work());
        // A name server that does not answer must not hold up the end.
        runtime.shutdown_background();
    })
}

impl Storage {
    /// Connects within `timeout`, checks what is there, and reads everything back. Called once, when
    /// the process starts; waits for the end of it. If another node has just died, it waits until that
    /// one's right to write has run out, for about [`LEASE_MS`]. `now` is the time that what expires
    /// is measured by.
    pub fn load(&self, now: Now, timeout: Duration) -> Result<Snapshot, LoadError> {
        let ended = || LoadError::Unreachable("the storage has ended".to_owned());
        let (reply, answer) = crossbeam_channel::bounded(1);
        self.loads.send(Load { now, timeout, reply }).map_err(|_| ended())?;
        answer.recv().map_err(|_| ended())?
    }

    /// What it counts.
    pub fn meters(&self) -> &Arc<Meters> {
        &self.meters
    }

    /// Writes what waits, for as long as `timeout`, and ends.
    pub fn stop(self, timeout: Duration) -> Unsaved {
        let (reply, answer) = crossbeam_channel::bounded(1);
        let deadline = Instant::now() + timeout;
        // If the thread is gone, so is what it had not stored.
        let _ = self.stop.send(Stop { deadline, reply });
        let pending = || self.meters.pending.load(Relaxed);
        match answer.recv_timeout(timeout + STOP_GRACE) {
            Ok(unsaved) => {
                let _ = self.thread.join();
                unsaved
            }
            Err(_) => Unsaved { events: pending() },
        }
    }
}
