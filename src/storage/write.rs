//! One round of writing: the steps of many channels at once, each as its script.
//!
//! *Invariants*: every step may be carried out twice and changes no more than once; each answers
//! for itself, so that the trouble of one channel is not another's.

use crate::base::time::Now;
use crate::broker::record::EventRecord;
use crate::protocol::command::Address;
use crate::storage::backlog::{Batch, Probe, Step, order_of};
use crate::storage::codec::{ChannelEnd, put_channel, put_event, read_channel, room_text};
use crate::storage::keys::Keys;
use crate::storage::link::{APPEND, CHANNEL, CHANNEL_GONE, CLAIM, INDEX, Link, Script};
use crate::storage::load::read_claim;
use crate::storage::settings::Settings;
use crate::storage::together::Call;
use crate::storage::trimming::Cut;
use crate::storage::trouble::Trouble;
use futures_util::future::{join, join_all};
use redis::{Cmd, Value};
use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;

/// What came of a step.
#[derive(Debug)]
pub(super) enum Written {
    /// It is done.
    Done,
    /// Events are appended.
    Appended {
        /// The last sequence that was there before them.
        before: u64,
        cut: Option<Cut>,
    },
    /// What is stored of a channel can be used; it is this, if there is something.
    Found(Option<Box<ChannelEnd>>),
}

/// Who writes where.
pub(super) struct Writer<'a> {
    pub(super) link: &'a Link,
    pub(super) keys: &'a Keys,
    pub(super) settings: &'a Settings,
    pub(super) generation: u64,
    pub(super) now: Now,
    /// The time, in milliseconds since 1970.
    pub(super) now_ms: u64,
    /// When the last answer came.
    pub(super) answered: &'a Cell<Instant>,
    /// How often rooms and channels were changed with the first and with the last change of the
    /// round.
    pub(super) changes: &'a Cell<Option<(u64, u64)>>,
}

