//! What waits for Redis: for each channel a lane of steps, each of them one atomic change.
//!
//! A round takes the first step of each lane that is due, or of its events as many as are good for
//! one call; a step that failed comes back to where it was. So whatever fails, the steps of a
//! channel are taken in their order, and no channel waits for another.
//!
//! *Invariants*: the steps of a lane are in the order in which their records came; a lane has at
//! most one step under way, and what follows it waits; the events of one step are of one epoch;
//! an event that is taken in is written or counted as lost, and once a channel has lost one it
//! loses all that follow until half of what it may have is free, so that what is written after a hole
//! is a run again. Only events are bounded: the other records of a channel replace each other.
//!
//! A channel may have [`LANE_SHARE`] times as many bytes as are free (the dynamic threshold of
//! Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet switches", 1998). So
//! one alone has most of the backlog, and those that fill it leave room for the others.
//!
//! *Panics*: a step of events is never empty, and only `release` ends the state of a lane whose
//! step is under way, whatever Redis answers; records of other kinds are taken out before they come
//! here. A step that comes back to any other lane means that the order is lost, and the process
//! ends.
//!
//! *Not here*: Redis, clocks.

use crate::base::budget::PENDING_EVENT_BYTES;
use crate::base::hash::{Map, seeded};
use crate::base::ids::ChannelId;
use crate::broker::record::{ChannelRecord, EventRecord, Record, RoomRecord};
use crate::protocol::command::Address;
use crate::protocol::names::Name;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The events of one call: Redis serves nobody else meanwhile.
const STEP_EVENTS_MAX: usize = 512;
/// The bytes of the events of one call, unless one event alone has more.
const STEP_BYTES_MAX: u64 = 1024 * 1024;
/// The calls of one round.
const ROUND_STEPS_MAX: usize = 1_024;
/// The bytes of the events of one round.
const ROUND_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// How many times the free bytes a channel may have waiting.
const LANE_SHARE: u64 = 4;

/// How long a channel is left alone in whose place something foreign stands.
const REST: Duration = Duration::from_secs(1);

/// An event that waits, as far as it matters here.
pub(super) trait Pending: Debug {
    /// What else a lane may have to do, in its order.
    type Task: Debug;
    fn channel(&self) -> ChannelId;
    fn address(&self) -> &Arc<Address>;
    /// The life of the channel that it belongs to.
    fn life(&self) -> &str;
    /// Its number among those of its channel, by which it is told as lost.
    fn number(&self) -> u64;
    fn bytes(&self) -> u64;
    /// When it was received, in microseconds since 1970.
    fn received_us(&self) -> u64;
    /// What is done for a channel in quarantine before anything else, or, if `is_idle`, though nothing
    /// else is to be done: it looks whether the channel can be used again.
    fn probe(is_idle: bool) -> Option<Self::Task>
    where
        Self: Sized;
    /// Whether nothing is left to do of `old` when `task` follows it.
    fn replaces(task: &Self::Task, old: &Step<Self>) -> bool
    where
        Self: Sized;
}

/// Looks whether what is stored of a channel can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Probe;

impl Pending for EventRecord {
    type Task = Probe;

    fn channel(&self) -> ChannelId {
        self.channel
    }

    fn address(&self) -> &Arc<Address> {
        &self.address
    }

    fn life(&self) -> &str {
        &self.epoch
    }

    fn number(&self) -> u64 {
        self.frame.sequence
    }

    fn bytes(&self) -> u64 {
        PENDING_EVENT_BYTES + self.frame.wire().len() as u64
    }

    fn received_us(&self) -> u64 {
        self.frame.timestamp_us
    }

    fn probe(_is_idle: bool) -> Option<Probe> {
        Some(Probe)
    }

    fn replaces(_task: &Probe, _old: &Step<EventRecord>) -> bool {
        false
    }
}

/// One atomic change of what is kept.
#[derive(Debug)]
pub(super) enum Step<E: Pending> {
    Room(Box<RoomRecord>),
    RoomGone(Name),
    Channel(Box<ChannelRecord>),
    ChannelGone,
    Task(E::Task),
    /// Never empty.
    Events(VecDeque<E>),
}

