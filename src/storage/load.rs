//! Reading back what is kept, when a node starts, or when Redis can be reached for the first time.
//!
//! *Invariants*: every channel that is read is claimed first, so that no older writer changes it
//! afterwards; what is given of a channel is a run without a hole that ends with its last sequence;
//! nothing is changed but the claim, and nothing deleted, whatever is found.

use crate::base::time::Now;
use crate::broker::record::{ChannelRecord, KeptChannel, RoomRecord, Snapshot};
use crate::protocol::command::Address;
use crate::protocol::frame::Frame;
use crate::protocol::names::Name;
use crate::storage::codec::{
    ChannelEnd, clock_ms, read_address, read_channel, read_entry, read_frame, read_room,
};
use crate::storage::holder::foreign;
use crate::storage::keys::Keys;
use crate::storage::link::{CLAIM, Link, PAGE};
use crate::storage::meters::{Meters, add};
use crate::storage::settings::Settings;
use crate::storage::trouble::{Trouble, Wrong};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use redis::{FromRedisValue, Value, cmd};
use std::cell::Cell;
use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The channels that are read at a time.
const CHANNELS_AT_A_TIME: usize = 16;
/// The bytes that one answer has at most, but for its last entries (`scripts/pages.lua`), and the fewest
/// that are asked for where the way to Redis is slow.
pub(super) const PAGE_BYTES_MAX: u64 = 1024 * 1024;
const PAGE_BYTES_MIN: u64 = 16 * 1024;
/// How long one answer may take: many come at a time, and they are large.
const ANSWER: Duration = Duration::from_secs(10);
/// How far ahead of the clock the time of a last event is believed.
pub(super) const DAY_US: u64 = 86_400_000_000;
/// The names in one answer of an index.
const SCAN_NAMES: u64 = 1_000;
/// The rooms in one answer, the most and the fewest: one of them may be as large as a message.
const SCAN_ROOMS_MAX: u64 = 64;
const SCAN_ROOMS_MIN: u64 = 4;

/// An entry of a stream as Redis gives it: its id, its fields.
pub(super) type RawEntry = (String, Vec<(Vec<u8>, Vec<u8>)>);

/// How many bytes of a stream are asked for at once. It is halved when an answer does not come in time, so
/// that the same question is never asked again in vain, and grows again with each that does.
#[derive(Debug)]
pub(super) struct PageSize(AtomicU64);

impl Default for PageSize {
    fn default() -> PageSize {
        PageSize(AtomicU64::new(PAGE_BYTES_MAX))
    }
}

impl PageSize {
    pub(super) fn bytes(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub(super) fn halve(&self) {
        self.0.store((self.bytes() / 2).max(PAGE_BYTES_MIN), Relaxed);
    }

    pub(super) fn grow(&self) {
        self.0.store((self.bytes() + self.bytes() / 8).min(PAGE_BYTES_MAX), Relaxed);
    }
}

/// A channel whose record can't be used, and why.
pub(super) type Unusable = (Arc<Address>, String);

/// The fields of a channel as `scripts/claim.lua` answers; nothing if it is not there.
pub(super) fn read_claim(answer: Value) -> Result<Option<HashMap<String, String>>, Trouble> {
    if let Ok((word, writer)) = <(String, u64)>::from_redis_value_ref(&answer)
        && word == "fenced"
    {
        return Err(Trouble::Fenced(writer));
    }
    let fields = HashMap::<String, String>::from_redis_value(answer)
        .map_err(|_| Trouble::Broken("the fields of its hash are not text".to_owned()))?;
    Ok(Some(fields).filter(|fields| !fields.is_empty()))
}

/// Who reads what.
pub(super) struct Reader<'a> {
    pub(super) link: &'a Link,
    pub(super) keys: &'a Keys,
    pub(super) settings: &'a Settings,
    pub(super) meters: &'a Meters,
    pub(super) generation: u64,
    pub(super) now: Now,
    /// When the last answer came.
    pub(super) answered: &'a Cell<Instant>,
    pub(super) page: &'a PageSize,
}

