//! A storage as an actor: it takes records when it has room, stores them when it comes to it, loses
//! its connection after storing but before it says so, stores nothing for a while, loses what it has
//! no room for, and outlives the node. Now and then the next node begins without what it holds, and is
//! given it when it has been at work for a while.
//!
//! What it holds stands in [`Shelf`]; what it ever held, in the [`Ledger`], by which acks are judged.
//!
//! *Invariant*: it stores the records of one channel in the order in which it took them.

use crate::sabotage::Sabotage;
use crate::violation;
use arqonbus::base::hash::Placement;
use arqonbus::base::ids::{ChannelId, ShardId};
use arqonbus::broker::durable::Durability;
use arqonbus::broker::late::Merged;
use arqonbus::broker::record::{
    ChannelRecord, EventRecord, KeptChannel, Record, RoomRecord, Snapshot, StorageNews,
};
use arqonbus::protocol::command::{Address, Persist};
use arqonbus::protocol::frame::Frame;
use arqonbus::protocol::timestamp::Writer;
use fastrand::Rng;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

/// What it says twice at a time.
const AGAIN_MAX: usize = 5;

/// What the storage of one run is like.
#[derive(Clone, Debug)]
pub struct Habits {
    /// Where its randomness comes from.
    pub seed: u64,
    pub durability: Durability,
    /// The records it takes before it has stored some.
    pub slots: usize,
    /// The bytes of records that wait at a shard.
    pub staged_bytes: usize,
    /// How often, in a hundred steps, it does something.
    pub pace: u8,
    /// How often, in a thousand steps of its own, something goes wrong.
    pub faults: u32,
    /// How often, in ten thousand steps, the node dies.
    pub crashes: u32,
    /// How often, of ten times, the next one begins while it is away.
    pub away: u8,
}

impl Habits {
    /// The habits of a seed.
    pub fn new(rng: &mut Rng) -> Habits {
        let pick = crate::setup::pick::<u32>;
        let persist = match rng.u8(..4) {
            0 => Persist::History,
            1 => Persist::None,
            _ => Persist::All,
        };
        Habits {
            seed: rng.u64(..),
            durability: Durability {
                persist,
                retention_messages: pick(rng, &[0, 0, 1_000]),
                retention_age_ms: 0,
                ack_timeout_ms: pick(rng, &[50, 5_000, 5_000]),
                is_shared: false,
            },
            slots: pick(rng, &[2, 20, 1_000]) as usize,
            staged_bytes: pick(rng, &[2_000, 100_000, 1 << 23]) as usize,
            pace: pick(rng, &[3, 15, 40]) as u8,
            faults: pick(rng, &[0, 20, 100]),
            crashes: pick(rng, &[0, 5, 20]),
            away: pick(rng, &[0, 4, 9]) as u8,
        }
    }
}

/// Where an event was stored: its channel's life and its sequence.
pub type Place = (String, u64);
/// What tells an event from all others: room, channel, sender, id.
pub type Identity = (String, String, String, String);
/// All that was ever stored.
pub type Ledger = BTreeMap<Identity, BTreeSet<Place>>;

/// What is kept of a channel.
#[derive(Clone)]
pub struct Kept {
    pub record: ChannelRecord,
    pub last: u64,
    last_us: u64,
    /// The end of its order: a run without a hole.
    pub frames: VecDeque<Arc<Frame>>,
}

/// The storage.
pub struct Storage {
    pub habits: Habits,
    pub ledger: Rc<RefCell<Ledger>>,
    rooms: BTreeMap<String, RoomRecord>,
    pub channels: BTreeMap<(String, String), Kept>,
    /// Lives that were ended by a home: nothing of them has to be there any more.
    ended: BTreeSet<String>,
    /// What it took and has not stored.
    queue: VecDeque<Record>,
    /// What it has not told anybody yet.
    news: VecDeque<(ShardId, StorageNews)>,
    /// What it stored when its connection was lost: it will find out.
    unsaid: Vec<(ChannelId, u64)>,
    is_degraded: bool,
    late: Late,
    /// What it had no room for while homes put things together.
    held: Vec<(ChannelId, u64)>,
    rng: Rng,
}

/// How far a node that began without what is kept has got to know it.
#[derive(Default, PartialEq)]
enum Late {
    #[default]
    Known,
    Unread,
    /// The rooms that no home has answered.
    Told(BTreeSet<String>),
}

