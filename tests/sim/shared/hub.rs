//! A node's end: what waits to be written, the channels it follows, what its homes are told.

use super::order::Follow;
use super::people::{Own, View, Wish};
use super::{Flaw, LEASE_MS, Shared};
use arqonbus::base::ids::{ChannelId, ConnRef};
use arqonbus::base::time::Now;
use arqonbus::broker::peers::{PeerNews, PeerNote, PeerRecord, Place, Submission, To};
use arqonbus::broker::record::{ChannelRecord, KeptChannel, Record, RoomRecord, StorageNews};
use arqonbus::broker::returning::{Recalled, SessionRecord, Stake};
use arqonbus::protocol::command::Address;
use arqonbus::protocol::names::Name;
use fastrand::Rng;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// The submissions that one call writes at most.
const BATCH_MAX: usize = 16;

/// One node.
#[derive(Default)]
pub struct Hub {
    /// Whether it reaches Redis.
    pub is_up: bool,
    pub is_dead: bool,
    /// Whether its process stands still.
    pub is_stopped: bool,
    /// Until when it counts as alive.
    pub lease_ms: u64,
    /// What its homes are told, in this order.
    pub news: VecDeque<(To, StorageNews)>,
    is_degraded: bool,
    /// What waits to be written, by channel.
    steps: BTreeMap<String, VecDeque<Record>>,
    pub(super) follows: BTreeMap<String, Follow>,
    sessions: VecDeque<SessionRecord>,
    /// The rooms and channels that it was told of: each as text, and in its life.
    pub(super) rooms: BTreeMap<Name, String>,
    pub(super) channels: BTreeMap<String, Arc<Address>>,
    /// What others have changed of them.
    pub(super) changes: VecDeque<PeerNews>,
    pub(super) own: Own,
    pub(super) wishes: VecDeque<Wish>,
    pub(super) ids: BTreeMap<Name, (ConnRef, Option<Stake>)>,
    pub(super) doubted: BTreeSet<Name>,
    pub(super) freed: BTreeSet<Name>,
    pub(super) unanswered: BTreeMap<Name, ConnRef>,
    pub(super) views: BTreeMap<usize, View>,
    pub(super) told_peers: Vec<(usize, u64)>,
    pub(super) notes: BTreeMap<usize, VecDeque<PeerNote>>,
    /// The submissions that were written or may have been, as channel and ticket: a backlog that is full
    /// loses none of them.
    tried: BTreeSet<(ChannelId, u64)>,
}

/// What a node could do now.
#[derive(Clone, Debug)]
pub(super) enum Chore {
    Step(String),
    Push(String),
    Change,
    Session,
    Wish,
    Doubts,
    Peer(usize),
    Gone(usize),
    Peers,
}

/// What came of a step.
pub(super) enum Answer {
    Done,
    Over,
    Other(ChannelRecord),
    There,
    Kept(Option<RoomRecord>, Option<ChannelRecord>),
    Placed(Vec<Place>),
    Read(KeptChannel, bool),
    /// What is there is to be looked at first.
    Missing,
}

impl Hub {
    pub(super) fn new(now_ms: u64) -> Hub {
        Hub { is_up: true, lease_ms: now_ms + LEASE_MS, ..Hub::default() }
    }

    pub(super) fn forget_all(&mut self) {
        let (is_up, is_dead, lease_ms) = (self.is_up, self.is_dead, self.lease_ms);
        *self = Hub { is_up, is_dead, lease_ms, ..Hub::default() };
    }

    pub(super) fn degrade(&mut self, reason: &str) {
        if !std::mem::replace(&mut self.is_degraded, true) {
            self.news.push_back((To::All, StorageNews::Degraded(reason.into())));
        }
        let is_asked = |record: &SessionRecord| matches!(record, SessionRecord::Recall(..));
        let (asked, rest): (Vec<_>, Vec<_>) = self.sessions.drain(..).partition(is_asked);
        self.sessions.extend(rest);
        for record in asked {
            let SessionRecord::Recall(_, conn) = record else { continue };
            let news = StorageNews::Session(conn.conn, Recalled::Unavailable);
            self.news.push_back((To::Shard(conn.shard), news));
        }
    }

    /// What was on its way to this node is lost.
    pub(super) fn lose_link(&mut self) {
        self.follows.values_mut().for_each(|follow| follow.pushes.clear());
        self.changes.clear();
        self.notes.clear();
        self.views.values_mut().for_each(|view| view.is_torn = true);
    }

    pub(super) fn look_through(&mut self) {
        self.follows.values_mut().for_each(|follow| follow.is_behind = true);
    }

    /// Whether all is written, and told, that was to be.
    fn is_done(&self) -> bool {
        self.steps.is_empty() && !self.follows.values().any(|follow| follow.is_behind)
    }

