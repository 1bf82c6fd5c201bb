//! The storage's one thread: takes records in, writes them in rounds, and says what is safe.
//!
//! *Invariants*: records are taken in at any time, whatever Redis does; one round is under way at a
//! time, and what it did not do is done before all that follows it in its channel; `Degraded` is
//! told once, and `Restored` once after it, when all that had waited is stored.

use crate::base::ids::{ChannelId, ShardId};
use crate::base::time::Now;
use crate::broker::record::{Snapshot, StorageNews};
use crate::storage::backlog::{Backlog, Batch, Step};
use crate::storage::holder::{Hold, Holder};
use crate::storage::intake::Intake;
use crate::storage::keys::Keys;
use crate::storage::known::Known;
use crate::storage::link::Link;
use crate::storage::load::Reader;
use crate::storage::meters::{Degraded, Meters, add};
use crate::storage::settings::{LEASE_MS, Settings};
use crate::storage::trouble::{Trouble, Wrong};
use crate::storage::write::Writer;
use crate::storage::{LoadError, Unsaved};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep_until, timeout_at};

/// How long is waited before the first new try, and the longest wait.
const RETRY_MS_MIN: u64 = 50;
const RETRY_MS_MAX: u64 = 2_000;
/// How often a lease is renewed.
const RENEW: Duration = Duration::from_millis(LEASE_MS / 5);

/// Where news go.
pub(super) type Tell = Box<dyn Fn(ShardId, StorageNews) + Send>;

/// What the storage is asked to do, beside taking records.
#[derive(Debug)]
pub(super) enum Order {
    /// Read everything back.
    Load {
        now: Now,
        timeout: Duration,
        reply: crossbeam_channel::Sender<Result<Snapshot, LoadError>>,
    },
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
    pub(super) shards: u16,
    pub(super) tell: Tell,
    pub(super) intake: Intake,
    pub(super) orders: mpsc::UnboundedReceiver<Order>,
    pub(super) stop: oneshot::Receiver<Stop>,
    pub(super) meters: Arc<Meters>,
    pub(super) backlog: Backlog,
    pub(super) known: Known,
    pub(super) holder: Arc<Holder>,
    pub(super) state: State,
}

/// What the thread is at.
#[derive(Default)]
pub(super) struct State {
    /// The connection, with the generation that is ours on it.
    bond: Option<Bond>,
    /// How many tries have failed since the last that did not.
    tries: u32,
    /// When to try again.
    retry_at: Option<Instant>,
    is_degraded: bool,
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
}

impl Keeper {
    /// Serves until it is told to stop, or until nobody is there who could tell it.
    pub(super) async fn run(mut self) {
        // Before what is kept is read nothing is written, or it would be read back.
        let Some(first) = self.wait_for_order().await else { return self.end().await };
        self.obey(first).await;
        while self.state.stopping.is_none() {
            self.take_in();
            if let Ok(order) = self.orders.try_recv() {
                self.obey(order).await;
            } else if self.is_due(self.state.retry_at) {
                self.work().await;
            } else {
                self.rest().await;
            }
        }
        self.end().await;
    }

    /// One thing at a time: a connection, the lease, a round.
    async fn work(&mut self) {
        let Some(bond) = self.state.bond.clone() else {
            if let Err(trouble) = self.bind().await {
                self.fail(trouble);
            } else if !self.backlog.has_due() {
                self.recover();
            }
            return;
        };
        if Instant::now() >= bond.renew_at {
            self.renew(&bond).await;
        } else if self.backlog.has_due() || self.is_due_at(self.backlog.next_due()) {
            self.round(&bond).await;
        } else {
            self.rest().await;
        }
    }

    fn is_due(&self, at: Option<Instant>) -> bool {
        !self.state.is_overtaken && at.is_none_or(|at| Instant::now() >= at)
    }

    fn is_due_at(&self, at: Option<Instant>) -> bool {
        at.is_some_and(|at| Instant::now() >= at)
    }

    /// Sleeps until something is to be done.
    async fn rest(&mut self) {
        let far = Instant::now() + Duration::from_secs(3_600);
        let mut wake_at = self.state.retry_at.unwrap_or(far);
        if self.state.retry_at.is_none() {
            let renew_at = self.state.bond.as_ref().map_or(far, |bond| bond.renew_at);
            wake_at = self.backlog.next_due().unwrap_or(far).min(renew_at);
        }
        if self.state.is_overtaken {
            wake_at = far;
        }
        tokio::select! {
            () = self.intake.ready() => {}
            order = self.orders.recv() => if let Some(order) = order { self.obey(order).await },
            stop = &mut self.stop => self.state.stopping = Some(or_at_once(stop)),
            () = sleep_until(wake_at.into()) => {}
        }
    }

