//! What waits for a lane or for an answer, bounded by count and by bytes.
//!
//! *Invariant*: `bytes` is the sum over all that waits.

use crate::base::limits::LANE_STAGED_BYTES_MAX;
use crate::broker::lane::{Ask, ClientsPart, Part, RoomAnswer, RoomWish, Tell};
use crate::broker::peers::{PeerNews, PeerNote, PeerRecord};
use crate::broker::record::{Record, StorageNews};
use crate::broker::returning::SessionRecord;
use crate::protocol::views::{ClientRow, RoomRow};
use std::collections::VecDeque;

/// What a row of a list takes, about.
const ROW_BYTES: usize = 128;
/// What a name in a list takes: a pointer to it, its share of a `Vec`.
const NAME_BYTES: usize = 24;

/// Something whose memory counts where it waits.
pub trait Weigh {
    /// The bytes of the messages it carries; what is small whatever a client sends weighs nothing.
    fn weight(&self) -> usize;
}

/// What waits, in order.
#[derive(Debug)]
pub struct Staged<T> {
    items: VecDeque<T>,
    bytes: usize,
}

impl<T> Default for Staged<T> {
    fn default() -> Staged<T> {
        Staged { items: VecDeque::new(), bytes: 0 }
    }
}

impl<T: Weigh> Staged<T> {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether no more should come, where so many may wait.
    pub fn is_full(&self, count_max: usize) -> bool {
        self.items.len() >= count_max || self.bytes >= LANE_STAGED_BYTES_MAX
    }

    /// The bytes of all that waits.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// All that waits, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &T> + Clone {
        self.items.iter()
    }

    /// Adds one at the end.
    pub fn push_back(&mut self, item: T) {
        self.bytes += item.weight();
        self.items.push_back(item);
    }

    /// Puts one back that was taken and found no room.
    pub fn push_front(&mut self, item: T) {
        self.bytes += item.weight();
        self.items.push_front(item);
    }

    /// Takes the first one.
    pub fn pop_front(&mut self) -> Option<T> {
        let item = self.items.pop_front()?;
        self.bytes -= item.weight();
        Some(item)
    }

    /// Changes what waits in any way; all of it is weighed anew.
    pub fn edit(&mut self, change: impl FnOnce(&mut VecDeque<T>)) {
        change(&mut self.items);
        self.bytes = self.items.iter().map(Weigh::weight).sum();
    }

    /// Asserts the invariant; for tests and the simulator.
    pub fn check(&self) {
        assert_eq!(self.bytes, self.items.iter().map(Weigh::weight).sum::<usize>());
    }
}

impl Weigh for Ask {
    fn weight(&self) -> usize {
        match self {
            Ask::Publish(publish) => publish.draft.length(),
            Ask::Private(ask) => ask.frame.wire().len(),
            Ask::Room(ask) => match &ask.wish {
                RoomWish::CreateChannel(create) => {
                    create.metadata.as_ref().map_or(0, |metadata| metadata.get().len())
                }
                RoomWish::Announce(_, frame) => frame.wire().len(),
                _ => 0,
            },
            Ask::Storage(news) => news.weight(),
            _ => 0,
        }
    }
}

impl Weigh for StorageNews {
    fn weight(&self) -> usize {
        match self {
            StorageNews::Stored(channels) => size_of_val(&channels[..]),
            StorageNews::Late(kept) => {
                let messages = kept.channels.iter().flat_map(|channel| &channel.messages);
                messages.map(|frame| frame.memory_bytes()).sum()
            }
            StorageNews::Peer(news) => news.weight(),
            _ => 0,
        }
    }
}

impl Weigh for Record {
    fn weight(&self) -> usize {
        let kept = match self {
            Record::Event(event) => event.frame.memory_bytes(),
            Record::Channel(channel) => {
                let metadata = channel.metadata.as_ref().map_or(0, |metadata| metadata.get().len());
                metadata + channel.guests.len() * ROW_BYTES
            }
            Record::Merged(merged) => {
                let said = merged.channels.iter().filter_map(|channel| channel.said.as_ref());
                let dropped: usize = said.map(|said| size_of_val(&said.dropped[..])).sum();
                merged.channels.len() * ROW_BYTES + dropped
            }
            Record::Peer(record) => record.weight(),
            Record::Session(record) => record.weight(),
            Record::Room(_) | Record::RoomGone(_) | Record::ChannelGone(_) => ROW_BYTES,
        };
        size_of::<Record>() + kept
    }
}

