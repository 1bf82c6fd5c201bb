//! Two ordinary clients that talk to each other while others misbehave.
//!
//! They take turns: one publishes with an ack, the other gets the event, and the other way round. So
//! each event is in flight alone, and the two see at once whether one is lost, doubled or reordered.

use crate::common::{Client, EndOnDrop};
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Where they talk; no attack goes there.
pub(crate) const CHANNEL: &str = "quiet:corner";

/// How long the two rest between messages.
const REST: Duration = Duration::from_millis(1);

/// How long an exchange may take until the test fails; beside it stand the bounds of the runner.
const STUCK: Duration = Duration::from_secs(60);

/// The two, in a thread of their own.
pub(crate) struct Pair {
    thread: JoinHandle<Vec<Duration>>,
    is_over: Arc<AtomicBool>,
    exchanged: Arc<AtomicU64>,
}

/// What came of it.
pub(crate) struct Talk {
    /// How long each message took from its sender to its receiver, sorted.
    took: Vec<Duration>,
}

impl Pair {
    /// Connects both, each to the bus it is given, and has them talk.
    #[track_caller]
    pub(crate) fn start(buses: [SocketAddr; 2]) -> Pair {
        let [ann, bob] = [("ordinary-ann", buses[0]), ("ordinary-bob", buses[1])];
        let join = |(id, bus)| Client::connect(bus, &format!("client_id={id}&join={CHANNEL}"));
        let clients = [join(ann), join(bob)];
        let (is_over, exchanged) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (over, count) = (is_over.clone(), exchanged.clone());
        let thread = thread::spawn(move || talk(clients, &over, &count));
        Pair { thread, is_over, exchanged }
    }

    /// Waits until they have exchanged so many more messages.
    #[track_caller]
    pub(crate) fn await_more(&self, count: u64) {
        let (goal, deadline) = (self.exchanged.load(SeqCst) + count, Instant::now() + STUCK);
        while self.exchanged.load(SeqCst) < goal {
            assert!(!self.thread.is_finished(), "the ordinary clients have failed; see above");
            let reached = self.exchanged.load(SeqCst);
            assert!(Instant::now() < deadline, "they are stuck at {reached}, short of {goal}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ends the talk; fails if anything was lost, doubled or reordered.
    #[track_caller]
    pub(crate) fn finish(self) -> Talk {
        self.is_over.store(true, SeqCst);
        let took = self.thread.join();
        let mut took = took.unwrap_or_else(|_| panic!("the ordinary clients have failed"));
        took.sort_unstable();
        Talk { took }
    }
}

impl Talk {
    /// The time that this share of the messages stays under, in milliseconds.
    pub(crate) fn quantile_ms(&self, share: f64) -> f64 {
        let at = ((self.took.len() as f64 * share) as usize).min(self.took.len() - 1);
        self.took[at].as_secs_f64() * 1e3
    }
}

fn talk(mut clients: [Client; 2], is_over: &AtomicBool, exchanged: &AtomicU64) -> Vec<Duration> {
    let _end = EndOnDrop(is_over);
    // Nobody has ever been there, so the sequences begin with 1.
    let (mut took, mut sequence) = (Vec::new(), 0);
    while !is_over.load(SeqCst) {
        let [sender, receiver] = &mut clients;
        sequence += 1;
        let started = Instant::now();
        let id = sender.publish_with(CHANNEL, json!({"n": sequence}), json!({"ack": true}));
        let event = receiver.event();
        took.push(started.elapsed());
        assert_eq!(event["payload"]["n"], sequence, "nothing lost, doubled or reordered");
        assert_eq!((event.sequence(), event["id"].as_str()), (sequence, Some(&*id)));
        let reply = sender.reply(&id);
        assert_eq!(reply["result"], json!({"sequence": sequence, "duplicate": false}), "{reply}");
        exchanged.fetch_add(1, SeqCst);
        clients.iter_mut().for_each(pass_over_notices);
        clients.reverse();
        thread::sleep(REST);
    }
    for client in &mut clients {
        // Whatever is still under way comes before the answer.
        client.command("ping", json!({}));
        pass_over_notices(client);
    }
    took
}

/// Passes over what came besides, which may be an announcement of the attackers, but no event.
fn pass_over_notices(client: &mut Client) {
    while let Some(message) = client.take_kept() {
        assert_eq!(message["payload"]["event"], "announcement", "{}", message.text);
    }
}
