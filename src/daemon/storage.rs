//! Where a node and its storage meet: records go one way, news the other, and neither waits.
//!
//! The storage runs in a thread of its own and says what it has to say into a queue. A courier takes
//! it from there to the homes, by asks that never wait, as the control plane does; what a full lane
//! does not take it offers again. So a shard that stands still keeps no other from its news, and the
//! storage, which sees how much waits for it, tells it less.
//!
//! *Invariants*: each home hears its news in their order, all of them; that the storage is degraded,
//! or well again, is told once for the node.

use crate::base::hash::Placement;
use crate::base::ids::ShardId;
use crate::base::time::Now;
use crate::broker::durable::Durability;
use crate::broker::lane::Ask;
use crate::broker::peers::To;
use crate::broker::record::{Snapshot, StorageNews};
use crate::broker::returning::SessionPlan;
use crate::broker::telemetry::{Event, Telemetry};
use crate::daemon::config::{Config, Storage as Kind};
use crate::daemon::control::{Facts, Outage, intake::Intake};
use crate::protocol::session::TOKEN_BYTES;
use crate::shard::driver::{Clock, RecordSink};
use crate::shard::lanes::Lanes;
use crate::shard::meters::{Counter, Meters};
use crate::storage::{self, ClockReading, LoadError, NewsLoad, Unsaved};
use crossbeam_channel::Receiver;
use ring::rand::{SecureRandom, SystemRandom};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How long a Redis that does not answer is waited for at the start. (Reading what is there takes as
/// long as it takes, and so does a Redis that still reads its own files.)
const LOAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long what was not stored yet may take at the end.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long Redis may take to say what its clock shows.
const CLOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the courier waits where nothing is to be done.
const IDLE: Duration = Duration::from_secs(3_600);
/// How long the courier waits before it offers again what a lane did not take.
const RETRY: Duration = Duration::from_millis(1);

/// A storage, as a node is given it.
pub struct StorageSeam {
    /// What is to be kept.
    pub durability: Durability,
    /// How clients return to their sessions, if they can.
    pub sessions: Option<SessionPlan>,
    /// What was kept.
    pub snapshot: Snapshot,
    /// Makes the sink of one shard.
    pub sink: Box<dyn Fn() -> RecordSink>,
    /// What the storage says to each home. It ends when the storage does.
    pub news: Receiver<(To, StorageNews)>,
    /// What the storage counts of itself.
    pub meters: Arc<storage::Meters>,
    /// Stores what was taken, as far as that can be done in time, and ends. Called when no shard
    /// runs any more.
    pub end: Box<dyn FnOnce() + Send>,
}

impl fmt::Debug for StorageSeam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StorageSeam").field("durability", &self.durability).finish_non_exhaustive()
    }
}

/// Opens the storage that a configuration asks for, and reads what it kept; nothing if there is none.
/// If nobody answers, the bus starts from memory, and the storage goes on trying; it reads what was kept
/// when Redis is there.
///
/// # Errors
/// A sentence for the operator, if what is wrong will not go by itself.
pub(super) fn open(config: &Config, now: Now) -> Result<Option<StorageSeam>, String> {
    let Some(url) = config.redis()?.filter(|_| config.storage == Kind::Redis) else {
        return Ok(None);
    };
    let settings = settings_of(config, url);
    let shown = settings.url.to_string();
    let (tell, news) = crossbeam_channel::unbounded();
    // A courier that has ended needs no news any more.
    let load = Arc::new(NewsLoad::new(config.shards));
    let told = Arc::clone(&load);
    let tell = Box::new(move |to, news| {
        told.queue(&news);
        drop(tell.send((to, news)));
    });
    let (storage, sender) = storage::start_bounded(settings, tell, load)
        .map_err(|error| format!("the storage could not be started: {error}"))?;
    tracing::info!(redis = shown, "reading what was kept");
    let snapshot = match storage.load(now, LOAD_TIMEOUT) {
        Ok(snapshot) => {
            let channels = snapshot.channels.len();
            let messages: usize = snapshot.channels.iter().map(|kept| kept.messages.len()).sum();
            tracing::info!(redis = shown, rooms = snapshot.rooms.len(), channels, messages, "read");
            snapshot
        }
        Err(error @ LoadError::Unreachable(_)) => {
            tracing::warn!(
                redis = shown,
                "{error}; the bus starts from memory, and takes up what was kept when Redis is there"
            );
            Snapshot { is_unread: true, ..Snapshot::default() }
        }
        Err(LoadError::Wrong(wrong)) => {
            let _ = storage.stop(Duration::ZERO);
            return Err(format!("Redis at {shown}: {wrong}"));
        }
    };
    let meters = Arc::clone(storage.meters());
    let end = move || {
        let Unsaved { events } = storage.stop(STOP_TIMEOUT);
        if events > 0 {
            tracing::error!(events, "some events were not stored, and are lost");
        }
    };
    Ok(Some(StorageSeam {
        durability: config.persistence.durability(),
        sessions: config.persistence.sessions(random),
        snapshot,
        meters,
        sink: Box::new(move || {
            let sender = sender.clone();
            Box::new(move |record| sender.offer(record))
        }),
        news,
        end: Box::new(end),
    }))
}

