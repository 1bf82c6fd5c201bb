//! The telemetry envelopes that wait for readers: one ring that all readers share, and a cursor for
//! each. A reader that is behind by more than the ring holds learns how many it missed.
//!
//! A ring bounded by bytes as well as by count, because a client's own telemetry may be as long as
//! any message; a broadcast channel bounds the count alone.
//!
//! An entry may also stand for events that nobody has: a notice of how many were lost before they
//! came here. A reader that is behind it has missed as many.
//!
//! *Invariants*: `bytes` is the sum of the lengths in `entries`, and `events` the events they stand for;
//! the entry behind the last one has the number `end`; without readers nothing is kept.
//!
//! *Panics*: a cursor is made from `end` and never passes it; readers choose no number.

use crate::base::limits::{TELEMETRY_BACKLOG, TELEMETRY_BACKLOG_BYTES, TELEMETRY_BATCH};
use axum::extract::ws::Utf8Bytes;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use tokio::sync::watch;

/// The bytes after which a batch has no further entry.
const BATCH_BYTES: usize = 256 * 1024;

/// The ring.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    ring: Mutex<Ring>,
    /// The number of the entry that comes next; changes wake readers, once for each batch.
    end: watch::Sender<u64>,
}

/// What a reader gets in one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// The envelope.
    pub(super) text: Utf8Bytes,
    /// The events that it stands for.
    pub(super) events: u64,
}

#[derive(Debug, Default)]
struct Ring {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// The events that `entries` stand for.
    events: u64,
    /// The events that all entries before them stood for.
    events_gone: u64,
    end: u64,
}

/// Where one reader is.
#[derive(Debug)]
pub(super) struct Cursor {
    next: u64,
    /// The events that all entries before `next` stood for.
    events: u64,
    end: watch::Receiver<u64>,
}

impl Backlog {
    /// A cursor that will see everything from now on.
    pub(super) fn follow(&self) -> Cursor {
        let end = self.end.subscribe();
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        Cursor { next: ring.end, events: ring.events_gone + ring.events, end }
    }

    /// Whether anybody reads.
    pub(super) fn has_readers(&self) -> bool {
        self.end.receiver_count() > 0
    }

    /// Puts envelopes behind the others; the oldest make place.
    pub(super) fn extend(&self, entries: impl IntoIterator<Item = Entry>) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in entries {
            ring.push(entry);
        }
        if !self.has_readers() {
            ring.entries.clear();
            ring.events_gone += std::mem::take(&mut ring.events);
            ring.bytes = 0;
        }
        let end = ring.end;
        drop(ring);
        self.end.send_if_modified(|last| std::mem::replace(last, end) != end);
    }

    /// Whether there is something to take.
    pub(super) fn has_more(&self, cursor: &Cursor) -> bool {
        *self.end.borrow() > cursor.next
    }

    /// Moves the next envelopes of a reader into `batch` and gives how many it missed before them.
    pub(super) fn take(&self, cursor: &mut Cursor, batch: &mut Vec<Utf8Bytes>) -> u64 {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let first = ring.end - ring.entries.len() as u64;
        let mut missed = 0;
        if cursor.next < first {
            missed = ring.events_gone - cursor.events;
            (cursor.next, cursor.events) = (first, ring.events_gone);
        }
        let mut bytes = 0;
        for entry in ring.entries.range((cursor.next - first) as usize..).take(TELEMETRY_BATCH) {
            batch.push(entry.text.clone());
            cursor.next += 1;
            cursor.events += entry.events;
            bytes += entry.text.len();
            if bytes >= BATCH_BYTES {
                break;
            }
        }
        missed
    }
}

impl Ring {
    fn push(&mut self, entry: Entry) {
        self.bytes += entry.text.len();
        self.events += entry.events;
        self.end += 1;
        self.entries.push_back(entry);
        while self.entries.len() > TELEMETRY_BACKLOG || self.bytes > TELEMETRY_BACKLOG_BYTES {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.bytes -= oldest.text.len();
            self.events -= oldest.events;
            self.events_gone += oldest.events;
        }
    }
}

