//! A home as the storage sees it: it makes records and is told what became of them.

use arqonbus::base::ids::{ChannelId, ShardId};
use arqonbus::base::time::Now;
use arqonbus::broker::late::KeptRoom;
use arqonbus::broker::peers::To;
use arqonbus::broker::record::{
    ChannelRecord, EventRecord, Keep, Record, RoomRecord, Snapshot, StorageNews,
};
use arqonbus::broker::returning::Recalled;
use arqonbus::broker::room::RoomType;
use arqonbus::protocol::command::{Address, ChannelType, RoomConfig};
use arqonbus::protocol::envelope::MessageType;
use arqonbus::protocol::frame::{Draft, Frame, Origin};
use arqonbus::protocol::names::Name;
use arqonbus::storage::{self, LoadError, RecordSender, RedisUrl, Settings, Storage, Unsaved};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long anything may take that is expected to happen.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// The shards of the node that is played.
pub(crate) const SHARDS: u16 = 2;

/// A node's storage, and all news of it.
pub(crate) struct Desk {
    storage: Storage,
    records: RecordSender,
    news: Arc<Mutex<News>>,
}

/// What was told, put together.
#[derive(Clone, Debug, Default)]
pub(crate) struct News {
    /// The highest sequence stored, by channel.
    pub(crate) stored: BTreeMap<ChannelId, u64>,
    pub(crate) lost: Vec<(ChannelId, u64, u64)>,
    pub(crate) forgotten: Vec<(ChannelId, u64, u64)>,
    pub(crate) all_forgotten: usize,
    pub(crate) degraded: Vec<String>,
    /// The causes told after that.
    pub(crate) causes: Vec<String>,
    /// Why it has ended for good.
    pub(crate) ended: Vec<String>,
    pub(crate) restored: usize,
    /// What is kept of sessions, by the slots of who asked.
    pub(crate) recalled: Vec<(u32, Recalled)>,
    /// What was read late.
    pub(crate) late: Vec<KeptRoom>,
    /// How many were told of stored events.
    pub(crate) rounds: usize,
}

/// A channel with its order.
#[derive(Clone)]
pub(crate) struct Line {
    pub(crate) id: ChannelId,
    pub(crate) address: Arc<Address>,
    pub(crate) epoch: Arc<str>,
    pub(crate) keep: Keep,
    pub(crate) last: u64,
    pub(crate) clock_us: u64,
}

pub(crate) fn settings(url: &str) -> Settings {
    let mut settings = Settings::new(RedisUrl::parse(url).unwrap());
    settings.commit_timeout_ms = 1_000;
    // Whatever goes wrong is told at once.
    settings.grace_ms = 0;
    settings
}

pub(crate) fn now() -> Now {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Now { mono_ns: 1_000_000_000, wall_us: wall.as_micros() as u64 }
}

impl Desk {
    pub(crate) fn open(settings: Settings) -> Desk {
        let news = Arc::new(Mutex::new(News::default()));
        let told = Arc::clone(&news);
        let tell = move |to: To, news: StorageNews| told.lock().unwrap().note(&to, news);
        let (storage, records) = storage::start(settings, Box::new(tell)).unwrap();
        Desk { storage, records, news }
    }

    pub(crate) fn load(&self) -> Result<Snapshot, LoadError> {
        self.storage.load(now(), Duration::from_millis(500))
    }

    /// An open desk at a Redis that is there.
    pub(crate) fn at(url: &str) -> (Desk, Snapshot) {
        let desk = Desk::open(settings(url));
        let snapshot = desk.load().unwrap_or_else(|error| panic!("{error}"));
        (desk, snapshot)
    }