/// How a storage is to work, by a configuration.
fn settings_of(config: &Config, url: storage::RedisUrl) -> storage::Settings {
    let (persistence, limits) = (&config.persistence, &config.limits);
    storage::Settings {
        prefix: persistence.key_prefix.to_string(),
        node: config.node.to_string(),
        backlog_bytes: persistence.backlog_bytes,
        replicas: persistence.replicas,
        replicas_timeout_ms: u64::from(persistence.replicas_timeout_ms),
        load_messages: history_size_max(config),
        load_bytes: match limits.history_bytes {
            0 => u64::MAX,
            bytes => u64::from(bytes),
        },
        retention_age_ms: u64::from(persistence.retention_age_s) * 1_000,
        retention_bytes_total: limits.history_bytes_total,
        is_shared: persistence.many_nodes,
        session_ttl_ms: u64::from(persistence.session_ttl_s) * 1_000,
        // There must be time left to say that an event is not known to be stored.
        grace_ms: storage::GRACE_MS.min(u64::from(persistence.ack_timeout_ms) / 2),
        ..storage::Settings::new(url)
    }
}

/// How far the clock of this machine is apart from that of the Redis of a configuration; nothing, if it
/// asks for none.
pub fn compare_clocks(config: &Config) -> Option<Result<ClockReading, String>> {
    let url = config.redis().ok()?.filter(|_| config.storage == Kind::Redis)?;
    Some(storage::compare_clocks(&settings_of(config, url), CLOCK_TIMEOUT))
}

/// Bytes that nobody can guess: the operating system's.
fn random() -> Option<[u8; TOKEN_BYTES]> {
    let mut bytes = [0; TOKEN_BYTES];
    SystemRandom::new().fill(&mut bytes).ok().map(|()| bytes)
}

/// The most messages that the history of any channel holds whose size Redis does not know.
fn history_size_max(config: &Config) -> u32 {
    let of_rooms = config.rooms.iter().filter_map(|room| room.config.history_size);
    of_rooms.fold(config.limits.history_size, u32::max)
}

/// A sink for a node without a storage, whose homes make no records.
pub fn no_sink() -> RecordSink {
    Box::new(|_| Ok(()))
}

/// What takes the storage's news to the homes.
pub(super) struct Courier {
    pub(super) news: Receiver<(To, StorageNews)>,
    pub(super) lanes: Lanes,
    pub(super) placement: Placement,
    pub(super) notice: Notice,
    /// What each shard's lane has not taken.
    pub(super) waiting: Vec<VecDeque<StorageNews>>,
    /// How much that is, for the storage.
    pub(super) load: Arc<NewsLoad>,
    /// Whether the node ends, and its storage with it.
    pub(super) stop: Arc<AtomicBool>,
    /// Nobody needs news any more when this is disconnected.
    pub(super) quit: Receiver<Infallible>,
}

impl Courier {
    /// Runs in a thread of its own until the storage has ended, or until nobody needs its news.
    pub(super) fn spawn(mut self) -> io::Result<JoinHandle<()>> {
        thread::Builder::new().name("news".to_owned()).spawn(move || {
            while self.carry() {}
            if !self.stop.load(Relaxed) {
                self.tell_the_end();
            }
        })
    }

    /// The storage has ended, and the node goes on: nobody is to wait for it.
    fn tell_the_end(&mut self) {
        let reason: Arc<str> = "the storage has ended".into();
        let news = StorageNews::Degraded(reason.clone());
        self.notice.take(&news);
        self.notice.take(&StorageNews::Ended(reason));
        for shard in 0..self.waiting.len() {
            self.push(shard, news.clone());
        }
        while !self.offer() && !self.stop.load(Relaxed) {
            thread::sleep(RETRY);
        }
    }

