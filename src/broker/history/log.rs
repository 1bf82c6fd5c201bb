//! The bytes of a channel's last messages, beside each other.
//!
//! A message is copied to the end of the newest **segment**, and what has to be known of it goes into
//! an entry; both are written from front to back, as processors like it. The oldest message is given up
//! without being looked at, and the memory of a segment that has none left is used again. (A log in
//! segments: Rosenblum and Ousterhout, *The design and implementation of a log-structured file system*,
//! SOSP 1991.)
//!
//! Segments grow with what is held, so that a quiet channel costs little and no message of a busy one
//! waits for much to be copied. What is not used of the first and the newest is not counted, nor is the
//! spare one: each is an eighth to a quarter of what was held when it was made, or one message. A copy of a
//! log shares its full segments.
//!
//! *Invariants*: entries are in the order of their segments, and every segment but a spare one has an
//! entry; the bytes are the sum over the entries.
//!
//! *Panics*: an entry is written together with its bytes and dropped with them, so its span lies
//! within its segment.
//!
//! *Not here*: sequences and identities.

use crate::base::prefetch::{prefetch, prefetch_end};
use crate::protocol::frame::{FrameRef, Outline};
use std::collections::VecDeque;
use std::sync::Arc;

/// The largest segment that holds more than one message.
const SEGMENT_BYTES_MAX: usize = 64 * 1_024;
/// A new segment is this part of what is held.
const SEGMENTS: usize = 8;
/// Room for so many entries is never given back while there are any.
const ENTRIES_SPARE: usize = 64;

/// What a message takes beside its bytes: its entry, and its places in two tables of an index, of 5 bytes
/// each, which may be less than half full.
pub(super) const SPARE_BYTES: usize = size_of::<Entry>() + 24;

/// The messages.
#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    entries: VecDeque<Entry>,
    /// The full segments, oldest first.
    full: VecDeque<Arc<Vec<u8>>>,
    /// The newest segment; empty if there are no messages.
    newest: Vec<u8>,
    /// The number of the oldest segment.
    first: u32,
    /// A segment that has been emptied, to be used again.
    spare: Option<Vec<u8>>,
    bytes: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: u64,
    outline: Outline,
    /// The segment, and where in it.
    segment: u32,
    start: u32,
    length: u32,
}

impl Log {
    /// How many messages there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The memory that they take, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Looks ahead to a message of about so many bytes, and to the oldest being given up for it.
    pub(super) fn prefetch_push(&self, bytes: usize) {
        prefetch_end(&self.newest, bytes);
        let ends = [self.entries.front(), self.entries.back()];
        ends.into_iter().flatten().for_each(prefetch);
    }

    /// Keeps a message as the newest, with the hash of its identity.
    pub(super) fn push(&mut self, hash: u64, wire: &[u8], outline: Outline) {
        if self.newest.capacity() - self.newest.len() < wire.len() {
            self.begin_segment(wire.len());
        }
        let segment = self.first.wrapping_add(self.full.len() as u32);
        let (start, length) = (self.newest.len() as u32, wire.len() as u32);
        self.newest.extend_from_slice(wire);
        self.entries.push_back(Entry { hash, outline, segment, start, length });
        self.bytes += wire.len() + SPARE_BYTES;
    }

    /// Gives up the oldest message; false if there is none.
    pub(super) fn pop(&mut self) -> bool {
        let Some(Entry { segment, length, .. }) = self.entries.pop_front() else { return false };
        self.bytes -= length as usize + SPARE_BYTES;
        if self.entries.front().is_none_or(|next| next.segment != segment) {
            self.end_segment();
        }
        true
    }

    /// Gives back the memory of entries that are long gone; true if there was much of it.
    pub(super) fn shrink(&mut self) -> bool {
        let is_large = self.entries.capacity() > 4 * self.entries.len() + ENTRIES_SPARE;
        if is_large {
            self.entries.shrink_to(2 * self.entries.len());
        }
        is_large
    }

    /// The hash of the message at a place; 0 is the oldest.
    pub(super) fn hash(&self, place: usize) -> u64 {
        self.entries[place].hash
    }

