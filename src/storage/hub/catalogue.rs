//! The rooms and channels that there are: what Redis has of them, as far as it was told.
//!
//! Every change is counted in Redis. Where the count is lower than it was, Redis has forgotten some,
//! and what is known is told to it again; otherwise what is not there any more another node has
//! deleted.

use super::Hub;
use super::call::anew;
use crate::broker::peers::{PeerNews, To};
use crate::broker::record::{ChannelRecord, KeptChannel, Record, RoomRecord, Snapshot};
use crate::broker::room::RoomType;
use crate::protocol::command::Address;
use crate::protocol::names::Name;
use crate::storage::backlog::Step;
use crate::storage::codec::{
    ChannelEnd, read_address, read_channel_text, read_name, read_room, room_text,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What was found.
pub(super) struct Listing {
    pub(super) rooms: Vec<RoomRecord>,
    pub(super) channels: Vec<Address>,
    /// Of those channels that were not known.
    pub(super) ends: Vec<ChannelEnd>,
}

/// What there is, as far as is known.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    rooms: BTreeMap<Name, RoomRecord>,
    /// By room and channel.
    channels: BTreeMap<(Name, Name), ChannelEnd>,
    /// How often it was changed.
    pub(super) changes: u64,
}

impl Catalogue {
    /// Whether a channel is known to be there.
    pub(super) fn has(&self, address: &Address) -> bool {
        self.channels.contains_key(&key(address))
    }

    /// The channels that are known.
    pub(super) fn addresses(&self) -> std::collections::HashSet<Address> {
        self.channels.values().map(|end| (*end.record.address).clone()).collect()
    }

    pub(super) fn note_room(&mut self, room: &RoomRecord) {
        self.rooms.insert(room.name.clone(), room.clone());
    }

    pub(super) fn note_channel(&mut self, channel: &ChannelRecord) {
        let end = ChannelEnd { record: channel.clone(), last: 0, last_us: 0 };
        self.channels.insert(key(&channel.address), end);
    }

    /// The order of a channel goes on in another term.
    pub(super) fn note_term(&mut self, address: &Address, term: u32, past: &[(u32, u64)]) {
        if let Some(ChannelEnd { record, .. }) = self.channels.get_mut(&key(address)) {
            (record.term, record.past) = (term, past.to_vec());
        }
    }

    /// Whether what is kept under a room's name may be replaced by it: it is known here. What a join
    /// makes is nothing that one would know better than who made a room on purpose.
    pub(super) fn may_replace(&self, room: &RoomRecord) -> bool {
        let is_dynamic = |room: &RoomRecord| room.room_type == RoomType::Dynamic;
        let known = self.rooms.get(&room.name);
        known.is_some_and(|known| is_dynamic(known) || !is_dynamic(room))
    }

    pub(super) fn drop_room(&mut self, name: &Name) {
        self.rooms.remove(name);
        self.channels.remove(&(name.clone(), Name::every()));
    }

    pub(super) fn drop_channel(&mut self, address: &Address) {
        self.channels.remove(&key(address));
    }

    /// Notes what was found; what of it is news, or what Redis has forgotten.
    fn compare(&mut self, listing: Listing, changes: u64) -> (Vec<PeerNews>, Vec<Record>) {
        let is_forgotten = changes < self.changes;
        self.changes = changes;
        let (mut news, mut forgotten) = (Vec::new(), Vec::new());
        let rooms: BTreeSet<Name> = listing.rooms.iter().map(|room| room.name.clone()).collect();
        let channels: BTreeSet<_> = listing.channels.iter().map(key).collect();
        for room in self.rooms.values().filter(|room| !rooms.contains(&room.name)) {
            match is_forgotten {
                true => forgotten.push(Record::Room(Box::new(room.clone()))),
                false => news.push(PeerNews::RoomGone(room.name.clone())),
            }
        }
        for (at, ChannelEnd { record: channel, .. }) in &self.channels {
            match (channels.contains(at), is_forgotten) {
                (true, _) => {}
                (false, true) => forgotten.push(Record::Channel(Box::new(anew(channel)))),
                (false, false) => news.push(PeerNews::ChannelGone(Arc::clone(&channel.address))),
            }
        }
        self.rooms.retain(|name, _| rooms.contains(name));
        self.channels.retain(|at, _| channels.contains(at));
        for room in listing.rooms {
            match self.rooms.get(&room.name) {
                Some(known) if text(known) == text(&room) => {}
                // It is as it once was.
                Some(known) if is_forgotten => {
                    forgotten.push(Record::Room(Box::new(known.clone())));
                }
                _ => {
                    self.note_room(&room);
                    news.push(PeerNews::Room(Box::new(room)));
                }
            }
        }
        for end in listing.ends {
            news.push(PeerNews::Channel(Box::new(end.record.clone())));
            self.channels.insert(key(&end.record.address), end);
        }
        (news, forgotten)
    }
}

