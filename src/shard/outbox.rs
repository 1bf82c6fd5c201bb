//! What waits to be written to one connection, bounded in bytes.
//!
//! Within a turn an outbox holds only numbers: of letters, and of batches of letters, that lie in
//! the shard's [`Mail`]. What a socket did not take by the end of the turn moves to the outbox's
//! own backlog, which is empty for a client that keeps up.
//!
//! Only what the socket was offered and did not take counts against the bound, by what it takes in
//! memory: its bytes on the wire and what a letter costs beside them. A message that would
//! take the backlog past it is dropped, and so is every later one until half of the bound is free
//! again; what is missing is remembered per channel as a [`Gap`], for a notice. Answers are never
//! dropped: whoever does not read them is not read from either.
//!
//! An outbox that has nothing to write owns no buffer.
//!
//! *Invariants*: `bytes` is the weight of the backlog without what is written of it; the first frame of
//! the backlog is never dropped once a byte of it was written; after a turn nothing is fresh but what is written late.
//!
//! *Panics*: a number is that of a letter of this turn's mail, and `written` is less than the first
//! frame. If this fails the shard has lost its state, and a client might get another client's
//! bytes: the process ends. No byte of a client is a number here.

use crate::base::budget::LETTER_BYTES;
use crate::base::ids::{ChannelId, ConnId};
use crate::base::limits::{GAPS_MAX, WRITE_BYTES};
use crate::shard::mail::{Letter, Mail};
use crate::shard::meters::Drop as DropReason;
use smallvec::SmallVec;
use std::collections::{BTreeMap, VecDeque};
use std::mem::offset_of;

/// The entries of a turn for which an idle connection may keep room.
const FRESH_SPARE: usize = 16;

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

/// The gaps of one connection, found by what they are of.
type Gaps = BTreeMap<(Option<ChannelId>, DropReason), Gap>;

/// Messages that were dropped because the outbox was full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// How many.
    pub count: u64,
    /// Whether the client fell behind with the first of them.
    pub is_first: bool,
}

/// Something of this turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    /// The letter of that number.
    Letter(u32),
    /// Every letter of that batch but those that the connection itself sent.
    Batch(u32),
}

/// What waits for one connection. What a client that keeps up makes use of comes first, in one line
/// of the cache.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Outbox {
    fresh: SmallVec<[Entry; 2]>,
    /// The weight of the fresh letters that stand alone.
    fresh_bytes: usize,
    /// The weight of the backlog without what is written of it; 0 only if there is none.
    bytes: usize,
    #[allow(clippy::box_collection, reason = "every outbox has room for it, few ever need it")]
    gaps: Option<Box<Gaps>>,
    /// Whether the connection sent a letter of a fresh batch itself.
    has_own: bool,
    /// Whether a message was dropped and half of the bound is not free yet.
    is_behind: bool,
    /// Whether something of the backlog may expire.
    may_expire: bool,
    /// Whether the first frame of the backlog is the answer to the handshake, without which the
    /// peer can't read what follows.
    has_greeting: bool,
    /// Whether the connection is queued to catch up. It is here since `Connection` has no byte to spare.
    pub is_catching_up: bool,
    backlog: VecDeque<Letter>,
    /// How much of the backlog's first frame is written.
    written: usize,
}

const _: () = assert!(offset_of!(Outbox, backlog) <= 64);

impl Outbox {
    /// The weight of the backlog that waits.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The weight of what waits, the answers of this turn included.
    pub fn waiting_bytes(&self) -> usize {
        self.bytes + self.fresh_bytes
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.bytes == 0
    }

    /// Whether messages are being dropped.
    pub fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// The batch whose bytes are all that waits.
    pub fn only_batch(&self) -> Option<u32> {
        match self.fresh[..] {
            [Entry::Batch(batch)] if !self.has_own && self.bytes == 0 => Some(batch),
            _ => None,
        }
    }

