//! One round of asking: the steps of many channels at once, each as its scripts.
//!
//! *Invariants*: every step may be carried out twice and changes no more than once; each answers
//! for itself, so that the trouble of one channel is not another's.
//!
//! *Panics*: a step of events is never empty; an answer is read in pairs, and numbers that are
//! missing give fewer places.

use super::follow::{Task, Trail};
use super::push::{Entry, Mark};
use super::recent::Known;
use crate::base::time::Now;
use crate::broker::peers::{Place, Submission};
use crate::broker::record::{ChannelRecord, KeptChannel, RoomRecord};
use crate::broker::room::RoomType;
use crate::protocol::command::Address;
use crate::protocol::frame::Draft;
use crate::protocol::names::Name;
use crate::protocol::timestamp;
use crate::storage::backlog::{Batch, Step, order_of};
use crate::storage::codec::{
    channel_text, clock_ms, put_channel, put_left, read_channel, read_entry, read_room, room_text,
};
use crate::storage::keys::Keys;
use crate::storage::link::{BURY, FORK, LIST, Link, MAKE, REMOVE, ROOM, SUBMIT, SYNC, Script};
use crate::storage::load::{DAY_US, PageSize, RawEntry, Reader};
use crate::storage::meters::Meters;
use crate::storage::settings::Settings;
use crate::storage::together::Call;
use crate::storage::trimming::Cut;
use crate::storage::trouble::Trouble;
use futures_util::future::{join, join_all};
use redis::aio::PubSubSink;
use redis::{Cmd, FromRedisValue, cmd};
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Semaphore;

/// The bytes of streams that one round reads, about; what is left is read by the next, so that nobody
/// waits long for what else is in the round.
pub(super) const ROUND_READ_BYTES: u64 = 8 * 1024 * 1024;
/// The channels that are read at a time.
const READS_AT_A_TIME: usize = 8;
/// The former terms of a channel that are kept, as in `scripts/order.lua`.
const PAST_MAX: usize = 16;

/// A step with what is known where it is to be carried out.
pub(super) struct Job {
    pub(super) batch: Batch<Box<Submission>>,
    /// How the channel is followed, if it is.
    pub(super) trail: Option<Trail>,
    /// Whether the channel is known to stand in the catalogue.
    pub(super) is_listed: bool,
    /// Of a room: what of what is kept under its name may be replaced, as `scripts/room.lua` has it.
    pub(super) replaces: String,
}

/// What came of a step.
pub(super) enum Answer {
    Done,
    /// It is not as asked, but like this.
    Other(Box<ChannelRecord>),
    /// The channel is there, in the life that was asked for.
    There(Box<ChannelRecord>),
    /// Something of a room is not as asked, but like this: itself, its order.
    Kept {
        room: Option<Box<RoomRecord>>,
        order: Option<Box<ChannelRecord>>,
    },
    /// A channel from what is kept of it.
    Read(Box<Read>),
    /// What follows that which is known of a channel.
    More {
        record: Box<ChannelRecord>,
        last: u64,
        entries: Vec<Entry>,
        /// Of their texts.
        bytes: u64,
    },
    /// Of submissions.
    Placed(Vec<Place>, Option<Cut>),
    /// It is to be read by the next round.
    Later,
    /// Nobody needs it any more.
    Over,
}

/// A channel from what is kept of it.
pub(super) struct Read {
    pub(super) kept: KeptChannel,
    pub(super) mark: Mark,
    pub(super) is_new: bool,
    /// Whether more was missed than is worth to be read.
    pub(super) is_far: bool,
}

/// Who asks, and where.
pub(super) struct Caller<'a> {
    pub(super) link: &'a Link,
    pub(super) ears: &'a PubSubSink,
    pub(super) keys: &'a Keys,
    pub(super) settings: &'a Settings,
    pub(super) meters: &'a Meters,
    pub(super) generation: u64,
    /// This node.
    pub(super) token: &'a str,
    pub(super) now: Now,
    /// By how much the times that this node gives are to be set back, as its clock is apart from the
    /// one of Redis; 0 if it is not.
    pub(super) clock_ahead_us: i64,
    /// When the last answer came.
    pub(super) answered: &'a Cell<Instant>,
    /// How much of a stream is asked for at once.
    pub(super) page: &'a PageSize,
    /// The bytes that this round may still read.
    pub(super) read_left: &'a Cell<u64>,
    pub(super) reads: Semaphore,
}

