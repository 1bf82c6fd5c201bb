//! The order of one channel: its sequence, the log of its last messages, and the ids in it.
//!
//! *Invariants*: the log holds a run of sequences without a hole that ends with the last one
//! given; the index finds exactly what is in the log; a sequence is given once.
//!
//! *Panics*: `restore` and `rename` are only called for histories without an event, and the homes
//! read a channel again instead of calling `follow` with an event that is not the next one. So
//! neither peers nor Redis can break these assertions. A log that does not end with the last
//! sequence means that the order is lost, and the process ends.

use crate::broker::durable::Durable;
use crate::broker::history::Verdict::{Duplicate, Fresh};
use crate::broker::history::index::Index;
use crate::broker::history::log::{Log, SPARE_BYTES};
use crate::protocol::command::HistoryQuery;
use crate::protocol::frame::{Draft, Frame, FrameRef};
use crate::protocol::names::Name;
use crate::protocol::timestamp::Writer;
use crate::protocol::views::HistorySpan;
use ahash::RandomState;
use std::sync::Arc;

mod index;
mod log;

/// A channel's order and the end of it that is kept.
#[derive(Debug)]
pub struct History {
    epoch: Arc<str>,
    last: u64,
    last_us: u64,
    size: u32,
    bytes_max: usize,
    /// Where it stands among the histories of its home, by its bytes; the home's to set.
    pub(super) rank: u8,
    /// How it is kept beyond the life of its home, if it is; the home's to set.
    pub(super) durable: Option<Box<Durable>>,
    log: Log,
    /// The sequence of the oldest message in the log, if it holds any.
    first: u64,
    /// The sequences of what is in the log, by the hashes of their identities.
    index: Index,
    hasher: RandomState,
}

/// How much a history holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Messages.
    pub messages: usize,
    /// The memory that they take, in bytes.
    pub bytes: usize,
}

/// What became of an event.
#[derive(Debug)]
pub enum Verdict {
    /// It has a place in the order.
    Fresh(Arc<Frame>),
    /// It had one already; the message that holds it.
    Duplicate(Arc<Frame>),
}

/// What a returning member missed.
#[derive(Debug)]
pub enum Recovery {
    /// Exactly these, oldest first.
    Whole(Vec<Arc<Frame>>),
    /// It can't be said; the reason as a word for machines.
    Impossible(&'static str),
}

/// A page of what was said.
#[derive(Debug)]
pub struct Page<'a> {
    /// In the order that was asked for.
    pub messages: Vec<FrameRef<'a>>,
    /// Whether more messages match.
    pub more: bool,
}

impl History {
    /// An empty history that keeps `size` messages of `bytes_max` bytes together.
    pub fn new(epoch: Arc<str>, size: u32, bytes_max: usize, hasher: RandomState) -> History {
        History {
            epoch,
            last: 0,
            last_us: 0,
            size,
            bytes_max,
            rank: 0,
            durable: None,
            log: Log::default(),
            first: 1,
            index: Index::default(),
            hasher,
        }
    }

    /// The life of the channel that the sequences belong to.
    pub fn epoch(&self) -> &Arc<str> {
        &self.epoch
    }

    /// The last sequence given; 0 if none was.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// How much is kept.
    pub fn held(&self) -> Held {
        Held { messages: self.log.len(), bytes: self.log.bytes() }
    }

    /// What is kept.
    pub fn span(&self) -> HistorySpan {
        HistorySpan {
            epoch: self.epoch.to_string(),
            first_sequence: (self.log.len() > 0).then_some(self.first),
            last_sequence: (self.last > 0).then_some(self.last),
            size: self.size,
        }
    }

    /// Looks ahead to [`History::append`]: fetches where the event will go. Gives the hash of its
    /// identity.
    pub fn prefetch_append(&self, draft: &Draft) -> u64 {
        self.log.prefetch_push(draft.length());
        self.hasher.hash_one(draft.identity())
    }

