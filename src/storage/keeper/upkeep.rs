//! What is done beside writing: channels are cut to what is kept of them, and those in quarantine come
//! back.
//!
//! A channel whose record could not be used at the start begins with a life of its own when somebody
//! joins it. When the record can be used again, what was kept is put together with that life by its
//! home, as where all of it was read late (`late`); meanwhile nothing of the channel is written.

use super::{Bond, Keeper};
use crate::broker::late::{KeptRoom, Merged};
use crate::broker::peers::To;
use crate::broker::record::{EventRecord, StorageNews};
use crate::protocol::command::Address;
use crate::storage::backlog::Batch;
use crate::storage::codec::ChannelEnd;
use crate::storage::cut::{self, Cutter};
use crate::storage::keeper::no_answer;
use crate::storage::known::Kept;
use crate::storage::load::{Reader, Unusable};
use crate::storage::meters::add;
use crate::storage::quarantine::wall_us;
use crate::storage::trouble::Trouble;
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// A channel that was kept, and which its home is putting together with what it has of it.
#[derive(Debug)]
pub(super) struct Merging {
    /// By which nothing else of the channel is done meanwhile.
    batch: Batch<EventRecord>,
    kept: Kept,
}

impl Keeper {
    /// Looks at what is there of these channels, one after the other.
    pub(super) fn look_at_all<'a>(&mut self, channels: impl Iterator<Item = &'a Arc<Address>>) {
        let keep = self.settings.usual_keep();
        channels.for_each(|address| self.trimming.look_at(address, keep));
    }

    /// When channels are to be cut next.
    pub(super) fn next_cut(&self) -> Option<Instant> {
        let due_ms = self.trimming.next_due_ms()?;
        let wait_ms = due_ms.saturating_sub(wall_us() / 1_000);
        Some(Instant::now() + std::time::Duration::from_millis(wait_ms))
    }

    /// Cuts the channels that are due.
    pub(super) async fn cut_round(&mut self, bond: &Bond) {
        let now_ms = wall_us() / 1_000;
        let dues = self.trimming.take_due(now_ms);
        let (keys, limit, generation) =
            (Arc::clone(&self.keys), self.commit_timeout(), bond.generation);
        let cutter = Cutter { link: &bond.link, keys: &keys, generation, now_ms };
        let answers = self.attend(limit, cutter.round(&dues)).await;
        let answers = answers.unwrap_or_else(|| vec![Err(no_answer(limit)); dues.len()]);
        let mut trouble = None;
        for (due, answer) in dues.iter().zip(answers) {
            match answer {
                Ok((oldest_ms, cut)) => {
                    cut::count(&self.meters, cut, due.is_squeezed);
                    self.trimming.on_trimmed(&due.address, oldest_ms, cut);
                }
                Err(other) => {
                    self.trimming.on_failure(&due.address, now_ms);
                    // What is wrong with one channel is seen when something is appended to it.
                    if !matches!(other, Trouble::Broken(_) | Trouble::Foreign) {
                        trouble = Some(other);
                    }
                }
            }
        }
        self.trimming.squeeze(self.meters.stored_bytes_max.load(Relaxed));
        self.on_trouble(trouble);
    }

    /// Puts channels into quarantine that could not be read.
    pub(super) fn quarantine_all(&mut self, unusable: Vec<Unusable>) {
        for (address, why) in unusable {
            self.note_quarantined(&address, &why);
            self.backlog.quarantine(&address, Instant::now());
        }
    }

    pub(super) fn spoil(&mut self, batch: Batch<EventRecord>, why: &str) {
        self.note_quarantined(&batch.address, why);
        self.backlog.spoil(batch, Instant::now());
    }

    fn note_quarantined(&self, address: &Arc<Address>, why: &str) {
        if self.meters.quarantine.put(address, why) {
            add(&self.meters.spoilt, 1);
            let (stream, meta) = (self.keys.stream(address), self.keys.meta(address));
            tracing::error!(
                channel = %address, stream, meta, why,
                "this channel can't be stored: its keys hold what this bus did not write; they are left \
                 as they are; correct, rename or delete them, and the channel is stored again"
            );
        }
    }

    /// A step was carried out, and with it whatever was wrong with its channel is over.
    pub(super) fn step_done(&mut self, batch: Batch<EventRecord>) {
        let address = Arc::clone(&batch.address);
        if self.backlog.done(batch) && self.meters.quarantine.release(&address) {
            tracing::info!(channel = %address, "the channel is stored again");
        }
    }

    /// The record of a channel in quarantine can be used, or is gone.
    pub(super) fn on_found(&mut self, batch: Batch<EventRecord>, end: Option<Box<ChannelEnd>>) {
        let is_known = end
            .as_ref()
            .is_none_or(|end| self.known.channel(&batch.address, &end.record.epoch).is_some());
        match is_known {
            true => self.step_done(batch),
            false => self.state.found.push_back(batch),
        }
    }

    /// Reads a channel that has come back, and gives it to its home.
    pub(super) async fn read_found(&mut self, bond: &Bond) {
        let Some(batch) = self.state.found.pop_front() else { return };
        let (settings, keys) = (Arc::clone(&self.settings), Arc::clone(&self.keys));
        let meters = Arc::clone(&self.meters);
        let page = Arc::clone(&self.state.page);
        let answered = Cell::new(Instant::now());
        let reader = Reader {
            link: &bond.link,
            keys: &keys,
            settings: &settings,
            meters: &meters,
            generation: bond.generation,
            now: self.now(),
            answered: &answered,
            page: &page,
        };
        let (limit, address) = (self.commit_timeout(), Arc::clone(&batch.address));
        let size = u64::from(settings.load_messages);
        let channel = reader.channel(Arc::clone(&address), size);
        let channel = self.attend_while(limit, &answered, channel).await;
        match channel.unwrap_or_else(|| Err(no_answer(limit))) {
            Ok(Some(channel)) => {
                let channels = vec![channel];
                let kept = KeptRoom { name: address.room.clone(), room: None, channels };
                self.state.merging = Some(Merging { batch, kept: Kept::of(&kept) });
                let to = To::Room(address.room.clone());
                (self.tell)(to, StorageNews::Late(Box::new(kept)));
            }
            // It is gone by now.
            Ok(None) => self.step_done(batch),
            Err(Trouble::Broken(why)) => self.spoil(batch, &why),
            Err(trouble) => {
                self.backlog.give_back(batch);
                self.on_trouble(Some(trouble));
            }
        }
    }

    /// The home has put the channel together that has come back.
    pub(super) fn on_found_merged(&mut self, merged: Merged) {
        let Some(Merging { batch, kept }) = self.state.merging.take() else { return };
        self.known.note_late(kept, &merged);
        self.trimming.look_at(&batch.address, self.settings.usual_keep());
        self.step_done(batch);
        self.backlog.merge_channels(merged.channels);
        self.backlog.forget_idle();
        self.tell_losses();
    }
}
