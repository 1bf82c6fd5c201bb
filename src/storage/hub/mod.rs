//! The storage's one thread, where several nodes share what is kept and are one bus: Redis gives the
//! places, and every node hears of them.
//!
//! What is submitted is written as elsewhere, in rounds and for each channel in order. Then it comes
//! back: the script that appends also publishes, and whoever follows the channel, this node among
//! them, is told over a second connection. So there is one order for all, and one way in which it is
//! heard. What is missed while that connection is away is read from the stream.
//!
//! | file | what it does |
//! |---|---|
//! | `mod` | the loop: taking in, hearing, one thing at a time |
//! | `bond` | the two connections: made, kept, lost, made again |
//! | `ends` | the start and the end |
//! | `call` | one round of asking |
//! | `outcome` | what came of it, and who is told |
//! | `follow` | the channels that are followed |
//! | `follower` | one channel's order as it comes in (pure) |
//! | `recent` | what was told last, by which repeats are known (pure) |
//! | `push` | what Redis tells those who follow (pure) |
//! | `catalogue` | the rooms and channels that there are |
//! | `gossip` | what nodes tell each other |
//! | `sweep` | what nodes have left that died |
//! | `upkeep` | cutting what is too old or too much |
//!
//! *Invariants*: records are taken in, and pushes heard, at any time, whatever Redis does; one round
//! is under way at a time, and what it did not do is done before all that follows it in its channel;
//! what is told of a channel is the next of its order or begins it anew; a submission is told as
//! placed when it is safe, or as lost; `Degraded` is told once, and `Restored` once after it, when all
//! that had waited is done.
//!
//! *Panics*: the order to stop panics if it is polled again after it has come, so it is polled only
//! until then.
//!
//! *Not here*: who is on which node (`census`), and whose a client id is (`claims`).

mod bond;
mod call;
mod catalogue;
mod ends;
mod follow;
mod follower;
mod gossip;
mod outcome;
mod push;
mod recent;
mod sweep;
mod upkeep;

use crate::base::hash::{Map, seeded};
use crate::base::ids::ShardId;
use crate::base::time::Now;
use crate::broker::peers::{PeerNews, PeerRecord, Submission, To};
use crate::broker::record::{Record, StorageNews};
use crate::protocol::command::Address;
use crate::storage::backlog::{Backlog, Step};
use crate::storage::health::Health;
use crate::storage::intake::{INTAKE_SESSIONS, INTAKE_SLOTS, Intake};
use crate::storage::keeper::{Load, REST_MAX, Stop, TAKE_IN, Tell, no_answer, or_at_once};
use crate::storage::keys::Keys;
use crate::storage::load::PageSize;
use crate::storage::meters::{Meters, add};
use crate::storage::sessions::Sessions;
use crate::storage::settings::Settings;
use crate::storage::trimming::Trimming;
use crate::storage::trouble::Trouble;
use bond::Bond;
use catalogue::Catalogue;
use follow::{Following, Task};
use follower::Next;
use futures_util::{FutureExt, StreamExt};
use gossip::Gossip;
use push::Push;
use redis::Msg;
use redis::aio::PubSubStream;
use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use sweep::Sweep;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, sleep_until};

/// How long is waited for a shard that has not taken what it was told.
const CROWD_PAUSE: Duration = Duration::from_millis(50);
/// The channels that are read at a time when it has.
const CROWD_AT_A_TIME: usize = 16;
/// The messages that are heard before something else is done.
const HEAR_MAX: usize = 4_096;
/// Their bytes.
const HEAR_BYTES_MAX: usize = 1024 * 1024;

pub(super) struct Hub {
    settings: Arc<Settings>,
    keys: Arc<Keys>,
    tell: Tell,
    intake: Intake,
    loads: mpsc::UnboundedReceiver<Load>,
    stop: oneshot::Receiver<Stop>,
    meters: Arc<Meters>,
    backlog: Backlog<Box<Submission>>,
    catalogue: Catalogue,
    gossip: Gossip,
    sweep: Sweep,
    sessions: Sessions,
    trimming: Trimming,
    /// The channels that are followed.
    followed: Map<Arc<Address>, Following>,
    /// By where they are told of.
    by_push: Map<String, Arc<Address>>,
    /// How often a channel was attached.
    attached: u64,
    /// This node, for the others.
    token: Arc<str>,
    /// A reading of the clocks, and when it was made.
    clock: (Now, Instant),
    health: Health,
    state: State,
}