    /// Looks ahead to the identity with this hash: fetches where it is looked for.
    pub fn prefetch_id(&self, hash: u64) {
        self.index.prefetch(hash);
    }

    /// Gives an event its place and a time that never goes back, unless it has a place already.
    pub fn append(&mut self, draft: Draft, wall_us: u64, times: &mut Writer) -> Verdict {
        let hash = self.hasher.hash_one(draft.identity());
        if let Some(first) = self.find(hash, draft.identity()) {
            return Duplicate(first.to_frame());
        }
        self.last += 1;
        self.last_us = self.last_us.max(wall_us);
        let frame = draft.stamp_by(times, self.last, self.last_us);
        self.keep(hash, &frame);
        self.check_ends();
        Fresh(frame)
    }

    /// Goes on where a kept order ended. `messages` are the end of it as far as they are known; what
    /// is no run that ends with `last` is not taken.
    pub fn restore(&mut self, epoch: Arc<str>, last: u64, last_us: u64, messages: &[Arc<Frame>]) {
        assert!(self.last == 0, "only what is new can go on where something ended");
        (self.epoch, self.last, self.last_us) = (epoch, last, last_us);
        let Some(first) = (last + 1).checked_sub(messages.len() as u64) else { return };
        if !messages.iter().zip(first..).all(|(frame, sequence)| frame.sequence == sequence) {
            return;
        }
        for frame in messages {
            self.last_us = self.last_us.max(frame.timestamp_us);
            let hash = self.hasher.hash_one(frame.identity());
            // More may have been kept than was remembered when an id came for the second time.
            while self.find(hash, frame.identity()).is_some() {
                self.evict();
            }
            self.keep(hash, frame);
        }
        self.check_ends();
    }

    /// Takes an event in that has got its place elsewhere: the next one.
    pub fn follow(&mut self, frame: &Arc<Frame>) {
        assert_eq!(frame.sequence, self.last + 1, "what follows is the next");
        self.last = frame.sequence;
        self.last_us = self.last_us.max(frame.timestamp_us);
        let hash = self.hasher.hash_one(frame.identity());
        // More may be remembered here than where it got its place.
        while self.find(hash, frame.identity()).is_some() {
            self.evict();
        }
        self.keep(hash, frame);
        if let Some(durable) = &mut self.durable {
            durable.note_stored(self.last);
        }
        self.check_ends();
    }

    /// Takes in what had a place in another order, as the next, unless it has one here already; false
    /// if it has.
    pub(super) fn append_moved(&mut self, message: FrameRef<'_>, times: &mut Writer) -> bool {
        let hash = self.hasher.hash_one(message.identity());
        if self.find(hash, message.identity()).is_some() {
            return false;
        }
        self.last += 1;
        self.last_us = self.last_us.max(message.timestamp_us());
        let moved = message.moved(times, self.last, self.last_us);
        self.keep(hash, &moved);
        self.check_ends();
        true
    }

