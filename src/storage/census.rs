//! Who is connected where, and who is in which channels, on every node of a bus.
//!
//! The nodes that share a Redis talk over its pub/sub: each hears what is said to everyone and what
//! is said to it alone. Nothing of that is kept, and any of it may be lost, late or said twice. So
//! nodes count what they say, and who misses something asks for all:
//!
//! | message | to | when |
//! |---|---|---|
//! | `changes` | everyone | clients came, left, joined: all since the last of these, with the next number |
//! | `beat` | everyone | each second, with the last number and the counts of clients and memberships |
//! | `beat`, `hello` | everyone | Redis is reached; each node answers to this one with a beat |
//! | `ask` | one | a number is missing, or the counts are not those of its table |
//! | `part` | one | the answer, in parts: all clients, see `peer` |
//! | `note` | one, or everyone | something for clients, or about them, told at once, once, or never |
//! | `bye` | everyone | the process ends |
//!
//! A token stands for one life of a node; it begins without clients at number 0, so who hears a
//! token for the first time needs no other rule than who missed something. A node that says nothing
//! for a lease is gone. One that can't reach Redis knows nothing of others and waits; and so does one
//! whose thread stood still.
//!
//! This is a state machine: the hub gives it what comes and the time, and takes what is to be sent
//! and what is to be told.
//!
//! | file | what it does |
//! |---|---|
//! | `own` | the clients of this node, and what is to be said of them |
//! | `peer` | the clients of another node, and how far they are known |
//! | `table` | the clients of one node |
//! | `wire` | the messages as JSON |
//!
//! *Invariants*: applied in order, the news of a peer make its table, and each changes something;
//! [`PeerNews::PeerGone`] is the last of a peer, and its id is not used again; messages and what
//! waits are bounded; no message leads to a panic.
//!
//! *Not here*: sockets, clocks, and who may have a client id (`claims`).

mod own;
mod peer;
mod table;
mod wire;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use crate::base::time::Now;
use crate::broker::peers::{Peer as PeerView, PeerId, PeerNews, PeerNote, To};
use crate::broker::policy::ClientCard;
use crate::protocol::command::Address;
use crate::protocol::names::Name;
use crate::storage::settings::LEASE_MS;
use own::Own;
use peer::{Desk, Part, Peer};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use table::Addresses;
use wire::{Message, Note, ROW_CHANNELS_MAX, Say, decode, encode};

/// How often a node says that it lives, and at most tells which peers there are.
const BEAT_MS: u64 = 1_000;
/// A time between two ticks in which this node can't have heard what was said to it.
const STALL_MS: u64 = LEASE_MS / 2;
/// The bytes of rows at which a message is full: with the longest row on top it stays under 256 KiB.
const ROWS_BYTES: usize = 192 * 1024;
/// The bytes that are taken at once, about.
const TAKE_BYTES: usize = 1024 * 1024;
/// The bytes of notes that may wait to be taken; more are lost.
const NOTES_BYTES_MAX: usize = 64 * 1024 * 1024;

const _: () = assert!(ROWS_BYTES + ROW_CHANNELS_MAX * 136 + 8 * 1024 < 256 * 1024);

/// Who shall hear a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// All nodes; this one may, too.
    Everyone,
    /// The node of this token.
    One(String),
}

/// A message to be sent.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub(super) to: Reach,
    pub(super) bytes: Vec<u8>,
}

/// All nodes of a bus, as one of them knows them.
#[derive(Debug)]
pub(super) struct Census {
    token: String,
    node: String,
    own: Own,
    /// By token.
    peers: BTreeMap<String, Peer>,
    addresses: Addresses,
    is_connected: bool,
    ticked_ms: u64,
    beat_due_ms: u64,
    next_peer: u32,
    next_ask: u64,
    /// Beats that wait for the changes before them, and whether they say hello.
    beats: VecDeque<(Reach, bool)>,
    asks: VecDeque<Outgoing>,
    notes: VecDeque<Outgoing>,
    notes_bytes: usize,
    told_peers: Vec<PeerView>,
    news: Vec<(To, PeerNews)>,
    departed: Vec<String>,
    garbled: u64,
    lost_notes: u64,
}