impl Hub {
    /// It was looked which rooms and channels there are.
    pub(super) fn on_listing(&mut self, listing: Listing, changes: u64) {
        self.take_in();
        if !std::mem::replace(&mut self.state.is_listed, true) {
            self.give_way(&listing);
        }
        let (news, forgotten) = self.catalogue.compare(listing, changes);
        if !forgotten.is_empty() {
            tracing::warn!("Redis has forgotten what was kept; rooms and channels are told again");
        }
        // What waits of them comes after it.
        for record in forgotten.into_iter().rev() {
            self.backlog.push_first(record);
        }
        if self.state.is_loaded {
            news.into_iter().for_each(|news| self.tell_room(news));
        }
    }

    /// It is seen for the first time what there is: nobody here knew it who has wished meanwhile
    /// that it be deleted or another, so it stays, and is told.
    fn give_way(&mut self, listing: &Listing) {
        let rooms: BTreeSet<&Name> = listing.rooms.iter().map(|room| &room.name).collect();
        let channels: BTreeSet<_> = listing.channels.iter().map(key).collect();
        self.backlog.drop_steps(|address, step| match step {
            Step::Room(room) => rooms.contains(&room.name),
            Step::RoomGone(name) => rooms.contains(name) || channels.contains(&key(address)),
            Step::ChannelGone => channels.contains(&key(address)),
            Step::Channel(_) | Step::Task(_) | Step::Events(_) => false,
        });
    }

    /// Everything that there is; what was heard before is in it.
    pub(super) fn snapshot(&self) -> Snapshot {
        let kept = |end: &ChannelEnd| KeptChannel {
            record: end.record.clone(),
            last: end.last,
            last_us: end.last_us,
            messages: Vec::new(),
        };
        Snapshot {
            rooms: self.catalogue.rooms.values().cloned().collect(),
            channels: self.catalogue.channels.values().map(kept).collect(),
        }
    }

    /// A node has changed the catalogue.
    pub(super) fn on_catalogue(&mut self, message: &[u8]) {
        let told = String::from_utf8_lossy(message);
        let mut words = told.splitn(3, ' ');
        let (changes, token, what) = (words.next(), words.next(), words.next().unwrap_or(""));
        let changes = changes.and_then(|changes| changes.parse().ok()).unwrap_or(0);
        self.catalogue.changes = self.catalogue.changes.max(changes);
        if token == Some(&*self.token) {
            return;
        }
        match read(what) {
            Ok(news) => {
                match &news {
                    PeerNews::Room(room) => self.catalogue.note_room(room),
                    PeerNews::RoomGone(name) => self.catalogue.drop_room(name),
                    PeerNews::Channel(channel) => self.catalogue.note_channel(channel),
                    PeerNews::ChannelGone(address) => self.catalogue.drop_channel(address),
                    _ => {}
                }
                if self.state.is_loaded {
                    self.tell_room(news);
                }
            }
            Err(why) => tracing::warn!(why, "what was told of a room or a channel can't be read"),
        }
    }

    fn tell_room(&self, news: PeerNews) {
        let room = match &news {
            PeerNews::Room(room) => room.name.clone(),
            PeerNews::RoomGone(name) => name.clone(),
            PeerNews::Channel(channel) => channel.address.room.clone(),
            PeerNews::ChannelGone(address) => address.room.clone(),
            _ => return,
        };
        self.tell(To::Room(room), news);
    }
}

/// What a node has changed.
fn read(what: &str) -> Result<PeerNews, String> {
    let mut words = what.splitn(3, ' ');
    let (kind, name) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let rest = words.next().unwrap_or("");
    Ok(match kind {
        "room" => PeerNews::Room(Box::new(read_room(name, rest)?)),
        "room_gone" => PeerNews::RoomGone(read_name(name)?),
        "channel" => {
            let address = Arc::new(read_address(name)?);
            PeerNews::Channel(Box::new(read_channel_text(&address, rest)?))
        }
        "channel_gone" => PeerNews::ChannelGone(Arc::new(read_address(name)?)),
        other => return Err(format!("there is no change {other:?}")),
    })
}

fn key(address: &Address) -> (Name, Name) {
    (address.room.clone(), address.channel.clone())
}

fn text(room: &RoomRecord) -> Option<String> {
    room_text(room).ok()
}
