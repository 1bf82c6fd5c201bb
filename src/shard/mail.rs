//! The frames of one turn, each once, and which of them go to the same audience.
//!
//! A frame is a numbered [`Letter`]; the numbers are the order in which every connection gets what
//! it gets. A letter for one connection lies in that connection's outbox. Letters for an audience
//! make a [`Batch`]: the first one of a turn puts the batch into the outbox of each member, later
//! ones only join the batch. So a busy channel costs its members one entry a turn, however many
//! messages it has, and those whose only entry it is are written the same bytes.
//!
//! A batch is open for as long as the audience keeps the [mark](Mark) that was left with it:
//! whoever comes or goes takes the mark away, and the next letter begins another batch. What a
//! member sent itself it gets only if it asked for echo; such a letter names it, and a member that
//! another one's letter joins later is put into the batch then ([`Batch::absent`]).
//!
//! What many members get may be written over several turns; for as long the mail goes on, and its
//! numbers with it. At the end of each of these turns all batches end, since some members have had them.
//!
//! *Invariants*: letters of a batch are in the order of their numbers; nothing outlives the turn in which
//! the last of it is written.
//!
//! *Panics*: numbers are only used in the turns for which the mail gave them; an older mark is
//! recognised by its epoch and not used.

use crate::base::budget::LETTER_BYTES;
use crate::base::ids::{ChannelId, ConnId};
use crate::broker::audience::Mark;
use crate::protocol::frame::Frame;
use std::sync::Arc;

/// The letters, the batches, and the letters of a batch that room is kept for between turns.
const SPARE: usize = 4_096;

/// The frames of one turn.
#[derive(Debug)]
pub struct Mail {
    letters: Vec<Letter>,
    /// Those of this turn first; the others keep their memory for later turns.
    batches: Vec<Batch>,
    batch_count: usize,
    bytes: usize,
    /// How many letters, the first ones, were looked at by [`Mail::count_written`], and whether some of
    /// them were late.
    counted: usize,
    has_late: bool,
    /// Whether somebody has letters of this turn that is written to later.
    is_put_off: bool,
    /// Counts turns, and whatever else ends all batches; a mark of 0 stands for none of them.
    epoch: u64,
}

/// A frame, and what is to be known of it where it does not arrive.
#[derive(Clone, Debug)]
pub struct Letter {
    /// The frame.
    pub frame: Arc<Frame>,
    /// The channel to name if it can't be delivered; `None` for what has no order.
    pub channel: Option<ChannelId>,
    /// Whether it may be dropped; an answer may not.
    pub is_message: bool,
    /// Whether its receivers are many and may get it later than in its own turn.
    pub is_late: bool,
    /// The member that sent it and does not get it.
    pub sender: Option<ConnId>,
    /// How many outboxes it went into.
    pub receivers: u32,
}

/// The letters of one turn for one audience.
#[derive(Debug, Default)]
pub struct Batch {
    numbers: Vec<u32>,
    bytes: usize,
    may_expire: bool,
    /// How many members it has, the absent one included.
    members: u32,
    /// A member that sent every letter so far, and so has nothing to get yet.
    absent: Option<ConnId>,
}

impl Letter {
    /// A letter for one connection.
    pub fn new(frame: Arc<Frame>, is_message: bool) -> Letter {
        Letter { frame, channel: None, is_message, is_late: false, sender: None, receivers: 1 }
    }

    /// What it takes where it waits: the bytes on the wire, and what a letter costs beside them.
    pub fn weight(&self) -> usize {
        self.frame.wire().len() + LETTER_BYTES as usize
    }
}

impl Default for Mail {
    fn default() -> Mail {
        let (letters, batches, batch_count, bytes) = (Vec::new(), Vec::new(), 0, 0);
        Mail {
            letters,
            batches,
            batch_count,
            bytes,
            counted: 0,
            has_late: false,
            is_put_off: false,
            epoch: 1,
        }
    }
}

impl Mail {
    /// Adds a letter and gives its number.
    pub fn add(&mut self, letter: Letter) -> u32 {
        self.bytes += letter.weight();
        self.letters.push(letter);
        (self.letters.len() - 1) as u32
    }