impl Census {
    /// Of a node by this token, which no node ever had before, and this name. It is not connected.
    pub(super) fn new(token: String, node: String, seed: u64) -> Census {
        Census {
            token,
            node,
            own: Own::new(ROWS_BYTES),
            peers: BTreeMap::new(),
            addresses: Addresses::new(seed),
            is_connected: false,
            ticked_ms: 0,
            beat_due_ms: 0,
            next_peer: 0,
            next_ask: 0,
            beats: VecDeque::new(),
            asks: VecDeque::new(),
            notes: VecDeque::new(),
            notes_bytes: 0,
            told_peers: Vec::new(),
            news: Vec::new(),
            departed: Vec::new(),
            garbled: 0,
            lost_notes: 0,
        }
    }

    // What the hub asks.

    /// When [`Census::tick`] has something to do, on the monotonic clock.
    pub(super) fn next_due_ms(&self) -> Option<u64> {
        let lease_ends = self.peers.values().map(|peer| peer.heard_ms + LEASE_MS);
        let asks = self.peers.values().filter_map(Peer::ask_due_ms);
        let due_ms = lease_ends.chain(asks).fold(self.beat_due_ms, u64::min);
        self.is_connected.then_some(due_ms)
    }

    /// The messages that were passed over because they could not be read.
    pub(super) fn garbled(&self) -> u64 {
        self.garbled
    }

    /// The notes that nobody was sent.
    pub(super) fn lost_notes(&self) -> u64 {
        self.lost_notes
    }

    /// The peers that there are, in the order of their ids.
    pub(super) fn peers(&self) -> Vec<PeerView> {
        let view = |peer: &Peer| PeerView {
            id: peer.id,
            node: peer.node.clone(),
            clients: peer.clients(),
        };
        let mut peers: Vec<_> = self.peers.values().map(view).collect();
        peers.sort_by_key(|peer| peer.id);
        peers
    }

    // What comes.

    /// A client of this node is a member of a channel now, or is none.
    pub(super) fn on_member(
        &mut self,
        address: &Arc<Address>,
        client: &Arc<ClientCard>,
        is_member: bool,
    ) {
        self.own.on_member(address, client, is_member);
    }

    /// A client id is connected to this node now, or is not.
    pub(super) fn on_client(&mut self, client_id: &Name, is_connected: bool) {
        self.own.on_client(client_id, is_connected);
    }

    /// Something is for one peer.
    pub(super) fn send(&mut self, now: Now, peer: PeerId, note: &PeerNote) {
        let token = self.peers.iter().find(|(_, known)| known.id == peer).map(|(token, _)| token);
        match token.cloned() {
            Some(token) => self.put_note(now, Reach::One(token), note),
            None => self.lost_notes += 1,
        }
    }

    /// Something is for all peers.
    pub(super) fn send_all(&mut self, now: Now, note: &PeerNote) {
        self.put_note(now, Reach::Everyone, note);
    }

    /// Redis is reached, and what is said is heard; or it is not any more.
    pub(super) fn set_connected(&mut self, now: Now, is_connected: bool) {
        self.is_connected = is_connected;
        self.beats.clear();
        self.asks.clear();
        self.own.forget_asks();
        self.lost_notes += self.notes.len() as u64;
        self.notes.clear();
        self.notes_bytes = 0;
        if is_connected {
            self.ticked_ms = now.mono_ms();
            self.beat_due_ms = now.mono_ms() + BEAT_MS;
            self.beats.push_back((Reach::Everyone, true));
            self.give_leases(now.mono_ms());
            self.peers.values_mut().for_each(Peer::forget_asked);
        }
    }

    /// Somebody has said something to this node alone.
    pub(super) fn on_direct(&mut self, now: Now, bytes: &[u8]) {
        if let Some(from) = self.on_message(now, bytes)
            && let Some(peer) = self.peers.get_mut(&from)
        {
            peer.knows_us = true;
        }
    }