/// What lets so many channels be read at a time.
pub(super) fn reads() -> Semaphore {
    Semaphore::new(READS_AT_A_TIME)
}

impl Caller<'_> {
    /// Carries out all steps, and waits until the replicas have them if that is asked for. The
    /// answers are in the order of the steps.
    pub(super) async fn round(&self, jobs: &[Job]) -> Vec<Result<Answer, Trouble>> {
        let calls: Vec<Option<Call>> = jobs.iter().map(|job| self.submit_call(job)).collect();
        let others = jobs.iter().zip(&calls).filter(|(_, call)| call.is_none());
        let others = join_all(others.map(|(job, _)| self.step(job)));
        let is_call: Vec<bool> = calls.iter().map(Option::is_some).collect();
        let calls: Vec<Call> = calls.into_iter().flatten().collect();
        let events = self.link.run_together(&SUBMIT, &calls, self.settings, self.answered);
        let (mut others, events) = join(others, events).await;
        if self.settings.replicas > 0
            && others.iter().any(Result::is_ok)
            && let Err(trouble) = self.link.replicate(self.settings).await
        {
            others.iter_mut().filter(|answer| answer.is_ok()).for_each(|answer| {
                *answer = Err(trouble.clone());
            });
        }
        let (mut others, mut events) = (others.into_iter(), events.into_iter());
        let of = |(job, is_call): (&Job, bool)| match is_call {
            true => Some(read_placed(job, events.next()?)),
            false => others.next(),
        };
        jobs.iter().zip(is_call).filter_map(of).collect()
    }

    async fn step(&self, job: &Job) -> Result<Answer, Trouble> {
        let address = &job.batch.address;
        match (&job.batch.step, &job.trail) {
            (Step::Room(room), _) => self.room(room, &job.replaces).await,
            (Step::RoomGone(name), _) => self.room_gone(name).await,
            (Step::Channel(channel), _) => self.channel(channel, job.is_listed).await,
            (Step::ChannelGone, _) => self.channel_gone(address).await,
            (Step::Task(Task::Detach(_)), None) => self.detach(address).await,
            (Step::Task(Task::Attach(_) | Task::Sync), Some(_)) if self.read_left.get() == 0 => {
                Ok(Answer::Later)
            }
            (Step::Task(Task::Attach(_)), Some(trail)) => {
                let mut ears = self.ears.clone();
                ears.subscribe(self.keys.push(address)).await?;
                self.forget_the_dead(address).await?;
                self.read(trail, &trail.attach.record, job.is_listed, false).await
            }
            (Step::Task(Task::Sync), Some(trail)) => self.sync(address, trail, job).await,
            (Step::Task(Task::Fork { life, base }), Some(trail)) if trail.is_of(life) => {
                self.fork(address, life, *base).await
            }
            (Step::Events(_) | Step::Task(_), _) => Ok(Answer::Over),
        }
    }

    /// Keeps a room. One that is kept already and may not be replaced stays, but for one that was
    /// made by a join only while somebody has made this one on purpose.
    async fn room(&self, room: &RoomRecord, replaces: &str) -> Result<Answer, Trouble> {
        let text = room_text(room)
            .map_err(|error| Trouble::Outage(format!("a room can't be written: {error}")))?;
        let Some(kept) = self.keep_room(room, &text, replaces).await? else {
            return Ok(Answer::Done);
        };
        let is_dynamic = |room: &RoomRecord| room.room_type == RoomType::Dynamic;
        match self.read_room(&room.name, &kept) {
            // Another version of this program may have written the same in other words.
            Some(other)
                if is_dynamic(&other) && !is_dynamic(room)
                    || room_text(&other).is_ok_and(|other| other == replaces) =>
            {
                match self.keep_room(room, &text, &kept).await? {
                    None => Ok(Answer::Done),
                    Some(kept) => {
                        let room = self.read_room(&room.name, &kept);
                        Ok(Answer::Kept { room, order: None })
                    }
                }
            }
            room => Ok(Answer::Kept { room, order: None }),
        }
    }

    /// Keeps a room in place of none or of a known one; what is kept instead, if it is another.
    async fn keep_room(
        &self,
        room: &RoomRecord,
        text: &str,
        replaces: &str,
    ) -> Result<Option<String>, Trouble> {
        let name = &room.name;
        let mut call = ROOM.call(&[&self.keys.writer, &self.keys.rooms]);
        call.arg(self.generation).arg(self.keys.catalogue());
        call.arg(format!("{} room {name} {text}", self.token)).arg(name.as_str()).arg(text);
        call.arg(replaces);
        let (word, kept): (String, String) = self.run(&ROOM, &call).await?;
        match word.as_str() {
            "fenced" => Err(fenced(Some(&kept))),
            "there" => Ok(Some(kept)),
            _ => Ok(None),
        }
    }

    /// A room as it is kept; `None` if it can't be read, which is told.
    fn read_room(&self, name: &Name, text: &str) -> Option<Box<RoomRecord>> {
        let room = read_room(name, text);
        room.inspect_err(|why| tracing::warn!(%name, why, "the room that is kept can't be read"))
            .ok()
            .map(Box::new)
    }

    async fn room_gone(&self, name: &Name) -> Result<Answer, Trouble> {
        // That its own order is gone with it goes without saying.
        match self.remove(&order_of(name), "").await? {
            Removed::Gone => {
                let news = format!("room_gone {name}");
                self.list(&self.keys.rooms, &news, &["HDEL", name]).await
            }
            // Somebody is in all of the room.
            Removed::Stays(order) => {
                let mut call = cmd("HGET");
                call.arg(&self.keys.rooms).arg(name.as_str());
                let text: Option<String> = self.link.ask(&call).await?;
                self.answered.set(Instant::now());
                let room = text.and_then(|text| self.read_room(name, &text));
                Ok(Answer::Kept { room, order })
            }
        }
    }

    /// Makes a channel if it is not there.
    async fn channel(&self, channel: &ChannelRecord, is_listed: bool) -> Result<Answer, Trouble> {
        let (Found { record, .. }, _) = self.make(channel, "", is_listed).await?;
        let record = Box::new(record);
        Ok(match record.epoch == channel.epoch {
            true => Answer::There(record),
            false => Answer::Other(record),
        })
    }

    async fn channel_gone(&self, address: &Arc<Address>) -> Result<Answer, Trouble> {
        Ok(match self.remove(address, &format!("channel_gone {address}")).await? {
            Removed::Gone => Answer::Done,
            Removed::Stays(Some(record)) => Answer::Other(record),
            Removed::Stays(None) => Answer::Over,
        })
    }

    /// Deletes a channel, unless another node follows it.
    async fn remove(&self, address: &Arc<Address>, news: &str) -> Result<Removed, Trouble> {
        let (stream, meta) = (self.keys.stream(address), self.keys.meta(address));
        let mut call = REMOVE.call(&[&stream, &meta, &self.keys.followers(address)]);
        call.arg(self.generation).arg(self.others(&self.keys.nodes).await?);
        let (word, fields): (String, HashMap<String, String>) = self.run(&REMOVE, &call).await?;
        let record = |fields| read_channel(address, fields).ok().map(|end| Box::new(end.record));
        match word.as_str() {
            "followed" => return Ok(Removed::Stays(record(&fields))),
            "fenced" => return Err(fenced(fields.keys().next())),
            _ => {}
        }
        let name = address.to_string();
        self.list(&self.keys.channels, news, &["SREM", &name]).await?;
        // Another node may have made it again before it was taken from the index.
        let fields: HashMap<String, String> = self.link.ask(cmd("HGETALL").arg(&meta)).await?;
        self.answered.set(Instant::now());
        let Some(again) = record(&fields) else { return Ok(Removed::Gone) };
        let news = format!("channel {name} {}", channel_text(&again));
        self.list(&self.keys.channels, &news, &["SADD", &name]).await?;
        Ok(Removed::Stays(Some(again)))
    }

    /// Takes a name from the index for which there is no channel; whether that was done.
    pub(super) async fn unlist(&self, address: &Arc<Address>) -> Result<bool, Trouble> {
        let meta = self.keys.meta(address);
        let exists = async || -> Result<bool, Trouble> {
            let fields: HashMap<String, String> = self.link.ask(cmd("HGETALL").arg(&meta)).await?;
            self.answered.set(Instant::now());
            Ok(!fields.is_empty())
        };
        if exists().await? {
            return Ok(false);
        }
        let name = address.to_string();
        self.list(&self.keys.channels, "", &["SREM", &name]).await?;
        // Another node may have made it before it was taken from the index.
        if exists().await? {
            self.list(&self.keys.channels, "", &["SADD", &name]).await?;
            return Ok(false);
        }
        Ok(true)
    }

    /// The other nodes that stand in a hash.
    async fn others(&self, key: &str) -> Result<Vec<String>, Trouble> {
        let mut nodes: Vec<String> = self.link.ask(cmd("HKEYS").arg(key)).await?;
        self.answered.set(Instant::now());
        nodes.retain(|node| node != self.token);
        Ok(nodes)
    }

    /// Forgets that nodes followed a channel that do not live any more, and ends the term where they may
    /// have been told what Redis has forgotten since.
    async fn forget_the_dead(&self, address: &Address) -> Result<(), Trouble> {
        let key = self.keys.followers(address);
        let mut dead = self.others(&key).await?;
        if dead.is_empty() {
            return Ok(());
        }
        // Who follows lives before it does, so whoever is not among them lives no more.
        let live = self.others(&self.keys.nodes).await?;
        dead.retain(|node| !live.contains(node));
        if dead.is_empty() {
            return Ok(());
        }
        let mut call = BURY.call(&[&self.keys.meta(address), &key]);
        call.arg(self.generation).arg(new_term()).arg(self.keys.push(address)).arg(dead);
        let answer = self.link.change(&BURY, &call).await;
        self.answered.set(Instant::now());
        answer.map(|_| ())
    }

    async fn detach(&self, address: &Address) -> Result<Answer, Trouble> {
        let mut ears = self.ears.clone();
        ears.unsubscribe(self.keys.push(address)).await?;
        let mut call = cmd("HDEL");
        call.arg(self.keys.followers(address)).arg(self.token);
        self.link.ask::<u64>(&call).await?;
        self.answered.set(Instant::now());
        Ok(Answer::Done)
    }

    /// Changes the catalogue.
    async fn list(&self, index: &str, news: &str, words: &[&str]) -> Result<Answer, Trouble> {
        let mut call = LIST.call(&[&self.keys.writer, index]);
        call.arg(self.generation).arg(self.keys.catalogue());
        match news {
            "" => call.arg(""),
            news => call.arg(format!("{} {news}", self.token)),
        };
        call.arg(words);
        let answer = self.link.change(&LIST, &call).await;
        self.answered.set(Instant::now());
        answer.map(|_| Answer::Done)
    }

    /// Makes a channel if it is not there, notes that `follower` follows it, and gives it as it is.
    async fn make(
        &self,
        channel: &ChannelRecord,
        follower: &str,
        is_listed: bool,
    ) -> Result<(Found, bool), Trouble> {
        let address = &channel.address;
        let name = address.to_string();
        if !is_listed {
            // First the index: a channel that is not there is passed over when reading, but one that
            // is not in the index is never found.
            self.list(&self.keys.channels, "", &["SADD", &name]).await?;
        }
        let mut call = MAKE.call(&[&self.keys.meta(address), &self.keys.followers(address)]);
        call.arg(self.generation).arg(follower).arg(&*channel.epoch);
        put_channel(channel, &mut call);
        let (word, fields): (String, HashMap<String, String>) = self.run(&MAKE, &call).await?;
        if word == "fenced" {
            return Err(fenced(fields.keys().next()));
        }
        let found = Found::of(address, &fields)?;
        let is_made = word == "made";
        if is_made {
            let news = format!("channel {name} {}", channel_text(&found.record));
            self.list(&self.keys.channels, &news, &["SADD", &name]).await?;
        }
        Ok((found, is_made))
    }

    /// Makes a channel if it is not there, and reads the end of its order.
    async fn read(
        &self,
        trail: &Trail,
        record: &ChannelRecord,
        is_listed: bool,
        is_far: bool,
    ) -> Result<Answer, Trouble> {
        let (found, is_new) = self.make(record, self.token, is_listed).await?;
        let Found { record, mark, last_us } = found;
        // The semaphore is never closed.
        let _permit = self.reads.acquire().await;
        let reader = Reader {
            link: self.link,
            keys: self.keys,
            settings: self.settings,
            meters: self.meters,
            generation: self.generation,
            now: self.now,
            answered: self.answered,
            page: self.page,
        };
        let attach = &trail.attach;
        let bounds = (u64::from(attach.messages), attach.bytes, attach.keep.age_ms);
        let messages = reader.run(&record, (mark.sequence, &mark.id), bounds).await?;
        self.note_read(messages.iter().map(|frame| frame.memory_bytes() as u64).sum());
        // A time from far ahead is not for clocks, though the order goes on from it.
        let last_us = last_us.min(self.now.wall_us + DAY_US);
        let kept = KeptChannel { record, last: mark.sequence, last_us, messages };
        Ok(Answer::Read(Box::new(Read { kept, mark, is_new, is_far })))
    }

    fn note_read(&self, bytes: u64) {
        self.read_left.set(self.read_left.get().saturating_sub(bytes));
    }

    /// Reads what follows the last that is known of a channel, a page of it; the newest, if it does not
    /// follow or if more was missed than is worth to be read.
    async fn sync(
        &self,
        address: &Arc<Address>,
        trail: &Trail,
        job: &Job,
    ) -> Result<Answer, Trouble> {
        let Some(record) = trail.record.as_ref().filter(|_| !trail.is_apart) else {
            let record = trail.record.as_deref().unwrap_or(&trail.attach.record);
            return self.read(trail, record, job.is_listed, false).await;
        };
        let (stream, meta) = (self.keys.stream(address), self.keys.meta(address));
        let mut call = SYNC.call(&[&stream, &meta, &self.keys.followers(address)]);
        call.arg(self.generation).arg(self.token).arg(&*record.epoch).arg(trail.term);
        call.arg(self.page.bytes()).arg(new_term()).arg(self.keys.push(address));
        call.arg(trail.attach.messages).arg(u8::from(trail.is_first_look));
        for mark in &trail.marks {
            call.arg(mark.sequence).arg(&*mark.id).arg(&*mark.origin);
        }
        let permit = self.reads.acquire().await;
        type Missed = (String, HashMap<String, String>, Vec<RawEntry>, (u64, u64), u64);
        let (word, fields, entries, time, bytes): Missed = self.run(&SYNC, &call).await?;
        drop(permit);
        self.page.grow();
        self.note_read(bytes);
        match word.as_str() {
            "on" => {
                let (found, clock_ms) = (Found::of(address, &fields)?, clock_ms(time));
                let entries = entries.into_iter().filter_map(|(id, fields)| {
                    let entry = read_entry(fields).ok()?;
                    let (id, sequence) = (id.into_boxed_str(), entry.sequence);
                    let left_ms = entry.left_ms(clock_ms);
                    let origin = entry.origin.unwrap_or_else(|| "-".into()).into();
                    (entry.epoch == *found.record.epoch).then_some(Entry {
                        mark: Mark { sequence, id, origin },
                        message: entry.message,
                        left_ms,
                    })
                });
                let entries = entries.collect();
                let last = found.mark.sequence;
                Ok(Answer::More { record: Box::new(found.record), last, entries, bytes })
            }
            "fenced" => Err(fenced(fields.keys().next())),
            // Redis has forgotten it. It goes on in another term, of which nothing is there.
            "missing" => self.read(trail, &anew(record), false, false).await,
            word => self.read(trail, record, job.is_listed, word == "far").await,
        }
    }

    /// Ends the term of a channel.
    async fn fork(&self, address: &Address, life: &str, base: u64) -> Result<Answer, Trouble> {
        let mut call = FORK.call(&[&self.keys.meta(address)]);
        call.arg(self.generation).arg(life).arg(base).arg(new_term());
        call.arg(self.keys.push(address));
        let answer = self.link.change(&FORK, &call).await;
        self.answered.set(Instant::now());
        answer.map(|_| Answer::Done)
    }

    /// The call that submits events, if the step is that and the channel is followed in that life.
    fn submit_call(&self, job: &Job) -> Option<Call> {
        let (Step::Events(submissions), Some(trail)) = (&job.batch.step, &job.trail) else {
            return None;
        };
        if !trail.is_of(&submissions[0].life) {
            return None;
        }
        let (newest, mark) = (submissions.back()?, trail.marks.first()?);
        let address = &job.batch.address;
        let key = self.keys.stream(address);
        let mut call = SUBMIT.call(&[&key, &self.keys.meta(address)]);
        call.arg(self.generation).arg(&*newest.life).arg(trail.term);
        call.arg(mark.sequence).arg(&*mark.id).arg(&*mark.origin);
        call.arg(trail.seen);
        let newest_us = newest.at_us.max(self.now.wall_us);
        let newest_ms = newest_us.saturating_add_signed(-self.clock_ahead_us) / 1_000;
        call.arg(newest.keep.messages).arg(newest.keep.oldest_ms(newest_ms)).arg(newest.keep.bytes);
        call.arg(Draft::HEAD.0).arg(Draft::HEAD.1).arg(self.keys.push(address));
        call.arg(&timestamp::format(trail.last_us)[..]);
        let mut known = trail.known.iter().copied();
        for submission in submissions {
            let draft = &submission.draft;
            let at_us = submission.at_us.saturating_add_signed(-self.clock_ahead_us);
            call.arg(at_us).arg(&timestamp::format(at_us)[..]);
            call.arg(draft.id()).arg(draft.from());
            call.arg(trail.origin(self.token, submission.ticket)).arg(draft.tail());
            match known.next().flatten() {
                None => call.arg(""),
                Some(Known::Placed(sequence)) => call.arg(format!("p{sequence}")),
                Some(Known::Repeat(sequence)) => call.arg(format!("r{sequence}")),
            };
            put_left(draft.left_ms(self.now), &mut call);
        }
        Some(Call { key, cmd: call })
    }

    async fn run<T: FromRedisValue>(&self, script: &Script, call: &Cmd) -> Result<T, Trouble> {
        let answer = self.link.run(script, call).await;
        self.answered.set(Instant::now());
        answer
    }
}

