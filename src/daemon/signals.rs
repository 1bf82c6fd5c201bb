//! SIGTERM, SIGINT and SIGHUP, heard by a thread that does nothing else. The main thread takes what it
//! is to do from here, and may be busy with something that does not end; the signals are heard then, too.
//!
//! | signal | what |
//! |---|---|
//! | SIGHUP | reads the configuration again |
//! | the first SIGTERM or SIGINT | drains and ends |
//! | the second | ends without draining on |
//! | the third, or none if the end takes too long | ends the process at once, with exit code 1 |
//!
//! *Invariants*: nothing here waits for another thread; from the first signal on, the process ends
//! within the time of the drain and [`END_MAX`], whatever its other threads do.

use crate::daemon::logging;
use crossbeam_channel::{Receiver, Sender};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

/// How long everything but the drain may take: the storage has the longest part of it.
const END_MAX: Duration = Duration::from_secs(10);
/// How often the thread looks for signals and at the clock while the process ends.
const LOOK: Duration = Duration::from_millis(20);

/// What the main thread is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Read the configuration again.
    Reload,
    /// Drain and end, because of this signal.
    End(i32),
}

/// The main thread's side.
#[derive(Debug)]
pub(super) struct Orders {
    reloads: Receiver<()>,
    ends: Receiver<i32>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Whether a second signal has come.
    is_urgent: AtomicBool,
    drain_timeout_ms: AtomicU32,
}

/// Starts to hear signals.
///
/// # Errors
/// If they can't be caught, or no thread started.
pub(super) fn listen(drain_timeout_ms: u32) -> io::Result<Orders> {
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    // Of reloads that nobody has begun, one is as good as many; a process ends once.
    let ((reload, reloads), (end, ends)) =
        (crossbeam_channel::bounded(1), crossbeam_channel::bounded(1));
    let shared = Arc::new(Shared {
        is_urgent: AtomicBool::new(false),
        drain_timeout_ms: AtomicU32::new(drain_timeout_ms),
    });
    let listener = Listener { reload, end, shared: Arc::clone(&shared), ending: None };
    thread::Builder::new().name("signals".to_owned()).spawn(move || listener.run(signals))?;
    Ok(Orders { reloads, ends, shared })
}

impl Orders {
    /// The next order; nothing if none comes within `timeout`.
    pub(super) fn next(&self, timeout: Duration) -> Option<Order> {
        crossbeam_channel::select! {
            recv(self.ends) -> signal => signal.ok().map(Order::End),
            recv(self.reloads) -> reload => reload.ok().map(|()| Order::Reload),
            default(timeout) => None,
        }
    }

    /// Whether the process is to end without draining on.
    pub(super) fn is_urgent(&self) -> bool {
        self.shared.is_urgent.load(Relaxed)
    }

    /// How long a drain may take from now on.
    pub(super) fn set_drain_timeout_ms(&self, timeout_ms: u32) {
        self.shared.drain_timeout_ms.store(timeout_ms, Relaxed);
    }
}

struct Listener {
    reload: Sender<()>,
    end: Sender<i32>,
    shared: Arc<Shared>,
    /// How many signals told the process to end, and when it is ended by force.
    ending: Option<(u32, Instant)>,
}

impl Listener {
    fn run(mut self, mut signals: Signals) {
        loop {
            let Some((_, until)) = self.ending else {
                signals.wait().for_each(|signal| self.hear(signal));
                continue;
            };
            thread::sleep(LOOK);
            signals.pending().for_each(|signal| self.hear(signal));
            if Instant::now() >= until {
                end_by_force("the process did not end in time");
            }
        }
    }

    fn hear(&mut self, signal: i32) {
        if signal == SIGHUP {
            // One that has not been begun will read what is there then.
            let _ = self.reload.try_send(());
            return;
        }
        let count = self.ending.map_or(0, |(count, _)| count);
        match count {
            0 => {
                let drain_ms = self.shared.drain_timeout_ms.load(Relaxed);
                let drain = Duration::from_millis(u64::from(drain_ms));
                self.ending = Some((1, Instant::now() + drain + END_MAX));
                // There is room for the only one that is ever sent.
                let _ = self.end.try_send(signal);
            }
            1 => {
                self.shared.is_urgent.store(true, Relaxed);
                self.ending = Some((2, Instant::now() + END_MAX));
            }
            _ => end_by_force("a third signal came"),
        }
    }
}

fn end_by_force(why: &str) -> ! {
    tracing::error!("{why}; it ends by force, and what was not stored yet may be lost");
    logging::flush();
    // Whatever would run at a usual exit may wait for what hangs.
    signal_hook::low_level::exit(1)
}

/// The name of a signal.
pub(super) fn name(signal: i32) -> &'static str {
    signal_hook::low_level::signal_name(signal).unwrap_or("unknown")
}
