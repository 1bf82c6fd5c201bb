//! One channel's order, as a subscriber has seen it.
//!
//! *Invariants*: `last` only grows within one life of the channel; a message is printed only when
//! it is beyond `last`; while a catch-up is under way nothing live is printed.
//!
//! *Not here*: which channels there are, and how their lives begin and end (`follow`).

use crate::protocol::command::{Address, Recover};

/// The most live messages that are held back while older ones are read.
const HELD_MAX: usize = 10_000;
/// The most bytes of them.
const HELD_BYTES_MAX: usize = 32 << 20;

/// Something to do, in order.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// Print the message.
    Print(String),
    /// Tell the person.
    Tell(String),
    /// Ask the bus.
    Ask(Question),
}

/// A question for the bus.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Question {
    /// `join_channel`.
    Join {
        /// What to join.
        address: Address,
        /// From where to catch up.
        recover: Option<Recover>,
    },
    /// `leave_channel`.
    Leave {
        /// What to leave.
        address: Address,
    },
    /// `history`.
    History {
        /// Whose history.
        address: Address,
        /// Which part of it.
        span: Span,
    },
}

/// Where a channel is: its epoch, if it is known, and its last sequence.
pub(super) type At<'a> = (&'a Option<String>, u64);

/// A part of a history.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Span {
    /// What came after this sequence.
    After(u64),
    /// From the first to the last of these sequences, both included.
    Range(u64, u64),
    /// Nothing: only the channel's epoch is wanted.
    Epoch,
}

/// What is to be done with a message that has just come.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// Print it.
    Print,
    /// Nothing: it was printed before, or is held back until its time comes.
    Pass,
}

/// One answer to `history`.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// The channel's life.
    pub(super) epoch: Option<String>,
    /// Whether there is more beyond this page.
    pub(super) has_more: bool,
    /// Sequence and text of each message.
    pub(super) messages: Vec<(u64, String)>,
}

/// One channel's order, as far as it was seen.
#[derive(Debug)]
pub(super) struct Stream {
    /// Which channel.
    pub(super) address: Address,
    /// The life of the channel that `last` belongs to, if it is known.
    pub(super) epoch: Option<String>,
    /// Everything up to here was printed, told as lost, or came before the subscription.
    pub(super) last: u64,
    /// Live messages up to here may be repetitions of what was read from the history. Once a
    /// later one has come, none of them can.
    pub(super) doubles_to: u64,
    /// Whether the channel can be deleted and made anew on one connection: a channel that was
    /// joined by its name can't, it has a member.
    pub(super) may_begin_anew: bool,
    /// Whether the first of its `--history` was printed, so that what is missing from now on was
    /// missed and not just too long ago.
    pub(super) is_begun: bool,
    /// Live messages are held back while older ones are read.
    pub(super) catch_up: Option<CatchUp>,
}

/// The reading of older messages, and the live ones that wait for it.
#[derive(Debug, Default)]
pub(super) struct CatchUp {
    /// The sequence that is known to exist.
    pub(super) goal: u64,
    /// Live messages that wait for older ones.
    held: Vec<(u64, String)>,
    held_bytes: usize,
    /// Held messages were thrown away, so the history must be read on.
    has_overflowed: bool,
}

impl Stream {
    /// Says what is to be done with a message, and whether it belongs to another life of the
    /// channel than all before it.
    pub(super) fn on_message(&mut self, sequence: u64, text: &str) -> (Verdict, bool) {
        if let Some(catch_up) = &mut self.catch_up {
            catch_up.hold(sequence, text);
            return (Verdict::Pass, false);
        }
        if sequence > self.last {
            self.last = sequence;
            self.doubles_to = 0;
            return (Verdict::Print, false);
        }
        if sequence <= self.doubles_to || !self.may_begin_anew {
            return (Verdict::Pass, false);
        }
        self.last = sequence;
        self.doubles_to = 0;
        self.epoch = None;
        (Verdict::Print, true)
    }

    /// Another part of the history was read while catching up.
    pub(super) fn on_page(&mut self, page: Page, steps: &mut Vec<Step>) {
        let Some(catch_up) = &mut self.catch_up else {
            return;
        };
        let goal = catch_up.goal;
        let is_new_life = page.epoch.is_some() && self.epoch.is_some() && page.epoch != self.epoch;
        if is_new_life {
            catch_up.overflow();
            catch_up.goal = 0;
            steps.push(self.tell_new_life());
            self.begin_anew();
            self.epoch = page.epoch;
            self.read_on(steps);
            return;
        }
        self.epoch = self.epoch.take().or(page.epoch);
        // The history may have forgotten what came live meanwhile and is held.
        let oldest = page.messages.first().map_or(0, |&(sequence, _)| sequence);
        let held = catch_up.take_held_between(self.last, oldest);
        let was_begun = std::mem::replace(&mut self.is_begun, true);
        let before = self.last;
        if page.messages.is_empty() {
            self.pass_over(goal, was_begun, steps);
        }
        for part in [held, page.messages] {
            // A hole before a part is a loss; one within it is a message that has expired.
            let first = part.first().map_or(0, |&(sequence, _)| sequence);
            self.pass_over(first.saturating_sub(1), was_begun, steps);
            for (sequence, text) in part {
                if sequence > self.last {
                    self.last = sequence;
                    steps.push(Step::Print(text));
                }
            }
        }
        if page.has_more && self.last > before {
            self.read_on(steps);
        } else {
            self.settle(steps);
        }
    }