/// What the thread is at.
#[derive(Default)]
struct State {
    /// The connections.
    bond: Option<Bond>,
    /// What is heard, while it is.
    ears: Option<PubSubStream>,
    /// Whether the process was told what there is, and further changes are news.
    is_loaded: bool,
    /// Whether it was ever seen what there is.
    is_listed: bool,
    /// A generation that must be reached, as it was seen at some channel.
    floor: u64,
    /// How long the lease of one who writes alone was when it was last seen, and whether it grows.
    other_left_ms: Option<u64>,
    other_lives: bool,
    /// When all that is followed is looked through, in case a push was lost on its way.
    check_at: Option<Instant>,
    /// When this node last heard anything.
    heard_at: Option<Instant>,
    /// Whether a channel is behind because its shard has not taken what waits for it.
    is_crowded: bool,
    /// How much of a stream is asked for at once.
    page: Arc<PageSize>,
    /// When the bytes of channels are told to the other nodes next.
    weigh_at: Option<Instant>,
    /// Whether the last thing done was to cut channels.
    has_cut: bool,
    /// What is to be published, and where.
    outbox: Vec<(String, Vec<u8>)>,
    /// That the end has come.
    stopping: Option<Stop>,
}

impl Hub {
    pub(super) fn new(
        settings: Arc<Settings>,
        keys: Arc<Keys>,
        tell: Tell,
        intake: Intake,
        (loads, stop): (mpsc::UnboundedReceiver<Load>, oneshot::Receiver<Stop>),
        meters: Arc<Meters>,
    ) -> Hub {
        let hasher = seeded(fastrand::u64(..));
        let token = format!("{:016x}", fastrand::u64(..));
        Hub {
            gossip: Gossip::new(&keys, &token, &settings.node),
            token: token.into(),
            backlog: Backlog::new(settings.backlog_bytes),
            sessions: Sessions::new(Duration::from_millis(settings.session_ttl_ms)),
            sweep: Sweep::default(),
            trimming: Trimming::new(),
            catalogue: Catalogue::default(),
            followed: Map::with_hasher(hasher.clone()),
            by_push: Map::with_hasher(hasher),
            attached: 0,
            clock: (Now::default(), Instant::now()),
            health: Health::default(),
            state: State::default(),
            settings,
            keys,
            tell,
            intake,
            loads,
            stop,
            meters,
        }
    }

    /// Serves until it is told to stop, or until nobody is there who could tell it.
    pub(super) async fn run(mut self) {
        loop {
            let Some(load) = self.wait_for_load().await else { return self.end().await };
            if self.obey(load).await {
                break;
            }
        }
        self.loads.close();
        while self.state.stopping.is_none() {
            self.take_in();
            match self.health.retry_at {
                Some(at) if at > Instant::now() => self.rest(Some(at)).await,
                _ => self.work().await,
            }
        }
        self.end().await;
    }

    /// Makes the connections, or renews the lease, or does something of all else.
    async fn work(&mut self) {
        if let Some(shard) = self.meters.news.flooded() {
            return self.wait_for_shard(shard).await;
        }
        self.converse();
        let Some(bond) = self.state.bond.clone() else {
            match self.bind().await {
                Err(trouble) => self.fail(trouble),
                Ok(()) if !self.backlog.has_due() => self.recover(),
                Ok(()) => {}
            }
            return;
        };
        if Instant::now() >= bond.renew_at {
            return self.renew(&bond).await;
        }
        // Each has its turn, however much there is of the others.
        let (mut is_idle, mut crowd_at) = (true, None);
        if self.gossip.has_wishes() {
            self.ask_for_ids(&bond).await;
            is_idle = false;
        }
        if self.state.bond.is_some() && !self.state.outbox.is_empty() {
            self.publish(&bond).await;
            is_idle = false;
        }
        let next_due = self.backlog.next_due();
        let is_due = self.backlog.has_due() || next_due.is_some_and(|at| Instant::now() >= at);
        if self.state.bond.is_some() && is_due {
            self.round(&bond).await;
            is_idle = false;
        }
        if self.state.bond.is_some()
            && self.sessions.next_due().is_some_and(|at| Instant::now() >= at)
        {
            self.sessions_round(&bond).await;
            is_idle = false;
        }
        if self.state.is_crowded {
            is_idle &= !self.read_what_was_not_told();
            crowd_at = Some(Instant::now() + CROWD_PAUSE);
        }
        let now = Instant::now();
        if self.state.bond.is_some() && self.sweep.next_due(now).is_some_and(|at| now >= at) {
            self.sweep(&bond).await;
            is_idle = false;
        }
        // Cutting and all else take turns, however much there is of either.
        let is_due = self.next_cut().is_some_and(|at| Instant::now() >= at);
        self.state.has_cut = self.state.bond.is_some() && is_due && !self.state.has_cut;
        if self.state.has_cut {
            self.cut_round(&bond).await;
            is_idle = false;
        }
        if is_idle {
            let others = [self.next_word(), self.sessions.next_due(), self.sweep.next_due(now)];
            let others = others.into_iter().chain([next_due, crowd_at, self.next_cut()]);
            let due = others.flatten();
            let wake_at = due.fold(bond.renew_at, Instant::min);
            self.rest(Some(wake_at)).await;
        }
    }

