//! The channels that this node follows: how far, and for which of its homes.

use super::follower::{Follower, Next};
use super::push::Mark;
use super::recent::{Known, Recent};
use crate::base::budget::PENDING_EVENT_BYTES;
use crate::base::ids::ChannelId;
use crate::base::time::Now;
use crate::broker::peers::{Arrival, Attach, PeerNews, Submission};
use crate::broker::record::ChannelRecord;
use crate::protocol::command::Address;
use crate::protocol::frame::Frame;
use crate::storage::backlog::{Pending, Step};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// For how long after an order did not go on what is submitted may have been checked against the
/// former one.
const RECHECK: Duration = Duration::from_secs(10);

/// The bytes of events that are caught up with at most, and no more than a history holds: who has missed
/// more begins anew with the newest.
const CATCH_UP_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What is to be done for a channel beside what changes it.
#[derive(Debug)]
pub(in crate::storage) enum Task {
    Attach(Arc<Attach>),
    Detach(ChannelId),
    /// Ends the term, at this sequence at the latest.
    Fork {
        life: Arc<str>,
        base: u64,
    },
    /// Look whether something was missed.
    Sync,
}

impl Pending for Box<Submission> {
    type Task = Task;

    fn channel(&self) -> ChannelId {
        self.channel
    }

    fn address(&self) -> &Arc<Address> {
        &self.address
    }

    fn life(&self) -> &str {
        &self.life
    }

    fn number(&self) -> u64 {
        self.ticket
    }

    fn bytes(&self) -> u64 {
        PENDING_EVENT_BYTES + self.draft.length() as u64
    }

    fn received_us(&self) -> u64 {
        self.at_us
    }

    /// Who follows a channel reads it again; what else waits for it is tried itself.
    fn probe(is_idle: bool) -> Option<Task> {
        is_idle.then_some(Task::Sync)
    }

    fn replaces(task: &Task, old: &Step<Box<Submission>>) -> bool {
        let is_wish = |task: &Task| matches!(task, Task::Attach(_) | Task::Detach(_));
        match old {
            Step::Task(old) => is_wish(task) && is_wish(old),
            _ => false,
        }
    }
}

/// A channel that is followed.
pub(super) struct Following {
    pub(super) attach: Arc<Attach>,
    /// Which attaching of this process it is: tickets begin anew with each.
    number: u64,
    /// As it was found last.
    record: Option<Box<ChannelRecord>>,
    pub(super) follower: Follower,
    /// What came together, until it is told.
    pub(super) told: Option<Vec<Next>>,
    /// The time of the last event when the channel was read.
    last_us: u64,
    /// What was told last.
    recent: Recent,
    /// Until when what is submitted may have seen what is no more, and what it may rely on.
    recheck: Option<(Instant, u64)>,
    /// What is kept is not what was told, and is to be told anew.
    pub(super) is_apart: bool,
    /// Whether a look is on its way.
    pub(super) is_syncing: bool,
    /// The connection over which Redis was last found to have all that was told.
    pub(super) looked_over: u64,
    /// The bytes that were read since it fell behind.
    caught_up_bytes: u64,
}

/// What a step must know of how its channel is followed.
pub(super) struct Trail {
    pub(super) attach: Arc<Attach>,
    number: u64,
    pub(super) record: Option<Box<ChannelRecord>>,
    pub(super) term: u32,
    pub(super) marks: Vec<Mark>,
    pub(super) last_us: u64,
    /// The last sequence after which Redis must look for repeats.
    pub(super) seen: u64,
    /// What is known of the submissions of the step, in their order.
    pub(super) known: Vec<Option<Known>>,
    pub(super) is_apart: bool,
    /// Whether nothing has been looked at yet over this connection.
    pub(super) is_first_look: bool,
}

impl Trail {
    /// Whether the channel is in this life, as far as is known.
    pub(super) fn is_of(&self, life: &str) -> bool {
        self.record.as_ref().is_some_and(|record| *record.epoch == *life)
    }

    /// By what an entry is known that was asked for under a ticket.
    pub(super) fn origin(&self, token: &str, ticket: u64) -> String {
        format!("{token}.{}:{ticket}", self.number)
    }
}

