//! What several nodes share, played: it gives places, tells who is where, late or at once, and goes away.

use crate::base::ids::{ChannelId, ConnRef};
use crate::broker::peers::{
    Arrival, Attach, Peer, PeerId, PeerNews, PeerNote, PeerRecord, Place, Submission, To, Verdict,
};
use crate::broker::policy::ClientCard;
use crate::broker::record::{
    ChannelRecord, KeptChannel, Record, RoomRecord, Snapshot, StorageNews,
};
use crate::broker::returning::Stake;
use crate::protocol::command::Address;
use crate::protocol::frame::Frame;
use crate::protocol::names::Name;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// A member: on which node, of what, who.
type Resident = (usize, Arc<Address>, Arc<ClientCard>);

/// What several nodes share.
#[derive(Default)]
pub(in crate::broker::tests) struct Store {
    pub(super) rooms: BTreeMap<String, RoomRecord>,
    pub(super) channels: BTreeMap<String, Kept>,
    /// The client ids, and who has them.
    pub(super) ids: BTreeMap<Name, Held>,
    /// Who is a member of what, on which node.
    pub(super) members: BTreeMap<(String, Name), Resident>,
    pub(super) nodes: Vec<Node>,
    pub(super) terms: u32,
    /// The places that were given, by the ids of the events and the lives of their channel.
    pub(super) places: BTreeMap<String, BTreeMap<Arc<str>, u64>>,
}

/// One node, as the store sees it.
#[derive(Default)]
pub(super) struct Node {
    pub(super) news: VecDeque<(To, StorageNews)>,
    /// Its news are not taken to it now.
    pub(super) is_late: bool,
    /// It does not reach the store; what it records waits.
    pub(super) is_away: bool,
    pub(super) waiting: VecDeque<Record>,
    /// What it is told when it reaches the store again.
    pub(super) missed: Vec<(To, PeerNews)>,
    pub(super) is_dead: bool,
}

/// Who has a client id: on which node, which connection, for which session.
pub(super) type Held = (usize, ConnRef, Option<Stake>);

pub(super) struct Kept {
    pub(super) record: ChannelRecord,
    pub(super) frames: Vec<Arc<Frame>>,
    /// The nodes that follow it, under which id, and up to which sequence they were told.
    pub(super) followers: BTreeMap<usize, (ChannelId, u64)>,
}

impl Store {
    pub(super) fn tell(&mut self, node: usize, to: To, news: PeerNews) {
        if !self.nodes[node].is_dead {
            self.nodes[node].news.push_back((to, StorageNews::Peer(news)));
        }
    }

    fn tell_others(&mut self, node: usize, to: &To, news: &PeerNews) {
        for other in (0..self.nodes.len()).filter(|&other| other != node) {
            self.tell(other, to.clone(), news.clone());
        }
    }

    pub(super) fn take(&mut self, node: usize, record: Record) {
        match self.nodes[node].is_away {
            true => self.nodes[node].waiting.push_back(record),
            false => self.keep(node, record),
        }
    }

    fn keep(&mut self, node: usize, record: Record) {
        match record {
            Record::Room(room) => {
                let (to, news) = (To::Room(room.name.clone()), PeerNews::Room(room.clone()));
                self.rooms.insert(room.name.to_string(), *room);
                self.tell_others(node, &to, &news);
            }
            Record::RoomGone(name) => {
                let address = Arc::new(Address { room: name.clone(), channel: Name::every() });
                let (to, order) = (To::Room(name.clone()), address.to_string());
                let is_gone = !self.is_followed(node, &order);
                if is_gone {
                    self.rooms.remove(name.as_str());
                    self.channels.remove(&order);
                    self.tell_others(node, &to, &PeerNews::RoomGone(name));
                } else {
                    let room = self.rooms.get(name.as_str()).cloned().map(Box::new);
                    let record = Box::new(self.channels[&order].record.clone());
                    room.into_iter().for_each(|it| self.tell(node, to.clone(), PeerNews::Room(it)));
                    self.tell(node, to.clone(), PeerNews::Channel(record));
                }
                self.tell(node, to, PeerNews::Deleted { address, is_gone });
            }
            Record::Channel(channel) => _ = self.make(node, &channel),
            Record::ChannelGone(address) => {
                let (to, key) = (To::Room(address.room.clone()), address.to_string());
                let is_gone = !self.is_followed(node, &key);
                if is_gone && self.channels.remove(&key).is_some() {
                    self.tell_others(node, &to, &PeerNews::ChannelGone(address.clone()));
                } else if let Some(kept) = self.channels.get(&key) {
                    let again = Box::new(kept.record.clone());
                    self.tell(node, to.clone(), PeerNews::Channel(again));
                }
                self.tell(node, to, PeerNews::Deleted { address, is_gone });
            }
            Record::Event(event) => panic!("a shared storage gives the places: {event:?}"),
            Record::Peer(record) => self.keep_of_peers(node, *record),
            Record::Session(record) => panic!("no home has a session: {record:?}"),
            Record::Merged(merged) => panic!("who shares reads nothing late: {merged:?}"),
        }
    }