    /// A shard has not taken so much that it can be told nothing more: this node hears nothing until it
    /// has. What it misses is read again then, as after any lost connection.
    async fn wait_for_shard(&mut self, shard: ShardId) {
        if self.state.bond.is_some() {
            let said = format!("shard {shard} stands still, and has not taken what it was told");
            self.fail(Trouble::Outage(said));
        }
        self.rest(Some(Instant::now() + CROWD_PAUSE)).await;
    }

    /// Reads channels that are behind because their shards were full, some at a time; whether there is
    /// one.
    fn read_what_was_not_told(&mut self) -> bool {
        self.state.is_crowded = false;
        let mut count = 0;
        for (address, following) in &mut self.followed {
            if !following.follower.is_behind() || following.is_syncing {
                continue;
            }
            if count == CROWD_AT_A_TIME || self.meters.news.is_full(following.attach.channel.home())
            {
                self.state.is_crowded = true;
                continue;
            }
            count += 1;
            following.is_syncing = true;
            self.backlog.push_ahead(address, Step::Task(Task::Sync));
        }
        count > 0
    }

    /// Sleeps until something is to be done, which is at that time at the latest.
    async fn rest(&mut self, wake_at: Option<Instant>) {
        let wake_at = wake_at.unwrap_or_else(|| Instant::now() + REST_MAX);
        let is_kept_back = self.health.is_degraded();
        let records = async {
            self.intake.ready().await;
            // What can't be written now is not waited for one by one.
            if is_kept_back {
                sleep(TAKE_IN).await;
            }
        };
        // The receiver of the order panics if it is polled again after it has come.
        let is_stopping = self.state.stopping.is_some();
        tokio::select! {
            () = records => {}
            stop = &mut self.stop, if !is_stopping => {
                self.state.stopping = Some(or_at_once(stop));
            }
            () = sleep_until(wake_at.into()) => {}
            message = next_of(&mut self.state.ears) => self.hear(message),
        }
    }

    async fn wait_for_load(&mut self) -> Option<Load> {
        loop {
            tokio::select! {
                load = self.loads.recv() => return load,
                stop = &mut self.stop => {
                    self.state.stopping = Some(or_at_once(stop));
                    return None;
                }
                () = self.intake.ready() => self.take_in(),
            }
        }
    }

    /// Does something that waits for Redis, for as long as `limit`; takes records in and hears
    /// what is told meanwhile.
    async fn attend<T>(&mut self, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        self.attend_while(limit, &Cell::new(Instant::now()), work).await
    }

    /// The same for work of many answers, the last of which came at `answered`: it goes on for as
    /// long as Redis is never silent for `limit`.
    async fn attend_while<T>(
        &mut self,
        limit: Duration,
        answered: &Cell<Instant>,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let mut work = pin!(work);
        let mut take_in_at = Instant::now() + TAKE_IN;
        // While this thread is busy itself it reads no answers.
        let mut busy = Duration::ZERO;
        loop {
            let mut until = answered.get() + limit + busy;
            if let Some(stop) = &self.state.stopping {
                until = until.min(stop.deadline);
            }
            if Instant::now() >= until {
                return None;
            }
            let is_stopping = self.state.stopping.is_some();
            tokio::select! {
                biased;
                done = &mut work => return Some(done),
                stop = &mut self.stop, if !is_stopping => {
                    self.state.stopping = Some(or_at_once(stop));
                }
                () = sleep_until(until.into()) => {}
                () = sleep_until(take_in_at.into()) => {
                    self.take_in();
                    take_in_at = Instant::now() + TAKE_IN;
                }
                message = next_of(&mut self.state.ears) => {
                    let started = Instant::now();
                    self.hear(message);
                    busy += started.elapsed();
                }
            }
        }
    }

