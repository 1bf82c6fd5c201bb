//! The way into the storage: a bounded lane that shards put records into without waiting.
//!
//! Sessions have a lane of their own beside it: what clients make of theirs keeps no event out.
//!
//! *Invariants*: the lane is bounded by its slots and by the bytes of its events, and however large
//! one event is, it fits beside less than [`INTAKE_BYTES_MAX`]; whoever puts something in looks
//! afterwards whether the storage sleeps, and the storage says so first and looks into the lane
//! afterwards, so one of the two sees the other, and a storage that is awake is never woken.

use crate::broker::record::Record;
use crate::broker::returning::SessionRecord;
use crate::broker::staged::Weigh;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst, fence};
use tokio::sync::Notify;

/// The records that may wait for the storage's thread to look at them.
pub const INTAKE_SLOTS: usize = 65_536;
/// The bytes of events that may wait for it.
pub const INTAKE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The records of sessions that may wait for it, beside all others.
pub(super) const INTAKE_SESSIONS: usize = 16_384;
/// Their bytes.
pub(super) const INTAKE_SESSIONS_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The end of the lane that shards hold.
#[derive(Clone, Debug)]
pub struct RecordSender {
    records: Sender<Record>,
    sessions: Sender<SessionRecord>,
    shared: Arc<Shared>,
}

/// The end of the lane that the storage holds.
#[derive(Debug)]
pub(super) struct Intake {
    records: Receiver<Record>,
    sessions: Receiver<SessionRecord>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    bytes: AtomicU64,
    sessions_bytes: AtomicU64,
    is_asleep: AtomicBool,
    bell: Notify,
}

pub(super) fn lane() -> (RecordSender, Intake) {
    let (sender, receiver) = bounded(INTAKE_SLOTS);
    let (sessions, sessions_in) = bounded(INTAKE_SESSIONS);
    let shared = Arc::new(Shared::default());
    (
        RecordSender { records: sender, sessions, shared: Arc::clone(&shared) },
        Intake { records: receiver, sessions: sessions_in, shared },
    )
}

impl RecordSender {
    /// Hands a record over, without waiting. It comes back if the lane is full or the storage has
    /// ended; a later record of the same channel, or of sessions, must not be offered before it.
    pub fn offer(&self, record: Record) -> Result<(), Record> {
        let record = match record {
            Record::Session(session) => return self.offer_session(session),
            record => record,
        };
        let bytes = bytes_of(&record);
        if self.shared.bytes.fetch_add(bytes, Relaxed) >= INTAKE_BYTES_MAX {
            self.shared.bytes.fetch_sub(bytes, Relaxed);
            return Err(record);
        }
        if let Err(refused) = self.records.try_send(record) {
            self.shared.bytes.fetch_sub(bytes, Relaxed);
            return Err(refused.into_inner());
        }
        self.ring();
        Ok(())
    }

    fn offer_session(&self, session: SessionRecord) -> Result<(), Record> {
        let bytes = session_bytes(&session);
        let waiting = &self.shared.sessions_bytes;
        if waiting.fetch_add(bytes, Relaxed) >= INTAKE_SESSIONS_BYTES_MAX {
            waiting.fetch_sub(bytes, Relaxed);
            return Err(Record::Session(session));
        }
        if let Err(refused) = self.sessions.try_send(session) {
            waiting.fetch_sub(bytes, Relaxed);
            return Err(Record::Session(refused.into_inner()));
        }
        self.ring();
        Ok(())
    }

    fn ring(&self) {
        fence(SeqCst);
        if self.shared.is_asleep.load(SeqCst) && self.shared.is_asleep.swap(false, SeqCst) {
            self.shared.bell.notify_one();
        }
    }
}

impl Intake {
    /// The next record, if there is one.
    pub(super) fn take(&self) -> Option<Record> {
        let record = self.records.try_recv().ok()?;
        self.shared.bytes.fetch_sub(bytes_of(&record), Relaxed);
        Some(record)
    }

