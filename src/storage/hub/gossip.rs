//! What nodes tell each other: who is where, whose a client id is, and what is for the clients of
//! another node.
//!
//! A message for all nodes goes out at `PREFIX:census`, one for a single node at `PREFIX:node:TOKEN`;
//! what they say, and what follows from it, is the [`Census`]'s. Whose a client id is, Redis decides
//! ([`Claims`]); wishes for ids are asked for together, and answered in their order. Where another node
//! says that it has an id of this one, it is asked whose it is: its client may have gone on there.
//!
//! *Invariants*: the census is told that it is connected only after this node hears, and has its ids;
//! every claim is answered, when there is a Redis that can, though the home may have granted it by then;
//! what is remembered while there is none is bounded by the ids that there are.
//!
//! *Panics*: the records of channels are taken out before a record comes here; records are made by
//! homes, not by peers.

use super::Hub;
use super::bond::Bond;
use crate::base::ids::ConnRef;
use crate::broker::peers::{PeerNews, PeerRecord, To, Verdict};
use crate::broker::returning::Stake;
use crate::protocol::names::Name;
use crate::storage::census::{Census, Outgoing, Reach};
use crate::storage::claims::{Claim, Claims};
use crate::storage::keeper::no_answer;
use crate::storage::keys::Keys;
use crate::storage::link::Link;
use crate::storage::settings::LEASE_MS;
use crate::storage::trouble::Trouble;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// By this a node hears that it hears.
const BEAT: &[u8] = b"beat";
/// The messages that are published together.
const OUTBOX_MAX: usize = 256;
/// The wishes for ids that are asked for together.
const WISHES_MAX: usize = 4_096;

/// What a node knows of the others.
pub(super) struct Gossip {
    census: Census,
    pub(super) claims: Arc<Claims>,
    wishes: VecDeque<Wish>,
    /// The ids of this node.
    ids: BTreeMap<Name, Held>,
    /// Those of them that another node says it has.
    doubted: BTreeSet<Name>,
    /// Those that it gave back while Redis could not be told.
    freed: BTreeSet<Name>,
    /// Those that homes wanted then, and will be told of.
    unanswered: BTreeMap<Name, ConnRef>,
    is_connected: bool,
    /// The nodes that lived when this one came, and do not know of it yet.
    awaited: BTreeSet<String>,
    /// Until when they are waited for.
    acquainted_by: Option<Instant>,
}

/// Who has a client id.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Held {
    conn: ConnRef,
    stake: Option<Stake>,
}

/// What a home wants with a client id.
enum Wish {
    Claim(Name, Held),
    Release(Name),
}

impl Gossip {
    pub(super) fn new(keys: &Keys, token: &str, node: &str) -> Gossip {
        Gossip {
            census: Census::new(token.to_owned(), node.to_owned(), fastrand::u64(..)),
            claims: Arc::new(Claims::new(keys, token.to_owned(), node.to_owned())),
            wishes: VecDeque::new(),
            ids: BTreeMap::new(),
            doubted: BTreeSet::new(),
            freed: BTreeSet::new(),
            unanswered: BTreeMap::new(),
            is_connected: false,
            awaited: BTreeSet::new(),
            acquainted_by: None,
        }
    }

    /// Whether Redis is to say whose an id is.
    pub(super) fn has_wishes(&self) -> bool {
        !self.wishes.is_empty() || !self.doubted.is_empty()
    }
}

impl Hub {
    /// A home has something for other nodes.
    pub(super) fn on_gossip_of_homes(&mut self, record: PeerRecord) {
        let (now, gossip) = (self.now(), &mut self.gossip);
        match record {
            PeerRecord::Claim(client_id, conn, stake) => {
                gossip.wish(Wish::Claim(client_id, Held { conn, stake }));
            }
            PeerRecord::Release(client_id) => gossip.wish(Wish::Release(client_id)),
            PeerRecord::Member { address, client, is_member } => {
                gossip.census.on_member(&address, &client, is_member);
            }
            PeerRecord::Send(peer, note) => gossip.census.send(now, peer, &note),
            PeerRecord::SendAll(note) => gossip.census.send_all(now, &note),
            PeerRecord::Attach(_)
            | PeerRecord::Detach(..)
            | PeerRecord::Submit(_)
            | PeerRecord::Fork { .. } => {
                unreachable!("what is of a channel goes the channel's way")
            }
        }
    }