    /// Takes what has come and offers what waits; false when nothing will come any more.
    fn carry(&mut self) -> bool {
        let longest = match self.waiting.iter().all(VecDeque::is_empty) {
            true => IDLE,
            false => RETRY,
        };
        let first = crossbeam_channel::select! {
            recv(self.news) -> news => match news {
                Ok(news) => Some(news),
                Err(_) => return false,
            },
            recv(self.quit) -> _ => return false,
            default(longest) => None,
        };
        let queue = self.news.clone();
        for (to, news) in first.into_iter().chain(queue.try_iter()) {
            self.load.unqueue(&news);
            self.notice.take(&news);
            if let StorageNews::Ended(_) = news {
                continue;
            }
            let home = match to {
                To::Shard(shard) => shard,
                To::Room(name) => self.placement.of_room(&name),
                To::Client(client_id) => self.placement.of_client(&client_id),
                To::All => {
                    for shard in 0..self.waiting.len() {
                        self.push(shard, news.clone());
                    }
                    continue;
                }
            };
            self.push(home.index(), news);
        }
        self.offer();
        true
    }

    /// Has something wait for a shard; of one cause after the other only the latest.
    fn push(&mut self, shard: usize, news: StorageNews) {
        // What another node says may be for a shard that is not there.
        let Some(waiting) = self.waiting.get_mut(shard) else { return };
        if let (StorageNews::Cause(_), Some(last @ StorageNews::Cause(_))) =
            (&news, waiting.back_mut())
        {
            *last = news;
            return;
        }
        self.load.wait_for(shard, &news);
        waiting.push_back(news);
    }

    /// Offers the lanes what waits; true if they took all of it.
    fn offer(&mut self) -> bool {
        for (shard, waiting) in self.waiting.iter_mut().enumerate() {
            while let Some(news) = waiting.pop_front() {
                self.load.taken_by(shard, &news);
                let ask = Ask::Storage(Box::new(news));
                if let Err(Ask::Storage(news)) = self.lanes.ask(ShardId(shard as u16), ask) {
                    self.load.wait_for(shard, &news);
                    waiting.push_front(*news);
                    break;
                }
            }
        }
        self.waiting.iter().all(VecDeque::is_empty)
    }
}

/// Notes for the whole node how the storage does, and tells it when that changes.
pub(super) struct Notice {
    pub(super) facts: Arc<Facts>,
    pub(super) meters: Vec<Arc<Meters>>,
    /// Where telemetry goes, if it is on.
    pub(super) events: Option<Intake>,
    pub(super) clock: Clock,
    /// The events that were lost before nothing could be stored.
    pub(super) lost_before: u64,
    /// The events that the storage has lost since then; homes may not have counted them yet.
    pub(super) lost_since: u64,
    /// Begins the end of the process; the reason is among the facts.
    pub(super) end_process: fn(),
}

impl Notice {
    fn take(&mut self, news: &StorageNews) {
        if let StorageNews::Lost { first, last, .. } = news {
            self.lost_since += (last + 1).saturating_sub(*first);
        }
        let event = match (news, self.facts.outage()) {
            (StorageNews::Degraded(reason), None) => self.begin(reason),
            (StorageNews::Cause(reason), Some(outage)) => match self.note_cause(reason, outage) {
                Some(event) => event,
                None => return,
            },
            (StorageNews::Ended(reason), _) => return self.give_up(reason),
            (StorageNews::Restored, Some(outage)) => self.end(&outage),
            // Every home is told of it, the node but once.
            _ => return,
        };
        if let Some(events) = &self.events {
            // What finds no room is counted there, and told of.
            let _ = events.offer(Telemetry { at_us: (self.clock)().wall_us, event });
        }
    }

    fn begin(&mut self, reason: &Arc<str>) -> Event {
        tracing::warn!(
            state = "degraded",
            %reason,
            "nothing can be stored; the bus goes on from memory"
        );
        (self.lost_before, self.lost_since) = (self.lost(), 0);
        let since = (self.clock)();
        self.facts.set_outage(Some(Outage { since, reason: reason.clone(), reason_at: since }));
        Event::StorageDegraded { reason: reason.clone() }
    }