    /// The next of what is recorded of sessions, if there is something.
    pub(super) fn take_session(&self) -> Option<SessionRecord> {
        let session = self.sessions.try_recv().ok()?;
        self.shared.sessions_bytes.fetch_sub(session_bytes(&session), Relaxed);
        Some(session)
    }

    /// Waits until there may be a record. Nothing is lost if it is not waited for to the end.
    pub(super) async fn ready(&self) {
        self.shared.is_asleep.store(true, SeqCst);
        fence(SeqCst);
        if self.records.is_empty() && self.sessions.is_empty() {
            self.shared.bell.notified().await;
        }
        self.shared.is_asleep.store(false, SeqCst);
    }
}

/// What of a record is counted: other records than events are few and small.
fn bytes_of(record: &Record) -> u64 {
    match record {
        Record::Event(event) => event.frame.memory_bytes() as u64,
        Record::Peer(_) if record.is_event() => record.weight() as u64,
        _ => 0,
    }
}

/// What of a session is counted: all of it, as its client says how much it is.
fn session_bytes(session: &SessionRecord) -> u64 {
    (size_of::<SessionRecord>() + session.weight()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::channel::Options;
    use crate::broker::returning::{KeptSession, Subscription};
    use crate::protocol::command::{Address, ClientType};
    use crate::protocol::names::Name;
    use crate::protocol::session::SessionToken;
    use std::time::Duration;

    fn record() -> Record {
        Record::RoomGone(Name::fixed("r"))
    }

    #[test]
    fn a_full_lane_gives_the_record_back() {
        let (sender, intake) = lane();
        for _ in 0..INTAKE_SLOTS {
            sender.offer(record()).unwrap();
        }
        assert!(sender.offer(record()).is_err());
        assert!(intake.take().is_some());
        sender.offer(record()).unwrap();
        drop(intake);
        assert!(sender.offer(record()).is_err());
    }

    #[test]
    fn sessions_are_bounded_by_their_bytes_and_keep_no_event_out() {
        let address = Address { room: Name::fixed("r"), channel: Name::fixed("c") };
        let one = Subscription { address, options: Options::default() };
        let kept = Box::new(KeptSession {
            life: 1,
            client_id: Name::fixed("ann"),
            client_type: ClientType::Human,
            screen_name: None,
            avatar: None,
            personality: None,
            subscriptions: vec![one; 1_000],
        });
        let key = SessionToken::given("t").key();
        let session = || Record::Session(SessionRecord::Here(key, kept.clone()));
        let (sender, intake) = lane();
        let mut taken = 0;
        while sender.offer(session()).is_ok() {
            taken += 1;
        }
        let bytes = taken * size_of_val(&kept.subscriptions[..]) as u64;
        assert!(
            taken < 500 && bytes <= INTAKE_SESSIONS_BYTES_MAX,
            "{taken} sessions, {bytes} bytes"
        );
        sender.offer(record()).unwrap();
        assert!(intake.take_session().is_some());
        sender.offer(session()).unwrap();
        assert!(intake.take().is_some() && intake.take().is_none());
        while intake.take_session().is_some() {}
        assert_eq!(sender.shared.sessions_bytes.load(Relaxed), 0);
    }

    #[test]
    fn a_sleeper_is_woken_however_the_two_meet() {
        let (sender, intake) = lane();
        let rounds = 2_000;
        let thread = std::thread::spawn(move || {
            for _ in 0..rounds {
                sender.offer(record()).unwrap();
                std::thread::yield_now();
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut taken = 0;
            while taken < rounds {
                let ready = tokio::time::timeout(Duration::from_secs(10), intake.ready());
                ready.await.expect("a record was offered, but nobody was woken");
                taken += std::iter::from_fn(|| intake.take()).count();
            }
        });
        thread.join().unwrap();
    }
}
