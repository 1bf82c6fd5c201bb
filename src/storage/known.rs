//! What is known to be kept of rooms and channels, so that it can be told again to a Redis that has
//! forgotten it: one that came back empty, or with an older state.

use crate::base::hash::{Map, seeded};
use crate::broker::late::{KeptRoom, Merged};
use crate::broker::record::{ChannelRecord, Record, RoomRecord, Snapshot};
use crate::protocol::command::Address;
use crate::protocol::names::Name;
use std::sync::Arc;

/// What is kept of one room, but for what was said in it.
#[derive(Debug)]
pub(super) struct Kept {
    room: Option<Box<RoomRecord>>,
    channels: Vec<ChannelRecord>,
}

impl Kept {
    pub(super) fn of(kept: &KeptRoom) -> Kept {
        let channels = kept.channels.iter().map(|channel| channel.record.clone());
        Kept { room: kept.room.clone().map(Box::new), channels: channels.collect() }
    }
}

#[derive(Debug)]
pub(super) struct Known {
    rooms: Map<Name, Box<RoomRecord>>,
    channels: Map<Arc<Address>, Box<ChannelRecord>>,
}

impl Known {
    pub(super) fn new() -> Known {
        let hasher = seeded(fastrand::u64(..));
        Known { rooms: Map::with_hasher(hasher.clone()), channels: Map::with_hasher(hasher) }
    }

    /// Notes what a record says.
    pub(super) fn note(&mut self, record: &Record) {
        match record {
            Record::Room(room) => _ = self.rooms.insert(room.name.clone(), room.clone()),
            Record::RoomGone(name) => {
                self.rooms.remove(name);
                self.channels.remove(&Address { room: name.clone(), channel: Name::every() });
            }
            Record::Channel(channel) => {
                self.channels.insert(Arc::clone(&channel.address), channel.clone());
            }
            Record::ChannelGone(address) => _ = self.channels.remove(address),
            Record::Event(_) | Record::Merged(_) | Record::Peer(_) | Record::Session(_) => {}
        }
    }

    /// Notes what was read back.
    pub(super) fn note_all(&mut self, snapshot: &Snapshot) {
        for room in &snapshot.rooms {
            self.rooms.insert(room.name.clone(), Box::new(room.clone()));
        }
        for channel in &snapshot.channels {
            let record = Box::new(channel.record.clone());
            self.channels.insert(Arc::clone(&record.address), record);
        }
    }

    /// Notes what was read late of a room, and what became of it.
    pub(super) fn note_late(&mut self, kept: Kept, merged: &Merged) {
        if let Some(room) = kept.room {
            self.rooms.insert(room.name.clone(), room);
        }
        let now = merged.channels.iter().filter_map(|channel| channel.record.clone());
        for record in kept.channels.into_iter().chain(now) {
            self.channels.insert(Arc::clone(&record.address), Box::new(record));
        }
    }

    /// A channel in this life of it.
    pub(super) fn channel(
        &self,
        address: &Arc<Address>,
        epoch: &str,
    ) -> Option<Box<ChannelRecord>> {
        self.channels.get(address).filter(|channel| *channel.epoch == *epoch).cloned()
    }

    /// Everything, in the order of the names.
    pub(super) fn all(&self) -> Vec<Record> {
        let mut rooms: Vec<_> = self.rooms.values().cloned().collect();
        rooms.sort_by(|a, b| a.name.cmp(&b.name));
        let mut channels: Vec<_> = self.channels.values().cloned().collect();
        channels.sort_by(|a, b| {
            (&a.address.room, &a.address.channel).cmp(&(&b.address.room, &b.address.channel))
        });
        let rooms = rooms.into_iter().map(Record::Room);
        rooms.chain(channels.into_iter().map(Record::Channel)).collect()
    }
}