    /// A channel that a node follows has another life, as after other nodes have deleted and made it.
    pub(super) fn begin_anew(&mut self, node: usize, key: &str) {
        let kept = self.channels.get_mut(key).expect("it is there");
        kept.record.epoch = "another".into();
        kept.frames.clear();
        let (channel, _) = kept.followers[&node];
        self.attach(node, channel, key, false);
    }

    /// Whether a node follows a channel.
    pub(super) fn follows(&self, node: usize, key: &str) -> bool {
        self.channels.get(key).is_some_and(|kept| kept.followers.contains_key(&node))
    }

    /// Whether another node follows a channel.
    fn is_followed(&self, node: usize, key: &str) -> bool {
        let kept = self.channels.get(key);
        kept.is_some_and(|kept| kept.followers.keys().any(|&follower| follower != node))
    }

    fn make(&mut self, node: usize, record: &ChannelRecord) -> bool {
        let key = record.address.to_string();
        if self.channels.contains_key(&key) {
            return false;
        }
        let (record, frames) = (record.clone(), Vec::new());
        let to = To::Room(record.address.room.clone());
        self.tell_others(node, &to, &PeerNews::Channel(Box::new(record.clone())));
        self.channels.insert(key, Kept { record, frames, followers: BTreeMap::new() });
        true
    }

    fn keep_of_peers(&mut self, node: usize, record: PeerRecord) {
        match record {
            PeerRecord::Attach(attach) => {
                let Attach { channel, record, .. } = *attach;
                let is_new = self.make(node, &record);
                self.attach(node, channel, &record.address.to_string(), is_new);
            }
            PeerRecord::Detach(_, address) => {
                if let Some(kept) = self.channels.get_mut(&address.to_string()) {
                    kept.followers.remove(&node);
                }
            }
            PeerRecord::Submit(submission) => self.submit(node, &submission),
            PeerRecord::Fork { address, base, .. } => {
                self.terms += 1;
                let term = self.terms;
                let Some(kept) = self.channels.get_mut(&address.to_string()) else { return };
                let sure = base.min(kept.frames.len() as u64);
                let before = std::mem::replace(&mut kept.record.term, term);
                kept.record.past.push((before, sure));
                let past = kept.record.past.clone();
                for (node, (channel, _)) in kept.followers.clone() {
                    let news = PeerNews::Term { channel, term, past: past.clone() };
                    self.tell(node, To::Shard(channel.home()), news);
                }
            }
            PeerRecord::Member { address, client, is_member } => {
                let key = (address.to_string(), client.client_id.clone());
                let member = (node, Arc::clone(&address), Arc::clone(&client));
                match is_member {
                    true => _ = self.members.insert(key, member),
                    false => _ = self.members.remove(&key),
                }
                let (to, peer) = (To::Room(address.room.clone()), PeerId(node as u32));
                let news = PeerNews::Member { peer, address, client, is_member };
                self.tell_others(node, &to, &news);
            }
            PeerRecord::Claim(client_id, conn, stake) => self.claim(node, client_id, (conn, stake)),
            PeerRecord::Release(client_id) => {
                if self.ids.get(&client_id).is_some_and(|(of, ..)| *of == node) {
                    self.ids.remove(&client_id);
                }
                self.tell_client(node, &client_id, false);
            }
            PeerRecord::Send(peer, note) => self.send(node, peer.0 as usize, note),
            PeerRecord::SendAll(note) => {
                for other in (0..self.nodes.len()).filter(|&other| other != node) {
                    self.send(node, other, note.clone());
                }
            }
        }
    }

