//! What the tests of the real program share: a daemon of one's own, and clients that say in a line
//! what a test means.
//!
//! Every wait is for an event and has one bound, [`PATIENCE`]; nothing here measures speed.

pub(crate) mod client;
pub(crate) mod daemon;
pub(crate) mod envelope;
pub(crate) mod http;
pub(crate) mod program;
pub(crate) mod proxy;
pub(crate) mod raw;
pub(crate) mod telemetry;

pub(crate) use client::{Client, Message, Refused};
pub(crate) use daemon::Daemon;
pub(crate) use envelope::{command_text, envelope, fresh_id};
pub(crate) use telemetry::TelemetryReader;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// How long anything may take before a test gives up: long enough for a machine that does much
/// else at the same time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Asks again and again until there is an answer; for what announces itself in no other way.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Tells the other threads of a test to end, also when the test has failed and unwinds: they would
/// otherwise keep it from ending.
pub(crate) struct EndOnDrop<'a>(pub(crate) &'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Makes of `fn name(daemon: Daemon)` three tests, with one, two and four shards.
macro_rules! on_shards {
    ($($name:ident)+) => {$(
        mod $name {
            #[test]
            fn on_one_shard() {
                super::$name($crate::common::Daemon::with_shards(1));
            }

            #[test]
            fn on_two_shards() {
                super::$name($crate::common::Daemon::with_shards(2));
            }

            #[test]
            fn on_four_shards() {
                super::$name($crate::common::Daemon::with_shards(4));
            }
        }
    )+};
}
pub(crate) use on_shards;