/// A step that is under way, and whose.
#[derive(Debug)]
pub(super) struct Batch<E: Pending> {
    pub(super) address: Arc<Address>,
    pub(super) step: Step<E>,
}

/// A run of events that will never be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Loss {
    pub(super) channel: ChannelId,
    pub(super) first: u64,
    pub(super) last: u64,
}

#[derive(Debug)]
pub(super) struct Backlog<E: Pending> {
    lanes: Map<Arc<Address>, Lane<E>>,
    /// The lanes whose first step may be taken; each stands here once.
    due: VecDeque<Arc<Address>>,
    /// The lanes that are left alone, and until when; the first ends first.
    resting: VecDeque<(Instant, Arc<Address>)>,
    losses: BTreeMap<ChannelId, Vec<Loss>>,
    events: u64,
    bytes: u64,
    bytes_max: u64,
}

#[derive(Debug)]
struct Lane<E: Pending> {
    steps: VecDeque<Step<E>>,
    /// Those of the events that wait, without a step that is under way.
    bytes: u64,
    /// Whether it loses what comes until there is room.
    is_losing: bool,
    state: LaneState,
    /// Whether its last step found something foreign in its place.
    is_spoilt: bool,
}

impl<E: Pending> Default for Lane<E> {
    fn default() -> Lane<E> {
        Lane {
            steps: VecDeque::new(),
            bytes: 0,
            is_losing: false,
            state: LaneState::Idle,
            is_spoilt: false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LaneState {
    Idle,
    Due,
    /// Its first step is under way.
    Busy,
    /// It is left alone, and loses its events.
    Resting,
}

impl Backlog<EventRecord> {
    /// Takes a record in.
    pub(super) fn push(&mut self, record: Record) {
        match record {
            Record::Event(event) => self.push_event(event),
            other => self.push_record(other),
        }
    }
}

impl<E: Pending> Backlog<E> {
    pub(super) fn new(bytes_max: u64) -> Backlog<E> {
        Backlog {
            lanes: Map::with_hasher(seeded(fastrand::u64(..))),
            due: VecDeque::new(),
            resting: VecDeque::new(),
            losses: BTreeMap::new(),
            events: 0,
            bytes: 0,
            bytes_max,
        }
    }

    /// The events that wait or are under way.
    pub(super) fn events(&self) -> u64 {
        self.events
    }

    /// Their bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether a round would find something.
    pub(super) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Whether an event waits that was received before that time, in microseconds since 1970.
    pub(super) fn has_waited_since(&self, us: u64) -> bool {
        let lanes = self.lanes.values().filter(|lane| lane.state != LaneState::Resting);
        lanes
            .flat_map(|lane| lane.steps.iter().find_map(Step::first_event))
            .any(|event| event.received_us() < us)
    }

    /// When the first lane that is left alone may be tried again.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.resting.front().map(|&(until, _)| until)
    }

    /// The runs that were lost since this was asked last, by channel.
    pub(super) fn take_losses(&mut self) -> Vec<Loss> {
        std::mem::take(&mut self.losses).into_values().flatten().collect()
    }

    /// Takes a room or a channel in.
    pub(super) fn push_record(&mut self, record: Record) {
        match record {
            Record::Room(room) => self.push_step(order_of(&room.name), Step::Room(room)),
            Record::RoomGone(name) => self.push_step(order_of(&name), Step::RoomGone(name)),
            Record::Channel(channel) => {
                self.push_step(Arc::clone(&channel.address), Step::Channel(channel));
            }
            Record::ChannelGone(address) => self.push_step(address, Step::ChannelGone),
            Record::Event(_) | Record::Peer(_) => {
                unreachable!("events have a way of their own, and who does not share has no peers")
            }
            Record::Session(_) | Record::Merged(_) => unreachable!("it belongs to no channel"),
        }
    }

    pub(super) fn push_event(&mut self, event: E) {
        let bytes = event.bytes();
        let address = Arc::clone(event.address());
        let lane = self.lanes.entry(Arc::clone(&address)).or_default();
        let free = self.bytes_max.saturating_sub(self.bytes);
        let lane_max = LANE_SHARE * free;
        lane.is_losing &= lane.bytes > lane_max / 2;
        // However large it is, it fits when it is alone.
        lane.is_losing |= self.bytes > 0 && (bytes > free || lane.bytes + bytes > lane_max);
        if lane.state == LaneState::Resting || lane.is_losing {
            self.lose(&event);
            return self.settle(&address);
        }
        self.events += 1;
        (self.bytes, lane.bytes) = (self.bytes + bytes, lane.bytes + bytes);
        match lane.steps.back_mut() {
            Some(Step::Events(events)) if events[0].life() == event.life() => {
                events.push_back(event);
            }
            _ => lane.steps.push_back(Step::Events(VecDeque::from([event]))),
        }
        self.settle(&address);
    }

    pub(super) fn push_step(&mut self, address: Arc<Address>, step: Step<E>) {
        let steps = &mut self.lanes.entry(Arc::clone(&address)).or_default().steps;
        let is_events = |step: &Step<E>| matches!(step, Step::Events(_));
        let mut before_end = steps.iter().rposition(is_events).map_or(0, |at| at + 1);
        steps.retain(|old| {
            let stays = before_end > 0 || !step.replaces(old);
            before_end = before_end.saturating_sub(1);
            stays
        });
        steps.push_back(step);
        self.settle(&address);
    }

    /// Takes in what shall be done before all else that waits in its lane; a room or a channel. A step
    /// that is under way goes on: what is read of a channel again may outlast a lost connection.
    pub(super) fn push_first(&mut self, record: Record) {
        let (address, step) = match record {
            Record::Room(room) => (order_of(&room.name), Step::Room(room)),
            Record::Channel(channel) => (Arc::clone(&channel.address), Step::Channel(channel)),
            other => return self.push_record(other),
        };
        let lane = self.lanes.entry(Arc::clone(&address)).or_default();
        // What is stored of a channel in quarantine is looked at before.
        let is_probed = E::probe(false).is_some();
        let has_probe = is_probed && matches!(lane.steps.front(), Some(Step::Task(_)));
        lane.steps.insert(usize::from(has_probe), step);
        self.settle(&address);
    }

    /// Takes in what shall be done before all else that waits in its lane.
    pub(super) fn push_ahead(&mut self, address: &Arc<Address>, step: Step<E>) {
        self.lanes.entry(Arc::clone(address)).or_default().steps.push_front(step);
        self.settle(address);
    }

    /// Drops what waits of rooms and channels and is not needed any more.
    pub(super) fn drop_steps(&mut self, is_needless: impl Fn(&Address, &Step<E>) -> bool) {
        for (address, lane) in &mut self.lanes {
            let is_events = |step: &Step<E>| matches!(step, Step::Events(_));
            lane.steps.retain(|step| is_events(step) || !is_needless(address, step));
        }
        let lanes = &mut self.lanes;
        self.due.retain(|address| match lanes.get_mut(address) {
            Some(lane) if lane.steps.is_empty() => {
                lane.state = LaneState::Idle;
                false
            }
            _ => true,
        });
        let is_left = |lane: &Lane<E>| !lane.steps.is_empty() || lane.is_spoilt;
        lanes.retain(|_, lane| lane.state != LaneState::Idle || is_left(lane));
    }

    /// Takes the steps of one round: the first of each lane that is due, in turn. True if nothing
    /// that was due is left.
    pub(super) fn take_round(&mut self, now: Instant) -> (Vec<Batch<E>>, bool) {
        while let Some(&(until, _)) = self.resting.front().filter(|(until, _)| *until <= now) {
            let Some((_, address)) = self.resting.pop_front() else { break };
            debug_assert!(until <= now);
            if let Some(lane) = self.lanes.get_mut(&address) {
                lane.state = LaneState::Idle;
            }
            self.settle(&address);
        }
        let (mut round, mut bytes, mut is_all) = (Vec::new(), 0, true);
        while round.len() < ROUND_STEPS_MAX && bytes < ROUND_BYTES_MAX {
            let Some(address) = self.due.pop_front() else { return (round, is_all) };
            let Some(lane) = self.lanes.get_mut(&address) else { continue };
            let Some(step) = lane.take_step(&mut bytes) else { continue };
            is_all &= lane.steps.is_empty();
            round.push(Batch { address, step });
        }
        (round, is_all && self.due.is_empty())
    }

    /// A step was carried out. True if its channel was in quarantine until now.
    pub(super) fn done(&mut self, batch: Batch<E>) -> bool {
        if let Step::Events(events) = &batch.step {
            self.forget(events);
        }
        let lane = self.lanes.get_mut(&batch.address);
        let was_spoilt = lane.is_some_and(|lane| std::mem::take(&mut lane.is_spoilt));
        self.release(&batch.address, LaneState::Idle);
        was_spoilt
    }

    /// A step was not carried out, and shall be tried again before all that follows it.
    pub(super) fn give_back(&mut self, batch: Batch<E>) {
        if let Some(lane) = self.lanes.get_mut(&batch.address) {
            lane.put_first(batch.step);
        }
        self.release(&batch.address, LaneState::Idle);
    }

    /// A step was not carried out, and `first` shall be before it is tried again.
    pub(super) fn give_back_after(&mut self, batch: Batch<E>, first: Step<E>) {
        if let Some(lane) = self.lanes.get_mut(&batch.address) {
            lane.put_first(batch.step);
            lane.steps.push_front(first);
        }
        self.release(&batch.address, LaneState::Idle);
    }

    /// The events of a step are lost; what follows them goes on.
    pub(super) fn give_up(&mut self, batch: Batch<E>) {
        if let Step::Events(events) = batch.step {
            self.forget(&events);
            events.iter().for_each(|event| self.lose(event));
        }
        self.release(&batch.address, LaneState::Idle);
    }

    /// What is stored of the channel of this step can't be used: it is in **quarantine**. Its events are
    /// lost until it is tried again, and the other records wait.
    pub(super) fn spoil(&mut self, batch: Batch<E>, now: Instant) {
        let Some(lane) = self.lanes.get_mut(&batch.address) else { return };
        lane.put_first(batch.step);
        lane.is_spoilt = true;
        let (lost, mut kept): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut lane.steps)
            .into_iter()
            .partition(|step| matches!(step, Step::Events(_)));
        if !matches!(kept.front(), Some(Step::Task(_)))
            && let Some(probe) = E::probe(kept.is_empty() || !lost.is_empty())
        {
            kept.push_front(Step::Task(probe));
        }
        (lane.steps, lane.bytes) = (kept, 0);
        self.lose_all(lost);
        self.resting.push_back((now + REST, Arc::clone(&batch.address)));
        self.release(&batch.address, LaneState::Resting);
    }

    /// What is stored of a channel that nothing is known of can't be used.
    pub(super) fn quarantine(&mut self, address: &Arc<Address>, now: Instant) {
        let lane = self.lanes.entry(Arc::clone(address)).or_default();
        if lane.state != LaneState::Idle {
            return;
        }
        let Some(probe) = E::probe(true) else { return };
        lane.state = LaneState::Busy;
        self.spoil(Batch { address: Arc::clone(address), step: Step::Task(probe) }, now);
    }

    /// Loses everything that waits. A lane whose step is under way stays, since the step comes back to it.
    pub(super) fn lose_everything(&mut self) {
        self.due.clear();
        self.resting.clear();
        let mut lost = VecDeque::new();
        self.lanes.retain(|_, lane| {
            lost.append(&mut lane.steps);
            lane.bytes = 0;
            lane.state == LaneState::Busy
        });
        self.lose_all(lost);
    }

    fn lose_all(&mut self, steps: VecDeque<Step<E>>) {
        for step in steps {
            if let Step::Events(events) = step {
                self.forget(&events);
                events.iter().for_each(|event| self.lose(event));
            }
        }
    }

    fn lose(&mut self, event: &E) {
        let (channel, number) = (event.channel(), event.number());
        let losses = self.losses.entry(channel).or_default();
        match losses.last_mut() {
            Some(loss) if loss.last + 1 == number => loss.last = number,
            _ => losses.push(Loss { channel, first: number, last: number }),
        }
    }

    /// Counts events out.
    fn forget(&mut self, events: &VecDeque<E>) {
        self.events -= events.len() as u64;
        self.bytes -= events.iter().map(E::bytes).sum::<u64>();
    }

    fn release(&mut self, address: &Arc<Address>, state: LaneState) {
        if let Some(lane) = self.lanes.get_mut(address) {
            assert_eq!(lane.state, LaneState::Busy, "only a step that was taken comes back");
            lane.state = state;
        }
        self.settle(address);
    }

    /// Makes an idle lane due if it has a step, and forgets it if it has none.
    fn settle(&mut self, address: &Arc<Address>) {
        let Some(lane) = self.lanes.get_mut(address) else { return };
        match (lane.state, lane.steps.is_empty()) {
            (LaneState::Idle, false) => {
                lane.state = LaneState::Due;
                self.due.push_back(Arc::clone(address));
            }
            (LaneState::Idle, true) if !lane.is_spoilt => _ = self.lanes.remove(address),
            _ => {}
        }
    }

    /// Asserts every invariant; for tests.
    #[cfg(test)]
    fn check(&self, under_way: &[Batch<E>]) {
        let is_due = |lane: &Lane<E>| lane.state == LaneState::Due;
        assert_eq!(self.lanes.values().filter(|lane| is_due(lane)).count(), self.due.len());
        let waiting = self.lanes.values().flat_map(|lane| &lane.steps);
        let mut events = Vec::new();
        for step in waiting.chain(under_way.iter().map(|batch| &batch.step)) {
            if let Step::Events(some) = step {
                assert!(some.iter().all(|event| event.life() == some[0].life()));
                events.extend(some);
            }
        }
        assert_eq!(events.len() as u64, self.events, "events are counted right");
        assert_eq!(events.iter().map(|event| event.bytes()).sum::<u64>(), self.bytes);
        for lane in self.lanes.values() {
            let waiting = lane.steps.iter().filter_map(|step| match step {
                Step::Events(events) => Some(events),
                _ => None,
            });
            assert_eq!(waiting.flatten().map(E::bytes).sum::<u64>(), lane.bytes);
        }
    }
}

impl<E: Pending> Lane<E> {
    /// Takes the first step, or of its events as many as are good for one call.
    fn take_step(&mut self, bytes: &mut u64) -> Option<Step<E>> {
        self.state = LaneState::Busy;
        let Some(Step::Events(events)) = self.steps.front_mut() else {
            return self.steps.pop_front();
        };
        let (mut count, mut step_bytes) = (0, 0);
        for event in events.iter().take(STEP_EVENTS_MAX) {
            let event_bytes = event.bytes();
            if count > 0 && step_bytes + event_bytes > STEP_BYTES_MAX {
                break;
            }
            (count, step_bytes) = (count + 1, step_bytes + event_bytes);
        }
        *bytes += step_bytes;
        self.bytes -= step_bytes;
        if count == events.len() {
            return self.steps.pop_front();
        }
        // Only what is taken is moved: what waits behind it may be very much more.
        Some(Step::Events(events.drain(..count).collect()))
    }