    /// Whether a node and this one know of each other: it has said something to this one alone, and all
    /// its clients are known; or it is gone.
    pub(super) fn is_acquainted_with(&self, token: &str) -> bool {
        self.peers.get(token).is_some_and(|peer| peer.knows_us && !peer.is_behind())
            || self.departed.iter().any(|departed| departed == token)
    }

    /// Somebody has said something, to everyone or to this node; gives who did.
    pub(super) fn on_message(&mut self, now: Now, bytes: &[u8]) -> Option<String> {
        let Message { from, node, say } = match decode(bytes) {
            Ok(message) => message,
            Err(why) => {
                self.garbled += 1;
                if self.garbled == 1 {
                    tracing::warn!(
                        why,
                        "a message of another node can't be read; so are later ones"
                    );
                }
                return None;
            }
        };
        if from == self.token {
            return None;
        }
        if say == Say::Bye {
            self.part_from(&from);
            return None;
        }
        let is_new = !self.peers.contains_key(&from);
        let (now_ms, next) = (now.mono_ms(), &mut self.next_peer);
        let peer = self.peers.entry(from.clone()).or_insert_with(|| {
            *next += 1;
            Peer::new(PeerId(*next), node, now_ms)
        });
        peer.heard_ms = now_ms;
        let desk = &mut Desk { addresses: &mut self.addresses, news: &mut self.news };
        match say {
            Say::Beat { number, clients, members, hello } => {
                peer.on_beat(number, (clients, members));
                if hello {
                    self.beats.push_back((Reach::One(from.clone()), false));
                }
            }
            Say::Changes { number, rows } => peer.on_changes(number, rows, bytes.len(), desk),
            Say::Part { ask, number, part, is_last, rows } => {
                peer.on_part(Part { ask, number, part, is_last, rows }, now_ms, desk);
            }
            Say::Ask { ask } => self.own.on_ask(from.clone(), ask),
            Say::Note(note) => tell_note(peer.id, note.read(now), &mut self.news),
            Say::Bye => {}
        }
        if is_new {
            // Before it is answered: who asks for all clients then asks for those of this node, too.
            self.tell_peers();
        }
        self.ask_if_due(&from, now_ms);
        Some(from)
    }

    /// Time has gone by.
    pub(super) fn tick(&mut self, now: Now) {
        let now_ms = now.mono_ms();
        if !self.is_connected {
            return;
        }
        if now_ms >= self.ticked_ms + STALL_MS {
            self.give_leases(now_ms);
        }
        self.ticked_ms = now_ms;
        for token in self.peers.keys().cloned().collect::<Vec<_>>() {
            if self.peers.get(&token).is_some_and(|peer| now_ms >= peer.heard_ms + LEASE_MS) {
                self.part_from(&token);
            }
            self.ask_if_due(&token, now_ms);
        }
        if now_ms >= self.beat_due_ms {
            self.beat_due_ms = now_ms + BEAT_MS;
            if !self.beats.iter().any(|(to, _)| *to == Reach::Everyone) {
                self.beats.push_back((Reach::Everyone, false));
            }
            self.tell_peers();
            self.addresses.prune();
        }
    }

    // What leaves.

