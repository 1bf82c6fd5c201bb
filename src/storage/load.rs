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
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The channels that are read at a time.
const CHANNELS_AT_A_TIME: usize = 16;
/// The entries of the first answer for a channel; later ones have as many as are good for
/// [`PAGE_BYTES`].
const FIRST_PAGE: u64 = 8;
/// The bytes that one answer shall have, about.
const PAGE_BYTES: u64 = 1024 * 1024;
/// The most entries of one answer.
const PAGE_MAX: u64 = 1_000;
/// How long one answer may take: many come at a time, and they are large.
const ANSWER: Duration = Duration::from_secs(10);
/// How far ahead of the clock the time of a last event is believed.
pub(super) const DAY_US: u64 = 86_400_000_000;
/// The entries of an index in one answer.
const SCAN_COUNT: u32 = 1_000;

/// An entry of a stream as Redis gives it: its id, its fields.
pub(super) type RawEntry = (String, Vec<(Vec<u8>, Vec<u8>)>);

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
}

impl Reader<'_> {
    /// Everything that is kept.
    pub(super) async fn all(&self) -> Result<Snapshot, Trouble> {
        let rooms = self.rooms().await?;
        let sizes: HashMap<&Name, u32> =
            rooms.iter().filter_map(|room| Some((&room.name, room.config.history_size?))).collect();
        let mut addresses = self.addresses().await?;
        addresses.sort_by(|a, b| (&a.room, &a.channel).cmp(&(&b.room, &b.channel)));
        addresses.dedup();
        let channels = stream::iter(addresses)
            .map(|address| {
                let size = sizes.get(&address.room).copied().unwrap_or(self.settings.load_messages);
                self.channel(Arc::new(address), u64::from(size))
            })
            .buffered(CHANNELS_AT_A_TIME)
            .try_filter_map(async |channel| Ok(channel))
            .try_collect()
            .await?;
        Ok(Snapshot { rooms, channels, is_unread: false })
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
    async fn scan<T: FromRedisValue>(
        &self,
        command: &str,
        key: &str,
        wanted: &'static str,
    ) -> Result<Vec<T>, Trouble> {
        let (mut all, mut cursor) = (Vec::new(), 0u64);
        loop {
            let mut call = cmd(command);
            call.arg(key).arg(cursor).arg("COUNT").arg(SCAN_COUNT);
            let page = self.within(self.link.ask::<(u64, Vec<T>)>(&call));
            let (next, page) = match page.await {
                Err(trouble) => return Err(self.named(trouble, key, wanted).await),
                Ok(page) => page,
            };
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
                Err(trouble) => Err(self.named(trouble, &key, "hash").await),
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

    /// A channel and the end of its order; `None` if it can't be read, which is told.
    async fn channel(
        &self,
        address: Arc<Address>,
        size: u64,
    ) -> Result<Option<KeptChannel>, Trouble> {
        let key = self.keys.meta(&address);
        let mut call = CLAIM.call(&[&key, &self.keys.followers(&address)]);
        call.arg(self.generation);
        let fields = match self.within(self.link.run::<Value>(&CLAIM, &call)).await {
            Err(trouble) => return Err(self.named(trouble, &key, "hash").await),
            Ok(fields) => fields,
        };
        if let Ok((word, writer)) = <(String, u64)>::from_redis_value_ref(&fields)
            && word == "fenced"
        {
            return Err(Trouble::Fenced(writer));
        }
        let fields = HashMap::<String, String>::from_redis_value(fields)
            .map_err(|_| "its fields are not text".to_owned());
        if fields.as_ref().is_ok_and(HashMap::is_empty) {
            // Only its name is there: whoever made or deleted it died halfway.
            return Ok(None);
        }
        match fields.and_then(|fields| read_channel(&address, &fields)) {
            Err(why) => {
                self.skip(&key, "the channel", &why);
                Ok(None)
            }
            Ok(ChannelEnd { record, last, last_us }) => {
                let messages =
                    self.run(&record, (last, "+"), size, self.settings.load_bytes).await?;
                // A time from far ahead would be given to every event from now on.
                let last_us = last_us.min(self.now.wall_us + DAY_US);
                Ok(Some(KeptChannel { record, last, last_us, messages }))
            }
        }
    }

    /// The newest messages of an epoch, oldest first: a run that ends with `last`, which is not
    /// behind the entry `end`; as many as `size`, and of hardly more than `bytes_max`.
    pub(super) async fn run(
        &self,
        channel: &ChannelRecord,
        (last, end): (u64, &str),
        size: u64,
        bytes_max: u64,
    ) -> Result<Vec<Arc<Frame>>, Trouble> {
        let key = self.keys.stream(&channel.address);
        let mut run = Run { messages: Vec::new(), wanted: last, bytes: 0 };
        let (mut end, mut page) = (end.to_owned(), FIRST_PAGE);
        loop {
            page = page.min(size - (run.messages.len() as u64).min(size));
            if run.wanted == 0 || page == 0 {
                return Ok(run.oldest_first());
            }
            let mut call = PAGE.call(&[&key]);
            call.arg(&end).arg(page);
            type Page = ((u64, u64), Vec<RawEntry>);
            let (time, entries) = match self.within(self.link.run::<Page>(&PAGE, &call)).await {
                Err(trouble) => return Err(self.named(trouble, &key, "stream").await),
                Ok(page) => page,
            };
            let clock_ms = clock_ms(time);
            let is_last_page = (entries.len() as u64) < page;
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
            if is_last_page {
                return Ok(run.oldest_first());
            }
            let average = run.bytes / (run.messages.len() as u64).max(1);
            page = (PAGE_BYTES / average.max(1)).clamp(1, PAGE_MAX);
        }
    }

    /// Waits for an answer, but not for ever.
    async fn within<T>(
        &self,
        answer: impl Future<Output = Result<T, Trouble>>,
    ) -> Result<T, Trouble> {
        let limit = ANSWER.max(Duration::from_millis(self.settings.commit_timeout_ms));
        match tokio::time::timeout(limit, answer).await {
            Ok(answer) => {
                self.answered.set(Instant::now());
                answer
            }
            Err(_) => Err(Trouble::Outage(format!("no answer within {} ms", limit.as_millis()))),
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

    fn skip(&self, key: &str, entry: &str, why: &str) {
        add(&self.meters.unreadable, 1);
        tracing::warn!(key, entry, why, "what is kept there can't be read and is passed over");
    }
}

/// The run of messages that is being read, newest first.
struct Run {
    messages: Vec<Arc<Frame>>,
    /// The sequence that must come next.
    wanted: u64,
    bytes: u64,
}

/// Whether an entry belongs to the run.
enum Taken {
    Yes,
    /// It is of another life, or behind a hole: the run has begun after it.
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
        if entry.epoch != epoch || entry.sequence < self.wanted {
            return Ok(Taken::No);
        }
        if entry.sequence > self.wanted {
            return Err(format!("the sequence {} is too high here", entry.sequence));
        }
        let frame = read_frame(&entry, now, clock_ms)?;
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