    /// The history can't be read: what was to come from it is told, and live goes on.
    pub(super) fn on_unreadable(&mut self, steps: &mut Vec<Step>) {
        self.is_begun = true;
        let Some(catch_up) = &mut self.catch_up else {
            return;
        };
        let held_from = catch_up.held.first().map_or(0, |&(sequence, _)| sequence);
        let was_thrown_away = std::mem::take(&mut catch_up.has_overflowed);
        let gone = if was_thrown_away { held_from.saturating_sub(1) } else { catch_up.goal };
        self.pass_over(gone, true, steps);
        self.settle(steps);
    }

    /// The history is read to its end: what was held back follows, and live goes on.
    pub(super) fn settle(&mut self, steps: &mut Vec<Step>) {
        let Some(catch_up) = self.catch_up.take() else {
            return;
        };
        self.doubles_to = self.last;
        if catch_up.has_overflowed {
            self.catch_up = Some(CatchUp::towards(catch_up.goal));
            self.read_on(steps);
            return;
        }
        for (sequence, text) in catch_up.held {
            if sequence > self.last {
                self.last = sequence;
                steps.push(Step::Print(text));
            }
        }
        self.doubles_to = self.last;
    }

    /// Reads what comes after the last message that was seen.
    pub(super) fn read_on(&mut self, steps: &mut Vec<Step>) {
        let (address, span) = (self.address.clone(), Span::After(self.last));
        steps.push(Step::Ask(Question::History { address, span }));
    }

    /// Whether an epoch, and a sequence in it, belong to another life of the channel.
    pub(super) fn is_other_life(&self, (epoch, sequence): At<'_>, is_resumed: bool) -> bool {
        match (&self.epoch, epoch) {
            // What was said to a whole room can't be recovered. Where the room is kept it goes on in
            // another term of the same life after a restart; where it is not, in another life, though
            // the session is kept all the same.
            (Some(old), Some(new)) if is_resumed && self.address.channel.is_every() => {
                life_of(old) != life_of(new) || sequence < self.last
            }
            (Some(old), Some(new)) => old != new,
            _ => sequence < self.last,
        }
    }

    /// From where to recover the channel, if it is one of a room that is followed as a whole and its
    /// member may: the events to the whole room can't be recovered.
    pub(super) fn may_recover(&self, is_resumed: bool) -> Option<Recover> {
        let may = is_resumed && self.may_begin_anew && !self.address.channel.is_every();
        let epoch = self.epoch.clone().filter(|_| may)?;
        Some(Recover { epoch, sequence: self.last })
    }

    /// The channel was made anew: all of its messages are unseen.
    pub(super) fn begin_anew(&mut self) {
        self.last = 0;
        self.doubles_to = 0;
        self.epoch = None;
    }

    /// What there is to tell of a channel that was made anew.
    pub(super) fn tell_new_life(&self) -> Step {
        Step::Tell(format!(
            "{}: the channel began anew while this client was away; what came after {} before \
             that may be missed",
            self.address, self.last
        ))
    }

    /// What comes after the last seen message and up to `to` can't be had; it is told if it was
    /// missed.
    fn pass_over(&mut self, to: u64, was_missed: bool, steps: &mut Vec<Step>) {
        if to > self.last {
            if was_missed {
                steps.push(tell_missing(&self.address, self.last + 1, to));
            }
            self.last = to;
        }
    }
}

impl CatchUp {
    /// Reading up to a sequence that is known to exist.
    pub(super) fn towards(goal: u64) -> CatchUp {
        CatchUp { goal, ..CatchUp::default() }
    }

    fn hold(&mut self, sequence: u64, text: &str) {
        if self.held.len() >= HELD_MAX || self.held_bytes + text.len() > HELD_BYTES_MAX {
            self.overflow();
        }
        self.held_bytes += text.len();
        self.held.push((sequence, text.to_owned()));
    }

    /// Takes the held messages that come after one sequence and before another.
    fn take_held_between(&mut self, after: u64, before: u64) -> Vec<(u64, String)> {
        let count = self.held.partition_point(|&(sequence, _)| sequence < before);
        let taken = self.held.drain(..count);
        taken.filter(|&(sequence, _)| sequence > after).collect()
    }

    /// Throws the held messages away; the history has them too.
    pub(super) fn overflow(&mut self) {
        self.held.clear();
        self.held_bytes = 0;
        self.has_overflowed = true;
    }
}

/// The life that an epoch belongs to: the bus writes a later term of one behind a `-`.
fn life_of(epoch: &str) -> &str {
    epoch.split_once('-').map_or(epoch, |(life, _)| life)
}

/// Messages that can't be had are told.
pub(super) fn tell_missing(address: &Address, first: u64, last: u64) -> Step {
    Step::Tell(format!(
        "{address}: messages {first} to {last} may be missed; the history does not hold them"
    ))
}
