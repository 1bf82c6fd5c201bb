//! The queue in which the shards' telemetry waits for the control plane, bounded by count and by
//! the bytes of what clients sent. Nobody waits to put something in: what does not fit is refused,
//! and its shard counts it.

use crate::base::limits::{TELEMETRY_BYTES_MAX, TELEMETRY_SLOTS};
use crate::broker::telemetry::Telemetry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio::sync::mpsc;

/// Where a shard puts telemetry.
#[derive(Clone, Debug)]
pub struct Intake {
    sender: mpsc::Sender<Telemetry>,
    bytes: Arc<AtomicU64>,
}

/// Where the control plane takes it out.
#[derive(Debug)]
pub struct Outlet {
    receiver: mpsc::Receiver<Telemetry>,
    bytes: Arc<AtomicU64>,
}

/// A queue.
pub fn queue() -> (Intake, Outlet) {
    let ((sender, receiver), bytes) = (mpsc::channel(TELEMETRY_SLOTS), Arc::default());
    (Intake { sender, bytes: Arc::clone(&bytes) }, Outlet { receiver, bytes })
}

impl Intake {
    /// Puts one in; false if the queue is full.
    pub fn offer(&self, telemetry: Telemetry) -> bool {
        let weight = telemetry.weight() as u64;
        // However large one is, it fits beside less than that.
        if weight > 0 && self.bytes.fetch_add(weight, Relaxed) >= TELEMETRY_BYTES_MAX {
            self.bytes.fetch_sub(weight, Relaxed);
            return false;
        }
        let is_in = self.sender.try_send(telemetry).is_ok();
        if !is_in {
            self.bytes.fetch_sub(weight, Relaxed);
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
        self.bytes.fetch_sub(bytes as u64, Relaxed);
        taken
    }

    /// Takes one if there is one.
    pub(in crate::daemon) fn take(&mut self) -> Option<Telemetry> {
        let telemetry = self.receiver.try_recv().ok()?;
        self.bytes.fetch_sub(telemetry.weight() as u64, Relaxed);
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
        assert!(outlet.take().is_some());
        assert!(intake.offer(of_client(quarter)) && !intake.offer(of_client(1)));
        while outlet.take().is_some() {}
        let taken = (0..TELEMETRY_SLOTS + 9).filter(|_| intake.offer(of_client(1))).count();
        assert_eq!(taken, TELEMETRY_SLOTS);
    }
}
