//! The storage's one thread: takes records in, writes them in rounds, and says what is safe.
//!
//! | file | what it does |
//! |---|---|
//! | `keeper` | the loop, the rounds, the news |
//! | `bond` | the connection with the right to write |
//! | `ends` | the start and the end |
//! | `late` | reading what could not be read at the start |
//! | `upkeep` | cutting what is too old or too much; channels that come back from quarantine |
//!
//! *Invariants*: records are taken in at any time, whatever Redis does; one round is under way at a
//! time, and what it did not do is done before all that follows it in its channel; `Degraded` is
//! told once, and `Restored` once after it, when all that had waited is stored.
//!
//! *Panics*: a step of events is never empty. The order to stop panics if it is polled again after
//! it has come, so it is polled only until then.

mod bond;
mod ends;
mod late;
mod upkeep;

use crate::base::ids::{ChannelId, ShardId};
use crate::base::time::Now;
use crate::broker::peers::To;
use crate::broker::record::{EventRecord, Record, Snapshot, StorageNews};
use crate::storage::backlog::{Backlog, Batch, Step, order_of};
use crate::storage::clock;
use crate::storage::cut;
use crate::storage::health::Health;
use crate::storage::holder::Holder;
use crate::storage::intake::{INTAKE_SESSIONS, INTAKE_SLOTS, Intake};
use crate::storage::keys::Keys;
use crate::storage::known::Known;
use crate::storage::link::Link;
use crate::storage::load::PageSize;
use crate::storage::meters::{Meters, add};
use crate::storage::quarantine::wall_us;
use crate::storage::sessions::Sessions;
use crate::storage::settings::{LEASE_MS, Settings};
use crate::storage::trimming::Trimming;
use crate::storage::trouble::Trouble;
use crate::storage::write::{Writer, Written};
use crate::storage::{LoadError, Unsaved};
use late::Late;
use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, sleep_until};
use upkeep::Merging;

/// How often a lease is renewed.
pub(super) const RENEW: Duration = Duration::from_millis(LEASE_MS / 5);
/// How often records are taken in while Redis is waited for; the lane holds much more than comes
/// meanwhile, and nobody has to ring.
pub(super) const TAKE_IN: Duration = Duration::from_millis(5);

/// How long the thread sleeps when it waits for nothing in particular.
pub(super) const REST_MAX: Duration = Duration::from_secs(3_600);
/// How long is waited between two tries to read.
pub(super) const PAUSE: Duration = Duration::from_millis(50);

/// Where news go.
pub(super) type Tell = Box<dyn Fn(To, StorageNews) + Send>;

/// The start: everything is read back.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) now: Now,
    pub(super) timeout: Duration,
    pub(super) reply: crossbeam_channel::Sender<Result<Snapshot, LoadError>>,
}

/// The end: what is pending is written until the deadline.
#[derive(Debug)]
pub(super) struct Stop {
    pub(super) deadline: Instant,
    pub(super) reply: crossbeam_channel::Sender<Unsaved>,
}

pub(super) struct Keeper {
    pub(super) settings: Arc<Settings>,
    pub(super) keys: Arc<Keys>,
    pub(super) tell: Tell,
    pub(super) intake: Intake,
    pub(super) loads: mpsc::UnboundedReceiver<Load>,
    pub(super) stop: oneshot::Receiver<Stop>,
    pub(super) meters: Arc<Meters>,
    pub(super) backlog: Backlog<EventRecord>,
    pub(super) sessions: Sessions,
    pub(super) known: Known,
    pub(super) trimming: Trimming,
    pub(super) holder: Arc<Holder>,
    pub(super) health: Health,
    pub(super) state: State,
}

/// What the thread is at.
#[derive(Default)]
pub(super) struct State {
    /// The connection, with the generation that is ours on it.
    bond: Option<Bond>,
    /// Which life of which server it was that last said it.
    server: Option<String>,
    /// How often rooms and channels were changed, as far as is known.
    changes: u64,
    /// Whether the last thing done was to cut channels.
    has_cut: bool,
    /// What is to be read late, or was.
    late: Late,
    /// Channels in quarantine whose records can be used again, and are to be read.
    found: VecDeque<Batch<EventRecord>>,
    /// One of them, of which its home has not answered yet.
    merging: Option<Merging>,
    /// How much of a stream is asked for at once.
    page: Arc<PageSize>,
    /// What the clock said when everything was to be read, and when that was.
    began: Option<(Instant, Now)>,
    /// Whether there was a connection before.
    is_rebinding: bool,
    /// Another node writes in our place: nothing will be stored any more.
    is_overtaken: bool,
    /// How long the lease of another node was when it was last seen, and whether it has renewed it.
    other_left_ms: Option<u64>,
    other_lives: bool,
    /// That the end has come.
    stopping: Option<Stop>,
}

#[derive(Clone)]
struct Bond {
    link: Link,
    generation: u64,
    renew_at: Instant,
    /// When it was made, in microseconds since 1970.
    since_us: u64,
}