    /// Who claims an id for a later life of its session takes it over.
    fn claim(&mut self, node: usize, client_id: Name, (conn, stake): (ConnRef, Option<Stake>)) {
        let to = To::Client(client_id.clone());
        let held = self.ids.get(&client_id).copied().filter(|(of, ..)| *of != node);
        let is_later = |of: Stake| stake.is_some_and(|it| it.key == of.key && it.life > of.life);
        let verdict = match held {
            None => Verdict::Granted,
            Some((.., of)) if of.is_some_and(is_later) => Verdict::Granted,
            Some(_) => Verdict::Taken,
        };
        if verdict == Verdict::Granted {
            self.ids.insert(client_id.clone(), (node, conn, stake));
            self.tell_client(node, &client_id, true);
        }
        self.tell(
            node,
            to.clone(),
            PeerNews::Claimed { client_id: client_id.clone(), conn, verdict },
        );
        if let Some((of, conn, _)) = held.filter(|_| verdict == Verdict::Granted) {
            self.tell_client(of, &client_id, false);
            let lost = PeerNews::Claimed { client_id, conn, verdict: Verdict::Superseded };
            match self.nodes[of].is_away {
                true => self.nodes[of].missed.push((to, lost)),
                false => self.tell(of, to, lost),
            }
        }
    }

    fn tell_client(&mut self, node: usize, client_id: &Name, is_connected: bool) {
        let (peer, client_id) = (PeerId(node as u32), client_id.clone());
        let to = To::Client(client_id.clone());
        self.tell_others(node, &to, &PeerNews::Client { peer, client_id, is_connected });
        for other in 0..self.nodes.len() {
            let peers = (0..self.nodes.len()).filter(|&at| at != other && !self.nodes[at].is_dead);
            let peers = peers.map(|at| Peer {
                id: PeerId(at as u32),
                node: format!("n{at}"),
                clients: self.ids.values().filter(|(of, ..)| *of == at).count() as u64,
            });
            let peers = Arc::new(peers.collect());
            self.tell(other, To::All, PeerNews::Peers(peers));
        }
    }

    fn send(&mut self, from: usize, node: usize, note: PeerNote) {
        let peer = PeerId(from as u32);
        let to = match &note {
            PeerNote::AskClients { reply_to, rows } => {
                let (reply_to, rows) = (*reply_to, rows.clone());
                return self.tell(node, To::All, PeerNews::AskClients { peer, reply_to, rows });
            }
            PeerNote::Clients(clients) => {
                let to = To::Shard(clients.reply_to.shard);
                return self.tell(node, to, PeerNews::Clients(peer, clients.clone()));
            }
            PeerNote::Private { targets, .. } => {
                for target in targets.clone() {
                    let PeerNote::Private { frame, .. } = &note else { return };
                    let frame = frame.clone();
                    let one = PeerNote::Private { targets: vec![target.clone()], frame };
                    self.tell(node, To::Client(target), PeerNews::Note(one));
                }
                return;
            }
            PeerNote::Disconnect { client_id, .. } => To::Client(client_id.clone()),
            PeerNote::LetGo(address) => To::Room(address.room.clone()),
            PeerNote::Announce { room: Some(room), .. } => To::Room(room.clone()),
            PeerNote::Announce { room: None, .. } => To::All,
        };
        self.tell(node, to, PeerNews::Note(note));
    }

    fn attach(&mut self, node: usize, channel: ChannelId, key: &str, is_new: bool) {
        let Some(kept) = self.channels.get_mut(key) else { return };
        let last = kept.frames.len() as u64;
        kept.followers.insert(node, (channel, last));
        let from = kept.frames.len().saturating_sub(500);
        let kept = Arc::new(KeptChannel {
            record: kept.record.clone(),
            last,
            last_us: kept.frames.last().map_or(0, |frame| frame.timestamp_us),
            messages: kept.frames[from..].to_vec(),
        });
        let to = To::Shard(channel.home());
        self.tell(node, to, PeerNews::Attached { channel, kept, is_new });
    }