    /// Queues a letter of this turn.
    pub fn put(&mut self, mail: &Mail, number: u32) {
        self.fresh_bytes += mail.letter(number).weight();
        self.fresh.push(Entry::Letter(number));
    }

    /// Queues a batch of this turn, with what joins it later.
    pub fn put_batch(&mut self, batch: u32) {
        self.fresh.push(Entry::Batch(batch));
    }

    /// The connection sent a letter of one of its batches itself.
    pub fn note_own(&mut self) {
        self.has_own = true;
    }

    /// Puts the answer to the handshake before everything else. It is never dropped. False, and nothing
    /// is put, if something was written already: a frame without a handshake before it.
    #[must_use]
    pub fn put_first(&mut self, letter: Letter) -> bool {
        if self.written > 0 {
            return false;
        }
        self.bytes += letter.weight();
        self.backlog.push_front(letter);
        self.has_greeting = true;
        true
    }

    /// Puts a letter behind the answer to the handshake. False, and nothing is put, if that was not the
    /// first or is written already.
    #[must_use]
    pub fn put_second(&mut self, letter: Letter) -> bool {
        if self.written > 0 || !self.has_greeting {
            return false;
        }
        self.bytes += letter.weight();
        self.backlog.insert(1, letter);
        true
    }

    /// The numbers of this turn's letters, in order.
    pub fn list(&self, mail: &Mail, conn: ConnId, numbers: &mut Vec<u32>) {
        numbers.clear();
        for entry in &self.fresh {
            match *entry {
                Entry::Letter(number) => numbers.push(number),
                Entry::Batch(batch) if self.has_own => {
                    let is_of_another = |number: &&u32| mail.letter(**number).sender != Some(conn);
                    numbers.extend(mail.batch(batch).numbers().iter().filter(is_of_another));
                }
                Entry::Batch(batch) => numbers.extend_from_slice(mail.batch(batch).numbers()),
            }
        }
        if self.fresh.len() > 1 {
            numbers.sort_unstable();
        }
    }

    /// Appends what waits to `out`, the listed letters last, up to [`WRITE_BYTES`]: whole frames, or the
    /// next part of one that is longer. A socket that takes a long frame in parts must not cost a copy of
    /// all that is left of it for each.
    pub fn gather(&self, mail: &Mail, numbers: &[u32], out: &mut Vec<u8>) {
        let mut skip = self.written;
        let fresh = numbers.iter().map(|&number| mail.letter(number));
        for letter in self.backlog.iter().chain(fresh) {
            let wire = &letter.frame.wire()[skip..];
            if out.len() + wire.len() > WRITE_BYTES {
                if out.is_empty() {
                    out.extend_from_slice(&wire[..WRITE_BYTES]);
                }
                return;
            }
            out.extend_from_slice(wire);
            skip = 0;
        }
    }

    /// The socket took everything that waited.
    pub fn clear(&mut self) {
        self.forget_fresh();
        if self.bytes > 0 {
            self.backlog = VecDeque::new();
            (self.written, self.bytes) = (0, 0);
            (self.may_expire, self.has_greeting) = (false, false);
        }
    }

    /// The socket took `count` bytes of what waits; listed letters that are left become backlog.
    pub fn advance(&mut self, mail: &Mail, numbers: &[u32], mut count: usize) {
        while let Some(first) = self.backlog.front() {
            let left = first.frame.wire().len() - self.written;
            let taken = count.min(left);
            self.bytes -= taken;
            if count < left {
                self.written += count;
                return self.settle(mail, numbers);
            }
            self.bytes -= LETTER_BYTES as usize;
            count -= taken;
            self.written = 0;
            self.has_greeting = false;
            self.backlog.pop_front();
        }
        let mut taken = 0;
        for &number in numbers {
            let length = mail.letter(number).frame.wire().len();
            if count < length {
                break;
            }
            count -= length;
            taken += 1;
        }
        self.settle(mail, &numbers[taken..]);
        if count > 0 {
            self.written = count;
            self.bytes -= count;
        }
        if self.backlog.is_empty() {
            self.backlog = VecDeque::new();
            self.may_expire = false;
        }
    }