    /// The messages that are kept, oldest first.
    pub(super) fn frames(&self) -> impl Iterator<Item = FrameRef<'_>> {
        self.messages(self.log.len())
    }

    /// A copy that goes on in another term.
    pub(super) fn fork(&self, term: u32, bytes_max: usize) -> History {
        let mut fork = History::new(self.epoch.clone(), self.size, bytes_max, self.hasher.clone());
        (fork.first, fork.last, fork.last_us) = (self.first, self.last, self.last_us);
        (fork.log, fork.index) = (self.log.clone(), self.index.clone());
        let durable = self.durable.as_ref();
        let durable = durable.map(|known| Box::new(Durable::clone(known).fork(term, self.last)));
        let epoch = durable.as_ref().map_or_else(|| self.epoch.clone(), |durable| durable.epoch());
        (fork.epoch, fork.durable, fork.rank) = (epoch, durable, self.rank);
        fork.resize(self.size, bytes_max);
        fork
    }

    /// Its order goes on in another term.
    pub(super) fn go_on_in(&mut self, term: u32, past: Vec<(u32, u64)>) {
        if let Some(durable) = &mut self.durable {
            (durable.term, durable.past) = (term, past);
            self.epoch = durable.epoch();
        }
    }

    /// An empty history is that of another life.
    pub(super) fn rename(&mut self, epoch: Arc<str>) {
        assert!(self.last == 0, "only what is empty can get another epoch");
        self.epoch = epoch;
    }

    /// Whether its places are given by a storage that several nodes share.
    pub fn is_shared(&self) -> bool {
        self.durable.as_ref().is_some_and(|durable| durable.is_shared)
    }

    /// How many messages are kept.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// The message of an identity, if it is kept.
    pub fn first_of(&self, identity: &[u8]) -> Option<FrameRef<'_>> {
        self.find(self.hasher.hash_one(identity), identity)
    }

    /// Keeps `size` messages of `bytes_max` bytes together from now on.
    pub fn resize(&mut self, size: u32, bytes_max: usize) {
        self.size = size;
        self.bytes_max = bytes_max;
        while self.log.len() > size as usize || self.log.bytes() > bytes_max {
            self.evict();
        }
    }

    /// Whether a sequence that was told under an epoch is one of this order; if not, why so, as a word
    /// for machines.
    pub fn position(&self, epoch: &str, sequence: u64) -> Result<(), &'static str> {
        let durable = self.durable.as_ref();
        if epoch != &*self.epoch && !durable.is_some_and(|known| known.knows(epoch, sequence)) {
            return Err("epoch_changed");
        }
        if sequence > self.last {
            return Err("unknown_sequence");
        }
        Ok(())
    }

    /// Every message after `sequence` that has not expired, if the log still holds them all.
    pub fn since(&self, epoch: &str, sequence: u64, now_ms: u64, bytes_max: usize) -> Recovery {
        if let Err(reason) = self.position(epoch, sequence) {
            return Recovery::Impossible(reason);
        }
        let missed = (self.last - sequence) as usize;
        if missed > self.log.len() {
            return Recovery::Impossible("history_overrun");
        }
        let live = || self.messages(missed).filter(|frame| !frame.is_expired(now_ms));
        if live().map(|frame| frame.wire().len()).sum::<usize>() > bytes_max {
            return Recovery::Impossible("too_many_bytes");
        }
        Recovery::Whole(live().map(FrameRef::replayed).collect())
    }

    /// The messages that match a query: with the oldest first the newest `limit` of them, unless
    /// the query says after which it wants to go on.
    pub fn page(&self, query: &HistoryQuery, now_ms: u64, bytes_max: usize) -> Page<'_> {
        let matches = |frame: &FrameRef<'_>| {
            !frame.is_expired(now_ms)
                && query.since_us.is_none_or(|since| frame.timestamp_us() >= since)
                && query.until_us.is_none_or(|until| frame.timestamp_us() <= until)
                && query.after.is_none_or(|after| frame.sequence > after)
                && query.before.is_none_or(|before| frame.sequence < before)
        };
        // A reader that pages forward wants what comes next, not what came last.
        let forward = !query.newest_first && (query.after.is_some() || query.since_us.is_some());
        let frames = self.messages(self.log.len());
        let mut page = if forward {
            take_page(frames.filter(matches), query.limit, bytes_max)
        } else {
            take_page(frames.rev().filter(matches), query.limit, bytes_max)
        };
        if !forward && !query.newest_first {
            page.messages.reverse();
        }
        page
    }

    /// The newest messages, oldest first.
    fn messages(&self, count: usize) -> impl DoubleEndedIterator<Item = FrameRef<'_>> {
        let skipped = self.log.len() - count;
        (skipped..self.log.len()).filter_map(|place| self.log.get(place, self.first + place as u64))
    }

    fn find(&self, hash: u64, identity: &[u8]) -> Option<FrameRef<'_>> {
        let is_it = |sequence: u64| {
            self.log.is_at((sequence - self.first) as usize, hash)
                && self.at(sequence).is_some_and(|message| message.identity() == identity)
        };
        self.at(self.index.find(hash, self.first, is_it)?)
    }

    fn at(&self, sequence: u64) -> Option<FrameRef<'_>> {
        self.log.get(sequence.checked_sub(self.first)? as usize, sequence)
    }

    fn keep(&mut self, hash: u64, frame: &Frame) {
        if self.size == 0 {
            return;
        }
        let length = frame.wire().len() + SPARE_BYTES;
        while self.log.len() >= self.size as usize || self.log.bytes() + length > self.bytes_max {
            if !self.evict() {
                // It alone is more than may be kept.
                return;
            }
        }
        if self.log.len() == 0 {
            self.first = frame.sequence;
        }
        self.log.push(hash, frame.wire(), frame.outline());
        self.index.insert(hash, frame.sequence, (&self.log, self.first));
    }

    /// Gives up the oldest message; false if there is none.
    pub fn evict(&mut self) -> bool {
        if !self.log.pop() {
            return false;
        }
        self.first += 1;
        self.index.give_up((&self.log, self.first));
        if self.log.shrink() {
            self.index.shrink((&self.log, self.first));
        }
        true
    }

    /// The sequence of the oldest message, or of the next one if there is none.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// Deletes the messages before a sequence.
    pub(super) fn evict_before(&mut self, sequence: u64) {
        while self.first < sequence && self.evict() {}
    }

    /// Gives up what is older than is kept of it, if that is bounded. True if there was something.
    pub fn forget_old(&mut self, wall_us: u64) -> bool {
        let age_ms = self.durable.as_ref().map_or(0, |durable| durable.keep.age_ms);
        if age_ms == 0 {
            return false;
        }
        let oldest_us = wall_us.saturating_sub(age_ms.saturating_mul(1_000));
        let mut has_any = false;
        while self.at(self.first).is_some_and(|oldest| oldest.timestamp_us() < oldest_us)
            && self.evict()
        {
            has_any = true;
        }
        has_any
    }

    fn check_ends(&self) {
        if self.log.len() > 0 {
            let end = self.first + self.log.len() as u64;
            assert_eq!(end, self.last + 1, "the log ends with the last sequence, without a hole");
        }
    }

    /// Asserts every invariant; for tests and the simulator.
    pub fn check(&self) {
        self.check_ends();
        self.log.check();
        if let Some(durable) = &self.durable {
            durable.check(self.last);
        }
        assert!(self.log.len() <= self.size as usize, "the log keeps at most its size");
        assert!(self.log.bytes() <= self.bytes_max, "the log keeps at most its bytes");
        self.index.check((&self.log, self.first));
        let messages = || self.messages(self.log.len());
        let times = messages().map(|message| message.timestamp_us());
        assert!(times.is_sorted(), "time never goes back");
        for (place, message) in messages().enumerate() {
            let (hash, identity) = (self.log.hash(place), message.identity());
            assert_eq!(hash, self.hasher.hash_one(identity), "the hash is that of the identity");
            let found = self.find(hash, identity).map(|found| found.sequence);
            assert_eq!(found, Some(message.sequence), "every identity is indexed");
        }
    }
}