impl Storage {
    /// An empty one.
    pub fn new(habits: Habits) -> Storage {
        Storage {
            rng: Rng::with_seed(habits.seed),
            habits,
            ledger: Rc::default(),
            rooms: BTreeMap::new(),
            channels: BTreeMap::new(),
            ended: BTreeSet::new(),
            queue: VecDeque::new(),
            news: VecDeque::new(),
            unsaid: Vec::new(),
            is_degraded: false,
            late: Late::Known,
            held: Vec::new(),
        }
    }

    /// Takes a record, if there is room.
    pub fn offer(&mut self, record: Record) -> Result<(), Record> {
        if self.is_late() {
            self.take_late(record);
            return Ok(());
        }
        if !self.has_room() {
            return Err(record);
        }
        self.queue.push_back(record);
        Ok(())
    }

    pub fn has_room(&self) -> bool {
        self.is_late() || self.queue.len() < self.habits.slots
    }

    /// Whether there is something to be done.
    pub fn is_busy(&self) -> bool {
        !self.queue.is_empty() || !self.unsaid.is_empty() || self.is_degraded || self.is_late()
    }

    /// Whether the node does not know all that is kept.
    pub fn is_late(&self) -> bool {
        self.late != Late::Known
    }

    /// Does something; in words.
    pub fn step(&mut self, placement: &Placement, sabotage: &mut Sabotage) -> &'static str {
        let shards = placement.shards();
        match (&self.late, self.rng.u8(..8)) {
            (Late::Known, _) => {}
            (Late::Unread, 0) => {
                self.tell_late(placement);
                return "tells what was kept";
            }
            (Late::Unread, 1) => {
                self.lose();
                return "loses something while it is away";
            }
            (Late::Unread, _) => return "is away",
            (Late::Told(_), _) => return "waits for the homes",
        }
        let is_trouble = self.rng.u32(..1_000) < self.habits.faults;
        match (is_trouble, self.is_degraded) {
            (true, false) => match self.rng.u8(..4) {
                0 => {
                    self.is_degraded = true;
                    self.tell_all(shards, &StorageNews::Degraded("out of order".into()));
                    "is degraded"
                }
                1 => {
                    let count = self.rng.usize(..=self.queue.len());
                    let stored = self.store(count);
                    self.unsaid.extend(stored);
                    "stores some and says nothing"
                }
                2 => {
                    self.lose();
                    "loses something"
                }
                _ => {
                    // The answer of an earlier try comes as well, or the same twice.
                    let again = self.news.iter().filter(|(_, news)| is_stored(news)).cloned();
                    let again: Vec<_> = again.take(AGAIN_MAX).collect();
                    self.news.extend(again);
                    "says it twice"
                }
            },
            (true, true) => {
                self.lose();
                "loses something while it is degraded"
            }
            (false, true) if self.rng.u8(..5) > 0 => "is still degraded",
            (false, true) => {
                self.recover(placement);
                "is well again"
            }
            (false, false) => {
                let count = self.rng.usize(..=self.queue.len().min(40));
                let mut stored = std::mem::take(&mut self.unsaid);
                sabotage.stored(&self.queue, count, &mut stored);
                stored.extend(self.store(count));
                self.say(stored);
                "stores"
            }
        }
    }

    /// Is well again, and stores all that waited.
    pub fn recover(&mut self, placement: &Placement) {
        match self.late {
            Late::Known => {}
            Late::Unread => return self.tell_late(placement),
            Late::Told(_) => return,
        }
        let shards = placement.shards();
        let mut stored = std::mem::take(&mut self.unsaid);
        stored.extend(self.store(self.queue.len()));
        self.say(stored);
        if std::mem::take(&mut self.is_degraded) {
            self.tell_all(shards, &StorageNews::Restored);
        }
    }

    /// What it says next, and to whom.
    pub fn news(&mut self) -> &mut VecDeque<(ShardId, StorageNews)> {
        &mut self.news
    }

    /// The node is dead. What was on its way may still have been stored; the rest is gone.
    pub fn survive(&mut self, shards: u16, sabotage: &mut Sabotage) -> Snapshot {
        if !self.is_late() {
            let count = self.rng.usize(..=self.queue.len());
            self.store(count);
        }
        (self.late, self.held) = (Late::Known, Vec::new());
        self.queue.clear();
        self.news.clear();
        self.unsaid.clear();
        self.is_degraded = false;
        if self.rng.u8(..10) < self.habits.away {
            (self.late, self.is_degraded) = (Late::Unread, true);
            self.tell_all(shards, &StorageNews::Degraded("away".into()));
            return Snapshot::default();
        }
        let mut snapshot = self.snapshot();
        sabotage.kept(&mut snapshot.channels);
        snapshot
    }

    /// All that it holds.
    fn snapshot(&self) -> Snapshot {
        let kept = self.channels.values().map(|kept| KeptChannel {
            record: kept.record.clone(),
            last: kept.last,
            last_us: kept.last_us,
            messages: kept.frames.iter().cloned().collect(),
        });
        let channels: Vec<KeptChannel> = kept.collect();
        let rooms = self.rooms.values().cloned().collect();
        Snapshot { rooms, channels, is_unread: false }
    }

    /// Gives all that it holds to a node that began without it.
    fn tell_late(&mut self, placement: &Placement) {
        let mut told = BTreeSet::new();
        for kept in self.snapshot().by_room() {
            told.insert(kept.name.to_string());
            let home = placement.of_room(&kept.name);
            self.news.push_back((home, StorageNews::Late(Box::new(kept))));
        }
        self.late = Late::Told(told);
        self.go_on_if_answered();
    }

    fn go_on_if_answered(&mut self) {
        if matches!(&self.late, Late::Told(told) if told.is_empty()) {
            self.late = Late::Known;
            for (channel, first) in std::mem::take(&mut self.held) {
                let news = StorageNews::Lost { channel, first, last: first };
                self.news.push_back((channel.home(), news));
            }
        }
    }

    /// Takes a record of a node that does not know all that is kept.
    fn take_late(&mut self, record: Record) {
        match record {
            Record::Merged(merged) => {
                let Late::Told(told) = &mut self.late else {
                    violation!("records", "nobody asked what became of {}", merged.room)
                };
                if !told.remove(merged.room.as_str()) {
                    violation!("records", "the room {} was answered twice", merged.room);
                }
                self.merge(&merged);
                self.go_on_if_answered();
            }
            Record::Event(event) if self.queue.len() >= self.habits.slots => {
                let (channel, first) = (event.channel, event.frame.sequence);
                match self.late {
                    Late::Told(_) => self.held.push((channel, first)),
                    _ => {
                        let news = StorageNews::Lost { channel, first, last: first };
                        self.news.push_back((channel.home(), news));
                    }
                }
            }
            other => self.queue.push_back(other),
        }
    }

    /// Changes what it took as a home says.
    fn merge(&mut self, merged: &Merged) {
        let of =
            |address: &Address| merged.channels.iter().find(|channel| *channel.address == *address);
        let records = merged.channels.iter().filter_map(|channel| channel.record.clone());
        let records = records.map(|record| Record::Channel(Box::new(record)));
        let (mut queue, times) = (VecDeque::from_iter(records), &mut Writer::default());
        queue.extend(std::mem::take(&mut self.queue).into_iter().filter_map(
            |record| match record {
                Record::Room(room) if room.name == merged.room => None,
                Record::RoomGone(name) if name == merged.room => None,
                Record::Channel(channel) if of(&channel.address).is_some() => None,
                Record::ChannelGone(address) if of(&address).is_some() => None,
                Record::Event(event) => match of(&event.address) {
                    None => Some(Record::Event(event)),
                    Some(channel) => {
                        let said = channel.said.as_ref().filter(|said| said.from == event.epoch)?;
                        said.of_event(event, times).map(Record::Event)
                    }
                },
                other => Some(other),
            },
        ));
        self.queue = queue;
        for said in merged.channels.iter().filter_map(|channel| channel.said.as_ref()) {
            self.held.retain_mut(|(channel, sequence)| {
                let moved = match *channel == said.channel {
                    true => said.of(*sequence),
                    false => Some(*sequence),
                };
                *sequence = moved.unwrap_or(*sequence);
                moved.is_some()
            });
        }
    }

    /// Stores so many records; what is safe now.
    fn store(&mut self, count: usize) -> Vec<(ChannelId, u64)> {
        let records: Vec<Record> = self.queue.drain(..count).collect();
        records.into_iter().filter_map(|record| self.keep(record)).collect()
    }

    fn keep(&mut self, record: Record) -> Option<(ChannelId, u64)> {
        match record {
            Record::Room(room) => {
                self.rooms.insert(room.name.to_string(), *room);
            }
            Record::RoomGone(name) => {
                self.rooms.remove(name.as_str());
                let of_room = |(room, _): &&(String, String)| *room == name.as_str();
                let keys: Vec<_> = self.channels.keys().filter(of_room).cloned().collect();
                keys.iter().for_each(|key| self.end(key));
            }
            Record::Channel(channel) => {
                let address = &channel.address;
                let key = (address.room.to_string(), address.channel.to_string());
                let known = self.channels.get(&key);
                let known = known.filter(|known| known.record.epoch == channel.epoch).cloned();
                let kept = match known {
                    Some(known) => Kept { record: *channel, ..known },
                    None => Kept { record: *channel, last: 0, last_us: 0, frames: VecDeque::new() },
                };
                let before = self.channels.get(&key);
                if before.is_some_and(|before| before.record.epoch != kept.record.epoch) {
                    self.end(&key);
                }
                self.channels.insert(key, kept);
            }
            Record::ChannelGone(address) => {
                self.end(&(address.room.to_string(), address.channel.to_string()));
            }
            Record::Event(event) => return Some(self.keep_event(event)),
            Record::Session(record) => panic!("no sessions are kept: {record:?}"),
            Record::Peer(record) => panic!("there are no peers: {record:?}"),
            Record::Merged(merged) => violation!("records", "{} was not told late", merged.room),
        }
        None
    }

    fn end(&mut self, key: &(String, String)) {
        let gone = self.channels.remove(key);
        self.ended.extend(gone.map(|gone| gone.record.epoch.to_string()));
    }

    /// Whether an event that was stored is still there, or is not for a good reason: its life was
    /// ended, or later ones took its place.
    pub fn still_has(
        &self,
        (room, channel, from, id): &Identity,
        (epoch, sequence): &Place,
    ) -> bool {
        if self.ended.contains(epoch) {
            return true;
        }
        let Some(kept) = self.channels.get(&(room.clone(), channel.clone())) else { return false };
        let first = kept.frames.front().map_or(kept.last + 1, |frame| frame.sequence);
        let is_it = |frame: &Arc<Frame>| {
            frame.sequence == *sequence && frame.from() == from && frame.id() == id
        };
        *kept.record.epoch == **epoch
            && (*sequence < first || kept.frames.iter().any(is_it))
            && *sequence <= kept.last
    }

    /// Whether a home that begins gives something up with this record that was kept.
    pub fn gives_up(&self, record: &Record) -> bool {
        match record {
            Record::ChannelGone(address) => {
                let key = (address.room.to_string(), address.channel.to_string());
                self.channels.contains_key(&key)
            }
            Record::RoomGone(name) => self.channels.keys().any(|(room, _)| room == name.as_str()),
            _ => false,
        }
    }

    fn keep_event(&mut self, event: EventRecord) -> (ChannelId, u64) {
        let EventRecord { channel, address, epoch, frame, keep } = event;
        let (room, name) = (address.room.to_string(), address.channel.to_string());
        let Some(kept) = self.channels.get_mut(&(room.clone(), name.clone())) else {
            violation!("records", "an event of {address} came before its channel")
        };
        if kept.record.epoch != epoch || frame.sequence <= kept.last {
            violation!("records", "{address} is at {}, and {} came", kept.last, frame.sequence);
        }
        if frame.sequence > kept.last + 1 {
            kept.frames.clear();
        }
        (kept.last, kept.last_us) = (frame.sequence, frame.timestamp_us);
        let identity = (room, name, frame.from().to_owned(), frame.id().to_owned());
        let place = (epoch.to_string(), frame.sequence);
        self.ledger.borrow_mut().entry(identity).or_default().insert(place);
        let sequence = frame.sequence;
        kept.frames.push_back(frame);
        while kept.frames.len() > keep.messages as usize {
            kept.frames.pop_front();
        }
        (channel, sequence)
    }

    /// Gives up an event that waits.
    fn lose(&mut self) {
        let events = self.queue.iter().enumerate();
        let events = events.filter(|(_, record)| matches!(record, Record::Event(_)));
        let events: Vec<usize> = events.map(|(place, _)| place).collect();
        if events.is_empty() {
            return;
        }
        let place = events[self.rng.usize(..events.len())];
        if let Some(Record::Event(event)) = self.queue.remove(place) {
            let (channel, first) = (event.channel, event.frame.sequence);
            let news = StorageNews::Lost { channel, first, last: first };
            self.news.push_back((channel.home(), news));
        }
    }

    fn say(&mut self, mut stored: Vec<(ChannelId, u64)>) {
        stored.sort_unstable_by_key(|(channel, _)| *channel);
        for of_home in stored.chunk_by(|a, b| a.0.home() == b.0.home()) {
            let news = StorageNews::Stored(of_home.to_vec());
            self.news.push_back((of_home[0].0.home(), news));
        }
    }

    fn tell_all(&mut self, shards: u16, news: &StorageNews) {
        self.news.extend((0..shards).map(|shard| (ShardId(shard), news.clone())));
    }
}

fn is_stored(news: &StorageNews) -> bool {
    matches!(news, StorageNews::Stored(_))
}