impl Writer<'_> {
    /// Carries out all steps, and waits until the replicas have them if that is asked for. The
    /// answers are in the order of the steps.
    pub(super) async fn round(
        &self,
        batches: &[Batch<EventRecord>],
    ) -> Vec<Result<Written, Trouble>> {
        let is_events = |batch: &&Batch<EventRecord>| matches!(batch.step, Step::Events(_));
        let others = batches.iter().filter(|batch| !is_events(batch));
        let others = join_all(others.map(|batch| self.step(batch)));
        let calls: Vec<Call> = batches.iter().filter_map(|batch| self.append_call(batch)).collect();
        let events = self.link.run_together(&APPEND, &calls, self.settings, self.answered);
        let (mut others, events) = join(others, events).await;
        let is_written = others.iter().any(Result::is_ok);
        if self.settings.replicas > 0
            && is_written
            && let Err(trouble) = self.link.replicate(self.settings).await
        {
            others.iter_mut().filter(|answer| answer.is_ok()).for_each(|answer| {
                *answer = Err(trouble.clone());
            });
        }
        let mut others = others.into_iter();
        let mut events = events.into_iter().map(|answer| read_appended(answer?));
        let mut of = |batch| match is_events(&batch) {
            true => events.next(),
            false => others.next(),
        };
        batches.iter().filter_map(&mut of).collect()
    }

    async fn step(&self, batch: &Batch<EventRecord>) -> Result<Written, Trouble> {
        match &batch.step {
            Step::Task(Probe) => self.probe(&batch.address).await,
            _ => self.change_record(batch).await.map(|_| Written::Done),
        }
    }

    /// Changes what is stored of a room or a channel beside its events.
    async fn change_record(&self, batch: &Batch<EventRecord>) -> Result<u64, Trouble> {
        let address = &*batch.address;
        match &batch.step {
            Step::Events(_) | Step::Task(_) => Ok(0),
            Step::Channel(channel) => {
                // First the index: a channel that is not there is passed over when reading, but
                // one that is not in the index is never found.
                self.index(&self.keys.channels, &["SADD", &address.to_string()]).await?;
                let mut call = CHANNEL.call(&[&self.keys.meta(address)]);
                call.arg(self.generation).arg(&*channel.epoch);
                put_channel(channel, &mut call);
                self.change(&CHANNEL, &call).await
            }
            Step::ChannelGone => self.remove_channel(address).await,
            Step::Room(room) => {
                let text = room_text(room).map_err(|error| {
                    Trouble::Outage(format!("a room can't be written: {error}"))
                })?;
                self.index(&self.keys.rooms, &["HSET", &room.name, &text]).await
            }
            Step::RoomGone(name) => {
                self.remove_channel(&order_of(name)).await?;
                self.index(&self.keys.rooms, &["HDEL", name]).await
            }
        }
    }

    /// The call that appends events, if the step is that.
    fn append_call(&self, batch: &Batch<EventRecord>) -> Option<Call> {
        let Step::Events(events) = &batch.step else { return None };
        let newest = events.back()?;
        let keep = newest.keep;
        let newest_ms = (newest.frame.timestamp_us / 1_000).max(self.now_ms);
        let key = self.keys.stream(&batch.address);
        let mut call = APPEND.call(&[&key, &self.keys.meta(&batch.address)]);
        call.arg(self.generation).arg(&*newest.epoch);
        call.arg(keep.messages).arg(keep.oldest_ms(newest_ms)).arg(keep.bytes);
        events.iter().for_each(|event| put_event(event, self.now, &mut call));
        Some(Call { key, cmd: call })
    }

    /// Looks whether what is stored of a channel can be used.
    async fn probe(&self, address: &Arc<Address>) -> Result<Written, Trouble> {
        let (stream, meta) = (self.keys.stream(address), self.keys.meta(address));
        let mut call = CLAIM.call(&[&meta, &self.keys.followers(address)]);
        call.arg(self.generation);
        let answer = self.link.run(&CLAIM, &call).await;
        self.answered.set(Instant::now());
        let Some(fields) = read_claim(answer?)? else { return Ok(Written::Found(None)) };
        let end = read_channel(address, &fields).map_err(Trouble::Broken)?;
        match self.link.require(&[&stream], "stream").await {
            Err(Trouble::Wrong(wrong)) => return Err(Trouble::Broken(wrong.to_string())),
            answer => answer?,
        }
        // All that a script relies on is looked at, and nothing is appended.
        let mut call = APPEND.call(&[&stream, &meta]);
        call.arg(self.generation).arg(&*end.record.epoch).arg(1).arg(0).arg(0);
        self.link.run::<Value>(&APPEND, &call).await?;
        self.answered.set(Instant::now());
        Ok(Written::Found(Some(Box::new(end))))
    }

    async fn remove_channel(&self, address: &Address) -> Result<u64, Trouble> {
        let mut call = CHANNEL_GONE.call(&[&self.keys.stream(address), &self.keys.meta(address)]);
        call.arg(self.generation);
        self.change(&CHANNEL_GONE, &call).await?;
        self.index(&self.keys.channels, &["SREM", &address.to_string()]).await
    }

    async fn index(&self, index: &str, words: &[&str]) -> Result<u64, Trouble> {
        let mut call = INDEX.call(&[&self.keys.writer, index]);
        call.arg(self.generation).arg(words);
        let number = self.change(&INDEX, &call).await?;
        let (first, last) = self.changes.get().unwrap_or((number, number));
        self.changes.set(Some((first.min(number), last.max(number))));
        Ok(number)
    }

    async fn change(&self, script: &Script, call: &Cmd) -> Result<u64, Trouble> {
        let answer = self.link.change(script, call).await;
        self.answered.set(Instant::now());
        answer
    }
}

fn read_appended((word, number, cut): (String, u64, Vec<u64>)) -> Result<Written, Trouble> {
    match word.as_str() {
        "done" => Ok(Written::Appended { before: number, cut: Cut::of(&cut) }),
        "fenced" => Err(Trouble::Fenced(number)),
        _ => Err(Trouble::Missing),
    }
}