    /// What is to be sent, in this order: a part of it, if it is much. To be taken until there is
    /// nothing; what was taken and could not be sent is forgotten, and [`Census::set_connected`] told.
    pub(super) fn take_outgoing(&mut self) -> Vec<Outgoing> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while self.is_connected && bytes < TAKE_BYTES {
            let Some(next) = self.next_outgoing() else { break };
            bytes += next.bytes.len();
            taken.push(next);
        }
        taken
    }

    /// What homes are to be told, in this order.
    pub(super) fn take_news(&mut self) -> Vec<(To, PeerNews)> {
        std::mem::take(&mut self.news)
    }

    /// The tokens of the peers that went since: what is kept in their name is nobody's.
    pub(super) fn take_departed(&mut self) -> Vec<String> {
        std::mem::take(&mut self.departed)
    }

    /// The last message of this node, to everyone, if it ends well.
    pub(super) fn bye(&self) -> Outgoing {
        self.letter(Reach::Everyone, &Say::Bye)
    }

    fn next_outgoing(&mut self) -> Option<Outgoing> {
        if let Some(changes) = self.own.take_changes() {
            return Some(self.letter(Reach::Everyone, &changes));
        }
        if let Some((to, hello)) = self.beats.pop_front() {
            return Some(self.letter(to, &self.own.beat(hello)));
        }
        if let Some(ask) = self.asks.pop_front() {
            return Some(ask);
        }
        if let Some(note) = self.notes.pop_front() {
            self.notes_bytes -= note.bytes.len();
            return Some(note);
        }
        let (token, part) = self.own.take_part()?;
        Some(self.letter(Reach::One(token), &part))
    }

    fn letter(&self, to: Reach, say: &Say) -> Outgoing {
        Outgoing { to, bytes: encode(&self.token, &self.node, say) }
    }

    fn put_note(&mut self, now: Now, to: Reach, note: &PeerNote) {
        if !self.is_connected || self.notes_bytes >= NOTES_BYTES_MAX {
            self.lost_notes += 1;
            return;
        }
        let letter = self.letter(to, &Say::Note(Note::new(note, now)));
        self.notes_bytes += letter.bytes.len();
        self.notes.push_back(letter);
    }

    fn ask_if_due(&mut self, token: &str, now_ms: u64) {
        let Some(peer) = self.peers.get_mut(token) else { return };
        if self.is_connected && peer.ask_due_ms().is_some_and(|due_ms| now_ms >= due_ms) {
            self.next_ask += 1;
            peer.note_asked(self.next_ask, now_ms);
            let ask = self.letter(Reach::One(token.to_owned()), &Say::Ask { ask: self.next_ask });
            self.asks.push_back(ask);
        }
    }

    /// Whatever was said until now may not have been heard here: everybody has a lease from now on.
    fn give_leases(&mut self, now_ms: u64) {
        self.peers.values_mut().for_each(|peer| peer.heard_ms = now_ms);
    }

    fn part_from(&mut self, token: &str) {
        if let Some(peer) = self.peers.remove(token) {
            self.news.push((To::All, PeerNews::PeerGone(peer.id)));
            self.departed.push(token.to_owned());
            self.tell_peers();
        }
    }

    fn tell_peers(&mut self) {
        let peers = self.peers();
        if peers != self.told_peers {
            self.told_peers.clone_from(&peers);
            self.news.push((To::All, PeerNews::Peers(Arc::new(peers))));
        }
    }
}

/// Tells a note to the homes that it concerns.
fn tell_note(peer: PeerId, note: PeerNote, news: &mut Vec<(To, PeerNews)>) {
    let mut tell = |to, note| news.push((to, PeerNews::Note(note)));
    match note {
        PeerNote::Private { targets, frame } => {
            for target in targets {
                let (targets, frame) = (vec![target.clone()], Arc::clone(&frame));
                tell(To::Client(target), PeerNote::Private { targets, frame });
            }
        }
        PeerNote::Announce { ref room, .. } => {
            let to = room.clone().map_or(To::All, To::Room);
            tell(to, note);
        }
        PeerNote::Disconnect { ref client_id, .. } => tell(To::Client(client_id.clone()), note),
        PeerNote::LetGo(ref address) => tell(To::Room(address.room.clone()), note),
        PeerNote::AskClients { reply_to, rows } => {
            news.push((To::All, PeerNews::AskClients { peer, reply_to, rows }));
        }
        PeerNote::Clients(clients) => {
            news.push((To::Shard(clients.reply_to.shard), PeerNews::Clients(peer, clients)));
        }
    }
}

/// Reads any bytes as what a node says to others.
#[cfg(any(test, fuzzing))]
pub(super) fn read_any(bytes: &[u8], now: Now) {
    if let Ok(wire::Message { say: wire::Say::Note(note), .. }) = wire::decode(bytes) {
        let _ = note.read(now);
    }
}