impl Keeper {
    /// Serves until it is told to stop, or until nobody is there who could tell it.
    pub(super) async fn run(mut self) {
        // Before what is kept is read nothing is written, or it would be read back.
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
                _ if self.state.is_overtaken => self.rest(None).await,
                Some(at) if at > Instant::now() => self.rest(Some(at)).await,
                _ => self.work().await,
            }
        }
        self.end().await;
    }

    /// One thing at a time: a connection, the lease, a round.
    async fn work(&mut self) {
        match self.state.late {
            Late::Unread => return self.read_late().await,
            Late::Told(_) => return self.await_homes().await,
            Late::Known => {}
        }
        let Some(bond) = self.state.bond.clone() else {
            if let Err(trouble) = self.bind().await {
                self.fail(trouble);
            } else if !self.backlog.has_due() {
                self.recover();
            }
            return;
        };
        let is_past = |at: Instant| Instant::now() >= at;
        if self.sessions.next_due().is_some_and(is_past) {
            self.sessions_round(&bond).await;
            if self.state.bond.is_none() {
                return;
            }
        }
        if !self.state.found.is_empty() && self.state.merging.is_none() {
            return self.read_found(&bond).await;
        }
        // Cutting and writing take turns, however much there is of either.
        if !std::mem::replace(&mut self.state.has_cut, false)
            && self.next_cut().is_some_and(is_past)
        {
            self.state.has_cut = true;
            return self.cut_round(&bond).await;
        }
        let dues = [self.backlog.next_due(), self.sessions.next_due(), self.next_cut()];
        let next_due = dues[0];
        if Instant::now() >= bond.renew_at {
            self.renew(&bond).await;
        } else if self.backlog.has_due() || next_due.is_some_and(|at| Instant::now() >= at) {
            self.round(&bond).await;
        } else {
            let wake_at = dues.into_iter().flatten().fold(bond.renew_at, Instant::min);
            self.rest(Some(wake_at)).await;
        }
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

    /// Does something that waits for Redis, for as long as `limit`, and takes records in meanwhile.
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
        loop {
            let mut until = answered.get() + limit;
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
                () = sleep(TAKE_IN) => self.take_in(),
            }
        }
    }

    /// Moves what shards offered into the backlog.
    fn take_in(&mut self) {
        // As much as the lane holds: who fills it faster than it is emptied must not keep Redis
        // waiting.
        for _ in 0..INTAKE_SLOTS {
            let Some(record) = self.intake.take() else { break };
            self.known.note(&record);
            match record {
                Record::Merged(merged) => self.on_merged(*merged),
                other => self.backlog.push(other),
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
        if self.state.is_overtaken {
            self.backlog.lose_everything();
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

    /// The time, by the clock that everything was read by.
    fn now(&self) -> Now {
        let began = self.state.began.map(|(at, now)| now.after(at.elapsed()));
        began.unwrap_or_default()
    }

    /// Measures how far this machine's clock is apart from that of Redis.
    async fn look_at_clock(&mut self, link: &Link) -> Result<(), Trouble> {
        let (keys, limit) = (Arc::clone(&self.keys), self.commit_timeout());
        let reading = self.attend(limit, clock::measure(link, &keys)).await;
        self.meters.note_clock(reading.unwrap_or_else(|| Err(no_answer(limit)))?);
        Ok(())
    }

    /// Writes the first step of every channel that has one.
    async fn round(&mut self, bond: &Bond) {
        let started = Instant::now();
        let (batches, mut is_all) = self.backlog.take_round(started);
        let (settings, keys) = (Arc::clone(&self.settings), Arc::clone(&self.keys));
        let limit = self.commit_timeout()
            + Duration::from_millis(
                settings.replicas_timeout_ms * u64::from(settings.replicas > 0),
            );
        let generation = bond.generation;
        let answered = Cell::new(started);
        let (link, answered) = (&bond.link, &answered);
        let (keys, settings) = (&*keys, &*settings);
        let changes = &Cell::new(None);
        let (now, now_ms) = (self.now(), wall_us() / 1_000);
        let writer = Writer { link, keys, settings, generation, now, now_ms, answered, changes };
        let answers = self.attend_while(limit, answered, writer.round(&batches)).await;
        let answers =
            answers.unwrap_or_else(|| batches.iter().map(|_| Err(no_answer(limit))).collect());
        let mut stored = BTreeMap::<ShardId, Vec<(ChannelId, u64)>>::new();
        let mut trouble = None;
        for (batch, answer) in batches.into_iter().zip(answers) {
            match answer {
                Ok(Written::Found(end)) => self.on_found(batch, end),
                Ok(written) => self.done(batch, &written, &mut stored),
                Err(Trouble::Missing) => {
                    is_all = false;
                    self.tell_channel_again(batch);
                }
                Err(trouble @ (Trouble::Foreign | Trouble::Broken(_))) => {
                    self.spoil(batch, &trouble.to_string());
                }
                Err(other) => {
                    if let Trouble::Fenced(generation) = other {
                        self.holder.saw(generation);
                    }
                    self.backlog.give_back(batch);
                    trouble = Some(other);
                }
            }
        }
        for (shard, channels) in stored {
            (self.tell)(To::Shard(shard), StorageNews::Stored(channels));
        }
        let is_changed = changes
            .get()
            .is_some_and(|(first, last)| self.note_changes(first.saturating_sub(1), last));
        self.trimming.squeeze(self.meters.stored_bytes_max.load(Relaxed));
        self.tell_losses();
        if trouble.is_none() {
            self.meters.count_commit(started.elapsed());
            self.health.tries = 0;
            // Who says more than can be stored keeps nobody else from having it stored.
            if !is_changed && (is_all || self.is_restored(bond.since_us)) {
                self.recover();
            }
        }
        self.on_trouble(trouble);
    }

    /// Whether all that had waited for this connection is stored, though more has come since.
    fn is_restored(&self, since_us: u64) -> bool {
        self.health.is_degraded() && !self.backlog.has_waited_since(since_us)
    }

    /// What a round met that concerns all channels.
    fn on_trouble(&mut self, trouble: Option<Trouble>) {
        match trouble {
            // Who was there, the next connection will see: it may have been this process itself.
            Some(Trouble::Fenced(generation)) if self.health.tries == 0 => {
                self.holder.saw(generation);
                self.state.bond = None;
                self.health.tries = 1;
            }
            Some(trouble) => self.fail(trouble),
            None => {}
        }
    }

    /// A step was carried out.
    fn done(
        &mut self,
        batch: Batch<EventRecord>,
        written: &Written,
        stored: &mut BTreeMap<ShardId, Vec<(ChannelId, u64)>>,
    ) {
        add(&self.meters.steps, 1);
        match &batch.step {
            Step::ChannelGone => self.trimming.remove(&batch.address),
            Step::RoomGone(name) => self.trimming.remove(&order_of(name)),
            _ => {}
        }
        if let (Step::Events(events), Written::Appended { before, cut }) = (&batch.step, written)
            && let (Some(oldest), Some(newest)) = (events.front(), events.back())
        {
            let oldest_ms = oldest.frame.timestamp_us / 1_000;
            cut::count(&self.meters, *cut, false);
            self.trimming.on_append(&batch.address, (newest.keep, oldest_ms), *cut);
            let (channel, first, last) = (oldest.channel, before + 1, oldest.frame.sequence - 1);
            if first <= last {
                // They were lost, or Redis has forgotten them: a master that took over may lack what
                // the one before it had said to be stored.
                (self.tell)(
                    To::Shard(channel.home()),
                    StorageNews::Forgotten { channel, first, last },
                );
            }
            add(&self.meters.stored, events.len() as u64);
            let channels = stored.entry(newest.channel.home()).or_default();
            channels.push((newest.channel, newest.frame.sequence));
        }
        self.step_done(batch);
    }

    /// Redis does not know the channel of these events, though it was told of it.
    fn tell_channel_again(&mut self, batch: Batch<EventRecord>) {
        let Step::Events(events) = &batch.step else { return self.backlog.give_back(batch) };
        match self.known.channel(&batch.address, &events[0].epoch) {
            Some(record) => self.backlog.give_back_after(batch, Step::Channel(record)),
            // Its life is over, and nobody will read them.
            None => self.backlog.give_up(batch),
        }
    }

    fn tell_all(&self, news: &StorageNews) {
        (self.tell)(To::All, news.clone());
    }

    fn tell_losses(&mut self) {
        if matches!(self.state.late, Late::Told(_)) || self.state.merging.is_some() {
            // Its home may count by other sequences already.
            return;
        }
        for loss in self.backlog.take_losses() {
            let (channel, first, last) = (loss.channel, loss.first, loss.last);
            add(&self.meters.lost, last - first + 1);
            (self.tell)(To::Shard(channel.home()), StorageNews::Lost { channel, first, last });
        }
        self.meters.pending.store(self.backlog.events(), Relaxed);
        self.meters.pending_bytes.store(self.backlog.bytes(), Relaxed);
    }

    fn commit_timeout(&self) -> Duration {
        Duration::from_millis(self.settings.commit_timeout_ms)
    }
}

pub(super) fn no_answer(limit: Duration) -> Trouble {
    Trouble::Outage(format!("Redis did not answer within {} ms", limit.as_millis()))
}

/// The order to stop; at once if whoever could give it is gone.
pub(super) fn or_at_once(stop: Result<Stop, oneshot::error::RecvError>) -> Stop {
    stop.unwrap_or_else(|_| Stop {
        deadline: Instant::now(),
        reply: crossbeam_channel::bounded(1).0,
    })
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
        let mut keeper =
            crate::storage::keeper(settings, keys, tell, intake, orders, Arc::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            keeper.rest(None).await;
            assert!(keeper.state.stopping.is_some());
            keeper.rest(Some(Instant::now() + Duration::from_millis(5))).await;
        });
    }
}