    /// Whether there is a message at a place, with this hash.
    pub(super) fn is_at(&self, place: usize, hash: u64) -> bool {
        self.entries.get(place).is_some_and(|entry| entry.hash == hash)
    }

    /// The message at a place, which has this sequence.
    pub(super) fn get(&self, place: usize, sequence: u64) -> Option<FrameRef<'_>> {
        let &Entry { outline, segment, start, length, .. } = self.entries.get(place)?;
        let place = segment.wrapping_sub(self.first) as usize;
        let segment = self.full.get(place).map_or(&self.newest, |full| full);
        let wire = &segment[start as usize..(start + length) as usize];
        Some(FrameRef::new(wire, outline, sequence))
    }

    /// How large a new segment is, unless one message is larger.
    fn usual_bytes(&self) -> usize {
        (self.bytes / SEGMENTS).next_power_of_two().min(SEGMENT_BYTES_MAX)
    }

    fn begin_segment(&mut self, length: usize) {
        let spare = self.spare.take().filter(|spare| spare.capacity() >= length);
        let capacity = self.usual_bytes().max(length);
        let segment = spare.unwrap_or_else(|| Vec::with_capacity(capacity));
        let full = std::mem::replace(&mut self.newest, segment);
        if !full.is_empty() {
            self.full.push_back(Arc::new(full));
        }
    }

    /// The oldest segment has no message left.
    fn end_segment(&mut self) {
        self.first = self.first.wrapping_add(1);
        let Some(oldest) = self.full.pop_front() else {
            (self.newest, self.spare) = (Vec::new(), None);
            return;
        };
        let usual = self.usual_bytes();
        self.spare = Arc::into_inner(oldest)
            .filter(|segment| (usual / 2..=2 * usual).contains(&segment.capacity()));
        if let Some(spare) = &mut self.spare {
            spare.clear();
        }
    }

    /// Asserts every invariant; for tests and the simulator.
    pub(super) fn check(&self) {
        let bytes = |entry: &Entry| entry.length as usize + SPARE_BYTES;
        assert_eq!(self.entries.iter().map(bytes).sum::<usize>(), self.bytes, "counted right");
        let mut numbers: Vec<u32> =
            self.entries.iter().map(|entry| entry.segment.wrapping_sub(self.first)).collect();
        assert!(numbers.is_sorted(), "entries are in the order of their segments");
        numbers.dedup();
        let segments = self.full.len() + usize::from(!self.newest.is_empty());
        assert!(numbers.iter().copied().eq(0..segments as u32), "none is empty");
        assert!(!self.newest.is_empty() || self.full.is_empty(), "what is newest is there");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::envelope::MessageType;
    use crate::protocol::frame::{Draft, Frame, Origin};
    use std::sync::Arc;

    fn frame(sequence: u64, length: usize) -> Arc<Frame> {
        let payload = format!(r#"{{"t":"{}"}}"#, "x".repeat(length));
        let origin = Origin { received_ns: 0, ttl_ms: sequence.is_multiple_of(3).then_some(5) };
        let id = format!("arq_{sequence}");
        Draft::of_server(&id, MessageType::Event, ("r", "c"), &payload, origin)
            .stamp(sequence, sequence)
    }

    fn segments(log: &Log) -> impl Iterator<Item = &Vec<u8>> {
        log.full.iter().map(|full| &**full).chain([&log.newest]).chain(&log.spare)
    }

    /// What the segments take, and what the log says that it takes.
    fn taken(log: &Log) -> (usize, usize) {
        (segments(log).map(Vec::capacity).sum(), log.bytes())
    }

    #[test]
    fn what_is_kept_is_what_was_pushed_whatever_the_lengths() {
        let mut rng = fastrand::Rng::with_seed(1);
        let (mut log, mut model, mut peak) = (Log::default(), VecDeque::new(), 0);
        for sequence in 1..=20_000 {
            let length = match rng.u32(..100) {
                0 => rng.usize(..200_000),
                1..10 => rng.usize(..5_000),
                _ => rng.usize(..300),
            };
            let pushed = frame(sequence, length);
            log.push(sequence, pushed.wire(), pushed.outline());
            model.push_back(pushed);
            peak = peak.max(log.bytes());
            // It fills, shrinks, empties and fills again.
            let most = [400, 1_000, 3, 0, 700][(sequence / 4_000) as usize % 5];
            while log.len() > most {
                let oldest = log.hash(0);
                assert_eq!(Some(oldest), model.pop_front().map(|gone| gone.sequence));
                assert!(log.pop());
            }
            if sequence.is_multiple_of(500) || log.len() < 5 {
                log.check();
                let (segments, said) = taken(&log);
                let large = model.iter().map(|kept| kept.wire().len()).max().unwrap_or(0);
                let bound = 2 * said + 2 * large + peak / 4 + 1_024;
                assert!(segments <= bound, "{segments} bytes for {said}, {peak} at the peak");
            }
        }
        assert_eq!(log.len(), model.len());
        for (place, kept) in model.iter().enumerate() {
            let found = log.get(place, kept.sequence).unwrap();
            assert_eq!(log.hash(place), kept.sequence);
            assert_eq!(found.to_frame().replayed().wire(), kept.replayed().wire());
            assert_eq!(found.wire(), kept.wire());
            assert_eq!(found.identity(), kept.identity());
            let expires_ms = kept.expires_ms.unwrap_or(u64::MAX);
            assert_eq!(
                (found.is_expired(0), found.is_expired(expires_ms)),
                (false, expires_ms < 9)
            );
        }
    }

    #[test]
    fn a_full_log_makes_no_new_memory() {
        let mut log = Log::default();
        let mut places = std::collections::BTreeSet::new();
        for sequence in 1..=50_000 {
            let pushed = frame(sequence, 200);
            log.push(sequence, pushed.wire(), pushed.outline());
            if log.len() > 500 {
                log.pop();
            }
            if sequence == 5_000 {
                places = segments(&log).map(|kept| kept.as_ptr()).collect();
            }
        }
        assert!(places.len() > 5);
        assert!(segments(&log).all(|kept| places.contains(&kept.as_ptr())));
    }

    #[test]
    fn a_quiet_log_is_small() {
        let mut log = Log::default();
        let pushed = frame(1, 100);
        log.push(1, pushed.wire(), pushed.outline());
        assert_eq!(taken(&log).0, pushed.wire().len());
        log.pop();
        assert_eq!(taken(&log), (0, 0));
    }

    #[test]
    fn a_copy_shares_what_is_full_and_goes_its_own_way() {
        let mut log = Log::default();
        let push = |log: &mut Log, sequence| {
            let pushed = frame(sequence, 200);
            log.push(sequence, pushed.wire(), pushed.outline());
        };
        (1..=1_000).for_each(|sequence| push(&mut log, sequence));
        let mut copy = log.clone();
        let shared = log.full.iter().zip(&copy.full);
        assert!(log.full.len() > 5 && shared.clone().all(|(a, b)| Arc::ptr_eq(a, b)));
        (1_001..=1_500).for_each(|sequence| push(&mut copy, sequence));
        (0..900).for_each(|_| assert!(copy.pop()));
        (2_001..=2_100).for_each(|sequence| push(&mut log, sequence));
        log.check();
        copy.check();
        let hashes = |log: &Log| (0..log.len()).map(|place| log.hash(place)).collect::<Vec<_>>();
        assert!(hashes(&log).into_iter().eq((1..=1_000).chain(2_001..=2_100)));
        assert!(hashes(&copy).into_iter().eq(901..=1_500));
        assert_eq!(copy.get(0, 901).unwrap().wire(), frame(901, 200).wire());
        assert_eq!(log.get(0, 1).unwrap().wire(), frame(1, 200).wire());
    }

    #[test]
    fn what_was_large_gives_its_memory_back() {
        let mut log = Log::default();
        let pushed = frame(1, 100);
        (0..100_000).for_each(|_| log.push(1, pushed.wire(), pushed.outline()));
        while log.len() > 10 {
            log.pop();
            log.shrink();
        }
        assert!(log.entries.capacity() <= 4 * 10 + ENTRIES_SPARE);
        log.check();
    }
}