    /// Moves what shards offered into the backlog.
    fn take_in(&mut self) {
        for _ in 0..INTAKE_SLOTS {
            let Some(record) = self.intake.take() else { break };
            match record {
                Record::Peer(record) => self.take_peer(*record),
                // Who shares gives no places of its own.
                Record::Event(event) => {
                    let (channel, sequence) = (event.channel, event.frame.sequence);
                    let news = StorageNews::Lost { channel, first: sequence, last: sequence };
                    (self.tell)(To::Shard(channel.home()), news);
                }
                other => self.backlog.push_record(other),
            }
        }
        for _ in 0..INTAKE_SESSIONS {
            let Some(session) = self.intake.take_session() else { break };
            if !self.sessions.take(session) {
                add(&self.meters.lost_sessions, 1);
            }
        }
        if self.health.is_degraded() {
            self.sessions.give_up(&self.tell);
        }
        self.tell_losses();
    }

    /// Writes the sessions that are due, and reads those that are asked for.
    async fn sessions_round(&mut self, bond: &Bond) {
        let round = self.sessions.begin(Instant::now());
        if round.is_empty() {
            return;
        }
        let (keys, limit) = (Arc::clone(&self.keys), self.commit_timeout());
        let answers = self.attend(limit, round.run(&bond.link, &keys)).await;
        let answers = answers.unwrap_or_else(|| Err(no_answer(limit)));
        self.sessions.end(round, answers.as_ref(), &self.tell);
        if let Err(trouble) = answers {
            self.fail(trouble);
        }
    }

    fn take_peer(&mut self, record: PeerRecord) {
        match record {
            PeerRecord::Submit(submission) => self.backlog.push_event(submission),
            PeerRecord::Attach(attach) => {
                let address = Arc::clone(&attach.record.address);
                self.backlog.push_step(address, Step::Task(Task::Attach(attach.into())));
            }
            PeerRecord::Detach(channel, address) => {
                self.backlog.push_step(address, Step::Task(Task::Detach(channel)));
            }
            PeerRecord::Fork { address, life, base, .. } => {
                self.backlog.push_step(address, Step::Task(Task::Fork { life, base }));
            }
            other => self.on_gossip_of_homes(other),
        }
    }

    /// Hears a message and whatever else has come with it.
    fn hear(&mut self, message: Option<Msg>) {
        // Whatever comes shows that the connection tells: behind many events this node's own beat may be
        // late.
        self.state.heard_at = Some(Instant::now());
        let (mut touched, mut bytes) = (Vec::new(), 0);
        let mut message = message;
        for _ in 0..HEAR_MAX {
            let Some(heard) = message else {
                // What is told now nobody hears: all is made anew, and then looked through.
                (self.state.ears, self.state.bond) = (None, None);
                break;
            };
            bytes += heard.get_payload_bytes().len();
            self.hear_one(&heard, &mut touched);
            if bytes > HEAR_BYTES_MAX {
                break;
            }
            match next_of(&mut self.state.ears).now_or_never() {
                Some(next) => message = next,
                None => break,
            }
        }
        for address in touched {
            let told = self.followed.get_mut(&address).and_then(|it| it.told.take());
            self.tell_of(&address, told.unwrap_or_default());
        }
    }