    /// Listed letters become backlog; nothing is fresh any more.
    pub fn settle(&mut self, mail: &Mail, numbers: &[u32]) {
        for &number in numbers {
            let letter = mail.letter(number);
            self.bytes += letter.weight();
            self.may_expire |= letter.frame.expires_ms.is_some();
            self.backlog.push_back(letter.clone());
        }
        self.forget_fresh();
    }

    /// Takes the messages out of a list of letters, remembering that they are missing: the client
    /// is behind. Gives how many they were.
    pub fn drop_messages(&mut self, mail: &Mail, numbers: &mut Vec<u32>) -> u64 {
        let before = numbers.len();
        numbers.retain(|&number| {
            let letter = mail.letter(number);
            if letter.is_message {
                self.note_gap(letter, DropReason::OutboxFull);
            }
            !letter.is_message
        });
        (before - numbers.len()) as u64
    }

    /// Drops the messages that would take the backlog past `bytes_max`, and all that follow them.
    pub fn enforce(&mut self, bytes_max: usize) -> Dropped {
        if self.bytes <= bytes_max {
            return Dropped::default();
        }
        let keep = usize::from(self.written > 0);
        let (mut bytes, mut place, mut is_over) = (0, 0, false);
        let mut dropped = Vec::new();
        self.backlog.retain(|letter| {
            let weight = letter.weight();
            place += 1;
            is_over |= letter.is_message && bytes + weight > bytes_max;
            let stays = place <= keep || !is_over || !letter.is_message;
            match stays {
                true => bytes += weight,
                false => dropped.push(letter.clone()),
            }
            stays
        });
        self.bytes = bytes - self.written;
        for letter in &dropped {
            self.note_gap(letter, DropReason::OutboxFull);
        }
        let count = dropped.len() as u64;
        let is_first = count > 0 && !std::mem::replace(&mut self.is_behind, true);
        Dropped { count, is_first }
    }

    /// Drops what has expired of the backlog; how many messages that were.
    pub fn prune(&mut self, now_ms: u64) -> u64 {
        if !self.may_expire {
            return 0;
        }
        let keep = usize::from(self.written > 0);
        let mut place = 0;
        let mut expired = Vec::new();
        self.backlog.retain(|letter| {
            place += 1;
            let stays = place <= keep || !letter.frame.is_expired(now_ms);
            if !stays {
                expired.push(letter.clone());
            }
            stays
        });
        for letter in &expired {
            self.bytes -= letter.weight();
            self.note_gap(letter, DropReason::Expired);
        }
        if self.backlog.is_empty() {
            self.backlog = VecDeque::new();
            self.may_expire = false;
        }
        expired.len() as u64
    }

    /// The gaps to give notice of, at most `count_max`: none while the client is behind, for more would be
    /// added.
    pub fn take_gaps(&mut self, bytes_max: usize, count_max: usize) -> Vec<Gap> {
        if self.is_behind && self.bytes > bytes_max / 2 {
            return Vec::new();
        }
        self.is_behind = false;
        let Some(gaps) = &mut self.gaps else { return Vec::new() };
        let next = || gaps.pop_first().map(|(_, gap)| gap);
        let taken = std::iter::from_fn(next).take(count_max).collect();
        if gaps.is_empty() {
            self.gaps = None;
        }
        taken
    }

    /// Whether there are gaps that [`Outbox::take_gaps`] might give.
    pub fn has_gaps(&self) -> bool {
        self.gaps.is_some()
    }

    /// Drops everything but a first frame that is half written or answers the handshake; how many
    /// frames that were. Nothing may be fresh.
    pub fn abandon(&mut self) -> u64 {
        assert!(self.fresh.is_empty(), "what is fresh was settled");
        let keep = usize::from(self.written > 0 || self.has_greeting);
        let dropped = self.backlog.len().saturating_sub(keep);
        self.backlog.truncate(keep);
        self.bytes = self.backlog.front().map_or(0, Letter::weight);
        self.bytes -= self.written;
        self.gaps = None;
        self.is_behind = false;
        dropped as u64
    }