impl Reader<'_> {
    /// Everything that is kept, and the channels of which it can't be used.
    pub(super) async fn all(&self) -> Result<(Snapshot, Vec<Unusable>), Trouble> {
        let rooms = self.rooms().await?;
        let sizes: HashMap<&Name, u32> =
            rooms.iter().filter_map(|room| Some((&room.name, room.config.history_size?))).collect();
        let mut addresses = self.addresses().await?;
        addresses.sort_by(|a, b| (&a.room, &a.channel).cmp(&(&b.room, &b.channel)));
        addresses.dedup();
        let mut read = stream::iter(addresses)
            .map(async |address| {
                let size = sizes.get(&address.room).copied().unwrap_or(self.settings.load_messages);
                let address = Arc::new(address);
                (Arc::clone(&address), self.channel(address, u64::from(size)).await)
            })
            .buffered(CHANNELS_AT_A_TIME);
        let (mut channels, mut unusable) = (Vec::new(), Vec::new());
        while let Some((address, channel)) = read.next().await {
            match channel {
                Ok(channel) => channels.extend(channel),
                Err(Trouble::Broken(why)) => {
                    add(&self.meters.unreadable, 1);
                    unusable.push((address, why));
                }
                Err(trouble) => return Err(trouble),
            }
        }
        drop(read);
        Ok((Snapshot { rooms, channels, is_unread: false }, unusable))
    }

    /// The rooms.
    pub(super) async fn rooms(&self) -> Result<Vec<RoomRecord>, Trouble> {
        let key = &self.keys.rooms;
        let pairs: Vec<(Vec<u8>, Vec<u8>)> = self.scan("HSCAN", key, "hash").await?;
        let mut rooms = Vec::new();
        for (name, text) in pairs {
            let (name, text) = (String::from_utf8_lossy(&name), String::from_utf8_lossy(&text));
            match read_room(&name, &text) {
                Ok(room) => rooms.push(room),
                Err(why) => self.skip(key, &name, &why),
            }
        }
        rooms.sort_by(|a, b| a.name.cmp(&b.name));
        rooms.dedup_by(|a, b| a.name == b.name);
        Ok(rooms)
    }

    /// The channels' names, `*` among them.
    pub(super) async fn addresses(&self) -> Result<Vec<Address>, Trouble> {
        let key = &self.keys.channels;
        let members: Vec<Vec<u8>> = self.scan("SSCAN", key, "set").await?;
        let mut addresses = Vec::new();
        for member in members {
            let member = String::from_utf8_lossy(&member);
            match read_address(&member) {
                Ok(address) => addresses.push(address),
                Err(why) => self.skip(key, &member, &why),
            }
        }
        Ok(addresses)
    }

    /// Every element of an index; one may come twice.
    async fn scan<T: FromRedisValue + Element>(
        &self,
        command: &str,
        key: &str,
        wanted: &'static str,
    ) -> Result<Vec<T>, Trouble> {
        let (mut all, mut cursor) = (Vec::new(), 0u64);
        // Of rooms it begins with few, and asks for more as long as they are small.
        let (mut count, mut largest) = (T::FIRST, 1);
        loop {
            let mut call = cmd(command);
            call.arg(key).arg(cursor).arg("COUNT").arg(count);
            let page = self.within(self.link.ask::<(u64, Vec<T>)>(&call));
            let (next, page) = match page.await {
                Err(trouble) => return Err(self.named(trouble, key, wanted).await),
                Ok(page) => page,
            };
            largest = page.iter().map(T::bytes).fold(largest, u64::max);
            count = (self.page.bytes() / largest).min(2 * count).clamp(T::FIRST, T::MOST);
            all.extend(page);
            if next == 0 {
                return Ok(all);
            }
            cursor = next;
        }
    }

    /// Channels with the ends of their orders, without claiming them; those that can't be read are
    /// passed over, which is told.
    pub(super) async fn ends(&self, addresses: Vec<Address>) -> Result<Vec<ChannelEnd>, Trouble> {
        let ends = stream::iter(addresses).map(async |address| {
            let address = Arc::new(address);
            let key = self.keys.meta(&address);
            let mut call = cmd("HGETALL");
            call.arg(&key);
            match self.within(self.link.ask::<HashMap<String, String>>(&call)).await {
                Err(trouble) => match self.of_channel(trouble, &key, "hash").await {
                    Trouble::Broken(why) => {
                        self.skip(&key, "the channel", &why);
                        Ok(None)
                    }
                    trouble => Err(trouble),
                },
                // It is gone since the names were read, or is about to be made.
                Ok(fields) if fields.is_empty() => Ok(None),
                Ok(fields) => match read_channel(&address, &fields) {
                    Ok(end) => Ok(Some(end)),
                    Err(why) => {
                        self.skip(&key, "the channel", &why);
                        Ok(None)
                    }
                },
            }
        });
        let ends: Vec<Option<ChannelEnd>> = ends.buffered(CHANNELS_AT_A_TIME).try_collect().await?;
        Ok(ends.into_iter().flatten().collect())
    }

    /// A channel and the end of its order; `None` if it is not there.
    pub(super) async fn channel(
        &self,
        address: Arc<Address>,
        size: u64,
    ) -> Result<Option<KeptChannel>, Trouble> {
        let key = self.keys.meta(&address);
        let mut call = CLAIM.call(&[&key, &self.keys.followers(&address)]);
        call.arg(self.generation);
        let fields = match self.within(self.link.run::<Value>(&CLAIM, &call)).await {
            Err(trouble) => return Err(self.of_channel(trouble, &key, "hash").await),
            Ok(answer) => read_claim(answer)?,
        };
        let Some(fields) = fields else {
            // Only its name is there: whoever made or deleted it died halfway.
            return Ok(None);
        };
        let ChannelEnd { record, last, last_us } =
            read_channel(&address, &fields).map_err(Trouble::Broken)?;
        let (bytes, age_ms) = (self.settings.load_bytes, self.settings.retention_age_ms);
        let messages = self.run(&record, (last, "+"), (size, bytes, age_ms)).await?;
        // A time from far ahead would be given to every event from now on.
        let last_us = last_us.min(self.now.wall_us + DAY_US);
        Ok(Some(KeptChannel { record, last, last_us, messages }))
    }

    /// The newest messages of an epoch, oldest first: a run that ends with `last`, which is not
    /// behind the entry `end`; as many as `size`, of hardly more than `bytes_max`, none older than
    /// `age_ms` if that is not 0.
    pub(super) async fn run(
        &self,
        channel: &ChannelRecord,
        (last, end): (u64, &str),
        (size, bytes_max, age_ms): (u64, u64, u64),
    ) -> Result<Vec<Arc<Frame>>, Trouble> {
        let key = self.keys.stream(&channel.address);
        let oldest_us = match age_ms {
            0 => 0,
            age_ms => self.now.wall_us.saturating_sub(age_ms.saturating_mul(1_000)),
        };
        let mut run = Run { messages: Vec::new(), wanted: last, bytes: 0, oldest_us };
        let mut end = end.to_owned();
        loop {
            let left = size.saturating_sub(run.messages.len() as u64);
            if run.wanted == 0 || left == 0 || run.bytes >= bytes_max {
                return Ok(run.oldest_first());
            }
            let mut call = PAGE.call(&[&key]);
            call.arg(&end).arg(self.page.bytes().min(bytes_max - run.bytes)).arg(left);
            type Page = ((u64, u64), Vec<RawEntry>, u8);
            let page = self.within(self.link.run::<Page>(&PAGE, &call));
            let (time, entries, is_end) = match page.await {
                Err(trouble) => return Err(self.of_channel(trouble, &key, "stream").await),
                Ok(page) => page,
            };
            let clock_ms = clock_ms(time);
            let is_end = is_end == 1 || entries.is_empty();
            for (id, fields) in entries {
                end = format!("({id}");
                match run.add(fields, &channel.epoch, (self.now, clock_ms)) {
                    Ok(Taken::Yes) if run.bytes < bytes_max => {}
                    Ok(_) => return Ok(run.oldest_first()),
                    Err(why) => {
                        self.skip(&key, &id, &why);
                        return Ok(run.oldest_first());
                    }
                }
            }
            if is_end {
                return Ok(run.oldest_first());
            }
            // While this thread reads what has come it reads no answers.
            self.answered.set(Instant::now());
        }
    }

    /// Waits for an answer, as long as answers come at all: others are on the way before it.
    async fn within<T>(
        &self,
        answer: impl Future<Output = Result<T, Trouble>>,
    ) -> Result<T, Trouble> {
        let limit = ANSWER.max(Duration::from_millis(self.settings.commit_timeout_ms));
        let (mut answer, asked) = (pin!(answer), Instant::now());
        loop {
            let until = self.answered.get().max(asked) + limit;
            match tokio::time::timeout_at(until.into(), answer.as_mut()).await {
                Ok(answer) => {
                    self.answered.set(Instant::now());
                    self.page.grow();
                    return answer;
                }
                Err(_) if self.answered.get().max(asked) + limit > until => {}
                Err(_) => {
                    self.page.halve();
                    let said = format!("no answer within {} ms", limit.as_millis());
                    return Err(Trouble::Outage(said));
                }
            }
        }
    }

    /// Says of a key that is not ours what it holds.
    async fn named(&self, trouble: Trouble, key: &str, wanted: &'static str) -> Trouble {
        let mut kind = cmd("TYPE");
        kind.arg(key);
        match foreign(trouble, key, wanted) {
            Trouble::Wrong(Wrong::ForeignKey { key, found, wanted }) => {
                let kind = self.within(self.link.ask::<String>(&kind)).await;
                Trouble::Wrong(Wrong::ForeignKey { key, found: kind.unwrap_or(found), wanted })
            }
            trouble => trouble,
        }
    }

    /// The same of a key of one channel, which costs that channel only.
    async fn of_channel(&self, trouble: Trouble, key: &str, wanted: &'static str) -> Trouble {
        match self.named(trouble, key, wanted).await {
            Trouble::Wrong(wrong @ Wrong::ForeignKey { .. }) => Trouble::Broken(wrong.to_string()),
            trouble => trouble,
        }
    }

    fn skip(&self, key: &str, entry: &str, why: &str) {
        add(&self.meters.unreadable, 1);
        tracing::warn!(key, entry, why, "what is kept there can't be read and is passed over");
    }
}