    fn submit(&mut self, node: usize, submission: &Submission) {
        let Submission { channel, address, ticket, seen, draft, at_us, .. } = submission;
        let kept = self.channels.get_mut(&address.to_string()).expect("who submits has attached");
        assert!(*seen <= kept.frames.len() as u64, "nobody has seen what is not there");
        let unseen = &kept.frames[*seen as usize..];
        let first = unseen.iter().find(|frame| frame.identity() == draft.identity());
        let (ticket, is_duplicate) = (*ticket, first.is_some());
        let sequence = first.map_or(kept.frames.len() as u64 + 1, |frame| frame.sequence);
        let to = To::Shard(channel.home());
        if !is_duplicate {
            let last_us = kept.frames.last().map_or(0, |frame| frame.timestamp_us);
            let stamp = || (**draft).clone().stamp(sequence, last_us.max(*at_us));
            kept.frames.push(stamp());
            let key = format!("{address} {}", draft.id());
            let life = kept.record.epoch.clone();
            let places = self.places.entry(key).or_default();
            let before = places.insert(life, sequence);
            assert_eq!(
                before,
                None,
                "a repeat gets no place: {address} {} seen {seen}",
                draft.id()
            );
            for (follower, (channel, last)) in kept.followers.clone() {
                if self.nodes[follower].is_away {
                    continue;
                }
                assert_eq!(last + 1, sequence, "who is not away is told at once");
                let ticket = (follower == node).then_some(ticket);
                let events = vec![Arrival { frame: stamp(), ticket }];
                self.tell(
                    follower,
                    To::Shard(channel.home()),
                    PeerNews::Arrived { channel, events },
                );
                let kept = self.channels.get_mut(&address.to_string()).expect("it is there");
                kept.followers.insert(follower, (channel, sequence));
            }
        }
        let places = vec![Place { ticket, sequence, is_duplicate }];
        self.tell(node, to, PeerNews::Placed { channel: *channel, places });
    }

    /// A node does not reach the store any more.
    pub(super) fn leave(&mut self, node: usize) {
        self.nodes[node].is_away = true;
        let news = StorageNews::Degraded("gone".into());
        self.nodes[node].news.push_back((To::All, news));
    }

    /// A node reaches the store again: what it missed is told, and what waited is kept.
    pub(super) fn come_back(&mut self, node: usize) {
        self.nodes[node].is_away = false;
        let mut missed = Vec::new();
        for kept in self.channels.values_mut() {
            if let Some((channel, last)) = kept.followers.get_mut(&node) {
                let frames = kept.frames[*last as usize..].to_vec();
                *last = kept.frames.len() as u64;
                missed.push((*channel, kept.record.clone(), frames));
            }
        }
        for (channel, record, frames) in missed {
            let to = To::Shard(channel.home());
            let (term, past) = (record.term, record.past);
            self.tell(node, to.clone(), PeerNews::Term { channel, term, past });
            if !frames.is_empty() {
                let events =
                    frames.into_iter().map(|frame| Arrival { frame, ticket: None }).collect();
                self.tell(node, to, PeerNews::Arrived { channel, events });
            }
        }
        for (to, news) in std::mem::take(&mut self.nodes[node].missed) {
            self.tell(node, to, news);
        }
        for record in std::mem::take(&mut self.nodes[node].waiting) {
            self.keep(node, record);
        }
        self.nodes[node].news.push_back((To::All, StorageNews::Restored));
    }

    /// A node is dead.
    pub(super) fn bury(&mut self, node: usize) {
        self.nodes[node].is_dead = true;
        self.ids.retain(|_, (of, ..)| *of != node);
        self.members.retain(|_, (of, ..)| *of != node);
        self.channels.values_mut().for_each(|kept| _ = kept.followers.remove(&node));
        self.tell_others(node, &To::All, &PeerNews::PeerGone(PeerId(node as u32)));
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let kept = self.channels.values().map(|kept| KeptChannel {
            record: kept.record.clone(),
            last: kept.frames.len() as u64,
            last_us: 0,
            messages: Vec::new(),
        });
        let (rooms, channels) = (self.rooms.values().cloned().collect(), kept.collect());
        Snapshot { rooms, channels, is_unread: false }
    }
}
