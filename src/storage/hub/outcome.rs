//! What came of a round: what follows from it, and who is told.
//!
//! *Panics*: a step of events is never empty, whatever Redis answers.

use super::Hub;
use super::call::{Answer, Job, Read};
use super::follow::{Following, Task};
use crate::broker::peers::{PeerNews, Submission, To};
use crate::broker::record::ChannelRecord;
use crate::protocol::command::Address;
use crate::storage::backlog::{Batch, Step, order_of};
use crate::storage::cut;
use crate::storage::meters::add;
use crate::storage::trouble::Trouble;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// What is said of a channel that begins anew.
const FAR_BEHIND: &str = "this node has missed more of the channel than a history holds; it goes on with \
                          the newest events, and its members are told that some are missing";

impl Hub {
    /// Gets a step ready to be carried out.
    pub(super) fn prepare(&mut self, batch: Batch<Box<Submission>>) -> Job {
        let address = &batch.address;
        match &batch.step {
            Step::Task(Task::Attach(attach)) => {
                let is_same = self
                    .followed
                    .get(address)
                    .is_some_and(|following| Arc::ptr_eq(&following.attach, attach));
                if !is_same {
                    self.attached += 1;
                    let following = Following::new(Arc::clone(attach), self.attached);
                    self.by_push.insert(self.keys.push(address), Arc::clone(address));
                    self.followed.insert(Arc::clone(address), following);
                }
            }
            Step::Task(Task::Detach(channel))
                if self.followed.get(address).is_some_and(|it| it.attach.channel == *channel) =>
            {
                self.followed.remove(address);
                self.by_push.remove(&self.keys.push(address));
            }
            _ => {}
        }
        let connection = self.meters.connections.load(Relaxed);
        let following = self.followed.get_mut(address);
        let trail = following.map(|following| {
            if let Step::Task(Task::Attach(_) | Task::Sync) = &batch.step {
                following.is_syncing = true;
                following.follower.start_reading();
            }
            following.trail(&batch.step, connection)
        });
        let replaces = match &batch.step {
            Step::Room(room) => self.catalogue.replaceable(room).to_owned(),
            _ => String::new(),
        };
        Job { trail, is_listed: self.catalogue.has(address), replaces, batch }
    }

    /// Gives every step its due; the trouble there was, if it concerns all.
    pub(super) fn on_round(
        &mut self,
        jobs: Vec<Job>,
        answers: Vec<Result<Answer, Trouble>>,
    ) -> Option<Trouble> {
        let mut trouble = None;
        for (Job { batch, .. }, answer) in jobs.into_iter().zip(answers) {
            match answer {
                Ok(answer) => self.on_answer(batch, answer),
                Err(Trouble::Missing) => {
                    // What is there is looked at first.
                    let address = Arc::clone(&batch.address);
                    match self.followed.get_mut(&address) {
                        Some(following) => {
                            following.follower.fall_behind();
                            following.is_syncing = true;
                            self.backlog.give_back_after(batch, Step::Task(Task::Sync));
                        }
                        None => self.backlog.give_up(batch),
                    }
                }
                Err(trouble @ (Trouble::Foreign | Trouble::Broken(_))) => {
                    self.stop_reading(&batch);
                    self.spoil(batch, &trouble.to_string());
                }
                Err(other) => {
                    if let Trouble::Fenced(generation) = other {
                        self.state.floor = self.state.floor.max(generation);
                    }
                    self.stop_reading(&batch);
                    self.backlog.give_back(batch);
                    trouble = Some(other);
                }
            }
        }
        self.tell_losses();
        trouble
    }

    /// A step that would have read will be carried out once more.
    fn stop_reading(&mut self, batch: &Batch<Box<Submission>>) {
        if let Step::Task(Task::Attach(_) | Task::Sync) = &batch.step
            && let Some(following) = self.followed.get_mut(&batch.address)
        {
            following.follower.stop_reading();
        }
    }