    pub(crate) fn offer(&self, record: Record) {
        let end = Instant::now() + SOON;
        let mut record = record;
        while let Err(refused) = self.records.offer(record) {
            assert!(Instant::now() < end, "the lane stays full");
            record = refused;
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Makes the channel known.
    pub(crate) fn create(&self, line: &Line) {
        self.offer(Record::Channel(Box::new(line.record())));
    }

    /// Records the next `count` events of a channel.
    pub(crate) fn say(&self, line: &mut Line, count: u64) {
        for _ in 0..count {
            let frame = line.next("{}");
            self.offer(line.event(frame));
        }
    }

    pub(crate) fn news(&self) -> News {
        self.news.lock().unwrap().clone()
    }

    /// The highest sequence of a channel that was told as stored.
    pub(crate) fn stored(&self, channel: ChannelId) -> u64 {
        self.news.lock().unwrap().stored.get(&channel).copied().unwrap_or(0)
    }

    pub(crate) fn storage(&self) -> &Storage {
        &self.storage
    }

    /// Waits until the news are so.
    pub(crate) fn wait(&self, what: &str, is_so: impl Fn(&News) -> bool) -> News {
        let end = Instant::now() + SOON;
        loop {
            let news = self.news();
            if is_so(&news) {
                return news;
            }
            assert!(Instant::now() < end, "{what} does not come: {news:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until everything of a channel is stored.
    pub(crate) fn wait_stored(&self, line: &Line) {
        self.wait(&format!("{} up to {}", line.address, line.last), |news| {
            news.stored.get(&line.id) == Some(&line.last)
        });
    }

    /// Ends when everything is written.
    pub(crate) fn stop(self) {
        assert_eq!(self.storage.stop(SOON), Unsaved { events: 0 });
    }

    /// Ends without writing what waits; gives how many events did.
    pub(crate) fn abandon(self) -> u64 {
        self.storage.stop(Duration::ZERO).events
    }
}

impl News {
    /// The sequences of a channel that are lost, in the order in which they were told.
    pub(crate) fn lost_of(&self, line: &Line) -> Vec<u64> {
        let lost = self.lost.iter().filter(|lost| lost.0 == line.id);
        lost.flat_map(|&(_, first, last)| first..=last).collect()
    }

    fn note(&mut self, to: &To, news: StorageNews) {
        match news {
            StorageNews::Stored(channels) => {
                self.rounds += 1;
                for (channel, last) in channels {
                    assert_eq!(*to, To::Shard(channel.home()), "news go to the home");
                    let before = self.stored.insert(channel, last).unwrap_or(0);
                    assert!(before < last, "what is stored grows");
                }
            }
            StorageNews::Lost { channel, first, last } => {
                assert_eq!(*to, To::Shard(channel.home()), "news go to the home");
                self.lost.push((channel, first, last));
            }
            StorageNews::Forgotten { channel, first, last } => {
                assert_eq!(*to, To::Shard(channel.home()), "news go to the home");
                self.forgotten.push((channel, first, last));
            }
            StorageNews::Late(kept) => {
                assert_eq!(*to, To::Room(kept.name.clone()), "news go to the home");
                self.late.push(*kept);
            }
            StorageNews::AllForgotten => self.all_forgotten += 1,
            StorageNews::Degraded(reason) => self.degraded.push(reason.to_string()),
            StorageNews::Cause(reason) => self.causes.push(reason.to_string()),
            StorageNews::Ended(reason) => self.ended.push(reason.to_string()),
            StorageNews::Restored => self.restored += 1,
            StorageNews::Session(conn, recalled) => {
                assert_eq!(*to, To::Shard(ShardId(1)), "news go to who asked");
                self.recalled.push((conn.slot, recalled));
            }
            StorageNews::Peer(news) => panic!("there are no peers: {news:?}"),
        }
    }
}

impl Line {
    pub(crate) fn new(number: u64, room: &'static str, channel: &'static str) -> Line {
        let shard = ShardId((number % u64::from(SHARDS)) as u16);
        Line {
            id: ChannelId::new(shard, number),
            address: Arc::new(Address { room: Name::fixed(room), channel: Name::fixed(channel) }),
            epoch: format!("epoch-{number}").into(),
            keep: Keep { messages: 10_000, age_ms: 0, bytes: 0 },
            last: 0,
            clock_us: now().wall_us,
        }
    }

    pub(crate) fn record(&self) -> ChannelRecord {
        ChannelRecord {
            address: Arc::clone(&self.address),
            epoch: Arc::clone(&self.epoch),
            term: 3,
            past: vec![(0, 17), (2, 40)],
            channel_type: ChannelType::General,
            created_us: 7,
            created_by: Some(Name::fixed("ann")),
            metadata: None,
            guests: Vec::new(),
            auto_created: true,
        }
    }

    /// The next message.
    pub(crate) fn next(&mut self, payload: &str) -> Arc<Frame> {
        self.last += 1;
        self.clock_us += 100;
        let id = format!("arq_{}_{}", self.epoch, self.last);
        let address = (&*self.address.room, &*self.address.channel);
        let origin = Origin { received_ns: 0, ttl_ms: None };
        Draft::of_server(&id, MessageType::Event, address, payload, origin)
            .stamp(self.last, self.clock_us)
    }

    pub(crate) fn event(&self, frame: Arc<Frame>) -> Record {
        Record::Event(EventRecord {
            channel: self.id,
            address: Arc::clone(&self.address),
            epoch: Arc::clone(&self.epoch),
            frame,
            keep: self.keep,
        })
    }

    pub(crate) fn stream(&self) -> String {
        format!("arqonbus:{{{}}}:stream", self.address)
    }

    pub(crate) fn meta(&self) -> String {
        format!("arqonbus:{{{}}}:meta", self.address)
    }
}

pub(crate) fn room(name: &'static str) -> RoomRecord {
    RoomRecord {
        name: Name::fixed(name),
        room_type: RoomType::User,
        paused: false,
        created_us: 5,
        created_by: None,
        config: RoomConfig::default(),
    }
}

/// The sequences that were read back for a channel.
pub(crate) fn read_back(snapshot: &Snapshot, line: &Line) -> Vec<u64> {
    let mut found =
        snapshot.channels.iter().filter(|channel| channel.record.address == line.address);
    let channel = found.next().unwrap_or_else(|| panic!("{} is not kept", line.address));
    channel.messages.iter().map(|frame| frame.sequence).collect()
}