    /// Another node, or this one, said something to all or to this one.
    pub(super) fn on_gossip(&mut self, name: &str, message: &[u8]) {
        let (now, is_for_this_one) = (self.now(), name == self.keys.node(&self.token));
        match is_for_this_one {
            // That it was heard is noted with every message.
            true if message == BEAT => {}
            true => self.gossip.census.on_direct(now, message),
            false => _ = self.gossip.census.on_message(now, message),
        }
    }

    /// Notes, once for the life of this node, which nodes live that have to know of it before it is
    /// ready for clients: what they do not know they can't tell theirs.
    pub(super) async fn await_peers(&mut self, link: &Link) -> Result<(), Trouble> {
        if self.gossip.acquainted_by.is_some() {
            return Ok(());
        }
        let (mut call, limit) = (redis::cmd("HKEYS"), self.commit_timeout());
        call.arg(&self.keys.nodes);
        let nodes = self.attend(limit, link.ask::<Vec<String>>(&call)).await;
        let nodes = nodes.unwrap_or_else(|| Err(no_answer(limit)))?;
        let others = nodes.into_iter().filter(|node| **node != *self.token);
        self.gossip.awaited = others.collect();
        // One that is dead says nothing, and its lease has run out by then.
        self.gossip.acquainted_by = Some(Instant::now() + Duration::from_millis(LEASE_MS));
        self.meters.peers_awaited.store(self.gossip.awaited.len() as u64, Relaxed);
        Ok(())
    }

    /// Forgets those that know of this node by now.
    fn await_peers_no_longer(&mut self) {
        if self.gossip.awaited.is_empty() {
            return;
        }
        let Gossip { census, awaited, acquainted_by, .. } = &mut self.gossip;
        let is_over = acquainted_by.is_none_or(|at| Instant::now() >= at);
        awaited.retain(|token| !is_over && !census.is_acquainted_with(token));
        self.meters.peers_awaited.store(awaited.len() as u64, Relaxed);
    }

    /// Tells homes what has become known, and puts what is to be said into the outbox.
    pub(super) fn converse(&mut self) {
        let now = self.now();
        if self.gossip.census.next_due_ms().is_some_and(|due_ms| due_ms <= now.mono_ms()) {
            self.gossip.census.tick(now);
        }
        self.await_peers_no_longer();
        for (to, news) in self.gossip.census.take_news() {
            match &news {
                PeerNews::PeerGone(_) => {
                    // It may have been the only one that cut some of the channels.
                    let channels = self.catalogue.addresses().into_iter().map(Arc::new);
                    self.look_at_all(channels, true);
                }
                PeerNews::Peers(peers) => self.meters.peers.store(peers.len() as u64, Relaxed),
                PeerNews::Client { client_id, is_connected: true, .. } => {
                    self.gossip.doubt(client_id);
                }
                _ => {}
            }
            self.tell(to, news);
        }
        self.meters.garbled.store(self.gossip.census.garbled(), Relaxed);
        self.meters.lost_notes.store(self.gossip.census.lost_notes(), Relaxed);
        while self.state.bond.is_some() && self.state.outbox.len() < OUTBOX_MAX {
            let outgoing = self.gossip.census.take_outgoing();
            if outgoing.is_empty() {
                return;
            }
            for message in outgoing {
                let message = self.addressed(message);
                self.state.outbox.push(message);
            }
        }
    }

    /// When there is something to say though nothing happens.
    pub(super) fn next_word(&self) -> Option<Instant> {
        let due_ms = self.gossip.census.next_due_ms()?;
        let wait_ms = due_ms.saturating_sub(self.now().mono_ms());
        Some(Instant::now() + std::time::Duration::from_millis(wait_ms))
    }

    fn addressed(&self, Outgoing { to, bytes }: Outgoing) -> (String, Vec<u8>) {
        let name = match to {
            Reach::Everyone => self.keys.census(),
            Reach::One(token) => self.keys.node(&token),
        };
        (name, bytes)
    }

