//! The rooms and channels that there are, as each node hears of them: what `storage::hub::catalogue` does,
//! played.

use super::Shared;
use super::hub::Answer;
use arqonbus::broker::peers::{PeerNews, To};
use arqonbus::broker::record::{ChannelRecord, RoomRecord};
use arqonbus::broker::room::RoomType;
use std::sync::Arc;

impl Shared {
    /// Keeps a room; one that is there stays, but for one that a join made while somebody has made this
    /// one on purpose, or changed it.
    pub(super) fn keep_room(&mut self, node: usize, room: &RoomRecord) -> Answer {
        let is_dynamic = |room: &RoomRecord| room.room_type == RoomType::Dynamic;
        let is_known = self.hubs[node].rooms.contains_key(&room.name);
        match self.redis.rooms.get(&room.name) {
            Some(kept) if is_dynamic(room) && !(is_dynamic(kept) && is_known) => {
                Answer::Kept(Some(kept.clone()), None)
            }
            _ => {
                self.redis.rooms.insert(room.name.clone(), room.clone());
                self.publish_change(node, &PeerNews::Room(Box::new(room.clone())));
                Answer::Done
            }
        }
    }

    /// Makes a channel if it is not there.
    pub(super) fn make(&mut self, node: usize, record: &ChannelRecord) -> bool {
        let is_new = self.redis.make(record);
        let news = PeerNews::Channel(Box::new(record.clone()));
        self.note_change(node, &news);
        if is_new {
            self.publish_change(node, &news);
        }
        is_new
    }

    /// Tells all others what this node has changed of the rooms and channels that there are.
    pub(super) fn publish_change(&mut self, node: usize, news: &PeerNews) {
        for other in self.listeners(node) {
            self.hubs[other].changes.push_back(news.clone());
        }
    }

    pub(super) fn note_change(&mut self, node: usize, news: &PeerNews) {
        let hub = &mut self.hubs[node];
        match news {
            PeerNews::Room(room) => _ = hub.rooms.insert(room.name.clone(), format!("{room:?}")),
            PeerNews::RoomGone(name) => {
                hub.rooms.remove(name);
                hub.channels.remove(&format!("{name}:*"));
            }
            PeerNews::Channel(record) => {
                let address = Arc::clone(&record.address);
                hub.channels.insert(address.to_string(), address);
            }
            PeerNews::ChannelGone(address) => _ = hub.channels.remove(&address.to_string()),
            _ => {}
        }
    }

    pub(super) fn tell_room(&mut self, node: usize, news: PeerNews) {
        let room = match &news {
            PeerNews::Room(room) => room.name.clone(),
            PeerNews::RoomGone(name) => name.clone(),
            PeerNews::Channel(channel) => channel.address.room.clone(),
            PeerNews::ChannelGone(address) => address.room.clone(),
            _ => return,
        };
        self.tell(node, To::Room(room), news);
    }

    /// Looks which rooms and channels there are; what of that is news is told.
    pub(super) fn relist(&mut self, node: usize) {
        let hub = &self.hubs[node];
        let mut news = Vec::new();
        for name in hub.rooms.keys().filter(|name| !self.redis.rooms.contains_key(*name)) {
            news.push(PeerNews::RoomGone(name.clone()));
        }
        let gone = hub.channels.iter().filter(|(key, _)| !self.redis.orders.contains_key(*key));
        news.extend(gone.map(|(_, address)| PeerNews::ChannelGone(Arc::clone(address))));
        let rooms = self.redis.rooms.values();
        let other = rooms.filter(|room| hub.rooms.get(&room.name) != Some(&format!("{room:?}")));
        news.extend(other.map(|room| PeerNews::Room(Box::new(room.clone()))));
        let orders = self.redis.orders.iter().filter(|(key, _)| !hub.channels.contains_key(*key));
        news.extend(orders.map(|(_, order)| PeerNews::Channel(Box::new(order.record.clone()))));
        for news in news {
            self.note_change(node, &news);
            self.tell_room(node, news);
        }
    }
}