    /// Hears a message; if a channel has got something to tell by it, that one is `touched`.
    fn hear_one(&mut self, message: &Msg, touched: &mut Vec<Arc<Address>>) {
        let Some(address) = self.by_push.get(message.get_channel_name()) else {
            return self.hear_all(message);
        };
        let Some(following) = self.followed.get_mut(address) else { return };
        if self.meters.news.is_full(following.attach.channel.home()) {
            // It is read again when its home has taken what waits.
            following.follower.fall_behind();
            add(&self.meters.news_behind, 1);
            self.state.is_crowded = true;
            return;
        }
        let push = std::str::from_utf8(message.get_payload_bytes())
            .map_err(|_| "it is not UTF-8".to_owned())
            .and_then(Push::parse);
        if following.told.is_none() {
            touched.push(Arc::clone(address));
        }
        let told = following.told.get_or_insert_default();
        match push {
            Ok(push) => following.follower.on_push(push, told),
            Err(why) => {
                tracing::warn!(%address, why, "what was told of a channel can't be read");
                following.follower.fall_behind();
            }
        }
    }

    /// Tells a home what comes next in a channel, and looks whether something is missing.
    fn tell_of(&mut self, address: &Arc<Address>, told: Vec<Next>) {
        let now = self.now();
        let Some(following) = self.followed.get_mut(address) else { return };
        let (news, unreadable) = following.news(told, (&self.token, now));
        let to = To::Shard(following.attach.channel.home());
        if following.follower.is_behind() && !following.is_syncing {
            match self.meters.news.is_full(following.attach.channel.home()) {
                true => self.state.is_crowded = true,
                false => {
                    following.is_syncing = true;
                    self.backlog.push_ahead(address, Step::Task(Task::Sync));
                }
            }
        }
        if let Some(entry) = unreadable {
            add(&self.meters.unreadable, 1);
            tracing::warn!(%address, %entry, "what is kept there can't be read and is passed over");
        }
        for news in news {
            if let PeerNews::Term { term, past, .. } = &news {
                self.catalogue.note_term(address, *term, past);
            }
            self.tell(to.clone(), news);
        }
    }

    /// Takes what was told to all nodes, or to this one. A push of a channel may come here while this
    /// node begins or ceases to follow it; then the stream has what it says.
    fn hear_all(&mut self, message: &Msg) {
        let name = message.get_channel_name();
        if name == self.keys.catalogue() {
            self.on_catalogue(message.get_payload_bytes());
        } else if name == self.keys.census() || name == self.keys.node(&self.token) {
            self.on_gossip(name, message.get_payload_bytes());
        }
    }

    fn tell(&self, to: To, news: PeerNews) {
        (self.tell)(to, StorageNews::Peer(news));
    }

    fn tell_losses(&mut self) {
        for loss in self.backlog.take_losses() {
            let (channel, first, last) = (loss.channel, loss.first, loss.last);
            add(&self.meters.lost, last - first + 1);
            (self.tell)(To::Shard(channel.home()), StorageNews::Lost { channel, first, last });
        }
        self.meters.pending.store(self.backlog.events(), Relaxed);
        self.meters.pending_bytes.store(self.backlog.bytes(), Relaxed);
    }

    /// The time.
    fn now(&self) -> Now {
        let (then, at) = self.clock;
        then.after(at.elapsed())
    }

    fn commit_timeout(&self) -> Duration {
        Duration::from_millis(self.settings.commit_timeout_ms)
    }
}

/// The next message; `None` if there will be none.
async fn next_of(ears: &mut Option<PubSubStream>) -> Option<Msg> {
    match ears {
        Some(ears) => ears.next().await,
        None => std::future::pending().await,
    }
}
/// Reads any text as everything that other nodes publish.
#[cfg(any(test, fuzzing))]
pub(super) fn read_any(text: &str) {
    let _ = push::Push::parse(text);
    let _ = catalogue::read(text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::intake::lane;
    use crate::storage::url::RedisUrl;

    #[test]
    fn a_rest_after_the_order_to_stop_ends_as_any_other() {
        let settings = Arc::new(Settings::new(RedisUrl::parse("redis://h").unwrap()));
        let keys = Arc::new(Keys::new(&settings.prefix, settings.url.database()));
        let (_records, intake) = lane();
        let (_loads, loads) = mpsc::unbounded_channel();
        let (stop, told) = oneshot::channel();
        drop(stop);
        let (tell, orders): (Tell, _) = (Box::new(|_, _| {}), (loads, told));
        let mut hub = Hub::new(settings, keys, tell, intake, orders, Arc::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            hub.rest(None).await;
            assert!(hub.state.stopping.is_some());
            hub.rest(Some(Instant::now() + Duration::from_millis(5))).await;
        });
    }
}
