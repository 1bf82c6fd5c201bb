//! Answers of an edge that need more than one shard's word: surveys, private messages, traces.
//!
//! *Invariants*: an entry ends once, when its last part is in or its deadline has passed; a part
//! for an entry that has ended finds nothing, because no key is used again while its entry waits, and hardly ever at all. A deadline cuts
//! short what is only told, never the question whether something was done: what a home will still
//! decide is waited for.

use crate::base::hash::Map;
use crate::base::ids::{ConnId, ShardId};
use crate::base::limits::GATHER_DEADLINE_MS;
use crate::broker::census::Census;
use crate::broker::lane::TraceReport;
use crate::protocol::names::Name;
use crate::protocol::reply::Question;
use crate::protocol::views::{AckView, Hop};
use ahash::RandomState;
use std::collections::VecDeque;

/// The pending answers of one edge.
#[derive(Debug)]
pub struct PendingTable {
    entries: Map<u32, Pending>,
    /// The number of entries per connection.
    of_conn: Map<ConnId, u32>,
    deadlines: VecDeque<(u64, u32)>,
    next: u32,
}

/// One pending answer.
#[derive(Debug)]
pub struct Pending {
    /// Whose.
    pub conn: ConnId,
    /// To what.
    pub question: Question,
    /// What is gathered.
    pub gathers: Gathers,
}

/// What may be gathered.
#[derive(Debug)]
pub enum Gathers {
    /// Every shard's part of a survey; the flags say whose is still missing.
    Survey(Census, Vec<bool>),
    /// Which targets of a private message are not connected.
    Private {
        /// Directories that have not answered.
        waiting: usize,
        /// How many targets there were.
        targets: usize,
        /// Those that are not connected.
        missing: Vec<Name>,
        /// Whether one of those may be connected to a node that can't be reached now.
        is_unsure: bool,
        /// Whether the sender wants to know when all are.
        ack: bool,
    },
    /// Which way a message went.
    Trace(Box<Trace>),
}

/// Which way a message went.
#[derive(Debug)]
pub struct Trace {
    /// When it was received, on the monotonic clock.
    pub received_ns: u64,
    /// When it was parsed and on its way, once that is known.
    pub parsed_ns: Option<u64>,
    /// What its home said: sequence, duplicate, where, when and to how many shards it was routed.
    pub accepted: Option<(u64, bool, ShardId, u64, u16)>,
    /// What the shards of its members said.
    pub reports: Vec<TraceReport>,
}

impl Trace {
    /// Whether all that will be said was said.
    pub fn is_whole(&self) -> bool {
        let expected = self.accepted.map(|(.., shards)| usize::from(shards));
        self.parsed_ns.is_some() && expected.is_some_and(|shards| self.reports.len() >= shards)
    }

    /// The ack, with what is known; `None` while the event is not accepted.
    pub fn ack(&self, edge: ShardId) -> Option<AckView> {
        let (sequence, duplicate, home, routed_ns, shards) = self.accepted?;
        let since = |ns: u64| ns.saturating_sub(self.received_ns);
        let hop = |at, shard: ShardId, ns, members| Hop { at, shard: shard.0, ns, members };
        let parsed = self.parsed_ns.map(|ns| hop("parsed", edge, since(ns), None));
        let routed = hop("routed", home, since(routed_ns), None);
        let mut hops: Vec<Hop> = parsed.into_iter().chain([routed]).collect();
        let mut reports = self.reports.clone();
        reports.sort_unstable_by_key(|report| report.shard);
        hops.extend(reports.iter().map(|report| {
            hop("delivered", report.shard, since(report.delivered_ns), Some(report.members))
        }));
        let delivered = Some(reports.iter().map(|report| report.members).sum());
        let unreported = usize::from(shards).saturating_sub(reports.len()) as u64;
        Some(AckView { sequence, duplicate, trace: Some(hops), delivered, unreported })
    }
}

impl PendingTable {
    /// An empty table.
    pub fn new(hasher: RandomState) -> PendingTable {
        let of_conn = Map::with_hasher(hasher.clone());
        let entries = Map::with_hasher(hasher);
        PendingTable { entries, of_conn, deadlines: VecDeque::new(), next: 0 }
    }

    /// Adds an entry and gives its key. A survey has a deadline from now on. A private message has
    /// none: every directory answers. A trace has one once its home has decided.
    pub fn insert(&mut self, now_ms: u64, pending: Pending) -> u32 {
        self.next = self.next.wrapping_add(1);
        while self.entries.contains_key(&self.next) {
            // The keys came round, and this entry has waited for all that time.
            self.next = self.next.wrapping_add(1);
        }
        let is_survey = matches!(pending.gathers, Gathers::Survey(..));
        *self.of_conn.entry(pending.conn).or_default() += 1;
        self.entries.insert(self.next, pending);
        if is_survey {
            self.start_deadline(now_ms, self.next);
        }
        self.next
    }

    /// From now on an entry is only waited for so long.
    pub fn start_deadline(&mut self, now_ms: u64, key: u32) {
        self.deadlines.push_back((now_ms + GATHER_DEADLINE_MS, key));
    }

    /// The entry of that key, if it has not ended.
    pub fn get_mut(&mut self, key: u32) -> Option<&mut Pending> {
        self.entries.get_mut(&key)
    }

    /// Ends an entry.
    pub fn remove(&mut self, key: u32) -> Option<Pending> {
        let pending = self.entries.remove(&key)?;
        if let Some(count) = self.of_conn.get_mut(&pending.conn) {
            *count -= 1;
            if *count == 0 {
                self.of_conn.remove(&pending.conn);
            }
        }
        Some(pending)
    }

    /// An entry whose deadline has passed.
    pub fn take_overdue(&mut self, now_ms: u64) -> Option<Pending> {
        while let Some(&(deadline_ms, key)) = self.deadlines.front() {
            if deadline_ms > now_ms {
                return None;
            }
            self.deadlines.pop_front();
            if let Some(pending) = self.remove(key) {
                return Some(pending);
            }
        }
        None
    }

    /// When the next deadline passes, on the monotonic clock in milliseconds.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.deadlines.front().map(|&(deadline_ms, _)| deadline_ms)
    }

    /// Whether an answer to this connection is pending.
    pub fn is_for(&self, conn: ConnId) -> bool {
        self.of_conn.contains_key(&conn)
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}
