//! One round of writing: the steps of many channels at once, each as its script.
//!
//! *Invariants*: every step may be carried out twice and changes no more than once; each answers
//! for itself, so that the trouble of one channel is not another's.

use crate::base::time::Now;
use crate::broker::record::EventRecord;
use crate::protocol::command::Address;
use crate::storage::backlog::{Batch, Step, order_of};
use crate::storage::codec::{put_channel, put_event, room_text};
use crate::storage::keys::Keys;
use crate::storage::link::{APPEND, CHANNEL, CHANNEL_GONE, INDEX, Link, Script};
use crate::storage::settings::Settings;
use crate::storage::trouble::Trouble;
use futures_util::future::join_all;
use redis::Cmd;
use std::cell::Cell;
use std::collections::VecDeque;
use std::time::Instant;

/// Who writes where.
pub(super) struct Writer<'a> {
    pub(super) link: &'a Link,
    pub(super) keys: &'a Keys,
    pub(super) settings: &'a Settings,
    pub(super) generation: u64,
    pub(super) now: Now,
    /// When the last answer came.
    pub(super) answered: &'a Cell<Instant>,
    /// How often rooms and channels were changed with the first and with the last change of the
    /// round.
    pub(super) changes: &'a Cell<Option<(u64, u64)>>,
}

impl Writer<'_> {
    /// Carries out all steps, and waits until the replicas have them if that is asked for. The
    /// answers are in the order of the steps; that of events is the last sequence that was there
    /// before them.
    pub(super) async fn round(&self, batches: &[Batch<EventRecord>]) -> Vec<Result<u64, Trouble>> {
        let mut answers = join_all(batches.iter().map(|batch| self.step(batch))).await;
        if self.settings.replicas > 0
            && answers.iter().any(Result::is_ok)
            && let Err(trouble) = self.link.replicate(self.settings).await
        {
            answers.iter_mut().filter(|answer| answer.is_ok()).for_each(|answer| {
                *answer = Err(trouble.clone());
            });
        }
        answers
    }

    async fn step(&self, batch: &Batch<EventRecord>) -> Result<u64, Trouble> {
        let address = &*batch.address;
        match &batch.step {
            Step::Events(events) => self.append(address, events).await,
            Step::Task(never) => match *never {},
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

    async fn append(
        &self,
        address: &Address,
        events: &VecDeque<EventRecord>,
    ) -> Result<u64, Trouble> {
        let Some(newest) = events.back() else { return Ok(0) };
        let oldest_ms = match newest.keep.age_ms {
            0 => 0,
            age_ms => (newest.frame.timestamp_us / 1_000).saturating_sub(age_ms),
        };
        let mut call = APPEND.call(&[&self.keys.stream(address), &self.keys.meta(address)]);
        call.arg(self.generation).arg(&*newest.epoch).arg(newest.keep.messages).arg(oldest_ms);
        events.iter().for_each(|event| put_event(event, self.now, &mut call));
        self.change(&APPEND, &call).await
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
