//! Who is where, as each node hears it, and whose a client id is: what `storage::census` and
//! `storage::hub::gossip` do, played.
//!
//! What a node says of its clients is not queued here: whoever hears it next hears how it is by then,
//! as far as that differs from what it heard before. So nothing is heard that was already over, and what a
//! lost link cost is made good. Notes are heard in their order, once or never.

use super::hub::{Chore, Hub};
use super::{Flaw, Shared};
use arqonbus::base::ids::ConnRef;
use arqonbus::broker::peers::{Peer, PeerId, PeerNews, PeerNote, PeerRecord, To, Verdict};
use arqonbus::broker::policy::ClientCard;
use arqonbus::broker::returning::Stake;
use arqonbus::protocol::command::Address;
use arqonbus::protocol::names::Name;
use fastrand::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// By address and client.
type Members = BTreeMap<(String, Name), (Arc<Address>, Arc<ClientCard>)>;

/// The clients of a node, as it says.
#[derive(Clone, Default)]
pub(super) struct Own {
    clients: BTreeSet<Name>,
    members: Members,
}

/// The clients of another node, as far as they were heard of.
pub(super) struct View {
    peer: PeerId,
    known: Own,
    /// Something it said was not heard.
    pub(super) is_torn: bool,
}

/// What a home wants with a client id.
pub(super) enum Wish {
    Claim(Name, (ConnRef, Option<Stake>)),
    Release(Name),
}

impl Hub {
    /// What another node has said is lost.
    pub(super) fn tear(&mut self, other: usize) {
        self.notes.remove(&other);
        self.views.get_mut(&other).into_iter().for_each(|view| view.is_torn = true);
    }

    /// Redis can't be reached: an id that a home wants is taken to be free.
    pub(super) fn fall_silent(&mut self) {
        self.doubted.clear();
        for wish in std::mem::take(&mut self.wishes) {
            self.assume(wish);
        }
    }

    fn assume(&mut self, wish: Wish) {
        match wish {
            Wish::Claim(client_id, held) => {
                self.freed.remove(&client_id);
                self.own.clients.insert(client_id.clone());
                self.ids.insert(client_id.clone(), held);
                self.unanswered.insert(client_id, held.0);
            }
            Wish::Release(client_id) => {
                self.own.clients.remove(&client_id);
                self.unanswered.remove(&client_id);
                if self.ids.remove(&client_id).is_some() {
                    self.freed.insert(client_id);
                }
            }
        }
    }
}

impl Shared {
    /// Takes what a home has for other nodes, or wants with an id.
    pub(super) fn take_of_people(&mut self, node: usize, record: PeerRecord) {
        let hub = &mut self.hubs[node];
        match record {
            PeerRecord::Claim(client_id, conn, stake) => {
                self.wish(node, Wish::Claim(client_id, (conn, stake)));
            }
            PeerRecord::Release(client_id) => self.wish(node, Wish::Release(client_id)),
            PeerRecord::Member { address, client, is_member } => {
                let key = (address.to_string(), client.client_id.clone());
                match is_member {
                    true => _ = hub.own.members.insert(key, (address, client)),
                    false => _ = hub.own.members.remove(&key),
                }
            }
            PeerRecord::Send(peer, note) => {
                let known = hub.views.iter().find(|(_, view)| view.peer == peer);
                if let Some(other) = known.map(|(&other, _)| other) {
                    self.send(node, other, note);
                }
            }
            PeerRecord::SendAll(note) => {
                for other in self.listeners(node) {
                    self.send(node, other, note.clone());
                }
            }
            other => unreachable!("{other:?} is of a channel"),
        }
    }

    fn wish(&mut self, node: usize, wish: Wish) {
        match self.hubs[node].is_up {
            true => self.hubs[node].wishes.push_back(wish),
            false => self.hubs[node].assume(wish),
        }
    }

    /// A note goes to another node, if both reach Redis; otherwise it is lost.
    fn send(&mut self, node: usize, other: usize, note: PeerNote) {
        if self.hubs[node].is_up && self.hubs[other].is_up && !self.hubs[other].is_dead {
            self.hubs[other].notes.entry(node).or_default().push_back(note);
        }
    }

