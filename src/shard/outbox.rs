//! What waits to be written to one connection, bounded in bytes.
//!
//! Within a turn a frame lies once in the shard's [`Mail`], and an outbox holds only its number
//! there: four bytes a delivery, and no shared counter to touch. What a socket did not take by the
//! end of the turn moves to the outbox's own backlog, which is empty for a client that keeps up.
//!
//! A message that would take the outbox past its bound is dropped, and so is every later one until
//! half of the bound is free again; what is missing is remembered per channel as a [`Gap`], for a
//! notice. Replies are never dropped: whoever does not read them is not read from either.
//!
//! *Invariants*: `bytes` is the length of all that waits; the first frame of the backlog is never
//! dropped once a byte of it was written; after a turn nothing is fresh.

use crate::base::ids::ChannelId;
use crate::protocol::frame::Frame;
use crate::shard::meters::Drop as DropReason;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::sync::Arc;

/// The bytes gathered for one write.
pub const WRITE_BYTES: usize = 128 * 1024;

/// The frames of one turn.
#[derive(Debug, Default)]
pub struct Mail {
    letters: Vec<Letter>,
}

/// A frame, and the channel whose order it is part of.
#[derive(Clone, Debug)]
pub struct Letter {
    /// The frame.
    pub frame: Arc<Frame>,
    /// The channel to name if it can't be delivered; `None` for what has no order.
    pub channel: Option<ChannelId>,
    /// How many outboxes it went into.
    pub receivers: u32,
}

/// Messages that a connection did not get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Of which channel; `None` for messages without an order.
    pub channel: Option<ChannelId>,
    /// The first sequence missing.
    pub first: u64,
    /// The last sequence missing.
    pub last: u64,
    /// How many are missing.
    pub count: u64,
    /// Why.
    pub reason: DropReason,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It waits.
    Queued,
    /// It was dropped, as the first one of an episode or a later one.
    Dropped {
        /// Whether the client fell behind just now.
        first: bool,
    },
}

/// What waits for one connection.
#[derive(Debug, Default)]
pub struct Outbox {
    fresh: SmallVec<[u32; 4]>,
    backlog: VecDeque<Letter>,
    /// How much of the backlog's first frame is written.
    written: usize,
    bytes: usize,
    /// Whether a message was dropped and half of the bound is not free yet.
    is_behind: bool,
    /// Whether something that waits may expire.
    may_expire: bool,
    /// Whether the first frame of the backlog is the answer to the handshake, without which the
    /// peer can't read what follows.
    has_greeting: bool,
    gaps: Vec<Gap>,
}

impl Mail {
    /// Adds a frame and gives its number.
    pub fn add(&mut self, frame: Arc<Frame>, channel: Option<ChannelId>) -> u32 {
        self.letters.push(Letter { frame, channel, receivers: 0 });
        (self.letters.len() - 1) as u32
    }

    /// The frames of this turn.
    pub fn letters(&self) -> &[Letter] {
        &self.letters
    }

    /// Forgets the turn's frames.
    pub fn clear(&mut self) {
        self.letters.clear();
    }

    fn letter(&self, number: u32) -> &Letter {
        &self.letters[number as usize]
    }
}