    /// How many frames of the backlog wait.
    pub fn len(&self) -> usize {
        self.backlog.len()
    }

    /// Whether something of this turn waits.
    pub fn has_fresh(&self) -> bool {
        !self.fresh.is_empty()
    }

    /// Asserts every invariant; for tests and the simulator.
    pub fn check(&self) {
        self.check_backlog();
        assert!(self.fresh.is_empty() && !self.has_own, "nothing is fresh between turns");
        assert_eq!(self.fresh_bytes, 0, "nothing is fresh between turns");
    }

    /// Asserts those that hold within a turn, too.
    pub fn check_backlog(&self) {
        let weight: usize = self.backlog.iter().map(Letter::weight).sum();
        assert_eq!(weight - self.written, self.bytes, "the bytes are counted right");
        let gaps = self.gaps.as_ref().map_or(0, |gaps| gaps.len());
        assert!(gaps <= GAPS_MAX + DropReason::ALL.len(), "{gaps} gaps are remembered");
        assert_eq!(self.bytes == 0, self.backlog.is_empty(), "no frame is empty");
        assert!(self.backlog.front().is_none_or(|first| self.written < first.frame.wire().len()));
    }

    fn forget_fresh(&mut self) {
        self.fresh.clear();
        if self.fresh.capacity() > FRESH_SPARE {
            self.fresh = SmallVec::new();
        }
        self.fresh_bytes = 0;
        self.has_own = false;
    }