    /// Calls `count` for each letter that is written to all its receivers by the end of this turn and was
    /// not counted before; `is_all` says that this is true of every letter.
    pub fn count_written(&mut self, is_all: bool, mut count: impl FnMut(&Letter)) {
        let (old, new) = self.letters.split_at_mut(self.counted);
        if is_all && self.has_late {
            old.iter().filter(|letter| letter.is_late).for_each(&mut count);
        }
        for letter in new {
            letter.is_late |= self.is_put_off;
            self.has_late |= letter.is_late;
            if is_all || !letter.is_late {
                count(letter);
            }
        }
        (self.counted, self.is_put_off) = (self.letters.len(), false);
    }

    /// Somebody who has letters of this turn is written to later: all of them count as late.
    pub fn put_off(&mut self) {
        self.is_put_off = true;
    }

    /// The letters of this turn.
    pub fn letters(&self) -> &[Letter] {
        &self.letters
    }

    /// A letter of this turn.
    pub fn letter(&self, number: u32) -> &Letter {
        &self.letters[number as usize]
    }

    /// The weight of this turn's letters, each once.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The batch that a mark stands for, if it is still open.
    pub fn open_batch(&self, mark: Mark) -> Option<u32> {
        (mark.epoch == self.epoch).then_some(mark.batch)
    }

    /// What finds the batch again.
    pub fn mark(&self, batch: u32) -> Mark {
        Mark { epoch: self.epoch, batch }
    }

    /// Begins a batch without members; `absent` will be one that gets no entry yet.
    pub fn begin_batch(&mut self, absent: Option<ConnId>) -> u32 {
        if self.batch_count == self.batches.len() {
            self.batches.push(Batch::default());
        }
        let batch = &mut self.batches[self.batch_count];
        batch.numbers.clear();
        batch.numbers.shrink_to(SPARE);
        *batch = Batch { numbers: std::mem::take(&mut batch.numbers), absent, ..Batch::default() };
        self.batch_count += 1;
        (self.batch_count - 1) as u32
    }

    /// Says how many members a batch has that has no letters yet, the absent one included.
    pub fn set_members(&mut self, batch: u32, members: u32) {
        self.batches[batch as usize].members = members;
    }

    /// Adds a letter to a batch; gives the member that was absent and has to get the batch now.
    pub fn join_batch(&mut self, batch: u32, number: u32) -> Option<ConnId> {
        let Mail { letters, batches, .. } = self;
        let (letter, batch) = (&mut letters[number as usize], &mut batches[batch as usize]);
        letter.receivers = batch.members.saturating_sub(u32::from(letter.sender.is_some()));
        batch.numbers.push(number);
        batch.bytes += letter.frame.wire().len();
        batch.may_expire |= letter.frame.expires_ms.is_some();
        batch.absent.take_if(|absent| letter.sender != Some(*absent))
    }

    /// A batch of this turn.
    pub fn batch(&self, batch: u32) -> &Batch {
        &self.batches[batch as usize]
    }

    /// Appends the bytes of all letters of a batch to `out`.
    pub fn gather(&self, batch: u32, out: &mut Vec<u8>) {
        for &number in self.batch(batch).numbers() {
            out.extend_from_slice(self.letter(number).frame.wire());
        }
    }

    /// Ends all batches: the next letter for any audience begins another.
    pub fn end_batches(&mut self) {
        self.epoch += 1;
    }

    /// Forgets the turn's letters.
    pub fn clear(&mut self) {
        self.letters.clear();
        self.letters.shrink_to(SPARE);
        self.batches.truncate(SPARE);
        self.batch_count = 0;
        self.bytes = 0;
        (self.counted, self.has_late) = (0, false);
        self.end_batches();
    }
}

impl Batch {
    /// The numbers of its letters, in order.
    pub fn numbers(&self) -> &[u32] {
        &self.numbers
    }

    /// The member that sent every letter so far, and so has no entry for it.
    pub fn absent(&self) -> Option<ConnId> {
        self.absent
    }

    /// The bytes of its letters.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a letter in it may expire.
    pub fn may_expire(&self) -> bool {
        self.may_expire
    }
}