impl Outbox {
    /// How many bytes wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.backlog.is_empty()
    }

    /// Whether messages are being dropped.
    pub fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// The numbers of this turn's frames, if nothing older waits: connections with the same list
    /// get the same bytes.
    pub fn only_fresh(&self) -> Option<&[u32]> {
        self.backlog.is_empty().then_some(&self.fresh)
    }

    /// Queues a message, or drops it if the outbox would hold more than `bytes_max`.
    pub fn put_message(&mut self, mail: &mut Mail, number: u32, bytes_max: usize) -> Put {
        let letter = mail.letter(number);
        let length = letter.frame.wire().len();
        if self.is_behind || self.bytes + length > bytes_max {
            let (channel, sequence) = (letter.channel, letter.frame.sequence);
            self.note_gap(channel, sequence, DropReason::OutboxFull);
            let first = !std::mem::replace(&mut self.is_behind, true);
            return Put::Dropped { first };
        }
        self.put_reply(mail, number);
        Put::Queued
    }

    /// Queues a frame that is never dropped.
    pub fn put_reply(&mut self, mail: &mut Mail, number: u32) {
        let letter = &mut mail.letters[number as usize];
        letter.receivers += 1;
        self.bytes += letter.frame.wire().len();
        self.may_expire |= letter.frame.expires_ms.is_some();
        self.fresh.push(number);
    }

    /// Puts the answer to the handshake before everything else; only while nothing of the outbox
    /// was written. It is never dropped.
    pub fn put_first(&mut self, mail: &Mail, frame: Arc<Frame>) {
        assert_eq!(self.written, 0, "nothing goes before what is half written");
        self.settle(mail);
        self.bytes += frame.wire().len();
        self.backlog.push_front(Letter { frame, channel: None, receivers: 1 });
        self.has_greeting = true;
    }

    /// Puts a frame behind the first one; only while nothing of the outbox was written.
    pub fn put_second(&mut self, mail: &Mail, frame: Arc<Frame>) {
        assert_eq!(self.written, 0, "nothing goes between what is half written");
        self.settle(mail);
        self.bytes += frame.wire().len();
        let place = self.backlog.len().min(1);
        self.backlog.insert(place, Letter { frame, channel: None, receivers: 1 });
    }

    /// Appends what waits to `out`, up to [`WRITE_BYTES`] or one whole frame.
    pub fn gather(&self, mail: &Mail, out: &mut Vec<u8>) {
        let mut skip = self.written;
        let fresh = self.fresh.iter().map(|&number| mail.letter(number));
        for letter in self.backlog.iter().chain(fresh) {
            let wire = &letter.frame.wire()[skip..];
            if !out.is_empty() && out.len() + wire.len() > WRITE_BYTES {
                return;
            }
            out.extend_from_slice(wire);
            skip = 0;
        }
    }

    /// The socket took `count` bytes of what [`Outbox::gather`] gave.
    pub fn advance(&mut self, mail: &Mail, mut count: usize) {
        self.bytes -= count;
        if self.bytes == 0 {
            self.fresh.clear();
            self.backlog.clear();
            self.written = 0;
            self.may_expire = false;
            self.has_greeting = false;
            return;
        }
        while let Some(first) = self.backlog.front() {
            let left = first.frame.wire().len() - self.written;
            if count < left {
                self.written += count;
                return;
            }
            count -= left;
            self.written = 0;
            self.has_greeting = false;
            self.backlog.pop_front();
        }
        let mut done = 0;
        for &number in &self.fresh {
            let length = mail.letter(number).frame.wire().len();
            if count < length {
                break;
            }
            count -= length;
            done += 1;
        }
        self.fresh.drain(..done);
        if count > 0 {
            self.settle(mail);
            self.written = count;
        }
    }

    /// Ends a turn: what is fresh becomes backlog.
    pub fn settle(&mut self, mail: &Mail) {
        for number in self.fresh.drain(..) {
            self.backlog.push_back(mail.letter(number).clone());
        }
    }

    /// Drops what has expired; how many messages that were.
    pub fn prune(&mut self, mail: &Mail, now_ms: u64) -> u64 {
        if !self.may_expire {
            return 0;
        }
        self.settle(mail);
        let keep = usize::from(self.written > 0);
        let (mut dropped, mut place) = (0, 0);
        let mut expired = Vec::new();
        self.backlog.retain(|letter| {
            place += 1;
            let stays = place <= keep || !letter.frame.is_expired(now_ms);
            if !stays {
                dropped += 1;
                expired.push((letter.channel, letter.frame.sequence, letter.frame.wire().len()));
            }
            stays
        });
        for (channel, sequence, length) in expired {
            self.bytes -= length;
            self.note_gap(channel, sequence, DropReason::Expired);
        }
        dropped
    }

    /// The gaps to give notice of: none while the client is behind, for more would be added.
    pub fn take_gaps(&mut self, bytes_max: usize) -> Vec<Gap> {
        if self.is_behind && self.bytes > bytes_max / 2 {
            return Vec::new();
        }
        self.is_behind = false;
        std::mem::take(&mut self.gaps)
    }

    /// Whether there are gaps that [`Outbox::take_gaps`] might give.
    pub fn has_gaps(&self) -> bool {
        !self.gaps.is_empty()
    }

    /// Drops everything but a first frame that is half written or answers the handshake; how many
    /// frames that were.
    pub fn abandon(&mut self, mail: &Mail) -> u64 {
        self.settle(mail);
        let keep = usize::from(self.written > 0 || self.has_greeting);
        let dropped = self.backlog.len().saturating_sub(keep);
        self.backlog.truncate(keep);
        self.bytes = self.backlog.front().map_or(0, |letter| letter.frame.wire().len());
        self.bytes -= self.written;
        self.gaps.clear();
        self.is_behind = false;
        dropped as u64
    }

    /// How many frames wait.
    pub fn len(&self) -> usize {
        self.fresh.len() + self.backlog.len()
    }

    /// Asserts every invariant; for tests and the simulator.
    pub fn check(&self) {
        assert!(self.fresh.is_empty(), "nothing is fresh between turns");
        let length: usize = self.backlog.iter().map(|letter| letter.frame.wire().len()).sum();
        assert_eq!(length - self.written, self.bytes, "the bytes are counted right");
        assert!(self.backlog.front().is_none_or(|first| self.written < first.frame.wire().len()));
    }

    fn note_gap(&mut self, channel: Option<ChannelId>, sequence: u64, reason: DropReason) {
        match self.gaps.iter_mut().find(|gap| gap.channel == channel && gap.reason == reason) {
            Some(gap) => {
                gap.last = gap.last.max(sequence);
                gap.first = gap.first.min(sequence);
                gap.count += 1;
            }
            None => {
                self.gaps.push(Gap { channel, first: sequence, last: sequence, count: 1, reason })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::ShardId;
    use crate::protocol::envelope::MessageType;
    use crate::protocol::frame::{Draft, Origin};

    fn channel() -> ChannelId {
        ChannelId::new(ShardId(0), 1)
    }

    fn put(outbox: &mut Outbox, mail: &mut Mail, sequence: u64, max: usize) -> Put {
        let origin = Origin { received_ns: 0, ttl_ms: sequence.is_multiple_of(2).then_some(10) };
        let draft = Draft::of_server("arq_1", MessageType::Event, ("r", "c"), "{}", origin);
        let number = mail.add(draft.stamp(sequence, 0), Some(channel()));
        outbox.put_message(mail, number, max)
    }

    fn everything(outbox: &mut Outbox, mail: &Mail, step: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while !outbox.is_empty() {
            let mut batch = Vec::new();
            outbox.gather(mail, &mut batch);
            let count = step.min(batch.len());
            all.extend_from_slice(&batch[..count]);
            outbox.advance(mail, count);
        }
        all
    }

    #[test]
    fn bytes_come_out_whole_however_little_the_socket_takes() {
        for step in [1, 7, 100, 1 << 20] {
            let (mut outbox, mut mail) = (Outbox::default(), Mail::default());
            let mut expected = Vec::new();
            for sequence in 1..=5 {
                assert_eq!(put(&mut outbox, &mut mail, sequence, 1 << 20), Put::Queued);
            }
            for letter in mail.letters() {
                expected.extend_from_slice(letter.frame.wire());
            }
            assert_eq!(outbox.bytes(), expected.len());
            assert_eq!(everything(&mut outbox, &mail, step), expected);
            outbox.check();
        }
    }

    #[test]
    fn a_full_outbox_drops_until_half_is_free_and_knows_what() {
        let (mut outbox, mut mail) = (Outbox::default(), Mail::default());
        let mut sequence = 0;
        while put(
            &mut outbox,
            &mut mail,
            {
                sequence += 1;
                sequence
            },
            1_000,
        ) == Put::Queued
        {}
        assert!(sequence > 3, "a few fit");
        assert_eq!(put(&mut outbox, &mut mail, sequence + 1, 1_000), Put::Dropped { first: false });
        assert!(outbox.take_gaps(1_000).is_empty(), "more than half still waits");
        outbox.advance(&mail, outbox.bytes() - 100);
        let gaps = outbox.take_gaps(1_000);
        let (channel, reason) = (Some(channel()), DropReason::OutboxFull);
        let (first, last) = (sequence, sequence + 1);
        assert_eq!(gaps, [Gap { channel, first, last, count: 2, reason }]);
        assert_eq!(put(&mut outbox, &mut mail, sequence + 2, 1_000), Put::Queued);
    }

    #[test]
    fn the_expired_go_but_not_what_is_half_written() {
        let (mut outbox, mut mail) = (Outbox::default(), Mail::default());
        for sequence in [2, 3, 4] {
            put(&mut outbox, &mut mail, sequence, 1 << 20);
        }
        outbox.advance(&mail, 5);
        assert_eq!(outbox.prune(&mail, 9), 0);
        assert_eq!(outbox.prune(&mail, 10), 1, "2 is half written, 3 never expires");
        outbox.check();
        let gaps = outbox.take_gaps(1 << 20);
        assert_eq!((gaps[0].first, gaps[0].last, gaps[0].reason), (4, 4, DropReason::Expired));
        assert_eq!(outbox.abandon(&mail), 1);
        outbox.check();
        assert_eq!(outbox.len(), 1);
    }

    #[test]
    fn the_answer_to_the_handshake_is_kept_until_it_is_written() {
        let (mut outbox, mut mail) = (Outbox::default(), Mail::default());
        put(&mut outbox, &mut mail, 1, 1 << 20);
        outbox.put_first(&mail, Frame::of_wire(b"HTTP".to_vec(), 0));
        assert_eq!(outbox.abandon(&mail), 1);
        assert_eq!(everything(&mut outbox, &mail, 3), b"HTTP");
        put(&mut outbox, &mut mail, 2, 1 << 20);
        assert_eq!(outbox.abandon(&mail), 1);
        assert!(outbox.is_empty());
    }
}