    fn note_gap(&mut self, letter: &Letter, reason: DropReason) {
        let sequence = letter.frame.sequence;
        let gaps = self.gaps.get_or_insert_default();
        // A client that joins and leaves channels while it is behind could have any number of gaps. What
        // is beyond the bound is told without its channel.
        let is_room = gaps.len() < GAPS_MAX || gaps.contains_key(&(letter.channel, reason));
        let channel = letter.channel.filter(|_| is_room);
        let gap = gaps.entry((channel, reason)).or_insert(Gap {
            channel,
            first: sequence,
            last: sequence,
            count: 0,
            reason,
        });
        gap.first = gap.first.min(sequence);
        gap.last = gap.last.max(sequence);
        gap.count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::ShardId;
    use crate::broker::audience::Mark;
    use crate::protocol::envelope::MessageType;
    use crate::protocol::frame::{Draft, Frame, Origin};

    const CONN: ConnId = ConnId { slot: 0, generation: 0 };

    fn channel() -> ChannelId {
        ChannelId::new(ShardId(0), 1)
    }

    fn letter(sequence: u64, sender: Option<ConnId>) -> Letter {
        let origin = Origin { received_ns: 0, ttl_ms: sequence.is_multiple_of(2).then_some(10) };
        let draft = Draft::of_server("arq_1", MessageType::Event, ("r", "c"), "{}", origin);
        let frame = draft.stamp(sequence, 0);
        Letter { channel: Some(channel()), sender, ..Letter::new(frame, true) }
    }

    fn put(outbox: &mut Outbox, mail: &mut Mail, sequence: u64) {
        let number = mail.add(letter(sequence, None));
        outbox.put(mail, number);
    }

    fn sequences(outbox: &Outbox, mail: &Mail) -> Vec<u64> {
        let mut numbers = Vec::new();
        outbox.list(mail, CONN, &mut numbers);
        numbers.iter().map(|&number| mail.letter(number).frame.sequence).collect()
    }

    /// What is fresh becomes backlog, as for a socket that takes nothing.
    fn settle(outbox: &mut Outbox, mail: &Mail, bytes_max: usize) -> Dropped {
        let mut numbers = Vec::new();
        outbox.list(mail, CONN, &mut numbers);
        outbox.settle(mail, &numbers);
        outbox.enforce(bytes_max)
    }

    fn everything(outbox: &mut Outbox, mail: &Mail, step: usize) -> Vec<u8> {
        let (mut all, mut numbers) = (Vec::new(), Vec::new());
        while !outbox.is_empty() {
            let mut gathered = Vec::new();
            outbox.list(mail, CONN, &mut numbers);
            outbox.gather(mail, &numbers, &mut gathered);
            let count = step.min(gathered.len());
            all.extend_from_slice(&gathered[..count]);
            outbox.advance(mail, &numbers, count);
            outbox.check();
        }
        all
    }

    #[test]
    fn bytes_come_out_whole_however_little_the_socket_takes() {
        for step in [1, 7, 100, 1 << 20] {
            let (mut outbox, mut mail) = (Outbox::default(), Mail::default());
            let mut expected = Vec::new();
            for sequence in 1..=5 {
                put(&mut outbox, &mut mail, sequence);
            }
            for letter in mail.letters() {
                expected.extend_from_slice(letter.frame.wire());
            }
            let weight = expected.len() + 5 * LETTER_BYTES as usize;
            assert_eq!(outbox.waiting_bytes(), weight);
            assert_eq!(everything(&mut outbox, &mail, step), expected);
        }
    }

    #[test]
    fn a_long_frame_is_gathered_in_parts() {
        let (mut outbox, mut mail) = (Outbox::default(), Mail::default());
        let long: Vec<u8> = (0..=255).cycle().take(3 * WRITE_BYTES + 7).collect();
        let number = mail.add(Letter::new(Frame::of_wire(long.clone(), 0), false));
        outbox.put(&mail, number);
        put(&mut outbox, &mut mail, 1);
        let (mut numbers, mut all, mut copied) = (Vec::new(), Vec::new(), 0);
        while !outbox.is_empty() {
            let mut gathered = Vec::new();
            outbox.list(&mail, CONN, &mut numbers);
            outbox.gather(&mail, &numbers, &mut gathered);
            copied += gathered.len();
            // The socket takes most of it.
            let count = gathered.len().min(WRITE_BYTES - 100);
            all.extend_from_slice(&gathered[..count]);
            outbox.advance(&mail, &numbers, count);
            outbox.check();
        }
        assert_eq!(all[..long.len()], long);
        assert_eq!(all[long.len()..], *mail.letter(1).frame.wire());
        assert!(copied < all.len() + 1_000, "{copied} bytes were copied for {}", all.len());
    }

    #[test]
    fn letters_come_in_the_order_of_their_numbers_and_own_ones_not_at_all() {
        let (mut outbox, mut mail) = (Outbox::default(), Mail::default());
        let (one, two) = (mail.begin_batch(None), mail.begin_batch(Some(CONN)));
        mail.set_members(two, 2);
        outbox.put_batch(one);
        assert_eq!(outbox.only_batch(), Some(one));
        let join = |mail: &mut Mail, batch, sequence, sender| {
            let number = mail.add(letter(sequence, sender));
            mail.join_batch(batch, number)
        };
        assert_eq!(join(&mut mail, one, 1, None), None);
        assert_eq!(join(&mut mail, two, 2, Some(CONN)), None, "it still has nothing to get");
        assert_eq!(join(&mut mail, two, 3, None), Some(CONN), "now it has");
        outbox.put_batch(two);
        outbox.note_own();
        assert_eq!(outbox.only_batch(), None);
        assert_eq!(join(&mut mail, one, 4, Some(CONN)), None);
        put(&mut outbox, &mut mail, 5);
        assert_eq!(join(&mut mail, one, 6, None), None);
        assert_eq!(sequences(&outbox, &mail), [1, 3, 5, 6]);
        assert_eq!(mail.letter(1).receivers, 1);
        settle(&mut outbox, &mail, 1 << 20);
        outbox.check();
        assert_eq!(outbox.len(), 4);
    }

    #[test]
    fn a_batch_is_open_until_the_turn_or_its_mark_ends() {
        let mut mail = Mail::default();
        assert_eq!(mail.open_batch(Mark::default()), None, "no mark opens nothing");
        let batch = mail.begin_batch(None);
        let mark = mail.mark(batch);
        assert_eq!(mail.open_batch(mark), Some(batch));
        mail.clear();
        assert_eq!(mail.open_batch(mark), None);
    }

    #[test]
    fn a_full_outbox_drops_until_half_is_free_and_knows_what() {
        let (mut outbox, mut mail) = (Outbox::default(), Mail::default());
        for sequence in 1..=10 {
            put(&mut outbox, &mut mail, sequence);
        }
        let answer = mail.add(Letter::new(Frame::of_text("{}", 0), false));
        outbox.put(&mail, answer);
        let dropped = settle(&mut outbox, &mail, 1_000);
        assert!(dropped.is_first && (1..10).contains(&dropped.count), "a few fit: {dropped:?}");
        let kept = 10 - dropped.count;
        assert_eq!(outbox.len() as u64, kept + 1, "the answer stays");
        assert!(outbox.take_gaps(1_000, 9).is_empty(), "more than half still waits");
        mail.clear();
        put(&mut outbox, &mut mail, 11);
        let mut numbers = Vec::new();
        outbox.list(&mail, CONN, &mut numbers);
        assert_eq!(outbox.drop_messages(&mail, &mut numbers), 1);
        outbox.settle(&mail, &numbers);
        let left: usize = outbox.backlog.iter().map(|letter| letter.frame.wire().len()).sum();
        outbox.advance(&mail, &[], left - 100);
        let (channel, reason) = (Some(channel()), DropReason::OutboxFull);
        let (first, last, count) = (kept + 1, 11, dropped.count + 1);
        assert_eq!(outbox.take_gaps(1_000, 9), [Gap { channel, first, last, count, reason }]);
        assert!(!outbox.is_behind());
        outbox.check();
    }

    #[test]
    fn the_expired_go_but_not_what_is_half_written() {
        let (mut outbox, mut mail) = (Outbox::default(), Mail::default());
        for sequence in [2, 3, 4] {
            put(&mut outbox, &mut mail, sequence);
        }
        let mut numbers = Vec::new();
        outbox.list(&mail, CONN, &mut numbers);
        outbox.advance(&mail, &numbers, 5);
        assert_eq!(outbox.prune(9), 0);
        assert_eq!(outbox.prune(10), 1, "2 is half written, 3 never expires");
        outbox.check();
        let gaps = outbox.take_gaps(1 << 20, 9);
        assert_eq!((gaps[0].first, gaps[0].last, gaps[0].reason), (4, 4, DropReason::Expired));
        assert_eq!(outbox.abandon(), 1);
        outbox.check();
        assert_eq!(outbox.len(), 1);
    }

    #[test]
    fn the_answer_to_the_handshake_is_kept_until_it_is_written() {
        let (mut outbox, mut mail) = (Outbox::default(), Mail::default());
        put(&mut outbox, &mut mail, 1);
        settle(&mut outbox, &mail, 1 << 20);
        let wire = |bytes: &[u8]| Letter::new(Frame::of_wire(bytes.to_vec(), 0), false);
        assert!(!outbox.put_second(wire(b"early")), "nothing is second without a first");
        assert!(outbox.put_first(wire(b"HTTP")) && outbox.put_second(wire(b"second")));
        assert_eq!(outbox.abandon(), 2);
        assert_eq!(everything(&mut outbox, &mail, 3), b"HTTP");
        put(&mut outbox, &mut mail, 2);
        settle(&mut outbox, &mail, 1 << 20);
        assert_eq!(outbox.abandon(), 1);
        assert!(outbox.is_empty());
        // Bytes that came before the handshake make no process end.
        put(&mut outbox, &mut mail, 3);
        let mut numbers = Vec::new();
        outbox.list(&mail, CONN, &mut numbers);
        outbox.advance(&mail, &numbers, 5);
        assert!(!outbox.put_first(wire(b"HTTP")) && !outbox.put_second(wire(b"second")));
        outbox.check();
    }
}
