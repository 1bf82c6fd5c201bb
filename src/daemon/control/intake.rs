//! The queue in which the shards' telemetry waits for the control plane, bounded by count and by
//! the bytes of what clients sent. Nobody waits to put something in: what does not fit is dropped and
//! counted, and whoever would have got it is told how much is missing.

use crate::base::budget::TELEMETRY_EVENT_BYTES;
use crate::base::limits::{TELEMETRY_BYTES_MAX, TELEMETRY_SLOTS};
use crate::broker::telemetry::{Event, Telemetry};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio::sync::mpsc;

const _: () = assert!(size_of::<Telemetry>() as u64 <= TELEMETRY_EVENT_BYTES, "the budget says so");

/// Where a shard puts telemetry.
#[derive(Clone, Debug)]
pub struct Intake {
    sender: mpsc::Sender<Telemetry>,
    shared: Arc<Shared>,
}

/// Where the control plane takes it out.
#[derive(Debug)]
pub struct Outlet {
    receiver: mpsc::Receiver<Telemetry>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Bytes of what clients sent that wait in the queue.
    bytes: AtomicU64,
    lost_of_stream: AtomicU64,
    lost_of_dashboard: AtomicU64,
}

/// Events that found no room, by the channel of the bus that they were for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lost {
    /// The telemetry stream's.
    pub(super) stream: u64,
    /// The dashboard's.
    pub(super) dashboard: u64,
}

/// A queue.
pub fn queue() -> (Intake, Outlet) {
    let ((sender, receiver), shared) = (mpsc::channel(TELEMETRY_SLOTS), Arc::<Shared>::default());
    (Intake { sender, shared: Arc::clone(&shared) }, Outlet { receiver, shared })
}

impl Intake {
    /// Puts one in; false if the queue is full.
    pub fn offer(&self, telemetry: Telemetry) -> bool {
        let Shared { bytes, lost_of_stream, lost_of_dashboard } = &*self.shared;
        let weight = telemetry.weight() as u64;
        let lost = match telemetry.event {
            Event::AgentActivity { .. } => lost_of_dashboard,
            _ => lost_of_stream,
        };
        // However large one is, it fits beside less than that.
        let fits = weight == 0 || bytes.fetch_add(weight, Relaxed) < TELEMETRY_BYTES_MAX;
        let is_in = fits && self.sender.try_send(telemetry).is_ok();
        if !is_in {
            bytes.fetch_sub(weight, Relaxed);
            lost.fetch_add(1, Relaxed);
        }
        is_in
    }
}

impl Outlet {
    /// Waits for some and appends them, at most `count`; 0 once every intake is gone.
    pub(super) async fn take_many(&mut self, batch: &mut Vec<Telemetry>, count: usize) -> usize {
        let before = batch.len();
        let taken = self.receiver.recv_many(batch, count).await;
        let bytes: usize = batch[before..].iter().map(Telemetry::weight).sum();
        self.shared.bytes.fetch_sub(bytes as u64, Relaxed);
        taken
    }

    /// What found no room since the last call.
    pub(super) fn take_lost(&self) -> Lost {
        Lost {
            stream: self.shared.lost_of_stream.swap(0, Relaxed),
            dashboard: self.shared.lost_of_dashboard.swap(0, Relaxed),
        }
    }

    /// Takes one if there is one.
    pub(in crate::daemon) fn take(&mut self) -> Option<Telemetry> {
        let telemetry = self.receiver.try_recv().ok()?;
        self.shared.bytes.fetch_sub(telemetry.weight() as u64, Relaxed);
        Some(telemetry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::telemetry::Event;
    use crate::protocol::command::Address;
    use crate::protocol::names::Name;

    fn of_client(bytes: u64) -> Telemetry {
        let address = Address { room: Name::fixed("r"), channel: Name::fixed("c") };
        let payload = "x".repeat(bytes as usize);
        let (id, from, metadata) = ("arq_1".to_owned(), Name::fixed("ann"), String::new());
        let event = Event::OfClient { id, from, address, payload, metadata };
        Telemetry { at_us: 0, event }
    }

    #[test]
    fn large_payloads_are_bounded_in_bytes_and_all_in_count() {
        let (intake, mut outlet) = queue();
        let quarter = TELEMETRY_BYTES_MAX / 4;
        assert_eq!((0..9).filter(|_| intake.offer(of_client(quarter))).count(), 4);
        assert_eq!(outlet.take_lost(), Lost { stream: 5, dashboard: 0 });
        assert_eq!(outlet.take_lost(), Lost::default(), "told once");
        assert!(outlet.take().is_some());
        assert!(intake.offer(of_client(quarter)) && !intake.offer(of_client(1)));
        while outlet.take().is_some() {}
        let taken = (0..TELEMETRY_SLOTS + 9).filter(|_| intake.offer(of_client(1))).count();
        assert_eq!(taken, TELEMETRY_SLOTS);
    }
}