    pub(super) fn chores_about_people(&self, node: usize) -> Vec<Chore> {
        let hub = &self.hubs[node];
        let mut chores = Vec::new();
        for (other, of_other) in self.hubs.iter().enumerate().filter(|(other, _)| *other != node) {
            let view = hub.views.get(&other);
            let speaks = of_other.is_up && !of_other.is_dead && !of_other.is_stopped;
            let is_news = view.is_none_or(|view| {
                view.is_torn
                    || view.known.clients != of_other.own.clients
                    || !is_same(&view.known.members, &of_other.own.members)
            });
            let has_notes = hub.notes.get(&other).is_some_and(|notes| !notes.is_empty());
            if speaks && is_news || has_notes && view.is_some() {
                chores.push(Chore::Peer(other));
            }
            if view.is_some() && !speaks && !self.lives(other) {
                chores.push(Chore::Gone(other));
            }
        }
        chores.extend((self.peers_of(node) != hub.told_peers).then_some(Chore::Peers));
        chores
    }

    pub(super) fn do_about_people(
        &mut self,
        node: usize,
        chore: Chore,
        rng: &mut Rng,
    ) -> Option<&'static str> {
        match chore {
            Chore::Wish => {
                let wish = self.hubs[node].wishes.pop_front()?;
                self.grant(node, wish);
                Some("asks whose a client id is")
            }
            Chore::Doubts => {
                let doubted = std::mem::take(&mut self.hubs[node].doubted);
                self.take_again(node, |client_id| doubted.contains(client_id));
                Some("asks whose the ids are that others say they have")
            }
            Chore::Peer(other) => {
                self.hear_peer(node, other, rng);
                Some("hears of another node")
            }
            Chore::Gone(other) => {
                self.part_from(node, other);
                Some("takes another node for dead")
            }
            Chore::Peers => {
                self.tell_peers(node);
                Some("counts the nodes")
            }
            _ => None,
        }
    }

    fn grant(&mut self, node: usize, wish: Wish) {
        match wish {
            Wish::Claim(client_id, (conn, stake)) => {
                let verdict = self.take_id(node, &client_id, stake, false);
                if verdict == Verdict::Granted {
                    self.hubs[node].ids.insert(client_id.clone(), (conn, stake));
                    self.hubs[node].own.clients.insert(client_id.clone());
                }
                self.tell_verdict(node, client_id, conn, verdict);
            }
            Wish::Release(client_id) => {
                self.redis.free(node, &client_id);
                self.hubs[node].ids.remove(&client_id);
                self.hubs[node].own.clients.remove(&client_id);
            }
        }
    }

    fn take_id(
        &mut self,
        node: usize,
        client_id: &Name,
        stake: Option<Stake>,
        is_again: bool,
    ) -> Verdict {
        let live: Vec<bool> = (0..self.hubs.len()).map(|other| self.lives(other)).collect();
        let verdict = self.redis.take(node, client_id, stake, is_again, |other| live[other]);
        match self.flaw {
            Flaw::TwoHolders if !is_again => Verdict::Granted,
            _ => verdict,
        }
    }

    /// Takes ids of this node anew; those that are another's are given up.
    fn take_again(&mut self, node: usize, is_asked: impl Fn(&Name) -> bool) {
        for (client_id, (conn, stake)) in self.hubs[node].ids.clone() {
            if !is_asked(&client_id) {
                continue;
            }
            let verdict = self.take_id(node, &client_id, stake, true);
            if verdict != Verdict::Granted && self.flaw != Flaw::TwoHolders {
                self.hubs[node].ids.remove(&client_id);
                self.hubs[node].own.clients.remove(&client_id);
                self.tell_verdict(node, client_id, conn, verdict);
            }
        }
    }

    fn tell_verdict(&mut self, node: usize, client_id: Name, conn: ConnRef, verdict: Verdict) {
        let to = To::Client(client_id.clone());
        self.tell(node, to, PeerNews::Claimed { client_id, conn, verdict });
    }

    /// Redis is there again: this node takes its ids anew, and answers who was told nothing.
    pub(super) fn rejoin(&mut self, node: usize) {
        for client_id in std::mem::take(&mut self.hubs[node].freed) {
            self.redis.free(node, &client_id);
        }
        self.take_again(node, |_| true);
        for (client_id, conn) in std::mem::take(&mut self.hubs[node].unanswered) {
            if self.hubs[node].ids.get(&client_id).is_some_and(|(held, _)| *held == conn) {
                self.tell_verdict(node, client_id, conn, Verdict::Granted);
            }
        }
    }

    /// Hears how the clients of another node are by now, and then what it has for the clients of this one.
    /// What follows a lost link may overtake that.
    fn hear_peer(&mut self, node: usize, other: usize, rng: &mut Rng) {
        let speaks = {
            let hub = &self.hubs[other];
            hub.is_up && !hub.is_dead && !hub.is_stopped
        };
        if speaks && !self.hubs[node].views.contains_key(&other) {
            let (peer, known, is_torn) = (self.new_peer(), Own::default(), false);
            self.hubs[node].views.insert(other, View { peer, known, is_torn });
        }
        let Some(view) = self.hubs[node].views.get(&other) else { return };
        if speaks && !(view.is_torn && rng.u8(..4) == 0) {
            self.compare(node, other, rng);
        }
        let notes = self.hubs[node].notes.get_mut(&other);
        if let Some(note) = notes.and_then(|notes| notes.pop_front()) {
            let Some(view) = self.hubs[node].views.get(&other) else { return };
            let peer = view.peer;
            self.tell_note(node, peer, note);
        }
    }

    fn compare(&mut self, node: usize, other: usize, rng: &mut Rng) {
        let now = self.hubs[other].own.clone();
        let Some(view) = self.hubs[node].views.get_mut(&other) else { return };
        let (peer, before) = (view.peer, std::mem::replace(&mut view.known, now.clone()));
        view.is_torn = false;
        let mut news = Vec::new();
        for client_id in before.clients.symmetric_difference(&now.clients) {
            let is_connected = now.clients.contains(client_id);
            let client_id = client_id.clone();
            let to = To::Client(client_id.clone());
            news.push((to, PeerNews::Client { peer, client_id, is_connected }));
        }
        for (key, (address, client)) in before.members.iter().chain(&now.members) {
            let (was, is) = (before.members.contains_key(key), now.members.contains_key(key));
            if was != is {
                let (address, client) = (Arc::clone(address), Arc::clone(client));
                let to = To::Room(address.room.clone());
                news.push((to, PeerNews::Member { peer, address, client, is_member: is }));
            }
        }
        rng.shuffle(&mut news);
        for (to, news) in news {
            if let PeerNews::Client { client_id, is_connected: true, .. } = &news
                && self.hubs[node].ids.contains_key(client_id)
            {
                self.hubs[node].doubted.insert(client_id.clone());
            }
            self.tell(node, to, news);
        }
    }

    fn tell_note(&mut self, node: usize, peer: PeerId, note: PeerNote) {
        let to = match &note {
            PeerNote::Private { targets, frame } => {
                for target in targets.clone() {
                    let (targets, frame) = (vec![target.clone()], Arc::clone(frame));
                    let one = PeerNote::Private { targets, frame };
                    self.tell(node, To::Client(target), PeerNews::Note(one));
                }
                return;
            }
            PeerNote::Announce { room, .. } => room.clone().map_or(To::All, To::Room),
            PeerNote::Disconnect { client_id, .. } => To::Client(client_id.clone()),
            PeerNote::LetGo(address) => To::Room(address.room.clone()),
            PeerNote::AskClients { reply_to, rows } => {
                let (reply_to, rows) = (*reply_to, rows.clone());
                return self.tell(node, To::All, PeerNews::AskClients { peer, reply_to, rows });
            }
            PeerNote::Clients(clients) => {
                let to = To::Shard(clients.reply_to.shard);
                return self.tell(node, to, PeerNews::Clients(peer, clients.clone()));
            }
        };
        self.tell(node, to, PeerNews::Note(note));
    }

    /// A node takes another one for dead.
    pub(super) fn part_from(&mut self, node: usize, other: usize) {
        self.hubs[node].notes.remove(&other);
        let Some(view) = self.hubs[node].views.remove(&other) else { return };
        if self.flaw != Flaw::LosePeerGone {
            self.tell(node, To::All, PeerNews::PeerGone(view.peer));
        }
        // What is left there in its name is nobody's.
        if !self.lives(other) {
            self.redis.ids.retain(|_, (holder, _)| *holder != other);
        }
    }

    fn peers_of(&self, node: usize) -> Vec<(usize, u64)> {
        let views = self.hubs[node].views.iter();
        views.map(|(&other, view)| (other, view.known.clients.len() as u64)).collect()
    }

    fn tell_peers(&mut self, node: usize) {
        let peers = self.peers_of(node);
        let views = &self.hubs[node].views;
        let peer = |(other, clients): &(usize, u64)| Peer {
            id: views[other].peer,
            node: format!("n{other}"),
            clients: *clients,
        };
        let told = Arc::new(peers.iter().map(peer).collect());
        self.hubs[node].told_peers = peers;
        self.tell(node, To::All, PeerNews::Peers(told));
    }
}

fn is_same(a: &Members, b: &Members) -> bool {
    a.len() == b.len() && a.keys().eq(b.keys())
}