    /// Puts a step back that was taken.
    fn put_first(&mut self, step: Step<E>) {
        if let Step::Events(events) = &step {
            self.bytes += events.iter().map(E::bytes).sum::<u64>();
        }
        match (step, self.steps.front_mut()) {
            (Step::Events(taken), Some(Step::Events(events)))
                if taken[0].life() == events[0].life() =>
            {
                taken.into_iter().rev().for_each(|event| events.push_front(event));
            }
            (step, _) => self.steps.push_front(step),
        }
    }
}

impl<E: Pending> Step<E> {
    fn first_event(&self) -> Option<&E> {
        match self {
            Step::Events(events) => events.front(),
            _ => None,
        }
    }

    /// Whether nothing is left to do of `old` when this follows it.
    fn replaces(&self, old: &Step<E>) -> bool {
        match (self, old) {
            (Step::Task(task), old) => E::replaces(task, old),
            (_, Step::Events(_)) | (Step::Events(_), _) => false,
            // What follows the order of the room goes on until it is told not to.
            (Step::RoomGone(_), Step::Task(_)) => false,
            (Step::RoomGone(_), _) => true,
            (Step::Room(_), Step::Room(_)) | (Step::Channel(_), Step::Channel(_)) => true,
            (Step::ChannelGone, Step::Channel(_) | Step::ChannelGone) => true,
            _ => false,
        }
    }
}

/// The lane of a room: that of the events to all of it.
pub(super) fn order_of(room: &Name) -> Arc<Address> {
    Arc::new(Address { room: room.clone(), channel: Name::every() })
}

mod late;
#[cfg(test)]
mod tests;
