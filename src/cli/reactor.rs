//! Where a command waits: one poll for its socket, its standard input, the signals, and the end of
//! whoever reads its output.
//!
//! Every readiness is edge-triggered, and no caller looks at which event came: after a wait it
//! reads and writes until the socket would block, which is right whatever woke it.
//!
//! *Invariant*: once a signal has come, or the reader of a watched output has left, every
//! [`Reactor::wait`] fails with it, so no command can sleep through it.

use crate::cli::failure::Failure;
use mio::event::{Event, Source};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

const WAKE: Token = Token(0);
const SOCKET: Token = Token(1);
const OUTPUT: Token = Token(2);

/// One thread's place to wait.
pub(super) struct Reactor {
    poll: Poll,
    events: Events,
    waker: Arc<Waker>,
    stop: Stop,
    is_output_closed: bool,
}

/// A way to end a command from another thread.
#[derive(Clone)]
pub(super) struct Stop {
    /// The signal that came first; 0 for none.
    signal: Arc<AtomicI32>,
    waker: Arc<Waker>,
}

impl Stop {
    /// Ends the command as if `signal` had come. Says whether one had come before.
    pub(super) fn raise(&self, signal: i32) -> bool {
        let had_one = self.signal.swap(signal, Ordering::Relaxed) != 0;
        // A waker that fails leaves the command asleep until its socket or timer wakes it.
        let _ = self.waker.wake();
        had_one
    }
}

impl Reactor {
    /// A place to wait.
    pub(super) fn new() -> io::Result<Reactor> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
        let stop = Stop { signal: Arc::default(), waker: waker.clone() };
        let events = Events::with_capacity(16);
        Ok(Reactor { poll, events, waker, stop, is_output_closed: false })
    }

    /// What another thread ends the command with.
    pub(super) fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// What another thread ends a wait with.
    pub(super) fn waker(&self) -> Arc<Waker> {
        self.waker.clone()
    }

    /// Lets SIGINT and SIGTERM end the command in good order; a second one ends it at once.
    pub(super) fn listen_to_signals(&self) -> io::Result<()> {
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        let stop = self.stop();
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            for signal in signals.forever() {
                if stop.raise(signal) {
                    std::process::exit(128 + signal);
                }
            }
        })?;
        Ok(())
    }

    /// Watches a socket; a socket that is dropped is watched no more.
    pub(super) fn watch(&self, socket: &mut impl Source) -> io::Result<()> {
        self.poll.registry().register(socket, SOCKET, Interest::READABLE | Interest::WRITABLE)
    }

    /// Watches an output for the end of its reader, which otherwise only a write would notice.
    pub(super) fn watch_output(&self, output: RawFd) {
        // Only pipes, sockets and terminals have readers that can leave: a file can't be watched,
        // and need not be.
        let _ = self.poll.registry().register(&mut SourceFd(&output), OUTPUT, Interest::WRITABLE);
    }

    /// Waits until something is ready, somebody wakes it, or `until`. It may also return early.
    pub(super) fn wait(&mut self, until: Option<Instant>) -> Result<(), Failure> {
        self.check()?;
        self.wait_regardless(until)
            .map_err(|error| Failure::Refused(format!("cannot wait for the socket: {error}")))?;
        self.check()
    }

    /// Waits until `until` and for nothing else.
    pub(super) fn sleep(&mut self, until: Instant) -> Result<(), Failure> {
        while Instant::now() < until {
            self.wait(Some(until))?;
        }
        Ok(())
    }

    /// Fails if a signal has come, or the reader of the output was found to have left.
    pub(super) fn check(&self) -> Result<(), Failure> {
        match self.stop.signal.load(Ordering::Relaxed) {
            0 if self.is_output_closed => Err(Failure::OutputClosed),
            0 => Ok(()),
            signal => Err(Failure::Stopped(signal)),
        }
    }

    /// Waits as [`Reactor::wait`] does, though a signal has come: for saying goodbye.
    pub(super) fn wait_regardless(&mut self, until: Option<Instant>) -> io::Result<()> {
        // Rounded up, or the last fraction of a millisecond would be spent in a busy loop.
        let timeout = until.map(|until| {
            until.saturating_duration_since(Instant::now()) + Duration::from_micros(999)
        });
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            answer => answer?,
        }
        let is_end = |event: &Event| event.token() == OUTPUT && event.is_write_closed();
        self.is_output_closed |= self.events.iter().any(is_end);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_signal_ends_every_wait() {
        let mut reactor = Reactor::new().unwrap();
        let stop = reactor.stop();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            assert!(!stop.raise(SIGTERM));
            assert!(stop.raise(SIGTERM), "the second one is told from the first");
        });
        let far = Instant::now() + Duration::from_secs(60);
        assert_eq!(reactor.sleep(far), Err(Failure::Stopped(SIGTERM)));
        assert_eq!(reactor.wait(None), Err(Failure::Stopped(SIGTERM)));
        thread.join().unwrap();
    }

    #[test]
    fn a_reader_that_left_ends_the_wait() {
        let (reader, writer) = io::pipe().unwrap();
        let mut reactor = Reactor::new().unwrap();
        reactor.watch_output(writer.as_raw_fd());
        reactor.watch_output(tempfile::tempfile().unwrap().as_raw_fd());
        assert_eq!(reactor.sleep(Instant::now() + Duration::from_millis(20)), Ok(()));
        drop(reader);
        let far = Instant::now() + Duration::from_secs(60);
        assert_eq!(reactor.sleep(far), Err(Failure::OutputClosed));
    }

    #[test]
    fn sleep_ends_in_time() {
        let mut reactor = Reactor::new().unwrap();
        let start = Instant::now();
        assert_eq!(reactor.sleep(start + Duration::from_millis(15)), Ok(()));
        assert!(start.elapsed() >= Duration::from_millis(15));
    }
}