/// An element of an index, of which as many are asked for at once as one answer may have bytes.
trait Element {
    const FIRST: u64;
    const MOST: u64;
    fn bytes(&self) -> u64;
}

/// A name.
impl Element for Vec<u8> {
    const FIRST: u64 = SCAN_NAMES;
    const MOST: u64 = SCAN_NAMES;

    fn bytes(&self) -> u64 {
        self.len() as u64
    }
}

/// A name, and a room.
impl Element for (Vec<u8>, Vec<u8>) {
    const FIRST: u64 = SCAN_ROOMS_MIN;
    const MOST: u64 = SCAN_ROOMS_MAX;

    fn bytes(&self) -> u64 {
        (self.0.len() + self.1.len()) as u64
    }
}

/// The run of messages that is being read, newest first.
struct Run {
    messages: Vec<Arc<Frame>>,
    /// The sequence that must come next.
    wanted: u64,
    bytes: u64,
    /// What is older is kept no more.
    oldest_us: u64,
}

/// Whether an entry belongs to the run.
enum Taken {
    Yes,
    /// It is of another life, behind a hole, or too old: the run has begun after it.
    No,
}

impl Run {
    fn add(
        &mut self,
        fields: Vec<(Vec<u8>, Vec<u8>)>,
        epoch: &str,
        (now, clock_ms): (Now, u64),
    ) -> Result<Taken, String> {
        let entry = read_entry(fields)?;
        if self.wanted == 0 || entry.epoch != epoch || entry.sequence < self.wanted {
            return Ok(Taken::No);
        }
        if entry.sequence > self.wanted {
            return Err(format!("the sequence {} is too high here", entry.sequence));
        }
        let frame = read_frame(&entry, now, clock_ms)?;
        if frame.timestamp_us < self.oldest_us {
            return Ok(Taken::No);
        }
        self.bytes += frame.memory_bytes() as u64;
        self.wanted -= 1;
        self.messages.push(frame);
        Ok(Taken::Yes)
    }

    fn oldest_first(mut self) -> Vec<Arc<Frame>> {
        self.messages.reverse();
        self.messages
    }
}