impl Cursor {
    /// Waits until there is something to take.
    pub(super) async fn grown(&mut self) {
        let next = self.next;
        if self.end.wait_for(|end| *end > next).await.is_err() {
            // The ring is gone, and nothing will come any more.
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(range: std::ops::Range<usize>) -> Vec<Utf8Bytes> {
        range.map(|n| Utf8Bytes::from(n.to_string())).collect()
    }

    fn entries(range: std::ops::Range<usize>) -> impl Iterator<Item = Entry> {
        texts(range).into_iter().map(|text| Entry { text, events: 1 })
    }

    fn drain(backlog: &Backlog, cursor: &mut Cursor) -> (u64, Vec<Utf8Bytes>) {
        let (mut missed, mut all) = (0, Vec::new());
        loop {
            let before = all.len();
            missed += backlog.take(cursor, &mut all);
            if all.len() == before {
                return (missed, all);
            }
        }
    }

    #[test]
    fn readers_see_everything_from_where_they_began_in_order() {
        let backlog = Backlog::default();
        let mut early = backlog.follow();
        backlog.extend(entries(0..100));
        let mut late = backlog.follow();
        backlog.extend(entries(100..150));
        assert_eq!(drain(&backlog, &mut early), (0, texts(0..150)));
        assert_eq!(drain(&backlog, &mut late), (0, texts(100..150)));
        assert_eq!(drain(&backlog, &mut late), (0, vec![]));
    }

    #[test]
    fn a_reader_behind_the_ring_learns_how_many_it_missed() {
        let backlog = Backlog::default();
        let mut slow = backlog.follow();
        backlog.extend(entries(0..TELEMETRY_BACKLOG + 7));
        let (missed, got) = drain(&backlog, &mut slow);
        assert_eq!(missed, 7);
        assert_eq!(got[0].as_str(), "7");
        assert_eq!(got.len(), TELEMETRY_BACKLOG);
    }

    #[test]
    fn a_reader_behind_a_notice_has_missed_what_it_stands_for() {
        let backlog = Backlog::default();
        let (mut slow, mut quick) = (backlog.follow(), backlog.follow());
        backlog.extend(entries(0..2));
        backlog.extend([Entry { text: "lost 40".into(), events: 40 }]);
        let (missed, got) = drain(&backlog, &mut quick);
        assert_eq!((missed, got.last().unwrap().as_str()), (0, "lost 40"));
        backlog.extend(entries(2..TELEMETRY_BACKLOG + 7));
        assert_eq!(drain(&backlog, &mut slow).0, 2 + 40 + 5);
        assert_eq!(drain(&backlog, &mut quick).0, 5, "it had read the notice");
    }

    #[test]
    fn long_envelopes_are_bounded_by_their_bytes() {
        let backlog = Backlog::default();
        let mut slow = backlog.follow();
        let long = Utf8Bytes::from("x".repeat(1024 * 1024));
        let fits = TELEMETRY_BACKLOG_BYTES / long.len();
        let entry = Entry { text: long.clone(), events: 1 };
        backlog.extend(std::iter::repeat_n(entry, fits + 3));
        assert_eq!(backlog.ring.lock().unwrap().bytes, fits * long.len());
        let mut batch = Vec::new();
        assert_eq!(backlog.take(&mut slow, &mut batch), 3);
        assert_eq!(batch.len(), 1, "a batch of long envelopes is short");
    }

    #[test]
    fn without_readers_nothing_is_kept() {
        let backlog = Backlog::default();
        drop(backlog.follow());
        backlog.extend(entries(0..9));
        assert_eq!(backlog.ring.lock().unwrap().entries.len(), 0);
        let mut late = backlog.follow();
        assert_eq!(drain(&backlog, &mut late), (0, vec![]));
        backlog.extend(entries(9..10));
        assert_eq!(drain(&backlog, &mut late), (0, texts(9..10)));
    }
}