    /// Gives up an event that waits; false if none does.
    pub fn lose_an_event(&mut self, rng: &mut Rng) -> bool {
        let submits = self.steps.iter().flat_map(|(key, records)| {
            let places = records.iter().enumerate();
            let is_untried = |record| {
                submission(record).is_some_and(|it| !self.tried.contains(&(it.channel, it.ticket)))
            };
            let submits = places.filter(move |(_, record)| is_untried(record));
            submits.map(move |(at, _)| (key.clone(), at))
        });
        let Some((key, at)) = rng.choice(submits.collect::<Vec<_>>()) else { return false };
        let lost = self.steps.get_mut(&key).and_then(|records| records.remove(at));
        self.steps.retain(|_, records| !records.is_empty());
        if let Some(Submission { channel, ticket, .. }) = lost.as_ref().and_then(submission) {
            self.lose(*channel, *ticket);
        }
        true
    }

    fn lose(&mut self, channel: ChannelId, ticket: u64) {
        let news = StorageNews::Lost { channel, first: ticket, last: ticket };
        self.news.push_back((To::Shard(channel.home()), news));
    }
}

impl Shared {
    /// Takes a record of a node.
    pub fn take(&mut self, node: usize, record: Record) {
        let hub = &mut self.hubs[node];
        let key = match &record {
            Record::Room(room) => format!("{}:*", room.name),
            Record::RoomGone(name) => format!("{name}:*"),
            Record::Channel(channel) => channel.address.to_string(),
            Record::ChannelGone(address) => address.to_string(),
            Record::Peer(of_peers) => match &**of_peers {
                PeerRecord::Attach(attach) => attach.record.address.to_string(),
                PeerRecord::Detach(_, address) => address.to_string(),
                PeerRecord::Submit(submission) => submission.address.to_string(),
                PeerRecord::Fork { address, .. } => address.to_string(),
                _ => {
                    let Record::Peer(record) = record else { return };
                    return self.take_of_people(node, *record);
                }
            },
            Record::Session(_) => {
                let Record::Session(record) = record else { return };
                hub.sessions.push_back(record);
                // Who asks while nothing can be read is told so.
                if !hub.is_up {
                    hub.degrade("out of reach");
                }
                return;
            }
            Record::Event(event) => panic!("who shares gives no places: {event:?}"),
            Record::Merged(merged) => panic!("who shares reads nothing late: {merged:?}"),
        };
        hub.steps.entry(key).or_default().push_back(record);
    }

    pub(super) fn chores(&self, node: usize) -> Vec<Chore> {
        let hub = &self.hubs[node];
        if !hub.is_up || hub.is_dead || hub.is_stopped {
            return Vec::new();
        }
        let behind = hub.follows.iter().filter(|(_, follow)| follow.is_behind);
        let steps: BTreeSet<&String> = hub.steps.keys().chain(behind.map(|(key, _)| key)).collect();
        let mut chores: Vec<Chore> = steps.into_iter().cloned().map(Chore::Step).collect();
        let pushed = hub.follows.iter().filter(|(_, follow)| !follow.pushes.is_empty());
        chores.extend(pushed.map(|(key, _)| Chore::Push(key.clone())));
        chores.extend((!hub.changes.is_empty()).then_some(Chore::Change));
        chores.extend((!hub.sessions.is_empty()).then_some(Chore::Session));
        chores.extend((!hub.wishes.is_empty()).then_some(Chore::Wish));
        chores.extend((!hub.doubted.is_empty()).then_some(Chore::Doubts));
        chores.extend(self.chores_about_people(node));
        chores
    }