fn take_page<'a>(
    mut frames: impl Iterator<Item = FrameRef<'a>>,
    limit: usize,
    bytes_max: usize,
) -> Page<'a> {
    let mut messages = Vec::new();
    let mut bytes = 0;
    for frame in frames.by_ref() {
        bytes += frame.wire().len() + 32;
        // One message always fits, or a reader could never get past a large one.
        if messages.len() == limit || (bytes > bytes_max && !messages.is_empty()) {
            return Page { messages, more: true };
        }
        messages.push(frame);
    }
    Page { messages, more: false }
}

/// The query for the newest messages of a channel, as `history` without parameters asks it.
pub fn newest(room: Name, channel: Name, limit: usize) -> HistoryQuery {
    HistoryQuery {
        address: crate::protocol::command::Address { room, channel },
        limit,
        since_us: None,
        until_us: None,
        after: None,
        before: None,
        newest_first: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::hash::seeded;
    use crate::protocol::envelope::MessageType;
    use crate::protocol::frame::Origin;
    use std::collections::VecDeque;

    fn draft(id: &str, ttl_ms: Option<u64>) -> Draft {
        let origin = Origin { received_ns: 0, ttl_ms };
        Draft::of_server(id, MessageType::Event, ("r", "c"), "{}", origin)
    }

    fn append(history: &mut History, draft: Draft, us: u64) -> Verdict {
        history.append(draft, us, &mut Writer::default())
    }

    fn filled(size: u32, count: u64) -> History {
        let mut history = History::new("e".into(), size, usize::MAX, seeded(1));
        for n in 1..=count {
            assert!(matches!(append(&mut history, draft(&format!("arq_{n}"), None), n), Fresh(_)));
            history.check();
        }
        history
    }

    #[test]
    fn a_repeated_id_is_known_while_it_is_kept() {
        let mut history = filled(3, 4);
        match append(&mut history, draft("arq_3", None), 9) {
            Duplicate(first) => assert_eq!(first.sequence, 3),
            Fresh(_) => panic!("arq_3 is kept"),
        }
        assert!(
            matches!(append(&mut history, draft("arq_1", None), 9), Fresh(_)),
            "arq_1 fell out"
        );
        history.check();
    }

    #[test]
    fn ids_are_known_just_while_they_are_kept_however_that_ends() {
        for seed in 0..200 {
            let mut rng = fastrand::Rng::with_seed(seed);
            // Every tenth is large enough to give much memory back when it shrinks.
            let size_max = if seed.is_multiple_of(10) { 900 } else { 40 };
            let (size, ids) = (rng.u32(0..size_max), rng.u32(1..2 * size_max));
            let bytes_max = if rng.bool() { usize::MAX } else { rng.usize(500..20_000) };
            let mut history = History::new("e".into(), size, bytes_max, seeded(seed));
            if rng.bool() {
                // The lower half of its sequences will begin anew.
                history.restore("f".into(), u64::from(u32::MAX) - rng.u64(..500), 0, &[]);
            }
            let mut model: VecDeque<(u32, u64)> = VecDeque::new();
            for us in 1..=2_000 {
                let id = rng.u32(..ids);
                let known = model.iter().find(|(known, _)| *known == id).map(|known| known.1);
                let name = format!("arq_{id}");
                let text = match rng.u32(..50) {
                    // It alone may be more than is kept.
                    0 => format!(r#"{{"t":"{}"}}"#, "x".repeat(rng.usize(..2_000))),
                    _ => "{}".to_owned(),
                };
                let origin = Origin { received_ns: 0, ttl_ms: None };
                let from = ("r", "c");
                let draft = Draft::of_server(&name, MessageType::Event, from, &text, origin);
                match rng.u32(..20) {
                    0 => {
                        let frame = draft.stamp(history.last() + 1, us);
                        history.follow(&frame);
                        model.push_back((id, frame.sequence));
                    }
                    _ => match append(&mut history, draft, us) {
                        Duplicate(first) => assert_eq!(Some(first.sequence), known, "seed {seed}"),
                        Fresh(frame) => {
                            assert_eq!(known, None, "seed {seed}");
                            model.push_back((id, frame.sequence));
                        }
                    },
                }
                match rng.u32(..200) {
                    0 => history.resize(rng.u32(0..10), bytes_max),
                    1 => history.resize(rng.u32(0..size_max), bytes_max),
                    2 => (0..rng.usize(..10)).for_each(|_| _ = history.evict()),
                    3 => history = history.fork(1, bytes_max),
                    _ => {}
                }
                while model.len() > history.held().messages {
                    model.pop_front();
                }
                if us % 10 == 0 {
                    history.check();
                }
            }
        }
    }

    #[test]
    fn recovery_is_whole_or_refused() {
        let history = filled(3, 5);
        let since = |epoch: &str, sequence| -> Result<Vec<u64>, _> {
            match history.since(epoch, sequence, 0, 10_000) {
                Recovery::Whole(frames) => Ok(frames.iter().map(|frame| frame.sequence).collect()),
                Recovery::Impossible(reason) => Err(reason),
            }
        };
        assert_eq!(since("e", 5), Ok(vec![]));
        assert_eq!(since("e", 2), Ok(vec![3, 4, 5]));
        assert_eq!(since("e", 1), Err("history_overrun"));
        assert_eq!(since("e", 6), Err("unknown_sequence"));
        assert_eq!(since("f", 5), Err("epoch_changed"));
        assert!(matches!(history.since("e", 2, 0, 100), Recovery::Impossible("too_many_bytes")));
    }

    #[test]
    fn what_is_older_than_is_kept_is_neither_listed_nor_recovered() {
        use crate::broker::record::Keep;
        let mut history = filled(10, 5);
        assert!(!history.forget_old(1_000_000_000), "without a bound nothing grows too old");
        let keep = Keep { messages: 10, age_ms: 1, bytes: 0 };
        history.durable = Some(Box::new(Durable::new("e".into(), keep, None)));
        // They are of 1 to 5 us.
        assert!(!history.forget_old(1_001) && history.forget_old(1_004));
        history.check();
        let query = newest(Name::fixed("r"), Name::fixed("c"), 9);
        let listed: Vec<u64> =
            history.page(&query, 0, 1 << 20).messages.iter().map(|it| it.sequence).collect();
        assert_eq!((listed, history.span().first_sequence), (vec![4, 5], Some(4)));
        assert!(matches!(
            history.since("e", 2, 0, 1 << 20),
            Recovery::Impossible("history_overrun")
        ));
        assert!(history.forget_old(9_000));
        assert_eq!((history.last(), history.held().messages), (5, 0));
        history.check();
    }

    #[test]
    fn pages_go_the_way_they_are_asked() {
        let history = filled(10, 10);
        let base = newest(Name::fixed("r"), Name::fixed("c"), 3);
        let page = |query: HistoryQuery| -> (Vec<u64>, bool) {
            let page = history.page(&query, 0, 1 << 20);
            (page.messages.iter().map(|message| message.sequence).collect(), page.more)
        };
        assert_eq!(page(base.clone()), (vec![8, 9, 10], true));
        assert_eq!(
            page(HistoryQuery { newest_first: true, ..base.clone() }),
            (vec![10, 9, 8], true)
        );
        assert_eq!(page(HistoryQuery { after: Some(2), ..base.clone() }), (vec![3, 4, 5], true));
        assert_eq!(page(HistoryQuery { before: Some(3), ..base.clone() }), (vec![1, 2], false));
        let times = HistoryQuery { since_us: Some(4), until_us: Some(5), ..base };
        assert_eq!(page(times), (vec![4, 5], false));
    }

    #[test]
    fn expired_messages_are_not_replayed() {
        let mut history = History::new("e".into(), 5, usize::MAX, seeded(1));
        append(&mut history, draft("arq_1", Some(10)), 1);
        append(&mut history, draft("arq_2", None), 1);
        let Recovery::Whole(frames) = history.since("e", 0, 11, 10_000) else { panic!() };
        assert_eq!(frames.len(), 1);
        assert_eq!(frames[0].sequence, 2);
    }

    #[test]
    fn time_never_goes_back_and_no_history_still_counts() {
        let mut history = History::new("e".into(), 0, usize::MAX, seeded(1));
        let mut stamp = |id, us| match append(&mut history, draft(id, None), us) {
            Fresh(frame) => (frame.sequence, frame.timestamp_us),
            Duplicate(_) => panic!(),
        };
        assert_eq!(stamp("arq_1", 50), (1, 50));
        assert_eq!(stamp("arq_2", 40), (2, 50));
        assert!(matches!(history.since("e", 1, 0, 1000), Recovery::Impossible("history_overrun")));
    }
}