    fn on_answer(&mut self, batch: Batch<Box<Submission>>, answer: Answer) {
        let address = Arc::clone(&batch.address);
        if let Step::Room(room) = &batch.step {
            self.catalogue.end_repair(&room.name);
        }
        match answer {
            Answer::Done => {
                self.note_done(&address, &batch.step);
                self.tell_deleted(&batch, true);
                self.step_done(batch);
            }
            Answer::Over => {
                self.tell_deleted(&batch, false);
                // Of a channel that nobody follows, or of another life of it.
                match &batch.step {
                    Step::Events(_) => self.backlog.give_up(batch),
                    _ => self.step_done(batch),
                }
            }
            Answer::Other(record) => {
                self.catalogue.note_channel(&record);
                self.tell(To::Room(address.room.clone()), PeerNews::Channel(record));
                self.tell_deleted(&batch, false);
                self.step_done(batch);
            }
            Answer::There(record) => {
                self.note_channel(&record);
                self.step_done(batch);
            }
            Answer::Kept { room, order } => {
                let to = To::Room(address.room.clone());
                if let Some(room) = room {
                    self.catalogue.note_room(&room);
                    self.tell(to.clone(), PeerNews::Room(room));
                }
                if let Some(order) = order {
                    self.note_channel(&order);
                    self.tell(to, PeerNews::Channel(order));
                }
                self.tell_deleted(&batch, false);
                self.step_done(batch);
            }
            Answer::Later => {
                self.stop_reading(&batch);
                return self.backlog.give_back(batch);
            }
            Answer::Placed(places, cut) => {
                add(&self.meters.stored, places.len() as u64);
                if let Step::Events(submissions) = &batch.step {
                    let (oldest, keep) = (&submissions[0], submissions[submissions.len() - 1].keep);
                    let channel = oldest.channel;
                    cut::count(&self.meters, cut, false);
                    self.trimming.on_append(&address, (keep, oldest.at_us / 1_000), cut);
                    let news = PeerNews::Placed { channel, places };
                    self.tell(To::Shard(channel.home()), news);
                }
                self.step_done(batch);
            }
            Answer::Read(read) => {
                self.step_done(batch);
                self.on_read(&address, *read);
            }
            Answer::More { record, last, entries, bytes } => {
                self.step_done(batch);
                let Some(following) = self.followed.get_mut(&address) else { return };
                following.is_syncing = false;
                following.looked_over = self.meters.connections.load(Relaxed);
                let mut told = Vec::new();
                let terms = (record.term, record.past.clone());
                let went_on =
                    following.follower.go_on((terms.0, &terms.1), entries, last, &mut told);
                match went_on {
                    Ok(()) => {
                        self.catalogue.note_channel(&record);
                        following.note(record);
                        if !following.note_caught_up(bytes) {
                            add(&self.meters.far_behind, 1);
                            tracing::warn!(%address, "{FAR_BEHIND}");
                        }
                    }
                    Err(_) => following.is_apart = true,
                }
                self.tell_of(&address, told);
            }
        }
        add(&self.meters.steps, 1);
    }

    /// Says whether what was to be deleted is gone. If it is not, it is told before as it is.
    fn tell_deleted(&self, batch: &Batch<Box<Submission>>, is_gone: bool) {
        if let Step::ChannelGone | Step::RoomGone(_) = &batch.step {
            let address = Arc::clone(&batch.address);
            let to = To::Room(address.room.clone());
            self.tell(to, PeerNews::Deleted { address, is_gone });
        }
    }

    /// A channel was read anew.
    fn on_read(&mut self, address: &Arc<Address>, Read { kept, mark, is_new, is_far }: Read) {
        self.note_channel(&kept.record);
        if is_far {
            add(&self.meters.far_behind, 1);
            tracing::warn!(%address, "{FAR_BEHIND}");
        }
        let Some(following) = self.followed.get_mut(address) else { return };
        following.is_syncing = false;
        following.looked_over = self.meters.connections.load(Relaxed);
        let mut told = Vec::new();
        following.begin(&kept.record, (mark, kept.last_us), &mut told);
        let channel = following.attach.channel;
        let news = PeerNews::Attached { channel, kept: Arc::new(kept), is_new };
        self.tell(To::Shard(channel.home()), news);
        self.tell_of(address, told);
    }

    fn note_channel(&mut self, record: &ChannelRecord) {
        self.catalogue.note_channel(record);
    }

    fn note_done(&mut self, address: &Arc<Address>, step: &Step<Box<Submission>>) {
        match step {
            Step::Room(room) => self.catalogue.note_room(room),
            Step::RoomGone(name) => {
                self.catalogue.drop_room(name);
                self.trimming.remove(&order_of(name));
            }
            Step::ChannelGone => {
                self.catalogue.drop_channel(address);
                self.trimming.remove(address);
            }
            Step::Channel(_) | Step::Task(_) | Step::Events(_) => {}
        }
    }

    fn spoil(&mut self, batch: Batch<Box<Submission>>, why: &str) {
        let address = Arc::clone(&batch.address);
        if let Step::Events(_) = &batch.step
            && let Some(following) = self.followed.get_mut(&address)
        {
            // It is read again when it is tried again.
            following.follower.fall_behind();
            following.is_syncing = true;
        }
        self.backlog.spoil(batch, Instant::now());
        if self.meters.quarantine.put(&address, why) {
            add(&self.meters.spoilt, 1);
            let (stream, meta) = (self.keys.stream(&address), self.keys.meta(&address));
            tracing::error!(
                channel = %address, stream, meta, why,
                "this channel can't be stored: its keys hold what this bus did not write; they are left \
                 as they are; correct, rename or delete them, and the channel is stored again"
            );
        }
    }

    /// A step was carried out, and with it whatever was wrong with its channel is over.
    fn step_done(&mut self, batch: Batch<Box<Submission>>) {
        let address = Arc::clone(&batch.address);
        if self.backlog.done(batch) && self.meters.quarantine.release(&address) {
            tracing::info!(channel = %address, "the channel is stored again");
        }
    }
}