impl Weigh for SessionRecord {
    fn weight(&self) -> usize {
        match self {
            SessionRecord::Here(_, kept) | SessionRecord::Left(_, kept) => {
                size_of_val(&**kept) + kept.subscriptions.len() * ROW_BYTES
            }
            SessionRecord::Over(..) | SessionRecord::Recall(..) => 0,
        }
    }
}

impl Weigh for PeerRecord {
    fn weight(&self) -> usize {
        match self {
            PeerRecord::Submit(submission) => {
                size_of_val(&**submission) + submission.draft.length()
            }
            PeerRecord::Send(_, note) | PeerRecord::SendAll(note) => note.weight(),
            _ => ROW_BYTES,
        }
    }
}

impl Weigh for PeerNote {
    fn weight(&self) -> usize {
        match self {
            PeerNote::Private { frame, .. } | PeerNote::Announce { frame, .. } => {
                frame.wire().len()
            }
            PeerNote::Clients(clients) => clients.part.weight(),
            PeerNote::Disconnect { .. } | PeerNote::LetGo(_) | PeerNote::AskClients { .. } => {
                ROW_BYTES
            }
        }
    }
}

impl Weigh for PeerNews {
    fn weight(&self) -> usize {
        match self {
            PeerNews::Attached { kept, .. } => {
                kept.messages.iter().map(|frame| frame.memory_bytes()).sum()
            }
            PeerNews::Arrived { events, .. } => {
                events.iter().map(|event| event.frame.memory_bytes()).sum()
            }
            PeerNews::Placed { places, .. } => size_of_val(&places[..]),
            PeerNews::Note(note) => note.weight(),
            PeerNews::Clients(_, clients) => clients.part.weight(),
            _ => ROW_BYTES,
        }
    }
}

impl Weigh for ClientsPart {
    fn weight(&self) -> usize {
        let row = |row: &ClientRow| ROW_BYTES + row.bytes();
        ROW_BYTES + self.rows.rows.iter().map(row).sum::<usize>()
    }
}

impl Weigh for Tell {
    fn weight(&self) -> usize {
        match self {
            Tell::Fanout(fanout) => fanout.frame.wire().len(),
            Tell::Deliver(_, frame) => frame.wire().len(),
            Tell::Accepted(accepted) => accepted.frame.wire().len(),
            Tell::Joined(joined) => {
                let replay: usize = joined.replay.iter().map(|frame| frame.wire().len()).sum();
                replay + joined.view.channels.len() * ROW_BYTES
            }
            Tell::Presence(tell) => {
                tell.notices.iter().map(|notice| notice.frame.wire().len()).sum()
            }
            Tell::Answer(answer) => match &answer.outcome {
                Ok(RoomAnswer::History(view)) => view.messages.len(),
                Ok(RoomAnswer::Channel(view)) => view.participants.len() * ROW_BYTES,
                Ok(RoomAnswer::Channels(view)) => view.channels.len() * ROW_BYTES,
                Ok(RoomAnswer::Room(view)) => view.channels.len() * NAME_BYTES,
                _ => 0,
            },
            Tell::Part { part: Part::Rooms(part), .. } => {
                part.rows.iter().map(RoomRow::bytes).sum()
            }
            Tell::Part { part: Part::Clients(part), .. } => part.weight(),
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Stone(usize);

    impl Weigh for Stone {
        fn weight(&self) -> usize {
            self.0
        }
    }

    #[test]
    fn it_is_full_by_count_or_by_bytes() {
        let mut staged = Staged::default();
        for _ in 0..3 {
            assert!(!staged.is_full(3));
            staged.push_back(Stone(1));
        }
        assert!(staged.is_full(3) && !staged.is_full(4));
        staged.push_back(Stone(LANE_STAGED_BYTES_MAX));
        assert!(staged.is_full(100));
        staged.check();
        while let Some(stone) = staged.pop_front() {
            staged.check();
            if stone.0 > 1 {
                staged.push_front(stone);
                break;
            }
        }
        staged.edit(VecDeque::clear);
        assert!(staged.is_empty() && !staged.is_full(1));
    }
}