    /// Redis is there again: this node takes its ids anew, and is one of the nodes.
    pub(super) async fn rejoin(&mut self, link: &Link) -> Result<(), Trouble> {
        let (claims, limit) = (Arc::clone(&self.gossip.claims), self.commit_timeout());
        let freed: Vec<Name> = self.gossip.freed.iter().cloned().collect();
        let answer = self.attend(limit, claims.free(link, &freed)).await;
        answer.unwrap_or_else(|| Err(no_answer(limit)))?;
        self.retake(link).await?;
        freed.iter().for_each(|client_id| _ = self.gossip.freed.remove(client_id));
        for (client_id, conn) in std::mem::take(&mut self.gossip.unanswered) {
            // Who was not granted it has been told.
            if self.gossip.ids.get(&client_id).is_some_and(|held| held.conn == conn) {
                self.tell_verdict(client_id, conn, Verdict::Granted);
            }
        }
        let now = self.now();
        self.gossip.is_connected = true;
        self.gossip.census.set_connected(now, true);
        Ok(())
    }

    /// Takes the ids of this node anew, which others may have taken meanwhile.
    pub(super) async fn retake(&mut self, link: &Link) -> Result<(), Trouble> {
        let (claims, limit) = (Arc::clone(&self.gossip.claims), self.commit_timeout());
        self.gossip.doubted.clear();
        let ids = self.gossip.ids.clone();
        let of_ids = claims_of(&ids);
        let verdicts = self.attend(limit, claims.retake(link, &of_ids)).await;
        let verdicts = verdicts.unwrap_or_else(|| Err(no_answer(limit)))?;
        self.on_verdicts(&ids, verdicts);
        Ok(())
    }

    /// Asks whose the ids are that other nodes say they have.
    async fn settle_doubts(&mut self, link: &Link) -> Result<(), Trouble> {
        let (claims, limit) = (Arc::clone(&self.gossip.claims), self.commit_timeout());
        let doubted = std::mem::take(&mut self.gossip.doubted).into_iter();
        let ids: BTreeMap<Name, Held> = doubted
            .filter_map(|client_id| self.gossip.ids.get_key_value(&client_id))
            .map(|(client_id, held)| (client_id.clone(), *held))
            .collect();
        let of_ids = claims_of(&ids);
        let verdicts = self.attend(limit, claims.take_again(link, &of_ids)).await;
        match verdicts.unwrap_or_else(|| Err(no_answer(limit)))? {
            Some(verdicts) => self.on_verdicts(&ids, verdicts),
            None => self.retake(link).await?,
        }
        Ok(())
    }

    /// Gives up those of the ids of this node that are another's.
    fn on_verdicts(&mut self, ids: &BTreeMap<Name, Held>, verdicts: Vec<Verdict>) {
        for ((client_id, held), verdict) in ids.iter().zip(verdicts) {
            // While Redis was asked it may have been given back and taken anew.
            if verdict != Verdict::Granted && self.gossip.ids.get(client_id) == Some(held) {
                self.gossip.ids.remove(client_id);
                self.gossip.census.on_client(client_id, false);
                self.tell_verdict(client_id.clone(), held.conn, verdict);
            }
        }
    }

    fn tell_verdict(&self, client_id: Name, conn: ConnRef, verdict: Verdict) {
        let to = To::Client(client_id.clone());
        self.tell(to, PeerNews::Claimed { client_id, conn, verdict });
    }

    /// Says that this node has its ids; takes them anew if that was not known any more.
    pub(super) async fn renew_ids(&mut self, link: &Link) -> Result<(), Trouble> {
        let (claims, limit) = (Arc::clone(&self.gossip.claims), self.commit_timeout());
        let was_known = self.attend(limit, claims.renew(link)).await;
        if !was_known.unwrap_or_else(|| Err(no_answer(limit)))? {
            self.retake(link).await?;
        }
        if !self.gossip.census.take_departed().is_empty() {
            self.sweep.plan(Instant::now());
        }
        Ok(())
    }

    /// Redis can't be reached: nobody is known to be gone.
    pub(super) fn fall_silent(&mut self) {
        let now = self.now();
        self.state.outbox.clear();
        self.gossip.is_connected = false;
        // All ids are taken anew when it is there again.
        self.gossip.doubted.clear();
        for wish in std::mem::take(&mut self.gossip.wishes) {
            self.gossip.wish(wish);
        }
        self.gossip.census.set_connected(now, false);
    }