    async fn wait_for_order(&mut self) -> Option<Order> {
        loop {
            tokio::select! {
                order = self.orders.recv() => return order,
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
        let mut until = Instant::now() + limit;
        let mut work = pin!(work);
        loop {
            if let Some(stop) = &self.state.stopping {
                until = until.min(stop.deadline);
            }
            let is_stopping = self.state.stopping.is_some();
            tokio::select! {
                biased;
                done = &mut work => return Some(done),
                stop = &mut self.stop, if !is_stopping => {
                    self.state.stopping = Some(or_at_once(stop));
                }
                () = self.intake.ready() => self.take_in(),
                () = sleep_until(until.into()) => return None,
            }
        }
    }

    /// Moves what shards offered into the backlog.
    fn take_in(&mut self) {
        while let Some(record) = self.intake.take() {
            self.known.note(&record);
            self.backlog.push(record);
        }
        if self.state.is_overtaken {
            self.backlog.lose_everything();
        }
        self.tell_losses();
    }

    /// Connects, and gets the right to write.
    async fn bind(&mut self) -> Result<(), Trouble> {
        let (settings, keys) = (Arc::clone(&self.settings), Arc::clone(&self.keys));
        let holder = Arc::clone(&self.holder);
        let limit = self.commit_timeout();
        let link = self.attend(limit, Link::connect(&settings)).await;
        let link = link.unwrap_or_else(|| Err(no_answer(limit)))?;
        add(&self.meters.connections, 1);
        let hold = self.attend(limit, holder.hold(&link, &keys, &settings)).await;
        match hold.unwrap_or_else(|| Err(no_answer(limit)))? {
            Hold::Held { generation, is_forgotten } => {
                if is_forgotten {
                    tracing::warn!(
                        "Redis has forgotten what was kept; rooms and channels are told again"
                    );
                    self.tell_again();
                }
                let renew_at = Instant::now() + RENEW;
                self.state.bond = Some(Bond { link, generation, renew_at });
                Ok(())
            }
            Hold::Other { wrong, left_ms } => {
                // A lease that is longer than it was is being renewed.
                self.state.other_lives = self.state.other_left_ms.is_some_and(|was| left_ms > was);
                self.state.other_left_ms = Some(left_ms);
                Err(Trouble::Wrong(wrong))
            }
            Hold::Overtaken(wrong) => {
                self.state.is_overtaken = true;
                Err(Trouble::Wrong(wrong))
            }
        }
    }

    async fn renew(&mut self, bond: &Bond) {
        let (keys, holder) = (Arc::clone(&self.keys), Arc::clone(&self.holder));
        let limit = self.commit_timeout();
        let answer = self.attend(limit, holder.renew(&bond.link, &keys)).await;
        match answer.unwrap_or_else(|| Err(no_answer(limit))) {
            Ok(true) => {
                if let Some(bond) = &mut self.state.bond {
                    bond.renew_at = Instant::now() + RENEW;
                }
            }
            // Whose it is now, the next connection will see.
            Ok(false) => self.state.bond = None,
            Err(trouble) => self.fail(trouble),
        }
    }

    /// Writes the first step of every channel that has one.
    async fn round(&mut self, bond: &Bond) {
        let started = Instant::now();
        let (batches, is_all) = self.backlog.take_round(started);
        let (settings, keys) = (Arc::clone(&self.settings), Arc::clone(&self.keys));
        let limit = self.commit_timeout()
            + Duration::from_millis(
                settings.replicas_timeout_ms * u64::from(settings.replicas > 0),
            );
        let generation = bond.generation;
        let writer = Writer { link: &bond.link, keys: &keys, settings: &settings, generation };
        let answers = self.attend(limit, writer.round(&batches)).await;
        let answers = answers.unwrap_or_else(|| vec![Err(no_answer(limit)); batches.len()]);
        let mut stored = BTreeMap::<ShardId, BTreeMap<ChannelId, u64>>::new();
        let mut trouble = None;
        for (batch, answer) in batches.into_iter().zip(answers) {
            match answer {
                Ok(()) => self.done(batch, &mut stored),
                Err(Trouble::Missing) => self.tell_channel_again(batch),
                Err(Trouble::Foreign) => self.spoil(batch),
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
            (self.tell)(shard, StorageNews::Stored(channels.into_iter().collect()));
        }
        self.tell_losses();
        match trouble {
            // Who was there, the next connection will see: it may have been this process itself.
            Some(Trouble::Fenced(_)) if self.state.tries == 0 => {
                self.state.bond = None;
                self.state.tries = 1;
            }
            Some(trouble) => self.fail(trouble),
            None => {
                self.meters.count_commit(started.elapsed());
                self.state.tries = 0;
                if is_all {
                    self.recover();
                }
            }
        }
    }

    fn done(&mut self, batch: Batch, stored: &mut BTreeMap<ShardId, BTreeMap<ChannelId, u64>>) {
        add(&self.meters.steps, 1);
        if let Step::Events(events) = &batch.step {
            add(&self.meters.stored, events.len() as u64);
            for event in events {
                let channels = stored.entry(event.channel.home()).or_default();
                channels.insert(event.channel, event.frame.sequence);
            }
        }
        self.backlog.done(batch);
    }

    /// Redis does not know the channel of these events, though it was told of it.
    fn tell_channel_again(&mut self, batch: Batch) {
        let Step::Events(events) = &batch.step else { return self.backlog.give_back(batch) };
        match self.known.channel(&batch.address, &events[0].epoch) {
            Some(record) => self.backlog.give_back_after(batch, Step::Channel(record)),
            // Its life is over, and nobody will read them.
            None => self.backlog.give_up(batch),
        }
    }

    /// Redis has forgotten everything.
    fn tell_again(&mut self) {
        for record in self.known.all() {
            self.backlog.push_first(record);
        }
    }

    fn spoil(&mut self, batch: Batch) {
        let address = Arc::clone(&batch.address);
        if self.backlog.spoil(batch, Instant::now()) {
            add(&self.meters.spoilt, 1);
            let (stream, meta) = (self.keys.stream(&address), self.keys.meta(&address));
            let (channels, rooms) = (&self.keys.channels, &self.keys.rooms);
            tracing::error!(
                %channels, %rooms, stream, meta,
                "something that is not of this bus stands at one of these keys; it is left as it \
                 is, and the events of the channel are not stored; rename it"
            );
        }
    }

    fn fail(&mut self, trouble: Trouble) {
        let reason: Arc<str> = match &trouble {
            Trouble::Outage(said) => said.as_str().into(),
            Trouble::Wrong(wrong) => wrong.to_string().into(),
            Trouble::Foreign => "a key under the prefix holds something else".into(),
            Trouble::Fenced(_) | Trouble::Missing => "another node writes under the prefix".into(),
        };
        add(&self.meters.failures, 1);
        self.state.bond = None;
        let wait_ms = (RETRY_MS_MIN << self.state.tries.min(10)).min(RETRY_MS_MAX);
        self.state.tries += 1;
        // Half of it is left to chance, so that nodes do not come back all at once.
        let wait = Duration::from_millis(wait_ms / 2 + fastrand::u64(..=wait_ms / 2));
        self.state.retry_at = Some(Instant::now() + wait);
        self.meters.set_degraded(Some(Degraded {
            since: self.degraded_since(),
            reason: Arc::clone(&reason),
        }));
        if !std::mem::replace(&mut self.state.is_degraded, true) {
            tracing::warn!(%reason, "nothing can be stored now");
            self.tell_all(&StorageNews::Degraded(reason));
        }
        if self.state.is_overtaken {
            tracing::error!("nothing will be stored any more by this process");
            self.backlog.lose_everything();
            self.tell_losses();
        }
    }

    fn degraded_since(&self) -> Instant {
        self.meters.degraded().map_or_else(Instant::now, |degraded| degraded.since)
    }

    /// All that had waited is stored.
    fn recover(&mut self) {
        (self.state.tries, self.state.retry_at) = (0, None);
        if std::mem::take(&mut self.state.is_degraded) {
            self.meters.set_degraded(None);
            tracing::info!("what had been kept back is stored");
            self.tell_all(&StorageNews::Restored);
        }
    }

    fn tell_all(&self, news: &StorageNews) {
        (0..self.shards).for_each(|shard| (self.tell)(ShardId(shard), news.clone()));
    }

    fn tell_losses(&mut self) {
        for loss in self.backlog.take_losses() {
            let (channel, first, last) = (loss.channel, loss.first, loss.last);
            add(&self.meters.lost, last - first + 1);
            (self.tell)(channel.home(), StorageNews::Lost { channel, first, last });
        }
        self.meters.pending.store(self.backlog.events(), Relaxed);
        self.meters.pending_bytes.store(self.backlog.bytes(), Relaxed);
    }

    async fn obey(&mut self, order: Order) {
        let Order::Load { now, timeout, reply } = order;
        let answer = self.load(now, timeout).await;
        // Nobody waits any more if the process gave up.
        let _ = reply.send(answer);
    }

    /// Connects within `timeout`, gets the right to write, and reads everything.
    async fn load(&mut self, now: Now, timeout: Duration) -> Result<Snapshot, LoadError> {
        let started = Instant::now();
        // A node that died holds the right for a lease.
        let lease_over = started + timeout.max(Duration::from_millis(LEASE_MS + LEASE_MS / 5));
        loop {
            let trouble = match self.read(now).await {
                Ok(snapshot) => {
                    self.known.note_all(&snapshot);
                    self.recover();
                    return Ok(snapshot);
                }
                Err(trouble) => trouble,
            };
            let until = match &trouble {
                Trouble::Wrong(Wrong::AnotherWriter { .. }) if !self.state.other_lives => {
                    lease_over
                }
                Trouble::Wrong(wrong) => return Err(LoadError::Wrong(wrong.clone())),
                _ => started + timeout,
            };
            if let Trouble::Fenced(generation) = trouble {
                self.holder.saw(generation);
            }
            self.state.bond = None;
            let pause = Instant::now() + Duration::from_millis(RETRY_MS_MIN);
            if self.state.stopping.is_some() || pause >= until {
                self.fail(trouble.clone());
                return Err(match trouble {
                    Trouble::Wrong(wrong) => LoadError::Wrong(wrong),
                    Trouble::Outage(said) => LoadError::Unreachable(said),
                    _ => LoadError::Unreachable("another node has just written".into()),
                });
            }
            self.attend(pause - Instant::now(), std::future::pending::<()>()).await;
        }
    }

    async fn read(&mut self, now: Now) -> Result<Snapshot, Trouble> {
        if self.state.bond.is_none() {
            self.bind().await?;
        }
        let Some(bond) = self.state.bond.clone() else {
            return Err(Trouble::Outage("no connection".into()));
        };
        let (settings, keys) = (Arc::clone(&self.settings), Arc::clone(&self.keys));
        let meters = Arc::clone(&self.meters);
        let generation = bond.generation;
        let link = &bond.link;
        let reader =
            Reader { link, keys: &keys, settings: &settings, meters: &meters, generation, now };
        let mut all = pin!(reader.all());
        // Every answer has its own limit, and there may be many of them: the whole has none.
        loop {
            if let Some(answer) = self.attend(RENEW, all.as_mut()).await {
                return answer;
            }
            if self.state.stopping.is_some() {
                return Err(Trouble::Outage("the storage was stopped".into()));
            }
            self.renew(&bond).await;
        }
    }

    /// Writes what is pending until the deadline, and gives the right to write back.
    async fn end(mut self) {
        let Some(Stop { deadline, .. }) = self.state.stopping else { return };
        self.take_in();
        while self.backlog.has_due() && Instant::now() < deadline && !self.state.is_overtaken {
            match self.state.retry_at.filter(|&at| at > Instant::now()) {
                Some(at) => sleep_until(at.min(deadline).into()).await,
                None => self.work().await,
            }
            self.take_in();
        }
        if let Some(bond) = &self.state.bond {
            // The lease ends by itself if this fails.
            let release = self.holder.release(&bond.link, &self.keys);
            let grace = deadline.max(Instant::now() + Duration::from_millis(RETRY_MS_MIN));
            let _ = timeout_at(grace.into(), release).await;
        }
        if let Some(stop) = self.state.stopping {
            let unsaved = Unsaved { events: self.backlog.events() };
            // Nobody waits any more if the process gave up.
            let _ = stop.reply.send(unsaved);
        }
    }

    fn commit_timeout(&self) -> Duration {
        Duration::from_millis(self.settings.commit_timeout_ms)
    }
}

fn no_answer(limit: Duration) -> Trouble {
    Trouble::Outage(format!("Redis did not answer within {} ms", limit.as_millis()))
}

/// The order to stop; at once if whoever could give it is gone.
fn or_at_once(stop: Result<Stop, oneshot::error::RecvError>) -> Stop {
    stop.unwrap_or_else(|_| Stop {
        deadline: Instant::now(),
        reply: crossbeam_channel::bounded(1).0,
    })
}