    /// The cause is another by now, or is still the same; an event if it is another.
    fn note_cause(&mut self, reason: &Arc<str>, outage: Outage) -> Option<Event> {
        let is_other = outage.reason != *reason;
        let reason_at = (self.clock)();
        self.facts.set_outage(Some(Outage { reason: reason.clone(), reason_at, ..outage }));
        is_other.then(|| Event::StorageStillDegraded { reason: reason.clone() })
    }

    /// The storage can't do its work any more, so neither can the process: it drains, and whoever
    /// watches over it starts another one.
    fn give_up(&self, reason: &Arc<str>) {
        if self.facts.ending().is_some() {
            return;
        }
        tracing::error!(%reason, "nothing will be stored any more by this process; it ends");
        self.facts.set_ending(reason.clone());
        (self.end_process)();
    }

    fn end(&mut self, outage: &Outage) -> Event {
        let lost = (self.lost() - self.lost_before).max(self.lost_since);
        let outage_ms = (self.clock)().mono_ns.saturating_sub(outage.since.mono_ns) / 1_000_000;
        tracing::info!(state = "ok", outage_ms, lost, "what was kept back is stored");
        self.facts.set_outage(None);
        Event::StorageRestored { outage_ms, lost }
    }

    fn lost(&self) -> u64 {
        self.meters.iter().map(|meters| meters.counter(Counter::EventsLost)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::ChannelId;
    use crate::base::limits::LANE_SLOTS;
    use crate::base::time::Now;
    use crate::daemon::control::intake;
    use crate::shard::driver::poll_with_bell;
    use crossbeam_channel::{Sender, unbounded};

    fn now() -> Now {
        Now { mono_ns: 7_000_000_000, wall_us: 1_764_000_000_000_000 }
    }

    /// A courier to two shards.
    fn courier(
        lanes: Lanes,
        events: Intake,
        meters: Vec<Arc<Meters>>,
    ) -> (Courier, Sender<(To, StorageNews)>) {
        let (stop, quit) = (Arc::new(AtomicBool::new(false)), crossbeam_channel::never());
        let (sender, news) = unbounded();
        let (facts, clock): (_, Clock) = (Arc::new(Facts::of_a_test(now())), Arc::new(now));
        let (events, lost_before, lost_since) = (Some(events), 0, 0);
        let end_process = || {};
        let notice = Notice { facts, meters, events, clock, lost_before, lost_since, end_process };
        let waiting = vec![VecDeque::new(), VecDeque::new()];
        (
            Courier {
                news,
                lanes,
                placement: Placement::new(2, 1),
                notice,
                waiting,
                load: Arc::new(NewsLoad::new(2)),
                stop,
                quit,
            },
            sender,
        )
    }

    /// What the storage does when it has something to say.
    fn send(courier: &Courier, sender: &Sender<(To, StorageNews)>, to: To, news: StorageNews) {
        courier.load.queue(&news);
        sender.send((to, news)).unwrap();
    }

    fn stored(sequence: u64) -> StorageNews {
        StorageNews::Stored(vec![(ChannelId::new(ShardId(0), 1), sequence)])
    }

    #[test]
    fn a_full_lane_keeps_nobody_else_from_its_news_and_loses_none() {
        let bells = (0..2).map(|_| poll_with_bell().unwrap().1).collect();
        let (lanes, inboxes) = Lanes::new(bells);
        while lanes.ask(ShardId(0), Ask::Drain { window_ms: 0 }).is_ok() {}
        let (events, _outlet) = intake::queue();
        let (mut courier, sender) = courier(lanes, events, Vec::new());
        for sequence in 1..=3 {
            send(&courier, &sender, To::Shard(ShardId(0)), stored(sequence));
        }
        send(&courier, &sender, To::Shard(ShardId(1)), StorageNews::Restored);
        assert!(courier.carry());
        assert_eq!((courier.waiting[0].len(), inboxes[1].asks.len()), (3, 1));
        assert_eq!(courier.load.waiting().0, 3, "what no shard has taken");
        // Of one cause after the other only the latest waits.
        for cause in ["one", "two"] {
            send(&courier, &sender, To::All, StorageNews::Cause(cause.into()));
        }
        assert!(courier.carry());
        assert_eq!((courier.waiting[0].len(), courier.load.waiting().0), (4, 4));
        let Some(StorageNews::Cause(cause)) = courier.waiting[0].pop_back() else { panic!() };
        assert_eq!(&*cause, "two");
        courier.load.taken_by(0, &StorageNews::Cause(cause));
        for _ in 0..LANE_SLOTS {
            inboxes[0].asks.take();
        }
        assert!(courier.carry());
        for expected in 1..=3 {
            let Some(Ask::Storage(news)) = inboxes[0].asks.take() else { panic!("news") };
            let StorageNews::Stored(channels) = *news else { panic!("of what is stored") };
            assert_eq!(channels[0].1, expected);
        }
        drop(sender);
        assert!(!courier.carry());
    }

    #[test]
    fn a_storage_that_ends_before_its_node_is_told_to_everyone() {
        for is_ending in [false, true] {
            let bells = (0..2).map(|_| poll_with_bell().unwrap().1).collect();
            let (lanes, inboxes) = Lanes::new(bells);
            let (events, _outlet) = intake::queue();
            let (courier, sender) = courier(lanes, events, Vec::new());
            let facts = courier.notice.facts.clone();
            courier.stop.store(is_ending, Relaxed);
            drop(sender);
            courier.spawn().unwrap().join().unwrap();
            assert_eq!(facts.outage().is_some(), !is_ending);
            for inbox in inboxes {
                assert_eq!(inbox.asks.take().is_some(), !is_ending);
            }
        }
    }

    #[test]
    fn nobody_waits_for_a_storage_that_does_not_end() {
        let bells = (0..2).map(|_| poll_with_bell().unwrap().1).collect();
        let (lanes, _inboxes) = Lanes::new(bells);
        let (events, _outlet) = intake::queue();
        let (mut courier, sender) = courier(lanes, events, Vec::new());
        courier.stop.store(true, Relaxed);
        let (end, quit) = crossbeam_channel::bounded(0);
        courier.quit = quit;
        let thread = courier.spawn().unwrap();
        drop(end);
        thread.join().unwrap();
        drop(sender);
    }

    #[test]
    fn what_the_storage_lost_is_told_before_the_homes_have_counted_it() {
        let bells = (0..2).map(|_| poll_with_bell().unwrap().1).collect();
        let (lanes, _inboxes) = Lanes::new(bells);
        let (events, mut outlet) = intake::queue();
        let (mut courier, sender) = courier(lanes, events, Vec::new());
        let channel = ChannelId::new(ShardId(0), 1);
        let lost = StorageNews::Lost { channel, first: 3, last: 6 };
        for news in [StorageNews::Degraded("gone".into()), lost, StorageNews::Restored] {
            send(&courier, &sender, To::All, news);
        }
        assert!(courier.carry());
        let told: Vec<Event> =
            std::iter::from_fn(|| outlet.take()).map(|telemetry| telemetry.event).collect();
        assert!(matches!(told[..], [_, Event::StorageRestored { lost: 4, .. }]), "{told:?}");
    }

    #[test]
    fn the_node_tells_once_that_nothing_can_be_stored_and_once_that_it_can() {
        let bells = (0..2).map(|_| poll_with_bell().unwrap().1).collect();
        let (lanes, _inboxes) = Lanes::new(bells);
        let ((events, mut outlet), meters) = (intake::queue(), Arc::new(Meters::default()));
        let (mut courier, sender) = courier(lanes, events, vec![meters.clone()]);
        let facts = courier.notice.facts.clone();
        let mut tally = crate::shard::meters::Tally::default();
        for news in [StorageNews::Degraded("gone".into()), StorageNews::Restored] {
            for shard in [ShardId(0), ShardId(1)] {
                send(&courier, &sender, To::Shard(shard), news.clone());
            }
            assert!(courier.carry());
            let is_degraded = matches!(news, StorageNews::Degraded(_));
            assert_eq!(facts.outage().is_some(), is_degraded);
            tally.add(Counter::EventsLost, 3);
            meters.publish(&tally);
        }
        let mut told = Vec::new();
        while let Some(telemetry) = outlet.take() {
            told.push(telemetry.event);
        }
        let told: Vec<String> = told.iter().map(|event| format!("{event:?}")).collect();
        let expected =
            [r#"StorageDegraded { reason: "gone" }"#, "StorageRestored { outage_ms: 0, lost: 3 }"];
        assert_eq!(told, expected);
    }
}
