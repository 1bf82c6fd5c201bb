//! Reading what could not be read at the start, when Redis can be reached for the first time.
//!
//! Everything is read before anything is written, and each room is given to its home, which puts it
//! together with what it has by then ([`crate::broker::late`]). The answers say what of the backlog is
//! still to be written, and how; when all have come, writing begins.
//!
//! *Invariants*: nothing is written while a home has not answered, and nothing bound anew: so what was
//! read stays true. Losses of that time are kept back, since homes that have answered count by other
//! sequences. What can't be read leaves the storage degraded, with the reason, and is tried again.

use super::{Keeper, RENEW};
use crate::broker::late::Merged;
use crate::broker::peers::To;
use crate::broker::record::{Snapshot, StorageNews};
use crate::protocol::names::Name;
use crate::storage::known::Kept;
use crate::storage::trouble::Trouble;
use std::collections::BTreeMap;
use std::time::Instant;

/// How far what is kept has been read, where that could not be done at the start.
#[derive(Debug, Default)]
pub(super) enum Late {
    /// It is known to the homes.
    #[default]
    Known,
    /// It is to be read.
    Unread,
    /// It was told to the homes; these rooms have not been answered.
    Told(BTreeMap<Name, Kept>),
}

impl Keeper {
    /// Reads everything, and gives it to the homes.
    pub(super) async fn read_late(&mut self) {
        match self.read(self.now()).await {
            Ok((snapshot, unusable)) => {
                self.look_at_all(snapshot.channels.iter().map(|kept| &kept.record.address));
                self.tell_late(snapshot);
                self.quarantine_all(unusable);
            }
            Err(trouble) => {
                if let Trouble::Fenced(generation) = trouble {
                    self.holder.saw(generation);
                }
                self.fail(trouble);
            }
        }
    }

    fn tell_late(&mut self, snapshot: Snapshot) {
        let (rooms, channels) = (snapshot.rooms.len(), snapshot.channels.len());
        let messages: usize = snapshot.channels.iter().map(|kept| kept.messages.len()).sum();
        tracing::info!(
            rooms,
            channels,
            messages,
            "what was kept is read; it is put together with what was made and said meanwhile"
        );
        self.take_in();
        let mut told = BTreeMap::new();
        for kept in snapshot.by_room() {
            told.insert(kept.name.clone(), Kept::of(&kept));
            let to = To::Room(kept.name.clone());
            (self.tell)(to, StorageNews::Late(Box::new(kept)));
        }
        self.state.late = Late::Told(told);
        self.go_on_if_answered();
    }

    /// Waits until the homes have answered; what they say is taken in with all other records.
    pub(super) async fn await_homes(&mut self) {
        let renew_at = self.state.bond.as_ref().map(|bond| bond.renew_at);
        match self.state.bond.clone() {
            Some(bond) if bond.renew_at <= Instant::now() => self.renew(&bond).await,
            _ => self.rest(Some(renew_at.unwrap_or_else(|| Instant::now() + RENEW))).await,
        }
    }

    /// A home has put a room together.
    pub(super) fn on_merged(&mut self, merged: Merged) {
        let Late::Told(told) = &mut self.state.late else { return self.on_found_merged(merged) };
        let Some(kept) = told.remove(&merged.room) else { return };
        self.known.note_late(kept, &merged);
        self.backlog.merge(merged);
        self.go_on_if_answered();
    }

    fn go_on_if_answered(&mut self) {
        if matches!(&self.state.late, Late::Told(told) if told.is_empty()) {
            self.state.late = Late::Known;
            self.backlog.forget_idle();
            self.tell_losses();
            if !self.backlog.has_due() {
                self.recover();
            }
        }
    }
}
