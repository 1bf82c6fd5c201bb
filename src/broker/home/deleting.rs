//! A channel or a room is deleted by command on a bus of several nodes: whether it is gone for all of
//! them the storage says, and only then is it answered.
//!
//! It is removed here at once, so that whatever comes next makes another one, and the storage removes it
//! unless another node follows it; then it is there again. A node follows a channel for a while after
//! somebody has looked at it, so the peers are asked to let go, and it is tried again.
//!
//! *Invariants*: each wish is answered once, and in time; success is said only of what is gone for all.

use crate::base::ids::ConnRef;
use crate::base::limits::{DELETE_RETRY_MS, DELETE_TRIES_MAX};
use crate::base::time::Now;
use crate::broker::home::shared::Due;
use crate::broker::home::{Home, Told};
use crate::broker::lane::{Answer, RoomAnswer, RoomAsk, RoomWish, Tell};
use crate::broker::peers::{PeerNote, PeerRecord};
use crate::broker::policy::ClientCard;
use crate::broker::record::Record;
use crate::protocol::command::Address;
use crate::protocol::fault::{Fault, Refusal};
use crate::protocol::names::Name;
use crate::protocol::reply::Question;
use std::sync::Arc;

/// A wish to delete something, of which it is not known what has become.
#[derive(Debug)]
pub(super) struct Deletion {
    conn: ConnRef,
    client: Arc<ClientCard>,
    question: Question,
    /// What; the channel `*` is the room.
    address: Arc<Address>,
    tries: u32,
    /// When it is tried again, if that was refused; on the monotonic clock, as what follows.
    retry_ms: Option<u64>,
    /// How long it may take.
    until_ms: u64,
}

impl Home {
    /// Begins to delete what all nodes share; gives the ask back if it is anything else.
    pub(super) fn prepare_deletion(
        &mut self,
        now: Now,
        ask: RoomAsk,
        told: &mut Told,
    ) -> Option<RoomAsk> {
        let address = match &ask.wish {
            RoomWish::DeleteChannel(address) => address.clone(),
            RoomWish::DeleteRoom(room) => Address { room: room.clone(), channel: Name::every() },
            _ => return Some(ask),
        };
        let id = self.id_of(&address).filter(|_| self.is_shared());
        let history = id.and_then(|id| self.history_mut(id));
        if !history.is_some_and(|history| history.is_shared()) {
            return Some(ask);
        }
        let timeout_ms = self.durability.as_ref().map_or(0, |known| known.ack_timeout_ms);
        let RoomAsk { conn, client, question, .. } = ask;
        let (address, until_ms) = (Arc::new(address), now.mono_ms() + u64::from(timeout_ms));
        let (tries, retry_ms) = (0, None);
        let deletion = Deletion { conn, client, question, address, tries, retry_ms, until_ms };
        self.delete_for_all(now, deletion, told);
        None
    }

    /// The storage has said whether something is gone for all nodes, or another node has deleted it.
    pub(super) fn on_deleted(
        &mut self,
        now: Now,
        address: &Arc<Address>,
        is_gone: bool,
        told: &mut Told,
    ) {
        for mut deletion in self.take_deletions(address) {
            if is_gone {
                deletion.succeed(told);
            } else if deletion.retry_ms.is_some() {
                self.keep_deletion(deletion);
            } else if deletion.tries >= DELETE_TRIES_MAX {
                deletion.fail(still_needed(address), told);
            } else {
                let note = PeerNote::LetGo(Arc::clone(address));
                told.records.push(Record::Peer(Box::new(PeerRecord::SendAll(note))));
                let retry_ms = now.mono_ms() + DELETE_RETRY_MS;
                deletion.retry_ms = Some(retry_ms);
                self.keep_deletion(deletion);
                self.note_deletion_due(retry_ms, address);
            }
        }
    }

    /// Tries again what is to be, and answers what has taken too long.
    pub(super) fn look_at_deletions(&mut self, now: Now, address: &Arc<Address>, told: &mut Told) {
        for mut deletion in self.take_deletions(address) {
            if deletion.until_ms <= now.mono_ms() {
                deletion.fail(unknown(address), told);
            } else if deletion.retry_ms.is_none_or(|retry_ms| retry_ms > now.mono_ms()) {
                self.keep_deletion(deletion);
            } else if self.id_of(address).is_some() {
                self.delete_for_all(now, deletion, told);
            } else {
                // Somebody else has just deleted it, and hears soon what comes of that.
                deletion.retry_ms = None;
                self.keep_deletion(deletion);
            }
        }
    }