/// What came of submitting the events of a step.
fn read_placed(
    job: &Job,
    answer: Result<(String, Vec<u64>, Vec<u64>), Trouble>,
) -> Result<Answer, Trouble> {
    let (word, numbers, cut) = answer?;
    let Step::Events(submissions) = &job.batch.step else { return Ok(Answer::Over) };
    match word.as_str() {
        "done" if numbers.len() == 2 * submissions.len() => {
            let places = submissions.iter().zip(numbers.chunks_exact(2)).map(|(asked, got)| {
                Place { ticket: asked.ticket, sequence: got[0], is_duplicate: got[1] == 1 }
            });
            Ok(Answer::Placed(places.collect(), Cut::of(&cut)))
        }
        "fenced" => Err(Trouble::Fenced(numbers.first().copied().unwrap_or(0))),
        // What is there is looked at first.
        _ => Err(Trouble::Missing),
    }
}

/// What came of deleting a channel.
enum Removed {
    Gone,
    /// As it is, if that can be read.
    Stays(Option<Box<ChannelRecord>>),
}

/// A channel as it was found.
struct Found {
    record: ChannelRecord,
    /// The last of its order.
    mark: Mark,
    last_us: u64,
}

impl Found {
    fn of(address: &Arc<Address>, fields: &HashMap<String, String>) -> Result<Found, Trouble> {
        let end = read_channel(address, fields).map_err(Trouble::Broken)?;
        let id = fields.get("top").map_or("0-0", String::as_str);
        // Who writes alone says nothing of origins.
        let origin = fields.get("mark").and_then(|mark| mark.split_once(' '));
        let origin = origin.filter(|(of, _)| *of == id).map_or("-", |(_, origin)| origin);
        let mark = Mark { sequence: end.last, id: id.into(), origin: origin.into() };
        Ok(Found { record: end.record, mark, last_us: end.last_us })
    }
}

fn fenced(writer: Option<&String>) -> Trouble {
    Trouble::Fenced(writer.and_then(|writer| writer.parse().ok()).unwrap_or(0))
}

/// A channel that goes on in another term, as Redis has forgotten it with all that it held.
pub(super) fn anew(record: &ChannelRecord) -> ChannelRecord {
    let mut record = record.clone();
    let former = std::mem::replace(&mut record.term, new_term());
    record.past.iter_mut().for_each(|(_, last)| *last = 0);
    record.past.push((former, 0));
    record.past.drain(..record.past.len().saturating_sub(PAST_MAX));
    record
}

/// A term that no other has, so far as chance can say; never the first one.
fn new_term() -> u32 {
    fastrand::u32(2..)
}