    /// Asks whose the ids are that homes want.
    pub(super) async fn ask_for_ids(&mut self, bond: &Bond) {
        let mut answer = Ok(());
        if !self.gossip.wishes.is_empty() {
            answer = self.try_for_ids(&bond.link).await;
        }
        if answer.is_ok() && !self.gossip.doubted.is_empty() {
            answer = self.settle_doubts(&bond.link).await;
        }
        if let Err(trouble) = answer {
            self.fail(trouble);
        }
    }

    async fn try_for_ids(&mut self, link: &Link) -> Result<(), Trouble> {
        let (claims, limit) = (Arc::clone(&self.gossip.claims), self.commit_timeout());
        let (wanted, freed) = self.gossip.first_wishes();
        let work = async {
            claims.free(link, &freed).await?;
            claims.take(link, &wanted).await
        };
        let answer = self.attend(limit, work).await;
        let Some(verdicts) = answer.unwrap_or_else(|| Err(no_answer(limit)))? else {
            // The lease of this node ran out; then it is asked again.
            return self.retake(link).await;
        };
        let mut verdicts = verdicts.into_iter();
        for _ in 0..wanted.len() + freed.len() {
            match self.gossip.wishes.pop_front() {
                Some(Wish::Claim(client_id, held)) => {
                    let verdict = verdicts.next().unwrap_or(Verdict::Taken);
                    if verdict == Verdict::Granted {
                        self.gossip.ids.insert(client_id.clone(), held);
                        self.gossip.census.on_client(&client_id, true);
                    }
                    self.tell_verdict(client_id, held.conn, verdict);
                }
                Some(Wish::Release(client_id)) => {
                    self.gossip.ids.remove(&client_id);
                    self.gossip.census.on_client(&client_id, false);
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Says that this node ends, and gives its ids back.
    pub(super) async fn say_goodbye(&mut self, link: &Link) {
        self.converse();
        let bye = self.addressed(self.gossip.census.bye());
        for (name, message) in std::mem::take(&mut self.state.outbox).into_iter().chain([bye]) {
            let mut call = redis::cmd("PUBLISH");
            call.arg(name).arg(message);
            // Who does not hear it sees that this node says nothing any more.
            if link.ask::<u64>(&call).await.is_err() {
                return;
            }
        }
        let _ = self.gossip.claims.end(link).await;
    }
}

impl Gossip {
    /// A home wants something with an id. While Redis is away it is taken to be free, and only what it
    /// comes to is remembered.
    fn wish(&mut self, wish: Wish) {
        if self.is_connected {
            return self.wishes.push_back(wish);
        }
        match wish {
            Wish::Claim(client_id, held) => {
                self.freed.remove(&client_id);
                self.census.on_client(&client_id, true);
                self.ids.insert(client_id.clone(), held);
                self.unanswered.insert(client_id, held.conn);
            }
            Wish::Release(client_id) => {
                self.census.on_client(&client_id, false);
                self.unanswered.remove(&client_id);
                if self.ids.remove(&client_id).is_some() {
                    self.freed.insert(client_id);
                }
            }
        }
    }

    /// A peer says that it has an id; if this node thinks so of itself, one of them is wrong.
    fn doubt(&mut self, client_id: &Name) {
        if self.is_connected && self.ids.contains_key(client_id) {
            self.doubted.insert(client_id.clone());
        }
    }

    /// The first wishes, up to the second for the same id: those that are wanted, those that are
    /// given back.
    fn first_wishes(&self) -> (Vec<Claim>, Vec<Name>) {
        let (mut seen, mut wanted, mut freed) = (BTreeSet::new(), Vec::new(), Vec::new());
        for wish in self.wishes.iter().take(WISHES_MAX) {
            let (Wish::Claim(client_id, _) | Wish::Release(client_id)) = wish;
            if !seen.insert(client_id) {
                break;
            }
            match wish {
                Wish::Claim(_, held) => wanted.push((client_id.clone(), held.stake)),
                Wish::Release(_) => freed.push(client_id.clone()),
            }
        }
        (wanted, freed)
    }
}

fn claims_of(ids: &BTreeMap<Name, Held>) -> Vec<Claim> {
    ids.iter().map(|(client_id, held)| (client_id.clone(), held.stake)).collect()
}