    /// Nothing can be stored: nobody waits for the storage.
    pub(super) fn give_up_deletions(&mut self, told: &mut Told) {
        let Some(shared) = &mut self.shared else { return };
        for (address, deletions) in std::mem::take(&mut shared.deletions) {
            deletions.into_iter().for_each(|deletion| deletion.fail(unknown(&address), told));
        }
    }

    /// A peer deletes something: if nobody here needs it, it is followed no longer.
    pub(super) fn let_go(&mut self, now: Now, address: &Address, told: &mut Told) {
        if let Some(id) = self.id_of(address) {
            self.end_idle(now, id, told);
        }
    }

    fn delete_for_all(&mut self, now: Now, mut deletion: Deletion, told: &mut Told) {
        let address = Arc::clone(&deletion.address);
        if self.acks.degraded().is_some() {
            return deletion.fail(unavailable(&address), told);
        }
        let outcome = match address.channel.is_every() {
            true => self.delete_room(address.room.clone(), told),
            false => self.delete_channel((*address).clone(), &deletion.client, told),
        };
        if let Err(refusal) = outcome {
            return deletion.fail(refusal, told);
        }
        (deletion.tries, deletion.retry_ms) = (deletion.tries + 1, None);
        let until_ms = deletion.until_ms.max(now.mono_ms());
        self.keep_deletion(deletion);
        self.note_deletion_due(until_ms, &address);
    }

    fn take_deletions(&mut self, address: &Arc<Address>) -> Vec<Deletion> {
        let deletions = self.shared.as_mut().and_then(|shared| shared.deletions.remove(address));
        deletions.unwrap_or_default()
    }

    fn keep_deletion(&mut self, deletion: Deletion) {
        if let Some(shared) = &mut self.shared {
            let address = Arc::clone(&deletion.address);
            shared.deletions.entry(address).or_default().push(deletion);
        }
    }

    fn note_deletion_due(&mut self, due_ms: u64, address: &Arc<Address>) {
        if let Some(shared) = &mut self.shared {
            shared.note_due(due_ms, Due::Deletion(Arc::clone(address)));
        }
    }
}

impl Deletion {
    fn succeed(self, told: &mut Told) {
        let address = (*self.address).clone();
        let answer = match address.channel.is_every() {
            true => RoomAnswer::RoomDeleted(address.room),
            false => RoomAnswer::ChannelDeleted(address),
        };
        self.end(Ok(answer), told);
    }

    fn fail(self, refusal: Refusal, told: &mut Told) {
        self.end(Err(refusal), told);
    }

    fn end(self, outcome: Result<RoomAnswer, Refusal>, told: &mut Told) {
        let Deletion { conn, question, .. } = self;
        let answer = Answer { conn: conn.conn, question, outcome };
        told.tell(conn.shard, Tell::Answer(Box::new(answer)));
    }
}

/// What it is, and the parameter that names it.
fn named(address: &Address) -> (String, &'static str) {
    match address.channel.is_every() {
        true => (format!("The room {}", address.room), "parameters.room"),
        false => (format!("The channel {address}"), "parameters.channel"),
    }
}

fn still_needed(address: &Address) -> Refusal {
    let (what, field) = named(address);
    let fault = match address.channel.is_every() {
        true => Fault::RoomNotEmpty,
        false => Fault::ChannelNotEmpty,
    };
    let message = format!("{what} is still in use on another node; try again in some seconds.");
    Refusal::of_field(fault, field, message)
}

fn unavailable(address: &Address) -> Refusal {
    let (what, field) = named(address);
    let message = format!(
        "{what} can't be deleted while this node does not reach the others; try again later."
    );
    Refusal::of_field(Fault::StorageUnavailable, field, message)
}

fn unknown(address: &Address) -> Refusal {
    let (what, field) = named(address);
    let message =
        format!("{what} is not known to be gone on all nodes; look whether it is, or try again.");
    Refusal::of_field(Fault::StorageUnavailable, field, message)
}