impl Following {
    pub(super) fn new(attach: Arc<Attach>, number: u64) -> Following {
        Following {
            attach,
            number,
            record: None,
            follower: Follower::new(),
            told: None,
            last_us: 0,
            recent: Recent::new(0),
            recheck: None,
            is_apart: false,
            is_syncing: false,
            looked_over: 0,
            caught_up_bytes: 0,
        }
    }

    /// So many bytes were read of what was missed. False if there is more than is worth it: then the
    /// channel begins anew.
    pub(super) fn note_caught_up(&mut self, bytes: u64) -> bool {
        if !self.follower.is_behind() {
            self.caught_up_bytes = 0;
            return true;
        }
        self.caught_up_bytes += bytes;
        let is_worth_it = self.caught_up_bytes <= self.attach.bytes.min(CATCH_UP_BYTES_MAX);
        if !is_worth_it {
            (self.is_apart, self.caught_up_bytes) = (true, 0);
        }
        is_worth_it
    }

    /// What a step must know that is carried out over this connection.
    pub(super) fn trail(&mut self, step: &Step<Box<Submission>>, connection: u64) -> Trail {
        let (mut seen, mut known) = (0, Vec::new());
        if let Step::Events(submissions) = step {
            self.recheck = self.recheck.filter(|(until, _)| *until > Instant::now());
            seen = submissions.iter().map(|submission| submission.seen).min().unwrap_or(0);
            match self.recheck {
                Some((_, sure)) => seen = seen.min(sure),
                None if self.recent.covers(seen) => {
                    let recent = &self.recent;
                    known = submissions
                        .iter()
                        .map(|it| recent.find(it.draft.identity(), it.ticket, it.seen))
                        .collect();
                    // What follows has seen as much.
                    self.recent.forget(seen);
                    seen = self.follower.last();
                }
                None => {}
            }
        }
        Trail {
            attach: Arc::clone(&self.attach),
            number: self.number,
            record: self.record.clone(),
            term: self.follower.term(),
            marks: self.follower.marks(),
            last_us: self.last_us,
            seen,
            known,
            is_apart: self.is_apart,
            is_first_look: self.looked_over != connection,
        }
    }

    /// The channel was read anew.
    pub(super) fn begin(
        &mut self,
        record: &ChannelRecord,
        (mark, last_us): (Mark, u64),
        told: &mut Vec<Next>,
    ) {
        if self.record.is_some() {
            let former = self.follower.term();
            let sure = record.past.iter().find(|(term, _)| *term == former);
            self.recheck = Some((Instant::now() + RECHECK, sure.map_or(0, |&(_, sure)| sure)));
        }
        (self.last_us, self.is_apart) = (last_us, false);
        self.recent = Recent::new(mark.sequence);
        self.follower.begin(Arc::clone(&record.epoch), record.term, mark, told);
        self.record = Some(Box::new(record.clone()));
    }

    /// The channel was found like this, and goes on.
    pub(super) fn note(&mut self, record: Box<ChannelRecord>) {
        self.record = Some(record);
    }

    /// What comes next as a home is told it. What can't be read ends it: then everything is to be
    /// told anew; the id of that entry is given besides.
    pub(super) fn news(
        &mut self,
        told: Vec<Next>,
        (token, now): (&str, Now),
    ) -> (Vec<PeerNews>, Option<Box<str>>) {
        let channel = self.attach.channel;
        let mine = format!("{token}.{}:", self.number);
        let mut news = Vec::new();
        for next in told {
            match next {
                Next::Term { term, past } => {
                    if let Some(record) = &mut self.record {
                        (record.term, record.past) = (term, past.clone());
                    }
                    news.push(PeerNews::Term { channel, term, past });
                }
                Next::Event(entry) => {
                    let frame = Frame::restore(&entry.message, now, entry.left_ms)
                        .ok()
                        .filter(|frame| frame.sequence == entry.mark.sequence);
                    let Some(frame) = frame else {
                        self.is_apart = true;
                        self.follower.fall_behind();
                        return (news, Some(entry.mark.id));
                    };
                    let ticket = entry.mark.origin.strip_prefix(&*mine);
                    let ticket = ticket.and_then(|it| it.parse().ok());
                    self.recent.push(frame.identity(), ticket);
                    let arrival = Arrival { frame, ticket };
                    match news.last_mut() {
                        Some(PeerNews::Arrived { events, .. }) => events.push(arrival),
                        _ => news.push(PeerNews::Arrived { channel, events: vec![arrival] }),
                    }
                }
            }
        }
        (news, None)
    }
}