    pub(super) fn do_chore(
        &mut self,
        node: usize,
        chore: Chore,
        now: Now,
        rng: &mut Rng,
    ) -> Option<&'static str> {
        Some(match chore {
            Chore::Step(key)
                if self.hubs[node].follows.get(&key).is_some_and(|it| it.is_behind) =>
            {
                self.sync(node, &key, now);
                self.restore_if_done(node);
                "looks whether it missed something"
            }
            Chore::Step(key) => return Some(self.write(node, &key, now, rng)),
            Chore::Push(key) => {
                self.hear(node, &key, now, rng);
                "hears of a channel"
            }
            Chore::Change => {
                let news = self.hubs[node].changes.pop_front()?;
                self.note_change(node, &news);
                self.tell_room(node, news);
                "hears what rooms there are"
            }
            Chore::Session => {
                self.do_session(node);
                "writes or reads a session"
            }
            Chore::Wish | Chore::Doubts | Chore::Peer(_) | Chore::Gone(_) | Chore::Peers => {
                return self.do_about_people(node, chore, rng);
            }
        })
    }

    /// Carries out what waits first in a channel; now and then the answer is lost, and all is made anew.
    fn write(&mut self, node: usize, key: &str, now: Now, rng: &mut Rng) -> &'static str {
        let Some(queue) = self.hubs[node].steps.get_mut(key) else { return "does nothing" };
        let many = rng.usize(1..=BATCH_MAX);
        let life = queue.front().and_then(submission).map(|first| Arc::clone(&first.life));
        let is_same =
            |record: &&Record| submission(record).is_some_and(|it| Some(&it.life) == life.as_ref());
        let count = queue.iter().take(many).take_while(is_same).count().max(1);
        let steps: Vec<Record> = queue.drain(..count).collect();
        self.hubs[node].steps.retain(|_, queue| !queue.is_empty());
        let answer = self.carry_out(node, key, &steps, now);
        if rng.u32(..1_000) < self.lost_answers {
            self.give_back(node, key, steps);
            self.lose_link(node);
            self.cut(node);
            return "writes, and is cut off before it hears that";
        }
        self.conclude(node, key, steps, answer);
        self.restore_if_done(node);
        "writes"
    }

    fn give_back(&mut self, node: usize, key: &str, steps: Vec<Record>) {
        let queue = self.hubs[node].steps.entry(key.to_owned()).or_default();
        steps.into_iter().rev().for_each(|step| queue.push_front(step));
    }

    fn carry_out(&mut self, node: usize, key: &str, steps: &[Record], now: Now) -> Answer {
        match &steps[0] {
            Record::Room(room) => self.keep_room(node, room),
            Record::RoomGone(name) => {
                if self.is_followed(node, key) {
                    let order = self.redis.orders.get(key).map(|order| order.record.clone());
                    return Answer::Kept(self.redis.rooms.get(name).cloned(), order);
                }
                let address = Address { room: name.clone(), channel: Name::every() };
                self.redis.remove(&address);
                if self.redis.rooms.remove(name).is_some() {
                    self.publish_change(node, &PeerNews::RoomGone(name.clone()));
                }
                Answer::Done
            }
            Record::Channel(record) => {
                self.make(node, record);
                let found = self.redis.orders[key].record.clone();
                match found.epoch == record.epoch {
                    true => Answer::There,
                    false => Answer::Other(found),
                }
            }
            Record::ChannelGone(address) => {
                if self.is_followed(node, key) {
                    return Answer::Other(self.redis.orders[key].record.clone());
                }
                if self.redis.orders.contains_key(key) {
                    self.redis.remove(address);
                    self.publish_change(node, &PeerNews::ChannelGone(Arc::clone(address)));
                }
                Answer::Done
            }
            Record::Peer(record) => match &**record {
                PeerRecord::Attach(attach) => {
                    self.begin_to_follow(node, key, attach);
                    self.forget_the_dead(node, key);
                    self.read(node, key, &attach.record, now)
                }
                PeerRecord::Detach(channel, _) => {
                    let follows = &mut self.hubs[node].follows;
                    if follows.get(key).is_some_and(|follow| follow.channel == *channel) {
                        follows.remove(key);
                        let order = self.redis.orders.get_mut(key);
                        order.into_iter().for_each(|order| _ = order.followers.remove(&node));
                    }
                    Answer::Done
                }
                PeerRecord::Fork { life, base, .. } => {
                    let order = self.redis.orders.get(key);
                    if self.is_of_life(node, key, life)
                        && order.is_some_and(|order| order.record.epoch == *life)
                        && let Some(push) = self.redis.bump(key, *base)
                    {
                        self.publish(key, &push);
                    }
                    Answer::Done
                }
                PeerRecord::Submit(_) => self.submit(node, key, steps, now),
                other => unreachable!("{other:?} is not of a channel"),
            },
            other => unreachable!("{other:?} is not of a channel"),
        }
    }

    fn submit(&mut self, node: usize, key: &str, steps: &[Record], now: Now) -> Answer {
        let submissions: Vec<Submission> = steps.iter().filter_map(submission).cloned().collect();
        let tickets = submissions.iter().map(|it| (it.channel, it.ticket));
        self.hubs[node].tried.extend(tickets);
        if !self.is_of_life(node, key, &submissions[0].life) {
            return Answer::Over;
        }
        let order = self.redis.orders.get(key);
        let term = |record: &ChannelRecord| (record.epoch.clone(), record.term);
        let known = self.hubs[node].follows[key].record.as_ref().map(term);
        if order.map(|order| term(&order.record)) != known {
            return Answer::Missing;
        }
        if self.flaw == Flaw::AckUnstored && submissions[0].ticket.is_multiple_of(7) {
            let sequence = order.map_or(0, |order| order.last()) + 1;
            let place =
                |it: &Submission| Place { ticket: it.ticket, sequence, is_duplicate: false };
            return Answer::Placed(submissions.iter().map(place).collect());
        }
        match self.redis.submit(node, key, &submissions, (self.now_ms, now)) {
            Some((mut places, push)) => {
                self.publish(key, &push);
                if self.flaw == Flaw::WrongPlace && places[0].ticket.is_multiple_of(5) {
                    places.iter_mut().for_each(|place| place.sequence += 1);
                }
                Answer::Placed(places)
            }
            None => Answer::Missing,
        }
    }

    /// Gives a step its due.
    fn conclude(&mut self, node: usize, key: &str, steps: Vec<Record>, answer: Answer) {
        let to = |name: &Name| To::Room(name.clone());
        let deleted = match &steps[0] {
            Record::RoomGone(name) => {
                Some(Address { room: name.clone(), channel: Name::every() }.into())
            }
            Record::ChannelGone(address) => Some(Arc::clone(address)),
            _ => None,
        };
        let is_gone = matches!(answer, Answer::Done);
        match answer {
            Answer::Done => self.note_done(node, &steps[0]),
            Answer::There => {}
            Answer::Over => {
                for Submission { channel, ticket, .. } in steps.iter().filter_map(submission) {
                    self.hubs[node].lose(*channel, *ticket);
                }
            }
            Answer::Other(record) => {
                self.note_change(node, &PeerNews::Channel(Box::new(record.clone())));
                let room = to(&record.address.room);
                self.tell(node, room, PeerNews::Channel(Box::new(record)));
            }
            Answer::Kept(room, order) => {
                let news = room.map(|room| PeerNews::Room(Box::new(room))).into_iter();
                let order = order.map(|order| PeerNews::Channel(Box::new(order)));
                for news in news.chain(order) {
                    self.note_change(node, &news);
                    self.tell_room(node, news);
                }
            }
            Answer::Placed(places) => {
                if let Some(Submission { channel, .. }) = submission(&steps[0]) {
                    let (to, channel) = (To::Shard(channel.home()), *channel);
                    self.tell(node, to, PeerNews::Placed { channel, places });
                }
            }
            Answer::Read(kept, is_new) => self.attached(node, key, kept, is_new),
            Answer::Missing => {
                let follow = self.hubs[node].follows.get_mut(key);
                follow.into_iter().for_each(|follow| follow.is_behind = true);
                self.give_back(node, key, steps);
            }
        }
        if let Some(address) = deleted {
            self.tell(node, to(&address.room), PeerNews::Deleted { address, is_gone });
        }
    }

    fn note_done(&mut self, node: usize, step: &Record) {
        let news = match step {
            Record::Room(room) => PeerNews::Room(room.clone()),
            Record::RoomGone(name) => PeerNews::RoomGone(name.clone()),
            Record::ChannelGone(address) => PeerNews::ChannelGone(Arc::clone(address)),
            _ => return,
        };
        self.note_change(node, &news);
    }

    fn do_session(&mut self, node: usize) {
        let Some(record) = self.hubs[node].sessions.pop_front() else { return };
        match record {
            SessionRecord::Here(key, kept) | SessionRecord::Left(key, kept) => {
                self.redis.keep_session(key, kept.life, Some(*kept));
            }
            SessionRecord::Over(key, life) => self.redis.keep_session(key, life, None),
            SessionRecord::Recall(key, conn) => {
                let kept = self.redis.sessions.get(&key).and_then(|(_, kept)| kept.clone());
                let recalled = kept.map_or(Recalled::Unknown, |kept| Recalled::Found(kept.into()));
                let news = StorageNews::Session(conn.conn, recalled);
                self.hubs[node].news.push_back((To::Shard(conn.shard), news));
            }
        }
    }

    /// All that had waited is done.
    pub(super) fn restore_if_done(&mut self, node: usize) {
        let hub = &mut self.hubs[node];
        if hub.is_up && hub.is_done() && std::mem::take(&mut hub.is_degraded) {
            hub.news.push_back((To::All, StorageNews::Restored));
        }
    }

    fn is_of_life(&self, node: usize, key: &str, life: &str) -> bool {
        let follow = self.hubs[node].follows.get(key);
        let record = follow.and_then(|follow| follow.record.as_ref());
        record.is_some_and(|record| *record.epoch == *life)
    }

    /// Whether another node that lives follows a channel.
    fn is_followed(&self, node: usize, key: &str) -> bool {
        let order = self.redis.orders.get(key);
        order.is_some_and(|order| order.followers.iter().any(|&it| it != node && self.lives(it)))
    }
}

fn submission(record: &Record) -> Option<&Submission> {
    let Record::Peer(record) = record else { return None };
    match &**record {
        PeerRecord::Submit(submission) => Some(submission),
        _ => None,
    }
}
